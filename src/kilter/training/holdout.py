"""What a trained model makes of the held-out pairs: loss, accuracy, margin, and drift from the parent model."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kilter.errors import StageFailed
from kilter.training.methods.formulas import Answers, Scores, drift
from kilter.training.rows import join_reference, read_pairs
from kilter.training.scoring import score_answers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

    from kilter.training.methods.objectives import Objective
    from kilter.training.precision import Precision
    from kilter.training.rows import PairRows, Ragged, Reference

    HeldOut = tuple[PairRows, Reference | None]


def read_held_out(path: "Path", reference: "Path | None", objective: "Objective") -> "HeldOut | None":
    """Read the held-out pairs with the parent's log-probabilities, if there are any.

    Raises:
        StageFailed: the method compares with a reference, and the parent's log-probabilities are not there.
    """
    rows = read_pairs(path) if path.exists() else None
    if rows is None or not len(rows):
        return None
    if reference is not None:
        return rows, join_reference(rows, np.arange(len(rows)), [reference])
    if objective.described.reference != "none":
        raise StageFailed(f"{objective.method} needs the reference log-probabilities of the held-out pairs")
    return rows, None


def measure_held_out(
    model: "PreTrainedModel",
    held_out: "HeldOut",
    objective: "Objective",
    hyperparameters: "Mapping[str, float]",
    shift: float,
    precision: "Precision",
    pad_id: int,
) -> dict[str, Any]:
    """Score the held-out pairs and return the method's loss and what is comparable between methods.

    Args:
        model: The trained model.
        held_out: The pairs and the parent's log-probabilities.
        objective: The method's formula.
        hyperparameters: Its values.
        shift: The reward shift that training ended with (BCO); 0 for other methods, KTO's KL too.
        precision: Of the forward passes.
        pad_id: Any token id.

    Returns:
        pairs, loss, accuracy (share of pairs whose chosen answer is preferred), margin (scaled as the method's reward),
        and kl (see `formulas.drift`; None without a reference).
    """
    rows, reference = held_out
    scores = _scores(model, rows, reference, precision, pad_id)
    gap = objective.gap(scores, hyperparameters)
    return {
        "pairs": len(rows),
        "loss": objective.loss(scores, hyperparameters, shift),
        "accuracy": float((gap > 0).double().mean()),
        "margin": float(objective.scale(hyperparameters) * gap.mean()),
        "kl": None if reference is None else float(drift(scores)),
    }


def _scores(
    model: "PreTrainedModel", rows: "PairRows", reference: "Reference | None", precision: "Precision", pad_id: int
) -> Scores:
    shorter = np.minimum(rows.chosen.lengths, rows.rejected.lengths)
    prompts = [rows.prompts[row] for row in range(len(rows))]

    def scored(answers: "Ragged", totals: Any, heads: Any) -> Answers:
        every = [answers[row] for row in range(len(rows))]
        sums, firsts = score_answers(model, prompts, every, shorter, pad_id, precision)
        known = [None if part is None else torch.from_numpy(part) for part in (firsts, totals, heads)]
        return Answers(torch.from_numpy(sums), torch.from_numpy(answers.lengths), *known)

    if reference is None:
        return Scores(scored(rows.chosen, None, None), scored(rows.rejected, None, None))
    return Scores(
        scored(rows.chosen, reference.chosen, reference.chosen_heads),
        scored(rows.rejected, reference.rejected, reference.rejected_heads),
    )
