"""Canonical JSON and digests: the one way in which anything becomes part of a key."""

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Encode JSON data so that equal data give equal bytes: sorted fields, no spaces, UTF-8.

    A float that is a whole number is written as an integer, so that `1` and `1.0` in a study are the same question.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: the value is not JSON data.
    """
    return json.dumps(
        _normalised(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _normalised(value: Any) -> Any:
    if isinstance(value, dict):
        for field in value:
            if not isinstance(field, str):
                raise TypeError(f"a field name of canonical JSON is text, got {field!r}")
        return {field: _normalised(inner) for field, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_normalised(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
