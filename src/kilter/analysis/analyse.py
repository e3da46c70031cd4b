"""From a study's results to what the statistics say of them."""

from typing import TYPE_CHECKING

from kilter.analysis.comparisons import Compared, Measured, compare
from kilter.analysis.families import (
    SEEDS_FOR_METHODS,
    arm_of,
    choose,
    chosen_cells,
    largest_size,
    plan_comparisons,
    primary_metrics,
    subject_of,
)
from kilter.analysis.findings import Chosen, Findings
from kilter.analysis.scores import is_mean_of_samples
from kilter.analysis.verdict import verdicts_of
from kilter.analysis.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kilter.analysis.results import StudyResults


def analyse(results: "StudyResults", measured: Measured | None = None) -> Findings:
    """Compare a study's models and put into words what can be said.

    Args:
        results: the study.
        measured: per-document values already read, to share them with `tables_of`.

    Raises:
        StageFailed: the models disagree on a benchmark's primary metric.
    """
    measured = measured or Measured()
    chosen = choose(results)
    planned = plan_comparisons(results, chosen)
    compared = compare(planned, measured, alpha=results.alpha, correction=results.correction)
    return Findings(
        comparisons=compared.comparisons,
        chosen=chosen,
        verdicts=verdicts_of(results, compared.comparisons, chosen, compared.refused, measured),
        subject=subject_of(results),
        notes=tuple(_notes(results, chosen, compared, measured)),
    )


def _notes(
    results: "StudyResults", chosen: tuple[Chosen, ...], compared: Compared, measured: Measured
) -> "Iterable[str]":
    """How the numbers were made, where a reader could take them for something else."""
    yield (
        f"Differences are tested in families that the study's grid fixes, with {results.correction.capitalize()}'s "
        f"correction at {results.alpha:g} within each: methods against their parent (one family a scenario), methods "
        "against each other (one a scenario), and scenarios against each other (one)."
        if results.correction == "holm"
        else f"Differences are tested in families that the study's grid fixes, with the {results.correction} "
        f"correction at {results.alpha:g} within each."
    )
    yield (
        "Intervals of differences hold together for a whole family (level alpha divided by its size), as do the "
        "smallest differences that would have been found. Holm's test is a little sharper: it can find a difference "
        "whose interval touches zero."
    )
    yield from _seed_notes(results, chosen)
    if compared.bounded:
        yield (
            f"In {counted(compared.bounded, 'comparison')} all documents differ by the same amount, mostly not at all; "
            "a bootstrap says nothing there, and the interval is the bound on how often the models could still differ."
        )
    clustered = {each.benchmark: each for each in compared.comparisons if each.clusters < each.documents}
    for benchmark, comparison in clustered.items():
        yield (
            f"{benchmark}: {counted(comparison.documents, 'document')}, of which some are exact duplicates; they count "
            f"as {counted(comparison.clusters, 'cluster')}."
        )
    for metric in primary_metrics(results):
        if not all(is_mean_of_samples(model, metric, measured) for model in results.models):
            yield (
                f"{metric.benchmark}: the score {metric.metric} is not the mean over documents; comparisons are of the "
                "documents' mean, so that they differ from the scores in the tables."
            )


def _seed_notes(results: "StudyResults", chosen: tuple[Chosen, ...]) -> "Iterable[str]":
    arms = [arm_of(results, cell, largest_size(results)) for cell in chosen_cells(results, chosen)]
    if len(results.seeds) >= SEEDS_FOR_METHODS:
        yield (
            f"Each score of a method is the mean over its seeds on each document ({len(results.seeds)} seeds). Tests "
            "and intervals treat documents as the sample and these seeds as given."
        )
        for arm in arms:
            if arm is not None and len(arm.models) < len(results.seeds):
                yield f"{arm.models[0].name}: only {len(arm.models)} of {len(results.seeds)} seeds have a result."
        return
    for arm in arms:
        if arm is not None and results.seeds and arm.models[0].seed != results.seeds[0]:
            yield f"{arm.models[0].name} stands for its cell: seed {results.seeds[0]} has no result."
