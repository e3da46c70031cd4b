"""One benchmark of one model, with lm-evaluation-harness: per-document values to Parquet, scores to the caller."""

import random
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch
from lm_eval.api.metrics import mean, pooled_sample_stderr, unweighted_mean_stderr
from lm_eval.evaluator import evaluate

from kilter.canonical import digest
from kilter.errors import KilterError, StageFailed, WrongInput
from kilter.evaluation.benchmarks import (
    Measure,
    chance_of_choice,
    chance_of_generation,
    kind_of,
    primary_measure,
)
from kilter.evaluation.definitions import LoadedBenchmark, definition_digest, load_benchmark, no_hub
from kilter.evaluation.generations import evaluate_generations
from kilter.evaluation.index import stock_tasks
from kilter.evaluation.language_model import ModelUnderTest, Tally
from kilter.evaluation.samples import Estimate, estimates, prompt_digest, sample_rows, samples_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

    from kilter.data.mirror import Mirror
    from kilter.plan.configs import EvaluateConfig
    from kilter.progress import Progress

__all__ = ["ModelUnderTest", "evaluate_benchmark", "evaluate_generations"]

# The mass on the true answers is this task's score, so guessing earns the share of answers that are true.
_TRUE_MASS = {"truthfulqa_mc2": lambda doc: doc["mc2_targets"]["labels"]}


def evaluate_benchmark(
    model: ModelUnderTest,
    config: "EvaluateConfig",
    mirror: "Mirror | None",
    seed: int,
    output: "Path",
    progress: "Progress",
) -> dict[str, Any]:
    """Score a model on a task, group or tag, and write `output/samples.parquet` (schema SAMPLES).

    Args:
        model: The model, loaded once for any number of benchmarks.
        config: task, num_fewshot (None keeps the task's own), limit (documents of each task) and template are read.
        mirror: Where data come from; None asks the hub.
        seed: Of the choice of worked examples, and of anything that a task draws. The harness's own default is 1234.
        output: The folder to write to.
        progress: Told of every few requests.

    Returns:
        scores (fields of `kilter.analysis.results.Score`; `primary` only on the benchmark itself, or on every task of a
        group that has no score of its own), task_version, task_versions, definition (digest of how tasks are defined),
        harness_version, prompt_hash, num_fewshot, limit, subtasks (whose rows the samples hold), requests,
        truncated_requests, shortened_answers (asked → granted new tokens), seconds, and dataset (digest of the files
        that were read) where there is a mirror.

    Raises:
        WrongInput: the task does not exist, runs code, or does not allow the settings.
        StageFailed: data are missing, a log-likelihood is not finite, or the harness failed.
    """
    started = time.monotonic()
    task = config.task
    if task is None:
        raise WrongInput("a benchmark needs the name of a task")
    if config.template not in (None, "model"):
        raise WrongInput(f"benchmark {task}: the chat template policy is none or `model`, got {config.template!r}")
    if config.template == "model" and not model.tokenizer.chat_template:
        raise WrongInput(f"benchmark {task} asks for the model's chat template, but its tokenizer has none")
    installed = version("lm-eval")
    if installed != stock_tasks().harness_version:
        raise StageFailed(
            f"lm-eval {installed} is installed, but Kilter's index of tasks is for {stock_tasks().harness_version}: "
            f"install that version"
        )
    with no_hub(mirror is not None):
        _seed(seed)
        benchmark = load_benchmark(task, config.num_fewshot, mirror)
        for loaded in benchmark.tasks.values():
            loaded.set_fewshot_seed(seed=seed)
        with model.language_model.counting(progress) as tally:
            results = _run(model, benchmark, config)
    rows = {name: sample_rows(name, samples) for name, samples in results["samples"].items()}
    output.mkdir(parents=True, exist_ok=True)
    table = samples_table([row for task_rows in rows.values() for row in task_rows])
    pq.write_table(table, output / "samples.parquet", compression="zstd")
    summary = {
        "scores": _scores(benchmark, results, {name: estimates(task_rows) for name, task_rows in rows.items()}),
        "task_version": _versions(benchmark, results),
        "task_versions": {name: str(results["versions"][name]) for name in benchmark.tasks},
        "definition": digest({name: definition_digest(loaded) for name, loaded in benchmark.tasks.items()}),
        "harness_version": installed,
        "prompt_hash": prompt_digest(results["samples"]),
        "num_fewshot": _examples(benchmark),
        "limit": config.limit,
        "subtasks": sorted(benchmark.tasks),
        **_tallied(tally),
        "seconds": time.monotonic() - started,
    }
    if mirror is not None:
        summary["dataset"] = mirror.digest()
    return summary


def _run(model: ModelUnderTest, benchmark: LoadedBenchmark, config: "EvaluateConfig") -> dict[str, Any]:
    """Run the harness; no bootstrap, for the standard errors of means have a closed form."""
    try:
        with torch.inference_mode():
            results = evaluate(
                lm=model.language_model,
                task_dict={
                    "tasks": benchmark.tasks,
                    "groups": benchmark.groups,
                    "group_map": {name: group.child_names for name, group in benchmark.groups.items()},
                },
                limit=config.limit,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=config.template == "model",
                fewshot_as_multiturn=True,
                confirm_run_unsafe_code=False,
            )
    except KilterError:
        raise
    except Exception as error:
        raise StageFailed(
            f"benchmark {benchmark.name} failed in the harness: {type(error).__name__}: {error}"
        ) from error
    if results is None or any(not results["samples"].get(name) for name in benchmark.tasks):
        raise StageFailed(f"benchmark {benchmark.name} gave no samples: it has no documents")
    return dict(results)


