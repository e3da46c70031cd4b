"""Prepared token ids in memory, and the reference log-probabilities that belong to them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kilter.data import schemas
from kilter.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kilter.training.schedule import Indices

Size = int | Literal["all"]


@dataclass(frozen=True)
class Ragged:
    """Lists of integers of different lengths, end to end."""

    values: NDArray[np.int64]
    offsets: "Indices"

    @classmethod
    def from_column(cls, column: pa.ChunkedArray) -> "Ragged":
        """Take a column of lists out of a table."""
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
        lengths = [chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in chunks]
        values = np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)
        return cls(values, np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]))]))

    @property
    def lengths(self) -> "Indices":
        """The length of each list."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True)
class PairRows:
    """Prepared preference pairs along the subset order: row i is at position `positions[i]`."""

    positions: "Indices"
    row_ids: tuple[str, ...]
    blocks: "Indices"
    mismatched: "Indices"
    prompts: Ragged
    chosen: Ragged
    rejected: Ragged
    truncated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def lengths(self) -> "Indices":
        """Tokens of each row: the prompt with the chosen answer, and the prompt with the rejected one."""
        return 2 * self.prompts.lengths + self.chosen.lengths + self.rejected.lengths

    @property
    def longest(self) -> "Indices":
        """Tokens of each row's longer sequence, prompt and answer."""
        return self.prompts.lengths + np.maximum(self.chosen.lengths, self.rejected.lengths)


@dataclass(frozen=True)
class ConversationRows:
    """Prepared conversations along the subset order, with the mask of the tokens that are learnt."""

    positions: "Indices"
    input_ids: Ragged
    masks: Ragged
    truncated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Reference:
    """The reference's log-probabilities of each row's chosen and rejected answer, in nats."""

    chosen: NDArray[np.float64]
    rejected: NDArray[np.float64]
    chosen_heads: NDArray[np.float64] | None = None
    """Of as many first tokens as the pair's shorter answer has; None for mismatched answers."""
    rejected_heads: NDArray[np.float64] | None = None


def read_pairs(path: "Path", size: Size = "all") -> PairRows:
    """Read the first `size` prepared pairs.

    Raises:
        StageFailed: there are fewer rows than asked for, positions are missing, or a prompt or an answer is empty.
    """
    table = _read(path, schemas.PREPARED_PAIRS, size)
    rows = PairRows(
        positions=_numbers(table, "position"),
        row_ids=tuple(table["row_id"].to_pylist()),
        blocks=_numbers(table, "block"),
        mismatched=_numbers(table, "mismatched"),
        prompts=Ragged.from_column(table["prompt_ids"]),
        chosen=Ragged.from_column(table["chosen_ids"]),
        rejected=Ragged.from_column(table["rejected_ids"]),
        truncated=table["truncated"].to_numpy(),
    )
    for name, part in (("prompt", rows.prompts), ("chosen answer", rows.chosen), ("rejected answer", rows.rejected)):
        empty = np.flatnonzero(part.lengths == 0)
        if len(empty):
            raise StageFailed(
                f"{path.name}: {len(empty)} rows have no tokens in the {name}, the first at position "
                f"{rows.positions[empty[0]]}; a longer max_length or shorter max_prompt_length leaves it some"
            )
    return rows


def read_conversations(path: "Path", size: Size = "all") -> ConversationRows:
    """Read the first `size` prepared conversations.

    Raises:
        StageFailed: there are fewer rows than asked for, positions are missing, or a mask does not fit its tokens.
    """
    table = _read(path, schemas.PREPARED_CONVERSATIONS, size)
    rows = ConversationRows(
        positions=_numbers(table, "position"),
        input_ids=Ragged.from_column(table["input_ids"]),
        masks=Ragged.from_column(table["assistant_mask"]),
        truncated=table["truncated"].to_numpy(),
    )
    unequal = np.flatnonzero(rows.input_ids.lengths != rows.masks.lengths)
    if len(unequal):
        raise StageFailed(
            f"{path.name}: at position {rows.positions[unequal[0]]} the mask and the tokens differ in length"
        )
    return rows


