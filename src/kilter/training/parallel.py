"""How many processes train one model together, and what each of them keeps of it: ZeRO (Rajbhandari et al. 2020)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kilter.errors import WrongInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.training.precision import Precision

Zero = Literal[0, 1, 2, 3]
Offload = Literal["none", "optimizer", "parameters"]

RANK, PROCESSES, LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"
_ADDRESS, _PORT = "MASTER_ADDR", "MASTER_PORT"

_SHARE_FOR_STATES = 0.7
"""What is left of a device's memory is for activations, buffers and fragments."""

_STATES_BYTES: "Mapping[Precision, tuple[int, int, int]]" = {"fp32": (4, 4, 8), "bf16": (2, 2, 12)}
"""Bytes a parameter of weights, of gradients, and of AdamW's moments with, in bf16, a float32 copy of the weights."""


@dataclass(frozen=True)
class Place:
    """Which of the processes that train together this one is."""

    rank: int = 0
    processes: int = 1
    local_rank: int = 0
    """Its number among those of its machine, and so its device."""

    @property
    def first(self) -> bool:
        """The process that writes, saves and reports."""
        return self.rank == 0


@dataclass(frozen=True)
class Parallel:
    """How a training is spread over processes; it changes no result beyond rounding."""

    place: Place = field(default_factory=Place)
    launched: bool = False
    """A launcher started this process and left word of where the others are, even if it is the only one."""
    zero: Literal["auto"] | Zero = "auto"
    offload: Offload = "none"


ALONE = Parallel()
"""One process, which nobody launched beside others."""


def place_from(environment: "Mapping[str, str]") -> Place | None:
    """Return the place that a launcher such as torchrun gave this process; None where there was none.

    Raises:
        WrongInput: only some of the launcher's variables are set, or they are no numbers that fit each other.
    """
    if PROCESSES not in environment:
        return None
    missing = [name for name in (RANK, _ADDRESS, _PORT) if name not in environment]
    if missing:
        raise WrongInput(
            f"{PROCESSES} is set but {', '.join(missing)} is not: start all processes with torchrun, or unset it"
        )
    try:
        place = Place(
            int(environment[RANK]), int(environment[PROCESSES]), int(environment.get(LOCAL_RANK, environment[RANK]))
        )
    except ValueError as error:
        raise WrongInput(f"{RANK}, {PROCESSES} and {LOCAL_RANK} must be whole numbers: {error}") from error
    if not 0 <= place.rank < place.processes:
        raise WrongInput(f"{RANK} is {place.rank} of {PROCESSES} {place.processes}: it must be at least 0 and below it")
    return place


def state_bytes(parameters: int, processes: int, zero: Zero, precision: "Precision") -> int:
    """Return the bytes that weights, gradients and optimizer take on each device (Rajbhandari et al. 2020, section 3).

    ZeRO 1 shares the optimizer's state out among the processes, ZeRO 2 the gradients too, ZeRO 3 the weights as well.
    """
    weights, gradients, optimizer = (parameters * size for size in _STATES_BYTES[precision])
    if zero == 0:
        # Without DeepSpeed the weights are kept in float32 and computed with in bf16.
        return parameters * sum(_STATES_BYTES["fp32"])
    shared = optimizer + (gradients if zero > 1 else 0) + (weights if zero > 2 else 0)
    return weights + gradients + optimizer - shared + -(-shared // processes)


def smallest_zero(
    parameters: int, device_bytes: int, processes: int, precision: "Precision", offload: Offload = "none"
) -> Zero:
    """Return the smallest ZeRO stage whose states fit a device, since each stage talks more than the one before.

    Args:
        parameters: Of the model.
        device_bytes: Memory of the smallest device.
        processes: How many share the states.
        precision: What the training computes in.
        offload: What is kept in the machine's memory; the optimizer's state asks for stage 2, the weights for stage 3.

    Returns:
        The stage; 3 if not even that fits, so that the device's own error tells what is missing.
    """
    if offload != "none":
        return 2 if offload == "optimizer" else 3
    stages: tuple[Zero, ...] = (0, 1, 2) if processes > 1 else (0,)
    room = device_bytes * _SHARE_FOR_STATES
    fitting = (stage for stage in stages if state_bytes(parameters, processes, stage, precision) <= room)
    return next(fitting, 3 if processes > 1 else 0)


def deepspeed_config(
    zero: Zero,
    offload: Offload,
    *,
    precision: "Precision",
    micro_batch: int,
    accumulation: int,
    max_grad_norm: float,
    hidden_size: int,
    device: str,
) -> dict[str, Any]:
    """Return DeepSpeed's configuration: JSON data without any `auto`.

    Args:
        zero: The ZeRO stage, at least 1.
        offload: What is kept in the machine's memory.
        precision: `bf16` keeps weights in bfloat16 with a float32 copy in the optimizer.
        micro_batch: Rows of a process's micro-batch.
        accumulation: Micro-batches of a process in a step.
        max_grad_norm: Where the gradient's norm is cut.
        hidden_size: Of the model; weights smaller than ten rows of it stay whole under ZeRO 3, as transformers has it.
        device: `cuda` or `cpu`.
    """
    stage: dict[str, Any] = {"stage": zero, "contiguous_gradients": True, "overlap_comm": device == "cuda"}
    pinned = {"device": "cpu", "pin_memory": device == "cuda"}
    if offload != "none":
        stage["offload_optimizer"] = pinned
    if offload == "parameters":
        stage["offload_param"] = pinned
    if zero == 3:
        stage |= {
            "stage3_gather_16bit_weights_on_model_save": True,
            "stage3_param_persistence_threshold": 10 * hidden_size,
        }
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": False},
        "zero_optimization": stage,
        # DeepSpeed's own CPU optimizer is compiled at run time, which asks for a compiler on the machine that trains.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
