"""The runner on real benchmarks, a few documents each, with a tiny model of random weights."""

import json
import multiprocessing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kilter.evaluation.index as task_index
from kilter.data.mirror import Mirror
from kilter.data.schemas import SAMPLES
from kilter.errors import StageFailed, WrongInput
from kilter.evaluation.definitions import STOCK_FOLDER
from kilter.evaluation.runner import ModelUnderTest, evaluate_benchmark
from kilter.plan.configs import EvaluateConfig
from kilter.progress import Silent

SEED = 1234


def score(model, mirror, output, task, *, progress=None, **settings):
    """Run a benchmark and return the summary and the rows of its samples."""
    config = EvaluateConfig(kind="benchmark", task=task, precision="fp32", **settings)
    summary = evaluate_benchmark(model, config, Mirror.at(mirror, output), SEED, output, progress or Silent())
    return summary, pq.read_table(output / "samples.parquet").to_pylist()


def primary(summary):
    (main,) = [entry for entry in summary["scores"] if entry["primary"]]
    return main


@pytest.mark.parametrize(
    ("task", "settings", "metric", "filter_name", "chance"),
    [
        ("arc_challenge", {"num_fewshot": 0, "limit": 6}, "acc_norm", "none", 0.25),
        ("hellaswag", {"num_fewshot": 0, "limit": 4}, "acc_norm", "none", 0.25),
        ("truthfulqa_mc2", {"limit": 4}, "acc", "none", None),
        ("mmlu_anatomy", {"num_fewshot": 2, "limit": 4}, "acc", "none", 0.25),
        ("gsm8k", {"num_fewshot": 1, "limit": 2}, "exact_match", "strict-match", 0.0),
        ("bbh_zeroshot_causal_judgement", {"limit": 1}, "exact_match", "flexible-extract", 0.0),
        ("bbh_cot_fewshot_sports_understanding", {"limit": 1}, "exact_match", "get-answer", 0.0),
    ],
)
def test_stock_tasks_run_from_the_mirror(
    loaded_model, benchmark_data, tmp_path, task, settings, metric, filter_name, chance
):
    summary, rows = score(loaded_model, benchmark_data, tmp_path, task, **settings)
    main = primary(summary)
    assert (main["benchmark"], main["metric"], main["filter"]) == (task, metric, filter_name)
    assert main["documents"] == settings["limit"]
    assert chance is None or main["chance"] == pytest.approx(chance)
    values = [row["value"] for row in rows if (row["metric"], row["filter"]) == (metric, filter_name)]
    assert main["value"] == pytest.approx(sum(values) / len(values))
    assert pq.read_schema(tmp_path / "samples.parquet") == SAMPLES
    assert len({(row["filter"], row["metric"], row["doc_id"]) for row in rows}) == len(rows)
    assert summary["harness_version"] == "0.4.13"
    assert len(summary["dataset"]) == 64


def test_guessing_in_truthfulqa_earns_the_share_of_true_answers(loaded_model, benchmark_data, tmp_path):
    summary, _ = score(loaded_model, benchmark_data, tmp_path, "truthfulqa_mc2", limit=3)
    path = benchmark_data / "truthfulqa/truthful_qa/multiple_choice/validation.parquet"
    documents = pq.read_table(path).slice(0, 3).column("mc2_targets").to_pylist()
    shares = [sum(document["labels"]) / len(document["labels"]) for document in documents]
    assert primary(summary)["chance"] == pytest.approx(sum(shares) / 3)


