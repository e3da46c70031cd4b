"""A study whose trainings take two processes each, started by Kilter or by torchrun, ends as with one process each."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from command import STUDY, environment, kilter
from safetensors.torch import load_file

from kilter.errors import EXIT_PREEMPTED
from kilter.plan.graph import Reference
from kilter.store.manifest import Manifest
from kilter.store.store import Store

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.xdist_group("processes")]

MADE_ANEW = ("sft", "reference", "align", "evaluate", "report")
ROUNDING = 1e-5
EPOCHS = 16.0
"""Sixty-four steps: with a checkpoint after each, enough to be stopped in between."""


def study(folder: Path, name: str, distributed: dict[str, Any] | None) -> Path:
    """Write the tiny study with one scenario and three methods, trained by so many processes."""
    content = yaml.safe_load(STUDY.read_text())
    content |= {"scenarios": ["sft"], "sizes": [32], "methods": ["dpo", "kto", "cpo"]}
    content["training"]["align"]["epochs"] = EPOCHS
    del content["models"]["instruct"]
    if distributed is not None:
        for settings in content["training"].values():
            settings["distributed"] = distributed
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(path: Path, store: Path) -> None:
    done = kilter("run", path, "--store", store, "--out", store.with_suffix(".report"), "--jobs", "1")
    assert done.returncode == 0, done.stderr


def outcomes(store: Path) -> dict[str, dict[str, Any]]:
    """Return the summaries of all trainings and evaluations by their result's name."""
    opened = Store.open(str(store))
    return {
        str(manifest.reference): dict(manifest.summary)
        for stage in ("sft", "align", "evaluate")
        for manifest in opened.manifests(stage)
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the study whose trainings take one process each."""
    folder = tmp_path_factory.mktemp("alone")
    run(study(folder, "alone", None), folder / "store")
    return folder / "store"


@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_a_training_reproduce_the_scores_of_one(alone: Path, tmp_path: Path, stage: int) -> None:
    store = Path(shutil.copytree(alone, tmp_path / "store"))
    for name in MADE_ANEW:
        shutil.rmtree(store / name)
    run(study(tmp_path, "together", {"processes": 2, "zero": stage}), store)
    ours, theirs = outcomes(store), outcomes(alone)
    assert ours.keys() == theirs.keys(), "how many processes train is part of no key"
    trained = [name for name in ours if not name.startswith("evaluate/")]
    assert len(trained) == 4
    for name, summary in ours.items():
        assert summary.get("scores") == theirs[name].get("scores"), name
    for name in trained:
        assert (ours[name]["processes"], ours[name]["zero"]) == (2, stage)
        assert (theirs[name]["processes"], theirs[name]["zero"]) == (1, 0)
        assert ours[name]["loss"] == pytest.approx(theirs[name]["loss"], abs=ROUNDING)
        assert ours[name]["deepspeed"]["zero_optimization"]["stage"] == stage


def weights(store: Path, manifest: Manifest) -> dict[str, Any]:
    name = "model/model.safetensors"
    return dict(load_file(Store.open(str(store)).fetch(manifest, (name,)) / name))


def launched(store: Path, key: str, **changes: str) -> subprocess.Popen[str]:
    """Start `kilter stage align` in two processes by torchrun, as on two machines: each has folders of its own."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "kilter.cli.main", "stage", "align", "--store", str(store), "--key", key]
    variables = environment(GLOO_SOCKET_IFNAME="lo", KILTER_SIGNING_KEY="s" * 32, **changes)
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables)


def test_processes_of_another_launcher_train_together_and_go_on_where_they_were_stopped(
    alone: Path, tmp_path: Path
) -> None:
    """One is told to stop; its launcher ends the others only when all have saved what the first keeps for them."""
    store = Path(shutil.copytree(alone, tmp_path / "store"))
    manifest = next(each for each in Store.open(str(alone)).manifests("align") if each.summary["method"] == "dpo")
    key = manifest.reference.key
    folder = store / "align" / key
    shutil.rmtree(folder / "attempts")
    request = Store.open(str(store)).request(manifest.reference)
    assert request is not None
    for name in ("manifest.json", "request.json"):
        (folder / name).unlink()
    hints = {**request.hints, "distributed": {"zero": 2}}
    Store.open(str(store)).put_request(request.model_copy(update={"hints": hints}))

    stopped = launched(store, key, KILTER_CHECKPOINT_SECONDS="0")
    assert stopped.stderr is not None
    assert any(" steps " in line for line in stopped.stderr)
    ranks = [each for each in psutil.Process(stopped.pid).children() if "kilter.cli.main" in " ".join(each.cmdline())]
    next(each for each in ranks if each.environ()["RANK"] == "1").send_signal(signal.SIGTERM)
    said = stopped.stderr.read()
    assert stopped.wait() != 0
    assert "its state was kept" in said
    assert str(EXIT_PREEMPTED) in said
    assert not (folder / "manifest.json").exists()

    again = launched(store, key)
    assert again.stderr is not None
    said = again.stderr.read()
    assert again.wait() == 0, said
    assert "continuing from the checkpoint" in said
    continued = Store.open(str(store)).manifest(Reference("align", key))
    assert continued is not None
    assert (continued.summary["processes"], continued.summary["zero"]) == (2, 2)
    ours, theirs = weights(store, continued), weights(alone, manifest)
    assert ours.keys() == theirs.keys()
    assert all(abs(weight - theirs[name]).max() < ROUNDING for name, weight in ours.items())
