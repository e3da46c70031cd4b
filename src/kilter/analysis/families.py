"""Which comparisons a study makes, fixed by its grid before any score is seen.

Three kinds of families, each corrected by itself: every method against its parent, per scenario over all benchmarks;
every pair of methods, per scenario; and scenario against scenario, of the parents and of each method. All are at the
largest size and on each benchmark's primary metric.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kilter.analysis.findings import Chosen, Family
from kilter.errors import StageFailed

if TYPE_CHECKING:
    from kilter.analysis.results import ModelResult, StudyResults

SEEDS_FOR_METHODS = 3
"""Fewest seeds with which a result speaks of a method rather than of a checkpoint."""
_SCENARIO_ORDER = ("base", "sft", "instruct")
"""In comparisons of scenarios the later one is the candidate: what did SFT, or instruction tuning, add?"""


@dataclass(frozen=True)
class Metric:
    """What is compared on a benchmark."""

    benchmark: str
    filter: str
    metric: str
    higher_is_better: bool
    chance: float | None


@dataclass(frozen=True, eq=False)
class Arm:
    """One side of a comparison: a model, or the seeds of one cell taken together."""

    models: tuple["ModelResult", ...]

    @property
    def key(self) -> str:
        """`stage/key` of the first model, which stands for the arm."""
        return self.models[0].key


@dataclass(frozen=True, eq=False)
class Planned:
    """A comparison that a family contains, whether or not it can be made."""

    family: Family
    scenario: str | None
    candidate: Arm
    baseline: Arm
    metric: Metric


@dataclass(frozen=True)
class Cell:
    """One method with one set of hyperparameters in one scenario."""

    scenario: str
    method: str
    variant: str


def primary_metrics(results: "StudyResults") -> tuple[Metric, ...]:
    """List each benchmark with its primary metric, in the order in which the models name them.

    What has no primary metric, as the subtasks of a group, is shown but not compared.

    Raises:
        StageFailed: models disagree on a benchmark's primary metric.
    """
    found: dict[str, dict[tuple[str, str], Metric]] = {}
    for model in results.models:
        for score in model.scores:
            if score.primary:
                found.setdefault(score.benchmark, {}).setdefault(
                    (score.filter, score.metric),
                    Metric(score.benchmark, score.filter, score.metric, score.higher_is_better, score.chance),
                )
    for benchmark, marked in found.items():
        if len(marked) > 1:
            named = ", ".join(f"{metric} ({name})" for name, metric in marked)
            raise StageFailed(
                f"a benchmark has one primary metric, but the models' scores on {benchmark} mark {named}: evaluate "
                "every model with the same task version"
            )
    return tuple(metric for marked in found.values() for metric in marked.values())


def largest_size(results: "StudyResults") -> int | str:
    """The study's largest training-set size: `all`, or else the largest number of pairs."""
    numbers = [size for size in results.sizes if not isinstance(size, str)]
    return "all" if "all" in results.sizes or not numbers else max(numbers)


def subject_of(results: "StudyResults") -> str:
    """What the study's findings are about: `methods (3 seeds)` with three or more, else `single checkpoints`."""
    seeds = len(results.seeds)
    if seeds >= SEEDS_FOR_METHODS:
        return f"methods ({seeds} seeds)"
    return "single checkpoints (one seed)" if seeds == 1 else f"single checkpoints (the first of {seeds} seeds)"


def arm_of(results: "StudyResults", cell: Cell, size: int | str) -> Arm | None:
    """The models of a cell at one size: the first seed's, or all seeds' where there are three or more.

    A seed whose model could not be made is passed over, unless there is no other.
    """
    models = [
        model
        for model in results.models
        if (model.role, model.scenario, model.method, model.variant, model.size)
        == ("aligned", cell.scenario, cell.method, cell.variant, size)
    ]
    order = {seed: place for place, seed in enumerate(results.seeds)}
    models.sort(key=lambda model: order.get(-1 if model.seed is None else model.seed, len(order)))
    models = [model for model in models if has_result(model)] or models
    if not models:
        return None
    return Arm(tuple(models if len(results.seeds) >= SEEDS_FOR_METHODS else models[:1]))


def has_result(model: "ModelResult") -> bool:
    """Whether a model was made; one whose training failed is known by name only."""
    return bool(model.training) or model.samples is not None


def cells_of(results: "StudyResults", scenario: str, method: str) -> tuple[Cell, ...]:
    """The cells of a method's grid in a scenario that have a model at the largest size, in the study's order."""
    size = largest_size(results)
    variants = dict.fromkeys(
        model.variant
        for model in results.models
        if (model.role, model.scenario, model.method, model.size) == ("aligned", scenario, method, size)
    )
    return tuple(Cell(scenario, method, variant) for variant in variants)


def choose(results: "StudyResults") -> tuple[Chosen, ...]:
    """Pick the cell that stands for each method in each scenario, without looking at any benchmark.

    The cell with the highest accuracy on the held-out preference pairs, at the largest size, mean over the seeds that
    are compared; equal accuracies are told apart by the larger held-out margin, then by the study's order. Where a cell
    was not measured on held-out pairs, none is picked: every cell stands for itself, and all are in the families. What
    could not be made is passed over, unless there is no other cell.
    """
    chosen: list[Chosen] = []
    for scenario in results.scenarios:
        for method in results.methods:
            cells = cells_of(results, scenario, method)
            arms = {cell: arm for cell in cells if (arm := arm_of(results, cell, largest_size(results))) is not None}
            arms = {cell: arm for cell, arm in arms.items() if has_result(arm.models[0])} or arms
            measured = {cell: _held_out(arm) for cell, arm in arms.items()}
            if len(arms) == 1:
                reason = "only cell" if len(cells) == 1 else f"the only one of {len(cells)} cells with a result"
                reasons = dict.fromkeys(arms, reason)
            elif any(found is None for found in measured.values()):
                reason = f"one of {len(arms)} cells, all shown: not every cell was measured on held-out pairs"
                reasons = dict.fromkeys(arms, reason)
            else:
                known = {cell: found for cell, found in measured.items() if found is not None}
                reasons = _best(known)
            chosen += [Chosen(scenario, method, arms[cell].key, reason) for cell, reason in reasons.items()]
    return tuple(chosen)


