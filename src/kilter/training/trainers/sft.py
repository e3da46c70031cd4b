"""Supervised fine-tuning by TRL's SFTTrainer."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from trl import SFTTrainer

from kilter.training.trainers.prepared import PreparedTrainer, RowNumbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
    from trl import SFTConfig

    from kilter.training.collate import Batch, ConversationCollator


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
        masks = collate.rows.masks
        # The first token has no position before it that could predict it.
        self.learnt = np.array([masks[row][1:].sum() for row in range(len(masks))], dtype=np.int64)

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Return TRL's loss; an idle slot's counts nothing."""
        loss = super().compute_loss(self.forward_of(model), *args, **kwargs)
        return loss * 0 if self.idle else loss

    def _get_num_items_in_batch(self, _batches: "list[Batch]", device: "torch.device") -> "torch.Tensor":
        return torch.tensor(self.step_total(self.learnt), device=device)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset
