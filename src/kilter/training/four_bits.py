"""Models whose weights are held in 4 bits while an adapter is trained: QLoRA (Dettmers et al., arXiv 2305.14314)."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from kilter.errors import WrongInput
from kilter.training.precision import accelerator_present

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

_LIBRARY = "bitsandbytes"


def require_four_bits() -> None:
    """Make sure that this machine can train on a model in 4 bits; neither PyTorch nor the library is imported for it.

    Raises:
        WrongInput: the library or a GPU is missing.
    """
    missing = [
        what
        for what, present in (("GPU", accelerator_present()), (_LIBRARY, find_spec(_LIBRARY) is not None))
        if not present
    ]
    if missing:
        raise WrongInput(
            f"`peft: {{method: qlora}}` needs {_LIBRARY} and a GPU, and here is no {' and no '.join(missing)}: "
            f"train on a machine with an NVIDIA GPU after `pip install {_LIBRARY}`, or write `method: lora`, which "
            "needs neither"
        )


def load_in_four_bits(folder: "Path", device: str) -> "PreTrainedModel":
    """Load a causal language model with its matrices in 4 bits: NF4, with quantised constants (section 3 of the paper).

    What is not a matrix of the blocks stays in float32. Computing is in bfloat16.

    Args:
        folder: Where the model lies.
        device: Where to put it.

    Raises:
        WrongInput: see `require_four_bits`.
    """
    require_four_bits()
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
        device_map={"": device},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    return model