def chosen_cells(results: "StudyResults", chosen: tuple[Chosen, ...]) -> tuple[Cell, ...]:
    """The cells that `choose` picked."""
    variants = {model.key: model.variant for model in results.models}
    return tuple(Cell(each.scenario, each.method, variants[each.model]) for each in chosen)


def parent_of(results: "StudyResults", arm: Arm) -> Arm | None:
    """The model that an arm's models started from, or each seed's own where they differ."""
    by_key = {model.key: model for model in results.models}
    parents = [by_key[model.parent] for model in arm.models if model.parent in by_key]
    if len(parents) != len(arm.models):
        return None
    return Arm(tuple(parents) if len({parent.key for parent in parents}) > 1 else (parents[0],))


def parent_of_scenario(results: "StudyResults", scenario: str) -> Arm | None:
    """The model that a scenario's alignment starts from."""
    size = largest_size(results)
    for method in results.methods:
        for cell in cells_of(results, scenario, method):
            arm = arm_of(results, cell, size)
            if arm is not None and (parent := parent_of(results, arm)) is not None:
                return parent
    return next((Arm((model,)) for model in results.models if model.role == scenario), None)


def plan_comparisons(results: "StudyResults", chosen: tuple[Chosen, ...]) -> tuple[Planned, ...]:
    """List every comparison of every family."""
    size = largest_size(results)
    arms = {cell: arm for cell in chosen_cells(results, chosen) if (arm := arm_of(results, cell, size)) is not None}
    metrics = primary_metrics(results)
    return tuple(
        Planned(family, scenario, candidate, baseline, metric)
        for family, scenario, candidate, baseline in (
            *_against_parents(results, arms),
            *_between_methods(results, arms),
            *_between_scenarios(results, arms),
        )
        for metric in metrics
    )


def _against_parents(results: "StudyResults", arms: dict[Cell, Arm]) -> list[tuple[Family, str | None, Arm, Arm]]:
    return [
        ("parent", cell.scenario, arm, parent)
        for cell, arm in arms.items()
        if (parent := parent_of(results, arm)) is not None
    ]


def _between_methods(results: "StudyResults", arms: dict[Cell, Arm]) -> list[tuple[Family, str | None, Arm, Arm]]:
    pairs: list[tuple[Family, str | None, Arm, Arm]] = []
    for scenario in results.scenarios:
        cells = [cell for cell in arms if cell.scenario == scenario]
        pairs += [
            ("methods", scenario, arms[first], arms[second])
            for place, first in enumerate(cells)
            for second in cells[place + 1 :]
            if first.method != second.method
        ]
    return pairs


def _between_scenarios(results: "StudyResults", arms: dict[Cell, Arm]) -> list[tuple[Family, str | None, Arm, Arm]]:
    scenarios = [scenario for scenario in _SCENARIO_ORDER if scenario in results.scenarios]
    pairs: list[tuple[Family, str | None, Arm, Arm]] = []
    for place, earlier in enumerate(scenarios):
        for later in scenarios[place + 1 :]:
            candidate, baseline = parent_of_scenario(results, later), parent_of_scenario(results, earlier)
            if candidate is not None and baseline is not None:
                pairs.append(("scenarios", None, candidate, baseline))
            for method in results.methods:
                pairs += _same_method(arms, method, later, earlier)
    return pairs


def _same_method(
    arms: dict[Cell, Arm], method: str, later: str, earlier: str
) -> list[tuple[Family, str | None, Arm, Arm]]:
    """Pair a method's chosen cells across two scenarios; where every cell is shown, those with equal variants."""
    candidates = [cell for cell in arms if (cell.scenario, cell.method) == (later, method)]
    baselines = [cell for cell in arms if (cell.scenario, cell.method) == (earlier, method)]
    single = len(candidates) == 1 and len(baselines) == 1
    return [
        ("scenarios", None, arms[candidate], arms[baseline])
        for candidate in candidates
        for baseline in baselines
        if single or candidate.variant == baseline.variant
    ]


def _held_out(arm: Arm) -> tuple[float, float] | None:
    """Mean held-out accuracy and margin over an arm's models, or None where one was not measured."""
    if any("accuracy" not in model.held_out for model in arm.models):
        return None
    count = len(arm.models)
    accuracy = sum(model.held_out["accuracy"] for model in arm.models) / count
    margin = sum(model.held_out.get("margin", 0.0) for model in arm.models) / count
    return accuracy, margin


def _best(measured: dict[Cell, tuple[float, float]]) -> dict[Cell, str]:
    if not measured:
        return {}
    best = max(measured, key=lambda cell: measured[cell])
    accuracy, _ = measured[best]
    tied = sum(found[0] == accuracy for found in measured.values()) > 1
    rule = ", the larger margin among equals" if tied else ""
    return {
        best: f"{best.variant}: highest accuracy on held-out preference pairs of {len(measured)} cells "
        f"({100 * accuracy:.1f}%{rule})"
    }
