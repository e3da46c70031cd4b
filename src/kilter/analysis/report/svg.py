"""SVG elements, escaped: text from models and data can stand in a chart without doing anything there."""

import math
from typing import TypeAlias

from markupsafe import Markup, escape

Content: TypeAlias = str | Markup
Attribute: TypeAlias = str | int | float | None


def element(name: str, *children: Content, **attributes: Attribute) -> Markup:
    """Make an SVG element; text children are escaped, None attributes left out, `class_` and `stroke_width` renamed.

    Raises:
        ValueError: a number is NaN or infinite: the chart would be drawn wrongly or not at all.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(_attribute_name(key), _attribute_value(name, key, value))
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(child) for child in children)
    if not inner:
        return Markup("<{}{}/>").format(name, written)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inner)


def path(points: "list[tuple[float, float]]") -> str:
    """Write points as the data of a path of straight lines.

    Raises:
        ValueError: a coordinate is NaN or infinite.
    """
    return "M" + "L".join(f"{_number('path', 'd', x)} {_number('path', 'd', y)}" for x, y in points)


def _attribute_name(key: str) -> str:
    return key.rstrip("_") if key in ("viewBox", "class_") else key.replace("_", "-")


def _attribute_value(element_name: str, key: str, value: str | int | float) -> str:
    return value if isinstance(value, str) else _number(element_name, key, value)


def _number(element_name: str, key: str, value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"the attribute {key} of a chart's <{element_name}> is {value}; drop the value before drawing")
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"
