"""Runs stages in this process: under a lease, in an attempt of their own, ending in a manifest or an error."""

import os
import resource
import tempfile
import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilter.errors import KilterError, Preempted, StageFailed, Stopped, WrongInput
from kilter.plan.graph import Reference, key_of
from kilter.progress import Silent, Transfer
from kilter.stages.beside import Beside, Word
from kilter.stages.checkpoints import checkpoint_settings
from kilter.stages.context import StageContext
from kilter.stages.events import Event, StageProgress
from kilter.stages.registry import stage_kind
from kilter.store.background import BackgroundCheckpoints
from kilter.store.checkpoints import resume_state, signing_key
from kilter.store.lease import acquire, holder
from kilter.store.manifest import Manifest, Resources
from kilter.training.parallel import Place, place_from

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kilter.stages.events import Listener
    from kilter.store.lease import Lease
    from kilter.store.manifest import Request
    from kilter.store.store import Attempt, Store

_LEASE_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Outcome:
    """How one stage ended."""

    reference: Reference
    manifest: Manifest | None
    error: str | None = None
    preempted: bool = False


def execute(
    store: "Store", references: "Sequence[Reference]", listener: "Listener", stop: "Callable[[], bool]"
) -> list[Outcome]:
    """Run stages one after another in this process, sharing what they can, such as a loaded model.

    A stage whose manifest is there is not run. A stage that fails leaves the others running; one that was told to
    stop ends the rest. Where a launcher started this process beside others, the first of them leads.

    Raises:
        WrongInput: a launcher's variables do not fit each other, or its processes were given several trainings.
    """
    place = place_from(os.environ)
    if place is not None and len(references) > 1 and stage_kind(references[0].stage).spreads:
        raise WrongInput(
            "processes that train together train once: give them one --key, and start them anew for another"
        )
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="kilter-stage-") as scratch:
        beside = Beside() if place is not None and place.processes > 1 else None
        process = _Process(store, listener, stop, Path(scratch), {}, place or Place(), beside)
        for reference in references:
            outcome = _run_one(process, reference)
            outcomes.append(outcome)
            if outcome.preempted:
                break
    return outcomes


@dataclass(frozen=True)
class _Process:
    """What all stages that run in this process have in common."""

    store: "Store"
    listener: "Listener"
    stop: "Callable[[], bool]"
    scratch: Path
    shared: dict[str, Any]
    place: Place
    beside: Beside | None
    """Those that a launcher started beside this one."""


def _run_one(process: _Process, reference: Reference) -> Outcome:
    if process.beside is None:
        return _lead(process, reference)
    if not process.place.first:
        return _follow(process, process.beside, reference)
    outcome = _lead(process, reference)
    word = Word(made=outcome.manifest is not None, error=outcome.error)
    # A second word on how it begins comes too late to matter, unless there was none.
    process.beside.say_begins(reference, word)
    process.beside.say_ended(reference, word)
    return outcome


def _follow(process: _Process, beside: Beside, reference: Reference) -> Outcome:
    """Do a process's part of a stage that another leads, and end as it does."""
    try:
        word = beside.begins(reference, process.stop)
        if not word.made and word.error is None and stage_kind(reference.stage).spreads:
            _part(process, reference)
        word = beside.ended(reference, process.stop)
    except (Preempted, Stopped) as error:
        return Outcome(reference, None, str(error), preempted=True)
    except KilterError as error:
        return _failed(process, reference, str(error))
    except Exception as error:
        traceback.print_exc()
        return _failed(process, reference, f"{type(error).__name__}: {error}")
    finally:
        beside.leave(reference)
    return Outcome(reference, process.store.manifest(reference) if word.made else None, word.error)


def _failed(process: _Process, reference: Reference, message: str) -> Outcome:
    place = process.place
    text = f"process {place.rank} of {place.processes}: {message}"
    process.listener(Event("failed", reference.stage, reference.key, message=text))
    return Outcome(reference, None, text)


def _part(process: _Process, reference: Reference) -> None:
    store, kind = process.store, stage_kind(reference.stage)
    request = _checked_request(store, reference)
    attempt = store.begin(reference)
    settings = checkpoint_settings(os.environ, request.hints)
    resume = resume_state(store, attempt, signing_key(os.environ, _config_home()), settings.keep)
    try:
        kind.load()(
            StageContext(
                store=store,
                request=request,
                config=kind.config.model_validate(request.config),
                inputs={role: Reference.parse(name) for role, name in request.inputs.items()},
                output=attempt.directory,
                scratch=process.scratch,
                progress=Silent(),
                stop=process.stop,
                resume=BackgroundCheckpoints(resume, lambda _: None),
                checkpoints=settings,
                shared=process.shared,
            )
        )
    finally:
        store.abandon(attempt)


