"""KTO by TRL's KTOTrainer."""

from typing import TYPE_CHECKING, Any

from trl import KTOTrainer
from trl.trainer import kto_trainer

from kilter.training.losses import Scores
from kilter.training.scoring import token_log_probabilities
from kilter.training.trainers.pairs import PairTrainer, no_model_hash
from kilter.training.trainers.prepared import RowNumbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
    from trl import KTOConfig

    from kilter.training.collate import Batch, UnpairedCollator


class PreparedKtoTrainer(PairTrainer, KTOTrainer):  # type: ignore[misc]
    """Takes prepared pairs as desirable and undesirable examples, with their mismatched answers and reference sums."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        collate: "UnpairedCollator",
        arguments: "KTOConfig",
        callbacks: "list[TrainerCallback]",
    ) -> None:
        self.collate = collate
        with no_model_hash(kto_trainer):
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
        """Return half the number of examples."""
        return len(inputs["label"]) // 2

    def scores(self, inputs: "Batch") -> tuple[Scores, float]:
        """Score the batch's pairs; the KL estimate is the mean log-ratio of the mismatched answers."""
        sums = {
            prefix: token_log_probabilities(
                self.model,
                inputs[f"{prefix}input_ids"],
                inputs[f"{prefix}attention_mask"],
                inputs[f"{prefix}completion_mask"],
            )
            .double()
            .sum(1)
            for prefix in ("", "KL_")
        }
        chosen, rejected = sums[""].chunk(2)
        chosen_tokens, rejected_tokens = inputs["completion_mask"].sum(1).chunk(2)
        references = inputs["ref_logps"].double().chunk(2)
        kl = (sums["KL_"] - inputs["ref_KL_logps"].double()).mean()
        return Scores(chosen, rejected, chosen_tokens, rejected_tokens, *references), float(kl)

    def ran_loss_type(self) -> str:
        """Return the loss type in force."""
        return str(self.loss_type)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset
