"""Object names: the one check that every name passes before it becomes a path or an S3 key."""

import unicodedata

from kilter.errors import StoreError

MAX_NAME_BYTES = 900
"""S3 allows 1024 bytes for a key; the rest is for the store's own prefix."""
MAX_PART_BYTES = 255
"""What Linux file systems allow for one file name."""

_REFUSED_CATEGORIES = {"Cc": "a control character", "Cs": "half of a surrogate pair", "Zl": "a line separator"}
_REFUSED_CATEGORIES["Zp"] = "a paragraph separator"


class InvalidName(StoreError):  # noqa: N818 - reads as what it is: the name is invalid
    """An object's name could leave the store, or not be stored alike everywhere."""


def check_name(name: str) -> str:
    """Return `name` if it is safe as a path below a folder and as an S3 key.

    A name is relative, its parts are separated by `/`, and no part is empty, `.` or `..`.

    Raises:
        InvalidName: with the reason.
    """
    reason = _why_invalid(name)
    if reason is not None:
        raise InvalidName(f"object name {name!r} is refused: it {reason}")
    return name


def check_prefix(prefix: str) -> str:
    """Return `prefix` if it is the beginning of a valid name; the empty one stands for everything.

    Raises:
        InvalidName: no valid name begins like this.
    """
    if prefix:
        check_name(prefix.removesuffix("/"))
    return prefix


def _why_invalid(name: str) -> str | None:
    if not name:
        return "is empty"
    for character in name:
        refused = _REFUSED_CATEGORIES.get(unicodedata.category(character))
        if refused is not None:
            return f"contains {refused}"
    if "\\" in name:
        return "contains a backslash"
    if name.startswith("/"):
        return "is absolute"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    for part in name.split("/"):
        if not part:
            return "has an empty part"
        if part in (".", ".."):
            return f"has the part {part!r}"
        if len(part.encode()) > MAX_PART_BYTES:
            return f"has a part longer than {MAX_PART_BYTES} bytes"
    return None
