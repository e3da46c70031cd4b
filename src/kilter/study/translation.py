"""Turns what Pydantic finds wrong with a study into plain words, with what was probably meant."""

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from kilter.study.document import shown
from kilter.study.methods import METHODS
from kilter.study.problems import Complaint, FieldPath, path_text
from kilter.study.specification import Study
from kilter.study.wording import listed, nearest, number_text, sentences, suggestion

_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_LIMITS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
_EXAMPLES = {
    "sizes": "500",
    "size": "1000",
    "limit": "100",
    "num_fewshot": "5",
    "micro_batch_size": "8",
    "max_prompt_length": "512",
    "prompt_characters": "4000",
    "answer_characters": "4000",
    "seeds": "0",
}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_METHOD_EXAMPLE = "`{name: kto, beta: 0.1}`"
_LIST_EXAMPLE = "write a list: `methods: [{name: kto, beta: 0.1}]`"
_KINDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of field names to values",
    "model_attributes_type": "a mapping of field names to values",
}


def complaints_of(errors: Sequence[ErrorDetails], data: Any, root: type[BaseModel] = Study) -> tuple[Complaint, ...]:
    """Translate Pydantic's errors about `data`, one complaint a place however many types a place could have had."""
    places: dict[FieldPath, list[ErrorDetails]] = {}
    for error in errors:
        places.setdefault(place_of(error, data), []).append(error)
    # Where a list could also have been something else, its wrong items say more than that it is not the other thing.
    deepest = [path for path in places if not any(len(other) > len(path) == _shared(path, other) for other in places)]
    return tuple(_complaint(path, places[path], root) for path in deepest)


def coerced(data: Any, understood: Any, path: FieldPath = ()) -> Iterator[Complaint]:
    """Find values that Pydantic would convert silently: numbers in quotes, and true or false for a number."""
    if isinstance(data, dict) and isinstance(understood, Mapping):
        for name, value in data.items():
            if name in understood:
                yield from coerced(value, understood[name], (*path, name))
    elif isinstance(data, list) and isinstance(understood, Sequence) and not isinstance(understood, str):
        for index, (value, inner) in enumerate(zip(data, understood, strict=False)):
            yield from coerced(value, inner, (*path, index))
    elif isinstance(data, str) and isinstance(understood, bool | int | float):
        yield Complaint(path, "this is text, not a number", f"write {understood} without quotes")
    elif isinstance(data, bool) and not isinstance(understood, bool):
        yield Complaint(path, "true and false are not numbers", "write a number")
    elif isinstance(understood, bool) and not isinstance(data, bool):
        yield Complaint(path, "this is not true or false", "write true or false")


def place_of(error: ErrorDetails, data: Any) -> FieldPath:
    """Return where in the data an error is: Pydantic's location without the types that it tried on the way."""
    path: FieldPath = ()
    value = data
    location = error["loc"]
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if (
            isinstance(value, dict)
            and isinstance(part, str)
            and (part in value or (last and error["type"] == "missing"))
        ):
            path, value = (*path, part), value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path, value = (*path, part), value[part]
    return path


def model_at(path: FieldPath, root: type[BaseModel] = Study) -> type[BaseModel] | None:
    """Return the specification that describes the mapping at a place; None where none does."""
    annotation: Any = root
    for part in path:
        model = _model_in(annotation)
        if isinstance(part, int):
            annotation = _item_of(annotation)
        elif model is not None and part in model.model_fields:
            annotation = model.model_fields[part].annotation
        else:
            return None
    return _model_in(annotation)


def described(path: FieldPath, root: type[BaseModel] = Study) -> str:
    """Return what the specification says about a field, on one line; empty where it says nothing."""
    field = _field_at(path, root)
    return " ".join((field.description or "").split()) if field else ""


