"""The smallest parallelism that fits a machine, and what would fit where nothing does."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kilter.plan.estimates.hardware import CPU, hardware, machine_named
from kilter.plan.estimates.memory import Batch, Memory, Parallelism, Zero, scoring_memory, training_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kilter.plan.estimates.hardware import Machine
    from kilter.plan.estimates.memory import Recipe
    from kilter.plan.estimates.shapes import ModelShape

MOST_GPUS = 1024
SUGGESTED_RANK = 16
SHORTEST = 64


@dataclass(frozen=True)
class Training:
    """What a training asks of memory, whatever machine it runs on."""

    shape: "ModelShape"
    recipe: "Recipe"
    sequences_per_row: int
    """Sequences that one row of a batch stands for: two for a pair."""
    micro_batch: int
    """Rows of a forward pass on one device, if the batch has as many for it."""
    batch_size: int
    """Rows of an optimizer step over all devices."""
    longest: int
    """Tokens."""

    def batch(self, gpus: int) -> Batch:
        """Return one device's forward pass."""
        rows = max(1, min(self.micro_batch, self.batch_size // gpus))
        return Batch(rows * self.sequences_per_row, self.longest)

    def memory(self, parallelism: Parallelism) -> Memory:
        """Return the peak on each GPU."""
        return training_memory(self.shape, self.recipe, self.batch(parallelism.gpus), parallelism)


@dataclass(frozen=True)
class Scoring:
    """What a forward pass without gradients asks of memory; it runs on one GPU."""

    shape: "ModelShape"
    recipe: "Recipe"
    batch: Batch

    def memory(self, parallelism: Parallelism) -> Memory:  # noqa: ARG002 - one GPU, whatever is asked
        """Return the peak."""
        return scoring_memory(self.shape, self.recipe, self.batch)


@dataclass(frozen=True)
class Fit:
    """A parallelism with the memory that it needs."""

    parallelism: Parallelism
    memory: Memory


def smallest_fit(work: Training | Scoring, machine: "Machine", most: int) -> Fit | None:
    """Return the first parallelism that fits: fewest GPUs, then kept activations, then the lowest ZeRO stage.

    Offloading to the host is slow, so it is tried only where up to `most` GPUs do not do without; first of the
    optimizer's states, then of the weights. None where nothing fits.
    """
    usable = machine.usable_bytes
    for parallelism in _candidates(work, most):
        memory = work.memory(parallelism)
        if usable is None or memory.total <= usable:
            return Fit(parallelism, memory)
    return None


def _candidates(work: Training | Scoring, most: int) -> "Iterator[Parallelism]":
    if isinstance(work, Scoring):
        yield Parallelism()
        return
    counts = [count for count in _powers_of_two(most) if work.batch_size % count == 0]
    for gpus in counts:
        stages: tuple[Zero, ...] = (0,) if gpus == 1 else (0, 1, 2, 3)
        for checkpointing in (False, True):
            for zero in stages:
                yield Parallelism(gpus, zero, "none", checkpointing)
    for offload, stages in (("optimizer", (2, 3)), ("parameters", (3,))):
        for gpus in counts:
            for checkpointing in (False, True):
                for zero in stages:
                    yield Parallelism(gpus, zero, offload, checkpointing)  # type: ignore[arg-type]


def _powers_of_two(most: int) -> list[int]:
    counts = [1 << exponent for exponent in range(most.bit_length()) if 1 << exponent <= most]
    return counts if most in counts else [*counts, most]


def remedies(work: Training | Scoring, machine: "Machine", most: int) -> tuple[str, ...]:
    """Return what would fit where nothing does, each change alone: more GPUs, another kind, less at once, LoRA."""
    found: list[str] = []
    if isinstance(work, Training):
        more = smallest_fit(work, machine, MOST_GPUS)
        if more is not None and more.parallelism.gpus > most:
            found.append(f"--gpus {more.parallelism.gpus}")
    others = [name for name in hardware().machines if name != CPU]
    larger = [name for name in others if smallest_fit(work, machine_named(name), most) is not None]
    if larger:
        found.append(f"--gpu {' or '.join(larger)}")
    if isinstance(work, Training):
        found.extend(_smaller(work, machine, most))
    return tuple(found)


def _smaller(work: Training, machine: "Machine", most: int) -> "Iterator[str]":
    micro = work.micro_batch // 2
    while micro and smallest_fit(replace(work, micro_batch=micro), machine, most) is None:
        micro //= 2
    if micro:
        yield f"micro_batch_size {micro}"
    length = work.longest // 2
    while length >= SHORTEST and smallest_fit(replace(work, longest=length), machine, most) is None:
        length //= 2
    if length >= SHORTEST:
        yield f"max_length {length}"
    adapter = replace(work.recipe, adapter_rank=SUGGESTED_RANK)
    if work.recipe.adapter_rank is None and smallest_fit(replace(work, recipe=adapter), machine, most) is not None:
        yield f"LoRA (rank {SUGGESTED_RANK})"
