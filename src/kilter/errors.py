"""The errors that Kilter raises on purpose, each with the exit code that a script sees."""

from typing import ClassVar

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_PREEMPTED = 75
"""A stage was told to stop (SIGTERM) and saved its state: no failure, run it again (EX_TEMPFAIL of BSD's sysexits)."""


class KilterError(Exception):
    """Something went wrong that a user can act on: the message says what, where, why and what to do."""

    exit_code: ClassVar[int] = EXIT_FAILED


class WrongInput(KilterError):  # noqa: N818 - what the user gave is wrong; nothing failed
    """What the user asked for cannot be done as asked: a study file, an argument, an environment variable."""

    exit_code = EXIT_WRONG_INPUT


class StageFailed(KilterError):  # noqa: N818
    """A stage could not give the result that was asked for."""


class StoreError(KilterError):
    """The store could not be read or written."""


class CorruptObject(StoreError):  # noqa: N818
    """An object's bytes are not those that its manifest names."""


class Preempted(KilterError):  # noqa: N818
    """The stage was told to stop and has saved what it saves; running it again continues."""

    exit_code = EXIT_PREEMPTED

    def __init__(self, message: str, step: int | None = None) -> None:
        """Take what to say, and the step that the next attempt goes on from, where there is one."""
        super().__init__(message)
        self.step = step


class Stopped(BaseException):
    """Told to stop at once, wherever the process is: what catches exceptions, as logging does, must not swallow it."""
