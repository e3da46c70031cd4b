"""What is looked at after every step: whether the loss is a number, whether to save, whether to stop."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
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
        self.save_began = self.saved_at
        self.stopping = False

    def on_step_end(
        self, _args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **_: Any
    ) -> Any:
        """Ask for a checkpoint when it is time or when the training is to stop."""
        self.stopping = self.run.stop()
        due = time.monotonic() - self.saved_at >= self.run.checkpoint_seconds and state.global_step < self.steps
        control.should_save = self.stopping or due
        self.save_began = time.monotonic()
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
        """Hand the checkpoint over; the training goes on while it is sent, unless it was told to stop.

        Of several processes, which have all written parts of it, the first one does so; the others wait for its word.

        Raises:
            Preempted: the training was told to stop; the newest checkpoint is kept, or the message says that it is not.
        """
        step = state.global_step
        if args.world_size > 1:
            torch.distributed.barrier()
        self.saved_at = time.monotonic()
        if state.is_world_process_zero:
            self.run.resume.publish(Path(args.output_dir) / f"checkpoint-{step}", step)
            self.run.log(f"step {step} of {self.steps} was saved in {self.saved_at - self.save_began:.1f} s")
        if not self.stopping:
            return
        kept = _word_of_first(self.run.resume.settle() if state.is_world_process_zero else None, args)
        seconds = time.monotonic() - self.save_began
        told = f"told to stop after step {step} of {self.steps}"
        if kept == step:
            raise Preempted(f"{told}; its state was kept in {seconds:.1f} s, run it again to continue", step)
        last = "no checkpoint of this attempt is" if kept is None else f"the last one that is kept is of step {kept}"
        raise Preempted(f"{told}, but its state could not be kept ({last}; the log says why)", kept)


def _word_of_first(step: int | None, args: "TrainingArguments") -> int | None:
    """Return the first process's step in all of them."""
    if args.world_size == 1:
        return step
    told = torch.tensor(-1 if step is None else step, device=args.device)
    torch.distributed.broadcast(told, 0)
    return None if told.item() < 0 else int(told.item())
