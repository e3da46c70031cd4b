"""The report's tables, as plain values."""

from typing import TYPE_CHECKING

from kilter.analysis.comparisons import Measured
from kilter.analysis.estimated import expectations_of
from kilter.analysis.families import (
    Arm,
    Metric,
    arm_of,
    chosen_cells,
    largest_size,
    parent_of,
    parent_of_scenario,
    primary_metrics,
)
from kilter.analysis.intervals import Interval, score_interval
from kilter.analysis.pairing import NotComparable
from kilter.analysis.power import documents_needed
from kilter.analysis.scores import interval_of, score_of
from kilter.analysis.table_files import Cell, Column, Table, Value, format_value, markdown, p_text, write_tables
from kilter.analysis.units import units_of
from kilter.analysis.verdict import FEW_STEPS

if TYPE_CHECKING:
    from kilter.analysis.findings import Comparison, Findings
    from kilter.analysis.results import ModelResult, Stage, StudyResults

__all__ = [
    "Cell",
    "Column",
    "Table",
    "Value",
    "format_value",
    "markdown",
    "p_text",
    "tables_of",
    "write_tables",
]

_SCENARIO_TITLES = {"sft": "SFT, then align", "base": "align the base model", "instruct": "align the instruct model"}


def tables_of(results: "StudyResults", findings: "Findings", measured: Measured | None = None) -> tuple[Table, ...]:
    """Make every table of a study.

    Args:
        results: the study.
        findings: what `analyse` found in it.
        measured: per-document values already read, to share them with `analyse`.
    """
    measured = measured or Measured()
    return (
        verdict_table(findings),
        *(scenario_table(results, findings, scenario, measured) for scenario in results.scenarios),
        score_table(results, measured),
        size_table(results, findings, measured),
        comparison_table(results, findings),
        chosen_table(results, findings),
        model_table(results),
        held_out_table(results),
        data_table(results),
        cost_table(results),
        lineage_table(results),
    )


def verdict_table(findings: "Findings") -> Table:
    """The verdict's sentences."""
    return Table(
        name="verdict",
        title="Verdict",
        columns=(Column("kind", "Kind"), Column("text", "Finding")),
        rows=tuple((verdict.kind, verdict.text) for verdict in findings.verdicts),
    )


def scenario_table(results: "StudyResults", findings: "Findings", scenario: str, measured: Measured) -> Table:
    """Methods × benchmarks of one scenario at the largest size, the parent first.

    Each cell has the score, its confidence interval at level 1 - alpha, and whether it differs significantly from the
    parent's.
    """
    metrics = primary_metrics(results)
    units = units_of(results)
    parent = parent_of_scenario(results, scenario)
    against = {
        (comparison.candidate, comparison.benchmark): comparison
        for comparison in findings.comparisons
        if comparison.family == "parent" and comparison.scenario == scenario
    }
    rows: list[tuple[Value, ...]] = []
    if parent is not None:
        cells = [_cell(results, parent, metric, measured, None) for metric in metrics]
        rows.append((parent.models[0].name, "", None, *cells))
    for cell in chosen_cells(results, findings.chosen):
        arm = arm_of(results, cell, largest_size(results))
        if cell.scenario == scenario and arm is not None:
            found = [
                _cell(results, arm, metric, measured, against.get((arm.key, metric.benchmark))) for metric in metrics
            ]
            rows.append((cell.method, cell.variant, _size(arm.models[0].size), *found))
    return Table(
        name=f"scores-{scenario}",
        title=f"Scores in scenario {scenario}: {_SCENARIO_TITLES.get(scenario, scenario)}",
        columns=(
            Column("model", "Model"),
            Column("variant", "Variant"),
            Column("size", "Size"),
            *(
                Column(
                    metric.benchmark, f"{metric.benchmark}, {metric.metric}", "cell", units[metric.metric].value_unit
                )
                for metric in metrics
            ),
        ),
        rows=tuple(rows),
    )


