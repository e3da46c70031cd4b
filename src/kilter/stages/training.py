"""What the stages that train have in common."""

import os
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilter.errors import Preempted, WrongInput
from kilter.progress import Silent
from kilter.study.specification import Distributed
from kilter.training.parallel import Parallel, place_from
from kilter.training.precision import accelerator_present
from kilter.training.run import GivenResume, TrainingRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.plan.configs import TrainConfig
    from kilter.stages.context import StageContext

HINT = "distributed"
_FUNCTIONS: "Mapping[str, str]" = {"sft": "run_sft", "align": "run_align"}


def train(
    context: "StageContext", inputs: "dict[str, Path | list[Path] | None]", config: "TrainConfig"
) -> dict[str, Any]:
    """Train in this process, or in as many as the study asks for, and return the summary.

    Where a launcher started this process beside others, it is one of theirs, and the study's number does not count.

    Args:
        context: Of the stage.
        inputs: What the training reads, by the names of its arguments.
        config: Of the training.

    Raises:
        Preempted: the stage was told to stop.
        StageFailed: see the training.
        WrongInput: more processes were asked for than there are GPUs.
    """
    asked = Distributed.model_validate(context.request.hints.get(HINT, {}))
    place = place_from(os.environ)
    run = _run(context)
    if place is not None:
        run = replace(run, parallel=Parallel(place, launched=True, zero=asked.zero, offload=asked.offload))
        if not place.first:
            run = replace(run, progress=Silent(), resume=GivenResume(context.resume.latest()))
    else:
        processes = count_processes(asked)
        if processes > 1 or asked.zero not in ("auto", 0) or asked.offload != "none":
            from kilter.training.launch import train_in_processes

            run = replace(run, parallel=Parallel(zero=asked.zero, offload=asked.offload))
            with tempfile.TemporaryDirectory(prefix="training-", dir=context.scratch) as folder:
                return train_in_processes(
                    context.request.stage, inputs, config, context.output, run, processes, Path(folder)
                )
    function = getattr(import_module(f"kilter.training.{context.request.stage}"), _FUNCTIONS[context.request.stage])
    summary: dict[str, Any] = function(**inputs, config=config, output=context.output, run=run)
    return summary


def count_processes(asked: Distributed) -> int:
    """Return how many processes are to train together on this machine.

    Raises:
        WrongInput: there are fewer GPUs.
    """
    if not accelerator_present():
        return 1 if asked.processes == "auto" else asked.processes
    import torch

    present = torch.cuda.device_count()
    if asked.processes == "auto":
        return max(1, present)
    if 0 < present < asked.processes:
        raise WrongInput(
            f"training.….distributed.processes is {asked.processes}, and this machine has {present} GPUs: write "
            f"at most {present}, or `auto`"
        )
    return asked.processes


def _run(context: "StageContext") -> TrainingRun:
    if context.stop():
        raise Preempted("told to stop before the training began; run it again")
    return TrainingRun(
        progress=context.progress,
        resume=context.resume,
        stop=context.stop,
        checkpoint_seconds=context.checkpoints.every_seconds,
    )
