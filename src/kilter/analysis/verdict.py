"""The report's first sentences: what helped, what hurt, what cannot be told, and what to keep in mind."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from kilter.analysis.families import SEEDS_FOR_METHODS, largest_size, primary_metrics, subject_of
from kilter.analysis.findings import Chosen, Comparison, Verdict
from kilter.analysis.missing import missing_of
from kilter.analysis.scores import interval_of, score_of
from kilter.analysis.table_files import p_text
from kilter.analysis.units import Unit, units_of
from kilter.analysis.words import counted, listed
from kilter.study.methods import method_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kilter.analysis.comparisons import Measured
    from kilter.analysis.results import ModelResult, StudyResults

FEW_STEPS = 50
"""Below this many optimizer steps a size says more about the learning rate's warm-up than about the data."""
_PARENT_NAMES = {"base": "the base model", "sft": "the SFT model", "instruct": "the instruct model"}


@dataclass(frozen=True)
class _Words:
    """The names and units that the sentences use."""

    results: "StudyResults"
    several_cells: frozenset[tuple[str, str]]
    """(scenario, method) whose every cell is shown, so that a method's name alone is not enough."""

    @cached_property
    def _models(self) -> "dict[str, ModelResult]":
        return {model.key: model for model in self.results.models}

    @cached_property
    def _units(self) -> "Mapping[str, Unit]":
        return units_of(self.results)

    def model(self, key: str) -> "ModelResult":
        return self._models[key]

    def method(self, key: str) -> str:
        """`DPO`, or `IPO (beta=0.1)` where several cells are shown, or `the SFT model`."""
        model = self.model(key)
        if model.method is None:
            return _PARENT_NAMES.get(model.role, model.name)
        title = method_label(model.method)
        shown = (model.scenario or "", model.method) in self.several_cells and model.variant
        return f"{title} ({model.variant})" if shown else title

    def subject(self, key: str) -> str:
        """`this DPO checkpoint` with few seeds, `DPO` with enough of them."""
        model = self.model(key)
        if model.method is None or not self.few_seeds:
            return self.method(key)
        return f"this {self.method(key)} checkpoint"

    @property
    def few_seeds(self) -> bool:
        """Whether findings are about checkpoints only."""
        return len(self.results.seeds) < SEEDS_FOR_METHODS

    def unit(self, comparison: Comparison) -> Unit:
        return self._units[comparison.metric]

    def gain(self, comparison: Comparison) -> str:
        """`+13.8`: the difference alone."""
        return self.unit(comparison).signed(comparison.difference)

    def evidence(self, comparison: Comparison) -> str:
        """Both scores, the difference, its interval and the corrected p-value."""
        unit = self.unit(comparison)
        low, high = comparison.interval
        points = f" {unit.difference_unit}" if unit.difference_unit else ""
        better = "" if comparison.higher_is_better else ", lower is better"
        p_value = p_text(comparison.p_corrected)
        equals = "" if p_value.startswith("<") else "= "
        return (
            f"from {unit.text(comparison.baseline_score)} to {unit.text(comparison.candidate_score)} "
            f"({unit.signed(comparison.difference)}{points}, simultaneous {100 * (1 - self.results.alpha):g}% interval "
            f"{unit.signed(low)} to {unit.signed(high)}, {self.results.correction.capitalize()} p {equals}{p_value}"
            f"{better})"
        )

    def detectable(self, comparisons: "Sequence[Comparison]") -> str:
        """What would have been found, as the end of a sentence."""
        unit = self.unit(comparisons[0])
        largest = max(comparison.smallest_detectable for comparison in comparisons)
        if not math.isfinite(largest):
            count = comparisons[0].documents
            return f"{counted(count, 'document')} {'is' if count == 1 else 'are'} too few to find any difference"
        points = f" {unit.difference_unit}" if unit.difference_unit else ""
        return f"a true difference of {unit.text(largest)}{points} or more would have been found with probability 0.8"


