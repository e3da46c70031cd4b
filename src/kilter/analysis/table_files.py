"""Plain tables, and their files: Markdown for people, CSV for spreadsheets, Parquet for programs."""

import csv
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

Kind = Literal["text", "count", "number", "p", "seconds", "bytes", "flag", "cell"]
"""`cell` holds a `Cell`; every other kind holds a plain value of its type, or None."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    """Field name in CSV and Parquet."""
    title: str
    """Heading for people."""
    kind: Kind = "text"
    unit: str = ""
    """Unit of the values, for headings: `%`, `points`, `pairs`."""
    digits: int = 3
    """Digits after the point, for the kind `number`."""


@dataclass(frozen=True)
class Cell:
    """A score with its confidence interval, and what it says against the parent model."""

    score: float
    low: float | None
    high: float | None
    difference: float | None = None
    """Score minus the parent's."""
    mark: Literal["helped", "hurt", ""] = ""
    """A significant difference from the parent model, in the direction that is better or worse."""
    digits: int = 1

    def __str__(self) -> str:
        """The cell in words: `55.0 [49.3, 60.6] helped`."""
        text = f"{self.score:.{self.digits}f}"
        if self.low is not None and self.high is not None:
            text += f" [{self.low:.{self.digits}f}, {self.high:.{self.digits}f}]"
        return f"{text} {self.mark}".rstrip()


Value = str | int | float | Cell | None
"""What a table holds: flags are booleans, infinite numbers mean that there is none."""


@dataclass(frozen=True)
class Table:
    """Rows of plain values under named columns."""

    name: str
    """File name without its ending."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]

    def __post_init__(self) -> None:
        """Refuse rows that do not fit the columns."""
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} of table {self.name} has {len(row)} values for {len(self.columns)} columns"
                )


def format_value(column: Column, value: Value) -> str:
    """Write one value for people; nothing for what is not known."""
    if value is None:
        return ""
    match column.kind:
        case "flag":
            return "yes" if value else "no"
        case "count":
            return f"{value:,}"
        case "number" | "seconds":
            number = cast("float", value)
            digits = 1 if column.kind == "seconds" else column.digits
            return f"{number:,.{digits}f}" if math.isfinite(number) else "none"
        case "bytes":
            return f"{cast('int', value) / 2**20:,.0f} MiB"
        case "p":
            return p_text(cast("float", value))
        case _:
            return str(value)


def p_text(p_value: float) -> str:
    """Write a p-value as `0.012`, `0.0002` or `< 0.0001`."""
    if p_value < 0.0001:
        return "< 0.0001"
    return f"{p_value:.4f}" if p_value < 0.001 else f"{p_value:.3f}"


def markdown(table: Table) -> str:
    """Write a table as GitHub-flavoured Markdown, with text from models and data escaped."""
    headings = [_markdown_text(_heading(column)) for column in table.columns]
    alignments = [":--" if column.kind in {"text", "flag", "cell"} else "--:" for column in table.columns]
    lines = [f"## {_markdown_text(table.title)}", "", _line(headings), _line(alignments)]
    for row in table.rows:
        lines.append(
            _line(
                [_markdown_text(format_value(column, value)) for column, value in zip(table.columns, row, strict=True)]
            )
        )
    return "\n".join(lines) + "\n"


def csv_text(table: Table) -> str:
    """Write a table as CSV; text that a spreadsheet would run as a formula gets a leading apostrophe (OWASP)."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow([column.name for column in table.columns])
    for row in table.rows:
        writer.writerow([_csv_value(value) for value in row])
    return written.getvalue()


def parquet_table(table: Table) -> "pa.Table":
    """Turn a table into an Arrow table, each column of its own type."""
    import pyarrow as pa

    arrays = []
    for number, column in enumerate(table.columns):
        values = [row[number] for row in table.rows]
        match column.kind:
            case "count" | "bytes":
                arrays.append(pa.array(values, pa.int64()))
            case "number" | "p" | "seconds":
                arrays.append(pa.array(values, pa.float64()))
            case "flag":
                arrays.append(pa.array(values, pa.bool_()))
            case _:
                arrays.append(pa.array([None if value is None else str(value) for value in values], pa.string()))
    return pa.table(arrays, names=[column.name for column in table.columns])


def write_tables(tables: "Sequence[Table]", folder: "Path") -> "tuple[Path, ...]":
    """Write each table as `<name>.md`, `<name>.csv` and `<name>.parquet`.

    Args:
        tables: with names of their own.
        folder: made if it is not there.

    Returns:
        The files written.
    """
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for table in tables:
        text, comma, parquet = (folder / f"{table.name}.{ending}" for ending in ("md", "csv", "parquet"))
        text.write_text(markdown(table), encoding="utf-8")
        comma.write_text(csv_text(table), encoding="utf-8", newline="")
        pq.write_table(parquet_table(table), parquet)
        paths += [text, comma, parquet]
    return tuple(paths)


def _heading(column: Column) -> str:
    return f"{column.title} ({column.unit})" if column.unit else column.title


def _line(cells: "Sequence[str]") -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_text(text: str) -> str:
    """Escape what would end a cell, start HTML, or format; a line break becomes a space."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in ("\\", "|", "`", "*", "_", "[", "]"):
        escaped = escaped.replace(character, f"\\{character}")
    return " ".join(escaped.split())


def _csv_value(value: Value) -> str | int | float:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
