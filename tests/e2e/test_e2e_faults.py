"""What happens to a study when the machine, the store or the user does the unexpected."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command import STUDY, Finished, kilter, start

from kilter.store.lease import holder
from kilter.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("e2e")]

Scores = Callable[[Path], Mapping[str, Any]]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a part of the tiny study, so that its results are among those of the undisturbed run."""
    path = tmp_path / "small.yaml"
    path.write_text(
        STUDY.read_text()
        .replace("scenarios: [sft, instruct]", "scenarios: [sft]")
        .replace("[dpo, kto, cpo]", "[dpo, kto]")
    )
    return path


def part_of(whole: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    """Tell whether scores are the same as those of the undisturbed run, and not none at all."""
    return bool(part) and part.items() <= whole.items()


def committed(store: Path) -> dict[str, str]:
    """Return the winning attempt of every result."""
    if not store.exists():
        return {}
    return {str(manifest.reference): manifest.attempt for manifest in Store.open(str(store)).manifests()}


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for a state, not for a time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the state was never reached"
        time.sleep(0.02)


def test_five_kills_lose_nothing_and_repeat_nothing(
    finished: Finished, small: Path, tmp_path: Path, scores_of: Scores
) -> None:
    store = tmp_path / "store"
    total = len(json.loads(kilter("plan", small, "--store", store, "--json").stdout)["stages"])
    chance = random.Random(20261123)
    before: dict[str, str] = {}
    for moment in sorted(chance.sample(range(1, total - 2), 5)):
        process = start("run", small, "--store", store, "--out", tmp_path / "report")
        wait_until(lambda moment=moment, process=process: len(committed(store)) >= moment or process.poll() is not None)
        time.sleep(chance.random())  # anywhere within what runs then
        process.kill()
        process.communicate()
        now = committed(store)
        assert before.items() <= now.items(), "a result that was there was made again"
        before = now
    last = kilter("run", small, "--store", store, "--out", tmp_path / "report")
    assert last.returncode == 0, last.stderr
    assert before.items() <= committed(store).items()
    assert part_of(scores_of(finished.store), scores_of(store))


def test_two_runs_at_once_share_the_work(finished: Finished, small: Path, tmp_path: Path, scores_of: Scores) -> None:
    store = tmp_path / "store"
    runs = [
        start("run", small, "--store", store, "--out", tmp_path / str(number), "--jobs", "1") for number in range(2)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=600)
        assert run.returncode == 0, errors
    assert part_of(scores_of(finished.store), scores_of(store))
    opened = Store.open(str(store))
    for reference in opened.references():
        if reference.stage in ("pretrain", "sft", "align"):
            assert len(opened.logs(reference)) == 1, f"{reference} was trained twice"


def test_ctrl_c_stops_cleanly_and_the_next_run_continues(
    finished: Finished, small: Path, tmp_path: Path, scores_of: Scores
) -> None:
    store = tmp_path / "store"
    process = start("run", small, "--store", store, "--out", tmp_path / "report")
    wait_until(lambda: any(name.startswith("reference/") for name in committed(store)) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert kilter("run", small, "--store", store, "--out", tmp_path / "report").returncode == 0
    assert part_of(scores_of(finished.store), scores_of(store))


def test_a_run_that_is_stopped_before_it_could_start_anything_starts_nothing(small: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = start("run", small, "--store", store, "--out", tmp_path / "report")
    assert process.stderr is not None
    # What stages need is being imported, for seconds, and stages are asked for already.
    assert "stages to run" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors
    assert list(store.glob("*/*/attempts/*")) == []


def test_a_training_that_somebody_else_stops_runs_again_and_ends_with_the_same_weights(
    finished_copy: Path, tmp_path: Path
) -> None:
    store = Store.open(str(finished_copy))
    before = max(store.manifests("align"), key=lambda manifest: int(manifest.summary["steps"]))
    for _ in range(5):
        assert kilter("store", "invalidate", str(before.reference), "--store", finished_copy).returncode == 0
        run = start("run", STUDY, "--store", finished_copy, "--out", tmp_path / "report", "--jobs", "1")
        wait_until(lambda run=run: holder(store, before.reference) is not None or run.poll() is not None)
        at_work = holder(store, before.reference)
        if at_work is not None:
            with suppress(ProcessLookupError):
                os.kill(at_work.process.pid, signal.SIGTERM)
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
        if "it runs again" in errors:
            break
    else:
        pytest.fail("the training was always over before it was told to stop")
    assert "stopped: " in errors
    after = store.manifest(before.reference)
    assert after is not None
    weights = [{item.name: item.sha256 for item in made.objects if "model/" in item.name} for made in (before, after)]
    assert weights[0] == weights[1]


def test_a_flipped_byte_is_found_before_anything_is_trained_on_it(finished_copy: Path, tmp_path: Path) -> None:
    opened = Store.open(str(finished_copy))
    (sft,) = (manifest for manifest in opened.manifests("sft") if manifest.label == "sft")
    weights = finished_copy / "sft" / sft.key / "attempts" / sft.attempt / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    study = tmp_path / "more.yaml"
    study.write_text(
        STUDY.read_text().replace("sizes: [32, 64]", "sizes: [32, 64, 96]").replace("[sft, instruct]", "[sft]")
    )
    before = committed(finished_copy)
    done = kilter("run", study, "--store", finished_copy, "--out", tmp_path / "report")
    assert done.returncode == 1
    assert "model/model.safetensors" in done.stderr
    assert sft.key[:10] in done.stderr
    assert "kilter store invalidate" in done.stderr
    new = set(committed(finished_copy)) - set(before)
    assert not any(name.startswith(("align/", "evaluate/")) for name in new)
    found = kilter("store", "verify", "--store", finished_copy)
    assert found.returncode == 1
    assert "model/model.safetensors" in found.stdout
    assert kilter("store", "invalidate", f"sft/{sft.key}", "--store", finished_copy).returncode == 0
    assert kilter("run", study, "--store", finished_copy, "--out", tmp_path / "report").returncode == 0


def test_a_failing_stage_leaves_the_others_running_and_the_report_names_it(finished_copy: Path, tmp_path: Path) -> None:
    study = tmp_path / "failing.yaml"
    study.write_text(
        STUDY.read_text()
        .replace(
            "methods: [dpo, kto, cpo]",
            "methods: [dpo, {name: cpo, training: {learning_rate: 1.0e+30}}]",
        )
        .replace("[sft, instruct]", "[sft]")
    )
    done = kilter("run", study, "--store", finished_copy, "--out", tmp_path / "report")
    assert done.returncode == 1
    assert "failed: sft/cpo/32/seed0" in done.stderr
    assert "step" in done.stderr
    assert "missing" in done.stdout
    assert (tmp_path / "report" / "report.html").exists()
    assert "sft/cpo/64/seed0" in (tmp_path / "report" / "report.html").read_text()


def test_a_store_that_cannot_be_written_says_so_and_loses_nothing(finished: Finished, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = kilter("run", STUDY, "--store", blocked / "store", "--out", tmp_path / "report")
    assert done.returncode == 1
    assert str(blocked) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_store_says_so_and_goes_on_once_there_is_room(
    finished: Finished, small: Path, tmp_path: Path, scores_of: Scores
) -> None:
    store = tmp_path / "disk"
    store.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", store], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"file systems cannot be mounted here: {mounted.stderr.strip()}")
    try:
        done = kilter("run", small, "--store", store, "--out", tmp_path / "report")
        assert done.returncode == 1
        assert "no space" in done.stderr.lower()
        assert "Traceback" not in done.stderr
        before = committed(store)
        subprocess.run(["mount", "-o", "remount,size=200m", store], check=True)
        assert kilter("run", small, "--store", store, "--out", tmp_path / "report").returncode == 0
        assert before.items() <= committed(store).items()
        assert part_of(scores_of(finished.store), scores_of(store))
    finally:
        subprocess.run(["umount", "-l", store], check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a mount read-only")
def test_a_read_only_store_says_so_and_can_still_be_read(finished_copy: Path, tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "--bind", finished_copy, finished_copy], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"file systems cannot be mounted here: {mounted.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", finished_copy], check=True)
        assert kilter("run", STUDY, "--store", finished_copy, "--out", tmp_path / "report").returncode == 0
        study = tmp_path / "more.yaml"
        study.write_text(STUDY.read_text().replace("sizes: [32, 64]", "sizes: [32, 64, 96]"))
        done = kilter("run", study, "--store", finished_copy, "--out", tmp_path / "report")
        assert done.returncode == 1
        assert "read-only" in done.stderr.lower()
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", "-l", finished_copy], check=False)


def test_a_vanished_endpoint_is_named(tmp_path: Path) -> None:
    done = kilter(
        "run",
        STUDY,
        "--store",
        "s3://bucket/prefix",
        "--out",
        tmp_path / "report",
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="none",
        AWS_SECRET_ACCESS_KEY="none",
        AWS_DEFAULT_REGION="us-east-1",
    )
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_set_that_changed_gets_a_new_key(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {number}?", "chosen": "yes", "rejected": "no"} for number in range(100)]
    data = tmp_path / "pairs.jsonl"
    study = tmp_path / "study.yaml"
    study.write_text(
        STUDY.read_text().replace(
            'preference: {source: "builtin:demo", split: preference,', "preference: {source: pairs.jsonl,"
        )
    )
    keys = []
    for last in ("first", "second"):
        data.write_text("\n".join(json.dumps(row) for row in [*rows, {"prompt": last, "chosen": "a", "rejected": "b"}]))
        plan = json.loads(kilter("plan", study, "--store", tmp_path / "store", "--json").stdout)
        keys.append({stage["key"] for stage in plan["stages"] if stage["stage"] == "align"})
    assert not keys[0] & keys[1]
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
