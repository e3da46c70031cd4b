"""Where every number comes from: stages with their keys, inputs, configurations and manifests; versions; problems."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from kilter.analysis.missing import missing_of
from kilter.analysis.report.index import Index, reference_of, short_reference
from kilter.analysis.results import Stage
from kilter.analysis.words import counted, listed


@dataclass(frozen=True)
class Input:
    """What a stage read."""

    role: str
    name: str
    anchor: str
    title: str


@dataclass(frozen=True)
class LineageRow:
    """A stage."""

    anchor: str
    stage: str
    label: str
    key: str
    short_key: str
    state: str
    manifest_uri: str
    inputs: tuple[Input, ...]
    config: str
    error: str


@dataclass(frozen=True)
class LineageGroup:
    """The stages of a kind."""

    kind: str
    rows: tuple[LineageRow, ...]


@dataclass(frozen=True)
class Version:
    """A library with the versions that stages ran with."""

    name: str
    versions: tuple[tuple[str, int], ...]
    """(version, number of stages)."""


@dataclass(frozen=True)
class Problem:
    """What is missing from the study."""

    title: str
    text: str
    anchor: str


def lineage(index: Index) -> tuple[LineageGroup, ...]:
    """List every stage by kind, in the order of the plan."""
    groups: dict[str, list[LineageRow]] = {}
    for stage in index.results.stages:
        reference = reference_of(stage)
        row = LineageRow(
            anchor=index.anchor(reference),
            stage=stage.stage,
            label=stage.label,
            key=reference,
            short_key=short_reference(reference),
            state=stage.state,
            manifest_uri=stage.manifest_uri,
            inputs=tuple(
                Input(role, short_reference(source), index.anchor(source), source)
                for role, source in stage.inputs.items()
            ),
            config=json.dumps(dict(stage.config), indent=1, ensure_ascii=False, default=str) if stage.config else "",
            error=stage.error or "",
        )
        groups.setdefault(stage.stage, []).append(row)
    return tuple(LineageGroup(kind, tuple(rows)) for kind, rows in groups.items())


def versions(index: Index) -> tuple[Version, ...]:
    """Count with which versions of which libraries the stages ran."""
    counts: dict[str, dict[str, int]] = {}
    for stage in index.results.stages:
        for name, version in stage.versions.items():
            here = counts.setdefault(name, {})
            here[version] = here.get(version, 0) + 1
    return tuple(Version(name, tuple(here.items())) for name, here in sorted(counts.items()))


def problems(index: Index) -> tuple[Problem, ...]:
    """Name the stages that have no result, and the scores that models lack without such a reason.

    Stages that could not run because another has no result are counted at the one that they waited for.
    """
    lacking = missing_of(index.results)
    missing = lacking.stages
    waiting = {reference: _root(reference, missing) for reference in missing}
    found = []
    for reference, stage in missing.items():
        if waiting[reference] != reference:
            continue
        dependants = sum(root == reference for root in waiting.values()) - 1
        text = stage.error or "There is no result in the store."
        if dependants:
            text += f" ({counted(dependants, 'stage that needs', 'stages that need')} it did not run.)"
        title = f"{stage.stage}: {stage.label or short_reference(reference)}"
        found.append(Problem(title, text, index.anchor(reference)))
    for key, benchmarks in lacking.scores.items():
        found.append(Problem(index.name_of(key), f"It has no score on {listed(benchmarks)}.", index.anchor(key)))
    return tuple(found)


def _root(reference: str, missing: Mapping[str, Stage]) -> str:
    """Follow the inputs of a missing stage to the missing stage that all waited for."""
    source = next((source for source in missing[reference].inputs.values() if source in missing), None)
    return reference if source is None else _root(source, missing)
