"""Smallest detectable differences and numbers of documents."""

import math

import numpy as np
import pytest
from scipy import stats

from kilter.analysis.paired_tests import mcnemar, resampled_sign_flips
from kilter.analysis.power import (
    documents_needed,
    mcnemar_documents_needed,
    mcnemar_power,
    mcnemar_smallest_detectable,
    mean_smallest_detectable,
)


def power_by_counting(documents, discordance, difference, alpha):
    """The exact power from its definition, with every outcome."""
    favour = (discordance + difference) / (2 * discordance)
    return sum(
        stats.binom.pmf(d, documents, discordance) * stats.binom.pmf(b, d, favour)
        for d in range(documents + 1)
        for b in range(d + 1)
        if mcnemar(b, d - b) <= alpha
    )


@pytest.mark.parametrize(
    ("documents", "discordance", "difference", "alpha"),
    [(20, 0.5, 0.3, 0.05), (30, 0.3, 0.1, 0.01), (12, 0.9, 0.9, 0.05)],
)
def test_the_power_of_mcnemar_counts_every_outcome(documents, discordance, difference, alpha):
    expected = power_by_counting(documents, discordance, difference, alpha)
    assert mcnemar_power(documents, discordance, difference, alpha) == pytest.approx(expected)


def test_under_the_null_the_power_is_at_most_alpha():
    for documents in (10, 57, 300, 5000):
        assert mcnemar_power(documents, 0.3, 0.0, 0.05) <= 0.05


@pytest.mark.parametrize(
    ("documents", "discordance"), [(100, 0.0), (100, 0.1), (300, 0.25), (1319, 0.3), (14_042, 0.1)]
)
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 60])
def test_the_smallest_detectable_difference_has_the_power_and_less_has_not(documents, discordance, alpha):
    smallest = mcnemar_smallest_detectable(documents, discordance, alpha)
    assert mcnemar_power(documents, discordance, smallest, alpha) >= 0.8
    assert mcnemar_power(documents, discordance, smallest - 0.0005, alpha) < 0.8
    # The normal approximation (Connor 1987) is near, and below, since the exact test is conservative.
    rate = max(discordance, smallest)
    upper, lower = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(0.8)
    approximate = (upper * math.sqrt(rate) + lower * math.sqrt(rate - smallest**2)) / math.sqrt(documents)
    assert approximate == pytest.approx(smallest, rel=0.25)


def test_simulated_mcnemar_finds_the_smallest_detectable_difference():
    documents, discordance, alpha = 300, 0.2, 0.05 / 20
    smallest = mcnemar_smallest_detectable(documents, discordance, alpha)
    generator = np.random.default_rng(21)
    discordant = generator.binomial(documents, discordance, 1500)
    favourable = generator.binomial(discordant, (discordance + smallest) / (2 * discordance))
    found = np.mean([mcnemar(int(b), int(d - b)) <= alpha for b, d in zip(favourable, discordant, strict=True)])
    assert found >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / 1500)


def test_too_few_documents_find_nothing():
    assert mcnemar_smallest_detectable(5, 0.2, 0.05) == math.inf
    assert mean_smallest_detectable(0.1, 1, 0.05) == math.inf


def test_documents_needed_is_the_inverse_of_the_smallest_detectable():
    needed = mcnemar_documents_needed(0.05, 0.2, 0.05)
    assert mcnemar_power(needed, 0.2, 0.05, 0.05) >= 0.8
    assert mcnemar_smallest_detectable(needed, 0.2, 0.05) == pytest.approx(0.05, abs=0.002)
    with pytest.raises(ValueError, match="above 0"):
        mcnemar_documents_needed(0.0, 0.2, 0.05)


def test_half_the_difference_needs_four_times_the_documents():
    assert documents_needed(300, 0.08, 0.04) == 1200
    assert documents_needed(300, 0.08, -0.08) == 300
    assert documents_needed(300, 0.08, 0.0) is None
    assert documents_needed(300, 0.08, 1.1e-16) is None
    assert documents_needed(300, math.inf, 0.1) is None


def test_simulated_sign_flips_find_the_smallest_detectable_mean():
    documents, deviation, alpha = 100, 0.4, 0.01
    smallest = mean_smallest_detectable(deviation / math.sqrt(documents), documents, alpha)
    generator = np.random.default_rng(22)
    differences = generator.normal(smallest, deviation, (600, documents))
    found = np.mean(resampled_sign_flips(differences, resamples=1999) <= alpha)
    assert found >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / 600)
