"""M/M/c as a bare compiled loop: what a request costs where nothing but one queue is simulated."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel


@kernel
def mmc_mean_sojourn_s(
    arrival_rate_per_s: float, service_rate_per_s: float, free_at_s: np.ndarray, n_requests: int, seed: int
) -> float:
    """Mean sojourn of the first `n_requests` of M/M/c in order of arrival [s].

    Args:
        free_at_s: shape (servers,); zeros. Kept as when each server becomes free (Kiefer and Wolfowitz).
    """
    np.random.seed(seed)
    servers = len(free_at_s)
    now_s, sum_s = 0.0, 0.0
    for _ in range(n_requests):
        now_s -= math.log(1.0 - np.random.random()) / arrival_rate_per_s
        first = 0
        for server in range(1, servers):
            if free_at_s[server] < free_at_s[first]:
                first = server
        begin_s = max(now_s, free_at_s[first])
        free_at_s[first] = begin_s - math.log(1.0 - np.random.random()) / service_rate_per_s
        sum_s += free_at_s[first] - now_s
    return sum_s / n_requests
