"""Data sets in local files: which splits a folder holds, and how many rows, without reading the rows."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

DATA_SUFFIXES = (".parquet", ".jsonl")
MODEL_CONFIG = "config.json"
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")
_BLOCK = 1 << 20
_PLAIN_FOLDERS = ("", "data")


def split_files(path: "Path") -> "Mapping[str, tuple[Path, ...]]":
    """Return the data files of a folder by split, or of a single file under its own stem.

    A split is a file's stem (`train_sft.parquet`), without the hub's shard numbers (`train-00000-of-00002.parquet`),
    in the folder itself or in its `data` folder; files in any other folder form a split of that folder's name.
    """
    if path.is_file():
        return {path.stem: (path,)}
    found: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if file.suffix not in DATA_SUFFIXES or any(part.startswith(".") for part in inside.parts) or not file.is_file():
            continue
        folder = inside.parts[0] if len(inside.parts) > 1 else ""
        split = _SHARD.sub("", file.stem) if folder in _PLAIN_FOLDERS else folder
        found.setdefault(split, []).append(file)
    return {split: tuple(files) for split, files in found.items()}


def count_rows(files: "Iterable[Path]") -> int:
    """Count the rows of Parquet files by their metadata, and those of JSONL files by their lines.

    Raises:
        ValueError: a file is not what its name says.
        OSError: a file cannot be read.
    """
    return sum(_rows_of(file) for file in files)


def columns_of(file: "Path") -> tuple[str, ...] | None:
    """Return the names of a Parquet file's columns; None for JSONL, where every line may have its own."""
    if file.suffix != ".parquet":
        return None
    from pyarrow import parquet

    return tuple(parquet.read_schema(file).names)


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
