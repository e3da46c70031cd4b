"""The local backend: runs what is missing of a plan, as many stages at once as asked for and as memory allows."""

import os
import signal
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kilter.backends.local.memory import available_bytes, estimated_bytes
from kilter.backends.local.schedule import STOPPED, Execution, Schedule
from kilter.backends.local.workers import Ended, Workers
from kilter.backends.requests import request_of
from kilter.errors import EXIT_PREEMPTED, WrongInput
from kilter.stages.registry import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kilter.plan.graph import Plan, Reference
    from kilter.stages.events import Event
    from kilter.store.store import Store

_POLL_SECONDS = 0.25
_GRACE_VARIABLE = "KILTER_GRACE_SECONDS"
_GRACE_SECONDS = 30.0


class Display(Protocol):
    """Shows a run to whoever watches."""

    def planned(self, plan: "Plan", done: "set[Reference]") -> None:
        """The run begins; `done` is in the store already."""
        ...

    def started(self, execution: Execution) -> None:
        """An execution begins."""
        ...

    def event(self, execution: Execution, event: "Event") -> None:
        """Something happened in an execution."""
        ...

    def ended(self, execution: Execution, schedule: Schedule) -> None:
        """An execution is over."""
        ...

    def tick(self) -> None:
        """Time passed."""
        ...


@dataclass(frozen=True)
class Failure:
    """A stage that did not end well."""

    reference: "Reference"
    label: str
    reason: str
    log: str | None
    blocked: int
    """How many stages could not run because of it."""


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended."""

    ran: "tuple[Reference, ...]"
    reused: int
    failures: tuple[Failure, ...]
    interrupted: bool
    seconds: float
    busy_seconds: float = 0.0
    """Seconds that executions ran, added up: with the stages' own seconds, it tells what starting them costs."""

    def after(self, earlier: "RunOutcome") -> "RunOutcome":
        """Return how this run and an earlier one of a part of the same plan ended together."""
        return replace(
            self,
            ran=(*earlier.ran, *self.ran),
            reused=self.reused - len(earlier.ran),
            seconds=earlier.seconds + self.seconds,
            busy_seconds=earlier.busy_seconds + self.busy_seconds,
        )


class LocalBackend:
    """Runs plans on this machine."""

    def __init__(self, store: "Store", jobs: int, environment: "Mapping[str, str]") -> None:
        self.store = store
        self.jobs = jobs
        self.environment = dict(environment)
        self.grace_seconds = _grace_seconds(environment)
        # One thread a process unless told otherwise: small models run slower, not faster, when threads contend.
        self.environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
        self.environment.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        self.environment.setdefault("TOKENIZERS_PARALLELISM", "false")

    def run(self, plan: "Plan", display: Display) -> RunOutcome:
        """Run what is missing of the plan. A failed stage stops what depends on it and nothing else."""
        began = time.monotonic()
        done = self.store.existing(plan.nodes)
        schedule = Schedule(plan.nodes, set(done))
        if schedule.finished:
            display.planned(plan, done)
            return RunOutcome((), len(done), (), interrupted=False, seconds=time.monotonic() - began)
        modules = _modules(plan, done)
        with (
            _stop_signals() as stopping,
            tempfile.TemporaryDirectory(prefix="kilter-run-") as folder,
            Workers(modules, self.environment, Path(folder) / "forkserver.log") as workers,
        ):
            display.planned(plan, done)
            logs, busy_seconds = self._loop(schedule, workers, display, Path(folder), stopping)
        ran = tuple(reference for reference in plan.nodes if reference in schedule.done and reference not in done)
        return RunOutcome(
            ran=ran,
            reused=len(done),
            failures=_failures(plan, schedule, logs),
            interrupted=bool(stopping),
            seconds=time.monotonic() - began,
            busy_seconds=busy_seconds,
        )

    def _loop(
        self, schedule: Schedule, workers: Workers, display: Display, folder: Path, stopping: list[bool]
    ) -> "tuple[dict[Reference, str], float]":
        running: dict[int, Execution] = {}
        memory: dict[int, int] = {}
        room = available_bytes()
        began: dict[int, float] = {}
        busy_seconds = 0.0
        attempts: dict[Reference, str] = {}
        saved: dict[Reference, int] = {}
        logs: dict[Reference, str] = {}
        stop_at: float | None = None
        while True:
            while not stopping and len(running) < self.jobs and (execution := schedule.next()) is not None:
                needed = estimated_bytes(schedule.nodes[execution.references[0]], self.store)
                if running and room is not None and sum(memory.values()) + needed > room:
                    schedule.put_back(execution)
                    break
                self._put_requests(schedule, execution)
                identifier = workers.start(self._arguments(execution), folder / f"{workers.next_identifier}.log")
                running[identifier], memory[identifier] = execution, needed
                began[identifier] = time.monotonic()
                display.started(execution)
            if not running:
                return logs, busy_seconds
            if stopping and not workers.ready:
                # Nothing was forked yet, and nothing will be: the server goes with the run.
                for identifier, execution in running.items():
                    _end(schedule, execution, Ended(identifier, -signal.SIGTERM), saved, stopping=True)
                    display.ended(execution, schedule)
                return logs, busy_seconds
            if stopping and stop_at is None:
                stop_at = time.monotonic() + self.grace_seconds
                workers.signal_all(signal.SIGTERM)
            elif stop_at is not None and (time.monotonic() > stop_at or len(stopping) > 1):
                workers.signal_all(signal.SIGKILL)
            for happened in workers.poll(_POLL_SECONDS):
                if isinstance(happened, Ended):
                    execution = running.pop(happened.identifier)
                    del memory[happened.identifier]
                    busy_seconds += time.monotonic() - began.pop(happened.identifier)
                    _end(schedule, execution, happened, saved, bool(stopping))
                    logs |= self._keep_logs(execution, attempts, folder / f"{happened.identifier}.log")
                    display.ended(execution, schedule)
                    continue
                identifier, event = happened
                _note(schedule, event, attempts, saved)
                display.event(running[identifier], event)
            display.tick()

    def _put_requests(self, schedule: Schedule, execution: Execution) -> None:
        for reference in execution.references:
            self.store.put_request(request_of(schedule.nodes[reference]))

    def _arguments(self, execution: Execution) -> list[str]:
        keys = [argument for reference in execution.references for argument in ("--key", reference.key)]
        return ["stage", execution.stage, "--store", self.store.uri, *keys]

    def _keep_logs(self, execution: Execution, attempts: "dict[Reference, str]", log: Path) -> "dict[Reference, str]":
        kept: dict[Reference, str] = {}
        if not log.exists():
            return kept
        for reference in execution.references:
            if reference in attempts:
                self.store.write_log(reference, attempts[reference], log)
                kept[reference] = f"kilter show {reference.short} --log --store {self.store.uri}"
        log.unlink()
        return kept


