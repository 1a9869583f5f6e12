"""Indicators of the cache."""

from __future__ import annotations

from sim_core.indicator import SHARE, Indicator

INDICATORS = (Indicator("cache_hit_ratio", "cache hit ratio", True, digits=".1%", bounds=SHARE),)
FIXED_COSTS = ("cache",)
