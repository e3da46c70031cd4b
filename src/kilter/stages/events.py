"""What a process that runs stages tells its watchers, as lines of JSON or as lines for people."""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

from kilter.plan.graph import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping

EVENTS_DESCRIPTOR = "KILTER_EVENTS_FD"
_SECONDS_BETWEEN_UPDATES = 0.2
_SECONDS_BETWEEN_LINES = 5.0

Kind = Literal["started", "progress", "waiting", "reused", "done", "failed", "preempted", "warning"]


@dataclass(frozen=True)
class Event:
    """Something that happened to one stage."""

    kind: Kind
    stage: str
    key: str
    attempt: str | None = None
    done: int | None = None
    total: int | None = None
    unit: str | None = None
    values: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    message: str | None = None

    @property
    def reference(self) -> Reference:
        """The stage it happened to."""
        return Reference(self.stage, self.key)


class Listener(Protocol):
    """Receives events."""

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        ...


class JsonLines:
    """Writes each event as a line of JSON, for the backend that started this process."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, event: Event) -> None:
        """Write the event; a reader that has gone away is no reason to stop working."""
        try:
            self.stream.write(json.dumps(asdict(event)) + "\n")
            self.stream.flush()
        except BrokenPipeError:
            self.stream = open(os.devnull, "w")  # noqa: SIM115, PTH123 - lives as long as the process


class PlainLines:
    """Writes events for people who read a log."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, event: Event) -> None:
        """Write one line; of progress, only now and then and at the end."""
        now = time.monotonic()
        if event.kind == "progress":
            if now - self.last < _SECONDS_BETWEEN_LINES and event.done != event.total:
                return
            self.last = now
        of = f"/{event.total}" if event.total is not None else ""
        amount = f" {event.done}{of} {event.unit}" if event.done is not None else ""
        values = "".join(f"  {name} {value:.4g}" for name, value in event.values.items())
        seconds = f" in {event.seconds:.1f} s" if event.seconds is not None else ""
        message = f": {event.message}" if event.message else ""
        moment = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        line = f"{moment} {event.reference.short} {event.kind}{amount}{values}{seconds}{message}"
        print(line, file=sys.stderr, flush=True)


class Both:
    """Tells two listeners."""

    def __init__(self, first: Listener, second: Listener) -> None:
        self.first = first
        self.second = second

    def __call__(self, event: Event) -> None:
        """Tell the first, then the second."""
        self.first(event)
        self.second(event)


def listener_from_environment(environment: "Mapping[str, str]") -> Listener:
    """Return a listener that writes a log on stderr, and JSON where the backend asked for it."""
    descriptor = environment.get(EVENTS_DESCRIPTOR)
    if descriptor is None:
        return PlainLines()
    return Both(PlainLines(), JsonLines(os.fdopen(int(descriptor), "w")))


class StageProgress:
    """Turns a stage's progress into events, no more often than eyes can follow."""

    def __init__(self, listener: Listener, reference: Reference) -> None:
        self.listener = listener
        self.reference = reference
        self.last = 0.0

    def update(
        self, done: int, total: int | None = None, unit: str = "steps", values: "Mapping[str, float] | None" = None
    ) -> None:
        """Tell how far the stage is."""
        now = time.monotonic()
        if now - self.last < _SECONDS_BETWEEN_UPDATES and done != total:
            return
        self.last = now
        numbers = {name: float(value) for name, value in (values or {}).items()}
        self.listener(
            Event(
                "progress", self.reference.stage, self.reference.key, done=done, total=total, unit=unit, values=numbers
            )
        )
