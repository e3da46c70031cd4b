"""What every trainer of ours has in common: our order, our batches and our checkpoints."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import is_peft_model
from torch.utils.data import DataLoader
from transformers import Trainer

from kilter.training.packing import PackedForward, can_pack, with_packing
from kilter.training.trainers.collect import collect
from kilter.training.trainers.watcher import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from kilter.training.collate import Batch
    from kilter.training.schedule import Deal, Indices, Schedule

IDENTITY = "kilter.json"
DEEPSPEED = "deepspeed.json"
"""DeepSpeed's configuration as it was in force, beside the checkpoint that was made with it."""


class RowNumbers(datasets.Dataset):  # type: ignore[misc]
    """Stands for the prepared rows where TRL insists on a data set; it refuses to be prepared once more."""

    @classmethod
    def of(cls, count: int) -> "RowNumbers":
        """Make one of `count` rows, in memory."""
        return cls(datasets.table.InMemoryTable(pa.table({"row": range(count)})), fingerprint=f"kilter-{count}")

    def map(self, *_: Any, **__: Any) -> "RowNumbers":
        """Return itself: the rows are token ids already."""
        return self


class PreparedTrainer(Trainer):  # type: ignore[misc]
    """A mixin before one of TRL's trainers.

    The whole training is one pass over an explicit schedule of micro-batches, so that order and resumption are ours.
    """

    schedule: "Schedule"
    deal: "Deal"
    collate: "Callable[[Sequence[int]], Batch]"
    identity: dict[str, Any]
    earlier_seconds: float
    started: float
    packed: bool = False
    """Whether forward passes leave the padding out."""
    step_rows: "Indices"
    """The rows of the step at hand, over all processes."""
    step_slots: int
    """The forward passes of the step at hand, over all processes: what their losses' mean divides by."""
    idle: bool = False
    """This process has no rows in the slot at hand; its batch is there for the forward pass and counts nothing."""

    def follow(self, schedule: "Schedule", identity: dict[str, Any], earlier_seconds: float) -> None:
        """Take the order of training, what its checkpoints are known by, and the seconds already spent on it."""
        self.schedule = schedule
        self.deal = schedule.dealt_to(self.args.world_size)
        self.identity = identity
        self.earlier_seconds = earlier_seconds
        self.started = time.monotonic()
        inner = self.accelerator.unwrap_model(self.model)
        self.packed = can_pack(inner)
        if self.packed:
            with_packing(inner)

    def forward_of(self, model: Any) -> Any:
        """Return what is called as the model: the model without padding, where its attention allows that."""
        return PackedForward(model) if self.packed else model

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process's micro-batches of the schedule, in its order; an idle slot gets the step's first row."""
        mine = self.deal.of_process(self.args.process_index)
        batches = [
            (rows if len(rows) else self.deal.rows_of_step(step)[:1]).tolist()
            for step, slots in enumerate(mine)
            for rows in slots
        ]
        loader: DataLoader[Any] = DataLoader(
            range(1 + max(max(batch) for batch in batches)),  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=self.collate,
            pin_memory=self.args.dataloader_pin_memory,
        )
        # The micro-batches are dealt out already, so accelerate must not share them out once more.
        prepared: DataLoader[Any] = prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True
        )
        return prepared

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Note the step at hand: every process knows the whole schedule, so that nobody needs to be asked."""
        step = self.state.global_step
        self.step_rows = self.deal.rows_of_step(step)
        self.step_slots = len(self.deal.steps[step]) * self.deal.processes
        self.slots = iter(self.deal.of_process(self.args.process_index)[step])
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> "Tensor":
        """Go on to the next slot of the step."""
        self.idle = not len(next(self.slots))
        loss: Tensor = super().training_step(*args, **kwargs)
        return loss

    def step_total(self, values: "Indices") -> int:
        """Return the sum of a number of each row, such as its tokens, over the step's rows on all processes."""
        return int(values[self.step_rows].sum())

    def sum_over_processes(self, values: "Sequence[float]") -> list[float]:
        """Return each number's sum over all processes, which must all ask for it at the same moment."""
        if self.args.world_size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.args.device)
        torch.distributed.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    def floating_point_ops(self, _inputs: "Mapping[str, Any]") -> int:
        """Return 0: counting parameters at every step costs more than small models' steps."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the seconds since the training's start, over all attempts."""
        logs[SECONDS] = self.earlier_seconds + time.monotonic() - self.started
        super().log(logs, start_time)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: a result is described by its manifest."""

    def _send_telemetry(self) -> None:
        """Send none."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights of a checkpoint, unless DeepSpeed's own state holds them already."""
        if not self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        Trainer._save_checkpoint(self, model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            (folder / IDENTITY).write_text(json.dumps(self.identity, indent=1))
            if self.is_deepspeed_enabled:
                (folder / DEEPSPEED).write_text(json.dumps(self.args.hf_deepspeed_config.config, indent=1))
        if self.args.world_size > 1:
            collect(folder, self.args.device)

    def _save(self, output_dir: str | None = None, state_dict: "dict[str, Tensor] | None" = None) -> None:
        # peft would ask the hub whether an adapter's base has other embeddings.
        options = {"save_embedding_layers": False} if is_peft_model(self.model) else {}
        self.model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict, **options)
