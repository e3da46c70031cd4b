"""From results to findings: comparisons, verdict and notes."""

import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from study_results import BENCHMARKS, SyntheticBenchmark, study_results

from kilter.analysis.analyse import analyse
from kilter.analysis.paired_tests import mcnemar


@pytest.fixture(scope="module")
def results():
    return study_results(documents=200)


@pytest.fixture(scope="module")
def findings(results):
    return analyse(results)


def texts(findings, kind):
    return [verdict.text for verdict in findings.verdicts if verdict.kind == kind]


def changed_samples(results, method, change):
    """Change the samples of a method's models."""
    models = tuple(
        replace(model, samples=change(model.samples)) if model.method == method else model for model in results.models
    )
    return replace(results, models=models)


def find(findings, results, family, candidate, baseline, benchmark):
    names = {model.key: model.name for model in results.models}
    return next(
        each
        for each in findings.comparisons
        if (each.family, names[each.candidate], names[each.baseline], each.benchmark)
        == (family, candidate, baseline, benchmark)
    )


def test_a_comparison_holds_what_its_samples_say(results, findings):
    found = find(findings, results, "parent", "sft dpo all", "sft", "kilter_arithmetic")
    values = {}
    for model in results.models:
        if model.name in ("sft dpo all", "sft"):
            rows = model.samples.filter(pc.equal(model.samples["task"], "kilter_arithmetic")).to_pylist()
            values[model.name] = np.array([row["value"] for row in rows])
    candidate, baseline = values["sft dpo all"], values["sft"]
    assert found.candidate_score == pytest.approx(candidate.mean())
    assert found.baseline_score == pytest.approx(baseline.mean())
    assert found.difference == pytest.approx(candidate.mean() - baseline.mean())
    only = int(np.sum(candidate > baseline)), int(np.sum(candidate < baseline))
    assert found.p_value == pytest.approx(mcnemar(*only))
    assert found.test == "exact McNemar"
    assert (found.documents, found.clusters, found.family_size) == (200, 200, 20)
    assert found.interval[0] < found.difference < found.interval[1]
    assert found.p_value <= found.p_corrected <= 1


def test_the_test_fits_the_values(results, findings):
    tests = {each.benchmark: each.test for each in findings.comparisons if each.family == "parent"}
    assert tests["kilter_arithmetic"] == "exact McNemar"
    assert tests["kilter_ordering"] == "exact sign-flip permutation"  # has duplicates
    assert tests["kilter_truth"].startswith("sign-flip permutation, ")
    clusters = {each.benchmark: each.clusters for each in findings.comparisons}
    assert clusters["kilter_ordering"] == 194


def test_what_was_made_better_or_worse_is_found_and_nothing_else(results, findings):
    by_key = {model.key: model for model in results.models}
    helped = {
        (by_key[each.candidate].method, each.benchmark)
        for each in findings.comparisons
        if each.helped and each.family == "parent" and each.scenario == "sft"
    }
    hurt = {
        (by_key[each.candidate].method, each.benchmark)
        for each in findings.comparisons
        if each.hurt and each.family == "parent" and each.scenario == "sft"
    }
    assert ("dpo", "kilter_arithmetic") in helped
    assert ("kto", "kilter_ordering") in helped
    assert hurt == {("cpo", "kilter_copying")}
    assert not any(benchmark == "kilter_choosing" for _, benchmark in helped | hurt)


def test_the_verdict_says_what_helped_first_with_its_numbers(results, findings):
    kinds = [verdict.kind for verdict in findings.verdicts]
    assert kinds[0] == "helped"
    assert kinds.index("hurt") < kinds.index("cannot tell")
    found = find(findings, results, "parent", "sft dpo all", "sft", "kilter_arithmetic")
    sentence = texts(findings, "helped")[0]
    assert sentence.startswith("In scenario sft, this DPO checkpoint raised kilter_arithmetic from ")
    for number in (found.baseline_score, found.candidate_score, found.difference, *found.interval):
        assert f"{100 * number:.1f}" in sentence
    assert "simultaneous 95% interval" in sentence
    assert "Holm p < 0.0001" in sentence
    assert findings.verdicts[0].comparisons == (found,)


def test_every_comparison_with_the_parent_is_spoken_of_once(findings):
    spoken = [each for verdict in findings.verdicts for each in verdict.comparisons if each.family == "parent"]
    assert len(spoken) == len(set(map(id, spoken)))
    assert {id(each) for each in spoken} == {id(each) for each in findings.comparisons if each.family == "parent"}


