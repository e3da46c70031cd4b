"""`kilter plan`: shows what a study needs before anything runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kilter.cli.arguments import AsJson, StoreUri, StudyPath, read_study
from kilter.cli.console import print_json, print_note
from kilter.errors import WrongInput

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from kilter.backends.planning import PlannedStudy
    from kilter.plan.estimates.cost import Price
    from kilter.plan.estimates.estimate import PlanEstimate
    from kilter.plan.graph import Plan, Reference
    from kilter.store.store import Store

MOST_GPUS = 8


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="plan", epilog="Example: kilter plan studies/insights.yaml --gpu h100-80gb")(plan)


def plan(
    study: StudyPath,
    store: StoreUri = None,
    as_json: AsJson = False,
    all_stages: Annotated[
        bool, typer.Option("--all", help="List every stage instead of one line a kind and model.")
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="KIND",
            help="Estimate memory, time, GPU-hours and bytes on this kind of machine, such as h100-80gb, or cpu.",
        ),
    ] = None,
    gpus: Annotated[
        int, typer.Option("--gpus", min=1, help="The most GPUs that one stage may have; with --gpu.")
    ] = MOST_GPUS,
    prices: Annotated[
        Path | None,
        typer.Option(
            "--prices",
            help="YAML with `currency` and a price per GPU-hour for each kind; adds the cost. With --gpu.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show the deduplicated stages of a study: what will run, what the store has already, and what cells share.

    With --gpu also what it will take, before it runs. A stage that fits no allowed resource is an error.
    """
    from kilter.backends.planning import plan_with_sources, require_trainable
    from kilter.errors import StoreError
    from kilter.store.store import Store

    if gpu is None and prices is not None:
        raise WrongInput("--prices needs --gpu: which kind of GPU is it that will run the study?")
    opened = read_study(study, store)
    if gpu is None:
        require_trainable(opened.study)
    opened_store: Store | None = None
    try:
        opened_store = Store.open(opened.store_uri)
        planned = plan_with_sources(opened.study, opened.folder, opened_store)
        done = opened_store.existing(planned.plan.nodes)
    except StoreError as error:
        print_note(f"note: the store cannot be read, so every stage counts as still to do ({error})")
        opened_store = None
        planned, done = plan_with_sources(opened.study, opened.folder), set()
    estimated = None if gpu is None else _estimated(planned, opened_store, done, gpu, gpus, prices)
    if as_json:
        data = plan_data(planned.plan, done)
        if estimated is not None:
            from kilter.cli.estimates import estimate_data

            data["estimates"] = estimate_data(*estimated)
        print_json(data)
        return
    from rich.console import Console

    console = Console()
    if estimated is None:
        console.print(_stage_table(planned.plan, done) if all_stages else _summary_table(planned.plan, done))
    else:
        _print_estimates(console, *estimated, all_stages=all_stages)
    from kilter.plan.expand import stages_without_sharing

    plain = stages_without_sharing(planned.plan)
    missing = len(planned.plan.nodes) - len(done)
    console.print(f"{len(planned.plan.nodes)} stages: {missing} to run, {len(done)} in the store.")
    console.print(f"Without sharing, the grid would take {plain}.")
    for warning in planned.plan.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def _estimated(
    planned: "PlannedStudy", store: "Store | None", done: "set[Reference]", gpu: str, gpus: int, prices: Path | None
) -> "tuple[PlanEstimate, Price | None]":
    """Estimate what is still to run.

    Raises:
        WrongInput: there is no such machine, the prices cannot be used, or a stage fits no allowed resource.
    """
    from kilter.backends.estimating import gather_known
    from kilter.cli.estimates import refuse_misfits
    from kilter.plan.estimates.estimate import estimate_plan
    from kilter.plan.estimates.hardware import machine_named

    machine = machine_named(gpu)
    price = _price(prices, gpu)
    known = gather_known(planned.plan, planned.sources.values(), planned.facts, store, done)
    estimate = estimate_plan(planned.plan, known, machine, gpus, done, price)
    refuse_misfits(estimate, gpus)
    return estimate, price


def _price(path: Path | None, gpu: str) -> "Price | None":
    if path is None:
        return None
    from kilter.plan.estimates.cost import price_of
    from kilter.plan.estimates.hardware import machine_named

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongInput(f"the price file cannot be read: {error}") from error
    return price_of(text, machine_named(gpu), str(path))


def _print_estimates(console: "Console", estimate: "PlanEstimate", price: "Price | None", *, all_stages: bool) -> None:
    from kilter.cli.estimates import kinds_table, notes, stages_table

    if all_stages:
        console.print(stages_table(estimate, price))
    console.print(kinds_table(estimate, price))
    for note in notes(estimate, price):
        console.print(note, markup=False, highlight=False)


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
