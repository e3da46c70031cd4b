"""How much memory a stage will need, and how much there is: so that as many run at once as fit, and no more."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kilter.plan.graph import Node
    from kilter.store.store import Store

GIB = 1 << 30
PROCESS_BYTES = GIB // 2
"""A forked process beyond what it shares with its parent: the libraries' own state and small data."""

# Multiples of the weights' size on disk. AdamW in the weights' own precision holds weights, gradients and two moments;
# the rest is for activations. A stage that only reads holds the weights and a batch of logits.
_TRAINING_FACTOR = 5.0
_READING_FACTOR = 1.5
_FACTORS = {
    "sft": _TRAINING_FACTOR,
    "align": _TRAINING_FACTOR,
    "reference": _READING_FACTOR,
    "evaluate": _READING_FACTOR,
}


def estimated_bytes(node: "Node", store: "Store") -> int:
    """Return the memory that a stage is expected to need, from the size of the model it starts from."""
    factor = _FACTORS.get(node.stage)
    model = node.inputs.get("model")
    if factor is None or model is None:
        return PROCESS_BYTES
    manifest = store.manifest(model)
    weights = sum(item.size for item in manifest.objects if item.name.endswith(".safetensors")) if manifest else 0
    return PROCESS_BYTES + round(factor * weights)


def available_bytes() -> int | None:
    """Return the memory that can be had without swapping, within this process's cgroup; None where nobody tells."""
    found = [amount for amount in (_machine(), _control_group()) if amount is not None]
    return min(found, default=None)


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None


def _control_group() -> int | None:
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))
