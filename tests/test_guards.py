"""What stands between callers and pods, in the fluid engine: each against the same world played request by request."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sim_core.controlplane.pods import POD, READY_TRUE
from sim_core.dataplane.services.deadlines import late_calls
from sim_core.dataplane.services.flows import CALL_FLOW, SERVICE_FLOW
from sim_core.dataplane.services.guards import guard_pods, has_guard
from sim_core.dataplane.services.records import (
    CALL,
    FIFO,
    LEAST_OUTSTANDING,
    POWER_OF_TWO,
    RANDOM,
    ROUND_ROBIN,
    SERVICE,
    SERVICE_STATE,
)
from sim_core.dataplane.station import LOAD
from sim_core.dataplane.stationary import chance_counts
from sim_core.engines import FLUID, REQUESTS
from sim_core.profile import load_profile
from sim_core.simulation import simulate
from sim_core.workload import Trace
from sim_core.world import Lane, Scaler
from tests.handmade import row

PODS, FULL_PER_S = 20, 800.0  # of `production`
CONTAINER, CLIENT = "services.api.container", "services.api.client"
LONG_LINES = {f"{CONTAINER}.workers": 4, f"{CONTAINER}.queue_limit": 200, f"{CLIENT}.timeout_seconds": 1.0}


def edge(**guard: Any) -> dict[str, Any]:
    return {"ingress.calls": [{"service": "api", **guard}]}


def world(balancing: str, **changes: Any) -> dict[str, Any]:
    """`production` with 20 warm pods and a database that they do not exhaust."""
    return {
        "ingress.load_balancing": balancing,
        "services.api.replicas": {"initial": PODS, "min": 1, "max": PODS},
        "database.cores": 8.0,
        "database.max_connections": 200,
    } | changes


def played(engine: str, load: float, changes: dict[str, Any], duration_s: float = 300.0) -> pd.Series:
    """Means over three lanes under a constant load."""
    profile = load_profile("production").with_overrides(changes)
    trace = Trace("flat", duration_s, np.full(1, load * FULL_PER_S))
    lanes = [Lane(profile, trace, seed, 0.0, Scaler.static(PODS)) for seed in range(3)]
    return simulate(lanes, duration_s, engine=engine).indicators.mean(numeric_only=True)


BREAKER, SMALL_BREAKER = edge(circuit_breaker={"max_requests": 200}), edge(circuit_breaker={"max_requests": 60})
EJECTION = edge(outlier_ejection={"consecutive_failures": 5, "max_ejection_share": 0.3})
DEADLINE = LONG_LINES | edge(pass_deadline=True)
STICKY = {"ingress.sticky_share": 0.5}


@pytest.mark.parametrize(
    ("what", "balancing", "load", "mean", "errors"),
    [  # relative error of the mean latency; error ratio, absolute
        (BREAKER, "least_outstanding", 1.2, 0.02, 0.01),
        (BREAKER, "random", 1.2, 0.08, 0.03),
        (SMALL_BREAKER, "random", 0.8, 0.25, 0.06),
        (EJECTION, "least_outstanding", 1.2, 0.02, 0.02),
        (EJECTION, "random", 1.5, 0.03, 0.02),
        (DEADLINE, "least_outstanding", 1.2, 0.01, 0.01),
        (DEADLINE, "random", 1.2, 0.01, 0.01),
        (DEADLINE, "round_robin", 1.5, 0.06, 0.01),
        (DEADLINE | {f"{CLIENT}.timeout_seconds": 0.5}, "random", 1.2, 0.01, 0.01),
        (DEADLINE | {f"{CLIENT}.max_retries": 0}, "least_outstanding", 1.2, 0.01, 0.015),
        (DEADLINE | {f"{CONTAINER}.cpu_scv": 0.25}, "least_outstanding", 1.2, 0.02, 0.015),
        (DEADLINE | {f"{CONTAINER}.queue_limit": 50}, "least_outstanding", 1.2, 0.02, 0.02),
        (DEADLINE | {f"{CONTAINER}.workers": 2}, "random", 1.2, 0.02, 0.015),
        (STICKY, "least_outstanding", 0.8, 0.03, 0.005),
        (STICKY, "round_robin", 0.7, 0.05, 0.005),
    ],
)
def test_each_guard_does_in_both_engines_what_it_is_for(what, balancing, load, mean, errors):
    """As in the request engine, and not as without it."""
    exact, fluid = (played(engine, load, world(balancing, **what)) for engine in (REQUESTS, FLUID))
    assert fluid["latency_mean_s"] == pytest.approx(exact["latency_mean_s"], rel=mean)
    assert fluid["error_ratio"] == pytest.approx(exact["error_ratio"], abs=errors)
    bare = {key: value for key, value in what.items() if not key.startswith("ingress.")}
    without = played(FLUID, load, world(balancing, **bare))
    further = abs(without["latency_mean_s"] / exact["latency_mean_s"] - 1.0) > mean
    assert further or abs(without["error_ratio"] - exact["error_ratio"]) > errors


@pytest.mark.parametrize(
    ("limit", "load", "scv"), [(100, 1.2, 1.0), (200, 1.1, 1.0), (200, 1.2, 1.0), (200, 1.2, 0.25), (300, 1.5, 1.0)]
)
def test_calls_under_a_full_breaker_share_pods_evenly(limit, load, scv):
    """So a call takes as many times longer than alone as there are calls in a pod, and its time varies as its work does."""
    changes = world(
        "least_outstanding", **edge(circuit_breaker={"max_requests": limit}), **{f"{CONTAINER}.cpu_scv": scv}
    )
    exact, fluid = (played(engine, load, changes) for engine in (REQUESTS, FLUID))
    assert fluid["latency_mean_s"] == pytest.approx(exact["latency_mean_s"], rel=0.01)
    assert fluid["latency_p50_s"] == pytest.approx(exact["latency_p50_s"], rel=0.03)
    assert fluid["latency_p95_s"] == pytest.approx(exact["latency_p95_s"], rel=0.03)
    assert fluid["slo_attainment"] == pytest.approx(exact["slo_attainment"], abs=0.008)
    assert fluid["error_ratio"] == pytest.approx(exact["error_ratio"], abs=0.006)


def guarded(
    n_pods: int = 10, edge: dict[str, Any] | None = None, flow: dict[str, Any] | None = None, **service: Any
) -> Any:
    """The flow of a service after its pods are guarded once; 10 pods of one core, calls of 0.1 s, 90 a second, 20 s old."""
    own = row(SERVICE, cores=1.0, workers=8.0, queue_limit=40.0, timeout_s=2.0, **service)
    state = row(SERVICE_STATE, n_pods=n_pods, n_ready=n_pods)
    flows = row(SERVICE_FLOW, **(flow or {}))
    flows.station.cell = -1
    for name, value in dict(expected=90.0, cpu_s=0.1, cold_factor=1.0, cores=1.0, nodes=2, tick_s=1.0,
                            balancing=LEAST_OUTSTANDING).items():  # fmt: skip
        flows.load[name] = value
    pods = np.zeros(n_pods, POD)
    pods["ready"], pods["ready_transition_s"] = READY_TRUE, 80.0
    calls = np.zeros(1, CALL)
    calls["timeout_s"], calls["breaker_requests"] = 2.0, math.inf
    for name, value in (edge or {}).items():
        calls[name] = value
    call_flows = np.zeros(1, CALL_FLOW)
    call_flows["new_calls"] = 90.0
    assert has_guard(own, calls)
    guard_pods(own, state, flows, pods, calls, call_flows, 100.0)
    return flows


def test_fresh_pods_count_by_their_weight():
    """20 s into a slow start of 80 s: 0.1 + 0.9 / 4 of a pod each, in steps of a quarter."""
    assert guarded(slow_start_s=80.0).load.ready == pytest.approx(3.25)
    assert guarded(slow_start_s=20.0).load.ready == 10.0


def test_a_breaker_is_the_room_of_all_pods_and_counts_for_each_node():
    """2 nodes of 20: 4 calls a pod, all of them at work; 2 of 60: 12, 4 of which wait; random pods share theirs."""
    narrow, wide = (guarded(edge=dict(breaker_requests=limit)).load for limit in (20.0, 60.0))
    assert (narrow.workers, narrow.queue_limit) == (4.0, 0.0)
    assert (wide.workers, wide.queue_limit, wide.most_open) == (8.0, 4.0, 0.0)
    beyond = guarded(edge=dict(breaker_requests=200.0)).load  # 40 a pod: a timeout takes fewer
    assert (beyond.workers, beyond.queue_limit) == (8.0, 40.0)


def test_a_deadline_leaves_the_line_that_is_served_in_time():
    """10 calls a second and pod, 2 s: a line of 20; without it one of 40."""
    flow = guarded(edge=dict(pass_deadline=True))
    assert (flow.load.queue_limit, flow.load.timeout_s, bool(flow.drops_late)) == (20.0, math.inf, True)


def test_calls_are_late_as_in_the_queue_with_impatient_customers():
    """M/M/1 + D: what is left to a call when it is picked is exponential at the rate at which calls come in excess, cut at D;
    of exponential services of 0.1 s, 1 / (1 + 0.1 rate) are done before, and by then as much is left as at first."""
    load = row(LOAD, balancing=RANDOM, sharing=FIFO, ready=20.0, cores=1.0, cpu_s=0.1, cpu_scv=1.0)
    late, mean, variance, third = late_calls(load, 10.0, 1.0 / 3.0, 10.0, 0.1, 0.1**2, 0.0)  # 15 a second
    assert late == pytest.approx(1.0 - 1.0 / 1.5, abs=1e-3)
    assert (mean, variance, third) == pytest.approx((0.2, 0.2**2, 2.0 * 0.2**3), rel=5e-3)
    # constant services, and so many calls too many that only those count which are picked at once
    late, mean, _, _ = late_calls(load, 10.0, 0.9, 10.0, 0.1, 0.0, 0.0)
    assert late == pytest.approx(1.0 - math.exp(-0.1 * 90.0), abs=1e-3)
    assert late_calls(load, 10.0, 0.5, 10.0, 20.0, 0.0, 0.0)[0] == 1.0  # nobody is served within the deadline


@pytest.mark.parametrize("balancing", [LEAST_OUTSTANDING, RANDOM])
def test_the_more_calls_are_dropped_the_more_of_the_others_are_late(balancing):
    load = row(LOAD, balancing=balancing, sharing=FIFO, ready=20.0, cores=1.0, cpu_s=0.025, cpu_scv=1.0)
    told = [late_calls(load, 40.0, dropped, 1.0, 0.1, 0.1**2, 0.0) for dropped in np.linspace(1e-4, 0.99, 200)]
    late, mean, variance, _ = np.array(told).T
    assert np.all(np.diff(late) > 0.0) and 0.0 < late[0] < 0.12 and late[-1] < 1.0
    assert np.all(np.diff(mean) < 0.0) and np.all((mean > 0.0) & (mean < 1.0))
    assert np.all((variance > 0.0) & (variance < 0.3 * mean))


def test_pods_that_fail_in_a_row_are_out_for_a_while_and_not_too_many_of_them():
    """9 attempts a pod in a second. All fail: the three pods that may be out are; a tenth: hardly one; none: they return."""
    rule = dict(ejection_failures=5, ejection_s=30.0, ejection_share=0.39, breaker_requests=math.inf)
    dead = guarded(edge=rule, flow=dict(attempts=90.0, failures=90.0))
    assert (dead.ejected, dead.load.ready) == (pytest.approx(3.0), 7.0)
    # a tenth: runs of five come after (1 - p^5) / ((1 - p) p^5) = 111,110 attempts on the mean, 9 of which are made here
    ill = guarded(edge=rule, flow=dict(attempts=90.0, failures=9.0))
    assert ill.ejected == pytest.approx(10 * 9 / 111_110, rel=1e-3)
    again = guarded(edge=rule, flow=dict(ejected=2.0, ejections=10.0))
    assert again.ejected == pytest.approx(2.0 * math.exp(-1.0 / 60.0))  # the second time of the mean pod
    small = guarded(n_pods=2, edge=rule, flow=dict(attempts=90.0, failures=90.0))
    assert small.ejected == 0.0  # one of two were half


def test_sticky_calls_are_as_good_as_random_ones_only_where_all_are_sticky():
    load = row(LOAD, balancing=LEAST_OUTSTANDING)
    for balancing in (LEAST_OUTSTANDING, POWER_OF_TWO):
        load.balancing = balancing
        counts = []
        for share in (0.0, 0.2, 0.5, 0.9, 1.0):
            load.sticky_share = share
            counts.append(chance_counts(load, 0.8))
        assert counts[0] == 0.0 and counts[-1] == 1.0 and counts == sorted(counts)
        load.sticky_share = 0.5
        assert chance_counts(load, 1.1) == 0.0  # what the balancer sends evens out the rest
    load.balancing = ROUND_ROBIN
    assert chance_counts(load, 0.8) == 0.5
    load.balancing = RANDOM
    assert chance_counts(load, 0.8) == 0.0
