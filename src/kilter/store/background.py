"""Checkpoints on their way to the store while the training goes on.

One thread sends one checkpoint at a time. Of those that are made meanwhile only the newest waits, since only it counts.
What is sent has been moved out of the trainer's folder, so that nothing is copied and nothing changes under way.
"""

import logging
import shutil
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from kilter.errors import Preempted, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from kilter.store.checkpoints import ResumeState

FAILURES_BEFORE_WARNING = 3
"""After so many failures in a row the stage says so where people look; the training goes on, since it is healthy."""
_LAST_TRIES = 3
"""How often the newest checkpoint is tried while the training waits for it."""
_POLL_SECONDS = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Waiting:
    """A checkpoint that is to be sent."""

    folder: "Path"
    step: int
    since: float
    failures: int = 0


class BackgroundCheckpoints:
    """The checkpoints of one attempt; a context manager that leaves nothing running.

    When its block ends well, nothing more is sent, because the result makes resume state needless. When it ends with
    `Preempted`, the training has waited already, or was told to stop a second time and cannot. At any other error
    the newest checkpoint is sent to its end first.
    """

    def __init__(self, state: "ResumeState", warn: "Callable[[str], None]") -> None:
        self._state = state
        self._warn = warn
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._waiting: _Waiting | None = None
        self._sending = False
        self._tries = 1
        self._closed = False
        self._cancelled = False
        self._brought: Path | None = None
        self._newest: int | None = None
        self._in_a_row = 0
        self._kept = self._failed = self._superseded = 0
        self._slowest = 0.0

    def latest(self) -> "Path | None":
        """Return a private copy of the newest checkpoint that can be trusted, or None to start from the beginning.

        It is there until the first checkpoint of this attempt is handed over.
        """
        self._brought = self._state.latest()
        return self._brought

    def publish(self, directory: "Path", step: int) -> None:
        """Move the checkpoint in `directory` away and send it in the background; one that still waited is dropped."""
        since = time.monotonic()
        try:
            taken = _Waiting(self._state.take(directory, step), step, since)
        except StoreError as error:
            self._note_failure(step, error)
            return
        with self._changed:
            dropped, self._waiting = self._waiting, taken
            if dropped is not None and dropped.failures == 0:
                self._superseded += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if dropped is not None:
            self._state.discard(dropped.folder)
        if self._brought is not None:
            shutil.rmtree(self._brought, ignore_errors=True)
            self._brought = None

    def settle(self) -> int | None:
        """Wait until the newest checkpoint is kept, or has failed for good; return the newest step that is kept."""
        with self._changed:
            self._tries = _LAST_TRIES
            try:
                self._wait()
            finally:
                self._tries = 1
            return self._newest

    def account(self) -> dict[str, Any]:
        """Return what became of the checkpoints, as JSON data; seconds are those from the trainer to the store."""
        with self._changed:
            return {
                "kept": self._kept,
                "superseded": self._superseded,
                "failed": self._failed,
                "slowest_seconds": round(self._slowest, 3),
            }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        try:
            if isinstance(error, Exception) and not isinstance(error, Preempted):
                with self._changed:
                    self._wait()
        finally:
            self._stop()

    def _stop(self) -> None:
        with self._changed:
            self._closed = self._cancelled = True
            left, self._waiting = self._waiting, None
            self._changed.notify_all()
        if left is not None:
            self._state.discard(left.folder)
        while self._thread is not None and self._thread.is_alive():
            self._state.interrupt()
            self._thread.join(_POLL_SECONDS)

    def _wait(self) -> None:
        self._changed.notify_all()
        while self._sending or self._is_due():
            # A signal that another thread caught is only heard by one that wakes up.
            self._changed.wait(_POLL_SECONDS)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._is_due():
                    self._changed.wait()
                if self._closed or self._waiting is None:
                    return
                sent, self._waiting = self._waiting, None
                self._sending = True
            try:
                kept = self._state.keep(sent.folder, sent.step, lambda: self._cancelled)
                self._succeeded(sent, kept)
            except Exception as error:  # whatever it is, the training is healthy and must go on
                self._failed_to(sent, error)

    def _is_due(self) -> bool:
        # What failed waits for the next checkpoint to take its place, unless there will be none.
        return self._waiting is not None and self._waiting.failures < self._tries

    def _succeeded(self, sent: _Waiting, kept: bool) -> None:
        seconds = time.monotonic() - sent.since
        with self._changed:
            self._sending = False
            self._in_a_row = 0
            if kept:
                self._kept += 1
                self._newest = sent.step
                self._slowest = max(self._slowest, seconds)
            self._changed.notify_all()
        if kept:
            _log.info("the checkpoint of step %d is in the store, %.1f s after it was made", sent.step, seconds)

    def _failed_to(self, sent: _Waiting, error: Exception) -> None:
        if self._cancelled:
            self._state.discard(sent.folder)
            return
        self._note_failure(sent.step, error)
        with self._changed:
            superseded = self._waiting is not None
            if not superseded:
                self._waiting = replace(sent, failures=sent.failures + 1)
            self._sending = False
            self._changed.notify_all()
        if superseded:
            self._state.discard(sent.folder)

    def _note_failure(self, step: int, error: Exception) -> None:
        with self._changed:
            self._failed += 1
            self._in_a_row += 1
            in_a_row, newest = self._in_a_row, self._newest
        reason = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        _log.warning("the checkpoint of step %d could not be kept: %s", step, reason)
        if in_a_row == FAILURES_BEFORE_WARNING:
            since = "this attempt began" if newest is None else f"step {newest}"
            self._warn(
                f"{in_a_row} checkpoints in a row could not be kept; training goes on, but a kill now would lose all "
                f"since {since}: {reason}"
            )
