"""What a store promises, over every kind of place."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kilter.errors import CorruptObject, StoreError, WrongInput
from kilter.plan.graph import Reference
from kilter.store import layout, maintenance
from kilter.store.checkpoints import resume_state
from kilter.store.lease import Holder, _encoded, acquire, holder
from kilter.store.manifest import Manifest, Request, Resources, now
from kilter.store.names import InvalidName
from kilter.store.objects import ObjectInfo, ObjectMissing, open_objects
from kilter.store.processes import Process
from kilter.store.store import Store

RESOURCES = Resources(seconds=1.5, peak_memory_bytes=1000, cpu_seconds=1.0, tokens=10)
KEY = b"a signing key of tests, 32 bytes"
LARGE = 40 * 1024 * 1024
HOSTILE_NAMES = ["../out", "/etc/passwd", "a/../../out", "a\\..\\out", "a//b", "", "a\x00", "a/"]


def a_reference(key: str = "a", stage: str = "align") -> Reference:
    return Reference(stage, key * 32)


def a_request(reference: Reference, **changes) -> Request:
    fields = {"stage": reference.stage, "key": reference.key, "code": "1", "label": "label", "config": {"beta": 0.1}}
    return Request(**fields | changes)


def commit(store: Store, reference: Reference, files: dict[str, bytes], **request) -> Manifest:
    attempt = store.begin(reference)
    for name, data in files.items():
        path = attempt.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return store.commit(attempt, a_request(reference, **request), {"files": len(files)}, now(), RESOURCES)


def names(store: Store, prefix: str = "") -> set[str]:
    return {info.name for info in store.objects.list(prefix)}


def overwrite(store: Store, manifest: Manifest, name: str, data: bytes) -> None:
    store.objects.write(f"{layout.attempt(manifest.reference, manifest.attempt)}/{name}", data)


def forget_scratch(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)


def python(code: str, *arguments: str, **options) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, **options)


class TestObjects:
    def test_an_object_can_be_written_read_replaced_and_deleted(self, store_uri):
        objects = open_objects(store_uri)
        assert objects.info("a/b") is None
        with pytest.raises(ObjectMissing):
            objects.read("a/b")
        objects.write("a/b", b"one")
        objects.write("a/b", b"three")
        assert objects.read("a/b") == b"three"
        assert objects.info("a/b") == ObjectInfo("a/b", 5)
        objects.delete(["a/b", "a/missing"])
        assert objects.info("a/b") is None

    def test_names_outside_ascii_are_kept(self, store_uri):
        objects = open_objects(store_uri)
        name = "a b/é+%20&?#=日本.txt"
        objects.write(name, b"x")
        assert objects.read(name) == b"x"
        assert list(objects.list("")) == [ObjectInfo(name, 1)]
        objects.delete([name])
        assert list(objects.list("")) == []

    def test_listing_takes_any_prefix(self, store_uri):
        objects = open_objects(store_uri)
        for name in ("a/1", "a/2/3", "ab/4", "b"):
            objects.write(name, b"")
        assert {info.name for info in objects.list("a")} == {"a/1", "a/2/3", "ab/4"}
        assert {info.name for info in objects.list("a/")} == {"a/1", "a/2/3"}
        assert set(objects.folders("")) == {"a", "ab"}
        assert set(objects.folders("a/")) == {"a/2"}
        assert list(objects.folders("nothing/")) == []

    def test_more_than_a_thousand_objects_are_listed_and_deleted(self, store_uri):
        objects = open_objects(store_uri)
        everything = {f"many/{number:04d}" for number in range(1005)}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: objects.write(name, b"x"), everything))
        assert {info.name for info in objects.list("many/")} == everything
        objects.delete(everything)
        assert list(objects.list("many/")) == []

    def test_of_racing_creators_one_wins(self, store_uri):
        places = [open_objects(store_uri) for _ in range(8)]
        barrier = threading.Barrier(8)

        def create(number: int) -> bool:
            barrier.wait()
            return places[number].create("once", str(number).encode())

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(create, range(8)))
        assert outcomes.count(True) == 1
        assert places[0].read("once") == str(outcomes.index(True)).encode()
        assert not places[0].create("once", b"late")

    @pytest.mark.parametrize("size", [0, 1, LARGE])
    def test_a_file_comes_back_as_it_went(self, store_uri, tmp_path, size):
        objects = open_objects(store_uri)
        source, target = tmp_path / "source", tmp_path / "deep" / "target"
        source.write_bytes(os.urandom(size))
        up, down = [], []
        objects.upload(source, "large", up.append)
        objects.download(ObjectInfo("large", size), target, down.append)
        assert target.read_bytes() == source.read_bytes()
        assert sum(up) == sum(down) == size
        assert [path.name for path in target.parent.iterdir()] == ["target"]

    def test_what_is_missing_or_of_another_size_is_not_downloaded(self, store_uri, tmp_path):
        objects = open_objects(store_uri)
        objects.write("short", b"12")
        with pytest.raises(ObjectMissing):
            objects.download(ObjectInfo("missing", 1), tmp_path / "out" / "x")
        with pytest.raises(StoreError, match="instead of 3"):
            objects.download(ObjectInfo("short", 3), tmp_path / "out" / "x")
        assert list((tmp_path / "out").glob("*")) == []

    def test_a_download_that_is_killed_leaves_nothing_under_its_name(self, store_uri, tmp_path):
        objects = open_objects(store_uri)
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(os.urandom(LARGE))
        objects.upload(source, "large")
        code = (
            "import os, signal, sys; from pathlib import Path; from kilter.store.objects import *;"
            "open_objects(sys.argv[1]).download(ObjectInfo('large', int(sys.argv[3])), Path(sys.argv[2]),"
            " lambda _: os.kill(os.getpid(), signal.SIGKILL))"
        )
        killed = python(code, store_uri, str(target), str(LARGE))
        assert killed.wait() == -signal.SIGKILL
        assert not target.exists()
        objects.download(ObjectInfo("large", LARGE), target)
        assert target.read_bytes() == source.read_bytes()

    def test_an_upload_that_is_killed_leaves_no_object_and_can_be_swept(self, store_uri, tmp_path):
        source = tmp_path / "source"
        source.write_bytes(os.urandom(LARGE))
        code = (
            "import os, signal, sys; from pathlib import Path; from kilter.store.objects import *;"
            "open_objects(sys.argv[1]).upload(Path(sys.argv[2]), 'large',"
            " lambda _: os.kill(os.getpid(), signal.SIGKILL))"
        )
        assert python(code, store_uri, str(source)).wait() == -signal.SIGKILL
        objects = open_objects(store_uri)
        assert list(objects.list("")) == []
        objects.sweep(-10, dry_run=False)
        assert objects.sweep(-10, dry_run=True) == 0

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_a_name_that_could_do_harm_is_refused_everywhere(self, store_uri, tmp_path, name):
        objects = open_objects(store_uri)
        (tmp_path / "file").write_bytes(b"x")
        acts = [
            lambda: objects.read(name),
            lambda: objects.info(name),
            lambda: objects.create(name, b""),
            lambda: objects.write(name, b""),
            lambda: objects.delete([name]),
            lambda: objects.upload(tmp_path / "file", name),
            lambda: objects.download(ObjectInfo(name, 1), tmp_path / "x"),
            lambda: objects.local_path(name),
            lambda: objects.digest(name),
            lambda: objects.age(name),
        ]
        for act in acts:
            with pytest.raises(InvalidName):
                act()

    def test_age_counts_from_the_last_write(self, store_uri):
        objects = open_objects(store_uri)
        assert objects.age("a") is None
        objects.write("a", b"x")
        age = objects.age("a")
        assert age is not None
        assert -2 <= age < 60


class TestRequests:
    def test_a_request_is_kept_and_its_newest_hints_count(self, store_uri):
        store = Store.open(store_uri)
        reference = a_reference()
        assert store.request(reference) is None
        store.put_request(a_request(reference, hints={"path": "old"}))
        store.put_request(a_request(reference, hints={"path": "old"}))
        store.put_request(a_request(reference, hints={"path": "new"}))
        assert Store.open(store_uri).request(reference) == a_request(reference, hints={"path": "new"})

    def test_asking_is_not_answering(self, store_uri):
        store = Store.open(store_uri)
        store.put_request(a_request(a_reference()))
        assert store.manifest(a_reference()) is None
        assert store.existing([a_reference()]) == set()
        assert list(store.manifests()) == []
        assert store.find("aaa") == [a_reference()]


class TestCommits:
    def test_a_commit_lists_every_file_with_size_and_digest(self, store_uri):
        store = Store.open(store_uri)
        reference = a_reference()
        inputs = {"model": "sft/x"}
        manifest = commit(store, reference, {"model/weights": b"abc", "empty": b""}, inputs=inputs)
        assert Store.open(store_uri).manifest(reference) == manifest
        found = {stored.name: (stored.size, stored.sha256) for stored in manifest.objects}
        assert found == {
            # Of "abc" and of nothing, from FIPS 180-4's examples.
            "model/weights": (3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            "empty": (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        }
        assert (manifest.summary, manifest.inputs, manifest.resources) == ({"files": 2}, inputs, RESOURCES)
        assert manifest.started <= manifest.ended
        assert store.existing([reference, a_reference("b")]) == {reference}

    def test_of_racing_commits_one_wins_whole(self, store_uri):
        reference = a_reference()
        barrier = threading.Barrier(8)

        def race(number: int) -> Manifest:
            store = Store.open(store_uri)
            attempt = store.begin(reference)
            for name in ("one", "two"):
                (attempt.directory / name).write_bytes(str(number).encode())
            barrier.wait()
            return store.commit(attempt, a_request(reference), {"number": number}, now(), RESOURCES)

        with ThreadPoolExecutor(8) as pool:
            manifests = list(pool.map(race, range(8)))
        assert all(manifest == manifests[0] for manifest in manifests)
        store = Store.open(store_uri)
        assert store.manifest(reference) == manifests[0]
        winner = str(manifests[0].summary["number"]).encode()
        folder = store.fetch(manifests[0])
        assert {(folder / name).read_bytes() for name in ("one", "two")} == {winner}

    def test_a_later_commit_gets_the_first_ones_answer(self, store_uri):
        store = Store.open(store_uri)
        first = commit(store, a_reference(), {"x": b"first"})
        second = commit(store, a_reference(), {"x": b"second"})
        assert second == first
        assert store.read_object(second, "x") == b"first"

    def test_an_attempt_that_is_killed_while_it_commits_leaves_no_result(self, store_uri):
        code = (
            "import os, signal, sys; from kilter.plan.graph import Reference; from kilter.store.store import Store;"
            "from kilter.store.manifest import *; from kilter.store import objects;"
            "store = Store.open(sys.argv[1]); attempt = store.begin(Reference('align', 'a' * 32));"
            "(attempt.directory / 'x').write_bytes(b'half');"
            "store.objects.create = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
            "store.commit(attempt, Request(stage='align', key='a' * 32, code='1', config={}), {}, now(),"
            " Resources(seconds=1, peak_memory_bytes=1, cpu_seconds=1))"
        )
        assert python(code, store_uri).wait() == -signal.SIGKILL
        store = Store.open(store_uri)
        assert store.manifest(a_reference()) is None
        manifest = commit(store, a_reference(), {"x": b"whole"})
        assert store.read_object(manifest, "x") == b"whole"
        assert len(maintenance.prune(store, dry_run=False).attempts) == 1
        assert store.read_object(manifest, "x") == b"whole"

    def test_attempts_are_ordered_by_time(self, store_uri):
        store = Store.open(store_uri)
        identifiers = [store.begin(a_reference()).identifier for _ in range(5)]
        assert identifiers == sorted(set(identifiers))

    def test_an_abandoned_attempt_leaves_nothing(self, store_uri):
        store = Store.open(store_uri)
        attempt = store.begin(a_reference())
        (attempt.directory / "x").write_bytes(b"x")
        (attempt.scratch / "y").write_bytes(b"x")
        store.abandon(attempt)
        assert names(store) == {"store.json"}
        assert not attempt.directory.exists()
        assert not attempt.scratch.exists()

    def test_a_link_is_no_output(self, store_uri, tmp_path):
        store = Store.open(store_uri)
        (tmp_path / "secret").write_text("elsewhere")
        attempt = store.begin(a_reference())
        (attempt.directory / "link").symlink_to(tmp_path / "secret")
        with pytest.raises(StoreError, match="link"):
            store.commit(attempt, a_request(a_reference()), {}, now(), RESOURCES)
        assert store.manifest(a_reference()) is None

    def test_a_summary_that_is_no_number_is_not_committed(self, store_uri):
        store = Store.open(store_uri)
        attempt = store.begin(a_reference())
        with pytest.raises(StoreError, match="loss is nan"):
            store.commit(attempt, a_request(a_reference()), {"loss": float("nan")}, now(), RESOURCES)
        assert store.manifest(a_reference()) is None

    def test_outputs_that_were_removed_meanwhile_are_not_committed(self, store_uri):
        store = Store.open(store_uri)
        attempt = store.begin(a_reference())
        attempt.directory.rename(attempt.directory.with_name("moved"))
        attempt.directory.mkdir()
        (attempt.directory / "rest").write_bytes(b"half a result")
        with pytest.raises(StoreError, match="removed while it ran"):
            store.commit(attempt, a_request(a_reference()), {}, now(), RESOURCES)

    def test_a_request_of_another_result_is_not_answered(self, store_uri):
        store = Store.open(store_uri)
        attempt = store.begin(a_reference("a"))
        with pytest.raises(StoreError, match="cannot answer"):
            store.commit(attempt, a_request(a_reference("b")), {}, now(), RESOURCES)

    def test_a_store_of_a_later_format_is_not_written(self, store_uri):
        open_objects(store_uri).write("store.json", b'{"format": 99}')
        with pytest.raises(StoreError, match="format 99"):
            Store.open(store_uri).begin(a_reference())

    def test_hundreds_of_results_are_looked_up(self, store_uri):
        store = Store.open(store_uri)
        done = commit(store, a_reference(), {}).reference
        asked = [Reference("align", f"{number:032x}") for number in range(300)]
        assert store.existing([*asked, done]) == {done}


class TestReading:
    def test_objects_are_fetched_by_name_by_folder_or_all(self, store_uri, scratch):
        store = Store.open(store_uri)
        manifest = commit(store, a_reference(), {"model/a": b"1", "model/b": b"22", "rows": b"333"})
        forget_scratch(scratch)
        brought = []
        folder = store.fetch(manifest, ["model/"], brought.append)
        assert [(folder / name).read_bytes() for name in ("model/a", "model/b")] == [b"1", b"22"]
        assert sum(brought) == 3
        assert (store.fetch(manifest, ["rows"]) / "rows").read_bytes() == b"333"
        assert (store.fetch(manifest) / "model/a").exists()
        for wrong in ("model", "other/", "../x"):
            with pytest.raises(StoreError, match="has no object"):
                store.fetch(manifest, [wrong])

    def test_uris_name_the_object_and_the_manifest(self, store_uri):
        store = Store.open(store_uri)
        manifest = commit(store, a_reference(), {"rows": b"1"})
        base = f"{store_uri}/align/{'a' * 32}"
        assert store.object_uri(manifest, "rows") == f"{base}/attempts/{manifest.attempt}/rows"
        assert store.manifest_uri(a_reference()) == f"{base}/manifest.json"

    @pytest.mark.parametrize("damage", [b"0123456788", b"short", None])
    def test_a_damaged_object_is_never_read(self, store_uri, scratch, damage):
        store = Store.open(store_uri)
        manifest = commit(store, a_reference(), {"model/weights": b"0123456789", "rows": b"fine"})
        forget_scratch(scratch)
        if damage is None:
            store.objects.delete([f"{layout.attempt(manifest.reference, manifest.attempt)}/model/weights"])
        else:
            overwrite(store, manifest, "model/weights", damage)
        for act in (lambda: store.fetch(manifest), lambda: store.read_object(manifest, "model/weights")):
            with pytest.raises(CorruptObject) as caught:
                act()
            message = str(caught.value)
            for part in ("model/weights", "align", "a" * 32):
                assert part in message
        assert (store.fetch(manifest, ["rows"]) / "rows").read_bytes() == b"fine"
        (found,) = maintenance.verify(store)
        assert (found.reference, found.name) == (a_reference(), "model/weights")

    def test_a_corrupt_object_says_how_to_make_it_anew(self, store_uri, scratch):
        store = Store.open(store_uri)
        manifest = commit(store, a_reference(), {"x": b"good"})
        forget_scratch(scratch)
        overwrite(store, manifest, "x", b"evil")
        with pytest.raises(CorruptObject, match=f"kilter store invalidate align/{'a' * 32}"):
            store.fetch(manifest)
        maintenance.invalidate(store, a_reference())
        anew = commit(store, a_reference(), {"x": b"good"})
        assert (store.fetch(anew) / "x").read_bytes() == b"good"

    def test_a_changed_manifest_is_corrupt(self, store_uri):
        store = Store.open(store_uri)
        commit(store, a_reference(), {"x": b"good"})
        name = layout.manifest(a_reference())
        store.objects.write(name, store.objects.read(name).replace(b'"beta": 0.1', b'"beta": 0.2'))
        with pytest.raises(CorruptObject, match="kilter store invalidate"):
            store.manifest(a_reference())
        with pytest.raises(CorruptObject):
            list(store.manifests())
        assert [found.name for found in maintenance.verify(store)] == ["manifest.json"]

    def test_a_manifest_of_another_result_is_corrupt(self, store_uri):
        store = Store.open(store_uri)
        commit(store, a_reference("a"), {"x": b"good"})
        store.objects.write(layout.manifest(a_reference("b")), store.objects.read(layout.manifest(a_reference("a"))))
        with pytest.raises(CorruptObject, match="is the manifest of"):
            store.manifest(a_reference("b"))

    def test_results_are_found_by_the_beginning_of_their_key(self, store_uri):
        store = Store.open(store_uri)
        references = [Reference("align", "abc1"), Reference("align", "abd2"), Reference("sft", "abc3")]
        for reference in references:
            store.put_request(a_request(reference))
        assert store.find("abc") == [references[0], references[2]]
        assert store.find("align/ab") == references[:2]
        assert store.find("align/") == references[:2]
        assert store.find("zzz") == []
        for wrong in ("", "../x", "a/b/c", "/x"):
            with pytest.raises(WrongInput):
                store.find(wrong)

    def test_logs_outlive_their_attempts(self, store_uri, tmp_path):
        store = Store.open(store_uri)
        assert store.read_log(a_reference()) is None
        for number in range(2):
            attempt = store.begin(a_reference())
            (tmp_path / "log").write_bytes(f"attempt {number} \xff".encode("latin-1"))
            store.write_log(a_reference(), attempt.identifier, tmp_path / "log")
            store.abandon(attempt)
        assert [info.size for _, info in store.logs(a_reference())] == [11, 11]
        assert store.logs(a_reference())[-1][0] == attempt.identifier
        assert store.read_log(a_reference()) == "attempt 1 \ufffd"
        assert commit(store, a_reference(), {"x": b""}).objects[0].name == "x"


class TestLeases:
    def test_a_live_holder_is_left_alone(self, store_uri):
        store = Store.open(store_uri)
        assert holder(store, a_reference()) is None
        with acquire(store, a_reference()) as lease:
            assert acquire(Store.open(store_uri), a_reference()) is None
            assert holder(store, a_reference()).process.pid == os.getpid()
            assert lease.heartbeat()
            assert acquire(store, a_reference("b")) is not None
        assert holder(store, a_reference()) is None
        assert names(store, layout.leases(a_reference())) == set()

    def test_of_racing_takers_one_wins(self, store_uri):
        stores = [Store.open(store_uri) for _ in range(8)]
        stores[0].make_ready()
        self._leave_foreign_lease(stores[0], expired=True)
        barrier = threading.Barrier(8)

        def take(store: Store):
            barrier.wait()
            return acquire(store, a_reference(), expiry_seconds=-60)

        with ThreadPoolExecutor(8) as pool:
            leases = [lease for lease in pool.map(take, stores) if lease is not None]
        assert len(leases) == 1
        assert leases[0].heartbeat()
        leases[0].release()
        assert names(stores[0], layout.leases(a_reference())) == set()

    @pytest.mark.parametrize("is_reaped", [True, False])
    def test_a_killed_holder_of_this_machine_is_taken_over_at_once(self, store_uri, is_reaped):
        code = (
            "import sys; from kilter.store.store import Store; from kilter.store.lease import acquire;"
            "from kilter.plan.graph import Reference;"
            "lease = acquire(Store.open(sys.argv[1]), Reference('align', 'a' * 32)); print('held', flush=True);"
            "sys.stdin.read()"
        )
        process = python(code, store_uri, stdin=subprocess.PIPE)
        assert process.stdout.readline() == "held\n"
        store = Store.open(store_uri)
        assert acquire(store, a_reference()) is None
        assert holder(store, a_reference()).process.pid == process.pid
        process.kill()
        if is_reaped:
            process.wait()
        else:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert holder(store, a_reference()) is None
        with acquire(store, a_reference()) as lease:
            assert lease is not None
            assert lease.heartbeat()
        process.communicate()

    def test_a_holder_elsewhere_is_judged_by_the_age_of_its_heartbeat(self, store_uri):
        store = Store.open(store_uri)
        store.make_ready()
        self._leave_foreign_lease(store, expired=False)
        assert acquire(store, a_reference()) is None
        assert holder(store, a_reference()).process.host == "elsewhere"
        self._leave_foreign_lease(store, expired=True)
        with acquire(store, a_reference(), expiry_seconds=-60) as lease:
            assert lease is not None

    def test_a_holder_that_was_taken_over_notices_and_leaves_the_other_alone(self, store_uri, caplog):
        store = Store.open(store_uri)
        lease = acquire(store, a_reference())
        mine = names(store, layout.leases(a_reference()))
        other = f"{layout.leases(a_reference())}00000002.json"
        store.objects.write(other, _encoded(self._foreign(60)))
        store.objects.delete(mine)
        assert not lease.heartbeat()
        assert lease.is_lost
        lease.release()
        assert names(store, layout.leases(a_reference())) == {other}

    def test_a_heartbeat_is_kept_up_by_itself(self, store_uri):
        store = Store.open(store_uri)
        with acquire(store, a_reference(), heartbeat_seconds=0.01) as lease:
            while holder(store, a_reference()).beat < 3:
                pass
            assert not lease.is_lost

    def test_an_error_inside_gives_the_lease_back(self, store_uri):
        store = Store.open(store_uri)
        with pytest.raises(ZeroDivisionError), acquire(store, a_reference()):
            raise ZeroDivisionError
        assert holder(store, a_reference()) is None

    def _foreign(self, expiry_seconds: float) -> Holder:
        process = Process.this().model_copy(update={"host": "elsewhere"})
        return Holder(process=process, token="t", since=now(), expiry_seconds=expiry_seconds)

    def _leave_foreign_lease(self, store: Store, expired: bool) -> None:
        name = f"{layout.leases(a_reference())}00000001.json"
        store.objects.write(name, _encoded(self._foreign(-60 if expired else 60)))


class TestResumeState:
    def publish(self, store: Store, attempt, step: int, key: bytes | None = KEY, tmp: Path | None = None) -> None:
        folder = attempt.scratch / "trainer"
        (folder / "global").mkdir(parents=True, exist_ok=True)
        (folder / "optimizer.pt").write_bytes(f"optimizer {step}".encode())
        (folder / "global" / "rng").write_bytes(b"rng")
        state = resume_state(store, attempt, key)
        state.keep(state.take(folder, step), step)

    def test_a_later_attempt_goes_on_from_the_newest_step(self, store_uri):
        store = Store.open(store_uri)
        first = store.begin(a_reference())
        assert resume_state(store, first, KEY).latest() is None
        for step in (5, 100, 20):
            self.publish(store, first, step)
        second = Store.open(store_uri).begin(a_reference())
        folder = resume_state(store, second, KEY).latest()
        assert (folder / "optimizer.pt").read_bytes() == b"optimizer 100"
        assert (folder / "global/rng").read_bytes() == b"rng"
        assert folder.is_relative_to(second.scratch)

    def test_the_newest_two_stay_and_an_earlier_attempts_go(self, store_uri):
        store = Store.open(store_uri)
        first, second = store.begin(a_reference()), store.begin(a_reference())
        for step in (1, 2, 3):
            self.publish(store, first, step)
        prefix = layout.resume(a_reference(), first.identifier)
        assert {name.split("/")[4] for name in names(store, f"{prefix}/")} == {f"{step:012d}" for step in (2, 3)}
        self.publish(store, second, 4)
        assert names(store, f"{prefix}/")
        self.publish(store, second, 5)
        assert not names(store, f"{prefix}/")

    def test_a_checkpoint_of_another_key_or_that_was_changed_is_refused(self, store_uri, caplog):
        store = Store.open(store_uri)
        attempt = store.begin(a_reference())
        self.publish(store, attempt, 1)
        self.publish(store, attempt, 2)
        caplog.set_level(logging.WARNING)
        state = resume_state(store, attempt, KEY)
        newest = f"{layout.resume(a_reference(), attempt.identifier)}/{2:012d}"
        store.objects.write(f"{newest}/files/optimizer.pt", b"optimizer X")
        assert (state.latest() / "optimizer.pt").read_bytes() == b"optimizer 1"
        assert "optimizer.pt has another digest" in caplog.text
        listing = store.objects.read(f"{newest}/checkpoint.json")
        store.objects.write(f"{newest}/checkpoint.json", listing.replace(b'"step": 2', b'"step": 3'))
        assert (state.latest() / "optimizer.pt").read_bytes() == b"optimizer 1"
        store.objects.write(f"{newest}/checkpoint.json", b"{")
        assert (state.latest() / "optimizer.pt").read_bytes() == b"optimizer 1"
        caplog.clear()
        assert resume_state(store, attempt, b"another signing key, 32 bytes...").latest() is None
        assert caplog.text.count("signature is not by this key") == 1

    def test_a_checkpoint_that_was_moved_to_another_result_is_refused(self, store_uri, caplog):
        store = Store.open(store_uri)
        there, here = store.begin(a_reference("b")), store.begin(a_reference("a"))
        self.publish(store, there, 7)
        for name in names(store, layout.resume(a_reference("b"), there.identifier)):
            store.objects.write(name.replace("b" * 32, "a" * 32), store.objects.read(name))
        assert resume_state(store, here, KEY).latest() is None
        assert "it belongs to align/bbb" in caplog.text

    def test_a_checkpoint_that_was_cut_short_does_not_count(self, store_uri):
        store = Store.open(store_uri)
        attempt = store.begin(a_reference())
        self.publish(store, attempt, 1)
        store.objects.write(f"{layout.resume(a_reference(), attempt.identifier)}/{2:012d}/files/optimizer.pt", b"x")
        assert (resume_state(store, attempt, KEY).latest() / "optimizer.pt").read_bytes() == b"optimizer 1"

    def test_without_a_key_nothing_is_kept_or_trusted(self, store_uri, caplog):
        store = Store.open(store_uri)
        attempt = store.begin(a_reference())
        self.publish(store, attempt, 1, key=None)
        assert names(store, layout.attempts(a_reference())) == set()
        self.publish(store, attempt, 1)
        assert resume_state(store, attempt, None).latest() is None
        assert "KILTER_SIGNING_KEY" in caplog.text

    def test_it_is_never_among_the_results_objects_and_goes_after_the_commit(self, store_uri):
        store = Store.open(store_uri)
        attempt = store.begin(a_reference())
        self.publish(store, attempt, 1)
        (attempt.directory / "model").write_bytes(b"x")
        manifest = store.commit(attempt, a_request(a_reference()), {}, now(), RESOURCES)
        assert [stored.name for stored in manifest.objects] == ["model"]
        resume_state(store, attempt, KEY).clear()
        assert names(store, layout.attempts(a_reference())) == {
            f"{layout.attempt(a_reference(), attempt.identifier)}/model"
        }


class TestMaintenance:
    def test_usage_tells_what_each_result_takes(self, store_uri):
        store = Store.open(store_uri)
        assert maintenance.usage(store) == []
        commit(store, a_reference("b"), {"x": b"12345", "y": b"1"}, label="dpo 1k")
        manifest = commit(store, a_reference("a", "sft"), {})
        row, empty = maintenance.usage(store)
        assert (row.reference, row.label, row.size, row.objects, row.seconds) == (a_reference("b"), "dpo 1k", 6, 2, 1.5)
        assert (empty.reference, empty.size, empty.ended) == (manifest.reference, 0, manifest.ended)

    def test_a_whole_store_verifies(self, store_uri):
        store = Store.open(store_uri)
        commit(store, a_reference("a"), {"x": b"12345", "y": b""})
        commit(store, a_reference("b"), {"x": b"1"})
        read = []
        assert maintenance.verify(store, progress=read.append) == []
        assert sum(read) == 6
        (absent,) = maintenance.verify(store, [a_reference("c")])
        assert "no committed result" in absent.reason

    def test_pruning_takes_what_no_result_needs_and_nothing_else(self, store_uri):
        store = Store.open(store_uri)
        done, dead, busy, resumable = (a_reference(letter) for letter in "abcd")
        manifest = commit(store, done, {"x": b"kept"})
        commit(store, done, {"x": b"lost it"})
        self._leave(store, done, ".resume/000000000001/files/state", b"state")
        self._leave(store, dead, "/x", b"dead!")
        self._leave(store, busy, "/x", b"busy")
        self._leave(store, resumable, ".resume/000000000001/files/state", b"keep")
        with acquire(store, busy):
            planned = maintenance.prune(store, dry_run=True)
            before = names(store)
            pruned = maintenance.prune(store, dry_run=False)
        assert planned == pruned
        assert pruned.at_work == (busy,)
        assert pruned.size == len(b"lost it") + len(b"state") + len(b"dead!")
        assert pruned.objects == 3
        gone = {name.split("/")[1][0] for name in before - names(store)}
        assert gone <= {"a", "b", "c"}
        assert store.read_object(manifest, "x") == b"kept"
        left = {name for name in names(store) if "/attempts/" in name}
        assert {name.split("/")[1][0] for name in left} == {"a", "c", "d"}
        maintenance.prune(store, dry_run=False, resume_state=True)
        assert {name.split("/")[1][0] for name in names(store) if "/attempts/" in name} == {"a"}
        assert maintenance.prune(store, dry_run=False).size == 0

    def test_an_unreadable_manifest_protects_its_attempts(self, store_uri):
        store = Store.open(store_uri)
        commit(store, a_reference(), {"x": b"1"})
        store.objects.write(layout.manifest(a_reference()), b"{}")
        before = names(store)
        maintenance.prune(store, dry_run=False)
        assert names(store) == before

    def test_an_invalidated_result_is_made_anew_and_its_users_are_named(self, store_uri):
        store = Store.open(store_uri)
        sft, align, report = a_reference("a", "sft"), a_reference("b"), a_reference("c", "report")
        other = a_reference("d")
        commit(store, sft, {"x": b"old"})
        commit(store, align, {}, inputs={"model": str(sft)})
        commit(store, report, {}, inputs={"models/0": str(align), "models/1": str(sft)})
        commit(store, other, {}, inputs={"model": f"sft/{'e' * 32}"})
        assert maintenance.invalidate(store, sft) == [align, report]
        assert store.existing([sft, align, report]) == {align, report}
        assert any("/invalidated-" in name for name in names(store, f"{sft}/"))
        anew = commit(store, sft, {"x": b"new"})
        assert store.read_object(anew, "x") == b"new"
        with pytest.raises(StoreError, match="nothing to invalidate"):
            maintenance.invalidate(store, a_reference("f"))

    def _leave(self, store: Store, reference: Reference, rest: str, data: bytes) -> None:
        store.objects.write(f"{layout.attempts(reference)}20260101T000000000000-00000000{rest}", data)
