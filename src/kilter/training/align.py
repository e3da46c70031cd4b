"""Preference alignment: one method, one size, one seed, from one parent model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kilter.errors import StageFailed
from kilter.study.methods import METHODS
from kilter.training import losses
from kilter.training.collate import LikelihoodPairCollator, PairCollator, UnpairedCollator
from kilter.training.loop import checkpoint_folder, common_arguments, train, training_summary, write_metrics
from kilter.training.models import load_model, load_tokenizer, save_model
from kilter.training.objectives import method_and_objective
from kilter.training.precision import device_name
from kilter.training.rows import Reference, join_reference, read_pairs, whole_blocks
from kilter.training.schedule import block_schedule, row_schedule
from kilter.training.scoring import score_answers
from kilter.training.trainers.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kilter.plan.configs import AlignConfig
    from kilter.study.methods import Method
    from kilter.training.objectives import Objective
    from kilter.training.precision import Precision
    from kilter.training.rows import PairRows
    from kilter.training.run import TrainingRun
    from kilter.training.schedule import Indices, Schedule
    from kilter.training.trainers.prepared import PairTrainer


@dataclass(frozen=True)
class _Task:
    """What a method trains on, in which order."""

    method: "Method"
    objective: "Objective"
    rows: "PairRows"
    used: "Indices"
    """The numbers of the rows that are trained on."""
    schedule: "Schedule"
    reference: Reference | None
    mismatched: Reference | None


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
    task = _task(data, reference, mismatched, config)
    tokenizer = load_tokenizer(model)
    policy, stored = load_model(model, device_name())
    with checkpoint_folder(output) as checkpoints:
        checkpoint = run.resume.latest()
        arguments = common_arguments(config, task.schedule, checkpoints)
        trainer = _trainer(policy, tokenizer, task, config, arguments, Watcher(run, task.schedule.steps))
        trainer.optimise(task.objective, config.hyperparameters)
        train(trainer, config, task.schedule, checkpoint, run)
    ran = trainer.ran_loss_type()
    if ran != task.objective.loss_type:
        raise StageFailed(f"{config.method} should train the loss {task.objective.loss_type}, the trainer ran {ran}")
    metrics = write_metrics(trainer, task.schedule, task.rows.lengths, output / "metrics.parquet")
    pairs = len(np.unique(np.concatenate(task.schedule.micro_batches)))
    summary = training_summary(trainer, config, task.schedule, metrics, pairs)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    held_out = _held_out(trained, data, holdout_reference, task.objective, config, tokenizer.pad_token_id)
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
        "held_out": held_out,
    }


def _task(data: "Path", reference: "Sequence[Path]", mismatched: "Sequence[Path]", config: "AlignConfig") -> _Task:
    method, objective = method_and_objective(config.method, config.hyperparameters)
    path = data / "train.parquet"
    rows = read_pairs(path, config.size)
    batches = (config.epochs, config.batch_size, config.micro_batch_size, config.seed)
    if method.needs_mismatched:
        blocks = whole_blocks(path, rows)
        if not blocks:
            raise StageFailed(
                f"{config.method} needs whole blocks of pairs; the first {len(rows)} pairs hold none; use a larger size"
            )
        schedule, used = block_schedule(blocks, *batches), np.concatenate(blocks)
    else:
        schedule, used = row_schedule(len(rows), *batches), np.arange(len(rows))
    return _Task(
        method,
        objective,
        rows,
        used,
        schedule,
        join_reference(rows, used, reference) if method.needs_reference else None,
        join_reference(rows, used, mismatched, mismatched=True) if method.needs_mismatched else None,
    )


def _trainer(
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: _Task,
    config: "AlignConfig",
    arguments: "dict[str, Any]",
    watcher: Watcher,
) -> "PairTrainer":
    pad = tokenizer.pad_token_id
    values = config.hyperparameters
    loss_type = task.objective.loss_type
    if task.objective.trainer == "CPOTrainer":
        from kilter.training.trainers.cpo import CpoArguments, PreparedCpoTrainer

        cpo = CpoArguments(**arguments, **values, loss_type=loss_type, label_smoothing=0.0, alpha=0.0)
        return PreparedCpoTrainer(policy, tokenizer, LikelihoodPairCollator(task.rows, pad), cpo, [watcher])
    if task.reference is None:
        raise StageFailed(f"{task.objective.trainer} needs reference log-probabilities")
    arguments = {**arguments, "max_length": None, "precompute_ref_log_probs": True, "loss_type": loss_type, **values}
    if task.mismatched is not None:
        from trl import KTOConfig

        from kilter.training.trainers.kto import PreparedKtoTrainer

        unpaired = UnpairedCollator(task.rows, task.reference, task.mismatched, pad)
        return PreparedKtoTrainer(policy, tokenizer, unpaired, KTOConfig(**arguments), [watcher])
    from trl import DPOConfig

    from kilter.training.trainers.dpo import PreparedDpoTrainer

    paired = PairCollator(task.rows, task.reference, pad)
    return PreparedDpoTrainer(policy, tokenizer, paired, DPOConfig(**arguments), [watcher])


def _held_out(
    model: "PreTrainedModel",
    data: "Path",
    reference: "Path | None",
    objective: "Objective",
    config: "AlignConfig",
    pad_id: int,
) -> "dict[str, Any] | None":
    path = data / "holdout.parquet"
    rows = read_pairs(path) if path.exists() else None
    if rows is None or not len(rows):
        return None
    if reference is None and METHODS[objective.method].needs_reference:
        raise StageFailed(f"{config.method} needs the reference log-probabilities of the held-out pairs")
    values = None if reference is None else join_reference(rows, np.arange(len(rows)), [reference])
    scores = _scores(model, rows, values, config.precision, pad_id)
    gap = objective.gap(scores)
    return {
        "pairs": len(rows),
        "loss": objective.loss(scores, config.hyperparameters),
        "accuracy": float((gap > 0).double().mean()),
        "margin": float(config.hyperparameters["beta"] * gap.mean()),
        "kl": None if values is None else float(losses.drift(scores)),
    }


def _scores(
    model: "PreTrainedModel", rows: "PairRows", reference: Reference | None, precision: "Precision", pad_id: int
) -> losses.Scores:
    sums = []
    for answers in (rows.chosen, rows.rejected):
        everything = [answers[row] for row in range(len(rows))]
        prompts = [rows.prompts[row] for row in range(len(rows))]
        sums.append(score_answers(model, prompts, everything, answers.lengths, pad_id, precision)[0])
    tokens = [torch.from_numpy(answers.lengths) for answers in (rows.chosen, rows.rejected)]
    references = [] if reference is None else [torch.from_numpy(reference.chosen), torch.from_numpy(reference.rejected)]
    return losses.Scores(*map(torch.from_numpy, sums), *tokens, *references)
