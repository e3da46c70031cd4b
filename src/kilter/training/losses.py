"""The objectives as formulas of log-probabilities.

Held-out pairs are scored with them, and the first batch of every training is checked against them.

All arguments are sums of log-probabilities over an answer's tokens, in nats, one entry a pair. Papers: DPO arXiv
2305.18290 equation 7, IPO arXiv 2310.12036 equation 17, KTO arXiv 2402.01306 equation 8, CPO arXiv 2401.08417.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of the answers of some pairs under the policy, and under the reference where there is one."""

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None

    @property
    def chosen_ratio(self) -> Tensor:
        """Log π/π_ref of the chosen answers; log π without a reference."""
        return self.chosen if self.reference_chosen is None else self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """Log π/π_ref of the rejected answers; log π without a reference."""
        return self.rejected if self.reference_rejected is None else self.rejected - self.reference_rejected


def summed_gap(scores: Scores) -> Tensor:
    """Return Δ_chosen - Δ_rejected of each pair, each Δ summed over its answer's tokens."""
    return scores.chosen_ratio - scores.rejected_ratio


def averaged_gap(scores: Scores) -> Tensor:
    """Return Δ_chosen - Δ_rejected of each pair, each Δ averaged over its answer's tokens."""
    return scores.chosen_ratio / scores.chosen_tokens - scores.rejected_ratio / scores.rejected_tokens


def likelihood_gap(scores: Scores) -> Tensor:
    """Return log π(chosen) - log π(rejected) of each pair."""
    return scores.chosen - scores.rejected


def dpo(scores: Scores, beta: float) -> Tensor:
    """Return -log σ(β (Δ_chosen - Δ_rejected)) of each pair."""
    return -functional.logsigmoid(beta * summed_gap(scores))


def ipo(scores: Scores, beta: float) -> Tensor:
    """Return (Δ_chosen - Δ_rejected - 1/(2β))² of each pair, with each Δ averaged over its answer's tokens."""
    return (averaged_gap(scores) - 1 / (2 * beta)) ** 2


def kto(scores: Scores, kl: float, beta: float, desirable_weight: float, undesirable_weight: float) -> Tensor:
    """Return the mean of each pair's two losses, with z = max(kl, 0).

    They are λ_D (1 - σ(β (Δ - z))) of the chosen answer and λ_U (1 - σ(β (z - Δ))) of the rejected one.
    """
    baseline = max(kl, 0.0)
    desirable = desirable_weight * (1 - torch.sigmoid(beta * (scores.chosen_ratio - baseline)))
    undesirable = undesirable_weight * (1 - torch.sigmoid(beta * (baseline - scores.rejected_ratio)))
    return (desirable + undesirable) / 2


def cpo_preference(scores: Scores, beta: float) -> Tensor:
    """Return -log σ(β (log π(chosen) - log π(rejected))) of each pair: CPO's preference term."""
    return -functional.logsigmoid(beta * likelihood_gap(scores))


def chosen_likelihood(scores: Scores) -> Tensor:
    """Return the negative log-likelihood a token of all chosen answers together: CPO's second term."""
    return -scores.chosen.sum() / scores.chosen_tokens.sum()


def drift(scores: Scores) -> Tensor:
    """Estimate how far the policy has moved from the reference, in nats a token; zero only where they agree.

    Schulman's estimator of KL(π_ref ‖ π), exp(δ) - 1 - δ, of each answer's mean log-ratio a token δ, averaged over
    chosen and rejected answers. The data's answers stand in for samples of the reference: it compares models, no more.
    """
    ratios = torch.cat([scores.chosen_ratio / scores.chosen_tokens, scores.rejected_ratio / scores.rejected_tokens])
    return (torch.expm1(ratios) - ratios).mean()
