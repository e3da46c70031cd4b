"""Which rows live, which are held out, and where each stands: decided on hashes alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kilter.data.order import stratified

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOLDOUT_PROMPTS = 2000

# Why a row is dropped, in the order in which reasons are looked for: a row counts under the first that holds.
REASONS = (
    "malformed",
    "empty",
    "equal_answers",
    "too_long",
    "contaminated",
    "overlaps_holdout",
    "contradictory",
    "duplicate",
)
LIVES = 0
CODES = {reason: number for number, reason in enumerate(REASONS, start=1)}


@dataclass(frozen=True)
class Digests:
    """What is remembered of each row, in file order.

    Attributes:
        prompts: Hash of the normalised prompt.
        rows: Hash of the answers. For pairs, a pair and its reverse differ in the lowest bit only.
        variants: Hash of the prompt as it is written where that differs from its normalised form, else 0: it decides
            which of two rows stays that are the same but for that.
        reasons: `LIVES`, or the code of the reason for which the row is dropped, as far as the row itself tells.
        strata: Number of the row's stratum, in alphabetical order.
    """

    prompts: "NDArray[np.uint64]"
    rows: "NDArray[np.uint64]"
    variants: "NDArray[np.uint64]"
    reasons: "NDArray[np.uint8]"
    strata: "NDArray[np.int64]"


@dataclass(frozen=True)
class Selection:
    """The outcome. Places 0 … train-1 are the training rows in subset order, the held-out rows follow.

    Attributes:
        places: For each row in file order, its place, or -1.
        prompts: Prompt hash by place.
        rows: Row hash by place.
        train: How many rows train.
        reasons: For each row in file order, why it was dropped.
        held_out_prompts: How many prompts were set aside.
    """

    places: "NDArray[np.int64]"
    prompts: "NDArray[np.uint64]"
    rows: "NDArray[np.uint64]"
    train: int
    reasons: "NDArray[np.uint8]"
    held_out_prompts: int


def select(digests: Digests, first_test: int, holdout: float, paired: bool, by_strata: bool) -> Selection:
    """Decide which rows live and where they stand.

    Held-out prompts come first: with test rows they are the test rows' prompts; otherwise the prompts with the
    largest hashes, a share `holdout` of all prompts, at least one and at most 2000. Then training rows whose prompt
    is a test prompt are dropped, then pairs that occur both ways round for one prompt (both ways), then duplicates.

    Args:
        digests: The rows, files for training first.
        first_test: Number of the first row of the test files; the number of rows where there are none.
        holdout: Share of prompts to set aside where there are no test rows.
        paired: Whether rows are pairs, which can contradict each other.
        by_strata: Whether to keep the strata's proportions in every prefix.
    """
    total = len(digests.prompts)
    reasons = digests.reasons.copy()
    usable = np.flatnonzero((reasons != CODES["malformed"]) & (reasons != CODES["empty"]))
    order = usable[_sorted(digests, usable, by_strata)]
    prompts = digests.prompts[order]
    starts = _starts(prompts)
    if first_test < total:
        from_test = order >= first_test
        group = np.cumsum(_new(prompts)) - 1
        tested = np.bincount(group[from_test], minlength=len(starts)) > 0
        held = tested[group]
        _drop(reasons, order[held & ~from_test], "overlaps_holdout")
        held_out_prompts = int(tested.sum())
    else:
        held_out_prompts = held_out_count(len(starts), holdout)
        cut = starts[len(starts) - held_out_prompts] if held_out_prompts else len(order)
        held = np.arange(len(order)) >= cut

    keep = reasons[order] == LIVES
    order, held = order[keep], held[keep]
    if paired:
        contradictory = _contradictory(digests.prompts[order], digests.rows[order])
        _drop(reasons, order[contradictory], "contradictory")
        order, held = order[~contradictory], held[~contradictory]
    duplicate = _repeats(digests.prompts[order], digests.rows[order])
    _drop(reasons, order[duplicate], "duplicate")
    order, held = order[~duplicate], held[~duplicate]

    train, tests = order[~held], order[held]
    if by_strata:
        train = train[stratified(digests.prompts[train], digests.strata[train])]
    order = np.concatenate([train, tests])
    places = np.full(total, -1, np.int64)
    places[order] = np.arange(len(order))
    return Selection(
        places, digests.prompts[order], digests.rows[order], len(train), reasons, held_out_prompts if len(tests) else 0
    )


def held_out_count(prompts: int, share: float) -> int:
    """How many of `prompts` prompts to set aside: the share, at least one, at most 2000, never all."""
    if share <= 0 or prompts < 2:
        return 0
    return min(max(1, round(share * prompts)), HOLDOUT_PROMPTS, prompts - 1)


def _sorted(digests: Digests, usable: "NDArray[np.int64]", by_strata: bool) -> "NDArray[np.int64]":
    # Later keys of lexsort weigh more. Of equal rows the first stratum, then the smallest variant comes first.
    keys: list[NDArray[Any]] = [digests.rows[usable], digests.prompts[usable]]
    if by_strata:
        keys.insert(0, digests.strata[usable])
    if digests.variants.any():
        keys.insert(0, digests.variants[usable])
    return np.lexsort(keys)


def _new(values: "NDArray[np.uint64]") -> "NDArray[np.bool_]":
    return np.concatenate([np.ones(min(1, len(values)), np.bool_), values[1:] != values[:-1]])


def _starts(values: "NDArray[np.uint64]") -> "NDArray[np.int64]":
    return np.flatnonzero(_new(values))


def _repeats(prompts: "NDArray[np.uint64]", rows: "NDArray[np.uint64]") -> "NDArray[np.bool_]":
    return ~(_new(prompts) | _new(rows))


def _contradictory(prompts: "NDArray[np.uint64]", rows: "NDArray[np.uint64]") -> "NDArray[np.bool_]":
    pairs = rows >> np.uint64(1)
    group = np.cumsum(_new(prompts) | _new(pairs)) - 1
    ways = np.bincount(group, weights=(rows & np.uint64(1)).astype(np.float64))
    sizes = np.bincount(group)
    both = (ways > 0) & (ways < sizes)
    return np.asarray(both[group])


def _drop(reasons: "NDArray[np.uint8]", rows: "NDArray[np.int64]", reason: str) -> None:
    reasons[rows] = CODES[reason]
