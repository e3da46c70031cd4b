import pytest

from kilter.evaluation.benchmarks import Measure, chance_of_choice, chance_of_generation, kind_of, primary_measure

ACCURACIES = [Measure("acc", "none"), Measure("acc_norm", "none")]
GSM8K = [Measure("exact_match", "strict-match"), Measure("exact_match", "flexible-extract")]


@pytest.mark.parametrize("benchmark", ["arc_challenge", "hellaswag", "openbookqa", "piqa"])
def test_length_normalised_accuracy_is_quoted_for_these_sets(benchmark):
    assert primary_measure(benchmark, ACCURACIES) == Measure("acc_norm", "none")


@pytest.mark.parametrize("benchmark", ["mmlu", "winogrande", "boolq", "kilter_arithmetic", "anything_else"])
def test_accuracy_is_quoted_for_the_others(benchmark):
    assert primary_measure(benchmark, ACCURACIES) == Measure("acc", "none")


def test_gsm8k_is_quoted_by_its_strict_filter_whatever_the_order():
    assert primary_measure("gsm8k", GSM8K) == primary_measure("gsm8k", GSM8K[::-1]) == GSM8K[0]


@pytest.mark.parametrize(
    ("benchmark", "quoted"),
    [
        ("bbh_zeroshot_causal_judgement", "flexible-extract"),
        ("bbh_cot_fewshot_causal_judgement", "get-answer"),
        ("bbh_fewshot_snarks", "none"),
        ("bbh", "get-answer"),
    ],
)
def test_bbh_is_quoted_by_the_filter_of_its_variant(benchmark, quoted):
    filters = ("strict-match", "none", "get-answer", "flexible-extract")
    assert primary_measure(benchmark, [Measure("exact_match", name) for name in filters]).filter == quoted


def test_a_metric_that_nobody_knows_is_quoted_when_there_is_no_other():
    assert primary_measure("new", [Measure("novel", "b"), Measure("novel", "a")]) == Measure("novel", "b")
    assert primary_measure("new", []) is None


def test_guessing_earns_the_share_of_right_choices():
    assert chance_of_choice("acc_norm", 1, 4) == 0.25
    assert chance_of_choice("acc", 2, 5) == 0.4
    assert chance_of_choice("f1", 1, 4) is None
    assert chance_of_generation("exact_match") == 0.0
    assert chance_of_generation("bleu") is None


def test_an_unknown_way_of_answering_is_an_error():
    assert kind_of("multiple_choice") == "choice"
    with pytest.raises(KeyError):
        kind_of("telepathy")
