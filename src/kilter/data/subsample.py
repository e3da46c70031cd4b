"""Canonical, deduplicated, ordered rows: the training set that every size, method and seed shares.

Two passes over the files. The first keeps a few numbers a row (hashes, reasons) and decides which rows live and where
each stands; the second sorts the rows themselves through buckets on disk. Memory grows by about 100 bytes a row.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kilter.data.blocks import exchange_blocks
from kilter.data.decontaminate import Contamination, Matcher, load_matcher
from kilter.data.external import BucketSort
from kilter.data.normalise import exact, tagged
from kilter.data.order import hexadecimal, keyed_hashes, pair_hashes, prompt_hashes
from kilter.data.pairing import pair_up
from kilter.data.records import (
    PREFERENCE_FORMS,
    SFT_FORMS,
    Conversations,
    Form,
    Preferences,
    first_answers,
    read_records,
    recognise_files,
)
from kilter.data.rowfiles import RowWriter
from kilter.data.schemas import MESSAGE, PREFERENCE_ROWS, SFT_ROWS
from kilter.data.selection import CODES, LIVES, REASONS, Digests, Selection, select
from kilter.data.sources import count_rows
from kilter.data.turns import Turns
from kilter.errors import WrongInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kilter.data.mirror import Mirror
    from kilter.plan.configs import SubsampleConfig
    from kilter.progress import Progress

Accounting = dict[str, Any]

_PREFERENCE_PAYLOAD = pa.schema(
    [
        ("context", pa.list_(MESSAGE)),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("stratum", pa.string()),
    ]
)
_SFT_PAYLOAD = pa.schema([("messages", pa.list_(MESSAGE))])
_SPARSE_COLUMNS = ("stratum", "context.list.element.role", "messages.list.element.role", "block")


@dataclass(frozen=True)
class _Hashed:
    """One batch after the first pass; the arrays run along the batch's rows."""

    prompts: "NDArray[np.uint64]"
    rows: "NDArray[np.uint64]"
    variants: "NDArray[np.uint64]"
    reasons: "NDArray[np.uint8]"
    strata: Any
    payload_bytes: int


@dataclass(frozen=True)
class _Source:
    """Files of one form, as canonical batches."""

    files: tuple[Path, ...]
    form: Form
    rows: int
    strata: str | None

    def batches(self) -> Iterator[Any]:
        return read_records(self.files, self.form, self.strata)


def subsample_preference(
    files: Sequence[Path],
    test_files: Sequence[Path],
    sft_files: Sequence[Path],
    config: "SubsampleConfig",
    output: Path,
    progress: "Progress",
    mirror: "Mirror | None" = None,
) -> Accounting:
    """Write preference pairs in subset order: `train.parquet`, `holdout.parquet` and `accounting.json`.

    A set of single answers with labels (TRL unpaired) is paired first: see `pairing.pair_up`. Answers that find no
    partner are written to `unpaired.parquet`, so nothing is lost, and are counted under `unpaired`; `rows_in` counts
    the pairs that were made.

    Args:
        files: The training split.
        test_files: The test split whose prompts never train and which is held out; may be empty.
        sft_files: Instruction data whose prompts are looked up to report the overlap; may be empty.
        config: What to drop, hold out and keep in proportion.
        output: An existing folder.
        progress: Told the rows done, over both passes.
        mirror: Where benchmark data lie; needed where `config.decontaminate` names any.

    Returns:
        What `accounting.json` holds: rows_in = out + held_out + the sum of dropped.

    Raises:
        WrongInput: no form fits the columns, no row is left, or benchmark data are missing.
    """
    matcher = _matcher(config, mirror)
    with tempfile.TemporaryDirectory(dir=output, prefix=".work-") as work:
        sources, unpaired, form = _preference_sources(files, test_files, config, output, Path(work), progress)
        run = _Run(sources, test=bool(test_files), config=config, progress=progress)
        digests, strata, payload_bytes = run.digest(lambda batch: _hash_preferences(batch, config, matcher), matcher)
        selection = run.select(digests, paired=True, forms=PREFERENCE_FORMS)
        blocks, mismatched = exchange_blocks(selection.prompts[: selection.train])
        held = len(selection.prompts) - selection.train
        extra = {
            "block": np.concatenate([blocks, np.full(held, -1, np.int32)]),
            "mismatched": np.concatenate([mismatched, np.full(held, -1, np.int64)]),
        }
        run.write(selection, _preference_payload, PREFERENCE_ROWS, extra, payload_bytes, output, Path(work))
    accounting = run.accounting(selection, form)
    if unpaired is not None:
        accounting["unpaired"] = unpaired
    accounting["blocks"] = int(blocks.max() + 1) if len(blocks) else 0
    accounting["sft_overlap"] = _sft_overlap(sft_files, selection.prompts[: selection.train])
    if config.strata is not None:
        accounting["strata"] = _strata_counts(digests, strata, selection)
    return _finish(accounting, matcher, output)


