"""The scheduler's side of the fork server: starts executions, reads their events, learns how they ended."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kilter.stages.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_MESSAGE_BYTES = 1 << 20


@dataclass
class Worker:
    """A running execution."""

    identifier: int
    log: "Path"
    events: int
    pid: int | None = None
    buffer: bytes = b""
    stopping: bool = field(default=False)


@dataclass(frozen=True)
class Ended:
    """An execution that is over: its exit code, negative for the signal that ended it."""

    identifier: int
    status: int


class Workers:
    """Forks executions from one warm process; a context manager that leaves nothing running."""

    def __init__(self, modules: "Sequence[str]", environment: "Mapping[str, str]", log: "Path") -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection = ours
        self.running: dict[int, Worker] = {}
        self.next_identifier = 0
        self.selector = selectors.DefaultSelector()
        self.ready = False
        """The fork server has imported what stages need, and forks within milliseconds."""
        self.asked: signal.Signals | None = None
        with log.open("ab") as stream:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [
                    sys.executable,
                    "-m",
                    "kilter.backends.local.forkserver",
                    str(theirs.fileno()),
                    str(os.getpid()),
                    *modules,
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=dict(environment),
                start_new_session=True,
            )
        theirs.close()
        self.selector.register(ours, selectors.EVENT_READ)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.signal_all(signal.SIGKILL)
        self.connection.close()
        self.process.kill()
        self.process.wait()
        for worker in self.running.values():
            os.close(worker.events)
        self.selector.close()

    def start(self, arguments: "Sequence[str]", log: "Path") -> int:
        """Start `kilter ARGUMENTS` with its output in `log`, and return the execution's identifier."""
        identifier = self.next_identifier
        self.next_identifier += 1
        read, write = os.pipe()
        os.set_blocking(read, False)
        message = json.dumps({"id": identifier, "arguments": list(arguments), "log": str(log)}).encode()
        socket.send_fds(self.connection, [message], [write])
        os.close(write)
        self.running[identifier] = Worker(identifier, log, read)
        self.selector.register(read, selectors.EVENT_READ, identifier)
        return identifier

    def poll(self, seconds: float) -> "Iterator[tuple[int, Event] | Ended]":
        """Wait up to `seconds` and yield what happened: events of executions, and executions that ended.

        Raises:
            ChildProcessError: the fork server itself is gone.
        """
        for selected, _ in self.selector.select(seconds):
            if selected.data is not None:
                yield from self._events(selected.data)
            else:
                yield from self._messages()

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every running execution, also to those that are about to be forked."""
        self.asked = number
        for worker in self.running.values():
            if worker.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    def _messages(self) -> "Iterator[tuple[int, Event] | Ended]":
        message = self.connection.recv(_MESSAGE_BYTES)
        if not message:
            raise ChildProcessError("the process that starts stages ended unexpectedly")
        content = json.loads(message)
        if "ready" in content:
            self.ready = True
        elif "pid" in content:
            self.running[content["id"]].pid = content["pid"]
            if self.asked is not None:
                with suppress(ProcessLookupError):
                    os.kill(content["pid"], self.asked)
        elif "status" in content:
            identifier = content["id"]
            yield from self._events(identifier)
            worker = self.running.pop(identifier)
            with suppress(KeyError):
                self.selector.unregister(worker.events)
            os.close(worker.events)
            yield Ended(identifier, content["status"])

    def _events(self, identifier: int) -> "Iterator[tuple[int, Event]]":
        worker = self.running.get(identifier)
        if worker is None:
            return
        while True:
            try:
                block = os.read(worker.events, 1 << 16)
            except BlockingIOError:
                break
            if not block:
                with suppress(KeyError):
                    self.selector.unregister(worker.events)
                break
            worker.buffer += block
        *lines, worker.buffer = worker.buffer.split(b"\n")
        for line in lines:
            yield identifier, Event(**json.loads(line))
