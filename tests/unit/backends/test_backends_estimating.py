"""What is known of a plan: from facts, from local folders, and from what the store has already."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from studies import SMALL_STUDY

from kilter.backends.estimating import gather_known
from kilter.backends.planning import PlannedStudy, plan_with_sources
from kilter.backends.requests import request_of
from kilter.plan.estimates.estimate import estimate_plan
from kilter.plan.estimates.hardware import machine_named
from kilter.stages.execute import execute
from kilter.store.store import Store
from kilter.study.load import parse_study

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 640,
    "torch_dtype": "bfloat16",
}


def planned(folder: Path, store: Store | None = None, **changes: Any) -> PlannedStudy:
    study = parse_study(yaml.safe_dump({**SMALL_STUDY, "scenarios": ["base"], **changes}), "test", {}, folder)
    return plan_with_sources(study, folder, store, online=False)


def model_folder(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "config.json").write_text(json.dumps(config))
    (folder / "model" / "model.safetensors").write_bytes(b"0" * 1000)
    (folder / "model" / "tokenizer.json").write_text("{}")
    return {"base": {"source": "./model", "chat_template": "plain"}}


def known(planned: PlannedStudy, store: Store | None = None, done: Any = frozenset()) -> Any:
    return gather_known(planned.plan, planned.sources.values(), planned.facts, store, done)


def test_a_local_model_has_the_shape_of_its_configuration_and_the_size_of_its_files(tmp_path: Path) -> None:
    plan = planned(tmp_path, models=model_folder(tmp_path, CONFIG))
    found = known(plan)
    (shape,) = found.shapes.values()
    assert (shape.hidden_size, shape.stored_bytes) == (64, 2)
    (reference,) = found.shapes
    assert found.source_bytes[reference] == 1000 + len(json.dumps(CONFIG)) + 2


@pytest.mark.parametrize("text", ['{"model_type": "mixtral"}', "not JSON", "[]"])
def test_a_configuration_that_is_not_understood_gives_no_shape(tmp_path: Path, text: str) -> None:
    models = model_folder(tmp_path, CONFIG)
    (tmp_path / "model" / "config.json").write_text(text)
    assert not known(planned(tmp_path, models=models)).shapes


def test_a_hub_model_has_the_shape_of_the_studys_own_facts(tmp_path: Path) -> None:
    facts = {
        "recorded": "2027-01-01",
        "origin": "test",
        **{"hidden_size": 64, "layers": 2, "heads": 4, "intermediate_size": 176, "vocabulary": 640},
        **{"tied": True, "dtype": "float16"},
    }
    (tmp_path / "facts.yaml").write_text(yaml.safe_dump({"models": {"org/own": facts}}))
    models = {"base": {"source": "org/own", "chat_template": "plain"}}
    (shape,) = known(planned(tmp_path, models=models, facts="facts.yaml")).shapes.values()
    assert shape.parameters > 64 * 640
    assert not known(planned(tmp_path, models=models)).shapes


def test_rows_of_built_in_data_are_known_before_anything_runs(tmp_path: Path) -> None:
    rows = known(planned(tmp_path)).source_rows
    assert all(counts["preference"] > 1000 for counts in rows.values())


def test_rows_and_lengths_that_stages_counted_replace_the_bounds(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    small = {"init": {"architecture": {"hidden_size": 16, "layers": 1, "heads": 2, "key_value_heads": 1}}}
    small["init"]["architecture"] |= {"intermediate_size": 16, "vocabulary": 400, "context_length": 128}
    small["init"]["pretrain"] = {"data": {"source": "builtin:demo", "split": "text"}, "steps": 1}
    small["init"]["pretrain"]["sequence_length"] = 16
    align = {"max_length": 96, "max_prompt_length": 64, "max_truncated": 1}
    changes: dict[str, Any] = {
        "models": {"base": {**small, "chat_template": "plain"}},
        "training": {"align": align},
        "benchmarks": ["kilter_arithmetic"],
    }
    before = planned(tmp_path, store, **changes)
    made = [each for each in before.plan.nodes if each.stage in ("ingest", "pretrain", "subsample", "prepare")]
    for reference in made:
        store.put_request(request_of(before.plan.nodes[reference]))
        outcomes = execute(store, [reference], lambda _: None, lambda: False)
        assert outcomes[0].manifest is not None, outcomes[0].error
    after = known(planned(tmp_path, store, **changes), store, set(made))
    (prepared,) = (each for each in made if each.stage == "prepare")
    manifest = store.manifest(prepared)
    assert manifest is not None
    assert after.rows[prepared].train.value == manifest.summary["rows"]
    assert after.rows[prepared].holdout.value == manifest.summary["holdout"]["rows"]
    assert after.lengths[prepared].mean["chosen"] == manifest.summary["tokens"]["chosen"]["mean"]
    assert after.lengths[prepared].longest <= 64 + 96
    cpu = machine_named("cpu")
    bounded, counted = (
        estimate_plan(before.plan, each, cpu, 1, set(made)).sums("align") for each in (known(before), after)
    )
    assert bounded.seconds.at_most
    assert not counted.seconds.at_most
    assert counted.seconds.value < bounded.seconds.value
