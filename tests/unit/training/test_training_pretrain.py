"""Models from scratch: deterministic, finite, and readable by transformers."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from kilter.data.schemas import STEP_METRICS
from kilter.data.templates import PLAIN
from kilter.errors import Preempted, StageFailed, WrongInput
from kilter.plan.configs import PretrainConfig
from kilter.progress import Silent
from kilter.study.specification import Architecture
from kilter.training.pretrain import as_text, learning_rate_at, pack, read_texts, run_pretrain
from kilter.training.scratch import make_model, train_tokenizer

SMALL = Architecture(
    hidden_size=16, layers=1, heads=2, key_value_heads=1, intermediate_size=32, vocabulary=300, context_length=64
)
CONFIG = PretrainConfig(
    architecture=SMALL,
    steps=10,
    batch_size=4,
    sequence_length=32,
    learning_rate=1e-2,
    warmup_ratio=0.2,
    split="text",
    seed=0,
    chat_template="plain",
)
TEXTS = [f"{number} and {number + 1} are {2 * number + 1}." for number in range(200)]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"text": TEXTS}), folder / "text.parquet")
    return folder


def pretrain(data, output, config=CONFIG, stop=lambda: False):
    output.mkdir()
    return run_pretrain([data], config, output, Silent(), stop)


def test_ten_steps_are_deterministic_finite_and_learn(data, tmp_path):
    first, second = pretrain(data, tmp_path / "a"), pretrain(data, tmp_path / "b")
    weights, again = (load_file(tmp_path / name / "model" / "model.safetensors") for name in "ab")
    assert weights.keys() == again.keys()
    assert all(np.array_equal(weights[name], again[name]) and np.isfinite(weights[name]).all() for name in weights)
    metrics = pq.read_table(tmp_path / "a" / "metrics.parquet")
    assert metrics.schema == STEP_METRICS
    assert metrics.num_rows == first["steps"] == 10
    assert metrics["loss"].to_pylist() == pq.read_table(tmp_path / "b" / "metrics.parquet")["loss"].to_pylist()
    assert first["loss"] < first["first_loss"] < 1.1 * math.log(first["vocabulary"])
    assert first["tokens"] == second["tokens"] == metrics["tokens"].to_pylist()[-1]
    assert metrics["rewards_chosen"].null_count == 10


def test_another_seed_gives_another_model(data, tmp_path):
    pretrain(data, tmp_path / "a")
    pretrain(data, tmp_path / "b", CONFIG.model_copy(update={"seed": 1}))
    weights, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in "ab")
    assert not np.array_equal(weights["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_the_folder_loads_with_tokenizer_template_and_end_token(data, tmp_path):
    summary = pretrain(data, tmp_path / "out")
    folder = tmp_path / "out" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.num_parameters() == summary["parameters"]
    assert tokenizer.chat_template == PLAIN
    assert tokenizer.decode(tokenizer("ein Öl-Gemälde ☂\n")["input_ids"]) == "ein Öl-Gemälde ☂\n"
    assert tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id, "nothing is added to a text"
    assert model.config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    assert not list(folder.glob("*.bin"))


def test_a_global_generator_is_left_alone(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 300, None, tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    make_model(SMALL, tokenizer, seed=3)
    assert torch.rand(1) == expected


def test_a_loss_that_is_not_finite_stops_at_its_step(data, tmp_path):
    wild = CONFIG.model_copy(update={"learning_rate": 1e38, "warmup_ratio": 0.0})
    with pytest.raises(StageFailed, match=r"at step [0-9]+ of 10"):
        pretrain(data, tmp_path / "out", wild)


def test_stop_is_heard(data, tmp_path):
    with pytest.raises(Preempted, match="begins anew"):
        pretrain(data, tmp_path / "out", stop=lambda: True)


def test_marks_of_turns_become_single_tokens(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 300, "{{ '<|im_start|>' }}{{ '<|im_end|>' }}", tmp_path)
    assert len(tokenizer("<|im_start|><|im_end|>")["input_ids"]) == 2


def test_a_vocabulary_that_is_too_small_says_how_large_it_must_be(tmp_path):
    with pytest.raises(WrongInput, match="259 or more"):
        train_tokenizer(TEXTS, 100, None, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"heads": 3}, "multiple of heads"), ({"key_value_heads": 3}, "multiple of key_value_heads")],
)
def test_an_impossible_shape_is_refused(tmp_path, change, message):
    tokenizer = train_tokenizer(TEXTS, 300, None, tmp_path)
    with pytest.raises(WrongInput, match=message):
        make_model(SMALL.model_copy(update=change), tokenizer, seed=0)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "plain"}, "plain"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "q\n\na"),
        (
            {"prompt": "q", "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            "q\n\na",
        ),
        ({"prompt": "q", "chosen": "a"}, "q\n\na"),
        ({"prompt": "q", "completion": "a"}, "q\n\na"),
    ],
)
def test_known_columns_become_text(row, text, tmp_path):
    assert as_text(row, tmp_path / "x.parquet") == text


def test_columns_without_text_are_named(tmp_path):
    with pytest.raises(WrongInput, match=r"x\.parquet.*a row has prompt"):
        as_text({"prompt": "q"}, tmp_path / "x.parquet")


def test_several_folders_are_read_in_order(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(f'{{"text": "{name}1"}}\n{{"text": "{name}2"}}\n')
    assert list(read_texts([tmp_path / "b", tmp_path / "a"], "train")) == ["b1", "b2", "a1", "a2"]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=20), max_size=20), st.integers(1, 12))
def test_packing_keeps_every_token_in_order_and_cuts_only_what_is_too_long(documents, length):
    sequences = pack(documents, length)
    assert [token for sequence in sequences for token in sequence] == [token for each in documents for token in each]
    assert all(0 < len(sequence) <= length for sequence in sequences)
    starts = {0}
    for sequence in sequences:
        starts.add(max(starts) + len(sequence))
    place = 0
    for document in documents:
        inside = [start for start in starts if place < start < place + len(document)]
        assert not inside or len(document) > length
        place += len(document)


def test_learning_rate_rises_then_falls_to_a_tenth():
    config = CONFIG.model_copy(update={"steps": 100, "warmup_ratio": 0.1, "learning_rate": 1.0})
    rates = [learning_rate_at(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 45 / 89)))
    assert rates[99] == pytest.approx(0.1)
    assert all(0 < rate <= 1 for rate in rates)
