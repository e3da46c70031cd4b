"""Which device trains, and in which arithmetic."""

import os
from pathlib import Path
from typing import Literal

Precision = Literal["fp32", "bf16"]
Setting = Literal["auto", "fp32", "bf16"]

_NVIDIA_CONTROL = Path("/dev/nvidiactl")


def accelerator_present() -> bool:
    """Tell whether this machine can have a GPU that PyTorch sees, without importing PyTorch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1")
    return _NVIDIA_CONTROL.exists() and not hidden


def resolve_precision(setting: Setting) -> Precision:
    """Return the arithmetic for a setting: `auto` is bf16 where this machine's GPU has it, and fp32 elsewhere.

    PyTorch is imported only where a GPU may be present.
    """
    if setting != "auto":
        return setting
    if not accelerator_present():
        return "fp32"
    import torch

    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"


def device_name() -> Literal["cuda", "cpu"]:
    """Return the device to train and to score on: the GPU if there is one that works, else the CPU."""
    if not accelerator_present():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
