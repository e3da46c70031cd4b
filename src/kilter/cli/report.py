"""`kilter report`: renders the report of a study from the store alone."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kilter.cli.arguments import StoreUri, StudyPath, read_study
from kilter.errors import EXIT_DONE, EXIT_FAILED, WrongInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.store.manifest import Manifest, Request
    from kilter.store.store import Store

_OF_EACH_KIND = 3


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="report", epilog="Example: kilter report studies/demo.yaml --out report")(report)


def report(
    study: StudyPath,
    store: StoreUri = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where it goes; by default kilter-report/NAME.", show_default=False)
    ] = None,
) -> int:
    """Render the report again, from the store alone; what is missing is named in it."""
    from kilter.backends.planning import plan_study
    from kilter.backends.requests import request_of
    from kilter.errors import KilterError
    from kilter.stages.report import find_request

    opened = read_study(study, store)
    opened_store = opened.open_store()
    request = find_request(opened_store, opened.study)
    if request is None:
        try:
            plan = plan_study(opened.study, opened.folder, opened_store)
        except KilterError as error:
            raise type(error)(
                f"{opened_store.uri} does not know this study yet, and it cannot be planned here: {error}"
            ) from error
        request = request_of(list(plan.nodes.values())[-1])
    complete = render_and_tell(opened_store, request, output_folder(out, opened.study.name))
    return EXIT_DONE if complete else EXIT_FAILED


def output_folder(out: Path | None, name: str) -> Path:
    """Return where a report goes: what was asked for, or a folder named after the study.

    Raises:
        WrongInput: there is a file of that name.
    """
    folder = out or Path("kilter-report") / name
    if folder.exists() and not folder.is_dir():
        raise WrongInput(f"{folder} is a file; --out names a folder")
    return folder


def render_and_tell(store: "Store", request: "Request", out: Path, errors: "Mapping[str, str] | None" = None) -> bool:
    """Render the report into `out`, say what came out, and tell whether nothing is missing."""
    from kilter.plan.configs import ReportConfig
    from kilter.plan.graph import Reference
    from kilter.stages.report import OUTCOME, gather, render

    references = [Reference.parse(name) for name in request.inputs.values()]
    results = gather(store, ReportConfig.model_validate(request.config), references, errors or {})
    _, path = render(results, out)
    tell(json.loads((out / OUTCOME).read_text(encoding="utf-8")), path)
    missing = [stage for stage in results.stages if stage.state != "done"]
    if len(missing) == len(results.stages):
        print(f"Nothing of this study is in {store.uri} yet: `kilter run` it first, or name its store with --store.")
    elif missing:
        print(f"{len(missing)} of {len(results.stages)} results are missing; the report names them.")
    return not missing


def copy_and_tell(store: "Store", manifest: "Manifest", out: Path) -> None:
    """Copy a report that is in the store to `out`, and say what came out."""
    from kilter.stages.report import OUTCOME, REPORT

    folder = store.fetch(manifest)
    names = [item.name for item in manifest.objects]
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, out / name)
    tell(json.loads((out / OUTCOME).read_text(encoding="utf-8")), out / REPORT)


def tell(outcome: "Mapping[str, Any]", path: Path) -> None:
    """Print the outcome in short and where the report is."""
    from rich.console import Console

    from kilter.cli.outcome import outcome_table, scope_line, verdict_lines

    console = Console()
    console.print(outcome_table(outcome))
    if scope := scope_line(outcome):
        console.print(scope, markup=False, highlight=False)
    for line in verdict_lines(outcome, _OF_EACH_KIND):
        console.print(line, markup=False, highlight=False)
    console.print(f"Report: {path.resolve()}", soft_wrap=True, markup=False, highlight=False)
