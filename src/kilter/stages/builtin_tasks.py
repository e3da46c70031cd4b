"""The benchmarks that Kilter ships itself: their content address, and their data where they are scored."""

from importlib.resources import files
from typing import TYPE_CHECKING

from kilter.canonical import digest
from kilter.data.builtin import BUILTIN

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "kilter_"
_DATA = "demo"


def builtin_task_content(task: str) -> str | None:
    """Return the content address of a shipped benchmark, its definition and its data; None for the harness's own."""
    if not task.startswith(PREFIX):
        return None
    definition = files("kilter.evaluation") / "tasks" / _DATA / f"{task}.yaml"
    if not definition.is_file():
        return None
    return digest([definition.read_text(encoding="utf-8"), f"{_DATA}@{BUILTIN[_DATA].version}"])[:32]


def write_benchmarks(folder: "Path") -> "Path":
    """Write the data of the shipped benchmarks below `folder` and return it, laid out as a mirror."""
    target = folder / "benchmarks"
    if not target.exists():
        target.mkdir(parents=True)
        BUILTIN[_DATA].write(target)
    return target