def _scores(
    benchmark: LoadedBenchmark, results: "Mapping[str, Any]", errors: "Mapping[str, Mapping[Measure, Estimate]]"
) -> list[dict[str, Any]]:
    """Return the scores of every task, and of every group that aggregates its tasks."""
    aggregated = {name: _measures(results["results"].get(name, {})) for name in benchmark.groups}
    whole = bool(aggregated.get(benchmark.name))
    scores: list[dict[str, Any]] = []
    for name, task in benchmark.tasks.items():
        metrics = results["results"][name]
        samples = results["samples"][name]
        main = None if whole else primary_measure(name, _measures(metrics))
        for measure in _measures(metrics):
            estimate = errors[name].get(measure)
            averaged = task.aggregation().get(measure.metric, mean) is mean
            scores.append(
                {
                    "benchmark": name,
                    "filter": measure.filter,
                    "metric": measure.metric,
                    "value": float(metrics[f"{measure.metric},{measure.filter}"]),
                    "standard_error": estimate.standard_error if estimate and averaged else None,
                    "documents": estimate.documents if estimate else int(metrics["sample_len"]),
                    "higher_is_better": bool(results["higher_is_better"].get(name, {}).get(measure.metric, True)),
                    "chance": _chance(task, measure, samples),
                    "primary": measure == main,
                }
            )
    for name, measures in aggregated.items():
        main = primary_measure(name, measures) if name == benchmark.name else None
        scores.extend(
            _group_score(benchmark.groups[name], measure, results, scores, measure == main) for measure in measures
        )
    return scores


def _group_score(
    group: "Group", measure: Measure, results: "Mapping[str, Any]", scores: "Iterable[Mapping[str, Any]]", primary: bool
) -> dict[str, Any]:
    """Return a group's score with the standard error that fits how the group weights its tasks."""
    leaves = {task.task_name for task in group.get_all_tasks()}
    parts = [
        score
        for score in scores
        if score["benchmark"] in leaves and Measure(score["metric"], score["filter"]) == measure
    ]
    deviations = [part["standard_error"] for part in parts if part["standard_error"] is not None]
    sizes = [part["documents"] for part in parts]
    weighted = next(rule.weight_by_size for rule in group.aggregate_metric_list if rule.metric == measure.metric)
    error = None
    if len(deviations) == len(parts):
        error = pooled_sample_stderr(deviations, sizes) if weighted else unweighted_mean_stderr(deviations)
    chances = [part["chance"] for part in parts if part["chance"] is not None]
    weights = sizes if weighted else [1] * len(parts)
    return {
        "benchmark": group.name,
        "filter": measure.filter,
        "metric": measure.metric,
        "value": float(results["results"][group.name][f"{measure.metric},{measure.filter}"]),
        "standard_error": None if error is None else float(error),
        "documents": sum(sizes),
        "higher_is_better": all(part["higher_is_better"] for part in parts),
        "chance": float(np.average(chances, weights=weights)) if len(chances) == len(parts) else None,
        "primary": primary,
    }


def _measures(metrics: "Mapping[str, Any]") -> list[Measure]:
    """Return the measures that have a number among a task's results, whose fields are `metric,filter`."""
    measures = []
    for field, value in metrics.items():
        metric, comma, filter_name = field.rpartition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float | np.number):
            measures.append(Measure(metric, filter_name))
    return measures


def _chance(task: "Task", measure: Measure, samples: "Iterable[Mapping[str, Any]]") -> float | None:
    """Return the expected score of guessing, averaged over the documents that were asked."""
    kind = kind_of(task.OUTPUT_TYPE)
    if kind == "generation":
        return chance_of_generation(measure.metric)
    if kind != "choice":
        return None
    documents = [sample for sample in samples if sample["filter"] == measure.filter]
    if (labels := _TRUE_MASS.get(task.task_name)) is not None:
        return float(np.mean([np.mean(labels(sample["doc"])) for sample in documents]))
    if callable(task.get_config("process_results")):
        return None
    shares = [chance_of_choice(measure.metric, *_choices(task, sample)) for sample in documents]
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known else None


def _choices(task: "Task", sample: "Mapping[str, Any]") -> tuple[int, int]:
    """Return how many choices of a document count as right, and how many it has."""
    rights = len(set(sample["target"])) if isinstance(sample["target"], list) else 1
    return rights, len(task.doc_to_choice(sample["doc"]))


def _versions(benchmark: LoadedBenchmark, results: "Mapping[str, Any]") -> str:
    """Return the version of the benchmark: its own, or those that its tasks have."""
    if benchmark.name in results["versions"]:
        return str(results["versions"][benchmark.name])
    return ", ".join(sorted({str(results["versions"][name]) for name in benchmark.tasks}))


def _examples(benchmark: LoadedBenchmark) -> int | dict[str, int]:
    """Return the number of worked examples that were used; one a task where they differ."""
    used = {name: int(task.get_config("num_fewshot") or 0) for name, task in benchmark.tasks.items()}
    return next(iter(used.values())) if len(set(used.values())) == 1 else used


def _tallied(tally: Tally) -> dict[str, Any]:
    return {
        "requests": tally.requests,
        "truncated_requests": tally.truncated,
        "shortened_answers": {str(asked): granted for asked, granted in sorted(tally.shortened.items())},
    }


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
