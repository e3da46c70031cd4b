"""The outcome of a study as a short table for the terminal."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

_MARKS = {"better": "▲", "worse": "▼", None: " "}


def outcome_table(outcome: "Mapping[str, Any]") -> "Table":
    """Return a table of scores in percent; ▲ and ▼ mark a significant difference from the parent."""
    from rich.table import Table

    table = Table(title=f"{outcome['study']}: scores in %, ▲ better and ▼ worse than the parent", title_justify="left")
    table.add_column("model")
    for benchmark in outcome["benchmarks"]:
        table.add_column(benchmark, justify="right")
    previous: str | None = None
    for model in outcome["models"]:
        if model["scenario"] != previous:
            table.add_section()
            previous = model["scenario"]
        cells = (model["scores"].get(benchmark) for benchmark in outcome["benchmarks"])
        table.add_row(
            model["name"], *(f"{100 * cell['value']:.1f}{_MARKS[cell['mark']]}" if cell else "–" for cell in cells)
        )
    return table
