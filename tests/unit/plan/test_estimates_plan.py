"""Estimates of whole plans: every stage, sums that add up, and what is not known staying so."""

from typing import Any

import pytest
from studies import make_study, make_surroundings

from kilter.plan.configs import AlignConfig, ReferenceConfig
from kilter.plan.estimates.amounts import Amount
from kilter.plan.estimates.estimate import PlanEstimate, estimate_plan
from kilter.plan.estimates.hardware import machine_named
from kilter.plan.estimates.known import Known, Lengths, Rows
from kilter.plan.estimates.shapes import ModelShape
from kilter.plan.expand import expand
from kilter.plan.graph import Plan
from kilter.study.facts import load_facts

H100 = machine_named("h100-80gb")
MISTRAL = ModelShape(4096, 32, 32, 8, 128, 14336, 32000, tied=False)
LARGE = {"base": {"source": "org/large", "chat_template": "plain"}}
ROWS = {"sft": 1000, "preference": 10_000, "text": 40_000, "instruct": 1000, "train": 10_000}


def plan_of(**changes: Any) -> Plan:
    study = make_study(**changes)
    return expand(study, make_surroundings(study))


def known_of(plan: Plan, shape: ModelShape | None = MISTRAL, **changes: Any) -> Known:
    ingested = {reference: node for reference, node in plan if reference.stage == "ingest"}
    models = {reference for reference, node in ingested.items() if node.config_data["kind"] == "model"}
    settings: dict[str, Any] = {
        "shapes": dict.fromkeys(models, shape) if shape else {},
        "source_rows": dict.fromkeys(ingested.keys() - models, ROWS),
        "benchmarks": load_facts().benchmarks,
    }
    return Known(**{**settings, **changes})


def large(**changes: Any) -> Plan:
    return plan_of(models=LARGE, scenarios=["base"], **changes)


def of_kind(estimate: PlanEstimate, kind: str) -> list[Any]:
    return [each for each in estimate.stages.values() if each.stage == kind]


def test_every_stage_that_is_still_to_run_is_estimated() -> None:
    plan = plan_of()
    done = {reference for reference in plan.nodes if reference.stage in ("ingest", "subsample")}
    estimate = estimate_plan(plan, known_of(plan), H100, 8, done)
    assert estimate.stages.keys() == plan.nodes.keys() - done
    assert estimate.sums().stages == len(plan.nodes) - len(done)


def test_an_adapter_takes_its_own_bytes_in_the_store_and_not_its_base_s() -> None:
    plan = large(methods=["dpo"], sizes=[128], training={"align": {"peft": {"method": "lora", "rank": 16}}})
    (aligned,) = of_kind(estimate_plan(plan, known_of(plan), H100, 8), "align")
    weights = 4 * MISTRAL.adapter_parameters(16)
    assert aligned.store_bytes.value == pytest.approx(weights, rel=1e-4)
    assert aligned.store_bytes.value < 0.02 * MISTRAL.parameters * MISTRAL.stored_bytes


def test_sums_are_those_of_their_kinds() -> None:
    plan = large()
    estimate = estimate_plan(plan, known_of(plan), H100, 8)
    kinds = {each.stage for each in estimate.stages.values()}
    for name in ("seconds", "gpu_hours", "store_bytes"):
        parts = [getattr(estimate.sums(kind), name) for kind in kinds]
        whole = getattr(estimate.sums(), name)
        assert whole.value == pytest.approx(sum(part.value for part in parts))
        assert whole.unknown == sum(part.unknown for part in parts)


def test_gpu_hours_are_gpus_times_hours_and_only_of_stages_that_need_one() -> None:
    plan = large()
    estimate = estimate_plan(plan, known_of(plan), H100, 8)
    for each in of_kind(estimate, "align"):
        assert each.parallelism.gpus > 1
        assert each.gpu_hours.value == pytest.approx(each.parallelism.gpus * each.seconds.value / 3600)
    assert {each.gpu_hours for kind in ("subsample", "prepare") for each in of_kind(estimate, kind)} == {Amount(0.0)}


