"""Makes the plan of a study on this machine: finds out what the study's sources are, then expands it."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kilter.errors import WrongInput
from kilter.plan.configs import IngestConfig
from kilter.plan.expand import MT_BENCH, Surroundings, expand
from kilter.plan.graph import Node
from kilter.stages.sources import resolve_sources
from kilter.stages.versions import code_versions, library_version
from kilter.study.facts import load_facts
from kilter.study.grid import expand_methods

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kilter.evaluation.requirements import DataSplit
    from kilter.plan.graph import Plan
    from kilter.plan.sources import ResolvedSource, SourceName
    from kilter.store.store import Store
    from kilter.study.facts import Facts
    from kilter.study.specification import Study


DATA_STAGES = frozenset({"ingest", "subsample"})
"""What must have run before it is known how many rows there are."""


def plan_study(study: "Study", folder: "Path", store: "Store | None" = None, *, online: bool = True) -> "Plan":
    """Return the plan of a study whose relative paths start from `folder`.

    A store lets the plan learn the rows of data that were ingested before.

    Raises:
        WrongInput: a source or a benchmark does not exist, or a scenario lacks its model.
    """
    return plan_with_sources(study, folder, store, online=online).plan


def require_trainable(study: "Study") -> None:
    """Make sure that this machine has what the study's training asks of it, where it is this machine that trains.

    Raises:
        WrongInput: QLoRA is asked for, and bitsandbytes or a GPU is missing.
    """
    from kilter.training.four_bits import require_four_bits

    adapters = [cell.training.peft for cell in expand_methods(study)]
    if any(adapter is not None and adapter.method == "qlora" for adapter in adapters):
        require_four_bits()


@dataclass(frozen=True)
class PlannedStudy:
    """A plan with what it was made from."""

    plan: "Plan"
    sources: "Mapping[SourceName, ResolvedSource]"
    facts: "Facts"


def plan_with_sources(
    study: "Study", folder: "Path", store: "Store | None" = None, *, online: bool = True
) -> PlannedStudy:
    """Return the plan of a study with its resolved sources and the facts that were read for it.

    Raises:
        WrongInput: as `plan_study`.
    """
    from kilter.data.decontaminate import benchmark_list_digest
    from kilter.data.templates import resolve_template
    from kilter.stages.builtin_tasks import builtin_task_content
    from kilter.training.precision import resolve_precision

    _check_benchmarks(study, online=online)
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
        adapter_library=f"peft {library_version('peft')}",
    )
    plan = expand(study, surroundings)
    if store is not None:
        _check_sizes(study, plan, store)
    return PlannedStudy(plan, sources, facts)


def _check_benchmarks(study: "Study", *, online: bool) -> None:
    """Refuse benchmarks that are unknown, cannot run as asked for, or lack data in the mirror, all of them at once."""
    from kilter.evaluation.index import require_task
    from kilter.evaluation.requirements import needed_splits
    from kilter.stages.builtin_tasks import builtin_task_content

    missing = _missing_from(study.data.mirror.source if study.data.mirror else None, online=online)
    problems: list[str] = []
    for place, benchmark in enumerate(study.benchmarks):
        if benchmark.task == MT_BENCH:
            continue
        try:
            require_task(benchmark.task)
            needed = needed_splits(benchmark.task, benchmark.num_fewshot)
        except WrongInput as error:
            problems.append(f"benchmarks[{place}]: {error}")
            continue
        lacking = [what for split in needed if (what := missing(split)) is not None]
        if lacking and builtin_task_content(benchmark.task) is None:
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            problems.append(
                f"benchmarks[{place}]: {benchmark.task} needs data that the mirror lacks: {lacking[0]}{more}; add them "
                "to data.mirror, or leave the benchmark out"
            )
    if problems:
        raise WrongInput("\n".join(problems))


def _missing_from(mirror: str | None, *, online: bool) -> "Callable[[DataSplit], str | None]":
    """Return what says which file a mirror lacks; the hub, and a mirror that cannot be asked now, lack nothing."""
    if mirror is None or (mirror.startswith("s3://") and not online):
        return lambda _: None
    from kilter.data.mirror import Mirror

    opened = Mirror.at(mirror, Path())
    return lambda split: opened.lacks(split.data_set, split.configuration, split.split)


def _check_sizes(study: "Study", plan: "Plan", store: "Store") -> None:
    """Refuse sizes above what is left of the preference data, once that is known."""
    found = (node for _, node in plan if node.stage == "subsample" and node.config_data["kind"] == "preference")
    manifest = next((item for node in found if (item := store.manifest(node.reference)) is not None), None)
    if manifest is None:
        return
    left = manifest.summary["out"]
    above = [size for size in study.sizes if isinstance(size, int) and size > left]
    if above:
        counts = {"held out": manifest.summary["held_out"], **manifest.summary["dropped"]}
        why = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
        raise WrongInput(
            f"sizes {', '.join(map(str, above))}: of {manifest.summary['rows_in']} pairs of data.preference {left} are "
            f"left ({why}); write sizes up to {left}, or `all`"
        )


def _with_ingested_rows(
    name: "SourceName", source: "ResolvedSource", codes: "Mapping[str, str]", store: "Store"
) -> "ResolvedSource":
    if source.rows or name.kind != "data":
        return source
    node = Node("ingest", IngestConfig(kind="data", content=source.content), {}, codes["ingest"])
    manifest = store.manifest(node.reference)
    return source if manifest is None else replace(source, rows=manifest.summary.get("rows", {}))
