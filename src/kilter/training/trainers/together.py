"""Processes that train together decide together: all save after the same step, or none does."""

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from kilter.training.trainers.prepared import PreparedTrainer
    from kilter.training.trainers.watcher import Watcher


class Together(TrainerCallback):  # type: ignore[misc]
    """Follows a watcher: what one process was told, or one clock said, counts for all of them."""

    def __init__(self, trainer: "PreparedTrainer", watcher: "Watcher") -> None:
        self.trainer = trainer
        self.watcher = watcher

    def on_step_end(
        self, _args: "TrainingArguments", _state: "TrainerState", control: "TrainerControl", **_: Any
    ) -> Any:
        """Stop where one is to stop, save where one is to save."""
        stopping, saving = self.trainer.sum_over_processes([float(self.watcher.stopping), float(control.should_save)])
        self.watcher.stopping = stopping > 0
        control.should_save = saving > 0
        return control
