"""Checkpoints go to the store while the training goes on: whole or not at all, one at a time, the newest first."""

import logging
import threading

import pytest

from kilter.errors import Preempted, StageFailed, StoreError
from kilter.plan.graph import Reference
from kilter.store import layout
from kilter.store.background import BackgroundCheckpoints
from kilter.store.checkpoints import resume_state
from kilter.store.store import Store

KEY = b"a signing key of tests, 32 bytes"
REFERENCE = Reference("align", "a" * 32)
FILES = ("model.safetensors", "optimizer.pt", "rng_state.pth")


class Gate:
    """Objects of a real store whose uploads of one step can be held back or refused."""

    def __init__(self, objects):
        self._objects = objects
        self.held = None
        self.refused = set()
        self.arrived = threading.Event()
        self.open = threading.Event()
        self.interrupted = False
        self.sent = []
        self._lock = threading.Lock()

    def __getattr__(self, name):
        return getattr(self._objects, name)

    def hold(self, step):
        """Let only the first file of this step's checkpoint through until the gate is opened."""
        self.held = step
        self.open.clear()
        self.arrived.clear()

    def upload(self, path, name, progress=None):
        step = int(name.split("/")[4])
        with self._lock:
            first = step not in self.sent
            self.sent.append(step)
        if step in self.refused:
            raise StoreError("no space left there")
        if step == self.held and not first:
            self.arrived.set()
            self.open.wait()
            if self.interrupted:
                raise StoreError("the transfer was interrupted")
        self._objects.upload(path, name, progress)

    def interrupt(self, prefix):
        self.interrupted = True
        self.open.set()
        self._objects.interrupt(prefix)


class Training:
    """Stands for the trainer: it writes checkpoints into a folder of its own, always the same one."""

    def __init__(self, uri):
        plain = Store.open(uri)
        self.gate = Gate(plain.objects)
        self.store = Store(self.gate, plain.begin(REFERENCE).scratch.parent)
        self.attempt = self.store.begin(REFERENCE)
        self.warnings = []
        self.background = BackgroundCheckpoints(resume_state(self.store, self.attempt, KEY), self.warnings.append)

    def save(self, step):
        folder = self.attempt.directory / ".checkpoints" / "checkpoint"
        folder.mkdir(parents=True)  # fails if the last one has not been taken away
        for name in FILES:
            (folder / name).write_bytes(f"{name} {step}".encode())
        self.background.publish(folder, step)

    def steps(self):
        names = {info.name for info in self.store.objects.list(layout.attempts(REFERENCE))}
        return sorted(int(name.split("/")[4]) for name in names if name.endswith("/checkpoint.json"))

    def newest_for_others(self, uri):
        """Return the optimizer of the checkpoint from which another attempt would go on."""
        store = Store.open(uri)
        folder = resume_state(store, store.begin(REFERENCE), KEY).latest()
        return None if folder is None else (folder / "optimizer.pt").read_text()


@pytest.fixture
def training(store_uri):
    return Training(store_uri)


def test_the_training_goes_on_meanwhile_and_only_the_newest_that_waits_is_sent(training, store_uri):
    with training.background:
        training.save(1)
        assert training.background.settle() == 1
        training.gate.hold(2)
        training.save(2)
        training.gate.arrived.wait()
        for step in (3, 4, 5):
            training.save(step)
        assert training.newest_for_others(store_uri) == "optimizer.pt 1"
        training.gate.open.set()
        assert training.background.settle() == 5
        assert training.steps() == [2, 5]
        assert training.newest_for_others(store_uri) == "optimizer.pt 5"
        account = training.background.account()
    assert (account["kept"], account["superseded"], account["failed"]) == (3, 2, 0)
    assert account["slowest_seconds"] > 0
    assert not {3, 4} & set(training.gate.sent)


