"""Processes that train together and are stopped or killed go on together, to the weights of those left alone."""

import os
import signal
import socket

import pytest
import tiny_training
import torch
import transformers
from safetensors.torch import load_file
from two_processes import spread, train

from kilter.errors import EXIT_PREEMPTED, Preempted

pytestmark = pytest.mark.xdist_group("processes")

PROCESSES = 2
ROWS = 54
MIDDLE_OF_A_STEP = 3
"""Each process has two micro-batches a step, so this is the first one of the second step of an attempt."""


class SharedFolder(tiny_training.FolderResume):
    """Takes checkpoints away as the store does: the trainer's folder is gone."""

    def publish(self, directory, step):
        directory.rename(self.folder / f"step-{step}")
        self.published.append(step)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    tiny_training.write_conversations(folder / "conversations" / "train.parquet", ROWS)
    return tiny_training.make_world(folder, rows=ROWS)


def together(act):
    """Fork processes that find each other as a launcher's do; return how each of them ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(PROCESSES):
        child = os.fork()
        if child == 0:
            code = 99
            try:
                os.environ.update(
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    WORLD_SIZE=str(PROCESSES),
                    LOCAL_WORLD_SIZE=str(PROCESSES),
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(port),
                )
                torch.set_num_threads(1)
                code = act(rank)
            finally:
                os._exit(code)
        started.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in started]


def attempt(world, method, zero, output, resume=None, spoil=lambda rank: None, checkpoint_seconds=1e9):
    """Train until the end, or what becomes of it; return how each process ended."""
    resume = resume or tiny_training.NoResume()

    def act(rank):
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
        spoil(rank)
        run = tiny_training.training_run(resume, lambda: bool(asked), checkpoint_seconds)
        sizes = {"batch_size": 32, "epochs": 2.0} if method == "kto" else {"epochs": 0.6}
        try:
            train(world, method, output, spread(run, zero), **sizes)
        except Preempted as error:
            return error.exit_code
        torch.distributed.barrier()
        return 0

    return together(act)


def after_micro_batch(number, act):
    original, calls = transformers.Trainer.training_step, []

    def training_step(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == number:
            act()
        return loss

    transformers.Trainer.training_step = training_step


@pytest.mark.parametrize(
    ("method", "zero", "numbers"),
    [
        ("sft", 0, (signal.SIGTERM, signal.SIGKILL)),
        pytest.param("dpo", 2, (signal.SIGKILL,), marks=pytest.mark.long),
        pytest.param("kto", 3, (signal.SIGTERM,), marks=pytest.mark.long),
    ],
)
def test_one_is_told_to_stop_or_killed_in_the_middle_of_a_step_and_all_go_on_later(
    world, tmp_path, method, zero, numbers
):
    assert attempt(world, method, zero, tmp_path / "alone") == [0, 0]
    (tmp_path / "resume").mkdir()
    resume = SharedFolder(tmp_path / "resume")
    step = 0
    for number in numbers:

        def spoil(rank, number=number):
            if rank == 1:
                after_micro_batch(MIDDLE_OF_A_STEP, lambda: os.kill(os.getpid(), number))

        ended = attempt(world, method, zero, tmp_path / f"{number}", resume, spoil, checkpoint_seconds=0.0)
        if number == signal.SIGTERM:
            assert ended == [EXIT_PREEMPTED] * 2
            step += 2
        else:
            assert ended[0] not in (0, EXIT_PREEMPTED)
            assert ended[1] == -signal.SIGKILL
            step += 1
        assert resume.latest().name == f"step-{step}"
    assert attempt(world, method, zero, tmp_path / "continued", resume) == [0, 0]
    alone, continued = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("alone", "continued"))
    assert alone.keys() == continued.keys()
    assert all(torch.equal(weight, continued[name]) for name, weight in alone.items())
