"""What the local backend runs next."""

from hypothesis import given, settings
from hypothesis import strategies as st
from studies import make_study, make_surroundings

from kilter.backends.local.schedule import Execution, Schedule
from kilter.plan.expand import ancestors, expand
from kilter.plan.graph import Plan, Reference


def small_plan() -> Plan:
    study = make_study(scenarios=["sft", "base"], methods=["dpo", "cpo"])
    return expand(study, make_surroundings(study))


def run_to_the_end(schedule: Schedule, failing: frozenset[Reference] = frozenset()) -> list[Reference]:
    order: list[Reference] = []
    while not schedule.finished:
        execution = schedule.next()
        assert execution is not None
        for reference in execution.references:
            order.append(reference)
            if reference in failing:
                schedule.fail(reference, "planted")
            else:
                schedule.finish(reference)
    return order


def test_everything_runs_once_and_after_its_inputs() -> None:
    plan = small_plan()
    order = run_to_the_end(Schedule(plan.nodes, set()))
    assert sorted(order) == sorted(plan.nodes)
    place = {reference: index for index, reference in enumerate(order)}
    for reference, node in plan:
        assert all(place[source] < place[reference] for source in node.inputs.values())


def test_what_is_in_the_store_does_not_run() -> None:
    plan = small_plan()
    assert Schedule(plan.nodes, set(plan.nodes)).finished


def test_benchmarks_of_one_model_run_in_one_process() -> None:
    plan = small_plan()
    schedule = Schedule(plan.nodes, {reference for reference in plan.nodes if reference.stage != "evaluate"})
    execution = schedule.next()
    assert execution is not None
    assert len(execution.references) == 3  # two benchmarks and the answers
    assert len({plan.nodes[reference].inputs["model"] for reference in execution.references}) == 1


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_failure_stops_what_depends_on_it_and_nothing_else(data: st.DataObject) -> None:
    plan = small_plan()
    failed = data.draw(st.sampled_from([reference for reference in plan.nodes if reference.stage != "report"]))
    schedule = Schedule(plan.nodes, set())
    order = run_to_the_end(schedule, frozenset({failed}))
    spoiled = {reference for reference in plan.nodes if failed in ancestors(plan.nodes, reference)} - {failed}
    assert set(schedule.blocked) == spoiled
    assert set(order) == set(plan.nodes) - spoiled
    assert all(cause == failed for cause in schedule.blocked.values())


def stopped_execution() -> tuple[Schedule, Execution]:
    plan = small_plan()
    schedule = Schedule(
        plan.nodes, {reference for reference in plan.nodes if reference.stage in ("ingest", "subsample")}
    )
    execution = schedule.next()
    assert execution is not None
    return schedule, execution


def test_what_was_stopped_from_outside_runs_again_as_long_as_its_checkpoint_advances() -> None:
    schedule, execution = stopped_execution()
    (reference,) = execution.references
    for step in (-1, 0, 5, 6):
        schedule.preempt(execution, {reference: step} if step >= 0 else {})
        assert not schedule.failed
        assert schedule.next() == execution
    schedule.preempt(execution, {reference: 6})
    assert schedule.failed == {reference: "it was stopped from outside twice and got no further than step 6 in between"}
    assert reference not in schedule.ready | schedule.running


def test_what_saves_nothing_runs_again_once() -> None:
    schedule, execution = stopped_execution()
    schedule.preempt(execution, {})
    assert schedule.next() == execution
    schedule.preempt(execution, {})
    assert "no further than its beginning" in schedule.failed[execution.references[0]]


def test_stages_that_run_together_go_on_as_long_as_one_of_them_is_finished() -> None:
    plan = small_plan()
    schedule = Schedule(plan.nodes, {reference for reference in plan.nodes if reference.stage != "evaluate"})
    execution = schedule.next()
    assert execution is not None
    left = len(execution.references)
    while left:
        schedule.preempt(execution, {})
        execution = schedule.next()
        assert execution is not None
        assert len(execution.references) == left
        schedule.finish(execution.references[0])
        left -= 1
    assert not schedule.failed
