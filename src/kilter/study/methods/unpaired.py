"""Methods that look at each answer alone, desirable or not."""

from kilter.study.methods.definition import Hyperparameter, Method, of, pull

DESIRABLE = Hyperparameter(1.0, "weight λ_D of desirable answers", "the KTO paper's default")
UNDESIRABLE = Hyperparameter(1.0, "weight λ_U of undesirable answers", "the KTO paper's default")

UNPAIRED = (
    Method(
        name="kto",
        title="Kahneman-Tversky Optimization",
        objective="λ_D (1 - σ(β (Δ_w - z))) and λ_U (1 - σ(β (z - Δ_l))), z the KL, at least 0",
        paper="Ethayarajh et al. 2024, arXiv 2402.01306, equation 8",
        view="unpaired",
        statistic="kl",
        hyperparameters=of(
            beta=pull(0.1, "the paper's default"), desirable_weight=DESIRABLE, undesirable_weight=UNDESIRABLE
        ),
        note="z is estimated on answers to other prompts in a micro-batch of whole blocks, which is part of it.",
    ),
    Method(
        name="apo-zero-unpaired",
        written="APO-zero-unpaired",
        title="Anchored preference optimisation, each answer alone",
        objective="λ_D (1 - σ(βΔ_w)) and λ_U σ(βΔ_l)",
        paper="D'Oosterlinck et al. 2024, arXiv 2408.06266, equation 7, term by term",
        view="unpaired",
        hyperparameters=of(
            beta=pull(0.1, "the paper, section 5.2"), desirable_weight=DESIRABLE, undesirable_weight=UNDESIRABLE
        ),
    ),
)
