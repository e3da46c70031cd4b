"""The data that benchmarks read: known beforehand, from a folder or from S3."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kilter.data.builtin import benchmark_folder
from kilter.data.mirror import Mirror
from kilter.evaluation.definitions import load_benchmark, no_hub
from kilter.evaluation.requirements import needed_splits
from kilter.store.objects import open_objects

OF_THE_REAL_DATA = [("gsm8k", 5), ("arc_challenge", 2), ("truthfulqa_mc2", 0), ("hellaswag", 0), ("mmlu_anatomy", 5)]


def read_and_needed(mirror: Mirror, task: str, examples: int | None) -> tuple[set[str], set[str]]:
    needed = {Mirror.name(split.data_set, split.configuration, split.split) for split in needed_splits(task, examples)}
    if any(mirror.objects.info(name) is None for name in needed):
        pytest.skip(f"the data at hand lack some of {sorted(needed)}")
    with no_hub(True):
        load_benchmark(task, examples, mirror)
    return set(mirror.contents), needed


@pytest.mark.parametrize(("task", "examples"), [*OF_THE_REAL_DATA, ("bbh_cot_fewshot_causal_judgement", 3)])
def test_what_a_benchmark_needs_is_what_the_harness_reads(task, examples, benchmark_data, tmp_path):
    read, needed = read_and_needed(Mirror.at(benchmark_data, tmp_path), task, examples)
    assert read == needed


def test_a_shipped_benchmark_needs_what_it_reads(tmp_path):
    read, needed = read_and_needed(Mirror.at(benchmark_folder(tmp_path), tmp_path), "kilter_copying", None)
    assert read == needed


def test_benchmark_data_may_lie_in_s3(s3_uri: str, tmp_path: Path) -> None:
    source = f"{s3_uri}/mirror"
    for split in ("validation", "train"):
        rows = pa.table({"question": [f"{split} {row}" for row in range(3)]})
        pq.write_table(rows, tmp_path / f"{split}.parquet")
        open_objects(source).upload(tmp_path / f"{split}.parquet", f"org/name/main/{split}.parquet")
    mirror = Mirror.at(source, tmp_path / "scratch")
    assert mirror.lacks("org/name", "main", "train") is None
    lacking = mirror.lacks("org/name", "main", "test")
    assert lacking is not None
    assert "org/name/main has train, validation" in lacking
    table = mirror.read("org/name", "main", "train", "a_task")
    assert table["question"].to_pylist()[0] == "train 0"
    assert [path.name for path in mirror.matching("org/*/main/*.parquet")] == ["train.parquet", "validation.parquet"]
