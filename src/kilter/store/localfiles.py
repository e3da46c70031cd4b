"""Files on this machine: written whole or not at all, digested, and their errors explained."""

import errno
import hashlib
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kilter.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK = 4 * 1024 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


def readable_size(size: float) -> str:
    """Return bytes as people read them, such as `1.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def free_bytes(path: Path) -> int:
    """Return how many bytes can still be written where `path` is or would be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


@contextmanager
def explained(action: str, path: Path, needed: int | None = None) -> "Iterator[None]":
    """Turn an operating system's error into a `StoreError` that says what to do.

    Args:
        action: what was tried, such as `write the manifest`.
        path: where.
        needed: how many bytes it takes, where that is known.

    Raises:
        StoreError: the file system is full, read-only, forbids it, or failed.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(_explanation(error, action, path, needed)) from error


def require_space(path: Path, needed: int) -> None:
    """Check before a transfer that `needed` bytes can be written at `path`.

    Raises:
        StoreError: they cannot.
    """
    free = free_bytes(path)
    if needed > free:
        raise StoreError(
            f"no space left at {path}: {readable_size(needed)} needed, {readable_size(free)} free; free some, "
            "or choose another place"
        )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Make sure that a file or folder survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def temporary_name() -> str:
    """Return a name that no other process uses for a file that is not whole yet."""
    return f".{secrets.token_hex(8)}.partial"


def write_whole(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file, or replace it, so that it is always whole."""
    temporary = path.parent / temporary_name()
    try:
        write_flushed(temporary, data, mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def write_flushed(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a new file to the disk, not only to memory."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def copy_whole(source: Path, target: Path, progress: "Callable[[int], None] | None" = None) -> int:
    """Copy a file so that `target` appears whole or not at all; return its size in bytes."""
    temporary = target.parent / temporary_name()
    try:
        with source.open("rb") as reading, temporary.open("xb") as writing:
            copied = 0
            while chunk := reading.read(_CHUNK):
                writing.write(chunk)
                copied += len(chunk)
                if progress is not None:
                    progress(len(chunk))
            writing.flush()
            os.fsync(writing.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    flush(target.parent)
    return copied


def _explanation(error: OSError, action: str, path: Path, needed: int | None) -> str:
    if error.errno in _FULL:
        amount = "" if needed is None else f": {readable_size(needed)} needed"
        with_free = f"{amount}, {readable_size(_free_or_zero(path))} free"
        return f"could not {action}: no space left at {path}{with_free}; free some, or choose another place"
    if error.errno in _FORBIDDEN:
        kind = (
            "is on a read-only file system" if error.errno == errno.EROFS else "may not be written or read by this user"
        )
        return f"could not {action}: {path} {kind} ({error.strerror}); check its permissions, or choose another place"
    return f"could not {action}: {path}: {error.strerror or error}"


def _free_or_zero(path: Path) -> int:
    try:
        return free_bytes(path)
    except OSError:
        return 0
