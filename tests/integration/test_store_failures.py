"""What a store says and keeps when its place fails."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from s3_servers import BUCKET, free_port, running_moto

from kilter.errors import StoreError
from kilter.plan.graph import Reference
from kilter.store.manifest import Request, Resources, now
from kilter.store.objects import ObjectInfo, open_objects
from kilter.store.s3 import connect_from_environment
from kilter.store.store import Store

REFERENCE = Reference("align", "a" * 32)
REQUEST = Request(stage="align", key="a" * 32, code="1", config={})
RESOURCES = Resources(seconds=1, peak_memory_bytes=1, cpu_seconds=1)
MEBIBYTE = 1024 * 1024


def commit(store: Store, size: int):
    attempt = store.begin(REFERENCE)
    (attempt.directory / "weights").write_bytes(os.urandom(size))
    return store.commit(attempt, REQUEST, {}, now(), RESOURCES)


def test_a_read_only_folder_is_read_and_refuses_to_be_written(tmp_path, scratch, make_read_only):
    folder = tmp_path / "store"
    manifest = commit(Store.open(str(folder)), 10)
    before = sorted(folder.rglob("*"))
    make_read_only(folder)
    store = Store.open(str(folder))
    assert store.manifest(REFERENCE) == manifest
    assert (store.fetch(manifest) / "weights").stat().st_size == 10
    acts = [
        lambda: store.begin(Reference("align", "b" * 32)),
        lambda: store.put_request(REQUEST),
        lambda: store.objects.write("x", b"x"),
        lambda: store.objects.create("x", b"x"),
        lambda: store.objects.delete([f"align/{'a' * 32}/manifest.json"]),
    ]
    for act in acts:
        with pytest.raises(StoreError, match=r"read-only|may not be written") as caught:
            act()
        assert str(folder) in str(caught.value)
    assert sorted(folder.rglob("*")) == before


def test_a_full_folder_says_how_much_was_needed_and_loses_nothing(small_disk, scratch):
    store = Store.open(str(small_disk / "store"))
    manifest = commit(store, MEBIBYTE)
    before = sorted(info.name for info in store.objects.list(""))
    for act in (store.objects.write, store.objects.create):
        with pytest.raises(StoreError, match=r"no space left.*10\.0 MiB needed"):
            act("large", bytes(10 * MEBIBYTE))
    source = scratch / "source"
    source.write_bytes(bytes(10 * MEBIBYTE))
    with pytest.raises(StoreError, match=r"no space left.*10\.0 MiB needed"):
        store.objects.upload(source, "large")
    assert sorted(info.name for info in store.objects.list("")) == before
    assert list((small_disk / "store" / ".unfinished").iterdir()) == []
    assert (store.fetch(manifest) / "weights").stat().st_size == MEBIBYTE
    store.objects.write("small", b"fits")


def test_a_full_scratch_folder_says_so_before_anything_is_brought(s3_uri, small_disk, scratch, monkeypatch):
    manifest = commit(Store.open(s3_uri), 10 * MEBIBYTE)
    monkeypatch.setenv("KILTER_SCRATCH", str(small_disk / "scratch"))
    store = Store.open(s3_uri)
    with pytest.raises(StoreError, match=r"no space left.*10\.0 MiB needed"):
        store.fetch(manifest)
    target = small_disk / "out" / "weights"
    with pytest.raises(StoreError, match=r"no space left.*10\.0 MiB needed"):
        store.objects.download(
            ObjectInfo(f"align/{'a' * 32}/attempts/{manifest.attempt}/weights", 10 * MEBIBYTE), target
        )
    assert list(target.parent.iterdir()) == []


def test_an_endpoint_that_nobody_answers_is_named(monkeypatch, scratch):
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "known")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-shown")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = Store.open(f"s3://{BUCKET}/x")
    for act in (lambda: store.manifest(REFERENCE), lambda: store.begin(REFERENCE), lambda: list(store.manifests())):
        with pytest.raises(StoreError, match="does not answer") as caught:
            act()
        assert endpoint in str(caught.value)
        assert "not-to-be-shown" not in str(caught.value)


@pytest.mark.slow
def test_an_endpoint_that_vanishes_during_a_stage_costs_no_output(tmp_path, scratch, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with running_moto(tmp_path) as (server, process):
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = Store.open(f"s3://{BUCKET}/x")
        attempt = store.begin(REFERENCE)
        (attempt.directory / "weights").write_bytes(b"hours of work")
        process.kill()
        process.wait()
        with pytest.raises(StoreError, match="does not answer"):
            store.commit(attempt, REQUEST, {}, now(), RESOURCES)
    assert (attempt.directory / "weights").read_bytes() == b"hours of work"


def test_a_missing_bucket_is_named(s3_uri):
    store = Store.open("s3://kilter-no-such-bucket/x")
    acts = [
        lambda: store.manifest(REFERENCE),
        lambda: store.existing([REFERENCE]),
        lambda: store.begin(REFERENCE),
        lambda: list(store.manifests()),
        lambda: store.objects.write("x", b""),
    ]
    for act in acts:
        with pytest.raises(StoreError, match="there is no bucket kilter-no-such-bucket"):
            act()


def test_missing_credentials_are_asked_for(s3_uri, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID"):
        Store.open(s3_uri).manifest(REFERENCE)


@pytest.mark.ceph
@pytest.mark.parametrize(
    ("variable", "code"),
    [("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"), ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId")],
)
def test_wrong_credentials_are_refused_without_being_shown(ceph_server, scratch, monkeypatch, variable, code):
    for name, value in ceph_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(variable, "wrong-and-private")
    store = Store.open(f"s3://{BUCKET}/x")
    with pytest.raises(StoreError, match=code) as caught:
        store.manifest(REFERENCE)
    assert "wrong-and-private" not in str(caught.value)
    assert ceph_server.environment["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_stages_of_one_machine_bring_an_object_once(s3_uri, scratch):
    manifest = commit(Store.open(s3_uri), 100)
    shutil.rmtree(scratch)
    brought: list[int] = []
    barrier = threading.Barrier(4)

    def fetch(_: int) -> bytes:
        store = Store.open(s3_uri)
        barrier.wait()
        return (store.fetch(manifest, progress=brought.append) / "weights").read_bytes()

    with ThreadPoolExecutor(4) as pool:
        contents = set(pool.map(fetch, range(4)))
    assert len(contents) == 1
    assert sum(brought) == 100


def test_uploads_that_were_never_completed_are_swept_once_they_are_old(s3_uri):
    client = connect_from_environment()
    bucket, _, prefix = s3_uri.removeprefix("s3://").partition("/")
    upload = client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/large")["UploadId"]
    part = {"Bucket": bucket, "Key": f"{prefix}/large", "UploadId": upload, "PartNumber": 1}
    client.upload_part(**part, Body=bytes(5 * MEBIBYTE))
    objects = open_objects(s3_uri)
    (listed,) = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)["Uploads"]
    # The emulator dates every upload to 2010.
    is_dated = listed["Initiated"].year > 2010
    assert objects.sweep(3600, dry_run=True) == (0 if is_dated else 5 * MEBIBYTE)
    assert objects.sweep(-10, dry_run=True) == 5 * MEBIBYTE
    assert objects.sweep(-10, dry_run=False) == 5 * MEBIBYTE
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)


def test_a_transfer_can_be_interrupted(s3_uri, tmp_path):
    objects = open_objects(s3_uri)
    (tmp_path / "large").write_bytes(bytes(40 * MEBIBYTE))
    with pytest.raises(StoreError, match="interrupted"):
        objects.upload(tmp_path / "large", "some/large", lambda _: objects.interrupt("some/"))
    assert list(objects.list("")) == []
    objects.upload(tmp_path / "large", "some/large", lambda _: objects.interrupt("other/"))
    with pytest.raises(StoreError, match="interrupted"):
        objects.download(
            ObjectInfo("some/large", 40 * MEBIBYTE), tmp_path / "out", lambda _: objects.interrupt("some/")
        )
    assert not (tmp_path / "out").exists()


def test_one_failed_upload_fails_the_commit_and_stops_the_others(s3_uri, scratch):
    store = Store.open(s3_uri)
    attempt = store.begin(REFERENCE)
    for number in range(3):
        (attempt.directory / str(number)).write_bytes(bytes(MEBIBYTE))
    upload = store.objects.upload

    def failing(path, name, progress=None):
        if path.name == "1":
            raise StoreError("the network is gone")
        upload(path, name, progress)

    store.objects.upload = failing
    with pytest.raises(StoreError, match="the network is gone"):
        store.commit(attempt, REQUEST, {}, now(), RESOURCES)
    assert store.manifest(REFERENCE) is None
    store.objects.upload = upload
    assert store.commit(attempt, REQUEST, {}, now(), RESOURCES).attempt == attempt.identifier


def test_what_a_stage_committed_is_on_its_machine_already(s3_uri, scratch):
    store = Store.open(s3_uri)
    manifest = commit(store, 100)
    brought: list[int] = []
    store.fetch(manifest, progress=brought.append)
    assert brought == []


def test_a_brought_object_that_was_changed_is_brought_again(s3_uri, scratch):
    store = Store.open(s3_uri)
    manifest = commit(store, 100)
    good = store.read_object(manifest, "weights")
    path = store.fetch(manifest) / "weights"
    path.write_bytes(bytes(100))
    brought: list[int] = []
    assert (store.fetch(manifest, progress=brought.append) / "weights").read_bytes() == good
    assert sum(brought) == 100


def test_a_scratch_folder_of_another_user_is_not_used(s3_uri, scratch, tmp_path, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("giving a folder to another user needs root")
    monkeypatch.delenv("KILTER_SCRATCH")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    planted = tmp_path / f"kilter-{os.getuid()}"
    planted.mkdir()
    os.chown(planted, 12345, 12345)
    with pytest.raises(StoreError, match="belongs to another user"):
        Store.open(s3_uri).begin(REFERENCE)


def test_a_client_survives_a_fork(s3_uri):
    objects = open_objects(s3_uri)
    objects.write("before", b"x")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            objects.write("after", objects.read("before"))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert objects.read("after") == b"x"


def test_a_server_that_ignores_conditional_writes_is_found_out(store_uri):
    store = Store.open(store_uri)
    create = store.objects.create

    def careless(name: str, data: bytes) -> bool:
        store.objects.write(name, data)
        return True

    store.objects.create = careless
    with pytest.raises(StoreError, match="ignores conditional writes"):
        store.make_ready()
    store.objects.create = create
    store.make_ready()