def direct(model, folder, name, data_files, changes="", **settings):
    """Run the harness's own entry point on a stock task, on the same files, as its documentation shows."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    files = "\n".join(f"    {split}: {path}" for split, path in data_files.items())
    (folder / "probe.yaml").write_text(
        f"include: {STOCK_FOLDER / task_index.stock_tasks().files[name]}\ntask: probe\ndataset_path: parquet\n"
        f"dataset_name: null\n{changes}dataset_kwargs:\n  data_files:\n{files}\n"
    )
    results = simple_evaluate(
        model=model.language_model,
        tasks=["probe"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=100,
        numpy_random_seed=SEED,
        torch_random_seed=SEED,
        random_seed=SEED,
        fewshot_random_seed=SEED,
        **settings,
    )
    return results["results"]["probe"], results["samples"]["probe"]


@pytest.mark.parametrize(
    ("task", "data_set", "splits", "changes", "shots", "chat"),
    [
        ("gsm8k", "openai/gsm8k/main", ("train", "test"), "", 2, False),
        ("arc_easy", "allenai/ai2_arc/ARC-Easy", ("test",), "training_split: null\nvalidation_split: null\n", 0, True),
        ("hellaswag", "Rowan/hellaswag/default", ("validation",), "training_split: null\n", 0, False),
        ("truthfulqa_mc2", "truthfulqa/truthful_qa/multiple_choice", ("validation",), "", None, False),
    ],
)
def test_values_equal_those_of_the_harness_called_directly(
    loaded_model, benchmark_data, tmp_path, monkeypatch, task, data_set, splits, changes, shots, chat
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    summary, rows = score(
        loaded_model,
        benchmark_data,
        tmp_path / "ours",
        task,
        num_fewshot=shots,
        limit=4,
        template="model" if chat else None,
    )
    files = {split: benchmark_data / data_set / f"{split}.parquet" for split in splits}
    scores, samples = direct(
        loaded_model, tmp_path, task, files, changes, num_fewshot=shots, limit=4, apply_chat_template=chat
    )
    expected = {
        (sample["filter"], metric, sample["doc_id"]): (
            sample[metric],
            sample["doc_hash"],
            sample["prompt_hash"],
            sample["target_hash"],
        )
        for sample in samples
        for metric in sample["metrics"]
    }
    found = {
        (row["filter"], row["metric"], row["doc_id"]): (
            row["value"],
            row["doc_hash"],
            row["prompt_hash"],
            row["target_hash"],
        )
        for row in rows
    }
    assert found == expected
    for entry in summary["scores"]:
        assert entry["value"] == scores[f"{entry['metric']},{entry['filter']}"]
        assert entry["standard_error"] == pytest.approx(scores[f"{entry['metric']}_stderr,{entry['filter']}"])


def test_a_group_keeps_its_tasks_and_its_own_score(loaded_model, benchmark_data, tmp_path):
    summary, rows = score(loaded_model, benchmark_data, tmp_path, "mmlu_stem", num_fewshot=0, limit=2)
    main = primary(summary)
    assert main["benchmark"] == "mmlu_stem"
    assert main["documents"] == 38
    assert main["value"] == pytest.approx(sum(row["value"] for row in rows) / 38)
    assert main["standard_error"] > 0
    assert len(summary["subtasks"]) == 19
    assert {row["task"] for row in rows} == set(summary["subtasks"])
    assert "mmlu_anatomy" in summary["task_versions"]


def test_a_tag_shows_every_task_for_itself(loaded_model, benchmark_data, tmp_path):
    summary, _ = score(loaded_model, benchmark_data, tmp_path, "ai2_arc", num_fewshot=0, limit=2)
    assert [entry["benchmark"] for entry in summary["scores"] if entry["primary"]] == ["arc_challenge", "arc_easy"]


def test_the_batch_size_changes_nothing_but_rounding(tiny_model, benchmark_data, tmp_path):
    answers = []
    for size in (1, 16):
        model = ModelUnderTest.load(tiny_model, "fp32", batch_size=size)
        _, rows = score(model, benchmark_data, tmp_path / str(size), "arc_challenge", num_fewshot=0, limit=5)
        answers.append([(row["value"], json.loads(row["response"])) for row in rows])
    for (value, likelihoods), (other_value, other_likelihoods) in zip(*answers, strict=True):
        assert value == other_value
        assert likelihoods == pytest.approx(other_likelihoods, abs=1e-3)


def test_two_runs_give_the_same(loaded_model, benchmark_data, tmp_path):
    runs = [
        score(loaded_model, benchmark_data, tmp_path / name, "gsm8k", num_fewshot=2, limit=2) for name in ("a", "b")
    ]
    assert runs[0][1] == runs[1][1]
    assert {**runs[0][0], "seconds": 0} == {**runs[1][0], "seconds": 0}


def test_what_is_cut_is_counted(loaded_model, benchmark_data, tmp_path):
    summary, _ = score(loaded_model, benchmark_data, tmp_path / "a", "gsm8k", num_fewshot=5, limit=2)
    assert summary["truncated_requests"] == summary["requests"] == 2
    assert summary["shortened_answers"] == {}
    summary, _ = score(loaded_model, benchmark_data, tmp_path / "b", "bbh_cot_fewshot_navigate", limit=1)
    assert summary["shortened_answers"] == {"1024": 512}
    summary, _ = score(loaded_model, benchmark_data, tmp_path / "c", "arc_easy", num_fewshot=0, limit=2)
    assert summary["truncated_requests"] == 0


def test_progress_counts_requests(loaded_model, benchmark_data, tmp_path):
    class Recorder:
        told: list[tuple[int, int | None, str]] = []  # noqa: RUF012

        def update(self, done, total=None, unit="steps", values=None):
            self.told.append((done, total, unit))

    score(loaded_model, benchmark_data, tmp_path, "arc_easy", progress=Recorder(), num_fewshot=0, limit=8)
    assert Recorder.told[-1] == (32, 32, "requests")


@pytest.fixture
def own_task(tmp_path, monkeypatch):
    """A task of Kilter's own, with its data where the convention puts them."""
    definitions = tmp_path / "tasks" / "probe"
    definitions.mkdir(parents=True)
    (definitions / "kilter_probe.yaml").write_text(
        "task: kilter_probe\ndataset_path: kilter/kilter_probe\noutput_type: multiple_choice\ntest_split: test\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: label\ndoc_to_choice: choices\n'
        "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\nmetadata: {version: 1.0}\n"
    )
    data = tmp_path / "data" / "kilter" / "kilter_probe" / "default"
    data.mkdir(parents=True)
    rows = [{"question": f"{n} + 1 =", "choices": [str(n + 1), "no", "x"], "label": 0} for n in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), data / "test.parquet")
    monkeypatch.setattr(task_index, "OWN_TASKS", tmp_path / "tasks")
    task_index.own_tasks.cache_clear()
    yield tmp_path / "data"
    task_index.own_tasks.cache_clear()


