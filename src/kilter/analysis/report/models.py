"""The tables of models: how each was trained, and what it does on the held-out pairs."""

from collections.abc import Mapping
from dataclasses import dataclass

from kilter.analysis.report.formatting import NOTHING, count, duration, fixed, share, significant
from kilter.analysis.report.index import Index, model_name, unique
from kilter.analysis.report.methods import adapter_text
from kilter.analysis.results import ModelResult
from kilter.analysis.verdict import FEW_STEPS

_SHOWN_APART = frozenset({"steps", "epochs", "tokens", "loss", "seconds", "pairs"})
_SHOWN_FIRST = ("loss_type", "learning_rate", "effective_batch", "batch_size", "precision")
"""Settings that a reader looks for; the others fold away."""


@dataclass(frozen=True)
class ModelRow:
    """A model and its training."""

    name: str
    anchor: str
    parent: str
    pairs: str
    steps: str
    few_steps: bool
    epochs: str
    tokens: str
    seconds: str
    loss: str
    settings: str
    further_settings: str


@dataclass(frozen=True)
class HeldOutRow:
    """A model on the held-out pairs."""

    name: str
    anchor: str
    accuracy: str
    accuracy_share: float | None
    margin: str
    kl: str
    loss: str


@dataclass(frozen=True)
class HeldOutTable:
    """The models of a scenario on the held-out pairs."""

    scenario: str
    pairs: str
    rows: tuple[HeldOutRow, ...]


def model_rows(index: Index) -> tuple[ModelRow, ...]:
    """List every model of the study."""
    return tuple(_model_row(index, model) for model in index.results.models)


def held_out_tables(index: Index) -> tuple[HeldOutTable, ...]:
    """List held-out metrics, a table a scenario."""
    tables = []
    for scenario in index.results.scenarios:
        rows = tuple(_held_out_row(index, model) for model in index.aligned(scenario) if model.held_out)
        if rows:
            pairs = unique(count(model.held_out.get("pairs")) for model in index.aligned(scenario) if model.held_out)
            tables.append(HeldOutTable(scenario, " or ".join(pairs), rows))
    return tuple(tables)


def _has_few_steps(model: ModelResult) -> bool:
    steps = model.training.get("steps")
    return model.method is not None and isinstance(steps, int | float) and steps < FEW_STEPS


def _model_row(index: Index, model: ModelResult) -> ModelRow:
    training = model.training
    stage = index.stage_of(model)
    settings = {
        **(stage.config if stage else {}),
        **{name: value for name, value in training.items() if name not in _SHOWN_APART},
    }
    plain = {name: value for name, value in settings.items() if isinstance(value, str | int | float | bool)}
    hyperparameters = dict(training.get("hyperparameters") or {})
    first = {name: plain[name] for name in _SHOWN_FIRST if name in plain}
    if adapter := adapter_text(training):
        first["adapter"] = adapter
    further = {name: value for name, value in plain.items() if name not in first and name not in _SHOWN_APART}
    return ModelRow(
        name=index.full_name(model),
        anchor=index.anchor(model.key),
        parent=index.name_of(model.parent) if model.parent else NOTHING,
        pairs=count(model.pairs),
        steps=count(_number(training.get("steps"))),
        few_steps=_has_few_steps(model),
        epochs=_significant(training.get("epochs")),
        tokens=count(_number(training.get("tokens"))),
        seconds=duration(stage.seconds if stage else None),
        loss=_significant(training.get("loss")),
        settings=_listed(hyperparameters | first),
        further_settings=_listed(further),
    )


def _held_out_row(index: Index, model: ModelResult) -> HeldOutRow:
    values = model.held_out
    accuracy = values.get("accuracy")
    seed = f" · seed {model.seed}" if len(index.results.seeds) > 1 and model.seed is not None else ""
    return HeldOutRow(
        name=f"{model_name(model)} · {index.size_text(model)}{seed}",
        anchor=index.anchor(model.key),
        accuracy=NOTHING if accuracy is None else f"{share(accuracy)} %",
        accuracy_share=None if accuracy is None else min(1.0, max(0.0, accuracy)),
        margin=_three_decimals(values.get("margin")),
        kl=_three_decimals(values.get("kl")),
        loss=_three_decimals(values.get("loss")),
    )


def _listed(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_setting(value)}" for name, value in settings.items())


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return significant(value) if isinstance(value, int | float) else str(value)


def _significant(value: object) -> str:
    number = _number(value)
    return NOTHING if number is None else significant(number)


def _three_decimals(value: float | None) -> str:
    """Write a column's values alike; what would round to nothing keeps its digits."""
    if value is None:
        return NOTHING
    return fixed(value, 3) if value == 0 or abs(value) >= 0.001 else significant(value, 2)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
