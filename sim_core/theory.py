"""Closed forms, used as references."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq


def lru_hit_ratio(n_keys: int, zipf_exponent: float, capacity: float) -> float:
    """Hit ratio of an LRU cache under independent references with Zipf popularity, Che's approximation.

    Args:
        n_keys: distinct keys; key k is asked for in proportion to k ** -zipf_exponent.
        capacity: keys that fit, at least 0.

    Source: Che, Tung, Wang, "Hierarchical web caching systems", IEEE JSAC 20 (2002).
    """
    if capacity >= n_keys:
        return 1.0
    if capacity <= 0.0:
        return 0.0
    popularity, count = _zipf_groups(n_keys, zipf_exponent)

    def resident(log_time: float) -> float:
        return float(np.sum(count * -np.expm1(-popularity * math.exp(log_time)))) - capacity

    time = math.exp(brentq(resident, -2.0, 60.0, xtol=1e-10))
    return float(np.sum(count * popularity * -np.expm1(-popularity * time)))


def _zipf_groups(n_keys: int, exponent: float) -> tuple[np.ndarray, np.ndarray]:
    """Popularities and how many keys have them; beyond the first 4096, keys of nearly equal rank are one group."""
    head = np.arange(1, min(n_keys, 4096) + 1, dtype=float)
    if n_keys > 4096:
        edges = np.unique(np.geomspace(4096, n_keys, 2000).astype(np.int64))
        middle = np.sqrt((edges[:-1] + 1.0) * edges[1:])
        ranks = np.concatenate([head, middle])
        count = np.concatenate([np.ones(len(head)), np.diff(edges).astype(float)])
    else:
        ranks, count = head, np.ones(len(head))
    weights = ranks**-exponent
    return weights / np.sum(weights * count), count
