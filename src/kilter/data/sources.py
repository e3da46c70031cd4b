"""Files of a data set: which belong to a split, how many rows they hold, and their rows in batches."""

import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from kilter.errors import WrongInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BATCH_ROWS = 8192
JSON_BLOCK_BYTES = 16 << 20
_NOT_DATA = ("dataset_info.json", "dataset_infos.json", "state.json")
# One file with such a name is that split; one with any other name is the split `train`.
_NAMES_OF_ONE = ("test", "validation", "valid", "dev", "eval")
_SUFFIXES = (".parquet", ".jsonl", ".json", ".ndjson")
_SHARD = re.compile(r"^(?P<split>.+?)[-_]\d{1,6}-of-\d{1,6}$|^(?P<numbered>.+?)-\d{1,6}(?:-[0-9a-f]{8,})?$")
_HUB_HASH = re.compile(r"-[0-9a-f]{16}$")


def split_names(folder: "Path") -> tuple[str, ...]:
    """Return the splits that the files of a folder (or one file) make, sorted.

    Raises:
        WrongInput: there is no such folder, or it holds no data file.
    """
    files = _data_files(folder)
    if len(files) == 1 and _split_of(files[0]) not in _NAMES_OF_ONE:
        return ("train",)
    return tuple(sorted({_split_of(path) for path in files}))


def split_files(folder: "Path", split: str) -> "tuple[Path, ...]":
    """Find the files of a split in a folder, sorted by path.

    Understood are `<split>.parquet|jsonl`, shards such as `<split>-00000-of-00002.parquet`, the same under `data/`
    or under one folder named after a configuration, and a single file of any name, which is the split `train`.

    Args:
        folder: A folder, or one data file.
        split: The split's name, such as `train` or `test_prefs`.

    Raises:
        WrongInput: there is no such folder, no such split, or the split lies in several configurations.
    """
    files = _data_files(folder)
    found = [path for path in files if _split_of(path) == split]
    if not found and len(files) == 1 and split == "train" and split_names(folder) == ("train",):
        found = list(files)
    if not found:
        raise WrongInput(f"no split {split!r} in {folder}: the splits found are {', '.join(split_names(folder))}")
    root = folder.parent if folder.is_file() else folder
    configurations = sorted({path.parent.relative_to(root).as_posix() for path in found})
    if len(configurations) > 1:
        raise WrongInput(
            f"split {split!r} lies in several configurations of {folder}: {', '.join(configurations)}; "
            "name one with `config:`"
        )
    return tuple(found)


def schema_of(file: "Path") -> pa.Schema:
    """Return a file's columns and types; those of JSONL are inferred from its first 16 MiB."""
    try:
        if file.suffix == ".parquet":
            return pq.read_schema(file)
        with pyarrow.json.open_json(file, read_options=_json_options()) as reader:
            return reader.schema
    except (pa.ArrowInvalid, OSError) as error:
        raise WrongInput(f"{file} cannot be read as {_format(file)}: {error}") from error


def count_rows(files: "Sequence[Path]") -> int:
    """Count rows: from the metadata of Parquet, by the lines of JSONL that are not blank."""
    total = 0
    for file in files:
        if file.suffix == ".parquet":
            total += pq.read_metadata(file).num_rows
        else:
            with file.open("rb") as lines:
                total += sum(1 for line in lines if line.strip())
    return total


def read_batches(
    files: "Sequence[Path]", columns: "Sequence[str]", batch_rows: int = BATCH_ROWS
) -> "Iterator[pa.RecordBatch]":
    """Yield the rows of `files` in order, only the named columns, in batches; memory does not grow with the files.

    Args:
        files: Parquet or JSONL files with the same columns.
        columns: Columns to read.
        batch_rows: Most rows a batch of Parquet holds. JSONL comes in blocks of 16 MiB.

    Raises:
        WrongInput: a file cannot be read, or lacks a column.
    """
    for file in files:
        missing = [name for name in columns if name not in schema_of(file).names]
        if missing:
            raise WrongInput(f"{file} has no column {', '.join(missing)}: it has {', '.join(schema_of(file).names)}")
        try:
            if file.suffix == ".parquet":
                # Without pre-buffering, a row group of any size is read page by page.
                with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as parquet:
                    yield from parquet.iter_batches(batch_size=batch_rows, columns=list(columns))
            else:
                yield from _json_batches(file, columns, batch_rows)
        except (pa.ArrowInvalid, OSError) as error:
            raise WrongInput(f"{file} cannot be read as {_format(file)}: {error}") from error


def _json_batches(file: "Path", columns: "Sequence[str]", batch_rows: int) -> "Iterator[pa.RecordBatch]":
    inferred = schema_of(file)
    options = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema([inferred.field(name) for name in columns]), unexpected_field_behavior="ignore"
    )
    with pyarrow.json.open_json(file, read_options=_json_options(), parse_options=options) as reader:
        for block in reader:
            selected = block.select(list(columns))
            for start in range(0, selected.num_rows, batch_rows):
                yield selected.slice(start, batch_rows)


def _json_options() -> Any:
    return pyarrow.json.ReadOptions(block_size=JSON_BLOCK_BYTES)


def _data_files(folder: "Path") -> "list[Path]":
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise WrongInput(f"there is no data at {folder}: give a folder, a Parquet file or a JSONL file")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix in _SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.name not in _NOT_DATA
    )
    if not files:
        raise WrongInput(f"no Parquet or JSONL file lies in {folder}")
    return files


def _split_of(path: "Path") -> str:
    stem = _HUB_HASH.sub("", path.stem)
    shard = _SHARD.match(stem)
    if shard is None:
        return stem
    return shard["split"] or shard["numbered"]


def _format(file: "Path") -> str:
    return "Parquet" if file.suffix == ".parquet" else "JSONL"
