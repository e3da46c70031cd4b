"""Makes the plan of a study on this machine: finds out what the study's sources are, then expands it."""

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from kilter.plan.configs import IngestConfig
from kilter.plan.expand import MT_BENCH, Surroundings, expand
from kilter.plan.graph import Node
from kilter.stages.sources import resolve_sources
from kilter.stages.versions import code_versions
from kilter.study.facts import load_facts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kilter.plan.graph import Plan
    from kilter.plan.sources import ResolvedSource, SourceName
    from kilter.store.store import Store
    from kilter.study.specification import Study


def plan_study(study: "Study", folder: "Path", store: "Store | None" = None, *, online: bool = True) -> "Plan":
    """Return the plan of a study whose relative paths start from `folder`.

    A store lets the plan learn the rows of data that were ingested before.

    Raises:
        WrongInput: a source or a benchmark does not exist, or a scenario lacks its model.
    """
    from kilter.data.decontaminate import benchmark_list_digest
    from kilter.data.templates import resolve_template
    from kilter.evaluation.index import require_task
    from kilter.stages.builtin_tasks import builtin_task_content
    from kilter.training.precision import resolve_precision

    for benchmark in study.benchmarks:
        if benchmark.task != MT_BENCH:
            require_task(benchmark.task)
    facts = load_facts(folder / study.facts if study.facts else None)
    codes = code_versions()
    sources = resolve_sources(study, folder, facts, online=online and find_spec("huggingface_hub") is not None)
    if store is not None:
        sources = {name: _with_ingested_rows(name, source, codes, store) for name, source in sources.items()}
    surroundings = Surroundings(
        sources=sources,
        codes=codes,
        precision=resolve_precision("auto"),
        template_text=resolve_template,
        task_content=builtin_task_content,
        benchmark_list=benchmark_list_digest(),
    )
    return expand(study, surroundings)


def _with_ingested_rows(
    name: "SourceName", source: "ResolvedSource", codes: "Mapping[str, str]", store: "Store"
) -> "ResolvedSource":
    if source.rows or name.kind != "data":
        return source
    node = Node("ingest", IngestConfig(kind="data", content=source.content), {}, codes["ingest"])
    manifest = store.manifest(node.reference)
    return source if manifest is None else replace(source, rows=manifest.summary.get("rows", {}))
