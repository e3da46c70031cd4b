"""The reference stage: log-probabilities under the model that alignment starts from, one shard of pairs."""

from typing import TYPE_CHECKING, Any

from kilter.plan.configs import ReferenceConfig
from kilter.stages.models import model_folder

if TYPE_CHECKING:
    from kilter.stages.context import StageContext


def run(context: "StageContext") -> dict[str, Any]:
    """Score the shard's answers and write them as Parquet."""
    from kilter.training.reference import run_reference

    config = context.config_as(ReferenceConfig)
    data = context.fetch_role("data", f"{config.split}.parquet")
    return run_reference(model_folder(context), data, config, context.output, context.progress)
