"""Estimates every stage of a plan on one kind of machine: memory, GPUs, time, bytes in the store, and their sums."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kilter.plan.configs import (
    AlignConfig,
    EvaluateConfig,
    IngestConfig,
    PrepareConfig,
    PretrainConfig,
    ReferenceConfig,
    ReportConfig,
    SftConfig,
    SubsampleConfig,
    TrainConfig,
)
from kilter.plan.estimates import storage
from kilter.plan.estimates.amounts import Amount, Total, product, total
from kilter.plan.estimates.cost import cost_of
from kilter.plan.estimates.fitting import Allowed, Fit, Scoring, Training, candidates, recipe_of, remedies, smallest_fit
from kilter.plan.estimates.known import Lengths, Rows
from kilter.plan.estimates.memory import BYTES, Batch, Memory, Parallelism, Recipe
from kilter.plan.estimates.shapes import ModelShape, shape_of_architecture

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping

    from kilter.plan.estimates.cost import Price
    from kilter.plan.estimates.hardware import Machine
    from kilter.plan.estimates.known import Known
    from kilter.plan.graph import Node, Plan, Reference
    from kilter.study.facts import BenchmarkFacts

_FULL_TRAINING = 3
"""Passes' worth of arithmetic: one forward, two backward (for inputs and for weights)."""
_ADAPTER_TRAINING = 2
_REFERENCE_TOKENS = 65536
"""Padded tokens of a batch of reference scoring on a GPU."""
_ANSWERED_AT_ONCE = 64


@dataclass(frozen=True)
class StageEstimate:
    """What one stage is expected to take. None is not known."""

    stage: str
    label: str
    computes: bool
    """Whether it runs on the machine that is asked about; other stages run wherever there is a processor."""
    on_gpu: bool
    """Whether its time counts as GPU-hours."""
    parallelism: Parallelism | None
    memory: Memory | None
    memory_at_most: bool
    """Whether the longest sequence is a bound rather than counted."""
    seconds: Amount | None
    store_bytes: Amount | None
    price: "Price | None" = None

    @property
    def gpu_hours(self) -> Amount | None:
        """GPUs times hours; zero for stages that need none."""
        if not self.on_gpu:
            return Amount(0.0)
        if self.parallelism is None or self.seconds is None:
            return None
        return self.seconds.times(self.parallelism.gpus / 3600)

    @property
    def cost(self) -> Amount | None:
        """In the price's currency; None where there is no price."""
        return cost_of(self.gpu_hours, self.price)


@dataclass(frozen=True)
class Misfit:
    """A stage that fits no allowed resource, with what would fit."""

    stage: str
    label: str
    memory: Memory | None
    """What the most sparing parallelism that is allowed would need on each GPU; None where none is allowed."""
    remedies: tuple[str, ...]


@dataclass(frozen=True)
class Sums:
    """Of several stages."""

    stages: int
    memory: float | None
    """Bytes on each GPU of the stage that needs most; None where no stage is known."""
    memory_at_most: bool
    gpus: int | None
    """Of the stage that needs most."""
    seconds: Total
    gpu_hours: Total
    store_bytes: Total
    cost: Total


@dataclass(frozen=True)
class PlanEstimate:
    """Estimates of every stage that is still to run."""

    machine: "Machine"
    stages: "Mapping[Reference, StageEstimate]"
    misfits: "Mapping[Reference, Misfit]"
    longest_chain_seconds: Total
    """The least wall time, however many machines there are: the longest chain of stages that wait for each other."""

    def sums(self, stage: str | None = None) -> Sums:
        """Add up the stages of a kind, or all."""
        chosen = [each for each in self.stages.values() if stage in (None, each.stage)]
        known = [each for each in chosen if each.memory is not None]
        largest = max(known, key=lambda each: each.memory.total if each.memory else 0.0, default=None)
        return Sums(
            stages=len(chosen),
            memory=largest.memory.total if largest and largest.memory else None,
            memory_at_most=bool(largest and largest.memory_at_most),
            gpus=max((each.parallelism.gpus for each in chosen if each.parallelism), default=None),
            seconds=total(each.seconds for each in chosen),
            gpu_hours=total(each.gpu_hours for each in chosen),
            store_bytes=total(each.store_bytes for each in chosen),
            cost=total(each.cost for each in chosen),
        )


