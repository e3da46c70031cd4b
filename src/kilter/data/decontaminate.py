"""Find prompts that share a run of words with a benchmark's questions.

Words are lower-case runs of letters, marks and digits (Unicode NFC). A prompt matches where `ngram` words in a row
(GPT-3, arXiv 2005.14165, appendix C: 13) are also in a question. A question shorter than that, of 8 words or more,
matches as a whole. Which sets and columns hold questions is listed, with a version, in `benchmark_sets.yaml`.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from kilter.canonical import digest
from kilter.data.order import keyed_hashes
from kilter.data.sources import read_batches
from kilter.errors import WrongInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kilter.data.mirror import Mirror
    from kilter.data.turns import Turns

SHORTEST_QUESTION = 8
EXCERPT_CHARACTERS = 200
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_NOT_A_WORD = r"[^\p{L}\p{M}\p{N}]+"

Contamination = dict[str, Any]

MATCHES = pa.schema(
    [("row_id", pa.string()), ("prompt", pa.string()), ("benchmark", pa.string()), ("ngram", pa.string())]
)


@cache
def benchmark_sets() -> dict[str, Any]:
    """Return the shipped list of benchmark sets: its version, suites, and each benchmark's files and columns."""
    text = (Path(__file__).parent / "benchmark_sets.yaml").read_text("utf-8")
    return dict(yaml.safe_load(text))


def benchmark_list_digest() -> str:
    """Return the digest of the list of benchmark sets: part of the key of what was decontaminated with it."""
    return digest(benchmark_sets())


@dataclass(frozen=True)
class _Words:
    """Words of a batch of texts, as numbers; text i holds the words `bounds[i] … bounds[i+1]-1`."""

    words: Any
    bounds: "NDArray[np.int64]"


class Matcher:
    """Knows the benchmarks' n-grams, and collects the prompts that share one."""

    def __init__(self, names: "Sequence[str]", questions: "Iterator[tuple[int, Any]]", ngram: int) -> None:
        """Index questions.

        Args:
            names: The benchmarks, at most 64.
            questions: Batches of question texts, each with the number of its benchmark.
            ngram: Words of a run that counts as a match.
        """
        self._names = tuple(names)
        self._ngram = ngram
        self._lengths = (*range(SHORTEST_QUESTION, ngram), ngram)
        hashes: dict[int, list[NDArray[np.uint64]]] = {length: [] for length in self._lengths}
        owners: dict[int, list[NDArray[np.uint64]]] = {length: [] for length in self._lengths}
        vocabulary: list[Any] = []
        self._questions = 0
        for number, texts in questions:
            split = _words(texts)
            vocabulary.append(pc.unique(split.words))
            self._questions += len(texts)
            values = _word_values(split.words)
            for length in self._lengths:
                runs = _runs(split.bounds, length, whole=length < ngram)
                hashes[length].append(_rolling(values, length)[runs])
                owners[length].append(np.full(len(runs), np.uint64(1) << np.uint64(number)))
        self._vocabulary = pc.unique(pa.concat_arrays(vocabulary)) if vocabulary else pa.array([], pa.string())
        self._values = _word_values(self._vocabulary)
        self._index = {length: _index(hashes[length], owners[length]) for length in self._lengths}
        self._pending: list[tuple[int, str, str, str]] = []
        self._found: dict[tuple[str, str], tuple[str, str]] = {}

    def match(self, contexts: "Turns") -> "NDArray[np.int64]":
        """Return the rows whose prompt matches, and remember what they match until `identify` names them."""
        flat = contexts.compact()
        owner = flat.owners()
        split = _words(flat.contents)
        numbers = pc.index_in(split.words, value_set=self._vocabulary)
        known = numbers.is_valid().to_numpy(zero_copy_only=False)
        values = np.zeros(len(known), np.uint64)
        values[known] = self._values[pc.drop_null(numbers).to_numpy()]
        unknown_before = np.concatenate([[0], np.cumsum(~known)])
        rows: set[int] = set()
        seen: set[tuple[int, int]] = set()
        for length in self._lengths:
            keys, masks = self._index[length]
            starts = _runs(split.bounds, length, whole=False)
            starts = starts[unknown_before[starts + length] == unknown_before[starts]]
            if not len(keys) or not len(starts):
                continue
            hashes = _rolling(values, length)[starts]
            at = np.minimum(np.searchsorted(keys, hashes), len(keys) - 1)
            hit = np.flatnonzero(keys[at] == hashes)
            turns = np.searchsorted(split.bounds, starts[hit], side="right") - 1
            for start, mask, turn in zip(starts[hit].tolist(), masks[at[hit]].tolist(), turns.tolist(), strict=True):
                row = int(owner[turn])
                rows.add(row)
                for number in range(len(self._names)):
                    if mask >> number & 1 and (row, number) not in seen:
                        seen.add((row, number))
                        words = " ".join(split.words.slice(start, length).to_pylist())
                        excerpt = flat.contents[turn].as_py()[:EXCERPT_CHARACTERS]
                        self._pending.append((row, excerpt, self._names[number], words))
        return np.array(sorted(rows), np.int64)

    def identify(self, row_ids: Any) -> None:
        """Name the rows of the batch that was matched last."""
        for row, excerpt, benchmark, words in self._pending:
            self._found.setdefault((row_ids[row].as_py(), benchmark), (excerpt, words))
        self._pending.clear()

    def report(self, path: Path) -> Contamination:
        """Write the matches as Parquet, sorted by row and benchmark, and return their counts."""
        matches = [(*key, *self._found[key]) for key in sorted(self._found)]
        columns = [
            [row_id for row_id, _, _, _ in matches],
            [excerpt for _, _, excerpt, _ in matches],
            [benchmark for _, benchmark, _, _ in matches],
            [words for _, _, _, words in matches],
        ]
        arrays = [pa.array(column, pa.string()) for column in columns]
        pq.write_table(pa.Table.from_arrays(arrays, schema=MATCHES), path, compression="zstd")
        return {
            "list_version": benchmark_sets()["version"],
            "ngram": self._ngram,
            "questions": self._questions,
            "matched_rows": len({row_id for row_id, _ in self._found}),
            "matches": {name: sum(1 for _, benchmark in self._found if benchmark == name) for name in self._names},
        }


