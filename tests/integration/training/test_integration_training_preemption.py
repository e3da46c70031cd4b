"""`kilter stage` told to stop or killed at the worst moments ends with the weights of one that was left alone.

Every attempt is a process of its own, forked from this one so that nothing is imported again, and runs the command.
"""

import os
import signal
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny_training
import torch
import transformers

from kilter.cli.main import main
from kilter.errors import EXIT_DONE, EXIT_PREEMPTED, StoreError
from kilter.plan.graph import Reference, key_of
from kilter.store import layout
from kilter.store.background import BackgroundCheckpoints
from kilter.store.folder import FolderObjects
from kilter.store.manifest import Request, Resources, now
from kilter.store.s3 import S3Objects
from kilter.store.store import Store

STEPS = 8
ROWS = 32
MICRO_BATCHES = 2
CODE = "1"
METHODS = ("sft", "dpo", "kto")
DIFFERS_BETWEEN_RUNS = {"seconds", "checkpoints"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preemption")
    tiny_training.write_conversations(folder / "conversations" / "train.parquet", ROWS)
    made = tiny_training.make_world(folder, rows=ROWS)
    model = transformers.AutoModelForCausalLM.from_pretrained(made.model)
    model.config.attention_dropout = 0.3
    model.save_pretrained(folder / "dropout")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / "dropout" / file).write_bytes((made.model / file).read_bytes())
    return made


