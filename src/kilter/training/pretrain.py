"""Pretraining of a small model from scratch: the demo's base model."""

import math
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kilter.data.schemas import STEP_METRICS
from kilter.data.sources import read_batches, schema_of, split_files
from kilter.data.templates import resolve_template
from kilter.errors import Preempted, StageFailed, WrongInput
from kilter.training.scratch import make_model, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from kilter.plan.configs import PretrainConfig
    from kilter.progress import Progress

TOKENIZER_DOCUMENTS = 20_000
LAST_SHARE_OF_RATE = 0.1
WEIGHT_DECAY = 0.1
MAX_GRAD_NORM = 1.0
IGNORED = -100
_TEXT_COLUMNS = ("text", "messages", "chosen", "prompt", "completion")


def run_pretrain(
    data: "Sequence[Path]",
    config: "PretrainConfig",
    output: "Path",
    progress: "Progress",
    stop: "Callable[[], bool]",
) -> dict[str, Any]:
    """Make a tokenizer and a model from scratch and train the model on the text by plain next-token prediction.

    The loop is GPT-3's recipe in small (arXiv 2005.14165, appendix B): AdamW with betas 0.9 and 0.95, weight decay 0.1
    on matrices, clipping at norm 1, linear warm-up, then a cosine down to a tenth. On a CPU the result depends on the
    data, the config and the number of threads alone.

    Args:
        data: folders of ingested data; the files of the split are read, in the order of their names.
        config: what is trained, and how.
        output: gets `model/` (safetensors, tokenizer, chat template) and `metrics.parquet` (STEP_METRICS).
        progress: is told of every step.
        stop: is asked before every step whether to stop.

    Returns:
        steps, tokens (that were learnt from), documents, sequences, parameters, vocabulary, loss (mean of the last
        tenth of the steps, nats a token), first_loss, seconds.

    Raises:
        WrongInput: the data have no text, or the architecture cannot be made.
        StageFailed: the loss became NaN or infinite.
        Preempted: `stop` said so. Nothing is saved: pretraining is short and begins anew.
    """
    texts = list(read_texts(data, config.split))
    if not texts:
        raise WrongInput(f"there is no text in split {config.split!r} of {', '.join(map(str, data))}")
    model_folder = output / "model"
    template = resolve_template(config.chat_template)
    vocabulary = config.architecture.vocabulary
    tokenizer = train_tokenizer(_spread(texts, TOKENIZER_DOCUMENTS), vocabulary, template, model_folder)
    length = min(config.sequence_length, config.architecture.context_length)
    sequences = pack(_token_ids(texts, tokenizer), length)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = make_model(config.architecture, tokenizer, config.seed).to(device)
    metrics = _train(model, sequences, tokenizer.pad_token_id, config, progress, stop)
    model.save_pretrained(model_folder)
    pq.write_table(pa.Table.from_pylist(metrics, schema=STEP_METRICS), output / "metrics.parquet")
    last = metrics[-max(1, len(metrics) // 10) :]
    return {
        "steps": len(metrics),
        "tokens": metrics[-1]["tokens"],
        "documents": len(texts),
        "sequences": len(sequences),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "vocabulary": len(tokenizer),
        "loss": sum(row["loss"] for row in last) / len(last),
        "first_loss": metrics[0]["loss"],
        "seconds": metrics[-1]["seconds"],
    }


def read_texts(folders: "Sequence[Path]", split: str) -> "Iterator[str]":
    """Yield the documents of a split: the column `text`, or conversations and chosen answers as plain text.

    Raises:
        WrongInput: a folder has no file of the split, or a file has no column to make text of.
    """
    for folder in folders:
        for file in split_files(folder, split):
            columns = [name for name in schema_of(file).names if name in _TEXT_COLUMNS]
            for batch in read_batches([file], columns):
                for row in batch.to_pylist():
                    yield as_text(row, file)


def as_text(row: "Mapping[str, Any]", path: "Path") -> str:
    """Return a row as one plain document, turns apart by a blank line.

    Raises:
        WrongInput: none of the known columns is there.
    """
    if row.get("text") is not None:
        return str(row["text"])
    if row.get("messages"):
        return _turns(row["messages"])
    if row.get("chosen") is not None:
        chosen = row["chosen"]
        if not isinstance(chosen, str):
            return _turns(chosen)
        return f"{row['prompt']}\n\n{chosen}" if row.get("prompt") else str(chosen)
    if row.get("prompt") is not None and row.get("completion") is not None:
        return f"{row['prompt']}\n\n{row['completion']}"
    present = ", ".join(name for name, value in row.items() if value is not None)
    raise WrongInput(
        f"{path.name} holds no text to pretrain on: one of the columns text, messages, chosen, or prompt and "
        f"completion is needed in every row, and a row has {present or 'none of them'}"
    )


def pack(documents: "Iterable[Sequence[int]]", length: int) -> list[list[int]]:
    """Pack documents into sequences of at most `length` tokens, in order.

    A document is begun on a new sequence where it would not fit into the rest of the last one, so that none is cut but
    those that are longer than a whole sequence.
    """
    sequences: list[list[int]] = []
    for document in documents:
        for start in range(0, len(document), length):
            piece = document[start : start + length]
            if sequences and len(sequences[-1]) + len(piece) <= length:
                sequences[-1].extend(piece)
            else:
                sequences.append(list(piece))
    return sequences


def learning_rate_at(step: int, config: "PretrainConfig") -> float:
    """Return the learning rate of a step (from 0): linear warm-up, then a cosine to a tenth of the peak."""
    warmup = round(config.steps * config.warmup_ratio)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, config.steps - warmup - 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (LAST_SHARE_OF_RATE + (1 - LAST_SHARE_OF_RATE) * cosine)


def _train(
    model: Any,
    sequences: list[list[int]],
    pad: int,
    config: "PretrainConfig",
    progress: "Progress",
    stop: "Callable[[], bool]",
) -> list[dict[str, Any]]:
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
    batches = _batches(len(sequences), config.batch_size, config.seed)
    rows: list[dict[str, Any]] = []
    tokens, start = 0, time.perf_counter()
    model.train()
    for step in range(config.steps):
        if stop():
            raise Preempted(f"pretraining was told to stop at step {step}; it begins anew when it is run again")
        input_ids, labels = _collate([sequences[place] for place in next(batches)], pad)
        input_ids, labels = input_ids.to(model.device), labels.to(model.device)
        rate = learning_rate_at(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        # Rows are padded at their end, which a causal model never sees from before; so no attention mask is needed.
        logits = model(input_ids=input_ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        value = loss.item()
        if not math.isfinite(value):
            raise StageFailed(
                f"pretraining: the loss is {value} at step {step + 1} of {config.steps}. "
                f"Lower pretrain.learning_rate (now {config.learning_rate:g}) or raise warmup_ratio."
            )
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM, error_if_nonfinite=True).item()
        optimizer.step()
        tokens += int((labels[:, 1:] != IGNORED).sum())
        rows.append(
            {
                "step": step + 1,
                "loss": value,
                "learning_rate": rate,
                "grad_norm": norm,
                "tokens": tokens,
                "seconds": time.perf_counter() - start,
            }
        )
        progress.update(step + 1, config.steps, "steps", {"loss": value, "learning_rate": rate})
    return rows


def _batches(rows: int, size: int, seed: int) -> "Iterator[list[int]]":
    """Yield places of rows for ever, every pass in a new order; a batch may span two passes."""
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting.extend(torch.randperm(rows, generator=generator).tolist())
        yield waiting[:size]
        waiting = waiting[size:]


def _collate(sequences: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(sequence) for sequence in sequences)
    input_ids = torch.tensor([sequence + [pad] * (longest - len(sequence)) for sequence in sequences])
    labels = torch.tensor([sequence + [IGNORED] * (longest - len(sequence)) for sequence in sequences])
    return input_ids, labels


def _token_ids(texts: list[str], tokenizer: Any) -> "Iterator[list[int]]":
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        yield [*ids, tokenizer.eos_token_id]


def _spread(texts: list[str], most: int) -> list[str]:
    """At most so many documents, evenly spread: enough to learn merges from."""
    return texts[:: max(1, len(texts) // most)][:most]


def _turns(messages: "Sequence[Mapping[str, str]]") -> str:
    return "\n\n".join(message["content"] for message in messages)
