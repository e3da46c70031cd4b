"""Generates the JSON Schema by which editors complete and check a study file.

Run `python -m kilter.study.schema` after changing the specification; a test fails while the committed file is stale.
"""

import json
from pathlib import Path
from typing import Any

from kilter.study.builtin import BUILTIN_TEMPLATES
from kilter.study.methods import METHODS, Hyperparameter
from kilter.study.specification import AlignSettings, Study
from kilter.study.suites import SUITES

SCHEMA_PATH = Path(__file__).with_name("study.schema.json")
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a study file."""
    generated = Study.model_json_schema()
    definitions = generated["$defs"]
    definitions["AlignOverrides"] = _overrides_schema(definitions[AlignSettings.__name__]["properties"])
    definitions["MethodChoice"] = _method_schema(definitions["MethodChoice"]["description"])
    definitions["Benchmark"] = _benchmark_schema(definitions["Benchmark"])
    definitions["ModelSource"]["properties"]["chat_template"]["examples"] = list(BUILTIN_TEMPLATES)
    _tidy(generated)
    return {"$schema": DIALECT, **generated, "title": "Kilter study"}


def schema_text() -> str:
    """Return the text of the committed schema file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _method_schema(description: str) -> dict[str, Any]:
    titles = [f"{method.title}: {method.objective}" for method in METHODS.values()]
    names = {"enum": list(METHODS), "enumDescriptions": titles, "description": "The method, with its defaults."}
    choices = [_one_method_schema(name) for name in METHODS]
    return {"description": description, "anyOf": [names, *choices]}


def _one_method_schema(name: str) -> dict[str, Any]:
    method = METHODS[name]
    properties: dict[str, Any] = {"name": {"const": name, "description": f"{method.title}. {method.paper}."}}
    for parameter, described in method.hyperparameters.items():
        properties[parameter] = _hyperparameter_schema(described)
    properties["training"] = {"$ref": "#/$defs/AlignOverrides"}
    return {"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False}


def _hyperparameter_schema(parameter: Hyperparameter) -> dict[str, Any]:
    number: dict[str, Any] = {"type": "integer" if parameter.whole else "number"}
    number["minimum" if parameter.minimum_allowed else "exclusiveMinimum"] = parameter.minimum
    if parameter.maximum != float("inf"):
        number["maximum" if parameter.maximum_allowed else "exclusiveMaximum"] = parameter.maximum
    return _axis(number) | {
        "default": parameter.default,
        "description": f"{parameter.meaning} (default from {parameter.source}). A list is an axis of the grid.",
    }


def _overrides_schema(settings: dict[str, Any]) -> dict[str, Any]:
    properties = {}
    for name, setting in settings.items():
        value = {key: entry for key, entry in setting.items() if key not in ("description", "default", "title")}
        properties[name] = _axis(value) | {"description": setting["description"]}
    return {
        "type": "object",
        "description": "Settings that replace those of training.align for this method; a list is an axis of the grid.",
        "properties": properties,
        "additionalProperties": False,
    }


def _axis(value: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [value, {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}]}


def _benchmark_schema(generated: dict[str, Any]) -> dict[str, Any]:
    name = {"type": "string", "description": "The task's or suite's name, with its defaults.", "examples": list(SUITES)}
    description = generated.pop("description")
    return {"description": description, "anyOf": [name, generated]}


def _tidy(node: Any) -> None:
    """Remove the titles that repeat the fields' names, which editors would show in place of descriptions."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        for value in node.values():
            _tidy(value)
    elif isinstance(node, list):
        for value in node:
            _tidy(value)


if __name__ == "__main__":
    SCHEMA_PATH.write_text(schema_text(), encoding="utf-8")
