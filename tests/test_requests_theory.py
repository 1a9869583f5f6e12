"""The request engine against queueing theory: exact results within the confidence interval of independent runs.

Each comparison is over independent seeds, fixed here. It holds within 4 standard errors, which a right engine misses for
one choice of seeds in some thousands, and the standard error is held below a bound, so that the comparison means something.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from sim_core import theory
from sim_core.dataplane.database.records import DATABASE
from sim_core.dataplane.services import records as r
from tests.request_worlds import (
    RequestClass,
    RequestWorld,
    Service,
    call,
    cpu,
    read,
    row,
    run_all,
    wait,
)

EXPONENTIAL_S = 0.01


def open_worlds(steps, rate_per_s, seeds, warmup_s=50, **service):
    """One service called once a request, after a warm-up."""
    worlds = [
        RequestWorld([Service("api", {"main": steps}, **service)], [RequestClass([call("api")], rate_per_s)], seed=seed)
        for seed in range(seeds)
    ]
    run_all(worlds, warmup_s)
    for world in worlds:
        world.clear()
    return worlds


def assert_agrees(values, expected, tightness):
    """The mean of independent values is what theory says, and so well known that it could have been otherwise."""
    values = np.asarray(values)
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert error <= tightness * expected, f"standard error {error / expected:.2%} of {expected}"
    assert abs(values.mean() - expected) <= 4.0 * error, f"{values.mean()} for {expected} ({error=})"


def waits_s(worlds, seconds):
    """Mean wait before the CPU, from the integral of those that wait (Little's law)."""
    return [float(w.sums["queue_s"].sum() / w.sums["calls"].sum()) for w in worlds]


@pytest.mark.parametrize("utilization", [0.3, 0.8])
def test_one_exponential_server_has_the_wait_and_sojourn_of_mm1(utilization):
    """M/M/1: wait rho / (mu - lambda), sojourn 1 / (mu - lambda)."""
    worlds = run_all(open_worlds([cpu(EXPONENTIAL_S)], 100.0 * utilization, seeds=16), 1500)
    sojourn_s = 1.0 / (100.0 - 100.0 * utilization)
    assert_agrees([w.mean_latency_s for w in worlds], sojourn_s, 0.01)
    assert_agrees(waits_s(worlds, 1500), utilization * sojourn_s, 0.015)


@pytest.mark.parametrize(("servers", "utilization"), [(4, 0.8), (16, 0.9)])
def test_exponential_servers_have_the_wait_of_mmc(servers, utilization):
    """M/M/c: Erlang C, on the wait alone."""
    rate_per_s = servers * 100.0 * utilization
    worlds = run_all(open_worlds([cpu(EXPONENTIAL_S)], rate_per_s, seeds=16, cores=servers), 250)
    assert_agrees(waits_s(worlds, 250), theory.mmc_mean_wait_s(rate_per_s, 100.0, servers), 0.04)


@pytest.mark.parametrize(("cores", "utilization"), [(1, 0.7), (2, 0.8)])
def test_what_calls_get_less_than_one_alone_is_time_that_they_wait(cores, utilization):
    """Exponential work on shared CPUs: as many calls there as in M/M/c, so the same wait on the mean."""
    rate_per_s = cores * 100.0 * utilization
    worlds = run_all(
        open_worlds([cpu(EXPONENTIAL_S)], rate_per_s, seeds=16, cores=cores, sharing=r.PROCESSOR_SHARING), 600
    )
    assert_agrees(waits_s(worlds, 600), theory.mmc_mean_wait_s(rate_per_s, 100.0, cores), 0.03)


def test_calls_wait_while_their_quota_is_used_up():
    """Half a core of 100 ms: a call of 120 ms that comes alone runs for 50 ms of each period at most, and stands still once or
    twice."""
    worlds = [
        RequestWorld(
            [
                Service(
                    "api", {"main": [cpu(0.12, 0.0)]}, cores=0.5, sharing=r.CFS_QUOTA, settings={"quota_period_s": 0.1}
                )
            ],
            [RequestClass([call("api")], 0.0)],
            seed=seed,
        )
        for seed in range(8)
    ]
    for world in worlds:
        world.serve(1, ticks=3)
        waited_s = world.mean_latency_s - 0.12
        assert 0.049 < waited_s < 0.101
        assert world.sums["queue_s"][0] == pytest.approx(waited_s, abs=1e-6)


@pytest.mark.parametrize("load", [0.8, 1.3])
def test_a_finite_room_refuses_the_share_of_mmck(load):
    """M/M/4/9: refused share and mean queue, below and above saturation."""
    rate_per_s = 400.0 * load
    worlds = run_all(
        open_worlds([cpu(EXPONENTIAL_S)], rate_per_s, seeds=16, cores=4.0, workers=4.0, queue_limit=5.0), 300
    )
    refused = [float(w.sums["failed"].sum() / w.sums["calls"].sum()) for w in worlds]
    queue_len = [float(w.sums["queue_s"].sum()) / 300.0 for w in worlds]
    assert_agrees(refused, theory.mmck_blocking(4, 4.0 * load, 5), 0.02)
    assert_agrees(queue_len, theory.mmck_mean_queue_len(4, 4.0 * load, 5), 0.02)
    for w in worlds:  # a refused call fails its request
        assert w.class_sums["failed"].sum() == w.sums["failed"].sum()


@pytest.mark.parametrize("scv", [0.0, 0.25, 0.4, 4.0])
def test_the_wait_for_one_server_is_that_of_pollaczek_and_khinchine(scv):
    """M/G/1 with constant, Erlang, gamma and lognormal service."""
    worlds = run_all(open_worlds([cpu(EXPONENTIAL_S, scv)], 70.0, seeds=24), 1500)
    assert_agrees(waits_s(worlds, 1500), theory.mg1_mean_wait_s(70.0, EXPONENTIAL_S, scv), 0.03)


@pytest.mark.parametrize("servers", [4, 20])
def test_constant_service_has_the_wait_of_mdc(servers):
    """M/D/c at 0.9: Crommelin's chain."""
    rate_per_s = servers * 90.0
    worlds = run_all(open_worlds([cpu(EXPONENTIAL_S, 0.0)], rate_per_s, seeds=16, cores=servers), 120)
    assert_agrees(waits_s(worlds, 120), theory.mdc_mean_wait_s(rate_per_s, EXPONENTIAL_S, servers), 0.03)


@pytest.mark.parametrize("scv", [0.0, 0.25, 1.0, 4.0])
def test_a_shared_cpu_does_not_care_how_service_times_vary(scv):
    """M/G/1-PS: the mean sojourn is E[S] / (1 - rho) for every distribution of S (insensitivity)."""
    worlds = run_all(open_worlds([cpu(EXPONENTIAL_S, scv)], 70.0, seeds=16, sharing=r.PROCESSOR_SHARING), 1500)
    assert_agrees([w.mean_latency_s for w in worlds], EXPONENTIAL_S / 0.3, 0.015)


def test_shared_cores_have_the_sojourn_of_mmc():
    """M/M/c with processor sharing, each call at most one core, has the same number in system as M/M/c."""
    worlds = run_all(open_worlds([cpu(EXPONENTIAL_S)], 340.0, seeds=16, cores=4.0, sharing=r.PROCESSOR_SHARING), 300)
    assert_agrees([w.mean_latency_s for w in worlds], theory.mmc_mean_sojourn_s(340.0, 100.0, 4), 0.01)


@pytest.mark.parametrize("rate_per_s", [30.0, 50.0])
def test_stations_in_a_row_and_visited_again_are_those_of_a_jackson_network(rate_per_s):
    """Tandem with feedback: 1 or 2 visits of the first (1.5 on the mean), one of the second, each as if it were alone."""
    worlds = [
        RequestWorld(
            [Service("a", {"main": [cpu(0.01)]}), Service("b", {"main": [cpu(0.012)]})],
            [RequestClass([call("a", count=1.5), call("b")], rate_per_s)],
            seed=seed,
        )
        for seed in range(16)
    ]
    run_all(worlds, 50)
    for world in worlds:
        world.clear()
    run_all(worlds, 1500)
    of_a, of_b = 1.0 / (100.0 - 1.5 * rate_per_s), 1.0 / (1.0 / 0.012 - rate_per_s)
    assert_agrees([w.mean_latency_s for w in worlds], 1.5 * of_a + of_b, 0.01)
    for place, sojourn_s in enumerate((of_a, of_b)):
        assert_agrees([float(w.sums["latency_s"][place] / w.sums["calls"][place]) for w in worlds], sojourn_s, 0.02)


def test_workers_that_are_never_idle_are_a_closed_network():
    """12 workers go round CPU, a wait and a database of one core: throughput by exact mean value analysis."""
    database = row(DATABASE, cores=1.0, read_s=0.008, write_s=0.003, scv=1.0, connection_limit=1e9, pool_size=1e9)
    worlds = [
        RequestWorld(
            [Service("api", {"main": [cpu(0.01), wait(0.05), read()]}, workers=12.0, queue_limit=500.0)],
            [RequestClass([call("api")], 300.0)],
            databases=[database],
            seed=seed,
        )
        for seed in range(12)
    ]
    run_all(worlds, 20)
    for world in worlds:
        world.clear()
    run_all(worlds, 400)
    answered = [float(w.class_sums["latency_weight"].sum()) / 400.0 for w in worlds]
    assert_agrees(answered, theory.closed_network_throughput_per_s(12, [0.01, 0.008], think_s=0.05), 0.002)


def test_calls_in_turn_see_erlang_gaps():
    """Round robin over 5 pods: each is E5/M/1."""
    worlds = run_all(open_worlds([cpu(EXPONENTIAL_S)], 400.0, seeds=16, pods=5, balancing=r.ROUND_ROBIN), 600)
    assert_agrees([w.mean_latency_s for w in worlds], theory.gim1_mean_sojourn_s(5, 80.0, 100.0), 0.01)


def test_a_random_pod_is_mm1():
    """Random split of a Poisson stream: each of 5 pods is M/M/1."""
    worlds = run_all(open_worlds([cpu(EXPONENTIAL_S)], 400.0, seeds=16, pods=5), 600)
    assert_agrees([w.mean_latency_s for w in worlds], 1.0 / 20.0, 0.01)


def test_the_better_of_two_random_pods_is_the_mean_field_of_many():
    """Power of two choices over 400 pods at 0.9: tails rho ** (2 ** i - 1); finite many cost less than 1 %."""
    worlds = run_all(open_worlds([cpu(0.1)], 3600.0, seeds=8, pods=400, balancing=r.POWER_OF_TWO, warmup_s=20), 60)
    mean_s = np.mean([w.mean_latency_s for w in worlds])
    assert mean_s == pytest.approx(theory.two_choices_mean_sojourn_s(0.9, 10.0), rel=0.015)


def test_least_outstanding_joins_the_shorter_of_two_queues():
    """Two pods that hold only CPU work: open calls are queue lengths, so the Markov chain of both lengths applies."""
    worlds = run_all(open_worlds([cpu(EXPONENTIAL_S)], 160.0, seeds=16, pods=2, balancing=r.LEAST_OUTSTANDING), 500)
    assert_agrees([w.mean_latency_s for w in worlds], theory.join_shortest_of_two_mean_sojourn_s(160.0, 100.0), 0.01)
