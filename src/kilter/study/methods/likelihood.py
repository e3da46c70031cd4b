"""Methods without a reference: they compare the answers' own likelihoods."""

from kilter.study.methods.definition import Hyperparameter, Method, of

SIMPO_BETA = Hyperparameter(
    2.0, "scale of the average log-probability a token", "the paper, table 8 (Llama-3-Base; 2.0 to 2.5)"
)

LIKELIHOOD = (
    Method(
        name="cpo",
        title="Contrastive Preference Optimization",
        objective="-log σ(β (log π(w) - log π(l))) + α · NLL(w), NLL a token",
        paper="Xu et al. 2024, arXiv 2401.08417, equation 5",
        reference="none",
        likelihood="cpo_alpha",
        hyperparameters=of(
            beta=Hyperparameter(0.1, "scale of the preference margin", "the paper, section 4.2"),
            cpo_alpha=Hyperparameter(
                1.0, "weight of the likelihood of chosen answers", "the paper, section 3", minimum_allowed=True
            ),
        ),
        note="The paper's formula sums the likelihood over an answer; here it is a token's, as in TRL.",
    ),
    Method(
        name="simpo",
        written="SimPO",
        title="Simple Preference Optimization",
        objective="-log σ(β (log π(w)/|w| - log π(l)/|l|) - γ)",
        paper="Meng et al. 2024, arXiv 2405.14734, equation 6",
        reference="none",
        length_normalised=True,
        hyperparameters=of(
            beta=SIMPO_BETA,
            gamma=Hyperparameter(
                1.0, "margin γ between the rewards", "the paper, table 8 (Llama-3-Base)", minimum_allowed=True
            ),
        ),
    ),
    Method(
        name="cpo-simpo",
        written="CPO-SimPO",
        title="SimPO with the chosen answers' likelihood",
        objective="-log σ(β (log π(w)/|w| - log π(l)/|l|) - γ) + α · NLL(w), NLL a token",
        paper="Meng et al. 2024, arXiv 2405.14734, equation 6, and Xu et al. 2024, arXiv 2401.08417, equation 5",
        reference="none",
        length_normalised=True,
        likelihood="cpo_alpha",
        hyperparameters=of(
            beta=SIMPO_BETA,
            gamma=Hyperparameter(
                1.0, "margin γ between the rewards", "the SimPO paper, table 8 (Llama-3-Base)", minimum_allowed=True
            ),
            cpo_alpha=Hyperparameter(
                1.0, "weight of the likelihood of chosen answers", "the CPO paper, section 3", minimum_allowed=True
            ),
        ),
    ),
    Method(
        name="alphapo",
        written="AlphaPO",
        title="AlphaPO",
        objective="-log σ(β (r(w) - r(l)) - γ), r(y) = (1 - π(y)^(-α/|y|)) / α",
        paper="Gupta et al. 2025, arXiv 2501.03884",
        reference="none",
        length_normalised=True,
        hyperparameters=of(
            beta=Hyperparameter(2.5, "scale of the rewards", "the paper, table 3 (Mistral-Instruct)"),
            gamma=Hyperparameter(
                0.1, "margin γ between the rewards", "the paper, table 3 (Mistral-Instruct)", minimum_allowed=True
            ),
            alpha=Hyperparameter(0.25, "shape α of the reward", "the paper, table 3 (Mistral-Instruct)"),
        ),
    ),
    Method(
        name="orpo",
        title="Odds Ratio Preference Optimization",
        objective="NLL(w) - λ log σ(log odds(w) - log odds(l)), NLL and odds a token",
        paper="Hong et al. 2024, arXiv 2403.07691, equations 6 and 7",
        reference="none",
        length_normalised=True,
        hyperparameters=of(
            **{
                "lambda": Hyperparameter(
                    0.1, "weight of the odds-ratio term", "the paper, table 7 (Mistral-ORPO-β)", minimum_allowed=True
                )
            }
        ),
        note="The likelihood counts the answer's tokens, as equation 3 of the paper does; TRL counts the prompt's too.",
    ),
)
