"""DPO and IPO by TRL's DPOTrainer."""

from typing import TYPE_CHECKING, Any

from trl import DPOTrainer
from trl.trainer import dpo_trainer

from kilter.training.losses import Scores
from kilter.training.scoring import token_log_probabilities
from kilter.training.trainers.pairs import PairTrainer, no_model_hash
from kilter.training.trainers.prepared import RowNumbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
    from trl import DPOConfig

    from kilter.training.collate import Batch, PairCollator


class PreparedDpoTrainer(PairTrainer, DPOTrainer):  # type: ignore[misc]
    """Takes prepared pairs and the reference's sums; no reference model is loaded and nothing is scored beforehand."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        collate: "PairCollator",
        arguments: "DPOConfig",
        callbacks: "list[TrainerCallback]",
    ) -> None:
        self.collate = collate
        with no_model_hash(dpo_trainer):
            super().__init__(
                model=model,
                args=arguments,
                data_collator=collate,
                train_dataset=RowNumbers.of(len(collate.rows)),
                processing_class=tokenizer,
                callbacks=callbacks,
            )
        self.model.kilter_scores_tokens = True

    def count_pairs(self, inputs: "Batch") -> int:
        """Return half the number of sequences."""
        return len(inputs["input_ids"]) // 2

    def scores(self, inputs: "Batch") -> tuple[Scores, float]:
        """Score the batch's pairs; there is no KL estimate."""
        answers = inputs["completion_mask"]
        logps = (
            token_log_probabilities(self.model, inputs["input_ids"], inputs["attention_mask"], answers).double().sum(1)
        )
        chosen, rejected = logps.chunk(2)
        chosen_tokens, rejected_tokens = answers.sum(1).chunk(2)
        references = inputs["ref_chosen_logps"].double(), inputs["ref_rejected_logps"].double()
        return Scores(chosen, rejected, chosen_tokens, rejected_tokens, *references), 0.0

    def ran_loss_type(self) -> str:
        """Return the loss types in force, joined if there are several."""
        return "+".join(self.loss_types)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset
