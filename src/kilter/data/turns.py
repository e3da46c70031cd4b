"""A batch of conversations as flat arrays: which turns belong to which row, their roles and their contents."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kilter.data.schemas import MESSAGE

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Turns:
    """Row i holds the turns `starts[i] … stops[i]-1` of the flat `roles` and `contents`."""

    starts: "NDArray[np.int64]"
    stops: "NDArray[np.int64]"
    roles: Any
    contents: Any

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def counts(self) -> "NDArray[np.int64]":
        """How many turns each row holds."""
        return self.stops - self.starts

    def between(self, starts: "NDArray[np.int64]", stops: "NDArray[np.int64]") -> "Turns":
        """The same flat turns with other bounds."""
        return Turns(starts, stops, self.roles, self.contents)

    def where(self, keep: "NDArray[np.bool_]") -> "Turns":
        """Rows that are not kept become empty."""
        return self.between(self.starts, np.where(keep, self.stops, self.starts))

    def before_last(self) -> "Turns":
        """Each row without its last turn."""
        return self.between(self.starts, np.maximum(self.stops - 1, self.starts))

    def indices(self) -> "NDArray[np.int64]":
        """The flat positions of the rows' turns, row after row."""
        counts = self.counts
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        return np.repeat(self.starts - (ends - counts), counts) + np.arange(total)

    def owners(self) -> "NDArray[np.int64]":
        """The row of each turn that `indices` gives."""
        return np.repeat(np.arange(len(self)), self.counts)

    def compact(self) -> "Turns":
        """The same rows with flat arrays that hold their turns only, in order."""
        indices = self.indices()
        stops = np.cumsum(self.counts)
        if len(indices) == len(self.contents) and (len(indices) == 0 or bool((np.diff(indices) == 1).all())):
            return Turns(stops - self.counts, stops, self.roles, self.contents)
        taken = pa.array(indices)
        return Turns(stops - self.counts, stops, self.roles.take(taken), self.contents.take(taken))

    def last(self, values: Any) -> Any:
        """The entry of `values` (a flat array such as `contents`) at each row's last turn; null where there is none."""
        empty = self.counts == 0
        return values.take(pa.array(np.where(empty, 0, self.stops - 1), mask=empty))

    def any_row(self, flags: "NDArray[np.bool_]") -> "NDArray[np.bool_]":
        """For each row, whether any of its turns is flagged; `flags` runs along `indices`."""
        return np.bincount(self.owners()[flags], minlength=len(self)) > 0

    def sums(self, values: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """For each row, the sum of `values` over its turns; `values` runs along `indices`."""
        running = np.concatenate([[0], np.cumsum(values)])
        stops = np.cumsum(self.counts)
        return np.asarray(running[stops] - running[stops - self.counts])

    def lists(self) -> Any:
        """A `list<struct<role, content>>` array of the rows."""
        flat = self.compact()
        offsets = np.concatenate([[0], flat.stops]).astype(np.int32)
        turns = pa.StructArray.from_arrays([flat.roles, flat.contents], fields=list(MESSAGE))
        return pa.ListArray.from_arrays(pa.array(offsets), turns)


def turns_of_lists(array: Any) -> Turns:
    """Read a list array of structs with `role` and `content`; a null row has no turns."""
    values = array.values
    offsets = array.offsets.to_numpy().astype(np.int64)
    starts, stops = offsets[:-1], offsets[1:]
    if array.null_count:
        stops = np.where(array.is_null().to_numpy(zero_copy_only=False), starts, stops)
    return Turns(starts, stops, _text(values.field("role")), _text(values.field("content")))


def turns_of_text(array: Any, role: str) -> Turns:
    """Each text is one turn by `role`."""
    starts = np.arange(len(array), dtype=np.int64)
    roles = pa.array([role]).take(pa.array(np.zeros(len(array), np.int64)))
    return Turns(starts, starts + 1, roles, _text(array))


def turns_of_rows(rows: list[list[tuple[str, str]]]) -> Turns:
    """Conversations as Python lists of (role, content)."""
    stops = np.cumsum([len(row) for row in rows], dtype=np.int64)
    counts = np.array([len(row) for row in rows], dtype=np.int64)
    roles = pa.array([role for row in rows for role, _ in row], pa.string())
    return Turns(stops - counts, stops, roles, pa.array([text for row in rows for _, text in row], pa.string()))


def joined(first: Turns, second: Turns) -> Turns:
    """Concatenate the flat turns of two batches of the same rows; bounds are those of `first`."""
    return Turns(
        first.starts,
        first.stops,
        pa.concat_arrays([first.roles, second.roles]),
        pa.concat_arrays([first.contents, second.contents]),
    )


def same_turns(left: Turns, right: Turns) -> "NDArray[np.bool_]":
    """For each row, whether both sides hold equal turns (role and content)."""
    same = left.counts == right.counts
    left, right = left.where(same), right.where(same)
    at_left, at_right = pa.array(left.indices()), pa.array(right.indices())
    equal = pc.and_(
        pc.equal(left.roles.take(at_left), right.roles.take(at_right)),
        pc.equal(left.contents.take(at_left), right.contents.take(at_right)),
    )
    return np.asarray(same & ~left.any_row(~equal.to_numpy(zero_copy_only=False)))


def _text(array: Any) -> Any:
    text = array if array.type == pa.string() else array.cast(pa.string())
    return pc.fill_null(text, "") if text.null_count else text
