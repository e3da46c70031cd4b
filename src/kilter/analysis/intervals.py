"""Confidence intervals: of a model's score, and of the difference of two scores by the bias-corrected bootstrap.

The bootstrap distribution of a mean needs no resampling: the sum of n draws is the n-fold convolution of the observed
values, which a Fourier transform gives exactly. So the far tails, which simultaneous intervals of large families ask
for, are as exact as the middle, and no seed is needed.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from kilter.analysis.pairing import sum_by_cluster

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kilter.analysis.pairing import Paired

_WINDOW = 12.0
"""Half the width of the Fourier window, in standard deviations of the sum."""
_BINS = 64.0
"""Grid points in one standard deviation of a difference, where differences are not multiples of a step."""

Interval = tuple[float, float]
Method = Literal["BCa bootstrap", "percentile bootstrap", "exact bound"]


@dataclass(frozen=True)
class DifferenceInterval:
    """A confidence interval of a mean difference, and how it was made."""

    low: float
    high: float
    method: Method


def score_interval(
    values: "NDArray[np.float64]", cluster: "NDArray[np.int64]", alpha: float, *, binary: bool
) -> Interval:
    """Confidence interval of one model's mean at level 1 - alpha.

    Wilson's interval for 0/1 values of distinct documents; otherwise Student's t with a standard error that takes
    clusters into account.

    Args:
        values: (documents,).
        cluster: (documents,) cluster numbers 0 … clusters-1.
        alpha: probability of missing the true mean.
        binary: whether the values are 0 and 1.
    """
    from scipy.special import ndtri, stdtrit

    documents, clusters = len(values), int(cluster.max()) + 1
    mean = float(values.mean())
    if binary and clusters == documents:
        z = float(ndtri(1 - alpha / 2))
        centre = (mean + z**2 / (2 * documents)) / (1 + z**2 / documents)
        spread = z / (1 + z**2 / documents) * math.sqrt(mean * (1 - mean) / documents + (z / (2 * documents)) ** 2)
        return (max(0.0, centre - spread), min(1.0, centre + spread))
    if clusters < 2:
        return (-math.inf, math.inf)
    error = clustered_standard_error(sum_by_cluster(values, cluster), np.bincount(cluster))
    reach = float(stdtrit(clusters - 1, 1 - alpha / 2)) * error
    return (mean - reach, mean + reach)


def clustered_standard_error(sums: "NDArray[np.float64]", sizes: "NDArray[np.int64]") -> float:
    """Standard error of the mean over documents whose clusters are independent (Liang and Zeger's sandwich).

    Args:
        sums: (clusters,) sum of the values of each cluster's documents.
        sizes: (clusters,) number of documents in each cluster.
    """
    clusters, documents = len(sums), int(sizes.sum())
    if clusters < 2:
        return math.inf
    residuals = sums - sums.sum() / documents * sizes
    return float(math.sqrt(clusters / (clusters - 1) * np.sum(residuals**2)) / documents)


def difference_interval(paired: "Paired", alpha: float) -> DifferenceInterval:
    """Bias-corrected and accelerated (BCa) bootstrap interval of the mean difference at level 1 - alpha.

    The formulas are Efron's (1987, JASA 82, 171), with the acceleration from the jackknife; clusters are resampled
    whole, and the mean over documents is linearised about the estimate. The estimate always lies inside. Where no two
    clusters differ in their mean difference there is nothing to resample: then the bound on how often the models could
    still differ (Clopper and Pearson, no event in n) times the range of the values is returned.

    Args:
        paired: the two models' values.
        alpha: probability of missing the true difference.
    """
    from scipy.special import ndtr, ndtri

    estimate = paired.difference
    influence = paired.cluster_sums - estimate * paired.cluster_sizes
    spread = float(np.sqrt(np.mean(influence**2)))
    if paired.clusters < 2 or spread <= 1e-12:
        reach = (1 - (alpha / 2) ** (1 / max(1, paired.clusters))) * value_range(paired)
        return DifferenceInterval(estimate - reach, estimate + reach, "exact bound")

    if np.all(paired.cluster_sizes == 1):
        # Draws of the differences themselves: they keep their lattice, if they have one.
        sums, probabilities = bootstrap_sums(paired.cluster_sums)
        means = sums / paired.documents
    else:
        sums, probabilities = bootstrap_sums(influence)
        means = estimate + sums / paired.documents
    below = float(probabilities[means < estimate - 1e-12].sum())
    equal = float(probabilities[np.abs(means - estimate) <= 1e-12].sum())
    cumulative = np.cumsum(probabilities)
    tails = np.array([alpha / 2, 1 - alpha / 2])

    bias = float(ndtri(below + equal / 2))
    skew = float(np.sum(influence**3) / (6 * np.sum(influence**2) ** 1.5))
    shifted = bias + ndtri(tails)
    method: Method = "BCa bootstrap"
    levels = ndtr(bias + shifted / (1 - skew * shifted)) if np.all(skew * shifted < 1) else np.array([np.nan])
    if not np.all(np.isfinite(levels)):
        method, levels = "percentile bootstrap", tails
    low, high = means[np.minimum(np.searchsorted(cumulative, levels), len(means) - 1)]
    return DifferenceInterval(min(float(low), estimate), max(float(high), estimate), method)


def bootstrap_sums(values: "NDArray[np.float64]") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """The distribution of the sum of n draws, with replacement, of n values.

    Exact where the values are multiples of a common step; otherwise each value is shared between its two neighbours
    on a fine grid so that the mean is kept, which adds less than 0.01% to the variance.

    Args:
        values: (n,).

    Returns:
        Possible sums in rising order, and their probabilities.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    count = len(values)
    deviation = float(values.std())
    step = _common_step(values) or deviation / _BINS
    position = (values - values.min()) / step
    left = np.floor(position + 1e-9).astype(np.int64)
    share = np.clip(position - left, 0.0, 1.0)
    share[share < 1e-7] = 0.0
    width = int(left.max()) + 2
    one = np.bincount(left, weights=1 - share, minlength=width) + np.bincount(left + 1, weights=share, minlength=width)

    centre = float(position.mean()) * count
    half = math.ceil(_WINDOW * math.sqrt(count) * max(deviation / step, 1.0)) + width
    size = next_fast_len(min(2 * half, count * (width - 1) + 1), real=True)
    start = max(0, math.floor(centre) - half) if size < count * (width - 1) + 1 else 0
    # The transform wraps round, so a sum lies at its remainder; what lies outside the window has no weight to speak of.
    folded = np.bincount(np.arange(width) % size, weights=one / count, minlength=size)
    wrapped = np.maximum(irfft(rfft(folded) ** count, size), 0.0)
    index = np.arange(start, start + size)
    probabilities = wrapped[index % size]
    probabilities[probabilities < 1e-15] = 0.0
    return index * step + count * float(values.min()), probabilities / probabilities.sum()


def value_range(paired: "Paired") -> float:
    """How far two values can lie apart: 1 for values in 0 … 1, else what was observed."""
    values = np.concatenate([paired.candidate, paired.baseline])
    lowest, highest = float(values.min()), float(values.max())
    return 1.0 if lowest >= 0 and highest <= 1 else highest - lowest


def _common_step(values: "NDArray[np.float64]") -> float | None:
    """The step 1/1 … 1/60 whose multiples all the values are, or None."""
    for divisor in range(1, 61):
        scaled = values * divisor
        if np.all(np.abs(scaled - np.rint(scaled)) < 1e-7):
            return 1 / divisor
    return None
