"""Writes docs/commands.md from the command itself: `python -m kilter.cli.reference`."""

from pathlib import Path
from typing import Any

import typer

TARGET = Path(__file__).parents[3] / "docs" / "commands.md"


def reference_text() -> str:
    """Return the reference of every verb as Markdown."""
    from kilter.cli.main import app

    lines = [
        "# Commands",
        "",
        "Written from the command itself by `make docs`.",
        "Exit codes: 0 done, 1 a stage failed, 2 the input is wrong, 75 stopped with its state saved, 130 interrupted.",
    ]
    for name, command in _verbs(typer.main.get_command(app), "kilter"):
        lines += ["", f"## {name}", "", (command.help or "").strip(), "", "```console", *_usage(name, command), "```"]
        if command.epilog:
            lines += ["", command.epilog.strip()]
    return "\n".join(lines) + "\n"


def _verbs(group: Any, prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        found += _verbs(command, full) if hasattr(command, "commands") else [(full, command)]
    return found


def _usage(name: str, command: Any) -> list[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    lines = [f"{name} {' '.join(command.collect_usage_pieces(context))}"]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in record[0]:
            lines.append(f"  {record[0]:<28} {' '.join(record[1].split())}")
    return lines


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(reference_text(), encoding="utf-8")
