"""What a station of the fluid engine must not get wrong unnoticed: each of these was once wrong without a test failing.

Waits are held to theory on their own, not within a sojourn, which hides them where few wait.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import expm

from sim_core.dataplane.fit import load_of, serve_ticks, settled
from sim_core.dataplane.known import known_stations, mixed, recall, remember, row_beside
from sim_core.dataplane.one_service import OneService, play
from sim_core.dataplane.services.kinds import (
    BALANCINGS,
    LEAST_OUTSTANDING,
    POWER_OF_TWO,
    RANDOM,
    ROUND_ROBIN,
    SHARINGS,
)
from sim_core.dataplane.services.records import FIFO, PROCESSOR_SHARING
from sim_core.dataplane.serving import serve_station
from sim_core.dataplane.station import ANSWER, LOAD, STATION_STATE
from sim_core.profile import Profile
from sim_core.theory import erlang_b
from sim_core.world import Lane, build_tables
from tests.conftest import flat

CPU_S, PER_S = 0.025, 40.0
M_M_1 = OneService(pods=1, held_s=0.0, timeout_s=60.0, workers=5000, queue_limit=5000, cpu_s=CPU_S)


def moving_m_m_1(loads: list[float], places: int, cpu_s: float, parts: int = 10) -> tuple[np.ndarray, ...]:
    """Mean wait [s], its standard deviation [s], and the share refused, of the arrivals of each second of an M/M/1 queue
    with these places that is empty at first, from its birth and death equations."""
    calls, steps = np.arange(places + 1), {}
    for load in set(loads):
        generator = np.diag(np.full(places, load / cpu_s), 1) + np.diag(np.full(places, 1.0 / cpu_s), -1)
        np.fill_diagonal(generator, -generator.sum(axis=1))
        steps[load] = expm(generator / parts)
    state, seconds = np.eye(places + 1)[0], []
    for load in loads:
        passed = [state]
        for _ in range(parts):
            passed.append(passed[-1] @ steps[load])
        state = passed[-1]
        found = 0.5 * (np.array(passed[1:]) + np.array(passed[:-1])).mean(axis=0)
        full = found[-1]
        mean, square = (found[:-1] @ calls[:-1] ** n / (1.0 - full) for n in (1, 2))
        seconds.append((cpu_s * mean, cpu_s * math.sqrt(mean + square - mean**2), full))
    mean_s, deviation_s, refused = np.array(seconds).T
    return mean_s, deviation_s, refused


def exact_waits_s(rate_per_s: float, ticks: int, begins_at: int = 0) -> np.ndarray:
    """Mean wait of the arrivals of each second of an M/M/1 queue that holds `begins_at` calls at first, from its birth and
    death equations: an arrival waits for those that it finds."""
    places, parts = 250, 10
    generator = np.diag(np.full(places - 1, rate_per_s), 1) + np.diag(np.full(places - 1, PER_S), -1)
    np.fill_diagonal(generator, -generator.sum(axis=1))
    step = expm(generator / parts)
    state, found = np.eye(places)[begins_at], []
    for _ in range(ticks * parts + 1):
        found.append(float(state @ np.arange(places)))
        state = state @ step
    middles = 0.5 * (np.array(found[1:]) + np.array(found[:-1]))
    return CPU_S * middles.reshape(ticks, parts).mean(axis=1)


@pytest.mark.parametrize("utilization", [0.8, 0.9, 0.95])
def test_an_empty_queue_fills_as_fast_as_the_equations_of_its_states_say(utilization: float):
    """The wait of the first second's arrivals within a quarter; then within 8 %, from the fifth second on within 3 %."""
    waits = serve_ticks(M_M_1, np.full(40, utilization * PER_S))["wait_s"]
    exact = exact_waits_s(utilization * PER_S, 40)
    assert waits[0] == pytest.approx(exact[0], rel=0.25)
    assert waits[1:] == pytest.approx(exact[1:], rel=0.08)
    assert waits[4:] == pytest.approx(exact[4:], rel=0.03)


