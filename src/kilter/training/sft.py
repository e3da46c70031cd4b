"""Supervised fine-tuning on prepared conversations."""

from typing import TYPE_CHECKING, Any

from trl import SFTConfig as SftArguments

from kilter.errors import StageFailed
from kilter.training.collate import ConversationCollator
from kilter.training.deepspeed import join, whole_model
from kilter.training.loop import checkpoint_folder, common_arguments, train, training_summary, write_metrics
from kilter.training.models import load_model, load_tokenizer, save_model
from kilter.training.rows import read_conversations
from kilter.training.schedule import row_schedule
from kilter.training.trainers.sft import PreparedSftTrainer
from kilter.training.trainers.watcher import Watcher
from kilter.training.universal import fitted

if TYPE_CHECKING:
    from pathlib import Path

    from kilter.plan.configs import SftConfig
    from kilter.training.run import TrainingRun

_LOSS = "nll"


def run_sft(model: "Path", data: "Path", config: "SftConfig", output: "Path", run: "TrainingRun") -> dict[str, Any]:
    """Fine-tune a model on the learnt tokens of prepared conversations.

    Args:
        model: Folder of the model to start from.
        data: Folder with `train.parquet` (PREPARED_CONVERSATIONS).
        config: Everything that the outcome depends on.
        output: Gets `model/` and `metrics.parquet`.
        run: Whom to tell, when to stop, and where checkpoints go.

    Returns:
        The summary: what was in force and how much was done. Of several processes only the first has one, and writes.

    Raises:
        StageFailed: the data do not fit, a loss is not finite, or the written model is not the trained one.
        Preempted: `run.stop` became true; the state has been published.
    """
    rows = read_conversations(data / "train.parquet", config.size)
    schedule = row_schedule(
        rows.input_ids.lengths, config.epochs, config.batch_size, config.micro_batch_size, config.seed
    )
    deal = schedule.dealt_to(run.parallel.place.processes)
    joined = join(run.parallel, model, config, deal, 1, int(rows.input_ids.lengths.max()))
    tokenizer = load_tokenizer(model)
    policy, stored = load_model(model, joined.loading_device)
    with checkpoint_folder(output, joined.place) as checkpoints:
        checkpoint = run.resume.latest()
        joined = fitted(checkpoint, joined)
        arguments = SftArguments(
            **common_arguments(config, schedule, checkpoints, joined),
            loss_type=_LOSS,
            max_length=None,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        collate = ConversationCollator(rows, tokenizer.pad_token_id)
        trainer = PreparedSftTrainer(policy, tokenizer, collate, arguments, [Watcher(run, schedule.steps)])
        train(trainer, config, schedule, checkpoint, run)
    if trainer.args.loss_type != _LOSS:
        raise StageFailed(f"SFTTrainer trained {trainer.args.loss_type}, not {_LOSS}")
    trained = whole_model(trainer, joined)
    if trained is None:
        return {}
    metrics = write_metrics(trainer, schedule, rows.input_ids.lengths, output / "metrics.parquet")
    summary = training_summary(trainer, config, schedule, metrics, len(rows), joined)
    save_model(trained, stored, model, data, output / "model")
    return {
        "trainer": "SFTTrainer",
        "loss_type": _LOSS,
        "averaging": "mean over the step's learnt tokens",
        **summary,
        "learnt_tokens": int(rows.masks.values.sum()),
        "hyperparameters": {},
        "truncated": int(rows.truncated.sum()),
    }
