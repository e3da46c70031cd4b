"""The report's charts: pure functions from values to SVG, coloured by CSS classes so that light and dark both work.

Colour never stands alone: series differ by marker and dashes too, and significance by a filled marker and by words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from kilter.analysis.report.axes import Axis, Scale, nice_axis, tick_text
from kilter.analysis.report.svg import element, path

COLOURS = 8
_DASHES = (None, "7 4", "2 3", "9 3 2 3", "12 4", "4 2 1 2")
_CHARACTER = 6.1
"""Pixels that a character of a chart's text takes, about."""
_WIDE_CHARACTER = 7.4
"""The same for bold text."""
_LABEL_CHARACTERS = 26


@dataclass(frozen=True)
class Style:
    """How a series looks: indices of a colour, a dash pattern and a marker shape."""

    colour: int | None
    """None is the colour of text, for legends of dashes."""
    dash: int = 0
    marker: int | None = None
    strength: float = 1.0
    """Opacity; a lighter line is thinner too."""


@dataclass(frozen=True)
class Point:
    """A value, perhaps with limits, and what hovering over it says."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    name: str
    style: Style
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Rule:
    """A horizontal line to compare with."""

    name: str
    value: float
    kind: Literal["parent", "chance"]


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    value: float
    text: str


@dataclass(frozen=True)
class ForestRow:
    """A difference with its interval; `mark` is better, worse or unclear."""

    label: str
    style: Style
    difference: float
    low: float
    high: float
    text: str
    mark: str
    title: str


@dataclass(frozen=True)
class ForestGroup:
    """Rows under one heading."""

    name: str
    rows: tuple[ForestRow, ...]


@dataclass(frozen=True)
class Bar:
    """A horizontal bar: its length in the axis's unit and the text at its end."""

    label: str
    value: float
    text: str
    title: str


def line_chart(
    title: str,
    description: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    rules: Sequence[Rule] = (),
    x_ticks: Sequence[Tick] = (),
    logarithmic: bool = False,
    width: int = 292,
    height: int = 208,
) -> Markup:
    """Draw lines over a linear or logarithmic axis.

    Args:
        title: what the chart is, for screen readers.
        description: what it shows, for screen readers.
        series: the lines; points that are not finite are left out, and the line is broken there.
        x_label: name and unit of the horizontal axis.
        y_label: name and unit of the vertical axis.
        rules: horizontal lines to compare with.
        x_ticks: places of the horizontal axis to label; by default nice numbers. With them, markers of different
            series at the same place stand side by side.
        logarithmic: whether the horizontal axis is.
        width: of the viewBox, in pixels.
        height: of the viewBox, in pixels.
    """
    shown = [(one, [point for point in one.points if _finite(point)]) for one in series]
    points = [point for _, kept in shown for point in kept]
    rules = [rule for rule in rules if math.isfinite(rule.value)]
    if not points:
        return _empty_chart(title, width, height)
    levels = [level for point in points for level in (point.y, point.low, point.high) if level is not None]
    levels += [rule.value for rule in rules]
    axis = nice_axis(min(levels), max(levels))
    left = 14 + _CHARACTER * max(len(tick_text(tick, axis.step)) for tick in axis.ticks)
    right = width - 10 - (_CHARACTER * max(len(rule.kind) for rule in rules) if rules else 0)
    bottom = height - 38
    y = Scale(axis.low, axis.high, bottom, 24)
    inset = 20 if x_ticks else 0
    places = [point.x for point in points]
    x = Scale(min(places), max(places), left + inset, right - inset, logarithmic)
    drawn = [
        _vertical_axis(axis, y, left, right, y_label),
        _horizontal_axis(x, x_ticks or _number_ticks(x.low, x.high), bottom, (left, right), x_label, grid=not x_ticks),
        *_rules(rules, y, left, right),
        *(
            _line(one, kept, x, y, (index - (len(shown) - 1) / 2) * 6 if x_ticks else 0.0)
            for index, (one, kept) in enumerate(shown)
            if kept
        ),
    ]
    return _chart(title, description, width, height, drawn)


