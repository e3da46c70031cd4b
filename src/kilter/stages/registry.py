"""The registry of stages: each one's configuration, code version, shaping libraries and `run`."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from kilter.errors import WrongInput
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
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from kilter.model import Model
    from kilter.stages.context import StageContext


@dataclass(frozen=True)
class StageKind:
    """What a stage is, before anything heavy is imported."""

    name: str
    config: "type[Model]"
    code: int
    """Raised by hand when the stage's code changes so that its results do."""
    does: str
    """One line for help texts."""
    libraries: tuple[str, ...] = ()
    """Libraries whose minor version is part of the key."""
    modules: tuple[str, ...] = ()
    """Modules and packages of Kilter whose change asks for a new code version (see fingerprints)."""
    shares: str | None = None
    """The input role that stages run together share: one model load serves all of them."""
    saves_when_stopped: bool = False
    """Asked to stop, it saves a checkpoint by itself; other stages are simply cut short."""
    spreads: bool = False
    """Where a launcher started several processes all of them run it; of other stages only the first does."""
    imports: tuple[str, ...] = ()
    """What is worth importing before a process is forked for the stage; `module:function` is also called."""

    def load(self) -> "Callable[[StageContext], dict[str, Any]]":
        """Import the stage's module and return its `run`."""
        run: Callable[[StageContext], dict[str, Any]] = import_module(f"kilter.stages.{self.name}").run
        return run


# transformers loads these at a model's first load, for seconds, if nobody did before.
_MODEL_IMPORTS = (
    "torch",
    "transformers",
    "transformers.core_model_loading",
    "kilter.training.models:warm_up",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)
_TRAINING_IMPORTS = (
    *_MODEL_IMPORTS,
    "deepspeed",  # accelerate imports it at the first optimizer step where it is installed
    "trl",
    "kilter.stages.sft",
    "kilter.stages.align",
    "kilter.training.sft",
    "kilter.training.align",
    "kilter.training.trainers.sft",
    "kilter.training.trainers.dpo",
    "kilter.training.trainers.kto",
    "kilter.training.trainers.likelihood",
)

STAGES: "Mapping[str, StageKind]" = {
    kind.name: kind
    for kind in (
        StageKind(
            "ingest",
            IngestConfig,
            code=1,
            does="bring a model or data set into the store, named by its content",
            modules=("kilter.stages.ingest", "kilter.data.builtin", "kilter.data.demo"),
        ),
        StageKind(
            "pretrain",
            PretrainConfig,
            code=1,
            does="make a small model from scratch",
            libraries=("torch", "transformers", "tokenizers"),
            modules=("kilter.stages.pretrain", "kilter.training.pretrain", "kilter.training.scratch"),
            imports=(*_MODEL_IMPORTS, "kilter.training.pretrain"),
        ),
        StageKind(
            "subsample",
            SubsampleConfig,
            code=1,
            does="read, clean, hold out and order rows",
            modules=(
                "kilter.stages.subsample",
                "kilter.data.sources",
                "kilter.data.records",
                "kilter.data.turns",
                "kilter.data.normalise",
                "kilter.data.order",
                "kilter.data.pairing",
                "kilter.data.selection",
                "kilter.data.blocks",
                "kilter.data.decontaminate",
                "kilter.data.external",
                "kilter.data.mirror",
                "kilter.data.rowfiles",
                "kilter.data.schemas",
                "kilter.data.subsample",
            ),
        ),
        StageKind(
            "prepare",
            PrepareConfig,
            code=1,
            does="turn rows into token ids, once",
            libraries=("transformers", "tokenizers"),
            modules=(
                "kilter.stages.prepare",
                "kilter.data.prepare",
                "kilter.data.rendering",
                "kilter.data.templates",
                "kilter.data.sources",
                "kilter.data.rowfiles",
                "kilter.data.schemas",
            ),
            imports=("transformers.models.auto.tokenization_auto",),
        ),
        StageKind(
            "sft",
            SftConfig,
            code=1,
            does="fine-tune on conversations",
            libraries=("torch", "transformers", "trl"),
            modules=("kilter.stages.sft", "kilter.training"),
            saves_when_stopped=True,
            spreads=True,
            imports=_TRAINING_IMPORTS,
        ),
        StageKind(
            "reference",
            ReferenceConfig,
            code=1,
            does="score the answers of preference pairs under the parent model",
            libraries=("torch", "transformers"),
            modules=("kilter.stages.reference", "kilter.training.reference"),
            imports=(*_MODEL_IMPORTS, "kilter.training.reference"),
        ),
        StageKind(
            "align",
            AlignConfig,
            code=2,
            does="align a model on preference pairs",
            libraries=("torch", "transformers", "trl"),
            modules=("kilter.stages.align", "kilter.training"),
            saves_when_stopped=True,
            spreads=True,
            imports=_TRAINING_IMPORTS,
        ),
        StageKind(
            "evaluate",
            EvaluateConfig,
            code=1,
            does="score a model on benchmarks",
            libraries=("torch", "transformers", "lm-eval"),
            modules=("kilter.stages.evaluate", "kilter.evaluation", "kilter.data.mirror", "kilter.training.adapters"),
            shares="model",
            imports=(*_MODEL_IMPORTS, "lm_eval", "kilter.evaluation.runner", "kilter.stages.evaluate"),
        ),
        StageKind(
            "report",
            ReportConfig,
            code=5,
            does="say what the results mean",
            modules=("kilter.stages.report", "kilter.analysis", "kilter.plan.estimates"),
        ),
    )
}


def stage_kind(name: str) -> StageKind:
    """Return the stage of that name.

    Raises:
        WrongInput: there is no such stage.
    """
    if name not in STAGES:
        raise WrongInput(f"there is no stage {name!r}; there are {', '.join(STAGES)}")
    return STAGES[name]
