from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.data.decontaminate import Matcher, benchmark_list_digest, benchmark_sets, load_matcher
from kilter.data.mirror import Mirror
from kilter.data.subsample import subsample_preference
from kilter.data.turns import turns_of_rows
from kilter.errors import WrongInput
from kilter.plan.configs import SubsampleConfig
from kilter.progress import Silent
from kilter.study.suites import SUITES

if TYPE_CHECKING:
    from pathlib import Path


def _matches(questions: list[str], prompts: list[str], ngram: int = 13) -> list[int]:
    matcher = Matcher(["quiz"], iter([(0, pa.array(questions))]), ngram)
    return matcher.match(turns_of_rows([[("user", prompt)] for prompt in prompts])).tolist()


def _words(count: int, start: int = 0) -> str:
    return " ".join(f"word{number}" for number in range(start, start + count))


def test_thirteen_words_in_a_row_match_whatever_the_case_and_punctuation() -> None:
    question = f"Before. {_words(13)}; after"
    prompts = [
        f"Please: {_words(13).upper().replace(' ', ' - ')}!",
        _words(12),
        f"{_words(6)} other {_words(7, 6)}",
        f"{_words(6)} {_words(7, 6)}",
    ]
    assert _matches([question], prompts) == [0, 3]


def test_a_short_question_matches_as_a_whole_from_eight_words_on() -> None:
    assert _matches([_words(8)], [f"so {_words(8)} then", _words(7), _words(8, 1)]) == [0]
    assert _matches([_words(7)], [_words(7)]) == []
    assert _matches([_words(10)], [_words(9)]) == []


def test_words_run_on_within_a_turn_only() -> None:
    matcher = Matcher(["quiz"], iter([(0, pa.array([_words(13)]))]), 13)
    turns = [[("user", _words(6)), ("assistant", _words(7, 6)), ("user", "x")], [("user", "x"), ("user", _words(13))]]
    assert matcher.match(turns_of_rows(turns)).tolist() == [1]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=6), min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from("abcd"), max_size=8), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_matching_agrees_with_comparing_words(questions: list[list[str]], prompts: list[list[str]], ngram: int) -> None:
    def grams(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[at : at + ngram]) for at in range(len(words) - ngram + 1)}

    known = set().union(*(grams(question) for question in questions))
    expected = [row for row, prompt in enumerate(prompts) if grams(prompt) & known]
    assert _matches([" ".join(words) for words in questions], [" ".join(words) for words in prompts], ngram) == expected


def test_every_benchmark_of_the_papers_suite_is_listed() -> None:
    listed = benchmark_sets()
    assert listed["suites"]["insights-13"] == [benchmark.task for benchmark in SUITES["insights-13"]]
    assert set(listed["suites"]["insights-13"]) <= set(listed["benchmarks"])
    assert len(benchmark_list_digest()) == 64


def test_unknown_and_missing_benchmarks_are_named(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="'gsm9k' is not in the list of benchmark sets, which has insights-13, arc_ch"):
        load_matcher(Mirror.at(tmp_path, tmp_path), ["gsm9k"], 13)
    with pytest.raises(WrongInput, match=r"lacks the data of gsm8k \(openai/gsm8k/main/test.parquet\)"):
        load_matcher(Mirror.at(tmp_path, tmp_path), ["gsm8k"], 13)


def test_contaminated_rows_are_dropped_and_listed(real_data: Path, tmp_path: Path) -> None:
    question = pq.read_table(real_data / "hf/openai/gsm8k/main/test.parquet")["question"][5].as_py()
    rows: list[dict[str, Any]] = [
        {"prompt": f"Solve this: {question}", "chosen": "yes", "rejected": "no"},
        {"prompt": "Write a poem about the sea.", "chosen": "yes", "rejected": "no"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    output = tmp_path / "output"
    output.mkdir()
    config = SubsampleConfig(kind="preference", split="train", decontaminate=("gsm8k", "arc_challenge"))
    accounting = subsample_preference(
        [tmp_path / "train.parquet"], (), (), config, output, Silent(), mirror=Mirror.at(real_data / "hf", tmp_path)
    )
    assert accounting["dropped"]["contaminated"] == 1
    told = accounting["decontamination"]
    assert (told["rows_before"], told["rows_after"], told["matches"]) == (2, 1, {"gsm8k": 1, "arc_challenge": 0})
    (match,) = pq.read_table(output / "decontamination.parquet").to_pylist()
    assert match["benchmark"] == "gsm8k"
    assert match["prompt"].startswith("Solve this: ")
    assert len(match["ngram"].split()) == 13
    (kept,) = pq.read_table(output / "train.parquet").to_pylist()
    assert match["row_id"] != kept["row_id"]