def test_time_follows_the_arithmetic_and_the_speed_of_the_machine() -> None:
    plan = large(
        methods=["dpo"],
        sizes=[8192],
        data={"preference": {"source": "org/pairs"}},
        training={"align": {"precision": "bf16", "max_length": 1024, "micro_batch_size": 1}},
    )
    rows = {reference: Rows(Amount(10_000.0), Amount(0.0)) for reference in plan.nodes if reference.stage == "prepare"}
    lengths = {reference: Lengths({"prompt": 200.0, "chosen": 300.0, "rejected": 100.0}, 600) for reference in rows}
    estimate = estimate_plan(plan, known_of(plan, rows=rows, lengths=lengths), H100, 8)
    (align,) = of_kind(estimate, "align")
    assert not align.seconds.at_most
    tokens = 8192 * (2 * 200 + 300 + 100)
    operations = MISTRAL.forward_flops(tokens, 400, 8192 * 400)
    passes = 4 if align.parallelism.checkpointing else 3
    speed = align.parallelism.gpus * 989e12 * 0.4
    # Beside the arithmetic only the start of the process and the least time of each pass.
    assert operations * passes / speed < align.seconds.value < operations * passes / speed + 120


def test_mean_lengths_that_were_counted_replace_the_bound() -> None:
    plan = large(methods=["dpo"], sizes=[1000])
    bounded = of_kind(estimate_plan(plan, known_of(plan), H100, 8), "align")[0]
    prepared = [reference for reference in plan.nodes if reference.stage == "prepare"]
    counted = Lengths({"prompt": 100.0, "chosen": 100.0, "rejected": 100.0}, 512)
    known = known_of(plan, lengths=dict.fromkeys(prepared, counted))
    measured = of_kind(estimate_plan(plan, known, H100, 8), "align")[0]
    assert bounded.seconds.at_most
    assert bounded.memory_at_most
    assert not measured.memory_at_most
    assert measured.seconds.value < bounded.seconds.value
    assert measured.memory.total < bounded.memory.total or measured.parallelism != bounded.parallelism


def test_lengths_that_facts_tell_of_the_data_serve_until_they_are_prepared() -> None:
    plan = large(methods=["dpo"], sizes=[1000])
    data = [reference for reference, node in plan if reference.stage == "ingest" and node.config_data["kind"] == "data"]
    told = Lengths({"prompt": 100.0, "chosen": 100.0, "rejected": 100.0})
    known = known_of(plan, lengths=dict.fromkeys(data, told))
    plain, better = (of_kind(estimate_plan(plan, each, H100, 8), "align")[0] for each in (known_of(plan), known))
    assert better.seconds.value < plain.seconds.value
    assert better.memory_at_most  # the longest is still only bounded


def test_lengths_of_other_parts_than_are_read_leave_the_bound() -> None:
    plan = large(methods=["dpo"], sizes=[1000])
    data = [reference for reference, node in plan if reference.stage == "ingest" and node.config_data["kind"] == "data"]
    known = known_of(plan, lengths=dict.fromkeys(data, Lengths({"conversation": 100.0})))
    plain, same = (of_kind(estimate_plan(plan, each, H100, 8), "align")[0] for each in (known_of(plan), known))
    assert same == plain


def test_what_is_not_known_stays_unknown_with_everything_that_depends_on_it() -> None:
    plan = large()
    estimate = estimate_plan(plan, known_of(plan, shape=None), H100, 8)
    for kind in ("reference", "align", "evaluate"):
        for each in of_kind(estimate, kind):
            assert (each.memory, each.parallelism, each.seconds, each.gpu_hours) == (None, None, None, None)
            assert kind != "align" or each.store_bytes is None
        assert estimate.sums(kind).gpu_hours.amount is None
    assert estimate.sums().gpu_hours.unknown == len(estimate.stages) - sum(
        1 for each in estimate.stages.values() if not each.computes
    )
    assert not estimate.misfits


def test_rows_that_nobody_counted_leave_all_unknown_but_not_a_number_of_pairs() -> None:
    plan = large(sizes=[100, "all"], data={"preference": {"source": "org/pairs", "test_split": "test"}})
    estimate = estimate_plan(plan, known_of(plan, source_rows={}), H100, 8)
    assert all(each.memory is not None for each in of_kind(estimate, "align"))
    # Held-out pairs are scored at the end of every alignment, and nobody knows how many there are.
    assert all(each.seconds is None for each in of_kind(estimate, "align"))
    held = {reference for reference, node in plan if _is_holdout(node.config)}
    assert all(estimate.stages[reference].seconds is None for reference in held)


