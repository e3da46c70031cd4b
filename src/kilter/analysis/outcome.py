"""The outcome of a study in short: what the terminal shows when a run ends, as plain JSON data."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kilter.analysis.findings import Comparison, Findings, Verdict
    from kilter.analysis.results import ModelResult, StudyResults


def outcome_of(results: "StudyResults", findings: "Findings") -> dict[str, Any]:
    """Return the primary scores of the starting models and of each method's chosen cell, and the verdicts.

    Scores are fractions; `mark` is `better` or `worse` where the difference from the parent is significant after the
    correction for many comparisons.
    """
    shown = _shown(results, findings)
    benchmarks = list(dict.fromkeys(score.benchmark for model in shown for score in model.scores if score.primary))
    marks = {
        (comparison.candidate, comparison.benchmark): _mark(comparison)
        for comparison in findings.comparisons
        if comparison.family == "parent"
    }
    return {
        "study": results.name,
        "benchmarks": benchmarks,
        "models_in_all": len(results.models),
        "models": [
            {
                "name": model.name,
                "scenario": model.scenario,
                "scores": {
                    score.benchmark: {"value": score.value, "mark": marks.get((model.key, score.benchmark))}
                    for score in model.scores
                    if score.primary
                },
            }
            for model in shown
        ],
        "verdicts": [{"kind": _kind(verdict), "text": verdict.text} for verdict in findings.verdicts],
    }


def _shown(results: "StudyResults", findings: "Findings") -> "list[ModelResult]":
    chosen = {item.model for item in findings.chosen}
    starting = [model for model in results.models if model.role != "aligned"]
    return [*starting, *(model for model in results.models if model.key in chosen)]


def _kind(verdict: "Verdict") -> str:
    """Tell notes on how to read the results from findings between methods or scenarios."""
    return "between" if verdict.kind == "note" and verdict.comparisons else verdict.kind


def _mark(comparison: "Comparison") -> str | None:
    if comparison.helped:
        return "better"
    return "worse" if comparison.hurt else None
