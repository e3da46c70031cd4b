"""What machines can do, from a dated table that says where each figure is from."""

from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import ConfigDict, Field

from kilter.errors import WrongInput
from kilter.model import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.plan.estimates.memory import Parallelism, Precision

TABLE = Path(__file__).with_name("hardware.yaml")
CPU = "cpu"

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Figure(Model):
    """A number and where it is from."""

    model_config = ConfigDict(populate_by_name=True)

    value: Annotated[float, Field(gt=0)]
    source: Annotated[str, Field(alias="from", pattern=r"^(data sheet|measured|assumed|nothing moves)")]


class MachineFigures(Model):
    """One kind of GPU, or a CPU's core."""

    names: tuple[str, ...] = ()
    """What the driver calls it."""
    memory_gb: Figure | None = None
    """10⁹ bytes; None is not limited here."""
    bf16_tflops: Figure
    fp32_tflops: Figure
    bandwidth_gbs: Figure


class Use(Model):
    """How much of a machine is used by what."""

    mfu: dict[str, Figure]
    """By stage."""
    decoding: Figure
    start_seconds: Figure
    load_gbs: Figure
    layer_pass_seconds: Figure
    context_gb: Figure
    fragmentation: Figure
    zero_3: Figure
    offload_optimizer: Figure
    offload_parameters: Figure


class HostFigures(Model):
    """The pace of stages that need no GPU."""

    ingest_bytes_per_second: Figure
    subsample_rows_per_second: Figure
    prepare_tokens_per_second: Figure
    report_seconds_per_model: Figure


class TextFigures(Model):
    """What is said of text whose tokens nobody has counted."""

    characters_per_token: Figure


class Table(Model):
    """The whole table."""

    recorded: date
    machines: dict[str, MachineFigures]
    use: dict[str, Use]
    """By `gpu` and `cpu`."""
    host: HostFigures
    text: TextFigures


@dataclass(frozen=True)
class Machine:
    """One kind of machine with all that estimates need of it."""

    name: str
    figures: MachineFigures
    use: Use
    host: HostFigures
    text: TextFigures

    @property
    def is_gpu(self) -> bool:
        """Whether its time is counted in GPU-hours."""
        return self.name != CPU

    @property
    def usable_bytes(self) -> float | None:
        """Bytes that tensors can have; None where the table sets no limit."""
        if self.figures.memory_gb is None:
            return None
        return usable_of(self.figures.memory_gb.value * 1e9, self.use)

    def flops(self, stage: str, precision: "Precision") -> float:
        """Return the operations a second that a stage gets out of one machine."""
        peak = self.figures.bf16_tflops if precision == "bf16" else self.figures.fp32_tflops
        return peak.value * 1e12 * self.use.mfu[stage].value

    def slowdown(self, parallelism: "Parallelism") -> float:
        """Return the share of the speed that is left under a parallelism, before GPUs are counted."""
        if parallelism.offload == "parameters":
            return self.use.offload_parameters.value
        if parallelism.offload == "optimizer":
            return self.use.offload_optimizer.value
        return self.use.zero_3.value if parallelism.zero == 3 else 1.0

    @property
    def decoding_bytes_per_second(self) -> float:
        """Bytes of weights that are read a second while answers are written token by token."""
        return self.figures.bandwidth_gbs.value * 1e9 * self.use.decoding.value


@cache
def hardware() -> Table:
    """Return the table that Kilter ships."""
    return Table.model_validate(yaml.load(TABLE.read_text(encoding="utf-8"), Loader=_LOADER))  # noqa: S506 - a SafeLoader


def usable_of(device_bytes: float, use: Use) -> float:
    """Return the bytes that tensors can have of a device's memory."""
    return device_bytes * (1 - use.fragmentation.value) - use.context_gb.value * 1e9


def machine_named(name: str) -> Machine:
    """Return a machine of the table.

    Raises:
        WrongInput: there is no such machine.
    """
    table = hardware()
    if name not in table.machines:
        raise WrongInput(f"there is no GPU {name!r} in the table; there are {', '.join(table.machines)}")
    use = table.use["gpu" if name != CPU else "cpu"]
    return Machine(name, table.machines[name], use, table.host, table.text)


def figures_of(machine: Machine) -> "Mapping[str, Figure]":
    """Return every figure that an estimate for this machine may use, by name."""
    named: dict[str, Figure] = {}
    for part in (machine.figures, machine.use, machine.host, machine.text):
        for name, value in part:
            if isinstance(value, Figure):
                named[name] = value
            elif isinstance(value, dict):
                named |= {f"{name}.{stage}": figure for stage, figure in value.items()}
    return named
