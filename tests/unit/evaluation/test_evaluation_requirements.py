"""What a benchmark needs is known from its definition, and is what the harness then reads."""

import pytest

from kilter.data.mirror import Mirror
from kilter.errors import WrongInput
from kilter.evaluation.requirements import DataSplit, needed_splits


def names(splits: tuple[DataSplit, ...]) -> set[str]:
    return {Mirror.name(split.data_set, split.configuration, split.split) for split in splits}


def test_a_task_without_worked_examples_needs_only_what_it_evaluates():
    assert names(needed_splits("hellaswag", 0)) == {"Rowan/hellaswag/default/validation.parquet"}


def test_worked_examples_come_from_a_split_of_their_own():
    assert names(needed_splits("arc_challenge", 25)) == {
        "allenai/ai2_arc/ARC-Challenge/test.parquet",
        "allenai/ai2_arc/ARC-Challenge/train.parquet",
    }


def test_examples_that_are_written_in_the_definition_need_no_data():
    needed = names(needed_splits("bbh_cot_fewshot_causal_judgement", 3))
    assert needed == {"SaylorTwift/bbh/causal_judgement/test.parquet"}


def test_a_group_needs_what_its_tasks_need():
    needed = names(needed_splits("mmlu", 5))
    assert len(needed) == 57 * 2
    assert "cais/mmlu/virology/dev.parquet" in needed


def test_a_task_that_executes_generated_code_is_refused():
    with pytest.raises(WrongInput, match="executes code that the model wrote"):
        needed_splits("humaneval", None)
