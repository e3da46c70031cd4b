"""How a running stage tells what it is doing: the stage reports, whoever watches decides how to show it."""

import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

_MIB = 1024 * 1024


class Progress(Protocol):
    """Receives what a stage has done so far."""

    def update(
        self, done: int, total: int | None = None, unit: str = "steps", values: "Mapping[str, float] | None" = None
    ) -> None:
        """Tell that `done` of `total` units are done; `values` are numbers worth showing, such as the loss."""
        ...


class Silent:
    """Tells nobody."""

    def update(
        self, done: int, total: int | None = None, unit: str = "steps", values: "Mapping[str, float] | None" = None
    ) -> None:
        """Do nothing."""


class Transfer:
    """Adds up the bytes that several threads move, as progress in MiB."""

    def __init__(self, progress: Progress, unit: str, total: int | None = None) -> None:
        self._progress = progress
        self._unit = unit
        self._total = None if total is None else -(-total // _MIB)
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        """Take note of so many bytes more; less than a MiB in all is not worth telling."""
        with self._lock:
            before, self._bytes = self._bytes // _MIB, self._bytes + count
            if (now := self._bytes // _MIB) > before:
                self._progress.update(now, self._total, self._unit)
