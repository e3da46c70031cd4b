"""The tables of methods × benchmarks: scores with intervals, and marks for what differs from the parent."""

from dataclasses import dataclass
from typing import Literal

from kilter.analysis.families import Arm, Metric
from kilter.analysis.findings import Comparison
from kilter.analysis.report.formatting import NOTHING, p_value
from kilter.analysis.report.index import SCENARIO_TITLES, Index, model_name
from kilter.study.methods import method_label

Mark = Literal["", "better", "worse", "unclear"]


@dataclass(frozen=True)
class Cell:
    """A score as the table shows it."""

    value: str
    margin: str = ""
    anchor: str = ""
    mark: Mark = ""
    difference: str = ""
    title: str = ""


@dataclass(frozen=True)
class Row:
    """A model's scores."""

    kind: Literal["chance", "parent", "method"]
    name: str
    detail: str
    anchor: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Head:
    """A benchmark's column."""

    benchmark: str
    metric: str
    filter: str
    """Empty for a metric without one."""
    documents: int
    unit: str
    direction: str


@dataclass(frozen=True)
class ScoreTable:
    """All scores of a scenario."""

    scenario: str
    title: str
    heads: tuple[Head, ...]
    rows: tuple[Row, ...]
    """Chance, the parents, and the models that stand for the methods."""
    all_rows: tuple[Row, ...]
    """Every size, variant and seed."""
    reasons: tuple[str, ...]
    """How the models that stand for the methods were chosen, where there was a choice."""


def score_tables(index: Index) -> tuple[ScoreTable, ...]:
    """Make one table a scenario."""
    return tuple(_score_table(index, scenario) for scenario in index.results.scenarios)


def _score_table(index: Index, scenario: str) -> ScoreTable:
    heads = tuple(_head(index, metric) for metric in index.metrics.values())
    parents = tuple(_row(index, Arm((model,)), "parent") for model in index.ancestors(scenario))
    chance = _chance_row(index)
    choices = tuple(
        f"{method_label(chosen.method)}: {chosen.reason}"
        for chosen in index.findings.chosen
        if chosen.scenario == scenario and chosen.reason != "only cell"
    )
    every = tuple(_row(index, Arm((model,)), "method") for model in index.aligned(scenario))
    return ScoreTable(
        scenario=scenario,
        title=SCENARIO_TITLES.get(scenario, scenario),
        heads=heads,
        rows=(*chance, *parents, *(_row(index, arm, "method") for arm in index.arms(scenario))),
        all_rows=(*chance, *parents, *every),
        reasons=choices,
    )


def _head(index: Index, metric: Metric) -> Head:
    return Head(
        benchmark=metric.benchmark,
        metric=metric.metric,
        filter="" if metric.filter == "none" else metric.filter,
        documents=index.documents(metric.benchmark),
        unit=index.unit(metric.metric),
        direction="" if metric.higher_is_better else "lower is better",
    )


def _chance_row(index: Index) -> tuple[Row, ...]:
    if all(metric.chance is None for metric in index.metrics.values()):
        return ()
    cells = tuple(
        Cell(NOTHING, title="no chance level is known for this benchmark")
        if metric.chance is None
        else Cell(index.text(metric.metric, metric.chance), title="the score of guessing")
        for metric in index.metrics.values()
    )
    return (Row("chance", "Chance", "the score of guessing", "", cells),)


def _row(index: Index, arm: Arm, kind: Literal["parent", "method"]) -> Row:
    model = arm.models[0]
    seed = f"seed {model.seed}" if model.seed is not None and len(index.results.seeds) > 1 else ""
    if len(arm.models) > 1:
        seed = f"mean of {len(arm.models)} seeds"
    size = f"{index.size_text(model)} pairs" if model.size is not None else ""
    if model.method is None:
        size = "" if model.name.lower() in model_name(model).lower() else model.name
    return Row(
        kind=kind,
        name=model_name(model),
        detail=", ".join(part for part in (size, seed) if part),
        anchor=index.anchor(model.key),
        cells=tuple(_cell(index, arm, benchmark) for benchmark in index.benchmarks),
    )


def _cell(index: Index, arm: Arm, benchmark: str) -> Cell:
    found = index.score(arm, benchmark)
    metric = index.metrics[benchmark].metric
    if found is None:
        return Cell("missing", title=f"{arm.models[0].name} has no score on {benchmark}")
    value, interval = found
    title = "" if interval is None else f"interval {' to '.join(index.text(metric, limit) for limit in interval)}. "
    margin = "" if interval is None else f"± {index.text(metric, (interval[1] - interval[0]) / 2)}"
    mark, difference, compared = _against_parent(index, arm, benchmark)
    return Cell(
        value=index.text(metric, value),
        margin=margin,
        anchor=index.score_anchor(arm.models[0], benchmark),
        mark=mark,
        difference=difference,
        title=title + compared,
    )


def _against_parent(index: Index, arm: Arm, benchmark: str) -> tuple[Mark, str, str]:
    comparison = index.against_parent(arm.key, benchmark)
    if comparison is None:
        return "", "", ""
    low, high = (index.text(comparison.metric, limit, signed=True) for limit in comparison.interval)
    unit = index.difference_unit(comparison.metric)
    difference = index.text(comparison.metric, comparison.difference, signed=True)
    title = (
        f"Against {index.name_of(comparison.baseline)}: {difference} {unit}, corrected interval {low} to {high}, "
        f"corrected p {p_value(comparison.p_corrected)}, {comparison.test}, {comparison.documents:,} documents"
    )
    return mark_of(comparison), difference, title


def mark_of(comparison: Comparison) -> Mark:
    """Say in a word what a comparison found."""
    return "better" if comparison.helped else "worse" if comparison.hurt else "unclear"
