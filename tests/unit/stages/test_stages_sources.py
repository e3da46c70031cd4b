"""What a study's sources turn out to be."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from studies import SMALL_STUDY

from kilter.errors import WrongInput
from kilter.plan.sources import SourceName
from kilter.stages.sources import content_of_folder, resolve_sources
from kilter.study.facts import load_facts
from kilter.study.load import parse_study
from kilter.study.specification import Study

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FACTS = load_facts()


def study_with_preference(source: str, folder: Path, **fields: object) -> Study:
    data = {**SMALL_STUDY["data"], "preference": {"source": source, **fields}}
    changed = {**SMALL_STUDY, "data": data, "sizes": ["all"], "scenarios": ["base"]}
    return parse_study(json.dumps(changed), "test", {}, folder)


def resolve(source: str, folder: Path, **fields: object) -> dict[str, object]:
    study = study_with_preference(source, folder, **fields)
    resolved = resolve_sources(study, folder, FACTS, online=False)
    return {name.source: found for name, found in resolved.items()}


def write_pairs(path: Path, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"prompt": [f"p{row}" for row in range(rows)], "chosen": ["a"] * rows, "rejected": ["b"] * rows}
    pq.write_table(pa.table(table), path)


def test_a_folder_is_known_by_its_content_and_not_by_its_place(tmp_path: Path) -> None:
    for place in ("here", "there"):
        write_pairs(tmp_path / place / "train.parquet", 5)
    here, there = (resolve(f"./{place}", tmp_path)[f"./{place}"] for place in ("here", "there"))
    assert here.content == there.content
    assert here.rows == {"train": 5}
    write_pairs(tmp_path / "there" / "train.parquet", 6)
    assert resolve("./there", tmp_path)["./there"].content != here.content


def test_hidden_files_are_no_content(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data" / "train.parquet", 5)
    before = content_of_folder(tmp_path / "data")
    (tmp_path / "data" / ".cache").mkdir()
    (tmp_path / "data" / ".cache" / "junk").write_text("x")
    assert content_of_folder(tmp_path / "data") == before


def test_a_pinned_hub_source_needs_no_network(tmp_path: Path) -> None:
    found = resolve("org/pairs", tmp_path, revision=COMMIT)["org/pairs"]
    assert found.content == f"hub:org/pairs@{COMMIT}"
    assert not found.warnings


def test_an_unpinned_hub_source_is_shown_as_unresolved(tmp_path: Path) -> None:
    found = resolve("org/pairs", tmp_path)["org/pairs"]
    assert found.content == "unresolved:org/pairs@main"
    assert "kilter lock" in found.warnings[0]


def test_rows_of_known_sources_come_from_the_facts(tmp_path: Path) -> None:
    found = resolve("HuggingFaceH4/ultrafeedback_binarized", tmp_path, split="train_prefs")
    assert found["HuggingFaceH4/ultrafeedback_binarized"].rows["train_prefs"] == 61135


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongInput, match="empty"):
        resolve("./empty", tmp_path)


def test_names_tell_kinds_apart() -> None:
    assert SourceName("model", "org/name") != SourceName("data", "org/name")
