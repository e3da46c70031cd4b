"""Log-probabilities of answers under a model, without gradients, in large batches of similar length."""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from trl.trainer import utils

from kilter.training.collate import IGNORED, pad_answers
from kilter.training.methods.formulas import Answers, Scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from kilter.training.collate import Batch
    from kilter.training.precision import Precision
    from kilter.training.schedule import Indices

    TokenIds = Sequence[NDArray[np.int64]]
    Forward = Callable[..., Any]

PADDED_TOKENS = {"cpu": 8192, "cuda": 65536}


def autocast(device: str, precision: "Precision") -> torch.autocast:
    """Return the context in which a model computes in the given precision; its weights stay as they are."""
    return torch.autocast(device_type=device, dtype=torch.bfloat16, enabled=precision == "bf16")


def with_token_log_probabilities(
    model: "PreTrainedModel", outputs: tuple[str, ...] = ("log_probs",)
) -> "PreTrainedModel":
    """Teach a model, once, to give tokens' log-probabilities without ever holding logits of the whole vocabulary."""
    if not getattr(model, "kilter_scores_tokens", False):
        utils.add_fused_lm_head(model, outputs=outputs)
        model.kilter_scores_tokens = True
    return model


@contextmanager
def fitting_head(model: "PreTrainedModel") -> "Iterator[None]":
    """On a CPU, let TRL's head score only the positions that count, in tiles no wider than the vocabulary.

    As TRL has it, every position is scored there, prompts and padding too, and each tile is 32768 tokens wide; small
    models spend up to a third of their time on that. The values are the same.
    """
    if model.device.type != "cpu":
        yield
        return
    width, compact = utils._CHUNKED_LOGPROB_CHUNK_SIZE, utils._use_triton
    head = model.get_output_embeddings().weight
    # Under ZeRO 3 a weight is empty wherever it is not computed with, and remembers its shape.
    utils._CHUNKED_LOGPROB_CHUNK_SIZE = min(width, getattr(head, "ds_shape", head.shape)[0])
    utils._use_triton = lambda _: True
    try:
        yield
    finally:
        utils._CHUNKED_LOGPROB_CHUNK_SIZE, utils._use_triton = width, compact


def token_log_probabilities(model: "PreTrainedModel", tokens: Tensor, attention: Tensor, answers: Tensor) -> Tensor:
    """Return the log-probability of each answer token, zero elsewhere; float32, shape (sequences, longest - 1)."""
    values: Tensor = score_tokens(with_token_log_probabilities(model), tokens, attention, answers).log_probs
    return values


def score_tokens(model: "Forward", tokens: Tensor, attention: Tensor, answers: Tensor) -> Any:
    """Return what a model with TRL's fused head says of each answer token; each field as `token_log_probabilities`."""
    labels = tokens.masked_fill(answers == 0, IGNORED)
    return model(input_ids=tokens, attention_mask=attention, labels=labels, use_cache=False, fused_lm_head=True)


def score_pairs(model: "Forward", batch: "Batch") -> Scores:
    """Score a batch of `PairCollator` with a model that has TRL's fused head, as float64.

    WPO's weights are there if the head was told to give the sums of squared probabilities.
    """
    answers = batch["completion_mask"]
    outputs = score_tokens(model, batch["input_ids"], batch["attention_mask"], answers)
    counted = answers[:, 1:]
    logps = outputs.log_probs.double()
    tokens = counted.sum(dim=1)
    shorter = torch.minimum(*tokens.chunk(2)).repeat(2)
    parts: dict[str, Tensor] = {
        "logps": logps.sum(dim=1),
        "tokens": tokens,
        "heads": (logps * (counted.cumsum(dim=1) <= shorter.unsqueeze(1))).sum(dim=1),
    }
    if outputs.log_sum_sq_probs is not None:
        aligned = (logps.detach() - outputs.log_sum_sq_probs.double().detach()) * counted
        parts["log_weights"] = aligned.sum(dim=1) / tokens
    for name in ("reference", "reference_heads"):
        if name in batch:
            parts[name] = batch[name].double()
    halves = {name: values.chunk(2) for name, values in parts.items()}
    chosen, rejected = ({name: half[side] for name, half in halves.items()} for side in (0, 1))
    return Scores(Answers(**chosen), Answers(**rejected))


@torch.no_grad()
def score_answers(
    model: "PreTrainedModel",
    prompts: "TokenIds",
    answers: "TokenIds",
    heads: "Indices",
    pad_id: int,
    precision: "Precision",
    done: "Callable[[int], None]" = lambda _: None,
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Sum the log-probabilities of each answer's tokens given its prompt.

    Args:
        model: A causal language model.
        prompts: Token ids of each prompt, at least one token each.
        answers: Token ids of each answer, as many as prompts.
        heads: For each answer, of how many first tokens a second sum is wanted.
        pad_id: Any token id; padding is masked.
        precision: `bf16` computes under autocast, with log-softmax in float32 either way.
        done: Told how many sequences are done.

    Returns:
        The sums over all tokens and over the first ones, in nats, float64.
    """
    device = model.device
    totals, firsts = np.empty(len(prompts)), np.empty(len(prompts))
    model.eval()
    finished = 0
    lengths = np.array(
        [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)], dtype=np.int64
    )
    for batch in _batches(lengths, PADDED_TOKENS.get(device.type, PADDED_TOKENS["cpu"])):
        tokens, attention, mask = (
            part.to(device) for part in pad_answers([prompts[i] for i in batch], [answers[i] for i in batch], pad_id)
        )
        with autocast(device.type, precision), fitting_head(model):
            values = token_log_probabilities(model, tokens, attention, mask).double()
        place = mask[:, 1:].cumsum(dim=1)
        within = place <= torch.from_numpy(heads[batch]).to(device).unsqueeze(1)
        totals[batch] = values.sum(dim=1).cpu().numpy()
        firsts[batch] = (values * within).sum(dim=1).cpu().numpy()
        finished += len(batch)
        done(finished)
    return totals, firsts


def _batches(lengths: "Indices", padded_tokens: int) -> "Iterator[Indices]":
    """Yield sequence numbers, longest first, with at most so many tokens a batch, padding included."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, padded_tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count
