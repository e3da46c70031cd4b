"""Planning on this machine: what is refused before anything is trained."""

import json
import os
from pathlib import Path

import pytest
import yaml
from studies import SMALL_STUDY

from kilter.backends.local.backend import LocalBackend
from kilter.backends.planning import DATA_STAGES, plan_study
from kilter.cli.display import Lines
from kilter.errors import WrongInput
from kilter.store.store import Store
from kilter.study.load import parse_study
from kilter.study.specification import Study


def study_of(folder: Path, **changes: object) -> Study:
    return parse_study(yaml.safe_dump({**SMALL_STUDY, **changes}), "test", {}, folder)


def test_all_unknown_benchmarks_are_named_at_once(tmp_path: Path) -> None:
    study = study_of(tmp_path, benchmarks=["kilter_arithmetik", "kilter_ordering", "gsm8"])
    with pytest.raises(WrongInput) as error:
        plan_study(study, tmp_path, online=False)
    assert "benchmarks[0]" in str(error.value)
    assert "kilter_arithmetic" in str(error.value)
    assert "benchmarks[2]" in str(error.value)
    assert "gsm8k" in str(error.value)


def test_a_size_above_what_is_left_is_refused_once_the_data_were_read(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {row}?", "chosen": "yes", "rejected": "no"} for row in range(100)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    data = {"preference": {"source": "./pairs.jsonl", "holdout": 0.1}}
    study = study_of(tmp_path, data=data, scenarios=["base"], sizes=[50, 95, "all"])
    store = Store.open(str(tmp_path / "store"))
    plan = plan_study(study, tmp_path, store, online=False)
    assert plan.rows_known
    outcome = LocalBackend(store, 1, os.environ).run(plan.only(DATA_STAGES), Lines())
    assert not outcome.failures
    with pytest.raises(WrongInput, match=r"sizes 95: of 100 pairs .* 9\d are left \(\d+ held out\)"):
        plan_study(study, tmp_path, store, online=False)


def test_a_benchmark_whose_data_the_mirror_lacks_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    validation = tmp_path / "mirror" / "allenai" / "ai2_arc" / "ARC-Challenge" / "validation.parquet"
    validation.parent.mkdir(parents=True)
    validation.write_bytes(b"")
    data = {**SMALL_STUDY["data"], "mirror": {"source": "./mirror"}}
    study = study_of(tmp_path, data=data, benchmarks=["kilter_arithmetic", "arc_challenge", "piqa"])
    with pytest.raises(WrongInput) as error:
        plan_study(study, tmp_path, online=False)
    arc, piqa = str(error.value).splitlines()
    assert arc.startswith("benchmarks[1]: arc_challenge needs data that the mirror lacks: ")
    assert "ARC-Challenge/test.parquet does not exist; allenai/ai2_arc/ARC-Challenge has validation" in arc
    assert "benchmarks[2]: piqa" in piqa


def test_more_examples_than_a_task_allows_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    study = study_of(tmp_path, benchmarks=[{"task": "truthfulqa_mc2", "num_fewshot": 5}])
    with pytest.raises(WrongInput, match=r"benchmarks\[0\]: task truthfulqa_mc2 is defined with 0 worked examples"):
        plan_study(study, tmp_path, online=False)
