"""Low-rank adapters: how they are trained in place of all weights, kept, and merged into the model they were made on.

LoRA (Hu et al. 2021, arXiv 2106.09685) adds B·A·α/r to each matrix, of rank r; B begins at zero, so that the model with
a new adapter is the model without one. The reference of alignment is therefore the parent model, as it is for full
training, and its log-probabilities are those of the `reference` stage.
"""

import json
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from kilter.errors import StageFailed
from kilter.training.four_bits import load_in_four_bits
from kilter.training.models import copy_tokenizer, load_model, save_model

if TYPE_CHECKING:
    from pathlib import Path

    from peft import LoraConfig, PeftConfig, PeftModel
    from transformers import PreTrainedModel

    from kilter.plan.configs import Adapter, AlignConfig
    from kilter.training.deepspeed import Joined
    from kilter.training.trainers.pairs import PairTrainer

WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"


def load_policy(folder: "Path", config: "AlignConfig", joined: "Joined") -> "tuple[PreTrainedModel, torch.dtype]":
    """Load the model to train, or to train an adapter on.

    Returns:
        The model, and the type that its weights are stored in.

    Raises:
        StageFailed: weights are missing or do not fit the configuration.
        WrongInput: QLoRA is asked for, and bitsandbytes or a GPU is missing.
    """
    if config.peft is not None and config.peft.method == "qlora":
        return load_in_four_bits(folder, joined.device), torch.float32
    if config.peft is None or config.precision != "bf16" or joined.config is not None:
        return load_model(folder, joined.loading_device)
    model, stored = load_model(folder, "cpu")
    return _with_matrices_in_bf16(model).to(joined.device), stored


def _with_matrices_in_bf16(model: "PreTrainedModel") -> "PreTrainedModel":
    """Halve what frozen matrices take. Autocast computes with them in bfloat16 anyway, so every number stays as it is.

    The head is left alone: it may be the embedding too.
    """
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            module.to(torch.bfloat16)
    return model


def lora_config(adapter: "Adapter | None") -> "LoraConfig | None":
    """Return what TRL's trainers wrap a model with; None where all weights are trained."""
    if adapter is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target,
        bias="none",
    )


def as_asked(model: "PeftModel", adapter: "Adapter") -> None:
    """Undo what TRL does to adapters unasked: it turns their dropout off, and rounds those on 4-bit models to bfloat16.

    AdamW's steps at alignment's learning rates are too small for bfloat16 to keep.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and ".lora_dropout." in name:
            module.p = adapter.dropout
    if adapter.method == "qlora":
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter after its training."""

    weights: dict[str, Tensor]
    """On the CPU, by the names that they are stored under."""
    settings: dict[str, Any]
    """peft's own: JSON data that say nothing of where the base lies."""
    summary: dict[str, Any]
    """What is recorded of it: JSON data."""


def trained_adapter(trainer: "PairTrainer", adapter: "Adapter", joined: "Joined") -> TrainedAdapter | None:
    """Return the adapter that was trained, as `adapter` asks, in the first process, None in the others.

    All processes must ask for it: under ZeRO 3 each has a part. Loading a model is plain again afterwards.
    """
    from peft import get_peft_model_state_dict

    unset_hf_deepspeed_config()
    model: PeftModel = trainer.accelerator.unwrap_model(trainer.model)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    with _gathered(list(trained.values()), joined):
        if not joined.place.first:
            return None
        weights = {name: weight.detach().cpu().clone() for name, weight in trained.items()}
    # Weights in 4 bits lie two in a byte, and those that ZeRO 3 shares out are empty: peft counts them all.
    trainable, parameters = model.get_nb_trainable_parameters()
    return TrainedAdapter(
        get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False),
        _portable(model.peft_config["default"]),
        {
            "parameters": parameters,
            "adapter": {**adapter.model_dump(), "frozen": _held_in(model), "trainable_parameters": trainable},
        },
    )


def _held_in(model: "PeftModel") -> str:
    """Say what the frozen matrices are held in: 4 bits lie in bytes."""
    kinds = {str(weight.dtype) for name, weight in model.named_parameters() if name.endswith(".base_layer.weight")}
    return " and ".join(sorted(kinds)).replace("torch.", "").replace("uint8", "4 bits")


def _portable(settings: "PeftConfig") -> dict[str, Any]:
    values = settings.to_dict() | {"base_model_name_or_path": None, "revision": None, "inference_mode": True}
    return {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}


def _gathered(weights: list[nn.Parameter], joined: "Joined") -> Any:
    if not joined.keeps_parts:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(weights)


def save_adapter(adapter: TrainedAdapter, source: "Path", data: "Path", folder: "Path") -> None:
    """Write an adapter with the tokenizer and chat template that its data was made with, and check it.

    Args:
        adapter: What was trained.
        source: The folder of the base; its tokenizer files are copied as they are.
        data: The prepared data; a chat template beside them wins over the source's.
        folder: Where to write.

    Raises:
        StageFailed: what was written is not what was trained, or is not finite.
    """
    folder.mkdir(parents=True)
    text = json.dumps(adapter.settings, indent=2, sort_keys=True)
    (folder / SETTINGS).write_text(f"{text}\n", encoding="utf-8")
    contiguous = {name: weight.contiguous() for name, weight in adapter.weights.items()}
    (folder / WEIGHTS).write_bytes(save(contiguous, {"format": "pt"}))
    copy_tokenizer(source, data, folder)
    _check_saved(folder, adapter.weights)


def _check_saved(folder: "Path", trained: dict[str, Tensor]) -> None:
    written = load_file(folder / WEIGHTS)
    if not trained or written.keys() != trained.keys():
        raise StageFailed(
            f"the written adapter has other weights than the trained one: {written.keys() ^ trained.keys() or 'none'}"
        )
    for name, weight in trained.items():
        copy = written[name]
        if not copy.numel():
            raise StageFailed(f"the written adapter's weight {name} is empty")
        if not torch.isfinite(copy).all():
            raise StageFailed(f"the written adapter's weight {name} has values that are not finite")
        if copy.dtype != weight.dtype or copy.shape != weight.shape or not torch.equal(copy, weight):
            raise StageFailed(f"the written adapter's weight {name} is not the trained one")


def merge_adapter(base: "Path", adapter: "Path", folder: "Path") -> None:
    """Write the model that an adapter makes of its base: a whole model, in the type that the base is stored in.

    The sum is computed in float32 and rounded once. QLoRA's goes on the base as it is stored, not on its 4 bits.

    Args:
        base: Folder of the model that the adapter was made on.
        adapter: Folder of the adapter, with the tokenizer and chat template of the model.
        folder: Where to write.

    Raises:
        StageFailed: the adapter does not fit the base, or what was written is not what was merged.
    """
    from peft import PeftModel

    model, stored = load_model(base, "cpu")
    try:
        with warnings.catch_warnings():
            # peft asks transformers for what is called otherwise now.
            warnings.simplefilter("ignore", FutureWarning)
            with_adapter = PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise StageFailed(f"the adapter does not fit the model it is merged into: {error}") from error
    expected, present = load_file(adapter / WEIGHTS).keys(), _adapter_names(with_adapter)
    if expected != present:
        raise StageFailed(f"the adapter does not fit the model it is merged into: {sorted(expected ^ present)}")
    whole: PreTrainedModel = with_adapter.merge_and_unload(safe_merge=True)
    save_model(whole, stored, adapter, adapter, folder)


def _adapter_names(model: "PeftModel") -> set[str]:
    from peft import get_peft_model_state_dict

    return set(get_peft_model_state_dict(model, save_embedding_layers=False))
