"""The store: requests, attempts, commits and verified reading, over a folder or S3."""

import hashlib
import json
import os
import secrets
import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kilter import __version__
from kilter.errors import CorruptObject, StoreError, WrongInput
from kilter.plan.graph import Reference
from kilter.store import layout
from kilter.store.cache import Cache, Seal, is_sealed, scratch_folder, seal_of
from kilter.store.localfiles import explained, flush, require_space, sha256_of
from kilter.store.manifest import Manifest, Request, StoredObject, now
from kilter.store.names import check_name
from kilter.store.objects import ObjectInfo, ObjectMissing, Objects, WrongSize, open_objects
from kilter.store.processes import host_name
from kilter.store.versions import library_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from kilter.store.manifest import Resources

THREADS = 16

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Attempt:
    """One try at a result: what it writes into `directory` becomes the result's objects."""

    reference: Reference
    identifier: str
    """Unique, and later ones sort after earlier ones."""
    directory: Path
    """For outputs, and nothing else."""
    scratch: Path
    """For what is no output, such as a trainer's checkpoints; removed at the end."""
    inode: tuple[int, int] = field(repr=False)
    """Device and number of `directory`, to notice that it was removed and made again."""


class Store:
    """Results by reference. Safe to use from several threads."""

    def __init__(self, objects: Objects, scratch: Path) -> None:
        self.objects = objects
        self._cache = Cache(scratch, objects.uri)
        self._lock = threading.Lock()
        self._is_ready = False

    @classmethod
    def open(cls, uri: str) -> "Store":
        """Return the store at a folder or `s3://bucket/prefix`; nothing is read or made yet.

        Raises:
            WrongInput: the URI is neither.
        """
        return cls(open_objects(uri), scratch_folder(os.environ))

    @property
    def uri(self) -> str:
        """Where the store is."""
        return self.objects.uri

    def make_ready(self) -> None:
        """Make sure that results can be committed here: the format is ours, and conditional writes are honoured.

        Raises:
            StoreError: it cannot be written, is of a later format, or ignores the condition of a conditional write.
        """
        with self._lock:
            if self._is_ready:
                return
            marker = f'{{"format": {layout.FORMAT}, "kilter": "{__version__}"}}\n'.encode()
            if self.objects.info(layout.MARKER) is None:
                self.objects.create(layout.MARKER, marker)
                if self.objects.create(layout.MARKER, marker):
                    self.objects.delete([layout.MARKER])
                    raise StoreError(
                        f"the server of {self.uri} ignores conditional writes (If-None-Match), so two runs would "
                        "overwrite each other's results; use a server that honours them"
                    )
            _check_format(self.objects.read(layout.MARKER), self.uri)
            self._is_ready = True

    def put_request(self, request: Request) -> None:
        """Write what a stage is asked; a request that is there already is replaced where its hints differ."""
        self.make_ready()
        name = layout.request(request.reference)
        data = request.to_bytes()
        if self._read(name) != data:
            self.objects.write(name, data)

    def request(self, reference: Reference) -> Request | None:
        """Return what a stage is asked, or None if nobody asked.

        Raises:
            CorruptObject: the request was changed.
        """
        name = layout.request(reference)
        data = self._read(name)
        return None if data is None else Request.from_bytes(data, f"{self.uri}/{name}")

    def manifest(self, reference: Reference) -> Manifest | None:
        """Return the committed result, or None if there is none yet.

        Raises:
            CorruptObject: the manifest was changed.
        """
        name = layout.manifest(reference)
        data = self._read(name)
        if data is None:
            return None
        source = f"{self.uri}/{name}"
        advice = f"; `kilter store invalidate {reference}` has it made anew"
        try:
            manifest = Manifest.from_bytes(data, source)
        except CorruptObject as error:
            raise CorruptObject(f"{error}{advice}") from error
        if manifest.reference != reference:
            raise CorruptObject(f"{source} is the manifest of {manifest.reference}{advice}")
        return manifest

    def existing(self, references: "Iterable[Reference]") -> set[Reference]:
        """Return those of the results that are committed."""
        return {reference for reference, found in each_in_threads(self.is_committed, set(references)) if found}

    def is_committed(self, reference: Reference) -> bool:
        """Tell whether a result is committed."""
        return self.objects.info(layout.manifest(reference)) is not None

    def references(self, stage: str | None = None) -> "Iterator[Reference]":
        """Yield every result of which the store holds anything, committed or not, in order."""
        stages = [stage] if stage is not None else sorted(filter(layout.is_stage, self.objects.folders("")))
        for name in stages:
            for folder in sorted(self.objects.folders(f"{name}/")):
                reference = layout.reference_of(folder)
                if reference is not None:
                    yield reference

    def manifests(self, stage: str | None = None) -> "Iterator[Manifest]":
        """Yield every committed result, of one stage or all.

        Raises:
            CorruptObject: a manifest was changed.
        """
        for _, manifest in each_in_threads(self.manifest, self.references(stage)):
            if manifest is not None:
                yield manifest

    def find(self, prefix: str) -> list[Reference]:
        """Return the results whose key begins with `prefix`, or which begin with `stage/prefix`, in order.

        Raises:
            WrongInput: nothing can begin like this.
        """
        stage, slash, beginning = prefix.rpartition("/")
        if "/" in stage or (slash and not layout.is_stage(stage)) or not (beginning or slash):
            raise WrongInput(f"{prefix!r} names no result; give the beginning of a key, or stage/beginning")
        stages = [stage] if stage else sorted(filter(layout.is_stage, self.objects.folders("")))
        found = (layout.reference_of(name) for each in stages for name in self.objects.folders(f"{each}/{beginning}"))
        return sorted(reference for reference in found if reference is not None)

    def begin(self, reference: Reference) -> Attempt:
        """Start an attempt: make the folder for its outputs.

        For a folder store that is where they will stay; for S3 it is in the scratch folder.
        """
        self.make_ready()
        identifier = f"{now():%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"
        directory = self.objects.local_path(layout.attempt(reference, identifier))
        if directory is None:
            directory = self._cache.folder(reference, identifier)
            self._cache.make(directory)
        with explained("make the attempt's folder", directory):
            directory.mkdir(parents=True, exist_ok=True)
            status = directory.stat()
        scratch = self._cache.work_folder(reference, identifier)
        self._cache.make(scratch)
        return Attempt(reference, identifier, directory, scratch, (status.st_dev, status.st_ino))

    def commit(
        self,
        attempt: Attempt,
        request: Request,
        summary: "dict[str, object]",
        started: "datetime",
        resources: "Resources",
        progress: "Callable[[int], None] | None" = None,
    ) -> Manifest:
        """Make an attempt's outputs the result: digest, upload, check, then write the manifest if there is none.

        If another attempt was first, its manifest is returned and this attempt's objects are left for `prune`.

        Args:
            attempt: from `begin`.
            request: the question that the outputs answer.
            summary: what the stage found; JSON data.
            started: when, with a time zone.
            resources: what it took.
            progress: gets the bytes that were sent, from any thread; nothing where the outputs stay where they are.

        Raises:
            StoreError: an output is no plain file, changed meanwhile, or could not be stored; nothing is committed.
        """
        if request.reference != attempt.reference:
            raise StoreError(f"an attempt at {attempt.reference} cannot answer the request {request.reference}")
        objects = self._store_outputs(attempt, progress)
        try:
            manifest = Manifest(
                stage=request.stage,
                key=request.key,
                attempt=attempt.identifier,
                code=request.code,
                label=request.label,
                config=request.config,
                inputs=request.inputs,
                objects=objects,
                summary=summary,
                versions=library_versions(),
                host=host_name(),
                started=started,
                ended=now(),
                resources=resources,
            )
        except ValueError as error:
            raise StoreError(f"{attempt.reference} cannot be committed: {error}") from error
        created = self.objects.create(layout.manifest(attempt.reference), manifest.to_bytes())
        committed = manifest if created else self.manifest(attempt.reference)
        if committed is None:
            raise StoreError(
                f"{attempt.reference} was committed and then invalidated by others at this moment; run it again"
            )
        shutil.rmtree(attempt.scratch, ignore_errors=True)
        if committed.attempt != attempt.identifier:
            self._cache.remove(attempt.reference, attempt.identifier)
        return committed

    def abandon(self, attempt: Attempt) -> None:
        """Remove an attempt's outputs; its log and resume state stay."""
        shutil.rmtree(attempt.directory, ignore_errors=True)
        shutil.rmtree(attempt.scratch, ignore_errors=True)
        self._cache.remove(attempt.reference, attempt.identifier)

    def fetch(
        self,
        manifest: Manifest,
        names: "Sequence[str] | None" = None,
        progress: "Callable[[int], None] | None" = None,
    ) -> Path:
        """Return a folder of this machine that holds a result's objects under their names, each verified.

        Treat it as read-only: a folder store gives its own files.

        Args:
            manifest: of the result.
            names: which objects; a name that ends with `/` stands for all below it. None for all.
            progress: gets the bytes that were brought, from any thread.

        Raises:
            CorruptObject: an object's bytes are not those of the manifest, twice.
            StoreError: the result has no such object, or it could not be brought.
        """
        wanted = self._selected(manifest, names)
        here = self.objects.local_path(layout.attempt(manifest.reference, manifest.attempt))
        if here is None:
            return self._fetch_to_cache(manifest, wanted, progress)
        for _ in each_in_threads(
            lambda stored: self._verify_here(manifest, stored, here / stored.name, progress), wanted
        ):
            pass
        return here

    def read_object(self, manifest: Manifest, name: str) -> bytes:
        """Return a small object's verified bytes.

        Raises:
            CorruptObject: they are not those of the manifest, twice.
            StoreError: the result has no such object.
        """
        (stored,) = self._selected(manifest, [name])
        for _ in range(2):
            try:
                data = self.objects.read(self._object_name(manifest, stored))
            except ObjectMissing:
                continue
            if hashlib.sha256(data).hexdigest() == stored.sha256:
                return data
        raise corrupt(manifest, stored, self.uri)

    def object_uri(self, manifest: Manifest, name: str) -> str:
        """Return where an object lies: an `s3://` URI, or a path.

        Raises:
            StoreError: the result has no such object.
        """
        (stored,) = self._selected(manifest, [name])
        return f"{self.uri}/{self._object_name(manifest, stored)}"

    def manifest_uri(self, reference: Reference) -> str:
        """Return where the manifest of a result lies or would lie."""
        return f"{self.uri}/{layout.manifest(reference)}"

    def write_log(self, reference: Reference, attempt: str, path: Path) -> None:
        """Keep the log of an attempt, whatever became of it; a later call replaces it."""
        self.objects.upload(path, layout.log(reference, attempt))

    def logs(self, reference: Reference) -> list[tuple[str, ObjectInfo]]:
        """Return the attempts whose log is kept, oldest first, each with its log."""
        prefix = layout.logs(reference)
        found = ((info.name.removeprefix(prefix).removesuffix(".log"), info) for info in self.objects.list(prefix))
        return sorted(found, key=lambda pair: pair[0])

    def read_log(self, reference: Reference) -> str | None:
        """Return the newest attempt's log, or None if there is none."""
        logs = self.logs(reference)
        return None if not logs else self.objects.read(logs[-1][1].name).decode(errors="replace")

    def _read(self, name: str) -> bytes | None:
        try:
            return self.objects.read(name)
        except ObjectMissing:
            return None

    def _object_name(self, manifest: Manifest, stored: StoredObject) -> str:
        return f"{layout.attempt(manifest.reference, manifest.attempt)}/{stored.name}"

    def _selected(self, manifest: Manifest, names: "Sequence[str] | None") -> list[StoredObject]:
        if names is None:
            return list(manifest.objects)
        by_name = {stored.name: stored for stored in manifest.objects}
        selected: dict[str, StoredObject] = {}
        for name in names:
            if name.endswith("/"):
                chosen = [stored for stored in manifest.objects if stored.name.startswith(name)]
            else:
                chosen = [by_name[name]] if name in by_name else []
            if not chosen:
                has = ", ".join(stored.name for stored in manifest.objects[:20]) or "none"
                raise StoreError(f"{manifest.reference} has no object {name!r}; it has: {has}")
            selected.update((stored.name, stored) for stored in chosen)
        return list(selected.values())

    def _store_outputs(self, attempt: Attempt, progress: "Callable[[int], None] | None") -> tuple[StoredObject, ...]:
        directory = attempt.directory
        with explained("read the attempt's outputs", directory):
            status = directory.stat()
            if (status.st_dev, status.st_ino) != attempt.inode:
                raise StoreError(f"the outputs of {attempt.reference} were removed while it ran; run it again")
            files = sorted(_output_files(directory))
            _make_readable(directory, files)
            stays = self.objects.local_path(layout.attempt(attempt.reference, attempt.identifier)) is not None
            digested = list(each_in_threads(lambda name: _digested(directory / name, durably=stays), files))
        objects = tuple(StoredObject(name=name, size=seal.size, sha256=seal.sha256) for name, seal in digested)
        if not stays:
            self._upload(attempt, objects, progress)
            with self._cache.locked(attempt.reference, attempt.identifier):
                self._cache.keep_seals(attempt.reference, attempt.identifier, dict(digested))
        else:
            with explained("make the attempt's outputs durable", directory):
                for folder in {directory, *((directory / name).parent for name in files)}:
                    flush(folder)
        with explained("read the attempt's outputs", directory):
            for name, seal in digested:
                if seal_of(directory / name, seal.sha256) != seal:
                    raise StoreError(f"{name} of {attempt.reference} changed while it was being committed")
            if sorted(_output_files(directory)) != files:
                raise StoreError(f"files of {attempt.reference} came or went while it was being committed")
        return objects

    def _upload(
        self, attempt: Attempt, objects: tuple[StoredObject, ...], progress: "Callable[[int], None] | None"
    ) -> None:
        prefix = layout.attempt(attempt.reference, attempt.identifier)

        def upload(stored: StoredObject) -> None:
            self.objects.upload(attempt.directory / stored.name, f"{prefix}/{stored.name}", progress)

        for _ in each_in_threads(upload, objects, lambda: self.objects.interrupt(prefix)):
            pass
        arrived = {info.name: info.size for info in self.objects.list(f"{prefix}/")}
        expected = {f"{prefix}/{stored.name}": stored.size for stored in objects}
        if arrived != expected:
            wrong = sorted(name for name in arrived | expected if arrived.get(name) != expected.get(name))
            raise StoreError(f"{self.uri} does not hold what was uploaded: {wrong[0]} is missing or of another size")

    def _verify_here(
        self, manifest: Manifest, stored: StoredObject, path: Path, progress: "Callable[[int], None] | None"
    ) -> None:
        for _ in range(2):
            try:
                if path.stat().st_size == stored.size and sha256_of(path) == stored.sha256:
                    break
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"could not read {path} of {manifest.reference}: {error.strerror}") from error
        else:
            raise corrupt(manifest, stored, self.uri)
        if progress is not None:
            progress(stored.size)

    def _fetch_to_cache(
        self, manifest: Manifest, wanted: list[StoredObject], progress: "Callable[[int], None] | None"
    ) -> Path:
        folder = self._cache.folder(manifest.reference, manifest.attempt)
        with self._cache.locked(manifest.reference, manifest.attempt):
            self._cache.make(folder)
            seals = self._cache.seals(manifest.reference, manifest.attempt)
            unsealed = [
                stored for stored in wanted if not is_sealed(folder / stored.name, stored, seals.get(stored.name))
            ]
            if unsealed:
                for leftover in folder.rglob(".*.partial"):
                    leftover.unlink(missing_ok=True)
                missing = [stored for stored in unsealed if not (folder / stored.name).exists()]
                require_space(folder, sum(stored.size for stored in missing))
                try:
                    fetching = each_in_threads(
                        lambda stored: self._fetch_object(manifest, stored, folder, progress),
                        unsealed,
                        lambda: self.objects.interrupt(layout.attempt(manifest.reference, manifest.attempt)),
                    )
                    for stored, seal in fetching:
                        seals[stored.name] = seal
                finally:
                    self._cache.keep_seals(manifest.reference, manifest.attempt, seals)
        return folder

    def _fetch_object(
        self, manifest: Manifest, stored: StoredObject, folder: Path, progress: "Callable[[int], None] | None"
    ) -> Seal:
        path = folder / check_name(stored.name)
        if path.is_file() and path.stat().st_size == stored.size and sha256_of(path) == stored.sha256:
            return seal_of(path, stored.sha256)
        info = ObjectInfo(self._object_name(manifest, stored), stored.size)
        for _ in range(2):
            try:
                self.objects.download(info, path, progress)
            except (ObjectMissing, WrongSize):
                continue
            if sha256_of(path) == stored.sha256:
                return seal_of(path, stored.sha256)
            path.unlink()
        raise corrupt(manifest, stored, self.uri)


