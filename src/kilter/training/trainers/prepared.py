"""What every trainer of ours has in common: our order, our batches, our checkpoints, and a check of the first loss."""

import json
import math
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from kilter.errors import StageFailed
from kilter.training.trainers.watcher import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from kilter.training.collate import Batch
    from kilter.training.losses import Scores
    from kilter.training.objectives import Objective
    from kilter.training.schedule import Schedule

IDENTITY = "kilter.json"
# Sums of bf16 values differ with the kernel; another loss than the one asked for is further off than this.
_RELATIVE, _RELATIVE_BF16, _ABSOLUTE, _ABSOLUTE_BF16 = 1e-4, 5e-2, 1e-6, 5e-2


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


class PairTrainer(PreparedTrainer):
    """A mixin before one of TRL's preference trainers.

    TRL averages micro-batches with equal weight; here each pair weighs the same, also when the last micro-batch of a
    step is smaller, so that how a step is split into micro-batches does not change it. The first loss of a training is
    compared with the method's formula: a loss other than the one that was asked for stops the training.
    """

    objective: "Objective"
    hyperparameters: "Mapping[str, float]"
    first_loss_checked: bool = False

    def optimise(self, objective: "Objective", hyperparameters: "Mapping[str, float]") -> None:
        """Take the formula that the loss must agree with."""
        self.objective = objective
        self.hyperparameters = hyperparameters
        self.pairs_done: list[int] = []

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Note how many pairs the step has, and in how many micro-batches."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        self.step_pairs = sum(self.count_pairs(batch) for batch in batches)
        self.step_batches = len(batches)
        self.note_step(batches)
        return batches, items

    def note_step(self, batches: "list[Batch]") -> None:
        """Note more about a step."""

    def compute_loss(self, model: Any, inputs: "Batch", *args: Any, **kwargs: Any) -> Any:
        """Return TRL's loss, weighted by the micro-batch's share of the step's pairs."""
        self.share = self.count_pairs(inputs) * self.step_batches / self.step_pairs
        self.pairs_done.append(self.count_pairs(inputs))
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not self.first_loss_checked:
            self._check_first_loss(inputs, self.unweighted(loss))
            self.first_loss_checked = True
        return self.weighted(loss)

    def weighted(self, loss: "Tensor") -> "Tensor":
        """Return the micro-batch's loss times its share."""
        return loss if self.share == 1 else loss * self.share

    def unweighted(self, loss: "Tensor") -> float:
        """Return the micro-batch's loss before any weighting."""
        return float(loss.detach())

    def count_pairs(self, inputs: "Batch") -> int:
        """Return the number of pairs of a batch."""
        raise NotImplementedError

    def scores(self, inputs: "Batch") -> "tuple[Scores, float]":
        """Score a batch's pairs with the model as it is; also return the batch's KL estimate, 0 if it has none."""
        raise NotImplementedError

    def ran_loss_type(self) -> str:
        """Return the loss type that the trainer has in force."""
        raise NotImplementedError

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Average the step's rewards over its pairs, where TRL averages over its micro-batches."""
        self._weigh_metrics(self.pairs_done)
        self.pairs_done = []
        super().log(logs, start_time)

    def stored_metrics(self) -> "dict[str, list[float]]":
        """Return TRL's metrics of the step's micro-batches."""
        metrics: dict[str, list[float]] = self._metrics["train"]
        return metrics

    def _weigh_metrics(self, pairs: list[int]) -> None:
        if len(set(pairs)) < 2:
            return
        metrics = self.stored_metrics()
        for name, values in metrics.items():
            if len(values) == len(pairs):
                metrics[name] = [math.fsum(map(float.__mul__, values, map(float, pairs))) / sum(pairs)]

    @torch.no_grad()
    def _check_first_loss(self, inputs: "Batch", loss: float) -> None:
        with self.accelerator.autocast():
            scores, kl = self.scores(inputs)
        wanted, ran = self.objective.loss_type, self.ran_loss_type()
        expected = self.objective.loss(scores, self.hyperparameters, kl)
        relative, absolute = (_RELATIVE_BF16, _ABSOLUTE_BF16) if self.args.bf16 else (_RELATIVE, _ABSOLUTE)
        if ran != wanted or not math.isclose(loss, expected, rel_tol=relative, abs_tol=absolute):
            raise StageFailed(
                f"{self.objective.method} should train the loss {wanted} of {self.objective.trainer}, {expected:.6g} "
                f"on the first batch; the trainer computed {loss:.6g} as {ran}"
            )


@contextmanager
def no_model_hash(module: Any) -> "Iterator[None]":
    """Keep a TRL trainer from hashing all weights for a cache of reference values that is never used."""
    original = module.hash_module
    module.hash_module = lambda _: ""
    try:
        yield
    finally:
        module.hash_module = original
