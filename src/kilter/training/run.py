"""What a training is given from outside: whom to tell, when to stop, and where its checkpoints go."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kilter.training.parallel import ALONE, Parallel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kilter.progress import Progress

CHECKPOINT_SECONDS = 300.0


class Resume(Protocol):
    """Keeps the checkpoints of one stage across its attempts."""

    def latest(self) -> "Path | None":
        """Return the folder of the newest checkpoint, brought to this machine and verified, or None."""
        ...

    def publish(self, directory: "Path", step: int) -> None:
        """Take the checkpoint in `directory` away, to keep it while the training goes on."""
        ...

    def settle(self) -> int | None:
        """Wait until the newest checkpoint is kept or given up, and return the step of the newest that is kept."""
        ...


class NoResume:
    """Keeps nothing: every training starts from its beginning."""

    def latest(self) -> "Path | None":
        """Return None."""
        return None

    def publish(self, directory: "Path", step: int) -> None:
        """Do nothing."""

    def settle(self) -> int | None:
        """Return None."""
        return None


class GivenResume(NoResume):
    """Knows where to go on from and keeps nothing: for processes beside the first, which keeps for all."""

    def __init__(self, checkpoint: "Path | None") -> None:
        self._checkpoint = checkpoint

    def latest(self) -> "Path | None":
        """Return the checkpoint that was given."""
        return self._checkpoint


def _log(message: str) -> None:
    logging.getLogger("kilter.training").info(message)


@dataclass(frozen=True)
class TrainingRun:
    """One attempt at a training: none of this changes the weights that come out."""

    progress: "Progress"
    resume: Resume
    stop: "Callable[[], bool]"
    """Asked after every step; once it is true, the state is saved and the training ends with `Preempted`."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """A checkpoint is made at the first step boundary after this many seconds."""
    log: "Callable[[str], None]" = _log
    parallel: Parallel = ALONE
    """The processes that train together, and which of them this one is."""
