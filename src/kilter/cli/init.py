"""`kilter init`: writes a commented study file."""

from pathlib import Path
from typing import Annotated

import typer

from kilter.cli.console import print_note
from kilter.errors import WrongInput


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="init", epilog="Example: kilter init my-study.yaml")(init)


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; - is stdout.")] = Path("study.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented study file that runs as it is."""
    from kilter.study.template import template_text

    text = template_text()
    if str(path) == "-":
        print(text, end="")
        return
    if path.exists() and not force:
        raise WrongInput(f"{path} is there already; choose another name, or --force to replace it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print_note(f"Wrote {path}. Next: kilter plan {path}, then kilter run {path}")
