"""What the stages that train have in common."""

import os
from typing import TYPE_CHECKING

from kilter.training.run import TrainingRun

if TYPE_CHECKING:
    from kilter.stages.context import StageContext

CHECKPOINT_SECONDS = 300.0


def training_run(context: "StageContext") -> TrainingRun:
    """Return how this attempt reports, stops and resumes; KILTER_CHECKPOINT_SECONDS sets how often it saves."""
    seconds = float(os.environ.get("KILTER_CHECKPOINT_SECONDS", CHECKPOINT_SECONDS))
    return TrainingRun(progress=context.progress, resume=context.resume, stop=context.stop, checkpoint_seconds=seconds)
