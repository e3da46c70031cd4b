"""Expands a study into its plan: every stage once, however many cells of the grid share it. Pure."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from kilter.errors import WrongInput
from kilter.plan.configs import (
    Adapter,
    AlignConfig,
    EvaluateConfig,
    IngestConfig,
    PrepareConfig,
    PretrainConfig,
    ReferenceConfig,
    ReportConfig,
    ReportModel,
    SftConfig,
    SubsampleConfig,
)
from kilter.plan.graph import Node, Plan, PlannedModel, Reference
from kilter.plan.sources import ResolvedSource, SourceName, data_source_names, model_source_name
from kilter.study.grid import MethodCell, default_micro_batch_size, expand_methods
from kilter.study.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kilter.model import Model
    from kilter.study.specification import (
        AlignSettings,
        DataSource,
        ModelSource,
        PeftSettings,
        PreferenceData,
        SftData,
        SftSettings,
        Study,
    )

REFERENCE_SHARD_ROWS = 4096
GENERATED_PROMPTS = 8
GENERATED_TOKENS = 128
MT_BENCH = "mt_bench"


@dataclass(frozen=True)
class Surroundings:
    """What the plan must know besides the study, gathered beforehand so that planning itself reads nothing."""

    sources: "Mapping[SourceName, ResolvedSource]"
    codes: "Mapping[str, str]"
    """The code version of each stage, with the libraries that shape its result."""
    precision: Literal["fp32", "bf16"]
    """What `auto` means on the machines that will run the plan."""
    template_text: "Callable[[str | None], str | None]"
    """Turns the name of a built-in chat template into its text."""
    task_content: "Callable[[str], str | None]" = lambda _task: None
    """Digest of a benchmark that Kilter ships itself; None for the harness's own."""
    benchmark_list: str | None = None
    """Digest of the versioned list of benchmark sets that decontamination reads."""
    adapter_library: str = "peft"
    """The library that makes adapters, with its minor version."""


@dataclass(frozen=True)
class _PlannedSource:
    """A model to start from: its weights, and where its tokenizer was made."""

    model: Reference
    tokenizer: Reference
    template: str | None


@dataclass
class _Graph:
    """Collects nodes, each key once, in an order in which they can run."""

    codes: "Mapping[str, str]"
    nodes: dict[Reference, Node] = field(default_factory=dict)

    def add(
        self,
        stage: str,
        config: "Model",
        inputs: "Mapping[str, Reference]",
        label: str,
        hints: "Mapping[str, Any] | None" = None,
    ) -> Reference:
        node = Node(stage=stage, config=config, inputs=inputs, code=self.codes[stage], hints=hints or {}, label=label)
        reference = node.reference
        self.nodes.setdefault(reference, node)
        return reference


def expand(study: "Study", surroundings: Surroundings) -> Plan:
    """Expand a study into the deduplicated graph of stages that it needs.

    Raises:
        WrongInput: a model that a scenario needs is missing, or the rows of an `all` size cannot be known yet.
    """
    return _Expansion(study, surroundings).plan()


