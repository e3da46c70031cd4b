"""What Kilter needs of a place that keeps objects; a folder and S3 give it."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kilter.errors import StoreError, WrongInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class ObjectMissing(StoreError):  # noqa: N818
    """There is no object of this name."""


class WrongSize(StoreError):  # noqa: N818
    """An object does not have as many bytes as it should."""


@dataclass(frozen=True)
class ObjectInfo:
    """An object as a listing shows it."""

    name: str
    size: int
    """Bytes."""
    entity_tag: str | None = field(default=None, compare=False)
    """What the server calls this content (S3's ETag); None where a place has no such thing."""


class Objects(Protocol):
    """Objects by name below one URI. Safe to use from several threads.

    Every method raises `InvalidName` for a name that is not safe, and `StoreError` where the place cannot be reached,
    does not allow it, or is full.
    """

    @property
    def uri(self) -> str:
        """Where this is: `s3://bucket/prefix`, or an absolute folder."""
        ...

    def read(self, name: str) -> bytes:
        """Return a small object's bytes.

        Raises:
            ObjectMissing: there is no such object.
        """
        ...

    def info(self, name: str) -> ObjectInfo | None:
        """Return the object's size, or None if there is no such object."""
        ...

    def list(self, prefix: str) -> "Iterator[ObjectInfo]":
        """Yield every object whose name begins with `prefix`, in no particular order."""
        ...

    def folders(self, prefix: str) -> "Iterator[str]":
        """Yield the folders at `prefix`: each beginning of a name up to the first `/` after `prefix`, without it."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write a small object only if there is none of this name; of several racing callers one gets True."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a small object, or replace it whole."""
        ...

    def delete(self, names: "Iterable[str]") -> None:
        """Delete objects; those that are missing do not matter."""
        ...

    def upload(self, path: "Path", name: str, progress: "Callable[[int], None] | None" = None) -> None:
        """Store a file under `name`, in parallel parts; `progress` gets bytes as they go, from any thread."""
        ...

    def download(self, info: ObjectInfo, path: "Path", progress: "Callable[[int], None] | None" = None) -> None:
        """Bring an object to `path`, in parallel ranges; `path` appears whole or not at all.

        Raises:
            ObjectMissing: there is no such object.
            WrongSize: the bytes that came are not as many as `info` says.
        """
        ...

    def interrupt(self, prefix: str) -> None:
        """Make running transfers of objects below `prefix` end soon, with an error, in whatever threads they run."""
        ...

    def local_path(self, name: str) -> "Path | None":
        """Return where the object lies on this machine; None if it does not."""
        ...

    def digest(self, name: str) -> str:
        """Return the SHA-256 of an object of any size, as 64 hexadecimal digits, without keeping it.

        Raises:
            ObjectMissing: there is no such object.
        """
        ...

    def age(self, name: str) -> float | None:
        """Return the seconds since the object was written, by the place's own clock; None if it is missing."""
        ...

    def sweep(self, older_than_seconds: float, dry_run: bool) -> int:
        """Delete what killed transfers left behind; return its size in bytes, as far as that is known."""
        ...


def open_objects(uri: str) -> Objects:
    """Return the objects below `uri`: `s3://bucket/prefix`, `file:///folder`, or a folder's path.

    Nothing is read or made yet.

    Raises:
        WrongInput: the URI is not one of these.
    """
    scheme = _SCHEME.match(uri)
    if scheme is None or scheme[1].lower() == "file":
        from kilter.store.folder import FolderObjects

        path = uri if scheme is None else uri[scheme.end() :]
        if not path or (scheme is not None and not path.startswith("/")):
            raise WrongInput(
                f"store {uri!r} names no folder; write a path such as ./kilter-store or file:///data/store"
            )
        return FolderObjects(path)
    if scheme[1].lower() != "s3":
        raise WrongInput(
            f"a store cannot be on {scheme[1]}://; use a folder, or s3://bucket/prefix (with AWS_ENDPOINT_URL for "
            "other servers that speak S3)"
        )
    bucket, _, prefix = uri[scheme.end() :].partition("/")
    if not _BUCKET.fullmatch(bucket):
        # Not shown: it may hold credentials.
        raise WrongInput("the store's s3:// URI names no valid bucket; write s3://bucket/prefix")
    from kilter.store.s3 import S3Objects

    return S3Objects(bucket, prefix.strip("/"))
