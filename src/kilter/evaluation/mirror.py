"""Benchmark data from a folder instead of the hub: `<org>/<name>/<config or default>/<split>.parquet`, read-only."""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from kilter.canonical import digest
from kilter.errors import StageFailed

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa


@dataclass(frozen=True)
class Mirror:
    """A mirror folder; remembers which files were read from it, by content."""

    folder: "Path"
    contents: dict[str, str] = field(default_factory=dict)
    """Relative path of every file read → its SHA-256."""

    def path(self, data_set: str, configuration: str | None, split: str) -> "Path":
        """Return where a split lies: a missing configuration is the one named `default`."""
        return self.folder / data_set / (configuration or "default") / f"{split}.parquet"

    def read(self, data_set: str, configuration: str | None, split: str, reader: str) -> "pa.Table":
        """Read a split for the task named `reader`.

        Raises:
            StageFailed: the file is missing, unreadable or has no rows; the message names its path.
        """
        path = self.path(data_set, configuration, split)
        if not path.is_file():
            raise StageFailed(
                f"task {reader} needs the split {split!r} of {data_set}, but {path} does not exist; "
                f"add it to the mirror (data.mirror){self._present(path)}"
            )
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            # No threads: the process may be a fork, and the sets are small.
            table = pq.read_table(path, use_threads=False, pre_buffer=False, partitioning=None)
        except (OSError, ValueError) as error:
            raise StageFailed(f"task {reader} cannot read {path}: {error}") from error
        if table.num_rows == 0:
            raise StageFailed(f"task {reader} has no documents: {path} has no rows")
        self.contents[path.relative_to(self.folder).as_posix()] = content
        return table

    def digest(self) -> str | None:
        """Return the digest of all files read so far, or None if there were none."""
        return digest(self.contents) if self.contents else None

    @staticmethod
    def _present(path: "Path") -> str:
        if path.parent.is_dir():
            names = sorted(entry.stem for entry in path.parent.glob("*.parquet"))
            return f", which has {', '.join(names) or 'no Parquet file'} there"
        if path.parent.parent.is_dir():
            names = sorted(entry.name for entry in path.parent.parent.iterdir())
            return f", which has the configurations {', '.join(names) or 'none'}"
        return ""
