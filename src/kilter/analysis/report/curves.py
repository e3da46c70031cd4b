"""Curves: scores over training size, and training metrics over steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from kilter.analysis.families import Arm, arm_of
from kilter.analysis.report.charts import Point, Rule, Series, Style, Tick, line_chart, swatch
from kilter.analysis.report.formatting import short_count
from kilter.analysis.report.index import SCENARIO_TITLES, Index, full_name, method_title, model_name, size_text
from kilter.analysis.results import ModelResult

POINTS_PER_LINE = 200
_TRAINING_METRICS = (
    ("loss", "Training loss", "loss (nats)"),
    ("margin", "Reward margin, chosen minus rejected", "margin"),
    ("accuracy", "Reward accuracy on the training pairs", "accuracy (%)"),
)


@dataclass(frozen=True)
class Panel:
    """A chart under its heading."""

    title: str
    chart: Markup


@dataclass(frozen=True)
class Legend:
    """A legend's entry."""

    swatch: Markup
    name: str


@dataclass(frozen=True)
class PanelGroup:
    """Charts that share a legend."""

    title: str
    panels: tuple[Panel, ...]
    legend: tuple[Legend, ...]


def size_curves(index: Index) -> tuple[PanelGroup, ...]:
    """Draw scores over the number of training pairs: a group a scenario, a panel a benchmark, a line a method."""
    groups = []
    for scenario in index.results.scenarios:
        lines = _lines_over_size(index, scenario)
        if all(len(arms) < 2 for arms in lines.values()):
            continue
        legend = tuple(Legend(swatch(index.style(arms[0].models[0].method)), name) for name, arms in lines.items())
        panels = tuple(_size_panel(index, scenario, lines, benchmark) for benchmark in index.benchmarks)
        groups.append(PanelGroup(SCENARIO_TITLES.get(scenario, scenario), panels, legend))
    return tuple(groups)


def training_curves(index: Index) -> tuple[tuple[str, tuple[PanelGroup, ...]], ...]:
    """Draw training metrics over steps: by metric, a group a scenario, a panel a method, a line a size."""
    drawn = []
    for column, title, label in _TRAINING_METRICS:
        groups = [
            group
            for scenario in index.results.scenarios
            if (group := _training_group(index, SCENARIO_TITLES.get(scenario, scenario), scenario, column, label))
        ]
        if groups:
            drawn.append((title, tuple(groups)))
    return tuple(drawn)


def parent_curves(index: Index) -> tuple[Panel, ...]:
    """Draw the training loss of the models that alignment starts from."""
    panels = []
    for model in index.results.models:
        if model.method is None:
            points = thinned(model, "loss")
            if points:
                line = Series(full_name(model), Style(0), points)
                panels.append(Panel(full_name(model), _training_chart(full_name(model), (line,), "loss (nats)")))
    return tuple(panels)


def thinned(model: ModelResult, column: str, limit: int = POINTS_PER_LINE) -> tuple[Point, ...]:
    """Return a training metric over steps, averaged in equal windows where there are more steps than `limit`.

    Values that are missing or not finite are left out.
    """
    if model.curve is None or column not in model.curve.column_names or "step" not in model.curve.column_names:
        return ()
    pairs = [
        (float(step), float(value))
        for step, value in zip(
            model.curve.column("step").to_pylist(), model.curve.column(column).to_pylist(), strict=True
        )
        if step is not None and value is not None and math.isfinite(value)
    ]
    window = max(1, math.ceil(len(pairs) / limit))
    windows = [pairs[start : start + window] for start in range(0, len(pairs), window)]
    return tuple(Point(fmean(step for step, _ in inner), fmean(value for _, value in inner)) for inner in windows)


def _lines_over_size(index: Index, scenario: str) -> dict[str, list[Arm]]:
    """Return, for each cell that stands for a method, what was trained at each size, the smallest first."""
    lines: dict[str, list[Arm]] = {}
    for cell in index.cells(scenario):
        arms = [arm for size in index.results.sizes if (arm := arm_of(index.results, cell, size)) is not None]
        known = [arm for arm in arms if arm.models[0].pairs]
        if known:
            lines[model_name(known[0].models[0])] = sorted(known, key=_pairs)
    return lines


