"""Redis: rows of the table `caches`."""

from __future__ import annotations

import numpy as np

from sim_core.dataplane.line import LINE

HIT_POINTS = 33  # of the table of hit ratios

CACHE = np.dtype(
    [
        ("database", np.int64),  # row of `databases` that answers what it misses
        ("capacity_keys", np.float64),
        ("initial_keys", np.float64),
        ("lookup_s", np.float64),  # round trip without waiting
        ("server_s", np.float64),  # of it in Redis's one thread
        ("scv", np.float64),
        ("hit_ratio", np.float64, (HIT_POINTS,)),  # at fill = capacity * (i / (HIT_POINTS - 1)) ** 2
        ("usd_per_s", np.float64),
    ],
    align=True,
)

CACHE_STATE = np.dtype(
    [
        ("cached_keys", np.float64),
        ("hit_ratio", np.float64),  # of this tick
        ("line", LINE),  # of look-ups for the one thread
        ("seen_lookups", np.float64),  # of the tick, and callers, for which the line was worked out last
        ("seen_callers", np.float64),
        ("lookup_s", np.float64),  # mean sojourn of a lookup in this tick
        ("lookup_variance_s2", np.float64),
        ("lookup_third_s3", np.float64),  # third cumulant
        ("misses", np.float64),  # of this tick: reads that go on to the database
        ("lookups", np.float64),  # in the window between two scrapes
        ("hits", np.float64),
        ("total_lookups", np.float64),  # since the start
        ("total_hits", np.float64),
    ],
    align=True,
)
