"""`kilter plan`: shows what a study needs before anything runs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kilter.cli.arguments import AsJson, StoreUri, StudyPath, read_study
from kilter.cli.console import print_json, print_note

if TYPE_CHECKING:
    from rich.table import Table

    from kilter.plan.graph import Plan, Reference


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="plan", epilog="Example: kilter plan studies/insights.yaml")(plan)


def plan(
    study: StudyPath,
    store: StoreUri = None,
    as_json: AsJson = False,
    all_stages: Annotated[
        bool, typer.Option("--all", help="List every stage instead of one line a kind and model.")
    ] = False,
) -> None:
    """Show the deduplicated stages of a study: what will run, what the store has already, and what cells share."""
    from kilter.backends.planning import plan_study
    from kilter.errors import StoreError
    from kilter.store.store import Store

    opened = read_study(study, store)
    try:
        opened_store: Store | None = Store.open(opened.store_uri)
        plan = plan_study(opened.study, opened.folder, opened_store)
        done = opened_store.existing(plan.nodes) if opened_store else set()
    except StoreError as error:
        print_note(f"note: the store cannot be read, so every stage counts as still to do ({error})")
        plan, done = plan_study(opened.study, opened.folder), set()
    if as_json:
        print_json(plan_data(plan, done))
        return
    from rich.console import Console

    console = Console()
    console.print(_stage_table(plan, done) if all_stages else _summary_table(plan, done))
    from kilter.plan.expand import stages_without_sharing

    plain = stages_without_sharing(plan)
    missing = len(plan.nodes) - len(done)
    console.print(f"{len(plan.nodes)} stages: {missing} to run, {len(done)} in the store.")
    console.print(f"Without sharing, the grid would take {plain}.")
    for warning in plan.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def plan_data(plan: "Plan", done: "set[Reference]") -> dict[str, Any]:
    """Return the plan as JSON data, for scripts."""
    from kilter.plan.expand import stages_without_sharing

    return {
        "stages": [
            {
                "stage": reference.stage,
                "key": reference.key,
                "label": node.label,
                "done": reference in done,
                "cells": node.cells,
                "inputs": {role: str(item) for role, item in node.inputs.items()},
                "config": node.config_data,
            }
            for reference, node in plan
        ],
        "models": [
            {
                "name": model.name,
                "result": str(model.reference),
                "scenario": model.scenario,
                "method": model.method,
                "variant": model.variant,
                "size": model.size,
                "seed": model.seed,
            }
            for model in plan.models
        ],
        "to_run": sum(reference not in done for reference in plan.nodes),
        "stages_without_sharing": stages_without_sharing(plan),
        "warnings": list(plan.warnings),
    }


def _summary_table(plan: "Plan", done: "set[Reference]") -> "Table":
    from rich.table import Table

    from kilter.stages.registry import STAGES

    table = Table(title="Plan", title_justify="left")
    table.add_column("stage")
    for heading in ("results", "in the store", "to run", "most shared by"):
        table.add_column(heading, justify="right")
    for name in STAGES:
        nodes = [(reference, node) for reference, node in plan if reference.stage == name]
        if not nodes:
            continue
        found = sum(reference in done for reference, _ in nodes)
        shared = max(node.cells for _, node in nodes)
        table.add_row(
            name,
            str(len(nodes)),
            str(found),
            str(len(nodes) - found),
            f"{shared} cells" if shared > 1 else "–",
        )
    return table


def _stage_table(plan: "Plan", done: "set[Reference]") -> "Table":
    from rich.table import Table

    table = Table(title="Plan", title_justify="left")
    table.add_column("result")
    table.add_column("label")
    table.add_column("state")
    table.add_column("cells", justify="right")
    for reference, node in plan:
        state = "[green]in the store[/]" if reference in done else "to run"
        table.add_row(reference.short, node.label, state, str(node.cells))
    return table
