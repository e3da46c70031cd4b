"""Prepared token ids become padded tensors. Nothing is tokenised here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kilter.training.rows import ConversationRows, PairRows, Ragged, Reference

IGNORED = -100
MISMATCHED = "mismatched_"
"""Begins the names of what belongs to answers to other prompts."""

Batch = dict[str, Tensor]


def pad_answers(
    prompts: "Sequence[NDArray[np.int64]]", answers: "Sequence[NDArray[np.int64]]", pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Put each prompt and its answer in a row, padded on the right.

    Returns:
        Token ids, attention mask and answer mask, each int64 of shape (sequences, longest).
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    tokens = np.full((len(prompts), longest), pad_id, dtype=np.int64)
    attention = np.zeros_like(tokens)
    answer_mask = np.zeros_like(tokens)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        tokens[row, : len(prompt)] = prompt
        tokens[row, len(prompt) : end] = answer
        attention[row, :end] = 1
        answer_mask[row, len(prompt) : end] = 1
    return torch.from_numpy(tokens), torch.from_numpy(attention), torch.from_numpy(answer_mask)


@dataclass(frozen=True)
class ConversationCollator:
    """For TRL's SFT loss: labels are -100 wherever nothing is learnt."""

    rows: "ConversationRows"
    pad_id: int

    def __call__(self, indices: "Sequence[int]") -> Batch:
        """Return `input_ids`, `attention_mask` and `labels`."""
        nothing = [np.empty(0, np.int64)] * len(indices)
        tokens, attention, _ = pad_answers(nothing, [self.rows.input_ids[row] for row in indices], self.pad_id)
        learnt, _, _ = pad_answers(nothing, [self.rows.masks[row] for row in indices], 0)
        return {"input_ids": tokens, "attention_mask": attention, "labels": tokens.masked_fill(learnt == 0, IGNORED)}


@dataclass(frozen=True)
class PairCollator:
    """All chosen sequences, then all rejected ones, and the reference's sums where there is a fixed reference."""

    rows: "PairRows"
    reference: "Reference | None"
    pad_id: int

    def __call__(self, indices: "Sequence[int]") -> Batch:
        """Return `input_ids`, `attention_mask`, `completion_mask`, and `reference` with `reference_heads`."""
        return _sequences(self.rows, indices, indices, self.pad_id) | _reference(self.reference, indices)


@dataclass(frozen=True)
class UnpairedCollator:
    """Each pair's desirable and undesirable example, and their mismatched answers where the loss needs them.

    The mismatched answers of a row are those of the row at `mismatched`, given this row's prompt.
    """

    rows: "PairRows"
    reference: "Reference"
    mismatched: "Reference | None"
    pad_id: int

    def __call__(self, indices: "Sequence[int]") -> Batch:
        """Return what `PairCollator` does, and the same of the mismatched answers under names with `mismatched_`."""
        batch = _sequences(self.rows, indices, indices, self.pad_id) | _reference(self.reference, indices)
        if self.mismatched is not None:
            partners = np.searchsorted(self.rows.positions, self.rows.mismatched[np.asarray(indices)])
            others = _sequences(self.rows, indices, partners.tolist(), self.pad_id)
            others |= _reference(self.mismatched, indices)
            batch |= {f"{MISMATCHED}{name}": value for name, value in others.items()}
        return batch


def _sequences(rows: "PairRows", prompts: "Sequence[int]", answers: "Sequence[int]", pad_id: int) -> Batch:
    """Pad the prompts with the chosen answers of some rows, then the prompts with their rejected answers."""
    contexts = _lists(rows.prompts, prompts)
    completions = _lists(rows.chosen, answers) + _lists(rows.rejected, answers)
    tokens, attention, mask = pad_answers(contexts + contexts, completions, pad_id)
    return {"input_ids": tokens, "attention_mask": attention, "completion_mask": mask}


def _reference(reference: "Reference | None", indices: "Sequence[int]") -> Batch:
    if reference is None:
        return {}
    batch = {"reference": torch.cat([_taken(reference.chosen, indices), _taken(reference.rejected, indices)])}
    if reference.chosen_heads is not None and reference.rejected_heads is not None:
        heads = [_taken(reference.chosen_heads, indices), _taken(reference.rejected_heads, indices)]
        batch["reference_heads"] = torch.cat(heads)
    return batch


def _lists(ragged: "Ragged", indices: "Sequence[int]") -> "list[NDArray[np.int64]]":
    return [ragged[row] for row in indices]


def _taken(values: NDArray[np.float64], indices: "Sequence[int]") -> Tensor:
    return torch.from_numpy(values[np.asarray(indices)].astype(np.float32))
