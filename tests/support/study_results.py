"""A synthetic study: results as `kilter.analysis` reads them, seeded, with effects that the caller chooses."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from kilter.analysis.results import (
    DataAccount,
    Generation,
    GoldenRow,
    ModelResult,
    Score,
    Stage,
    StudyResults,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HOSTILE = '<script>alert("kilter")</script> & {{ 7 * 7 }} =HYPERLINK("x")'


@dataclass(frozen=True)
class SyntheticBenchmark:
    """A benchmark whose documents have a difficulty, with one primary metric and perhaps others."""

    name: str
    metric: str = "acc"
    filter: str = "none"
    chance: float | None = None
    binary: bool = True
    others: tuple[str, ...] = ()
    subtasks: tuple[str, ...] = ()
    """A group task: its samples carry these names."""
    duplicates: int = 0
    """How many documents repeat the one before them."""


BENCHMARKS = (
    SyntheticBenchmark("kilter_arithmetic", metric="exact_match", filter="flexible-extract"),
    SyntheticBenchmark("kilter_ordering", chance=0.25, others=("acc_norm",), duplicates=6),
    SyntheticBenchmark("kilter_copying", metric="exact_match", filter="strict-match"),
    SyntheticBenchmark("kilter_choosing", chance=0.5),
    SyntheticBenchmark("kilter_truth", binary=False, chance=0.25),
)

# Gains on the logit scale: (method, benchmark) -> gain at the largest size. What is not here has none.
EFFECTS: "Mapping[tuple[str, str], float]" = {
    ("dpo", "kilter_arithmetic"): 1.2,
    ("ipo", "kilter_arithmetic"): 0.8,
    ("kto", "kilter_ordering"): 0.7,
    ("cpo", "kilter_copying"): -0.9,
    ("dpo", "kilter_truth"): 0.5,
}
# Ability of the parents on the logit scale.
PARENTS: "Mapping[str, float]" = {"base": -1.0, "sft": 0.0, "instruct": 0.3}


@dataclass(frozen=True)
class Synthetic:
    """What the synthetic study is made of; `study_results` fills in the rest."""

    name: str = "synthetic"
    scenarios: tuple[str, ...] = ("sft", "base", "instruct")
    methods: tuple[str, ...] = ("dpo", "ipo", "kto", "cpo")
    sizes: tuple[int | str, ...] = (250, 1000, "all")
    seeds: tuple[int, ...] = (0,)
    variants: "Mapping[str, tuple[str, ...]]" = field(default_factory=dict)
    """Cells of a method's grid, such as {"ipo": ("beta=0.01", "beta=0.1")}."""
    benchmarks: tuple[SyntheticBenchmark, ...] = BENCHMARKS
    documents: int = 300
    effects: "Mapping[tuple[str, str], float]" = field(default_factory=lambda: dict(EFFECTS))
    parents: "Mapping[str, float]" = field(default_factory=lambda: dict(PARENTS))
    steps: int = 120
    alpha: float = 0.05
    correction: str = "holm"
    total_pairs: int = 4000
    noise: float = 0.5
    """Spread, on the logit scale, of what sets two trained models apart on one document."""
    seed: int = 0


def study_results(**changes: object) -> StudyResults:
    """Make the results of a synthetic study; `changes` are fields of `Synthetic`."""
    synthetic = replace(Synthetic(), **changes)
    maker = _Maker(synthetic)
    models = maker.models()
    stages = maker.stages(models)
    return StudyResults(
        name=synthetic.name,
        alpha=synthetic.alpha,
        correction=synthetic.correction,
        scenarios=synthetic.scenarios,
        methods=synthetic.methods,
        sizes=synthetic.sizes,
        seeds=synthetic.seeds,
        models=models,
        stages=stages,
        golden_rows=_golden_rows(),
        data=(
            DataAccount(
                name="preference",
                rows_in=5000,
                dropped={"exact duplicate": 412, "equal answers": 31, "contradictory": 7},
                held_out=91,
                rows_out=4459,
                notes=("84 prompts also occur in the SFT data",),
            ),
            DataAccount(name="sft", rows_in=8000, dropped={"exact duplicate": 12}, held_out=0, rows_out=7988),
        ),
        study_yaml=f"name: {synthetic.name}\nscenarios: [{', '.join(synthetic.scenarios)}]\n# {HOSTILE}\n",
        store="s3://example-bucket/studies",
        kilter_version="0.1.0",
        warnings=("models.base.source: the revision `main` is not pinned; run `kilter lock`",),
    )


