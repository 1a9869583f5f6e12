"""What one scrape says of the cache."""

from __future__ import annotations

import numpy as np

from sim_core.compiled import phase

TELEMETRY = [("cache_hit_ratio", np.float64)]


@phase
def scrape(world):
    """Closes the window of every cache and stages the hit ratio of all of them together."""
    lookups, hits = 0.0, 0.0
    for c in range(len(world.caches)):
        state = world.cache_states[c]
        lookups += state.lookups
        hits += state.hits
        state.total_lookups += state.lookups
        state.total_hits += state.hits
        state.lookups = state.hits = 0.0
    world.state.staged.cache_hit_ratio = hits / lookups if lookups > 0.0 else 0.0
