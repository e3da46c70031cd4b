"""What a method trains on in which order, and the trainer that does it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kilter.errors import StageFailed
from kilter.training.collate import LikelihoodPairCollator, PairCollator, UnpairedCollator
from kilter.training.objectives import method_and_objective
from kilter.training.rows import Reference, join_reference, read_pairs, whole_blocks
from kilter.training.schedule import block_schedule, row_schedule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from kilter.plan.configs import AlignConfig
    from kilter.study.methods import Method
    from kilter.training.objectives import Objective
    from kilter.training.rows import PairRows
    from kilter.training.schedule import Indices, Schedule
    from kilter.training.trainers.pairs import PairTrainer


@dataclass(frozen=True)
class AlignmentTask:
    """What a method trains on, in which order."""

    method: "Method"
    objective: "Objective"
    rows: "PairRows"
    used: "Indices"
    """The numbers of the rows that are trained on."""
    schedule: "Schedule"
    reference: Reference | None
    mismatched: Reference | None


def alignment_task(
    data: "Path", reference: "Sequence[Path]", mismatched: "Sequence[Path]", config: "AlignConfig"
) -> AlignmentTask:
    """Read the training pairs with their reference values and lay out their order.

    Raises:
        StageFailed: the inputs do not fit each other, or hold nothing to train on.
        WrongInput: the method or a hyperparameter is unknown or out of range.
    """
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
        schedule, used = row_schedule(rows.longest, *batches), np.arange(len(rows))
    return AlignmentTask(
        method,
        objective,
        rows,
        used,
        schedule,
        join_reference(rows, used, reference) if method.needs_reference else None,
        join_reference(rows, used, mismatched, mismatched=True) if method.needs_mismatched else None,
    )


def alignment_trainer(
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: AlignmentTask,
    config: "AlignConfig",
    arguments: "dict[str, Any]",
    callbacks: "list[TrainerCallback]",
) -> "PairTrainer":
    """Make the trainer of the task's method, with its loss check in place.

    Args:
        policy: The model to train.
        tokenizer: Its tokenizer, asked for special tokens only.
        task: What to train on.
        config: The method's configuration.
        arguments: The arguments that all trainers share.
        callbacks: What looks at every step.
    """
    trainer = _trainer(policy, tokenizer, task, config, arguments, callbacks)
    trainer.optimise(task.objective, config.hyperparameters)
    return trainer


def _trainer(
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: AlignmentTask,
    config: "AlignConfig",
    arguments: "dict[str, Any]",
    callbacks: "list[TrainerCallback]",
) -> "PairTrainer":
    pad = tokenizer.pad_token_id
    values = config.hyperparameters
    loss_type = task.objective.loss_type
    if task.objective.trainer == "CPOTrainer":
        from kilter.training.trainers.cpo import CpoArguments, PreparedCpoTrainer

        cpo = CpoArguments(**arguments, **values, loss_type=loss_type, label_smoothing=0.0, alpha=0.0)
        return PreparedCpoTrainer(policy, tokenizer, LikelihoodPairCollator(task.rows, pad), cpo, callbacks)
    if task.reference is None:
        raise StageFailed(f"{task.objective.trainer} needs reference log-probabilities")
    arguments = {**arguments, "max_length": None, "precompute_ref_log_probs": True, "loss_type": loss_type, **values}
    if task.mismatched is not None:
        from trl import KTOConfig

        from kilter.training.trainers.kto import PreparedKtoTrainer

        unpaired = UnpairedCollator(task.rows, task.reference, task.mismatched, pad)
        return PreparedKtoTrainer(policy, tokenizer, unpaired, KTOConfig(**arguments), callbacks)
    from trl import DPOConfig

    from kilter.training.trainers.dpo import PreparedDpoTrainer

    paired = PairCollator(task.rows, task.reference, pad)
    return PreparedDpoTrainer(policy, tokenizer, paired, DPOConfig(**arguments), callbacks)
