"""From the harness's logged samples to rows and scores. No harness is needed here."""

import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kilter.canonical import digest
from kilter.data.schemas import SAMPLES
from kilter.errors import StageFailed
from kilter.evaluation.benchmarks import Measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RESPONSE_CHARACTERS = 4000


@dataclass(frozen=True)
class Estimate:
    """The standard error of a mean over documents, and how many there were."""

    standard_error: float | None
    documents: int


def sample_rows(task: str, samples: "Iterable[Mapping[str, Any]]") -> list[dict[str, Any]]:
    """Return one row per (document, filter, metric) of a task's logged samples, in the harness's order.

    Metrics that have no number for a single document (F1 over the whole set, for example) have no rows.

    Raises:
        StageFailed: a log-likelihood is NaN or infinite, or a metric is NaN.
    """
    rows: list[dict[str, Any]] = []
    for sample in samples:
        place = f"task {task}, document {sample['doc_id']}"
        response = _response(sample["resps"], place)
        for metric in sample["metrics"]:
            value = _number(sample[metric])
            if value is None:
                continue
            if math.isnan(value):
                raise StageFailed(
                    f"{place}: the metric {metric} is NaN, although the model's answer is finite: {response[:200]}"
                )
            rows.append(
                {
                    "task": task,
                    "filter": sample["filter"],
                    "doc_id": int(sample["doc_id"]),
                    "doc_hash": sample["doc_hash"],
                    "prompt_hash": sample["prompt_hash"],
                    "target_hash": sample["target_hash"],
                    "metric": metric,
                    "value": value,
                    "response": response,
                }
            )
    return rows


def samples_table(rows: "Sequence[Mapping[str, Any]]") -> pa.Table:
    """Return rows as a table with the schema that stages exchange, ordered by task, filter, metric and document."""
    ordered = sorted(rows, key=lambda row: (row["task"], row["filter"], row["metric"], row["doc_id"]))
    return pa.Table.from_pylist(ordered, schema=SAMPLES)


def prompt_digest(samples: "Mapping[str, Iterable[Mapping[str, Any]]]") -> str:
    """Return one digest over the prompts of every document of every task: two runs asked the same if it is equal."""
    prompts = {
        (task, int(sample["doc_id"])): sample["prompt_hash"] for task, logged in samples.items() for sample in logged
    }
    return digest([[task, document, prompt] for (task, document), prompt in sorted(prompts.items())])


def estimates(rows: "Iterable[Mapping[str, Any]]") -> dict[Measure, Estimate]:
    """Return, for each measure of one task, the standard error of its mean.

    It is the sample standard deviation (n − 1) over √n, as in the harness, and None for a single document.
    """
    values: dict[Measure, list[float]] = defaultdict(list)
    for row in rows:
        values[Measure(row["metric"], row["filter"])].append(row["value"])
    return {
        measure: Estimate(
            statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else None, len(numbers)
        )
        for measure, numbers in values.items()
    }


def _response(responses: "Sequence[Sequence[Any]]", place: str) -> str:
    """Return what the model said: generated text, or JSON of the log-likelihood of each choice."""
    answers = [_answer(repeats, place) for repeats in responses]
    if len(answers) == 1 and isinstance(answers[0], str):
        return answers[0][:RESPONSE_CHARACTERS]
    return json.dumps(answers, ensure_ascii=False)[:RESPONSE_CHARACTERS]


def _answer(repeats: "Sequence[Any]", place: str) -> Any:
    """Return one request's answer; repeated samplings stay a list."""
    values = [_single_answer(answer, place) for answer in repeats]
    return values[0] if len(values) == 1 else values


def _single_answer(answer: Any, place: str) -> str | float:
    if isinstance(answer, str):
        return answer
    likelihood = float(answer[0] if isinstance(answer, tuple | list) else answer)
    if not math.isfinite(likelihood):
        raise StageFailed(f"{place}: a log-likelihood is {likelihood}; the model's weights or its precision are broken")
    return round(likelihood, 6)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
