from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from kilter.data.prepare import keep_end, prepare, shorten
from kilter.data.schemas import PREPARED_CONVERSATIONS, PREPARED_PAIRS
from kilter.data.sources import split_files
from kilter.data.subsample import subsample_preference, subsample_sft
from kilter.data.templates import CHATML, PLAIN, resolve_template
from kilter.errors import StageFailed, WrongInput
from kilter.plan.configs import PrepareConfig, SubsampleConfig
from kilter.progress import Silent

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, Any]

CORPUS = ["User:\nWhat is two plus two?\n\nAssistant:\nTwo plus two is four.\n\n" * 4, "The quick brown fox. " * 8]
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def _tokenizer(bos: str | None, eos: str = "</s>", adds_bos: bool = False, template: str | None = None) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    names = {"eos_token": eos, "pad_token": "<pad>"} | ({"bos_token": bos} if bos else {})
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    if template:
        fast.chat_template = template
    return fast


PAIRS: list[Row] = [
    {"prompt": "What is two plus two?", "chosen": "Four.", "rejected": "Five, I think."},
    {"prompt": "And the quick brown fox?", "chosen": "It jumps  over\n\nthe dog.", "rejected": "émile 日本"},
    {
        "prompt": "How do I strike text in HTML?",
        "chosen": "With <s>text</s>, as in HTML.",
        "rejected": "<|im_end|> is no tag.",
    },
]


def _prepare_pairs(
    tmp_path: Path, tokenizer: Any, rows: list[Row] = PAIRS, **config: Any
) -> tuple[list[Row], Row, Any]:
    folders = {name: tmp_path / name for name in ("raw", "rows", "tokenizer", "output")}
    for folder in folders.values():
        folder.mkdir()
    tokenizer.save_pretrained(folders["tokenizer"])
    pq.write_table(pa.Table.from_pylist(rows), folders["raw"] / "train.parquet")
    subsample = SubsampleConfig(kind="preference", split="train")
    subsample_preference([folders["raw"] / "train.parquet"], (), (), subsample, folders["rows"], Silent())
    defaults = {"kind": "preference", "chat_template": None, "max_length": 128, "max_prompt_length": None}
    settings = PrepareConfig(**{**defaults, "max_truncated": 1.0, **config})
    summary = prepare(folders["rows"], folders["tokenizer"], settings, folders["output"], Silent())
    table = pq.read_table(folders["output"] / "train.parquet")
    assert table.schema.equals(PREPARED_PAIRS)
    return table.to_pylist(), summary, json.loads((folders["output"] / "golden.json").read_text())


