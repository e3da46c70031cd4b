from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.store.names import InvalidName, check_name, check_prefix


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        ".",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "..\\x",
        "a\x00b",
        "a\nb",
        "a\x7fb",
        "a\x85b",
        "a\u2028b",
        "a\ud800b",
        "x" * 256,
        "/".join(["x" * 200] * 5),
    ],
)
def test_a_name_that_could_do_harm_is_refused(name):
    with pytest.raises(InvalidName):
        check_name(name)


@pytest.mark.parametrize(
    "name", ["a", "a/b.json", "model-00001-of-00002.safetensors", "..a/b..", "...", "é ü/日本", ".x"]
)
def test_a_plain_name_is_taken_as_it_is(name):
    assert check_name(name) == name


@given(st.text())
def test_a_name_that_passes_stays_below_its_folder(name):
    try:
        check_name(name)
    except InvalidName:
        return
    path = PurePosixPath("/store") / name
    assert path.parts[:2] == ("/", "store")
    assert ".." not in path.parts
    assert str(path) == f"/store/{name}"


@given(st.text())
def test_a_refusal_can_be_printed(name):
    with pytest.raises(InvalidName) as caught:
        check_name(f"/{name}")
    assert str(caught.value).isprintable()


def test_a_prefix_may_be_empty_or_end_with_a_slash_but_not_climb():
    assert check_prefix("") == ""
    assert check_prefix("align/") == "align/"
    assert check_prefix("align/ab") == "align/ab"
    for prefix in ("/", "//", "../", "align//", "align/../"):
        with pytest.raises(InvalidName):
            check_prefix(prefix)
