"""What a study is checked against without importing the data is what the data are."""

from pathlib import Path

import yaml

import kilter.data
from kilter.data.builtin import BUILTIN
from kilter.data.templates import TEMPLATES
from kilter.study.builtin import BUILTIN_SPLITS, BUILTIN_TEMPLATES
from kilter.study.suites import SUITES


def test_built_in_data_sets_have_the_stated_rows():
    assert {name: dict(data.rows) for name, data in BUILTIN.items()} == {
        name: dict(splits) for name, splits in BUILTIN_SPLITS.items()
    }


def test_built_in_templates_are_those_that_exist():
    assert set(BUILTIN_TEMPLATES) == set(TEMPLATES)


def test_suites_of_decontamination_are_the_suites_of_evaluation():
    listed = yaml.safe_load(Path(kilter.data.__file__).with_name("benchmark_sets.yaml").read_text())["suites"]
    assert listed == {name: [benchmark.task for benchmark in members] for name, members in SUITES.items()}
