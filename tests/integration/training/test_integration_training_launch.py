"""A training started in two processes: it can be stopped and gone on with, and an error of any process ends it."""

import os
import signal
from dataclasses import replace

import psutil
import pytest
import tiny_training
import torch
from safetensors.torch import load_file

from kilter.errors import Preempted, StageFailed
from kilter.training.launch import train_in_processes
from kilter.training.parallel import Parallel

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.xdist_group("processes")]

PROCESSES = 2
STEPS = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_training.make_world(tmp_path_factory.mktemp("launch"))


class Steps:
    """Knows how far the training is, and calls something once it is far enough."""

    def __init__(self, at=0, act=lambda: None):
        self.seen = []
        self.at = at
        self.act = act

    def update(self, done, total=None, unit="steps", values=None):
        assert (total, unit) == (STEPS, "steps")
        assert values["loss"] > 0
        self.seen.append(done)
        if done == self.at:
            self.act()


def train(world, folder, zero=3, resume=None, progress=None, stop=lambda: False, processes=PROCESSES, **changes):
    """Align in several processes: ten steps of eight pairs."""
    output, scratch = folder / "output", folder / "scratch"
    for path in (output, scratch):
        path.mkdir(parents=True)
    run = tiny_training.training_run(resume, stop)
    run = replace(run, progress=progress or Steps(), parallel=Parallel(zero=zero))
    config = tiny_training.align_config("dpo", epochs=2.0, batch_size=8, micro_batch_size=2, **changes)
    inputs = {
        "model": world.model,
        "data": world.data,
        "reference": [world.reference],
        "mismatched": [],
        "holdout_reference": world.holdout,
    }
    return train_in_processes("align", inputs, config, output, run, processes, scratch), output


def workers():
    """Return the training processes that this one started, and forget those that have ended."""
    return [child for child in psutil.Process().children() if "kilter.training.worker" in child.cmdline()]


def test_told_to_stop_it_saves_and_new_launches_go_on_to_the_same_weights_however_many_processes(world, tmp_path):
    progress = Steps()
    summary, whole = train(world, tmp_path / "whole", progress=progress)
    assert (summary["processes"], summary["zero"], summary["steps"]) == (PROCESSES, 3, STEPS)
    assert progress.seen == list(range(1, STEPS + 1))
    assert sorted(path.name for path in whole.iterdir()) == ["metrics.parquet", "model"]

    (tmp_path / "resume").mkdir()
    resume, asked = tiny_training.FolderResume(tmp_path / "resume"), []
    with pytest.raises(Preempted, match="its state was kept") as stopped:
        train(
            world,
            tmp_path / "stopped",
            resume=resume,
            progress=Steps(3, lambda: asked.append(True)),
            stop=lambda: bool(asked),
        )
    assert stopped.value.step == resume.published[-1] < STEPS
    assert not list((tmp_path / "stopped" / "output").iterdir())
    _, continued = train(world, tmp_path / "continued", resume=resume)
    ours, theirs = (load_file(path / "model" / "model.safetensors") for path in (continued, whole))
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())

    assert resume.latest() is not None
    summary, other = train(world, tmp_path / "by one", resume=resume, processes=1)
    assert (summary["processes"], summary["zero"]) == (1, 3)
    ours = load_file(other / "model" / "model.safetensors")
    assert all(torch.allclose(weight, theirs[name], rtol=1e-5, atol=1e-6) for name, weight in ours.items())


def test_an_error_of_any_process_ends_all_of_them_with_its_message(world, tmp_path):
    with pytest.raises(StageFailed, match=r"process \d of 2: step \d+ of 10: the (loss|grad_norm) is nan"):
        train(world, tmp_path, zero=2, learning_rate=1e30)
    assert not workers()


def test_a_process_that_is_killed_ends_the_others_and_is_named(world, tmp_path):
    def kill():
        victim = next(child for child in workers() if child.environ()["RANK"] == "1")
        victim.send_signal(signal.SIGKILL)

    with pytest.raises(StageFailed, match="process 1 of 2 was ended by SIGKILL"):
        train(world, tmp_path, zero=0, progress=Steps(2, kill))
    assert not workers()


def test_no_process_outlives_the_one_that_started_them(world, tmp_path):
    """A child launches the training and is killed; its children must be gone soon, whatever they were doing."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            train(world, tmp_path, zero=0, progress=Steps(1, lambda: os.write(write, b"!")))
        finally:
            os._exit(0)
    os.close(write)
    assert os.read(read, 1) == b"!"
    found = [each for each in psutil.Process(child).children(recursive=True) if "worker" in " ".join(each.cmdline())]
    assert len(found) == PROCESSES
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    _, alive = psutil.wait_procs(found, timeout=30)
    assert not alive
