"""One of the processes that train together on this machine: `python -m kilter.training.worker JOB`."""

import importlib
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilter.errors import KilterError, Preempted, StageFailed
from kilter.plan.configs import AlignConfig, SftConfig
from kilter.processes import die_with_parent
from kilter.progress import Silent
from kilter.training.jobs import Ending, Job, Speaker
from kilter.training.parallel import Parallel, place_from
from kilter.training.run import GivenResume, TrainingRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.training.parallel import Place

_TRAININGS: "Mapping[str, tuple[type[SftConfig | AlignConfig], str, str]]" = {
    "sft": (SftConfig, "kilter.training.sft", "run_sft"),
    "align": (AlignConfig, "kilter.training.align", "run_align"),
}


class _Progress:
    """Tells the stage, through the process that started this one."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker

    def update(
        self, done: int, total: int | None = None, unit: str = "steps", values: "Mapping[str, float] | None" = None
    ) -> None:
        """Tell how far the training is."""
        numbers = {name: float(value) for name, value in (values or {}).items()}
        self._speaker.say(kind="progress", done=done, total=total, unit=unit, values=numbers)


class _Resume:
    """Hands checkpoints to the process that started this one, which keeps them."""

    def __init__(self, speaker: Speaker, checkpoint: Path | None) -> None:
        self._speaker = speaker
        self._checkpoint = checkpoint

    def latest(self) -> Path | None:
        """Return the checkpoint that all processes were given."""
        return self._checkpoint

    def publish(self, directory: Path, step: int) -> None:
        """Wait until the checkpoint has been taken away."""
        self._speaker.ask(kind="publish", name=directory.name, step=step)

    def settle(self) -> int | None:
        """Wait until the newest checkpoint is kept or given up."""
        kept = self._speaker.ask(kind="settle")
        return None if kept is None else int(kept)


def _run_of(job: Job, place: "Place") -> TrainingRun:
    parallel = Parallel(place, launched=True, zero=job.zero, offload=job.offload)  # type: ignore[arg-type]
    if not place.first:
        resume = GivenResume(job.checkpoint)
        return TrainingRun(Silent(), resume, lambda: False, job.checkpoint_seconds, lambda _: None, parallel)
    speaker = Speaker()
    return TrainingRun(
        _Progress(speaker),
        _Resume(speaker, job.checkpoint),
        speaker.told_to_stop,
        job.checkpoint_seconds,
        lambda text: speaker.say(kind="log", text=text),
        parallel,
    )


def _train(job: Job, place: "Place") -> dict[str, Any]:
    config, module, function = _TRAININGS[job.stage]
    train = getattr(importlib.import_module(module), function)
    inputs = {name: list(value) if isinstance(value, tuple) else value for name, value in job.inputs.items()}
    summary: dict[str, Any] = train(
        **inputs, config=config.model_validate(job.config), output=job.output, run=_run_of(job, place)
    )
    return summary


def main() -> int:
    """Train, and write how it ended where the process that started this one looks for it."""
    job = Job.model_validate_json(Path(sys.argv[1]).read_text())
    die_with_parent(job.parent)
    place = place_from(os.environ)
    if place is None:
        raise StageFailed("a training process was started without its place among the others")
    logging.basicConfig(level=logging.WARNING, format=f"process {place.rank}: %(message)s")
    try:
        ending = Ending(time.time(), summary=_train(job, place))
    except Preempted as error:
        # Each process is told; only the first knows what became of the checkpoint.
        ending = Ending(time.time(), {}) if not place.first else _failure(error)
    except KilterError as error:
        ending = _failure(error)
    except Exception as error:
        traceback.print_exc()
        ending = Ending(time.time(), kind=StageFailed.__name__, message=f"{type(error).__name__}: {error}")
    ending.write(job.folder, place.rank)
    sys.stdout.flush()
    sys.stderr.flush()
    return 0 if ending.kind in (None, Preempted.__name__) else 1


def _failure(error: KilterError) -> Ending:
    return Ending(time.time(), kind=type(error).__name__, message=str(error), step=getattr(error, "step", None))


if __name__ == "__main__":
    # Threads of process groups must not keep a process that is done.
    os._exit(main())
