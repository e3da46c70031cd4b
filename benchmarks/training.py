"""Training against a plain TRL script: `python benchmarks/training.py [--model small|1b|3b] [--pairs N]`.

Both train the same randomly initialised Llama on the same random pairs, with lengths drawn like those of UltraFeedback,
at the same effective batch and micro-batch, each in a process of its own: Kilter's `sft` and `align`, and TRL's
SFTTrainer and DPOTrainer as their documentation shows them, padded, with the reference model in memory. Printed are
useful tokens a second (real tokens of prompts and answers; padding does not count, nor do the reference's passes), peak
memory, and on a GPU the model FLOPs utilisation:

    MFU = useful tokens × (6 × parameters + 6 × layers × hidden size × mean length) / seconds / peak FLOPs of the GPU

where the second term is that of causal attention. Kilter's reference log-probabilities are a stage of their own, shared
by every method, β, size and seed; the last column counts that stage as if this one training had to pay for all of it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SHAPES = {
    "small": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "vocab_size": 4096, "head": 32},
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "vocab_size": 128256, "head": 64},
    "3b": {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "vocab_size": 128256, "head": 128},
}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOPs a second, from the vendor's data sheets."""
MEDIANS = {"prompt": 110.0, "answer": 210.0}
SPREAD = {"prompt": 1.0, "answer": 0.8}


