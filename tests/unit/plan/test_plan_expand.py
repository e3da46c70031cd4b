"""What a study's plan consists of, and what its keys depend on."""

import itertools

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import SMALL_STUDY, make_study, make_surroundings

from kilter.errors import WrongInput
from kilter.plan.expand import ancestors, expand, stages_without_sharing
from kilter.plan.graph import Plan, Reference
from kilter.study.load import parse_study
from kilter.study.specification import Study


def plan_of(study: Study, **surroundings: object) -> Plan:
    return expand(study, make_surroundings(study, **surroundings))


def keys(plan: Plan, *stages: str) -> set[Reference]:
    return {reference for reference in plan.nodes if not stages or reference.stage in stages}


def test_every_cell_of_the_grid_is_aligned_and_scored_once() -> None:
    plan = plan_of(make_study())
    aligned = [model for model in plan.models if model.role == "aligned"]
    assert len(aligned) == 3 * 3 * 2  # scenarios × methods × sizes
    assert len({model.name for model in aligned}) == len(aligned)
    assert len(keys(plan, "align")) == len(aligned)
    assert all(set(model.scores) == {"kilter_arithmetic", "kilter_ordering"} for model in plan.models)


def test_starting_models_are_scored_once_however_many_scenarios_use_them() -> None:
    plan = plan_of(make_study())
    assert [model.name for model in plan.models if model.role != "aligned"] == ["base", "sft", "instruct"]


def test_inputs_stand_before_what_needs_them() -> None:
    seen: set[Reference] = set()
    for reference, node in plan_of(make_study()):
        assert set(node.inputs.values()) <= seen
        seen.add(reference)


def test_one_sft_and_one_prepared_set_serve_all_cells_of_a_scenario() -> None:
    plan = plan_of(make_study(scenarios=["sft"]))
    prepared = [node for reference, node in plan if reference.stage == "prepare"]
    assert len(keys(plan, "sft")) == 1
    assert len(prepared) == 2  # conversations, pairs
    assert max(node.cells for node in prepared) == 6


def test_reference_log_probabilities_are_shared_by_methods_and_sizes() -> None:
    plan = plan_of(
        make_study(scenarios=["sft"], methods=["dpo", {"name": "ipo", "beta": [0.01, 0.1]}], sizes=[100, 2000])
    )
    pairs = [
        node for reference, node in plan if reference.stage == "reference" and node.config_data["split"] == "train"
    ]
    assert len(pairs) == 1
    assert pairs[0].cells == 6


def test_cpo_needs_no_reference_on_training_pairs() -> None:
    plan = plan_of(make_study(scenarios=["sft"], methods=["cpo"]))
    assert {node.config_data["split"] for reference, node in plan if reference.stage == "reference"} == {"holdout"}


def test_only_kto_asks_for_mismatched_answers() -> None:
    with_kto = plan_of(make_study(scenarios=["base"], methods=["dpo", "kto"]))
    without = plan_of(make_study(scenarios=["base"], methods=["dpo"]))
    mismatched = [
        node for reference, node in with_kto if reference.stage == "reference" and node.config_data["mismatched"]
    ]
    assert len(mismatched) == 1
    assert keys(without, "reference", "align") <= keys(with_kto, "reference", "align")


def test_all_is_cut_into_shards_that_cover_the_rows() -> None:
    plan = plan_of(make_study(scenarios=["base"], methods=["dpo"], sizes=["all"]))
    spans = [
        (node.config_data["start"], node.config_data["stop"])
        for reference, node in plan
        if reference.stage == "reference" and node.config_data["split"] == "train"
    ]
    assert spans[0][0] == 0
    assert spans[-1][1] >= 10_000
    assert all(after[0] == before[1] for before, after in itertools.pairwise(spans))


def test_rows_that_nobody_knows_wait_for_ingest() -> None:
    study = make_study(sizes=["all"])
    known = make_surroundings(study)
    from dataclasses import replace

    unknown = {name: replace(source, rows={}) for name, source in known.sources.items()}
    plan = plan_of(study, sources=unknown)
    assert not plan.rows_known
    assert plan.only(frozenset({"ingest"})).nodes.keys() == keys(plan, "ingest")


def test_adding_a_size_recomputes_nothing() -> None:
    before, after = plan_of(make_study()), plan_of(make_study(sizes=[100, 300, "all"]))
    assert keys(before) - keys(before, "report") <= keys(after)


def test_another_benchmark_retrains_nothing() -> None:
    before = plan_of(make_study())
    after = plan_of(make_study(benchmarks=["kilter_arithmetic", "kilter_statements"]))
    assert keys(before, "align", "sft", "reference", "prepare") == keys(after, "align", "sft", "reference", "prepare")


