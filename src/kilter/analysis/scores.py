"""Confidence intervals of single models' scores."""

import math
from typing import TYPE_CHECKING

import numpy as np

from kilter.analysis.families import Arm, Metric
from kilter.analysis.intervals import Interval, score_interval
from kilter.analysis.pairing import NotComparable

if TYPE_CHECKING:
    from kilter.analysis.comparisons import Measured
    from kilter.analysis.results import ModelResult, Score

_ROUNDING = 1e-6


def score_of(model: "ModelResult", metric: Metric) -> "Score | None":
    """A model's score on a metric, or None where it has none."""
    wanted = (metric.benchmark, metric.filter, metric.metric)
    return next((each for each in model.scores if (each.benchmark, each.filter, each.metric) == wanted), None)


def interval_of(model: "ModelResult", score: "Score", measured: "Measured", alpha: float) -> Interval | None:
    """Confidence interval of one score at level 1 - alpha.

    From the samples of a benchmark's primary metric where the score is their mean; else from the standard error that
    the harness gave, with normal quantiles; None where there is neither.
    """
    if score.primary and model.samples is not None:
        metric = Metric(score.benchmark, score.filter, score.metric, score.higher_is_better, score.chance)
        try:
            values = measured.of(Arm((model,)), metric)
        except NotComparable:
            return _from_standard_error(score, alpha)
        if math.isclose(float(values.value.mean()), score.value, abs_tol=_ROUNDING):
            binary = bool(np.all((values.value == 0) | (values.value == 1)))
            return score_interval(values.value, values.cluster, alpha, binary=binary)
    return _from_standard_error(score, alpha)


def is_mean_of_samples(model: "ModelResult", metric: Metric, measured: "Measured") -> bool:
    """Whether a model's score is the mean of its samples; a corpus-level metric is not."""
    score = score_of(model, metric)
    if score is None or model.samples is None:
        return True
    try:
        mean = float(measured.of(Arm((model,)), metric).value.mean())
    except NotComparable:
        return True
    return math.isclose(mean, score.value, abs_tol=_ROUNDING)


def _from_standard_error(score: "Score", alpha: float) -> Interval | None:
    from scipy.special import ndtri

    if score.standard_error is None or not math.isfinite(score.standard_error):
        return None
    reach = float(ndtri(1 - alpha / 2)) * score.standard_error
    return (score.value - reach, score.value + reach)
