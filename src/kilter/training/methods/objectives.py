"""Which trainer of TRL computes each method, with which settings, and by which formula it is checked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor

from kilter.errors import WrongInput
from kilter.study.methods import METHODS, Method
from kilter.training.methods import formulas
from kilter.training.methods.formulas import Scores

Values = Mapping[str, float]
PairLoss = Callable[[Scores, Values, float], Tensor]
Gap = Callable[[Scores, Values], Tensor]
TrainerName = Literal["DPOTrainer", "KTOTrainer", "CPOTrainer", "ORPOTrainer"]

OURS = "kilter"
"""The loss type of a method that TRL lacks, or computes differently from its paper: our formula is what is trained."""


def _summed_gap(scores: Scores, _: Values) -> Tensor:
    return scores.gap


def _beta(values: Values) -> dict[str, Any]:
    return {"beta": values["beta"]}


@dataclass(frozen=True)
class Objective:
    """One method as it is trained."""

    method: str
    trainer: TrainerName
    """The TRL trainer whose forward pass, and loss unless it is ours, are used."""
    loss_type: str
    """The trainer's own name of the loss, or `kilter`."""
    pair_loss: PairLoss
    """The formula: loss of each pair from scores, hyperparameters, and the KL estimate (KTO) or reward shift (BCO)."""
    arguments: Callable[[Values], dict[str, Any]] = _beta
    """The trainer's settings for these hyperparameters."""
    gap: Gap = _summed_gap
    """By how much a pair's chosen answer is preferred, before β: the difference that the loss looks at."""
    needs: frozenset[str] = field(default_factory=frozenset)
    """What the forward pass must give besides the answers' log-probabilities: `heads` or `weights`."""

    @property
    def described(self) -> Method:
        """What the method is, as data."""
        return METHODS[self.method]

    @property
    def ours(self) -> bool:
        """Whether our formula is what is trained."""
        return self.loss_type == OURS

    @property
    def averaging(self) -> str:
        """How a step's loss is averaged, and what is averaged within an answer, in words."""
        method = self.described
        each = "answers" if method.view == "unpaired" else "pairs"
        within = "averaged over" if method.length_normalised else "summed over"
        parts = [f"mean over the step's {each}", f"log-probabilities {within} an answer's tokens"]
        if method.likelihood or self.method == "orpo":
            parts.append("likelihood averaged over the step's chosen tokens")
        if method.statistic == "kl":
            parts.append("KL over a micro-batch")
        if method.statistic == "order":
            parts.append("sorted within a micro-batch")
        return "; ".join(parts)

    def likelihood_weight(self, values: Values) -> float:
        """Return what weighs the chosen answers' likelihood a token in the loss; 0 where it has no such term."""
        if self.method == "orpo":
            return 1.0
        name = self.described.likelihood
        return 0.0 if name is None else values[name]

    def scale(self, values: Values) -> float:
        """Return what turns a gap into a margin of rewards: β, or λ."""
        return values["lambda"] if self.method == "orpo" else values["beta"]

    def loss(
        self, scores: Scores, values: Values, shift: float = 0.0, share: float = 1.0, token_share: float = 1.0
    ) -> float:
        """Return the loss of the pairs by the formula.

        Args:
            scores: The pairs.
            values: The hyperparameters.
            shift: The KL estimate (KTO) or the reward shift (BCO).
            share: What weighs the mean over pairs, where these are a part of a step.
            token_share: What weighs the mean over chosen tokens, likewise.
        """
        loss = share * self.pair_loss(scores, values, shift).mean()
        weight = self.likelihood_weight(values)
        return float(loss if weight == 0 else loss + token_share * weight * formulas.chosen_likelihood(scores))


def _of_gap(loss: Callable[..., Tensor], *names: str) -> PairLoss:
    """Return the formula that is a function of the summed gap and of some hyperparameters."""
    return lambda scores, values, _: loss(scores.gap, *(values[name] for name in names))