def instruction(path: FieldPath, root: type[BaseModel] = Study) -> str:
    """Say what to write at a place, with an example: `write a positive whole number, such as 500`; empty if unknown."""
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    model = model_at(_named(path)[:-1], root) if path else None
    if model is None or name not in model.model_fields:
        return ""
    schema = model.model_json_schema()
    node = schema["properties"][name]
    if path and isinstance(path[-1], int):
        node = next((part["items"] for part in node.get("anyOf", [node]) if "items" in part), node)
    words = _words(node)
    inner = model_at(path, root) if not isinstance(path[-1], int) and "items" not in node else None
    if not words and inner is not None:
        return f"write a mapping with its fields: {listed(inner.model_fields)}"
    default = model.model_fields[name].default
    if isinstance(default, str | int | float) and not isinstance(default, bool):
        example = f"{number_text(default) if not isinstance(default, str) else f'`{default}`'} (the default)"
    else:
        example = _EXAMPLES.get(name, "")
        example = f"`[{example}]`" if example and "items" in node else example
    return f"write {words}{f', such as {example}' if example else ''}" if words else ""


def _named(path: FieldPath) -> FieldPath:
    """Shorten a place in a list to the place of the list."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    return path


def _field_at(path: FieldPath, root: type[BaseModel]) -> FieldInfo | None:
    path = _named(path)
    model = model_at(path[:-1], root) if path else None
    return model.model_fields.get(str(path[-1])) if model else None


def _words(node: dict[str, Any]) -> str:
    """Put a JSON Schema into words; what has none, such as a reference, is left out."""
    if "anyOf" in node:
        return " or ".join(text for text in map(_words, node["anyOf"]) if text)
    if "enum" in node:
        return listed(node["enum"], "or")
    if "const" in node:
        return f"`{node['const']}`"
    kind = node.get("type")
    if kind == "integer":
        if node.get("exclusiveMinimum") == 0:
            return "a positive whole number"
        return "a whole number" + (f" of at least {node['minimum']}" if "minimum" in node else "")
    if kind == "number":
        bounds = [f"{words} {node[key]:g}" for key, words in _LIMITS.items() if key in node]
        return " ".join(["a number", " and ".join(bounds)]).strip()
    if kind == "array":
        return f"a list, each item {inner}" if (inner := _words(node.get("items", {}))) else "a list"
    return {"string": "text", "boolean": "true or false"}.get(str(kind), "")


def _shared(one: FieldPath, other: FieldPath) -> int:
    return next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _complaint(path: FieldPath, errors: Sequence[ErrorDetails], root: type[BaseModel]) -> Complaint:
    first = errors[0]
    name = str(path[-1]) if path else ""
    if first["type"] == "extra_forbidden":
        return Complaint(path, f"there is no field `{name}` {_within(path)}", _known_fields(path, root))
    about = described(path, root)
    written = first["input"]
    if first["type"] == "missing":
        if path[:1] == ("methods",) and name == "name" and isinstance(written, dict):
            return Complaint(path, "a method needs its `name`", _as_method(written))
        return Complaint(path, f"`{name}` is missing", sentences("add it", about))
    if written is None:
        return Complaint(path, "nothing is written here", sentences("write a value or remove the line", about))
    if any(error["type"] == "string_pattern_mismatch" for error in errors):
        reason = "a name is letters, digits, `.`, `_` and `-`, and begins with a letter or digit"
        return Complaint(path, reason, "leave out spaces and other signs")
    if any(error["type"] == "string_too_long" for error in errors):
        return Complaint(path, "a name has at most 64 characters", "choose a shorter one")
    expected = dict.fromkeys(text for error in errors for text in _expected(error))
    reason = f"this must be {' or '.join(expected)}" if expected else first["msg"]
    options = [option for error in errors for option in _options(error)]
    if isinstance(written, str) and (near := nearest(written, options)):
        return Complaint(path, reason, f"did you mean `{near}`?")
    if path == ("methods",) and isinstance(written, dict):
        return Complaint(path, reason, _as_methods(written))
    if path == ("seeds",) and type(written) is int and written > 1:
        return Complaint(path, reason, sentences(_as_seeds(written), about))
    of_numbers = "number" in instruction((*path, 0), root)
    if "a list" in expected and isinstance(written, str) and of_numbers:
        fix = instruction(path, root)
    elif "a list" in expected and (not isinstance(written, dict) or path == ("benchmarks",)):
        fix = f"write it as a list: `[{shown(written)}]`"
    elif list(expected) == ["text"] and isinstance(written, bool | int | float):
        fix = f'put it in quotes: "{written}"'
    else:
        fix = instruction(path, root) or f"write {' or '.join(expected) or 'another value'}"
    return Complaint(path, reason, sentences(fix, about))


def _as_method(written: dict[str, Any]) -> str:
    """Advise on a method whose name is not under `name`, perhaps because it was written as the field's name."""
    if written and written.keys() <= METHODS.keys():
        items = [_one_method(name, settings) for name, settings in written.items()]
        if None not in items:
            return "write " + ", then ".join(f"`{shown(item)}`" for item in items)
    return f"write {_METHOD_EXAMPLE} with the name of a method: {listed(METHODS, 'or')}"