def score_table(results: "StudyResults", measured: Measured) -> Table:
    """Every score of every model, with its confidence interval at level 1 - alpha."""
    units = units_of(results)
    rows: list[tuple[Value, ...]] = []
    for model in results.models:
        for score in model.scores:
            unit = units[score.metric]
            low, high = _scaled(interval_of(model, score, measured, results.alpha), unit.scale)
            rows.append(
                (
                    *_identity(model),
                    score.benchmark,
                    score.filter,
                    score.metric,
                    score.primary,
                    unit.value_unit,
                    unit.scale * score.value,
                    low,
                    high,
                    None if score.chance is None else unit.scale * score.chance,
                    score.documents,
                    model.key,
                )
            )
    return Table(
        name="scores",
        title="Every score",
        columns=(
            *_IDENTITY,
            Column("benchmark", "Benchmark"),
            Column("filter", "Filter"),
            Column("metric", "Metric"),
            Column("primary", "Primary", "flag"),
            Column("unit", "Unit"),
            Column("score", "Score", "number"),
            Column("low", "Interval from", "number"),
            Column("high", "to", "number"),
            Column("chance", "Guessing", "number"),
            Column("documents", "Documents", "count"),
            Column("key", "Key"),
        ),
        rows=tuple(rows),
    )


def size_table(results: "StudyResults", findings: "Findings", measured: Measured) -> Table:
    """Scores of the chosen cells at every size, with the parent as size 0."""
    units = units_of(results)
    rows: list[tuple[Value, ...]] = []
    for cell in chosen_cells(results, findings.chosen):
        arms = [arm for size in results.sizes if (arm := arm_of(results, cell, size)) is not None]
        parent = parent_of(results, arms[0]) if arms else None
        points: list[tuple[Value, int | None, Arm]] = [] if parent is None else [("parent", 0, parent)]
        points += [(_size(arm.models[0].size), arm.models[0].pairs, arm) for arm in arms]
        for metric in primary_metrics(results):
            unit = units[metric.metric]
            for size, pairs, arm in points:
                found = arm_score(results, arm, metric, measured)
                if found is not None:
                    score, interval = found
                    low, high = _scaled(interval, unit.scale)
                    rows.append(
                        (
                            cell.scenario,
                            cell.method,
                            cell.variant,
                            metric.benchmark,
                            size,
                            pairs,
                            unit.value_unit,
                            unit.scale * score,
                            low,
                            high,
                            len(arm.models),
                        )
                    )
    return Table(
        name="scores-by-size",
        title="Scores by training-set size",
        columns=(
            Column("scenario", "Scenario"),
            Column("method", "Method"),
            Column("variant", "Variant"),
            Column("benchmark", "Benchmark"),
            Column("size", "Size"),
            Column("pairs", "Pairs", "count"),
            Column("unit", "Unit"),
            Column("score", "Score", "number"),
            Column("low", "Interval from", "number"),
            Column("high", "to", "number"),
            Column("models", "Models", "count"),
        ),
        rows=tuple(rows),
    )


def comparison_table(results: "StudyResults", findings: "Findings") -> Table:
    """Every comparison with its test, corrected p-value, interval, and what it could have seen."""
    units = units_of(results)
    names = {model.key: model.name for model in results.models}

    def row(comparison: "Comparison") -> tuple[Value, ...]:
        unit = units[comparison.metric]
        return (
            comparison.family,
            comparison.scenario,
            names[comparison.candidate],
            names[comparison.baseline],
            comparison.benchmark,
            comparison.metric,
            unit.value_unit,
            unit.scale * comparison.candidate_score,
            unit.scale * comparison.baseline_score,
            unit.scale * comparison.difference,
            unit.scale * comparison.interval[0],
            unit.scale * comparison.interval[1],
            comparison.p_value,
            comparison.p_corrected,
            comparison.significant,
            "better" if comparison.helped else "worse" if comparison.hurt else "cannot tell",
            comparison.test,
            comparison.documents,
            comparison.clusters,
            comparison.family_size,
            unit.scale * comparison.smallest_detectable,
            documents_needed(comparison.documents, comparison.smallest_detectable, comparison.difference),
        )

    return Table(
        name="comparisons",
        title="Comparisons",
        columns=(
            Column("family", "Family"),
            Column("scenario", "Scenario"),
            Column("candidate", "Candidate"),
            Column("baseline", "Baseline"),
            Column("benchmark", "Benchmark"),
            Column("metric", "Metric"),
            Column("unit", "Unit"),
            Column("candidate_score", "Candidate's score", "number"),
            Column("baseline_score", "Baseline's score", "number"),
            Column("difference", "Difference", "number"),
            Column("low", "Interval from", "number"),
            Column("high", "to", "number"),
            Column("p_value", "p", "p"),
            Column("p_corrected", "Corrected p", "p"),
            Column("significant", "Significant", "flag"),
            Column("outcome", "Outcome"),
            Column("test", "Test"),
            Column("documents", "Documents", "count"),
            Column("clusters", "Clusters", "count"),
            Column("family_size", "Comparisons in the family", "count"),
            Column("smallest_detectable", "Smallest difference found with power 0.8", "number"),
            Column("documents_needed", "Documents that would find a true difference of this size", "count"),
        ),
        rows=tuple(row(comparison) for comparison in findings.comparisons),
    )


