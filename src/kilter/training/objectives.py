"""How each method is trained: with which TRL trainer, loss type and averaging, and what loss it must then have."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kilter.errors import WrongInput
from kilter.study.methods import METHODS
from kilter.training import losses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from kilter.study.methods import Method

    PairLoss = Callable[[losses.Scores, Mapping[str, float], float], Tensor]
    Gap = Callable[[losses.Scores], Tensor]


@dataclass(frozen=True)
class Objective:
    """One method as it is trained."""

    method: str
    trainer: str
    """The TRL trainer that computes it."""
    loss_type: str
    """The trainer's own name of the loss."""
    averaging: str
    """How a step's loss is averaged, and what is averaged within an answer."""
    pair_loss: "PairLoss"
    """The formula: loss of each pair from scores, hyperparameters and the KL estimate (for KTO)."""
    gap: "Gap"
    """By how much a pair's chosen answer is preferred, before β: the difference that the loss looks at."""
    likelihood_weight: str | None = None
    """The hyperparameter that weighs the chosen answers' likelihood in the loss, if it has that term."""

    def loss(self, scores: losses.Scores, hyperparameters: "Mapping[str, float]", kl: float = 0.0) -> float:
        """Return the loss of the pairs by the formula."""
        loss = self.pair_loss(scores, hyperparameters, kl).mean()
        if self.likelihood_weight is not None:
            loss = loss + hyperparameters[self.likelihood_weight] * losses.chosen_likelihood(scores)
        return float(loss)


_PAIRS = "mean over the step's pairs; log-ratios summed over an answer's tokens"

OBJECTIVES: "dict[str, Objective]" = {
    objective.method: objective
    for objective in (
        Objective(
            "dpo",
            "DPOTrainer",
            "sigmoid",
            _PAIRS,
            lambda scores, values, _: losses.dpo(scores, values["beta"]),
            losses.summed_gap,
        ),
        Objective(
            "ipo",
            "DPOTrainer",
            "ipo",
            "mean over the step's pairs; log-ratios averaged over an answer's tokens",
            lambda scores, values, _: losses.ipo(scores, values["beta"]),
            losses.averaged_gap,
        ),
        Objective(
            "kto",
            "KTOTrainer",
            "kto",
            "mean over the step's answers; log-ratios summed over an answer's tokens; KL over a micro-batch",
            lambda scores, values, kl: losses.kto(scores, kl, **values),
            losses.summed_gap,
        ),
        Objective(
            "cpo",
            "CPOTrainer",
            "sigmoid",
            "mean over the step's pairs, log-probabilities summed; likelihood averaged over the step's chosen tokens",
            lambda scores, values, _: losses.cpo_preference(scores, values["beta"]),
            losses.likelihood_gap,
            likelihood_weight="cpo_alpha",
        ),
    )
}


def method_and_objective(name: str, hyperparameters: "Mapping[str, float]") -> "tuple[Method, Objective]":
    """Return a method and how it is trained, with its hyperparameters checked.

    Raises:
        WrongInput: the method is unknown, or a hyperparameter is missing, unknown or out of its range.
    """
    if name not in METHODS or name not in OBJECTIVES:
        raise WrongInput(f"unknown method {name!r}; known are {', '.join(OBJECTIVES)}")
    method = METHODS[name]
    for given in hyperparameters:
        if given not in method.hyperparameters:
            raise WrongInput(f"{name} has no hyperparameter {given!r}; it has {', '.join(method.hyperparameters)}")
    for wanted, hyperparameter in method.hyperparameters.items():
        if wanted not in hyperparameters:
            raise WrongInput(f"{name} needs a value of {wanted}: {hyperparameter.meaning}")
        if not hyperparameter.allows(hyperparameters[wanted]):
            raise WrongInput(f"{name}: {wanted} must be {hyperparameter.range_text}, got {hyperparameters[wanted]:g}")
    return method, OBJECTIVES[name]
