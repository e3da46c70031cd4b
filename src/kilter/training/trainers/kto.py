"""KTO and the methods on single answers, by TRL's KTOTrainer."""

from typing import TYPE_CHECKING, Any

import torch
from trl import KTOTrainer
from trl.trainer import kto_trainer

from kilter.training.collate import MISMATCHED
from kilter.training.scoring import score_pairs
from kilter.training.trainers.pairs import PairTrainer, no_model_hash

if TYPE_CHECKING:
    from kilter.training.collate import Batch
    from kilter.training.methods.formulas import Scores


class PreparedKtoTrainer(PairTrainer, KTOTrainer):  # type: ignore[misc]
    """Takes prepared pairs as desirable and undesirable examples, with their mismatched answers and reference sums."""

    def __init__(self, *prepared: Any, **more: Any) -> None:
        with no_model_hash(kto_trainer):
            super().__init__(*prepared, **more)
        self.model.kilter_scores_tokens = True

    def scores(self, inputs: "Batch") -> "tuple[Scores, float]":
        """Score the batch's pairs; the KL estimate is the mean log-ratio of the mismatched answers."""
        scores = score_pairs(self.model, inputs)
        if f"{MISMATCHED}input_ids" not in inputs:
            return scores, 0.0
        others = {name.removeprefix(MISMATCHED): values for name, values in inputs.items() if MISMATCHED in name}
        mismatched = score_pairs(self.model, others)
        return scores, float(torch.cat([mismatched.chosen.ratio, mismatched.rejected.ratio]).mean())

    def ran_loss_type(self) -> str:
        """Return the loss type in force."""
        return str(self.loss_type)

    def _compute_loss(self, model: Any, inputs: "Batch", return_outputs: bool) -> Any:
        pairs = self.count_pairs(inputs)
        names = ("input_ids", "attention_mask", "completion_mask")
        batch = {name: inputs[name] for name in names} | {"ref_logps": inputs["reference"]}
        batch["label"] = torch.arange(2 * pairs, device=inputs["input_ids"].device) < pairs
        if self.calculate_KL:
            batch |= {f"KL_{name}": inputs[f"{MISMATCHED}{name}"] for name in names}
            batch["ref_KL_logps"] = inputs[f"{MISMATCHED}reference"]
        return super()._compute_loss(model, batch, return_outputs)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset
