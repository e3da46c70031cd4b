"""Which arithmetic and device are chosen, and that choosing is cheap."""

import subprocess
import sys

import pytest

from kilter.training import precision


@pytest.mark.parametrize("setting", ["fp32", "bf16"])
def test_what_is_asked_for_is_what_is_used(setting):
    assert precision.resolve_precision(setting) == setting


def test_without_a_gpu_auto_is_fp32_on_the_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert precision.resolve_precision("auto") == "fp32"
    assert precision.device_name() == "cpu"


def test_choosing_does_not_import_torch():
    code = (
        "import os, sys; os.environ['CUDA_VISIBLE_DEVICES'] = '-1'\n"
        "from kilter.training.precision import resolve_precision, device_name\n"
        "import kilter.training.run\n"
        "print(resolve_precision('auto'), device_name(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fp32", "cpu", "False"]