def _pairs(arm: Arm) -> int:
    return arm.models[0].pairs or 0


def _size_panel(index: Index, scenario: str, lines: dict[str, list[Arm]], benchmark: str) -> Panel:
    metric = index.metrics[benchmark]
    scale = index.scale(metric.metric)
    series = tuple(
        Series(name, index.style(arms[0].models[0].method), _size_points(index, arms, benchmark))
        for name, arms in lines.items()
    )
    rules = []
    for parent in index.ancestors(scenario)[-1:]:
        found = index.score(Arm((parent,)), benchmark)
        if found is not None:
            name = f"parent, {model_name(parent)}: {index.text(metric.metric, found[0])}"
            rules.append(Rule(name, found[0] * scale, "parent"))
    if metric.chance is not None:
        rules.append(Rule(f"chance: {index.text(metric.metric, metric.chance)}", metric.chance * scale, "chance"))
    sizes = sorted({_pairs(arm) for arms in lines.values() for arm in arms})
    unit = index.unit(metric.metric)
    chart = line_chart(
        f"{benchmark} over training size, {SCENARIO_TITLES.get(scenario, scenario)}",
        f"Score of {', '.join(lines)} on {benchmark} at {', '.join(f'{size:,}' for size in sizes)} pairs, with the "
        "parent's score dashed. The table of scores holds the same numbers.",
        series,
        x_label="training pairs (log scale)",
        y_label=metric.metric + (f" ({unit})" if unit else ""),
        rules=rules,
        x_ticks=[Tick(float(size), short_count(size)) for size in sizes],
        logarithmic=True,
    )
    return Panel(benchmark, chart)


def _size_points(index: Index, arms: Sequence[Arm], benchmark: str) -> tuple[Point, ...]:
    metric = index.metrics[benchmark].metric
    scale = index.scale(metric)
    points = []
    for arm in arms:
        found = index.score(arm, benchmark)
        if found is None:
            continue
        value, interval = found
        low, high = interval or (None, None)
        limits = f" ({index.text(metric, low)} to {index.text(metric, high)})" if low is not None and high else ""
        points.append(
            Point(
                float(_pairs(arm)),
                value * scale,
                None if low is None else low * scale,
                None if high is None else high * scale,
                f"{model_name(arm.models[0])}, {size_text(arm.models[0])} pairs: {index.text(metric, value)}{limits}",
            )
        )
    return tuple(points)


def _training_group(index: Index, title: str, scenario: str, column: str, label: str) -> PanelGroup | None:
    sizes = sorted({model.pairs for model in index.aligned(scenario) if model.pairs})
    factor = 100.0 if label.endswith("(%)") else 1.0
    by_method: dict[str, list[Series]] = {}
    for model in index.aligned(scenario):
        points = thinned(model, column)
        if points and model.method is not None:
            colour = index.style(model.method).colour
            style = Style(colour, dash=_dash_of(sizes, model.pairs))
            scaled = tuple(Point(point.x, point.y * factor) for point in points)
            by_method.setdefault(model.method, []).append(Series(full_name(model), style, scaled))
    if not by_method:
        return None
    panels = tuple(
        Panel(method_title(method), _training_chart(f"{label} of {method}, {title}", lines, label))
        for method, lines in by_method.items()
    )
    legend = tuple(Legend(swatch(Style(None, dash=_dash_of(sizes, size))), f"{size:,} pairs") for size in sizes)
    return PanelGroup(title, panels, legend)


def _training_chart(title: str, lines: Sequence[Series], label: str) -> Markup:
    last = "; ".join(f"{line.name} ends at {line.points[-1].y:.3g}" for line in lines)
    return line_chart(title, last, lines, x_label="optimizer step", y_label=label, width=216, height=164)


def _dash_of(sizes: Sequence[int], size: int | None) -> int:
    """The largest size is drawn solid, smaller ones with ever shorter dashes."""
    return len(sizes) - 1 - sizes.index(size) if size in sizes else 0
