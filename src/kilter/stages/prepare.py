"""The prepare stage: rows become token ids, once per data set, tokenizer and template."""

from typing import TYPE_CHECKING, Any

from kilter.plan.configs import PrepareConfig

if TYPE_CHECKING:
    from kilter.stages.context import StageContext


def run(context: "StageContext") -> dict[str, Any]:
    """Render, tokenise and truncate the rows with the model's own tokenizer."""
    from kilter.data.prepare import prepare
    from kilter.stages.models import tokenizer_folder

    rows = context.fetch_role("rows")
    return prepare(
        rows, tokenizer_folder(context, "tokenizer"), context.config_as(PrepareConfig), context.output, context.progress
    )
