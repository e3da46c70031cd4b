"""The plan: nodes, their inputs and keys. Pure data."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kilter.canonical import digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kilter.model import Model

KEY_LENGTH = 32


@dataclass(frozen=True, order=True)
class Reference:
    """Names the result of a stage: `stage/key`."""

    stage: str
    key: str

    @classmethod
    def parse(cls, name: str) -> "Reference":
        """Return the reference that `stage/key` names."""
        stage, _, key = name.partition("/")
        return cls(stage, key)

    def __str__(self) -> str:
        return f"{self.stage}/{self.key}"

    @property
    def short(self) -> str:
        """The form that people read: the key's first ten digits."""
        return f"{self.stage}/{self.key[:10]}"


@dataclass(frozen=True)
class Node:
    """One stage of a plan: a question whose answer the store may already hold."""

    stage: str
    config: "Model"
    inputs: "Mapping[str, Reference]"
    """By role; a role that takes several is written `role/0`, `role/1`, …"""
    code: str
    """The stage's code version, with the versions of the libraries that shape its result."""
    hints: "Mapping[str, Any]" = field(default_factory=dict)
    """What the stage needs to run and what does not change its result: paths, endpoints."""
    label: str = ""
    """What a person reads in tables and progress bars."""
    cells: int = 1
    """How many cells of the grid use this result."""

    @property
    def config_data(self) -> "dict[str, Any]":
        """The configuration as JSON data."""
        return self.config.model_dump(mode="json")

    @property
    def reference(self) -> Reference:
        """The name of this node's result."""
        return Reference(self.stage, key_of(self.stage, self.code, self.config_data, self.inputs))


def key_of(stage: str, code: str, config: "Mapping[str, Any]", inputs: "Mapping[str, Reference]") -> str:
    """Return the content address of a stage's result: a digest of what was asked, of what, by which code."""
    question = {
        "stage": stage,
        "code": code,
        "config": dict(config),
        "inputs": {role: str(reference) for role, reference in inputs.items()},
    }
    return digest(question)[:KEY_LENGTH]


@dataclass(frozen=True)
class Plan:
    """The deduplicated graph of stages that a study needs, in an order in which they can run."""

    nodes: "Mapping[Reference, Node]"
    models: "tuple[PlannedModel, ...]"
    """Every model of the study with what is known of it, in the order of the report."""
    warnings: tuple[str, ...] = ()
    report: Reference | None = None
    """The node that renders the report; it stands last."""
    rows_known: bool = True
    """False where a size `all` waits for the preference data to be ingested before its shards can be planned."""

    def only(self, stages: "frozenset[str]") -> "Plan":
        """Return the part of the plan that consists of these stages."""
        kept = {reference: node for reference, node in self.nodes.items() if reference.stage in stages}
        return Plan(kept, (), self.warnings, rows_known=self.rows_known)

    def __iter__(self) -> "Iterator[tuple[Reference, Node]]":
        return iter(self.nodes.items())


@dataclass(frozen=True)
class PlannedModel:
    """One model that the study scores: where it comes from in the grid, and the stages that tell about it."""

    reference: Reference
    name: str
    role: str
    """base, instruct, sft or aligned."""
    scenario: str | None
    method: str | None
    variant: str
    """The hyperparameters that set this cell apart from others of its method, such as `beta=0.1`; else empty."""
    size: int | str | None
    seed: int | None
    parent: Reference | None
    """The model that alignment started from."""
    scores: "Mapping[str, Reference]"
    """Evaluate results by benchmark label."""
    generations: Reference | None
