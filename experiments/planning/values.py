"""Values in a specification: scalars, lists, ranges and their products, durations, and limits."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Mapping
from decimal import Decimal
from itertools import product
from typing import Any

from sim_core.documents import shown
from sim_core.errors import InputError
from sim_core.units import parse_duration

Scalar = int | float | str | bool | None
Settings = tuple[tuple[str, Scalar], ...]

MAX_VALUES = 1000  # of one range or list
_LARGEST = sys.float_info.max


def seconds_of(value: Any) -> Any:
    """Seconds of a duration written as text; any other value as it is.

    Raises:
        ValueError: text that is no duration.
    """
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except InputError as error:
        raise ValueError(error.problems[0]) from None


def date_of(value: Any) -> Any:
    """The day of text such as 2026-11-22; any other value as it is.

    Raises:
        ValueError: text that is no date.
    """
    if not isinstance(value, str):
        return value
    try:
        return dt.date.fromisoformat(value)
    except ValueError:
        raise ValueError("must be a date like 2026-11-22") from None


def values_of(raw: Any) -> tuple[Scalar, ...]:
    """The values that a scalar, a list or a range `{from, to, step}` (both ends included) stands for.

    Raises:
        ValueError: with the rule that is broken.
    """
    if isinstance(raw, dict):
        return _range(raw)
    if not isinstance(raw, list | tuple):
        return (raw,)
    if not 1 <= len(raw) <= MAX_VALUES:
        raise ValueError(f"a list must have 1 to {MAX_VALUES} values")
    if nested := [value for value in raw if isinstance(value, dict | list | tuple)]:
        raise ValueError(f"a list must hold plain values, not {shown(nested[0])}")
    if len({(type(value), value) for value in raw}) < len(raw):
        raise ValueError("a list must not repeat a value")
    return tuple(raw)


def _range(raw: Mapping[str, Any]) -> tuple[Scalar, ...]:
    if set(raw) != {"from", "to", "step"}:
        raise ValueError(
            f"a range needs the keys from, to and step, and no others (has {', '.join(map(str, raw)) or 'none'})"
        )
    numbers = [raw["from"], raw["to"], raw["step"]]
    if not all(is_finite_number(n) for n in numbers):
        raise ValueError("from, to and step of a range must be finite numbers")
    first, last, step = (Decimal(str(n)) for n in numbers)  # decimal, so that 0.1 steps end where they are written to
    if step <= 0 or last < first:
        raise ValueError("a range needs step > 0 and to >= from")
    count = int((last - first) / step) + 1
    if count > MAX_VALUES:
        raise ValueError(f"a range must have at most {MAX_VALUES} values, this one has {count}")
    whole = all(isinstance(n, int) for n in numbers)
    return tuple(int(first + i * step) if whole else float(first + i * step) for i in range(count))


def is_finite_number(value: Any) -> bool:
    """Whether a value is a number that a float can hold; `true` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def combinations(raw: Mapping[str, Any], without: str = "") -> list[Settings]:
    """All combinations of the values of each key, in the order written; the last key varies fastest."""
    names = [name for name in raw if name != without]
    return [tuple(zip(names, chosen, strict=True)) for chosen in product(*(values_of(raw[name]) for name in names))]


def limits_of(subject_to: Mapping[str, Any], objective: float) -> dict[str, float]:
    """Constraints of a specification as numbers.

    Args:
        subject_to: limit of each indicator; `slo` stands for the objective of the profile.
        objective: that objective [1].
    """
    return {name: objective if limit == "slo" else float(limit) for name, limit in subject_to.items()}
