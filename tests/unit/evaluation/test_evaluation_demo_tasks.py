"""The demo's benchmarks: loadable by name, on held-out items, in the words that the demo's models are trained in."""

from pathlib import Path

import pytest
import yaml

from kilter.data import demo
from kilter.data.builtin import benchmark_folder
from kilter.data.mirror import Mirror
from kilter.evaluation.definitions import load_benchmark
from kilter.study.specification import Study
from kilter.training.scratch import train_tokenizer

STUDY = Path(__file__).parents[3] / "studies" / "demo.yaml"
NAMES = [f"kilter_{task}" for task in demo.TASKS]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    return Mirror.at(benchmark_folder(tmp_path_factory.mktemp("mirror")), tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def study():
    return Study.model_validate(yaml.safe_load(STUDY.read_text(encoding="utf-8")))


def test_the_demo_study_runs_all_of_them(study):
    assert sorted(benchmark.task for benchmark in study.benchmarks) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_reads_its_items(name, mirror):
    task = load_benchmark(name, None, mirror).tasks[name]
    documents = list(task.test_docs())
    rows = demo.benchmark_rows(name.removeprefix("kilter_"))
    assert [document["prompt"] for document in documents] == [row["prompt"] for row in rows]
    assert task.VERSION == 1
    assert task.get_config("num_fewshot") == 0
    assert task.doc_to_text(documents[0]) == rows[0]["prompt"]
    if task.OUTPUT_TYPE == "multiple_choice":
        assert task.doc_to_choice(documents[0]) == rows[0]["choices"]
        assert task.doc_to_choice(documents[0])[task.doc_to_target(documents[0])] == rows[0]["answer"]
    else:
        assert task.doc_to_target(documents[0]) == rows[0]["answer"]
    assert task.config.target_delimiter == " "


def test_the_prompt_is_what_the_chat_template_renders(study, tmp_path):
    tokenizer = train_tokenizer(["a b c"], 300, study.models.base.chat_template, tmp_path)
    for task in demo.TASKS:
        row = demo.benchmark_rows(task)[0]
        question = row["prompt"].removeprefix("Question: ").removesuffix("\nAnswer:")
        messages = [{"role": "user", "content": question}]
        assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == row["prompt"]
        messages.append({"role": "assistant", "content": row["answer"]})
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        assert rendered == f"{row['prompt']} {row['answer']}{tokenizer.eos_token}"
