"""`kilter plan --gpu`: tables, JSON that scripts can trust, and refusals that say what would fit."""

import json
from pathlib import Path
from typing import Any

import pytest

from kilter.cli.main import main

STUDIES = Path(__file__).parents[3] / "studies"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("KILTER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "160")


def estimates(capsys: pytest.CaptureFixture[str], *arguments: str, study: str = "insights") -> dict[str, Any]:
    assert main(["plan", str(STUDIES / f"{study}.yaml"), "--json", *arguments]) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def test_the_papers_study_is_estimated_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("{h100-80gb: 2.0, currency: EUR}")
    data = estimates(capsys, "--gpu", "h100-80gb", "--prices", str(prices))
    found = data["estimates"]
    assert len(found["stages"]) == len(data["stages"]) == found["total"]["stages"]
    assert found["currency"] == "EUR"
    # Memory, hours and cost of everything that needs a GPU; only data that nobody has fetched are not known.
    for kind in ("sft", "reference", "align", "evaluate"):
        sums = found["kinds"][kind]
        assert sums["memory"]["value"] > 0
        assert sums["gpu_hours"]["unknown"] == 0
        assert sums["cost"]["value"] == pytest.approx(2 * sums["gpu_hours"]["value"])
    assert found["total"]["gpu_hours"]["unknown"] == 0
    assert found["total"]["store_bytes"]["unknown"] > 0


def test_json_tells_bounds_unknowns_and_where_figures_are_from(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimates(capsys, "--gpu", "h200")["estimates"]
    align = next(each for each in found["stages"].values() if each["stage"] == "align")
    assert align["memory"]["at_most"]
    parts = ("weights", "gradients", "optimizer", "activations", "head", "buffers")
    assert align["memory"]["total"] == pytest.approx(sum(align["memory"][part] for part in parts), abs=10)
    assert align["parallelism"].keys() == {"gpus", "zero", "offload", "checkpointing"}
    assert align["seconds"]["at_most"]
    assert align["cost"] is None
    ingest = [each for each in found["stages"].values() if each["stage"] == "ingest"]
    assert None in [each["store_bytes"] for each in ingest]
    assert all(figure["from"] for figure in found["figures"].values())


def test_the_table_has_a_line_a_kind_and_the_sum(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("{h100-80gb: 2.0, currency: EUR}")
    study = str(STUDIES / "insights.yaml")
    assert main(["plan", study, "--gpu", "h100-80gb", "--prices", str(prices)]) == 0
    shown = capsys.readouterr().out
    for word in ("align", "evaluate", "all", "GPU-h", "EUR", "GiB", "≤", "unknown", "assumptions"):
        assert word in shown
    assert main(["plan", study, "--gpu", "h100-80gb", "--all"]) == 0
    listed = capsys.readouterr().out
    assert "sft/dpo/beta=0.01/1000/seed0" in listed


def test_without_a_gpu_the_plan_is_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert "estimates" not in estimates(capsys)


def test_a_small_study_is_estimated_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimates(capsys, "--gpu", "cpu", study="demo")["estimates"]
    assert found["total"]["gpu_hours"] == {"value": 0.0, "at_most": False, "unknown": 0}
    assert 10 < found["total"]["seconds"]["value"] < 10_000


def test_what_fits_nowhere_is_refused_with_what_would_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(STUDIES / "insights.yaml"), "--gpu", "l4", "--gpus", "1"]) == 2
    error = capsys.readouterr().err
    assert "reference" in error
    assert "What would fit: --gpu a100-80gb or h100-80gb or h200" in error
    assert "GiB" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h1000"], "there is no GPU 'h1000'"),
        (["--prices", "nothing.yaml"], "--prices needs --gpu"),
        (["--gpu", "h200", "--prices", "nothing.yaml"], "price file cannot be read"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(STUDIES / "demo.yaml"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_study_that_asks_for_two_processes_is_estimated_with_them_on_a_cpu(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = (STUDIES / "demo.yaml").read_text(encoding="utf-8")
    study = tmp_path / "two.yaml"
    study.write_text(text.replace("  align: {", "  align: {distributed: {processes: 2, zero: 2}, "))
    assert main(["plan", str(study), "--json", "--gpu", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)["estimates"]["stages"].values()
    spread = [each["parallelism"] for each in found if each["stage"] == "align"]
    assert {(each["gpus"], each["zero"]) for each in spread} == {(2, 2)}
