"""Prepared token ids become padded tensors, in the shapes that TRL's losses read. Nothing is tokenised here."""

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
    """For TRL's DPO losses: all chosen sequences, then all rejected ones, and the reference's sums."""

    rows: "PairRows"
    reference: "Reference"
    pad_id: int

    def __call__(self, indices: "Sequence[int]") -> Batch:
        """Return `input_ids`, `attention_mask`, `completion_mask`, `ref_chosen_logps` and `ref_rejected_logps`."""
        tokens, attention, answers = pad_answers(*_pairs(self.rows, indices), self.pad_id)
        return {
            "input_ids": tokens,
            "attention_mask": attention,
            "completion_mask": answers,
            "ref_chosen_logps": _taken(self.reference.chosen, indices),
            "ref_rejected_logps": _taken(self.reference.rejected, indices),
        }


@dataclass(frozen=True)
class LikelihoodPairCollator:
    """For TRL's CPO loss, which needs no reference: chosen and rejected sequences with labels."""

    rows: "PairRows"
    pad_id: int

    def __call__(self, indices: "Sequence[int]") -> Batch:
        """Return `{chosen,rejected}_{input_ids,attention_mask,labels}`, all padded to one length."""
        tokens, attention, answers = pad_answers(*_pairs(self.rows, indices), self.pad_id)
        labels = tokens.masked_fill(answers == 0, IGNORED)
        batch: Batch = {}
        for name, part in (("chosen", slice(None, len(indices))), ("rejected", slice(len(indices), None))):
            batch[f"{name}_input_ids"] = tokens[part]
            batch[f"{name}_attention_mask"] = attention[part]
            batch[f"{name}_labels"] = labels[part]
        return batch


@dataclass(frozen=True)
class UnpairedCollator:
    """For TRL's KTO loss: each pair gives a desirable and an undesirable example, and their mismatched answers.

    The mismatched answers of a row are those of the row at `mismatched`, given this row's prompt.
    """

    rows: "PairRows"
    reference: "Reference"
    mismatched: "Reference"
    pad_id: int

    def __call__(self, indices: "Sequence[int]") -> Batch:
        """Return the examples, the mismatched (`KL_…`) ones, `label`, `ref_logps` and `ref_KL_logps`."""
        partners = np.searchsorted(self.rows.positions, self.rows.mismatched[np.asarray(indices)])
        prompts, answers = _pairs(self.rows, indices)
        _, others = _pairs(self.rows, partners.tolist())
        batch: Batch = {}
        for prefix, completions in (("", answers), ("KL_", others)):
            tokens, attention, mask = pad_answers(prompts, completions, self.pad_id)
            batch |= {f"{prefix}input_ids": tokens, f"{prefix}attention_mask": attention}
            batch[f"{prefix}completion_mask"] = mask
        batch["label"] = torch.arange(2 * len(indices)) < len(indices)
        for name, reference in (("ref_logps", self.reference), ("ref_KL_logps", self.mismatched)):
            batch[name] = torch.cat([_taken(reference.chosen, indices), _taken(reference.rejected, indices)])
        return batch


def _pairs(rows: "PairRows", indices: "Sequence[int]") -> "tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]":
    prompts = _lists(rows.prompts, indices)
    return prompts + prompts, _lists(rows.chosen, indices) + _lists(rows.rejected, indices)


def _lists(ragged: "Ragged", indices: "Sequence[int]") -> "list[NDArray[np.int64]]":
    return [ragged[row] for row in indices]


def _taken(values: NDArray[np.float64], indices: "Sequence[int]") -> Tensor:
    return torch.from_numpy(values[np.asarray(indices)].astype(np.float32))
