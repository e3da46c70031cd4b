"""The pretrain stage: a small model and its tokenizer, made from scratch."""

from typing import TYPE_CHECKING, Any

from kilter.plan.configs import PretrainConfig

if TYPE_CHECKING:
    from kilter.stages.context import StageContext


def run(context: "StageContext") -> dict[str, Any]:
    """Train a tokenizer and a model on the ingested text."""
    from kilter.training.pretrain import run_pretrain

    folders = [context.fetch(reference) for reference in context.roles("data")]
    config = context.config_as(PretrainConfig)
    return run_pretrain(folders, config, context.output, context.progress, context.stop)
