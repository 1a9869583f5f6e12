"""Dates of what runs on a schedule: days in UTC, when one begins, and the seed of it."""

from __future__ import annotations

import datetime as dt


def today() -> dt.date:
    """The present day, in UTC."""
    return dt.datetime.now(dt.UTC).date()


def end_of_window_s(date: dt.date) -> float:
    """When a day begins [s since 1970, UTC]; a window up to it holds only what is past."""
    return dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC).timestamp()


def seed_of(date: dt.date) -> int:
    """The seed of a day: its digits, as 20261122 for 2026-11-22."""
    return date.year * 10_000 + date.month * 100 + date.day
