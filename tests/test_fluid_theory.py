"""The fluid engine against exact queueing theory on the wait alone: within a sojourn its error hides behind the service."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim_core import theory
from sim_core.accounting import service_sums
from sim_core.dataplane.fit import settled
from sim_core.dataplane.one_service import OneService
from sim_core.dataplane.services.kinds import ROUND_ROBIN
from sim_core.dataplane.services.records import PROCESSOR_SHARING
from sim_core.profile import Profile, load_profile
from sim_core.simulation import Worlds
from sim_core.world import Lane, Scaler
from tests.conftest import flat

CPU_S = 0.025
WIDE = OneService(pods=1, held_s=0.0, timeout_s=60.0, workers=5000, queue_limit=5000, cpu_s=CPU_S)


def wait_s(utilization: float, **changes: Any) -> float:
    """Mean wait of a station at rest [s]."""
    return float(settled(WIDE.but(**changes), utilization)["wait_s"])


def graph_of(*services: tuple[str, list[dict[str, Any]], dict[str, Any]], **sections: Any) -> Profile:
    """Services of one pod in order of arrival, called by their first; each a name, its steps and what its container differs
    in. Nobody gives up."""
    data = load_profile("diamond").to_dict()
    base = data["services"][0]
    for name in ("latency_seconds", "scv"):
        data["ingress"][name] = 0.0
    data["ingress"]["load_balancing"] = "random"
    data["services"] = [
        base
        | {
            "name": name,
            "endpoints": [{"name": "get", "steps": steps}],
            "container": base["container"] | {"workers": 1000, "queue_limit": 1000, "cpu_sharing": "fifo"} | container,
            "client": base["client"] | {"timeout_seconds": 60.0, "max_retries": 0},
            "replicas": {"min": 1, "max": 4, "initial": 1},
        }
        for name, steps, container in services
    ]
    data["requests"] = [{"name": "all", "share": 1, "endpoint": f"{services[0][0]}.get"}]
    return Profile.from_dict(data | sections, "theory")


def at_rest(profile: Profile, rate_per_s: float, seconds: int) -> tuple[dict[str, np.ndarray], float]:
    """Sums of each service over so many seconds after half as many, and requests answered meanwhile."""
    worlds = Worlds([Lane(profile, flat(rate_per_s, 3.0 * seconds), 1, scaler=Scaler.static(1))])
    sums, answered = [], []
    for ticks in (seconds // 2, seconds):
        worlds.advance(ticks)
        sums.append(service_sums(worlds))
        answered.append(float(sum(worlds.classes()["requests"] * (1.0 - worlds.classes()["error_ratio"]))))
    return {name: sums[1][name] - sums[0][name] for name in sums[0]}, answered[1] - answered[0]


@pytest.mark.parametrize(("rate_per_s", "count"), [(50.0, 1.0), (50.0, 1.5), (70.0, 1.0), (35.0, 2.5)])
def test_stations_in_a_row_and_visited_again_wait_as_in_a_jackson_network(rate_per_s: float, count: float):
    """Tandem, and feedback where the first is visited several times: each station waits as M/M/1 of its calls."""
    steps = [
        {"wait": {"seconds": 1e-4}}, {"cpu": {"seconds": 1e-5}},
        {"call": {"endpoint": "a.get", "count": count}}, {"call": {"endpoint": "b.get"}},
    ]  # fmt: skip
    profile = graph_of(
        ("front", steps, {}), ("a", [{"cpu": {"seconds": 0.01}}], {}), ("b", [{"cpu": {"seconds": 0.012}}], {})
    )
    sums, _ = at_rest(profile, rate_per_s, 3000)
    waits_s = sums["queue_s"] / sums["calls"]
    assert waits_s[1] == pytest.approx(theory.mmc_mean_wait_s(rate_per_s * count, 100.0, 1), rel=0.03)
    assert waits_s[2] == pytest.approx(theory.mmc_mean_wait_s(rate_per_s, 1.0 / 0.012, 1), rel=0.03)


@pytest.mark.parametrize(("workers", "tolerance"), [(4, 0.03), (12, 0.03), (24, 0.03)])
def test_workers_that_are_never_idle_are_a_closed_network(workers: int, tolerance: float):
    """They go round CPU, a wait and a database of one core: throughput by exact mean value analysis."""
    production = load_profile("production").to_dict()["database"]
    database = production | {
        "cores": 1.0, "read_seconds": 0.008, "write_seconds": 0.003, "read_replicas": 0, "max_connections": 5000,
        "pool_size_per_pod": 100,
    }  # fmt: skip
    steps = [{"cpu": {"seconds": 0.01}}, {"wait": {"seconds": 0.05}}, {"read": {}}]
    profile = graph_of(("api", steps, {"workers": workers, "queue_limit": 500}), database=database)
    _, answered = at_rest(profile, 300.0, 1200)
    expected_per_s = theory.closed_network_throughput_per_s(workers, [0.01, 0.008], think_s=0.05)
    assert answered / 1200.0 == pytest.approx(expected_per_s, rel=tolerance)


@pytest.mark.parametrize("utilization", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("pods", [2, 5, 20])
def test_calls_in_turn_wait_as_behind_erlang_gaps(pods: int, utilization: float):
    """Round robin: each pod is E_n/M/1."""
    exact_s = theory.gim1_mean_sojourn_s(pods, utilization / CPU_S, 1.0 / CPU_S) - CPU_S
    assert wait_s(utilization, pods=pods, balancing=ROUND_ROBIN) == pytest.approx(exact_s, rel=0.06)


@pytest.mark.parametrize(("servers", "utilization"), [(1, 0.7), (4, 0.9), (5, 0.7), (20, 0.7), (20, 0.9)])
def test_constant_service_waits_as_m_d_c(servers: int, utilization: float):
    exact_s = theory.mdc_mean_wait_s(utilization * servers / CPU_S, CPU_S, servers)
    found_s = wait_s(utilization, cores=float(servers), cpu_scv=0.0)
    assert found_s == pytest.approx(exact_s, rel=0.04)


@pytest.mark.parametrize("utilization", [0.5, 0.8])
@pytest.mark.parametrize("scv", [0.0, 0.25, 1.0, 4.0])
def test_a_shared_cpu_makes_calls_wait_alike_however_service_times_vary(scv: float, utilization: float):
    """M/G/1-PS: what a call gets less than alone is E[S] rho / (1 - rho) for every distribution of S (insensitivity)."""
    exact_s = CPU_S * utilization / (1.0 - utilization)
    assert wait_s(utilization, sharing=PROCESSOR_SHARING, cpu_scv=scv) == pytest.approx(exact_s, rel=0.03)