def test_another_seed_shares_everything_but_alignment() -> None:
    one, two = plan_of(make_study()), plan_of(make_study(seeds=[0, 1]))
    assert keys(one, "sft", "reference", "prepare") == keys(two, "sft", "reference", "prepare")
    assert len(keys(two, "align")) == 2 * len(keys(one, "align"))


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"training": {"align": {"learning_rate": 1e-6}}}, {"align", "evaluate", "report"}),
        ({"methods": ["dpo", "kto", {"name": "cpo", "cpo_alpha": 0.5}]}, {"align", "evaluate", "report"}),
    ],
)
def test_a_change_moves_only_the_keys_it_matters_to(change: dict[str, object], changed: set[str]) -> None:
    before, after = plan_of(make_study()), plan_of(make_study(**change))
    assert {reference.stage for reference in keys(before) ^ keys(after)} == changed


def test_a_new_code_version_moves_what_is_built_from_it() -> None:
    study = make_study()
    codes = make_surroundings(study).codes
    before, after = plan_of(study), plan_of(study, codes={**codes, "prepare": "2"})
    same = keys(before) & keys(after)
    assert {reference.stage for reference in same} >= {"ingest", "pretrain", "subsample"}
    assert "align" not in {reference.stage for reference in same}


def test_the_place_of_the_data_is_no_part_of_a_key() -> None:
    from dataclasses import replace

    study = make_study()
    sources = make_surroundings(study).sources
    moved = {name: replace(source, location={"path": "/elsewhere"}) for name, source in sources.items()}
    assert keys(plan_of(study)) == keys(plan_of(study, sources=moved))


def test_sharing_saves_stages() -> None:
    plan = plan_of(make_study())
    assert stages_without_sharing(plan) > 2 * len(plan.nodes)


def test_every_result_of_a_cell_counts_that_cell() -> None:
    plan = plan_of(make_study())
    aligned = [model for model in plan.models if model.role == "aligned"]
    for model in aligned:
        assert all(plan.nodes[reference].cells >= 1 for reference in ancestors(plan.nodes, model.reference))


def test_a_scenario_without_its_model_is_refused() -> None:
    study = make_study(scenarios=["base"]).model_copy(update={"scenarios": ("instruct",)})
    study = study.model_copy(update={"models": study.models.model_copy(update={"instruct": None})})
    with pytest.raises(WrongInput, match=r"models\.instruct"):
        plan_of(study)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(list(SMALL_STUDY)), data=st.data())
def test_order_and_formatting_of_the_file_change_no_key(order: list[str], data: st.DataObject) -> None:
    shuffled = {name: SMALL_STUDY[name] for name in order}
    text = yaml.safe_dump(
        shuffled, sort_keys=False, default_flow_style=data.draw(st.booleans()), indent=data.draw(st.integers(2, 6))
    )
    assert keys(plan_of(parse_study("# a comment\n" + text, "test", {}))) == keys(plan_of(make_study()))


@settings(max_examples=25, deadline=None)
@given(
    learning_rate=st.floats(1e-7, 1e-3),
    batch_size=st.sampled_from([8, 16, 64]),
    beta=st.floats(0.001, 1),
    epochs=st.sampled_from([1, 2.5]),
)
def test_any_setting_that_matters_changes_the_aligned_keys(
    learning_rate: float, batch_size: int, beta: float, epochs: float
) -> None:
    settings_ = {"learning_rate": learning_rate, "batch_size": batch_size, "epochs": epochs}
    study = make_study(methods=[{"name": "dpo", "beta": beta}], training={"align": settings_})
    before = make_study(methods=["dpo"])
    assert not keys(plan_of(study), "align") & keys(plan_of(before), "align")


def test_defaults_written_out_change_no_key() -> None:
    written = make_study(
        methods=[{"name": "dpo", "beta": 0.01}, {"name": "kto", "beta": 0.1, "desirable_weight": 1}, "cpo"],
        training={"align": {"epochs": 1, "scheduler": "cosine"}},
        seeds=[0],
    )
    assert keys(plan_of(written)) - keys(plan_of(written), "report") == keys(plan_of(make_study())) - keys(
        plan_of(make_study()), "report"
    )


def test_an_adapter_changes_the_keys_of_aligned_models_only_and_its_absence_none() -> None:
    whole, adapter = (plan_of(make_study(training={"align": align})) for align in ({}, {"peft": {"method": "lora"}}))
    for stage in ("sft", "prepare", "reference"):
        assert keys(whole, stage) == keys(adapter, stage), "an adapter's reference is its parent model"
    assert not keys(whole, "align") & keys(adapter, "align")
    configs = [node.config_data for _, node in adapter if node.stage == "align"]
    resolved = {"method": "lora", "rank": 128, "alpha": 128, "dropout": 0, "target": "all-linear", "library": "peft"}
    assert all(config["peft"] == resolved for config in configs)
    assert not any("peft" in node.config_data for _, node in whole)
    another = plan_of(make_study(training={"align": {"peft": {"method": "lora"}}}), adapter_library="peft 9.9")
    assert not keys(another, "align") & keys(adapter, "align")
