"""Shapes count the weights of real models, whatever tells of them, and say nothing of what they do not know."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from kilter.plan.estimates.shapes import shape_of_architecture, shape_of_config, shape_of_facts
from kilter.study.facts import load_facts
from kilter.study.specification import Architecture

SMALL = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "vocab_size": 320}
CONFIGS = {
    "llama, tied, grouped queries": LlamaConfig(
        **SMALL, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True
    ),
    "llama, untied, full attention": LlamaConfig(
        **SMALL, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False
    ),
    "llama, biases, wide heads": LlamaConfig(
        **SMALL, num_attention_heads=4, num_key_value_heads=1, head_dim=32, attention_bias=True, mlp_bias=True
    ),
    "mistral, untied": MistralConfig(**SMALL, num_attention_heads=8, num_key_value_heads=2),
    "mistral, tied": MistralConfig(**SMALL, num_attention_heads=8, num_key_value_heads=8, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SMALL, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, num_attention_heads=4, num_key_value_heads=2, head_dim=16),
    "llama 1B": LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        tie_word_embeddings=True,
    ),
    "mistral 7B": MistralConfig(),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_parameters_of_a_configuration_are_those_of_the_model(config: PretrainedConfig) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = shape_of_config(config.to_dict())
    assert shape is not None
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    block = model.model.layers[0]
    assert shape.layer_parameters == sum(weight.numel() for weight in block.parameters())
    assert shape.linear_parameters == sum(weight.numel() for weight in block.parameters() if weight.dim() == 2)


def test_what_a_configuration_leaves_out_is_the_familys_default() -> None:
    sparse = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sparse |= {"intermediate_size": 176, "vocab_size": 320}
    shape = shape_of_config(sparse)
    assert shape is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**{k: v for k, v in sparse.items() if k != "model_type"}))
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("config", [{}, {"model_type": "mixtral", "hidden_size": 8}, {"model_type": "llama"}])
def test_families_and_fields_that_are_not_known_give_no_shape(config: dict[str, object]) -> None:
    assert shape_of_config(config) is None


def test_every_shipped_model_has_the_parameters_that_its_facts_state() -> None:
    for name, facts in load_facts().models.items():
        shape = shape_of_facts(facts)
        assert shape is not None, name
        assert shape.parameters == facts.parameters, name


def test_facts_that_lack_a_number_give_no_shape() -> None:
    facts = load_facts().models["mistralai/Mistral-7B-v0.1"]
    assert shape_of_facts(facts.model_copy(update={"layers": None})) is None
    assert shape_of_facts(facts.model_copy(update={"tied": None})) is None
    assert shape_of_facts(None) is None


def test_a_model_made_from_scratch_has_its_architectures_shape() -> None:
    # The demo's base model, as its manifest counts it.
    architecture = Architecture(hidden_size=64, layers=2, intermediate_size=176, vocabulary=640, context_length=128)
    assert shape_of_architecture(architecture).parameters == 133_440


def test_adapters_are_counted_as_two_matrices_for_each_matrix_of_the_blocks() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS["llama, tied, grouped queries"])
    shape = shape_of_config(CONFIGS["llama, tied, grouped queries"].to_dict())
    matrices = [weight for weight in model.model.layers.parameters() if weight.dim() == 2]
    assert shape is not None
    assert shape.adapter_parameters(8) == sum(8 * sum(weight.shape) for weight in matrices)


def test_arithmetic_is_two_operations_a_weight_and_token_and_attention_to_what_came_before() -> None:
    shape = shape_of_config(CONFIGS["llama, tied, grouped queries"].to_dict())
    assert shape is not None
    one = shape.forward_flops(1, 0)
    assert one == 2 * (shape.layers * shape.linear_parameters + shape.embedding_parameters)
    # Each of n tokens meets n/2 others on average, in products of queries with keys and of weights with values.
    length = 512
    attention = shape.forward_flops(length, length) - length * one
    assert attention == pytest.approx(shape.layers * 2 * 2 * shape.query_size * length * length / 2)
    assert shape.forward_flops(length, length, predicted=0) == pytest.approx(
        shape.forward_flops(length, length) - 2 * length * shape.embedding_parameters
    )
