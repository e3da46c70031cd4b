"""Compare Kilter's subsample with Hugging Face `datasets` doing the same work, on a generated preference set.

Each contender runs in a process of its own: normalise prompts, drop empty, equal, contradictory and duplicate pairs,
hold out prompts, sort by a keyed hash of prompt and row, write two Parquet files. The result must hold the same
pairs in the same order, or the comparison is void. Memory is the largest process's peak resident set.

    python benchmarks/subsample.py --rows 5000000
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

HOLDOUT = 0.02
CHUNK = 100_000
WORDS = 20_000


def generate(path: Path, rows: int, seed: int = 0) -> None:
    """Write pairs: 3 % duplicates, 1 % equal answers, 1 % contradictions, half the prompts shared."""
    random = np.random.default_rng(seed)
    words = np.array([f"{chr(97 + n % 26)}{n:x}" for n in range(WORDS)])

    def texts(ids: np.ndarray, low: int, high: int) -> list[str]:
        drawn = np.random.default_rng(int(ids[0])).integers(0, WORDS, (len(ids), high))
        drawn[:, 0], drawn[:, 1] = ids % WORDS, ids // WORDS
        lengths = low + ids % (high - low)
        return [" ".join(line[:length]) for line, length in zip(words[drawn], lengths, strict=True)]

    with pq.ParquetWriter(
        path, pa.schema([(name, pa.string()) for name in ("prompt", "chosen", "rejected")])
    ) as writer:
        for start in range(0, rows, CHUNK):
            size = min(CHUNK, rows - start)
            numbers = np.arange(start, start + size)
            prompts = np.array(texts(numbers, 8, 40), dtype=object)
            shared = random.random(size) < 0.5
            prompts[shared] = prompts[random.integers(0, size, int(shared.sum()))]
            chosen = np.array(texts(numbers + 7, 10, 60), dtype=object)
            rejected = np.array(texts(numbers + 11, 10, 60), dtype=object)
            equal = random.random(size) < 0.01
            rejected[equal] = chosen[equal]
            for share, swap in ((0.03, False), (0.005, True)):
                to = np.flatnonzero(random.random(size) < share)
                source = random.integers(0, size, len(to))
                prompts[to] = prompts[source]
                chosen[to], rejected[to] = (
                    (rejected[source], chosen[source]) if swap else (chosen[source], rejected[source])
                )
            spaced = np.flatnonzero(random.random(size) < 0.05)
            for row in spaced:
                prompts[row] = prompts[row].replace(" ", "\n", 1) + " "
            writer.write_table(
                pa.table({"prompt": list(prompts), "chosen": list(chosen), "rejected": list(rejected)}),
                row_group_size=CHUNK,
            )


def run_kilter(source: Path, output: Path) -> None:
    """Kilter's own stage."""
    from kilter.data.subsample import subsample_preference
    from kilter.plan.configs import SubsampleConfig
    from kilter.progress import Silent

    config = SubsampleConfig(kind="preference", split="train", holdout=HOLDOUT)
    subsample_preference([source], (), (), config, output, Silent())


def run_datasets(source: Path, output: Path, processes: int, lean: bool) -> None:
    """The same steps with `datasets`, batched.

    Its `sort` takes the whole table into memory; `lean` sorts the ids alone and reads rows through the indices.
    """
    import datasets

    datasets.disable_progress_bars()
    cache = output / "cache"

    def keyed(text: str) -> str:
        return blake2b(text.encode(), digest_size=8, key=b"kilter subset order, version 1").hexdigest()

    def annotate(batch: dict) -> dict:
        keys: dict[str, list] = {"prompt_id": [], "row_id": [], "pair": [], "forward": [], "good": []}
        for prompt, chosen, rejected in zip(batch["prompt"], batch["chosen"], batch["rejected"], strict=True):
            text = " ".join(unicodedata.normalize("NFC", prompt).split())
            forward = chosen < rejected
            first, second = (chosen, rejected) if forward else (rejected, chosen)
            pair = int(keyed(f"{len(first.encode())}\x1f{first}\x1f{second}"), 16) & ~1
            prompt_id = keyed(f"user\x1f{text}\x1f")
            keys["prompt_id"].append(prompt_id)
            keys["row_id"].append(f"{prompt_id}{pair | forward:016x}")
            keys["pair"].append(f"{prompt_id}{pair:016x}")
            keys["forward"].append(forward)
            keys["good"].append(
                bool(text and chosen.strip() and rejected.strip() and chosen.strip() != rejected.strip())
            )
        return keys

    rows = datasets.load_dataset("parquet", data_files=str(source), split="train", cache_dir=str(cache))
    rows = rows.map(annotate, batched=True, num_proc=processes)
    prompts = sorted(set(rows["prompt_id"]))
    held = set(prompts[len(prompts) - min(max(1, round(HOLDOUT * len(prompts))), 2000) :])
    del prompts
    rows = rows.filter(lambda good: good, input_columns="good", num_proc=processes)
    ways: dict[str, int] = {}
    for batch in rows.select_columns(["pair", "forward"]).iter(10_000):
        for pair, forward in zip(batch["pair"], batch["forward"], strict=True):
            ways[pair] = ways.get(pair, 0) | (1 if forward else 2)
    contradictory = {pair for pair, seen in ways.items() if seen == 3}
    del ways
    seen: set[str] = set()

    def keep(row_ids: list[str], pairs: list[str]) -> list[bool]:
        kept = []
        for row_id, pair in zip(row_ids, pairs, strict=True):
            kept.append(pair not in contradictory and row_id not in seen)
            seen.add(row_id)
        return kept

    rows = rows.filter(keep, input_columns=["row_id", "pair"], batched=True, load_from_cache_file=False)
    if lean:
        ids = rows.select_columns(["row_id"]).with_format("arrow")[:]["row_id"]
        rows = rows.select(pc.sort_indices(ids).to_numpy())
    else:
        rows = rows.sort("row_id")
    rows = rows.select_columns(["row_id", "prompt_id", "prompt", "chosen", "rejected"])
    for name, wanted in (("train", False), ("holdout", True)):
        split = rows.filter(
            lambda prompt_id, wanted=wanted: (prompt_id in held) is wanted,
            input_columns="prompt_id",
            num_proc=processes,
        )
        split.to_parquet(output / f"{name}.parquet", batch_size=10_000)


