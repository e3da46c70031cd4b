"""Shows a run: a live table on a terminal, plain lines anywhere else."""

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kilter.backends.local.schedule import STOPPED
from kilter.cli.console import human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

    from kilter.backends.local.backend import Display
    from kilter.backends.local.schedule import Execution, Schedule
    from kilter.plan.graph import Plan, Reference
    from kilter.stages.events import Event

RUNS_AGAIN = "stopped from outside; it runs again"
_SHOWN_VALUES = ("loss", "margin", "accuracy")


class Lines:
    """One line when an execution ends: for logs and pipes."""

    def __init__(self) -> None:
        self.total = 0
        self.began: dict[Execution, float] = {}

    def planned(self, plan: "Plan", done: "set[Reference]") -> None:
        """Say how much there is to do."""
        self.total = len(plan.nodes)
        if len(done) < self.total:
            print(f"{self.total - len(done)} of {self.total} stages to run", file=sys.stderr)

    def started(self, execution: "Execution") -> None:
        """Remember when it began."""
        self.began[execution] = time.monotonic()

    def event(self, execution: "Execution", event: "Event") -> None:
        """Say when an execution has to wait for another run, was stopped, or has something to warn of."""
        if event.kind in ("waiting", "warning", "preempted"):
            word = "stopped" if event.kind == "preempted" else event.kind
            print(f"{word}: {execution.label}: {event.message}", file=sys.stderr)

    def ended(self, execution: "Execution", schedule: "Schedule") -> None:
        """Say how it ended and how far the run is."""
        seconds = time.monotonic() - self.began.pop(execution)
        failed = [schedule.failed[reference] for reference in execution.references if reference in schedule.failed]
        state = human_seconds(seconds)
        if failed:
            state = f"{'' if failed[0] == STOPPED else 'FAILED: '}{failed[0]}"
        elif schedule.unfinished(execution.references):
            state = RUNS_AGAIN
        width = len(str(self.total))
        print(
            f"[{len(schedule.done):>{width}}/{self.total}] {execution.stage:<9} {execution.label}  {state}",
            file=sys.stderr,
        )

    def tick(self) -> None:
        """Nothing moves in a log."""


class LiveTable:
    """A bar for the whole run, and a line for each execution with its step, loss and time left."""

    def __init__(self, live: "Live") -> None:
        self.live = live
        self.plan_size = 0
        self.done_before = 0
        self.done = 0
        self.failed = 0
        self.began = time.monotonic()
        self.running: dict[Execution, tuple[float, Event | None]] = {}

    def planned(self, plan: "Plan", done: "set[Reference]") -> None:
        """Begin."""
        self.plan_size, self.done_before, self.done = len(plan.nodes), len(done), len(done)
        self.began = time.monotonic()

    def started(self, execution: "Execution") -> None:
        """Show a new line."""
        self.running[execution] = (time.monotonic(), None)

    def event(self, execution: "Execution", event: "Event") -> None:
        """Show where it is."""
        if event.kind in ("progress", "waiting") and execution in self.running:
            self.running[execution] = (self.running[execution][0], event)
        elif event.kind in ("done", "reused"):
            self.done += 1
        elif event.kind in ("warning", "preempted"):
            self.live.console.print(f"[yellow]![/] {execution.stage:<9} {execution.label}: {event.message}")

    def ended(self, execution: "Execution", schedule: "Schedule") -> None:
        """Drop its line; keep a failure in sight."""
        began, _ = self.running.pop(execution)
        self.done, self.failed = len(schedule.done), len(schedule.failed)
        failed = [schedule.failed[reference] for reference in execution.references if reference in schedule.failed]
        console = self.live.console
        if failed and failed[0] == STOPPED:
            console.print(f"[yellow]■[/] {execution.stage:<9} {execution.label}: stopped")
        elif not failed and schedule.unfinished(execution.references):
            console.print(f"[yellow]■[/] {execution.stage:<9} {execution.label}: {RUNS_AGAIN}")
        elif failed:
            console.print(f"[red]✗[/] {execution.stage:<9} {execution.label}: {failed[0]}")
        else:
            console.print(
                f"[green]✓[/] {execution.stage:<9} {execution.label} [dim]{human_seconds(time.monotonic() - began)}[/]"
            )

    def tick(self) -> None:
        """Draw again."""
        self.live.update(self)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        for _ in range(4):
            grid.add_column(no_wrap=True)
        grid.add_row(
            f"[bold]{self.done}/{self.plan_size} stages[/]" + (f" [red]{self.failed} failed[/]" if self.failed else ""),
            ProgressBar(total=max(self.plan_size, 1), completed=self.done, width=30),
            human_seconds(time.monotonic() - self.began),
            self._time_left(),
        )
        for execution, (began, event) in self.running.items():
            seconds = time.monotonic() - began
            grid.add_row(f"[cyan]{execution.stage}[/] {execution.label}", *_position(event), human_seconds(seconds))
        yield grid

    def _time_left(self) -> str:
        ran = self.done - self.done_before
        if ran < 3:
            return ""
        left = (time.monotonic() - self.began) / ran * (self.plan_size - self.done)
        return f"about {human_seconds(left)} left"


def _position(event: "Event | None") -> tuple[str, str]:
    if event is None:
        return "", ""
    if event.kind == "waiting":
        return "[yellow]waiting[/]", event.message or ""
    where = f"{event.done}/{event.total} {event.unit}" if event.total else f"{event.done} {event.unit}"
    values = "  ".join(f"{name} {event.values[name]:.3f}" for name in _SHOWN_VALUES if name in event.values)
    return where, values


@contextmanager
def display_for_terminal() -> "Iterator[Display]":
    """Yield the display that fits where stderr goes."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield LiveTable(live)
