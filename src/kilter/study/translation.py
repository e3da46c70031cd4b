"""Turns what Pydantic finds wrong with a study into plain words, with what was probably meant."""

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails, PydanticUndefined

from kilter.study.problems import Complaint, FieldPath, path_text
from kilter.study.specification import Study
from kilter.study.wording import listed, nearest, suggestion

_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
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
    while path and isinstance(path[-1], int):
        path = path[:-1]
    model = model_at(path[:-1], root) if path else None
    field = model.model_fields.get(str(path[-1])) if model else None
    if field is None or not field.description:
        return ""
    text = " ".join(field.description.split())
    default = field.default
    if default is PydanticUndefined or default is None or isinstance(default, BaseModel):
        return text
    return f"{text.removesuffix('.')}. Default: {default!r}." if not isinstance(default, tuple | dict) else text


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
    if first["type"] == "missing":
        return Complaint(path, f"`{name}` is missing", f"add it. {about}".strip())
    written = first["input"]
    if written is None:
        return Complaint(path, "nothing is written here", f"write a value or remove the line. {about}".strip())
    fixes: list[str] = []
    if any(error["type"] == "string_pattern_mismatch" for error in errors):
        reason = "a name is letters, digits, `.`, `_` and `-`, and begins with a letter or digit"
        return Complaint(path, reason, "leave out spaces and other signs")
    if any(error["type"] == "string_too_long" for error in errors):
        return Complaint(path, "a name has at most 64 characters", "choose a shorter one")
    expected = dict.fromkeys(text for error in errors for text in _expected(error))
    reason = f"this must be {' or '.join(expected)}" if expected else first["msg"]
    options = [option for error in errors for option in _options(error)]
    if isinstance(written, str) and (near := nearest(written, options)):
        fixes.append(f"did you mean `{near}`?")
    elif "a list" in expected and not isinstance(written, dict):
        fixes.append(f"write it as a list: `[{written}]`")
    elif list(expected) == ["text"] and isinstance(written, bool | int | float):
        fixes.append(f'put it in quotes: "{written}"')
    return Complaint(path, reason, " ".join([*fixes, about]).strip() or f"write {' or '.join(expected)}")


def _expected(error: ErrorDetails) -> Iterator[str]:
    kind = error["type"]
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        yield f"a number {words} {error.get('ctx', {}).get(bound)}"
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