def subsample_sft(
    files: Sequence[Path],
    config: "SubsampleConfig",
    output: Path,
    progress: "Progress",
    mirror: "Mirror | None" = None,
) -> Accounting:
    """Write conversations in subset order: `train.parquet`, `holdout.parquet` and `accounting.json`.

    A conversation's prompt is all that comes before its first answer.

    Args:
        files: The training split.
        config: What to drop and hold out.
        output: An existing folder.
        progress: Told the rows done, over both passes.
        mirror: Where benchmark data lie; needed where `config.decontaminate` names any.

    Returns:
        What `accounting.json` holds: rows_in = out + held_out + the sum of dropped.

    Raises:
        WrongInput: no form fits the columns, no row is left, or benchmark data are missing.
    """
    if config.strata is not None:
        raise WrongInput("strata are for preference data: instruction data have none")
    matcher = _matcher(config, mirror)
    form = recognise_files(files, "sft")
    source = _Source(tuple(files), form, count_rows(files), config.strata)
    run = _Run((source,), test=False, config=config, progress=progress)
    with tempfile.TemporaryDirectory(dir=output, prefix=".work-") as work:
        digests, _, payload_bytes = run.digest(lambda batch: _hash_conversations(batch, config, matcher), matcher)
        selection = run.select(digests, paired=False, forms=SFT_FORMS)
        run.write(selection, _sft_payload, SFT_ROWS, {}, payload_bytes, output, Path(work))
    return _finish(run.accounting(selection, form.name), matcher, output)


class _Run:
    """The two passes over one or two sources: the training split and, if there is one, the test split."""

    def __init__(
        self, sources: tuple[_Source, ...], test: bool, config: "SubsampleConfig", progress: "Progress"
    ) -> None:
        self._sources = sources
        self._test = test
        self._config = config
        self._progress = progress
        self._total = sum(source.rows for source in sources)
        self._first_test = sources[0].rows if test else self._total

    def digest(self, hashed: Callable[[Any], _Hashed], matcher: Matcher | None) -> tuple[Digests, tuple[str, ...], int]:
        """First pass: a few numbers for every row, the strata's names, and how many bytes of rows there are."""
        prompts, rows, variants = (np.zeros(self._total, np.uint64) for _ in range(3))
        reasons = np.zeros(self._total, np.uint8)
        strata = np.zeros(self._total if self._config.strata else 0, np.int64)
        names: dict[str, int] = {}
        done = payload_bytes = 0
        for source in self._sources:
            for batch in source.batches():
                part = hashed(batch)
                place = slice(done, done + len(part.prompts))
                prompts[place], rows[place] = part.prompts, part.rows
                variants[place], reasons[place] = part.variants, part.reasons
                if self._config.strata:
                    strata[place] = _numbers(part.strata, names)
                if matcher is not None:
                    matcher.identify(hexadecimal(part.prompts, part.rows))
                payload_bytes += part.payload_bytes
                done = place.stop
                self._progress.update(done, 2 * self._total, "rows")
        if done != self._total:
            raise WrongInput(f"the files hold {done} rows but their metadata say {self._total}")
        ordered = tuple(sorted(names))
        rank = np.zeros(max(1, len(names)), np.int64)
        for number, name in enumerate(ordered):
            rank[names[name]] = number
        return Digests(prompts, rows, variants, reasons, rank[strata]), ordered, payload_bytes

    def select(self, digests: Digests, paired: bool, forms: str) -> Selection:
        """Decide which rows live and where they stand."""
        selection = select(digests, self._first_test, self._config.holdout, paired, self._config.strata is not None)
        if selection.train == 0:
            counts = _reason_counts(selection.reasons)
            why = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count) or "there are none"
            hint = f"\n{forms}" if counts["malformed"] == self._total else ""
            raise WrongInput(f"no row of {self._sources[0].files[0].parent} is left to train on: {why}{hint}")
        return selection

    def write(
        self,
        selection: Selection,
        payload: Callable[[Any], pa.RecordBatch],
        schema: pa.Schema,
        extra: "dict[str, NDArray[Any]]",
        payload_bytes: int,
        output: Path,
        work: Path,
    ) -> None:
        """Second pass: sort the rows through buckets and write them with their ids and positions."""
        total = len(selection.prompts)
        payload_schema = pa.schema([field for field in schema if field.name in _PAYLOAD_COLUMNS])
        sparse = tuple(name for name in _SPARSE_COLUMNS if name.split(".")[0] in schema.names)
        done = 0
        with BucketSort(work, payload_schema, total, payload_bytes) as sorting:
            for source in self._sources:
                for batch in source.batches():
                    rows = payload(batch)
                    places = selection.places[done : done + rows.num_rows]
                    alive = places >= 0
                    done += rows.num_rows
                    if not alive.all():
                        rows, places = rows.filter(pa.array(alive)), places[alive]
                    sorting.add(rows, places)
                    self._progress.update(self._total + done, 2 * self._total, "rows")
            with (
                RowWriter(output / "train.parquet", schema, sparse) as train,
                RowWriter(output / "holdout.parquet", schema, sparse) as holdout,
            ):
                start = 0
                for table in sorting.sorted():
                    stop = start + table.num_rows
                    boundary = min(max(selection.train - start, 0), table.num_rows)
                    whole = _with_ids(table, selection, extra, start, stop)
                    train.write(whole.slice(0, boundary))
                    holdout.write(whole.slice(boundary))
                    start = stop

    def accounting(self, selection: Selection, form: str) -> Accounting:
        """Count what came in, was dropped, and goes out."""
        return {
            "form": form,
            "rows_in": self._total,
            "test_rows_in": self._total - self._first_test,
            "dropped": _reason_counts(selection.reasons),
            "held_out": len(selection.prompts) - selection.train,
            "held_out_prompts": selection.held_out_prompts,
            "out": selection.train,
            "prompts": len(np.unique(selection.prompts[: selection.train])),
        }


