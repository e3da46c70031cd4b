from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kilter.data.records import read_records, recognise, recognise_files, split_pair
from kilter.errors import WrongInput

if TYPE_CHECKING:
    from pathlib import Path


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _read(tmp_path: Path, rows: list[dict[str, Any]], wanted: str = "preference", strata: str | None = None) -> Any:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    form = recognise_files((path,), wanted)  # type: ignore[arg-type]
    (batch,) = read_records((path,), form, strata)
    return form.name, batch


QUESTION = [_user("Why?")]
TALK = [_user("Hi"), _assistant("Hello"), _user("Why?")]

FORMS = {
    "ultrafeedback-binarized": (
        {"prompt": "Why?", "chosen": [*QUESTION, _assistant("good")], "rejected": [*QUESTION, _assistant("bad")]},
        QUESTION,
    ),
    "ultrafeedback-binarized, answers alone": (
        {"prompt": "Why?", "chosen": [_assistant("good")], "rejected": [_assistant("bad")]},
        QUESTION,
    ),
    "conversational": ({"prompt": TALK, "chosen": [_assistant("good")], "rejected": [_assistant("bad")]}, TALK),
    "conversational, implicit prompt": (
        {"chosen": [*TALK, _assistant("good")], "rejected": [*TALK, _assistant("bad")]},
        TALK,
    ),
    "plain": ({"prompt": "Why?", "chosen": "good", "rejected": "bad"}, QUESTION),
    "plain with a transcript": (
        {
            "prompt": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:",
            "chosen": "good",
            "rejected": "bad",
        },
        TALK,
    ),
    "transcripts": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: good",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: bad",
        },
        TALK,
    ),
    "implicit text": ({"chosen": "Why? good", "rejected": "Why? bad"}, QUESTION),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_preference_form_becomes_the_same_record(tmp_path: Path, name: str) -> None:
    row, context = FORMS[name]
    _, batch = _read(tmp_path, [row])
    assert not batch.malformed.any()
    assert batch.context.lists().to_pylist() == [context]
    assert batch.chosen.to_pylist() == ["good"]
    assert batch.rejected.to_pylist() == ["bad"]


def test_rows_that_share_no_context_or_end_otherwise_are_malformed(tmp_path: Path) -> None:
    rows = [
        {"chosen": [*QUESTION, _assistant("a")], "rejected": [*QUESTION, _assistant("b")]},
        {"chosen": [*QUESTION, _assistant("a")], "rejected": [_user("Other"), _assistant("b")]},
        {"chosen": [*QUESTION, _user("a")], "rejected": [*QUESTION, _assistant("b")]},
        {"chosen": [_assistant("a")], "rejected": [_assistant("b")]},
        {"chosen": [_assistant("x"), _assistant("a")], "rejected": [_assistant("x"), _assistant("b")]},
        {"chosen": [{"role": "gpt", "content": "x"}, *QUESTION, _assistant("a")], "rejected": None},
        {"chosen": None, "rejected": [*QUESTION, _assistant("b")]},
    ]
    _, batch = _read(tmp_path, rows)
    assert batch.malformed.tolist() == [False, True, True, True, True, True, True]
    assert batch.context.lists().to_pylist()[1:] == [[]] * 6


def test_unpaired_answers_keep_their_labels(tmp_path: Path) -> None:
    rows = [
        {"prompt": QUESTION, "completion": [_assistant("yes")], "label": True},
        {"prompt": TALK, "completion": [_assistant("no")], "label": False},
        {"prompt": TALK, "completion": [_assistant("unknown")], "label": None},
    ]
    name, batch = _read(tmp_path, rows)
    assert name == "unpaired"
    assert batch.answer.to_pylist()[:2] == ["yes", "no"]
    assert batch.label.tolist()[:2] == [True, False]
    assert batch.malformed.tolist() == [False, False, True]


def test_conversations_come_from_messages_or_prompt_and_completion(tmp_path: Path) -> None:
    _, batch = _read(tmp_path, [{"messages": [*TALK, _assistant("end")]}, {"messages": QUESTION}], "sft")
    assert batch.messages.lists().to_pylist() == [[*TALK, _assistant("end")], []]
    assert batch.malformed.tolist() == [False, True]
    rows = [{"prompt": "Why?", "completion": "one"}, {"prompt": "How?", "completion": "two"}]
    _, batch = _read(tmp_path, rows, "sft")
    expected = [[_user("Why?"), _assistant("one")], [_user("How?"), _assistant("two")]]
    assert batch.messages.lists().to_pylist() == expected
    rows = [
        {"prompt": TALK, "completion": [_assistant("one")]},
        {"prompt": QUESTION, "completion": [_assistant("two")]},
    ]
    _, batch = _read(tmp_path, rows, "sft")
    assert batch.messages.lists().to_pylist() == [[*TALK, _assistant("one")], [*QUESTION, _assistant("two")]]


def test_strata_are_a_column_as_text(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "chosen": "x", "rejected": "y", "year": 2024},
        {"prompt": "b", "chosen": "x", "rejected": "y"},
    ]
    _, batch = _read(tmp_path, rows, strata="year")
    assert batch.stratum.to_pylist() == ["2024", ""]
    with pytest.raises(WrongInput, match="no column 'source' for strata: it has prompt, chosen, rejected, year"):
        _read(tmp_path, rows, strata="source")


def test_unknown_columns_are_named_with_the_forms_understood() -> None:
    schema = pa.schema([("question", pa.string()), ("answers", pa.list_(pa.string()))])
    with pytest.raises(
        WrongInput, match=r"(?s)question \(text\), answers \(list<.*prompt, completion, label \(TRL unpaired"
    ) as error:
        recognise(schema, "preference")
    assert "messages: a list of" not in str(error.value)
    with pytest.raises(WrongInput, match="messages: a list of"):
        recognise(schema, "sft")


def test_files_of_one_split_must_have_one_form(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"chosen": ["a b"], "rejected": ["a c"]}), tmp_path / "b.parquet")
    with pytest.raises(WrongInput, match=r"different forms: .*a\.parquet is plain; .*b\.parquet is"):
        recognise_files((tmp_path / "a.parquet", tmp_path / "b.parquet"), "preference")


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("The sky is blue.", "The sky is black.", ([("user", "The sky is")], "blue.", "black.")),
        ("Q: x\nA: yes", "Q: x\nA: no", ([("user", "Q: x\nA:")], "yes", "no")),
        ("blue", "black", None),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: other\n\nAssistant: c", None),
        ("preamble\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c", None),
    ],
)
def test_texts_that_begin_alike_are_split_at_a_word(chosen: str, rejected: str, expected: Any) -> None:
    assert split_pair(chosen, rejected) == expected
