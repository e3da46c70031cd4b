"""CPO, SimPO, AlphaPO and ORPO by TRL's trainers, on the fused head: logits of the whole vocabulary are never held."""

import os
from typing import TYPE_CHECKING, Any

from kilter.training.scoring import score_tokens, with_token_log_probabilities
from kilter.training.trainers.pairs import PairTrainer

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
from trl.experimental.cpo import CPOConfig as CpoArguments
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOConfig as OrpoArguments
from trl.experimental.orpo import ORPOTrainer

__all__ = ["CpoArguments", "LikelihoodTrainer", "OrpoArguments", "PreparedCpoTrainer", "PreparedOrpoTrainer"]

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from kilter.training.collate import Batch


class LikelihoodTrainer(PairTrainer):
    """A mixin before TRL's CPO and ORPO trainers, which have the same shape.

    The likelihood term is averaged over the chosen tokens of the whole step, the other one over its pairs.
    """

    def __init__(self, model: "PreTrainedModel", *prepared: Any, **more: Any) -> None:
        # TRL's metrics want logits as well.
        with_token_log_probabilities(model, ("log_probs", "mean_logits"))
        super().__init__(model, *prepared, **more)

    def concatenated_forward(self, model: Any, batch: "Batch") -> Any:
        """Return log-probabilities of chosen and rejected answers, mean logits of both, and the weighted likelihood."""
        answers = batch["completion_mask"]
        outputs = score_tokens(model, batch["input_ids"], batch["attention_mask"], answers)
        sums, tokens = outputs.log_probs.sum(dim=1), answers[:, 1:].sum(dim=1)
        pairs = self.count_pairs(batch)
        likelihood = -sums[:pairs].sum() / tokens[:pairs].sum()
        logps = sums / tokens if self.objective.described.length_normalised else sums
        return (*logps.chunk(2), *outputs.mean_logits.chunk(2), likelihood * self.token_share)

    def weighted(self, loss: "Tensor") -> "Tensor":
        """Return the loss as it is: its two terms are weighted already."""
        return loss

    def stored_metrics(self) -> dict[str, list[float]]:
        """Return TRL's metrics of the step's micro-batches."""
        metrics: dict[str, list[float]] = self._stored_metrics["train"]
        return metrics


class PreparedCpoTrainer(LikelihoodTrainer, CPOTrainer):  # type: ignore[misc]
    """CPO, SimPO, both together, and AlphaPO."""

    def cpo_loss(self, chosen: "Tensor", rejected: "Tensor") -> Any:
        """Weigh the preference term by the micro-batch's share of the step's pairs."""
        losses, *rewards = super().cpo_loss(chosen, rejected)
        return (losses * self.share, *rewards)

    def ran_loss_type(self) -> str:
        """Return the loss type in force."""
        return str(self.loss_type)


class PreparedOrpoTrainer(LikelihoodTrainer, ORPOTrainer):  # type: ignore[misc]
    """ORPO."""

    def odds_ratio_loss(self, chosen: "Tensor", rejected: "Tensor") -> Any:
        """Weigh the odds-ratio term by the micro-batch's share of the step's pairs."""
        losses, *others = super().odds_ratio_loss(chosen, rejected)
        return (losses * self.share, *others)

    def ran_loss_type(self) -> str:
        """Return the only loss that the trainer has."""
        return "orpo"