def lengths(pairs: int, longest: int, seed: int = 0) -> dict[str, Any]:
    """Draw log-normal lengths in tokens, cut so that a prompt and an answer fit into `longest`."""
    random = np.random.default_rng(seed)
    drawn = {
        name: np.exp(random.normal(np.log(MEDIANS[part]), SPREAD[part], pairs)).astype(int)
        for name, part in (("prompt", "prompt"), ("chosen", "answer"), ("rejected", "answer"))
    }
    prompt = np.clip(drawn["prompt"], 8, longest // 2)
    answers = {name: np.clip(drawn[name], 8, longest - prompt) for name in ("chosen", "rejected")}
    return {"prompt": prompt, **answers}


def write_world(folder: Path, shape: dict[str, int], pairs: int, longest: int) -> dict[str, int]:
    """Write a model, a tokenizer and prepared data; return the useful tokens of one pass by stage."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from kilter.data.schemas import PREPARED_CONVERSATIONS, PREPARED_PAIRS

    torch.manual_seed(0)
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=shape["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        head_dim=shape["head"],
        vocab_size=shape["vocab_size"],
        max_position_embeddings=longest,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
    )
    LlamaForCausalLM(config).to(config.dtype).save_pretrained(folder / "model")
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{index}": index for index in range(3, shape["vocab_size"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder / "model")
    random = np.random.default_rng(1)
    drawn = lengths(pairs, longest)

    def ids(count: int) -> list[int]:
        return random.integers(3, shape["vocab_size"], count).tolist()

    rows = {name: [ids(count) for count in drawn[name]] for name in ("prompt", "chosen", "rejected")}
    numbers = {"position": list(range(pairs)), "row_id": [f"row-{row}" for row in range(pairs)]}
    flags = {"truncated": [False] * pairs}
    table = numbers | flags | {"block": [-1] * pairs, "mismatched": [-1] * pairs}
    table |= {f"{name}_ids": rows[name] for name in rows}
    (folder / "pairs").mkdir()
    pq.write_table(pa.table(table, schema=PREPARED_PAIRS), folder / "pairs" / "train.parquet")
    conversations = [prompt + chosen for prompt, chosen in zip(rows["prompt"], rows["chosen"], strict=True)]
    masks = [[0] * len(p) + [1] * len(c) for p, c in zip(rows["prompt"], rows["chosen"], strict=True)]
    table = numbers | flags | {"input_ids": conversations, "assistant_mask": masks}
    (folder / "conversations").mkdir()
    pq.write_table(pa.table(table, schema=PREPARED_CONVERSATIONS), folder / "conversations" / "train.parquet")
    text = {name: [" ".join(f"w{token}" for token in row) for row in rows[name]] for name in rows}
    pq.write_table(pa.table(text), folder / "text.parquet")
    sft = int((drawn["prompt"] + drawn["chosen"]).sum())
    return {"sft": sft, "dpo": sft + int((drawn["prompt"] + drawn["rejected"]).sum())}


def common(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what both sides' configurations share."""
    return {"learning_rate": 1e-6, "batch_size": arguments.batch, "micro_batch_size": arguments.micro}


def kilter(stage: str, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Train with Kilter; return the seconds of the steps and those of the reference stage."""
    from kilter.plan.configs import AlignConfig, ReferenceConfig, SftConfig
    from kilter.progress import Silent
    from kilter.training.precision import resolve_precision
    from kilter.training.run import NoResume, TrainingRun

    precision = resolve_precision("auto")
    shared = common(arguments) | {"epochs": 1.0, "scheduler": "constant", "warmup_ratio": 0.0, "weight_decay": 0.0}
    shared |= {"max_grad_norm": 1.0, "precision": precision, "seed": 0, "size": "all"}
    run = TrainingRun(Silent(), NoResume(), lambda: False, checkpoint_seconds=1e9)
    output = folder / f"kilter-{stage}"
    output.mkdir()
    if stage == "sft":
        from kilter.training.sft import run_sft

        done = run_sft(folder / "model", folder / "conversations", SftConfig(**shared), output, run)
        return {"seconds": done["seconds"], "reference": 0.0}
    from kilter.training.align import run_align
    from kilter.training.reference import run_reference

    wanted = ReferenceConfig(split="train", start=0, stop=None, mismatched=False, precision=precision)
    reference = folder / "reference"
    reference.mkdir()
    scored = run_reference(folder / "model", folder / "pairs", wanted, reference, Silent())
    config = AlignConfig(**shared, method="dpo", hyperparameters={"beta": 0.1})
    shards = [reference / "logprobs.parquet"]
    done = run_align(folder / "model", folder / "pairs", shards, [], None, config, output, run)
    return {"seconds": done["seconds"], "reference": scored["seconds"]}


def trl(stage: str, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Train with TRL's trainer as its documentation shows it; return the seconds of the steps."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.monotonic()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.seconds = time.monotonic() - self.began

    gpu = torch.cuda.is_available()
    settings = {
        "output_dir": str(folder / f"trl-{stage}"),
        "per_device_train_batch_size": arguments.micro,
        "gradient_accumulation_steps": arguments.batch // arguments.micro,
        "num_train_epochs": 1,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "max_length": arguments.longest,
        "bf16": gpu,
        "use_cpu": not gpu,
        "activation_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": gpu,
    }
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = datasets.Dataset(pq.read_table(folder / "text.parquet"))
    if stage == "sft":
        rows = rows.rename_column("chosen", "completion").remove_columns("rejected")
        trainer: Any = SFTTrainer(model, SFTConfig(**settings), train_dataset=rows, processing_class=tokenizer)
    else:
        trainer = DPOTrainer(model, args=DPOConfig(**settings), train_dataset=rows, processing_class=tokenizer)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return {"seconds": clock.seconds, "reference": 0.0}


def measure(side: str, stage: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Run one side in this process and print its figures as JSON."""
    import torch

    figures = (kilter if side == "kilter" else trl)(stage, folder, arguments)
    if torch.cuda.is_available():
        figures["memory"] = torch.cuda.max_memory_allocated()
    else:
        figures["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("FIGURES" + json.dumps(figures))


def main() -> None:
    """Measure both sides on both stages and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="small")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="pairs a step")
    parser.add_argument("--micro", type=int, default=8, help="pairs a forward pass")
    parser.add_argument("--longest", type=int, default=1024, help="tokens of a prompt with an answer")
    parser.add_argument("--only", nargs=3, metavar=("SIDE", "STAGE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        side, stage, folder = arguments.only
        measure(side, stage, Path(folder), arguments)
        return
    import torch

    shape = SHAPES[arguments.model]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    with tempfile.TemporaryDirectory(prefix="kilter-benchmark-") as name:
        folder = Path(name)
        useful = write_world(folder, shape, arguments.pairs, arguments.longest)
        parameters = sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors")) / (2 if gpu else 4)
        device = gpu or f"{os.cpu_count()} CPU cores"
        mean = useful["dpo"] / 2 / arguments.pairs
        print(f"\nLlama of {parameters / 1e6:.0f} million parameters on {device}; {arguments.pairs} pairs, ", end="")
        print(f"{mean:.0f} tokens a sequence on average, batch {arguments.batch}, micro-batch {arguments.micro}\n")
        print("| stage | side | useful tokens/s | peak memory, GiB | MFU | ratio | ratio with the reference stage |")
        print("|---|---|---|---|---|---|---|")
        for stage in ("sft", "dpo"):
            rate: dict[str, float] = {}
            for side in ("trl", "kilter"):
                figures = run_side(side, stage, folder)
                rate[side] = useful[stage] / figures["seconds"]
                whole = useful[stage] / (figures["seconds"] + figures["reference"]) / rate["trl"]
                ratios = f"{rate[side] / rate['trl']:.2f} | {whole:.2f}" if side == "kilter" else "1 | 1"
                used = utilisation(rate[side], parameters, shape, useful[stage], arguments.pairs, gpu)
                print(f"| {stage} | {side} | {rate[side]:,.0f} | {figures['memory'] / 2**30:.2f} | {used} | {ratios} |")


def run_side(side: str, stage: str, folder: Path) -> dict[str, float]:
    """Run one side in a process of its own and return its figures."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", side, stage, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=False
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("FIGURES")]
    if not found:
        raise SystemExit(f"{side} {stage} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(found[-1].removeprefix("FIGURES"))
    return figures


def utilisation(rate: float, parameters: float, shape: dict[str, int], useful: int, pairs: int, gpu: str | None) -> str:
    """Return the MFU on useful tokens as a percentage, or a dash where the device's peak is not known."""
    peak = next((value for name, value in PEAK.items() if gpu and name in gpu), None)
    if peak is None:
        return "–"
    sequences = pairs * (1 if useful < 700 * pairs else 2)
    attention = 6 * shape["num_hidden_layers"] * shape["hidden_size"] * useful / sequences
    return f"{rate * (6 * parameters + attention) / peak:.1%}"


if __name__ == "__main__":
    main()
