"""Facts: dated, overridable, and silent about what is not known."""

import pytest

from kilter.study.facts import load_facts
from kilter.study.problems import StudyProblems


def test_what_is_not_known_is_absent():
    facts = load_facts()
    assert facts.rows("nobody/nothing") == {}
    assert facts.shape("nobody/nothing") is None
    assert "train" not in facts.rows("HuggingFaceH4/ultrachat_200k")


def test_every_shipped_fact_says_when_and_where_from():
    facts = load_facts()
    for entry in (*facts.models.values(), *facts.data.values()):
        assert entry.recorded.year >= 2026
        assert entry.origin


def test_the_parameters_of_a_shape_follow_from_it():
    shape = load_facts().shape("mistralai/Mistral-7B-v0.1")
    assert shape is not None
    width, head = shape.hidden_size, shape.hidden_size // shape.heads
    attention = 2 * width * width + 2 * width * shape.key_value_heads * head
    layer = attention + 3 * width * shape.intermediate_size + 2 * width
    assert shape.layers * layer + 2 * shape.vocabulary * width + width == shape.parameters


def test_a_studys_own_facts_win(tmp_path):
    path = tmp_path / "facts.yaml"
    path.write_text(
        "data:\n"
        "  HuggingFaceH4/ultrachat_200k: {recorded: 2027-01-02, origin: counted, rows: {train_sft: 5}}\n"
        "  org/own: {recorded: 2027-01-02, origin: counted, rows: {train: 7}}\n"
    )
    facts = load_facts(path)
    assert facts.rows("HuggingFaceH4/ultrachat_200k") == {"train_sft": 5}
    assert facts.rows("org/own") == {"train": 7}
    assert facts.shape("mistralai/Mistral-7B-v0.1") == load_facts().shape("mistralai/Mistral-7B-v0.1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {org/own: {rows: {train: 7}}}", "`recorded` is missing"),
        ("data: {org/own: {recorded: 2027-01-02, origin: x, rows: {train: -7}}}", "at least 0"),
        ("modles: {}", "did you mean `models`"),
        ("models: {x: {recorded: soon, origin: x}}", "line 1, models.x.recorded"),
    ],
)
def test_wrong_facts_are_refused(tmp_path, text, message):
    path = tmp_path / "facts.yaml"
    path.write_text(text)
    with pytest.raises(StudyProblems, match=message):
        load_facts(path)
