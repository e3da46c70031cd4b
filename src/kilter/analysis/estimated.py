"""What the stages of a study were expected to take, beside what they took: the plan's estimates, made again.

They are those of `kilter plan` before anything was prepared: lengths are bounds. Only the rows that were left of the
data are taken from the results. Where it is not known what machine ran a study, nothing is expected of it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from kilter.plan.configs import (
    AlignConfig,
    EvaluateConfig,
    IngestConfig,
    PrepareConfig,
    PretrainConfig,
    ReferenceConfig,
    SftConfig,
    SubsampleConfig,
)
from kilter.plan.estimates.amounts import Amount, Total, total
from kilter.plan.estimates.estimate import estimate_plan
from kilter.plan.estimates.hardware import CPU, hardware, machine_named
from kilter.plan.estimates.known import Known, Rows
from kilter.plan.estimates.shapes import shape_of_facts
from kilter.plan.graph import Node, Plan, Reference
from kilter.study.facts import load_facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kilter.analysis.results import Stage, StudyResults
    from kilter.model import Model
    from kilter.plan.estimates.hardware import Machine
    from kilter.plan.estimates.shapes import ModelShape
    from kilter.study.facts import Facts

_CONFIGS: "Mapping[str, type[Model]]" = {
    "ingest": IngestConfig,
    "pretrain": PretrainConfig,
    "subsample": SubsampleConfig,
    "prepare": PrepareConfig,
    "sft": SftConfig,
    "reference": ReferenceConfig,
    "align": AlignConfig,
    "evaluate": EvaluateConfig,
}
_HUB = "hub:"


@dataclass(frozen=True)
class Expected:
    """What one stage was expected to take. None is not known."""

    seconds: Amount | None = None
    memory: Amount | None = None
    """Bytes of the whole process; only where it ran on a CPU, since a GPU's memory is not among the results."""


@dataclass(frozen=True)
class Expectations:
    """What the stages of a study were expected to take."""

    stages: "Mapping[Reference, Expected]"

    def of(self, stage: "Stage") -> Expected:
        """Return what one stage was expected to take."""
        return self.stages.get(_reference(stage), Expected())

    def seconds(self, stages: "Iterable[Stage]") -> Total:
        """Add up the seconds that several were."""
        return total(self.of(stage).seconds for stage in stages)


def expectations_of(results: "StudyResults") -> Expectations:
    """Return what each stage of a study was expected to take; empty where it is not known what machine ran it."""
    machine = _machine(results)
    if machine is None:
        return Expectations({})
    nodes = {_reference(stage): node for stage in results.stages if (node := _node(stage, results))}
    known = _known(nodes, results, load_facts())
    estimate = estimate_plan(Plan(nodes, ()), known, machine, most=_most_processes(results))
    found: dict[Reference, Expected] = {}
    for reference, each in estimate.stages.items():
        memory = None
        if each.memory is not None and not machine.is_gpu:
            context = machine.use.context_gb.value * 1e9
            memory = Amount(each.memory.total + context, each.memory_at_most)
        found[reference] = Expected(each.seconds, memory)
    return Expectations(found)


def _machine(results: "StudyResults") -> "Machine | None":
    """The machine that trained the models, if all of them were trained on one kind and it is in the table."""
    devices = {model.training.get("gpu") or model.training.get("device") for model in results.models if model.training}
    named = {figures: name for name, machine in hardware().machines.items() for figures in machine.names}
    machines = {CPU if device == CPU else named.get(str(device)) for device in devices - {None}}
    name = machines.pop() if len(machines) == 1 else None
    return machine_named(name) if name else None


def _most_processes(results: "StudyResults") -> int:
    return max((int(model.training.get("processes") or 1) for model in results.models), default=1)


def _reference(stage: "Stage") -> Reference:
    return Reference(stage.stage, stage.key.rpartition("/")[2])


def _node(stage: "Stage", results: "StudyResults") -> Node | None:
    """The stage as it was planned; None where its configuration is of another version."""
    kind = _CONFIGS.get(stage.stage)
    if kind is None:
        return None
    try:
        config = kind.model_validate(stage.config)
    except ValidationError:
        return None
    name = str(_reference(stage))
    training = next((model.training for model in results.models if model.key == name), {})
    spread = {field: training[field] for field in ("processes", "zero") if isinstance(training.get(field), int)}
    inputs = {role: Reference.parse(reference) for role, reference in stage.inputs.items()}
    return Node(stage.stage, config, inputs, code="", hints={"distributed": spread}, label=stage.label)


def _known(nodes: "Mapping[Reference, Node]", results: "StudyResults", facts: "Facts") -> Known:
    shapes: dict[Reference, ModelShape] = {}
    for reference, node in nodes.items():
        if isinstance(node.config, IngestConfig) and node.config.kind == "model":
            hub_id = node.config.content.removeprefix(_HUB).split("@")[0]
            shape = shape_of_facts(facts.shape(hub_id))
            if shape is not None:
                shapes[reference] = shape
    done = [stage for stage in results.stages if stage.stage == "subsample" and stage.state == "done"]
    rows = {
        _reference(stage): Rows(Amount(float(account.rows_out)), Amount(float(account.held_out)))
        for stage, account in zip(done, results.data, strict=False)
        if stage.label == account.name
    }
    return Known(shapes=shapes, rows=rows, benchmarks=facts.benchmarks)
