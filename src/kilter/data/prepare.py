"""Rows become token ids, once for each data set, tokenizer and template; trainers take them as they are."""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kilter.data.rendering import Renderer, load_tokenizer
from kilter.data.rowfiles import RowWriter
from kilter.data.schemas import PREPARED_CONVERSATIONS, PREPARED_PAIRS
from kilter.data.sources import count_rows, read_batches
from kilter.errors import StageFailed, WrongInput

if TYPE_CHECKING:
    from pathlib import Path

    from kilter.data.rendering import Conversation
    from kilter.plan.configs import PrepareConfig
    from kilter.progress import Progress

GOLDEN_ROWS = 3
BATCH_ROWS = 512
_PAIR_COLUMNS = ("position", "row_id", "block", "mismatched", "context", "chosen", "rejected")
_CONVERSATION_COLUMNS = ("position", "row_id", "messages")

Row = dict[str, Any]


@dataclass
class _Counts:
    """What the summary tells of one split."""

    rows: int = 0
    truncated: int = 0
    special_text: int = 0
    boundary_apart: int = 0
    tokens: dict[str, list[int]] = field(default_factory=dict)

    def add(self, part: str, length: int) -> None:
        total = self.tokens.setdefault(part, [0, 0])
        total[0] += length
        total[1] = max(total[1], length)

    def summary(self) -> dict[str, Any]:
        """Rows, shares, and tokens by part: total, mean and longest, after truncation."""
        return {
            "rows": self.rows,
            "truncated": self.truncated,
            "truncated_share": self.truncated / self.rows if self.rows else 0.0,
            "special_text": self.special_text,
            "boundary_apart": self.boundary_apart,
            "tokens": {
                part: {"total": total, "mean": total / self.rows if self.rows else 0.0, "longest": longest}
                for part, (total, longest) in self.tokens.items()
            },
        }


def prepare(
    rows: "Path", tokenizer_folder: "Path", config: "PrepareConfig", output: "Path", progress: "Progress"
) -> dict[str, Any]:
    """Write `train.parquet` and `holdout.parquet` (token ids), `golden.json` (first rows, by token), and the template.

    Of a pair, the prompt keeps its end and its BOS and has at most `max_prompt_length` tokens (half of `max_length`
    by default), whatever the answers' length; an answer keeps its start and has what is left of `max_length`. A
    conversation that is too long loses the start of its first prompt, down to the same number of tokens, then its end.

    The answer's ids are those that follow the prompt's in the ids of prompt and answer together. Where the tokenizer
    joins the two across the boundary, they are tokenised apart, which is what a model sees when it answers; the
    summary counts such rows as `boundary_apart`. Text in the data that spells a special token is broken up by a blank;
    such rows are counted as `special_text`.

    Args:
        rows: A folder as `subsample` writes it.
        tokenizer_folder: A local folder with a fast tokenizer.
        config: Template and lengths, in tokens.
        output: An existing folder.
        progress: Told the rows done.

    Returns:
        Counts of the training rows, those of the held-out rows under `holdout`, and what shaped the ids.

    Raises:
        StageFailed: there is no template; BOS, EOS or the end of a turn are not where they belong; or more rows than
            `max_truncated` allows were truncated.
        WrongInput: the lengths leave an answer no token.
    """
    limit = config.max_prompt_length if config.max_prompt_length is not None else config.max_length // 2
    if not 2 <= limit < config.max_length:
        raise WrongInput(
            f"prompts of up to {limit} tokens in a max_length of {config.max_length} leave no room: max_prompt_length "
            "must be at least 2 and below max_length"
        )
    renderer = Renderer(load_tokenizer(tokenizer_folder), config.chat_template)
    pairs = config.kind == "preference"
    schema = PREPARED_PAIRS if pairs else PREPARED_CONVERSATIONS
    columns = _PAIR_COLUMNS if pairs else _CONVERSATION_COLUMNS

    def convert(batch: list[Row], counts: _Counts) -> list[Row]:
        if pairs:
            return _pairs(batch, renderer, config.max_length, limit, counts)
        return _conversations(batch, renderer, config.max_length, limit, counts)

    files = {split: rows / f"{split}.parquet" for split in ("train", "holdout")}
    total = count_rows(list(files.values()))
    summaries = {}
    golden: list[Row] = []
    done = 0
    for split, file in files.items():
        counts = _Counts()
        with RowWriter(output / f"{split}.parquet", schema, ("block",)) as writer:
            for batch in read_batches([file], columns, BATCH_ROWS):
                converted = convert(batch.to_pylist(), counts)
                if split == "train" and len(golden) < GOLDEN_ROWS:
                    golden.extend(converted[: GOLDEN_ROWS - len(golden)])
                writer.write(pa.Table.from_pylist(converted, schema=schema))
                done += len(converted)
                progress.update(done, total, "rows")
        summaries[split] = counts.summary()
    _write_golden(golden, renderer, pairs, output)
    # Models that are trained on these rows carry the template on.
    (output / "chat_template.jinja").write_text(renderer.template, encoding="utf-8")
    train = summaries["train"]
    if train["truncated_share"] > config.max_truncated:
        raise StageFailed(
            f"{train['truncated']} of {train['rows']} rows ({train['truncated_share']:.1%}) are longer than max_length "
            f"{config.max_length}, or their prompts than {limit} tokens; max_truncated is {config.max_truncated:.1%}. "
            "Raise max_length, drop long rows with data.preference.limit, or raise max_truncated"
        )
    return {"kind": config.kind, **train, "holdout": summaries["holdout"], **renderer.describe()}


