"""Trainings by several processes that a launcher starts, one after another in one session: starting it takes 10 s.

    torchrun --standalone --nproc-per-node 2 two_processes.py FOLDER [CASE ...]

FOLDER holds the world of `tiny_training.make_world`; a case is METHOD-zeroSTAGE, its results go to FOLDER/out/CASE.
The method may be `sft`, or `lora` for DPO of an adapter.
METHOD-zeroSTAGE-stopSTEP is stopped after a step, and its checkpoint goes to FOLDER/checkpoints/CASE.
"""

import json
import os
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import tiny_training
import torch
from accelerate.state import AcceleratorState, GradientState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from kilter.plan.configs import Adapter
from kilter.training.parallel import Parallel, place_from
from kilter.training.sft import run_sft

LORA = Adapter(method="lora", rank=4, alpha=8, dropout=0.0, target="all-linear", library="peft")
ROWS = 54
EPOCHS = {"dpo": 1.39}
"""One and a half epochs are eleven steps of eight rows, the last of one: one of two processes has none of them.

With 1.39 epochs the last step has three rows, two for one process and one for the other.
"""


def train(world: tiny_training.World, method: str, output: Path, run: Any, **changes: Any) -> dict[str, Any]:
    """Train a method, sft or lora on the world's rows."""
    sizes = {"batch_size": 16, "micro_batch_size": 8} if method == "kto" else {"batch_size": 8, "micro_batch_size": 2}
    settings = {"epochs": EPOCHS.get(method, 1.5)} | sizes | changes
    if method == "lora":
        return world.align("dpo", output, run, **(settings | {"peft": LORA}))
    if method != "sft":
        return world.align(method, output, run, **settings)
    output.mkdir(parents=True, exist_ok=True)
    config = tiny_training.sft_config(**settings)
    return run_sft(world.model, world.data.parent / "conversations", config, output, run)


def spread(run: Any, zero: Any, offload: Any = "none") -> Any:
    """Return the run, by this process and those beside it."""
    place = place_from(os.environ)
    assert place is not None
    # A process trains once; here it trains often, and accelerate and transformers remember.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
    unset_hf_deepspeed_config()
    return replace(run, parallel=Parallel(place, launched=True, zero=zero, offload=offload))


def main() -> None:
    """Run the cases that were asked for."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    world = tiny_training.World.at(folder)
    for case in sys.argv[2:]:
        method, zero, *stop = re.split(r"-(?:zero|stop)(?=\d)", case)
        output = folder / "out" / case
        run = spread(tiny_training.training_run(), int(zero))
        if stop:
            kept = tiny_training.FolderResume(folder / "checkpoints" / case)
            resume = kept if run.parallel.place.first else tiny_training.NoResume()
            kept.folder.mkdir(parents=True, exist_ok=True)
            run = replace(run, stop=tiny_training.StopAfter(int(stop[0])), resume=resume)
            assert tiny_training.interrupted(partial(train, world, method, output, run))
        elif summary := train(world, method, output, run):
            (output / "summary.json").write_text(json.dumps(summary))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