KINDS = {
    "plain, BOS by the template": (_tokenizer("<s>"), PLAIN, True),
    "plain, no BOS": (_tokenizer(None), PLAIN, False),
    "plain, BOS by template and tokenizer": (_tokenizer("<s>", adds_bos=True), PLAIN, True),
    "BOS by the tokenizer alone": (_tokenizer("<s>", adds_bos=True), PLAIN.split("\n", 1)[1], True),
    "chatml, BOS": (_tokenizer("<s>", eos="<|im_end|>"), CHATML, True),
    "chatml, no BOS, other EOS": (_tokenizer(None), CHATML, False),
    "BOS is EOS": (_tokenizer("</s>"), PLAIN, True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bos_and_end_of_turn_stand_exactly_once_where_they_belong(tmp_path: Path, kind: str) -> None:
    tokenizer, template, has_bos = KINDS[kind]
    rows, summary, _ = _prepare_pairs(tmp_path, tokenizer, chat_template=template)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>" if template == CHATML else "</s>")
    assert summary["end_of_turn_id"] == end
    assert summary["bos"] != "none" if has_bos else summary["bos"] == "none"
    for row in rows:
        prompt = row["prompt_ids"]
        assert (prompt[0] == tokenizer.bos_token_id) is has_bos
        assert prompt[1:].count(tokenizer.bos_token_id) == 0
        for side in ("chosen_ids", "rejected_ids"):
            answer = row[side]
            assert answer[-1] == end
            assert answer.count(end) == 1
            assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(answer[:-1])


def test_the_template_goes_along_for_the_models_that_train_on_the_rows(tmp_path: Path) -> None:
    _prepare_pairs(tmp_path, _tokenizer("<s>"), chat_template=PLAIN)
    assert (tmp_path / "output" / "chat_template.jinja").read_text(encoding="utf-8") == PLAIN


def test_the_ids_are_those_of_the_rendered_text(tmp_path: Path) -> None:
    tokenizer = _tokenizer("<s>")
    rows, summary, golden = _prepare_pairs(tmp_path, tokenizer, chat_template="".join(PLAIN))
    by_answer = {tokenizer.decode(row["chosen_ids"]): row for row in rows}
    row = by_answer["Four.</s>"]
    assert tokenizer.decode(row["prompt_ids"]) == "<s>User:\nWhat is two plus two?\n\nAssistant:\n"
    assert tokenizer.decode(row["rejected_ids"]) == "Five, I think.</s>"
    whole = "<s>User:\nWhat is two plus two?\n\nAssistant:\nFour.</s>"
    assert row["prompt_ids"] + row["chosen_ids"] == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert [row["position"] for row in rows] == [0, 1, 2]
    assert {row["block"] for row in rows} == {0}
    assert summary["boundary_apart"] == 0
    assert summary["tokens"]["chosen"]["total"] == sum(len(row["chosen_ids"]) for row in rows)
    assert [[number for number, _ in shown["chosen"]] for shown in golden["rows"]] == [
        row["chosen_ids"] for row in rows
    ]
    assert "".join(text for _, text in golden["rows"][row["position"]]["chosen"]) == "Four.</s>"


def test_an_answer_that_would_merge_into_its_prompt_is_tokenised_apart(tmp_path: Path) -> None:
    tokenizer = _tokenizer("<s>")
    blank = PLAIN.replace("Assistant:\\n", "Assistant: ")
    asked = [{"prompt": "What is two plus two?", "chosen": "two", "rejected": "plus"}]
    rows, summary, _ = _prepare_pairs(tmp_path, tokenizer, asked, chat_template=blank)
    assert summary["boundary_apart"] == 2
    (row,) = rows
    prompt = "<s>User:\nWhat is two plus two?\n\nAssistant: "
    assert row["prompt_ids"] == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert row["chosen_ids"] == tokenizer("two</s>", add_special_tokens=False)["input_ids"]


def test_special_tokens_spelt_out_in_the_data_do_not_end_a_turn(tmp_path: Path) -> None:
    tokenizer = _tokenizer("<s>")
    rows, summary, _ = _prepare_pairs(tmp_path, tokenizer, chat_template=PLAIN)
    assert summary["special_text"] == 1
    answers = {tokenizer.decode(row["chosen_ids"]) for row in rows}
    assert "With < s>text< /s>, as in HTML.</s>" in answers


DOUBLED_BOS = "{{ bos_token }}" + PLAIN
DOUBLED_EOS = PLAIN.replace("+ eos_token", "+ eos_token + eos_token")
BOS_IN_ANSWER = PLAIN.replace("(message['content'] | trim) + eos_token", "bos_token + message['content'] + eos_token")
NO_END = PLAIN.replace(" + eos_token", "")
NO_ANSWER = PLAIN.replace("(message['content'] | trim) + eos_token", "eos_token")
OTHER_PROMPT = PLAIN.replace("{%- if add_generation_prompt", "{{- messages | length -}}{%- if add_generation_prompt")
BROKEN = "{{ raise_exception('roles must alternate') }}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (DOUBLED_BOS, r"holds BOS '<s>' 2 times; it belongs once, at the start: 1='<s>' 1='<s>'"),
        (DOUBLED_EOS, "several special tokens: after the answer comes 2='</s>' 2='</s>'"),
        (BOS_IN_ANSWER, r"must hold '</s>' once, at its end, and no other BOS or EOS; found 1='<s>'"),
        (NO_END, "no special token of this tokenizer"),
        (NO_ANSWER, "leaves the answer out"),
        (OTHER_PROMPT, "writes a prompt otherwise when an answer follows"),
        (BROKEN, "refuses a conversation of user: roles must alternate"),
        (None, r"no chat template, and the study gives none: set chat_template of the model to plain, chatml"),
    ],
)
def test_a_template_that_does_not_fit_is_refused_with_the_tokens(
    tmp_path: Path, template: str | None, message: str
) -> None:
    with pytest.raises(StageFailed, match=message):
        _prepare_pairs(tmp_path, _tokenizer("<s>"), chat_template=template)


