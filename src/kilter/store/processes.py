"""Who a process is, so that another process can tell whether it still lives. Linux; elsewhere nothing can be told."""

import os
import platform
from pathlib import Path
from typing import Self

from kilter.model import Model

_STATE_FIELD = 0
_START_FIELD = 19
_DEAD_STATES = {"Z", "X", "x"}


def host_name() -> str:
    """Return this machine's name."""
    return platform.node() or "unknown"


class Process(Model):
    """One process of one boot of one machine."""

    host: str
    boot: str
    """The kernel's boot id; empty where it has none."""
    namespace: str
    """The PID namespace, since containers of one machine count their processes separately."""
    user: int
    pid: int
    started: int
    """Clock ticks from boot to the process's start."""

    @classmethod
    def this(cls) -> Self:
        """Return this process."""
        pid = os.getpid()
        boot, namespace = _boot_and_namespace()
        found = _state_and_start(pid)
        return cls(
            host=host_name(),
            boot=boot,
            namespace=namespace,
            user=os.getuid(),
            pid=pid,
            started=0 if found is None else found[1],
        )

    def is_alive(self) -> bool | None:
        """Tell whether the process lives; None if that cannot be seen from here."""
        boot, namespace = _boot_and_namespace()
        seen_from_here = (host_name(), boot, namespace, os.getuid())
        # Processes of other users may be hidden, which is not being dead.
        if not boot or seen_from_here != (self.host, self.boot, self.namespace, self.user):
            return None
        found = _state_and_start(self.pid)
        return found is not None and found[0] not in _DEAD_STATES and found[1] == self.started


def _boot_and_namespace() -> tuple[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "", ""


def _state_and_start(pid: int) -> tuple[str, int] | None:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command, in brackets, may itself hold spaces and brackets.
    fields = status.rpartition(")")[2].split()
    return fields[_STATE_FIELD], int(fields[_START_FIELD])
