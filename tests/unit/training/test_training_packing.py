"""Forward passes without padding give what padded ones give, and keep sequences apart."""

import json

import pytest
import tiny_training
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from kilter.training.models import load_model
from kilter.training.packing import PackedForward, can_pack, with_packing
from kilter.training.scoring import fitting_head, score_tokens, with_token_log_probabilities

VOCABULARY = tiny_training.VOCABULARY


def padded(lengths, seed=0):
    """Random sequences of these lengths, padded on the right, scored from their third token on."""
    random = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    tokens = torch.randint(3, VOCABULARY, (len(lengths), longest), generator=random)
    attention = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    answers = attention.clone()
    answers[:, :2] = 0
    return tokens * attention, attention, answers


def scores(model, batch, packed):
    with fitting_head(model):
        return score_tokens(PackedForward(model) if packed else model, *batch).log_probs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model, _ = load_model(tiny_training.write_model(tmp_path_factory.mktemp("packing") / "model"), "cpu")
    return with_token_log_probabilities(model)


@pytest.fixture(scope="module")
def masked(model):
    """What transformers' own attention gives, with the mask that it makes."""
    batch = padded([5, 40, 3, 17])
    plain = LlamaForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float32)
    values = scores(with_token_log_probabilities(plain), batch, packed=False)
    values.sum().backward()
    return batch, values.detach(), {name: weight.grad for name, weight in plain.named_parameters()}


@pytest.mark.parametrize("packed", [True, False])
def test_values_and_gradients_are_those_of_padded_passes_with_a_mask(model, masked, packed):
    batch, wanted, gradients = masked
    with_packing(model).zero_grad()
    values = scores(model, batch, packed)
    assert torch.allclose(values, wanted, rtol=1e-5, atol=1e-5)
    values.sum().backward()
    for name, weight in model.named_parameters():
        assert (weight.grad - gradients[name]).norm() / gradients[name].norm() < 1e-5, name


def test_bf16_stays_within_its_rounding(model, masked):
    batch, wanted, _ = masked
    with_packing(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        sums = [scores(model, batch, packed).float().sum(dim=1) for packed in (True, False)]
    assert torch.allclose(sums[0], sums[1], rtol=1e-2)
    assert torch.allclose(sums[0], wanted.sum(dim=1), rtol=3e-2)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(3, 24), min_size=2, max_size=6), st.data())
def test_sequences_do_not_see_each_other(model, lengths, data):
    with_packing(model)
    changed = data.draw(st.integers(0, len(lengths) - 1))
    tokens, attention, answers = padded(lengths)
    others = torch.where(torch.arange(len(lengths))[:, None] == changed, (tokens + 7) % VOCABULARY, tokens)
    with torch.no_grad():
        before = scores(model, (tokens, attention, answers), packed=True)
        after = scores(model, (others * attention, attention, answers), packed=True)
    kept = [row for row in range(len(lengths)) if row != changed]
    assert torch.equal(before[kept], after[kept])
    assert not torch.equal(before[changed], after[changed])


def test_a_window_is_kept_within_each_sequence():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=6,
        initializer_range=0.2,
    )
    model = with_token_log_probabilities(MistralForCausalLM(config))
    batch = padded([4, 21, 9])
    with torch.no_grad():
        wanted = scores(model, batch, packed=False)
        with_packing(model)
        for packed in (True, False):
            assert torch.allclose(scores(model, batch, packed), wanted, rtol=1e-5, atol=1e-5)


def test_models_that_cannot_be_packed_are_not(model):
    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1}
    assert can_pack(model)
    assert not can_pack(MambaForCausalLM(MambaConfig(**small)))
    eager = LlamaForCausalLM.from_pretrained(model.name_or_path, attn_implementation="eager")
    assert not can_pack(eager)


def test_the_attention_is_no_part_of_what_is_saved(model, tmp_path):
    with_packing(model).save_pretrained(tmp_path)
    assert "kilter" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
