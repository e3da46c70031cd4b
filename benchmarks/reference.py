"""What sharing reference log-probabilities saves: `python benchmarks/reference.py [--pairs N]`.

Trains a grid of methods × β × sizes from one parent model, as a study does: the reference stage scores the pairs of the
largest size once, for KTO also the mismatched answers, and every training reads the values. Beside that, the reference
passes that each training would make by itself are made for each training: over its own pairs, once (TRL's
`precompute_ref_log_probs`, which is kinder to the peer than a reference model that runs along in every epoch). Printed
are the seconds of both and their ratio. Kilter scores without padding to a common length and without gradients, on both
sides alike, so that only the sharing is measured.
"""

import argparse
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kilter.plan.configs import AlignConfig, ReferenceConfig
from kilter.progress import Silent
from kilter.study.methods import METHODS
from kilter.training.align import run_align
from kilter.training.precision import resolve_precision
from kilter.training.reference import run_reference
from kilter.training.run import NoResume, TrainingRun
from training import SHAPES, common, write_world

BLOCK = 8


def with_blocks(path: Path) -> None:
    """Give the prepared pairs blocks, within which KTO takes its mismatched answers from the next row."""
    table = pq.read_table(path)
    rows = table.num_rows // BLOCK * BLOCK
    table = table.slice(0, rows)
    blocks = [row // BLOCK for row in range(rows)]
    partners = [row // BLOCK * BLOCK + (row + 1) % BLOCK for row in range(rows)]
    for name, values in (("block", blocks), ("mismatched", partners)):
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        table = table.set_column(index, field, pa.array(values, field.type))
    pq.write_table(table, path)


def reference(folder: Path, output: Path, stop: int | None, mismatched: bool, precision: Any) -> tuple[Path, float]:
    """Run the reference stage up to a position; return its file and the seconds it took."""
    output.mkdir()
    config = ReferenceConfig(split="train", start=0, stop=stop, mismatched=mismatched, precision=precision)
    began = time.monotonic()
    run_reference(folder / "model", folder / "pairs", config, output, Silent())
    return output / "logprobs.parquet", time.monotonic() - began


def main() -> None:
    """Train the grid, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="small")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--micro", type=int, default=8)
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--methods", nargs="+", default=["dpo", "ipo", "kto", "cpo"])
    parser.add_argument("--betas", nargs="+", type=float, default=[0.01, 0.1])
    arguments = parser.parse_args()
    sizes = [arguments.pairs // 4, arguments.pairs // 2, arguments.pairs]
    precision = resolve_precision("auto")
    run = TrainingRun(Silent(), NoResume(), lambda: False, checkpoint_seconds=1e9)
    with tempfile.TemporaryDirectory(prefix="kilter-benchmark-") as name:
        folder = Path(name)
        write_world(folder, SHAPES[arguments.model], arguments.pairs, arguments.longest)
        with_blocks(folder / "pairs" / "train.parquet")
        shared: dict[bool, Path] = {}
        once = 0.0
        for mismatched in (False, True):
            wanted = [METHODS[method].needs_mismatched or not mismatched for method in arguments.methods]
            if any(wanted):
                shared[mismatched], seconds = reference(
                    folder, folder / f"shared-{mismatched}", None, mismatched, precision
                )
                once += seconds
        own = trained = 0.0
        cells = 0
        for method in arguments.methods:
            for beta in arguments.betas:
                for size in sizes:
                    cells += 1
                    for mismatched in (False, True):
                        needed = METHODS[method].needs_mismatched if mismatched else METHODS[method].needs_reference
                        if needed:
                            place = folder / f"own-{cells}-{mismatched}"
                            own += reference(folder, place, size, mismatched, precision)[1]
                    trained += align(method, beta, size, folder, shared, precision, arguments, run, cells)
        print(f"\n{cells} trainings: {len(arguments.methods)} methods × {len(arguments.betas)} β × sizes {sizes}\n")
        print("| | reference stage, s | training, s | all, s |\n|---|---|---|---|")
        print(f"| each training by itself | {own:.1f} | {trained:.1f} | {own + trained:.1f} |")
        print(f"| one stage for all | {once:.1f} | {trained:.1f} | {once + trained:.1f} |")
        print(
            f"\nreference passes: {own / once:.1f} times fewer; all compute: {(own + trained) / (once + trained):.2f}"
        )


def align(
    method: str,
    beta: float,
    size: int,
    folder: Path,
    shared: dict[bool, Path],
    precision: Any,
    arguments: Namespace,
    run: TrainingRun,
    number: int,
) -> float:
    """Train one cell and return the seconds of its steps."""
    values = {name: parameter.default for name, parameter in METHODS[method].hyperparameters.items()} | {"beta": beta}
    config = AlignConfig(
        **common(arguments),
        epochs=1.0,
        scheduler="constant",
        warmup_ratio=0.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        precision=precision,
        seed=0,
        size=size,
        method=method,
        hyperparameters=values,
    )
    output = folder / f"align-{number}"
    output.mkdir()
    mismatched = [shared[True]] if METHODS[method].needs_mismatched else []
    done = run_align(folder / "model", folder / "pairs", [shared[False]], mismatched, None, config, output, run)
    return float(done["seconds"])


if __name__ == "__main__":
    main()
