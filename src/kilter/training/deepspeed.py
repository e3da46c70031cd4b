"""Joins the processes that train one model together, and puts together what ZeRO keeps apart."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from kilter.plan.estimates.fitting import Training, recipe_of
from kilter.plan.estimates.memory import Parallelism
from kilter.plan.estimates.shapes import shape_of_config
from kilter.training.parallel import Parallel, Place, deepspeed_config, settled_parallelism
from kilter.training.precision import device_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kilter.plan.configs import TrainConfig
    from kilter.plan.estimates.memory import Offload, Zero
    from kilter.training.schedule import Deal
    from kilter.training.trainers.prepared import PreparedTrainer


@dataclass(frozen=True)
class Joined:
    """The processes of one training, joined: what each of them does and keeps."""

    place: Place
    device: str
    zero: "Zero" = 0
    offload: "Offload" = "none"
    config: dict[str, Any] | None = None
    """DeepSpeed's configuration; None where DeepSpeed has no part in it."""
    checkpointing: bool = False
    """Activations of a block are computed again in the backward pass instead of kept."""
    loading: HfDeepSpeedConfig | None = None
    """While it is there, transformers loads models in parts, as ZeRO 3 wants them."""

    @property
    def keeps_parts(self) -> bool:
        """No process has all weights (ZeRO 3)."""
        return self.zero == 3

    @property
    def loading_device(self) -> str | None:
        """Where to put a model that was read; None leaves that to DeepSpeed, which shrinks it first."""
        return self.device if self.config is None else None

    def summary(self) -> dict[str, Any]:
        """Return what is recorded: JSON data."""
        return {
            "processes": self.place.processes,
            "zero": self.zero,
            "offload": self.offload,
            "activation_checkpointing": self.checkpointing,
            "deepspeed": self.config,
        }


def join(
    parallel: Parallel, model: Path, config: "TrainConfig", deal: "Deal", sequences_per_row: int, longest: int
) -> Joined:
    """Join the other processes, if there are any, and settle which ZeRO stage it is to be, and what is kept.

    Args:
        parallel: What was asked for, and where this process stands.
        model: Folder of the model to train.
        config: Of the training.
        deal: The schedule, dealt out to the processes.
        sequences_per_row: One for a conversation, two for a pair.
        longest: Tokens of the longest sequence.
    """
    device, place = device_name(), parallel.place
    if device == "cuda":
        torch.cuda.set_device(place.local_rank)
    if parallel.launched and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    settled = _settled(parallel, model, config, device, sequences_per_row, longest)
    zero = settled.zero
    if zero == 0:
        return Joined(place, device, checkpointing=settled.checkpointing)
    _join_deepspeed(device)
    settings = deepspeed_config(
        zero,
        parallel.offload,
        precision=config.precision,
        micro_batch=deal.micro_batch,
        accumulation=deal.accumulation,
        max_grad_norm=config.max_grad_norm,
        hidden_size=AutoConfig.from_pretrained(model, local_files_only=True).get_text_config().hidden_size,
        device=device,
    )
    loading = HfDeepSpeedConfig(settings) if zero == 3 else None
    return Joined(place, device, zero, parallel.offload, settings, settled.checkpointing, loading)


def whole_model(trainer: "PreparedTrainer", joined: Joined) -> "PreTrainedModel | None":
    """Return the trained model with all its weights in the first process, None in the others.

    All processes must ask for it. Loading a model is plain again afterwards.
    """
    unset_hf_deepspeed_config()
    model: PreTrainedModel = trainer.accelerator.unwrap_model(trainer.model)
    if not joined.keeps_parts:
        return model if joined.place.first else None
    weights = trainer.accelerator.get_state_dict(trainer.deepspeed)
    if not joined.place.first:
        return None
    with torch.device("meta"):
        whole: PreTrainedModel = type(model)(model.config)
    whole.load_state_dict(weights, assign=True)
    whole.tie_weights()
    return whole


def _settled(
    parallel: Parallel, model: Path, config: "TrainConfig", device: str, sequences_per_row: int, longest: int
) -> Parallelism:
    processes = parallel.place.processes
    if device == "cpu":
        # One machine's memory holds all its processes, so that parts of a model in each of them save little.
        stages: dict[Offload, Zero] = {"none": 0, "optimizer": 2, "parameters": 3}
        zero = stages[parallel.offload] if parallel.zero == "auto" else parallel.zero
        return Parallelism(processes, zero, parallel.offload)
    here = torch.cuda.get_device_properties(parallel.place.local_rank).total_memory
    if parallel.launched:
        smallest = torch.tensor(here, dtype=torch.int64, device="cuda")
        torch.distributed.all_reduce(smallest, torch.distributed.ReduceOp.MIN)
        here = int(smallest)
    shape = shape_of_config(json.loads((model / "config.json").read_text(encoding="utf-8")))
    work, recipe = None, recipe_of(config)
    if shape is not None:
        work = Training(shape, recipe, sequences_per_row, config.micro_batch_size, config.batch_size, longest)
    # A base in 4 bits cannot be shared out, and there is nothing else that is large.
    asked = 0 if recipe.quantised else parallel.zero
    return settled_parallelism(work, here, processes, asked, parallel.offload)


def _join_deepspeed(device: str) -> None:
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed

    if device == "cpu":
        # DeepSpeed would compile an operation for shared memory at this point, for which machines may lack a compiler.
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    deepspeed.init_distributed(dist_backend="nccl" if device == "cuda" else "gloo", verbose=False)
