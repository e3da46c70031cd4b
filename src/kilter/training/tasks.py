"""What a method trains on in which order, and the trainer that does it."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kilter.errors import StageFailed, WrongInput
from kilter.training.adapters import as_asked, lora_config
from kilter.training.collate import PairCollator, UnpairedCollator
from kilter.training.methods.objectives import checked_objective
from kilter.training.rows import Reference, join_reference, read_pairs, whole_blocks
from kilter.training.schedule import BatchUnit, block_schedule, row_schedule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from kilter.plan.configs import AlignConfig
    from kilter.study.methods import Method
    from kilter.training.methods.objectives import Objective
    from kilter.training.rows import PairRows
    from kilter.training.schedule import Indices, Schedule
    from kilter.training.trainers.pairs import PairTrainer


@dataclass(frozen=True)
class AlignmentTask:
    """What a method trains on, in which order."""

    objective: "Objective"
    rows: "PairRows"
    used: "Indices"
    """The numbers of the rows that are trained on."""
    schedule: "Schedule"
    reference: Reference | None
    mismatched: Reference | None

    @property
    def method(self) -> "Method":
        """What is trained, as data."""
        return self.objective.described


def alignment_task(
    data: "Path", reference: "Sequence[Path]", mismatched: "Sequence[Path]", config: "AlignConfig"
) -> AlignmentTask:
    """Read the training pairs with their reference values and lay out their order.

    Raises:
        StageFailed: the inputs do not fit each other, or hold nothing to train on.
        WrongInput: the method or a hyperparameter is unknown or out of range.
    """
    objective = checked_objective(config.method, config.hyperparameters)
    method = objective.described
    path = data / "train.parquet"
    rows = read_pairs(path, config.size)
    batches = (config.epochs, config.batch_size, config.micro_batch_size, config.seed)
    if method.needs_mismatched:
        blocks = whole_blocks(path, rows)
        if not blocks:
            raise StageFailed(
                f"{config.method} needs whole blocks of pairs; the first {len(rows)} pairs hold none; use a larger size"
            )
        schedule, used = block_schedule(blocks, *batches, steps=config.steps), np.concatenate(blocks)
    else:
        unit: BatchUnit = "micro-batch" if method.statistic == "order" else "row"
        schedule, used = row_schedule(rows.longest, *batches, steps=config.steps, unit=unit), np.arange(len(rows))
    return AlignmentTask(
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
        policy: The model to train, or to train an adapter on.
        tokenizer: Its tokenizer, asked for special tokens only.
        task: What to train on.
        config: The method's configuration.
        arguments: The arguments that all trainers share.
        callbacks: What looks at every step.

    Raises:
        WrongInput: an adapter is to be trained by a method whose reference moves with all weights.
    """
    trainer = _trainer(policy, tokenizer, task, config, arguments, callbacks)
    trainer.optimise(task.objective, config.hyperparameters)
    if config.peft is not None:
        as_asked(trainer.model, config.peft)
        trainer.drops = config.peft.dropout > 0
    return trainer


def _trainer(
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: AlignmentTask,
    config: "AlignConfig",
    arguments: "dict[str, Any]",
    callbacks: "list[TrainerCallback]",
) -> "PairTrainer":
    pad, objective, adapter = tokenizer.pad_token_id, task.objective, lora_config(config.peft)
    settings = {**arguments, **objective.arguments(config.hyperparameters)}
    paired = PairCollator(task.rows, task.reference, pad)
    if objective.trainer == "CPOTrainer":
        from kilter.training.trainers.likelihood import CpoArguments, PreparedCpoTrainer

        settings = {
            "cpo_alpha": 0.0,
            "alpha": 0.0,
            **settings,
            "loss_type": objective.loss_type,
            "label_smoothing": 0.0,
        }
        return PreparedCpoTrainer(policy, tokenizer, paired, CpoArguments(**settings), callbacks, adapter)
    if objective.trainer == "ORPOTrainer":
        from kilter.training.trainers.likelihood import OrpoArguments, PreparedOrpoTrainer

        return PreparedOrpoTrainer(policy, tokenizer, paired, OrpoArguments(**settings), callbacks, adapter)
    settings["max_length"] = None
    if objective.trainer == "KTOTrainer":
        from trl import KTOConfig

        from kilter.training.trainers.kto import PreparedKtoTrainer

        unpaired = UnpairedCollator(task.rows, _fixed(task), task.mismatched, pad)
        kto = KTOConfig(**settings, loss_type=objective.loss_type, precompute_ref_log_probs=True)
        return PreparedKtoTrainer(policy, tokenizer, unpaired, kto, callbacks, adapter)
    from trl import DPOConfig

    from kilter.training.trainers.dpo import PreparedDpoTrainer

    # What is ours is never computed by TRL, which wants a name all the same.
    settings["loss_type"] = ["sigmoid"] if objective.ours else objective.loss_type.split("+")
    if task.method.reference == "moving":
        if adapter is not None:
            raise WrongInput(f"{config.method} moves its reference with all weights; train it without `peft`")
        _refuse_parts(arguments)
        values = config.hyperparameters
        settings |= {"sync_ref_model": True, "ref_model_mixup_alpha": values["alpha"]}
        settings["ref_model_sync_steps"] = int(values["sync_steps"])
        moving = copy.deepcopy(policy)
        return PreparedDpoTrainer(policy, tokenizer, paired, DPOConfig(**settings), callbacks, moving_reference=moving)
    _fixed(task)
    settings["precompute_ref_log_probs"] = True
    return PreparedDpoTrainer(policy, tokenizer, paired, DPOConfig(**settings), callbacks, adapter=adapter)


def _refuse_parts(arguments: "dict[str, Any]") -> None:
    stage = (arguments.get("deepspeed") or {}).get("zero_optimization", {}).get("stage")
    if stage == 3:
        raise WrongInput(
            "a reference that moves is a second model, which ZeRO 3 would keep in parts that no checkpoint holds: "
            "write `distributed: {zero: 2}` for this method, or less"
        )


def _fixed(task: AlignmentTask) -> Reference:
    if task.reference is None:
        raise StageFailed(f"{task.objective.method} needs reference log-probabilities")
    return task.reference
