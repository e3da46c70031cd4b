"""How many processes, where each stands, and which ZeRO stage: arithmetic without any of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.errors import WrongInput
from kilter.training.parallel import Place, deepspeed_config, place_from, smallest_zero, state_bytes

GIB = 1 << 30
BILLION = 10**9


def test_states_are_those_of_the_paper():
    """Rajbhandari et al. 2020, figure 1: 7.5B parameters, 64 devices, mixed precision."""
    wanted = {1: 31.4, 2: 16.6, 3: 1.9}
    for stage, gigabytes in wanted.items():
        assert state_bytes(7_500_000_000, 64, stage, "bf16") / BILLION == pytest.approx(gigabytes, abs=0.05)


@given(parameters=st.integers(1, 10**11), processes=st.integers(1, 512), precision=st.sampled_from(["fp32", "bf16"]))
def test_each_stage_takes_no_more_than_the_one_before_and_shares_add_up(parameters, processes, precision):
    plain, *shared = (state_bytes(parameters, processes, stage, precision) for stage in (0, 1, 2, 3))
    assert plain == 16 * parameters
    assert [plain, *shared] == sorted([plain, *shared], reverse=True)
    assert processes * shared[-1] >= 16 * parameters
    if processes == 1:
        assert set(shared) == {plain}


@given(
    parameters=st.integers(1, 10**11),
    memory=st.integers(GIB, 200 * GIB),
    processes=st.integers(1, 64),
    precision=st.sampled_from(["fp32", "bf16"]),
)
def test_the_stage_that_is_chosen_fits_and_no_smaller_one_does(parameters, memory, processes, precision):
    chosen = smallest_zero(parameters, memory, processes, precision)
    room = memory * 0.7
    fits = [state_bytes(parameters, processes, stage, precision) <= room for stage in (0, 1, 2, 3)]
    if processes == 1:
        assert chosen == 0
    elif any(fits):
        assert chosen == fits.index(True)
    else:
        assert chosen == 3


def test_small_models_are_trained_without_zero_and_large_ones_in_parts():
    chosen = [smallest_zero(count * BILLION, 80 * GIB, 8, "bf16") for count in (1, 7, 13, 32)]
    assert chosen == [0, 1, 2, 3]


def test_what_is_kept_in_the_machine_s_memory_asks_for_a_stage():
    assert smallest_zero(BILLION, 80 * GIB, 1, "bf16", "optimizer") == 2
    assert smallest_zero(BILLION, 80 * GIB, 1, "bf16", "parameters") == 3


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
