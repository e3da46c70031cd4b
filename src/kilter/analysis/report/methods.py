"""What each method of the study is, and the loss that was in force when it trained."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kilter.analysis.report.formatting import count, significant
from kilter.analysis.report.index import Index, unique
from kilter.study.methods import METHODS, method_label

if TYPE_CHECKING:
    from collections.abc import Mapping

_LIBRARIES = ("trl", "transformers", "torch", "deepspeed", "peft")


@dataclass(frozen=True)
class MethodRow:
    """A method, as its paper has it and as it was trained."""

    label: str
    title: str
    objective: str
    paper: str
    trained: tuple[str, ...]
    """Trainer, loss type, averaging and adapter, with the libraries' versions; more than one where trainings differ."""
    note: str


def method_rows(index: Index) -> tuple[MethodRow, ...]:
    """List the methods of the study in its order."""
    return tuple(_method_row(index, name) for name in index.results.methods)


def _method_row(index: Index, name: str) -> MethodRow:
    known = METHODS.get(name)
    return MethodRow(
        label=method_label(name),
        title=known.title if known else "",
        objective=known.objective if known else "",
        paper=known.paper if known else "",
        trained=unique(filter(None, (_trained(index, name, key) for key in index.models))),
        note=(known.note or "") if known else "",
    )


def _trained(index: Index, name: str, key: str) -> str:
    model = index.models[key]
    trainer, loss = model.training.get("trainer"), model.training.get("loss_type")
    if model.method != name or not trainer:
        return ""
    computed = f"Kilter's formula on {trainer}" if loss == "kilter" else f"{trainer}, loss {loss}"
    stage = index.stage_of(model)
    versions = stage.versions if stage else {}
    libraries = ", ".join(f"{library} {versions[library]}" for library in _LIBRARIES if library in versions)
    parts = (computed, str(model.training.get("averaging") or ""), adapter_text(model.training), libraries)
    return "; ".join(part for part in parts if part)


def adapter_text(training: "Mapping[str, Any]") -> str:
    """Say which adapter was trained in place of all weights; empty where none was."""
    adapter = training.get("adapter")
    if not adapter:
        return ""
    name = {"lora": "LoRA", "qlora": "QLoRA"}.get(adapter["method"], adapter["method"])
    dropout = f", dropout {significant(adapter['dropout'])}" if adapter["dropout"] else ""
    trained, weights = count(adapter["trainable_parameters"]), count(training.get("parameters"))
    shape = f"rank {adapter['rank']}, alpha {adapter['alpha']}{dropout}"
    place = adapter["target"].replace("-", " ")
    return f"{name}, {shape} on {place} layers, {trained} trained of {weights} weights"
