"""The sft stage: supervised fine-tuning on prepared conversations."""

from typing import TYPE_CHECKING, Any

from kilter.plan.configs import SftConfig
from kilter.stages.models import model_folder

if TYPE_CHECKING:
    from kilter.stages.context import StageContext


def run(context: "StageContext") -> dict[str, Any]:
    """Fine-tune the input model and write it with its per-step metrics."""
    from kilter.stages.training import train

    inputs = {"data": context.fetch_role("data"), "model": model_folder(context)}
    return train(context, {**inputs}, context.config_as(SftConfig))
