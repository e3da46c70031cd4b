"""The base of every specification: frozen, strict about unknown fields, documented field by field."""

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """A frozen Pydantic model that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


def is_absent(value: object) -> bool:
    """Tell whether a field says nothing: with `exclude_if`, a question without it has the key that it always had."""
    return value is None
