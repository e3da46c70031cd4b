"""Pairs out of single answers, and back: the paired and the unpaired view of preferences.

The canonical record is the pair. A prompt's wanted and unwanted answers, each in the order of their hash, are paired
first with first, second with second; what is left over has no partner. The paired view loses those, so they are
written out beside the pairs; a pair as two single answers loses nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kilter.data.external import BucketSort
from kilter.data.order import hexadecimal, keyed_hashes, prompt_hashes
from kilter.data.records import Form, read_records
from kilter.data.rowfiles import RowWriter
from kilter.data.schemas import MESSAGE, UNPAIRED_ROWS
from kilter.data.sources import count_rows
from kilter.errors import WrongInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kilter.progress import Progress

_PAYLOAD = pa.schema(
    [("context", pa.list_(MESSAGE)), ("answer", pa.string()), ("label", pa.bool_()), ("stratum", pa.string())]
)
_PAIRS = pa.schema(
    [("prompt", pa.list_(MESSAGE)), ("chosen", pa.string()), ("rejected", pa.string()), ("stratum", pa.string())]
)
_MALFORMED, _EMPTY, _CONTRADICTORY, _DUPLICATE = 1, 2, 3, 4


def pair_up(
    files: Sequence[Path],
    form: Form,
    strata: str | None,
    pairs: Path,
    left_over: Path,
    work: Path,
    progress: "Progress",
) -> dict[str, int]:
    """Write the pairs that single answers make (columns prompt, chosen, rejected, stratum), and what is left over.

    An answer that one prompt has as wanted and as unwanted counts as contradictory and goes into neither.

    Args:
        files: Unpaired rows.
        form: Their form.
        strata: The strata column, or None.
        pairs: Parquet file to write pairs to.
        left_over: Parquet file to write answers without a partner to (`UNPAIRED_ROWS`).
        work: Folder for temporary files.
        progress: Told the answers done, over two passes.

    Returns:
        Counts of answers: `answers_in`, `paired`, `left_over`, `malformed`, `empty`, `contradictory`, `duplicate`.

    Raises:
        WrongInput: no prompt has both a wanted and an unwanted answer.
    """
    total = count_rows(files)
    prompts, answers, variants = (np.zeros(total, np.uint64) for _ in range(3))
    labels = np.zeros(total, np.bool_)
    reasons = np.zeros(total, np.uint8)
    done = payload_bytes = 0
    for batch in read_records(files, form, strata):
        place = slice(done, done + len(batch.label))
        prompts[place], variants[place] = prompt_hashes(batch.context)
        answers[place] = keyed_hashes(batch.answer)
        labels[place] = batch.label
        empty = pc.equal(pc.utf8_trim_whitespace(batch.answer), "").to_numpy(zero_copy_only=False)
        reasons[place] = np.where(batch.malformed, _MALFORMED, np.where(empty, _EMPTY, 0))
        payload_bytes += batch.context.contents.nbytes + batch.answer.nbytes
        done = place.stop
        progress.update(done, 2 * total, "answers")

    order = np.flatnonzero(reasons == 0)
    order = order[np.lexsort((variants[order], labels[order], answers[order], prompts[order]))]
    same = (prompts[order][1:] == prompts[order][:-1]) & (answers[order][1:] == answers[order][:-1])
    group = np.concatenate([np.zeros(min(1, len(order)), np.int64), np.cumsum(~same)])
    wanted, sizes = np.bincount(group, weights=labels[order]), np.bincount(group)
    contradictory = ((wanted > 0) & (wanted < sizes))[group] if len(order) else np.zeros(0, np.bool_)
    duplicate = np.concatenate([np.zeros(min(1, len(order)), np.bool_), same]) & ~contradictory
    reasons[order[contradictory]], reasons[order[duplicate]] = _CONTRADICTORY, _DUPLICATE
    order = order[~contradictory & ~duplicate]
    places, count = _places(total, order, prompts, labels, answers)
    if count == 0:
        raise WrongInput(
            f"no prompt of {files[0].parent} has both a wanted and an unwanted answer, so its {total} single answers "
            "make no preference pair"
        )
    with BucketSort(work, _PAYLOAD, len(order), payload_bytes) as sorting:
        done = 0
        for batch in read_records(files, form, strata):
            columns = [batch.context.lists(), batch.answer, pa.array(batch.label), batch.stratum]
            rows = pa.RecordBatch.from_arrays(columns, schema=_PAYLOAD)
            part = places[done : done + rows.num_rows]
            done += rows.num_rows
            sorting.add(rows.filter(pa.array(part >= 0)), part[part >= 0])
            progress.update(total + done, 2 * total, "answers")
        by_place = order[np.argsort(places[order])]
        _write(sorting, count, pairs, left_over, prompts[by_place], answers[by_place])
    return {
        "answers_in": total,
        "paired": 2 * count,
        "left_over": len(order) - 2 * count,
        "malformed": int((reasons == _MALFORMED).sum()),
        "empty": int((reasons == _EMPTY).sum()),
        "contradictory": int((reasons == _CONTRADICTORY).sum()),
        "duplicate": int((reasons == _DUPLICATE).sum()),
    }


def unpaired_view(pairs: pa.Table) -> pa.Table:
    """Show each pair as two single answers, the wanted one first: TRL's prompt, completion, label, and the row's id.

    Args:
        pairs: Rows of `PREFERENCE_ROWS`.
    """
    twice = np.repeat(np.arange(pairs.num_rows), 2)
    label = np.tile([True, False], pairs.num_rows)
    doubled = pairs.take(pa.array(twice))
    completion = pc.if_else(pa.array(label), doubled["chosen"], doubled["rejected"])
    names = ["row_id", "prompt_id", "context", "stratum"]
    columns = {name: doubled[name] for name in names}
    return pa.table({**columns, "completion": completion, "label": pa.array(label)}).select(UNPAIRED_ROWS.names)


def paired_view(answers: pa.Table) -> pa.Table:
    """Undo `unpaired_view`: the two answers of each row id side by side, in the order they came in.

    Args:
        answers: Rows as `unpaired_view` gives them: two for each row id.
    """
    wanted = answers.filter(answers["label"])
    unwanted = answers.filter(pc.invert(answers["label"]))
    at = pc.index_in(wanted["row_id"], value_set=unwanted["row_id"].combine_chunks())
    return pa.table(
        {
            "row_id": wanted["row_id"],
            "prompt_id": wanted["prompt_id"],
            "context": wanted["context"],
            "chosen": wanted["completion"],
            "rejected": unwanted["completion"].take(at),
            "stratum": wanted["stratum"],
        }
    )


def _places(
    total: int,
    order: "NDArray[np.int64]",
    prompts: "NDArray[np.uint64]",
    labels: "NDArray[np.bool_]",
    answers: "NDArray[np.uint64]",
) -> "tuple[NDArray[np.int64], int]":
    """Pair k stands at places 2k (wanted) and 2k+1; answers without a partner follow all pairs."""
    order = order[np.lexsort((answers[order], labels[order], prompts[order]))]
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(order)), np.bool_), np.diff(prompts[order]) != 0]))
    counts = np.diff(np.append(starts, len(order)))
    wanted = np.add.reduceat(labels[order].astype(np.int64), starts) if len(starts) else np.zeros(0, np.int64)
    pairs = np.minimum(wanted, counts - wanted)
    first = np.cumsum(pairs) - pairs
    unwanted = np.repeat(counts - wanted, counts)
    within = np.arange(len(order)) - np.repeat(starts, counts)
    # Within a prompt the unwanted answers come first, then the wanted ones.
    rank = np.where(labels[order], within - unwanted, within)
    partnered = rank < np.repeat(pairs, counts)
    places = np.full(total, -1, np.int64)
    places[order[partnered]] = (2 * (np.repeat(first, counts) + rank) + ~labels[order])[partnered]
    count = int(pairs.sum())
    places[order[~partnered]] = 2 * count + np.arange(int((~partnered).sum()))
    return places, count


def _write(
    sorting: BucketSort,
    count: int,
    pairs: Path,
    left_over: Path,
    prompts: "NDArray[np.uint64]",
    answers: "NDArray[np.uint64]",
) -> None:
    done = 0
    half: Any = None
    with RowWriter(pairs, _PAIRS) as paired, RowWriter(left_over, UNPAIRED_ROWS) as single:
        for table in sorting.sorted():
            stop = done + table.num_rows
            boundary = min(max(2 * count - done, 0), table.num_rows)
            front = table.slice(0, boundary) if half is None else pa.concat_tables([half, table.slice(0, boundary)])
            # A bucket may end between the two answers of a pair.
            even = front.num_rows - front.num_rows % 2
            half = front.slice(even) if even < front.num_rows else None
            wanted, unwanted = (front.take(pa.array(np.arange(side, even, 2))) for side in (0, 1))
            paired.write(
                pa.table(
                    {
                        "prompt": wanted["context"],
                        "chosen": wanted["answer"],
                        "rejected": unwanted["answer"],
                        "stratum": wanted["stratum"],
                    }
                )
            )
            rest = table.slice(boundary).rename_columns(["context", "completion", "label", "stratum"])
            ids = slice(done + boundary, stop)
            rest = rest.append_column("row_id", hexadecimal(prompts[ids], answers[ids]))
            single.write(rest.append_column("prompt_id", hexadecimal(prompts[ids])))
            done = stop
