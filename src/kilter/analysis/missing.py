"""What a study should have and has not: the one count of it that every part of the report shows."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kilter.analysis.families import primary_metrics
from kilter.analysis.scores import score_of
from kilter.analysis.words import counted, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.analysis.results import Stage, StudyResults


@dataclass(frozen=True)
class Missing:
    """Results that are not there: one a stage without a result, one a score that no such stage explains."""

    stages: "Mapping[str, Stage]"
    """Stages without a result, by `stage/key`."""
    scores: "Mapping[str, tuple[str, ...]]"
    """Models' keys and the benchmarks on which they have no score, though no stage is known to have failed."""

    @property
    def count(self) -> int:
        """How many results are missing."""
        return len(self.stages) + sum(len(benchmarks) for benchmarks in self.scores.values())

    def kinds(self) -> str:
        """Say of which kinds they are: `1 align, 5 evaluate`; stages by their verb, and scores."""
        kinds = [f"{number} {kind}" for kind, number in Counter(each.stage for each in self.stages.values()).items()]
        scores = self.count - len(self.stages)
        return listed([*kinds, *([counted(scores, "score")] if scores else [])]) if self.count else ""


def missing_of(results: "StudyResults") -> Missing:
    """Find the results that a study lacks.

    Raises:
        StageFailed: the models disagree on a benchmark's primary metric.
    """
    stages = {
        stage.key if "/" in stage.key else f"{stage.stage}/{stage.key}": stage
        for stage in results.stages
        if stage.state != "done"
    }
    explained = {source for stage in stages.values() for source in stage.inputs.values()} | set(stages)
    metrics = primary_metrics(results)
    lacking = {
        model.key: tuple(metric.benchmark for metric in metrics if score_of(model, metric) is None)
        for model in results.models
        if model.key not in explained
    }
    return Missing(stages, {key: benchmarks for key, benchmarks in lacking.items() if benchmarks})
