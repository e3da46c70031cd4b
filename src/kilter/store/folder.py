"""Objects in a folder of this machine, or of a network file system that has hard links."""

import errno
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kilter.errors import StoreError
from kilter.store.localfiles import copy_whole, explained, flush, sha256_of, write_flushed
from kilter.store.names import InvalidName, check_name, check_prefix
from kilter.store.objects import ObjectInfo, ObjectMissing, WrongSize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

UNFINISHED = ".unfinished"
"""The folder for files that are not whole yet; it is on the store's own file system, so that they can be linked."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_ATTEMPTS = 64


class FolderObjects:
    """Each object is a file; writing goes through `.unfinished/` and ends with a link or a rename."""

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path).expanduser().absolute()

    @property
    def uri(self) -> str:
        """The folder's absolute path."""
        return str(self.root)

    def read(self, name: str) -> bytes:
        """See `Objects.read`."""
        path = self._path(name)
        try:
            with explained(f"read {name}", path):
                return path.read_bytes()
        except StoreError as error:
            raise self._missing(name, error) from error.__cause__

    def info(self, name: str) -> ObjectInfo | None:
        """See `Objects.info`."""
        path = self._path(name)
        with explained(f"look at {name}", path):
            try:
                return ObjectInfo(name, path.stat().st_size) if path.is_file() else None
            except FileNotFoundError:
                return None

    def list(self, prefix: str) -> "Iterator[ObjectInfo]":
        """See `Objects.list`."""
        check_prefix(prefix)
        folder, _, beginning = prefix.rpartition("/")
        yield from self._walk(folder, beginning)

    def folders(self, prefix: str) -> "Iterator[str]":
        """See `Objects.folders`."""
        check_prefix(prefix)
        folder, _, beginning = prefix.rpartition("/")
        for name, entry in self._entries(folder):
            if entry.name.startswith(beginning) and entry.is_dir():
                yield name

    def create(self, name: str, data: bytes) -> bool:
        """See `Objects.create`: a hard link is made, which fails if the name exists."""
        path = self._path(name)
        if path.exists():
            return False
        with explained(f"write {name}", path, len(data)):
            temporary = self._temporary()
            try:
                write_flushed(temporary, data)
                created = self._link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            if created:
                flush(path.parent)
            return created

    def write(self, name: str, data: bytes) -> None:
        """See `Objects.write`."""
        path = self._path(name)
        with explained(f"write {name}", path, len(data)):
            temporary = self._temporary()
            try:
                write_flushed(temporary, data)
                _with_parents(path, lambda: temporary.replace(path))
            finally:
                temporary.unlink(missing_ok=True)
            flush(path.parent)

    def delete(self, names: "Iterable[str]") -> None:
        """See `Objects.delete`; folders that become empty go too."""
        parents = set()
        for name in names:
            path = self._path(name)
            with explained(f"delete {name}", path):
                try:
                    path.unlink()
                except (FileNotFoundError, NotADirectoryError):
                    continue
            parents.add(path.parent)
        for parent in sorted(parents, key=lambda folder: len(folder.parts), reverse=True):
            self._remove_empty(parent)

    def upload(self, path: Path, name: str, progress: "Callable[[int], None] | None" = None) -> None:
        """See `Objects.upload`; a file that already is the object stays as it is."""
        target = self._path(name)
        size = path.stat().st_size
        with explained(f"write {name}", target, size):
            if target.exists() and path.samefile(target):
                if progress is not None:
                    progress(size)
                return
            temporary = self._temporary()
            try:
                copy_whole(path, temporary, progress)
                _with_parents(target, lambda: temporary.replace(target))
            finally:
                temporary.unlink(missing_ok=True)
            flush(target.parent)

    def download(self, info: ObjectInfo, path: Path, progress: "Callable[[int], None] | None" = None) -> None:
        """See `Objects.download`."""
        source = self._path(info.name)
        if not source.is_file():
            raise ObjectMissing(f"{self.uri} holds no object {info.name}")
        found = source.stat().st_size
        if found != info.size:
            raise WrongSize(f"{info.name} in {self.uri} has {found} bytes instead of {info.size}")
        with explained(f"copy {info.name}", path, info.size):
            path.parent.mkdir(parents=True, exist_ok=True)
            copy_whole(source, path, progress)

    def interrupt(self, prefix: str) -> None:
        """See `Objects.interrupt`: copying a file is quick enough to be waited for."""

    def local_path(self, name: str) -> Path | None:
        """See `Objects.local_path`."""
        return self._path(name)

    def digest(self, name: str) -> str:
        """See `Objects.digest`."""
        path = self._path(name)
        try:
            with explained(f"read {name}", path):
                return sha256_of(path)
        except StoreError as error:
            raise self._missing(name, error) from error.__cause__

    def age(self, name: str) -> float | None:
        """See `Objects.age`: the file system's clock is asked by making a file, since it may be another machine's."""
        path = self._path(name)
        try:
            modified = path.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        return self._now() - modified

    def sweep(self, older_than_seconds: float, dry_run: bool) -> int:
        """See `Objects.sweep`."""
        swept = 0
        now = self._now()
        for path in (self.root / UNFINISHED).glob("*"):
            try:
                status = path.stat()
                if now - status.st_mtime > older_than_seconds:
                    swept += status.st_size
                    if not dry_run:
                        path.unlink()
            except FileNotFoundError:
                continue
        return swept

    def _path(self, name: str) -> Path:
        if check_name(name).split("/", 1)[0] == UNFINISHED:
            raise InvalidName(f"object name {name!r} is refused: {UNFINISHED} is the store's own")
        return self.root / name

    def _temporary(self) -> Path:
        folder = self.root / UNFINISHED
        folder.mkdir(parents=True, exist_ok=True)
        return folder / secrets.token_hex(12)

    def _missing(self, name: str, error: StoreError) -> StoreError:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            return ObjectMissing(f"{self.uri} holds no object {name}")
        return error

    def _link(self, temporary: Path, path: Path) -> bool:
        try:
            _with_parents(path, lambda: os.link(temporary, path))
        except FileExistsError:
            # A network file system may have linked it, lost the answer, and tried again.
            return temporary.stat().st_nlink > 1
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise StoreError(
                    f"could not make a hard link in {self.root} ({error.strerror}), which a commit depends on; check "
                    "the folder's permissions, or put the store on a file system that has hard links"
                ) from error
            raise
        return True

    def _walk(self, folder: str, beginning: str) -> "Iterator[ObjectInfo]":
        waiting = [(folder, beginning)]
        while waiting:
            folder, beginning = waiting.pop()
            for name, entry in self._entries(folder):
                if not entry.name.startswith(beginning):
                    continue
                try:
                    if entry.is_dir():
                        waiting.append((name, ""))
                    elif entry.is_file():
                        yield ObjectInfo(name, entry.stat().st_size)
                except FileNotFoundError:
                    continue

    def _entries(self, folder: str) -> "Iterator[tuple[str, os.DirEntry[str]]]":
        path = self.root / folder
        with explained("list the store", path):
            try:
                with os.scandir(path) as scan:
                    entries = list(scan)
            except (FileNotFoundError, NotADirectoryError):
                return
        for entry in entries:
            if not (folder == "" and entry.name == UNFINISHED):
                yield (f"{folder}/{entry.name}" if folder else entry.name), entry

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.root and self.root in folder.parents:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def _now(self) -> float:
        try:
            temporary = self._temporary()
            write_flushed(temporary, b"")
        except OSError:
            return time.time()
        try:
            return temporary.stat().st_mtime
        finally:
            temporary.unlink(missing_ok=True)


def _with_parents(path: Path, act: "Callable[[], object]") -> None:
    """Act on `path` once its folder exists; another process may be removing that folder because it is empty."""
    for remaining in reversed(range(_ATTEMPTS)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError):
            # A folder that goes between two looks of `mkdir` is said to exist; `act` then finds out.
            if path.parent.is_file():
                raise
        try:
            act()
        except FileNotFoundError:
            if not remaining:
                raise
        else:
            return