def samples_table(
    task: str,
    values: "Sequence[float]",
    *,
    metric: str = "acc",
    filter: str = "none",
    doc_hashes: "Sequence[str] | None" = None,
    prompt_hashes: "Sequence[str] | None" = None,
    responses: "Sequence[str] | None" = None,
) -> pa.Table:
    """Per-sample values of one task, as a stage `evaluate` writes them."""
    count = len(values)
    hashes = list(doc_hashes) if doc_hashes is not None else [digest_of(task, "doc", row) for row in range(count)]
    prompts = (
        list(prompt_hashes) if prompt_hashes is not None else [digest_of("prompt", inner, task) for inner in hashes]
    )
    return pa.table(
        {
            "task": pa.array([task] * count, pa.string()),
            "filter": pa.array([filter] * count, pa.string()),
            "doc_id": pa.array(range(count), pa.int64()),
            "doc_hash": pa.array(hashes, pa.string()),
            "prompt_hash": pa.array(prompts, pa.string()),
            "target_hash": pa.array([digest_of("target", inner) for inner in hashes], pa.string()),
            "metric": pa.array([metric] * count, pa.string()),
            "value": pa.array([float(value) for value in values], pa.float64()),
            "response": pa.array(list(responses) if responses is not None else [""] * count, pa.string()),
        }
    )


