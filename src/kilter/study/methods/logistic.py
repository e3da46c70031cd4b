"""DPO and its closest relatives: a logistic, hinge or squared loss of the difference of two log-ratios."""

from kilter.study.methods.definition import Hyperparameter, Method, of, pull, smoothing

ZEPHYR = "Zephyr's DPO recipe (alignment-handbook, zephyr-7b-beta)"
DPO_PAPER = "the DPO paper, appendix B"
PREFERENCE_SCAN = "Hugging Face's comparison of DPO, IPO and KTO (2024): the best of its scan for IPO"

LOGISTIC = (
    Method(
        name="dpo",
        title="Direct Preference Optimization",
        objective="-log σ(β (Δ_w - Δ_l))",
        paper="Rafailov et al. 2023, arXiv 2305.18290, equation 7",
        hyperparameters=of(beta=pull(0.01, ZEPHYR)),
    ),
    Method(
        name="cdpo",
        written="cDPO",
        title="Conservative DPO",
        objective="-(1 - ε) log σ(β (Δ_w - Δ_l)) - ε log σ(-β (Δ_w - Δ_l))",
        paper="Mitchell 2023, A note on DPO with noisy preferences, equation 3",
        hyperparameters=of(beta=pull(0.01, ZEPHYR), label_smoothing=smoothing(0.1, "chosen here: as for robust")),
        note="With ε = 0 this is dpo.",
    ),
    Method(
        name="robust",
        written="rDPO",
        title="Provably robust DPO (rDPO)",
        objective="(-(1 - ε) log σ(β (Δ_w - Δ_l)) + ε log σ(-β (Δ_w - Δ_l))) / (1 - 2ε)",
        paper="Chowdhury et al. 2024, arXiv 2403.00409, section 3.1",
        hyperparameters=of(
            beta=pull(0.01, "the paper, appendix B"), label_smoothing=smoothing(0.1, "the paper, section 6")
        ),
        note="The loss may be negative.",
    ),
    Method(
        name="ipo",
        title="Identity Preference Optimization, averaged by length",
        objective="(Δ_w/|w| - Δ_l/|l| - 1/(2β))²",
        paper="Azar et al. 2023, arXiv 2310.12036, equation 17, averaged over tokens as its authors advise",
        length_normalised=True,
        hyperparameters=of(
            beta=Hyperparameter(0.01, "the paper's τ: half the inverse of the target margin a token", PREFERENCE_SCAN)
        ),
    ),
    Method(
        name="ipo-sum",
        written="IPO-sum",
        title="Identity Preference Optimization, as printed",
        objective="(Δ_w - Δ_l - 1/(2β))²",
        paper="Azar et al. 2023, arXiv 2310.12036, equation 17",
        hyperparameters=of(
            beta=Hyperparameter(0.01, "the paper's τ: half the inverse of the target margin", PREFERENCE_SCAN)
        ),
        note="Sums grow with the answers' length, and so does the margin that is asked for; `ipo` averages.",
    ),
    Method(
        name="hinge",
        written="SLiC",
        title="Sequence likelihood calibration (SLiC), with a reference",
        objective="max(0, 1 - β (Δ_w - Δ_l))",
        paper="Zhao et al. 2023, arXiv 2305.10425, section 2, normalised as by Liu et al. 2023, arXiv 2309.06657",
        hyperparameters=of(beta=Hyperparameter(0.1, "the inverse of the margin that is enough", "TRL's default")),
    ),
    Method(
        name="dpo-forward-kl",
        written="DPO-forward-KL",
        title="f-DPO with the forward KL divergence",
        objective="-log σ(β (e^(-Δ_l) - e^(-Δ_w)))",
        paper="Wang et al. 2023, arXiv 2309.16240, theorem 1 and table 1",
        hyperparameters=of(beta=pull(0.1, DPO_PAPER)),
    ),
    Method(
        name="dpo-js",
        title="f-DPO with the Jensen-Shannon divergence",
        objective="-log σ(β (log σ(Δ_w) - log σ(Δ_l)))",
        paper="Wang et al. 2023, arXiv 2309.16240, theorem 1 and table 1",
        hyperparameters=of(beta=pull(0.1, DPO_PAPER)),
    ),
    Method(
        name="dpo-alpha",
        written="DPO-alpha",
        title="f-DPO with an α-divergence",
        objective="-log σ(β ((1 - e^(-αΔ_w)) - (1 - e^(-αΔ_l))) / α)",
        paper="Wang et al. 2023, arXiv 2309.16240, theorem 1 and table 1",
        hyperparameters=of(
            beta=pull(0.1, DPO_PAPER),
            alpha=Hyperparameter(
                0.5,
                "between the reverse KL (0) and the forward KL (1)",
                "the middle of its range",
                maximum=1.0,
                maximum_allowed=False,
            ),
        ),
    ),
    Method(
        name="r-dpo",
        title="Length-regularised DPO",
        objective="-log σ(β (Δ_w - Δ_l) + α (|w| - |l|))",
        paper="Park et al. 2024, arXiv 2403.19159",
        hyperparameters=of(
            beta=pull(0.1, DPO_PAPER),
            alpha=Hyperparameter(
                0.01,
                "what each token of an answer costs",
                "chosen here: a hundred tokens move the argument of σ by one",
                minimum_allowed=True,
            ),
        ),
        note="The sign follows from a reward less α a token, β Δ + α |y|: longer chosen answers are pushed less. "
        "Some texts print a minus, which would favour length.",
    ),
    Method(
        name="ld-dpo",
        title="Length-desensitised DPO",
        objective="-log σ(β (Δ'_w - Δ'_l)), Δ' counting the tokens beyond the shorter answer's length α times",
        paper="Liu et al. 2024, arXiv 2409.06411",
        hyperparameters=of(
            beta=pull(0.1, DPO_PAPER),
            ld_alpha=Hyperparameter(
                0.5,
                "weight of the tokens beyond the shorter answer's length",
                "the start that TRL's index of papers names",
                minimum_allowed=True,
                maximum=1.0,
            ),
        ),
        note="With a weight of 1 this is dpo.",
    ),
    Method(
        name="wpo",
        title="Weighted Preference Optimization",
        objective="-a(w) a(l) log σ(β (Δ_w - Δ_l)), a the policy's mean probability a token, relative to chance",
        paper="Zhou et al. 2024, arXiv 2406.11827, equations 1 and 2",
        hyperparameters=of(beta=pull(0.01, "the paper, section 4.1")),
        note="The held-out loss leaves the weights out: there it is dpo's. The authors' code caps a(w) a(l) at 1.",
    ),
    Method(
        name="rpo",
        title="DPO with the chosen answers' likelihood (RPO)",
        objective="-log σ(β (Δ_w - Δ_l)) + α · NLL(w), NLL a token",
        paper="Pang et al. 2024, arXiv 2404.19733, version 3",
        likelihood="rpo_alpha",
        hyperparameters=of(
            beta=pull(0.1, "TRL's default"),
            rpo_alpha=Hyperparameter(
                1.0,
                "weight α of the likelihood of chosen answers",
                "what the paper recommends, by TRL's documentation",
                minimum_allowed=True,
            ),
        ),
        note="The likelihood is averaged over the effective batch's tokens; the paper averages each answer first.",
    ),
    Method(
        name="tr-dpo",
        title="Trust-region DPO, with a reference that moves",
        objective="-log σ(β (Δ_w - Δ_l)), the reference drawn towards the policy by α every so many steps",
        paper="Gorbatovski et al. 2024, arXiv 2404.09656, section 3 (soft update)",
        reference="moving",
        hyperparameters=of(
            beta=pull(0.05, "the paper, table 1"),
            alpha=Hyperparameter(0.6, "share of the policy in each update", "the paper, table 1", maximum=1.0),
            sync_steps=Hyperparameter(
                64, "steps between updates", "chosen here: studies are short (TRL's default is 512)", whole=True
            ),
        ),
        note="Keeps a second model in memory; held-out numbers compare with the parent model, as for every method.",
    ),
)