def corrupt(manifest: Manifest, stored: StoredObject, uri: str) -> CorruptObject:
    """Return the error of an object whose bytes are not those of its manifest, or gone."""
    return CorruptObject(
        f"object {stored.name} of stage {manifest.stage}, key {manifest.key}, in {uri} is missing or corrupt: its "
        f"bytes are not those that the manifest names; `kilter store invalidate {manifest.reference}` has it made anew"
    )


def each_in_threads(
    act: "Callable[[_Argument], _Result]",
    arguments: "Iterable[_Argument]",
    interrupt: "Callable[[], None] | None" = None,
) -> "Iterator[tuple[_Argument, _Result]]":
    """Yield each argument with what `act` makes of it, in order.

    An error, or a signal, stops the rest: what has not begun never does, and `interrupt` is to shorten what is running.
    """
    listed = list(arguments)
    if len(listed) < 2:
        yield from ((argument, act(argument)) for argument in listed)
        return
    with ThreadPoolExecutor(min(THREADS, len(listed))) as pool:
        futures = [pool.submit(act, argument) for argument in listed]
        try:
            for argument, future in zip(listed, futures, strict=True):
                yield argument, future.result()
        except BaseException:
            if interrupt is not None:
                interrupt()
            raise
        finally:
            for future in futures:
                future.cancel()


