"""Durations as people write them."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from sim_core.errors import InputError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


def parse_duration(text: str | float, where: str = "duration") -> float:
    """Seconds of `24h`, `7d`, `90m`, `30s`, `1d12h`, or of a plain number of seconds.

    Args:
        where: what the duration is of, for the error.

    Raises:
        InputError: not a duration, negative, or not finite.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        seconds = float(text) if abs(text) < 1e300 else math.inf
    else:
        word = str(text).strip().lower()
        parts = _PART.findall(word)
        if parts and _PART.sub("", word).strip() == "":
            seconds = sum(float(amount) * _SECONDS[unit] for amount, unit in parts)
        else:
            try:
                seconds = float(word)
            except ValueError:
                raise InputError(
                    where, f"must be a duration like 24h, 7d, 90m, 30s or seconds (got {text!r})"
                ) from None
    if not math.isfinite(seconds) or seconds < 0.0:
        raise InputError(where, f"must be a duration of 0 s or more (got {text!r})")
    return seconds


def format_duration(seconds: float) -> str:
    """Seconds in the largest unit that divides them: `7d`, `90m`, `12.5s`; `parse_duration` reads the same number back."""
    for unit in ("d", "h", "m"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0 and seconds < 2.0**53:
            return f"{_digits(seconds / _SECONDS[unit])}{unit}"
    return f"{_digits(seconds)}s"


def _digits(amount: float) -> str:
    # All digits that tell it from other floats, and no exponent: parse_duration reads none before a unit.
    return f"{Decimal(repr(float(amount))):f}".removesuffix(".0")
