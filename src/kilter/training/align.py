"""Preference alignment: one method, one size, one seed, from one parent model."""

from typing import TYPE_CHECKING, Any

import numpy as np

from kilter.errors import StageFailed
from kilter.training import layout
from kilter.training.adapters import load_policy, save_adapter, trained_adapter
from kilter.training.deepspeed import join, whole_model
from kilter.training.holdout import measure_held_out, read_held_out
from kilter.training.loop import checkpoint_folder, common_arguments, train, training_summary, write_metrics
from kilter.training.models import load_tokenizer, save_model
from kilter.training.tasks import alignment_task, alignment_trainer
from kilter.training.trainers.watcher import Watcher
from kilter.training.universal import fitted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kilter.plan.configs import AlignConfig
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
        output: Gets `metrics.parquet` and `model/`, or `adapter/` where an adapter is trained.
        run: Whom to tell, when to stop, and where checkpoints go.

    Returns:
        The summary: what was in force, how much was done, and what was measured on the held-out pairs. Of several
        processes only the first has one, and writes.

    Raises:
        StageFailed: inputs do not fit each other, a loss is not finite or not the method's, or the written model is not
            the trained one.
        WrongInput: the method or a hyperparameter is unknown or out of range.
        Preempted: `run.stop` became true; the state has been published.
    """
    task = alignment_task(data, reference, mismatched, config)
    held_out = read_held_out(data / "holdout.parquet", holdout_reference, task.objective)
    tokenizer = load_tokenizer(model)
    deal = task.schedule.dealt_to(run.parallel.place.processes)
    joined = join(run.parallel, model, config, deal, 2, int(task.rows.longest.max()))
    policy, stored = load_policy(model, config, joined)
    with checkpoint_folder(output, joined.place) as checkpoints:
        checkpoint = run.resume.latest()
        joined = fitted(checkpoint, joined)
        arguments = common_arguments(config, task.schedule, checkpoints, joined)
        watchers = [Watcher(run, task.schedule.steps)]
        trainer = alignment_trainer(policy, tokenizer, task, config, arguments, watchers)
        train(trainer, config, task.schedule, checkpoint, run)
    ran = trainer.ran_loss_type()
    if ran != task.objective.loss_type:
        raise StageFailed(f"{config.method} should train the loss {task.objective.loss_type}, the trainer ran {ran}")
    measured = None
    if held_out is not None and (joined.place.first or joined.keeps_parts):
        measured = measure_held_out(
            trainer.accelerator.unwrap_model(trainer.model),
            held_out,
            task.objective,
            config.hyperparameters,
            getattr(trainer, "shift", 0.0),
            config.precision,
            tokenizer.pad_token_id,
        )
    adapter = None if config.peft is None else trained_adapter(trainer, config.peft, joined)
    trained = None if config.peft is not None else whole_model(trainer, joined)
    if not joined.place.first:
        return {}
    metrics = write_metrics(trainer, task.schedule, task.rows.lengths, output / "metrics.parquet")
    pairs = len(np.unique(np.concatenate(task.schedule.micro_batches)))
    summary = training_summary(trainer, config, task.schedule, metrics, pairs, joined)
    if config.steps is not None:
        summary["epochs"] = task.schedule.rows / len(task.used)
    if adapter is not None:
        summary |= adapter.summary
        save_adapter(adapter, model, data, output / layout.ADAPTER)
    if trained is not None:
        save_model(trained, stored, model, data, output / layout.MODEL)
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
