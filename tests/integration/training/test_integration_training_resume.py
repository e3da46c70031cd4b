"""A training that was stopped ends with the same weights, bit for bit, as one that was not (kills: see preemption)."""

import pyarrow.parquet as pq
import pytest
import tiny_training
import torch
from safetensors.torch import load_file

from kilter.errors import Preempted, StageFailed
from kilter.training.sft import run_sft

STEPS = 8
ROWS = 32


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    tiny_training.write_conversations(folder / "conversations" / "train.parquet", ROWS)
    return tiny_training.make_world(folder, rows=ROWS)


def train(world, method, output, run):
    """Two epochs of four steps, each of two micro-batches: KTO's of one block, the others' of four rows."""
    sizes = {"epochs": 4.0, "batch_size": 16} if method == "kto" else {"epochs": 2.0, "batch_size": 8}
    micro = {"micro_batch_size": 8 if method == "kto" else 4}
    if method == "sft":
        output.mkdir(parents=True, exist_ok=True)
        config = tiny_training.sft_config(**sizes, **micro)
        return run_sft(world.model, world.data.parent / "conversations", config, output, run)
    return world.align(method, output, run, **sizes, **micro)


def outcome(output):
    metrics = pq.read_table(output / "metrics.parquet").drop_columns(["seconds"]).to_pylist()
    return load_file(output / "model" / "model.safetensors"), metrics


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory):
    """The outcome of each method's training, run once."""
    known = {}

    def get(method):
        if method not in known:
            output = tmp_path_factory.mktemp("whole") / method
            assert train(world, method, output, tiny_training.training_run())["steps"] == STEPS
            known[method] = outcome(output)
        return known[method]

    return get


def assert_same(ours, theirs):
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    for name, weight in ours[0].items():
        assert torch.equal(weight, theirs[0][name]), name


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "orpo", "bco", "tr-dpo"])
def test_stopped_and_continued_is_as_if_never_stopped(world, uninterrupted, method, tmp_path):
    resume = tiny_training.FolderResume(tmp_path)
    for stop_after in (3, 2):
        run = tiny_training.training_run(resume, tiny_training.StopAfter(stop_after))
        with pytest.raises(Preempted):
            train(world, method, tmp_path / "stopped", run)
        assert list((tmp_path / "stopped").iterdir()) == []
    assert resume.published == [3, 5]
    train(world, method, tmp_path / "continued", tiny_training.training_run(resume))
    assert_same(outcome(tmp_path / "continued"), uninterrupted(method))


def test_stopped_at_the_last_step_the_training_still_ends_the_same(world, uninterrupted, tmp_path):
    resume = tiny_training.FolderResume(tmp_path)
    with pytest.raises(Preempted):
        train(world, "dpo", tmp_path / "stopped", tiny_training.training_run(resume, tiny_training.StopAfter(STEPS)))
    summary = train(world, "dpo", tmp_path / "continued", tiny_training.training_run(resume))
    assert summary["steps"] == STEPS
    assert_same(outcome(tmp_path / "continued"), uninterrupted("dpo"))


def test_a_checkpoint_holds_no_training_arguments_and_no_tokenizer(world, tmp_path):
    resume = tiny_training.FolderResume(tmp_path)
    with pytest.raises(Preempted):
        train(world, "dpo", tmp_path / "stopped", tiny_training.training_run(resume, tiny_training.StopAfter(1)))
    names = {path.name for path in resume.latest().iterdir()}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "kilter.json"} <= names
    assert not {"training_args.bin", "tokenizer.json", "README.md"} & names


def test_a_checkpoint_of_another_training_is_refused(world, tmp_path):
    resume = tiny_training.FolderResume(tmp_path)
    with pytest.raises(Preempted):
        train(world, "dpo", tmp_path / "stopped", tiny_training.training_run(resume, tiny_training.StopAfter(2)))
    with pytest.raises(StageFailed, match="is of another training"):
        world.align("dpo", tmp_path / "other", tiny_training.training_run(resume), seed=1)


def test_seconds_add_up_over_attempts(world, tmp_path):
    resume = tiny_training.FolderResume(tmp_path)
    with pytest.raises(Preempted):
        train(world, "dpo", tmp_path / "stopped", tiny_training.training_run(resume, tiny_training.StopAfter(4)))
    train(world, "dpo", tmp_path / "continued", tiny_training.training_run(resume))
    seconds = pq.read_table(tmp_path / "continued" / "metrics.parquet")["seconds"].to_pylist()
    assert seconds == sorted(seconds)
    assert len(seconds) == STEPS