def test_an_own_task_reads_its_data_by_the_same_convention(loaded_model, own_task, tmp_path):
    summary, rows = score(loaded_model, own_task, tmp_path / "out", "kilter_probe")
    assert primary(summary)["chance"] == pytest.approx(1 / 3)
    assert summary["num_fewshot"] == 0
    assert [row["doc_id"] for row in rows] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("task", sorted(task_index.own_tasks()))
def test_every_task_that_ships_with_kilter_runs_on_its_data(loaded_model, tmp_path, task):
    from kilter.data.builtin import benchmark_folder

    summary, rows = score(loaded_model, benchmark_folder(tmp_path), tmp_path / "out", task, limit=3)
    assert primary(summary)["benchmark"] == task
    assert primary(summary)["chance"] is not None
    assert len(rows) == 3
    assert summary["truncated_requests"] == 0


def _run_in_fork(folder, mirror, output):
    import torch

    torch.set_num_threads(1)
    model = ModelUnderTest.load(folder, "fp32")
    score(model, mirror, output, "hellaswag", num_fewshot=0, limit=2)
    score(model, mirror, output, "gsm8k", num_fewshot=1, limit=1)


def test_it_runs_in_a_forked_process(tiny_model, loaded_model, benchmark_data, tmp_path):
    child = multiprocessing.get_context("fork").Process(
        target=_run_in_fork, args=(tiny_model, benchmark_data, tmp_path)
    )
    child.start()
    child.join(timeout=120)
    assert child.exitcode == 0
    assert {row["task"] for row in pq.read_table(tmp_path / "samples.parquet").to_pylist()} == {"gsm8k"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "gsm9k"}, "did you mean gsm8k"),
        ({"task": "humaneval"}, "executes code"),
        ({"task": "truthfulqa_mc2", "num_fewshot": 3}, "0 worked examples"),
        ({"task": "gsm8k", "template": "chatml"}, "template policy"),
    ],
)
def test_a_wrong_question_is_refused(loaded_model, benchmark_data, tmp_path, settings, message):
    with pytest.raises(WrongInput, match=message):
        score(loaded_model, benchmark_data, tmp_path, **settings)


def test_examples_from_a_split_that_the_mirror_lacks_are_an_error(loaded_model, benchmark_data, tmp_path):
    with pytest.raises(StageFailed, match=r"hellaswag needs the split 'train'.*train\.parquet does not exist"):
        score(loaded_model, benchmark_data, tmp_path, "hellaswag", num_fewshot=5, limit=2)


def test_data_that_the_mirror_lacks_are_named(loaded_model, tmp_path):
    with pytest.raises(StageFailed, match=r"openai/gsm8k/main/test\.parquet does not exist"):
        score(loaded_model, tmp_path, tmp_path / "out", "gsm8k", num_fewshot=0)


def test_a_broken_model_is_not_scored(tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in Path(tiny_model).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageFailed, match="NaN or infinity"):
        ModelUnderTest.load(tmp_path, "fp32")


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(StageFailed, match="cannot be loaded"):
        ModelUnderTest.load(tmp_path, "fp32")
