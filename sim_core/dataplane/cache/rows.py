"""Redis of a profile as rows of tables."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from sim_core.dataplane.cache.records import CACHE, CACHE_STATE, HIT_POINTS
from sim_core.dataplane.services.kinds import CACHED_READ
from sim_core.tables import Table
from sim_core.theory import lru_hit_ratio

if TYPE_CHECKING:
    from sim_core.dataplane.services.graph import Graph
    from sim_core.profile import Profile

TABLES = (
    Table("caches", "caches", CACHE),
    Table("cache_states", "caches", CACHE_STATE, is_state=True),
    Table("lookups", "lookups", np.int64),  # rows of the steps that look keys up
)


def rows(profile: Profile, graph: Graph) -> dict[str, np.ndarray | int]:
    """One row where the profile has a cache."""
    cache = profile.cache
    records = np.zeros(0 if cache is None else 1, dtype=CACHE)
    for record in records:
        record["capacity_keys"] = cache.capacity_keys
        record["initial_keys"] = cache.initial_fill * cache.capacity_keys
        record["lookup_s"] = cache.lookup_seconds
        record["server_s"] = cache.server_seconds
        record["scv"] = cache.lookup_scv
        record["hit_ratio"] = hit_ratio_table(cache.keys, cache.zipf_exponent, cache.capacity_keys)
        record["usd_per_s"] = cache.usd_per_hour / 3600.0
    lookups = [row for row, step in enumerate(graph.steps) if step.kind == CACHED_READ]
    return {"caches": records, "lookups": np.array(lookups, dtype=np.int64)}


@lru_cache(maxsize=256)
def hit_ratio_table(keys: int, zipf_exponent: float, capacity_keys: int) -> tuple[float, ...]:
    """Hit ratio of an LRU cache at fills capacity * (i / (HIT_POINTS - 1)) ** 2, i = 0..HIT_POINTS - 1.

    A cache that fills holds every key seen so far, which is what an LRU cache of that size holds in steady state.
    """
    fills = [capacity_keys * (i / (HIT_POINTS - 1)) ** 2 for i in range(HIT_POINTS)]
    return tuple(0.0 if fill < 1.0 else float(lru_hit_ratio(keys, zipf_exponent, fill)) for fill in fills)
