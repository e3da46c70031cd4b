"""Which comparisons are planned, and which cells stand for methods."""

from collections import Counter
from dataclasses import replace

import pytest
from study_results import BENCHMARKS, study_results

from kilter.analysis.families import (
    Cell,
    arm_of,
    choose,
    largest_size,
    plan_comparisons,
    primary_metrics,
    subject_of,
)
from kilter.errors import StageFailed


def small(**changes):
    return study_results(documents=6, benchmarks=BENCHMARKS[:2], **changes)


def replaced(results, change):
    return replace(results, models=tuple(change(model) for model in results.models))


def test_families_have_the_sizes_that_the_grid_fixes():
    results = small()
    planned = plan_comparisons(results, choose(results))
    sizes = Counter((each.family, each.scenario) for each in planned)
    benchmarks, methods, scenarios = 2, 4, 3
    for scenario in ("sft", "base", "instruct"):
        assert sizes["parent", scenario] == methods * benchmarks
        assert sizes["methods", scenario] == methods * (methods - 1) // 2 * benchmarks
    assert sizes["scenarios", None] == scenarios * (scenarios - 1) // 2 * (methods + 1) * benchmarks


def test_the_plan_does_not_depend_on_any_score():
    results = small()

    def changed(model):
        return replace(model, samples=None, scores=tuple(replace(score, value=0.0) for score in model.scores))

    other = replaced(results, changed)
    assert [
        (each.family, each.scenario, each.candidate.key, each.baseline.key, each.metric)
        for each in plan_comparisons(results, choose(results))
    ] == [
        (each.family, each.scenario, each.candidate.key, each.baseline.key, each.metric)
        for each in plan_comparisons(other, choose(other))
    ]


def test_all_comparisons_are_at_the_largest_size_and_against_the_models_own_parent():
    results = small()
    by_key = {model.key: model for model in results.models}
    for each in plan_comparisons(results, choose(results)):
        candidate, baseline = by_key[each.candidate.key], by_key[each.baseline.key]
        assert candidate.size in ("all", None)
        assert baseline.size in ("all", None)
        if each.family == "parent":
            assert candidate.parent == baseline.key
        if each.family == "methods":
            assert candidate.scenario == baseline.scenario == each.scenario
            assert candidate.method != baseline.method
        if each.family == "scenarios":
            assert candidate.method == baseline.method


def test_scenarios_are_compared_with_the_more_tuned_one_as_candidate():
    results = small(scenarios=("instruct", "sft", "base"))
    by_key = {model.key: model for model in results.models}
    pairs = {
        (by_key[each.candidate.key].role, by_key[each.baseline.key].role)
        for each in plan_comparisons(results, choose(results))
        if each.family == "scenarios" and by_key[each.candidate.key].method is None
    }
    assert pairs == {("sft", "base"), ("instruct", "base"), ("instruct", "sft")}


def test_the_cell_with_the_best_held_out_accuracy_stands_for_its_method():
    results = small(variants={"ipo": ("beta=0.01", "beta=0.1", "beta=0.5")}, scenarios=("sft",))
    accuracies = {"beta=0.01": 0.6, "beta=0.1": 0.7, "beta=0.5": 0.65}

    def held_out(model):
        accuracy = accuracies.get(model.variant, 0.5)
        return replace(model, held_out=dict(model.held_out, accuracy=accuracy)) if model.method else model

    chosen = choose(replaced(results, held_out))
    by_key = {model.key: model for model in results.models}
    assert [each.method for each in chosen] == ["dpo", "ipo", "kto", "cpo"]
    assert by_key[chosen[1].model].variant == "beta=0.1"
    assert by_key[chosen[1].model].size == "all"
    assert "held-out" in chosen[1].reason
    assert "70.0%" in chosen[1].reason
    assert chosen[0].reason == "only cell"


def test_equal_accuracies_are_told_apart_by_the_margin():
    results = small(variants={"ipo": ("beta=0.01", "beta=0.1")}, scenarios=("sft",))

    def held_out(model):
        margin = {"beta=0.01": 0.4, "beta=0.1": 0.3}.get(model.variant, 0.0)
        return replace(model, held_out={"accuracy": 0.6, "margin": margin}) if model.method else model

    chosen = choose(replaced(results, held_out))
    by_key = {model.key: model for model in results.models}
    assert by_key[chosen[1].model].variant == "beta=0.01"
    assert "larger margin" in chosen[1].reason


