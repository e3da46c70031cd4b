"""`kilter methods`: lists the alignment methods, or says all about one."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kilter.cli.arguments import AsJson
from kilter.cli.console import print_json
from kilter.errors import WrongInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kilter.study.methods import Method


LEGEND = "Δ: log-ratio of policy to reference of an answer; w: the chosen one, l: the rejected one; |y|: its tokens"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="methods", epilog="Example: kilter methods simpo")(methods)


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One method, in full.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """List the alignment methods, or say what one optimises, with its paper, data, hyperparameters and defaults."""
    from kilter.study.checks import method_suggestion
    from kilter.study.methods import METHODS

    if name is not None and name not in METHODS:
        raise WrongInput(f"there is no method {name!r}: {method_suggestion(name)}")
    if as_json:
        chosen = METHODS.values() if name is None else [METHODS[name]]
        print_json({"methods": [method_data(method) for method in chosen]})
    elif name is None:
        _print_table(list(METHODS.values()))
    else:
        _print_one(METHODS[name])


def method_data(method: "Method") -> dict[str, Any]:
    """Return a method as JSON data; how it is trained is only there where torch is installed."""
    return {
        "name": method.name,
        "title": method.title,
        "objective": method.objective,
        "paper": method.paper,
        "view": method.view,
        "reference": method.reference,
        "length_normalised": method.length_normalised,
        "hyperparameters": {
            name: {
                "default": parameter.default,
                "range": parameter.range_text,
                "meaning": parameter.meaning,
                "source": parameter.source,
            }
            for name, parameter in method.hyperparameters.items()
        },
        "note": method.note,
        **_training(method),
    }


def lines_of(method: "Method") -> "Iterator[tuple[str, str]]":
    """Yield what there is to say of a method, each with its heading."""
    yield "loss of a pair", method.objective
    yield "paper", method.paper
    yield "data", f"{method.view}; reference: {method.reference}"
    for name, parameter in method.hyperparameters.items():
        yield name, f"{parameter.default:g}: {parameter.meaning}; {parameter.range_text}; {parameter.origin}"
    training = _training(method)
    if training:
        by = "Kilter's formula on the forward pass of" if training["loss_type"] == "kilter" else "TRL's"
        loss = "" if training["loss_type"] == "kilter" else f", loss {training['loss_type']}"
        yield "trained by", f"{by} {training['trainer']}{loss}; {training['averaging']}"
    if method.note:
        yield "note", method.note


def _training(method: "Method") -> dict[str, str]:
    if find_spec("torch") is None:
        return {}
    from kilter.training.methods.objectives import OBJECTIVES

    objective = OBJECTIVES[method.name]
    return {"trainer": objective.trainer, "loss_type": objective.loss_type, "averaging": objective.averaging}


def _print_table(every: "list[Method]") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"{len(every)} methods; `kilter methods NAME` says all about one"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("method", "what it is", "data", "reference", "hyperparameters"):
        table.add_column(heading)
    for method in every:
        defaults = ", ".join(f"{name} {value.default:g}" for name, value in method.hyperparameters.items())
        table.add_row(method.name, method.title, method.view, method.reference, defaults)
    Console().print(table)


def _print_one(method: "Method") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for heading, text in lines_of(method):
        table.add_row(heading, text)
    console = Console(markup=False)
    console.print(f"{method.name}: {method.title}", style="bold", highlight=False)
    console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
