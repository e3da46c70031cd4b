"""What is known of a plan's models and data, gathered beforehand so that estimating itself reads nothing."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kilter.plan.estimates.amounts import Amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.plan.estimates.shapes import ModelShape
    from kilter.plan.graph import Reference
    from kilter.study.facts import BenchmarkFacts


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of each part of a row: prompt, chosen and rejected of pairs, or conversation."""

    mean: "Mapping[str, float]"
    longest: int | None = None
    """Tokens of the longest sequence, prompt and answer; None where only means are known."""

    @property
    def pair(self) -> float:
        """Tokens of both sequences of a pair: each has the prompt."""
        return 2 * self.mean["prompt"] + self.mean["chosen"] + self.mean["rejected"]

    @property
    def answers(self) -> float:
        """Tokens of both answers of a pair."""
        return self.mean["chosen"] + self.mean["rejected"]


@dataclass(frozen=True)
class Rows:
    """Rows that train, and rows that are held out."""

    train: Amount | None = None
    holdout: Amount | None = None


@dataclass(frozen=True)
class Known:
    """Everything that estimates know besides the plan."""

    shapes: "Mapping[Reference, ModelShape]" = field(default_factory=dict)
    """Of ingested and pretrained models."""
    source_rows: "Mapping[Reference, Mapping[str, int]]" = field(default_factory=dict)
    """Rows by split of ingested data."""
    source_bytes: "Mapping[Reference, int]" = field(default_factory=dict)
    """Bytes of what is to be ingested."""
    rows: "Mapping[Reference, Rows]" = field(default_factory=dict)
    """Of subsampled data that are there already."""
    lengths: "Mapping[Reference, Lengths]" = field(default_factory=dict)
    """Of prepared data that are there already, counted; or of ingested data, from facts."""
    benchmarks: "Mapping[str, BenchmarkFacts]" = field(default_factory=dict)
