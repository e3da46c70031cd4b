"""Small tokenizers and models made from scratch, for demonstrations and tests."""

import re
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kilter.errors import WrongInput

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kilter.study.specification import Architecture

BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"
_TURN_MARK = re.compile(r"<\|[a-z_]+\|>")


def train_tokenizer(
    texts: "Iterable[str]", vocabulary: int, chat_template: str | None, output: "Path"
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Radford et al. 2019, GPT-2) and save it as a folder that transformers loads.

    The alphabet holds all 256 bytes, so that any text can be encoded. Marks of turns that the chat template writes,
    such as `<|im_start|>`, become single tokens. Nothing is added to a text when it is encoded: a template that wants
    a BOS or EOS writes it.

    Args:
        texts: what the merges are learnt from.
        vocabulary: the largest size of the vocabulary, with bytes and special tokens; short texts give fewer merges.
        chat_template: a Jinja chat template that is saved with the tokenizer, or None.
        output: the folder to write; it is made where it is missing.

    Returns:
        The tokenizer that was saved.

    Raises:
        WrongInput: the vocabulary is too small for the bytes and the special tokens.
    """
    marks = sorted(set(_TURN_MARK.findall(chat_template or "")))
    special = [BOS, EOS, PAD, *marks]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(alphabet) + len(special)
    if vocabulary < least:
        raise WrongInput(
            f"a vocabulary of {vocabulary} is too small: the {len(alphabet)} bytes and {len(special)} special tokens "
            f"({', '.join(special)}) need {least}. Set architecture.vocabulary to {least} or more."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=marks,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template
    output.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(output)
    return fast


def make_model(architecture: "Architecture", tokenizer: Any, seed: int) -> LlamaForCausalLM:
    """Return a Llama-style model with random weights that depend on the seed alone.

    Args:
        architecture: the model's shape. Its vocabulary is the tokenizer's, which may be smaller than was asked for.
        tokenizer: gives the size of the vocabulary and the special tokens.
        seed: seed of the weights; the global generator is left as it was.

    Raises:
        WrongInput: the heads do not divide the width, or the key/value heads do not divide the heads.
    """
    if architecture.hidden_size % (2 * architecture.heads):
        raise WrongInput(
            f"architecture: hidden_size {architecture.hidden_size} must be an even multiple of heads "
            f"({architecture.heads}), because rotary embeddings turn pairs of numbers of each head."
        )
    if architecture.heads % architecture.key_value_heads:
        raise WrongInput(
            f"architecture: heads ({architecture.heads}) must be a multiple of key_value_heads "
            f"({architecture.key_value_heads})."
        )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.intermediate_size,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.key_value_heads,
        max_position_embeddings=architecture.context_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        use_cache=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float()