class _Expansion:
    """One expansion; its state is the graph so far and what was already planned in it."""

    def __init__(self, study: "Study", surroundings: Surroundings) -> None:
        self.study = study
        self.surroundings = surroundings
        self.graph = _Graph(surroundings.codes)
        self.warnings: list[str] = []
        self.rows_known = self._rows_at_most(study.data.preference)
        self.sources: dict[str, _PlannedSource] = {}

    def plan(self) -> Plan:
        study = self.study
        for resolved in self.surroundings.sources.values():
            self.warnings.extend(resolved.warnings)
        preference = self._subsample_preference(study.data.preference)
        cells = expand_methods(study)
        models: list[PlannedModel] = []
        for scenario in study.scenarios:
            parent_source = self._source("instruct" if scenario == "instruct" else "base", f"scenario {scenario}")
            parent = parent_source.model
            role = "instruct" if scenario == "instruct" else "base"
            models.append(
                self._planned(parent, name=role, role=role, scenario=None, source=parent_source, rows=preference)
            )
            if scenario == "sft":
                parent = self._sft(parent_source)
                models.append(
                    self._planned(parent, name="sft", role="sft", scenario=None, source=parent_source, rows=preference)
                )
            for cell in cells:
                for size in study.sizes:
                    for seed in study.seeds:
                        models.append(self._cell(scenario, cell, size, seed, parent, parent_source, preference))
        first: dict[Reference, PlannedModel] = {}
        for model in models:
            first.setdefault(model.reference, model)
        unique = tuple(first.values())
        if any(benchmark.task == MT_BENCH for benchmark in study.benchmarks):
            self.warnings.append(
                f"{MT_BENCH} needs a judge and is left out: this version scores log-likelihoods and generations only"
            )
        nodes = _with_cells(self.graph.nodes, unique)
        report = _report(study, unique, nodes, self.surroundings.codes["report"])
        nodes[report.reference] = report
        return Plan(
            nodes=nodes,
            models=unique,
            report=report.reference,
            warnings=tuple(dict.fromkeys(self.warnings)),
            rows_known=self.rows_known is not None or "all" not in study.sizes,
        )

    def _ingest(self, name: SourceName, label: str) -> Reference:
        resolved = self.surroundings.sources[name]
        config = IngestConfig(kind=name.kind, content=resolved.content)
        return self.graph.add("ingest", config, {}, f"{label} {name.source}", resolved.location)

    def _ingest_data(self, data: "DataSource", label: str) -> dict[str, Reference]:
        names = data_source_names(data)
        return {f"data/{index}": self._ingest(name, label) for index, name in enumerate(names)}

    def _rows_at_most(self, data: "DataSource") -> int | None:
        """Rows of the split before anything is dropped: the upper bound of what `all` can mean."""
        counts = [self.surroundings.sources[name].rows.get(data.split) for name in data_source_names(data)]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def _source(self, name: str, needed_by: str) -> _PlannedSource:
        if name not in self.sources:
            model: ModelSource | None = getattr(self.study.models, name, None)
            if model is None:
                raise WrongInput(f"{needed_by} needs models.{name}; add it to the study")
            self.sources[name] = self._made(name, model) if model.init is not None else self._loaded(name, model)
        return self.sources[name]

    def _loaded(self, name: str, model: "ModelSource") -> _PlannedSource:
        reference = self._ingest(model_source_name(model), f"{name} model")
        return _PlannedSource(reference, reference, self.surroundings.template_text(model.chat_template))

    def _made(self, name: str, model: "ModelSource") -> _PlannedSource:
        init = model.init
        if init is None:
            raise WrongInput(f"models.{name} has neither source nor init; give one of them")
        template = self.surroundings.template_text(model.chat_template)
        if init.base is not None:
            started = self._source(init.base, f"models.{name}.init.base")
            template = template or started.template
            source = _PlannedSource(started.model, started.tokenizer, template)
        elif init.pretrain is not None:
            recipe = init.pretrain
            config = PretrainConfig(
                architecture=init.architecture,
                steps=recipe.steps,
                batch_size=recipe.batch_size,
                sequence_length=recipe.sequence_length,
                learning_rate=recipe.learning_rate,
                warmup_ratio=recipe.warmup_ratio,
                split=recipe.data.split,
                seed=init.seed,
                chat_template=template,
            )
            reference = self.graph.add("pretrain", config, self._ingest_data(recipe.data, "text"), f"pretrain {name}")
            source = _PlannedSource(reference, reference, None)
        else:
            raise WrongInput(
                f"models.{name}.init needs `pretrain` (or `base`, another model of the study to start from)"
            )
        if init.sft is not None:
            rows = self._subsample_sft(init.sft.data, f"{name} conversations")
            prepared = self._prepare_sft(rows, source, init.sft.training)
            tuned = self._train_sft(
                source.model, prepared, init.sft.training, init.seed, "all", f"instruction-tune {name}"
            )
            source = replace(source, model=tuned)
        return source

    def _subsample_sft(self, data: "DataSource", label: str) -> Reference:
        return self.graph.add(
            "subsample",
            SubsampleConfig(kind="sft", split=data.split),
            self._ingest_data(data, "conversations"),
            f"rows of {label}",
        )

    def _subsample_preference(self, data: "PreferenceData") -> Reference:
        inputs = self._ingest_data(data, "preferences")
        sft: SftData | None = self.study.data.sft
        if sft is not None and "sft" in self.study.scenarios:
            inputs["sft"] = self._subsample_sft(sft, "conversations")
        decontamination = data.decontaminate
        config = SubsampleConfig(
            kind="preference",
            split=data.split,
            test_split=data.test_split,
            holdout=0.0 if data.test_split else data.holdout,
            strata=data.strata,
            prompt_characters=data.limit.prompt_characters if data.limit else None,
            answer_characters=data.limit.answer_characters if data.limit else None,
            decontaminate=decontamination.against if decontamination else (),
            ngram=decontamination.ngram if decontamination else 13,
            benchmark_list=self.surroundings.benchmark_list if decontamination else None,
        )
        hints = {"mirror": self.study.data.mirror.source} if decontamination and self.study.data.mirror else {}
        return self.graph.add("subsample", config, inputs, "preference pairs", hints)

    def _prepare_sft(self, rows: Reference, source: _PlannedSource, training: "SftSettings") -> Reference:
        config = PrepareConfig(
            kind="sft",
            chat_template=source.template,
            max_length=training.max_length,
            max_prompt_length=None,
            max_truncated=training.max_truncated,
        )
        return self.graph.add("prepare", config, {"rows": rows, "tokenizer": source.tokenizer}, "conversations")

    def _prepare_pairs(self, rows: Reference, source: _PlannedSource, cell: MethodCell) -> Reference:
        training = cell.training
        config = PrepareConfig(
            kind="preference",
            chat_template=source.template,
            max_length=training.max_length,
            max_prompt_length=training.max_prompt_length or training.max_length // 2,
            max_truncated=training.max_truncated,
        )
        return self.graph.add("prepare", config, {"rows": rows, "tokenizer": source.tokenizer}, "pairs")

    def _precision(self, setting: str) -> Literal["fp32", "bf16"]:
        if setting == "fp32":
            return "fp32"
        return "bf16" if setting == "bf16" else self.surroundings.precision

    def _resolved(self, training: "SftSettings", seed: int) -> dict[str, Any]:
        return {
            "learning_rate": training.learning_rate,
            "epochs": training.epochs,
            "batch_size": training.batch_size,
            "micro_batch_size": training.micro_batch_size or default_micro_batch_size(training.batch_size),
            "scheduler": training.scheduler,
            "warmup_ratio": training.warmup_ratio,
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.max_grad_norm,
            "precision": self._precision(training.precision),
            "seed": seed,
        }

    def _adapter(self, peft: "PeftSettings | None") -> Adapter | None:
        if peft is None:
            return None
        library = self.surroundings.adapter_library
        return Adapter(**peft.model_dump() | {"alpha": peft.resolved_alpha, "library": library})

    def _train_sft(
        self,
        model: Reference,
        prepared: Reference,
        training: "SftSettings",
        seed: int,
        size: int | Literal["all"],
        label: str,
    ) -> Reference:
        config = SftConfig(size=size, **self._resolved(training, seed))
        return self.graph.add("sft", config, {"model": model, "data": prepared}, label, self._hints(training))

    def _hints(self, training: "SftSettings") -> dict[str, Any]:
        checkpoints = self.study.training.checkpoints.model_dump(mode="json")
        return {"checkpoints": checkpoints, "distributed": training.distributed.model_dump(mode="json")}

    def _sft(self, source: _PlannedSource) -> Reference:
        data = self.study.data.sft
        if data is None:
            raise WrongInput("scenario sft needs data.sft; add it to the study, or drop the scenario")
        prepared = self._prepare_sft(self._subsample_sft(data, "conversations"), source, self.study.training.sft)
        # One SFT model serves every seed: seeds vary the alignment that is compared, not its starting point.
        return self._train_sft(source.model, prepared, self.study.training.sft, self.study.seeds[0], data.size, "sft")

    def _shards(self, size: int | Literal["all"]) -> "Sequence[tuple[int, int | None]]":
        rows = self.rows_known if size == "all" else size
        if rows is None:
            self.warnings.append(
                "the rows of data.preference are not known yet: sizes `all` are planned as one open shard"
            )
            return ((0, None),)
        return tuple((start, start + REFERENCE_SHARD_ROWS) for start in range(0, max(rows, 1), REFERENCE_SHARD_ROWS))

    def _references(
        self,
        model: Reference,
        prepared: Reference,
        size: int | Literal["all"],
        precision: Literal["fp32", "bf16"],
        mismatched: bool,
    ) -> "Iterable[Reference]":
        kind = "mismatched answers" if mismatched else "pairs"
        for start, stop in self._shards(size):
            config = ReferenceConfig(split="train", start=start, stop=stop, mismatched=mismatched, precision=precision)
            label = f"{kind} {start}–{stop or 'end'}"
            yield self.graph.add("reference", config, {"model": model, "data": prepared}, label)

    def _cell(
        self,
        scenario: str,
        cell: MethodCell,
        size: int | Literal["all"],
        seed: int,
        parent: Reference,
        source: _PlannedSource,
        preference: Reference,
    ) -> PlannedModel:
        method = METHODS[cell.method]
        prepared = self._prepare_pairs(preference, source, cell)
        precision = self._precision(cell.training.precision)
        inputs = {"model": parent, "data": prepared}
        if method.needs_reference:
            shards = self._references(parent, prepared, size, precision, mismatched=False)
            inputs |= {f"reference/{index}": shard for index, shard in enumerate(shards)}
        if method.needs_mismatched:
            shards = self._references(parent, prepared, size, precision, mismatched=True)
            inputs |= {f"mismatched/{index}": shard for index, shard in enumerate(shards)}
        # Every method has its held-out pairs scored under the parent, so that rewards and KL compare across methods.
        holdout = ReferenceConfig(split="holdout", start=0, stop=None, mismatched=False, precision=precision)
        inputs["holdout"] = self.graph.add("reference", holdout, {"model": parent, "data": prepared}, "held-out pairs")
        config = AlignConfig(
            method=cell.method,
            hyperparameters=dict(cell.hyperparameters),
            size=size,
            peft=self._adapter(cell.training.peft),
            **self._resolved(cell.training, seed) | _budget(cell.training),
        )
        name = "/".join(part for part in (scenario, cell.method, cell.variant, str(size), f"seed{seed}") if part)
        aligned = self.graph.add("align", config, inputs, name, self._hints(cell.training))
        return self._planned(
            aligned,
            name=name,
            role="aligned",
            scenario=scenario,
            source=source,
            rows=preference,
            method=cell.method,
            variant=cell.variant,
            size=size,
            seed=seed,
            parent=parent,
        )

    def _planned(
        self,
        model: Reference,
        *,
        name: str,
        role: str,
        scenario: str | None,
        source: _PlannedSource,
        rows: Reference,
        method: str | None = None,
        variant: str = "",
        size: int | str | None = None,
        seed: int | None = None,
        parent: Reference | None = None,
    ) -> PlannedModel:
        precision = self._precision(self.study.training.align.precision)
        mirror = {"mirror": self.study.data.mirror.source} if self.study.data.mirror else {}
        scores: dict[str, Reference] = {}
        for benchmark in self.study.benchmarks:
            if benchmark.task == MT_BENCH:
                continue
            config = EvaluateConfig(
                kind="benchmark",
                task=benchmark.task,
                num_fewshot=benchmark.num_fewshot,
                limit=benchmark.limit,
                content=self.surroundings.task_content(benchmark.task),
                precision=precision,
            )
            scores[benchmark.task] = self.graph.add(
                "evaluate", config, {"model": model}, f"{name}: {benchmark.task}", mirror
            )
        answers = EvaluateConfig(
            kind="generations",
            template=source.template,
            precision=precision,
            prompts=GENERATED_PROMPTS,
            max_new_tokens=GENERATED_TOKENS,
        )
        generations = self.graph.add("evaluate", answers, {"model": model, "rows": rows}, f"{name}: answers")
        return PlannedModel(
            reference=model,
            name=name,
            role=role,
            scenario=scenario,
            method=method,
            variant=variant,
            size=size,
            seed=seed,
            parent=parent,
            scores=scores,
            generations=generations,
        )