def _of_scores(loss: Callable[..., Tensor], *names: str) -> PairLoss:
    return lambda scores, values, _: loss(scores, *(values[name] for name in names))


def _smoothed(values: Values) -> dict[str, Any]:
    return {"beta": values["beta"], "label_smoothing": values["label_smoothing"]}


def _divergence(name: str) -> Callable[[Values], dict[str, Any]]:
    return lambda values: {"beta": values["beta"], "f_divergence_type": name}


def _weights(values: Values) -> dict[str, Any]:
    return {
        "beta": values["beta"],
        "desirable_weight": values["desirable_weight"],
        "undesirable_weight": values["undesirable_weight"],
    }


def _simpo(values: Values) -> dict[str, Any]:
    return {"beta": values["beta"], "simpo_gamma": values["gamma"], "cpo_alpha": values.get("cpo_alpha", 0.0)}


_DPO = (
    Objective("dpo", "DPOTrainer", "sigmoid", _of_gap(formulas.logistic, "beta")),
    Objective("cdpo", "DPOTrainer", OURS, _of_gap(formulas.logistic, "beta", "label_smoothing")),
    Objective("robust", "DPOTrainer", "robust", _of_gap(formulas.robust, "beta", "label_smoothing"), _smoothed),
    Objective(
        "ipo",
        "DPOTrainer",
        "ipo",
        lambda scores, values, _: formulas.squared(formulas.average_gap(scores), values["beta"]),
        gap=lambda scores, _: formulas.average_gap(scores),
    ),
    Objective("ipo-sum", "DPOTrainer", OURS, _of_gap(formulas.squared, "beta")),
    Objective("hinge", "DPOTrainer", "hinge", _of_gap(formulas.hinge, "beta")),
    Objective(
        "dpo-forward-kl",
        "DPOTrainer",
        "sigmoid",
        lambda scores, values, _: formulas.logistic(formulas.forward_kl_gap(scores), values["beta"]),
        _divergence("forward_kl"),
        lambda scores, _: formulas.forward_kl_gap(scores),
    ),
    Objective(
        "dpo-js",
        "DPOTrainer",
        "sigmoid",
        lambda scores, values, _: formulas.logistic(formulas.jensen_shannon_gap(scores), values["beta"]),
        _divergence("js_divergence"),
        lambda scores, _: formulas.jensen_shannon_gap(scores),
    ),
    Objective(
        "dpo-alpha",
        "DPOTrainer",
        "sigmoid",
        lambda scores, values, _: formulas.logistic(formulas.alpha_gap(scores, values["alpha"]), values["beta"]),
        # TRL writes the divergence's f' with a coefficient that is one less the paper's α.
        lambda values: _divergence("alpha_divergence")(values) | {"f_alpha_divergence_coef": 1 - values["alpha"]},
        lambda scores, values: formulas.alpha_gap(scores, values["alpha"]),
    ),
    Objective("r-dpo", "DPOTrainer", OURS, _of_scores(formulas.length_regularised, "beta", "alpha")),
    Objective(
        "ld-dpo",
        "DPOTrainer",
        "sigmoid",
        lambda scores, values, _: formulas.logistic(
            formulas.head_weighted_gap(scores, values["ld_alpha"]), values["beta"]
        ),
        lambda values: {"beta": values["beta"], "ld_alpha": values["ld_alpha"]},
        lambda scores, values: formulas.head_weighted_gap(scores, values["ld_alpha"]),
        frozenset({"heads"}),
    ),
    Objective(
        "wpo",
        "DPOTrainer",
        "sigmoid",
        _of_scores(formulas.weighted, "beta"),
        lambda values: {"beta": values["beta"], "use_weighting": True},
        needs=frozenset({"weights"}),
    ),
    Objective("rpo", "DPOTrainer", "sigmoid+sft", _of_gap(formulas.logistic, "beta")),
    Objective("tr-dpo", "DPOTrainer", "sigmoid", _of_gap(formulas.logistic, "beta")),
    Objective("exo", "DPOTrainer", "exo_pair", _of_scores(formulas.exact, "beta", "label_smoothing"), _smoothed),
    Objective("nca", "DPOTrainer", "nca_pair", _of_scores(formulas.noise_contrastive, "beta")),
    Objective(
        "bco",
        "DPOTrainer",
        OURS,
        lambda scores, values, shift: formulas.binary_classifier(scores, values["beta"], shift),
    ),
    Objective("sppo", "DPOTrainer", "sppo_hard", _of_scores(formulas.self_play, "beta")),
    Objective("aot", "DPOTrainer", "aot", _of_scores(formulas.transport_paired, "beta", "label_smoothing"), _smoothed),
    Objective(
        "aot-unpaired",
        "DPOTrainer",
        "aot_unpaired",
        _of_scores(formulas.transport_unpaired, "beta", "label_smoothing"),
        _smoothed,
    ),
    Objective("apo-zero", "DPOTrainer", "apo_zero", _of_scores(formulas.anchored_zero, "beta")),
    Objective("apo-down", "DPOTrainer", "apo_down", _of_scores(formulas.anchored_down, "beta")),
    Objective(
        "discopop",
        "DPOTrainer",
        "discopop",
        _of_scores(formulas.modulated, "beta", "tau"),
        lambda values: {"beta": values["beta"], "discopop_tau": values["tau"]},
    ),
)

