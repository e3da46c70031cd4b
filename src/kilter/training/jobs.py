"""A training as data: what the processes that train together are told, and what the first of them says meanwhile."""

import json
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from kilter.model import Model
from kilter.plan.estimates.memory import Offload, Zero

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHECKPOINTS = ".checkpoints"
"""Where checkpoints are made, below the output of a training."""

STORE_ADDRESS, STORE_PORT = "KILTER_STORE_ADDRESS", "KILTER_STORE_PORT"
_STOP = "kilter/stop"
_TIMEOUT = timedelta(days=7)
"""A checkpoint may take as long as it takes to be sent; who waits is killed if the other side is gone."""

Inputs = dict[str, Path | list[Path] | None]


class Job(Model):
    """What each process of a training reads before it begins."""

    stage: str
    """sft or align."""
    inputs: dict[str, Path | tuple[Path, ...] | None]
    """The files and folders that the training reads, by the names of its arguments."""
    config: dict[str, Any]
    output: Path
    checkpoint: Path | None
    """Where to go on from."""
    checkpoint_seconds: float
    zero: str | Zero
    offload: Offload
    folder: Path
    """Where each process writes how it ended."""
    parent: int
    """The process that started them."""


@dataclass(frozen=True)
class Ending:
    """How one process ended."""

    moment: float
    """Seconds since the epoch: of several that failed, the first is the cause."""
    summary: dict[str, Any] | None = None
    kind: str | None = None
    """The name of the error's class."""
    message: str | None = None
    step: int | None = None
    """With `Preempted`, the step that the next attempt goes on from."""

    @classmethod
    def read(cls, folder: Path, rank: int) -> "Ending | None":
        """Return how a process says that it ended; None if it did not come to that."""
        path = folder / f"ending-{rank}.json"
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def write(self, folder: Path, rank: int) -> None:
        """Say how this process ended, whole or not at all."""
        partial = folder / f"ending-{rank}.partial"
        partial.write_text(json.dumps(self.__dict__))
        partial.rename(folder / f"ending-{rank}.json")


class Speaker:
    """The side of the first training process."""

    def __init__(self, environment: "Mapping[str, str]" = os.environ) -> None:
        address, port = environment[STORE_ADDRESS], int(environment[STORE_PORT])
        self._store = TCPStore(address, port, is_master=False, timeout=_TIMEOUT)
        self._count = 0

    def say(self, **message: Any) -> None:
        """Say something that needs no answer."""
        self._store.set(f"kilter/said/{self._count}", json.dumps(message))
        self._count += 1

    def ask(self, **message: Any) -> Any:
        """Say something and wait for the answer."""
        answer = f"kilter/answer/{self._count}"
        self.say(**message)
        return json.loads(self._store.get(answer))

    def told_to_stop(self) -> bool:
        """Tell whether the other side asked to stop."""
        return bool(self._store.check([_STOP]))


class Hearer:
    """The side of the process that started the others."""

    def __init__(self) -> None:
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=_TIMEOUT)
        self._count = 0

    @property
    def port(self) -> int:
        """Where the store is found, which the processes also find each other by."""
        return int(self._store.port)

    def heard(self) -> "Iterator[tuple[int, dict[str, Any]]]":
        """Yield what was said since, each with its number."""
        while self._store.check([f"kilter/said/{self._count}"]):
            key = f"kilter/said/{self._count}"
            message = json.loads(self._store.get(key))
            self._store.delete_key(key)
            self._count += 1
            yield self._count - 1, message

    def answer(self, number: int, value: Any) -> None:
        """Answer what was asked."""
        self._store.set(f"kilter/answer/{number}", json.dumps(value))

    def ask_to_stop(self) -> None:
        """Ask the processes to save and stop."""
        self._store.set(_STOP, "1")
