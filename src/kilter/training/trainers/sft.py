"""Supervised fine-tuning by TRL's SFTTrainer."""

from typing import TYPE_CHECKING, Any

from trl import SFTTrainer

from kilter.training.trainers.prepared import PreparedTrainer, RowNumbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
    from trl import SFTConfig

    from kilter.training.collate import ConversationCollator


class PreparedSftTrainer(PreparedTrainer, SFTTrainer):  # type: ignore[misc]
    """Takes prepared conversations; the loss is averaged over the learnt tokens of the whole step."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        collate: "ConversationCollator",
        arguments: "SFTConfig",
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
        self.model.kilter_scores_tokens = True

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset
