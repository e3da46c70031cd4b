"""The align stage: one method, one size, one seed, from one parent model."""

import json
from typing import TYPE_CHECKING, Any

from kilter.plan.configs import AlignConfig
from kilter.stages.models import base_record, model_folder
from kilter.training import layout

if TYPE_CHECKING:
    from pathlib import Path

    from kilter.stages.context import StageContext

LOGPROBS = "logprobs.parquet"


def run(context: "StageContext") -> dict[str, Any]:
    """Align the input model and write it, or its adapter, with its per-step and held-out metrics."""
    from kilter.stages.training import train

    holdout, config = _shards(context, "holdout"), context.config_as(AlignConfig)
    summary = train(
        context,
        {
            "model": model_folder(context),
            "data": context.fetch_role("data"),
            "reference": _shards(context, "reference"),
            "mismatched": _shards(context, "mismatched"),
            "holdout_reference": holdout[0] if holdout else None,
        },
        config,
    )
    if config.peft is not None and summary:
        record = base_record(context.manifest(context.only("model")))
        text = json.dumps(record, indent=2)
        (context.output / layout.ADAPTER / layout.ADAPTER_BASE).write_text(f"{text}\n", encoding="utf-8")
    return summary


def _shards(context: "StageContext", role: str) -> "list[Path]":
    return [context.fetch(reference, LOGPROBS) / LOGPROBS for reference in context.roles(role)]
