import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kilter.data.mirror import Mirror
from kilter.errors import StageFailed


def put(folder, data_set, configuration, split, rows):
    path = folder / data_set / configuration / f"{split}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"question": pa.array(rows, pa.string())}), path)
    return path


def test_a_split_is_read_from_its_place(tmp_path):
    put(tmp_path, "org/name", "main", "test", ["one", "two"])
    table = Mirror.at(tmp_path, tmp_path).read("org/name", "main", "test", "a_task")
    assert table.column("question").to_pylist() == ["one", "two"]


def test_no_configuration_means_the_default_one(tmp_path):
    put(tmp_path, "org/name", "default", "test", ["one"])
    assert Mirror.at(tmp_path, tmp_path).lacks("org/name", None, "test") is None


def test_a_missing_split_names_the_path_and_what_is_there(tmp_path):
    put(tmp_path, "org/name", "main", "validation", ["one"])
    with pytest.raises(StageFailed, match=r"a_task needs the split 'test'.*main/test\.parquet.*main has validation"):
        Mirror.at(tmp_path, tmp_path).read("org/name", "main", "test", "a_task")


def test_a_missing_configuration_names_those_that_are_there(tmp_path):
    put(tmp_path, "org/name", "main", "test", ["one"])
    with pytest.raises(StageFailed, match="has the configurations main"):
        Mirror.at(tmp_path, tmp_path).read("org/name", "other", "test", "a_task")


def test_a_split_without_rows_is_an_error(tmp_path):
    put(tmp_path, "org/name", "main", "test", [])
    with pytest.raises(StageFailed, match="no documents"):
        Mirror.at(tmp_path, tmp_path).read("org/name", "main", "test", "a_task")


def test_a_broken_file_is_an_error_that_names_it(tmp_path):
    path = put(tmp_path, "org/name", "main", "test", ["one"])
    path.write_bytes(b"not Parquet")
    with pytest.raises(StageFailed, match=r"cannot read .*test\.parquet"):
        Mirror.at(tmp_path, tmp_path).read("org/name", "main", "test", "a_task")


def test_the_digest_follows_the_content_and_not_the_folder(tmp_path):
    digests = []
    for number, rows in enumerate((["one"], ["one"], ["two"])):
        put(tmp_path / str(number), "org/name", "main", "test", rows)
        mirror = Mirror.at(tmp_path / str(number), tmp_path)
        assert mirror.digest() is None
        mirror.read("org/name", "main", "test", "a_task")
        digests.append(mirror.digest())
    assert digests[0] == digests[1] != digests[2]
