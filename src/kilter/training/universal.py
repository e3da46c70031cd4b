"""A checkpoint of ZeRO is made to fit another number of processes, as DeepSpeed's universal one (arXiv 2406.18820)."""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from transformers import TrainerCallback

from kilter.errors import StageFailed
from kilter.training.trainers.prepared import IDENTITY

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import TrainerControl, TrainerState, TrainingArguments

    from kilter.training.deepspeed import Joined

_LATEST, _SUFFIX = "latest", "_universal"


def fitted(checkpoint: "Path | None", joined: "Joined") -> "Joined":
    """Return how the processes go on from a checkpoint, after converting it where as many processes did not make it.

    All processes must ask for it. A checkpoint without ZeRO fits any number, and one of another stage none.

    Raises:
        StageFailed: DeepSpeed cannot convert it.
    """
    if checkpoint is None or joined.config is None:
        return joined
    made_by = json.loads((checkpoint / IDENTITY).read_text())
    if made_by.get("zero") != joined.zero or made_by.get("processes") == joined.place.processes:
        return joined
    # Processes of one machine may have been given one folder or a copy each; each folder is converted once.
    here = (socket.gethostname(), str(checkpoint))
    everywhere: list[Any] = [None] * joined.place.processes
    distributed.all_gather_object(everywhere, here)
    if everywhere.index(here) == joined.place.rank:
        _convert(checkpoint)
    distributed.barrier()
    return replace(joined, config={**joined.config, "checkpoint": {"load_universal": True}})


class OwnSteps(TrainerCallback):  # type: ignore[misc]
    """Gives each weight's optimizer state a step counter of its own.

    DeepSpeed 0.19.8 restores one counter that all share, which then counts every step once for each of them.
    """

    def on_train_begin(
        self,
        _args: "TrainingArguments",
        state: "TrainerState",
        _control: "TrainerControl",
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Separate the counters, after the checkpoint was loaded and before the first step."""
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        for values in optimizer.state.values():
            values["step"] = torch.tensor(float(state.global_step), device=values["step"].device)


def _convert(checkpoint: "Path") -> None:
    """Write the checkpoint once more, by weight instead of by process; in a process of its own, which forks others."""
    tag = (checkpoint / _LATEST).read_text().strip().removesuffix(_SUFFIX)
    command = [
        *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"),
        *("--input_folder", str(checkpoint / tag), "--output_folder", str(checkpoint / f"{tag}{_SUFFIX}")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter
    if done.returncode:
        raise StageFailed(
            f"DeepSpeed could not convert the checkpoint {checkpoint.name} for another number of processes: "
            f"{done.stderr.strip()[-500:]}; run as many processes as before, or delete the stage's checkpoints "
            "(attempts/*.resume in the store) to start from the beginning"
        )
