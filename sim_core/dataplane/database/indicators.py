"""Indicators of the database."""

from __future__ import annotations

from sim_core.indicator import Indicator

INDICATORS: tuple[Indicator, ...] = ()
FIXED_COSTS = ("database",)
