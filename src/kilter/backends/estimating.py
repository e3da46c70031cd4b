"""Gathers what is known of a plan's models and data: from facts, local files, and what the store holds already."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilter.errors import StoreError
from kilter.plan.configs import IngestConfig, PrepareConfig, SubsampleConfig
from kilter.plan.estimates.amounts import Amount
from kilter.plan.estimates.known import Known, Lengths, Rows
from kilter.plan.estimates.shapes import ModelShape, shape_of_config, shape_of_facts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from kilter.plan.graph import Node, Plan, Reference
    from kilter.plan.sources import ResolvedSource
    from kilter.store.store import Store
    from kilter.study.facts import DataFacts, Facts

_CONFIG = "config.json"


def gather_known(
    plan: "Plan",
    sources: "Collection[ResolvedSource]",
    facts: "Facts",
    store: "Store | None",
    done: "Collection[Reference]" = frozenset(),
) -> Known:
    """Return what is known of a plan's models and data; what is not known is absent.

    Args:
        plan: the plan.
        sources: its sources, as they were resolved for it.
        facts: shapes, rows and lengths of what is not at hand.
        store: where results that are `done` are looked up.
        done: results that the store holds.
    """
    rows_of = {source.content: source.rows for source in sources}
    shapes: dict[Reference, ModelShape] = {}
    source_rows: dict[Reference, Mapping[str, int]] = {}
    source_bytes: dict[Reference, int] = {}
    rows: dict[Reference, Rows] = {}
    lengths: dict[Reference, Lengths] = {}
    for reference, node in plan:
        config = node.config
        if isinstance(config, IngestConfig) and config.kind == "model":
            shape = _shape(reference, node, facts, store if reference in done else None)
            if shape is not None:
                shapes[reference] = shape
        elif isinstance(config, IngestConfig):
            source_rows[reference] = rows_of.get(config.content, {})
            told = _lengths_of_facts(facts.data.get(str(node.hints.get("source"))))
            if told is not None:
                lengths[reference] = told
        if isinstance(config, IngestConfig) and (size := _bytes_at_hand(node)) is not None:
            source_bytes[reference] = size
        if store is not None and reference in done and isinstance(config, SubsampleConfig | PrepareConfig):
            manifest = store.manifest(reference)
            if manifest is not None:
                _learn(reference, manifest.summary, rows, lengths)
    return Known(shapes, source_rows, source_bytes, rows, lengths, facts.benchmarks)


def _shape(reference: "Reference", node: "Node", facts: "Facts", store: "Store | None") -> ModelShape | None:
    """A model's shape from its configuration where one can be read without fetching the model, else from facts."""
    config = _config_at_hand(node)
    if config is None and store is not None:
        manifest = store.manifest(reference)
        if manifest is not None:
            config = _parsed(store.read_object(manifest, f"model/{_CONFIG}"))
    if config is None and "uri" in node.hints:
        config = _config_in_s3(str(node.hints["uri"]))
    if config is not None:
        return shape_of_config(config)
    return shape_of_facts(facts.shape(str(node.hints.get("source"))))


def _config_at_hand(node: "Node") -> "Mapping[str, Any] | None":
    path = node.hints.get("path")
    file = Path(str(path)) / _CONFIG
    if path is None or not file.is_file():
        return None
    return _parsed(file.read_bytes())


def _config_in_s3(uri: str) -> "Mapping[str, Any] | None":
    from kilter.store.objects import ObjectMissing, open_objects

    try:
        return _parsed(open_objects(uri).read(_CONFIG))
    except (ObjectMissing, StoreError):
        return None


def _parsed(data: bytes) -> "Mapping[str, Any] | None":
    try:
        config = json.loads(data)
    except ValueError:
        return None
    return config if isinstance(config, dict) else None


def _bytes_at_hand(node: "Node") -> int | None:
    path = node.hints.get("path")
    if path is None:
        return None
    place = Path(str(path))
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _lengths_of_facts(facts: "DataFacts | None") -> Lengths | None:
    if facts is None or not facts.mean_tokens:
        return None
    return Lengths({str(part): mean for part, mean in facts.mean_tokens.items()})


def _learn(
    reference: "Reference",
    summary: "Mapping[str, Any]",
    rows: "dict[Reference, Rows]",
    lengths: "dict[Reference, Lengths]",
) -> None:
    """Note the rows and lengths that a finished stage counted."""
    if reference.stage == "subsample":
        rows[reference] = Rows(Amount(float(summary["out"])), Amount(float(summary.get("held_out", 0))))
        return
    holdout = summary.get("holdout") or {}
    rows[reference] = Rows(Amount(float(summary["rows"])), Amount(float(holdout.get("rows", 0))))
    tokens = summary["tokens"]
    if not tokens:
        return
    means = {part: float(counts["mean"]) for part, counts in tokens.items()}
    if "conversation" in tokens:
        longest = tokens["conversation"]["longest"]
    else:
        longest = tokens["prompt"]["longest"] + max(tokens["chosen"]["longest"], tokens["rejected"]["longest"])
    lengths[reference] = Lengths(means, int(longest))
