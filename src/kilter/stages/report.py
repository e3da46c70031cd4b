"""The report stage: gathers a study's results from the store, analyses them, and renders what people read."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from kilter import __version__
from kilter.analysis.results import (
    DataAccount,
    Generation,
    GoldenRow,
    ModelResult,
    Score,
    Stage,
    StudyResults,
)
from kilter.plan.configs import ReportConfig, ReportModel
from kilter.plan.graph import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kilter.analysis.findings import Findings
    from kilter.stages.context import StageContext
    from kilter.store.manifest import Manifest, Request
    from kilter.store.store import Store
    from kilter.study.specification import Study

OUTCOME = "outcome.json"
REPORT = "report.html"
_READERS = 8


def run(context: "StageContext") -> dict[str, Any]:
    """Render the report of a study whose results are all there."""
    config = context.config_as(ReportConfig)
    results = gather(context.store, config, list(context.inputs.values()), {})
    findings, _ = render(results, context.output)
    return {"verdicts": [verdict.text for verdict in findings.verdicts], "comparisons": len(findings.comparisons)}


def find_request(store: "Store", study: "Study") -> "Request | None":
    """Return the newest report request of this study in the store, whoever put it there."""
    wanted = study.question()
    requests = (store.request(reference) for reference in store.references("report"))
    found = [request for request in requests if request is not None and request.config.get("study") == wanted]
    # A request that asks for more results was made by a newer Kilter or a fuller plan.
    return max(found, key=lambda request: len(request.inputs), default=None)


def render(results: StudyResults, output: "Path") -> "tuple[Findings, Path]":
    """Analyse the results and write the report, its tables and a short outcome into `output`."""
    from kilter.analysis.analyse import analyse
    from kilter.analysis.comparisons import Measured
    from kilter.analysis.outcome import outcome_of
    from kilter.analysis.report.render import render_report

    measured = Measured()
    findings = analyse(results, measured)
    output.mkdir(parents=True, exist_ok=True)
    path = render_report(results, findings, output, measured=measured)
    (output / OUTCOME).write_text(
        json.dumps(outcome_of(results, findings), indent=2, ensure_ascii=False), encoding="utf-8"
    )
    return findings, path


def gather(
    store: "Store",
    config: ReportConfig,
    references: "Sequence[Reference]",
    errors: "Mapping[str, str]",
) -> StudyResults:
    """Read everything that the report shows from the store; what is missing is named, not left out."""
    with ThreadPoolExecutor(_READERS) as pool:
        manifests = dict(zip(references, pool.map(store.manifest, references), strict=True))
        known = {reference: manifest for reference, manifest in manifests.items() if manifest is not None}
        models = tuple(pool.map(lambda model: _model(store, model, known), config.models))
    study = config.study
    comparisons = study.get("comparisons", {})
    return StudyResults(
        name=study["name"],
        alpha=comparisons.get("alpha", 0.05),
        correction=comparisons.get("correction", "holm"),
        scenarios=tuple(study["scenarios"]),
        methods=tuple(dict.fromkeys(model.method for model in config.models if model.method)),
        sizes=tuple(study["sizes"]),
        seeds=tuple(study["seeds"]),
        models=models,
        stages=tuple(_stage(store, reference, manifests[reference], errors) for reference in references),
        golden_rows=_golden_rows(store, known),
        data=_accounts(known),
        study_yaml=yaml.safe_dump(study, sort_keys=False, allow_unicode=True),
        store=store.uri,
        kilter_version=__version__,
    )


def _model(store: "Store", model: ReportModel, manifests: "Mapping[Reference, Manifest]") -> ModelResult:
    manifest = manifests.get(Reference.parse(model.result))
    summary = manifest.summary if manifest else {}
    evaluations = [
        manifests[reference] for name in model.scores.values() if (reference := Reference.parse(name)) in manifests
    ]
    scores = tuple(Score(**score) for evaluation in evaluations for score in evaluation.summary["scores"])
    tables = [_table(store, evaluation, "samples.parquet") for evaluation in evaluations]
    curve = _table(store, manifest, "metrics.parquet") if manifest and _has(manifest, "metrics.parquet") else None
    answers = manifests.get(Reference.parse(model.generations)) if model.generations else None
    return ModelResult(
        key=model.result,
        name=model.name,
        role=model.role,
        scenario=model.scenario,
        method=model.method,
        variant=model.variant,
        size=model.size,
        pairs=summary.get("pairs"),
        seed=model.seed,
        parent=model.parent,
        scores=scores,
        samples=pa.concat_tables(tables) if tables else None,
        curve=curve,
        training=summary,
        held_out={name: value for name, value in (summary.get("held_out") or {}).items() if value is not None},
        generations=_generations(store, answers) if answers else (),
    )


def _generations(store: "Store", manifest: "Manifest") -> tuple[Generation, ...]:
    rows = _table(store, manifest, "generations.parquet").to_pylist()
    return tuple(Generation(row["prompt"], row["answer"]) for row in rows)


def _stage(store: "Store", reference: Reference, manifest: "Manifest | None", errors: "Mapping[str, str]") -> Stage:
    if manifest is None:
        request = store.request(reference)
        return Stage(
            stage=reference.stage,
            key=reference.key,
            label=request.label if request else "",
            seconds=0.0,
            peak_memory_bytes=None,
            tokens=None,
            manifest_uri=store.manifest_uri(reference),
            inputs=request.inputs if request else {},
            state="missing",
            error=errors.get(str(reference), "it has not been made"),
            config=request.config if request else {},
        )
    return Stage(
        stage=reference.stage,
        key=reference.key,
        label=manifest.label,
        seconds=manifest.resources.seconds,
        peak_memory_bytes=manifest.resources.peak_memory_bytes,
        tokens=manifest.resources.tokens,
        manifest_uri=store.manifest_uri(reference),
        inputs=manifest.inputs,
        config=manifest.config,
        versions=manifest.versions,
    )


def _golden_rows(store: "Store", manifests: "Mapping[Reference, Manifest]") -> tuple[GoldenRow, ...]:
    rows: list[GoldenRow] = []
    for reference, manifest in manifests.items():
        if reference.stage != "prepare" or not _has(manifest, "golden.json"):
            continue
        for row in json.loads(store.read_object(manifest, "golden.json"))["rows"]:
            parts = tuple(
                (part, tuple((int(number), str(text)) for number, text in row[part]))
                for part in ("input", "prompt", "chosen", "rejected")
                if part in row
            )
            rows.append(GoldenRow(f"{manifest.label} ({reference.short})", parts))
    return tuple(rows)


def _accounts(manifests: "Mapping[Reference, Manifest]") -> tuple[DataAccount, ...]:
    return tuple(
        DataAccount(
            name=manifest.label,
            rows_in=manifest.summary["rows_in"],
            dropped=manifest.summary["dropped"],
            held_out=manifest.summary["held_out"],
            rows_out=manifest.summary["out"],
            notes=tuple(manifest.summary.get("notes", ())),
        )
        for reference, manifest in manifests.items()
        if reference.stage == "subsample"
    )


def _table(store: "Store", manifest: "Manifest", name: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(store.read_object(manifest, name)))


def _has(manifest: "Manifest", name: str) -> bool:
    return any(item.name == name for item in manifest.objects)