def chosen_table(results: "StudyResults", findings: "Findings") -> Table:
    """Which cell stands for each method, and why."""
    names = {model.key: model.name for model in results.models}
    return Table(
        name="chosen",
        title="Cells that stand for the methods",
        columns=(
            Column("scenario", "Scenario"),
            Column("method", "Method"),
            Column("model", "Model"),
            Column("reason", "Reason"),
        ),
        rows=tuple((each.scenario, each.method, names[each.model], each.reason) for each in findings.chosen),
    )


def model_table(results: "StudyResults") -> Table:
    """Every model with what it was trained on, and a warning below 50 steps."""
    names = {model.key: model.name for model in results.models}

    def row(model: "ModelResult") -> tuple[Value, ...]:
        steps = model.training.get("steps")
        few = steps is not None and steps < FEW_STEPS
        return (
            *_identity(model),
            model.role,
            names.get(model.parent or "", model.parent),
            model.pairs,
            steps,
            model.training.get("epochs"),
            model.training.get("tokens"),
            model.training.get("loss"),
            model.training.get("loss_type"),
            f"fewer than {FEW_STEPS} steps" if few else "",
            model.key,
        )

    return Table(
        name="models",
        title="Models",
        columns=(
            *_IDENTITY,
            Column("role", "Role"),
            Column("parent", "Parent"),
            Column("pairs", "Pairs", "count"),
            Column("steps", "Steps", "count"),
            Column("epochs", "Epochs", "number", digits=2),
            Column("tokens", "Tokens", "count"),
            Column("loss", "Training loss", "number"),
            Column("loss_type", "Loss"),
            Column("warning", "Warning"),
            Column("key", "Key"),
        ),
        rows=tuple(row(model) for model in results.models),
    )


def held_out_table(results: "StudyResults") -> Table:
    """What the held-out preference pairs say of every aligned model."""
    rows: list[tuple[Value, ...]] = []
    for model in results.models:
        if model.held_out:
            accuracy, pairs = model.held_out.get("accuracy"), model.held_out.get("pairs")
            rows.append(
                (
                    *_identity(model),
                    model.held_out.get("loss"),
                    None if accuracy is None else 100 * accuracy,
                    model.held_out.get("margin"),
                    model.held_out.get("kl"),
                    None if pairs is None else round(pairs),
                )
            )
    return Table(
        name="held-out",
        title="Held-out preference pairs",
        columns=(
            *_IDENTITY,
            Column("loss", "Loss", "number"),
            Column("accuracy", "Accuracy", "number", "%", digits=1),
            Column("margin", "Margin", "number", "nats"),
            Column("kl", "KL", "number", "nats"),
            Column("pairs", "Pairs", "count"),
        ),
        rows=tuple(rows),
    )


def data_table(results: "StudyResults") -> Table:
    """Rows in, dropped with the reason, held out and left, of every data set."""
    rows: list[tuple[Value, ...]] = []
    for account in results.data:
        rows.append((account.name, "rows in", account.rows_in))
        rows += [(account.name, f"dropped: {reason}", count) for reason, count in account.dropped.items()]
        rows += [(account.name, "held out", account.held_out), (account.name, "rows out", account.rows_out)]
        rows += [(account.name, f"note: {note}", None) for note in account.notes]
    return Table(
        name="data",
        title="Data",
        columns=(Column("data", "Data"), Column("what", "What"), Column("rows", "Rows", "count")),
        rows=tuple(rows),
    )


