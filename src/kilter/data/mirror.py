"""Benchmark data from a folder or an s3:// prefix instead of the hub.

They lie at `<org>/<name>/<config or default>/<split>.parquet`, and are only read.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from kilter.canonical import digest
from kilter.errors import StageFailed
from kilter.store.objects import open_objects

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from kilter.store.objects import ObjectInfo, Objects


@dataclass(frozen=True)
class Mirror:
    """A mirror; remembers which files were read from it, by content."""

    objects: "Objects"
    scratch: "Path"
    """Where files that do not lie on this machine are brought to."""
    contents: dict[str, str] = field(default_factory=dict)
    """Name of every file read → its SHA-256."""

    @classmethod
    def at(cls, source: "str | Path", scratch: "Path") -> "Mirror":
        """Return the mirror at a folder or s3:// prefix; nothing is read yet.

        Raises:
            WrongInput: the source is neither.
        """
        return cls(open_objects(str(source)), scratch)

    @property
    def source(self) -> str:
        """Where the mirror is."""
        return self.objects.uri

    @staticmethod
    def name(data_set: str, configuration: str | None, split: str) -> str:
        """Return the name of a split's file: a missing configuration is the one named `default`."""
        return f"{data_set}/{configuration or 'default'}/{split}.parquet"

    def matching(self, pattern: str) -> "list[Path]":
        """Return the files whose names match a pattern, in which `*` stands for any part of a name, sorted."""
        wanted = len(PurePosixPath(pattern).parts)
        start = pattern.partition("*")[0].rpartition("/")[0]
        found = [
            info
            for info in self.objects.list(f"{start}/" if start else "")
            if len(PurePosixPath(info.name).parts) == wanted and PurePosixPath(info.name).match(pattern)
        ]
        return [self._here(info) for info in sorted(found, key=lambda info: info.name)]

    def lacks(self, data_set: str, configuration: str | None, split: str) -> str | None:
        """Return None if the split is there; else which file is not, and what lies in its place."""
        name = self.name(data_set, configuration, split)
        if self.objects.info(name) is not None:
            return None
        return f"{self.source}/{name} does not exist{self._present(name)}"

    def read(self, data_set: str, configuration: str | None, split: str, reader: str) -> "pa.Table":
        """Read a split for the task named `reader`.

        Raises:
            StageFailed: the file is missing, unreadable or has no rows; the message names it.
        """
        name = self.name(data_set, configuration, split)
        info = self.objects.info(name)
        if info is None:
            lacking = self.lacks(data_set, configuration, split)
            raise StageFailed(
                f"task {reader} needs the split {split!r} of {data_set}, but {lacking}; "
                "add it to the mirror (data.mirror)"
            )
        path = self._here(info)
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            # No threads: the process may be a fork, and the sets are small.
            table = pq.read_table(path, use_threads=False, pre_buffer=False, partitioning=None)
        except (OSError, ValueError) as error:
            raise StageFailed(f"task {reader} cannot read {self.source}/{name}: {error}") from error
        if table.num_rows == 0:
            raise StageFailed(f"task {reader} has no documents: {self.source}/{name} has no rows")
        self.contents[name] = content
        return table

    def digest(self) -> str | None:
        """Return the digest of all files read so far, or None if there were none."""
        return digest(self.contents) if self.contents else None

    def _here(self, info: "ObjectInfo") -> "Path":
        path = self.objects.local_path(info.name)
        if path is None:
            path = self.scratch / info.name
            if not path.is_file():
                self.objects.download(info, path)
        return path

    def _present(self, name: str) -> str:
        folder, _, _ = name.rpartition("/")
        data_set, _, _ = folder.rpartition("/")
        names = [PurePosixPath(info.name) for info in self.objects.list(f"{data_set}/")]
        splits = sorted({path.stem for path in names if str(path.parent) == folder and path.suffix == ".parquet"})
        if splits:
            return f"; {folder} has {', '.join(splits)}"
        configurations = sorted({path.parent.name for path in names})
        return f"; {data_set} has the configurations {', '.join(configurations)}" if configurations else ""