def test_what_cannot_be_told_comes_with_what_would_have_been_seen(findings):
    sentence = next(text for text in texts(findings, "cannot tell") if "kilter_choosing" in text)
    verdict = next(verdict for verdict in findings.verdicts if verdict.text == sentence)
    limit = max(each.smallest_detectable for each in verdict.comparisons)
    assert f"a true difference of {100 * limit:.1f} points or more would have been found" in sentence
    assert "cannot be told from the parent model" in sentence


def test_few_seeds_never_speak_of_methods(findings):
    assert findings.subject == "single checkpoints (one seed)"
    assert not any("this method" in verdict.text for verdict in findings.verdicts)
    assert any("about single checkpoints (one seed), not about methods" in text for text in texts(findings, "note"))


def test_three_seeds_speak_of_methods_and_are_averaged_on_each_document():
    results = study_results(documents=60, scenarios=("sft",), sizes=("all",), seeds=(0, 1, 2))
    found = analyse(results)
    assert found.subject == "methods (3 seeds)"
    assert not any("checkpoint" in verdict.text for verdict in found.verdicts)
    names = {model.key: model for model in results.models}
    comparison = next(
        each
        for each in found.comparisons
        if each.family == "parent" and names[each.candidate].method == "dpo" and each.benchmark == "kilter_arithmetic"
    )
    scores = [
        score.value
        for model in results.models
        if model.method == "dpo"
        for score in model.scores
        if score.benchmark == "kilter_arithmetic"
    ]
    assert len(scores) == 3
    assert comparison.candidate_score == pytest.approx(sum(scores) / 3)
    assert comparison.test == "exact sign-flip permutation"
    assert comparison.documents == 60
    assert any("3 seeds" in note for note in found.notes)


def test_swapping_candidate_and_baseline_turns_the_sign_only():
    results = study_results(documents=80, scenarios=("sft",), methods=("dpo", "kto"), sizes=("all",))
    swapped = replace(results, methods=("kto", "dpo"))
    one = [each for each in analyse(results).comparisons if each.family == "methods"]
    other = [each for each in analyse(swapped).comparisons if each.family == "methods"]
    for first, second in zip(one, other, strict=True):
        assert (first.candidate, first.baseline) == (second.baseline, second.candidate)
        assert first.difference == pytest.approx(-second.difference)
        assert first.p_value == pytest.approx(second.p_value)
        assert first.p_corrected == pytest.approx(second.p_corrected)
        assert first.smallest_detectable == pytest.approx(second.smallest_detectable)
        assert first.helped == second.hurt


def test_a_metric_where_lower_is_better_helps_when_it_falls():
    results = study_results(documents=200, scenarios=("sft",), sizes=("all",))
    models = tuple(
        replace(model, scores=tuple(replace(score, higher_is_better=False) for score in model.scores))
        for model in results.models
    )
    found = analyse(replace(results, models=models))
    assert any("lowered kilter_copying" in text and "lower is better" in text for text in texts(found, "helped"))
    assert any("raised kilter_arithmetic" in text for text in texts(found, "hurt"))


def test_models_evaluated_with_other_prompts_are_not_compared_and_it_is_said(results, findings):
    def other_prompts(samples):
        place = samples.column_names.index("prompt_hash")
        return samples.set_column(place, "prompt_hash", pa.array(["other"] * samples.num_rows))

    found = analyse(changed_samples(results, "kto", other_prompts))
    by_key = {model.key: model for model in results.models}
    kto_alone = [
        each
        for each in found.comparisons
        if (by_key[each.candidate].method == "kto") != (by_key[each.baseline].method == "kto")
    ]
    assert kto_alone == []
    assert any("sft kto all and sft cannot be compared on kilter_copying" in text for text in texts(found, "note"))
    # The family keeps its planned size, so that nobody gains from the failure.
    dpo = find(found, results, "parent", "sft dpo all", "sft", "kilter_arithmetic")
    assert dpo.family_size == 20
    assert dpo.p_corrected >= find(findings, results, "parent", "sft dpo all", "sft", "kilter_arithmetic").p_corrected


def test_a_model_that_was_not_evaluated_is_named_once(results):
    found = analyse(changed_samples(results, "cpo", lambda samples: None))
    refused = [text for text in texts(found, "note") if text.startswith("Not compared: ")]
    assert len(refused) == len(set(refused)) == 3
    assert "Not compared: sft cpo all has no samples: it could not be made, or was not evaluated." in refused


