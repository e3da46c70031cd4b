import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.data.schemas import SAMPLES
from kilter.errors import StageFailed
from kilter.evaluation.benchmarks import Measure
from kilter.evaluation.samples import RESPONSE_CHARACTERS, estimates, prompt_digest, sample_rows, samples_table


def sample(document=0, filter_name="none", responses=(((-1.5, False),), ((-2.25, True),)), **metrics):
    return {
        "doc_id": document,
        "filter": filter_name,
        "doc_hash": f"doc {document}",
        "prompt_hash": f"prompt {document}",
        "target_hash": f"target {document}",
        "resps": [list(repeats) for repeats in responses],
        "metrics": list(metrics),
        **metrics,
    }


def test_there_is_one_row_per_document_filter_and_metric():
    logged = [sample(document, name, acc=1.0, acc_norm=0.0) for name in ("strict", "loose") for document in (0, 1)]
    rows = sample_rows("a_task", logged)
    assert [(row["filter"], row["doc_id"], row["metric"]) for row in rows[:3]] == [
        ("strict", 0, "acc"),
        ("strict", 0, "acc_norm"),
        ("strict", 1, "acc"),
    ]
    assert len(rows) == 8
    assert samples_table(rows).schema == SAMPLES


def test_the_response_is_the_log_likelihood_of_every_choice():
    assert json.loads(sample_rows("a_task", [sample(acc=1)])[0]["response"]) == [-1.5, -2.25]


def test_the_response_is_the_generated_text_capped():
    rows = sample_rows("a_task", [sample(responses=[["x" * (RESPONSE_CHARACTERS + 1)]], exact_match=0)])
    assert rows[0]["response"] == "x" * RESPONSE_CHARACTERS


def test_repeated_samplings_are_all_kept():
    rows = sample_rows("a_task", [sample(responses=[["first", "second"]], exact_match=0)])
    assert json.loads(rows[0]["response"]) == [["first", "second"]]


@pytest.mark.parametrize("broken", [math.nan, -math.inf, math.inf])
def test_a_log_likelihood_that_is_not_finite_is_an_error(broken):
    with pytest.raises(StageFailed, match="task a_task, document 3"):
        sample_rows("a_task", [sample(3, responses=[[(-1.0, True)], [(broken, False)]], acc=1.0)])


def test_a_metric_that_is_nan_is_an_error():
    with pytest.raises(StageFailed, match="the metric acc is NaN"):
        sample_rows("a_task", [sample(acc=math.nan)])


def test_metrics_without_a_number_for_one_document_have_no_rows():
    rows = sample_rows("a_task", [sample(acc=np.float64(1), f1=(0, 1), greedy=True)])
    assert {row["metric"]: row["value"] for row in rows} == {"acc": 1.0, "greedy": 1.0}


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=50))
def test_the_standard_error_is_that_of_a_mean(values):
    rows = sample_rows("a_task", [sample(number, acc=value) for number, value in enumerate(values)])
    estimate = estimates(rows)[Measure("acc", "none")]
    assert estimate.documents == len(values)
    assert estimate.standard_error == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), abs=1e-9)


def test_one_document_has_no_standard_error():
    assert estimates(sample_rows("a_task", [sample(acc=1)]))[Measure("acc", "none")].standard_error is None


def test_the_digest_of_prompts_ignores_order_and_sees_every_prompt():
    first, second = sample(0), sample(1)
    changed = {**second, "prompt_hash": "other"}
    assert prompt_digest({"a": [first, second]}) == prompt_digest({"a": [second, first]})
    assert prompt_digest({"a": [first, second]}) != prompt_digest({"a": [first, changed]})
    assert prompt_digest({"a": [first]}) != prompt_digest({"b": [first]})
