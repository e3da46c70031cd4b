"""What a process that runs stages tells its watchers, as lines of JSON or as lines for people."""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

from kilter.plan.graph import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping

EVENTS_DESCRIPTOR = "KILTER_EVENTS_FD"
_SECONDS_BETWEEN_UPDATES = 0.2

Kind = Literal["started", "progress", "waiting", "reused", "done", "failed", "preempted"]


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
    """Writes events for people who read a container's log."""

    def __call__(self, event: Event) -> None:
        """Write one line; progress at most every ten seconds."""
        if event.kind == "progress" and event.done != event.total:
            return
        amount = f" {event.done}/{event.total} {event.unit}" if event.done is not None else ""
        seconds = f" in {event.seconds:.1f} s" if event.seconds is not None else ""
        message = f": {event.message}" if event.message else ""
        print(f"{event.reference.short} {event.kind}{amount}{seconds}{message}", file=sys.stderr, flush=True)


def listener_from_environment(environment: "Mapping[str, str]") -> Listener:
    """Return a listener that writes where the backend asked for, or for people where nobody did."""
    descriptor = environment.get(EVENTS_DESCRIPTOR)
    if descriptor is None:
        return PlainLines()
    return JsonLines(os.fdopen(int(descriptor), "w"))


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
