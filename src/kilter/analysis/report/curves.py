"""Curves: scores over training size, and training metrics over steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from kilter.analysis.families import Arm, arm_of
from kilter.analysis.report.charts import Point, Rule, Series, Style, Tick, line_chart, swatch
from kilter.analysis.report.formatting import short_count
from kilter.analysis.report.index import SCENARIO_TITLES, Index, model_name
from kilter.analysis.results import ModelResult
from kilter.analysis.words import counted
from kilter.study.methods import method_label

POINTS_PER_LINE = 200
_LIGHTEST = 0.25
"""Opacity of the smallest size among training curves."""
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
                name = index.full_name(model)
                panels.append(Panel(name, _training_chart(name, (Series(name, Style(0), points),), "loss (nats)")))
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
        known = [arm for arm in arms if index.asked_pairs(arm.models[0])]
        if known:
            lines[model_name(known[0].models[0])] = sorted(known, key=lambda arm: _pairs(index, arm))
    return lines


def _pairs(index: Index, arm: Arm) -> int:
    return index.asked_pairs(arm.models[0]) or 0


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
    sizes = sorted({_pairs(index, arm) for arms in lines.values() for arm in arms})
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
        name = f"{model_name(arm.models[0])}, {index.size_text(arm.models[0])} pairs"
        low, high = interval or (None, None)
        limits = f" ({index.text(metric, low)} to {index.text(metric, high)})" if low is not None and high else ""
        points.append(
            Point(
                float(_pairs(index, arm)),
                value * scale,
                None if low is None else low * scale,
                None if high is None else high * scale,
                f"{name}: {index.text(metric, value)}{limits}",
            )
        )
    return tuple(points)


def _training_group(index: Index, title: str, scenario: str, column: str, label: str) -> PanelGroup | None:
    asked = {model.key: index.asked_pairs(model) for model in index.aligned(scenario)}
    sizes = sorted({size for size in asked.values() if size})
    factor = 100.0 if label.endswith("(%)") else 1.0
    by_method: dict[str, list[Series]] = {}
    # The smallest first, so that the largest lies on top.
    for model in sorted(index.aligned(scenario), key=lambda model: asked[model.key] or 0):
        points = thinned(model, column)
        if points and model.method is not None:
            style = Style(index.style(model.method).colour, strength=_strength_of(sizes, asked[model.key]))
            scaled = tuple(Point(point.x, point.y * factor) for point in points)
            by_method.setdefault(model.method, []).append(Series(index.full_name(model), style, scaled))
    if not by_method:
        return None
    panels = tuple(
        Panel(method_label(method), _training_chart(f"{label} of {method}, {title}", lines, label))
        for method in index.results.methods
        if (lines := by_method.get(method))
    )
    legend = tuple(
        Legend(swatch(Style(None, strength=_strength_of(sizes, size))), counted(size, "pair")) for size in sizes
    )
    return PanelGroup(title, panels, legend)


def _training_chart(title: str, lines: Sequence[Series], label: str) -> Markup:
    last = "; ".join(f"{line.name} ends at {line.points[-1].y:.3g}" for line in lines)
    return line_chart(title, last, lines, x_label="optimizer step", y_label=label, width=216, height=164)


def _strength_of(sizes: Sequence[int], size: int | None) -> float:
    """The largest size is drawn in full strength, smaller ones ever lighter."""
    if size not in sizes or len(sizes) == 1:
        return 1.0
    steps_below = len(sizes) - 1 - sizes.index(size)
    return float(_LIGHTEST ** (steps_below / (len(sizes) - 1)))
