"""Methods with a reference whose losses are not a function of the difference of two log-ratios alone."""

from kilter.study.methods.definition import Hyperparameter, Method, of, pull, smoothing
from kilter.study.methods.logistic import ZEPHYR

APO_PAPER = "the paper, section 5.2"
ORDER = "The rewards of a micro-batch are sorted, so micro_batch_size is part of the method, and counts pairs."

CONTRASTIVE = (
    Method(
        name="exo",
        title="Efficient exact optimisation (EXO), pairwise",
        objective="q log(q / (1 - ε)) + (1 - q) log((1 - q) / ε), q = σ(β (Δ_w - Δ_l))",
        paper="Ji et al. 2024, arXiv 2402.00856, equation 16",
        hyperparameters=of(
            beta=pull(0.1, "TRL's default"),
            label_smoothing=smoothing(0.001, "what TRL names for the paper", minimum_allowed=False),
        ),
    ),
    Method(
        name="nca",
        title="Noise contrastive alignment, pairwise",
        objective="-log σ(βΔ_w) - ½ log σ(-βΔ_w) - ½ log σ(-βΔ_l)",
        paper="Chen et al. 2024, arXiv 2402.05369, section 4.1",
        hyperparameters=of(beta=pull(0.01, "the paper, appendix C")),
    ),
    Method(
        name="bco",
        title="Binary classifier optimisation, on pairs",
        objective="-log σ(βΔ_w - δ) - log σ(δ - βΔ_l), δ a moving average of the rewards",
        paper="Jung et al. 2024, arXiv 2404.04656 (as at ACL 2025), equations 7 and 8",
        hyperparameters=of(
            beta=pull(0.01, "TRL's index of papers; appendix C of the ACL 2025 version has 0.1"),
            shift_decay=Hyperparameter(
                0.9,
                "share of the old shift δ that each step keeps",
                "chosen here: about ten steps; the paper names no decay",
                minimum_allowed=True,
                maximum=1.0,
                maximum_allowed=False,
            ),
        ),
        note="δ is updated once a step from all its pairs, starts at 0, and is kept in checkpoints.",
    ),
    Method(
        name="sppo",
        title="Self-play preference optimisation, with hard labels",
        objective="(Δ_w - 1/(2β))² + (Δ_l + 1/(2β))²",
        paper="Wu et al. 2024, arXiv 2405.00675, equation 4.7, the winner's probability being 1",
        hyperparameters=of(
            beta=Hyperparameter(0.001, "the inverse of the paper's η", "the authors' released script (η = 1000)")
        ),
    ),
    Method(
        name="aot",
        title="Alignment via optimal transport, paired",
        objective="-log σ(β (sorted(π_w - π_l) - sorted(ref_w - ref_l))), log-probabilities sorted in the batch",
        paper="Melnyk et al. 2024, arXiv 2406.05882, section 3",
        statistic="order",
        hyperparameters=of(beta=pull(0.01, ZEPHYR), label_smoothing=smoothing(0.0, "none in the paper")),
        note=ORDER,
    ),
    Method(
        name="aot-unpaired",
        written="AOT-unpaired",
        title="Alignment via optimal transport, unpaired",
        objective="-log σ(β (sorted(Δ_w) - sorted(Δ_l))), sorted in the batch",
        paper="Melnyk et al. 2024, arXiv 2406.05882, section 3",
        view="unpaired",
        statistic="order",
        hyperparameters=of(beta=pull(0.01, ZEPHYR), label_smoothing=smoothing(0.0, "none in the paper")),
        note=ORDER,
    ),
    Method(
        name="apo-zero",
        written="APO-zero",
        title="Anchored preference optimisation, for answers better than the model's",
        objective="1 - σ(βΔ_w) + σ(βΔ_l)",
        paper="D'Oosterlinck et al. 2024, arXiv 2408.06266, equation 7",
        hyperparameters=of(beta=pull(0.1, APO_PAPER)),
    ),
    Method(
        name="apo-down",
        written="APO-down",
        title="Anchored preference optimisation, for answers worse than the model's",
        objective="σ(βΔ_w) + 1 - σ(β (Δ_w - Δ_l))",
        paper="D'Oosterlinck et al. 2024, arXiv 2408.06266, equation 8",
        hyperparameters=of(beta=pull(0.1, APO_PAPER)),
    ),
    Method(
        name="discopop",
        written="DiscoPOP",
        title="Discovered preference optimisation (log-ratio modulated loss)",
        objective="(1 - m) log(1 + e^(-x)) + m e^(-x), x = β (Δ_w - Δ_l), m = σ(x/τ)",
        paper="Lu et al. 2024, arXiv 2406.08414, equation 5",
        hyperparameters=of(
            beta=pull(0.05, "the paper, appendix B.1"),
            tau=Hyperparameter(0.05, "temperature τ of the mixing", "the paper, appendix E"),
        ),
    ),
)
