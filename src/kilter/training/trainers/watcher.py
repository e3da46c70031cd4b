"""What is looked at after every step: whether the loss is a number, whether to save, whether to stop."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from kilter.errors import Preempted, StageFailed

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from kilter.training.run import TrainingRun

SECONDS = "kilter_seconds"


class Watcher(TrainerCallback):  # type: ignore[misc]
    """Reports each step, stops at the first loss that is no number, saves by time, and saves and stops when told to."""

    def __init__(self, run: "TrainingRun", steps: int) -> None:
        self.run = run
        self.steps = steps
        self.saved_at = time.monotonic()
        self.stopping = False

    def on_step_end(
        self, _args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **_: Any
    ) -> Any:
        """Ask for a checkpoint when it is time or when the training is to stop."""
        self.stopping = self.run.stop()
        due = time.monotonic() - self.saved_at >= self.run.checkpoint_seconds and state.global_step < self.steps
        control.should_save = self.stopping or due
        return control

    def on_log(
        self,
        _args: "TrainingArguments",
        state: "TrainerState",
        _control: "TrainerControl",
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Report the step's numbers.

        Raises:
            StageFailed: the loss or the gradient's norm is not finite.
        """
        if logs is None or "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            value = float(logs.get(name, 0.0))
            if not math.isfinite(value):
                raise StageFailed(
                    f"step {state.global_step} of {self.steps}: the {name} is {value}; the training was stopped and "
                    "nothing was saved; a smaller learning rate, a longer warm-up or fp32 are the usual remedies"
                )
        shown = {"loss": logs["loss"], "learning_rate": logs["learning_rate"]}
        self.run.progress.update(state.global_step, self.steps, "steps", shown)

    def on_save(self, args: "TrainingArguments", state: "TrainerState", _control: "TrainerControl", **_: Any) -> None:
        """Hand the checkpoint over.

        Raises:
            Preempted: the training was told to stop.
        """
        step = state.global_step
        self.run.resume.publish(Path(args.output_dir) / f"checkpoint-{step}", step)
        self.run.log(f"checkpoint of step {step} of {self.steps} is saved")
        self.saved_at = time.monotonic()
        if self.stopping:
            raise Preempted(
                f"told to stop after step {step} of {self.steps}; the state is saved, run it again to continue"
            )