def digest_of(*parts: object) -> str:
    """A digest for synthetic documents, prompts and keys."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


class _Maker:
    def __init__(self, synthetic: Synthetic) -> None:
        self.synthetic = synthetic
        self.generator = np.random.default_rng(synthetic.seed)
        self.documents = {
            benchmark.name: self._documents(index, benchmark) for index, benchmark in enumerate(synthetic.benchmarks)
        }

    def models(self) -> tuple[ModelResult, ...]:
        parents = self._parents()
        aligned = [
            self._aligned(parents[scenario], scenario, method, variant, position, seed)
            for scenario in self.synthetic.scenarios
            for method in self.synthetic.methods
            for variant in self.synthetic.variants.get(method, ("",))
            for position in range(len(self.synthetic.sizes))
            for seed in self.synthetic.seeds
        ]
        return (*{parent.key: parent for parent in parents.values()}.values(), *aligned)

    def stages(self, models: tuple[ModelResult, ...]) -> tuple[Stage, ...]:
        stages = []
        for number, model in enumerate(models):
            stage, key = model.key.split("/")
            inputs = {"model": model.parent} if model.parent else {}
            stages.append(
                Stage(
                    stage=stage,
                    key=key,
                    label=model.name,
                    seconds=40.0 + 3 * number,
                    peak_memory_bytes=900_000_000 + number * 1_000_000,
                    tokens=200_000 + number,
                    manifest_uri=f"s3://example-bucket/studies/{stage}/{key}/manifest.json",
                    inputs=inputs,
                    config={"learning_rate": 5e-7, "seed": model.seed},
                    versions={"kilter": "0.1.0", "torch": "2.13.0", "trl": "1.16.0"},
                )
            )
            for benchmark in self.synthetic.benchmarks:
                evaluation = digest_of("evaluate", model.key, benchmark.name)
                stages.append(
                    Stage(
                        stage="evaluate",
                        key=evaluation,
                        label=f"{benchmark.name} of {model.name}",
                        seconds=2.5,
                        peak_memory_bytes=700_000_000,
                        tokens=30_000,
                        manifest_uri=f"s3://example-bucket/studies/evaluate/{evaluation}/manifest.json",
                        inputs={"model": model.key},
                        config={"task": benchmark.name},
                        versions={"kilter": "0.1.0", "lm_eval": "0.4.13"},
                    )
                )
        missing = digest_of("align", "missing")
        stages.append(
            Stage(
                stage="align",
                key=missing,
                label="a stage that failed",
                seconds=0.0,
                peak_memory_bytes=None,
                tokens=None,
                manifest_uri=f"s3://example-bucket/studies/align/{missing}/manifest.json",
                inputs={},
                state="missing",
                error="the loss became NaN at step 14; lower the learning rate",
            )
        )
        return tuple(stages)

    def _parents(self) -> dict[str, ModelResult]:
        """The model that alignment starts from in each scenario, and the base model of SFT."""
        parents: dict[str, ModelResult] = {}
        wanted = set(self.synthetic.scenarios)
        if wanted & {"sft", "base"}:
            parents["base"] = self._model("ingest", "base", "base", None, ability=self.synthetic.parents["base"])
        if "sft" in wanted:
            parents["sft"] = self._model(
                "sft",
                "sft",
                "sft",
                "sft",
                ability=self.synthetic.parents["sft"],
                parent=parents["base"].key,
                curve=self._curve(self.synthetic.steps, preferences=False),
            )
        if "instruct" in wanted:
            parents["instruct"] = self._model(
                "ingest", "instruct", "instruct", None, ability=self.synthetic.parents["instruct"]
            )
        return parents

    def _aligned(
        self, parent: ModelResult, scenario: str, method: str, variant: str, position: int, seed: int
    ) -> ModelResult:
        synthetic = self.synthetic
        size = synthetic.sizes[position]
        share = (position + 1) / len(synthetic.sizes)
        gains = {
            benchmark.name: share * synthetic.effects.get((method, benchmark.name), 0.0)
            for benchmark in synthetic.benchmarks
        }
        name = " ".join(str(part) for part in (scenario, method, variant, size) if part != "")
        name = f"{name} seed {seed}" if len(synthetic.seeds) > 1 else name
        pairs = synthetic.total_pairs if size == "all" else min(int(size), synthetic.total_pairs)
        steps = max(1, round(synthetic.steps * pairs / synthetic.total_pairs))
        strength = abs(sum(gains.values())) + 0.1 * len(variant)
        return replace(
            self._model(
                "align",
                name,
                "aligned",
                scenario,
                ability=synthetic.parents[scenario],
                gains=gains,
                parent=parent.key,
                curve=self._curve(steps, preferences=True),
            ),
            method=method,
            variant=variant,
            size=size,
            pairs=pairs,
            seed=seed,
            training={
                "steps": steps,
                "epochs": 1.0,
                "tokens": pairs * 180,
                "loss": 0.61,
                "trainer": "PairTrainer",
                "loss_type": {"dpo": "sigmoid"}.get(method, method),
                "averaging": method == "ipo",
                "hyperparameters": {"beta": 0.1},
                "versions": {"torch": "2.13.0", "trl": "1.16.0"},
            },
            held_out={
                "loss": 0.66 - 0.05 * share,
                "accuracy": round(min(0.95, 0.55 + 0.1 * share + 0.05 * strength), 4),
                "margin": 0.2 * share + 0.1 * strength,
                "kl": 0.8 * share,
                "pairs": 91.0,
            },
        )

    def _model(
        self,
        stage: str,
        name: str,
        role: str,
        scenario: str | None,
        *,
        ability: float,
        gains: "Mapping[str, float] | None" = None,
        parent: str | None = None,
        curve: pa.Table | None = None,
    ) -> ModelResult:
        scores, samples = self._scored(ability, gains or {})
        return ModelResult(
            key=f"{stage}/{digest_of(self.synthetic.name, stage, name)}",
            name=name,
            role=role,
            scenario=scenario,
            method=None,
            variant="",
            size=None,
            pairs=None,
            seed=None,
            parent=parent,
            scores=scores,
            samples=samples,
            curve=curve,
            training={"steps": self.synthetic.steps, "epochs": 1.0, "tokens": 900_000, "loss": 1.4}
            if role == "sft"
            else {},
            held_out={},
            generations=(
                Generation("What is 17 + 25?", f"{name} says 42."),
                Generation("Write a web page & greet me.", HOSTILE),
            ),
        )

    def _documents(self, index: int, benchmark: SyntheticBenchmark) -> dict[str, np.ndarray | list[str]]:
        count = self.synthetic.documents
        tasks = benchmark.subtasks or (benchmark.name,)
        difficulty = np.random.default_rng([self.synthetic.seed, index]).normal(0.0, 1.5, count)
        task_of = [tasks[row * len(tasks) // count] for row in range(count)]
        hashes = [digest_of(benchmark.name, row) for row in range(count)]
        for duplicate in range(min(benchmark.duplicates, count // 2)):
            hashes[2 * duplicate + 1] = hashes[2 * duplicate]
            difficulty[2 * duplicate + 1] = difficulty[2 * duplicate]
        firsts = {task: task_of.index(task) for task in tasks}
        return {
            "difficulty": difficulty,
            "task": task_of,
            "doc_id": [row - firsts[task] for row, task in enumerate(task_of)],
            "doc_hash": hashes,
            "prompt_hash": [digest_of("prompt", inner) for inner in hashes],
            "target_hash": [digest_of("target", inner) for inner in hashes],
        }

    def _scored(self, ability: float, gains: "Mapping[str, float]") -> tuple[tuple[Score, ...], pa.Table]:
        scores: list[Score] = []
        tables: list[pa.Table] = []
        for benchmark in self.synthetic.benchmarks:
            documents = self.documents[benchmark.name]
            logits = ability + gains.get(benchmark.name, 0.0) - np.asarray(documents["difficulty"])
            logits = logits + self.generator.normal(0.0, self.synthetic.noise, len(logits))
            values = 1 / (1 + np.exp(-logits))
            if benchmark.chance is not None:
                values = benchmark.chance + (1 - benchmark.chance) * values
            if benchmark.binary:
                values = (values > 0.5 + 0.3 * (benchmark.chance or 0.0)).astype(float)
            for metric in (benchmark.metric, *benchmark.others):
                shown = values if metric == benchmark.metric else np.roll(values, 1)
                tables.append(self._benchmark_table(benchmark, documents, metric, shown))
                scores.append(
                    Score(
                        benchmark=benchmark.name,
                        filter=benchmark.filter,
                        metric=metric,
                        value=float(shown.mean()),
                        standard_error=float(shown.std(ddof=1) / np.sqrt(len(shown))),
                        documents=len(shown),
                        higher_is_better=True,
                        chance=benchmark.chance,
                        primary=metric == benchmark.metric,
                    )
                )
        return tuple(scores), pa.concat_tables(tables)

    def _benchmark_table(
        self,
        benchmark: SyntheticBenchmark,
        documents: "Mapping[str, np.ndarray | list[str]]",
        metric: str,
        values: np.ndarray,
    ) -> pa.Table:
        count = len(values)
        return pa.table(
            {
                "task": pa.array(documents["task"], pa.string()),
                "filter": pa.array([benchmark.filter] * count, pa.string()),
                "doc_id": pa.array(documents["doc_id"], pa.int64()),
                "doc_hash": pa.array(documents["doc_hash"], pa.string()),
                "prompt_hash": pa.array(documents["prompt_hash"], pa.string()),
                "target_hash": pa.array(documents["target_hash"], pa.string()),
                "metric": pa.array([metric] * count, pa.string()),
                "value": pa.array(values, pa.float64()),
                "response": pa.array(["42"] * count, pa.string()),
            }
        )

    def _curve(self, steps: int, *, preferences: bool) -> pa.Table:
        step = np.arange(1, steps + 1)
        progress = step / steps
        columns = {
            "step": step,
            "loss": 0.69 * np.exp(-0.4 * progress) + self.generator.normal(0, 0.01, steps),
            "learning_rate": 5e-7 * np.minimum(progress / 0.1, 0.5 * (1 + np.cos(np.pi * progress))),
            "grad_norm": 1 + np.abs(self.generator.normal(0, 0.2, steps)),
            "tokens": step * 4096,
            "seconds": step * 0.31,
        }
        if preferences:
            columns |= {
                "rewards_chosen": 0.1 * progress,
                "rewards_rejected": -0.2 * progress,
                "margin": 0.3 * progress,
                "accuracy": np.clip(0.5 + 0.2 * progress + self.generator.normal(0, 0.05, steps), 0, 1),
            }
        return pa.table(columns)


def _golden_rows() -> tuple[GoldenRow, ...]:
    prompt = ((1, "<s>"), (512, "<|user|>"), (40, "Add"), (41, " 2"), (42, " and"), (43, " 3"), (513, "<|assistant|>"))
    return (
        GoldenRow(
            source="preference (base)",
            parts=(
                ("prompt", prompt),
                ("chosen", ((50, "5"), (2, "</s>"))),
                ("rejected", ((51, "6"), (2, "</s>"))),
            ),
        ),
        GoldenRow(source="sft (base)", parts=(("prompt", prompt), ("completion", ((50, "5"), (2, "</s>"))))),
    )
