"""DPO and the methods with its forward pass, by TRL's DPOTrainer; what TRL lacks is computed here by our formulas."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from trl import DPOTrainer
from trl.trainer import dpo_trainer

from kilter.training.methods.formulas import Answers, Scores
from kilter.training.models import load_model
from kilter.training.scoring import score_pairs
from kilter.training.trainers.pairs import PairTrainer, no_model_hash

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from kilter.training.collate import Batch

SHIFT = "reward_shift"
MOVED_REFERENCE = "reference"
"""The folder of a checkpoint that holds the weights of a moving reference."""


class PreparedDpoTrainer(PairTrainer, DPOTrainer):  # type: ignore[misc]
    """Takes prepared pairs and the reference's sums.

    No reference model is loaded and nothing is scored beforehand, unless the reference moves with the policy.
    """

    def __init__(self, *prepared: Any, moving_reference: "PreTrainedModel | None" = None, **more: Any) -> None:
        with no_model_hash(dpo_trainer):
            super().__init__(*prepared, ref_model=moving_reference, **more)
        self.model.kilter_scores_tokens = True
        self.rewards: list[Tensor] = []

    @property
    def shift(self) -> float:
        """BCO's reward shift δ: a moving average of the rewards, updated once a step, kept with the logged numbers."""
        logged = (entry[SHIFT] for entry in reversed(self.state.log_history) if SHIFT in entry)
        return float(next(logged, 0.0))

    def scores(self, inputs: "Batch") -> tuple[Scores, float]:
        """Score the batch's pairs; also return the reward shift."""
        return self._with_moving_reference(score_pairs(self.model, inputs), inputs), self.shift

    def ran_loss_type(self) -> str:
        """Return the loss types in force, joined if there are several."""
        return self.objective.loss_type if self.objective.ours else "+".join(self.loss_types)

    def weighted(self, loss: "Tensor") -> "Tensor":
        """Return the loss times its share; two terms are weighted already, each by what it averages over."""
        return loss if len(self.loss_types) > 1 else super().weighted(loss)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Move the reward shift by the step's rewards on all processes, where the method has one."""
        if "shift_decay" in self.hyperparameters:
            # A process that was idle all step has none, and must add them up with the others all the same.
            sums, counts = (sum(map(of, self.rewards)) for of in (lambda each: float(each.sum()), len))
            total, count = self.sum_over_processes([float(sums), float(counts)])
            decay = self.hyperparameters["shift_decay"]
            if count:
                logs[SHIFT] = decay * self.shift + (1 - decay) * total / count
            self.rewards = []
        super().log(logs, start_time)

    def _compute_loss(self, model: Any, inputs: "Batch", return_outputs: bool) -> Any:
        if self.objective.ours:
            return self._our_loss(model, inputs)
        batch = {name: inputs[name] for name in ("input_ids", "attention_mask", "completion_mask")}
        if "reference" in inputs:
            reference = inputs["reference"]
            if self.ld_alpha is not None:
                reference = inputs["reference_heads"] + self.ld_alpha * (reference - inputs["reference_heads"])
            batch["ref_chosen_logps"], batch["ref_rejected_logps"] = reference.chunk(2)
        if len(self.loss_types) == 1:
            return super()._compute_loss(model, batch, return_outputs)
        likelihood = self.objective.likelihood_weight(self.hyperparameters)
        self.loss_weights = [self.share, likelihood * self.token_share]
        return super()._compute_loss(model, batch, return_outputs)

    def _our_loss(self, model: Any, inputs: "Batch") -> "Tensor":
        scores = score_pairs(model, inputs)
        loss = self.objective.pair_loss(scores, self.hyperparameters, self.shift).mean()
        chosen, rejected = (self.beta * side.ratio.detach() for side in (scores.chosen, scores.rejected))
        metrics = self.stored_metrics()
        metrics["rewards/chosen"].append(float(chosen.mean()))
        metrics["rewards/rejected"].append(float(rejected.mean()))
        metrics["rewards/margins"].append(float((chosen - rejected).mean()))
        metrics["rewards/accuracies"].append(float((chosen > rejected).double().mean()))
        if "shift_decay" in self.hyperparameters and not self.idle:
            self.rewards.append(torch.cat([chosen, rejected]))
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.ref_model is not None and self.is_world_process_zero():
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            self.accelerator.unwrap_model(self.ref_model).save_pretrained(folder / MOVED_REFERENCE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.ref_model is not None:
            moved, _ = load_model(Path(resume_from_checkpoint) / MOVED_REFERENCE, "cpu")
            self.accelerator.unwrap_model(self.ref_model).load_state_dict(moved.state_dict())

    @torch.no_grad()
    def _with_moving_reference(self, scores: Scores, inputs: "Batch") -> Scores:
        if self.ref_model is None:
            return scores
        moved = score_pairs(self.ref_model, inputs)
        sides = ((scores.chosen, moved.chosen), (scores.rejected, moved.rejected))
        return Scores(*(Answers(mine.logps, mine.tokens, reference=theirs.logps) for mine, theirs in sides))

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset
