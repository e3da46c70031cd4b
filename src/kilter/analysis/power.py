"""How small a difference a comparison could have seen, and how many documents a given one needs."""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

POWER = 0.8
"""Probability of finding the smallest detectable difference."""
_PRECISION = 1e-4


def mcnemar_power(documents: int, discordance: float, difference: float, alpha: float) -> float:
    """Probability that McNemar's exact test at level alpha finds a true difference.

    The number of discordant documents is binomial; given it, those in the candidate's favour are binomial too, with
    probability (discordance + difference) / (2 discordance). Exact, after Duffy 1984 (Biometrics 40, 1005).

    Args:
        documents: number of documents.
        discordance: probability that exactly one of the two models is right; raised to `difference` when below it.
        difference: true difference of the two scores, 0 … 1.
        alpha: level of the test.
    """
    from scipy.special import bdtr, bdtrc
    from scipy.stats import binom

    discordance = min(1.0, max(discordance, difference))
    if discordance == 0:
        return 0.0
    favour = min(1.0, (discordance + difference) / (2 * discordance))
    spread = 9 * math.sqrt(documents * discordance * (1 - discordance)) + 9
    lowest = max(0, math.floor(documents * discordance - spread))
    highest = min(documents, math.ceil(documents * discordance + spread))
    critical = _critical_values(documents, alpha)[lowest : highest + 1]
    possible = critical >= 0
    discordant = np.arange(lowest, highest + 1)[possible]
    critical = critical[possible]
    weights = binom.pmf(discordant, documents, discordance)
    rejected = bdtr(critical, discordant, favour) + bdtrc(discordant - critical - 1, discordant, favour)
    return float(np.sum(weights * rejected))


def mcnemar_smallest_detectable(documents: int, discordance: float, alpha: float, power: float = POWER) -> float:
    """The smallest true difference that McNemar's exact test finds with the given power.

    Solves `mcnemar_power(documents, discordance, d, alpha) = power` for d, to 0.01 percentage points, upwards.

    Returns:
        The difference of scores, 0 … 1; infinity where the documents are too few for any.
    """
    from scipy.optimize import brentq

    def shortfall(difference: float) -> float:
        return mcnemar_power(documents, discordance, difference, alpha) - power

    if shortfall(1.0) < 0:
        return math.inf
    root = float(brentq(shortfall, 0.0, 1.0, xtol=_PRECISION))
    while shortfall(root) < 0:
        root = min(1.0, root + _PRECISION)
    return root


def mcnemar_documents_needed(difference: float, discordance: float, alpha: float, power: float = POWER) -> int:
    """Documents with which McNemar's exact test finds a true difference with the given power.

    Starts at Connor's formula n = (z₁ √ψ + z₂ √(ψ - δ²))² / δ² (Biometrics 1987, 43, 207), with ψ the discordance and
    δ the difference, and rises until the exact power suffices.
    """
    from scipy.special import ndtri

    if not 0 < difference <= 1:
        raise ValueError(f"a difference of scores to plan for lies above 0 and at most at 1, got {difference}")
    discordance = min(1.0, max(discordance, difference))
    upper, lower = float(ndtri(1 - alpha / 2)), float(ndtri(power))
    root = upper * math.sqrt(discordance) + lower * math.sqrt(max(0.0, discordance - difference**2))
    documents = max(1, math.ceil((root / difference) ** 2))
    while mcnemar_power(documents, discordance, difference, alpha) < power:
        documents += max(1, documents // 200)
    return documents


def mean_smallest_detectable(standard_error: float, clusters: int, alpha: float, power: float = POWER) -> float:
    """The smallest true mean difference that a test of paired means finds with the given power.

    (t₁ + t₂) times the standard error, with quantiles of Student's t at clusters - 1 degrees of freedom; sign-flip
    tests of means have the t-test's power for all but few clusters (Lehmann and Romano, Testing Statistical
    Hypotheses, section 15.2).

    Args:
        standard_error: of the mean difference, clusters taken into account.
        clusters: number of clusters.
        alpha: level of the test.
        power: probability of finding the difference.
    """
    from scipy.special import stdtrit

    if clusters < 2:
        return math.inf
    return float((stdtrit(clusters - 1, 1 - alpha / 2) + stdtrit(clusters - 1, power)) * standard_error)


def documents_needed(documents: int, smallest_detectable: float, difference: float) -> int | None:
    """Documents that would find a true difference, given what a number of documents finds.

    Standard errors fall with the root of the number of documents, so that the number grows with the square of the
    ratio of the two differences.

    Returns:
        The number of documents, or None where no number is known to be enough.
    """
    # A difference of equal means may be left with rounding's noise: it is nought too.
    if abs(difference) < 1e-12 or not math.isfinite(smallest_detectable):
        return None
    return max(1, math.ceil(documents * (smallest_detectable / abs(difference)) ** 2))


@lru_cache(maxsize=256)
def _critical_values(documents: int, alpha: float) -> "NDArray[np.int64]":
    """For 0 … documents discordant ones, the largest minority that is significant; -1 where none is."""
    from scipy.special import bdtr
    from scipy.stats import binom

    discordant = np.arange(documents + 1)
    critical = np.asarray(binom.ppf(alpha / 2, discordant, 0.5), dtype=np.int64)
    critical[0] = 0
    # ppf is the first count whose probability reaches alpha/2: significant only if it does not exceed it.
    above = bdtr(critical, discordant, 0.5) > alpha / 2
    above[0] = True
    smallest: NDArray[np.int64] = critical - above.astype(np.int64)
    return smallest
