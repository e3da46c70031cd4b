"""Paired tests: golden values, properties and calibration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kilter.analysis.paired_tests import (
    corrected,
    exact_sign_flip,
    mcnemar,
    resampled_sign_flips,
    resamples_for,
    sign_flip,
)

counts = st.integers(0, 400)
p_value_lists = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def binomial_two_sided(fewer: int, discordant: int) -> float:
    """Twice the tail of a fair coin, from its definition."""
    tail = sum(math.comb(discordant, heads) for heads in range(fewer + 1))
    return min(1.0, 2 * tail / 2**discordant)


def enumerated(differences) -> float:
    """The share of all sign flips whose sum is at least as far from zero."""
    observed = abs(sum(differences))
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    return sum(total >= observed - 1e-9 for total in sums) / len(sums)


def test_the_worked_case_of_an_unpaired_test_on_paired_data():
    """lm-evaluation-harness, pull request 3868: n = 220, p = 0.080 unpaired and 0.008 paired."""
    both, only_candidate, only_baseline, neither = 68, 30, 12, 110
    documents = both + only_candidate + only_baseline + neither
    assert documents == 220
    first, second = (both + only_candidate) / documents, (both + only_baseline) / documents
    errors = [share * (1 - share) / (documents - 1) for share in (first, second)]
    unpaired = 2 * stats.norm.sf((first - second) / math.sqrt(sum(errors)))
    assert round(unpaired, 3) == 0.080
    assert round(mcnemar(only_candidate, only_baseline), 3) == 0.008
    assert sign_flip([1] * only_candidate + [-1] * only_baseline + [0] * (both + neither)).p_value == pytest.approx(
        mcnemar(only_candidate, only_baseline)
    )


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 0), (8, 8), (3, 9), (40, 21), (120, 90)])
def test_mcnemar_is_the_two_sided_binomial_tail(b, c):
    assert mcnemar(b, c) == pytest.approx(binomial_two_sided(min(b, c), b + c) if b + c else 1.0)


def test_mcnemar_agrees_with_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar as reference

    for b, c in ((3, 9), (17, 17), (2, 31)):
        assert mcnemar(b, c) == pytest.approx(reference([[10, b], [c, 10]], exact=True).pvalue)


def test_mid_p_counts_half_of_the_observed_outcome():
    # Fagerland et al. 2013, section 2: discordant 1 and 7 give mid-p 0.039 (exact 0.070).
    assert mcnemar(1, 7) == pytest.approx(18 / 256)
    assert mcnemar(1, 7, mid_p=True) == pytest.approx(10 / 256)


@given(counts, counts)
def test_mcnemar_is_a_probability_that_does_not_care_who_is_the_candidate(b, c):
    for mid_p in (False, True):
        p_value = mcnemar(b, c, mid_p=mid_p)
        assert 0 <= p_value <= 1
        assert p_value == mcnemar(c, b, mid_p=mid_p)
    assert mcnemar(b, c, mid_p=True) <= mcnemar(b, c)


@given(st.lists(st.integers(-4, 4), max_size=10), st.sampled_from([1, 2, 3, 7]))
def test_differences_on_a_lattice_are_tested_exactly(whole, divisor):
    differences = [value / divisor for value in whole]
    found = sign_flip(differences)
    assert found.exact
    assert found.p_value == pytest.approx(enumerated(differences))


@given(st.lists(st.floats(-2, 2, allow_subnormal=False), min_size=1, max_size=8))
def test_few_differences_are_tested_exactly(differences):
    values = np.round(np.asarray(differences), 6)
    found = sign_flip(values)
    assert found.exact
    assert found.p_value == pytest.approx(enumerated(values.tolist()))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sign_flips_are_symmetric_probabilities(seed):
    differences = np.random.default_rng(seed).normal(0.1, 1, 40)
    p_value = sign_flip(differences, resamples=999).p_value
    assert 0 < p_value <= 1
    assert p_value == sign_flip(-differences, resamples=999).p_value


def test_sign_flips_agree_with_scipy():
    generator = np.random.default_rng(4)
    differences = generator.normal(0.25, 1, 60)
    reference = stats.permutation_test(
        (differences, np.zeros(60)),
        lambda first, second, axis: np.mean(first - second, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=1,
    ).pvalue
    found = sign_flip(differences, resamples=20_000)
    assert not found.exact
    assert found.p_value == pytest.approx(reference, abs=0.006)


def test_sign_flips_are_seeded():
    differences = np.random.default_rng(4).normal(0.2, 1, 60)
    assert sign_flip(differences, seed=3) == sign_flip(differences, seed=3)
    assert sign_flip(differences, seed=3) != sign_flip(differences, seed=4)


def test_clusters_that_flip_together_weaken_the_evidence():
    alone = [1.0] * 12 + [-1.0] * 2
    doubled = [2.0] * 6 + [-2.0] * 1
    assert sum(alone) == sum(doubled)
    assert sign_flip(doubled).p_value > sign_flip(alone).p_value
    assert sign_flip(doubled).p_value == pytest.approx(binomial_two_sided(1, 7))


def test_no_difference_at_all_is_no_evidence():
    assert sign_flip([0.0] * 20).p_value == 1.0
    assert sign_flip([]).p_value == 1.0


def test_many_seeds_means_stay_exact():
    differences = np.random.default_rng(0).integers(-3, 4, 3000) / 3
    p_value = exact_sign_flip(differences)
    assert p_value is not None
    # The normal approximation of the same statistic is close for so many documents.
    approximate = 2 * stats.norm.sf(abs(differences.sum()) / math.sqrt(np.sum(differences**2)))
    assert p_value == pytest.approx(approximate, abs=0.02)


def test_a_family_gets_enough_resamples_to_reach_its_level():
    for comparisons in (1, 20, 180, 240):
        assert comparisons / (resamples_for(comparisons, 0.05) + 1) <= 0.05 / 2
    assert resamples_for(1, 0.05) >= 9999


@settings(max_examples=20, deadline=None)
@given(p_value_lists)
def test_holm_is_never_below_the_raw_value_and_keeps_the_order(p_values):
    adjusted = corrected(p_values, alpha=0.05, correction="holm")
    assert np.all(adjusted >= np.asarray(p_values) - 1e-12)
    assert np.all(adjusted <= 1)
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(adjusted[order]) >= -1e-12)
    bonferroni = corrected(p_values, alpha=0.05, correction="bonferroni")
    assert np.all(adjusted <= bonferroni + 1e-12)


def test_holm_by_hand():
    assert corrected([0.01, 0.04, 0.03], alpha=0.05, correction="holm") == pytest.approx([0.03, 0.06, 0.06])
    assert corrected([], alpha=0.05, correction="holm").tolist() == []


def lower_limit(rejections: int, trials: int) -> float:
    """One-sided 99% Clopper-Pearson limit."""
    return float(stats.beta.ppf(0.01, rejections, trials - rejections + 1)) if rejections else 0.0


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_mcnemar_keeps_its_error_rate_when_nothing_differs(alpha):
    generator = np.random.default_rng(11)
    discordant = generator.binomial(200, 0.2, 500)
    favourable = generator.binomial(discordant, 0.5)
    rejected = sum(mcnemar(int(b), int(d - b)) <= alpha for b, d in zip(favourable, discordant, strict=True))
    assert lower_limit(rejected, 500) <= alpha


def test_sign_flips_keep_their_error_rate_when_nothing_differs():
    generator = np.random.default_rng(12)
    difficulty = generator.normal(0, 1, 80)
    scores = [1 / (1 + np.exp(-(difficulty + generator.normal(0, 1, (400, 80))))) for _ in range(2)]
    p_values = resampled_sign_flips(scores[0] - scores[1], resamples=999, seed=5)
    for alpha in (0.05, 0.01):
        assert lower_limit(int(np.sum(p_values <= alpha)), 400) <= alpha
    # And it is not merely shy: p-values of a true null are close to uniform.
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_clustered_sign_flips_keep_their_error_rate_where_documents_repeat():
    generator = np.random.default_rng(13)
    rejected = 0
    for _ in range(300):
        sizes = generator.integers(1, 5, 40)
        sums = sizes * generator.choice([-1.0, 0.0, 1.0], 40, p=[0.15, 0.7, 0.15])
        rejected += sign_flip(sums).p_value <= 0.05
    assert lower_limit(rejected, 300) <= 0.05
