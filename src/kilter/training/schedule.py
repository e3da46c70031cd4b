"""The order of training, explicit and ours: which rows are in which micro-batch of which step.

Everything follows from the seed, so that a resumed training sees exactly the batches that it would have seen.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from kilter.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

Indices = NDArray[np.int64]
BatchUnit = Literal["row", "micro-batch", "block"]
"""What is never split: a row; a micro-batch whose rows are sorted; a block of rows that exchange answers."""


@dataclass(frozen=True)
class Schedule:
    """Micro-batches of row numbers, in order: each step takes `accumulation` of them, the last one what is left."""

    micro_batches: tuple[Indices, ...]
    accumulation: int
    batch_unit: BatchUnit

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return math.ceil(len(self.micro_batches) / self.accumulation)

    @property
    def rows(self) -> int:
        """Rows that are trained on, each counted as often as it is."""
        return sum(len(batch) for batch in self.micro_batches)

    @property
    def effective_batch(self) -> float:
        """Rows per optimizer step, averaged over the full steps (over all, if none is full)."""
        rows = self.rows_per_step()
        full = len(self.micro_batches) // self.accumulation
        return float(rows[:full].mean() if full else rows.mean())

    @property
    def micro_batch(self) -> int:
        """Rows of the largest micro-batch."""
        return max(len(batch) for batch in self.micro_batches)

    def rows_per_step(self) -> Indices:
        """Return the number of rows of each step."""
        return self._sums(np.array([len(batch) for batch in self.micro_batches], dtype=np.int64))

    def tokens_per_step(self, lengths: Indices) -> Indices:
        """Return the tokens of each step, given the tokens of each row."""
        return self._sums(np.array([lengths[batch].sum() for batch in self.micro_batches], dtype=np.int64))

    def digest(self) -> str:
        """Return the SHA-256 of the order, as hexadecimal digits."""
        state = hashlib.sha256(f"{self.accumulation} {self.batch_unit}".encode())
        for batch in self.micro_batches:
            state.update(len(batch).to_bytes(8, "little"))
            state.update(batch.astype("<i8").tobytes())
        return state.hexdigest()

    def dealt_to(self, processes: int) -> "Deal":
        """Deal each step's rows out to so many processes; the steps, and so the training, stay the same.

        Rows are dealt out evenly, in micro-batches no larger than the schedule's own, rows of similar length at the
        same time. Micro-batches of another unit than `row` stay whole.
        """
        starts = range(0, len(self.micro_batches), self.accumulation)
        steps = tuple(self._dealt(self.micro_batches[start : start + self.accumulation], processes) for start in starts)
        return Deal(steps, processes)

    def _dealt(self, batches: "Sequence[Indices]", processes: int) -> "tuple[tuple[Indices, ...], ...]":
        pieces: Sequence[Indices] = batches
        if processes > 1 and self.batch_unit == "row":
            rows = np.concatenate(batches)
            slots = math.ceil(len(rows) / (self.micro_batch * processes))
            pieces = np.array_split(rows, slots * processes)
        nothing = [np.empty(0, np.int64)] * (-len(pieces) % processes)
        pieces = [*pieces, *nothing]
        return tuple(tuple(pieces[start : start + processes]) for start in range(0, len(pieces), processes))

    def _sums(self, values: Indices) -> Indices:
        return np.add.reduceat(values, np.arange(0, len(values), self.accumulation))


@dataclass(frozen=True)
class Deal:
    """A schedule dealt out to processes.

    Each step is a sequence of slots, in each of which every process makes one forward pass: processes that share
    weights or gradients must make equally many. A process that has no rows in a slot passes a row that counts nothing.
    """

    steps: tuple[tuple[tuple[Indices, ...], ...], ...]
    """The rows by step, slot and process; empty where a process has none."""
    processes: int

    @property
    def accumulation(self) -> int:
        """Slots of a step; the last step may have fewer."""
        return len(self.steps[0])

    @property
    def micro_batch(self) -> int:
        """Rows of the largest micro-batch."""
        return max(len(rows) for step in self.steps for slot in step for rows in slot)

    def of_process(self, number: int) -> "tuple[tuple[Indices, ...], ...]":
        """Return the rows by step and slot of one process."""
        return tuple(tuple(slot[number] for slot in step) for step in self.steps)

    def rows_of_step(self, step: int) -> Indices:
        """Return the rows of a step over all processes."""
        return np.concatenate([rows for slot in self.steps[step] for rows in slot])


def row_schedule(
    lengths: Indices,
    epochs: float,
    batch_size: int,
    micro_batch_size: int,
    seed: int,
    *,
    steps: int | None = None,
    unit: BatchUnit = "row",
) -> Schedule:
    """Shuffle rows once an epoch and cut the stream of all epochs into steps; the last step may be smaller.

    Within a step, rows of similar length share a micro-batch, which saves padding and changes no sum.

    The micro-batch is the largest divisor of `batch_size` that is at most `micro_batch_size`, so that every step but
    the last has exactly `batch_size` rows.

    Args:
        lengths: The padded length that each row asks for, in tokens.
        epochs: Passes over the rows; a fraction ends within a pass.
        batch_size: Rows of a step.
        micro_batch_size: Most rows of a micro-batch.
        seed: What the order follows from.
        steps: Train for so many steps, whatever `epochs` says.
        unit: With `micro-batch`, rows stay in their random order, since the loss compares those of a micro-batch.

    Raises:
        StageFailed: there are no rows, or too small a part of an epoch was asked for.
    """
    stream = _stream(len(lengths), epochs if steps is None else steps * batch_size / len(lengths), seed)
    micro = next(size for size in range(min(batch_size, micro_batch_size), 0, -1) if batch_size % size == 0)
    batches = []
    for start in range(0, len(stream), batch_size):
        step = stream[start : start + batch_size]
        if unit == "row":
            step = step[np.argsort(-lengths[step], kind="stable")]
        batches += [step[cut : cut + micro] for cut in range(0, len(step), micro)]
    return Schedule(tuple(batches), batch_size // micro, unit)


def block_schedule(
    blocks: "Sequence[Indices]",
    epochs: float,
    batch_size: int,
    micro_batch_size: int,
    seed: int,
    *,
    steps: int | None = None,
) -> Schedule:
    """Shuffle whole blocks of rows once an epoch; a micro-batch is one or several whole blocks.

    A step has as many rows as whole blocks allow nearest to `batch_size`. The arguments are those of `row_schedule`.

    Raises:
        StageFailed: there are no blocks, or too small a part of an epoch was asked for.
    """
    typical = float(np.median([len(block) for block in blocks])) if blocks else 1.0
    per_micro = max(1, int(micro_batch_size / typical))
    accumulation = max(1, round(batch_size / (per_micro * typical)))
    if steps is not None and blocks:
        epochs = steps * accumulation * per_micro / len(blocks)
    stream = _stream(len(blocks), epochs, seed)
    batches = tuple(
        np.concatenate([blocks[index] for index in stream[start : start + per_micro]])
        for start in range(0, len(stream), per_micro)
    )
    return Schedule(batches, accumulation, "block")


def _stream(count: int, epochs: float, seed: int) -> Indices:
    wanted = round(count * epochs)
    if wanted < 1:
        raise StageFailed(f"{epochs:g} epochs of {count} rows or blocks are nothing to train on")
    passes = [
        np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count) for epoch in range(math.ceil(epochs))
    ]
    return np.concatenate(passes)[:wanted].astype(np.int64)