def test_nothing_is_left_on_this_machine_of_what_was_sent_or_dropped(training):
    with training.background:
        training.gate.hold(1)
        for step in (1, 2, 3):
            training.save(step)
            training.gate.arrived.wait()
        training.gate.open.set()
        training.background.settle()
    for folder in (training.attempt.directory, training.attempt.scratch):
        assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_a_result_that_is_there_needs_no_checkpoint(training):
    with training.background:
        training.gate.hold(1)
        training.save(1)
        training.gate.arrived.wait()
        training.save(2)
    assert training.gate.interrupted
    assert 2 not in training.gate.sent
    assert training.steps() == []
    resume_state(training.store, training.attempt, KEY).clear()
    assert list(training.store.objects.list(layout.attempts(REFERENCE))) == []
    assert not list(training.attempt.directory.parent.glob("*.resume"))


def test_a_second_request_to_stop_waits_for_nothing(training):
    def run():
        with training.background:
            training.gate.hold(1)
            training.save(1)
            training.gate.arrived.wait()
            raise Preempted("stopped")

    with pytest.raises(Preempted):
        run()
    assert training.steps() == []


def test_a_training_that_fails_leaves_the_newest_checkpoint_whole(training):
    def run():
        with training.background:
            training.save(1)
            training.save(2)
            raise StageFailed("the loss is nan")

    with pytest.raises(StageFailed):
        run()
    assert training.steps()[-1] == 2


def test_what_cannot_be_kept_stops_nothing_and_is_said_aloud_after_three_in_a_row(training, caplog):
    caplog.set_level(logging.WARNING)
    training.gate.refused = {2, 3, 4, 5, 7}
    with training.background:
        for step in range(1, 8):
            training.save(step)
            with training.background._changed:
                training.background._wait()
            assert training.background._newest == (1 if step < 6 else 6)
        account = training.background.account()
    assert (account["kept"], account["failed"]) == (2, 5)
    assert caplog.text.count("could not be kept: no space left there") == 5
    (warning,) = training.warnings
    assert "3 checkpoints in a row could not be kept" in warning
    assert "all since step 1: no space left there" in warning
    assert training.steps() == [1, 6]


def test_before_a_stop_the_newest_is_tried_again(training):
    with training.background:
        training.gate.refused = {1}
        training.save(1)
        with training.background._changed:
            training.background._wait()
        training.gate.refused = set()
        assert training.background.settle() == 1
        training.gate.refused = {2}
        training.save(2)
        assert training.background.settle() == 1
    assert training.steps() == [1]


def test_without_a_key_nothing_counts_as_kept(store_uri):
    training = Training(store_uri)
    training.background = BackgroundCheckpoints(resume_state(training.store, training.attempt, None), print)
    with training.background:
        training.save(1)
        assert training.background.settle() is None
    assert training.background.account()["kept"] == 0
    assert list(training.store.objects.list(layout.attempts(REFERENCE))) == []


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_stay_as_asked_for(store_uri, keep):
    training = Training(store_uri)
    training.background = BackgroundCheckpoints(resume_state(training.store, training.attempt, KEY, keep), print)
    with training.background:
        for step in range(1, 6):
            training.save(step)
            training.background.settle()
    assert training.steps() == list(range(1, 6))[-keep:]


def test_a_checkpoint_counts_even_if_older_ones_cannot_be_deleted(training, caplog):
    def refuse(names):
        if 3 in training.gate.sent and any("/000000000001/" in name for name in names):
            raise StoreError("access denied")
        training.gate._objects.delete(names)

    training.gate.delete = refuse
    with training.background:
        for step in (1, 2, 3):
            training.save(step)
            assert training.background.settle() == step
    assert training.background.account()["failed"] == 0
    assert "stay for now: access denied" in caplog.text
    assert training.steps() == [1, 2, 3]


def test_halves_that_killed_attempts_left_go_with_the_next_checkpoint(training, store_uri):
    killed = Training(store_uri)
    half = f"{layout.resume(REFERENCE, killed.attempt.identifier)}/{9:012d}/files/optimizer.pt"
    killed.store.objects.write(half, b"half")
    with training.background:
        training.save(1)
        assert training.background.settle() == 1
    assert killed.store.objects.info(half) is None


def test_a_checkpoint_that_was_brought_is_gone_once_the_training_has_its_own(training, store_uri):
    with training.background:
        training.save(1)
        training.background.settle()
    later = Training(store_uri)
    with later.background:
        brought = later.background.latest()
        assert (brought / "optimizer.pt").read_text() == "optimizer.pt 1"
        later.save(2)
        assert not brought.exists()
