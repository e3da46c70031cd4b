"""The objectives as formulas of log-probabilities, one loss a pair.

Held-out pairs are scored with them, the first batch of every training is checked against them, and what TRL lacks is
trained with them. Log-probabilities are sums over an answer's tokens, in nats, one entry a pair. Which paper and
equation each follows is in `kilter.study.methods`; w is the chosen answer and l the rejected one.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Answers:
    """What the policy, and the reference where there is one, say of one answer of each pair."""

    logps: Tensor
    """Log-probability of the whole answer."""
    tokens: Tensor
    """Number of its tokens."""
    heads: Tensor | None = None
    """Log-probability of as many first tokens as the pair's shorter answer has."""
    reference: Tensor | None = None
    reference_heads: Tensor | None = None
    log_weights: Tensor | None = None
    """WPO's weight of the answer, as a logarithm, without gradient."""

    @property
    def ratio(self) -> Tensor:
        """Log π/π_ref; log π without a reference."""
        return self.logps if self.reference is None else self.logps - self.reference

    @property
    def head_ratio(self) -> Tensor:
        """Log π/π_ref of as many first tokens as the pair's shorter answer has."""
        if self.heads is None or self.reference_heads is None:
            raise ValueError("these answers were scored without the sums over their first tokens")
        return self.heads - self.reference_heads

    @property
    def average(self) -> Tensor:
        """Log π a token."""
        return self.logps / self.tokens


@dataclass(frozen=True)
class Scores:
    """Both answers of some pairs."""

    chosen: Answers
    rejected: Answers

    @property
    def gap(self) -> Tensor:
        """Δ_w - Δ_l: by how much the log-ratio of the chosen answer is the larger one."""
        return self.chosen.ratio - self.rejected.ratio


def average_gap(scores: Scores) -> Tensor:
    """Return Δ_w/|w| - Δ_l/|l|."""
    return scores.chosen.ratio / scores.chosen.tokens - scores.rejected.ratio / scores.rejected.tokens


def likelihood_gap(scores: Scores) -> Tensor:
    """Return log π(w) - log π(l)."""
    return scores.chosen.logps - scores.rejected.logps


def average_likelihood_gap(scores: Scores) -> Tensor:
    """Return log π(w)/|w| - log π(l)/|l|."""
    return scores.chosen.average - scores.rejected.average


def head_weighted_gap(scores: Scores, tail_weight: float) -> Tensor:
    """Return Δ'_w - Δ'_l, where tokens beyond the shorter answer's length count `tail_weight` times."""
    sides = (scores.chosen, scores.rejected)
    chosen, rejected = (side.head_ratio + tail_weight * (side.ratio - side.head_ratio) for side in sides)
    return chosen - rejected


def power_reward_gap(scores: Scores, alpha: float) -> Tensor:
    """Return r(w) - r(l), r(y) = (1 - π(y)^(-α/|y|)) / α."""
    chosen, rejected = (-torch.expm1(-alpha * side.average) / alpha for side in (scores.chosen, scores.rejected))
    return chosen - rejected


def log_odds_gap(scores: Scores) -> Tensor:
    """Return log odds(w) - log odds(l), each of the average probability a token."""
    chosen, rejected = (_log_odds(side.average) for side in (scores.chosen, scores.rejected))
    return chosen - rejected


def forward_kl_gap(scores: Scores) -> Tensor:
    """Return f'(w) - f'(l) of the forward KL divergence, f'(Δ) = -e^(-Δ)."""
    return torch.exp(-scores.rejected.ratio) - torch.exp(-scores.chosen.ratio)


def jensen_shannon_gap(scores: Scores) -> Tensor:
    """Return f'(w) - f'(l) of the Jensen-Shannon divergence, f'(Δ) = log σ(Δ) up to a constant."""
    return logsigmoid(scores.chosen.ratio) - logsigmoid(scores.rejected.ratio)


def alpha_gap(scores: Scores, alpha: float) -> Tensor:
    """Return f'(w) - f'(l) of the α-divergence, f'(Δ) = (1 - e^(-αΔ)) / α."""
    chosen, rejected = (-torch.expm1(-alpha * side.ratio) / alpha for side in (scores.chosen, scores.rejected))
    return chosen - rejected


