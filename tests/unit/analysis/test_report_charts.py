"""Charts are vector drawings whose every coordinate is finite and inside the picture."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.analysis.report.axes import Scale, nice_axis, tick_text
from kilter.analysis.report.charts import (
    Bar,
    ForestGroup,
    ForestRow,
    Point,
    Rule,
    Series,
    Style,
    Tick,
    bar_chart,
    forest_plot,
    line_chart,
    swatch,
)
from kilter.analysis.report.palette import COLOURS
from kilter.analysis.report.svg import element

HOSTILE = "<script>alert(1)</script>\" onload='x' </title>&"
values = st.floats(min_value=-1e9, max_value=1e9)
anything = st.floats(allow_nan=True, allow_infinity=True)


def coordinates(svg: str) -> list[tuple[float, float]]:
    """All places that a drawing names, as (x, y); a coordinate that stands alone is paired with nought."""
    found = []
    for one in ElementTree.fromstring(svg).iter():
        for across, down in (("x", "y"), ("x1", "y1"), ("x2", "y2"), ("cx", "cy")):
            if across in one.attrib:
                found.append((float(one.attrib[across]), float(one.attrib[down])))
        found += [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+) ([^MLZ\s]+)", one.attrib.get("d", ""))]
    return found


def assert_inside(svg: str) -> None:
    _, _, width, height = map(float, ElementTree.fromstring(svg).attrib["viewBox"].split())
    for x, y in coordinates(svg):
        assert math.isfinite(x)
        assert math.isfinite(y)
        assert -0.01 <= x <= width + 0.01
        assert -0.01 <= y <= height + 0.01


@given(values, values, st.integers(2, 10), st.booleans())
def test_an_axis_has_round_evenly_spaced_ticks_inside_its_limits(one, other, target, widen):
    low, high = sorted((one, other))
    axis = nice_axis(low, high, target, widen=widen)
    assert axis.low <= low + 1e-8 * axis.step
    assert axis.high >= high - 1e-8 * axis.step
    assert 1 <= len(axis.ticks) <= target + 3
    slack = axis.step * 1e-6 + abs(axis.high) * 1e-12 + abs(axis.low) * 1e-12
    assert all(axis.low - slack <= tick <= axis.high + slack for tick in axis.ticks)
    mantissa = axis.step / 10 ** math.floor(math.log10(axis.step) + 1e-9)
    assert min(abs(mantissa - nice) for nice in (1, 2, 2.5, 5, 10)) < 1e-6


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (41.2, 58.9, (40.0, 45.0, 50.0, 55.0, 60.0)),
        (-3.0, 3.0, (-4.0, -2.0, 0.0, 2.0, 4.0)),
    ],
)
def test_ticks_are_the_numbers_a_person_would_choose(low, high, ticks):
    assert nice_axis(low, high).ticks == pytest.approx(ticks)


@pytest.mark.parametrize(("low", "high"), [(math.nan, 1.0), (0.0, math.inf), (2.0, 1.0)])
def test_an_axis_refuses_limits_that_are_none(low, high):
    with pytest.raises(ValueError, match="two finite limits"):
        nice_axis(low, high)


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [(0.25, 0.25, "0.25"), (-20.0, 10.0, "−20"), (1000.0, 500.0, "1,000"), (2e6, 1e6, "2e+06"), (-0.0, 0.5, "0.0")],
)
def test_a_tick_has_the_decimals_of_its_step(value, step, text):
    assert tick_text(value, step) == text


def test_a_logarithmic_scale_puts_equal_ratios_at_equal_distances():
    scale = Scale(100, 10000, 0, 200, logarithmic=True)
    assert scale(1000) == pytest.approx(100)
    assert (scale(1), scale(1e9)) == (0, 200)


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.tuples(values, values, values, values), max_size=6), min_size=1, max_size=5),
    st.lists(values, max_size=2),
)
def test_lines_stay_inside_the_chart(lines, levels):
    series = [
        Series(
            f"line {number}",
            Style(number, number, number),
            tuple(Point(x, *sorted(rest)[1:2], min(rest), max(rest), "here") for x, *rest in points),
        )
        for number, points in enumerate(lines)
    ]
    rules = [Rule("parent", level, "parent") for level in levels]
    assert_inside(line_chart("title", "what it shows", series, x_label="step", y_label="loss", rules=rules))


@given(st.lists(st.tuples(anything, anything), max_size=12))
def test_values_that_are_not_finite_are_left_out(pairs):
    points = tuple(Point(x, y) for x, y in pairs if not (abs(x) > 1e9 or abs(y) > 1e9) or not math.isfinite(x + y))
    svg = line_chart("title", "text", [Series("line", Style(0), points)], x_label="x", y_label="y")
    assert_inside(svg)
    assert "nan" not in svg
    assert "inf" not in svg


def test_sizes_are_labelled_on_a_logarithmic_axis():
    points = tuple(Point(float(size), 50.0, 45.0, 55.0) for size in (250, 1000, 4000))
    svg = line_chart(
        "accuracy",
        "text",
        [Series("DPO", Style(0, 0, 0), points)],
        x_label="pairs",
        y_label="acc (%)",
        x_ticks=[Tick(250.0, "250"), Tick(1000.0, "1k"), Tick(4000.0, "4k")],
        logarithmic=True,
    )
    texts = [one.text for one in ElementTree.fromstring(svg).iter("text")]
    assert {"250", "1k", "4k", "pairs", "acc (%)"} <= set(texts)
    circles = [float(one.attrib["cx"]) for one in ElementTree.fromstring(svg).iter("circle")]
    assert circles[1] - circles[0] == pytest.approx(circles[2] - circles[1], abs=0.05)


forest_rows = st.builds(
    lambda label, middle, below, above, mark: ForestRow(
        label, Style(1, 1, 1), middle, middle - below, middle + above, "+1.0 [0.0, 2.0]", mark, "title"
    ),
    st.text(max_size=60),
    st.floats(-1e3, 1e3),
    st.floats(0, 1e3),
    st.floats(0, 1e3),
    st.sampled_from(["better", "worse", "unclear"]),
)


@settings(max_examples=40)
@given(st.lists(st.lists(forest_rows, max_size=4), max_size=4), st.sampled_from([360, 760]))
def test_a_forest_plot_stays_inside_the_chart(groups, width):
    shown = [
        ForestGroup(f"group {number}", tuple(row for row in rows if row.label.isprintable()))
        for number, rows in enumerate(groups)
    ]
    svg = forest_plot(
        "t", "d", shown, x_label="difference", directions=("worse", "better"), width=width, values=width > 500
    )
    assert_inside(svg)


def test_a_forest_plot_tells_significance_without_colour():
    rows = tuple(
        ForestRow(mark, Style(0, 0, 0), 1.0, 0.5, 1.5, f"text {mark}", mark, "title") for mark in ("better", "unclear")
    )
    svg = forest_plot("t", "d", [ForestGroup("g", rows)], x_label="x", directions=("worse", "better"))
    assert svg.count("mark hollow") == 1
    assert "zero" in svg


@given(st.lists(st.floats(0, 1e9), max_size=8))
def test_bars_stay_inside_the_chart(lengths):
    bars = [Bar(f"stage {number}", length, f"{length:.3g} s", "title") for number, length in enumerate(lengths)]
    assert_inside(bar_chart("cost", "text", bars, x_label="seconds"))


def test_text_in_charts_is_escaped():
    point = Point(1.0, 2.0, title=HOSTILE)
    svg = line_chart(
        HOSTILE,
        HOSTILE,
        [Series(HOSTILE, Style(0, 0, 0), (point,))],
        x_label=HOSTILE,
        y_label=HOSTILE,
        rules=[Rule(HOSTILE, 1.0, "parent")],
    )
    svg += forest_plot(
        HOSTILE,
        HOSTILE,
        [ForestGroup(HOSTILE, (ForestRow(HOSTILE, Style(0), 1.0, 0.0, 2.0, HOSTILE, "better", HOSTILE),))],
        x_label=HOSTILE,
        directions=("a", "b"),
    )
    svg += bar_chart(HOSTILE, HOSTILE, [Bar(HOSTILE, 1.0, HOSTILE, HOSTILE)], x_label=HOSTILE)
    assert "<script" not in svg
    assert {one.tag for one in ElementTree.fromstring(f"<all>{svg}</all>").iter()} <= {
        "all",
        "svg",
        "title",
        "desc",
        "g",
        "line",
        "text",
        "path",
        "rect",
        "circle",
    }
    for one in ElementTree.fromstring(f"<all>{svg}</all>").iter():
        assert not any(name.startswith("on") for name in one.attrib)


def test_charts_say_what_they_are_to_screen_readers():
    svg = ElementTree.fromstring(bar_chart("cost", "in words", [Bar("a", 1.0, "1 s", "t")], x_label="s"))
    assert svg.attrib["role"] == "img"
    assert [(one.tag, one.text) for one in list(svg)[:2]] == [("title", "cost"), ("desc", "in words")]


def test_eight_series_have_eight_different_looks():
    looks = {swatch(Style(number, number, number)) for number in range(8)}
    assert len(looks) == 8


def test_an_element_refuses_a_number_that_cannot_be_drawn():
    with pytest.raises(ValueError, match="nan"):
        element("circle", cx=math.nan)


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_their_background(theme):
    colour = {name: both[theme] for name, both in COLOURS.items()}
    for name in ("text", "muted", "accent", "good", "bad", "unclear", "warn"):
        assert contrast(colour[name], colour["surface"]) >= 4.5
    for name in ("good", "bad", "unclear", "warn"):
        assert contrast(colour[name], colour[f"{name}-surface"]) >= 4.5
    assert contrast(colour["muted"], colour["raised"]) >= 4.5
    for number in range(8):
        assert contrast(colour[f"s{number}"], colour["surface"]) >= 3