_PAYLOAD_COLUMNS = frozenset([*_PREFERENCE_PAYLOAD.names, *_SFT_PAYLOAD.names])


def _preference_sources(
    files: Sequence[Path],
    test_files: Sequence[Path],
    config: "SubsampleConfig",
    output: Path,
    work: Path,
    progress: "Progress",
) -> tuple[tuple[_Source, ...], Accounting | None, str]:
    sources: list[_Source] = []
    unpaired: Accounting | None = None
    name = ""
    for group in (files, test_files):
        if not group:
            continue
        form = recognise_files(group, "preference")
        name = name or form.name
        strata = config.strata
        if form.kind == "unpaired":
            paired = work / f"paired-{len(sources)}.parquet"
            left_over = output / ("unpaired-test.parquet" if sources else "unpaired.parquet")
            counts = pair_up(group, form, strata, paired, left_over, work, progress)
            unpaired = counts if unpaired is None else {key: unpaired[key] + counts[key] for key in counts}
            group = (paired,)
            form = recognise_files(group, "preference")
            strata = "stratum" if strata else None
        sources.append(_Source(tuple(group), form, count_rows(group), strata))
    return tuple(sources), unpaired, name


def _hash_preferences(batch: Preferences, config: "SubsampleConfig", matcher: Matcher | None) -> _Hashed:
    prompts, variants, empty, characters = _hash_prompts(batch.context)
    chosen, rejected = (pc.utf8_trim_whitespace(text) for text in (batch.chosen, batch.rejected))
    reasons = np.zeros(len(prompts), np.uint8)
    # The first reason that holds is the one that counts, so they are laid down last to first.
    if matcher is not None:
        reasons[matcher.match(batch.context)] = CODES["contaminated"]
    reasons[_too_long(characters, config.prompt_characters)] = CODES["too_long"]
    for text in (batch.chosen, batch.rejected):
        reasons[_too_long(pc.utf8_length(text).to_numpy(), config.answer_characters)] = CODES["too_long"]
    reasons[_mask(pc.equal(chosen, rejected))] = CODES["equal_answers"]
    for text in (chosen, rejected):
        empty |= _mask(pc.equal(text, ""))
    reasons[empty] = CODES["empty"]
    reasons[batch.malformed] = CODES["malformed"]
    rows = pair_hashes(batch.chosen, batch.rejected)
    payload_bytes = batch.context.contents.nbytes + batch.chosen.nbytes + batch.rejected.nbytes
    return _Hashed(prompts, rows, variants, reasons, batch.stratum, payload_bytes)


def _hash_conversations(batch: Conversations, config: "SubsampleConfig", matcher: Matcher | None) -> _Hashed:
    messages = batch.messages
    first = first_answers(messages)
    context = messages.between(messages.starts, first)
    answers = messages.between(first, messages.stops)
    prompts, variants, empty, characters = _hash_prompts(context)
    reasons = np.zeros(len(prompts), np.uint8)
    if matcher is not None:
        reasons[matcher.match(context.compact())] = CODES["contaminated"]
    reasons[_too_long(characters, config.prompt_characters)] = CODES["too_long"]
    flat = answers.compact()
    spoken = _mask(pc.equal(flat.roles, "assistant"))
    if config.answer_characters is not None:
        long = spoken & (pc.utf8_length(flat.contents).to_numpy() > config.answer_characters)
        reasons[flat.any_row(long)] = CODES["too_long"]
    empty |= flat.any_row(spoken & _mask(pc.equal(pc.utf8_trim_whitespace(flat.contents), "")))
    reasons[empty] = CODES["empty"]
    reasons[batch.malformed] = CODES["malformed"]
    text, bounds = exact(flat)
    rows = keyed_hashes(text, bounds)
    no_strata = pa.nulls(len(prompts), pa.string())
    return _Hashed(prompts, rows, variants, reasons, no_strata, messages.contents.nbytes)