def _budget(training: "AlignSettings") -> dict[str, Any]:
    return {} if training.budget == "epochs" else {"epochs": 1.0, "steps": training.steps}


def ancestors(nodes: "Mapping[Reference, Node]", start: Reference) -> set[Reference]:
    """Return every result that `start` is built from, itself included."""
    found: set[Reference] = set()
    pending = [start]
    while pending:
        reference = pending.pop()
        if reference in found or reference not in nodes:
            continue
        found.add(reference)
        pending.extend(nodes[reference].inputs.values())
    return found


def _with_cells(nodes: "Mapping[Reference, Node]", models: "Sequence[PlannedModel]") -> dict[Reference, Node]:
    uses: Counter[Reference] = Counter()
    for model in models:
        if model.role == "aligned":
            uses.update(ancestors(nodes, model.reference))
            uses.update([*model.scores.values(), *([model.generations] if model.generations else [])])
    return {reference: replace(node, cells=uses[reference]) for reference, node in nodes.items()}


def _report(study: "Study", models: "Sequence[PlannedModel]", nodes: "Mapping[Reference, Node]", code: str) -> Node:
    config = ReportConfig(
        study=study.question(),
        models=tuple(
            ReportModel(
                result=str(model.reference),
                name=model.name,
                role=model.role,
                scenario=model.scenario,
                method=model.method,
                variant=model.variant,
                size=model.size,
                seed=model.seed,
                parent=str(model.parent) if model.parent else None,
                scores={benchmark: str(score) for benchmark, score in model.scores.items()},
                generations=str(model.generations) if model.generations else None,
            )
            for model in models
        ),
    )
    inputs = {f"result/{index}": reference for index, reference in enumerate(nodes)}
    return Node(stage="report", config=config, inputs=inputs, code=code, label=f"report of {study.name}")


def stages_without_sharing(plan: Plan) -> int:
    """Count the stages that the plain grid would run: every cell doing all of its own work."""
    total = 0
    for model in plan.models:
        evaluations = len(model.scores) + (1 if model.generations else 0)
        work = len(ancestors(plan.nodes, model.reference)) if model.role == "aligned" else 0
        total += work + evaluations
    return total