def _pairs(batch: list[Row], renderer: Renderer, max_length: int, limit: int, counts: _Counts) -> list[Row]:
    contexts: list[Conversation] = []
    answers: dict[str, list[str]] = {"chosen": [], "rejected": []}
    for row in batch:
        context, changed = renderer.neutral(row["context"])
        contexts.append(context)
        for side, texts in answers.items():
            message, altered = renderer.neutral([{"role": "assistant", "content": row[side]}])
            texts.append(message[0]["content"])
            changed |= altered
        counts.special_text += changed
    prompts = renderer.prompts(contexts)
    prompt_ids = [ids for ids, _ in renderer.encode(prompts)] if prompts else []
    sides = {side: _answers(renderer, contexts, prompts, prompt_ids, texts, counts) for side, texts in answers.items()}
    prepared = []
    for place, row in enumerate(batch):
        whole = prompt_ids[place]
        renderer.check_prompt(whole, len(contexts[place]))
        prompt = keep_end(whole, limit, renderer.bos)
        room = max_length - len(prompt)
        cut = {side: ids[place][:room] for side, ids in sides.items()}
        truncated = len(prompt) < len(whole) or any(len(cut[side]) < len(sides[side][place]) for side in cut)
        counts.rows += 1
        counts.truncated += truncated
        for part, ids in (("prompt", prompt), ("chosen", cut["chosen"]), ("rejected", cut["rejected"])):
            counts.add(part, len(ids))
        prepared.append(
            {
                **{name: row[name] for name in ("position", "row_id", "block", "mismatched")},
                "prompt_ids": prompt,
                "chosen_ids": cut["chosen"],
                "rejected_ids": cut["rejected"],
                "truncated": truncated,
            }
        )
    return prepared


def _answers(
    renderer: Renderer,
    contexts: "list[Conversation]",
    prompts: list[str],
    prompt_ids: list[list[int]],
    texts: list[str],
    counts: _Counts,
) -> list[list[int]]:
    """The ids of each answer, with its end of turn."""
    wholes = renderer.answered(contexts, prompts, texts)
    encoded = renderer.encode(wholes) if wholes else []
    apart = [place for place, (ids, _) in enumerate(encoded) if ids[: len(prompt_ids[place])] != prompt_ids[place]]
    counts.boundary_apart += len(apart)
    alone = renderer.encode_continuations([wholes[place][len(prompts[place]) :] for place in apart])
    replaced = dict(zip(apart, alone, strict=True))
    answers = []
    for place, (ids, _) in enumerate(encoded):
        answer = renderer.cut_at_end(replaced.get(place, ids[len(prompt_ids[place]) :]))
        renderer.check_answer(answer)
        answers.append(answer)
    return answers


