"""Two models' values on the same documents, side by side: the ground of every paired test."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kilter.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from kilter.analysis.results import ModelResult

_COLUMNS = ("task", "filter", "doc_id", "doc_hash", "prompt_hash", "metric", "value")


class NotComparable(StageFailed):
    """Two models were not evaluated alike, so that their scores cannot be set against each other."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """One metric of one benchmark of one model: a row a document, sorted by task and document number."""

    model: str
    """The model's name, for messages."""
    benchmark: str
    task: "NDArray[np.object_]"
    doc_id: "NDArray[np.int64]"
    doc_hash: "NDArray[np.object_]"
    prompt_hash: "NDArray[np.object_]"
    value: "NDArray[np.float64]"

    def __len__(self) -> int:
        return len(self.value)

    @cached_property
    def cluster(self) -> "NDArray[np.int64]":
        """The number of each document's cluster, 0 … clusters-1: exact duplicates within a task share one."""
        numbers: dict[tuple[str, str], int] = {}
        pairs = zip(self.task, self.doc_hash, strict=True)
        return np.fromiter((numbers.setdefault(pair, len(numbers)) for pair in pairs), np.int64, len(self))


@dataclass(frozen=True, eq=False)
class Paired:
    """A metric of two models on the same documents."""

    candidate: "NDArray[np.float64]"
    """(documents,) the candidate's values."""
    baseline: "NDArray[np.float64]"
    """(documents,) the baseline's values."""
    cluster: "NDArray[np.int64]"
    """(documents,) cluster numbers 0 … clusters-1."""

    @property
    def documents(self) -> int:
        """How many documents both models answered."""
        return len(self.cluster)

    @cached_property
    def clusters(self) -> int:
        """How many clusters the documents form."""
        return int(self.cluster.max()) + 1 if len(self.cluster) else 0

    @cached_property
    def difference(self) -> float:
        """Mean of candidate - baseline over documents."""
        return float(np.mean(self.candidate - self.baseline))

    @cached_property
    def binary(self) -> bool:
        """Whether every value is 0 or 1."""
        values = np.concatenate([self.candidate, self.baseline])
        return bool(np.all((values == 0) | (values == 1)))

    @cached_property
    def cluster_sums(self) -> "NDArray[np.float64]":
        """(clusters,) candidate - baseline summed over each cluster's documents."""
        return sum_by_cluster(self.candidate - self.baseline, self.cluster)

    @cached_property
    def cluster_sizes(self) -> "NDArray[np.int64]":
        """(clusters,) documents in each cluster."""
        return np.bincount(self.cluster, minlength=self.clusters)

    @property
    def only_candidate(self) -> int:
        """Documents that only the candidate got right (0/1 values)."""
        return int(np.sum(self.candidate > self.baseline))

    @property
    def only_baseline(self) -> int:
        """Documents that only the baseline got right (0/1 values)."""
        return int(np.sum(self.baseline > self.candidate))