def estimate_plan(
    plan: "Plan",
    known: "Known",
    machine: "Machine",
    most: int,
    done: "Collection[Reference]" = frozenset(),
    price: "Price | None" = None,
) -> PlanEstimate:
    """Estimate the stages of a plan that are not done yet.

    Args:
        plan: the plan.
        known: what is known of its models and data.
        machine: what every GPU stage runs on.
        most: GPUs that one stage may have.
        done: results that are in the store; they take nothing.
        price: what a GPU-hour costs, if it is known.
    """
    estimator = _Estimator(plan.nodes, known, machine, most, price)
    stages = {reference: estimator.estimate(reference, node) for reference, node in plan if reference not in done}
    return PlanEstimate(machine, stages, estimator.misfits, _longest_chain(plan.nodes, stages))


def _longest_chain(nodes: "Mapping[Reference, Node]", stages: "Mapping[Reference, StageEstimate]") -> Total:
    ends: dict[Reference, float] = {}
    for reference, node in nodes.items():
        estimate = stages.get(reference)
        took = estimate.seconds.value if estimate and estimate.seconds else 0.0
        ends[reference] = took + max((ends.get(item, 0.0) for item in node.inputs.values()), default=0.0)
    whole = total(estimate.seconds for estimate in stages.values())
    return Total(max(ends.values(), default=0.0), whole.at_most, whole.unknown)


@dataclass(frozen=True)
class _Work:
    """Arithmetic of one stage."""

    operations: Amount
    passes: float
    """Forward passes of a micro-batch, over all devices."""