def verdicts_of(
    results: "StudyResults",
    comparisons: "Sequence[Comparison]",
    chosen: "Sequence[Chosen]",
    refused: "Sequence[str]",
    measured: "Measured",
) -> tuple[Verdict, ...]:
    """Write the verdict, what helped first.

    Args:
        results: the study.
        comparisons: all that were made.
        chosen: the cells that stand for the methods.
        refused: why planned comparisons could not be made.
        measured: per-document values, for the intervals of single scores.
    """
    places = [(each.scenario, each.method) for each in chosen]
    words = _Words(results, frozenset(place for place in places if places.count(place) > 1))
    parents = [comparison for comparison in comparisons if comparison.family == "parent"]
    methods = [comparison for comparison in comparisons if comparison.family == "methods"]
    scenarios = [comparison for comparison in comparisons if comparison.family == "scenarios"]
    sft = [each for each in scenarios if _is_sft_itself(words, each)]
    found = [
        *_changes(words, parents),
        *_sft_changes(words, sft),
        *_between_methods(words, methods),
        *_between_scenarios(words, [each for each in scenarios if not each.significant or each not in sft]),
    ]
    order = {"helped": 0, "hurt": 1, "cannot tell": 3, "note": 2}
    cautions = [*_cautions(results, refused), *_near_chance(results, measured)]
    return (*sorted(found, key=lambda verdict: order[verdict.kind]), *cautions)


def _is_sft_itself(words: _Words, comparison: Comparison) -> bool:
    roles = (words.model(comparison.candidate).role, words.model(comparison.baseline).role)
    return roles == ("sft", "base")


def _changes(words: _Words, comparisons: "Sequence[Comparison]") -> "Iterable[Verdict]":
    """Each method against its parent: a sentence for each difference, and one a benchmark for what cannot be told."""
    for comparison in comparisons:
        if comparison.significant:
            yield Verdict(
                "helped" if comparison.helped else "hurt",
                f"In scenario {comparison.scenario}, {words.subject(comparison.candidate)} "
                f"{_verb(comparison)} {comparison.benchmark} {words.evidence(comparison)}.",
                (comparison,),
            )
    unclear: dict[tuple[str | None, str], list[Comparison]] = {}
    for comparison in comparisons:
        if not comparison.significant:
            unclear.setdefault((comparison.scenario, comparison.benchmark), []).append(comparison)
    for (scenario, benchmark), members in unclear.items():
        named = listed([f"{words.method(each.candidate)} ({words.gain(each)})" for each in members])
        checkpoints = "the checkpoints of " if words.few_seeds and len(members) > 1 else ""
        checkpoints = "the checkpoint of " if words.few_seeds and len(members) == 1 else checkpoints
        yield Verdict(
            "cannot tell",
            f"In scenario {scenario}, {checkpoints}{named} cannot be told from the parent model on {benchmark}; "
            f"{words.detectable(members)}.",
            tuple(members),
        )


def _sft_changes(words: _Words, comparisons: "Sequence[Comparison]") -> "Iterable[Verdict]":
    for comparison in comparisons:
        if comparison.significant:
            yield Verdict(
                "helped" if comparison.helped else "hurt",
                f"SFT by itself {_verb(comparison)} {comparison.benchmark} {words.evidence(comparison)}.",
                (comparison,),
            )


def _between_methods(words: _Words, comparisons: "Sequence[Comparison]") -> "Iterable[Verdict]":
    by_place: dict[tuple[str | None, str], list[Comparison]] = {}
    for comparison in comparisons:
        by_place.setdefault((comparison.scenario, comparison.benchmark), []).append(comparison)
    alike: dict[str | None, list[Comparison]] = {}
    for (scenario, benchmark), members in by_place.items():
        significant = [each for each in members if each.significant]
        if not significant:
            alike.setdefault(scenario, []).extend(members)
            continue
        beaten: dict[str, list[str]] = {}
        for each in significant:
            winner, loser = (each.candidate, each.baseline) if each.helped else (each.baseline, each.candidate)
            gap = words.unit(each).text(abs(each.difference))
            beaten.setdefault(words.method(winner), []).append(f"{words.method(loser)} (by {gap})")
        told = "; ".join(f"{winner} did better than {listed(losers)}" for winner, losers in beaten.items())
        checkpoints = "comparing checkpoints, " if words.few_seeds else ""
        yield Verdict("note", f"In scenario {scenario} on {benchmark}, {checkpoints}{told}.", tuple(significant))
    for scenario, members in alike.items():
        benchmarks = list(dict.fromkeys(each.benchmark for each in members))
        limits = listed(
            [
                _limit(words, benchmark, [each for each in members if each.benchmark == benchmark])
                for benchmark in benchmarks
            ]
        )
        things = "checkpoints" if words.few_seeds else "methods"
        yield Verdict(
            "cannot tell",
            f"In scenario {scenario}, no two {things} can be told apart on {limits}.",
            tuple(members),
        )


