from __future__ import annotations

import json
from collections import Counter
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.data import external
from kilter.data.order import ORDER_KEY
from kilter.data.schemas import PREFERENCE_ROWS, SFT_ROWS
from kilter.data.sources import split_files
from kilter.data.subsample import subsample_preference, subsample_sft
from kilter.errors import WrongInput
from kilter.plan.configs import SubsampleConfig
from kilter.progress import Silent

Row = dict[str, Any]


def _write(path: Path, rows: list[Row], group: int = 1000) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def _run(
    rows: list[Row], test: list[Row] | None = None, sft: list[Row] | None = None, parts: int = 1, **config: Any
) -> tuple[list[Row], list[Row], Row]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        size = -(-len(rows) // parts)
        files = [
            _write(folder / f"train-{at}.parquet", rows[at : at + size], group=3) for at in range(0, len(rows), size)
        ]
        tests = [_write(folder / "test.parquet", test)] if test else []
        talks = [_write(folder / "sft.parquet", sft)] if sft else []
        output = folder / "output"
        output.mkdir()
        settings_ = SubsampleConfig(kind="preference", split="train", **config)
        accounting = subsample_preference(files, tests, talks, settings_, output, Silent())
        assert json.loads((output / "accounting.json").read_text()) == accounting
        assert sorted(path.name for path in output.iterdir()) == ["accounting.json", "holdout.parquet", "train.parquet"]
        tables = [pq.read_table(output / f"{split}.parquet") for split in ("train", "holdout")]
        assert all(table.schema.equals(PREFERENCE_ROWS) for table in tables)
        return tables[0].to_pylist(), tables[1].to_pylist(), accounting


def _pair(prompt: str, chosen: str = "yes", rejected: str = "no", **more: Any) -> Row:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def _prompt_of(row: Row) -> str:
    (turn,) = row["context"]
    return str(turn["content"])


def _key(prompt: str) -> str:
    text = f"user\x1f{' '.join(prompt.split())}\x1f"
    return blake2b(text.encode(), digest_size=8, key=ORDER_KEY).hexdigest()


ROWS = st.lists(
    st.builds(
        _pair,
        st.sampled_from([*"abcdefghijkl", " a", "b ", "c\n", "", "a b", "a  b"]),
        st.sampled_from(["yes", "no", "perhaps", "", " ", " yes"]),
        st.sampled_from(["yes", "no", "never", ""]),
        origin=st.sampled_from(["web", "books", None]),
    ),
    min_size=1,
    max_size=60,
)


def _expected(rows: list[Row]) -> tuple[Counter[str], dict[tuple[str, str, str], Row]]:
    """The reasons and the surviving rows, found the slow and plain way."""
    reasons: Counter[str] = Counter()
    alive: list[tuple[tuple[str, str, str], Row]] = []
    for row in rows:
        chosen, rejected = row["chosen"], row["rejected"]
        if not row["prompt"].strip() or not chosen.strip() or not rejected.strip():
            reasons["empty"] += 1
        elif chosen.strip() == rejected.strip():
            reasons["equal_answers"] += 1
        else:
            alive.append(((" ".join(row["prompt"].split()), chosen, rejected), row))
    identities = {identity for identity, _ in alive}
    kept: dict[tuple[str, str, str], Row] = {}
    for identity, row in alive:
        prompt, chosen, rejected = identity
        if (prompt, rejected, chosen) in identities:
            reasons["contradictory"] += 1
        elif identity in kept:
            reasons["duplicate"] += 1
        else:
            kept[identity] = row
    return reasons, kept


@settings(deadline=None, max_examples=60)
@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 4), st.sampled_from([0.0, 0.2]), st.booleans())
def test_the_outcome_is_the_expected_one_whatever_the_order_and_the_files(
    rows: list[Row], random: Any, parts: int, holdout: float, strata: bool
) -> None:
    reasons, kept = _expected(rows)
    options: dict[str, Any] = {"holdout": holdout, "strata": "origin" if strata else None}
    try:
        train, held, accounting = _run(rows, **options)
    except WrongInput:
        prompts = {prompt for prompt, _, _ in kept}
        assert len(prompts) <= 1 or holdout > 0
        return
    identities = [(" ".join(_prompt_of(row).split()), row["chosen"], row["rejected"]) for row in [*train, *held]]
    assert sorted(identities) == sorted(kept)
    assert {name: count for name, count in accounting["dropped"].items() if count} == dict(reasons)
    assert accounting["rows_in"] == len(rows)
    assert accounting["rows_in"] == accounting["out"] + accounting["held_out"] + sum(accounting["dropped"].values())
    assert (accounting["out"], accounting["held_out"]) == (len(train), len(held))

    assert not {row["prompt_id"] for row in train} & {row["prompt_id"] for row in held}
    for split in (train, held):
        assert [row["position"] for row in split] == list(range(len(split)))
        assert len({row["row_id"] for row in split}) == len(split)
        ids = [row["prompt_id"] for row in split]
        changes = sum(1 for left, right in pairwise(ids) if left != right)
        assert changes == max(0, len(set(ids)) - 1)
        assert all(row["prompt_id"] == _key(_prompt_of(row)) for row in split)
    if not strata:
        assert [row["row_id"] for row in train] == sorted(row["row_id"] for row in train)

    shuffled = list(rows)
    random.shuffle(shuffled)
    assert _run(shuffled, parts=parts, **options) == (train, held, accounting)