def _hash_prompts(
    context: Turns,
) -> "tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_], NDArray[np.int64]]":
    prompts, variants = prompt_hashes(context)
    flat = context.compact()
    lengths = pc.utf8_length(flat.contents).to_numpy().astype(np.int64)
    filled = flat.any_row(_mask(pc.not_equal(pc.utf8_trim_whitespace(flat.contents), "")))
    return prompts, variants, ~filled, flat.sums(lengths)


def _preference_payload(batch: Preferences) -> pa.RecordBatch:
    columns = [batch.context.lists(), batch.chosen, batch.rejected, batch.stratum]
    return pa.RecordBatch.from_arrays(columns, schema=_PREFERENCE_PAYLOAD)


def _sft_payload(batch: Conversations) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([batch.messages.lists()], schema=_SFT_PAYLOAD)


def _with_ids(
    table: pa.Table, selection: Selection, extra: "dict[str, NDArray[Any]]", start: int, stop: int
) -> pa.Table:
    places = np.arange(start, stop)
    prompts, rows = selection.prompts[start:stop], selection.rows[start:stop]
    columns = {
        "position": pa.array(np.where(places < selection.train, places, places - selection.train)),
        "row_id": hexadecimal(prompts, rows),
        "prompt_id": hexadecimal(prompts),
        **{name: pa.array(values[start:stop]) for name, values in extra.items()},
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def _sft_overlap(sft_files: Sequence[Path], train_prompts: "NDArray[np.uint64]") -> Accounting | None:
    if not sft_files:
        return None
    form = recognise_files(sft_files, "sft")
    known = np.unique(train_prompts)
    met = np.zeros(len(known), np.bool_)
    conversations = 0
    for batch in read_records(sft_files, form):
        messages = batch.messages
        text, bounds, _ = tagged(messages.between(messages.starts, first_answers(messages)))
        hashes = keyed_hashes(text, bounds)[~batch.malformed]
        at = np.minimum(np.searchsorted(known, hashes), max(0, len(known) - 1))
        hit = known[at] == hashes
        conversations += int(hit.sum())
        met[at[hit]] = True
    rows = int(np.isin(train_prompts, known[met]).sum())
    return {"prompts": int(met.sum()), "rows": rows, "conversations": conversations}


def _strata_counts(digests: Digests, names: tuple[str, ...], selection: Selection) -> Accounting:
    train = (selection.places >= 0) & (selection.places < selection.train)
    held = selection.places >= selection.train
    counts = [np.bincount(digests.strata[mask], minlength=len(names)) for mask in (train, held)]
    return {
        name: {"out": int(counts[0][number]), "held_out": int(counts[1][number])} for number, name in enumerate(names)
    }


def _reason_counts(reasons: "NDArray[np.uint8]") -> dict[str, int]:
    counts = np.bincount(reasons[reasons != LIVES], minlength=len(REASONS) + 1)
    return {reason: int(counts[CODES[reason]]) for reason in REASONS}


def _matcher(config: "SubsampleConfig", mirror: "Mirror | None") -> Matcher | None:
    if not config.decontaminate:
        return None
    if mirror is None:
        raise WrongInput("`decontaminate` needs the benchmarks' data: set data.mirror to where they lie")
    return load_matcher(mirror, config.decontaminate, config.ngram)


def _finish(accounting: Accounting, matcher: Matcher | None, output: Path) -> Accounting:
    if matcher is not None:
        contamination: Contamination = matcher.report(output / "decontamination.parquet")
        dropped = accounting["dropped"]["contaminated"]
        accounting["decontamination"] = {
            **contamination,
            "rows_before": accounting["out"] + accounting["held_out"] + dropped,
            "rows_after": accounting["out"] + accounting["held_out"],
        }
    (output / "accounting.json").write_text(json.dumps(accounting, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return accounting


def _numbers(strata: Any, names: dict[str, int]) -> "NDArray[np.int64]":
    encoded = strata.dictionary_encode()
    numbers = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
    return np.asarray(np.array(numbers, np.int64)[encoded.indices.to_numpy()])


def _too_long(lengths: "NDArray[Any]", limit: int | None) -> "NDArray[np.bool_]":
    return np.zeros(len(lengths), np.bool_) if limit is None else np.asarray(lengths > limit)


def _mask(array: Any) -> "NDArray[np.bool_]":
    return np.asarray(array.to_numpy(zero_copy_only=False))
