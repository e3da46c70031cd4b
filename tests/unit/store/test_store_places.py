import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.errors import StoreError, WrongInput
from kilter.plan.graph import Reference
from kilter.store import layout
from kilter.store.checkpoints import signing_key
from kilter.store.folder import FolderObjects
from kilter.store.names import InvalidName
from kilter.store.objects import ObjectInfo, open_objects
from kilter.store.processes import Process
from kilter.store.versions import library_versions


def test_a_path_and_a_file_uri_are_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_objects("./store").uri == str(tmp_path / "store")
    assert open_objects(f"file://{tmp_path}/store").uri == str(tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_an_s3_uri_keeps_bucket_and_prefix():
    assert open_objects("s3://bucket/some/prefix/").uri == "s3://bucket/some/prefix"
    assert open_objects("s3://bucket").uri == "s3://bucket"


@pytest.mark.parametrize("uri", ["", "gs://bucket/x", "http://host/x", "s3://", "s3:///x", "s3://a", "file://relative"])
def test_another_uri_is_wrong_input(uri):
    with pytest.raises(WrongInput):
        open_objects(uri)


def test_a_secret_in_a_uri_is_not_repeated():
    with pytest.raises(WrongInput) as caught:
        open_objects("s3://AKIAEXAMPLE:very-secret@bucket/x")
    assert "very-secret" not in str(caught.value)


def test_a_prefix_cannot_climb():
    with pytest.raises(InvalidName):
        open_objects("s3://bucket/a/../b")


def test_the_stores_modules_import_no_heavy_library():
    code = (
        "import sys, kilter.store.maintenance, kilter.store.checkpoints; from kilter.store.store import Store;"
        "Store.open('x'); assert not {'boto3', 'botocore', 'torch', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


@pytest.mark.parametrize(
    ("stage", "key"), [("..", "a"), ("a", ".."), ("a/b", "c"), ("", "a"), ("a", ""), (".x", "a"), ("a", "b\n")]
)
def test_a_reference_cannot_climb(stage, key):
    with pytest.raises(InvalidName):
        layout.manifest(Reference(stage, key))


def test_versions_name_kilter_and_the_libraries_that_are_there():
    versions = library_versions()
    assert versions["kilter"] == "0.1.0"
    assert versions["pydantic"].startswith("2.")
    assert all(versions.values())


part = st.from_regex(r"[a-z]{1,3}", fullmatch=True)
tree = st.dictionaries(
    part.flatmap(lambda a: st.tuples(st.just(a), part, part)).map("/".join), st.binary(max_size=20), max_size=6
)


@given(tree, st.from_regex(r"([a-z]{1,2}(/[a-z]{0,2})?)?", fullmatch=True))
def test_a_folder_lists_what_begins_alike_as_s3_does(tmp_path_factory, contents, prefix):
    objects = FolderObjects(tmp_path_factory.mktemp("tree"))
    for name, data in contents.items():
        objects.write(name, data)
    expected = {ObjectInfo(name, len(data)) for name, data in contents.items() if name.startswith(prefix)}
    assert set(objects.list(prefix)) == expected
    folders = {prefix + rest.split("/")[0] for rest in (i.name[len(prefix) :] for i in expected) if "/" in rest}
    assert set(objects.folders(prefix)) == folders
    objects.delete(contents)
    assert list(objects.list("")) == []
    assert [path for path in objects.root.rglob("*") if path.is_dir()] == [objects.root / ".unfinished"] * bool(
        contents
    )


def test_writing_and_deleting_neighbours_at_once_loses_nothing(tmp_path):
    objects = FolderObjects(tmp_path)
    barrier = threading.Barrier(8)

    def churn(number: int) -> None:
        barrier.wait()
        for turn in range(200):
            name = f"shared/deep/{number}-{turn}"
            objects.write(name, b"x")
            assert objects.read(name) == b"x"
            objects.delete([name])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(churn, range(8)))
    assert list(objects.list("")) == []


def test_files_that_are_not_whole_have_a_folder_of_their_own(tmp_path):
    objects = FolderObjects(tmp_path)
    objects.write("a", b"x")
    for act in (lambda: objects.write(".unfinished/x", b""), lambda: objects.read(".unfinished/x")):
        with pytest.raises(InvalidName):
            act()
    assert [info.name for info in objects.list("")] == ["a"]


def test_what_killed_writers_left_is_swept(tmp_path):
    objects = FolderObjects(tmp_path)
    objects.write("a", b"x")
    leftover = tmp_path / ".unfinished" / "left"
    leftover.write_bytes(b"12345")
    os.utime(leftover, (0, 0))
    fresh = tmp_path / ".unfinished" / "fresh"
    fresh.write_bytes(b"1")
    assert objects.sweep(3600, dry_run=True) == 5
    assert leftover.exists()
    assert objects.sweep(3600, dry_run=False) == 5
    assert not leftover.exists()
    assert fresh.exists()


def test_a_file_where_a_folder_should_be_is_an_error_of_the_store(tmp_path):
    (tmp_path / "store").write_text("not a folder")
    objects = FolderObjects(tmp_path / "store")
    with pytest.raises(StoreError):
        objects.write("a", b"x")


def test_this_process_lives_and_a_finished_one_does_not():
    assert Process.this().is_alive() is True
    code = "from kilter.store.processes import Process; print(Process.this().model_dump_json())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert Process.model_validate_json(done.stdout).is_alive() is False


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"boot": "other"}, {"namespace": "other"}, {"user": 12345}])
def test_a_process_that_cannot_be_seen_is_neither_alive_nor_dead(change):
    assert Process.this().model_copy(update=change).is_alive() is None


def test_a_reused_process_number_is_another_process():
    here = Process.this()
    assert here.model_copy(update={"started": here.started - 1}).is_alive() is False


def test_the_signing_key_comes_from_the_environment(tmp_path):
    assert signing_key({"KILTER_SIGNING_KEY": "k" * 32}, tmp_path) == b"k" * 32
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(WrongInput) as caught:
        signing_key({"KILTER_SIGNING_KEY": "guessable"}, tmp_path)
    assert "guessable" not in str(caught.value)


def test_a_laptop_makes_its_signing_key_once_and_for_its_owner_only(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: signing_key({}, tmp_path / "config"), range(8)))
    (key,) = keys
    assert key is not None
    assert len(key) == 64
    (path,) = (tmp_path / "config" / "kilter").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_signing_key_that_others_can_read_is_refused(tmp_path):
    signing_key({}, tmp_path)
    (tmp_path / "kilter" / "signing-key").chmod(0o644)
    with pytest.raises(WrongInput, match="chmod 600"):
        signing_key({}, tmp_path)


def test_without_a_folder_for_it_there_is_no_signing_key():
    assert signing_key({}, Path("/proc/nowhere")) is None
