"""Numbers as people read them."""

import math

from kilter.analysis.units import MINUS

NOTHING = "–"
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def share(value: float, *, signed: bool = False) -> str:
    """Write a share (0 to 1) in per cent with one decimal, without the sign `%`: 0.6127 is `61.3`."""
    return fixed(value * 100, 1, signed=signed)


def fixed(value: float, decimals: int, *, signed: bool = False) -> str:
    """Write a number with so many decimals and a true minus; `signed` adds a plus; not a number is a dash."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{abs(value):,.{decimals}f}"
    if not any(digit in text for digit in "123456789"):
        return text
    if value < 0:
        return MINUS + text
    return f"+{text}" if signed else text


def significant(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits: 0.012345 is `0.0123`, 5e-7 is `5e-7`."""
    if not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{abs(value):,.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = f"{mantissa}e{int(exponent)}"
    return (MINUS if value < 0 else "") + text


def p_value(value: float) -> str:
    """Write a p-value with two significant digits: `0.012`, `< 0.0001`."""
    if not math.isfinite(value):
        return NOTHING
    if value < 0.0001:
        return "< 0.0001"
    if value >= 0.995:
        return "1"
    return f"{value:.{max(2, 1 - math.floor(math.log10(value)))}f}"


def count(value: float | None) -> str:
    """Write a whole number with thousands separators."""
    return NOTHING if value is None or not math.isfinite(value) else f"{round(value):,}"


def short_count(value: float) -> str:
    """Write a count for an axis: 500, 1k, 2.5k, 1M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:g}"


def duration(seconds: float | None) -> str:
    """Write a time in the two units that matter: `850 ms`, `12.4 s`, `3 min 20 s`, `5 h 12 min`, `2 d 3 h`."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 0.9995:
        return f"{round(seconds * 1000)} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, large_name, small, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= large:
            rest = (whole % large) // small
            return f"{whole // large} {large_name} {rest} {small_name}" if rest else f"{whole // large} {large_name}"
    return f"{whole} s"


def size_in_bytes(value: int | None) -> str:
    """Write a number of bytes in binary units: `1.2 GiB`."""
    if value is None:
        return NOTHING
    power = min(len(_BINARY_UNITS) - 1, max(0, value.bit_length() - 1) // 10)
    amount = value / 1024**power
    return f"{amount:.{1 if power else 0}f} {_BINARY_UNITS[power]}"


def excerpt(text: str, limit: int) -> tuple[str, int]:
    """Cut a text to at most `limit` characters; also return how many were left out."""
    return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)
