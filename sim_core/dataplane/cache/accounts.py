"""What the cache did and costs, by lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sim_core.simulation import Worlds


def indicators(worlds: Worlds) -> dict[str, np.ndarray]:
    """Values of its INDICATORS, each of shape (n_lanes,)."""
    from sim_core.accounting import per_lane

    states = worlds.tables.cache_states
    lookups = per_lane(worlds, "caches", states["total_lookups"] + states["lookups"])
    hits = per_lane(worlds, "caches", states["total_hits"] + states["hits"])
    return {"cache_hit_ratio": hits / np.where(lookups > 0.0, lookups, np.nan)}


def usd_per_s(worlds: Worlds) -> dict[str, np.ndarray]:
    """Its part of FIXED_COSTS, shape (n_lanes,) [USD/s]."""
    from sim_core.accounting import per_lane

    return {"cache": per_lane(worlds, "caches", worlds.tables.caches["usd_per_s"])}
