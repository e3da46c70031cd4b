"""Confidence intervals of scores and of differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kilter.analysis.intervals import bootstrap_sums, clustered_standard_error, difference_interval, score_interval
from kilter.analysis.pairing import Paired


def paired(differences, cluster=None):
    values = np.asarray(differences, dtype=float)
    numbers = np.arange(len(values)) if cluster is None else np.asarray(cluster)
    return Paired(candidate=values, baseline=np.zeros(len(values)), cluster=numbers)


def binary_pair(both, only_candidate, only_baseline, neither):
    candidate = [1] * both + [1] * only_candidate + [0] * only_baseline + [0] * neither
    baseline = [1] * both + [0] * only_candidate + [1] * only_baseline + [0] * neither
    return Paired(np.array(candidate, float), np.array(baseline, float), np.arange(len(candidate)))


def test_the_sum_of_draws_is_the_exact_convolution():
    sums, probabilities = bootstrap_sums(np.array([0.0, 1.0, 1.0, 0.0]))
    expected = stats.binom.pmf(np.arange(5), 4, 0.5)
    found = dict(zip(np.round(sums, 9), probabilities, strict=True))
    for total in range(5):
        assert found[total] == pytest.approx(expected[total])


def test_the_distribution_of_sums_keeps_mean_and_variance_whatever_the_values():
    for values in (np.random.default_rng(0).exponential(2, 300), np.random.default_rng(1).integers(-3, 4, 900) / 3):
        sums, probabilities = bootstrap_sums(values)
        assert np.sum(probabilities) == pytest.approx(1)
        assert np.sum(sums * probabilities) == pytest.approx(values.sum(), rel=1e-6, abs=1e-6)
        variance = np.sum((sums - values.sum()) ** 2 * probabilities)
        assert variance == pytest.approx(len(values) * values.var(), rel=2e-4)


@pytest.mark.parametrize(
    "differences",
    [
        np.random.default_rng(2).normal(0.1, 0.3, 200),
        np.random.default_rng(3).exponential(1, 50),
        np.random.default_rng(4).choice([-1.0, 0.0, 1.0], 300, p=[0.1, 0.7, 0.2]),
    ],
    ids=["normal", "skewed", "binary"],
)
@pytest.mark.parametrize("alpha", [0.05, 0.002])
def test_intervals_agree_with_scipys_bca_with_many_resamples(differences, alpha):
    found = difference_interval(paired(differences), alpha)
    resamples = 60_000
    reference = stats.bootstrap(
        (differences,),
        np.mean,
        confidence_level=1 - alpha,
        n_resamples=resamples,
        method="BCa",
        rng=5,
        batch=1000,
    ).confidence_interval
    error = np.std(differences) / np.sqrt(len(differences))
    assert found.method == "BCa bootstrap"
    assert found.low == pytest.approx(reference.low, abs=0.12 * error)
    assert found.high == pytest.approx(reference.high, abs=0.12 * error)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 30), st.integers(0, 30), st.integers(0, 60), st.sampled_from([0.05, 0.001]))
def test_the_estimate_lies_inside_and_swapping_the_models_mirrors_the_interval(both, b, c, neither, alpha):
    if both + b + c + neither < 2:
        return
    one = binary_pair(both, b, c, neither)
    other = binary_pair(both, c, b, neither)
    first, second = difference_interval(one, alpha), difference_interval(other, alpha)
    assert first.low <= one.difference <= first.high
    assert first.high - first.low > 0
    step = 1.5 / one.documents  # values lie on a lattice, so that quantiles may fall one step apart
    assert first.low == pytest.approx(-second.high, abs=step)
    assert first.high == pytest.approx(-second.low, abs=step)


def test_a_stricter_level_gives_a_wider_interval():
    one = binary_pair(68, 30, 12, 110)
    wide, narrow = difference_interval(one, 0.001), difference_interval(one, 0.05)
    assert wide.low < narrow.low < 18 / 220 < narrow.high < wide.high


def test_where_no_document_differs_the_interval_bounds_how_often_they_still_could():
    found = difference_interval(binary_pair(20, 0, 0, 80), 0.05)
    bound = stats.binomtest(0, 100).proportion_ci(0.95, method="exact").high
    assert found.method == "exact bound"
    assert (found.low, found.high) == pytest.approx((-bound, bound))


def test_one_cluster_says_nothing_about_others():
    found = difference_interval(paired([1, 1], cluster=[0, 0]), 0.05)
    assert found.method == "exact bound"
    assert found.high - found.low > 1


def test_duplicates_widen_the_interval():
    values = np.random.default_rng(6).choice([-1.0, 0.0, 1.0], 100, p=[0.1, 0.6, 0.3])
    doubled = np.repeat(values, 2)
    naive = difference_interval(paired(doubled), 0.05)
    clustered = difference_interval(paired(doubled, cluster=np.repeat(np.arange(100), 2)), 0.05)
    single = difference_interval(paired(values), 0.05)
    assert clustered.high - clustered.low > 1.2 * (naive.high - naive.low)
    assert clustered.low == pytest.approx(single.low, abs=0.011)
    assert clustered.high == pytest.approx(single.high, abs=0.011)


def test_wilson_intervals_for_binary_scores():
    values = np.array([1.0] * 30 + [0.0] * 70)
    reference = stats.binomtest(30, 100).proportion_ci(0.95, method="wilson")
    assert score_interval(values, np.arange(100), 0.05, binary=True) == pytest.approx((reference.low, reference.high))


def test_students_interval_for_other_scores():
    values = np.random.default_rng(7).uniform(0, 1, 40)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert score_interval(values, np.arange(40), 0.05, binary=False) == pytest.approx((reference.low, reference.high))


def test_the_clustered_standard_error_is_that_of_cluster_means_where_clusters_are_alike():
    values = np.random.default_rng(8).normal(0, 1, 30)
    expected = values.std(ddof=1) / np.sqrt(30)
    assert clustered_standard_error(3 * values, np.full(30, 3)) == pytest.approx(expected)


def test_intervals_of_differences_cover_the_truth():
    """A small version of the calibration: 95% intervals at n = 200 cover between 92% and 98% of 600 truths."""
    generator = np.random.default_rng(9)
    covered = 0
    for _ in range(600):
        differences = generator.choice([-1.0, 0.0, 1.0], 200, p=[0.1, 0.72, 0.18])
        found = difference_interval(paired(differences), 0.05)
        covered += found.low <= 0.08 <= found.high
    assert 0.92 <= covered / 600 <= 0.98
