"""Writes docs/methods.md from the registry of methods: `python -m kilter.cli.methods_page`."""

from pathlib import Path

from kilter.cli.methods import lines_of
from kilter.study.methods import METHODS

TARGET = Path(__file__).parents[3] / "docs" / "methods.md"

HEAD = """# Methods

Written from the registry of methods by `make docs`; `kilter methods` shows the same in a terminal.

Δ is the log-ratio of policy to reference of an answer, w the chosen answer, l the rejected one, and |y| the number of
an answer's tokens. Each method's loss and gradient are tested against its paper's formula, computed by hand in float64,
and the first batch of every training is checked against the formula before a step is made.
"""


def methods_text() -> str:
    """Return the page as Markdown."""
    lines = [HEAD, "| method | what it is | data | reference |", "|---|---|---|---|"]
    for method in METHODS.values():
        lines.append(f"| [`{method.name}`](#{method.name}) | {method.title} | {method.view} | {method.reference} |")
    for method in METHODS.values():
        lines += ["", f"## {method.name}", "", f"{method.title}.", ""]
        lines += [f"- {_heading(method.name, name)}: {_text(name, text)}" for name, text in lines_of(method)]
    return "\n".join(lines) + "\n"


def _heading(method: str, name: str) -> str:
    return f"`{name}`" if name in METHODS[method].hyperparameters else name


def _text(name: str, text: str) -> str:
    return f"`{text}`" if name == "loss of a pair" else text


if __name__ == "__main__":
    TARGET.write_text(methods_text(), encoding="utf-8")