def _as_methods(written: dict[str, Any]) -> str:
    """Advise on methods that are written as a mapping instead of a list."""
    items = [written] if "name" in written else [_one_method(name, inner) for name, inner in written.items()]
    text = shown(items) if items and None not in items else ""
    return f"write a list: `methods: {text}`" if text and "…" not in text else _LIST_EXAMPLE


def _one_method(name: str, settings: Any) -> Any:
    """Return a method as a study writes it; None where the settings are no settings."""
    if settings is None or settings == {}:
        return name
    return {"name": name, **settings} if isinstance(settings, dict) else None


def _as_seeds(count: int) -> str:
    if count < len(_NUMBERS):
        return f"{_NUMBERS[count]} seeds are `{list(range(count))}`; only seed {count} is `[{count}]`"
    return f"{count} seeds are the list from 0 to {count - 1}; only seed {count} is `[{count}]`"


def _expected(error: ErrorDetails) -> Iterator[str]:
    kind = error["type"]
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        yield f"a number {words} {error.get('ctx', {}).get(bound, 0):g}"
    elif kind in _KINDS:
        yield _KINDS[kind]
    elif kind == "literal_error":
        yield str(error.get("ctx", {}).get("expected", "")).replace("'", "`")


def _options(error: ErrorDetails) -> Iterator[str]:
    if error["type"] == "literal_error":
        expected = str(error.get("ctx", {}).get("expected", ""))
        yield from (text.strip("' ") for text in expected.replace(" or ", ", ").split(","))


def _within(path: FieldPath) -> str:
    return f"in `{path_text(path[:-1])}`" if len(path) > 1 else "in a study"


def _known_fields(path: FieldPath, root: type[BaseModel]) -> str:
    name = str(path[-1])
    model = model_at(path[:-1], root)
    fields = list(model.model_fields) if model else []
    if nearest(name, fields) is None:
        elsewhere = [
            path_text(place[:-1]) or "the study itself" for place in _fields_named(name, root) if place != path
        ]
        if elsewhere:
            return f"`{name}` belongs in {listed(elsewhere, 'or')}"
    return suggestion(name, fields, "fields here") if fields else "remove it"


def _fields_named(name: str, model: type[BaseModel], path: FieldPath = (), depth: int = 4) -> Iterator[FieldPath]:
    for field, information in model.model_fields.items():
        if field == name:
            yield (*path, field)
        inner = _model_in(information.annotation)
        if inner is not None and depth:
            yield from _fields_named(name, inner, (*path, field), depth - 1)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        for part in get_args(annotation):
            if (model := _model_in(part)) is not None:
                return model
    return None


def _item_of(annotation: Any) -> Any:
    if get_origin(annotation) is tuple:
        return get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        for part in get_args(annotation):
            if (item := _item_of(part)) is not None:
                return item
    return None