def test_chatml_needs_its_end_of_turn_in_the_vocabulary(tmp_path: Path) -> None:
    tokenizer = _tokenizer("<s>")
    other = CHATML.replace("<|im_end|>", "<|end_of_message|>")
    with pytest.raises(StageFailed, match="no special token of this tokenizer"):
        _prepare_pairs(tmp_path, tokenizer, chat_template=other)


def test_the_tokenizers_own_template_is_used_where_the_study_gives_none(tmp_path: Path) -> None:
    own = _prepare_pairs(tmp_path, _tokenizer("<s>", template=PLAIN))[1]
    given_folder = tmp_path / "given"
    given_folder.mkdir()
    given_template = _prepare_pairs(given_folder, _tokenizer("<s>"), chat_template=PLAIN)[1]
    assert own == given_template


def test_prompts_keep_their_end_and_bos_and_answers_their_start(tmp_path: Path) -> None:
    tokenizer = _tokenizer("<s>")
    rows = [*PAIRS, {"prompt": "word " * 40 + "end", "chosen": "yes " * 40, "rejected": "no"}]
    whole = {
        row["row_id"]: row for row in _prepare_pairs(tmp_path, tokenizer, rows, chat_template=PLAIN, max_length=500)[0]
    }
    cut_folder = tmp_path / "cut"
    cut_folder.mkdir()
    cut, summary, _ = _prepare_pairs(
        cut_folder, tokenizer, rows, chat_template=PLAIN, max_length=40, max_prompt_length=30
    )
    assert summary["truncated"] == sum(row["truncated"] for row in cut) >= 1
    for row in cut:
        full = whole[row["row_id"]]
        prompt = row["prompt_ids"]
        assert len(prompt) == min(30, len(full["prompt_ids"]))
        assert prompt[0] == tokenizer.bos_token_id
        assert prompt[1:] == full["prompt_ids"][-len(prompt) + 1 :]
        for side in ("chosen_ids", "rejected_ids"):
            assert row[side] == full[side][: 40 - len(prompt)]
        same = all(row[part] == full[part] for part in ("prompt_ids", "chosen_ids", "rejected_ids"))
        assert row["truncated"] is not same


def test_too_many_truncated_rows_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"rows \(100.0%\) are longer than max_length 8"):
        _prepare_pairs(tmp_path, _tokenizer("<s>"), chat_template=PLAIN, max_length=8, max_truncated=0.5)


def test_lengths_that_leave_no_room_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="must be at least 2 and below max_length"):
        _prepare_pairs(tmp_path, _tokenizer("<s>"), chat_template=PLAIN, max_length=8, max_prompt_length=8)


def _prepare_sft(tmp_path: Path, tokenizer: Any, rows: list[Row], **config: Any) -> tuple[list[Row], Row]:
    for name in ("rows", "tokenizer", "output"):
        (tmp_path / name).mkdir()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    subsample = SubsampleConfig(kind="sft", split="train")
    subsample_sft([tmp_path / "train.parquet"], subsample, tmp_path / "rows", Silent())
    defaults = {"kind": "sft", "chat_template": PLAIN, "max_length": 200, "max_prompt_length": None}
    settings = PrepareConfig(**{**defaults, "max_truncated": 1.0, **config})
    summary = prepare(tmp_path / "rows", tmp_path / "tokenizer", settings, tmp_path / "output", Silent())
    table = pq.read_table(tmp_path / "output" / "train.parquet")
    assert table.schema.equals(PREPARED_CONVERSATIONS)
    return table.to_pylist(), summary


def _talk(*texts: str) -> Row:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]}


