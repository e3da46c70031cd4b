"""Joining two models' samples."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from study_results import SyntheticBenchmark, samples_table, study_results

from kilter.analysis.pairing import NotComparable, average, measure, pair, tasks_of
from kilter.errors import KilterError

ANY_MODEL = study_results(documents=2, scenarios=("base",), sizes=("all",)).models[0]


def model(samples, name="a model"):
    return replace(ANY_MODEL, name=name, samples=samples, scores=())


def measured(samples, name="a model", benchmark="arc"):
    return measure(model(samples, name), benchmark, "none", "acc")


def test_values_are_joined_by_document_whatever_their_order():
    first = samples_table("arc", [1, 0, 1, 1])
    second = samples_table("arc", [0, 0, 1, 0]).take([2, 0, 3, 1])
    joined = pair(measured(first), measured(second))
    assert joined.candidate.tolist() == [1, 0, 1, 1]
    assert joined.baseline.tolist() == [0, 0, 1, 0]
    assert (joined.documents, joined.clusters, joined.difference) == (4, 4, 0.5)
    assert (joined.only_candidate, joined.only_baseline, joined.binary) == (2, 0, True)


def test_only_the_asked_filter_and_metric_are_read():
    table = pa.concat_tables(
        [
            samples_table("arc", [1, 0]),
            samples_table("arc", [0.5, 0.5], metric="acc_norm"),
            samples_table("arc", [0, 0], filter="strict-match"),
        ]
    )
    assert measured(table).value.tolist() == [1, 0]


def test_different_prompts_are_refused():
    hashes = ["a", "b", "c"]
    first = samples_table("arc", [1, 0, 1], doc_hashes=hashes, prompt_hashes=["p", "q", "r"])
    second = samples_table("arc", [1, 0, 1], doc_hashes=hashes, prompt_hashes=["p", "q", "other"])
    with pytest.raises(NotComparable, match="different prompts in 1 of 3 documents"):
        pair(measured(first), measured(second))
    assert issubclass(NotComparable, KilterError)


def test_different_documents_under_the_same_number_are_refused():
    first = samples_table("arc", [1, 0], doc_hashes=["a", "b"])
    second = samples_table("arc", [1, 0], doc_hashes=["b", "a"])
    with pytest.raises(NotComparable, match="different data in 2 of 2"):
        pair(measured(first), measured(second))


def test_missing_documents_are_counted_on_each_side():
    whole = samples_table("arc", [1, 0, 1, 0, 1])
    with pytest.raises(NotComparable, match=r"2 documents are missing for short and 0 for whole"):
        pair(measured(whole.slice(0, 3), "short"), measured(whole, "whole"))
    with pytest.raises(NotComparable, match=r"1 documents are missing for first and 1 for last"):
        pair(measured(whole.slice(0, 4), "first"), measured(whole.slice(1, 4), "last"))


@pytest.mark.parametrize("hole", [float("nan"), float("inf"), None])
def test_a_missing_value_is_never_a_score(hole):
    table = samples_table("arc", [1, 0, 1])
    values = pa.array([1.0, hole, 1.0], pa.float64())
    table = table.set_column(table.column_names.index("value"), "value", values)
    with pytest.raises(NotComparable, match="1 of 3 documents"):
        measured(table)


def test_a_document_that_occurs_twice_is_refused():
    table = samples_table("arc", [1, 0])
    with pytest.raises(NotComparable, match=r"1 documents .* twice"):
        measured(pa.concat_tables([table, table.slice(0, 1)]))


def test_no_samples_is_an_error_that_names_the_model_and_benchmark():
    with pytest.raises(NotComparable, match="lonely has no samples"):
        measure(model(None, "lonely"), "arc", "none", "acc")
    with pytest.raises(NotComparable, match="lonely has no samples of gsm8k"):
        measure(model(samples_table("arc", [1]), "lonely"), "gsm8k", "none", "acc")


def test_exact_duplicates_within_a_task_form_one_cluster():
    table = pa.concat_tables(
        [
            samples_table("mmlu_law", [1, 1, 0], doc_hashes=["same", "same", "other"]),
            samples_table("mmlu_art", [0, 1], doc_hashes=["same", "last"]),
        ]
    )
    found = measured(table, benchmark="mmlu")
    assert found.task.tolist() == ["mmlu_art"] * 2 + ["mmlu_law"] * 3
    assert found.cluster.tolist() == [0, 1, 2, 2, 3]
    joined = pair(found, measured(table, benchmark="mmlu"))
    assert joined.cluster_sizes.tolist() == [1, 1, 2, 1]


def test_a_group_is_made_of_its_subtasks_unless_a_task_has_its_name():
    assert tasks_of("mmlu", ["mmlu_law", "mmlu_art", "arc", "mmluish"], ["mmlu"]) == ("mmlu_law", "mmlu_art")
    assert tasks_of("arc", ["arc", "arc_easy"], ["arc", "arc_easy"]) == ("arc",)
    assert tasks_of("piqa", ["arc"], ["piqa"]) == ()


def test_a_subtask_belongs_to_the_longest_group_that_fits():
    tasks = ["mmlu_law", "mmlu_pro_law", "mmlu_pro_art"]
    assert tasks_of("mmlu", tasks, ["mmlu", "mmlu_pro"]) == ("mmlu_law",)
    assert tasks_of("mmlu_pro", tasks, ["mmlu", "mmlu_pro"]) == ("mmlu_pro_law", "mmlu_pro_art")


def test_seeds_are_averaged_on_each_document():
    tables = [samples_table("arc", values) for values in ([1, 0], [1, 1], [0, 1])]
    assert average([measured(table) for table in tables]).value == pytest.approx([2 / 3, 2 / 3])
    with pytest.raises(NotComparable, match="missing"):
        average([measured(tables[0]), measured(tables[1].slice(0, 1))])


def test_a_synthetic_group_is_measured_whole():
    benchmark = SyntheticBenchmark("mmlu", subtasks=("mmlu_a", "mmlu_b", "mmlu_c"))
    results = study_results(documents=30, scenarios=("base",), benchmarks=(benchmark,))
    found = measure(results.models[0], "mmlu", "none", "acc")
    assert np.mean(found.value) == pytest.approx(results.models[0].scores[0].value)
