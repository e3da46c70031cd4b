"""The alignment methods that a study may name, with their hyperparameters, defaults, ranges and sources.

Pure data: the validation of studies, the plan and the documentation read it without importing torch.
"""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Hyperparameter:
    """One number of a method: its default, the open or closed range it must lie in, and where the default is from."""

    default: float
    meaning: str
    source: str
    minimum: float = 0.0
    maximum: float = float("inf")
    minimum_allowed: bool = False

    def allows(self, value: float) -> bool:
        """Tell whether `value` lies in the range."""
        above = value >= self.minimum if self.minimum_allowed else value > self.minimum
        return above and value <= self.maximum

    @property
    def range_text(self) -> str:
        """The range in words, for messages and documentation."""
        lower = f"{'at least' if self.minimum_allowed else 'above'} {self.minimum:g}"
        return lower if self.maximum == float("inf") else f"{lower} and at most {self.maximum:g}"


@dataclass(frozen=True)
class Method:
    """An alignment objective: what it optimises, on which view of the data, and with which hyperparameters."""

    name: str
    title: str
    objective: str
    paper: str
    view: str
    """`paired` (a prompt with a chosen and a rejected answer) or `unpaired` (each answer alone, desirable or not)."""
    needs_reference: bool
    hyperparameters: "Mapping[str, Hyperparameter]" = field(default_factory=dict)
    needs_mismatched: bool = False
    """Whether the loss has a KL term that is estimated on answers to other prompts (KTO)."""


_ZEPHYR = "Zephyr's DPO recipe (alignment-handbook, zephyr-7b-beta), beta 0.01"

METHODS: "Mapping[str, Method]" = MappingProxyType(
    {
        method.name: method
        for method in (
            Method(
                name="dpo",
                title="Direct Preference Optimization",
                objective="-log σ(β (Δ_chosen - Δ_rejected)), Δ the log-ratio of policy to reference",
                paper="Rafailov et al. 2023, arXiv 2305.18290, equation 7",
                view="paired",
                needs_reference=True,
                hyperparameters=MappingProxyType(
                    {"beta": Hyperparameter(0.01, "strength of the pull towards the reference", _ZEPHYR)}
                ),
            ),
            Method(
                name="ipo",
                title="Identity Preference Optimization",
                objective="(Δ_chosen - Δ_rejected - 1/(2β))², Δ averaged over the answer's tokens",
                paper="Azar et al. 2023, arXiv 2310.12036, equation 17 (averaged by length as its authors advise)",
                view="paired",
                needs_reference=True,
                hyperparameters=MappingProxyType(
                    {"beta": Hyperparameter(0.01, "the paper's τ: inverse of twice the target margin", _ZEPHYR)}
                ),
            ),
            Method(
                name="kto",
                title="Kahneman-Tversky Optimization",
                objective="λ (1 - σ(±β (Δ - KL))) for desirable and undesirable answers, each alone",
                paper="Ethayarajh et al. 2024, arXiv 2402.01306, equation 8",
                view="unpaired",
                needs_reference=True,
                needs_mismatched=True,
                hyperparameters=MappingProxyType(
                    {
                        "beta": Hyperparameter(
                            0.1, "strength of the pull towards the reference", "the paper, section 4"
                        ),
                        "desirable_weight": Hyperparameter(1.0, "weight λ_D of desirable answers", "the paper"),
                        "undesirable_weight": Hyperparameter(1.0, "weight λ_U of undesirable answers", "the paper"),
                    }
                ),
            ),
            Method(
                name="cpo",
                title="Contrastive Preference Optimization",
                objective="-log σ(β (log π(chosen) - log π(rejected))) + α · NLL(chosen)",
                paper="Xu et al. 2024, arXiv 2401.08417, equation 6",
                view="paired",
                needs_reference=False,
                hyperparameters=MappingProxyType(
                    {
                        "beta": Hyperparameter(0.1, "scale of the preference margin", "the paper's released code"),
                        "cpo_alpha": Hyperparameter(
                            1.0, "weight of the likelihood of chosen answers", "the paper", minimum_allowed=True
                        ),
                    }
                ),
            ),
        )
    }
)
