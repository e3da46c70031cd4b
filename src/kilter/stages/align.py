"""The align stage: one method, one size, one seed, from one parent model."""

from typing import TYPE_CHECKING, Any

from kilter.plan.configs import AlignConfig
from kilter.stages.models import model_folder

if TYPE_CHECKING:
    from pathlib import Path

    from kilter.stages.context import StageContext

LOGPROBS = "logprobs.parquet"


def run(context: "StageContext") -> dict[str, Any]:
    """Align the input model and write it with its per-step and held-out metrics."""
    from kilter.stages.training import train

    holdout = _shards(context, "holdout")
    return train(
        context,
        {
            "model": model_folder(context),
            "data": context.fetch_role("data"),
            "reference": _shards(context, "reference"),
            "mismatched": _shards(context, "mismatched"),
            "holdout_reference": holdout[0] if holdout else None,
        },
        context.config_as(AlignConfig),
    )


def _shards(context: "StageContext", role: str) -> "list[Path]":
    return [context.fetch(reference, LOGPROBS) / LOGPROBS for reference in context.roles(role)]
