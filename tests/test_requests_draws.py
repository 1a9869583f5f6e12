"""Random times and the heap of events: the two things that every event of the request engine goes through."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sim_core import theory
from sim_core.compiled import kernel
from sim_core.dataplane.requests import records as er
from sim_core.dataplane.requests.buckets import bucket_of, log_of
from sim_core.dataplane.requests.draws import exp_of_minus, mixed, next_below, next_time, set_distribution
from sim_core.dataplane.requests.heap import begin_events, drop_first, move_first, next_event_s, push_event
from sim_core.dataplane.requests.memory import release
from sim_core.dataplane.services import records as r

N = 200_000


@kernel
def _fill(stream, distribution, times):
    for i in range(len(times)):
        times[i] = next_time(stream, distribution, 1.0)


@kernel
def _fill_below(stream, n, numbers):
    for i in range(len(numbers)):
        numbers[i] = next_below(stream, n)


def stream(seed=1):
    record = np.zeros(1, dtype=er.ARRIVAL)[0]
    record["random"] = mixed(np.uint64(seed), 0)
    return record


def draws(scv, seed=1):
    distribution = np.zeros(1, dtype=er.DISTRIBUTION)[0]
    set_distribution(distribution, scv)
    times = np.zeros(N)
    _fill(stream(seed), distribution, times)
    return times


@pytest.mark.parametrize(
    ("scv", "law"),
    [
        (0.25, stats.gamma(4, scale=0.25)),
        (0.05, stats.gamma(20, scale=0.05)),
        (0.4, stats.gamma(2.5, scale=0.4)),
        (1.0, stats.expon()),
        (4.0, stats.lognorm(math.sqrt(math.log(5.0)), scale=math.exp(-0.5 * math.log(5.0)))),
    ],
)
def test_times_follow_the_distribution_of_their_scv(scv, law):
    """Kolmogorov and Smirnov's distance of 200,000 draws: above 1.95 / sqrt(n) for one right sample in a thousand."""
    times = draws(scv)
    assert stats.kstest(times, law.cdf).statistic < 1.95 / math.sqrt(N)
    assert times.mean() == pytest.approx(1.0, abs=4 * math.sqrt(scv / N))


def test_long_exponential_times_are_as_rare_as_they_should_be():
    """The tail beyond the ziggurat's last edge, 7.7, and the layers' edges: counts within 4 standard deviations."""
    times = np.concatenate([draws(1.0, seed) for seed in range(1, 21)])
    for edge in (0.01, 0.5, 5.0, 7.697, 9.0, 11.0):
        expected = len(times) * math.exp(-edge)
        assert abs((times > edge).sum() - expected) < 4 * math.sqrt(expected)


def test_constant_times_are_their_mean():
    """scv 0."""
    assert set(draws(0.0)[:10]) == {1.0}


def test_whole_numbers_are_equally_likely():
    """Chi square over 7 numbers, at one in a thousand."""
    numbers = np.zeros(N, dtype=np.int64)
    _fill_below(stream(3), 7, numbers)
    assert stats.chisquare(np.bincount(numbers, minlength=7)).pvalue > 1e-3


def test_the_series_for_small_powers_is_exact():
    """Against the library, on both sides of where the series ends."""
    for x in (0.0, 1e-9, 1e-3, 0.0199, 0.0201, 1.0, 40.0):
        assert exp_of_minus(x) == pytest.approx(math.exp(-x), rel=1e-12)


def test_buckets_of_latencies_are_even_in_their_logarithm():
    """The table's logarithm is off by 2e-6 at most, so buckets by it are those of the library but at their very edges."""
    times_s = np.exp(np.random.default_rng(2).uniform(math.log(1e-5), math.log(500.0), 20_000))
    assert np.abs([log_of(time_s) - math.log(time_s) for time_s in times_s]).max() < 2e-6
    edges = np.exp(np.linspace(math.log(r.LATENCY_MIN_S), math.log(r.LATENCY_MAX_S), r.LATENCY_BUCKETS + 1))
    expected = np.clip(np.searchsorted(edges, times_s) - 1, 0, r.LATENCY_BUCKETS - 1)
    assert (np.array([bucket_of(time_s) for time_s in times_s]) != expected).mean() < 1e-3
    assert (bucket_of(0.0), bucket_of(1e9)) == (0, r.LATENCY_BUCKETS - 1)


@kernel
def _sorted_by_heap(engine, times, order, again_s):
    begin_events(engine, 4)
    for i in range(len(times)):
        push_event(engine, times[i], i - 5, i)
        if i % 7 == 3:  # take one in between
            push_event(engine, -1.0, 0, 0)
            drop_first(engine)
    move_first(engine, again_s)
    i = 0
    while next_event_s(engine) < math.inf:
        what = er.event_at(engine.events, 0).what
        order[i, 0] = next_event_s(engine)
        order[i, 1] = what >> 32
        order[i, 2] = (what << 32) >> 32
        drop_first(engine)
        i += 1
    release(engine.events)
    return i


@pytest.mark.parametrize("n", [1, 2, 5, 6, 333])
def test_events_come_in_the_order_of_time(n):
    """Whatever their number, with what was pushed; the first can be moved; the table grows as it must."""
    times = np.random.default_rng(n).permutation(n).astype(float)
    order = np.zeros((n + 1, 3))
    count = _sorted_by_heap(np.zeros(1, dtype=er.ENGINE)[0], times, order, n + 0.5)
    assert count == n
    assert order[: n - 1, 0].tolist() == sorted(times)[1:]
    assert order[n - 1, 0] == n + 0.5
    for time_s, thread, token in order[: n - 1]:
        assert times[int(token)] == time_s and thread == token - 5


def test_new_formulas_meet_known_cases():
    """Each against a case that has a form of its own."""
    assert theory.mdc_mean_wait_s(70.0, 0.01, 1) == pytest.approx(theory.mg1_mean_wait_s(70.0, 0.01, 0.0), rel=1e-9)
    assert theory.mdc_mean_wait_s(400.0, 0.01, 4) == math.inf
    assert theory.gim1_mean_sojourn_s(1, 70.0, 100.0) == pytest.approx(1 / 30.0, rel=1e-9)
    assert theory.two_choices_mean_sojourn_s(0.5, 1.0) == pytest.approx(1 + 0.25 + 2**-6 + 2**-14, rel=1e-4)
    shortest = theory.join_shortest_of_two_mean_sojourn_s(160.0, 100.0)
    assert theory.mmc_mean_sojourn_s(160.0, 100.0, 2) < shortest < 1 / 20.0  # one queue < two, joined well < at random
    assert theory.closed_network_throughput_per_s(1, [0.01, 0.02], think_s=0.07) == pytest.approx(10.0)
    assert theory.closed_network_throughput_per_s(500, [0.01, 0.02], think_s=0.07) == pytest.approx(50.0, rel=1e-6)
