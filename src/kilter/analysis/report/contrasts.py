"""Comparisons as charts and tables: forest plots against the parent, which beats which, and every pair."""

import math
from dataclasses import dataclass

from markupsafe import Markup

from kilter.analysis.findings import Comparison
from kilter.analysis.report.charts import ForestGroup, ForestRow, forest_plot
from kilter.analysis.report.formatting import p_value
from kilter.analysis.report.index import SCENARIO_TITLES, Index, model_name, unique
from kilter.analysis.report.scores import mark_of

FAMILY_TITLES = {
    "parent": "Each method against its parent",
    "methods": "Method against method, within a scenario",
    "scenarios": "Scenario against scenario",
}


@dataclass(frozen=True)
class Forest:
    """The forest plots of a scenario, one a unit, each drawn wide and narrow."""

    scenario: str
    title: str
    charts: tuple[tuple[Markup, Markup], ...]


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, the value it sorts by, and perhaps a link."""

    text: str
    sort: str
    anchor: str = ""
    title: str = ""


@dataclass(frozen=True)
class ComparisonRow:
    """A comparison as the table shows it."""

    identifier: str
    mark: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ComparisonTable:
    """The comparisons of a family."""

    family: str
    title: str
    rows: tuple[ComparisonRow, ...]
    tests: int
    significant: int


@dataclass(frozen=True)
class Matrix:
    """Which beats which in a scenario: how many benchmarks the row's method wins and loses against the column's."""

    title: str
    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[int, int, int] | None, ...]], ...]


def forests(index: Index) -> tuple[Forest, ...]:
    """Draw the differences of each scenario's methods from their parent."""
    drawn = []
    for scenario in index.results.scenarios:
        keys = {model.key for model in index.aligned(scenario)}
        comparisons = [
            comparison
            for comparison in index.findings.comparisons
            if comparison.family == "parent" and comparison.candidate in keys
        ]
        if not comparisons:
            continue
        units = unique(index.difference_unit(comparison.metric) for comparison in comparisons)
        charts = tuple(
            _forest(index, scenario, [one for one in comparisons if index.difference_unit(one.metric) == unit], unit)
            for unit in units
        )
        drawn.append(Forest(scenario, SCENARIO_TITLES.get(scenario, scenario), charts))
    return tuple(drawn)


def comparison_tables(index: Index) -> tuple[ComparisonTable, ...]:
    """List every comparison, one table a family."""
    tables = []
    for family, title in FAMILY_TITLES.items():
        members = [
            (number, comparison)
            for number, comparison in enumerate(index.findings.comparisons)
            if comparison.family == family
        ]
        if members:
            rows = tuple(_comparison_row(index, number, comparison) for number, comparison in members)
            found = sum(comparison.significant for _, comparison in members)
            tables.append(ComparisonTable(family, title, rows, len(members), found))
    return tuple(tables)


def matrices(index: Index) -> tuple[Matrix, ...]:
    """Count, for each pair of methods of a scenario, on how many benchmarks one is significantly better."""
    found = []
    for scenario in index.results.scenarios:
        keys = {model.key for model in index.aligned(scenario)}
        pairs = [
            comparison
            for comparison in index.findings.comparisons
            if comparison.family == "methods" and comparison.candidate in keys and comparison.baseline in keys
        ]
        involved = {key for comparison in pairs for key in (comparison.candidate, comparison.baseline)}
        order = [model for model in index.aligned(scenario) if model.key in involved]
        if len(order) < 2:
            continue
        rows = tuple((model_name(one), tuple(_tally(pairs, one.key, other.key) for other in order)) for one in order)
        found.append(Matrix(SCENARIO_TITLES.get(scenario, scenario), tuple(map(model_name, order)), rows))
    return tuple(found)


def _tally(pairs: list[Comparison], one: str, other: str) -> tuple[int, int, int] | None:
    wins = losses = total = 0
    for comparison in pairs:
        if {comparison.candidate, comparison.baseline} == {one, other}:
            total += 1
            ahead = comparison.helped if comparison.candidate == one else comparison.hurt
            behind = comparison.hurt if comparison.candidate == one else comparison.helped
            wins, losses = wins + ahead, losses + behind
    return (wins, losses, total) if total else None


