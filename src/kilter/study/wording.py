"""Small pieces of language that the messages about studies share."""

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


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
    """Say what was probably meant, and which names there are."""
    known = list(names)
    near = nearest(written, known)
    if near is not None:
        if len(known) == 1:
            return f"did you mean `{near}`?"
        return f"did you mean `{near}`? The {kind} are {listed(known)}"
    return f"write one of the {kind}: {listed(known, 'or')}"


def _form(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")