def test_lines_that_fill_and_drain_are_as_long_and_as_different_as_the_equations_of_their_states_say():
    """Through saturation into overload and back, over 115 seconds. Mean waits within 5 % (a second after each change),
    until a quarter of a full line is left; their standard deviations within a quarter, or 0.06 s; what is refused within
    0.7 points. Of a station at rest with as many calls, deviations would be off by 80 %, and refusals by 3 points."""
    loads = [0.8] * 10 + [1.03] * 30 + [1.15] * 15 + [0.95] * 60
    places, cpu_s = 400, 0.005
    service = OneService(pods=1, held_s=0.0, timeout_s=60.0, workers=1, queue_limit=places - 1, cpu_s=cpu_s)
    answers = serve_ticks(service, np.array(loads) / cpu_s)
    mean_s, deviation_s, refused = moving_m_m_1(loads, places, cpu_s)
    second = np.arange(len(loads))
    judged = ~np.isin(second, (0, 10, 11, 40, 55)) & ((second < 55) | (mean_s > 0.5))
    assert answers["wait_s"][judged] == pytest.approx(mean_s[judged], rel=0.05)
    assert np.sqrt(answers["wait_variance_s2"])[judged] == pytest.approx(deviation_s[judged], rel=0.25, abs=0.06)
    assert answers["refused"] * cpu_s / loads == pytest.approx(refused, abs=0.0125)
    assert (answers["refused"] * cpu_s / loads)[judged] == pytest.approx(refused[judged], abs=0.007)


