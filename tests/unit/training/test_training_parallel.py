"""How many processes, where each stands, and which ZeRO stage: arithmetic without any of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.errors import WrongInput
from kilter.plan.estimates.fitting import Training
from kilter.plan.estimates.memory import Parallelism, Recipe
from kilter.plan.estimates.shapes import shape_of_config
from kilter.training.parallel import Place, deepspeed_config, place_from, settled_parallelism

MISTRAL = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
SMALL = MISTRAL | {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}


def settled(config, gigabytes, processes, zero="auto", offload="none", precision="bf16"):
    shape = shape_of_config(config)
    recipe = Recipe(weights="fp32", compute=precision, packed=True)
    work = Training(shape, recipe, 2, micro_batch=8, batch_size=128, longest=1024)
    return work, settled_parallelism(work, int(gigabytes * 1e9), processes, zero, offload)


@given(gigabytes=st.integers(10, 200), processes=st.sampled_from([1, 2, 4, 8, 16]))
def test_what_is_settled_on_fits_and_nothing_that_talks_or_computes_less_does(gigabytes, processes):
    work, chosen = settled(MISTRAL, gigabytes, processes)
    usable = gigabytes * 1e9 * 0.95 - 1e9
    order = [Parallelism(processes, zero, "none", again) for again in (False, True) for zero in (0, 1, 2, 3)]
    if processes == 1:
        order = [each for each in order if each.zero == 0]
    fits = [each for each in order if work.memory(each).total <= usable]
    assert chosen == (fits[0] if fits else order[-1])


def test_small_models_are_trained_whole_and_large_ones_in_parts():
    assert settled(SMALL, 80, 8)[1] == Parallelism(8, 0, "none", checkpointing=False)
    assert settled(MISTRAL, 80, 8)[1].zero > 0


def test_what_the_study_asks_for_is_kept():
    assert settled(SMALL, 80, 8, zero=3)[1].zero == 3
    assert settled(SMALL, 80, 1, offload="optimizer")[1].zero == 2
    assert settled(SMALL, 80, 1, offload="parameters")[1].zero == 3


def test_a_model_that_estimates_do_not_know_is_trained_in_the_way_that_saves_most():
    assert settled_parallelism(None, 80 * 10**9, 8, "auto", "none") == Parallelism(8, 3, "none", checkpointing=True)
    assert settled_parallelism(None, 80 * 10**9, 1, "auto", "none") == Parallelism(1, 0, "none", checkpointing=True)


def configuration(zero, offload="none", device="cpu", precision="fp32"):
    return deepspeed_config(
        zero,
        offload,
        precision=precision,
        micro_batch=4,
        accumulation=2,
        max_grad_norm=1.0,
        hidden_size=32,
        device=device,
    )


def test_deepspeed_s_configuration_leaves_nothing_to_be_guessed():
    for zero in (1, 2, 3):
        settings = configuration(zero)
        assert "auto" not in str(settings)
        assert settings["zero_optimization"]["stage"] == zero
        assert "offload_optimizer" not in settings["zero_optimization"]
    assert configuration(3)["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]
    assert configuration(2, precision="bf16")["bf16"]["enabled"]


def test_offloading_names_what_is_kept_in_the_machine_s_memory():
    assert "offload_param" not in configuration(2, "optimizer")["zero_optimization"]
    both = configuration(3, "parameters", device="cuda")["zero_optimization"]
    assert both["offload_param"] == both["offload_optimizer"] == {"device": "cpu", "pin_memory": True}


LAUNCHED = {"RANK": "3", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


def test_a_process_that_nobody_launched_stands_alone():
    assert place_from({}) is None
    assert place_from({"RANK": "3"}) is None


def test_a_launched_process_knows_its_place():
    place = place_from(LAUNCHED)
    assert place == Place(3, 16, 1)
    assert not place.first


@pytest.mark.parametrize("name", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_half_a_launcher_is_an_error_that_names_what_is_missing(name):
    with pytest.raises(WrongInput, match=rf"{name}.* is not: start all processes with torchrun"):
        place_from({key: value for key, value in LAUNCHED.items() if key != name})


@pytest.mark.parametrize("changes", [{"RANK": "16"}, {"RANK": "-1"}, {"WORLD_SIZE": "many"}])
def test_a_place_that_cannot_be_is_an_error(changes):
    with pytest.raises(WrongInput):
        place_from({**LAUNCHED, **changes})
