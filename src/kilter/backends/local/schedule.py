"""What can run next: pure bookkeeping over a plan's nodes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kilter.stages.registry import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kilter.plan.graph import Node, Reference


STOPPED = "stopped"
"""The reason of a stage that was asked to stop rather than failed."""


@dataclass(frozen=True)
class Execution:
    """Stages that one process runs together: a single stage, or all that share a loaded model."""

    references: "tuple[Reference, ...]"
    label: str

    @property
    def stage(self) -> str:
        """The stage's name; an execution never mixes stages."""
        return self.references[0].stage


@dataclass
class Schedule:
    """The state of every stage of a plan."""

    nodes: "Mapping[Reference, Node]"
    done: "set[Reference]"
    failed: "dict[Reference, str]" = field(default_factory=dict)
    blocked: "dict[Reference, Reference]" = field(default_factory=dict)
    """Stages that cannot run, with the failed stage that is the cause."""
    running: "set[Reference]" = field(default_factory=set)
    preempted: "dict[Reference, int]" = field(default_factory=dict)
    """The step with which each stage was last stopped from outside; -1 where it had saved none."""

    def __post_init__(self) -> None:
        self.dependants: dict[Reference, list[Reference]] = {reference: [] for reference in self.nodes}
        self.missing: dict[Reference, int] = {}
        for reference, node in self.nodes.items():
            needed = {dependency for dependency in node.inputs.values() if dependency not in self.done}
            self.missing[reference] = len(needed)
            for dependency in needed:
                self.dependants.setdefault(dependency, []).append(reference)
        order = {reference: place for place, reference in enumerate(self.nodes)}
        self.order = order
        self.ready: set[Reference] = {
            reference for reference, count in self.missing.items() if count == 0 and reference not in self.done
        }

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing more can."""
        return not self.ready and not self.running

    def next(self) -> Execution | None:
        """Take the execution that stands first in the plan among those that can run; None when nothing can."""
        if not self.ready:
            return None
        first = min(self.ready, key=self.order.__getitem__)
        node = self.nodes[first]
        role = STAGES[first.stage].shares
        together = [first]
        label = node.label
        if role is not None:
            shared = node.inputs[role]
            together = sorted(
                (
                    reference
                    for reference in self.ready
                    if reference.stage == first.stage and self.nodes[reference].inputs.get(role) == shared
                ),
                key=self.order.__getitem__,
            )
            label = label.partition(":")[0]
        self.ready.difference_update(together)
        self.running.update(together)
        return Execution(tuple(together), label)

    def put_back(self, execution: Execution) -> None:
        """Give back an execution that was taken and cannot start yet."""
        self.running.difference_update(execution.references)
        self.ready.update(execution.references)

    def finish(self, reference: "Reference") -> None:
        """Take note that a stage's result is there."""
        self.running.discard(reference)
        if reference in self.done:
            return
        self.done.add(reference)
        for dependant in self.dependants.get(reference, ()):
            self.missing[dependant] -= 1
            if self.missing[dependant] == 0 and dependant not in self.blocked:
                self.ready.add(dependant)

    def fail(self, reference: "Reference", reason: str) -> None:
        """Take note that a stage failed: what depends on it cannot run, everything else goes on."""
        self.running.discard(reference)
        self.failed[reference] = reason
        pending = list(self.dependants.get(reference, ()))
        while pending:
            dependant = pending.pop()
            if dependant not in self.blocked:
                self.blocked[dependant] = reference
                self.ready.discard(dependant)
                pending.extend(self.dependants.get(dependant, ()))

    def preempt(self, execution: Execution, steps: "Mapping[Reference, int]") -> None:
        """Take note that an execution was stopped from outside: what is not done runs again.

        That is no failure, unless a stage was stopped before and got no further since: its checkpoint is of no later
        step, and no stage that ran beside it was finished. So nothing runs again for ever without progress.

        Args:
            execution: which.
            steps: the steps of the checkpoints that its stages have saved.
        """
        progress = any(reference in self.done for reference in execution.references)
        for reference in self.unfinished(execution.references):
            step, before = steps.get(reference, -1), self.preempted.get(reference)
            if before is not None and step <= before and not progress:
                since = f"step {before}" if before >= 0 else "its beginning"
                self.fail(reference, f"it was stopped from outside twice and got no further than {since} in between")
                continue
            self.preempted[reference] = step
            self.running.discard(reference)
            self.ready.add(reference)

    def unfinished(self, references: "Iterable[Reference]") -> "list[Reference]":
        """Return those of an execution's stages that neither ended well nor badly."""
        return [reference for reference in references if reference not in self.done and reference not in self.failed]
