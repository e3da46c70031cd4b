"""What the statistics say of a study: comparisons with their evidence, and the verdict in words."""

from dataclasses import dataclass
from typing import Literal

Family = Literal["parent", "methods", "scenarios"]


@dataclass(frozen=True)
class Comparison:
    """A paired test between two models on one benchmark."""

    family: Family
    """`parent` (a method against its parent), `methods` (two methods of a scenario), `scenarios` (two scenarios)."""
    scenario: str | None
    candidate: str
    """`stage/key` of the model whose gain is asked for."""
    baseline: str
    benchmark: str
    filter: str
    metric: str
    higher_is_better: bool
    documents: int
    clusters: int
    """Documents with exact duplicates taken together."""
    candidate_score: float
    baseline_score: float
    difference: float
    """candidate - baseline, in the metric's own unit."""
    interval: tuple[float, float]
    """Confidence interval of the difference at the level that the family's correction leaves."""
    p_value: float
    p_corrected: float
    significant: bool
    test: str
    """The test's name as a person would cite it, such as `exact McNemar`."""
    smallest_detectable: float
    """The difference that this comparison would have found with probability 0.8 at the corrected level."""
    family_size: int

    @property
    def helped(self) -> bool:
        """The candidate is significantly better."""
        return self.significant and (self.difference > 0) == self.higher_is_better

    @property
    def hurt(self) -> bool:
        """The candidate is significantly worse."""
        return self.significant and (self.difference < 0) == self.higher_is_better


@dataclass(frozen=True)
class Chosen:
    """Which cell of a method's grid stands for it, in one scenario."""

    scenario: str
    method: str
    model: str
    """`stage/key`."""
    reason: str
    """`only cell`, or how it was picked among several."""


@dataclass(frozen=True)
class Verdict:
    """One sentence of the report's beginning, with the evidence it rests on."""

    kind: Literal["helped", "hurt", "cannot tell", "note"]
    text: str
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class Findings:
    """All that the statistics say."""

    comparisons: tuple[Comparison, ...]
    chosen: tuple[Chosen, ...]
    verdicts: tuple[Verdict, ...]
    subject: str
    """`single checkpoints (one seed)` with fewer than three seeds, else `methods (3 seeds)`."""
    notes: tuple[str, ...] = ()
