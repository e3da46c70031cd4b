from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kilter.data.sources import count_rows, read_batches, schema_of, split_files, split_names
from kilter.errors import WrongInput

if TYPE_CHECKING:
    from pathlib import Path


def _parquet(path: Path, rows: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"prompt": [f"p{row}" for row in range(rows)], "other": list(range(rows))}), path)


@pytest.mark.parametrize(
    "names",
    [
        ("train.parquet", "test.parquet"),
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-0123456789abcdef.parquet", "data/test-00000-of-00001-0123456789abcdef.parquet"),
        ("default/train.parquet", "default/test.parquet"),
    ],
)
def test_a_split_is_found_in_the_usual_layouts(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        _parquet(tmp_path / name)
    expected = tuple(tmp_path / name for name in names if "train" in name)
    assert split_files(tmp_path, "train") == expected
    assert split_names(tmp_path) == ("test", "train")


def test_a_single_file_of_any_name_is_the_training_split(tmp_path: Path) -> None:
    _parquet(tmp_path / "pairs.parquet")
    assert split_files(tmp_path, "train") == (tmp_path / "pairs.parquet",)
    assert split_files(tmp_path / "pairs.parquet", "train") == (tmp_path / "pairs.parquet",)
    with pytest.raises(WrongInput, match=r"no split 'test'.*found are train"):
        split_files(tmp_path, "test")


def test_a_lone_test_file_does_not_become_the_training_split(tmp_path: Path) -> None:
    _parquet(tmp_path / "test.parquet")
    with pytest.raises(WrongInput, match="found are test"):
        split_files(tmp_path, "train")


def test_a_missing_split_names_those_that_exist(tmp_path: Path) -> None:
    _parquet(tmp_path / "train_prefs.parquet")
    _parquet(tmp_path / "test_prefs.parquet")
    with pytest.raises(WrongInput, match="test_prefs, train_prefs"):
        split_files(tmp_path, "train")


def test_a_split_in_two_configurations_must_be_named(tmp_path: Path) -> None:
    _parquet(tmp_path / "en" / "train.parquet")
    _parquet(tmp_path / "de" / "train.parquet")
    with pytest.raises(WrongInput, match="de, en"):
        split_files(tmp_path, "train")


def test_no_folder_and_no_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="there is no data at"):
        split_files(tmp_path / "nothing", "train")
    with pytest.raises(WrongInput, match="no Parquet or JSONL"):
        split_files(tmp_path, "train")


def test_rows_are_counted_and_read_alike_from_parquet_and_jsonl(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet", rows=5)
    rows = [{"prompt": f"p{row}", "extra": {"deep": row}, "other": None} for row in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    for name in ("a.parquet", "a.jsonl"):
        files = (tmp_path / name,)
        assert count_rows(files) == 5
        batches = list(read_batches(files, ["prompt"], batch_rows=2))
        assert [batch.num_rows for batch in batches] == [2, 2, 1]
        assert [row for batch in batches for row in batch.to_pylist()] == [{"prompt": f"p{row}"} for row in range(5)]


def test_a_missing_column_and_a_broken_file_are_named(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet")
    with pytest.raises(WrongInput, match=r"has no column chosen: it has prompt, other"):
        list(read_batches((tmp_path / "a.parquet",), ["chosen"]))
    (tmp_path / "b.parquet").write_bytes(b"not a Parquet file at all")
    with pytest.raises(WrongInput, match=r"b\.parquet cannot be read as Parquet"):
        schema_of(tmp_path / "b.parquet")