def forest_plot(
    title: str,
    description: str,
    groups: Sequence[ForestGroup],
    *,
    x_label: str,
    directions: tuple[str, str],
    width: int = 760,
    values: bool = True,
) -> Markup:
    """Draw differences with their intervals around zero, grouped.

    Args:
        title: what the chart is, for screen readers.
        description: what it shows, for screen readers.
        groups: the rows under their headings.
        x_label: name and unit of the axis.
        directions: what lies left and right of zero, in words.
        width: of the viewBox, in pixels.
        values: whether the numbers stand beside the rows.
    """
    rows = [row for group in groups for row in group.rows]
    rows = [row for row in rows if all(map(math.isfinite, (row.difference, row.low, row.high)))]
    if not rows:
        return _empty_chart(title, width, 80)
    axis = nice_axis(
        min(0.0, *(row.low for row in rows)),
        max(0.0, *(row.high for row in rows)),
        8 if width > 500 else 4,
        widen=False,
    )
    left = 20 + _CHARACTER * max(len(_shortened(row.label)) for row in rows)
    right = width - (_WIDE_CHARACTER * max(len(row.text) for row in rows) + 8 if values else 8)
    x = Scale(axis.low, axis.high, left + 8, right - 8)
    top, drawn, bands = 30.0, [], []
    for number, group in enumerate(groups):
        kept = [row for row in group.rows if row in rows]
        block = 24 + 21 * len(kept) + 5
        if number % 2 == 0:
            bands.append(element("rect", class_="band", x=0, y=top, width=width, height=block, rx=4))
        drawn.append(element("text", group.name, class_="group", x=8, y=top + 16))
        drawn.extend(
            _forest_row(row, x, top + 24 + 21 * index + 10, right, values=values) for index, row in enumerate(kept)
        )
        top += block
    grid = [
        element("line", class_="grid" if tick else "zero", x1=x(tick), x2=x(tick), y1=28, y2=top) for tick in axis.ticks
    ]
    texts = [
        element("text", _signed_tick(tick, axis.step), class_="tick", x=x(tick), y=top + 15, text_anchor="middle")
        for tick in axis.ticks
    ]
    zero = x(0.0)
    heads = []
    if zero - left > _CHARACTER * len(directions[0]):
        heads.append(element("text", f"← {directions[0]}", class_="tick", x=zero - 8, y=18, text_anchor="end"))
    if right - zero > _CHARACTER * len(directions[1]):
        heads.append(element("text", f"{directions[1]} →", class_="tick", x=zero + 8, y=18))
    label = element("text", x_label, class_="axis", x=(left + right) / 2, y=top + 33, text_anchor="middle")
    return _chart(title, description, width, round(top + 42), [*bands, *grid, *texts, *heads, *drawn, label])


def bar_chart(title: str, description: str, bars: Sequence[Bar], *, x_label: str, width: int = 560) -> Markup:
    """Draw horizontal bars from zero, each with its label and text.

    Args:
        title: what the chart is, for screen readers.
        description: what it shows, for screen readers.
        bars: from top to bottom.
        x_label: name and unit of the axis.
        width: of the viewBox, in pixels.
    """
    bars = [bar for bar in bars if math.isfinite(bar.value)]
    if not bars:
        return _empty_chart(title, width, 80)
    left = 14 + _CHARACTER * max(len(_shortened(bar.label)) for bar in bars)
    right = width - 14 - _CHARACTER * max(len(bar.text) for bar in bars)
    axis = nice_axis(0.0, max(bar.value for bar in bars) or 1.0, 4)
    x = Scale(axis.low, axis.high, left, right)
    bottom = 8 + 26 * len(bars)
    drawn = []
    for tick in axis.ticks:
        text = tick_text(tick, axis.step)
        drawn.append(element("line", class_="grid", x1=x(tick), x2=x(tick), y1=4, y2=bottom))
        drawn.append(element("text", text, class_="tick", x=x(tick), y=bottom + 15, text_anchor="middle"))
    for index, bar in enumerate(bars):
        middle = 8 + 26 * index + 11
        length = max(1.0, x(bar.value) - left)
        drawn.append(
            element(
                "g",
                element("title", bar.title),
                element("text", _shortened(bar.label), class_="label", x=left - 8, y=middle + 4, text_anchor="end"),
                element("rect", class_="bar", x=left, y=middle - 8, width=length, height=16, rx=3),
                element("text", bar.text, class_="value", x=x(bar.value) + 6, y=middle + 4),
            )
        )
    drawn.append(element("text", x_label, class_="axis", x=(left + right) / 2, y=bottom + 32, text_anchor="middle"))
    return _chart(title, description, width, bottom + 40, drawn)


