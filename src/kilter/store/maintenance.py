"""Keeping a store: what it holds, whether it is whole, what can go, and what must be made anew."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from kilter.errors import CorruptObject, StoreError
from kilter.store import layout
from kilter.store.lease import acquire, holder
from kilter.store.manifest import Manifest, StoredObject, now
from kilter.store.objects import ObjectMissing
from kilter.store.store import each_in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from kilter.plan.graph import Reference
    from kilter.store.objects import ObjectInfo
    from kilter.store.store import Store

ABANDONED_TRANSFER_SECONDS = 24 * 3600.0
"""No transfer of one file takes longer."""


@dataclass(frozen=True)
class Usage:
    """What one committed result takes."""

    reference: "Reference"
    label: str
    size: int
    """Bytes of its objects."""
    objects: int
    ended: "datetime"
    seconds: float


@dataclass(frozen=True)
class Corruption:
    """One thing in a store that is not what it should be."""

    reference: "Reference"
    name: str
    """Of the object, relative to its attempt; `manifest.json` for the manifest itself."""
    reason: str

    def __str__(self) -> str:
        return f"{self.name} of {self.reference}: {self.reason}"


@dataclass(frozen=True)
class PruneResult:
    """What pruning deleted, or would delete."""

    size: int
    """Bytes."""
    objects: int
    attempts: tuple[str, ...]
    """`stage/key/attempt` of every attempt of which anything goes."""
    leases: int
    at_work: "tuple[Reference, ...]"
    """Results that were left alone, because somebody holds their lease."""


def usage(store: "Store") -> list[Usage]:
    """Return what each committed result takes, in the order of stages and keys.

    Raises:
        CorruptObject: a manifest was changed.
    """
    return [
        Usage(
            reference=manifest.reference,
            label=manifest.label,
            size=manifest.size,
            objects=len(manifest.objects),
            ended=manifest.ended,
            seconds=manifest.resources.seconds,
        )
        for manifest in store.manifests()
    ]


def verify(
    store: "Store", references: "Iterable[Reference] | None" = None, progress: "Callable[[int], None] | None" = None
) -> list[Corruption]:
    """Read every object of the results and compare its digest with its manifest.

    Args:
        store: which.
        references: which results; None for all that are committed.
        progress: gets the bytes that were read.

    Returns:
        What is wrong, in the order of the results; empty if nothing is.
    """
    found: list[Corruption] = []
    chosen = store.references() if references is None else references
    for reference, manifest in _readable_manifests(store, chosen):
        if isinstance(manifest, StoreError):
            found.append(Corruption(reference, "manifest.json", str(manifest)))
        elif manifest is None:
            if references is not None:
                found.append(Corruption(reference, "manifest.json", "there is no committed result of this name"))
        else:
            for stored, defect in each_in_threads(partial(_defect, store, manifest), manifest.objects):
                if progress is not None:
                    progress(stored.size)
                if defect is not None:
                    found.append(Corruption(reference, stored.name, defect))
    return found


def prune(store: "Store", dry_run: bool, *, resume_state: bool = False) -> PruneResult:
    """Delete what no result needs: losing and dead attempts, resume state of what is done, expired leases.

    A result whose lease somebody holds is left alone, and its lease is held while its attempts are deleted.

    Args:
        store: which.
        dry_run: only tell.
        resume_state: also delete the resume state of what is not done, so that it starts from its beginning.
    """
    pruned = [
        result
        for _, result in each_in_threads(lambda each: _prune(store, each, dry_run, resume_state), store.references())
    ]
    return PruneResult(
        size=sum(each.size for each in pruned) + store.objects.sweep(ABANDONED_TRANSFER_SECONDS, dry_run),
        objects=sum(each.objects for each in pruned),
        attempts=tuple(attempt for each in pruned for attempt in each.attempts),
        leases=sum(each.leases for each in pruned),
        at_work=tuple(reference for each in pruned for reference in each.at_work),
    )


def invalidate(store: "Store", reference: "Reference") -> "list[Reference]":
    """Make a result count no longer, so that it is made anew; its manifest is kept as `invalidated-<time>.json`.

    Returns:
        The committed results that were built from it, directly or not, each after those it was built from. They are
        left as they are: the caller decides whether to invalidate them too.

    Raises:
        StoreError: there is no such result.
    """
    name = layout.manifest(reference)
    try:
        data = store.objects.read(name)
    except ObjectMissing:
        raise StoreError(f"there is no result {reference} in {store.uri}, so there is nothing to invalidate") from None
    store.objects.create(layout.invalidated(reference, now()), data)
    store.objects.delete([name])
    return _built_from(store, reference)


@dataclass(frozen=True)
class _Garbage:
    objects: "tuple[ObjectInfo, ...]"
    attempts: tuple[str, ...]
    leases: int


_NOTHING = PruneResult(0, 0, (), 0, ())


def _prune(store: "Store", reference: "Reference", dry_run: bool, resume_state: bool) -> PruneResult:
    garbage = _garbage(store, reference, resume_state)
    if not garbage.objects and not garbage.leases:
        return _NOTHING
    if dry_run:
        if holder(store, reference) is not None:
            return PruneResult(0, 0, (), 0, (reference,))
    else:
        lease = acquire(store, reference)
        if lease is None:
            return PruneResult(0, 0, (), 0, (reference,))
        leases = garbage.leases
        with lease:
            # Again, since the result may have been committed or resumed before the lease was ours.
            garbage = replace(_garbage(store, reference, resume_state), leases=leases)
            store.objects.delete([info.name for info in garbage.objects])
    return PruneResult(
        size=sum(info.size for info in garbage.objects),
        objects=len(garbage.objects),
        attempts=garbage.attempts,
        leases=garbage.leases,
        at_work=(),
    )


def _garbage(store: "Store", reference: "Reference", resume_state: bool) -> _Garbage:
    leases = sum(1 for _ in store.objects.list(layout.leases(reference)))
    try:
        manifest = store.manifest(reference)
    except StoreError:
        # Without its manifest nobody can tell which attempt won.
        return _Garbage((), (), leases)
    prefix = layout.attempts(reference)
    objects = []
    attempts: dict[str, None] = {}
    for info in store.objects.list(prefix):
        identifier = info.name.removeprefix(prefix).partition("/")[0]
        is_resume_state = identifier.endswith(".resume")
        if is_resume_state and manifest is None and not resume_state:
            continue
        if manifest is not None and identifier == manifest.attempt:
            continue
        objects.append(info)
        attempts[f"{reference}/{identifier.removesuffix('.resume')}"] = None
    return _Garbage(tuple(objects), tuple(attempts), leases)


def _readable_manifests(
    store: "Store", references: "Iterable[Reference]"
) -> "Iterator[tuple[Reference, Manifest | StoreError | None]]":
    def read(reference: "Reference") -> Manifest | StoreError | None:
        try:
            return store.manifest(reference)
        except CorruptObject as error:
            return error

    return each_in_threads(read, references)


def _defect(store: "Store", manifest: Manifest, stored: StoredObject) -> str | None:
    name = f"{layout.attempt(manifest.reference, manifest.attempt)}/{stored.name}"
    try:
        if store.objects.digest(name) == stored.sha256 or store.objects.digest(name) == stored.sha256:
            return None
    except ObjectMissing:
        return "is missing"
    return "has other bytes than the manifest names"


def _built_from(store: "Store", reference: "Reference") -> "list[Reference]":
    users: dict[str, list[Reference]] = {}
    for user, manifest in _readable_manifests(store, store.references()):
        if isinstance(manifest, Manifest):
            for source in set(manifest.inputs.values()):
                users.setdefault(source, []).append(user)
    reached: dict[Reference, None] = {}
    order: list[Reference] = []
    waiting: list[tuple[Reference, bool]] = [(reference, False)]
    while waiting:
        current, is_left = waiting.pop()
        if is_left:
            order.append(current)
        elif current not in reached:
            reached[current] = None
            waiting.append((current, True))
            waiting.extend((user, False) for user in users.get(str(current), ()))
    return order[::-1][1:]
