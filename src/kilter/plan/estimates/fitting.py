"""The smallest parallelism that fits a machine, and what would fit where nothing does."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kilter.plan.configs import AlignConfig
from kilter.plan.estimates.hardware import CPU, hardware, machine_named
from kilter.plan.estimates.memory import (
    Batch,
    Memory,
    Offload,
    Parallelism,
    Recipe,
    Zero,
    scoring_memory,
    training_memory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kilter.plan.configs import TrainConfig
    from kilter.plan.estimates.hardware import Machine
    from kilter.plan.estimates.shapes import ModelShape

MOST_GPUS = 1024
SUGGESTED_RANK = 16
SHORTEST = 64


def recipe_of(config: "TrainConfig") -> Recipe:
    """Return how a training holds its model: weights in 32 bits, cast as they are used; packed; on a fused head.

    What an adapter is trained on is frozen, and held in what is computed in, or in 4 bits.
    """
    adapter = config.peft if isinstance(config, AlignConfig) else None
    if adapter is None:
        return Recipe(weights="fp32", compute=config.precision, packed=True, fused_head=True)
    return Recipe(
        weights=config.precision,
        compute=config.precision,
        adapter_rank=adapter.rank,
        quantised=adapter.method == "qlora",
        packed=True,
        fused_head=True,
    )


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
    """Tokens of the longest sequence, prompt and answer."""

    def batch(self, gpus: int) -> Batch:
        """Return one device's forward pass."""
        rows = max(1, min(self.micro_batch, self.batch_size // gpus))
        return Batch(rows * self.sequences_per_row, self.longest)

    def memory(self, parallelism: Parallelism) -> Memory:
        """Return the peak on each GPU.

        DeepSpeed holds weights in what is computed in, with 32-bit copies in the optimizer; without it they are in
        32 bits and cast as they are used.
        """
        recipe = self.recipe
        if parallelism.zero and recipe.adapter_rank is None:
            recipe = replace(recipe, weights=recipe.compute)
        return training_memory(self.shape, recipe, self.batch(parallelism.gpus), parallelism)


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
class Allowed:
    """What a stage may use. None leaves the choice open."""

    most: int
    """GPUs."""
    processes: int | None = None
    """The number of GPUs that the study asks for."""
    zero: Zero | None = None
    offload: Offload | None = None


@dataclass(frozen=True)
class Fit:
    """A parallelism with the memory that it needs."""

    parallelism: Parallelism
    memory: Memory


def smallest_fit(work: Training | Scoring, machine: "Machine", allowed: Allowed) -> Fit | None:
    """Return the first parallelism that fits: fewest GPUs, then kept activations, then the lowest ZeRO stage.

    Offloading to the host is slow, so it is tried only where no number of GPUs does without; first of the optimizer's
    states, then of the weights. None where nothing fits.
    """
    return fit_within(work, machine.usable_bytes, allowed)


def fit_within(work: Training | Scoring, usable_bytes: float | None, allowed: Allowed) -> Fit | None:
    """Return what `smallest_fit` does for a device that tensors can have so many bytes of; None sets no limit."""
    for parallelism in candidates(work, allowed):
        memory = work.memory(parallelism)
        if usable_bytes is None or memory.total <= usable_bytes:
            return Fit(parallelism, memory)
    return None


def candidates(work: Training | Scoring, allowed: Allowed) -> "Iterator[Parallelism]":
    """Yield every parallelism that is allowed, the one to prefer first."""
    if isinstance(work, Scoring):
        yield Parallelism()
        return
    counts = _counts(work, allowed)
    for offload in _OFFLOADS if allowed.offload is None else (allowed.offload,):
        for gpus in counts:
            for checkpointing in (False, True):
                for zero in _stages(gpus, offload, allowed.zero):
                    yield Parallelism(gpus, zero, offload, checkpointing)


_OFFLOADS: tuple[Offload, ...] = ("none", "optimizer", "parameters")


def _stages(gpus: int, offload: Offload, asked: Zero | None) -> tuple[Zero, ...]:
    if offload == "none":
        free: tuple[Zero, ...] = (0,) if gpus == 1 else (0, 1, 2, 3)
        return free if asked is None else (asked,)
    able: tuple[Zero, ...] = (2, 3) if offload == "optimizer" else (3,)
    return tuple(zero for zero in able if asked in (None, zero))


def _counts(work: Training, allowed: Allowed) -> list[int]:
    if allowed.processes is not None:
        return [allowed.processes] if allowed.processes <= allowed.most else []
    return [count for count in _powers_of_two(allowed.most) if work.batch_size % count == 0]


def _powers_of_two(most: int) -> list[int]:
    counts = [1 << exponent for exponent in range(most.bit_length()) if 1 << exponent <= most]
    return counts if most in counts else [*counts, most]


def remedies(work: Training | Scoring, machine: "Machine", allowed: Allowed) -> tuple[str, ...]:
    """Return what would fit where nothing does, each change alone: more GPUs, another kind, less at once, LoRA."""
    found: list[str] = []
    if isinstance(work, Training):
        more = smallest_fit(work, machine, replace(allowed, most=MOST_GPUS))
        if more is not None and more.parallelism.gpus > allowed.most:
            found.append(f"--gpus {more.parallelism.gpus}")
    others = [name for name in hardware().machines if name != CPU]
    larger = [name for name in others if smallest_fit(work, machine_named(name), allowed) is not None]
    if larger:
        found.append(f"--gpu {' or '.join(larger)}")
    if isinstance(work, Training):
        found.extend(_smaller(work, machine, allowed))
        free = Allowed(allowed.most)
        if allowed != free and smallest_fit(work, machine, free) is not None:
            found.append("`distributed` left to `auto`")
    return tuple(found)


def _smaller(work: Training, machine: "Machine", allowed: Allowed) -> "Iterator[str]":
    micro = work.micro_batch // 2
    while micro and smallest_fit(replace(work, micro_batch=micro), machine, allowed) is None:
        micro //= 2
    if micro:
        yield f"micro_batch_size {micro}"
    length = work.longest // 2
    while length >= SHORTEST and smallest_fit(replace(work, longest=length), machine, allowed) is None:
        length //= 2
    if length >= SHORTEST:
        yield f"max_length {length}"
    if work.recipe.adapter_rank is None:
        # The frozen weights of an adapter's base are held in what is computed in.
        adapter = replace(work.recipe, adapter_rank=SUGGESTED_RANK, weights=work.recipe.compute)
        if smallest_fit(replace(work, recipe=adapter), machine, allowed) is not None:
            yield f"LoRA (rank {SUGGESTED_RANK})"