class Laboratory:
    """A store in which one training is asked for, and processes that try it."""

    def __init__(self, uri: str, world: tiny_training.World, method: str, logs: Path):
        self.uri = uri
        self.store = Store.open(uri)
        self.logs = logs
        self.attempts = 0
        self.reference = self._ask(world, method)

    def _ask(self, world, method):
        """Commit the inputs and put the request, as a plan would."""
        sizes = {"epochs": 4.0, "batch_size": 16} if method == "kto" else {"epochs": 2.0, "batch_size": 8}
        sizes["micro_batch_size"] = 8 if method == "kto" else 4
        folder = world.data.parent
        model = folder / "dropout" if method == "dropout" else world.model
        inputs = {"model": self._commit("ingest", model, "model/")}
        stage, config = "align", tiny_training.align_config
        if method in ("sft", "dropout"):
            stage, config = "sft", lambda _, **changes: tiny_training.sft_config(**changes)
            inputs["data"] = self._commit("prepare", folder / "conversations")
        else:
            inputs["data"] = self._commit("prepare", world.data)
            inputs["reference/0"] = self._commit("reference", world.reference.parent)
            inputs["holdout"] = self._commit("reference", world.holdout.parent)
        if method == "kto":
            inputs["mismatched/0"] = self._commit("reference", world.mismatched.parent)
        data = config(method, **sizes).model_dump(mode="json")
        reference = Reference(stage, key_of(stage, CODE, data, inputs))
        names = {role: str(item) for role, item in inputs.items()}
        self.store.put_request(Request(stage=stage, key=reference.key, code=CODE, config=data, inputs=names))
        return reference

    def _commit(self, stage, folder, prefix=""):
        reference = Reference(stage, key_of(stage, CODE, {"folder": folder.name}, {}))
        attempt = self.store.begin(reference)
        for path in folder.iterdir():
            target = attempt.directory / prefix / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        request = Request(stage=stage, key=reference.key, code=CODE, config={})
        self.store.commit(attempt, request, {}, now(), Resources(seconds=0, peak_memory_bytes=0, cpu_seconds=0))
        return reference

    def attempt(self, spoil=lambda: None, **environment) -> int:
        """Run the stage in a process that is spoilt beforehand; return its exit code, or the signal as a negative."""
        self.attempts += 1
        child = os.fork()
        if child == 0:
            code = 99
            try:
                sys.stdout = sys.stderr = self._log(self.attempts).open("w", buffering=1)
                os.environ.update(environment)
                torch.set_num_threads(1)
                spoil()
                code = main(["stage", self.reference.stage, "--store", self.uri, "--key", self.reference.key])
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _log(self, number):
        return self.logs / f"{number}.log"

    @property
    def log(self) -> str:
        """What the last attempt had to say."""
        return self._log(self.attempts).read_text()

    @property
    def kept(self) -> list[int]:
        """The steps of the checkpoints that count, of all attempts."""
        names = [info.name for info in self.store.objects.list(layout.attempts(self.reference))]
        return sorted(int(name.split("/")[-2]) for name in names if name.endswith("/checkpoint.json"))

    def files_of(self, step: int) -> list[str]:
        """What lies there of the checkpoint of a step, whole or not."""
        names = [info.name for info in self.store.objects.list(layout.attempts(self.reference))]
        return [name for name in names if f".resume/{step:012d}/files/" in name]

    def outcome(self):
        """Return everything of the result that should not depend on what happened on the way."""
        manifest = self.store.manifest(self.reference)
        assert manifest is not None
        assert not [info for info in self.store.objects.list(layout.attempts(self.reference)) if ".resume" in info.name]
        metrics = pq.read_table(self.store.fetch(manifest) / "metrics.parquet")
        seconds = metrics["seconds"].to_pylist()
        assert seconds == sorted(seconds)
        assert manifest.summary["seconds"] == seconds[-1]
        assert manifest.summary["steps"] == len(seconds) == STEPS
        weights = {item.name: item.sha256 for item in manifest.objects if item.name.startswith("model/")}
        summary = {name: value for name, value in manifest.summary.items() if name not in DIFFERS_BETWEEN_RUNS}
        return weights, metrics.drop_columns(["seconds"]).to_pylist(), summary


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("KILTER_SIGNING_KEY", "a signing key of tests, 32 bytes")
    monkeypatch.setenv("KILTER_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.delenv("KILTER_EVENTS_FD", raising=False)


@pytest.fixture
def laboratory(world, tmp_path):
    """Return a function that makes a laboratory in a folder."""

    def make(method, uri=None):
        logs = tmp_path / "logs"
        logs.mkdir(exist_ok=True)
        return Laboratory(uri or str(tmp_path / "store"), world, method, logs)

    return make


@pytest.fixture(scope="module")
def left_alone(world, tmp_path_factory):
    """The outcome of each method's training that nobody disturbed, run once."""
    known = {}

    def get(method):
        if method not in known:
            folder = tmp_path_factory.mktemp("alone")
            alone = Laboratory(str(folder / "store"), world, method, folder)
            assert alone.attempt() == EXIT_DONE, alone.log
            known[method] = alone.outcome()
        return known[method]

    return get


def at_micro_batch(number, act):
    """Do something after a micro-batch of this process, counted from 1, before the next one begins."""
    original, calls = transformers.Trainer.training_step, []

    def training_step(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == number:
            act()
        return loss

    transformers.Trainer.training_step = training_step


def first_of_step(step, start=0):
    """Return which micro-batch is the first of a step, in a process that goes on after step `start`."""
    return MICRO_BATCHES * (step - start - 1) + 1


def wait_for_uploads(before):
    """Make checkpoints before a step whole before the training goes on, so that what is there is certain."""
    original = BackgroundCheckpoints.publish

    def publish(self, directory, step):
        original(self, directory, step)
        if step < before:
            assert self.settle() == step

    BackgroundCheckpoints.publish = publish


def after_an_object_of(kind, step, act):
    """Do something in the uploading thread after the first object of the checkpoint of a step has arrived."""
    original = kind.upload
    lock, done = threading.Lock(), []

    def upload(self, path, name, progress=None):
        with lock:
            original(self, path, name, progress)
            if f".resume/{step:012d}/" in name and not done:
                done.append(name)
                act()

    kind.upload = upload


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("method", METHODS)
def test_told_to_stop_and_then_killed_between_micro_batches(laboratory, left_alone, method):
    """SIGTERM in the middle of step 3; the next attempt is killed in the middle of step 6; the third one finishes."""
    training = laboratory(method)
    told = training.attempt(lambda: at_micro_batch(first_of_step(3), lambda: send(signal.SIGTERM)))
    assert told == EXIT_PREEMPTED, training.log
    assert training.kept == [3]
    assert "told to stop after step 3 of 8; its state was kept in" in training.log

    def spoil():
        wait_for_uploads(STEPS)
        at_micro_batch(first_of_step(6, start=3), lambda: send(signal.SIGKILL))

    assert training.attempt(spoil, KILTER_CHECKPOINT_SECONDS="0") == -signal.SIGKILL
    assert training.kept == [4, 5]
    assert training.attempt() == EXIT_DONE, training.log
    assert "continuing from the checkpoint in resume-5-" in training.log
    assert training.outcome() == left_alone(method)


@pytest.mark.parametrize("method", METHODS)
def test_killed_while_a_checkpoint_is_on_its_way_and_the_next_step_has_begun(
    laboratory, left_alone, moto_server, monkeypatch, method, tmp_path
):
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    training = laboratory(method, f"s3://kilter-tests/{tmp_path.name}-{method}")

    def spoil():
        step_six_began = threading.Event()
        wait_for_uploads(5)
        at_micro_batch(first_of_step(6), step_six_began.set)
        after_an_object_of(S3Objects, 5, lambda: step_six_began.wait() and send(signal.SIGKILL))

    assert training.attempt(spoil, KILTER_CHECKPOINT_SECONDS="0") == -signal.SIGKILL
    assert len(training.files_of(5)) == 1
    assert training.kept == [3, 4]
    assert training.attempt() == EXIT_DONE, training.log
    assert "continuing from the checkpoint in resume-4-" in training.log
    assert training.outcome() == left_alone(method)


def test_a_grace_period_that_runs_out_loses_only_what_came_after_the_last_whole_checkpoint(laboratory, left_alone):
    training = laboratory("dpo")

    def spoil():
        wait_for_uploads(3)
        at_micro_batch(first_of_step(3), lambda: send(signal.SIGTERM))
        after_an_object_of(FolderObjects, 3, lambda: send(signal.SIGKILL))

    assert training.attempt(spoil, KILTER_CHECKPOINT_SECONDS="0") == -signal.SIGKILL
    assert training.kept == [1, 2]
    assert training.attempt(KILTER_CHECKPOINT_SECONDS="0", KILTER_CHECKPOINTS_KEPT="1") == EXIT_DONE, training.log
    assert "continuing from the checkpoint in resume-2-" in training.log
    assert training.outcome() == left_alone("dpo")


def test_a_second_signal_ends_the_stage_without_waiting_for_the_upload(laboratory, left_alone):
    training = laboratory("dpo")

    def spoil():
        interrupted = threading.Event()

        def insist():
            send(signal.SIGTERM)
            # The upload would never end by itself.
            interrupted.wait()
            raise StoreError("interrupted")

        wait_for_uploads(3)
        at_micro_batch(first_of_step(3), lambda: send(signal.SIGTERM))
        after_an_object_of(FolderObjects, 3, insist)
        FolderObjects.interrupt = lambda self, prefix: interrupted.set()

    assert training.attempt(spoil, KILTER_CHECKPOINT_SECONDS="0") == EXIT_PREEMPTED, training.log
    assert training.kept == [1, 2]
    assert training.attempt() == EXIT_DONE, training.log
    assert training.outcome() == left_alone("dpo")


def test_random_numbers_go_on_where_they_stood(laboratory, left_alone):
    """Attention drops out here, so every step's gradient depends on the generator's state."""
    assert left_alone("dropout")[0] != left_alone("sft")[0]
    training = laboratory("dropout")
    told = training.attempt(lambda: at_micro_batch(first_of_step(4), lambda: send(signal.SIGTERM)))
    assert told == EXIT_PREEMPTED, training.log
    assert training.attempt() == EXIT_DONE, training.log
    assert training.outcome() == left_alone("dropout")


def test_a_training_that_cannot_keep_its_state_goes_on_and_says_so(laboratory, left_alone):
    training = laboratory("sft")

    def spoil():
        original = FolderObjects.upload

        def upload(self, path, name, progress=None):
            if ".resume/" in name:
                raise StoreError("no space left here")
            original(self, path, name, progress)

        FolderObjects.upload = upload
        wait = BackgroundCheckpoints.publish

        def publish(self, directory, step):
            wait(self, directory, step)
            with self._changed:
                self._wait()

        BackgroundCheckpoints.publish = publish

    assert training.attempt(spoil, KILTER_CHECKPOINT_SECONDS="0") == EXIT_DONE, training.log
    assert training.outcome() == left_alone("sft")
    account = training.store.manifest(training.reference).summary["checkpoints"]
    assert account == {"kept": 0, "superseded": 0, "failed": STEPS - 1, "slowest_seconds": 0.0}
    assert training.log.count("3 checkpoints in a row could not be kept") == 1
    assert "could not be kept: no space left here" in training.log
