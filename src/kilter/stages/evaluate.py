"""The evaluate stage: one benchmark of one model, or its answers to a few held-out prompts."""

from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from kilter.data.mirror import Mirror
from kilter.errors import StageFailed
from kilter.plan.configs import EvaluateConfig
from kilter.stages.models import model_folder

if TYPE_CHECKING:
    from kilter.evaluation.runner import ModelUnderTest
    from kilter.stages.context import StageContext

EVALUATION_SEED = 1234


def run(context: "StageContext") -> dict[str, Any]:
    """Score the model on the benchmark, or write its answers."""
    from kilter.evaluation.runner import evaluate_benchmark, evaluate_generations

    config = context.config_as(EvaluateConfig)
    model = context.resource(f"model {context.inputs['model']} {config.precision}", lambda: _load(context, config))
    if config.kind == "generations":
        prompts, identifiers = _prompts(context, config.prompts or 0)
        return evaluate_generations(
            model,
            prompts,
            config.max_new_tokens or 128,
            context.output,
            prompt_ids=identifiers,
            chat_template=config.template,
        )
    return evaluate_benchmark(
        model, config, _mirror(context, config), EVALUATION_SEED, context.output, context.progress
    )


def _load(context: "StageContext", config: EvaluateConfig) -> "ModelUnderTest":
    from kilter.evaluation.runner import ModelUnderTest

    return ModelUnderTest.load(model_folder(context), config.precision)


def _mirror(context: "StageContext", config: EvaluateConfig) -> Mirror | None:
    """Return what benchmark data come from: the task's own data, made here, or the study's mirror."""
    if config.content is not None:
        from kilter.data.builtin import benchmark_folder

        folder = context.resource("built-in benchmarks", lambda: benchmark_folder(context.scratch))
        return Mirror.at(folder, folder)
    return context.mirror()


def _prompts(context: "StageContext", count: int) -> tuple[list[list[dict[str, str]]], list[str]]:
    """Return the first held-out prompts in subset order, or the first training prompts where nothing is held out."""
    folder = context.fetch_role("rows")
    prompts: list[list[dict[str, str]]] = []
    identifiers: list[str] = []
    for name in ("holdout.parquet", "train.parquet"):
        for batch in pq.ParquetFile(folder / name).iter_batches(64, columns=["prompt_id", "context"]):
            for row in batch.to_pylist():
                if row["prompt_id"] not in identifiers:
                    prompts.append(row["context"])
                    identifiers.append(row["prompt_id"])
                if len(prompts) == count:
                    return prompts, identifiers
    if not prompts:
        raise StageFailed("the preference data hold no prompt to answer")
    return prompts, identifiers
