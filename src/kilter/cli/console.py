"""Where the command writes: results on stdout, everything about them on stderr."""

import json
import sys
from typing import Any


def print_error(message: str) -> None:
    """Write an error on stderr."""
    print(f"error: {message}", file=sys.stderr)


def print_note(message: str) -> None:
    """Write something about the work on stderr."""
    print(message, file=sys.stderr)


def print_json(value: Any) -> None:
    """Write JSON on stdout, for scripts."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def human_bytes(count: float) -> str:
    """Return a number of bytes as people write it.

    >>> human_bytes(1536)
    '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """Return a duration as people write it.

    >>> human_seconds(75)
    '1 min 15 s'
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