def logistic(gap: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """Return -(1 - ε) log σ(β gap) - ε log σ(-β gap)."""
    return -(1 - smoothing) * logsigmoid(beta * gap) - smoothing * logsigmoid(-beta * gap)


def robust(gap: Tensor, beta: float, smoothing: float) -> Tensor:
    """Return the logistic loss as it would be without the share ε of flipped labels, in expectation."""
    clean, flipped = -logsigmoid(beta * gap), -logsigmoid(-beta * gap)
    return ((1 - smoothing) * clean - smoothing * flipped) / (1 - 2 * smoothing)


def squared(gap: Tensor, beta: float) -> Tensor:
    """Return (gap - 1/(2β))²."""
    return (gap - 1 / (2 * beta)) ** 2


def hinge(gap: Tensor, beta: float) -> Tensor:
    """Return max(0, 1 - β gap)."""
    return torch.relu(1 - beta * gap)


def length_regularised(scores: Scores, beta: float, alpha: float) -> Tensor:
    """Return -log σ(β (Δ_w - Δ_l) + α (|w| - |l|))."""
    return -logsigmoid(beta * scores.gap + alpha * (scores.chosen.tokens - scores.rejected.tokens))


def weighted(scores: Scores, beta: float) -> Tensor:
    """Return -w(w) w(l) log σ(β (Δ_w - Δ_l)); weights that are not known are 1."""
    loss = -logsigmoid(beta * scores.gap)
    if scores.chosen.log_weights is None or scores.rejected.log_weights is None:
        return loss
    return torch.exp(scores.chosen.log_weights + scores.rejected.log_weights) * loss


def exact(scores: Scores, beta: float, smoothing: float) -> Tensor:
    """Return KL(q ‖ labels) of q = σ(β gap) against labels that are right with probability 1 - ε."""
    gap = beta * scores.gap
    right = torch.sigmoid(gap) * (logsigmoid(gap) - math.log1p(-smoothing))
    return right + torch.sigmoid(-gap) * (logsigmoid(-gap) - math.log(smoothing))


def noise_contrastive(scores: Scores, beta: float) -> Tensor:
    """Return -log σ(βΔ_w) - ½ log σ(-βΔ_w) - ½ log σ(-βΔ_l)."""
    chosen, rejected = beta * scores.chosen.ratio, beta * scores.rejected.ratio
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def binary_classifier(scores: Scores, beta: float, shift: float) -> Tensor:
    """Return -log σ(βΔ_w - δ) - log σ(δ - βΔ_l)."""
    return -logsigmoid(beta * scores.chosen.ratio - shift) - logsigmoid(shift - beta * scores.rejected.ratio)


def self_play(scores: Scores, beta: float) -> Tensor:
    """Return (Δ_w - 1/(2β))² + (Δ_l + 1/(2β))²."""
    return (scores.chosen.ratio - 1 / (2 * beta)) ** 2 + (scores.rejected.ratio + 1 / (2 * beta)) ** 2


def transport_paired(scores: Scores, beta: float, smoothing: float) -> Tensor:
    """Compare the sorted gaps of the policy with the sorted gaps of the reference."""
    if scores.chosen.reference is None or scores.rejected.reference is None:
        raise ValueError("optimal transport compares with a reference")
    own = likelihood_gap(scores).sort().values
    reference = (scores.chosen.reference - scores.rejected.reference).sort().values
    return logistic(own - reference, beta, smoothing)


def transport_unpaired(scores: Scores, beta: float, smoothing: float) -> Tensor:
    """Compare the sorted log-ratios of chosen answers with those of rejected ones."""
    return logistic(scores.chosen.ratio.sort().values - scores.rejected.ratio.sort().values, beta, smoothing)


def anchored_zero(scores: Scores, beta: float) -> Tensor:
    """Return 1 - σ(βΔ_w) + σ(βΔ_l)."""
    return torch.sigmoid(-beta * scores.chosen.ratio) + torch.sigmoid(beta * scores.rejected.ratio)


def anchored_down(scores: Scores, beta: float) -> Tensor:
    """Return σ(βΔ_w) + 1 - σ(β (Δ_w - Δ_l))."""
    return torch.sigmoid(beta * scores.chosen.ratio) + torch.sigmoid(-beta * scores.gap)


def modulated(scores: Scores, beta: float, tau: float) -> Tensor:
    """Return the logistic and the exponential loss of x = β gap, mixed by σ(x/τ)."""
    gap = beta * scores.gap
    share = torch.sigmoid(gap / tau)
    return -(1 - share) * logsigmoid(gap) + share * torch.exp(-gap)


def prospect(scores: Scores, kl: float, beta: float, desirable_weight: float, undesirable_weight: float) -> Tensor:
    """Return the mean of each pair's two losses, with z = max(kl, 0).

    They are λ_D (1 - σ(β (Δ_w - z))) and λ_U (1 - σ(β (z - Δ_l))).
    """
    baseline = max(kl, 0.0)
    desirable = desirable_weight * torch.sigmoid(-beta * (scores.chosen.ratio - baseline))
    undesirable = undesirable_weight * torch.sigmoid(-beta * (baseline - scores.rejected.ratio))
    return (desirable + undesirable) / 2


def chosen_likelihood(scores: Scores) -> Tensor:
    """Return the negative log-likelihood a token of all chosen answers together."""
    return -scores.chosen.logps.sum() / scores.chosen.tokens.sum()


def drift(scores: Scores) -> Tensor:
    """Estimate how far the policy has moved from the reference, in nats a token; zero only where they agree.

    Schulman's estimator of KL(π_ref ‖ π), exp(δ) - 1 - δ, of each answer's mean log-ratio a token δ, averaged over
    chosen and rejected answers. The data's answers stand in for samples of the reference: it compares models, no more.
    """
    ratios = torch.cat([side.ratio / side.tokens for side in (scores.chosen, scores.rejected)])
    return (torch.expm1(ratios) - ratios).mean()


def _log_odds(logp: Tensor) -> Tensor:
    return logp - torch.log(-torch.expm1(logp))
