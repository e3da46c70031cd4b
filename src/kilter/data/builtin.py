"""The data sets that Kilter makes itself, and the data of the benchmarks that it ships."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kilter.data import demo
from kilter.data.schemas import MESSAGE

_CONVERSATIONS = pa.schema([("messages", pa.list_(MESSAGE))])
_SCHEMAS: Mapping[str, pa.Schema] = MappingProxyType(
    {
        "text": pa.schema([("text", pa.string())]),
        "instruct": _CONVERSATIONS,
        "sft": _CONVERSATIONS,
        "preference": pa.schema(
            [("prompt", pa.string()), ("chosen", pa.list_(MESSAGE)), ("rejected", pa.list_(MESSAGE))]
        ),
    }
)
_BENCHMARK = pa.schema(
    [("prompt", pa.string()), ("choices", pa.list_(pa.string())), ("label", pa.int64()), ("answer", pa.string())]
)
_BENCHMARKS_FOLDER = "builtin-benchmarks"


@dataclass(frozen=True)
class BuiltinData:
    """A data set that is made rather than fetched; the same version always has the same rows."""

    name: str
    version: int
    """Raised whenever a row changes: it stands in the keys of all that is made from the data."""
    rows: Mapping[str, int]
    """Rows by split."""
    write: Callable[[Path], None]
    """Writes `<split>.parquet` for each split, and `kilter/<task>/default/test.parquet` for each benchmark."""


def write_demo(folder: Path, seed: int = demo.SEED) -> None:
    """Write the demo's data: pretraining text, conversations, preference pairs and benchmark items.

    Studies only ever see the seed that is fixed here; others are for checks that the demo's claims do not hang on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[Any]] = {
        "text": demo.text_rows(seed),
        "instruct": demo.conversation_rows("instruct", seed),
        "sft": demo.conversation_rows("sft", seed),
        "preference": demo.preference_rows(seed),
    }
    for split, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMAS[split]), folder / f"{split}.parquet")
    write_benchmarks(folder, seed)


def write_benchmarks(folder: Path, seed: int = demo.SEED) -> None:
    """Write the items of the benchmarks that Kilter ships, laid out as a mirror."""
    for task in demo.TASKS:
        target = folder / "kilter" / task / "default"
        target.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.Table.from_pylist(demo.benchmark_rows(task, seed), schema=_BENCHMARK), target / "test.parquet"
        )


def benchmark_folder(parent: Path) -> Path:
    """Write the benchmarks that Kilter ships into a folder of its own under `parent`, and return it."""
    folder = parent / _BENCHMARKS_FOLDER
    write_benchmarks(folder)
    return folder


BUILTIN: Mapping[str, BuiltinData] = MappingProxyType(
    {"demo": BuiltinData(name="demo", version=1, rows=demo.ROWS, write=write_demo)}
)
"""The built-in data sets by name; a study names one as `builtin:NAME`."""
