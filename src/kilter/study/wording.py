"""Small pieces of language that the messages about studies share."""

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_EXPONENT = re.compile(r"e\+?(-?)0*(?=\d)")


def listed(names: "Iterable[object]", joint: str = "and") -> str:
    """Write names as `a`, `b` and `c`."""
    texts = [f"`{name}`" for name in names]
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} {joint} {texts[-1]}"


def nearest(written: object, names: "Iterable[str]", cutoff: float = 0.6) -> str | None:
    """Return the name that was probably meant, or None where none is near."""
    by_form = {_form(name): name for name in names}
    near = difflib.get_close_matches(_form(str(written)), by_form, n=1, cutoff=cutoff)
    return by_form[near[0]] if near else None


def suggestion(written: object, names: "Iterable[str]", kind: str) -> str:
    """Say what was probably meant, or else which names there are."""
    known = list(names)
    near = nearest(written, known)
    if near is not None:
        return f"did you mean `{near}`?"
    return f"write one of the {kind}: {listed(known, 'or')}"


def sentences(*parts: str) -> str:
    """Join pieces of advice, each ending in its own full stop or question mark; empty ones are left out."""
    kept = [part.strip() for part in parts if part.strip()]
    ended = [part if part[-1] in ".?!" else f"{part}." for part in kept[:-1]]
    return " ".join([*ended, *kept[-1:]])


def number_text(value: float) -> str:
    """Write a number as a study would: 5e-7 rather than 5e-07."""
    return _EXPONENT.sub(r"e\1", f"{value:g}") if isinstance(value, float) else str(value)


def _form(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")
