"""Leases: who is at work on a result, so that two runs do not compute the same thing at once.

A lease is an object `<stage>/<key>/lease/<generation>.json`. Whoever finds no live lease conditionally creates the next
generation, of which one racing taker wins, and then looks again: a lease that it has not judged dead makes it withdraw.
So no one ever deletes or overwrites a lease of somebody who lives, and two takers never both succeed.

What remains is a holder that stops for longer than its lease lasts (a suspended machine) and goes on: it works until
its next heartbeat tells that the lease is lost. A lease therefore only saves work. That one result wins is the commit's
doing.
"""

import json
import logging
import secrets
import threading
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError

from kilter.errors import StoreError
from kilter.model import Model
from kilter.store import layout
from kilter.store.manifest import UtcDatetime, now
from kilter.store.objects import ObjectMissing
from kilter.store.processes import Process

if TYPE_CHECKING:
    from types import TracebackType

    from kilter.plan.graph import Reference
    from kilter.store.store import Store

CLOCK_RESOLUTION_SECONDS = 2.0
"""S3 tells times in whole seconds, twice."""

_log = logging.getLogger(__name__)


class Holder(Model):
    """Who holds a lease."""

    process: Process
    token: str
    """Random; tells this lease from any other."""
    since: UtcDatetime
    expiry_seconds: float
    """How long after its last heartbeat the holder is taken for dead, where its process cannot be seen."""
    beat: int = 0

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.process.host}, since {self.since:%Y-%m-%d %H:%M:%S} UTC"


class Lease:
    """A lease that is held: a thread keeps it alive until `release`, or the end of the `with` block."""

    def __init__(
        self, store: "Store", reference: "Reference", name: str, holder: Holder, heartbeat_seconds: float
    ) -> None:
        self.reference = reference
        self.holder = holder
        self._store = store
        self._name = name
        self._heartbeat_seconds = heartbeat_seconds
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name=f"lease {reference.short}", daemon=True)
        self._thread.start()

    @property
    def is_lost(self) -> bool:
        """Whether another holder took over because this one seemed dead."""
        return self._lost.is_set()

    def heartbeat(self) -> bool:
        """Tell the others that the holder lives; return whether the lease is still its own.

        Raises:
            StoreError: the store could not be reached; the lease may still be held.
        """
        names = _names(self._store, self.reference)
        if names != [self._name] or _read(self._store, self._name) is None:
            self._lost.set()
            return False
        self.holder = self.holder.model_copy(update={"beat": self.holder.beat + 1})
        self._store.objects.write(self._name, _encoded(self.holder))
        return True

    def release(self) -> None:
        """Give the lease back, if it is still this holder's."""
        if self._stop.is_set():
            return
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if not self.is_lost and _read_token(self._store, self._name) == self.holder.token:
            self._store.objects.delete([self._name])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        try:
            self.release()
        except StoreError as failure:
            # It expires by itself; what happened inside the block matters more.
            _log.warning("the lease of %s could not be given back: %s", self.reference, failure)

    def _keep_alive(self) -> None:
        while not self._stop.wait(self._heartbeat_seconds):
            try:
                if not self.heartbeat():
                    _log.warning("the lease of %s was taken over by another holder", self.reference)
                    return
            except StoreError as error:
                _log.warning("the lease of %s could not be renewed, trying again: %s", self.reference, error)


def acquire(
    store: "Store", reference: "Reference", *, heartbeat_seconds: float = 10, expiry_seconds: float = 60
) -> Lease | None:
    """Take the lease of a result, or return None while somebody else who lives has it.

    A holder of this machine is dead when its process is; any other when its last heartbeat is older than its expiry, by
    the clock of the store.

    Args:
        store: where.
        reference: of which result.
        heartbeat_seconds: how often the holder shows that it lives.
        expiry_seconds: after how long without a heartbeat others may take over.
    """
    store.make_ready()
    found = _names(store, reference)
    if any(_live_holder(store, name, expiry_seconds) is not None for name in found):
        return None
    generation = 1 + max((_generation(name) for name in found), default=0)
    name = f"{layout.leases(reference)}{generation:08d}.json"
    holder = Holder(process=Process.this(), token=secrets.token_hex(16), since=now(), expiry_seconds=expiry_seconds)
    if not store.objects.create(name, _encoded(holder)):
        return None
    if set(_names(store, reference)) - set(found) != {name}:
        store.objects.delete([name])
        return None
    lease = Lease(store, reference, name, holder, heartbeat_seconds)
    try:
        store.objects.delete(found)
    except BaseException:
        lease.release()
        raise
    return lease


def holder(store: "Store", reference: "Reference", *, expiry_seconds: float = 60) -> Holder | None:
    """Return who is at work on a result, or None if nobody who lives is."""
    for name in reversed(_names(store, reference)):
        live = _live_holder(store, name, expiry_seconds)
        if live is not None:
            return live
    return None


def _names(store: "Store", reference: "Reference") -> list[str]:
    return sorted(info.name for info in store.objects.list(layout.leases(reference)))


def _generation(name: str) -> int:
    digits = name.rpartition("/")[2].removesuffix(".json")
    return int(digits) if digits.isdecimal() else 0


def _live_holder(store: "Store", name: str, expiry_seconds: float) -> Holder | None:
    found = _read(store, name)
    if found is None:
        return None
    alive = found.process.is_alive()
    if alive is None:
        age = store.objects.age(name)
        alive = age is not None and age <= max(expiry_seconds, found.expiry_seconds) + CLOCK_RESOLUTION_SECONDS
    return found if alive else None


def _read(store: "Store", name: str) -> Holder | None:
    try:
        return Holder.model_validate(json.loads(store.objects.read(name)))
    except ObjectMissing:
        return None
    except (ValueError, ValidationError) as error:
        raise StoreError(
            f"the lease {store.uri}/{name} cannot be read; delete it if nobody is at work: {error}"
        ) from error


def _read_token(store: "Store", name: str) -> str | None:
    found = _read(store, name)
    return None if found is None else found.token


def _encoded(holder: Holder) -> bytes:
    return (json.dumps(holder.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()