def swatch(style: Style) -> Markup:
    """Draw a legend's sample of a series: its line and its marker."""
    line = element(
        "line",
        x1=1,
        x2=33,
        y1=8,
        y2=8,
        stroke="currentColor",
        stroke_width=2 * _thickness(style),
        stroke_dasharray=_dash(style),
        opacity=_opacity(style),
    )
    marker = _marker(style.marker, 17, 8, filled=True) if style.marker is not None else Markup("")
    class_ = f"swatch {_colour(style)}"
    return element("svg", line, marker, class_=class_, viewBox="0 0 34 16", aria_hidden="true", width=34, height=16)


def _chart(title: str, description: str, width: float, height: float, drawn: Sequence[Markup]) -> Markup:
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *drawn,
        class_="chart",
        viewBox=f"0 0 {width} {height}",
        role="img",
    )


def _empty_chart(title: str, width: int, height: int) -> Markup:
    text = element("text", "no values", class_="axis", x=width / 2, y=height / 2, text_anchor="middle")
    return _chart(title, "There are no values to draw.", width, height, [text])


def _finite(point: Point) -> bool:
    return all(value is None or math.isfinite(value) for value in (point.x, point.y, point.low, point.high))


def _number_ticks(low: float, high: float) -> list[Tick]:
    if low == high:
        return [Tick(low, f"{low:g}")]
    axis = nice_axis(low, high, 4)
    return [Tick(tick, tick_text(tick, axis.step)) for tick in axis.ticks if low <= tick <= high]


def _horizontal_axis(
    x: Scale, ticks: Sequence[Tick], bottom: float, span: tuple[float, float], label: str, *, grid: bool
) -> Markup:
    left, right = span
    parts = [element("line", class_="frame", x1=left, x2=right, y1=bottom, y2=bottom)]
    last_end = -math.inf
    for tick in ticks:
        place = x(tick.value)
        if grid:
            parts.append(element("line", class_="grid", x1=place, x2=place, y1=24, y2=bottom))
        parts.append(element("line", class_="frame", x1=place, x2=place, y1=bottom, y2=bottom + 4))
        half = _CHARACTER * len(tick.text) / 2
        centre = min(place, right + 8 - half)
        if centre - half > last_end + 4:
            parts.append(element("text", tick.text, class_="tick", x=centre, y=bottom + 16, text_anchor="middle"))
            last_end = centre + half
    parts.append(element("text", label, class_="axis", x=(left + right) / 2, y=bottom + 33, text_anchor="middle"))
    return element("g", *parts)


def _vertical_axis(axis: Axis, y: Scale, left: float, right: float, label: str) -> Markup:
    parts = []
    for tick in axis.ticks:
        text = tick_text(tick, axis.step)
        parts.append(element("line", class_="grid", x1=left, x2=right, y1=y(tick), y2=y(tick)))
        parts.append(element("text", text, class_="tick", x=left - 6, y=y(tick) + 4, text_anchor="end"))
    parts.append(element("text", label, class_="axis", x=2, y=12))
    return element("g", *parts)


def _rules(rules: Sequence[Rule], y: Scale, left: float, right: float) -> list[Markup]:
    """Draw lines to compare with, their names beside the plot; names that would overlap move down."""
    drawn = []
    lowest_name = -math.inf
    for rule in sorted(rules, key=lambda rule: y(rule.value)):
        level = y(rule.value)
        place = max(level + 3.5, lowest_name + 11)
        lowest_name = place
        drawn.append(
            element(
                "g",
                element("title", rule.name),
                element("line", class_=f"rule {rule.kind}", x1=left, x2=right, y1=level, y2=level),
                element("text", rule.kind, class_="rule-name", x=right + 4, y=place),
            )
        )
    return drawn


