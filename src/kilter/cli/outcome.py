"""The outcome of a study as a short table for the terminal."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

_WORDS = {"helped": "helped", "hurt": "hurt", "cannot tell": "cannot be told", "note": "are to be kept in mind"}
_MARKS = {"better": "▲", "worse": "▼", None: " "}


def outcome_table(outcome: "Mapping[str, Any]") -> "Table":
    """Return a table of scores in percent; ▲ and ▼ mark a significant difference from the parent."""
    from rich import box
    from rich.table import Table

    benchmarks = outcome["benchmarks"]
    shown = _without_common_beginning(benchmarks)
    title = f"{outcome['study']}: scores in %, ▲ better and ▼ worse than the parent"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", overflow="fold")
    previous: str | None = None
    for model in outcome["models"]:
        if model["scenario"] != previous:
            table.add_section()
            previous = model["scenario"]
        cells = (model["scores"].get(benchmark) for benchmark in benchmarks)
        table.add_row(
            model["name"], *(f"{100 * cell['value']:.1f}{_MARKS[cell['mark']]}" if cell else "–" for cell in cells)
        )
    return table


def verdict_lines(outcome: "Mapping[str, Any]", of_each_kind: int) -> list[str]:
    """Return the first sentences of what helped, what hurt and what cannot be told, with how many there are."""
    lines: list[str] = []
    for kind in ("helped", "hurt", "cannot tell", "note"):
        texts = [verdict["text"] for verdict in outcome["verdicts"] if verdict["kind"] == kind]
        lines += [f"• {text}" for text in texts[:of_each_kind]]
        if len(texts) > of_each_kind:
            lines.append(f"  … and {len(texts) - of_each_kind} more that {_WORDS[kind]}")
    return lines


def scope_line(outcome: "Mapping[str, Any]") -> str:
    """Say which of a study's models the table shows."""
    shown, models = len(outcome["models"]), outcome["models_in_all"]
    return (
        ""
        if shown == models
        else f"Shown: {shown} of {models} models, each method at its largest size; the report has all."
    )


def _without_common_beginning(names: "Sequence[str]") -> list[str]:
    """Leave out the words that all names begin with, so that a table fits a terminal."""
    words = [name.split("_") for name in names]
    common = 0
    while len(names) > 1 and all(len(parts) > common + 1 and parts[common] == words[0][common] for parts in words):
        common += 1
    return ["_".join(parts[common:]) for parts in words]
