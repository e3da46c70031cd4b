"""Where everything of a result lies in a store. Pure: names only."""

import re
from typing import TYPE_CHECKING

from kilter.plan.graph import Reference
from kilter.store.names import InvalidName

if TYPE_CHECKING:
    from datetime import datetime

MARKER = "store.json"
FORMAT = 1
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


def folder(reference: Reference) -> str:
    """Return the folder of a result, `stage/key`.

    Raises:
        InvalidName: the stage or the key is not a plain word.
    """
    for part in (reference.stage, reference.key):
        if not _PART.fullmatch(part):
            raise InvalidName(
                f"{part!r} names no stage or key: letters, digits, '-' and '_' only, such as align/3f2a9c…"
            )
    return f"{reference.stage}/{reference.key}"


def manifest(reference: Reference) -> str:
    """Return the name of the commit."""
    return f"{folder(reference)}/manifest.json"


def invalidated(reference: Reference, now: "datetime") -> str:
    """Return the name under which a manifest is kept that counts no longer."""
    return f"{folder(reference)}/invalidated-{now:%Y%m%dT%H%M%S%fZ}.json"


def request(reference: Reference) -> str:
    """Return the name of what `kilter stage` reads."""
    return f"{folder(reference)}/request.json"


def attempts(reference: Reference) -> str:
    """Return the folder of all attempts, with a slash at its end."""
    return f"{folder(reference)}/attempts/"


def attempt(reference: Reference, identifier: str) -> str:
    """Return the folder where one attempt's objects lie.

    Raises:
        InvalidName: the identifier is not a plain word.
    """
    return f"{attempts(reference)}{_plain(identifier)}"


def resume(reference: Reference, identifier: str) -> str:
    """Return the folder of one attempt's resume state: beside its objects, so that it is never among them."""
    return f"{attempts(reference)}{_plain(identifier)}.resume"


def logs(reference: Reference) -> str:
    """Return the folder of all logs, with a slash at its end."""
    return f"{folder(reference)}/logs/"


def log(reference: Reference, identifier: str) -> str:
    """Return the name of one attempt's log."""
    return f"{logs(reference)}{_plain(identifier)}.log"


def leases(reference: Reference) -> str:
    """Return the folder of the leases, with a slash at its end."""
    return f"{folder(reference)}/lease/"


def reference_of(name: str) -> Reference | None:
    """Return the result to which a folder `stage/key` belongs, or None if it is nothing of ours."""
    parts = name.split("/")
    if len(parts) != 2 or not all(_PART.fullmatch(part) for part in parts):
        return None
    return Reference(*parts)


def is_stage(name: str) -> bool:
    """Tell whether a folder at the store's top can hold results."""
    return _PART.fullmatch(name) is not None


def _plain(identifier: str) -> str:
    if not _PART.fullmatch(identifier):
        raise InvalidName(f"{identifier!r} names no attempt: letters, digits, '-' and '_' only")
    return identifier
