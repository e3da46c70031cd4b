"""The report in short, as Markdown: the verdict, what is missing, and the tables of scores."""

import re
from datetime import datetime

from kilter.analysis.report.index import Index
from kilter.analysis.report.lineage import problems
from kilter.analysis.report.scores import Cell, ScoreTable, score_tables

_KINDS = {"helped": "Helped", "hurt": "Hurt", "cannot tell": "Cannot be told", "note": "Note"}
_SIGNS = {"better": " ▲", "worse": " ▼", "unclear": "", "": ""}


def summary_markdown(index: Index, date: datetime) -> str:
    """Return the summary; text from models and data is escaped."""
    results = index.results
    lines = [
        f"# {_escaped(results.name)}",
        "",
        f"Kilter {_escaped(results.kilter_version)}, {date:%d %B %Y}, store {_escaped(results.store)}. "
        f"The statistics speak of {_escaped(index.findings.subject)}.",
        "",
    ]
    missing = problems(index)
    if missing:
        lines += ["## Missing", "", *(f"- {_escaped(one.title)}: {_escaped(one.text)}" for one in missing), ""]
    lines += ["## Verdict", ""]
    lines += [f"- **{_KINDS[verdict.kind]}**: {_escaped(verdict.text)}" for verdict in index.findings.verdicts]
    for table in score_tables(index):
        lines += ["", f"## {_escaped(table.title)}", "", *_table(table)]
    level = 100 * (1 - results.alpha)
    lines += [
        "",
        f"Scores with ± half of their {level:g} % interval. ▲ and ▼ mark what is better or worse than the parent "
        f"at a corrected p below {results.alpha:g} ({_escaped(results.correction)}).",
        "",
    ]
    lines += [f"> {_escaped(note)}" for note in (*index.findings.notes, *results.warnings)]
    return "\n".join(lines).rstrip() + "\n"


def _table(table: ScoreTable) -> list[str]:
    heads = [f"{_escaped(head.benchmark)}{f' ({head.unit})' if head.unit else ''}" for head in table.heads]
    rows = [
        f"| {_escaped(' '.join(part for part in (row.name, row.detail and f'({row.detail})') if part))} | "
        + " | ".join(_cell(cell) for cell in row.cells)
        + " |"
        for row in table.rows
    ]
    return [f"| Model | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads), *rows]


def _cell(cell: Cell) -> str:
    return _escaped(" ".join(part for part in (cell.value, cell.margin) if part)) + _SIGNS[cell.mark]


def _escaped(text: str) -> str:
    """Escape what Markdown or HTML would interpret, and keep the text on one line."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|#]|_(?=\W|$)|(?<!\w)_)", r"\\\1", plain)
