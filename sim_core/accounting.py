"""Indicators of a lane: SLIs, cost and use, from what its account has summed up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sim_core.limits import MAX_SERVICES
from sim_core.world import LATENCY_BUCKETS, LATENCY_MAX_S, LATENCY_MIN_S

# Names are fixed (the design's list); indicators of mechanisms that do not exist yet are absent, not zero.
INDICATORS = (
    "slo_attainment",
    "availability",
    "error_ratio",
    "latency_mean_s",
    "latency_p50_s",
    "latency_p95_s",
    "latency_p99_s",
    "throughput_per_s",
    "error_budget_left",
    "cost_usd",
    "cost_pods_usd",
    "cost_fixed_usd",
    "cost_database_usd",
    "cost_cache_usd",
    "cost_load_balancer_usd",
    "cost_usd_per_month",
    "cost_usd_per_million_requests",
    "replica_hours",
    "scale_events",
    "utilization_mean",
    "cache_hit_ratio",
)
SERVICE_INDICATORS = (
    "calls",
    "utilization",
    "latency_mean_s",
    "error_ratio",
    "queue_len",
    "replica_hours",
)
# What cost_usd is made of, in the order in which it is summed up; a mechanism that costs money (a node pool) joins here.
COST_PARTS = ("cost_pods_usd", "cost_fixed_usd")
# What exists whatever the policy does; sums up to cost_fixed_usd.
_FIXED = ("database", "cache", "load_balancer")
FIXED_COST_PARTS = tuple(f"cost_{what}_usd" for what in _FIXED)
MONTH_S = 30.0 * 86_400.0  # a month of every figure "per month"
# Least and greatest value that an indicator can have; every other is a sum, a duration or a rate: 0 or more.
_BOUNDS = {
    "slo_attainment": (0.0, 1.0),
    "availability": (0.0, 1.0),
    "error_ratio": (0.0, 1.0),
    "cache_hit_ratio": (0.0, 1.0),
    "error_budget_left": (-math.inf, 1.0),  # an overspent budget is negative
}


def bounds_of(indicator: str) -> tuple[float, float]:
    """Least and greatest value that an indicator can have; infinite where there is none."""
    return _BOUNDS.get(indicator, (0.0, math.inf))


def indicators(params: np.ndarray, state: np.ndarray) -> pd.DataFrame:
    """One row a lane, columns INDICATORS; NaN where a lane saw nothing that the indicator divides by.

    Args:
        params, state: structured arrays, shape (n_lanes,).

    `cost_usd` is exactly the sum of COST_PARTS, and `cost_fixed_usd` that of FIXED_COST_PARTS. `cost_usd_per_month` is
    what 30 days would cost at this rate. `cost_usd_per_million_requests` counts good requests only: a policy that fails
    most requests is not cheap.
    """
    account = state["account"]
    cost = costs(params, account)
    seconds = _nan_if_zero(account["seconds"])
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
        "throughput_per_s": (account["requests"] - failed) / seconds,
        "error_budget_left": 1.0 - (1.0 - slo_attainment) / (1.0 - params["slo_objective"]),
        **cost,
        "cost_usd_per_month": cost["cost_usd"] / seconds * MONTH_S,
        "cost_usd_per_million_requests": cost["cost_usd"] / _nan_if_zero(account["good"]) * 1e6,
        "replica_hours": account["pod_s"] / 3600.0,
        "scale_events": account["scale_events"],
        "utilization_mean": account["cpu_core_s"] / _nan_if_zero(account["request_core_s"]),
        "cache_hit_ratio": account["hits"] / _nan_if_zero(account["lookups"]),
    }
    return pd.DataFrame({name: columns[name] for name in INDICATORS})


def costs(params: np.ndarray, account: np.ndarray) -> dict[str, np.ndarray]:
    """What each lane has cost so far and its parts, by indicator, each of shape (n_lanes,) [USD].

    Args:
        params: structured array, shape (n_lanes,).
        account: the ACCOUNT records of the same lanes.
    """
    parts = {f"cost_{what}_usd": params[f"{what}_usd_per_s"] * account["seconds"] for what in _FIXED}
    parts["cost_fixed_usd"] = sum(parts[name] for name in FIXED_COST_PARTS)
    parts["cost_pods_usd"] = account["pods_usd"].copy()
    return {"cost_usd": sum(parts[name] for name in COST_PARTS), **parts}


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


def service_sums(state: np.ndarray) -> dict[str, np.ndarray]:
    """What each service did since the start, by field of SERVICE_ACCOUNT, each of shape (n_lanes, MAX_SERVICES).

    Args:
        state: structured array, shape (n_lanes,).
    """
    account, window = state["account"]["services"], state["window"]["services"]
    names, in_window = account.dtype.names or (), window.dtype.names or ()
    return {name: account[name] + (window[name] if name in in_window else 0.0) for name in names}


def service_figures(sums: Mapping[str, np.ndarray], seconds: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of services over a stretch of time, by SERVICE_INDICATORS; NaN where a service saw nothing to divide by.

    Args:
        sums: of the stretch, as `service_sums` has them, each of shape (n_lanes, n_services).
        seconds: length of the stretch, shape (n_lanes,) [s].
    """
    calls = _nan_if_zero(sums["calls"])
    return {
        "calls": sums["calls"],
        "utilization": sums["cpu_core_s"] / _nan_if_zero(sums["request_core_s"]),
        "latency_mean_s": sums["latency_s"] / calls,
        "error_ratio": sums["failed"] / calls,
        "queue_len": sums["queue_s"] / _nan_if_zero(seconds)[:, None],
        "replica_hours": sums["pod_s"] / 3600.0,
    }


def service_indicators(params: np.ndarray, state: np.ndarray, names: Sequence[Sequence[str]]) -> pd.DataFrame:
    """One row a lane and service: `lane` (its index), `service`, and SERVICE_INDICATORS.

    Calls count retries, and errors calls that failed at an attempt: a request may still succeed. Latency is that of a
    call, cache and database included.

    Args:
        params, state: structured arrays, shape (n_lanes,).
        names: of the services of each lane, in call order.
    """
    figures = service_figures(service_sums(state), state["account"]["seconds"])
    lane, place = np.nonzero(np.arange(MAX_SERVICES) < params["n_services"][:, None])
    columns = {"lane": lane, "service": [service for of_lane in names for service in of_lane]}
    return pd.DataFrame(columns | {name: values[lane, place] for name, values in figures.items()})
