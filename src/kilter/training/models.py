"""A model folder becomes a model to train, and a trained model becomes a folder that was read again and checked."""

import shutil
from typing import TYPE_CHECKING

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, conversion_mapping

from kilter.errors import StageFailed
from kilter.training.layout import ADAPTER_BASE

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NOT_TOKENIZER = ("config.json", "generation_config.json", "README.md", "adapter_config.json", ADAPTER_BASE)
_TOKENIZER_SUFFIXES = (".json", ".jinja", ".txt", ".model")
CHAT_TEMPLATE = "chat_template.jinja"


def warm_up() -> None:
    """Make the tables that transformers makes at a process's first load of a model: 0.3 s of regular expressions."""
    conversion_mapping.get_checkpoint_conversion_mapping("llama")


def load_model(folder: "Path", device: str | None) -> "tuple[PreTrainedModel, torch.dtype]":
    """Load a causal language model with float32 weights; only safetensors are read, and no code that comes with it.

    Where the processes of a training have settled on ZeRO 3, each of them loads its part.

    Args:
        folder: Where the model lies.
        device: Where to put it; None leaves that to DeepSpeed.

    Returns:
        The model, and the type that its weights are stored in.

    Raises:
        StageFailed: weights are missing or do not fit the configuration.
    """
    stored = AutoConfig.from_pretrained(folder, local_files_only=True).dtype or torch.float32
    model = _read(folder)
    return model if device is None else model.to(device), stored


def load_tokenizer(folder: "Path") -> "PreTrainedTokenizerBase":
    """Load the tokenizer, which trainers ask for its special tokens; it needs a padding or an end token.

    Raises:
        StageFailed: it has neither.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise StageFailed(f"the tokenizer of {folder.name} has neither a padding nor an end token; give it one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_model(model: "PreTrainedModel", dtype: torch.dtype, source: "Path", data: "Path", folder: "Path") -> None:
    """Write a trained model with the tokenizer and chat template that its data was made with, and check it.

    Args:
        model: The trained model; its weights become `dtype`.
        dtype: The type to store.
        source: The folder of the model that training started from; its tokenizer files are copied as they are.
        data: The prepared data; a chat template beside them wins over the source's.
        folder: Where to write: safetensors, configuration, tokenizer and chat template.

    Raises:
        StageFailed: what was written is not what was trained, or is not finite.
    """
    model = model.to(dtype)
    model.save_pretrained(folder)
    copy_tokenizer(source, data, folder)
    check_saved(folder, model)


def copy_tokenizer(source: "Path", data: "Path", folder: "Path") -> None:
    """Copy a model's tokenizer files as they are; a chat template beside the data wins over the model's."""
    for file in sorted(source.iterdir()):
        is_tokenizer = file.suffix in _TOKENIZER_SUFFIXES and not file.name.endswith(".index.json")
        if file.is_file() and is_tokenizer and file.name not in _NOT_TOKENIZER:
            shutil.copyfile(file, folder / file.name)
    if (data / CHAT_TEMPLATE).exists():
        shutil.copyfile(data / CHAT_TEMPLATE, folder / CHAT_TEMPLATE)


def check_saved(folder: "Path", model: "PreTrainedModel") -> None:
    """Read a written model again and compare it with the one in memory, weight by weight.

    Raises:
        StageFailed: a weight is missing, superfluous, empty, not finite, or differs in shape or value.
    """
    written = _read(folder, dtype="auto").state_dict()
    trained = model.state_dict()
    if written.keys() != trained.keys():
        raise StageFailed(
            f"the written model has other weights than the trained one: {written.keys() ^ trained.keys()}"
        )
    for name, weight in trained.items():
        copy, original = written[name], weight.detach().cpu()
        if not copy.numel():
            raise StageFailed(f"the written model's weight {name} is empty")
        if not torch.isfinite(copy).all():
            raise StageFailed(f"the written model's weight {name} has values that are not finite")
        if copy.dtype != original.dtype or copy.shape != original.shape or not torch.equal(copy, original):
            raise StageFailed(f"the written model's weight {name} is not the trained one")


def _read(folder: "Path", dtype: "torch.dtype | str" = torch.float32) -> "PreTrainedModel":
    transformers.utils.logging.disable_progress_bar()  # a stage reports its own progress
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        raise StageFailed(f"the weights in {folder} do not fit their configuration: {wrong}")
    return model
