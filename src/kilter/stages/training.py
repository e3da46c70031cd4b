"""What the stages that train have in common."""

from typing import TYPE_CHECKING

from kilter.errors import Preempted
from kilter.training.run import TrainingRun

if TYPE_CHECKING:
    from kilter.stages.context import StageContext


def training_run(context: "StageContext") -> TrainingRun:
    """Return how this attempt reports, stops, saves and resumes.

    Raises:
        Preempted: the stage was told to stop while it fetched its inputs.
    """
    if context.stop():
        raise Preempted("told to stop before the training began; run it again")
    return TrainingRun(
        progress=context.progress,
        resume=context.resume,
        stop=context.stop,
        checkpoint_seconds=context.checkpoints.every_seconds,
    )
