from __future__ import annotations

import unicodedata
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from kilter.data.blocks import exchange_blocks
from kilter.data.normalise import normalise_text
from kilter.data.order import ORDER_KEY, hexadecimal, keyed_hashes, pair_hashes, prompt_hashes, stratified
from kilter.data.turns import turns_of_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_normalising_agrees_with_python_and_is_idempotent(texts: list[str]) -> None:
    once = normalise_text(pa.array(texts, pa.string()))
    assert once.to_pylist() == [" ".join(unicodedata.normalize("NFC", text).split()) for text in texts]
    assert normalise_text(once).to_pylist() == once.to_pylist()


def test_the_hash_is_blake2b_with_the_documented_key() -> None:
    turns = turns_of_rows([[("system", "be  kind"), ("user", " Why\n?")], [("user", "e\u0301")]])
    hashes, variants = prompt_hashes(turns)
    texts = ["system\x1fbe kind\x1fuser\x1fWhy ?\x1f", "user\x1f\u00e9\x1f"]
    expected = [blake2b(text.encode(), digest_size=8, key=ORDER_KEY).hexdigest() for text in texts]
    assert hexadecimal(hashes).to_pylist() == expected
    assert (variants != 0).all()
    plain, unchanged = prompt_hashes(turns_of_rows([[("system", "be kind"), ("user", "Why ?")], [("user", "\u00e9")]]))
    assert plain.tolist() == hashes.tolist()
    assert unchanged.tolist() == [0, 0]


def test_hashing_respects_slices_and_runs() -> None:
    text = pa.array(["x", "ab", "", "cde"])
    single = keyed_hashes(text)
    assert keyed_hashes(text.slice(1, 2)).tolist() == single[1:3].tolist()
    joined = keyed_hashes(text, np.array([0, 2, 4]))
    assert joined.tolist() == keyed_hashes(pa.array(["xab", "cde"])).tolist()


@given(TEXT, TEXT)
def test_a_pair_and_its_reverse_differ_in_the_lowest_bit_only(left: str, right: str) -> None:
    there, back = pair_hashes(pa.array([left, right]), pa.array([right, left])).tolist()
    assert there >> 1 == back >> 1
    assert (there == back) == (left == right)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=80))
def test_strata_keep_their_proportions_in_every_prefix(rows: list[tuple[int, int]]) -> None:
    rows = sorted(set(rows))
    prompts = np.array([4 * prompt + stratum for prompt, stratum in rows], np.uint64)
    order = np.argsort(prompts)
    strata = np.array([stratum for _, stratum in rows], np.int64)[order]
    prompts = prompts[order]
    permutation = stratified(prompts, strata)
    assert sorted(permutation.tolist()) == list(range(len(rows)))
    for length in range(len(rows) + 1):
        taken = np.bincount(strata[permutation[:length]], minlength=4)
        share = np.bincount(strata, minlength=4) * (length / max(1, len(rows)))
        # Each stratum is rounded by half a row at most, and so is the prefix's length in each of four strata.
        assert (np.abs(taken - share) <= 2.5).all()
    for stratum in range(4):
        own = prompts[permutation][strata[permutation] == stratum]
        assert (np.diff(own.astype(np.float64)) > 0).all()


def test_strata_keep_prompts_whole() -> None:
    prompts = np.array([1, 1, 2, 3, 3, 3, 4], np.uint64)
    permutation = stratified(prompts, np.array([0, 0, 1, 0, 0, 0, 1]))
    ordered = prompts[permutation].tolist()
    assert [prompt for prompt, before in zip(ordered, [None, *ordered], strict=False) if prompt != before] == [
        1,
        2,
        3,
        4,
    ]


GROUPS = st.lists(st.integers(1, 5), min_size=0, max_size=40)


def _prompts(groups: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(groups), dtype=np.uint64), groups)


@given(GROUPS)
def test_blocks_lend_answers_of_other_prompts_within_the_block(groups: list[int]) -> None:
    prompts = _prompts(groups)
    block, mismatched = exchange_blocks(prompts)
    if len(groups) < 2:
        assert (block == -1).all()
        assert (mismatched == -1).all()
        return
    assert (prompts[mismatched] != prompts).all()
    assert (block[mismatched] == block).all()
    assert (np.diff(block) >= 0).all()
    for number in range(block.max() + 1):
        distinct = len(set(prompts[block == number].tolist()))
        assert distinct >= min(8, len(groups))
        assert distinct < 16
    assert all(len(set(block[prompts == prompt].tolist())) == 1 for prompt in set(prompts.tolist()))


@given(st.lists(st.integers(1, 5), min_size=16, max_size=40))
def test_whole_blocks_do_not_depend_on_what_follows(groups: list[int]) -> None:
    block, mismatched = exchange_blocks(_prompts(groups))
    for kept in range(1, len(groups) // 8):
        prefix_block, prefix_mismatched = exchange_blocks(_prompts(groups[: 8 * kept]))
        assert prefix_block.tolist() == block[: len(prefix_block)].tolist()
        assert prefix_mismatched.tolist() == mismatched[: len(prefix_mismatched)].tolist()


def test_blocks_of_single_rows_are_eight_long() -> None:
    block, mismatched = exchange_blocks(np.arange(19, dtype=np.uint64))
    assert block.tolist() == [0] * 8 + [1] * 11
    assert mismatched.tolist() == [*range(1, 8), 0, *range(9, 19), 8]


def test_rows_of_a_prompt_take_turns_in_the_next_prompts_rows() -> None:
    _, mismatched = exchange_blocks(np.array([1, 1, 1, 2, 2], np.uint64))
    assert mismatched.tolist() == [3, 4, 3, 0, 1]
