"""Indicators of a lane: SLIs, cost and use, from what its account has summed up."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sim_core.indicators import INDICATORS
from sim_core.world import LATENCY_BUCKETS, LATENCY_MAX_S, LATENCY_MIN_S


def indicators(params: np.ndarray, state: np.ndarray) -> pd.DataFrame:
    """One row a lane, columns INDICATORS; NaN where a lane saw nothing that the indicator divides by.

    Args:
        params, state: structured arrays, shape (n_lanes,).
    """
    account = state["account"]
    requests = _nan_if_zero(account["requests"])
    failed = np.minimum(account["failed"], account["requests"])
    slo_attainment = account["good"] / requests
    percentiles = latency_percentiles(account["latency"], np.array([0.50, 0.95, 0.99]))
    columns = {
        "slo_attainment": slo_attainment,
        "availability": 1.0 - failed / requests,
        "error_ratio": failed / requests,
        "latency_mean_s": account["latency_s"] / _nan_if_zero(account["latency_weight"]),
        "latency_p50_s": percentiles[:, 0],
        "latency_p95_s": percentiles[:, 1],
        "latency_p99_s": percentiles[:, 2],
        "throughput_per_s": (account["requests"] - failed) / _nan_if_zero(account["seconds"]),
        "error_budget_left": 1.0 - (1.0 - slo_attainment) / (1.0 - params["slo_objective"]),
        "cost_usd": account["cost_usd"],
        "cost_usd_per_million_requests": account["cost_usd"] / requests * 1e6,
        "replica_hours": account["pod_s"] / 3600.0,
        "scale_events": account["scale_events"],
        "utilization_mean": account["cpu_core_s"] / _nan_if_zero(account["request_core_s"]),
        "cache_hit_ratio": account["hits"] / _nan_if_zero(account["lookups"]),
    }
    assert set(columns) == set(INDICATORS)  # each is in the table, and none is forgotten here
    return pd.DataFrame({name: columns[name] for name in INDICATORS})


def _nan_if_zero(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0.0, values, np.nan)


def latency_percentiles(histogram: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Percentiles [s], shape (n_lanes, n_probabilities), log-linear within a bucket of `histogram` (n_lanes, buckets)."""
    edges = np.linspace(np.log(LATENCY_MIN_S), np.log(LATENCY_MAX_S), LATENCY_BUCKETS + 1)
    result = np.full((len(histogram), len(probabilities)), np.nan)
    for lane, counts in enumerate(histogram):
        total = counts.sum()
        if total > 0.0:
            cumulative = np.concatenate([[0.0], np.cumsum(counts)]) / total
            result[lane] = np.exp(np.interp(probabilities, cumulative, edges))
    return result
