"""Preference alignment: one method, one size, one seed, from one parent model."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kilter.errors import StageFailed
from kilter.study.methods import METHODS
from kilter.training import losses
from kilter.training.loop import checkpoint_folder, common_arguments, train, training_summary, write_metrics
from kilter.training.models import load_model, load_tokenizer, save_model
from kilter.training.precision import device_name
from kilter.training.rows import join_reference, read_pairs
from kilter.training.scoring import score_answers
from kilter.training.tasks import alignment_task, alignment_trainer
from kilter.training.trainers.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from kilter.plan.configs import AlignConfig
    from kilter.training.objectives import Objective
    from kilter.training.precision import Precision
    from kilter.training.rows import PairRows, Reference
    from kilter.training.run import TrainingRun


def run_align(
    model: "Path",
    data: "Path",
    reference: "Sequence[Path]",
    mismatched: "Sequence[Path]",
    holdout_reference: "Path | None",
    config: "AlignConfig",
    output: "Path",
    run: "TrainingRun",
) -> dict[str, Any]:
    """Align a model on prepared preference pairs.

    Args:
        model: Folder of the parent model.
        data: Folder with `train.parquet` and `holdout.parquet` (PREPARED_PAIRS).
        reference: Parquet files (REFERENCE_PAIRS) that cover the training pairs; unused by methods without a reference.
        mismatched: Parquet files (REFERENCE_MISMATCHED) that cover the training pairs, for KTO.
        holdout_reference: Parquet file (REFERENCE_PAIRS) of the held-out pairs.
        config: Everything that the outcome depends on.
        output: Gets `model/` and `metrics.parquet`.
        run: Whom to tell, when to stop, and where checkpoints go.

    Returns:
        The summary: what was in force, how much was done, and what was measured on the held-out pairs.

    Raises:
        StageFailed: inputs do not fit each other, a loss is not finite or not the method's, or the written model is not
            the trained one.
        WrongInput: the method or a hyperparameter is unknown or out of range.
        Preempted: `run.stop` became true; the state has been published.
    """
    task = alignment_task(data, reference, mismatched, config)
    held_out = _held_out_pairs(data / "holdout.parquet", holdout_reference, config)
    tokenizer = load_tokenizer(model)
    policy, stored = load_model(model, device_name())
    with checkpoint_folder(output) as checkpoints:
        checkpoint = run.resume.latest()
        arguments = common_arguments(config, task.schedule, checkpoints)
        watchers = [Watcher(run, task.schedule.steps)]
        trainer = alignment_trainer(policy, tokenizer, task, config, arguments, watchers)
        train(trainer, config, task.schedule, checkpoint, run)
    ran = trainer.ran_loss_type()
    if ran != task.objective.loss_type:
        raise StageFailed(f"{config.method} should train the loss {task.objective.loss_type}, the trainer ran {ran}")
    metrics = write_metrics(trainer, task.schedule, task.rows.lengths, output / "metrics.parquet")
    pairs = len(np.unique(np.concatenate(task.schedule.micro_batches)))
    summary = training_summary(trainer, config, task.schedule, metrics, pairs)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    measured = held_out and _measure(trained, *held_out, task.objective, config, tokenizer.pad_token_id)
    save_model(trained, stored, model, data, output / "model")
    return {
        "method": config.method,
        "trainer": task.objective.trainer,
        "loss_type": ran,
        "averaging": task.objective.averaging,
        **summary,
        "pairs": pairs,
        "pairs_cut": len(task.rows) - len(task.used),
        "hyperparameters": dict(config.hyperparameters),
        "truncated": int(task.rows.truncated[task.used].sum()),
        "held_out": measured,
    }


def _held_out_pairs(
    path: "Path", reference: "Path | None", config: "AlignConfig"
) -> "tuple[PairRows, Reference | None] | None":
    rows = read_pairs(path) if path.exists() else None
    if rows is None or not len(rows):
        return None
    if reference is not None:
        return rows, join_reference(rows, np.arange(len(rows)), [reference])
    if METHODS[config.method].needs_reference:
        raise StageFailed(f"{config.method} needs the reference log-probabilities of the held-out pairs")
    return rows, None


def _measure(
    model: "PreTrainedModel",
    rows: "PairRows",
    reference: "Reference | None",
    objective: "Objective",
    config: "AlignConfig",
    pad_id: int,
) -> dict[str, Any]:
    scores = _scores(model, rows, reference, config.precision, pad_id)
    gap = objective.gap(scores)
    return {
        "pairs": len(rows),
        "loss": objective.loss(scores, config.hyperparameters),
        "accuracy": float((gap > 0).double().mean()),
        "margin": float(config.hyperparameters["beta"] * gap.mean()),
        "kl": None if reference is None else float(losses.drift(scores)),
    }


def _scores(
    model: "PreTrainedModel", rows: "PairRows", reference: "Reference | None", precision: "Precision", pad_id: int
) -> losses.Scores:
    sums = []
    for answers in (rows.chosen, rows.rejected):
        everything = [answers[row] for row in range(len(rows))]
        prompts = [rows.prompts[row] for row in range(len(rows))]
        sums.append(score_answers(model, prompts, everything, answers.lengths, pad_id, precision)[0])
    tokens = [torch.from_numpy(answers.lengths) for answers in (rows.chosen, rows.rejected)]
    references = [] if reference is None else [torch.from_numpy(reference.chosen), torch.from_numpy(reference.rejected)]
    return losses.Scores(*map(torch.from_numpy, sums), *tokens, *references)
