"""The synthetic study that tests of the analysis and of the report share."""

import pytest
from study_results import BENCHMARKS, study_results


def test_synthetic_study_has_every_cell_and_parent():
    results = study_results(documents=20)
    aligned = [model for model in results.models if model.role == "aligned"]
    assert len(results.models) == 39
    assert len(aligned) == 3 * 4 * 3
    keys = {model.key for model in results.models}
    assert len(keys) == 39
    assert all(model.parent in keys for model in aligned)
    assert {score.benchmark for score in aligned[0].scores if score.primary} == {inner.name for inner in BENCHMARKS}


def test_synthetic_scores_are_the_means_of_the_samples():
    results = study_results(documents=20, scenarios=("sft",))
    for model in results.models:
        for score in model.scores:
            values = [
                row["value"]
                for row in model.samples.to_pylist()
                if (row["task"], row["metric"]) == (score.benchmark, score.metric)
            ]
            assert score.value == pytest.approx(sum(values) / len(values))


def test_the_same_seed_gives_the_same_study():
    first, second = (study_results(documents=15, scenarios=("base",)) for _ in range(2))
    assert [model.samples for model in first.models] == [model.samples for model in second.models]
