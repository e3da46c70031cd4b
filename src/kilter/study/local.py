"""Data sets in local files: which splits a folder holds, and how many rows, without reading the rows."""

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

DATA_SUFFIXES = (".parquet", ".jsonl", ".json", ".ndjson")
MODEL_CONFIG = "config.json"
_HUB_HASH = re.compile(r"-[0-9a-f]{16}$")
_SHARD = re.compile(r"[-_]\d{1,6}-of-\d{1,6}$|-\d{1,6}(?:-[0-9a-f]{8,})?$")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "state.json")
_BLOCK = 1 << 20
_UNNAMED = "train"
_NEVER_TRAINED_ON = ("test", "validation")


def split_files(path: "Path") -> "Mapping[str, tuple[Path, ...]]":
    """Return the data files of a folder, or one file, by split.

    A split is a file's stem (`train_sft.parquet`) without shard numbers (`train-00000-of-00002.parquet`), in whichever
    folder below. A file that is alone also serves as `train`, whatever its name.
    """
    found: dict[str, list[Path]] = {}
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    for file in files:
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if hidden or file.suffix not in DATA_SUFFIXES or file.name in _DESCRIPTIONS or not file.is_file():
            continue
        found.setdefault(_SHARD.sub("", _HUB_HASH.sub("", file.stem)), []).append(file)
    if len(found) == 1 and not found.keys() & {_UNNAMED, *_NEVER_TRAINED_ON}:
        alone = next(iter(found.values()))
        if len(alone) == 1:
            found[_UNNAMED] = alone
    return {split: tuple(files) for split, files in found.items()}


def count_rows(files: "Iterable[Path]") -> int:
    """Count the rows of Parquet files by their metadata, and those of JSONL files by their lines.

    Raises:
        ValueError: a file is not what its name says.
        OSError: a file cannot be read.
    """
    return sum(_rows_of(file) for file in files)


def columns_of(file: "Path") -> tuple[str, ...] | None:
    """Return the names of a Parquet file's columns or of a JSONL file's first row; None where there is no such row.

    Raises:
        ValueError: the Parquet file is not one.
        OSError: the file cannot be read.
    """
    if file.suffix != ".parquet":
        return _first_keys(file)
    from pyarrow import parquet

    return tuple(parquet.read_schema(file).names)


def _first_keys(file: "Path") -> tuple[str, ...] | None:
    with file.open("rb") as stream:
        first = next((line for line in stream if line.strip()), b"")
    try:
        row = json.loads(first)
    except ValueError:
        return None
    return tuple(row) if isinstance(row, dict) else None


def _rows_of(file: "Path") -> int:
    if file.suffix == ".parquet":
        from pyarrow import parquet

        return int(parquet.read_metadata(file).num_rows)
    with file.open("rb") as stream:
        lines, blank = 0, True
        while block := stream.read(_BLOCK):
            pieces = block.split(b"\n")
            for piece in pieces[:-1]:
                lines += not (blank and not piece.strip())
                blank = True
            blank = blank and not pieces[-1].strip()
        return lines + (not blank)
