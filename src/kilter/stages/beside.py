"""Stages whose processes a launcher started, on one machine or many: the first one leads, the others follow its word.

The first takes the lease, talks to the store's writers and commits. The others bring the inputs to their own machines
and train; of a stage that does not train they only wait for the end.
"""

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from kilter.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed import Store as Board  # type: ignore[attr-defined]

    from kilter.plan.graph import Reference

_POLL_SECONDS = 0.2
_GOODBYE_SECONDS = 60.0
_JOIN = timedelta(days=1)
"""How long processes wait for each other to begin: nodes may start far apart."""


@dataclass(frozen=True)
class Word:
    """What the first process says of a stage."""

    made: bool = False
    """The result is in the store."""
    error: str | None = None


class Beside:
    """The processes that a launcher started beside this one."""

    def __init__(self) -> None:
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]
        from torch.distributed.rendezvous import rendezvous

        # The same board that the processes later find each other by, under a name of its own.
        board, _, self._processes = next(rendezvous("env://", timeout=_JOIN))
        # torchrun keeps the board when it starts all processes once more.
        self._board: Board = PrefixStore(f"kilter-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", board)

    def say_begins(self, reference: "Reference", word: Word) -> None:
        """Tell the others, as the first, whether a stage is to be run or is there already."""
        self._board.set(f"begins/{reference}", json.dumps(asdict(word)))

    def say_ended(self, reference: "Reference", word: Word) -> None:
        """Tell the others, as the first, how a stage ended, and give them time to hear it: the board may be ours."""
        self._board.set(f"ended/{reference}", json.dumps(asdict(word)))
        until = time.monotonic() + _GOODBYE_SECONDS
        while self._board.add(f"left/{reference}", 0) < self._processes - 1 and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)

    def begins(self, reference: "Reference", stop: "Callable[[], bool]") -> Word:
        """Wait for the first process's word on what is to be done.

        Raises:
            StageFailed: told to stop while waiting.
        """
        return self._word(f"begins/{reference}", stop)

    def ended(self, reference: "Reference", stop: "Callable[[], bool]") -> Word:
        """Wait for the first process's word on how it ended.

        Raises:
            StageFailed: told to stop while waiting.
        """
        return self._word(f"ended/{reference}", stop)

    def leave(self, reference: "Reference") -> None:
        """Let the first process know that this one waits for nothing more."""
        with suppress(Exception):  # the first may be gone, and with it the board
            self._board.add(f"left/{reference}", 1)

    def _word(self, key: str, stop: "Callable[[], bool]") -> Word:
        while not self._board.check([key]):
            if stop():
                raise StageFailed("stopped while it waited for the first of the processes beside it")
            time.sleep(_POLL_SECONDS)
        return Word(**json.loads(self._board.get(key)))