def _limit(words: _Words, benchmark: str, members: "Sequence[Comparison]") -> str:
    return f"{benchmark} ({words.detectable(members)})"


def _between_scenarios(words: _Words, comparisons: "Sequence[Comparison]") -> "Iterable[Verdict]":
    """One sentence for each pair of scenarios: with which method, and on what, the later one did better or worse."""
    by_pair: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        pair = (_scenario(words, comparison.candidate), _scenario(words, comparison.baseline))
        by_pair.setdefault(pair, []).append(comparison)
    for (later, earlier), members in by_pair.items():
        significant = [each for each in members if each.significant]
        told = [
            f"{direction} for {listed(_by_method(words, [each for each in significant if each.helped == better]))}"
            for better, direction in ((True, "better"), (False, "worse"))
            if any(each.helped == better for each in significant)
        ]
        start = f"Scenario {later} against scenario {earlier}"
        if told:
            rest = " The rest cannot be told." if len(significant) < len(members) else ""
            yield Verdict("note", f"{start}: {'; '.join(told)}.{rest}", tuple(significant))
        elif members:
            worst = max(members, key=lambda each: words.unit(each).scale * each.smallest_detectable)
            yield Verdict(
                "cannot tell",
                f"{start}: no difference can be told on any benchmark; on {worst.benchmark}, the least sensitive, "
                f"{words.detectable([worst])}.",
                tuple(members),
            )


def _by_method(words: _Words, comparisons: "Sequence[Comparison]") -> list[str]:
    listed: dict[str, list[str]] = {}
    for each in comparisons:
        model = words.model(each.candidate)
        name = "the models before alignment" if model.method is None else words.method(each.candidate)
        listed.setdefault(name, []).append(f"{each.benchmark} {words.gain(each)}")
    return [f"{name} ({', '.join(gains)})" for name, gains in listed.items()]


def _cautions(results: "StudyResults", refused: "Sequence[str]") -> "Iterable[Verdict]":
    seeds = len(results.seeds)
    if seeds < SEEDS_FOR_METHODS:
        yield Verdict(
            "note",
            f"Every finding is about {subject_of(results)}, not about methods: with fewer than {SEEDS_FOR_METHODS} "
            "seeds, another run of the same method may differ.",
        )
    aligned = [model for model in results.models if model.role == "aligned" and "steps" in model.training]
    short = [model for model in aligned if model.training["steps"] < FEW_STEPS]
    if short:
        largest = largest_size(results)
        also = " Even the largest size is among them." if any(model.size == largest for model in short) else ""
        yield Verdict(
            "note",
            f"{len(short)} of {counted(len(aligned), 'aligned model')} trained for fewer than {FEW_STEPS} steps (the "
            f"fewest: {min(model.training['steps'] for model in short)}), so little of the curve over sizes can be "
            f"trusted there.{also}",
        )
    missing = missing_of(results)
    if missing.count:
        yield Verdict(
            "note",
            f"{counted(missing.count, 'result')} {'is' if missing.count == 1 else 'are'} missing ({missing.kinds()}); "
            "what needs them is not shown.",
        )
    for reason in refused:
        yield Verdict("note", f"Not compared: {reason}.")


def _near_chance(results: "StudyResults", measured: "Measured") -> "Iterable[Verdict]":
    """Benchmarks on which no model can be told from guessing."""
    near: list[str] = []
    for metric in primary_metrics(results):
        if metric.chance is None:
            continue
        scores = [(model, score) for model in results.models if (score := score_of(model, metric)) is not None]
        intervals = [interval_of(model, score, measured, results.alpha) for model, score in scores]
        if all(interval is not None and interval[0] <= metric.chance <= interval[1] for interval in intervals):
            near.append(f"{metric.benchmark} ({units_of(results)[metric.metric].text(metric.chance)})")
    if near:
        yield Verdict(
            "note",
            f"On {listed(near)} every model's {100 * (1 - results.alpha):g}% interval includes the score of guessing: "
            "these scores say nothing about what the models can do.",
        )


def _scenario(words: _Words, key: str) -> str:
    model = words.model(key)
    return model.scenario if model.method is not None and model.scenario else model.role


def _verb(comparison: Comparison) -> str:
    return "raised" if comparison.difference > 0 else "lowered"