def whole_blocks(path: "Path", rows: PairRows) -> "list[Indices]":
    """Return the blocks of the file that lie wholly within `rows`, each as row numbers, in subset order.

    A row without a block, or whose partner is not in its block, has no mismatched answers and is left out.
    """
    everywhere = np.bincount(_numbers(pq.read_table(path, columns=["block"], use_threads=False), "block") + 1)
    order = np.argsort(rows.blocks, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(rows.blocks[order])) + 1) if len(order) else []
    blocks = []
    for members in sorted(groups, key=lambda group: int(group[0])):
        block = int(rows.blocks[members[0]])
        if block < 0 or len(members) != everywhere[block + 1]:
            continue
        if not np.isin(rows.mismatched[members], rows.positions[members]).all():
            raise StageFailed(
                f"{path.name}: a row of block {block} (from position {rows.positions[members[0]]}) takes its "
                "mismatched answers from outside its block; prepare the data again"
            )
        blocks.append(members)
    return blocks


def join_reference(rows: PairRows, used: "Indices", shards: "Sequence[Path]", mismatched: bool = False) -> Reference:
    """Find the reference log-probabilities of rows in the shards, checked by position, row id and token counts.

    Args:
        rows: The pairs.
        used: The numbers of the rows that need values; the others get NaN.
        shards: Parquet files of the reference stage.
        mismatched: The shards score the answers of the row at `mismatched`, not a row's own.

    Raises:
        StageFailed: a row has no value or two, or the shards were made from other data.
    """
    sums = ["chosen_logp", "rejected_logp"]
    if not mismatched:
        sums += ["chosen_logp_shorter", "rejected_logp_shorter"]
    names = ["position", "row_id", "chosen_tokens", "rejected_tokens", *sums]
    kind = "mismatched answers" if mismatched else "answers"
    if not shards:
        raise StageFailed(f"no reference log-probabilities of the {kind} were given")
    table = pa.concat_tables([pq.read_table(path, columns=names, use_threads=False) for path in shards])
    found = _numbers(table, "position")
    order = np.argsort(found, kind="stable")
    if len(found) > 1 and (np.diff(found[order]) == 0).any():
        raise StageFailed(f"the reference shards of the {kind} overlap: a position is in them twice")
    wanted = rows.positions[used]
    places = np.searchsorted(found[order], wanted)
    beyond = np.append(found[order], -1)  # one more, for positions above all of the shards'
    absent = np.flatnonzero(beyond[places] != wanted)
    if len(absent):
        raise StageFailed(
            f"the reference shards of the {kind} lack {len(absent)} of {len(used)} rows, the first at position "
            f"{wanted[absent[0]]}"
        )
    table = table.take(pa.array(order[places]))
    sources = np.searchsorted(rows.positions, rows.mismatched[used]) if mismatched else used
    ids = [rows.row_ids[row] for row in used]
    own = zip(ids, rows.chosen.lengths[sources], rows.rejected.lengths[sources], strict=True)
    theirs = zip(*(table[name].to_pylist() for name in ("row_id", "chosen_tokens", "rejected_tokens")), strict=True)
    for position, mine, other in zip(wanted, own, theirs, strict=True):
        if mine != other:
            raise StageFailed(
                f"the reference of the {kind} was made from other data: row and tokens at position {position} are "
                f"{other} there and {mine} here"
            )
    values = []
    for name in sums:
        if not np.isfinite(table[name].to_numpy()).all():
            raise StageFailed(f"the reference log-probabilities of the {kind} are not all finite")
        values.append(np.full(len(rows), np.nan))
        values[-1][used] = table[name].to_numpy()
    return Reference(*values)


def take_pairs(rows: PairRows, start: int, stop: int | None) -> "Indices":
    """Return the row numbers whose positions lie in [start, stop)."""
    end = np.inf if stop is None else stop
    return np.flatnonzero((rows.positions >= start) & (rows.positions < end))


def _read(path: "Path", schema: pa.Schema, size: Size) -> pa.Table:
    table = pq.read_table(path, columns=schema.names, use_threads=False)
    positions = _numbers(table, "position")
    if (positions != np.arange(len(positions))).any():
        raise StageFailed(f"{path.name}: the rows are not in the order of their positions 0, 1, 2, …; prepare it again")
    if size == "all":
        return table
    if size > len(positions):
        raise StageFailed(
            f"{path.name} holds {len(positions)} rows, {size} were asked for: duplicates, held-out prompts and limits "
            f"took the others; ask for at most {len(positions)}, or `all`"
        )
    return table.slice(0, size)


def _numbers(table: pa.Table, name: str) -> "Indices":
    numbers: Indices = table[name].to_numpy().astype(np.int64)
    return numbers