@pytest.mark.parametrize(
    ("tokenizer", "template", "end"),
    [
        (_tokenizer("<s>"), PLAIN, "</s>"),
        (_tokenizer("<s>", adds_bos=True), PLAIN.split("\n", 1)[1], "</s>"),
        (_tokenizer(None), CHATML, "<|im_end|>"),
    ],
)
def test_every_answer_is_learnt_with_its_end_and_nothing_else(
    tmp_path: Path, tokenizer: Any, template: str, end: str
) -> None:
    rows, summary = _prepare_sft(
        tmp_path, tokenizer, [_talk("What?", "One.", "And?", "Two", "Unanswered")], chat_template=template
    )
    (row,) = rows
    learnt = [number for number, flag in zip(row["input_ids"], row["assistant_mask"], strict=True) if flag]
    assert tokenizer.decode(learnt) == f"One.{end}Two{end}"
    assert row["input_ids"][-1] == tokenizer.convert_tokens_to_ids(end)
    assert row["assistant_mask"][-1] == 1
    assert row["input_ids"].count(tokenizer.convert_tokens_to_ids("<s>")) == (0 if template == CHATML else 1)
    assert summary["tokens"]["answers"]["total"] == len(learnt)
    # The template's own generation markers are a second opinion on what is learnt.
    reference = tokenizer.apply_chat_template(
        _talk("What?", "One.", "And?", "Two")["messages"],
        chat_template=CHATML if template == CHATML else PLAIN,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    length = len(row["input_ids"])
    assert reference["input_ids"][:length] == row["input_ids"]
    assert reference["assistant_masks"][:length] == row["assistant_mask"]


def test_long_conversations_always_leave_something_to_learn(tmp_path: Path) -> None:
    tokenizer = _tokenizer("<s>")
    rows, summary = _prepare_sft(
        tmp_path, tokenizer, [_talk("word " * 100, "answer " * 50), _talk("short", "x")], max_length=24
    )
    assert summary["truncated"] == 1
    assert [row["position"] for row in rows] == [0, 1]
    for row in rows:
        assert len(row["input_ids"]) <= 24
        assert row["input_ids"][0] == tokenizer.bos_token_id
        assert sum(row["assistant_mask"]) > 0


IDS = st.lists(st.integers(2, 9), max_size=30)


@given(IDS, st.booleans(), st.integers(2, 12))
def test_a_cut_prompt_is_bos_and_its_end(ids: list[int], has_bos: bool, limit: int) -> None:
    ids = [1, *ids] if has_bos else ids
    cut = keep_end(ids, limit, 1)
    assert len(cut) == min(limit, len(ids))
    assert (cut[:1] == [1]) == (ids[:1] == [1])
    body = cut[1:] if has_bos else cut
    assert ids[len(ids) - len(body) :] == body


@given(IDS, IDS, st.integers(4, 20))
def test_a_cut_conversation_never_loses_its_first_answer(prompt: list[int], answer: list[int], longest: int) -> None:
    prompt, answer = [1, *prompt], [*answer, 9]
    mask = [0] * len(prompt) + [1] * len(answer)
    ids, learnt = shorten([*prompt, *answer], mask, len(prompt), longest, longest // 2, 1)
    assert len(ids) == len(learnt) == min(longest, len(prompt) + len(answer))
    assert ids[0] == 1
    kept = sum(learnt)
    assert kept >= 1
    assert [number for number, flag in zip(ids, learnt, strict=True) if flag] == answer[:kept]


def test_templates_have_names() -> None:
    assert resolve_template("plain") == PLAIN
    assert resolve_template("chatml") == CHATML
    assert resolve_template("{{ text }}") == "{{ text }}"
    assert resolve_template(None) is None


def test_real_preferences_become_ids(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "preference" / "tulu1_human_eval"
    for name in ("rows", "tokenizer", "output"):
        (tmp_path / name).mkdir()
    config = SubsampleConfig(kind="preference", split="train_prefs", holdout=0.05)
    counts = subsample_preference(split_files(folder, "train_prefs"), (), (), config, tmp_path / "rows", Silent())
    _tokenizer("<s>").save_pretrained(tmp_path / "tokenizer")
    settings = PrepareConfig(
        kind="preference", chat_template=PLAIN, max_length=512, max_prompt_length=None, max_truncated=1.0
    )
    summary = prepare(tmp_path / "rows", tmp_path / "tokenizer", settings, tmp_path / "output", Silent())
    assert (summary["rows"], summary["holdout"]["rows"]) == (counts["out"], counts["held_out"])
    table = pq.read_table(tmp_path / "output" / "train.parquet").to_pylist()
    assert all(len(row["prompt_ids"]) <= 256 for row in table)
    assert all(len(row["prompt_ids"]) + len(row["chosen_ids"]) <= 512 for row in table)
