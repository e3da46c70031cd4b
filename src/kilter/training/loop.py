"""One training from its first or its last saved step to its end, with what it writes on the way."""

import gc
import json
import math
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers.trainer_callback import PrinterCallback

from kilter.canonical import digest
from kilter.data.schemas import STEP_METRICS
from kilter.errors import StageFailed
from kilter.training.deepspeed import Joined
from kilter.training.jobs import CHECKPOINTS
from kilter.training.parallel import Place
from kilter.training.precision import device_name
from kilter.training.scoring import fitting_head
from kilter.training.trainers.prepared import IDENTITY
from kilter.training.trainers.together import Together
from kilter.training.trainers.watcher import SECONDS, Watcher
from kilter.training.universal import OwnSteps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kilter.plan.configs import TrainConfig
    from kilter.training.run import TrainingRun
    from kilter.training.schedule import Indices, Schedule
    from kilter.training.trainers.prepared import PreparedTrainer


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
def checkpoint_folder(output: "Path", place: Place) -> "Iterator[Path]":
    """Give a folder for checkpoints below the output; it is gone afterwards, since the output is what is published.

    All processes write into it, and the first one takes it away.
    """
    folder = output / CHECKPOINTS
    try:
        yield folder
    finally:
        if place.first:
            shutil.rmtree(folder, ignore_errors=True)


def common_arguments(
    config: "TrainConfig", schedule: "Schedule", checkpoints: "Path", joined: "Joined | None" = None
) -> dict[str, Any]:
    """Return the arguments that all trainers share; order, batches, saving and reporting are ours, not theirs."""
    joined = joined or Joined(Place(), device_name())
    device, processes = joined.device, joined.place.processes
    deal = schedule.dealt_to(processes)
    backend = {"cpu": "gloo", "cuda": "nccl"}[device]
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
        "per_device_train_batch_size": deal.micro_batch,
        "gradient_accumulation_steps": deal.accumulation,
        "ddp_backend": backend if processes > 1 or joined.config else None,
        "ddp_find_unused_parameters": False,
        "deepspeed": joined.config,
        "activation_checkpointing": joined.checkpointing,
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
        "processes": trainer.args.world_size,
        "zero": _zero(trainer),
    }
    trainer.remove_callback(PrinterCallback)
    trainer.follow(schedule, identity, _seconds_spent(checkpoint, identity))
    watcher = next((item for item in trainer.callback_handler.callbacks if isinstance(item, Watcher)), None)
    if watcher is not None and trainer.args.world_size > 1:
        trainer.add_callback(Together(trainer, watcher))
    _agree(trainer, checkpoint)
    if "checkpoint" in (trainer.args.deepspeed or {}):
        trainer.add_callback(OwnSteps())
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
    trainer: "PreparedTrainer",
    config: "TrainConfig",
    schedule: "Schedule",
    metrics: pa.Table,
    rows: int,
    joined: "Joined",
) -> dict[str, Any]:
    """Return what was in force, and how much was done: JSON data.

    Raises:
        StageFailed: another ZeRO stage was in force than the one that was settled on.
    """
    if (ran := _zero(trainer)) != joined.zero:
        raise StageFailed(f"the training should have run with ZeRO {joined.zero}, it ran with ZeRO {ran}")
    in_bf16 = joined.config is not None and config.precision == "bf16"
    last = {name: metrics[name][-1].as_py() for name in ("loss", "tokens", "seconds")}
    return {
        "steps": schedule.steps,
        "epochs": config.epochs,
        "rows": rows,
        **last,
        "effective_batch": schedule.effective_batch,
        "micro_batch": trainer.deal.micro_batch,
        "accumulation": trainer.deal.accumulation,
        "batch_unit": schedule.batch_unit,
        "precision": config.precision,
        "weights": "bfloat16, with a float32 copy in the optimizer" if in_bf16 else "float32",
        "device": trainer.args.device.type,
        **_gpu(trainer),
        **joined.summary(),
        # Under ZeRO 3 a weight is empty wherever it is not computed with, and remembers its size.
        "parameters": sum(getattr(weight, "ds_numel", weight.numel()) for weight in trainer.model.parameters()),
        "optimizer": str(getattr(trainer.args.optim, "value", trainer.args.optim)),
    }


def _gpu(trainer: "PreparedTrainer") -> dict[str, Any]:
    """Return which GPU trained and the most bytes that tensors took on it; nothing on a CPU."""
    device = trainer.args.device
    if device.type != "cuda":
        return {}
    return {"gpu": torch.cuda.get_device_name(device), "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(device)}


@contextmanager
def _imports_out_of_collection() -> "Iterator[None]":
    """Spare the collector, which accelerate calls, what was there before: PyTorch and all else cost it 0.4 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _agree(trainer: "PreparedTrainer", checkpoint: "Path | None") -> None:
    """Refuse to go on where processes found different checkpoints: each would wait for the others forever."""
    state = {} if checkpoint is None else json.loads((checkpoint / "trainer_state.json").read_text())
    step, processes = float(state.get("global_step", 0)), trainer.args.world_size
    if trainer.sum_over_processes([step, step * step]) != [step * processes, step * step * processes]:
        raise StageFailed(
            f"the processes would go on from different checkpoints (this one from step {step:g}): all of them need the "
            "same signing key (KILTER_SIGNING_KEY) and the same store; see the log for a checkpoint that was refused"
        )


def _zero(trainer: "PreparedTrainer") -> int:
    plugin = trainer.accelerator.state.deepspeed_plugin
    return int(plugin.zero_stage) if plugin is not None else 0


def _seconds_spent(checkpoint: "Path | None", identity: dict[str, Any]) -> float:
    if checkpoint is None:
        return 0.0
    theirs = json.loads((checkpoint / IDENTITY).read_text())
    if any(theirs.get(name) != identity[name] for name in ("training", "trainer")):
        raise StageFailed(
            f"the checkpoint {checkpoint} is of another training ({theirs}, here {identity}): delete the stage's "
            "checkpoints to start anew"
        )
    # Every step has the same rows however many share them out, and what ZeRO kept apart was converted for them.
    if theirs.get("zero") != identity["zero"]:
        raise StageFailed(
            f"the checkpoint {checkpoint.name} was made by {theirs.get('processes')} processes with ZeRO "
            f"{theirs.get('zero')}, and here are {identity['processes']} with ZeRO {identity['zero']}: no stage reads "
            f"what another wrote. Either go on with `distributed: {{processes: {theirs.get('processes')}, zero: "
            f"{theirs.get('zero')}}}`, or delete the stage's checkpoints (its folders attempts/*.resume in the store) "
            "to start from the beginning"
        )
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return float(next((entry[SECONDS] for entry in reversed(history) if SECONDS in entry), 0.0))