def _line(series: Series, points: Sequence[Point], x: Scale, y: Scale, shift: float) -> Markup:
    places = [(x(point.x) + shift, y(point.y)) for point in points]
    parts: list[Markup] = [element("title", series.name)]
    if len(places) > 1:
        parts.append(
            element(
                "path",
                class_="line" if series.style.strength >= 1 else "line light",
                d=path(places),
                stroke_dasharray=_dash(series.style),
                opacity=_opacity(series.style),
            )
        )
    for (across, down), point in zip(places, points, strict=True):
        if series.style.marker is None:
            if len(places) == 1:
                parts.append(_marker(0, across, down, filled=True))
            continue
        marks: list[Markup] = [element("title", point.title or series.name)]
        if point.low is not None and point.high is not None:
            marks.append(_interval(across, y(point.low), y(point.high)))
        marks.append(_marker(series.style.marker, across, down, filled=True))
        parts.append(element("g", *marks))
    return element("g", *parts, class_=f"series {_colour(series.style)}")


def _interval(across: float, bottom: float, top: float) -> Markup:
    ends = [path([(across - 3, level), (across + 3, level)]) for level in (bottom, top)]
    return element("path", class_="interval", d=path([(across, bottom), (across, top)]) + "".join(ends))


def _forest_row(row: ForestRow, x: Scale, middle: float, right: float, *, values: bool) -> Markup:
    low, high = x(row.low), x(row.high)
    ends = [path([(end, middle - 4), (end, middle + 4)]) for end in (low, high)]
    whisker = path([(low, middle), (high, middle)]) + "".join(ends)
    parts = [
        element("title", row.title),
        element("rect", class_="hit", x=0, y=middle - 10, width=right, height=20),
        element("text", _shortened(row.label), class_="label", x=16, y=middle + 4),
        element(
            "g",
            element("path", class_="interval", d=whisker),
            _marker(row.style.marker or 0, x(row.difference), middle, filled=row.mark != "unclear"),
            class_=f"series {_colour(row.style)}",
        ),
    ]
    if values:
        parts.append(element("text", row.text, class_=f"value {row.mark}", x=right + 4, y=middle + 4))
    return element("g", *parts)


def _shortened(label: str) -> str:
    """Cut a label that would leave no room for the plot; the row's title has it whole."""
    return label if len(label) <= _LABEL_CHARACTERS else label[: _LABEL_CHARACTERS - 1] + "…"


def _signed_tick(value: float, step: float) -> str:
    text = tick_text(value, step)
    return f"+{text}" if value > 0 else text


def _marker(shape: int | None, x: float, y: float, *, filled: bool) -> Markup:
    """Draw one of eight shapes around a place, about nine pixels wide; hollow ones are filled with the background."""
    class_ = "mark" if filled else "mark hollow"
    number = (shape or 0) % 8
    if number == 0:
        return element("circle", class_=class_, cx=x, cy=y, r=4.2)
    if number == 1:
        return element("rect", class_=class_, x=x - 3.8, y=y - 3.8, width=7.6, height=7.6)
    outlines = {
        2: ((0, -5), (4.8, 3.6), (-4.8, 3.6)),
        3: ((0, -5.2), (5.2, 0), (0, 5.2), (-5.2, 0)),
        4: ((0, 5), (4.8, -3.6), (-4.8, -3.6)),
        5: ((0, -5), (4.8, -1.5), (3, 4.2), (-3, 4.2), (-4.8, -1.5)),
        6: ((-5, -2), (-2, -5), (0, -3), (2, -5), (5, -2), (3, 0), (5, 2), (2, 5), (0, 3), (-2, 5), (-5, 2), (-3, 0)),
        7: ((-2, -5), (2, -5), (2, -2), (5, -2), (5, 2), (2, 2), (2, 5), (-2, 5), (-2, 2), (-5, 2), (-5, -2), (-2, -2)),
    }
    return element("path", class_=class_, d=path([(x + across, y + down) for across, down in outlines[number]]) + "Z")


def _dash(style: Style) -> str | None:
    return _DASHES[style.dash % len(_DASHES)]


def _opacity(style: Style) -> float | None:
    return style.strength if style.strength < 1 else None


def _thickness(style: Style) -> float:
    return 1.0 if style.strength >= 1 else 0.7


def _colour(style: Style) -> str:
    return "neutral" if style.colour is None else f"s{style.colour % COLOURS}"
