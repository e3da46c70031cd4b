"""CPO by TRL's CPOTrainer."""

import os
from typing import TYPE_CHECKING, Any

from kilter.training.collate import IGNORED
from kilter.training.losses import Scores
from kilter.training.scoring import token_log_probabilities
from kilter.training.trainers.pairs import PairTrainer
from kilter.training.trainers.prepared import RowNumbers

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
from trl.experimental.cpo import CPOConfig as CpoArguments
from trl.experimental.cpo import CPOTrainer

__all__ = ["CpoArguments", "PreparedCpoTrainer"]

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from kilter.training.collate import Batch, LikelihoodPairCollator


class PreparedCpoTrainer(PairTrainer, CPOTrainer):  # type: ignore[misc]
    """Takes prepared pairs; the likelihood term is averaged over the chosen tokens of the whole step."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        collate: "LikelihoodPairCollator",
        arguments: CpoArguments,
        callbacks: "list[TrainerCallback]",
    ) -> None:
        self.collate = collate
        super().__init__(
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=RowNumbers.of(len(collate.rows)),
            processing_class=tokenizer,
            callbacks=callbacks,
        )

    def note_step(self, batches: "list[Batch]") -> None:
        """Note how many chosen tokens the step has."""
        self.step_tokens = sum(_chosen_tokens(batch) for batch in batches)

    def concatenated_forward(self, model: Any, batch: "Batch") -> Any:
        """Weigh the likelihood term by the micro-batch's share of the step's chosen tokens."""
        outputs = super().concatenated_forward(model, batch)
        token_share = _chosen_tokens(batch) * self.step_batches / self.step_tokens
        self.likelihood = outputs[4].detach()
        return (*outputs[:4], outputs[4] * token_share, *outputs[5:])

    def cpo_loss(self, chosen: "Tensor", rejected: "Tensor") -> Any:
        """Weigh the preference term by the micro-batch's share of the step's pairs."""
        losses, *rewards = super().cpo_loss(chosen, rejected)
        self.preference = losses.detach().mean()
        return (losses * self.share, *rewards)

    def weighted(self, loss: "Tensor") -> "Tensor":
        """Return the loss as it is: its two terms are weighted already."""
        return loss

    def unweighted(self, _loss: "Tensor") -> float:
        """Return the sum of the two terms before they were weighted."""
        return float(self.preference + self.cpo_alpha * self.likelihood)

    def count_pairs(self, inputs: "Batch") -> int:
        """Return the number of chosen sequences."""
        return len(inputs["chosen_labels"])

    def scores(self, inputs: "Batch") -> tuple[Scores, float]:
        """Score the batch's pairs; there is neither a reference nor a KL estimate."""
        sums, tokens = [], []
        for name in ("chosen", "rejected"):
            answers = (inputs[f"{name}_labels"] != IGNORED).long()
            ids, attention = inputs[f"{name}_input_ids"], inputs[f"{name}_attention_mask"]
            sums.append(token_log_probabilities(self.model, ids, attention, answers).double().sum(1))
            tokens.append(answers.sum(1))
        return Scores(*sums, *tokens), 0.0

    def ran_loss_type(self) -> str:
        """Return the loss type in force."""
        return str(self.loss_type)

    def stored_metrics(self) -> dict[str, list[float]]:
        """Return TRL's metrics of the step's micro-batches."""
        metrics: dict[str, list[float]] = self._stored_metrics["train"]
        return metrics


def _chosen_tokens(batch: "Batch") -> int:
    return int((batch["chosen_labels"][:, 1:] != IGNORED).sum())
