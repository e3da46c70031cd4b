"""`kilter run`: runs what is missing of a study on this machine, and writes its report."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kilter.cli.arguments import StoreUri, StudyPath, read_study
from kilter.cli.console import human_seconds, print_note
from kilter.errors import EXIT_DONE, EXIT_FAILED

if TYPE_CHECKING:
    from kilter.backends.local.backend import RunOutcome

EXIT_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="run", epilog="Example: kilter run studies/demo.yaml --jobs 2")(run)


def run(
    study: StudyPath,
    store: StoreUri = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Stages at once; by default one a core.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where the report goes; by default kilter-report/NAME.", show_default=False),
    ] = None,
) -> int:
    """Run what is missing of a study, with live progress, and write the report. Run again after a stop to continue."""
    from kilter.backends.local.backend import LocalBackend
    from kilter.backends.planning import DATA_STAGES, plan_study, require_trainable
    from kilter.backends.requests import request_of
    from kilter.cli.display import display_for_terminal
    from kilter.cli.report import copy_and_tell, output_folder, render_and_tell

    opened = read_study(study, store)
    require_trainable(opened.study)
    folder = output_folder(out, opened.study.name)
    opened_store = opened.open_store()
    backend = LocalBackend(opened_store, jobs or os.cpu_count() or 1, os.environ)
    plan = plan_study(opened.study, opened.folder, opened_store)
    with display_for_terminal() as display:
        # The data come first, in seconds: how many rows are left of them decides what can be asked for.
        data = backend.run(plan.only(DATA_STAGES), display)
        if data.interrupted or data.failures:
            return _say_how_it_ended(data)
        if data.ran:
            plan = plan_study(opened.study, opened.folder, opened_store)
        for warning in plan.warnings:
            print_note(f"warning: {warning}")
        if plan.report is not None:
            opened_store.put_request(request_of(plan.nodes[plan.report]))
        outcome = backend.run(plan, display).after(data)
    code = _say_how_it_ended(outcome)
    if outcome.interrupted or plan.report is None:
        return code
    manifest = opened_store.manifest(plan.report)
    if manifest is not None:
        copy_and_tell(opened_store, manifest, folder)
    else:
        render_and_tell(opened_store, request_of(plan.nodes[plan.report]), folder, _errors(outcome))
    return code


def _errors(outcome: "RunOutcome") -> dict[str, str]:
    return {str(failure.reference): failure.reason for failure in outcome.failures}


def _say_how_it_ended(outcome: "RunOutcome") -> int:
    if outcome.interrupted:
        print_note("Stopped. Everything that was finished is in the store; run the same command again to continue.")
        return EXIT_INTERRUPTED
    print_note(
        f"{len(outcome.ran)} stages ran and {outcome.reused} were in the store, in {human_seconds(outcome.seconds)}."
    )
    for failure in outcome.failures:
        print_note(f"failed: {failure.label} ({failure.reference.short}): {failure.reason}")
        if failure.blocked:
            print_note(f"  {failure.blocked} stages that need it did not run")
        if failure.log:
            print_note(f"  log: {failure.log}")
    return EXIT_FAILED if outcome.failures else EXIT_DONE
