"""Paired tests of two models on the same documents: exact McNemar, and sign flips for everything else.

Under the null hypothesis the two models are exchangeable on every document, so that each difference is as likely to
have one sign as the other. For 0/1 values that gives McNemar's test, and for other values Fisher's randomisation test
for paired data; documents that repeat each other flip together, as one cluster.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

RESAMPLES = 9999
"""Fewest sign flips of a resampling test (its smallest p-value is then 0.0001)."""
MOST_RESAMPLES = 99_999
RESAMPLING_SEED = 0
_BLOCK = 2048
_LARGEST_GRID = 2_000_000
_TIE = 1e-9


@dataclass(frozen=True)
class SignFlip:
    """The outcome of a sign-flip test."""

    p_value: float
    exact: bool
    """Whether every flip was counted, rather than a random sample of them."""

    @property
    def name(self) -> str:
        """The test as a person would cite it."""
        return "exact sign-flip permutation" if self.exact else "sign-flip permutation"


def mcnemar(only_candidate: int, only_baseline: int, *, mid_p: bool = False) -> float:
    """Two-sided p-value of McNemar's exact test on the discordant documents.

    Args:
        only_candidate: documents that only the candidate got right.
        only_baseline: documents that only the baseline got right.
        mid_p: count half of the observed outcome's probability (Fagerland, Lydersen and Laake 2013,
            doi 10.1186/1471-2288-13-91): less conservative, but the error rate is only kept approximately.
    """
    from scipy.stats import binom, binomtest

    discordant = only_candidate + only_baseline
    if discordant == 0:
        return 1.0
    fewer = min(only_candidate, only_baseline)
    exact = float(binomtest(fewer, discordant).pvalue)
    return exact - float(binom.pmf(fewer, discordant, 0.5)) if mid_p else exact


def sign_flip(differences: "ArrayLike", *, resamples: int = RESAMPLES, seed: int = RESAMPLING_SEED) -> SignFlip:
    """Test whether the differences of clusters are symmetric about zero, with their sum as the statistic.

    Differences that are multiples of a common step (0/1 values, means over a few seeds, whole ratings) and few
    differences of any kind are tested exactly; others with `resamples` random flips.

    Args:
        differences: (clusters,) candidate - baseline, summed over each cluster.
        resamples: random flips, at least 9999 for a p-value worth reporting.
        seed: seed of the random flips.
    """
    values = np.asarray(differences, dtype=np.float64)
    exact = exact_sign_flip(values, most=resamples + 1)
    if exact is not None:
        return SignFlip(exact, exact=True)
    return SignFlip(float(resampled_sign_flips(values[np.newaxis], resamples=resamples, seed=seed)[0]), exact=False)


def exact_sign_flip(differences: "NDArray[np.float64]", *, most: int = RESAMPLES + 1) -> float | None:
    """Two-sided p-value over all sign flips, or None where there are too many to count.

    Multiples of a common step are counted by convolution: the sum of the positive flips of c differences of size v is
    v times a binomial number. Others are enumerated when there are at most `most` flips.
    """
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0
    observed = abs(float(np.sum(differences)))
    steps = _whole_steps(sizes)
    if steps is not None:
        scale = float(steps.sum() / sizes.sum())
        return _lattice_p_value(steps, observed * scale)
    if len(sizes) < 63 and 2 ** len(sizes) <= most:
        flips = (np.arange(2 ** len(sizes))[:, np.newaxis] >> np.arange(len(sizes))) & 1
        sums = np.abs((2.0 * flips - 1.0) @ sizes)
        return float(np.mean(sums >= observed - _TIE * sizes.sum()))
    return None


def resampled_sign_flips(
    differences: "NDArray[np.float64]", *, resamples: int = RESAMPLES, seed: int = RESAMPLING_SEED
) -> "NDArray[np.float64]":
    """Two-sided p-values of several comparisons over the same clusters, by random sign flips that they share.

    The observed flip counts as one of them, so that a p-value is never zero and the error rate is kept (Phipson and
    Smyth 2010, doi 10.2202/1544-6115.1585).

    Args:
        differences: (comparisons, clusters).
        resamples: random flips.
        seed: seed of the flips.

    Returns:
        (comparisons,) p-values.
    """
    generator = np.random.default_rng(seed)
    clusters = differences.shape[1]
    threshold = np.abs(differences.sum(axis=1)) - _TIE * np.abs(differences).sum(axis=1)
    reached = np.zeros(len(differences), dtype=np.int64)
    for start in range(0, resamples, _BLOCK):
        block = min(_BLOCK, resamples - start)
        bits = np.unpackbits(generator.integers(0, 256, (block, -(-clusters // 8)), dtype=np.uint8), axis=1)
        signs = 2.0 * bits[:, :clusters] - 1.0
        reached += np.sum(np.abs(signs @ differences.T) >= threshold, axis=0)
    return (reached + 1) / (resamples + 1)


def resamples_for(comparisons: int, alpha: float) -> int:
    """Random flips that let a family of this many comparisons reach a corrected p-value well below alpha."""
    return int(min(MOST_RESAMPLES, max(RESAMPLES, 20 * np.ceil(comparisons / alpha) - 1)))


def corrected(p_values: "Sequence[float]", *, alpha: float, correction: str) -> "NDArray[np.float64]":
    """Adjust the p-values of one family for multiplicity.

    Args:
        p_values: of every comparison that the family planned.
        alpha: family-wise error rate.
        correction: `holm` (Holm 1979) or `bonferroni`.
    """
    from statsmodels.stats.multitest import multipletests

    if not len(p_values):
        return np.empty(0)
    adjusted: NDArray[np.float64] = multipletests(np.asarray(p_values), alpha=alpha, method=correction)[1]
    return adjusted


def _whole_steps(sizes: "NDArray[np.float64]") -> "NDArray[np.int64] | None":
    """Express positive numbers as whole multiples of a common step 1/1 … 1/60, or None."""
    smallest = float(sizes.min())
    for divisor in range(1, 61):
        scaled = sizes * divisor
        whole = np.rint(scaled)
        if smallest * divisor > 0.5 and np.all(np.abs(scaled - whole) < 1e-7) and whole.sum() <= _LARGEST_GRID:
            return whole.astype(np.int64)
    return None


def _lattice_p_value(steps: "NDArray[np.int64]", observed: float) -> float:
    from scipy.signal import convolve
    from scipy.stats import binom

    total = int(steps.sum())
    probabilities = np.ones(1)
    for size, count in zip(*np.unique(steps, return_counts=True), strict=True):
        one = np.zeros(size * count + 1)
        one[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        probabilities = np.maximum(convolve(probabilities, one), 0.0)
    sums = np.abs(2.0 * np.arange(total + 1) - total)
    return float(min(1.0, probabilities[sums >= observed - 1e-6].sum()))
