from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.data import external
from kilter.data.pairing import pair_up, paired_view, unpaired_view
from kilter.data.records import recognise_files
from kilter.data.subsample import subsample_preference
from kilter.errors import WrongInput
from kilter.plan.configs import SubsampleConfig
from kilter.progress import Silent


def _pair_up(answers: list[tuple[str, str, bool]]) -> tuple[list[Any], list[Any], dict[str, int]]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        rows = [{"prompt": prompt, "completion": text, "label": label} for prompt, text, label in answers]
        pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
        files = (folder / "train.parquet",)
        form = recognise_files(files, "preference")
        counts = pair_up(files, form, None, folder / "pairs.parquet", folder / "left.parquet", folder, Silent())
        pairs, left = (pq.read_table(folder / f"{kind}.parquet").to_pylist() for kind in ("pairs", "left"))
        return pairs, left, counts


ANSWERS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("pqrstuv"), st.booleans()), min_size=1, max_size=30
)


@settings(deadline=None)
@given(ANSWERS, st.randoms(use_true_random=False), st.booleans())
def test_each_prompt_gives_as_many_pairs_as_it_can_and_no_answer_is_lost(
    answers: list[tuple[str, str, bool]], random: Any, tiny_buckets: bool
) -> None:
    distinct = {answer for answer in answers if (answer[0], answer[1], not answer[2]) not in answers}
    wanted = {prompt: sum(1 for one in distinct if one[0] == prompt and one[2]) for prompt in "abc"}
    unwanted = {prompt: sum(1 for one in distinct if one[0] == prompt and not one[2]) for prompt in "abc"}
    expected = sum(min(wanted[prompt], unwanted[prompt]) for prompt in "abc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external, "BUCKET_BYTES", 3 if tiny_buckets else external.BUCKET_BYTES)
        if expected == 0:
            with pytest.raises(WrongInput, match="both a wanted and an unwanted answer"):
                _pair_up(answers)
            return
        pairs, left, counts = _pair_up(answers)
        shuffled = list(answers)
        random.shuffle(shuffled)
        again, rest, _ = _pair_up(shuffled)
    assert len(pairs) == expected
    found = [(row["prompt"][0]["content"], row["chosen"], True) for row in pairs]
    found += [(row["prompt"][0]["content"], row["rejected"], False) for row in pairs]
    found += [(row["context"][0]["content"], row["completion"], row["label"]) for row in left]
    assert sorted(found) == sorted(distinct)
    assert counts["answers_in"] == len(answers) == sum(counts.values()) - len(answers)
    assert (again, sorted(map(str, rest))) == (pairs, sorted(map(str, left)))


def test_a_pair_as_two_answers_and_back_loses_nothing(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{number // 3}", "chosen": f"good {number}", "rejected": f"bad {number}"} for number in range(9)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    config = SubsampleConfig(kind="preference", split="train")
    subsample_preference([tmp_path / "train.parquet"], (), (), config, tmp_path, Silent())
    pairs = pq.read_table(tmp_path / "train.parquet")
    answers = unpaired_view(pairs)
    assert answers["label"].to_pylist() == [True, False] * 9
    back = paired_view(answers)
    assert back.to_pylist() == pairs.select(back.schema.names).to_pylist()
