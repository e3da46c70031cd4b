"""Answers to fixed prompts, with a tiny model of random weights."""

import pyarrow.parquet as pq
import pytest
import torch

from kilter.errors import StageFailed
from kilter.evaluation.runner import evaluate_generations

PROMPTS = [
    [{"role": "user", "content": "What is 2 + 3?"}],
    [{"role": "user", "content": "Say it again, with many more words than the other prompts have."}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
]


def answers(folder):
    return pq.read_table(folder / "generations.parquet").to_pylist()


def test_every_prompt_is_answered_in_order(loaded_model, tmp_path):
    summary = evaluate_generations(loaded_model, PROMPTS, 12, tmp_path, prompt_ids=["x", "y", "z"])
    rows = answers(tmp_path)
    assert [row["prompt_id"] for row in rows] == ["x", "y", "z"]
    assert [row["prompt"] for row in rows] == [
        PROMPTS[0][0]["content"],
        PROMPTS[1][0]["content"],
        "user: a\n\nassistant: b\n\nuser: c",
    ]
    assert summary["prompts"] == 3
    assert summary["template"] == "model"
    assert summary["tokens"] <= 36


def test_an_answer_is_the_greedy_one_whatever_else_is_in_the_batch(loaded_model, tmp_path):
    evaluate_generations(loaded_model, PROMPTS, 8, tmp_path)
    for prompt, row in zip(PROMPTS, answers(tmp_path), strict=True):
        ids = loaded_model.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        for _ in range(8):
            with torch.inference_mode():
                token = int(loaded_model.network(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)
            if token == loaded_model.tokenizer.eos_token_id:
                break
        start = len(loaded_model.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))
        assert row["answer"] == loaded_model.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def test_an_answer_stops_at_the_end_of_sequence(loaded_model, tmp_path, monkeypatch):
    network = loaded_model.network
    steps = []

    def end_at_the_third(*args, **options):
        output = type(network).forward(network, *args, **options)
        steps.append(1)
        output.logits[:, -1, :] = -1.0
        output.logits[:, -1, 1 if len(steps) >= 3 else 40] = 5.0
        return output

    monkeypatch.setattr(network, "forward", end_at_the_third, raising=False)
    summary = evaluate_generations(loaded_model, PROMPTS[:2], 50, tmp_path)
    assert summary["tokens"] == 6
    assert summary["ended"] == 2
    assert len(steps) == 3


def test_a_template_given_is_used_instead(loaded_model, tmp_path):
    given = evaluate_generations(loaded_model, PROMPTS, 4, tmp_path / "a", chat_template="{{ messages[-1].content }}>")
    assert given["template"] == "given"


def test_a_prompt_longer_than_the_context_is_cut_and_counted(loaded_model, tmp_path):
    long = [[{"role": "user", "content": "word " * 1000}], PROMPTS[0]]
    summary = evaluate_generations(loaded_model, long, 5000, tmp_path)
    assert summary["truncated"] == 1
    assert summary["max_new_tokens"] == loaded_model.context_length // 2


def test_no_prompts_are_an_error(loaded_model, tmp_path):
    with pytest.raises(StageFailed, match="no prompts"):
        evaluate_generations(loaded_model, [], 5, tmp_path)
