"""Local data files: splits and rows."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.study import local
from kilter.study.local import count_rows, split_files


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train_sft.parquet", "test_sft.parquet"], {"train_sft": 1, "test_sft": 1}),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], {"train": 2}),
        (["data/train-00000-of-00001-0123456789abcdef.parquet", "data/test.jsonl"], {"train": 1, "test": 1}),
        (["pairs.jsonl", "README.md", ".cache/x.parquet", "dataset_info.json"], {"pairs": 1, "train": 1}),
        (["test.jsonl"], {"test": 1}),
        (["notes.txt"], {}),
    ],
)
def test_splits_are_the_beginnings_of_file_names(tmp_path, files, splits):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert {split: len(found) for split, found in split_files(tmp_path).items()} == splits


def test_one_file_is_its_own_split_and_train(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"")
    assert split_files(path) == {"pairs": (path,), "train": (path,)}


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from([b"", b"  ", b"{}", b'{"a": 1}', b"x" * 9]), max_size=12), st.integers(1, 9), st.booleans()
)
def test_blank_lines_are_not_rows_however_the_file_is_read(tmp_path_factory, lines, block, ended):
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_bytes(b"\n".join(lines) + (b"\n" if ended else b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_BLOCK", block)
        assert count_rows([path]) == sum(1 for line in lines if line.strip())


def test_rows_of_parquet_come_from_its_metadata(tmp_path):
    for index in range(2):
        pq.write_table(pa.table({"a": range(5)}), tmp_path / f"{index}.parquet")
    assert count_rows(sorted(tmp_path.iterdir())) == 10
    assert local.columns_of(tmp_path / "0.parquet") == ("a",)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (b'\n  \n{"b": 1, "a": [2]}\n{"c": 3}\n', ("b", "a")),
        (b"{}", ()),
        (b"", None),
        (b"[1]", None),
        (b"{", None),
        (b"\xff", None),
    ],
)
def test_columns_of_jsonl_are_those_of_its_first_row(tmp_path, text, columns):
    (tmp_path / "x.jsonl").write_bytes(text)
    assert local.columns_of(tmp_path / "x.jsonl") == columns


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match="Parquet"):
        count_rows([tmp_path / "x.parquet"])