def _conversations(batch: list[Row], renderer: Renderer, max_length: int, limit: int, counts: _Counts) -> list[Row]:
    texts, ranges, turns = [], [], []
    for row in batch:
        messages, changed = renderer.neutral(row["messages"])
        counts.special_text += changed
        text, answers = renderer.conversation(messages)
        texts.append(text)
        ranges.append(answers)
        turns.append(len(messages))
    prepared = []
    for row, (ids, places), answers, count in zip(
        batch, renderer.encode(texts) if texts else [], ranges, turns, strict=True
    ):
        spans = [_tokens_within(places, answer) for answer in answers]
        renderer.check_prompt(ids[: spans[0][0]], count)
        mask = [0] * len(ids)
        stop = 0
        for start, end in spans:
            answer = renderer.cut_at_end(ids[start:end])
            renderer.check_answer(answer)
            stop = start + len(answer)
            mask[start:stop] = [1] * len(answer)
        # Nothing is learnt after the last answer.
        short_ids, short_mask = shorten(ids[:stop], mask[:stop], spans[0][0], max_length, limit, renderer.bos)
        truncated = len(short_ids) < stop
        counts.rows += 1
        counts.truncated += truncated
        counts.add("conversation", len(short_ids))
        counts.add("answers", sum(short_mask))
        prepared.append(
            {
                "position": row["position"],
                "row_id": row["row_id"],
                "input_ids": short_ids,
                "assistant_mask": short_mask,
                "truncated": truncated,
            }
        )
    return prepared


def keep_end(ids: list[int], limit: int, bos: int | None) -> list[int]:
    """Cut a prompt to its last `limit` tokens; a BOS at its start stays and counts."""
    if len(ids) <= limit:
        return ids
    if ids[:1] == [bos]:
        return [ids[0], *ids[len(ids) - limit + 1 :]]
    return ids[len(ids) - limit :]


def shorten(
    ids: list[int], mask: list[int], prompt: int, max_length: int, limit: int, bos: int | None
) -> tuple[list[int], list[int]]:
    """Cut a conversation to `max_length` tokens: first the start of its prompt, down to `limit` tokens, then its end.

    Args:
        ids: The conversation's tokens.
        mask: 1 on the tokens that are learnt.
        prompt: How many tokens come before the first answer.
        max_length: Most tokens to keep.
        limit: How short the prompt may become.
        bos: The BOS token, kept at the start.
    """
    if len(ids) <= max_length:
        return ids, mask
    room = max(limit, prompt - (len(ids) - max_length))
    kept = keep_end(ids[:prompt], room, bos)
    return [*kept, *ids[prompt:]][:max_length], [*([0] * len(kept)), *mask[prompt:]][:max_length]


def _tokens_within(places: list[tuple[int, int]], span: tuple[int, int]) -> tuple[int, int]:
    """The tokens that lie in a range of characters, as a half-open range."""
    inside = [number for number, (start, stop) in enumerate(places) if span[0] <= start < stop <= span[1]]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _write_golden(rows: list[Row], renderer: Renderer, pairs: bool, output: "Path") -> None:
    parts = ("prompt_ids", "chosen_ids", "rejected_ids") if pairs else ("input_ids",)
    golden = []
    for row in rows:
        shown: Row = {"position": row["position"], "row_id": row["row_id"], "truncated": row["truncated"]}
        shown |= {
            part.removesuffix("_ids"): [[number, renderer.text(number)] for number in row[part]] for part in parts
        }
        if not pairs:
            shown["assistant_mask"] = row["assistant_mask"]
        golden.append(shown)
    (output / "golden.json").write_text(json.dumps({"rows": golden}, ensure_ascii=False, indent=1) + "\n", "utf-8")
