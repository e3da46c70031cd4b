"""The committed JSON Schema is fresh, and editors that use it agree with Kilter."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from kilter.study.document import read_document
from kilter.study.methods import METHODS
from kilter.study.schema import SCHEMA_PATH, schema, schema_text
from kilter.study.template import TEMPLATE_PATH

STUDIES = sorted((Path(__file__).parents[3] / "studies").glob("*.yaml"))
RIGHT = {
    "name": "right",
    "models": {"base": {"source": "org/base"}},
    "data": {"preference": {"source": "org/pairs"}},
    "methods": ["dpo", {"name": "cpo", "beta": [0.1, 0.2], "cpo_alpha": 0, "training": {"epochs": [1, 2]}}],
    "sizes": [10, "all"],
    "benchmarks": ["gsm8k", {"task": "insights-13", "limit": 3}],
}


@pytest.fixture(scope="module")
def validator():
    Draft202012Validator.check_schema(schema())
    return Draft202012Validator(schema())


def test_the_committed_schema_is_fresh():
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema_text(), "run `python -m kilter.study.schema`"


@pytest.mark.parametrize("path", [*STUDIES, TEMPLATE_PATH], ids=lambda path: path.name)
def test_shipped_studies_fit_the_schema(path, validator):
    data = read_document(path.read_text(encoding="utf-8"), path.name).data
    assert [error.message for error in validator.iter_errors(data)] == []


def test_shorthands_and_axes_fit(validator):
    assert [error.message for error in validator.iter_errors(RIGHT)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"methods": ["dop"]},
        {"methods": [{"name": "dpo", "cpo_alpha": 1}]},
        {"methods": [{"name": "dpo", "beta": 0}]},
        {"methods": [{"name": "dpo", "beta": []}]},
        {"methods": [{"name": "dpo", "training": {"lr": 1}}]},
        {"methods": [{"beta": 0.1}]},
        {"benchmarks": [{"limit": 3}]},
        {"benchmarks": [{"task": "x", "limit": 0}]},
        {"sizes": [-1]},
        {"sizes": ["most"]},
        {"scenarios": ["bse"]},
        {"traning": {}},
        {"name": "my study"},
    ],
    ids=json.dumps,
)
def test_editors_refuse_what_kilter_refuses(change, validator):
    assert not validator.is_valid({**RIGHT, **change})


def test_editors_can_say_what_each_field_means():
    def undescribed(node, path):
        if isinstance(node, dict):
            for name, field in node.get("properties", {}).items():
                if "description" not in field and "$ref" not in field:
                    yield f"{path}.{name}"
            for name, inner in node.items():
                yield from undescribed(inner, f"{path}.{name}")
        elif isinstance(node, list):
            for index, inner in enumerate(node):
                yield from undescribed(inner, f"{path}[{index}]")

    assert list(undescribed(schema(), "")) == []


def test_every_method_is_offered():
    names, *choices = schema()["$defs"]["MethodChoice"]["anyOf"]
    assert names["enum"] == list(METHODS)
    assert [choice["properties"]["name"]["const"] for choice in choices] == list(METHODS)
