"""What is wrong with a study, in words that its author can act on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kilter.errors import WrongInput

if TYPE_CHECKING:
    from collections.abc import Iterable

FieldPath = tuple[str | int, ...]
"""A place in a study: field names, and positions in lists."""


def path_text(path: FieldPath) -> str:
    """Write a place as `methods[1].beta`; the study as a whole is empty text."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


@dataclass(frozen=True)
class Complaint:
    """What a check objects to, before it is known where the file says so."""

    path: FieldPath
    reason: str
    fix: str


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a study: where, what was written, why it is wrong, and what to do."""

    path: str
    """Such as `methods[1].beta`; empty for the file as a whole."""
    value: str | None
    """What was written there, shortened; None where nothing was written."""
    reason: str
    fix: str
    line: int | None = None
    """The line of the file, from 1, where it is known."""

    def __str__(self) -> str:
        place = self.path or "the file"
        heading = place if self.value is None else f"{place}: {self.value}"
        where = heading if self.line is None else f"line {self.line}, {heading}"
        return f"{where}\n  why: {self.reason}\n  fix: {self.fix}"


class StudyProblems(WrongInput):
    """A study cannot be understood or run as it is written; holds every problem that was found, in file order."""

    def __init__(self, origin: str, problems: "Iterable[Problem]") -> None:
        self.origin = origin
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        count = len(self.problems)
        heading = f"{origin}: {count} {'problem' if count == 1 else 'problems'}"
        super().__init__("\n\n".join([heading, *map(str, self.problems)]))
