"""A study from its file to its report, as a user runs it."""

import json
from pathlib import Path

import pytest
from command import STUDY, Finished, kilter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("e2e")]


def test_a_run_ends_with_a_report_and_a_table(finished: Finished) -> None:
    assert "Report: " in finished.run.stdout
    assert "kilter_arithmetic" in finished.run.stdout
    assert (finished.report / "report.html").stat().st_size > 10_000
    assert (finished.report / "summary.md").exists()
    outcome = json.loads((finished.report / "outcome.json").read_text())
    assert {model["scenario"] for model in outcome["models"]} == {None, "sft", "instruct"}
    assert outcome["verdicts"]


def test_running_again_runs_nothing(finished: Finished, tmp_path: Path) -> None:
    again = kilter("run", STUDY, "--store", finished.store, "--out", tmp_path / "report")
    assert again.returncode == 0
    assert again.stderr.startswith("0 stages ran")
    assert (tmp_path / "report" / "report.html").read_bytes() == (finished.report / "report.html").read_bytes()


def test_the_plan_knows_what_is_there(finished: Finished) -> None:
    plan = json.loads(kilter("plan", STUDY, "--store", finished.store, "--json").stdout)
    assert plan["to_run"] == 0
    assert plan["stages_without_sharing"] > len(plan["stages"])


def test_every_published_object_is_of_a_safe_format(finished: Finished) -> None:
    from kilter.store.store import Store

    names = {item.name for manifest in Store.open(str(finished.store)).manifests() for item in manifest.objects}
    suffixes = {Path(name).suffix for name in names}
    assert suffixes <= {".safetensors", ".parquet", ".json", ".jinja", ".html", ".md", ".csv"}
    assert not any("training_args" in name for name in names)


def test_a_model_is_shown_by_its_name(finished: Finished) -> None:
    shown = kilter("show", "sft/dpo/64/seed0", "--store", finished.store)
    assert shown.returncode == 0, shown.stderr
    for part in ("config", "lineage", "outputs", "model/model.safetensors", "beta", "end of the log"):
        assert part in shown.stdout


def test_a_model_can_be_taken_out_and_loaded(finished: Finished, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = kilter("export", "instruct/kto/64/seed0", "--to", tmp_path / "model", "--store", finished.store)
    assert done.returncode == 0, done.stderr
    assert len({path.stat().st_mode for path in (tmp_path / "model").iterdir()}) == 1, "all as readable as any"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").num_parameters() > 0
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template


def test_the_report_comes_from_the_store_alone(finished: Finished, tmp_path: Path) -> None:
    done = kilter("report", STUDY, "--store", finished.store, "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "report.html").exists()
    assert (tmp_path / "again" / "tables").is_dir()


def test_the_resolved_loss_is_on_record(finished: Finished) -> None:
    from kilter.store.store import Store

    losses = {
        manifest.config["method"]: (manifest.summary["trainer"], manifest.summary["loss_type"])
        for manifest in Store.open(str(finished.store)).manifests("align")
    }
    assert losses["dpo"][1] == "sigmoid"
    assert "KTO" in losses["kto"][0]
    assert "CPO" in losses["cpo"][0]


def test_a_store_is_listed_verified_and_pruned(finished_copy: Path) -> None:
    assert "results" in kilter("store", "ls", "--store", finished_copy).stderr
    assert kilter("store", "verify", "--store", finished_copy).returncode == 0
    assert kilter("store", "prune", "--dry-run", "--store", finished_copy).returncode == 0
