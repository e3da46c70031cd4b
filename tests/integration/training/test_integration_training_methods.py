"""Every method trains for real, and how a step is cut into micro-batches does not change it."""

import math

import pyarrow.parquet as pq
import pytest
import tiny_training

from kilter.plan.estimates.memory import Parallelism
from kilter.study.methods import METHODS
from kilter.training import deepspeed
from kilter.training.methods.objectives import OBJECTIVES

STEPS = 20
# Their losses compare the answers of a micro-batch with each other, so its size is part of the method.
OF_A_BATCH = {name for name, method in METHODS.items() if method.statistic is not None}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_training.make_world(tmp_path_factory.mktemp("methods"), rows=32)


def trained(world, method, folder, micro_batch_size):
    schedule = {"batch_size": 8, "epochs": STEPS * 8 / 32, "learning_rate": 3e-3}
    summary = world.align(method, folder, micro_batch_size=micro_batch_size, **schedule)
    metrics = pq.read_table(folder / "metrics.parquet")
    assert summary["steps"] == metrics.num_rows == STEPS
    return summary, metrics["loss"].to_pylist()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_micro_batches_do_not_matter(world, method, tmp_path):
    summary, whole = trained(world, method, tmp_path / "whole", micro_batch_size=8)
    assert all(map(math.isfinite, whole))
    assert (summary["trainer"], summary["loss_type"]) == (OBJECTIVES[method].trainer, OBJECTIVES[method].loss_type)
    assert sum(whole[-4:]) < sum(whole[:4]), "five passes over 32 pairs are enough to learn some of them"
    if method not in OF_A_BATCH:
        _, cut = trained(world, method, tmp_path / "cut", micro_batch_size=2)
        assert cut[:10] == pytest.approx(whole[:10], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", ["dpo", "kto", "orpo"])
def test_activations_that_are_computed_again_change_nothing(world, method, tmp_path, monkeypatch):
    kept, losses = trained(world, method, tmp_path / "kept", micro_batch_size=8)
    again = Parallelism(1, 0, "none", checkpointing=True)
    monkeypatch.setattr(deepspeed, "_settled", lambda *_: again)
    recomputed, others = trained(world, method, tmp_path / "again", micro_batch_size=8)
    assert (kept["activation_checkpointing"], recomputed["activation_checkpointing"]) == (False, True)
    assert others == pytest.approx(losses, rel=1e-5)