def test_a_benchmark_without_facts_has_memory_but_no_time() -> None:
    plan = large(methods=["dpo"], benchmarks=["kilter_arithmetic", "kilter_ordering"])
    known = known_of(plan, benchmarks={"kilter_ordering": load_facts().benchmarks["kilter_ordering"]})
    by_label = {each.label: each for each in of_kind(estimate_plan(plan, known, H100, 8), "evaluate")}
    assert by_label["base: kilter_arithmetic"].seconds is None
    assert by_label["base: kilter_arithmetic"].memory is not None
    assert by_label["base: kilter_ordering"].seconds is not None


def test_a_model_is_loaded_once_for_all_of_its_benchmarks() -> None:
    plan = large(methods=["dpo"], benchmarks=["kilter_arithmetic", "kilter_ordering"], sizes=[100])
    estimate = estimate_plan(plan, known_of(plan), H100, 8)
    base = [each.seconds.value for each in of_kind(estimate, "evaluate") if each.label.startswith("base: kilter")]
    assert sum(seconds > 30 for seconds in base) == 1


def test_shards_of_the_reference_add_up_to_the_rows() -> None:
    plan = large(methods=["dpo"], sizes=["all"])
    known = known_of(plan)
    estimate = estimate_plan(plan, known, H100, 8)
    shards = [
        estimate.stages[reference]
        for reference, node in plan
        if isinstance(node.config, ReferenceConfig) and not _is_holdout(node.config)
    ]
    assert len(shards) == 3
    assert sum(each.store_bytes.value for each in shards if each.store_bytes) == 54 * ROWS["preference"]


def test_ktos_mismatched_answers_take_another_pass() -> None:
    plan = large(methods=["dpo", "kto"], sizes=[1000])
    estimate = estimate_plan(plan, known_of(plan), H100, 8)
    dpo, kto = sorted(of_kind(estimate, "align"), key=lambda each: "kto" in each.label)
    assert dpo.seconds.value < kto.seconds.value < 1.5 * dpo.seconds.value


def test_a_stage_that_fits_nowhere_is_named_with_what_would_fit() -> None:
    plan = large(methods=["dpo"], sizes=[1000])
    estimate = estimate_plan(plan, known_of(plan), machine_named("l4"), 2)
    (misfit,) = (
        each for reference, each in estimate.misfits.items() if plan.nodes[reference].label == "held-out pairs"
    )
    assert misfit.stage == "reference"
    assert any(remedy.startswith("--gpu ") for remedy in misfit.remedies)
    assert estimate.stages.keys() >= estimate.misfits.keys()


def test_what_is_done_takes_nothing_and_refuses_nothing() -> None:
    plan = large(methods=["dpo"], sizes=[1000])
    estimate = estimate_plan(plan, known_of(plan), machine_named("l4"), 2, done=set(plan.nodes))
    assert not estimate.stages
    assert not estimate.misfits
    assert estimate.sums().gpu_hours.value == 0


def test_the_longest_chain_is_no_longer_than_all_stages_and_no_shorter_than_any() -> None:
    plan = large()
    estimate = estimate_plan(plan, known_of(plan), H100, 8)
    longest = max(each.seconds.value for each in estimate.stages.values() if each.seconds)
    assert longest < estimate.longest_chain_seconds.value < estimate.sums().seconds.value


def test_a_study_that_fixes_its_processes_is_estimated_with_them() -> None:
    fixed = {"align": {"distributed": {"processes": 8, "zero": 3}}}
    plan = large(methods=["dpo"], sizes=[1000], training=fixed)
    (align,) = of_kind(estimate_plan(plan, known_of(plan), H100, 8), "align")
    assert (align.parallelism.gpus, align.parallelism.zero) == (8, 3)
    few = estimate_plan(plan, known_of(plan), H100, 4)
    (misfit,) = (each for each in few.misfits.values() if each.stage == "align")
    assert misfit.memory is None
    assert "--gpus 8" in misfit.remedies


def test_models_made_in_the_study_have_their_own_shape_on_a_cpu() -> None:
    plan = plan_of()
    estimate = estimate_plan(plan, known_of(plan), machine_named("cpu"), 1)
    assert not estimate.misfits
    assert estimate.sums().gpu_hours.value == 0
    assert all(each.memory is not None and each.parallelism.gpus == 1 for each in of_kind(estimate, "align"))
    config = next(node.config for _, node in plan if isinstance(node.config, AlignConfig))
    assert config.precision == "fp32"


def _is_holdout(config: object) -> bool:
    return isinstance(config, ReferenceConfig) and config.split == "holdout"
