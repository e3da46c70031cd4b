"""The subset order: a keyed hash of the normalised prompt, then of the row.

A prompt's hash is BLAKE2b, 8 bytes, keyed with `ORDER_KEY`, of its normalised text (see `normalise.tagged`), read as a
big-endian number. A row's hash is made the same way from its exact answers. Written in hexadecimal the prompt's hash
is `prompt_id`, and the prompt's followed by the row's is `row_id`; so without strata the subset order is simply the
alphabetical order of `row_id`. It depends on nothing but the rows, and the key keeps it apart from any order that
hashes may have made upstream.
"""

from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kilter.data.normalise import exact, tagged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kilter.data.turns import Turns

ORDER_KEY = b"kilter subset order, version 1"
_KEYED = blake2b(digest_size=8, key=ORDER_KEY)


def keyed_hashes(text: Any, bounds: "NDArray[np.int64] | None" = None) -> "NDArray[np.uint64]":
    """Hash the strings of an array, or runs of them.

    Args:
        text: A string array without nulls.
        bounds: Run i joins the strings `bounds[i] … bounds[i+1]-1`; by default each string is hashed by itself.

    Returns:
        One 64-bit hash a run.
    """
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    offsets = np.frombuffer(text.buffers()[1], np.int32)[text.offset : text.offset + len(text) + 1]
    ends = (offsets if bounds is None else offsets[bounds]).tolist()
    data = memoryview(text.buffers()[2] or b"")
    copy = _KEYED.copy
    digests = []
    # One copy of the keyed state a row: setting up the key anew costs half as much again.
    for start, stop in pairwise(ends):
        state = copy()
        state.update(data[start:stop])
        digests.append(state.digest())
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def prompt_hashes(context: "Turns") -> "tuple[NDArray[np.uint64], NDArray[np.uint64]]":
    """Hash prompts.

    Returns:
        The hash of each normalised prompt; and the hash of the prompt as it is written where that differs from its
        normalised form, else 0.
    """
    text, bounds, changed = tagged(context)
    variants = np.zeros(len(context), np.uint64)
    if changed.any():
        variants[changed] = keyed_hashes(*exact(context.where(changed)))[changed]
    return keyed_hashes(text, bounds), variants


def pair_hashes(chosen: Any, rejected: Any) -> "NDArray[np.uint64]":
    """Hash pairs of answers so that a pair and its reverse differ in the lowest bit only.

    Returns:
        One 64-bit hash a pair; the lowest bit says whether the chosen answer is the smaller one in byte order.
    """
    chosen_first = pc.less(chosen, rejected)
    first = pc.if_else(chosen_first, chosen, rejected)
    second = pc.if_else(chosen_first, rejected, chosen)
    length = pc.binary_length(first).cast(pa.string())
    hashes = keyed_hashes(pc.binary_join_element_wise(length, first, second, "\x1f"))
    direction = chosen_first.to_numpy(zero_copy_only=False).astype(np.uint64)
    return np.asarray((hashes & ~np.uint64(1)) | direction)


def hexadecimal(*hashes: "NDArray[np.uint64]") -> Any:
    """Write hashes in hexadecimal, side by side, as a string array."""
    digits = np.stack(hashes, axis=1).astype(">u8").tobytes().hex().encode()
    offsets = np.arange(len(hashes[0]) + 1, dtype=np.int32) * np.int32(16 * len(hashes))
    return pa.StringArray.from_buffers(len(hashes[0]), pa.py_buffer(offsets), pa.py_buffer(digits))


def stratified(prompts: "NDArray[np.uint64]", strata: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Reorder rows so that every prefix keeps the proportions of the strata, as nearly as whole prompts allow.

    The prompts of a stratum, in the order of their hash, are spread evenly over (0, 1): a prompt's rank is the middle
    of its rows' share among the stratum's rows, (i + 0.5)/n for the i-th of n prompts with one row each. Prompts are
    ordered by rank, then by hash. A prompt belongs to the stratum of its first row.

    Args:
        prompts: Hash of each row's prompt, ascending.
        strata: Number of each row's stratum.

    Returns:
        The permutation: the row that stands at each place.
    """
    if len(prompts) == 0:
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], prompts[1:] != prompts[:-1]]))
    counts = np.diff(np.append(starts, len(prompts)))
    stratum = strata[starts]
    by_stratum = np.argsort(stratum, kind="stable")
    weights = counts[by_stratum]
    ends = np.cumsum(weights)
    first = np.flatnonzero(np.concatenate([[True], np.diff(stratum[by_stratum]) != 0]))
    sizes = np.diff(np.append(first, len(by_stratum)))
    before = np.repeat(ends[first] - weights[first], sizes)
    totals = np.repeat(np.append(ends[first[1:] - 1], ends[-1]) - (ends[first] - weights[first]), sizes)
    rank = np.empty(len(starts))
    rank[by_stratum] = (ends - before - weights / 2) / totals
    order = np.lexsort((prompts[starts], rank))
    lengths = counts[order]
    stops = np.cumsum(lengths)
    return np.asarray(np.repeat(starts[order] - (stops - lengths), lengths) + np.arange(len(prompts)))
