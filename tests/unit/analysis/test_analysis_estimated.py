"""Estimates beside what was taken: for studies whose machine is known, and silent otherwise."""

from dataclasses import replace
from typing import Any

import pytest
from studies import make_study, make_surroundings
from study_results import study_results

from kilter.analysis.analyse import analyse
from kilter.analysis.estimated import expectations_of
from kilter.analysis.report.accounting import cost
from kilter.analysis.report.index import Index
from kilter.analysis.report.render import render_report
from kilter.analysis.results import DataAccount, Stage, StudyResults
from kilter.analysis.tables import cost_table
from kilter.plan.expand import expand
from kilter.plan.graph import Plan

ROWS = 250


@pytest.fixture(scope="module")
def plan() -> Plan:
    study = make_study(methods=["dpo"], sizes=[100], scenarios=["base"])
    return expand(study, make_surroundings(study))


@pytest.fixture(scope="module")
def synthetic() -> StudyResults:
    return study_results(documents=20)


def results_of(plan: Plan, synthetic: StudyResults, **training: Any) -> StudyResults:
    """The synthetic results with a real plan's stages, all done in 10 s with a peak of 600 MB."""
    stages = tuple(
        Stage(
            stage=reference.stage,
            key=reference.key,
            label=node.label,
            seconds=10.0,
            peak_memory_bytes=600_000_000,
            tokens=None,
            manifest_uri="",
            inputs={role: str(item) for role, item in node.inputs.items()},
            config=node.config_data,
        )
        for reference, node in plan
    )
    models = tuple(replace(model, training={**model.training, **training}) for model in synthetic.models)
    account = DataAccount("preference pairs", rows_in=300, dropped={}, held_out=50, rows_out=ROWS)
    return replace(synthetic, stages=stages, models=models, data=(account,))


def test_stages_on_a_cpu_have_an_expected_time_and_memory(plan: Plan, synthetic: StudyResults) -> None:
    results = results_of(plan, synthetic, device="cpu")
    expected = expectations_of(results)
    for stage in results.stages:
        known = expected.of(stage)
        if stage.stage in ("pretrain", "reference", "align"):
            assert known.seconds is not None
            assert known.seconds.value > 0
            assert known.memory is not None
            assert known.memory.value > 400e6  # the libraries of a process
    (align,) = (stage for stage in results.stages if stage.stage == "align")
    assert expected.of(align).seconds.at_most  # lengths are not among the results


def test_rows_that_were_left_bound_what_was_expected(plan: Plan, synthetic: StudyResults) -> None:
    results = results_of(plan, synthetic, device="cpu")
    few = replace(results, data=(replace(results.data[0], rows_out=10, held_out=0),))
    (align,) = (stage for stage in results.stages if stage.stage == "align")
    many, less = (expectations_of(each).of(align).seconds for each in (results, few))
    assert less is not None
    assert many is not None
    assert less.value < many.value


def test_nothing_is_expected_of_a_machine_that_is_not_known(plan: Plan, synthetic: StudyResults) -> None:
    for training in ({"device": "cuda"}, {"device": "cuda", "gpu": "Some GPU"}, {"device": None}):
        assert not expectations_of(results_of(plan, synthetic, **training)).stages


def test_a_gpu_that_the_table_knows_by_its_name_gives_times_but_not_the_memory_of_the_process(
    plan: Plan, synthetic: StudyResults
) -> None:
    results = results_of(plan, synthetic, device="cuda", gpu="NVIDIA H100 80GB HBM3")
    (align,) = (stage for stage in results.stages if stage.stage == "align")
    known = expectations_of(results).of(align)
    assert known.seconds is not None
    assert known.memory is None


def test_a_stage_of_another_version_is_not_estimated(plan: Plan, synthetic: StudyResults) -> None:
    results = results_of(plan, synthetic, device="cpu")
    stages = tuple(replace(each, config={**each.config, "since_renamed": 1}) for each in results.stages)
    assert not expectations_of(replace(results, stages=stages)).stages


def test_the_report_and_its_table_set_estimates_beside_what_was_taken(
    plan: Plan, synthetic: StudyResults, tmp_path: Any
) -> None:
    results = results_of(plan, synthetic, device="cpu")
    findings = analyse(results)
    section = cost(Index(results, findings))
    assert section.compared
    by_kind = {kind.kind: kind for kind in section.kinds}
    assert by_kind["align"].expected.startswith("≤ ")
    assert by_kind["subsample"].expected == "–"
    page = render_report(results, findings, tmp_path).read_text(encoding="utf-8")
    assert page.count(">Estimated</th>") == 3
    names = [column.name for column in cost_table(results).columns]
    rows = [dict(zip(names, row, strict=True)) for row in cost_table(results).rows]
    align = next(row for row in rows if row["stage"] == "align")
    assert align["estimated_seconds"] > 0
    assert align["estimate_is_bound"]
    assert next(row for row in rows if row["stage"] == "report")["estimated_seconds"] is None


def test_without_estimates_the_section_has_no_empty_columns(plan: Plan, synthetic: StudyResults) -> None:
    results = results_of(plan, synthetic, device="cuda")
    assert not cost(Index(results, analyse(results))).compared
