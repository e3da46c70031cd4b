"""A tiny Llama, its tokenizer, and prepared data made of random token ids: enough to train on for real."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kilter.data.schemas import PREPARED_CONVERSATIONS, PREPARED_PAIRS
from kilter.errors import Preempted
from kilter.plan.configs import AlignConfig, ReferenceConfig, SftConfig
from kilter.progress import Silent
from kilter.study.methods import METHODS
from kilter.training.reference import run_reference
from kilter.training.run import NoResume, Resume, TrainingRun

VOCABULARY = 64
PAD, BOS, EOS = 0, 1, 2
# Every method's defaults, with values in place of those that would hide a part of the loss or drown it.
HYPERPARAMETERS = {
    name: {parameter: known.default for parameter, known in method.hyperparameters.items()}
    for name, method in METHODS.items()
}
for changed, values in {
    "dpo": {"beta": 0.1},
    "ipo": {"beta": 0.1},
    "ipo-sum": {"beta": 0.1},
    "kto": {"desirable_weight": 1.2, "undesirable_weight": 0.8},
    "apo-zero-unpaired": {"desirable_weight": 1.2, "undesirable_weight": 0.8},
    "cpo": {"cpo_alpha": 0.7},
    "cpo-simpo": {"cpo_alpha": 0.7},
    "rpo": {"rpo_alpha": 0.7},
    "sppo": {"beta": 0.1},
    "aot": {"beta": 0.1, "label_smoothing": 0.1},
    "aot-unpaired": {"beta": 0.1, "label_smoothing": 0.1},
    "exo": {"label_smoothing": 0.01},
    "tr-dpo": {"sync_steps": 2.0},
    "dpo-forward-kl": {"beta": 1e-4},
    "dpo-alpha": {"beta": 1e-2},
}.items():
    HYPERPARAMETERS[changed] |= values


def write_model(folder: Path, seed: int = 0, hidden: int = 32, layers: int = 2, vocabulary: int = VOCABULARY) -> Path:
    """Write a randomly initialised Llama with a tokenizer and a chat template."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<pad>": PAD, "<s>": BOS, "</s>": EOS} | {f"w{index}": index for index in range(3, vocabulary)}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}</s>{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def write_pairs(
    path: Path, rows: int, seed: int = 0, block: int = 8, longest: int = 12, holdout: bool = False, tie: bool = False
) -> Path:
    """Write prepared pairs with random token ids of unequal lengths; with `tie`, row 1's two answers are the same."""
    random = np.random.default_rng(seed)

    def ids() -> list[int]:
        return random.integers(3, VOCABULARY, random.integers(1, longest + 1)).tolist()

    whole = rows // block * block
    table = {
        "position": list(range(rows)),
        "row_id": [f"row-{seed}-{row}" for row in range(rows)],
        "block": [-1 if holdout or row >= whole else row // block for row in range(rows)],
        "mismatched": [
            -1 if holdout or row >= whole else row // block * block + (row + 1) % block for row in range(rows)
        ],
        "prompt_ids": [[BOS, *ids()] for _ in range(rows)],
        "chosen_ids": [[*ids(), EOS] for _ in range(rows)],
        "rejected_ids": [[*ids(), EOS] for _ in range(rows)],
        "truncated": [row == 0 for row in range(rows)],
    }
    if tie:
        table["rejected_ids"][1] = table["chosen_ids"][1]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table, schema=PREPARED_PAIRS), path)
    return path


def write_conversations(path: Path, rows: int, seed: int = 0, longest: int = 12) -> Path:
    """Write prepared conversations whose second part is learnt."""
    random = np.random.default_rng(seed)
    questions = [[BOS, *random.integers(3, VOCABULARY, random.integers(1, longest)).tolist()] for _ in range(rows)]
    answers = [[*random.integers(3, VOCABULARY, random.integers(1, longest)).tolist(), EOS] for _ in range(rows)]
    table = {
        "position": list(range(rows)),
        "row_id": [f"row-{row}" for row in range(rows)],
        "input_ids": [question + answer for question, answer in zip(questions, answers, strict=True)],
        "assistant_mask": [
            [0] * len(question) + [1] * len(answer) for question, answer in zip(questions, answers, strict=True)
        ],
        "truncated": [False] * rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table, schema=PREPARED_CONVERSATIONS), path)
    return path