def _lead(process: _Process, reference: Reference) -> Outcome:
    listener = process.listener
    began = time.monotonic()
    try:
        lease = _lease_or_manifest(process, reference)
        if isinstance(lease, Manifest):
            listener(Event("reused", reference.stage, reference.key))
            return Outcome(reference, lease)
        with lease:
            # The holder before us may have committed between our look and our lease.
            manifest = process.store.manifest(reference)
            if manifest is None:
                if process.beside is not None:
                    process.beside.say_begins(reference, Word())
                manifest = _attempt(process, reference)
    except (Preempted, Stopped) as error:
        step = error.step if isinstance(error, Preempted) else None
        listener(Event("preempted", reference.stage, reference.key, done=step, unit="steps", message=str(error)))
        return Outcome(reference, None, str(error), preempted=True)
    except KilterError as error:
        listener(Event("failed", reference.stage, reference.key, message=str(error)))
        return Outcome(reference, None, str(error))
    except Exception as error:  # a library's own error must fail its stage, not the stages beside it
        message = f"{type(error).__name__}: {error}"
        traceback.print_exc()
        listener(Event("failed", reference.stage, reference.key, message=message))
        return Outcome(reference, None, message)
    listener(Event("done", reference.stage, reference.key, seconds=time.monotonic() - began))
    return Outcome(reference, manifest)


def _lease_or_manifest(process: _Process, reference: Reference) -> "Lease | Manifest":
    """Wait until the result is there or the right to make it is ours, whichever comes first."""
    store = process.store
    told = None
    while True:
        manifest = store.manifest(reference)
        if manifest is not None:
            return manifest
        lease = acquire(store, reference)
        if lease is not None:
            return lease
        if process.stop():
            raise Preempted(f"stopped while another process was making {reference.short}")
        other = holder(store, reference)
        if other is not None and other.token != told:
            told = other.token
            process.listener(Event("waiting", reference.stage, reference.key, message=f"made by {other}"))
        time.sleep(_LEASE_POLL_SECONDS)


def _attempt(process: _Process, reference: Reference) -> Manifest:
    store, listener = process.store, process.listener
    kind = stage_kind(reference.stage)
    request = _checked_request(store, reference)
    attempt = store.begin(reference)
    listener(Event("started", reference.stage, reference.key, attempt=attempt.identifier))
    started = datetime.now(UTC)
    clock, cpu = time.monotonic(), _cpu_seconds()
    settings = checkpoint_settings(os.environ, request.hints)
    resume = resume_state(store, attempt, signing_key(os.environ, _config_home()), settings.keep)
    background = BackgroundCheckpoints(
        resume, lambda message: listener(Event("warning", reference.stage, reference.key, message=message))
    )
    context = StageContext(
        store=store,
        request=request,
        config=kind.config.model_validate(request.config),
        inputs={role: Reference.parse(name) for role, name in request.inputs.items()},
        output=attempt.directory,
        scratch=process.scratch,
        progress=StageProgress(listener, reference),
        stop=process.stop,
        resume=background,
        checkpoints=settings,
        shared=process.shared,
    )
    summary = _run(kind.load(), context, store, attempt)
    if kind.saves_when_stopped:
        summary |= {"checkpoints": background.account()}
    resources = Resources(
        seconds=time.monotonic() - clock,
        cpu_seconds=_cpu_seconds() - cpu,
        peak_memory_bytes=_largest_process_bytes(),
        tokens=_tokens(summary),
    )
    size = sum(path.stat().st_size for path in attempt.directory.rglob("*") if path.is_file())
    sending = Transfer(context.progress, "MiB to the store", size)
    manifest = store.commit(attempt, request, summary, started, resources, sending)
    resume.clear()
    return manifest


def _cpu_seconds() -> float:
    """Return the processor time of this process and of those that it started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _largest_process_bytes() -> int:
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in whose) * 1024


def _run(
    run: "Callable[[StageContext], dict[str, Any]]", context: StageContext, store: "Store", attempt: "Attempt"
) -> dict[str, Any]:
    try:
        with context.resume:
            return run(context)
    except BaseException:
        # Resume state lies beside the attempt, not in it: a stopped stage loses nothing.
        store.abandon(attempt)
        raise


def _tokens(summary: dict[str, Any]) -> int | None:
    """Return how many tokens a stage worked on; one that tells them apart by part adds them up."""
    tokens = summary.get("tokens")
    if isinstance(tokens, dict):
        return sum(int(part["total"]) for part in tokens.values())
    return tokens if isinstance(tokens, int) else None


def _checked_request(store: "Store", reference: Reference) -> "Request":
    request = store.request(reference)
    if request is None:
        raise StageFailed(f"{store.uri} holds no request for {reference}: `kilter run STUDY` puts it there")
    inputs = {role: Reference.parse(name) for role, name in request.inputs.items()}
    if key_of(request.stage, request.code, request.config, inputs) != reference.key:
        raise StageFailed(f"the request of {reference} asks another question than its key says; it was changed by hand")
    return request


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "kilter"