def load_matcher(mirror: "Mirror", against: "Sequence[str]", ngram: int) -> Matcher:
    """Index the questions of the named benchmarks.

    Args:
        mirror: Where benchmark data lie.
        against: Names of suites or benchmarks of the shipped list.
        ngram: Words of a run that counts as a match.

    Raises:
        WrongInput: a name is not in the list, or its data are not in the mirror.
    """
    known = benchmark_sets()
    names: list[str] = []
    for name in against:
        if name not in known["suites"] and name not in known["benchmarks"]:
            listed = ", ".join([*known["suites"], *known["benchmarks"]])
            raise WrongInput(
                f"decontaminate.against: {name!r} is not in the list of benchmark sets, which has {listed}"
            )
        names.extend(known["suites"].get(name, [name]))
    names = list(dict.fromkeys(names))
    files = {name: mirror.matching(known["benchmarks"][name]["files"]) for name in names}
    missing = [f"{name} ({known['benchmarks'][name]['files']})" for name in names if not files[name]]
    if missing:
        raise WrongInput(
            f"the mirror {mirror.source} lacks the data of {', '.join(missing)}: add them, or name in "
            f"decontaminate.against only {', '.join(name for name in names if files[name]) or 'what it has'}"
        )
    questions = (
        (number, text)
        for number, name in enumerate(names)
        for text in _questions(files[name], known["benchmarks"][name]["columns"])
    )
    return Matcher(names, questions, ngram)


def _questions(files: "Sequence[Path]", columns: "Sequence[str]") -> "Iterator[Any]":
    for batch in read_batches(files, columns):
        for name in columns:
            column = batch.column(name)
            if pa.types.is_list(column.type):
                column = column.flatten()
            yield pc.fill_null(column.cast(pa.string()), "")


def _words(texts: Any) -> _Words:
    lowered = pc.utf8_lower(pc.utf8_normalize(texts, "NFC"))
    spaced = pc.ascii_trim(pc.replace_substring_regex(lowered, _NOT_A_WORD, " "), " ")
    lists = pc.split_pattern(spaced, " ")
    words = lists.flatten()
    # Splitting a text without words gives one empty word.
    counts = np.where(pc.equal(spaced, "").to_numpy(zero_copy_only=False), 0, pc.list_value_length(lists).to_numpy())
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return _Words(words.filter(pc.not_equal(words, "")), bounds)


def _word_values(words: Any) -> "NDArray[np.uint64]":
    encoded = words.dictionary_encode()
    return keyed_hashes(encoded.dictionary)[encoded.indices.to_numpy()] if len(words) else np.zeros(0, np.uint64)


def _rolling(values: "NDArray[np.uint64]", length: int) -> "NDArray[np.uint64]":
    windows = max(0, len(values) - length + 1)
    total = np.zeros(windows, np.uint64)
    for offset in range(length):
        total = total * _FACTOR + values[offset : offset + windows]
    return total


def _runs(bounds: "NDArray[np.int64]", length: int, whole: bool) -> "NDArray[np.int64]":
    """Where runs of `length` words start; with `whole`, only those that are a text's every word."""
    counts = np.diff(bounds)
    if whole:
        return np.asarray(bounds[:-1][counts == length])
    room = np.maximum(counts - length + 1, 0)
    ends = np.cumsum(room)
    return np.asarray(np.repeat(bounds[:-1] - (ends - room), room) + np.arange(int(ends[-1]) if len(ends) else 0))


def _index(
    hashes: "list[NDArray[np.uint64]]", owners: "list[NDArray[np.uint64]]"
) -> "tuple[NDArray[np.uint64], NDArray[np.uint64]]":
    if not hashes:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    values, masks = np.concatenate(hashes), np.concatenate(owners)
    keys, numbers = np.unique(values, return_inverse=True)
    merged = np.zeros(len(keys), np.uint64)
    np.bitwise_or.at(merged, numbers, masks)
    return keys, merged
