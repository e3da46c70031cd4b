"""What a method is, as data: validation, plans, documentation and reports read it without importing torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

View = Literal["paired", "unpaired"]
Statistic = Literal["kl", "order"]


@dataclass(frozen=True)
class Hyperparameter:
    """One number of a method: its default, the range it must lie in, and where the default is from."""

    default: float
    meaning: str
    source: str
    minimum: float = 0.0
    maximum: float = float("inf")
    minimum_allowed: bool = False
    maximum_allowed: bool = True
    whole: bool = False
    """Whether it counts something."""

    def allows(self, value: float) -> bool:
        """Tell whether `value` lies in the range."""
        above = value >= self.minimum if self.minimum_allowed else value > self.minimum
        below = value <= self.maximum if self.maximum_allowed else value < self.maximum
        return above and below and (not self.whole or float(value).is_integer())

    @property
    def origin(self) -> str:
        """Where the default is from, in words."""
        return self.source if self.source.startswith(("chosen here", "none in")) else f"from {self.source}"

    @property
    def range_text(self) -> str:
        """The range in words, for messages and documentation."""
        whole = "whole and " if self.whole else ""
        lower = f"{whole}{'at least' if self.minimum_allowed else 'above'} {self.minimum:g}"
        if self.maximum == float("inf"):
            return lower
        return f"{lower} and {'at most' if self.maximum_allowed else 'below'} {self.maximum:g}"


@dataclass(frozen=True)
class Method:
    """An alignment objective: what it optimises, on which view of the data, and with which hyperparameters."""

    name: str
    title: str
    objective: str
    """The loss of a pair. Δ is the log-ratio of policy to reference of an answer; w is the chosen one, l the rejected
    one; |y| counts an answer's tokens."""
    paper: str
    """Authors, arXiv number and equation."""
    view: View = "paired"
    """`paired`: a prompt with a chosen and a rejected answer; `unpaired`: each answer alone, desirable or not."""
    reference: Literal["none", "fixed", "moving"] = "fixed"
    """Whether the loss compares with the parent model, and whether that stays as it was."""
    length_normalised: bool = False
    """Whether rewards are averages over an answer's tokens rather than sums."""
    likelihood: str | None = None
    """The hyperparameter that weighs the chosen answers' likelihood a token, where the loss has that term."""
    statistic: Statistic | None = None
    """What the loss takes from a whole batch unit: KTO's estimate of the KL, or the order of the rewards."""
    hyperparameters: Mapping[str, Hyperparameter] = field(default_factory=lambda: MappingProxyType({}))
    note: str | None = None
    """What a user should know before choosing it, or reading its results."""
    written: str | None = None
    """How its paper writes the name; see `label`."""

    @property
    def label(self) -> str:
        """The name as people write it."""
        return self.written or self.name.upper()

    @property
    def needs_reference(self) -> bool:
        """Whether the reference's log-probabilities are read, which are computed once for all."""
        return self.reference == "fixed"

    @property
    def needs_mismatched(self) -> bool:
        """Whether the loss has a KL term that is estimated on answers to other prompts."""
        return self.statistic == "kl"


def of(**hyperparameters: Hyperparameter) -> Mapping[str, Hyperparameter]:
    """Return hyperparameters by name, read-only."""
    return MappingProxyType(hyperparameters)


def pull(default: float, source: str) -> Hyperparameter:
    """Return the usual β."""
    return Hyperparameter(default, "strength β of the pull towards the reference", source)


def smoothing(default: float, source: str, minimum_allowed: bool = True) -> Hyperparameter:
    """Return the usual share of flipped labels."""
    meaning = "share ε of labels that are taken to be flipped"
    return Hyperparameter(default, meaning, source, maximum=0.5, minimum_allowed=minimum_allowed, maximum_allowed=False)