def test_held_out_prompts_are_those_with_the_largest_hashes() -> None:
    rows = [_pair(f"prompt {number}", rejected=f"no {again}") for number in range(50) for again in range(2)]
    train, held, accounting = _run(rows, holdout=0.1)
    expected = sorted({_key(row["prompt"]) for row in rows})[-5:]
    assert sorted({row["prompt_id"] for row in held}) == expected
    assert (len(train), len(held), accounting["held_out_prompts"]) == (90, 10, 5)
    assert {row["block"] for row in held} == {-1}
    assert {row["mismatched"] for row in held} == {-1}


def test_what_is_held_out_does_not_depend_on_what_is_dropped() -> None:
    rows = [_pair(f"prompt {number}", rejected="no" * number) for number in range(1, 101)]
    _, held, _ = _run(rows, holdout=0.2)
    _, short, _ = _run(rows, holdout=0.2, answer_characters=60)
    assert {row["row_id"] for row in short} < {row["row_id"] for row in held}


def test_at_most_two_thousand_prompts_are_held_out() -> None:
    train, held, _ = _run([_pair(f"prompt {number}") for number in range(5000)], holdout=0.5)
    assert (len(train), len(held)) == (3000, 2000)


def test_prompts_of_a_test_split_never_train() -> None:
    rows = [_pair("a"), _pair(" b "), _pair("c"), _pair("c", "no", "yes")]
    test = [_pair("b", "other", "answers"), _pair("d", "same", "same")]
    train, held, accounting = _run([*rows, _pair("d")], test, holdout=0.9)
    assert [_prompt_of(row) for row in train] == ["a"]
    assert [_prompt_of(row) for row in held] == ["b"]
    dropped = {name: count for name, count in accounting["dropped"].items() if count}
    assert dropped == {"overlaps_holdout": 2, "contradictory": 2, "equal_answers": 1}
    assert (accounting["rows_in"], accounting["test_rows_in"]) == (7, 2)


def test_lengths_count_characters_of_all_turns() -> None:
    long = [
        {"role": "user", "content": "ééé"},
        {"role": "assistant", "content": "xx"},
        {"role": "user", "content": "é"},
    ]
    rows = [
        {"prompt": long, "chosen": "yes", "rejected": "no"},
        {"prompt": long[:1], "chosen": "yes", "rejected": "no"},
        {"prompt": long[:1], "chosen": "yes", "rejected": "nooooooo"},
    ]
    train, _, accounting = _run(rows, prompt_characters=5, answer_characters=7)
    assert len(train) == 1
    assert accounting["dropped"]["too_long"] == 2


def test_subsets_keep_the_proportions_of_the_strata() -> None:
    rows = [_pair(f"prompt {number}", origin="web" if number % 4 else "books") for number in range(400)]
    train, _, accounting = _run(rows, strata="origin")
    assert accounting["strata"] == {"books": {"out": 100, "held_out": 0}, "web": {"out": 300, "held_out": 0}}
    for size in (40, 100, 200):
        assert abs(sum(row["stratum"] == "books" for row in train[:size]) - size / 4) <= 1


def test_the_overlap_with_instruction_prompts_is_reported() -> None:
    talks = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "answer"}]}
        for text in ("a", "a ", "z")
    ]
    _, _, accounting = _run([_pair("a"), _pair("a", "more"), _pair("b")], sft=talks)
    assert accounting["sft_overlap"] == {"prompts": 1, "rows": 2, "conversations": 2}


def test_rows_sorted_through_many_buckets_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [_pair(f"prompt {number // 2}", rejected=f"no {number}") for number in range(3000)]
    once = _run(rows, holdout=0.05)
    monkeypatch.setattr(external, "BUCKET_BYTES", 5000)
    assert _run(rows, holdout=0.05) == once


def test_nothing_left_to_train_on_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match=r"no row .* is left to train on: 2 equal_answers"):
        _run([_pair("a", "x", "x"), _pair("b", "x", "x")])
    with pytest.raises(WrongInput, match="1 malformed\npreference forms understood"):
        _run([{"chosen": [{"role": "gpt", "content": "x"}], "rejected": [{"role": "gpt", "content": "y"}]}])
    assert list(tmp_path.iterdir()) == []


def test_decontamination_without_a_mirror_is_refused() -> None:
    with pytest.raises(WrongInput, match=r"data\.mirror"):
        _run([_pair("a")], decontaminate=("gsm8k",))


