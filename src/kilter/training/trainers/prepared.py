"""What every trainer of ours has in common: our order, our batches and our checkpoints."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from kilter.training.trainers.watcher import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from kilter.training.collate import Batch
    from kilter.training.schedule import Schedule

IDENTITY = "kilter.json"


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
    collate: "Callable[[Sequence[int]], Batch]"
    identity: dict[str, Any]
    earlier_seconds: float
    started: float

    def follow(self, schedule: "Schedule", identity: dict[str, Any], earlier_seconds: float) -> None:
        """Take the order of training, what its checkpoints are known by, and the seconds already spent on it."""
        self.schedule = schedule
        self.identity = identity
        self.earlier_seconds = earlier_seconds
        self.started = time.monotonic()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the micro-batches of the schedule, in its order."""
        batches = [batch.tolist() for batch in self.schedule.micro_batches]
        loader: DataLoader[Any] = DataLoader(
            range(1 + max(max(batch) for batch in batches)),  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=self.collate,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

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

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        Trainer._save_checkpoint(self, model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        (folder / IDENTITY).write_text(json.dumps(self.identity, indent=1))

    def _save(self, output_dir: str | None = None, state_dict: "dict[str, Tensor] | None" = None) -> None:
        self.model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict)
