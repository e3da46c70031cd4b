"""A model's answers to fixed prompts, for eyes: greedy, with its chat template, until it ends its turn."""

import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import GenerationConfig

from kilter.canonical import digest
from kilter.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from kilter.evaluation.language_model import ModelUnderTest

GENERATIONS = pa.schema([("prompt", pa.string()), ("answer", pa.string()), ("prompt_id", pa.string())])
BATCH_SIZE = 16


def evaluate_generations(
    model: "ModelUnderTest",
    prompts: "Sequence[Sequence[Mapping[str, str]]]",
    max_new_tokens: int,
    output: "Path",
    *,
    prompt_ids: "Sequence[str] | None" = None,
    chat_template: str | None = None,
) -> dict[str, Any]:
    """Answer prompts greedily and write `output/generations.parquet` (prompt, answer, prompt_id), in their order.

    Args:
        model: The model.
        prompts: Each a list of messages with `role` and `content`, the last one by the user.
        max_new_tokens: Longest answer in tokens; half the model's context if that is shorter.
        output: The folder to write to.
        prompt_ids: What to call the prompts; by default the digest of their messages.
        chat_template: A Jinja chat template to use instead of the model's own. A model that has neither gets the
            contents alone, line by line.

    Returns:
        prompts, tokens (generated in all), ended (answers that end before the limit), truncated (prompts that were cut
        at their beginning), max_new_tokens (as used), template (given, model or none), and seconds.

    Raises:
        StageFailed: there are no prompts.
    """
    if not prompts:
        raise StageFailed("there are no prompts to answer")
    started = time.monotonic()
    limit = min(max_new_tokens, model.context_length // 2)
    template = "given" if chat_template else "model" if model.tokenizer.chat_template else "none"
    encoded = [_encode(model, prompt, chat_template if template == "given" else None, template) for prompt in prompts]
    room = model.context_length - limit
    answers: dict[int, list[int]] = {}
    for batch in _batches([ids[-room:] for ids in encoded]):
        answers.update(_generate(model, batch, limit))
    ends = _ends(model)
    texts = [model.tokenizer.decode(answers[place], skip_special_tokens=True).strip() for place in range(len(prompts))]
    names = prompt_ids or [digest([dict(message) for message in prompt]) for prompt in prompts]
    output.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {"prompt": [_shown(prompt) for prompt in prompts], "answer": texts, "prompt_id": list(names)}, GENERATIONS
    )
    pq.write_table(table, output / "generations.parquet", compression="zstd")
    return {
        "prompts": len(prompts),
        "tokens": sum(len(ids) for ids in answers.values()),
        "ended": sum(bool(ids) and ids[-1] in ends for ids in answers.values()),
        "truncated": sum(len(ids) > room for ids in encoded),
        "max_new_tokens": limit,
        "template": template,
        "seconds": time.monotonic() - started,
    }


def _encode(
    model: "ModelUnderTest", prompt: "Sequence[Mapping[str, str]]", given: str | None, template: str
) -> list[int]:
    messages = [{"role": message["role"], "content": message["content"]} for message in prompt]
    if template == "none":
        text = "\n".join(message["content"] for message in messages) + "\n"
        return list(model.tokenizer(text)["input_ids"])
    text = model.tokenizer.apply_chat_template(
        messages, chat_template=given, tokenize=False, add_generation_prompt=True
    )
    # The template writes BOS itself where the model wants one.
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def _batches(prompts: "Sequence[Sequence[int]]") -> "Iterator[list[tuple[int, Sequence[int]]]]":
    """Yield (place, token ids) in batches of similar length, the longest first."""
    ordered = sorted(enumerate(prompts), key=lambda item: (-len(item[1]), item[0]))
    for start in range(0, len(ordered), BATCH_SIZE):
        yield ordered[start : start + BATCH_SIZE]


def _generate(model: "ModelUnderTest", batch: "list[tuple[int, Sequence[int]]]", limit: int) -> dict[int, list[int]]:
    """Return the new token ids of each place, with the end-of-turn token if there was one and nothing after it."""
    ends = _ends(model)
    padding = model.tokenizer.pad_token_id if model.tokenizer.pad_token_id is not None else ends[0]
    width = max(len(ids) for _, ids in batch)
    tokens = torch.tensor([[padding] * (width - len(ids)) + list(ids) for _, ids in batch], device=model.network.device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for _, ids in batch], device=model.network.device)
    # Set here, because what a model brings in generation_config.json would otherwise apply.
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=limit,
        pad_token_id=padding,
        eos_token_id=ends,
    )
    with torch.inference_mode():
        grown = model.network.generate(input_ids=tokens, attention_mask=mask, generation_config=settings)
    return {place: _until_end(grown[row, width:].tolist(), ends) for row, (place, _) in enumerate(batch)}


def _until_end(tokens: list[int], ends: list[int]) -> list[int]:
    return next((tokens[: place + 1] for place, token in enumerate(tokens) if token in ends), tokens)


def _ends(model: "ModelUnderTest") -> list[int]:
    """Return the tokens that end an answer: the tokenizer's, and the model's own (chat models have several)."""
    own = model.network.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own]
    return sorted({model.tokenizer.eos_token_id, *(token for token in listed if token is not None)})


def _shown(prompt: "Sequence[Mapping[str, str]]") -> str:
    """Return a prompt as text for eyes: a single turn as it is, several with their roles."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)