def _check_format(marker: bytes, uri: str) -> None:
    try:
        found = json.loads(marker)["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{uri}/{layout.MARKER} is not a store's marker; is this a store of Kilter?") from error
    if found != layout.FORMAT:
        raise StoreError(f"{uri} is a store of format {found}; this Kilter writes format {layout.FORMAT}: update it")


def _output_files(directory: Path) -> "Iterator[str]":
    for folder, folders, files in os.walk(directory):
        for entry in (*folders, *files):
            path = Path(folder) / entry
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                yield check_name(path.relative_to(directory).as_posix())
            elif not stat.S_ISDIR(mode):
                raise StoreError(f"output {path.relative_to(directory)} is a link or a device; outputs are plain files")


def _make_readable(directory: Path, files: "Sequence[str]") -> None:
    """Give every output the mode of new files here: some libraries write files that only their owner can read."""
    mode = 0o666 & ~_umask()
    for name in files:
        if stat.S_IMODE((directory / name).stat().st_mode) != mode:
            (directory / name).chmod(mode)


def _umask() -> int:
    """Return the umask; only Linux tells it without changing it for a moment."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next((line for line in status.read_text().splitlines() if line.startswith("Umask:")), None)
        if line is not None:
            return int(line.split()[1], 8)
    return 0o022


def _digested(path: Path, durably: bool) -> Seal:
    before = path.stat()
    if durably:
        flush(path)
    sha256 = sha256_of(path)
    return Seal(before.st_size, before.st_mtime_ns, sha256)