def align_config(method: str, **changes: object) -> AlignConfig:
    """Return a configuration for a few quick steps."""
    values = {
        "learning_rate": 1e-3,
        "epochs": 1.0,
        "batch_size": 16,
        "micro_batch_size": 8,
        "scheduler": "cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "precision": "fp32",
        "seed": 0,
        "method": method,
        "hyperparameters": HYPERPARAMETERS[method],
        "size": "all",
    }
    return AlignConfig.model_validate(values | changes)


def sft_config(**changes: object) -> SftConfig:
    """Return a configuration for a few quick steps."""
    values = align_config("dpo").model_dump(exclude={"method", "hyperparameters"})
    return SftConfig.model_validate(values | changes)


def reference_file(model: Path, data: Path, output: Path, **changes: object) -> Path:
    """Run the reference stage and return its file."""
    values = {"split": "train", "start": 0, "stop": None, "mismatched": False, "precision": "fp32"}
    output.mkdir(parents=True, exist_ok=True)
    run_reference(model, data, ReferenceConfig.model_validate(values | changes), output, Silent())
    return output / "logprobs.parquet"


@dataclass
class FolderResume:
    """Keeps checkpoints in a folder, the newest last."""

    folder: Path
    published: list[int] = field(default_factory=list)

    def latest(self) -> Path | None:
        """Return the newest."""
        found = sorted(self.folder.glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
        return found[-1] if found else None

    def publish(self, directory: Path, step: int) -> None:
        """Copy it, under its final name only when it is whole."""
        import shutil

        partial = self.folder / f"partial-{step}"
        shutil.copytree(directory, partial)
        partial.rename(self.folder / f"step-{step}")
        self.published.append(step)

    def settle(self) -> int | None:
        """Return the newest step: everything is kept at once."""
        return self.published[-1] if self.published else None


class StopAfter:
    """Becomes true after so many questions, one a step."""

    def __init__(self, steps: int):
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def training_run(resume: Resume | None = None, stop: object = None, checkpoint_seconds: float = 1e9) -> TrainingRun:
    """Return a run that reports to nobody."""
    return TrainingRun(Silent(), resume or NoResume(), stop or (lambda: False), checkpoint_seconds)


@dataclass(frozen=True)
class World:
    """A model, prepared pairs of it, and all reference values of them."""

    model: Path
    data: Path
    reference: Path
    mismatched: Path
    holdout: Path

    @classmethod
    def at(cls, folder: Path) -> "World":
        """Return the world that `make_world` wrote into a folder."""
        files = (folder / name / "logprobs.parquet" for name in ("reference", "mismatched", "holdout"))
        return cls(folder / "model", folder / "data", *files)

    def align(self, method: str, output: Path, run: TrainingRun | None = None, **changes: object) -> dict:
        """Run an alignment."""
        from kilter.training.align import run_align

        output.mkdir(parents=True, exist_ok=True)
        config = align_config(method, **changes)
        shards = (self.reference,), (self.mismatched,)
        return run_align(self.model, self.data, *shards, self.holdout, config, output, run or training_run())


def make_world(folder: Path, rows: int = 40, block: int = 8, model: Path | None = None) -> World:
    """Write everything that an alignment reads. The policy starts from the model that the reference is."""
    model = model or write_model(folder / "model")
    data = folder / "data"
    write_pairs(data / "train.parquet", rows, block=block, tie=True)
    write_pairs(data / "holdout.parquet", 8, seed=1, holdout=True)
    return World(
        model,
        data,
        reference_file(model, data, folder / "reference"),
        reference_file(model, data, folder / "mismatched", mismatched=True),
        reference_file(model, data, folder / "holdout", split="holdout"),
    )


def interrupted(call: object) -> bool:
    """Tell whether the call was preempted."""
    try:
        call()
    except Preempted:
        return True
    return False
