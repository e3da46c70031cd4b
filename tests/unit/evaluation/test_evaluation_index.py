import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.errors import WrongInput
from kilter.evaluation.index import (
    TaskIndex,
    decode,
    encode,
    own_tasks,
    require_task,
    scan,
    stock_tasks,
    suggest,
    task_known,
    write,
)

NAMES = st.text(alphabet="abc_", min_size=1, max_size=6)


@pytest.mark.parametrize(
    "name",
    ["gsm8k", "arc_challenge", "mmlu", "mmlu_anatomy", "bbh_cot_fewshot_causal_judgement", "ai2_arc", "truthfulqa_mc2"],
)
def test_stock_tasks_groups_and_tags_are_known(name):
    assert task_known(name)
    require_task(name)


def test_a_wrong_name_is_refused_with_the_nearest_ones():
    assert not task_known("arc_chalenge")
    assert suggest("arc_chalenge")[0] == "arc_challenge"
    with pytest.raises(WrongInput, match="did you mean hellaswag"):
        require_task("hellaswg")


def test_a_task_file_of_the_study_is_refused():
    with pytest.raises(WrongInput, match="may run code"):
        require_task("./tasks/mine.yaml")


def test_looking_a_name_up_imports_neither_the_harness_nor_torch():
    code = (
        "import sys; from kilter.evaluation.index import task_known, suggest; "
        "assert task_known('gsm8k') and suggest('gsm9k'); "
        "assert not {'lm_eval', 'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_of_own_tasks_start_with_kilter():
    assert all(name.startswith("kilter_") for name in own_tasks())


@given(
    st.dictionaries(NAMES, st.tuples(NAMES, NAMES), max_size=8).map(
        lambda drawn: {name: place for name, place in drawn.items() if list(drawn.values()).count(place) == 1}
    ),
    st.data(),
)
def test_encoding_loses_nothing(places, data):
    files = {name: f"{folder}/{stem}.yaml" for name, (folder, stem) in places.items()}
    tags = {}
    if files:
        members = st.sets(st.sampled_from(sorted(files)), min_size=1).map(lambda names: tuple(sorted(names)))
        tags = data.draw(st.dictionaries(NAMES.filter(lambda tag: tag not in files), members, max_size=4))
    index = TaskIndex("1.2.3", files, tags)
    assert decode(encode(index)) == index


def test_what_is_written_is_read_back(tmp_path):
    import json

    index = TaskIndex("1.2.3", {"one": "a/b/one.yaml", "two": "a/other.yaml"}, {"both": ("one", "two")})
    write(index, tmp_path / "index.json")
    assert decode(json.loads((tmp_path / "index.json").read_text())) == index


@pytest.mark.slow
def test_the_shipped_index_equals_a_fresh_scan_of_the_installed_harness():
    fresh, shipped = scan(), stock_tasks()
    assert shipped.harness_version == fresh.harness_version
    assert dict(shipped.files) == dict(fresh.files)
    assert dict(shipped.tags) == dict(fresh.tags)
