"""Looks up what the report's sections share: models, primary scores, comparisons, names, styles and anchors."""

import re
from collections.abc import Iterable, Mapping
from functools import cached_property

from kilter.analysis.comparisons import Measured
from kilter.analysis.families import Arm, Cell, arm_of, chosen_cells, largest_size, primary_metrics
from kilter.analysis.findings import Comparison, Findings
from kilter.analysis.intervals import Interval
from kilter.analysis.report.charts import Style
from kilter.analysis.report.formatting import fixed
from kilter.analysis.results import ModelResult, Stage, StudyResults
from kilter.analysis.scores import score_of
from kilter.analysis.sizes import sizes_in_pairs
from kilter.analysis.tables import arm_score
from kilter.analysis.units import PERCENT, units_of
from kilter.study.methods import method_label

SCENARIO_TITLES = {
    "sft": "SFT, then align",
    "base": "Skip SFT: align the pretrained model",
    "instruct": "Skip SFT: align the instruction-tuned model",
}
ROLE_TITLES = {"base": "Pretrained model", "instruct": "Instruction-tuned model", "sft": "SFT model"}


class Index:
    """A study's results and findings with the look-ups that the sections need."""

    def __init__(self, results: StudyResults, findings: Findings, measured: Measured | None = None) -> None:
        self.results = results
        self.findings = findings
        self.measured = measured or Measured()
        self.models = {model.key: model for model in results.models}
        self.metrics = {metric.benchmark: metric for metric in primary_metrics(results)}
        self.benchmarks = tuple(self.metrics)
        self._units = units_of(results)

    def documents(self, benchmark: str) -> int:
        """Return how many documents a benchmark has."""
        metric = self.metrics[benchmark]
        scores = (score_of(model, metric) for model in self.results.models)
        return max(score.documents for score in scores if score is not None)

    def has_score(self, model: ModelResult, benchmark: str) -> bool:
        """Tell whether a model was scored on a benchmark."""
        return score_of(model, self.metrics[benchmark]) is not None

    def score(self, arm: Arm, benchmark: str) -> tuple[float, Interval | None] | None:
        """Return an arm's score on a benchmark's primary metric with its interval; None where a model has none."""
        if not all(self.has_score(model, benchmark) for model in arm.models):
            return None
        return arm_score(self.results, arm, self.metrics[benchmark], self.measured)

    def scale(self, metric: str) -> float:
        """Return by what a metric is multiplied to be shown."""
        return self._units[metric].scale

    def unit(self, metric: str) -> str:
        """Return the unit in which a metric is shown."""
        return self._units[metric].value_unit

    def difference_unit(self, metric: str) -> str:
        """Return the unit in which differences of a metric are shown."""
        return "pp" if self._units[metric] == PERCENT else ""

    def text(self, metric: str, value: float, *, signed: bool = False) -> str:
        """Write a value of a metric in its unit."""
        unit = self._units[metric]
        return fixed(unit.scale * value, unit.digits, signed=signed)

    @cached_property
    def _against_parent(self) -> dict[tuple[str, str], Comparison]:
        return {
            (comparison.candidate, comparison.benchmark): comparison
            for comparison in self.findings.comparisons
            if comparison.family == "parent"
        }

    def against_parent(self, key: str, benchmark: str) -> Comparison | None:
        """Return the comparison of a model with its parent on a benchmark."""
        return self._against_parent.get((key, benchmark))

    @cached_property
    def _numbers(self) -> dict[int, int]:
        return {id(comparison): number for number, comparison in enumerate(self.findings.comparisons)}

    def comparison_anchor(self, comparison: Comparison) -> str:
        """Return the anchor of a comparison's row; of the whole section for one that the findings do not list."""
        number = self._numbers.get(id(comparison))
        return "comparisons" if number is None else f"comparison-{number}"

    def aligned(self, scenario: str) -> tuple[ModelResult, ...]:
        """Return the aligned models of a scenario, in the order of the study."""
        return tuple(model for model in self.results.models if model.scenario == scenario and model.method is not None)

    def ancestors(self, scenario: str) -> tuple[ModelResult, ...]:
        """Return the models that a scenario's alignment starts from, the most distant first."""
        chain: dict[str, ModelResult] = {}
        for start in dict.fromkeys(model.parent for model in self.aligned(scenario)):
            line: dict[str, ModelResult] = {}
            key = start
            while key is not None and key in self.models and key not in line:
                line[key] = self.models[key]
                key = self.models[key].parent
            for model in reversed(line.values()):
                chain.setdefault(model.key, model)
        return tuple(chain.values())

    def cells(self, scenario: str) -> tuple[Cell, ...]:
        """Return the cells that stand for the methods of a scenario."""
        return tuple(cell for cell in chosen_cells(self.results, self.findings.chosen) if cell.scenario == scenario)

    def arms(self, scenario: str) -> tuple[Arm, ...]:
        """Return the models, or seeds taken together, that stand for the methods of a scenario at the largest size."""
        size = largest_size(self.results)
        return tuple(arm for cell in self.cells(scenario) if (arm := arm_of(self.results, cell, size)) is not None)

    def style(self, method: str | None) -> Style:
        """Return the look of a method, the same in every chart."""
        names = self.results.methods
        number = names.index(method) if method in names else len(names)
        return Style(colour=number, dash=number, marker=number)

    @cached_property
    def _references(self) -> dict[str, Stage]:
        return {reference_of(stage): stage for stage in self.results.stages}

    @cached_property
    def _anchors(self) -> dict[str, str]:
        short = {reference: _identifier(reference, 12) for reference in self._references}
        repeated = {anchor for anchor in short.values() if list(short.values()).count(anchor) > 1}
        return {
            reference: _identifier(reference, None) if anchor in repeated else anchor
            for reference, anchor in short.items()
        }

    def anchor(self, reference: str | None) -> str:
        """Return the anchor of a stage's row in the lineage table, or of the whole table for an unknown stage."""
        return self._anchors.get(reference or "", "lineage")

    @cached_property
    def _evaluations(self) -> dict[tuple[str, str], str]:
        found: dict[tuple[str, str], str] = {}
        for reference, stage in self._references.items():
            task = stage.config.get("task")
            if stage.stage == "evaluate" and task is not None and "model" in stage.inputs:
                found.setdefault((stage.inputs["model"], str(task)), reference)
        return found

    def score_anchor(self, model: ModelResult, benchmark: str) -> str:
        """Return the anchor of the stage that measured a score, else of the stage that made the model."""
        return self.anchor(self._evaluations.get((model.key, benchmark), model.key))

    def stage_of(self, model: ModelResult) -> Stage | None:
        """Return the stage that made a model."""
        return self._references.get(model.key)

    def name_of(self, key: str) -> str:
        """Return the full name of a model by its key."""
        return self.full_name(self.models[key]) if key in self.models else short_reference(key)

    def full_name(self, model: ModelResult) -> str:
        """Return a model's name across scenarios, sizes and seeds."""
        if model.method is None:
            return model_name(model)
        origin = {"sft": "SFT", "base": "base", "instruct": "instruct"}.get(model.scenario or "", model.scenario or "")
        size = f" · {self.size_text(model)}" if model.size is not None else ""
        seed = f" · seed {model.seed}" if model.seed else ""
        return f"{origin} → {model_name(model)}{size}{seed}"

    @cached_property
    def _sizes(self) -> Mapping[int | str, int]:
        return sizes_in_pairs(self.results)

    def asked_pairs(self, model: ModelResult) -> int | None:
        """Return how many pairs a model's size stands for, whatever its method left out; None where that is unknown."""
        return None if model.size is None else self._sizes.get(model.size)

    def size_text(self, model: ModelResult) -> str:
        """Return the size that was asked for, as the study names it: `1,000`, `all 4,459`."""
        if isinstance(model.size, int):
            return f"{model.size:,}"
        asked = self.asked_pairs(model)
        return " ".join(filter(None, (model.size, None if asked is None else f"{asked:,}")))


def reference_of(stage: Stage) -> str:
    """Return a stage's name as models and inputs write it: `stage/key`."""
    return stage.key if "/" in stage.key else f"{stage.stage}/{stage.key}"


def short_reference(reference: str) -> str:
    """Return `stage/key` with the key's first ten digits."""
    stage, _, key = reference.rpartition("/")
    return f"{stage}/{key[:10]}" if stage else key[:10]


def model_name(model: ModelResult) -> str:
    """Return a model's name within its scenario: the method with what sets the cell apart, or the parent's role."""
    if model.method is None:
        return ROLE_TITLES.get(model.role, model.name)
    return " ".join(part for part in (method_label(model.method), model.variant) if part)


def unique(values: Iterable[str]) -> tuple[str, ...]:
    """Return the values without repeats, in their order."""
    return tuple(dict.fromkeys(values))


def _identifier(reference: str, digits: int | None) -> str:
    stage, _, key = reference.rpartition("/")
    return re.sub(r"[^A-Za-z0-9_-]", "-", f"stage-{stage}-{key[:digits]}")