def _forest(index: Index, scenario: str, comparisons: list[Comparison], unit: str) -> tuple[Markup, Markup]:
    groups = tuple(
        ForestGroup(
            benchmark + ("" if members[0].higher_is_better else " (lower is better; signs turned)"),
            tuple(_forest_row(index, comparison) for comparison in members),
        )
        for benchmark in unique(comparison.benchmark for comparison in comparisons)
        if (members := [comparison for comparison in comparisons if comparison.benchmark == benchmark])
    )
    title = f"Differences from the parent: {SCENARIO_TITLES.get(scenario, scenario)}"
    found = sum(comparison.significant for comparison in comparisons)
    description = (
        f"{len(comparisons)} differences with corrected intervals around zero; {found} exclude chance. "
        "The table of comparisons holds the same numbers."
    )
    label = "difference from the parent" + (" (percentage points)" if unit == "pp" else "")
    wide = forest_plot(title, description, groups, x_label=label, directions=("worse", "better"))
    narrow = forest_plot(
        title, description, groups, x_label=label, directions=("worse", "better"), width=360, values=False
    )
    return wide, narrow


def _forest_row(index: Index, comparison: Comparison) -> ForestRow:
    model = index.models[comparison.candidate]
    turn = 1 if comparison.higher_is_better else -1
    factor = turn * index.scale(comparison.metric)
    low, high = sorted(factor * limit for limit in comparison.interval)
    texts = [
        index.text(comparison.metric, turn * value, signed=True)
        for value in (comparison.difference, *sorted(comparison.interval, reverse=turn < 0))
    ]
    mark = mark_of(comparison)
    sign = {"better": "▲ ", "worse": "▼ ", "": "", "unclear": ""}[mark]
    p = p_value(comparison.p_corrected)
    return ForestRow(
        label=model_name(model),
        style=index.style(model.method),
        difference=factor * comparison.difference,
        low=low,
        high=high,
        text=f"{sign}{texts[0]} [{texts[1]}, {texts[2]}]",
        mark=mark,
        title=(
            f"{index.full_name(model)} on {comparison.benchmark}: {texts[0]} [{texts[1]}, {texts[2]}], corrected p {p}"
        ),
    )


def _comparison_row(index: Index, number: int, comparison: Comparison) -> ComparisonRow:
    def text(value: float, *, signed: bool = True) -> str:
        return index.text(comparison.metric, value, signed=signed)

    def model_cell(key: str) -> Cell:
        return Cell(index.name_of(key), index.name_of(key), index.anchor(key))

    mark = mark_of(comparison)
    words = {"better": "▲ better", "worse": "▼ worse", "unclear": "no clear difference"}
    unit = index.difference_unit(comparison.metric)
    low, high = comparison.interval
    smallest = comparison.smallest_detectable
    known = math.isfinite(smallest)
    cells = (
        model_cell(comparison.candidate),
        model_cell(comparison.baseline),
        Cell(comparison.benchmark, comparison.benchmark, title=f"{comparison.metric}, filter {comparison.filter}"),
        Cell(f"{text(comparison.difference)} {unit}".strip(), repr(comparison.difference)),
        Cell(f"{text(low)} to {text(high)}", repr(low)),
        Cell(words[mark], {"better": "2", "worse": "0"}.get(mark, "1")),
        Cell(p_value(comparison.p_corrected), repr(comparison.p_corrected)),
        Cell(p_value(comparison.p_value), repr(comparison.p_value)),
        Cell(f"{text(smallest, signed=False)} {unit}".strip() if known else "none", repr(smallest) if known else ""),
        Cell(
            f"{comparison.documents:,}",
            str(comparison.documents),
            title=f"{comparison.clusters:,} clusters: exact duplicates count once",
        ),
        Cell(comparison.test, comparison.test),
    )
    return ComparisonRow(f"comparison-{number}", mark, cells)


COMPARISON_HEADS = (
    "Candidate",
    "Baseline",
    "Benchmark",
    "Difference",
    "Corrected interval",
    "Finding",
    "Corrected p",
    "Raw p",
    "Smallest detectable",
    "Documents",
    "Test",
)