def sum_by_cluster(values: "NDArray[np.float64]", cluster: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """Sum (documents,) values over each cluster: (clusters,)."""
    sums: NDArray[np.float64] = np.bincount(cluster, weights=values).astype(np.float64, copy=False)
    return sums


def tasks_of(benchmark: str, tasks: "Iterable[str]", benchmarks: "Iterable[str]") -> tuple[str, ...]:
    """The tasks that make up a benchmark: the task of that name, or the subtasks `<benchmark>_…` of a group.

    Args:
        benchmark: a task or a group.
        tasks: the tasks that samples are named by.
        benchmarks: every benchmark of the study; a subtask belongs to the longest name that fits, so that `mmlu` does
            not take what is `mmlu_pro`'s.
    """

    def owner(task: str) -> str:
        fitting = [name for name in {benchmark, *benchmarks} if task == name or task.startswith(f"{name}_")]
        return max(fitting, key=len, default="")

    return tuple(task for task in tasks if owner(task) == benchmark)


def measure(model: "ModelResult", benchmark: str, filter_name: str, metric: str) -> Measurements:
    """Read one metric of one benchmark out of a model's samples.

    Raises:
        NotComparable: the model has no such samples, a document occurs twice, or a value is missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    what = f"{benchmark} ({metric}, filter {filter_name})"
    if model.samples is None:
        raise NotComparable(f"{model.name} has no samples: it could not be made, or was not evaluated")
    table = model.samples.select(_COLUMNS)
    benchmarks = [score.benchmark for score in model.scores if score.primary]
    wanted = tasks_of(benchmark, pc.unique(table["task"]).to_pylist(), benchmarks)
    chosen = pc.and_(
        pc.is_in(table["task"], value_set=pa.array(wanted, pa.string())),
        pc.and_(pc.equal(table["filter"], filter_name), pc.equal(table["metric"], metric)),
    )
    rows = table.filter(chosen).sort_by([("task", "ascending"), ("doc_id", "ascending")])
    if rows.num_rows == 0:
        raise NotComparable(f"{model.name} has no samples of {what}: evaluate it again")

    task, doc_id = _objects(rows["task"]), rows["doc_id"].to_numpy()
    repeated = int(np.sum((task[1:] == task[:-1]) & (doc_id[1:] == doc_id[:-1])))
    if repeated:
        raise NotComparable(f"{repeated} documents of {what} occur twice in the samples of {model.name}")
    value = rows["value"].to_numpy().astype(np.float64)
    absent = int(np.sum(~np.isfinite(value)))
    if absent:
        raise NotComparable(f"{absent} of {len(value)} documents of {what} have no value for {model.name}")
    return Measurements(
        model=model.name,
        benchmark=benchmark,
        task=task,
        doc_id=doc_id,
        doc_hash=_objects(rows["doc_hash"]),
        prompt_hash=_objects(rows["prompt_hash"]),
        value=value,
    )


def average(measurements: "Sequence[Measurements]") -> Measurements:
    """Take the mean over models (the seeds of one cell) on each document.

    Raises:
        NotComparable: the models were not evaluated on the same documents with the same prompts.
    """
    first, *others = measurements
    if not others:
        return first
    for other in others:
        check_alike(other, first)
    value = np.mean([each.value for each in measurements], axis=0)
    return Measurements(
        model=f"the mean of {len(measurements)} seeds of {first.model}",
        benchmark=first.benchmark,
        task=first.task,
        doc_id=first.doc_id,
        doc_hash=first.doc_hash,
        prompt_hash=first.prompt_hash,
        value=value,
    )


def pair(candidate: Measurements, baseline: Measurements) -> Paired:
    """Join two models' values on (task, document).

    Raises:
        NotComparable: documents are missing on one side, or documents or prompts differ.
    """
    check_alike(candidate, baseline)
    return Paired(candidate=candidate.value, baseline=baseline.value, cluster=baseline.cluster)


def check_alike(candidate: Measurements, baseline: Measurements) -> None:
    """Make sure that two models answered the same documents with the same prompts.

    Raises:
        NotComparable: they did not; the message says how many documents differ.
    """
    names = f"{candidate.model} and {baseline.model} cannot be compared on {candidate.benchmark}"
    same_rows = len(candidate) == len(baseline) and (
        np.array_equal(candidate.doc_id, baseline.doc_id) and np.array_equal(candidate.task, baseline.task)
    )
    if not same_rows:
        ours = set(zip(candidate.task, candidate.doc_id, strict=True))
        theirs = set(zip(baseline.task, baseline.doc_id, strict=True))
        raise NotComparable(
            f"{names}: {len(theirs - ours)} documents are missing for {candidate.model} and "
            f"{len(ours - theirs)} for {baseline.model}; evaluate both with the same limit"
        )
    for what, ours_hash, theirs_hash in (
        ("data", candidate.doc_hash, baseline.doc_hash),
        ("prompts", candidate.prompt_hash, baseline.prompt_hash),
    ):
        differing = int(np.sum(ours_hash != theirs_hash))
        if differing:
            raise NotComparable(
                f"{names}: they were evaluated with different {what} in {differing} of {len(candidate)} documents; "
                "use the same task version, shots and chat template for both"
            )


def _objects(column: "pa.ChunkedArray") -> "NDArray[np.object_]":
    """Turn an Arrow string column into an array of interned Python strings, which compare fast."""
    encoded = column.combine_chunks().dictionary_encode()
    words = np.array(encoded.dictionary.to_pylist(), dtype=object)
    taken: NDArray[np.object_] = words[encoded.indices.to_numpy()]
    return taken
