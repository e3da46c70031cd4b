"""The demo's data: deterministic, disjoint where it must be, and right where it says so."""

import random
import re
from collections import Counter

import pyarrow.parquet as pq
import pytest

from kilter.canonical import digest
from kilter.data import demo
from kilter.data.builtin import BUILTIN, benchmark_folder
from kilter.study.builtin import BUILTIN_SPLITS

SPLITS = ("instruct", "sft", "preference")
EVERY_SEED = (0, 1, 2)
PINNED = {
    "text": "4abdd80c8bbb987c",
    "instruct": "b11b68d389bed6d8",
    "sft": "79d8767f3f7ed54b",
    "preference": "1cf1f6b008a833db",
    "kilter/arithmetic/default/test": "73b2a4a16c110e1f",
    "kilter/ordering/default/test": "701d71c1f2044f50",
    "kilter/copying/default/test": "3ea90610ea96321b",
    "kilter/extracting/default/test": "ae6fe70ceb6043db",
    "kilter/statements/default/test": "92b25d6f7e4650b9",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    BUILTIN["demo"].write(folder)
    return folder


def rows(folder, name):
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def prompt_and_answer(messages):
    assert [message["role"] for message in messages] == ["user", "assistant"]
    return messages[0]["content"], messages[1]["content"]


def facts_of_kind():
    """What each thing is, from the generator's own table, which a reader can check by eye."""
    things = [(thing, kind) for kind, names in demo.KINDS.items() for thing in names]
    assert len(dict(things)) == len(things), "a thing is of two kinds"
    return dict(things)


def question_of(item):
    return re.fullmatch(r"Question: (.+)\nAnswer:", item["prompt"])[1]


def solve(question):
    """Answer a question from its words alone, independently of the generator."""
    if match := re.fullmatch(r"What is (\d+) ([+-]) (\d+)\?", question):
        left, right = int(match[1]), int(match[3])
        return str(left + right if match[2] == "+" else left - right)
    if match := re.fullmatch(r"Sort the letters ([a-z ]+)\.", question):
        return " ".join(sorted(match[1].split()))
    if match := re.fullmatch(r"Repeat the letters ([a-z ]+)\.", question):
        return match[1]
    if match := re.fullmatch(r"Of the letters (.) (.) (.), which is the (first|second|third)\?", question):
        return match[{"first": 1, "second": 2, "third": 3}[match[4]]]
    if match := re.fullmatch(r"Which is true: (.+) or (.+)\?", question):
        true = [statement for statement in match.groups() if is_true(statement)]
        assert len(true) == 1, question
        return true[0]
    raise AssertionError(f"no task asks {question!r}")


def is_true(statement):
    thing, kind = re.fullmatch(r"an? (\w+) is an? (\w+)", statement).groups()
    return facts_of_kind()[thing] == kind


def meaning(question):
    """What a question asks, whatever the order in which it names things."""
    if question.startswith("Sort"):
        return ("sort", frozenset(question[:-1].split()[3:]))
    if question.startswith("Which"):
        return ("which", frozenset(re.fullmatch(r"Which is true: (.+) or (.+)\?", question).groups()))
    if match := re.fullmatch(r"What is (\d+) \+ (\d+)\?", question):
        return ("sum", frozenset(match.groups()))
    return question


def test_the_data_are_pinned(folder):
    names = [*BUILTIN["demo"].rows, *(f"kilter/{task}/default/test" for task in demo.TASKS)]
    found = {name: digest(rows(folder, name))[:16] for name in names}
    assert BUILTIN["demo"].version == 1
    assert found == PINNED, "the data changed: raise the version of the built-in data set, then pin the new digests"


def test_writing_twice_gives_the_same_bytes(folder, tmp_path):
    BUILTIN["demo"].write(tmp_path)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((folder / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_row_counts_are_those_that_studies_are_checked_against(folder):
    counted = {split: len(rows(folder, split)) for split in BUILTIN["demo"].rows}
    assert counted == dict(BUILTIN["demo"].rows) == dict(BUILTIN_SPLITS["demo"])


def test_benchmark_folder_is_a_mirror(folder, tmp_path):
    mirror = benchmark_folder(tmp_path)
    for task in demo.TASKS:
        file = f"kilter/{task}/default/test.parquet"
        assert (mirror / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize("seed", EVERY_SEED)
def test_no_benchmark_question_is_trained_on_in_any_order(seed):
    held_out = {meaning(question_of(row)) for task in demo.TASKS for row in demo.benchmark_rows(task, seed)}
    assert len(held_out) == demo.TEST_ITEMS * len(demo.TASKS)
    trained = {
        meaning(row["messages"][0]["content"]) for split in ("sft", "instruct") for row in conversations(split, seed)
    }
    trained |= {meaning(row["prompt"]) for row in demo.preference_rows(seed)}
    asked = [re.match(r"Question: (.+)\n", row["text"]) for row in demo.text_rows(seed)]
    trained |= {meaning(match[1]) for match in asked if match}
    assert not held_out & trained


def test_no_remark_of_the_text_tells_a_held_out_sum_or_order(folder):
    text = [row["text"] for row in rows(folder, "text")]
    remarks = {remark.split(" is ")[0] for remark in text if re.match(r"\d", remark)}
    sums = {question_of(row)[8:-1] for row in demo.benchmark_rows("arithmetic")}
    sums |= {" + ".join(reversed(expression.split(" + "))) for expression in sums}
    assert remarks
    assert not remarks & sums
    letters = {frozenset(remark.split()[2:5]) for remark in text if " in order are " in remark}
    assert letters
    assert not letters & {frozenset(row["answer"].split()) for row in demo.benchmark_rows("ordering")}


def conversations(split, seed):
    return demo.conversation_rows(split, seed)


def test_prompts_of_the_training_splits_are_disjoint(folder):
    prompts = {
        "sft": [row["messages"][0]["content"] for row in rows(folder, "sft")],
        "instruct": [row["messages"][0]["content"] for row in rows(folder, "instruct")],
        "preference": [row["prompt"] for row in rows(folder, "preference")],
    }
    assert all(len(set(each)) == len(each) for each in prompts.values()), "a prompt is repeated"
    everything = [meaning(prompt) for each in prompts.values() for prompt in set(each)]
    by_split = [{meaning(prompt) for prompt in each} for each in prompts.values()]
    assert len(set(everything)) == sum(len(each) for each in by_split)


@pytest.mark.parametrize("split", ["sft", "instruct"])
@pytest.mark.parametrize("seed", EVERY_SEED)
def test_every_conversation_answers_rightly(split, seed):
    for row in demo.conversation_rows(split, seed):
        question, answer = prompt_and_answer(row["messages"])
        assert answer == solve(question)


@pytest.mark.parametrize("seed", EVERY_SEED)
def test_every_chosen_answer_is_right_and_every_rejected_one_wrong(seed):
    for row in demo.preference_rows(seed):
        question, chosen = prompt_and_answer(row["chosen"])
        same, rejected = prompt_and_answer(row["rejected"])
        assert question == same == row["prompt"]
        assert chosen == solve(question) != rejected


@pytest.mark.parametrize("seed", EVERY_SEED)
@pytest.mark.parametrize("task", demo.TASKS)
def test_a_benchmark_item_has_one_right_choice(task, seed):
    items = demo.benchmark_rows(task, seed)
    for item in items:
        assert len(set(item["choices"])) == len(item["choices"])
        assert item["choices"][item["label"]] == item["answer"] == solve(question_of(item))
    places = Counter(item["label"] for item in items)
    fair = len(items) / len(items[0]["choices"])
    assert all(abs(count - fair) < 5 * fair**0.5 for count in places.values()), "the right choice has a favourite place"


def test_tasks_are_evenly_mixed_along_every_beginning(folder):
    for split in SPLITS:
        read = rows(folder, split)
        first = [row.get("prompt") or row["messages"][0]["content"] for row in read[: 5 * (len(read) // 10)]]
        assert set(Counter(question.split()[0] for question in first if question[:4] in {"Sort", "Repe"}).values()) == {
            len(first) // 5
        }


def test_the_text_is_noisy_as_documented(folder):
    asked = [re.fullmatch(r"Question: (.+)\nAnswer: (.+)", row["text"]) for row in rows(folder, "text")]
    answered = [match.groups() for match in asked if match]
    assert abs(len(answered) / len(asked) - demo.QUESTION_SHARE) < 0.02
    right = sum(solve(question) == answer for question, answer in answered) / len(answered)
    assert abs(right - (1 - demo.MISTAKES_IN_ANSWERS)) < 0.02


@pytest.mark.parametrize("task", demo.TASKS)
def test_an_item_has_one_split_and_shares_are_kept(task):
    source = random.Random(7)
    splits = Counter(demo.TASKS[task](source).split for _ in range(4000))
    for split, share in demo.SHARES.items():
        assert abs(splits[split] / 4000 - share) < 0.05
