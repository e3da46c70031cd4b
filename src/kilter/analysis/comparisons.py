"""Makes the comparisons that the families planned."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kilter.analysis.findings import Comparison
from kilter.analysis.intervals import clustered_standard_error, difference_interval, value_range
from kilter.analysis.paired_tests import (
    corrected,
    exact_sign_flip,
    mcnemar,
    resampled_sign_flips,
    resamples_for,
)
from kilter.analysis.pairing import Measurements, NotComparable, Paired, average, measure, pair
from kilter.analysis.power import mcnemar_smallest_detectable, mean_smallest_detectable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kilter.analysis.families import Arm, Metric, Planned


@dataclass(frozen=True)
class Compared:
    """The comparisons that could be made, and why others could not."""

    comparisons: tuple[Comparison, ...]
    refused: tuple[str, ...]
    """One reason for each pair of models and benchmark that was planned and is not comparable."""
    bounded: int
    """Comparisons without any difference between documents, whose interval is a bound rather than a bootstrap's."""


class Measured:
    """The values of models on benchmarks, each read once."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, Metric], Measurements] = {}
        self._arms: dict[tuple[tuple[str, ...], Metric], Measurements] = {}

    def of(self, arm: "Arm", metric: "Metric") -> Measurements:
        """The values of an arm, mean over its models on each document.

        Raises:
            NotComparable: a model has none, or they were not evaluated alike.
        """
        place = (tuple(model.key for model in arm.models), metric)
        if place not in self._arms:
            for model in arm.models:
                if (model.key, metric) not in self._models:
                    found = measure(model, metric.benchmark, metric.filter, metric.metric)
                    self._models[model.key, metric] = found
            self._arms[place] = average([self._models[model.key, metric] for model in arm.models])
        return self._arms[place]


def compare(planned: "Sequence[Planned]", measured: Measured, *, alpha: float, correction: str) -> Compared:
    """Test every planned comparison and correct each family.

    A comparison that cannot be made still counts in its family's size, with p = 1, so that a failed evaluation does
    not make the others look better. Intervals and smallest detectable differences are at the level alpha divided by
    the family's size (Bonferroni), so that the intervals of a family hold together; Holm's test can find a difference
    whose interval still touches zero.

    Args:
        planned: comparisons of all families.
        measured: where the values are read from.
        alpha: family-wise error rate.
        correction: `holm` or `bonferroni`.
    """
    families: dict[tuple[str, str | None], list[int]] = {}
    for place, each in enumerate(planned):
        families.setdefault((each.family, each.scenario), []).append(place)
    paired: dict[int, Paired] = {}
    refused: dict[str, None] = {}
    for place, each in enumerate(planned):
        try:
            paired[place] = pair(measured.of(each.candidate, each.metric), measured.of(each.baseline, each.metric))
        except NotComparable as reason:
            refused[str(reason)] = None

    largest = max((len(members) for members in families.values()), default=1)
    tested = _test(paired, resamples=resamples_for(largest, alpha))
    comparisons: dict[int, Comparison] = {}
    bounded = 0
    for members in families.values():
        p_values = [tested[place][0] if place in tested else 1.0 for place in members]
        adjusted = corrected(p_values, alpha=alpha, correction=correction)
        level = alpha / len(members)
        for place, p_corrected in zip(members, adjusted, strict=True):
            if place in paired:
                interval = difference_interval(paired[place], level)
                bounded += interval.method == "exact bound"
                comparisons[place] = _comparison(
                    planned[place],
                    paired[place],
                    tested[place],
                    (interval.low, interval.high),
                    float(p_corrected),
                    alpha=alpha,
                    family_size=len(members),
                )
    return Compared(tuple(comparisons[place] for place in sorted(comparisons)), tuple(refused), bounded)


def smallest_detectable(paired: Paired, alpha: float) -> float:
    """The true difference that the test of these documents finds with probability 0.8 at level alpha.

    From the discordance that was observed for McNemar's test, and from the standard error for sign flips. Where no
    documents differ, the discordance is taken to be no larger than the difference itself.
    """
    if paired.binary and paired.clusters == paired.documents:
        discordance = (paired.only_candidate + paired.only_baseline) / paired.documents
        return mcnemar_smallest_detectable(paired.documents, discordance, alpha)
    error = clustered_standard_error(paired.cluster_sums, paired.cluster_sizes)
    if error <= 1e-12:
        return mcnemar_smallest_detectable(paired.clusters, 0.0, alpha) * value_range(paired)
    return mean_smallest_detectable(error, paired.clusters, alpha)


def _test(paired: "dict[int, Paired]", *, resamples: int) -> dict[int, tuple[float, str]]:
    """Test each pair: its p-value and the test's name."""
    tested: dict[int, tuple[float, str]] = {}
    resampled: dict[int, list[int]] = {}
    for place, each in paired.items():
        if each.binary and each.clusters == each.documents:
            tested[place] = (mcnemar(each.only_candidate, each.only_baseline), "exact McNemar")
            continue
        exact = exact_sign_flip(each.cluster_sums)
        if exact is None:
            resampled.setdefault(each.clusters, []).append(place)
        else:
            tested[place] = (exact, "exact sign-flip permutation")
    for places in resampled.values():
        p_values = resampled_sign_flips(np.stack([paired[place].cluster_sums for place in places]), resamples=resamples)
        tested |= {
            place: (float(p_value), f"sign-flip permutation, {resamples:,} resamples")
            for place, p_value in zip(places, p_values, strict=True)
        }
    return tested


def _comparison(
    planned: "Planned",
    paired: Paired,
    tested: tuple[float, str],
    interval: tuple[float, float],
    p_corrected: float,
    *,
    alpha: float,
    family_size: int,
) -> Comparison:
    p_value, test = tested
    return Comparison(
        family=planned.family,
        scenario=planned.scenario,
        candidate=planned.candidate.key,
        baseline=planned.baseline.key,
        benchmark=planned.metric.benchmark,
        filter=planned.metric.filter,
        metric=planned.metric.metric,
        higher_is_better=planned.metric.higher_is_better,
        documents=paired.documents,
        clusters=paired.clusters,
        candidate_score=float(paired.candidate.mean()),
        baseline_score=float(paired.baseline.mean()),
        difference=paired.difference,
        interval=interval,
        p_value=p_value,
        p_corrected=p_corrected,
        significant=p_corrected <= alpha,
        test=test,
        smallest_detectable=smallest_detectable(paired, alpha / family_size),
        family_size=family_size,
    )
