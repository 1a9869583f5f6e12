"""Durations as people write them, and back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_core.errors import InputError
from sim_core.units import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("90m", 5400.0),
        ("24h", 86_400.0),
        ("7d", 604_800.0),
        ("2w", 1_209_600.0),
        ("1d12h", 129_600.0),
        ("1d 12h 5m", 129_900.0),
        (" 1.5 H ", 5400.0),
        ("0s", 0.0),
        ("0", 0.0),
        ("12.5", 12.5),
        ("1e3", 1000.0),
        (45, 45.0),
        (0.25, 0.25),
    ],
)
def test_durations_are_read_as_people_write_them(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "h", "5 x", "1h-", "-1h", "1h,30m", "12 34h", "1.5.5h", "1e3s", True, None]
)
def test_what_is_no_duration_is_refused_with_examples(text):
    with pytest.raises(InputError) as refused:
        parse_duration(text, "--duration")
    assert str(refused.value) == (
        f"InputError: --duration: must be a duration like 24h, 7d, 90m, 30s or seconds (got {text!r})"
    )


@pytest.mark.parametrize("text", [-1, "-1", math.inf, -math.inf, math.nan, "inf", "nan", 10**400, "9" * 400 + "h"])
def test_negative_and_endless_durations_are_refused(text):
    with pytest.raises(InputError) as refused:
        parse_duration(text)
    assert str(refused.value) == f"InputError: duration: must be a duration of 0 s or more (got {text!r})"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (12.5, "12.5s"),
        (59, "59s"),
        (60, "1m"),
        (5400, "90m"),
        (86_400, "1d"),
        (90_000, "25h"),
        (604_800, "7d"),
        (1_234_567, "1234567s"),
        (1e-5, "0.00001s"),
    ],
)
def test_durations_are_written_in_the_largest_unit_that_divides_them(seconds, text):
    assert format_duration(seconds) == text


@given(
    st.one_of(st.floats(0.0, 1e12), st.integers(0, 10**10).map(float), st.integers(0, 10**6).map(lambda n: 60.0 * n))
)
def test_a_written_duration_is_read_back_as_the_same_number(seconds):
    assert parse_duration(format_duration(seconds)) == seconds