def test_without_held_out_pairs_every_cell_is_in_the_families():
    results = small(variants={"ipo": ("beta=0.01", "beta=0.1")}, scenarios=("sft", "base"))
    results = replaced(results, lambda model: replace(model, held_out={}))
    chosen = choose(results)
    assert [each.method for each in chosen if each.scenario == "sft"] == ["dpo", "ipo", "ipo", "kto", "cpo"]
    planned = plan_comparisons(results, chosen)
    sizes = Counter((each.family, each.scenario) for each in planned)
    assert sizes["parent", "sft"] == 5 * 2
    assert sizes["methods", "sft"] == (5 * 4 // 2 - 1) * 2  # a method is not compared with itself
    assert sizes["scenarios", None] == (5 + 1) * 2  # equal variants only


def test_few_seeds_compare_the_first_and_three_are_taken_together():
    two = small(scenarios=("sft",), seeds=(7, 3))
    arm = arm_of(two, Cell("sft", "dpo", ""), "all")
    assert [model.seed for model in arm.models] == [7]
    assert subject_of(two) == "single checkpoints (the first of 2 seeds)"
    assert subject_of(small(scenarios=("sft",), seeds=(7,))) == "single checkpoints (one seed)"
    three = small(scenarios=("sft",), seeds=(7, 3, 5))
    arm = arm_of(three, Cell("sft", "dpo", ""), "all")
    assert [model.seed for model in arm.models] == [7, 3, 5]
    assert subject_of(three) == "methods (3 seeds)"


def test_largest_size():
    assert largest_size(small(scenarios=("sft",), sizes=(1000, 250))) == 1000
    assert largest_size(small(scenarios=("sft",), sizes=("all", 250))) == "all"


def test_models_that_disagree_on_the_primary_metric_are_an_error():
    results = small(scenarios=("sft",))

    def flipped(model):
        scores = tuple(
            replace(score, primary=not score.primary) if score.benchmark == "kilter_ordering" else score
            for score in model.scores
        )
        return replace(model, scores=scores) if model.method == "kto" else model

    assert [metric.metric for metric in primary_metrics(results)] == ["exact_match", "acc"]
    with pytest.raises(StageFailed, match=r"kilter_ordering mark acc .*acc_norm"):
        primary_metrics(replaced(results, flipped))


def test_a_method_without_a_model_is_left_out_of_the_plan_but_not_the_others():
    results = small(scenarios=("sft",))
    results = replace(results, models=tuple(model for model in results.models if model.method != "kto"))
    planned = plan_comparisons(results, choose(results))
    assert Counter(each.family for each in planned) == {"parent": 3 * 2, "methods": 3 * 2}


def unmade(model):
    return replace(model, training={}, held_out={}, samples=None, scores=(), curve=None)


def test_a_cell_that_could_not_be_made_is_passed_over():
    results = small(variants={"ipo": ("beta=0.01", "beta=0.1")}, scenarios=("sft",))
    results = replaced(results, lambda model: unmade(model) if model.variant == "beta=0.1" else model)
    chosen = choose(results)
    by_key = {model.key: model for model in results.models}
    assert by_key[chosen[1].model].variant == "beta=0.01"
    assert chosen[1].reason == "the only one of 2 cells with a result"


def test_a_method_that_could_not_be_made_stays_in_its_families():
    results = small(scenarios=("sft",))
    failed = replaced(results, lambda model: unmade(model) if model.method == "kto" else model)
    assert len(plan_comparisons(failed, choose(failed))) == len(plan_comparisons(results, choose(results)))


def test_a_seed_that_could_not_be_made_is_passed_over():
    two = small(scenarios=("sft",), seeds=(0, 1))
    two = replaced(two, lambda model: unmade(model) if model.seed == 0 else model)
    assert [model.seed for model in arm_of(two, Cell("sft", "dpo", ""), "all").models] == [1]
    three = small(scenarios=("sft",), seeds=(0, 1, 2))
    three = replaced(three, lambda model: unmade(model) if model.seed == 1 else model)
    assert [model.seed for model in arm_of(three, Cell("sft", "dpo", ""), "all").models] == [0, 2]


def test_subtasks_of_a_group_are_not_compared_by_themselves():
    results = small(scenarios=("sft",))

    def with_subtask(model):
        subtask = replace(model.scores[0], benchmark="kilter_arithmetic_long", primary=False)
        return replace(model, scores=(*model.scores, subtask))

    assert primary_metrics(replaced(results, with_subtask)) == primary_metrics(results)