_KTO = (
    Objective(
        "kto",
        "KTOTrainer",
        "kto",
        lambda scores, values, kl: formulas.prospect(scores, kl, **_weights(values)),
        _weights,
    ),
    Objective(
        "apo-zero-unpaired",
        "KTOTrainer",
        "apo_zero_unpaired",
        lambda scores, values, _: formulas.prospect(scores, 0.0, **_weights(values)),
        _weights,
    ),
)


def _averaged_likelihoods(scores: Scores, _: Values) -> Tensor:
    return formulas.average_likelihood_gap(scores)


def _simpo_loss(scores: Scores, values: Values, _: float) -> Tensor:
    return formulas.logistic(formulas.average_likelihood_gap(scores) - values["gamma"] / values["beta"], values["beta"])


_LIKELIHOOD = (
    Objective(
        "cpo",
        "CPOTrainer",
        "sigmoid",
        lambda scores, values, _: formulas.logistic(formulas.likelihood_gap(scores), values["beta"]),
        lambda values: {"beta": values["beta"], "cpo_alpha": values["cpo_alpha"]},
        lambda scores, _: formulas.likelihood_gap(scores),
    ),
    Objective("simpo", "CPOTrainer", "simpo", _simpo_loss, _simpo, _averaged_likelihoods),
    Objective("cpo-simpo", "CPOTrainer", "simpo", _simpo_loss, _simpo, _averaged_likelihoods),
    Objective(
        "alphapo",
        "CPOTrainer",
        "simpo",
        lambda scores, values, _: formulas.logistic(
            formulas.power_reward_gap(scores, values["alpha"]) - values["gamma"] / values["beta"], values["beta"]
        ),
        lambda values: _simpo(values) | {"alpha": values["alpha"]},
        lambda scores, values: formulas.power_reward_gap(scores, values["alpha"]),
    ),
    Objective(
        "orpo",
        "ORPOTrainer",
        "orpo",
        lambda scores, values, _: values["lambda"] * formulas.logistic(formulas.log_odds_gap(scores), 1.0),
        lambda values: {"beta": values["lambda"]},
        lambda scores, _: formulas.log_odds_gap(scores),
    ),
)

OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {objective.method: objective for objective in (*_DPO, *_KTO, *_LIKELIHOOD)}
)


def checked_objective(name: str, hyperparameters: Values) -> Objective:
    """Return how a method is trained, with its hyperparameters checked.

    Raises:
        WrongInput: the method is unknown, or a hyperparameter is missing, unknown or out of its range.
    """
    if name not in OBJECTIVES:
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
    return OBJECTIVES[name]
