"""Canonical JSON and keys."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.canonical import canonical_json, digest
from kilter.plan.graph import Reference, key_of

JSON_DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_DATA)
def test_a_round_trip_through_json_keeps_the_digest(value: object) -> None:
    assert digest(json.loads(canonical_json(value))) == digest(value)


@given(st.dictionaries(st.text(), JSON_DATA, min_size=2, max_size=5))
def test_the_order_of_fields_does_not_matter(value: dict[str, object]) -> None:
    assert digest(dict(reversed(value.items()))) == digest(value)


@given(JSON_DATA, JSON_DATA)
def test_different_data_have_different_bytes(left: object, right: object) -> None:
    same = json.dumps(_numbers(left), sort_keys=True) == json.dumps(_numbers(right), sort_keys=True)
    assert (canonical_json(left) == canonical_json(right)) == same


def _numbers(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: _numbers(item) for name, item in value.items()}
    return value


def test_one_and_one_point_zero_are_the_same_number() -> None:
    assert digest({"epochs": 1}) == digest({"epochs": 1.0})


def test_true_is_not_one() -> None:
    assert digest({"flag": True}) != digest({"flag": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest({"beta": value})


def test_a_key_depends_on_stage_code_config_and_inputs() -> None:
    source = Reference("prepare", "a" * 32)
    base = key_of("align", "1", {"beta": 0.1}, {"data": source})
    others = [
        key_of("sft", "1", {"beta": 0.1}, {"data": source}),
        key_of("align", "2", {"beta": 0.1}, {"data": source}),
        key_of("align", "1", {"beta": 0.2}, {"data": source}),
        key_of("align", "1", {"beta": 0.1}, {"data": Reference("prepare", "b" * 32)}),
        key_of("align", "1", {"beta": 0.1}, {"model": source}),
    ]
    assert len({base, *others}) == 6
    assert len(base) == 32
