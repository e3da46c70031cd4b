"""One training from its first or its last saved step to its end, with what it writes on the way."""

import gc
import json
import math
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers.trainer_callback import PrinterCallback

from kilter.canonical import digest
from kilter.data.schemas import STEP_METRICS
from kilter.errors import StageFailed
from kilter.training.precision import device_name
from kilter.training.scoring import fitting_head
from kilter.training.trainers.prepared import IDENTITY
from kilter.training.trainers.watcher import SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kilter.plan.configs import TrainConfig
    from kilter.training.run import TrainingRun
    from kilter.training.schedule import Indices, Schedule
    from kilter.training.trainers.prepared import PreparedTrainer

_CHECKPOINTS = ".checkpoints"
_METRICS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "seconds": SECONDS,
    "rewards_chosen": "rewards/chosen",
    "rewards_rejected": "rewards/rejected",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
}


@contextmanager
def checkpoint_folder(output: "Path") -> "Iterator[Path]":
    """Give a folder for checkpoints below the output; it is gone afterwards, since the output is what is published."""
    folder = output / _CHECKPOINTS
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def common_arguments(config: "TrainConfig", schedule: "Schedule", checkpoints: "Path") -> dict[str, Any]:
    """Return the arguments that all trainers share; order, batches, saving and reporting are ours, not theirs."""
    device = device_name()
    warmup = math.ceil(config.warmup_ratio * schedule.steps)
    scheduler = "constant_with_warmup" if config.scheduler == "constant" and warmup else config.scheduler
    return {
        "output_dir": str(checkpoints),
        "use_cpu": device == "cpu",
        "bf16": config.precision == "bf16",
        "seed": config.seed,
        "data_seed": config.seed,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": scheduler,
        "warmup_steps": warmup,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "num_train_epochs": 1,
        "per_device_train_batch_size": schedule.micro_batch,
        "gradient_accumulation_steps": schedule.accumulation,
        "activation_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": device == "cuda",
        "eval_strategy": "no",
        "save_strategy": "no",
        "save_total_limit": 1,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_first_step": False,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "push_to_hub": False,
    }


def train(
    trainer: "PreparedTrainer",
    config: "TrainConfig",
    schedule: "Schedule",
    checkpoint: "Path | None",
    run: "TrainingRun",
) -> None:
    """Train along the schedule, from the checkpoint if there is one.

    Raises:
        StageFailed: the checkpoint is of another training, or a loss or gradient is not finite.
        Preempted: the run was told to stop; its state has been published.
    """
    identity = {
        "training": digest({"config": config.model_dump(mode="json"), "schedule": schedule.digest()}),
        "trainer": type(trainer).__name__,
        "world_size": trainer.args.world_size,
    }
    trainer.remove_callback(PrinterCallback)
    trainer.follow(schedule, identity, _seconds_spent(checkpoint, identity))
    if checkpoint is not None:
        run.log(f"continuing from the checkpoint in {checkpoint.name}")
    with _imports_out_of_collection(), fitting_head(trainer.model):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.state.global_step != schedule.steps:
        raise StageFailed(f"the training ended after {trainer.state.global_step} of {schedule.steps} steps")


def write_metrics(trainer: "PreparedTrainer", schedule: "Schedule", lengths: "Indices", path: "Path") -> pa.Table:
    """Write one row a step and return the table; `tokens` counts the policy's own input tokens, padding left out.

    Raises:
        StageFailed: a step is missing.
    """
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    if [entry["step"] for entry in entries] != list(range(1, schedule.steps + 1)):
        raise StageFailed(f"{len(entries)} steps were recorded, {schedule.steps} were trained")
    columns: dict[str, Any] = {name: [entry.get(key) for entry in entries] for name, key in _METRICS.items()}
    columns |= {"step": [entry["step"] for entry in entries], "tokens": schedule.tokens_per_step(lengths).cumsum()}
    table = pa.table({name: pa.array(columns[name], STEP_METRICS.field(name).type) for name in STEP_METRICS.names})
    pq.write_table(table, path)
    return table


def training_summary(
    trainer: "PreparedTrainer", config: "TrainConfig", schedule: "Schedule", metrics: pa.Table, rows: int
) -> dict[str, Any]:
    """Return what was in force, and how much was done: JSON data."""
    last = {name: metrics[name][-1].as_py() for name in ("loss", "tokens", "seconds")}
    return {
        "steps": schedule.steps,
        "epochs": config.epochs,
        "rows": rows,
        **last,
        "effective_batch": schedule.effective_batch,
        "micro_batch": schedule.micro_batch,
        "accumulation": schedule.accumulation,
        "batch_unit": schedule.batch_unit,
        "precision": config.precision,
        "weights": "float32",
        "device": trainer.args.device.type,
        "world_size": trainer.args.world_size,
        "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
        "optimizer": str(getattr(trainer.args.optim, "value", trainer.args.optim)),
    }


@contextmanager
def _imports_out_of_collection() -> "Iterator[None]":
    """Spare the collector, which accelerate calls, what was there before: PyTorch and all else cost it 0.4 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _seconds_spent(checkpoint: "Path | None", identity: dict[str, Any]) -> float:
    if checkpoint is None:
        return 0.0
    theirs = json.loads((checkpoint / IDENTITY).read_text())
    if theirs != identity:
        raise StageFailed(
            f"the checkpoint {checkpoint} is of another training ({theirs}, here {identity}): run on as many devices "
            "as before, or delete the stage's checkpoints to start anew"
        )
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return float(next((entry[SECONDS] for entry in reversed(history) if SECONDS in entry), 0.0))