def _end(
    schedule: Schedule, execution: Execution, ended: Ended, saved: "Mapping[Reference, int]", stopping: bool
) -> None:
    """Decide about the stages of an execution that is over of which nothing was heard: what is to become of them."""
    # SIGTERM ends a process only before it listens for it.
    if not stopping and ended.status in (EXIT_PREEMPTED, -signal.SIGTERM):
        schedule.preempt(execution, saved)
    for reference in schedule.unfinished(execution.references):
        if reference in schedule.ready:
            continue
        if stopping:
            schedule.fail(reference, STOPPED)
        elif ended.status < 0:
            name = signal.Signals(-ended.status).name
            hint = " (the system ran out of memory? try --jobs 1)" if name == "SIGKILL" else ""
            schedule.fail(reference, f"its process was ended by {name}{hint}")
        else:
            schedule.fail(reference, f"its process ended with exit code {ended.status} without saying why")


def _note(schedule: Schedule, event: "Event", attempts: "dict[Reference, str]", saved: "dict[Reference, int]") -> None:
    reference = event.reference
    if event.kind == "started" and event.attempt is not None:
        attempts[reference] = event.attempt
    elif event.kind in ("done", "reused"):
        schedule.finish(reference)
    elif event.kind == "failed":
        schedule.fail(reference, event.message or "no reason given")
    elif event.kind == "preempted" and event.done is not None:
        saved[reference] = event.done


def _grace_seconds(environment: "Mapping[str, str]") -> float:
    given = environment.get(_GRACE_VARIABLE, "")
    try:
        seconds = float(given) if given else _GRACE_SECONDS
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise WrongInput(f"{_GRACE_VARIABLE} is {given!r}; give the seconds that stages have to save their state")
    return seconds


def _modules(plan: "Plan", done: "set[Reference]") -> list[str]:
    missing = {reference.stage for reference in plan.nodes if reference not in done}
    return list(dict.fromkeys(module for stage in STAGES if stage in missing for module in STAGES[stage].imports))


def _failures(plan: "Plan", schedule: Schedule, logs: "dict[Reference, str]") -> tuple[Failure, ...]:
    blocked_by: dict[Reference, int] = {}
    for cause in schedule.blocked.values():
        blocked_by[cause] = blocked_by.get(cause, 0) + 1
    return tuple(
        Failure(reference, plan.nodes[reference].label, reason, logs.get(reference), blocked_by.get(reference, 0))
        for reference, reason in schedule.failed.items()
    )


@contextmanager
def _stop_signals() -> "Iterator[list[bool]]":
    """Collect SIGINT and SIGTERM in a list instead of dying of them: one asks to stop, a second insists."""
    asked: list[bool] = []
    previous = {
        number: signal.signal(number, lambda *_: asked.append(True)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
