import json
import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kilter.errors import CorruptObject, StoreError
from kilter.store.manifest import Manifest, Request, Resources, StoredObject

text = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)
json_objects = st.dictionaries(text, json_values, max_size=4)
moments = st.datetimes(
    datetime(2000, 1, 1),
    datetime(2100, 1, 1),
    timezones=st.just(UTC) | st.just(timezone(timedelta(hours=5, minutes=30))),
)
stored = st.builds(
    StoredObject,
    name=st.from_regex(r"[a-z]{1,8}(/[a-z.]{0,5}[a-z])?", fullmatch=True),
    size=st.integers(0, 2**50),
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
)
manifests = st.builds(
    Manifest,
    stage=st.just("align"),
    key=st.just("a" * 32),
    attempt=st.just("20260101T000000000000-00000000"),
    code=text,
    label=text,
    config=json_objects,
    inputs=st.dictionaries(text, text, max_size=3),
    objects=st.lists(stored, max_size=4).map(tuple),
    summary=json_objects,
    versions=st.dictionaries(text, text, max_size=3),
    host=text,
    started=moments,
    ended=moments,
    resources=st.builds(
        Resources,
        seconds=st.floats(0, 1e9),
        peak_memory_bytes=st.integers(0, 2**50),
        cpu_seconds=st.floats(0, 1e9),
        tokens=st.none() | st.integers(0, 2**50),
    ),
)


def a_manifest(**changes) -> Manifest:
    fields = {
        "stage": "align",
        "key": "a" * 32,
        "attempt": "first",
        "code": "1",
        "config": {},
        "objects": (),
        "host": "here",
        "started": datetime(2026, 1, 1, tzinfo=UTC),
        "ended": datetime(2026, 1, 2, tzinfo=UTC),
        "resources": Resources(seconds=1, peak_memory_bytes=2, cpu_seconds=3),
    }
    return Manifest(**fields | changes)


@given(manifests)
def test_a_manifest_comes_back_as_it_was_and_its_bytes_are_stable(manifest):
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data, "here")
    assert again == manifest
    assert again.to_bytes() == data


@given(manifests, st.data())
def test_a_changed_byte_is_noticed(manifest, data):
    original = manifest.to_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != original[position]))
    changed = original[:position] + bytes([other]) + original[position + 1 :]
    try:
        read = Manifest.from_bytes(changed, "here")
    except CorruptObject:
        return
    # White space between fields means nothing.
    assert read == manifest


@given(manifests, st.data())
def test_a_cut_manifest_is_refused(manifest, data):
    original = manifest.to_bytes()
    length = data.draw(st.integers(0, len(original) - 3))
    with pytest.raises(CorruptObject):
        Manifest.from_bytes(original[:length], "s3://here/manifest.json")


def test_a_person_can_read_it():
    lines = a_manifest(summary={"loss": 0.5}).to_bytes().decode().splitlines()
    assert '  "stage": "align",' in lines
    assert '    "loss": 0.5' in lines


def test_fields_of_a_later_version_are_passed_over():
    fields = json.loads(a_manifest().to_bytes())
    from kilter.canonical import digest

    del fields["digest"]
    fields["later"] = 1
    assert Manifest.from_bytes(json.dumps(fields | {"digest": digest(fields)}).encode(), "here") == a_manifest()


def test_what_is_whole_but_no_manifest_says_so():
    request = Request(stage="align", key="a" * 32, code="1", config={})
    with pytest.raises(StoreError, match="another version"):
        Manifest.from_bytes(request.to_bytes(), "here")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_a_number_that_json_cannot_hold_is_refused_with_its_place(value):
    with pytest.raises(ValidationError, match=r"losses\[1\]"):
        a_manifest(summary={"losses": [0.5, value]})


def test_tuples_and_numbers_of_numpy_become_plain():
    manifest = a_manifest(summary={"counts": (np.int64(3), np.float32(0.5), np.bool_(True))})
    assert manifest.summary == {"counts": [3, 0.5, True]}
    assert Manifest.from_bytes(manifest.to_bytes(), "here") == manifest


@pytest.mark.parametrize("value", [object(), {1: 2}, b"bytes", {3}, "\ud800"])
def test_what_is_no_json_is_refused(value):
    with pytest.raises(ValidationError):
        a_manifest(summary={"value": value})


@pytest.mark.parametrize("name", ["../x", "/x", "a\\b", ""])
def test_a_manifest_cannot_name_an_object_outside(name):
    with pytest.raises(ValidationError):
        StoredObject(name=name, size=1, sha256="0" * 64)


def test_times_are_utc_and_need_a_zone():
    east = datetime(2026, 1, 1, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert a_manifest(started=east).started.isoformat() == "2026-01-01T00:00:00+00:00"
    with pytest.raises(ValidationError):
        a_manifest(started=datetime(2026, 1, 1))
