"""How many processes train one model together, and what each of them keeps of it: ZeRO (Rajbhandari et al. 2020)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kilter.errors import WrongInput
from kilter.plan.estimates.fitting import Allowed, fit_within
from kilter.plan.estimates.hardware import hardware, usable_of
from kilter.plan.estimates.memory import Offload, Parallelism, Zero

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.plan.estimates.fitting import Training
    from kilter.training.precision import Precision

RANK, PROCESSES, LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"
_ADDRESS, _PORT = "MASTER_ADDR", "MASTER_PORT"


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


def settled_parallelism(
    work: "Training | None", device_bytes: int, processes: int, zero: Literal["auto"] | Zero, offload: Offload
) -> Parallelism:
    """Return what a training on GPUs keeps where, by the same arithmetic as the plan's estimate.

    The lowest ZeRO stage that fits is taken, since each talks more than the one before; activations are computed again
    only where memory needs it.

    Args:
        work: What the training asks of memory; None where the model's architecture is not one that estimates know.
        device_bytes: Memory of the smallest device.
        processes: How many share the states.
        zero: What the study asks for.
        offload: What is kept in the machine's memory; the optimizer's state asks for stage 2, the weights for stage 3.

    Returns:
        The parallelism. If none fits, or that is not known, the one that saves most, so that the device's own error
        tells what is missing.
    """
    allowed = Allowed(processes, processes, None if zero == "auto" else zero, offload)
    if work is not None:
        usable = usable_of(device_bytes, hardware().use["gpu"])
        if (fit := fit_within(work, usable, allowed)) is not None:
            return fit.parallelism
    most: Zero = 3 if processes > 1 or offload == "parameters" else 2 if offload == "optimizer" else 0
    return Parallelism(processes, most if zero == "auto" else zero, offload, checkpointing=True)


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
