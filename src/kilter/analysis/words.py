"""Counts and lists in words."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def counted(number: int, word: str, several: str | None = None) -> str:
    """Write a count with its noun: `1 seed`, `3 seeds`; `several` is the plural where it is not the word with an s."""
    return f"{number:,} {word if number == 1 else several or f'{word}s'}"


def listed(names: "Sequence[str]") -> str:
    """Join names as a sentence does: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
