"""A study whose trainings take two processes each has the scores of one whose trainings take one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import STUDY, kilter

from kilter.store.store import Store

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.xdist_group("processes")]

MADE_ANEW = ("sft", "reference", "align", "evaluate", "report")
ROUNDING = 1e-5


def study(folder: Path, name: str, distributed: dict[str, Any] | None) -> Path:
    """Write the tiny study with one scenario and three methods, trained by so many processes."""
    content = yaml.safe_load(STUDY.read_text())
    content |= {"scenarios": ["sft"], "sizes": [32], "methods": ["dpo", "kto", "cpo"]}
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
