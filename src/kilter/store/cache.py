"""The scratch folder: where attempts for S3 are written, and where fetched objects are shared by the machine's stages.

It may be deleted whenever no stage runs.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kilter.errors import StoreError
from kilter.store import layout
from kilter.store.localfiles import explained, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kilter.plan.graph import Reference
    from kilter.store.manifest import StoredObject

SCRATCH_VARIABLE = "KILTER_SCRATCH"


def scratch_folder(environment: "Mapping[str, str]") -> Path:
    """Return the scratch folder: `KILTER_SCRATCH`, or one of this user's own in the system's temporary folder."""
    chosen = environment.get(SCRATCH_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(tempfile.gettempdir()) / f"kilter-{os.getuid()}"


@dataclass(frozen=True)
class Seal:
    """How a file looked when its digest was last computed."""

    size: int
    modified_ns: int
    sha256: str


class Cache:
    """Objects of one store on this machine, by result and attempt."""

    def __init__(self, scratch: Path, uri: str) -> None:
        self._scratch = scratch
        self._root = scratch / hashlib.sha256(uri.encode()).hexdigest()[:16]

    def folder(self, reference: "Reference", attempt: str) -> Path:
        """Return where the objects of an attempt lie or would lie."""
        return self._root / layout.attempt(reference, attempt)

    def work_folder(self, reference: "Reference", attempt: str) -> Path:
        """Return where an attempt may keep what is no output."""
        return self._root / f"{layout.attempt(reference, attempt)}.work"

    def make(self, folder: Path) -> None:
        """Make a folder in the scratch, which no other user may read or own.

        Raises:
            StoreError: it cannot be made, or is not this user's.
        """
        with explained("make the scratch folder", folder):
            self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._scratch.lstat()
            if status.st_uid != os.getuid() and SCRATCH_VARIABLE not in os.environ:
                raise StoreError(
                    f"{self._scratch} belongs to another user; set {SCRATCH_VARIABLE} to a folder of your own"
                )
            self._root.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self, reference: "Reference", attempt: str) -> "Iterator[None]":
        """Let one thread of one process of this machine fill an attempt's folder; the others wait."""
        folder = self.folder(reference, attempt)
        self.make(folder.parent)
        with explained("lock the scratch folder", folder):
            descriptor = os.open(folder.with_name(f"{attempt}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def seals(self, reference: "Reference", attempt: str) -> dict[str, Seal]:
        """Return what is known of the files in an attempt's folder."""
        try:
            fields = json.loads(self._seals_file(reference, attempt).read_bytes())
            return {name: Seal(*seal) for name, seal in fields.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            # Without seals the files are digested again.
            return {}

    def keep_seals(self, reference: "Reference", attempt: str, seals: "Mapping[str, Seal]") -> None:
        """Remember how verified files look."""
        path = self._seals_file(reference, attempt)
        fields = {name: [seal.size, seal.modified_ns, seal.sha256] for name, seal in seals.items()}
        with explained("write to the scratch folder", path):
            write_whole(path, json.dumps(fields).encode(), 0o600)

    def remove(self, reference: "Reference", attempt: str) -> None:
        """Forget an attempt."""
        shutil.rmtree(self.folder(reference, attempt), ignore_errors=True)
        self._seals_file(reference, attempt).unlink(missing_ok=True)

    def _seals_file(self, reference: "Reference", attempt: str) -> Path:
        return self._root / f"{layout.attempt(reference, attempt)}.seals.json"


def seal_of(path: Path, sha256: str) -> Seal:
    """Return the seal of a file whose digest was just computed."""
    status = path.stat()
    return Seal(status.st_size, status.st_mtime_ns, sha256)


def is_sealed(path: Path, stored: "StoredObject", seal: Seal | None) -> bool:
    """Tell whether a file is as it was when it was verified against `stored`."""
    if seal is None or seal.sha256 != stored.sha256:
        return False
    try:
        return seal_of(path, stored.sha256) == seal and seal.size == stored.size
    except OSError:
        return False
