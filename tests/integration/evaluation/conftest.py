"""A tiny model with random weights and a tokenizer made on the spot, and the real benchmark data if they are there."""

import os
from pathlib import Path

import pytest

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="session")
def benchmark_data():
    """The folder with real benchmarks, laid out as a mirror."""
    default = Path(__file__).parents[3] / ".." / "shared" / "data"
    folder = Path(os.environ.get("KILTER_DATA", default)) / "hf"
    if not folder.is_dir():
        pytest.skip("needs real benchmark data: set KILTER_DATA to the folder that holds hf/")
    return folder.resolve()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with a Llama of 80,000 random weights, a context of 1024 tokens, and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(["<s>", "</s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    network = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=48,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=len(wrapped),
            max_position_embeddings=1024,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            tie_word_embeddings=True,
        )
    )
    folder = tmp_path_factory.mktemp("tiny")
    network.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded_model(tiny_model):
    from kilter.evaluation.runner import ModelUnderTest

    return ModelUnderTest.load(tiny_model, "fp32")
