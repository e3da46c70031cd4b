"""Writing rows to Parquet in row groups of modest size, whatever the size of the tables that come."""

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

ROW_GROUP = 8192


class RowWriter:
    """A Parquet file (zstd) whose row groups hold `ROW_GROUP` rows each, the last one fewer."""

    def __init__(self, path: "Path", schema: pa.Schema, dictionary: tuple[str, ...] = ()) -> None:
        self._schema = schema
        # Text rarely repeats, and a dictionary that is given up half-way costs time; ids never do.
        self._writer: Any = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=list(dictionary))
        self._waiting: list[Any] = []
        self._rows = 0
        self.written = 0

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        if kind is None and self._rows:
            self._flush(self._rows)
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Append rows; columns are put in the schema's order."""
        if table.num_rows == 0:
            return
        self._waiting.append(table.select(self._schema.names).cast(self._schema))
        self._rows += table.num_rows
        self.written += table.num_rows
        if self._rows >= ROW_GROUP:
            self._flush(self._rows - self._rows % ROW_GROUP)

    def _flush(self, rows: int) -> None:
        waiting = pa.concat_tables(self._waiting)
        self._writer.write_table(waiting.slice(0, rows), row_group_size=ROW_GROUP)
        rest = waiting.slice(rows)
        # A copy, so that the rows already written are let go.
        self._waiting = [rest.take(pa.array(range(rest.num_rows)))] if rest.num_rows else []
        self._rows = rest.num_rows
