"""The beginning of the report: the verdict at a glance, in sentences, and what to keep in mind."""

from collections.abc import Sequence
from dataclasses import dataclass

from kilter.analysis.findings import Comparison, Verdict
from kilter.analysis.report.formatting import p_value
from kilter.analysis.report.index import Index, model_name, unique
from kilter.analysis.report.scores import Mark, mark_of
from kilter.analysis.words import counted


@dataclass(frozen=True)
class Evidence:
    """A comparison that a sentence rests on."""

    anchor: str
    mark: Mark
    label: str
    difference: str
    title: str


@dataclass(frozen=True)
class Sentence:
    """A finding in words."""

    text: str
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Group:
    """What helped, what hurt, or what cannot be told."""

    kind: str
    title: str
    sign: str
    sentences: tuple[Sentence, ...]
    tally: str
    """How many differences from a parent are of this kind, as the headline counts them."""


@dataclass(frozen=True)
class Glance:
    """Every difference from a parent at once: benchmarks down, methods of all scenarios across."""

    scenarios: tuple[tuple[str, int], ...]
    """Heading and number of columns."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Evidence | None, ...]], ...]
    """Benchmark, what sets its differences apart (their unit, their direction), and a cell a column."""
    unit: str
    """Unit of all differences."""


@dataclass(frozen=True)
class VerdictSection:
    """All that the section shows."""

    headline: str
    glance: Glance | None
    groups: tuple[Group, ...]
    sft: tuple[Sentence, ...]
    """What SFT did by itself."""
    between: tuple[Sentence, ...]
    """What was found, or not, between methods and between scenarios."""
    cautions: tuple[str, ...]
    """What limits every finding."""


_SHORT_SCENARIOS = {"sft": "SFT, then align", "base": "Skip SFT (pretrained)", "instruct": "Skip SFT (instruct)"}
_GROUPS = (
    ("helped", "Helped", "▲"),
    ("hurt", "Hurt", "▼"),
    ("cannot tell", "Cannot be told", "◇"),
)


def verdict_section(index: Index) -> VerdictSection:
    """Put together the beginning of the report."""
    parents = [comparison for comparison in index.findings.comparisons if comparison.family == "parent"]
    verdicts = index.findings.verdicts
    others = [verdict for verdict in verdicts if verdict.comparisons and not _is_about_parents(verdict)]
    sft = [verdict for verdict in others if _is_about_sft(index, verdict)]
    return VerdictSection(
        headline=_headline(index, parents),
        glance=_glance(index) if parents else None,
        groups=tuple(
            _group(index, kind, title, sign, [each for each in verdicts if each.kind == kind and each not in others])
            for kind, title, sign in _GROUPS
        ),
        sft=tuple(_sentence(index, verdict) for verdict in sft),
        between=tuple(_sentence(index, verdict) for verdict in others if verdict not in sft),
        cautions=tuple(verdict.text for verdict in verdicts if verdict.kind == "note" and not verdict.comparisons),
    )


def _group(index: Index, kind: str, title: str, sign: str, verdicts: Sequence[Verdict]) -> Group:
    differences = sum(len(verdict.comparisons) for verdict in verdicts)
    tally = counted(differences, "difference")
    if differences != len(verdicts):
        tally = f"{counted(len(verdicts), 'statement')} about {tally}"
    return Group(kind.replace(" ", "-"), title, sign, tuple(_sentence(index, verdict) for verdict in verdicts), tally)


def _is_about_parents(verdict: Verdict) -> bool:
    return all(comparison.family == "parent" for comparison in verdict.comparisons)


def _is_about_sft(index: Index, verdict: Verdict) -> bool:
    """Tell whether a sentence is only about SFT against the base model."""
    pairs = {(comparison.candidate, comparison.baseline) for comparison in verdict.comparisons}
    roles = {tuple(index.models[key].role if key in index.models else "" for key in pair) for pair in pairs}
    return roles == {("sft", "base")}


def _headline(index: Index, parents: Sequence[Comparison]) -> str:
    if not parents:
        return "No aligned model could be compared with its parent."
    marks = [mark_of(comparison) for comparison in parents]
    better, worse, unclear = (marks.count(mark) for mark in ("better", "worse", "unclear"))
    return (
        f"Of {counted(len(parents), 'difference')} from a parent model, {better} {_are(better)} better, {worse} "
        f"{_are(worse)} worse, and for {unclear} no difference can be told (family-wise error rate "
        f"{index.results.alpha:g} in each scenario)."
    )


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _glance(index: Index) -> Glance:
    arms = {scenario: index.arms(scenario) for scenario in index.results.scenarios}
    columns = [arm.models[0] for scenario in index.results.scenarios for arm in arms[scenario]]
    rows = []
    units = unique(index.difference_unit(metric.metric) for metric in index.metrics.values())
    for benchmark in index.benchmarks:
        cells = tuple(
            None if (found := index.against_parent(model.key, benchmark)) is None else _evidence(index, found, "")
            for model in columns
        )
        metric = index.metrics[benchmark]
        notes = [index.difference_unit(metric.metric)] if len(units) > 1 else []
        notes += [] if metric.higher_is_better else ["lower is better"]
        rows.append((benchmark, ", ".join(filter(None, notes)), cells))
    return Glance(
        scenarios=tuple(
            (_SHORT_SCENARIOS.get(scenario, scenario), len(members)) for scenario, members in arms.items() if members
        ),
        columns=tuple(model_name(model) for model in columns),
        rows=tuple(rows),
        unit=units[0] if len(units) == 1 else "",
    )


def _sentence(index: Index, verdict: Verdict) -> Sentence:
    benchmarks = unique(comparison.benchmark for comparison in verdict.comparisons)
    pairs = unique(f"{comparison.candidate} {comparison.baseline}" for comparison in verdict.comparisons)
    evidence = []
    for comparison in verdict.comparisons:
        names = [_short_pair(index, comparison)] if len(pairs) > 1 or len(benchmarks) == 1 else []
        if len(benchmarks) > 1:
            names.append(comparison.benchmark)
        evidence.append(_evidence(index, comparison, ", ".join(names)))
    return Sentence(verdict.text, tuple(evidence))


def _short_pair(index: Index, comparison: Comparison) -> str:
    candidate, baseline = index.models[comparison.candidate], index.models[comparison.baseline]
    if comparison.family == "methods":
        return f"{model_name(candidate)} − {model_name(baseline)}"
    return model_name(candidate)


def _evidence(index: Index, comparison: Comparison, label: str) -> Evidence:
    difference = index.text(comparison.metric, comparison.difference, signed=True)
    low, high = (index.text(comparison.metric, limit, signed=True) for limit in comparison.interval)
    unit = index.difference_unit(comparison.metric)
    return Evidence(
        anchor=index.comparison_anchor(comparison),
        mark=mark_of(comparison),
        label=label,
        difference=difference,
        title=(
            f"{index.name_of(comparison.candidate)} against {index.name_of(comparison.baseline)} on "
            f"{comparison.benchmark}: {difference} {unit}, corrected interval {low} to {high}, corrected p "
            f"{p_value(comparison.p_corrected)}"
        ),
    )
