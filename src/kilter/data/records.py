"""Recognise the usual shapes of preference and instruction data, and bring each batch to one canonical record.

A preference record is a context (turns, the last by the user), a chosen and a rejected answer. An instruction record
is a conversation. An unpaired record is a context, one answer, and whether it was wanted.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kilter.data.sources import BATCH_ROWS, read_batches, schema_of
from kilter.data.turns import Turns, joined, same_turns, turns_of_lists, turns_of_rows, turns_of_text
from kilter.errors import WrongInput

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ROLES = ("system", "user", "assistant", "tool")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_TRANSCRIPT = "\n\nHuman:"

Kind = Literal["preference", "unpaired", "sft"]

PREFERENCE_FORMS = """preference forms understood:
  chosen and rejected as message lists, with the prompt inside or beside them (UltraFeedback-binarized, TRL implicit)
  prompt, chosen, rejected as message lists (TRL conversational)
  prompt, chosen, rejected as text (TRL standard)
  chosen and rejected as transcripts "\\n\\nHuman: … \\n\\nAssistant: …" (HH-RLHF), or as text with a common beginning
  prompt, completion, label (TRL unpaired)"""
SFT_FORMS = """instruction forms understood:
  messages: a list of {role, content}
  prompt and completion, as text or message lists"""


@dataclass(frozen=True)
class Preferences:
    """A batch of preference records. Rows flagged as malformed hold nothing of use."""

    context: Turns
    chosen: Any
    rejected: Any
    stratum: Any
    malformed: "NDArray[np.bool_]"


@dataclass(frozen=True)
class Conversations:
    """A batch of conversations. Rows flagged as malformed hold nothing of use."""

    messages: Turns
    malformed: "NDArray[np.bool_]"


@dataclass(frozen=True)
class Unpaired:
    """A batch of single answers with their labels. Rows flagged as malformed hold nothing of use."""

    context: Turns
    answer: Any
    label: "NDArray[np.bool_]"
    stratum: Any
    malformed: "NDArray[np.bool_]"


@dataclass(frozen=True)
class Form:
    """A recognised shape: its name, what it holds, the columns it needs, and how a batch of it is read."""

    name: str
    kind: Kind
    columns: tuple[str, ...]
    read: Callable[[pa.RecordBatch], Any]


def recognise(schema: pa.Schema, wanted: Literal["preference", "sft"]) -> Form:
    """Tell from the columns how the rows are to be read.

    Args:
        schema: The file's columns and types.
        wanted: Whether preferences or conversations are looked for.

    Raises:
        WrongInput: the columns fit no known form; the message names them and the forms.
    """
    kinds = {field.name: _kind(field.type) for field in schema}
    form = _preference_form(kinds) if wanted == "preference" else _sft_form(kinds)
    if form is None:
        columns = ", ".join(f"{field.name} ({_type_name(field.type)})" for field in schema)
        understood = PREFERENCE_FORMS if wanted == "preference" else SFT_FORMS
        noun = "preference pairs" if wanted == "preference" else "conversations"
        raise WrongInput(f"these columns are not {noun} in any form that Kilter knows: {columns}\n{understood}")
    return form


def recognise_files(files: "Sequence[Path]", wanted: Literal["preference", "sft"]) -> Form:
    """Recognise several files that must all have the same form.

    Raises:
        WrongInput: a file fits no form, or files differ in form.
    """
    if not files:
        raise WrongInput("no file was given")
    forms: dict[str, Path] = {}
    form = None
    for file in files:
        try:
            form = recognise(schema_of(file), wanted)
        except WrongInput as error:
            raise WrongInput(f"{file}: {error}") from None
        forms.setdefault(form.name, file)
    if form is None or len(forms) > 1:
        listed = "; ".join(f"{file} is {name}" for name, file in forms.items())
        raise WrongInput(f"the files of one split have different forms: {listed}")
    return form


def read_records(
    files: "Sequence[Path]", form: Form, strata: str | None = None, batch_rows: int = BATCH_ROWS
) -> Iterator[Any]:
    """Yield canonical batches (`Preferences`, `Unpaired` or `Conversations`, by the form's kind).

    Args:
        files: Files of that form.
        form: What `recognise_files` found.
        strata: A column whose value, as text, becomes the record's stratum.
        batch_rows: Most rows a batch holds.

    Raises:
        WrongInput: the strata column is missing or is not a plain value.
    """
    if strata is not None:
        for file in files:
            _check_strata(file, strata)
    columns = list(dict.fromkeys([*form.columns, *([strata] if strata else [])]))
    for batch in read_batches(files, columns, batch_rows):
        # The stratum travels beside the form's own columns, under a name that no form uses.
        named = batch.append_column("\x00stratum", _stratum(batch, strata))
        yield form.read(named)


def _check_strata(file: "Path", strata: str) -> None:
    schema = schema_of(file)
    if strata not in schema.names:
        raise WrongInput(f"{file} has no column {strata!r} for strata: it has {', '.join(schema.names)}")
    if pa.types.is_nested(schema.field(strata).type):
        raise WrongInput(
            f"the strata column {strata!r} of {file} is {schema.field(strata).type}: a plain value is needed"
        )


def _stratum(batch: pa.RecordBatch, strata: str | None) -> Any:
    if strata is None:
        return pa.array([""]).take(pa.array(np.zeros(batch.num_rows, np.int64)))
    return pc.fill_null(batch.column(strata).cast(pa.string()), "")


def _kind(kind: pa.DataType) -> Literal["text", "messages", "flag", "other"]:
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return "flag"
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if lists and pa.types.is_struct(kind.value_type):
        names = {field.name for field in kind.value_type}
        return "messages" if {"role", "content"} <= names else "other"
    return "other"


def _type_name(kind: pa.DataType) -> str:
    return {"text": "text", "messages": "messages"}.get(_kind(kind), str(kind))


def _preference_form(kinds: "Mapping[str, str]") -> Form | None:
    prompt, chosen, rejected = (kinds.get(name) for name in ("prompt", "chosen", "rejected"))
    if chosen == rejected == "messages":
        if prompt == "messages":
            return Form("conversational", "preference", ("prompt", "chosen", "rejected"), _explicit)
        if prompt == "text":
            return Form("ultrafeedback-binarized", "preference", ("prompt", "chosen", "rejected"), _implicit)
        return Form("conversational, implicit prompt", "preference", ("chosen", "rejected"), _implicit)
    if chosen == rejected == "text":
        if prompt in ("text", "messages"):
            return Form("plain", "preference", ("prompt", "chosen", "rejected"), _plain)
        return Form("transcripts or implicit prompt", "preference", ("chosen", "rejected"), _implicit_text)
    completion = kinds.get("completion")
    if prompt in ("text", "messages") and completion in ("text", "messages") and kinds.get("label") == "flag":
        return Form("unpaired", "unpaired", ("prompt", "completion", "label"), _unpaired)
    return None


def _sft_form(kinds: "Mapping[str, str]") -> Form | None:
    if kinds.get("messages") == "messages":
        return Form("messages", "sft", ("messages",), _messages)
    if kinds.get("prompt") in ("text", "messages") and kinds.get("completion") in ("text", "messages"):
        return Form("prompt and completion", "sft", ("prompt", "completion"), _prompt_completion)
    return None


def _explicit(batch: pa.RecordBatch) -> Preferences:
    context = turns_of_lists(_lists(batch.column("prompt")))
    chosen, rejected = (turns_of_lists(_lists(batch.column(name))) for name in ("chosen", "rejected"))
    fits = (chosen.counts == 1) & (rejected.counts == 1)
    return _preferences(batch, context, chosen, rejected, fits)


def _implicit(batch: pa.RecordBatch) -> Preferences:
    chosen, rejected = (turns_of_lists(_lists(batch.column(name))) for name in ("chosen", "rejected"))
    context, context_rejected = chosen.before_last(), rejected.before_last()
    fits = (chosen.counts > 0) & (rejected.counts > 0) & same_turns(context, context_rejected)
    if "prompt" in batch.schema.names:
        # Some sets hold the answer alone in the message lists; their prompt is the text beside it.
        prompt = turns_of_text(batch.column("prompt"), "user")
        flat = joined(context, prompt)
        beside = context.counts == 0
        shift = len(context.contents)
        context = flat.between(
            np.where(beside, prompt.starts + shift, context.starts),
            np.where(beside, prompt.stops + shift, context.stops),
        )
    return _preferences(batch, context, chosen, rejected, fits)


def _preferences(
    batch: pa.RecordBatch, context: Turns, chosen: Turns, rejected: Turns, fits: "NDArray[np.bool_]"
) -> Preferences:
    for answer in (chosen, rejected):
        fits &= _equals(answer.last(answer.roles), "assistant")
    fits &= _proper_context(context)
    texts = [pc.fill_null(answer.last(answer.contents), "") for answer in (chosen, rejected)]
    return Preferences(context.where(fits).compact(), texts[0], texts[1], batch.column("\x00stratum"), ~fits)


def _plain(batch: pa.RecordBatch) -> Preferences:
    context = _prompt_turns(batch.column("prompt"))
    fits = _proper_context(context)
    chosen, rejected = (_text(batch.column(name)) for name in ("chosen", "rejected"))
    return Preferences(context.where(fits).compact(), chosen, rejected, batch.column("\x00stratum"), ~fits)


def _implicit_text(batch: pa.RecordBatch) -> Preferences:
    contexts: list[list[tuple[str, str]]] = []
    answers: list[tuple[str, str]] = []
    malformed = np.zeros(batch.num_rows, np.bool_)
    pairs = zip(batch.column("chosen").to_pylist(), batch.column("rejected").to_pylist(), strict=True)
    for row, (chosen, rejected) in enumerate(pairs):
        split = split_pair(chosen or "", rejected or "")
        malformed[row] = split is None
        context, *both = split or ([], "", "")
        contexts.append(context)
        answers.append((both[0], both[1]))
    texts = [pa.array([pair[side] for pair in answers], pa.string()) for side in (0, 1)]
    context_turns = turns_of_rows(contexts)
    malformed |= ~_proper_context(context_turns)
    return Preferences(
        context_turns.where(~malformed).compact(), texts[0], texts[1], batch.column("\x00stratum"), malformed
    )


def _unpaired(batch: pa.RecordBatch) -> Unpaired:
    context = _prompt_turns(batch.column("prompt"))
    fits = _proper_context(context)
    column = batch.column("completion")
    if _kind(column.type) == "messages":
        answers = turns_of_lists(_lists(column))
        fits &= (answers.counts == 1) & _equals(answers.last(answers.roles), "assistant")
        answer = pc.fill_null(answers.last(answers.contents), "")
    else:
        answer = _text(column)
    label = batch.column("label")
    fits &= label.is_valid().to_numpy(zero_copy_only=False)
    wanted = pc.fill_null(label.cast(pa.bool_()), False).to_numpy(zero_copy_only=False)
    return Unpaired(context.where(fits).compact(), answer, wanted, batch.column("\x00stratum"), ~fits)


def _messages(batch: pa.RecordBatch) -> Conversations:
    return _conversations(turns_of_lists(_lists(batch.column("messages"))))


def _prompt_completion(batch: pa.RecordBatch) -> Conversations:
    prompt = _prompt_turns(batch.column("prompt")).compact()
    column = batch.column("completion")
    turns = turns_of_lists(_lists(column)) if _kind(column.type) == "messages" else turns_of_text(column, "assistant")
    completion = turns.compact()
    flat = joined(prompt, completion)
    # Interleave: each row's prompt turns, then its completion turns.
    shift = len(prompt.contents)
    stops = np.cumsum(prompt.counts + completion.counts)
    starts = stops - prompt.counts - completion.counts
    source = np.empty(int(stops[-1]) if len(stops) else 0, np.int64)
    source[prompt.indices() + np.repeat(starts - prompt.starts, prompt.counts)] = prompt.indices()
    source[completion.indices() + np.repeat(starts + prompt.counts - completion.starts, completion.counts)] = (
        completion.indices() + shift
    )
    taken = pa.array(source)
    return _conversations(Turns(starts, stops, flat.roles.take(taken), flat.contents.take(taken)))


def _conversations(messages: Turns) -> Conversations:
    first = first_answers(messages)
    fits = (first > messages.starts) & (first < messages.stops)
    fits &= ~_unknown_roles(messages)
    return Conversations(messages.where(fits).compact(), ~fits)


def first_answers(messages: Turns) -> "NDArray[np.int64]":
    """The flat position of each row's first assistant turn; the row's `stops` where it has none."""
    flags = _equals(messages.roles, "assistant")
    # For every flat position, the next assistant turn at or after it.
    positions = np.where(flags, np.arange(len(flags)), len(flags))
    following = np.minimum.accumulate(positions[::-1])[::-1]
    following = np.append(following, len(flags))
    return np.asarray(np.minimum(following[messages.starts], messages.stops))


def split_pair(chosen: str, rejected: str) -> tuple[list[tuple[str, str]], str, str] | None:
    """Split two texts that begin alike into their common context and two answers.

    Transcripts (see `transcript_turns`) are split into turns, all but the last of which must agree. Other texts are
    split at the last white space of their common beginning, which is one turn by the user.

    Returns:
        The context, the chosen and the rejected answer; None where the two share no context.
    """
    if chosen.startswith(_TRANSCRIPT) or rejected.startswith(_TRANSCRIPT):
        left, right = transcript_turns(chosen), transcript_turns(rejected)
        if (
            not left
            or not right
            or left[:-1] != right[:-1]
            or left[-1][0] != "assistant"
            or right[-1][0] != "assistant"
        ):
            return None
        return left[:-1], left[-1][1], right[-1][1]
    common = _common_beginning(chosen, rejected)
    inside_word = any(not text[len(common) : len(common) + 1].isspace() for text in (chosen, rejected))
    prompt = (re.sub(r"\S+$", "", common) if inside_word else common).rstrip()
    if not prompt:
        return None
    return [("user", prompt)], chosen[len(prompt) :].lstrip(), rejected[len(prompt) :].lstrip()


def _common_beginning(left: str, right: str) -> str:
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[:middle] == right[:middle] else (low, middle - 1)
    return left[:low]


def transcript_turns(text: str) -> list[tuple[str, str]]:
    """Split paragraphs that begin with `Human:` or `Assistant:` into (role, content).

    A text whose beginning belongs to no speaker gives no turns.
    """
    parts = _TURN.split(text)
    if parts[0].strip():
        return []
    return [(_SPEAKERS[speaker], said.strip()) for speaker, said in zip(parts[1::2], parts[2::2], strict=True)]


def _prompt_turns(column: Any) -> Turns:
    if _kind(column.type) == "messages":
        return turns_of_lists(_lists(column))
    text = _text(column)
    if pc.any(pc.starts_with(text, _TRANSCRIPT)).as_py():
        rows = []
        for prompt in text.to_pylist():
            turns = transcript_turns(prompt) or [("user", prompt)]
            rows.append(turns[:-1] if turns[-1] == ("assistant", "") else turns)
        return turns_of_rows(rows)
    return turns_of_text(text, "user")


def _proper_context(context: Turns) -> "NDArray[np.bool_]":
    return _equals(context.last(context.roles), "user") & ~_unknown_roles(context)


def _unknown_roles(turns: Turns) -> "NDArray[np.bool_]":
    known = pc.is_in(turns.roles, value_set=pa.array(ROLES)).to_numpy(zero_copy_only=False)
    return turns.any_row(~known[turns.indices()])


def _equals(array: Any, value: str) -> "NDArray[np.bool_]":
    return np.asarray(pc.fill_null(pc.equal(array, value), False).to_numpy(zero_copy_only=False))


def _text(column: Any) -> Any:
    return pc.fill_null(column.cast(pa.string()), "")


def _lists(column: Any) -> Any:
    if pa.types.is_large_list(column.type):
        return column.cast(pa.list_(column.type.value_type))
    return column
