"""Trainings by several processes that a launcher starts, one after another in one session: starting it takes 10 s.

    torchrun --standalone --nproc-per-node 2 two_processes.py FOLDER [CASE ...]

FOLDER holds the world of `tiny_training.make_world`; a case is METHOD-zeroSTAGE, its results go to FOLDER/out/CASE.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import tiny_training
import torch
from accelerate.state import AcceleratorState, GradientState

from kilter.training.parallel import Parallel, place_from
from kilter.training.sft import run_sft

ROWS = 54
"""With one and a half epochs, eleven steps of eight rows, the last of one: one of two processes has none of them."""


def train(world: tiny_training.World, method: str, output: Path, run: Any, **changes: Any) -> dict[str, Any]:
    """Train a method, or sft, on the world's rows."""
    sizes = {"batch_size": 16, "micro_batch_size": 8} if method == "kto" else {"batch_size": 8, "micro_batch_size": 2}
    settings = {"epochs": 1.5} | sizes | changes
    if method != "sft":
        return world.align(method, output, run, **settings)
    output.mkdir(parents=True, exist_ok=True)
    config = tiny_training.sft_config(**settings)
    return run_sft(world.model, world.data.parent / "conversations", config, output, run)


def spread(run: Any, zero: Any, offload: Any = "none") -> Any:
    """Return the run, by this process and those beside it."""
    place = place_from(os.environ)
    assert place is not None
    # A process trains once; here it trains often, and accelerate remembers.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return replace(run, parallel=Parallel(place, launched=True, zero=zero, offload=offload))


def main() -> None:
    """Run the cases that were asked for."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    world = tiny_training.World.at(folder)
    for case in sys.argv[2:]:
        method, _, zero = case.partition("-zero")
        output = folder / "out" / case
        summary = train(world, method, output, spread(tiny_training.training_run(), int(zero)))
        if summary:
            (output / "summary.json").write_text(json.dumps(summary))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
