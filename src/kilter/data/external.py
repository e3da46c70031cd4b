"""Sorting more rows than fit in memory: buckets on disk, each sorted by itself."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

BUCKET_BYTES = 16 << 20
MOST_BUCKETS = 500
_PLACE = "\x00place"


class BucketSort:
    """Takes batches with the place of each row, and gives them back in the order of their places.

    Places 0 … rows-1 must each be given once. Memory holds one bucket: about `BUCKET_BYTES` of rows.
    """

    def __init__(self, folder: "Path", schema: pa.Schema, rows: int, total_bytes: int) -> None:
        self._buckets = int(min(MOST_BUCKETS, max(1, -(-total_bytes // BUCKET_BYTES)), max(1, rows)))
        self._rows = max(1, rows)
        self._schema = schema.append(pa.field(_PLACE, pa.int64()))
        self._paths = [folder / f"bucket-{number:04d}.arrow" for number in range(self._buckets)]
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writers: list[Any] = []
        for path in self._paths:
            self._writers.append(pa.ipc.new_stream(str(path), self._schema, options=options))

    def __enter__(self) -> "BucketSort":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self._close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def add(self, batch: pa.RecordBatch, places: "NDArray[np.int64]") -> None:
        """Put each row of `batch` into the bucket of its place."""
        if batch.num_rows == 0:
            return
        order = np.argsort(places)
        placed = batch.append_column(_PLACE, pa.array(places)).take(pa.array(order))
        buckets = places[order] * self._buckets // self._rows
        bounds = np.searchsorted(buckets, np.arange(self._buckets + 1))
        for bucket in np.flatnonzero(np.diff(bounds)):
            start, stop = int(bounds[bucket]), int(bounds[bucket + 1])
            self._writers[bucket].write_batch(placed.slice(start, stop - start))

    def sorted(self) -> "Iterator[pa.Table]":
        """Yield the rows in the order of their places, bucket by bucket."""
        self._close()
        for path in self._paths:
            with pa.ipc.open_stream(str(path)) as reader:
                table = reader.read_all()
            path.unlink()
            if table.num_rows == 0:
                continue
            order = np.argsort(table.column(_PLACE).to_numpy())
            yield table.drop_columns([_PLACE]).combine_chunks().take(pa.array(order))

    def _close(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()