def test_a_full_queue_drains_as_fast_as_the_equations_of_its_states_say():
    """After three seconds at five times the load 480 calls stand there; then comes half of what one pod can serve."""
    rates = np.concatenate([np.full(3, 5.0), np.full(30, 0.5)]) * PER_S
    answers = serve_ticks(M_M_1, rates)
    assert answers["served"][:23] == pytest.approx(PER_S, rel=0.05)
    left_s = (480.0 - 20.0 * (np.arange(20) + 0.5)) * CPU_S  # 20 a second go: arrivals of the k-th second find these
    assert answers["wait_s"][3:23] == pytest.approx(left_s, rel=0.05, abs=0.3)
    assert answers["wait_s"][-1] == pytest.approx(CPU_S, rel=0.02)  # settled: rho / (1 - rho)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_load_that_rises_slowly_is_met_as_at_rest(steps: int):
    """By a thousandth of what is idle in one or four seconds: waits are those at rest within 1 %, and no call is lost."""
    idle = np.maximum(0.1, 0.5 * (1.0 - 1e-3) ** (np.arange(2000 * steps) // steps))
    answers = serve_ticks(M_M_1, PER_S * (1.0 - idle))
    for tick in (500 * steps, 1000 * steps, 1999 * steps):
        at_rest = settled(M_M_1, 1.0 - idle[tick])
        assert answers["wait_s"][tick] == pytest.approx(at_rest["wait_s"], rel=0.01)
        assert answers["wait_variance_s2"][tick] == pytest.approx(at_rest["wait_variance_s2"], rel=0.02)
    inside = answers["admitted"].sum() - answers["served"].sum()
    assert inside == pytest.approx((1.0 - idle[-1]) / idle[-1], rel=0.01)


@pytest.mark.parametrize("balancing", [RANDOM, LEAST_OUTSTANDING])
def test_cold_pods_serve_less(balancing: int):
    """Overloaded, half the pods at half the speed: three quarters of what as many warm ones serve."""
    service = OneService(pods=10, held_s=0.0, cold_pods=5, cold_factor=2.0, balancing=balancing)
    answers = serve_ticks(service, np.full(60, 900.0))
    assert answers["served"][-1] == pytest.approx(0.75 * 10 * PER_S, rel=0.01)
    warm = serve_ticks(service.but(cold_pods=0), np.full(60, 900.0))
    assert warm["served"][-1] == pytest.approx(10 * PER_S, rel=0.01)


@pytest.mark.parametrize("timeout_s", [0.05, 0.1, 0.2, 0.4])
def test_who_waits_longer_than_the_timeout_has_gone(timeout_s: float):
    """M/M/1 at 0.8: the sojourn is exponential with mean 125 ms, and so is the share beyond a timeout; within 0.02."""
    answer = settled(M_M_1.but(timeout_s=timeout_s), 0.8, ticks=60)
    beyond = math.exp(-8.0 * timeout_s)
    assert answer["timeout_share"] == pytest.approx(beyond, abs=0.02)
    in_time_s = 0.125 - timeout_s * beyond / (1.0 - beyond)
    assert answer["answered_s"] == pytest.approx(in_time_s, rel=0.05)


@pytest.mark.parametrize("utilization", [0.5, 0.8, 0.9])
def test_waits_vary_as_those_of_the_m_m_1_queue(utilization: float):
    """Zero with 1 - rho, else exponential: variance rho (2 - rho) (E S / (1 - rho))^2; the sojourn's is (E S / (1 - rho))^2,
    its third cumulant twice the cube. Within 2 %, 6 % and 10 %."""
    answer = settled(M_M_1, utilization, ticks=1000)
    sojourn_s = CPU_S / (1.0 - utilization)
    assert answer["wait_variance_s2"] == pytest.approx(utilization * (2.0 - utilization) * sojourn_s**2, rel=0.02)
    assert answer["sojourn_variance_s2"] == pytest.approx(sojourn_s**2, rel=0.06)
    assert answer["sojourn_third_s3"] == pytest.approx(2.0 * sojourn_s**3, rel=0.1)


@pytest.mark.parametrize(("workers", "held_s"), [(1, 0.015), (2, 0.05), (3, 0.05)])
def test_a_pod_with_few_workers_serves_less_than_its_cpu_could(workers: int, held_s: float):
    """Overloaded it is a machine-repair model: its core is busy with 1 - B(workers, held time over CPU time)."""
    service = M_M_1.but(pods=10, held_s=held_s, workers=workers, queue_limit=500)
    served = serve_ticks(service, np.full(30, 600.0))["served"][-1]
    assert served == pytest.approx(10 * PER_S * (1.0 - erlang_b(workers, held_s / CPU_S)), rel=0.01)


@pytest.mark.parametrize("utilization", [0.6, 1.2, 2.0])
@pytest.mark.parametrize("cpu_scv", [0.0, 4.0])
def test_a_pod_without_places_to_wait_is_erlang_s_loss_system(cpu_scv: float, utilization: float):
    """Shared CPU and time held elsewhere, workers but no queue: what is lost does not depend on the distribution of
    service times. Two calls keep the core busy at 1/2 and 4/5 of its speed (exact mean value analysis)."""
    service = OneService(
        pods=20, workers=2, queue_limit=0, cpu_s=CPU_S, cpu_scv=cpu_scv, held_s=CPU_S, sharing=1, timeout_s=60.0
    )
    weights = np.array([1.0, utilization / 0.5, utilization / 0.5 * utilization / 0.8])
    answer = settled(service, utilization)
    blocked = answer["refused"] / (answer["refused"] + answer["admitted"])
    assert blocked == pytest.approx(weights[2] / weights.sum(), rel=0.02)


def test_balancers_that_know_more_wait_less():
    """At three quarters of capacity: a call is dealt to the next pod, to the better of two, or to the least busy one."""
    waits = [
        float(settled(OneService(pods=30, balancing=balancing), 0.75, ticks=60)["wait_s"])
        for balancing in (RANDOM, ROUND_ROBIN, POWER_OF_TWO, LEAST_OUTSTANDING)
    ]
    assert waits[0] == pytest.approx(3.0 * CPU_S, rel=0.02)  # each pod is an M/M/1 queue
    assert waits[1] < 0.55 * waits[0]
    assert waits[2] < 0.8 * waits[1]
    assert waits[3] < 0.6 * waits[2]


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("balancing", BALANCINGS)
def test_a_service_is_played_as_its_profile_says(production: Profile, balancing: str, sharing: str):
    """Balancing, sharing, workers, room, cold pods, timeouts and retries reach the rows that kernels read."""
    container, client = "services.api.container", "services.api.client"
    profile = production.with_overrides(
        {
            "services.api.load_balancing": balancing,
            f"{container}.cpu_sharing": sharing,
            f"{container}.workers": 3,
            f"{container}.queue_limit": 7,
            f"{client}.timeout_seconds": 1.7,
            f"{client}.max_retries": 2,
            f"{client}.backoff_seconds": 0.3,
            f"{client}.retry_budget_ratio": 0.15,
            "services.api.lifecycle.cold_seconds": 21.0,
            "services.api.lifecycle.cold_factor": 2.5,
        }
    )
    tables, _ = build_tables([Lane(profile, flat(1.0), 0)])
    (service,), (call,) = tables["services"], tables["calls"]
    assert BALANCINGS[service["balancing"]] == balancing
    assert SHARINGS[service["sharing"]] == sharing
    assert (service["workers"], service["queue_limit"], service["timeout_s"]) == (3.0, 7.0, 1.7)
    assert (service["cold_s"], service["cold_factor"]) == (21.0, 2.5)
    assert (call["timeout_s"], call["max_retries"], call["retry_budget_ratio"]) == (1.7, 2, 0.15)
    assert call["backoff_s"].tolist() == pytest.approx([0.3, 0.6, 1.2])


@pytest.mark.parametrize(
    ("pods", "sharing", "utilization", "timeout_s"),
    [
        (10, PROCESSOR_SHARING, 0.95, 2.0),
        (10, FIFO, 0.97, 2.0),
        (16, PROCESSOR_SHARING, 1.1, 2.0),  # callers give up before pods are full
        (16, PROCESSOR_SHARING, 1.1, 60.0),
    ],
)
def test_calls_of_balanced_pods_vary_as_much_and_as_long_as_played(
    pods: int, sharing: int, utilization: float, timeout_s: float
):
    """Variance of the mean pod's calls within a quarter (3,000 s are played, for 300 or more memories of 10 s). It is 30 times
    as large where callers give up. Once lines should have forgotten all but 1 / e, 0 to 0.6 are left."""
    service = OneService(
        pods=pods, balancing=LEAST_OUTSTANDING, sharing=sharing, held_s=0.02, timeout_s=timeout_s, cpu_s=CPU_S
    )
    load, state, answer, known = load_of(service), np.zeros(1, STATION_STATE), np.zeros(1, ANSWER), known_stations()
    state["cell"] = -1
    load["arrivals"] = load["expected"] = utilization * service.capacity_per_s
    for _ in range(600):
        serve_station(**known, load=load[0], state=state[0], answer=answer[0])
    calls = play(service, np.full(3300, utilization * service.capacity_per_s), 3).open_calls_at_ends(300) / pods
    assert state["variance"][0] == pytest.approx(calls.var(), rel=0.25)
    off, later = calls - calls.mean(), max(1, round(float(state["memory_s"][0])))
    assert 0.0 <= (off[:-later] * off[later:]).mean() / calls.var() <= 0.6


# --- What is known of stations


def test_points_of_neighbouring_cells_lie_side_by_side():
    """In groups of four, so that a station that moves finds the next one in the same lines of the cache."""
    points = known_stations()["known_points"]
    tag = np.uint64(mixed(np.uint64(7), 3.0))
    rows = np.array([row_beside(tag, cell, points) for cell in range(400)])
    assert rows.min() >= 0 and rows.max() < len(points)
    assert (np.diff(rows)[np.arange(399) % 4 != 3] == 1).all()
    assert len(set(rows[::4])) > 95  # and the groups all over the table


def test_the_point_before_stays_in_the_other_row_until_a_third_comes():
    points, row = known_stations()["known_points"], 12
    found, point = np.zeros(1, points.dtype["point"]), np.zeros(1, points.dtype["point"])
    tags = [np.uint64(mixed(np.uint64(1), float(number))) for number in range(3)]
    for number, tag in enumerate(tags):
        assert not recall(points, row, tag, found[0])
        point["open"] = number
        remember(points, row, tag, point[0])
        for known in range(max(0, number - 1), number + 1):
            assert recall(points, row, tags[known], found[0])
            assert found[0]["open"] == known
    assert not recall(points, row, tags[0], found[0])


@pytest.mark.parametrize("scv", [0.25, 1.0, 4.0])
def test_a_cpu_that_is_shared_is_busy_while_its_pod_fills(scv: float):
    """Steady calls end late, and the CPU is booked when they do: at a load of 2.5 at least 2.5 / 3.5 of it."""
    load, state, answer = np.zeros(1, LOAD), np.zeros(1, STATION_STATE), np.zeros(1, ANSWER)
    known = known_stations()
    state["cell"] = -1
    for name, value in {
        "cold_factor": 1.0, "cores": 1.0, "workers": 10_000.0, "queue_limit": 100.0, "cpu_s": 0.01, "cpu_scv": scv,
        "balancing": RANDOM, "nodes": 1, "sharing": PROCESSOR_SHARING, "quota_period_s": 0.1, "timeout_s": 1e3,
        "tick_s": 1.0, "ready": 1.0, "pods": 1.0, "arrivals": 250.0, "expected": 250.0,
    }.items():  # fmt: skip
        load[name] = value
    for tick in range(20):
        serve_station(*known.values(), load[0], state[0], answer[0])
        assert (2.5 / 3.5 if scv < 1.0 else 1.0) * 0.99 <= answer["cpu_core_s"][0] <= 1.0, tick
