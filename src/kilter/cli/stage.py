"""`kilter stage`: the one entry point that every backend uses."""

import logging
import os
import signal
from typing import Annotated

import typer

from kilter.cli.arguments import StoreUri, default_store
from kilter.errors import EXIT_DONE, EXIT_FAILED, EXIT_PREEMPTED, Stopped


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        name="stage",
        epilog="Example: kilter stage align --store s3://bucket/kilter --key 0f3a… (keys: kilter plan --json)",
    )(stage)


def stage(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="The stage: ingest, pretrain, subsample, prepare, sft, reference, align, evaluate or report.",
        ),
    ],
    key: Annotated[
        list[str],
        typer.Option("--key", help="The key of what to make; several share what they can, such as a loaded model."),
    ],
    store: StoreUri = None,
) -> int:
    """Make one result, or several of one stage, from the requests that lie in the store.

    Told to stop by SIGTERM or SIGINT it exits with 75, which is no failure: run it again to continue. A training saves
    its state first; a second signal waits for nothing.
    """
    from kilter.plan.graph import Reference
    from kilter.stages.events import listener_from_environment
    from kilter.stages.execute import execute
    from kilter.stages.registry import stage_kind
    from kilter.store.store import Store

    _log_to_stderr()
    asked = _stop_when_asked(saves=stage_kind(name).saves_when_stopped)
    references = [Reference(name, item) for item in key]
    listener = listener_from_environment(os.environ)
    try:
        outcomes = execute(Store.open(default_store(store)), references, listener, lambda: bool(asked))
    except Stopped:
        return EXIT_PREEMPTED
    if any(outcome.preempted for outcome in outcomes):
        return EXIT_PREEMPTED
    return EXIT_DONE if all(outcome.manifest is not None for outcome in outcomes) else EXIT_FAILED


def _log_to_stderr() -> None:
    """Let the stage's log say what Kilter's own modules have to tell, such as where a training continues."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("kilter")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _stop_when_asked(*, saves: bool) -> list[bool]:
    """Collect requests to stop; a stage that saves nothing is cut short by the first, any stage by the second."""
    asked: list[bool] = []

    def note(*_: object) -> None:
        asked.append(True)
        if not saves or len(asked) > 1:
            raise Stopped("stopped")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return asked