def test_group_scores_come_from_their_subtasks():
    group = SyntheticBenchmark("mmlu", subtasks=("mmlu_law", "mmlu_art"))
    results = study_results(documents=40, scenarios=("sft",), sizes=("all",), benchmarks=(group,))
    found = analyse(results)
    assert {(each.benchmark, each.documents) for each in found.comparisons} == {("mmlu", 40)}
    assert not any("is not the mean" in note for note in found.notes)


def test_importing_the_analysis_is_cheap():
    code = (
        "import sys, kilter.analysis.analyse, kilter.analysis.tables; "
        "print([name for name in ('scipy', 'statsmodels', 'pandas', 'torch') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_scores_near_chance_are_said_to_be():
    benchmarks = (SyntheticBenchmark("guessing", chance=0.5), SyntheticBenchmark("known", chance=0.25))
    results = study_results(documents=100, benchmarks=benchmarks, scenarios=("sft",), sizes=("all",), effects={})
    generator = np.random.default_rng(5)

    def guessed(model):
        rows = model.samples.to_pylist()
        values = [float(value) for value in generator.permutation([1, 0] * 50)]
        for row, value in zip((row for row in rows if row["task"] == "guessing"), values, strict=True):
            row["value"] = value
        scores = tuple(replace(score, value=0.5) if score.benchmark == "guessing" else score for score in model.scores)
        return replace(model, samples=pa.Table.from_pylist(rows, model.samples.schema), scores=scores)

    found = analyse(replace(results, models=tuple(guessed(model) for model in results.models)))
    notes = [text for text in texts(found, "note") if "guessing" in text]
    assert any("On guessing (50.0) every model's 95% interval includes" in note for note in notes)
    assert not any("known" in note for note in notes)


def test_few_steps_are_warned_of():
    short = analyse(study_results(documents=20, scenarios=("base",), steps=30, benchmarks=BENCHMARKS[:1]))
    assert any("12 of 12 aligned models trained for fewer than 50 steps" in text for text in texts(short, "note"))
    assert any("Even the largest size" in text for text in texts(short, "note"))
    long = analyse(study_results(documents=20, scenarios=("base",), steps=5000, benchmarks=BENCHMARKS[:1]))
    assert not any("50 steps" in verdict.text for verdict in long.verdicts)


def test_missing_stages_are_counted(findings):
    assert any(text.startswith("1 result is missing (1 align); ") for text in texts(findings, "note"))


def test_sentences_have_a_true_minus(findings):
    told = " ".join(verdict.text for verdict in findings.verdicts)
    assert "−" in told
    assert not re.search(r"(?<!\w)-\d", told)


def test_equal_models_have_no_evidence_and_an_honest_interval():
    results = study_results(documents=100, scenarios=("sft",), methods=("dpo",), sizes=("all",))
    parent = next(model for model in results.models if model.role == "sft")
    models = tuple(
        replace(model, samples=parent.samples, scores=parent.scores) if model.method else model
        for model in results.models
    )
    found = analyse(replace(results, models=models))
    for each in found.comparisons:
        assert (each.difference, each.p_value, each.significant) == (0, 1, False)
        assert each.interval[0] < 0 < each.interval[1]
        assert 0 < each.smallest_detectable < 1
    assert any("a bootstrap says nothing there" in note for note in found.notes)


def test_hardly_any_documents_are_said_to_be_too_few():
    found = analyse(study_results(documents=4, scenarios=("sft",), sizes=("all",), benchmarks=BENCHMARKS[:1]))
    assert all(math.isinf(each.smallest_detectable) for each in found.comparisons)
    assert any("4 documents are too few to find any difference" in text for text in texts(found, "cannot tell"))


def test_a_score_that_is_no_mean_of_documents_is_noted(results):
    models = tuple(
        replace(
            model,
            scores=tuple(
                replace(score, value=score.value / 2) if score.benchmark == "kilter_truth" else score
                for score in model.scores
            ),
        )
        for model in results.models
    )
    found = analyse(replace(results, models=models))
    assert any(note.startswith("kilter_truth: the score acc is not the mean") for note in found.notes)


def test_the_same_results_give_the_same_findings(results, findings):
    assert analyse(results) == findings


def test_a_study_without_alignment_results_still_has_a_verdict(results):
    bare = replace(results, models=tuple(model for model in results.models if model.method is None))
    found = analyse(bare)
    assert {each.family for each in found.comparisons} == {"scenarios"}
    assert found.chosen == ()
