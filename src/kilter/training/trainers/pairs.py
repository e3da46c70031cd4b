"""What the preference trainers have in common: every pair weighs the same, and the first loss is checked."""

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from kilter.errors import StageFailed
from kilter.training.trainers.prepared import PreparedTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from kilter.training.collate import Batch
    from kilter.training.losses import Scores
    from kilter.training.objectives import Objective

# Sums of bf16 values differ with the kernel; another loss than the one asked for is further off than this.
_RELATIVE, _RELATIVE_BF16, _ABSOLUTE, _ABSOLUTE_BF16 = 1e-4, 5e-2, 1e-6, 5e-2


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
