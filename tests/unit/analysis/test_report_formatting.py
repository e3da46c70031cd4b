"""Numbers read as a person would write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.analysis.report.formatting import (
    count,
    duration,
    excerpt,
    fixed,
    p_value,
    share,
    short_count,
    significant,
    size_in_bytes,
)


@pytest.mark.parametrize(
    ("value", "text"), [(0.61273, "61.3"), (1.0, "100.0"), (-0.0421, "−4.2"), (-0.0001, "0.0"), (math.nan, "–")]
)
def test_shares_are_per_cent_with_one_decimal(value, text):
    assert share(value) == text


def test_signs_are_written_where_asked_for():
    assert fixed(4.25, 1, signed=True) in {"+4.2", "+4.3"}
    assert fixed(-4.0, 1, signed=True) == "−4.0"
    assert fixed(0.001, 1, signed=True) == "0.0"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123, "0.012"),
        (0.5, "0.50"),
        (0.05, "0.050"),
        (0.00012, "0.00012"),
        (0.00001, "< 0.0001"),
        (1.0, "1"),
        (0.996, "1"),
        (0.99, "0.99"),
    ],
)
def test_p_values_have_two_significant_digits(value, text):
    assert p_value(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5e-7, "5e-7"),
        (0.012345, "0.0123"),
        (1234567.0, "1.23e6"),
        (0.1, "0.1"),
        (120.0, "120"),
        (-2.5, "−2.5"),
        (0, "0"),
    ],
)
def test_numbers_of_any_size_keep_three_digits(value, text):
    assert significant(value) == text


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_number_can_be_written(value):
    assert all(isinstance(text, str) and text for text in (significant(value), fixed(value, 2), count(value)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.85, "850 ms"),
        (12.44, "12.4 s"),
        (59.96, "1 min"),
        (200, "3 min 20 s"),
        (18720, "5 h 12 min"),
        (183600, "2 d 3 h"),
        (None, "–"),
    ],
)
def test_times_have_the_two_units_that_matter(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (900_000_000, "858.3 MiB"), (None, "–")]
)
def test_bytes_are_in_binary_units(value, text):
    assert size_in_bytes(value) == text


@pytest.mark.parametrize(("value", "text"), [(500, "500"), (1000, "1k"), (2500, "2.5k"), (61135, "61.1k"), (2e6, "2M")])
def test_counts_on_axes_are_short(value, text):
    assert short_count(value) == text


def test_an_excerpt_says_how_much_is_left_out():
    assert excerpt("abcdef", 4) == ("abcd", 2)
    assert excerpt("abc", 4) == ("abc", 0)
