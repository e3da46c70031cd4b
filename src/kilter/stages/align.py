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
    from kilter.stages.training import training_run
    from kilter.training.align import run_align

    holdout = _shards(context, "holdout")
    return run_align(
        model_folder(context),
        context.fetch_role("data"),
        _shards(context, "reference"),
        _shards(context, "mismatched"),
        holdout[0] if holdout else None,
        context.config_as(AlignConfig),
        context.output,
        training_run(context),
    )


def _shards(context: "StageContext", role: str) -> "list[Path]":
    return [context.fetch(reference, LOGPROBS) / LOGPROBS for reference in context.roles(role)]