def _sft(rows: list[Row], tmp_path: Path, **config: Any) -> tuple[list[Row], list[Row], Row]:
    output = tmp_path / "output"
    output.mkdir()
    file = _write(tmp_path / "train.parquet", rows)
    accounting = subsample_sft([file], SubsampleConfig(kind="sft", split="train", **config), output, Silent())
    tables = [pq.read_table(output / f"{split}.parquet") for split in ("train", "holdout")]
    assert all(table.schema.equals(SFT_ROWS) for table in tables)
    return tables[0].to_pylist(), tables[1].to_pylist(), accounting


def test_conversations_are_cleaned_and_ordered(tmp_path: Path) -> None:
    def talk(*texts: str) -> Row:
        roles = ("user", "assistant")
        return {"messages": [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]}

    rows = [
        talk("a", "one"),
        talk("a ", "one"),
        talk("a", "two"),
        talk("a", "one", "more", "two"),
        talk("b", ""),
        talk("", "x"),
        talk("c"),
        talk("d", "x" * 50),
        *(talk(f"prompt {number}", "x") for number in range(20)),
    ]
    train, held, accounting = _sft(rows, tmp_path, holdout=0.1, answer_characters=40)
    dropped = {name: count for name, count in accounting["dropped"].items() if count}
    assert dropped == {"duplicate": 1, "empty": 2, "malformed": 1, "too_long": 1}
    assert accounting["out"] + accounting["held_out"] == 23 == len(train) + len(held)
    assert [row["row_id"] for row in train] == sorted(row["row_id"] for row in train)
    assert not {row["prompt_id"] for row in train} & {row["prompt_id"] for row in held}
    of_a = [row for row in [*train, *held] if row["prompt_id"] == _key("a")]
    assert sorted(len(row["messages"]) for row in of_a) == [2, 2, 4]


@pytest.mark.parametrize(("name", "train", "test"), [("qa_feedback_dev", 2337, 279), ("tulu1_human_eval", 615, 61)])
def test_real_preferences(real_data: Path, tmp_path: Path, name: str, train: int, test: int) -> None:
    folder = real_data / "preference" / name
    accounting = subsample_preference(
        split_files(folder, "train_prefs"),
        split_files(folder, "test_prefs"),
        split_files(real_data / "sft" / "gsm8k_chat", "train_sft"),
        SubsampleConfig(kind="preference", split="train_prefs", test_split="test_prefs"),
        tmp_path,
        Silent(),
    )
    assert accounting["form"] == "ultrafeedback-binarized"
    assert (accounting["rows_in"], accounting["held_out"]) == (train + test, test)
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    source = pq.read_table(split_files(folder, "train_prefs")[0]).to_pylist()
    pairs = {(row["prompt"], row["chosen"][-1]["content"], row["rejected"][-1]["content"]) for row in source}
    assert {(_prompt_of(row), row["chosen"], row["rejected"]) for row in rows} <= pairs
    assert len(rows) == accounting["out"]
    for row in rows:
        other = rows[row["mismatched"]]
        assert other["prompt_id"] != row["prompt_id"]
        assert other["block"] == row["block"]


@pytest.mark.parametrize(("name", "rows"), [("gsm8k_chat", 6712), ("gpteacher_codegen", 4050)])
def test_real_conversations(real_data: Path, tmp_path: Path, name: str, rows: int) -> None:
    files = split_files(real_data / "sft" / name, "train_sft")
    accounting = subsample_sft(files, SubsampleConfig(kind="sft", split="train_sft"), tmp_path, Silent())
    assert accounting["rows_in"] == rows
    assert accounting["out"] == len(pq.read_table(tmp_path / "train.parquet"))


def test_real_unpaired_answers_lose_nothing(real_data: Path, tmp_path: Path) -> None:
    files = split_files(real_data / "preference" / "kto_en_demo_ai", "train")
    config = SubsampleConfig(kind="preference", split="train")
    accounting = subsample_preference(files, (), (), config, tmp_path, Silent())
    counts = accounting["unpaired"]
    assert counts["answers_in"] == 300 == sum(counts.values()) - 300
    single = pq.read_table(tmp_path / "unpaired.parquet").to_pylist()
    pairs = pq.read_table(tmp_path / "train.parquet").to_pylist()
    found = {(str(row["context"]), row["completion"], row["label"]) for row in single}
    found |= {(str(row["context"]), row["chosen"], True) for row in pairs}
    found |= {(str(row["context"]), row["rejected"], False) for row in pairs}
    source = pq.read_table(files[0]).to_pylist()
    turns = [[{"role": turn["role"], "content": turn["content"]} for turn in row["prompt"]] for row in source]
    expected = {
        (str(prompt), row["completion"][0]["content"], row["label"]) for prompt, row in zip(turns, source, strict=True)
    }
    assert found == expected