def cost_table(results: "StudyResults") -> Table:
    """What each stage took, beside what the plan expected; a bound is the most that was expected."""
    expected = expectations_of(results)

    def row(stage: "Stage") -> tuple[Value, ...]:
        each = expected.of(stage)
        bounded = [amount.at_most for amount in (each.seconds, each.memory) if amount is not None]
        return (
            stage.stage,
            stage.label,
            stage.state,
            stage.seconds,
            each.seconds.value if each.seconds else None,
            stage.tokens,
            stage.peak_memory_bytes,
            round(each.memory.value) if each.memory else None,
            any(bounded) if bounded else None,
            stage.error,
        )

    return Table(
        name="cost",
        title="Cost of each stage",
        columns=(
            Column("stage", "Stage"),
            Column("label", "What"),
            Column("state", "State"),
            Column("seconds", "Time", "seconds", "s"),
            Column("estimated_seconds", "Estimated time", "seconds", "s"),
            Column("tokens", "Tokens", "count"),
            Column("peak_memory", "Peak memory", "bytes"),
            Column("estimated_memory", "Estimated memory", "bytes"),
            Column("estimate_is_bound", "Estimates are bounds", "flag"),
            Column("error", "Error"),
        ),
        rows=tuple(map(row, results.stages)),
    )


def lineage_table(results: "StudyResults") -> Table:
    """Where every number is from: each stage's key, inputs and manifest."""
    return Table(
        name="lineage",
        title="Lineage",
        columns=(
            Column("stage", "Stage"),
            Column("key", "Key"),
            Column("label", "What"),
            Column("inputs", "Inputs"),
            Column("versions", "Versions"),
            Column("manifest", "Manifest"),
        ),
        rows=tuple(
            (
                stage.stage,
                stage.key,
                stage.label,
                ", ".join(f"{name}: {key}" for name, key in stage.inputs.items()),
                ", ".join(f"{name} {version}" for name, version in stage.versions.items()),
                stage.manifest_uri,
            )
            for stage in results.stages
        ),
    )


def arm_score(
    results: "StudyResults", arm: Arm, metric: Metric, measured: Measured
) -> tuple[float, Interval | None] | None:
    """An arm's score in the metric's own unit, with its interval at level 1 - alpha; None where it has none.

    For several seeds, the mean over them on each document.
    """
    if len(arm.models) == 1:
        score = score_of(arm.models[0], metric)
        return None if score is None else (score.value, interval_of(arm.models[0], score, measured, results.alpha))
    try:
        values = measured.of(arm, metric)
    except NotComparable:
        return None
    interval = score_interval(values.value, values.cluster, results.alpha, binary=False)
    return (float(values.value.mean()), interval)


_IDENTITY = (
    Column("model", "Model"),
    Column("scenario", "Scenario"),
    Column("method", "Method"),
    Column("variant", "Variant"),
    Column("size", "Size"),
    Column("seed", "Seed", "count"),
)


def _identity(model: "ModelResult") -> tuple[Value, ...]:
    return (model.name, model.scenario, model.method, model.variant, _size(model.size), model.seed)


def _size(size: int | str | None) -> str | None:
    return None if size is None else str(size)


def _scaled(interval: Interval | None, scale: float) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (scale * interval[0], scale * interval[1])


def _cell(
    results: "StudyResults", arm: Arm, metric: Metric, measured: Measured, against: "Comparison | None"
) -> Cell | None:
    found = arm_score(results, arm, metric, measured)
    if found is None:
        return None
    unit = units_of(results)[metric.metric]
    low, high = _scaled(found[1], unit.scale)
    return Cell(
        score=unit.scale * found[0],
        low=low,
        high=high,
        difference=None if against is None else unit.scale * against.difference,
        mark="" if against is None else "helped" if against.helped else "hurt" if against.hurt else "",
        digits=unit.digits,
    )