def contend(name: str, source: Path, output: Path) -> None:
    """Run one contender in this process and print its time and peak memory as JSON."""
    start = time.perf_counter()
    if name == "generate":
        generate(source, int(output.name))
    elif name == "kilter":
        run_kilter(source, output)
    else:
        run_datasets(source, output, processes=2 if name == "datasets-2" else 1, lean=name == "datasets-lean")
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": time.perf_counter() - start, "own_kib": own, "child_kib": children}))


def start(name: str, source: Path, output: Path) -> dict[str, float]:
    """Run `contend` in a process of its own and return what it measured."""
    command = [sys.executable, __file__, "--contend", name, str(source), str(output)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(told.strip().splitlines()[-1]))


def fingerprint(output: Path) -> tuple[str, str]:
    """Digest the row ids of both splits, in order."""
    digests = []
    for split in ("train", "holdout"):
        hasher = blake2b(digest_size=16)
        for batch in pq.ParquetFile(output / f"{split}.parquet").iter_batches(columns=["row_id"]):
            hasher.update("".join(batch.column("row_id").to_pylist()).encode())
        digests.append(hasher.hexdigest())
    return digests[0], digests[1]


def main() -> None:
    """Generate, run each contender in a process of its own, compare results, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument(
        "--contenders",
        nargs="+",
        default=["kilter", "datasets", "datasets-lean"],
        help="of kilter, datasets, datasets-2 (two processes), datasets-lean (sorts by index)",
    )
    parser.add_argument("--folder", type=Path, help="where to put temporary files (several GB for 5 million rows)")
    parser.add_argument("--contend", nargs=3, metavar=("NAME", "SOURCE", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        name, source, output = arguments.contend
        contend(name, Path(source), Path(output))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        source = Path(work) / "train.parquet"
        # A child starts with its parent's peak memory on its account, so the parent generates nothing itself.
        start("generate", source, Path(work) / str(arguments.rows))
        results, prints = {}, {}
        for name in arguments.contenders:
            output = Path(work) / name
            output.mkdir()
            results[name] = start(name, source, output)
            prints[name] = fingerprint(output)
            shutil.rmtree(output)
    if len(set(prints.values())) != 1:
        raise SystemExit(f"the contenders disagree, so their times mean nothing: {prints}")
    print(
        f"{arguments.rows:,} rows; kilter {version('kilter')}, datasets {version('datasets')}, "
        f"pyarrow {version('pyarrow')}, Python {sys.version.split()[0]}\n"
    )
    print("| | rows/s | seconds | peak memory, MiB | speed ratio | memory ratio |\n|---|---|---|---|---|---|")
    base = results[arguments.contenders[0]]
    for name, result in results.items():
        peak = max(result["own_kib"], result["child_kib"])
        base_peak = max(base["own_kib"], base["child_kib"])
        print(
            f"| {name} | {arguments.rows / result['seconds']:,.0f} | {result['seconds']:.1f} | {peak / 1024:,.0f} | "
            f"{result['seconds'] / base['seconds']:.2f} | {peak / base_peak:.2f} |"
        )


if __name__ == "__main__":
    main()
