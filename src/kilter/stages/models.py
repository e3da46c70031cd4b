"""Where a result keeps its model, and how a stage brings it to this machine."""

from typing import TYPE_CHECKING

from kilter.errors import StageFailed

if TYPE_CHECKING:
    from pathlib import Path

    from kilter.stages.context import StageContext

MODEL = "model/"
_WEIGHTS = (".safetensors", ".safetensors.index.json")


def model_folder(context: "StageContext", role: str = "model") -> "Path":
    """Bring the model of an input to this machine, verified, and return its folder."""
    return context.fetch_role(role, MODEL) / "model"


def tokenizer_folder(context: "StageContext", role: str) -> "Path":
    """Bring only the tokenizer and configuration of an input's model to this machine and return their folder."""
    reference = context.only(role)
    objects = context.manifest(reference).objects
    names = [item.name for item in objects if item.name.startswith(MODEL) and not item.name.endswith(_WEIGHTS)]
    if not names:
        raise StageFailed(f"{reference.short} holds no tokenizer below {MODEL}; it is not a model")
    return context.fetch(reference, *names) / "model"
