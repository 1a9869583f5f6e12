"""`production`'s six stations over a tick, and nothing else: no controllers, no life of pods, no telemetry, no accounts.

Load balancer, pods (CPU), other system (io), cache, replicas (reads), primary (writes): each takes its share of the tick's
arrivals into a backlog, serves what it can, and adds mean and variance to the latency of a request, which is booked in a
histogram. A hand-written kernel cannot do less and still say what a request's latency was.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import ndtri

from sim_core.compiled import kernel

STATIONS, PODS, BUCKETS = 6, 20, 640
LATENCY_MIN_S, LATENCY_MAX_S = 5e-4, 120.0
_LOG_MIN = math.log(LATENCY_MIN_S)
_BUCKETS_PER_LOG = BUCKETS / math.log(LATENCY_MAX_S / LATENCY_MIN_S)
# Ten slices of the normal distribution, thinner towards the upper tail, each booked at its middle.
_EDGES = np.array([0.0, 0.12, 0.32, 0.55, 0.75, 0.88, 0.94, 0.97, 0.985, 0.995, 1.0])
_WEIGHTS = np.diff(_EDGES)
_QUANTILES = ndtri(0.5 * (_EDGES[1:] + _EDGES[:-1]))
# Visits of a request, servers, mean service time [s], SCV: `production` with 20 pods, its cache hitting 90.7 %.
VISITS = np.array([1.0, 1.0, 1.0, 2.7, 0.3 + 2.7 * 0.093, 0.2])
SERVERS = np.array([np.inf, PODS, np.inf, 1.0, 8.0, 4.0])
MEAN_S = np.array([0.002, 0.025, 0.015, 1e-5, 0.002, 0.003])
SCV = np.array([1.0, 1.0, 1.0, 0.5, 1.0, 1.0])

STATION_LANE = np.dtype(
    [
        ("rate_per_s", np.float64),
        ("backlog", np.float64, (STATIONS,)),  # calls that wait
        ("pod_cpu_s", np.float64, (PODS,)),
        ("latency", np.float64, (BUCKETS,)),
        ("requests", np.float64),
        ("latency_s", np.float64),
    ],
    align=True,
)


@kernel
def advance_stations(
    lanes: np.ndarray,
    visits: np.ndarray,
    servers: np.ndarray,
    mean_s: np.ndarray,
    scv: np.ndarray,
    n_ticks: int,
    seed: int,
) -> None:
    """Takes every lane `n_ticks` of 1 s further.

    Args:
        lanes: STATION_LANE records.
        visits, servers, mean_s, scv: shape (STATIONS,).
    """
    np.random.seed(seed)
    for lane in lanes:
        for _ in range(n_ticks):
            _tick(lane, visits, servers, mean_s, scv)


@kernel
def _tick(lane: Any, visits: np.ndarray, servers: np.ndarray, mean_s: np.ndarray, scv: np.ndarray) -> None:
    arrivals = max(0.0, lane.rate_per_s + math.sqrt(lane.rate_per_s) * np.random.normal())
    latency_s, variance_s2 = 0.0, 0.0
    for i in range(len(visits)):
        calls = arrivals * visits[i]
        time_s, spread_s2 = mean_s[i], scv[i] * mean_s[i] * mean_s[i]
        if servers[i] < math.inf:
            capacity = servers[i] / mean_s[i]
            load = min(calls / capacity, 0.999)
            # Sakasegawa's approximation of the wait in M/M/c, corrected for the SCV (Allen and Cunneen).
            wait_s = load ** (math.sqrt(2.0 * (servers[i] + 1.0)) - 1.0) / (servers[i] * (1.0 - load)) * mean_s[i]
            wait_s *= 0.5 * (1.0 + scv[i])
            target = calls * wait_s
            backlog = max(0.0, lane.backlog[i] + calls - capacity)
            lane.backlog[i] = max(backlog, 0.5 * (lane.backlog[i] + target))
            wait_s = lane.backlog[i] / max(calls, 1e-9)
            time_s += wait_s
            spread_s2 += wait_s * wait_s
        latency_s += visits[i] * time_s
        variance_s2 += visits[i] * spread_s2
    used_s = arrivals * mean_s[1] / len(lane.pod_cpu_s)
    for pod in range(len(lane.pod_cpu_s)):
        lane.pod_cpu_s[pod] += used_s
    lane.requests += arrivals
    lane.latency_s += arrivals * latency_s
    _book(lane.latency, latency_s, variance_s2, arrivals)


@kernel
def _book(latency: np.ndarray, mean_s: float, variance_s2: float, weight: float) -> None:
    """Adds requests of a lognormal latency to a histogram of even buckets of its logarithm, slice by slice."""
    log_variance = math.log1p(variance_s2 / (mean_s * mean_s))
    first = (math.log(mean_s) - 0.5 * log_variance - _LOG_MIN) * _BUCKETS_PER_LOG
    width = math.sqrt(log_variance) * _BUCKETS_PER_LOG
    for k in range(len(_QUANTILES)):
        bucket = int(min(max(0.0, first + width * _QUANTILES[k]), BUCKETS - 1.0))
        latency[bucket] += weight * _WEIGHTS[k]


def station_lanes(n_lanes: int, rate_per_s: float) -> np.ndarray:
    """Lanes at their beginning, STATION_LANE records, shape (n_lanes,)."""
    lanes = np.zeros(n_lanes, dtype=STATION_LANE)
    lanes["rate_per_s"] = rate_per_s
    return lanes


def advance(lanes: np.ndarray, n_ticks: int, seed: int = 0) -> None:
    """Takes every lane `n_ticks` of 1 s further."""
    advance_stations(lanes, VISITS, SERVERS, MEAN_S, SCV, n_ticks, seed)
