"""What the preference trainers have in common: every pair weighs the same, and the first loss is checked."""

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from kilter.errors import StageFailed
from kilter.training.scoring import score_pairs
from kilter.training.trainers.prepared import PreparedTrainer, RowNumbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from peft import PeftConfig
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

    from kilter.training.collate import Batch, PairCollator, UnpairedCollator
    from kilter.training.methods.formulas import Scores
    from kilter.training.methods.objectives import Objective
    from kilter.training.rows import PairRows

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
    rows: "PairRows"
    first_loss_checked: bool = False
    drops: bool = False
    """An adapter's inputs are dropped at random; before its first step it adds nothing, and its loss has a formula."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        collate: "PairCollator | UnpairedCollator",
        arguments: "TrainingArguments",
        callbacks: "list[TrainerCallback]",
        adapter: "PeftConfig | None" = None,
        **more: Any,
    ) -> None:
        """Give TRL's trainer rows that are prepared already.

        Args:
            model: The policy.
            tokenizer: Asked for special tokens only.
            collate: Makes batches of the prepared rows.
            arguments: Of TRL's trainer, of its own kind.
            callbacks: What looks at every step.
            adapter: What is trained in place of all weights; None trains those.
            more: What else the trainer takes.
        """
        self.collate = collate
        self.rows = collate.rows
        super().__init__(
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=RowNumbers.of(len(collate.rows)),
            processing_class=tokenizer,
            callbacks=callbacks,
            peft_config=adapter,
            **more,
        )

    def optimise(self, objective: "Objective", hyperparameters: "Mapping[str, float]") -> None:
        """Take the formula that the loss must agree with."""
        self.objective = objective
        self.hyperparameters = hyperparameters
        self.pairs_done: list[int] = []

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Note how many pairs the step has over all processes, and in how many micro-batches."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        self.step_pairs = len(self.step_rows)
        self.step_batches = self.step_slots
        self.step_tokens = self.step_total(self.rows.chosen.lengths)
        return batches, items

    def compute_loss(self, model: Any, inputs: "Batch", *args: Any, **kwargs: Any) -> Any:
        """Return TRL's loss, weighted by the micro-batch's share of the step's pairs."""
        pairs = 0 if self.idle else self.count_pairs(inputs)
        self.share = pairs * self.step_batches / self.step_pairs
        tokens = 0 if self.idle else self.count_chosen_tokens(inputs)
        self.token_share = tokens * self.step_batches / self.step_tokens
        self.pairs_done.append(pairs)
        with self._by_itself():
            loss = self.weighted(super().compute_loss(self.forward_of(model), inputs, *args, **kwargs))
        if not self.first_loss_checked:
            # An idle process checks as well: under ZeRO 3 every forward pass needs all processes.
            if not (self.drops and self.state.global_step):
                self._check_first_loss(inputs, float(loss.detach()))
            self.first_loss_checked = True
        return loss * 0 if self.idle else loss

    def weighted(self, loss: "Tensor") -> "Tensor":
        """Return the micro-batch's loss times its share of the step's pairs."""
        return loss if self.share == 1 else loss * self.share

    def count_pairs(self, inputs: "Batch") -> int:
        """Return half the number of sequences of a batch."""
        return len(inputs["input_ids"]) // 2

    def count_chosen_tokens(self, inputs: "Batch") -> int:
        """Return the number of tokens of a batch's chosen answers."""
        return int(inputs["completion_mask"][: self.count_pairs(inputs)].sum())

    def scores(self, inputs: "Batch") -> "tuple[Scores, float]":
        """Score a batch's pairs with the model as it is; also return the KL estimate or reward shift, 0 if none."""
        return score_pairs(self.model, inputs), 0.0

    def ran_loss_type(self) -> str:
        """Return the loss type that the trainer has in force."""
        raise NotImplementedError

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Average the step's rewards over its pairs on all processes, where TRL averages over its micro-batches."""
        self._weigh_metrics(self.pairs_done)
        self.pairs_done = []
        super().log(logs, start_time)

    def stored_metrics(self) -> "dict[str, list[float]]":
        """Return TRL's metrics of the step's micro-batches."""
        metrics: dict[str, list[float]] = self._metrics["train"]
        return metrics

    @contextmanager
    def _by_itself(self) -> "Iterator[None]":
        """Keep TRL from gathering from other processes at every forward pass.

        Metrics are put together once a step, and KTO's KL is that of the micro-batch, whatever other processes hold,
        whose micro-batches may also have other sizes.
        """
        names = ("gather", "gather_for_metrics")
        for name in names:
            setattr(self.accelerator, name, _own)
        try:
            yield
        finally:
            for name in names:
                delattr(self.accelerator, name)

    def _weigh_metrics(self, pairs: list[int]) -> None:
        if len(set(pairs)) < 2 and self.args.world_size == 1:
            return
        metrics = self.stored_metrics()
        names = sorted(name for name, values in metrics.items() if pairs and len(values) == len(pairs))
        weighted = [math.fsum(map(float.__mul__, map(float, metrics[name]), map(float, pairs))) for name in names]
        *sums, count = self.sum_over_processes([*weighted, float(sum(pairs))])
        for name, value in zip(names, sums, strict=True):
            metrics[name] = [value / count]

    @torch.no_grad()
    def _check_first_loss(self, inputs: "Batch", loss: float) -> None:
        # What is dropped later must not depend on this check.
        self.model.train(not self.drops)
        with self.accelerator.autocast():
            scores, shift = self.scores(inputs)
        self.model.train()
        wanted, ran = self.objective.loss_type, self.ran_loss_type()
        expected = self.objective.loss(scores, self.hyperparameters, shift, self.share, self.token_share)
        relative, absolute = (_RELATIVE_BF16, _ABSOLUTE_BF16) if self.args.bf16 else (_RELATIVE, _ABSOLUTE)
        if ran != wanted or not math.isclose(loss, expected, rel_tol=relative, abs_tol=absolute):
            raise StageFailed(
                f"{self.objective.method} should train the loss {wanted} of {self.objective.trainer}, {expected:.6g} "
                f"on the first batch; the trainer computed {loss:.6g} as {ran}"
            )


def _own(values: Any, *_: Any, **__: Any) -> Any:
    return values


@contextmanager
def no_model_hash(module: Any) -> "Iterator[None]":
    """Keep a TRL trainer from hashing all weights for a cache of reference values that is never used."""
    original = module.hash_module
    module.hash_module = lambda _: ""
    try:
        yield
    finally:
        module.hash_module = original