class _Estimator:
    """Estimates nodes of one plan; its state is what was worked out before and what did not fit."""

    def __init__(
        self,
        nodes: "Mapping[Reference, Node]",
        known: "Known",
        machine: "Machine",
        most: int,
        price: "Price | None",
    ) -> None:
        self.nodes = nodes
        self.known = known
        self.machine = machine
        self.most = most
        self.price = price
        self.misfits: dict[Reference, Misfit] = {}
        self._shapes: dict[Reference, ModelShape | None] = {}
        self._rows: dict[Reference, Rows] = {}
        self._fits: dict[Hashable, Fit | None] = {}
        self._loaded: set[Reference] = set()

    def estimate(self, reference: "Reference", node: "Node") -> StageEstimate:
        config = node.config
        if isinstance(config, AlignConfig):
            return self._align(reference, node, config)
        if isinstance(config, SftConfig):
            return self._sft(reference, node, config)
        if isinstance(config, PretrainConfig):
            return self._pretrain(reference, node, config)
        if isinstance(config, ReferenceConfig):
            return self._reference(reference, node, config)
        if isinstance(config, EvaluateConfig):
            return self._evaluate(reference, node, config)
        return self._on_host(reference, node)

    # What is known of a node's inputs.

    def _shape(self, reference: "Reference") -> ModelShape | None:
        if reference not in self._shapes:
            node = self.nodes.get(reference)
            shape = self.known.shapes.get(reference)
            if shape is None and node is not None:
                if isinstance(node.config, PretrainConfig):
                    shape = shape_of_architecture(node.config.architecture)
                elif "model" in node.inputs:
                    shape = self._shape(node.inputs["model"])
            self._shapes[reference] = shape
        return self._shapes[reference]

    def _rows_of(self, reference: "Reference") -> Rows:
        """Rows of prepared or subsampled data: counted where they are there, else at most what comes in."""
        if reference not in self._rows:
            self._rows[reference] = self._rows_unseen(reference)
        return self._rows[reference]

    def _rows_unseen(self, reference: "Reference") -> Rows:
        if reference in self.known.rows:
            return self.known.rows[reference]
        node = self.nodes.get(reference)
        if node is None:
            return Rows()
        if isinstance(node.config, PrepareConfig):
            return self._rows_of(node.inputs["rows"])
        if not isinstance(node.config, SubsampleConfig):
            return Rows()
        config = node.config
        train = self._source_rows(node, config.split)
        if config.test_split is not None:
            return Rows(train, self._source_rows(node, config.test_split))
        if config.kind == "sft" or not config.holdout:
            return Rows(train, Amount(0.0))
        # The share is of prompts, of which at most 2000 are held out.
        return Rows(train, train and Amount(config.holdout * train.value, at_most=True))

    def _source_rows(self, node: "Node", split: str) -> Amount | None:
        counts = [self.known.source_rows.get(item, {}).get(split) for item in _data(node)]
        found = [count for count in counts if count is not None]
        return Amount(sum(found), at_most=True) if found and len(found) == len(counts) else None

    def _lengths(self, reference: "Reference") -> Lengths | None:
        """Mean lengths of prepared data: counted, else those that facts tell of the data that they are made of."""
        if reference in self.known.lengths:
            return self.known.lengths[reference]
        node = self.nodes.get(reference)
        if node is None or "rows" not in node.inputs or node.inputs["rows"] not in self.nodes:
            return None
        sources = _data(self.nodes[node.inputs["rows"]])
        told = self.known.lengths.get(sources[0]) if len(sources) == 1 else None
        pairs = isinstance(node.config, PrepareConfig) and node.config.kind == "preference"
        needed = {"prompt", "chosen", "rejected"} if pairs else {"conversation"}
        return told if told is not None and needed <= told.mean.keys() else None

    def _longest(self, reference: "Reference") -> tuple[int, bool]:
        """The longest sequence of prepared data, and whether it is only a bound."""
        config = self.nodes[reference].config
        bound = config.max_length if isinstance(config, PrepareConfig) else 0
        lengths = self._lengths(reference)
        if lengths is not None and lengths.longest is not None:
            return min(lengths.longest, bound), False
        return bound, True

    # Stages.

    def _align(self, reference: "Reference", node: "Node", config: AlignConfig) -> StageEstimate:
        data = node.inputs["data"]
        shape = self._shape(node.inputs["model"])
        rows = self._rows_of(data)
        pairs = _limited(rows.train, config.size)
        work = None
        recipe = recipe_of(config)
        longest, bounded = self._longest(data)
        fit = self._fit(reference, node, _training(shape, recipe, 2, config, longest))
        if shape is not None and pairs is not None:
            forward = self._pair_operations(shape, data)
            seen = (
                pairs.times(config.epochs) if config.steps is None else Amount(float(config.steps * config.batch_size))
            )
            training = _training_passes(recipe, fit)
            if any(role.startswith("mismatched/") for role in node.inputs):
                training += 1  # mismatched answers are scored without gradients at every step
            operations = product(forward, seen.times(training))
            whole = total([operations, product(forward, rows.holdout)]).amount
            if whole is not None:
                work = _Work(whole, seen.value / config.micro_batch_size)
        rank = recipe.adapter_rank
        steps = pairs and pairs.times(config.epochs / config.batch_size)
        if config.steps is not None:
            steps = Amount(float(config.steps))
        return self._estimated(
            node,
            shape,
            fit,
            bounded,
            self._train_seconds(config, shape, fit, work),
            storage.model_bytes(shape, steps) if rank is None else storage.adapter_bytes(shape, rank, steps),
        )

    def _sft(self, reference: "Reference", node: "Node", config: SftConfig) -> StageEstimate:
        data = node.inputs["data"]
        shape = self._shape(node.inputs["model"])
        rows = _limited(self._rows_of(data).train, config.size)
        recipe = recipe_of(config)
        longest, bounded = self._longest(data)
        fit = self._fit(reference, node, _training(shape, recipe, 1, config, longest))
        work = None
        if shape is not None and rows is not None:
            lengths = self._lengths(data)
            mean = Amount(lengths.mean["conversation"]) if lengths else Amount(longest, at_most=True)
            seen = rows.times(config.epochs)
            tokens = Amount(seen.value * mean.value, seen.at_most or mean.at_most)
            operations = shape.forward_flops(tokens.value, mean.value) * _training_passes(recipe, fit)
            work = _Work(Amount(operations, tokens.at_most), seen.value / config.micro_batch_size)
        steps = rows and rows.times(config.epochs / config.batch_size)
        return self._estimated(
            node,
            shape,
            fit,
            bounded,
            self._train_seconds(config, shape, fit, work),
            storage.model_bytes(shape, steps),
        )

    def _pretrain(self, reference: "Reference", node: "Node", config: PretrainConfig) -> StageEstimate:
        shape = self._shape(reference)
        if shape is None:
            return self._estimated(node, None, None, True, None, None)
        recipe = Recipe(compute="fp32", packed=True, fused_head=False)
        # Pretraining is of small models and has no launcher: one GPU holds its whole batch.
        training = Training(shape, recipe, 1, config.batch_size, config.batch_size, config.sequence_length)
        fit = self._fit(reference, node, training, most=1)
        tokens = float(config.steps * config.batch_size * config.sequence_length)
        operations = shape.forward_flops(tokens, config.sequence_length) * _training_passes(recipe, fit)
        work = _Work(Amount(operations, at_most=True), config.steps)
        seconds = self._seconds("pretrain", "fp32", shape, fit, work, shape.parameters * shape.stored_bytes)
        return self._estimated(
            node, shape, fit, False, seconds, storage.model_bytes(shape, Amount(float(config.steps)))
        )

    def _reference(self, reference: "Reference", node: "Node", config: ReferenceConfig) -> StageEstimate:
        data = node.inputs["data"]
        shape = self._shape(node.inputs["model"])
        longest, bounded = self._longest(data)
        everything = self._rows_of(data)
        available = everything.train if config.split == "train" else everything.holdout
        rows = _shard(available, config)
        recipe = Recipe(weights="fp32", compute=config.precision)
        sequences = max(1, _REFERENCE_TOKENS // longest) if longest else 1
        fit = self._fit(reference, node, _scoring(shape, recipe, Batch(sequences, longest)))
        work = None
        if shape is not None and rows is not None:
            operations = product(self._pair_operations(shape, data), rows)
            if operations is not None:
                work = _Work(operations, max(1.0, 2 * rows.value / sequences) / _FULL_TRAINING)
        weights = shape.parameters * BYTES["fp32"] if shape else 0
        seconds = self._seconds("reference", config.precision, shape, fit, work, weights)
        return self._estimated(node, shape, fit, bounded, seconds, storage.reference_bytes(rows))

    def _evaluate(self, reference: "Reference", node: "Node", config: EvaluateConfig) -> StageEstimate:
        model = node.inputs["model"]
        shape = self._shape(model)
        facts = self.known.benchmarks.get(config.task) if config.task else None
        longest = self._longest_request(config, facts)
        recipe = Recipe(weights=config.precision, compute=config.precision, fused_head=False)
        fit = self._fit(reference, node, _scoring(shape, recipe, Batch(1, longest)))
        seconds = None
        if shape is not None and fit is not None:
            answered = self._answer_seconds(config, facts, shape)
            if answered is not None:
                # Benchmarks of one model run in one process, which loads it once.
                first = model not in self._loaded
                self._loaded.add(model)
                weights = shape.parameters * shape.stored_bytes
                seconds = answered.plus(self._start_seconds(weights) if first else 0.0)
        documents = Amount(_documents(config, facts)) if facts else None
        if config.kind == "generations":
            documents = Amount(float(config.prompts or 0))
        return self._estimated(
            node, shape, fit, config.kind == "generations", seconds, storage.evaluation_bytes(documents)
        )

    def _on_host(self, reference: "Reference", node: "Node") -> StageEstimate:
        config, host = node.config, self.machine.host
        seconds: Amount | None = None
        size: Amount | None = None
        if isinstance(config, IngestConfig):
            size = self._ingested_bytes(reference, config)
            seconds = size and size.times(1 / host.ingest_bytes_per_second.value)
        elif isinstance(config, SubsampleConfig):
            rows = self._source_rows(node, config.split)
            seconds = rows and rows.times(1 / host.subsample_rows_per_second.value)
        elif isinstance(config, PrepareConfig):
            tokens = self._prepared_tokens(reference, config)
            seconds = tokens and tokens.times(1 / host.prepare_tokens_per_second.value)
            size = storage.prepared_bytes(tokens, self._rows_of(reference).train)
        elif isinstance(config, ReportConfig):
            seconds = Amount(len(config.models) * host.report_seconds_per_model.value)
            size = storage.report_bytes(len(config.models))
        return StageEstimate(node.stage, node.label, False, False, None, None, False, seconds, size, self.price)

    # Pieces of them.

    def _ingested_bytes(self, reference: "Reference", config: IngestConfig) -> Amount | None:
        if reference in self.known.source_bytes:
            return Amount(float(self.known.source_bytes[reference]))
        shape = self._shape(reference) if config.kind == "model" else None
        return Amount(float(shape.parameters * shape.stored_bytes)) if shape else None

    def _prepared_tokens(self, reference: "Reference", config: PrepareConfig) -> Amount | None:
        rows = self._rows_of(reference).train
        lengths = self._lengths(reference)
        if rows is None:
            return None
        if lengths is None:
            return Amount(rows.value * config.max_length * (2 if config.kind == "preference" else 1), at_most=True)
        row = lengths.mean["prompt"] + lengths.answers if config.kind == "preference" else lengths.mean["conversation"]
        return rows.times(row)

    def _pair_operations(self, shape: ModelShape, data: "Reference") -> Amount:
        """Operations of scoring both answers of one pair."""
        lengths = self._lengths(data)
        if lengths is not None:
            return Amount(shape.forward_flops(lengths.pair, lengths.pair / 2, lengths.answers))
        longest, _ = self._longest(data)
        return Amount(shape.forward_flops(2.0 * longest, float(longest)), at_most=True)

    def _longest_request(self, config: EvaluateConfig, facts: "BenchmarkFacts | None") -> int:
        if config.kind == "generations" or facts is None:
            return config.max_new_tokens or 1
        examples = facts.examples if config.num_fewshot is None else config.num_fewshot
        characters = (facts.longest_characters or facts.characters) + examples * facts.example_characters
        return round(characters / self.machine.text.characters_per_token.value) + (facts.new_tokens or 0)

    def _answer_seconds(
        self, config: EvaluateConfig, facts: "BenchmarkFacts | None", shape: ModelShape
    ) -> Amount | None:
        rate = self.machine.flops("evaluate", config.precision)
        weights = shape.parameters * BYTES[config.precision]
        least = self.machine.use.layer_pass_seconds.value * shape.layers / _FULL_TRAINING
        step = weights / self.machine.decoding_bytes_per_second + least
        if config.kind == "generations":
            # The reading of so few prompts is not counted.
            return Amount((config.max_new_tokens or 0) * step, at_most=True)
        if facts is None:
            return None
        documents = _documents(config, facts)
        examples = facts.examples if config.num_fewshot is None else config.num_fewshot
        length = (facts.characters + examples * facts.example_characters) / self.machine.text.characters_per_token.value
        tokens = documents * facts.passes * length
        read = shape.forward_flops(tokens, length) / rate
        batches = documents * facts.passes / _ANSWERED_AT_ONCE
        steps = -(-documents // _ANSWERED_AT_ONCE) * (facts.new_tokens or 0)
        return Amount(read + batches * least + steps * step, at_most=bool(facts.new_tokens))

    def _train_seconds(
        self, config: TrainConfig, shape: ModelShape | None, fit: Fit | None, work: _Work | None
    ) -> Amount | None:
        stage = "align" if isinstance(config, AlignConfig) else "sft"
        weights = shape.parameters * shape.stored_bytes if shape else 0
        return self._seconds(stage, config.precision, shape, fit, work, weights)

    def _seconds(
        self,
        stage: str,
        precision: str,
        shape: ModelShape | None,
        fit: Fit | None,
        work: _Work | None,
        weights: int,
    ) -> Amount | None:
        if shape is None or fit is None or work is None:
            return None
        gpus = fit.parallelism.gpus
        rate = self.machine.flops(stage, "bf16" if precision == "bf16" else "fp32")
        computing = work.operations.times(1 / (gpus * rate * self.machine.slowdown(fit.parallelism)))
        least = work.passes / gpus * shape.layers * self.machine.use.layer_pass_seconds.value
        return computing.plus(least + self._start_seconds(weights))

    def _start_seconds(self, weights: int) -> float:
        use = self.machine.use
        return use.start_seconds.value + weights / (use.load_gbs.value * 1e9)

    def _fit(
        self, reference: "Reference", node: "Node", work: Training | Scoring | None, most: int | None = None
    ) -> Fit | None:
        if work is None:
            return None
        allowed = _allowed(node, self.most if most is None else most)
        question = (work, allowed)
        if question not in self._fits:
            self._fits[question] = smallest_fit(work, self.machine, allowed)
        fit = self._fits[question]
        if fit is None:
            self._note_misfit(reference, node, work, allowed)
        return fit

    def _note_misfit(self, reference: "Reference", node: "Node", work: Training | Scoring, allowed: Allowed) -> None:
        alike = next((each for each in self.misfits.values() if each.stage == node.stage), None)
        needs = [work.memory(each) for each in candidates(work, allowed)]
        # One search for a kind: its stages differ in data, seldom in what they need.
        suggested = alike.remedies if alike else remedies(work, self.machine, allowed)
        least = min(needs, key=lambda memory: memory.total, default=None)
        self.misfits[reference] = Misfit(node.stage, node.label, least, suggested)

    def _estimated(
        self,
        node: "Node",
        shape: ModelShape | None,
        fit: Fit | None,
        bounded: bool,
        seconds: Amount | None,
        store_bytes: Amount | None,
    ) -> StageEstimate:
        return StageEstimate(
            stage=node.stage,
            label=node.label,
            computes=True,
            on_gpu=self.machine.is_gpu,
            parallelism=fit.parallelism if fit else None,
            memory=fit.memory if fit else None,
            memory_at_most=bounded and shape is not None,
            seconds=seconds,
            store_bytes=store_bytes,
            price=self.price,
        )


def _allowed(node: "Node", most: int) -> Allowed:
    """What the study leaves open: `auto` is free, and no offloading is what it says unless nothing else fits."""
    asked = node.hints.get("distributed") or {}
    processes, zero, offload = (asked.get(name) for name in ("processes", "zero", "offload"))
    return Allowed(
        most,
        processes if isinstance(processes, int) else None,
        zero if zero in (0, 1, 2, 3) else None,
        offload if offload in ("optimizer", "parameters") else None,
    )


def _training(
    shape: ModelShape | None, recipe: Recipe, sequences: int, config: TrainConfig, longest: int
) -> Training | None:
    if shape is None:
        return None
    return Training(shape, recipe, sequences, config.micro_batch_size, config.batch_size, longest)


def _scoring(shape: ModelShape | None, recipe: Recipe, batch: Batch) -> Scoring | None:
    return None if shape is None else Scoring(shape, recipe, batch)


def _training_passes(recipe: Recipe, fit: Fit | None) -> float:
    again = 1 if fit is not None and fit.parallelism.checkpointing else 0
    return (_FULL_TRAINING if recipe.adapter_rank is None else _ADAPTER_TRAINING) + again


def _data(node: "Node") -> "list[Reference]":
    return [item for role, item in node.inputs.items() if role.startswith("data/")]


def _limited(rows: Amount | None, size: int | str) -> Amount | None:
    """The rows that a size means: so many, but no more than there are."""
    if not isinstance(size, int):
        return rows
    if rows is None or rows.at_most:
        return Amount(float(size)) if rows is None or rows.value >= size else rows
    return Amount(min(float(size), rows.value))


def _shard(rows: Amount | None, config: ReferenceConfig) -> Amount | None:
    if rows is None:
        return None if config.stop is None else Amount(float(config.stop - config.start), at_most=True)
    end = rows.value if config.stop is None else min(float(config.stop), rows.value)
    return Amount(max(0.0, end - config.start), rows.at_most)


def _documents(config: EvaluateConfig, facts: "BenchmarkFacts") -> float:
    return float(facts.documents if config.limit is None else min(config.limit * facts.tasks, facts.documents))
