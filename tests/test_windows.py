"""What scrapes say and book of their windows, and how requests arrive, on rows made by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sim_core import telemetry
from sim_core.controlplane.pods import POD
from sim_core.dataplane.services.records import (
    ARRIVALS,
    CLASS_SUMS,
    REQUEST_CLASS,
    SERVICE,
    SERVICE_STATE,
    SERVICE_SUMS,
)
from sim_core.randomness import ARRIVALS as ARRIVALS_STREAM
from sim_core.randomness import lane_key, poisson_quantile, uniform
from sim_core.telemetry import CLASS_TELEMETRY, SERVICE_TELEMETRY
from sim_core.workload.arrivals import arrive, draw_arrivals, rate_at, share_at
from sim_core.world import LAYOUT, TRAFFIC
from tests.handmade import python, row, rows


def counted(names: Any, first: float = 1.0) -> dict[str, float]:
    """A different figure for every name."""
    return {name: first + place for place, name in enumerate(names)}


def test_a_window_says_rates_and_ratios_of_its_requests():
    """200 in 10 s, of which 150 are good and 30 failed; latencies of 160 of them, with mean 0.2 s and variance 0.01."""
    window = row(CLASS_SUMS, requests=200.0, good=150.0, good_own=9.0, failed=30.0, latency_weight=160.0)
    window.latency_s, window.latency_s2 = 160.0 * 0.2, 160.0 * 0.05
    staged = row(CLASS_TELEMETRY)
    telemetry.stage_requests(staged, window, 10.0)
    assert (staged.request_rate_per_s, staged.good_ratio, staged.error_ratio) == pytest.approx((20.0, 0.75, 0.15))
    assert staged.latency_mean_s == pytest.approx(0.2)
    log_variance = math.log(1.0 + 0.01 / 0.04)
    p95_s = 0.2 * math.exp(1.6448536 * math.sqrt(log_variance) - 0.5 * log_variance)
    assert staged.latency_p95_s == pytest.approx(p95_s)
    assert p95_s == pytest.approx(0.389, abs=0.001)  # lognormal


def test_a_window_without_requests_is_good_and_keeps_its_latency():
    staged = row(CLASS_TELEMETRY, latency_mean_s=0.3, latency_p95_s=0.7, good_ratio=0.1, error_ratio=0.5)
    telemetry.stage_requests(staged, row(CLASS_SUMS), 10.0)
    figures = [float(staged[name]) for name in CLASS_TELEMETRY.names or ()]
    assert figures == [0.0, 0.3, 0.7, 1.0, 0.0]
    telemetry.stage_requests(
        staged, row(CLASS_SUMS, requests=0.5, good=0.25, failed=0.6), 10.0
    )  # fails of calls before
    assert (staged.good_ratio, staged.error_ratio) == (0.5, 1.0)


def test_latencies_that_are_all_the_same_have_that_percentile():
    """Rounding may leave a variance below zero, which has no root."""
    staged, mean = row(CLASS_TELEMETRY), 0.1
    telemetry.stage_requests(
        staged, row(CLASS_SUMS, requests=1.0, latency_weight=3.0, latency_s=0.3, latency_s2=0.0299), 1.0
    )
    assert (staged.latency_mean_s, staged.latency_p95_s) == pytest.approx((mean, mean))


def test_sums_of_classes_add_up_field_by_field_and_begin_anew():
    names = CLASS_SUMS.names or ()
    total, window = row(CLASS_SUMS, **counted(names, 100.0)), row(CLASS_SUMS, **counted(names))
    telemetry.add_class(total, window)
    assert [float(total[name]) for name in names] == [101.0 + 2.0 * place for place in range(len(names))]
    assert [float(window[name]) for name in names] == [1.0 + place for place in range(len(names))]
    telemetry.clear_class(window)
    assert [float(window[name]) for name in names] == [0.0] * len(names)


def test_a_window_of_a_service_is_booked_field_by_field_and_begins_anew():
    names = SERVICE_SUMS.names or ()
    total, window = row(SERVICE_SUMS, **counted(names, 100.0)), row(SERVICE_SUMS, **counted(names))
    telemetry.book_service(total, window)
    assert [float(total[name]) for name in names] == [101.0 + 2.0 * place for place in range(len(names))]
    assert [float(window[name]) for name in names] == [0.0] * len(names)


def test_a_window_says_what_a_service_did_and_what_it_has():
    window = row(
        SERVICE_SUMS, calls=300.0, failed=30.0, cpu_core_s=45.0, request_core_s=60.0, queue_s=75.0, latency_s=90.0
    )
    state, staged = row(SERVICE_STATE, n_ready=4, n_active=6, desired_replicas=9), row(SERVICE_TELEMETRY)
    telemetry.stage_service(staged, state, window, 15.0)
    assert [float(staged[name]) for name in SERVICE_TELEMETRY.names or ()] == pytest.approx(
        [20.0, 3.0, 0.75, 5.0, 0.3, 0.1, 4.0, 2.0, 9.0]
    )
    telemetry.stage_service(staged, state, row(SERVICE_SUMS), 15.0)
    assert [float(staged[name]) for name in SERVICE_TELEMETRY.names or ()] == pytest.approx(
        [0.0, 0.0, 0.0, 0.0, 0.3, 0.0, 4.0, 2.0, 9.0]
    )


@pytest.fixture
def scraped(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A lane of two classes and two services at 30 s, 15 s after its last scrape; ticks of half a second.

    `rows` cuts views only inside kernels, and phases cannot be called within Python: both are stood in for by what they do.
    """
    monkeypatch.setattr(telemetry, "rows", lambda table, first, n: table[first : first + n])
    called: list[Any] = []
    monkeypatch.setattr(telemetry, "scrape_components", called.append)
    world = SimpleNamespace(
        lane=SimpleNamespace(tick_s=0.5),
        state=row(LAYOUT.state, tick=60, window_start_s=15.0, n_published=telemetry.HISTORY + 2),
        classes=range(2),
        class_windows=rows(CLASS_SUMS, 2, requests=[30.0, 60.0], good=[15.0, 60.0], latency_weight=1.0),
        class_totals=rows(CLASS_SUMS, 2, requests=[100.0, 200.0]),
        staged_classes=rows(CLASS_TELEMETRY, 2),
        published_classes=rows(CLASS_TELEMETRY, 2),
        services=rows(SERVICE, 2, pods_first=[0, 2], n_pods=[2, 3]),
        service_states=rows(SERVICE_STATE, 2, n_pods=[1, 2], n_ready=[1, 2]),
        service_windows=rows(SERVICE_SUMS, 2, calls=[45.0, 90.0]),
        service_totals=rows(SERVICE_SUMS, 2, calls=[1000.0, 2000.0]),
        staged_services=rows(SERVICE_TELEMETRY, 2),
        service_scrapes=rows(SERVICE_TELEMETRY, 2 * telemetry.HISTORY),
        pods=rows(POD, 5, ready=1, phase=2, cpu_core_s=[1.5, 9.0, 3.0, 4.5, 9.0], sample_m=7, staged_m=8),
        called=called,
    )
    world.class_windows.latency_s = world.class_windows.latency_s2 = 1.0
    world.state.window.requests = 7.0  # of the scrape before
    return world


def test_a_scrape_closes_and_books_every_window(scraped: SimpleNamespace):
    python(telemetry.scrape)(scraped)
    state = scraped.state
    assert (state.window_s, state.staged.time_s, state.window_start_s) == (15.0, 30.0, 30.0)
    assert state.window.requests == 90.0
    assert state.staged.request_rate_per_s == pytest.approx(6.0)
    assert state.staged.good_ratio == pytest.approx(75.0 / 90.0)
    assert scraped.staged_classes.request_rate_per_s.tolist() == [2.0, 4.0]
    assert scraped.class_totals.requests.tolist() == [130.0, 260.0]
    assert not scraped.class_windows.requests.any()
    assert scraped.staged_services.call_rate_per_s.tolist() == [3.0, 6.0]
    assert scraped.service_totals.calls.tolist() == [1045.0, 2090.0]
    assert not scraped.service_windows.calls.any()
    assert scraped.pods.staged_m.tolist() == [100, 8, 200, 300, 8]  # of the pods in use, over 15 s
    assert scraped.pods.sample_m.tolist() == [7] * 5
    assert scraped.called == [scraped]


def test_what_was_staged_is_published_and_joins_the_history(scraped: SimpleNamespace):
    python(telemetry.scrape)(scraped)
    python(telemetry.publish)(scraped)
    state = scraped.state
    assert state.published.tobytes() == state.staged.tobytes()
    assert state.n_published == telemetry.HISTORY + 3
    assert (state.sample_time_s, state.sample_window_s) == (30.0, 15.0)
    assert scraped.pods.sample_m.tolist() == [100, 7, 200, 300, 7]
    assert scraped.published_classes.tobytes() == scraped.staged_classes.tobytes()
    rates = np.zeros(2 * telemetry.HISTORY)
    rates[[4, 5]] = [3.0, 6.0]  # in the ring's third place
    np.testing.assert_array_equal(scraped.service_scrapes.call_rate_per_s, rates)


# --- Arrivals


def test_a_rate_runs_from_the_middle_of_one_step_to_that_of_the_next():
    """Steps of 10 s from the third entry on, and the lane begins 5 s into the trace."""
    rates, traffic = (
        np.array([9.0, 8.0, 1.0, 3.0, 7.0, 6.0, 5.0]),
        row(TRAFFIC, offset=2, length=3, step_s=10.0, start_s=5.0),
    )
    expected = {-5.0: 1.0, 0.0: 1.0, 5.0: 2.0, 10.0: 3.0, 12.5: 4.0, 19.0: 6.6, 20.0: 7.0, 22.0: 7.0, 90.0: 7.0}
    for time_s, rate in expected.items():
        assert rate_at(traffic, rates, time_s) == pytest.approx(rate, rel=1e-12), time_s


def test_the_share_of_a_class_is_a_step_function_that_repeats():
    shares = np.array([9.0, 0.1, 0.2, 0.3, 9.0])
    daily = row(REQUEST_CLASS, shares_first=1, n_shares=3, share_step_s=10.0)
    for time_s, share in ((0.0, 0.1), (9.9, 0.1), (10.0, 0.2), (29.9, 0.3), (30.0, 0.1), (75.0, 0.2)):
        assert share_at(daily, shares, time_s) == share
    always = row(REQUEST_CLASS, shares_first=2, n_shares=1)  # without a step: no length of one either
    assert share_at(always, shares, 1e6) == 0.2
    twice = row(REQUEST_CLASS, shares_first=2, n_shares=2, share_step_s=1.0)
    assert [share_at(twice, shares, float(time_s)) for time_s in range(3)] == [0.2, 0.3, 0.2]


def test_arrivals_are_drawn_by_lane_class_and_tick():
    """Poisson, by a stream of their own for each class; the mean is rate times tick."""
    keys = [np.uint64(lane_key(seed)) for seed in range(2)]
    draws = {(k, c, t): draw_arrivals(keys[k], c, 2e6, t, 0.5) for k in range(2) for c in range(3) for t in range(3)}
    assert len(set(draws.values())) == len(draws)
    assert all(abs(n - 1e6) < 5e3 for n in draws.values())
    expected = poisson_quantile(1e6, uniform(keys[0], ARRIVALS_STREAM + 2 * 256, 1))
    assert draws[0, 2, 1] == expected


def test_the_requests_of_a_tick_are_those_of_its_middle():
    """The rate rises by 1/s each second: at 6 s and half of a tick of two it is 7, for the first class three tenths."""
    world = SimpleNamespace(
        lane=SimpleNamespace(
            tick_s=2.0, key=np.uint64(lane_key(1)), traffic=row(TRAFFIC, length=100, step_s=1.0, start_s=0.5)
        ),
        state=SimpleNamespace(tick=3),
        rates=np.arange(100.0),
        shares=np.array([0.3, 0.7, 0.0]),
        classes=rows(REQUEST_CLASS, 2, shares_first=[0, 1], n_shares=[1, 2], share_step_s=7.2),
        arrivals=rows(ARRIVALS, 2),
    )
    python(arrive)(world, 6.0)
    assert world.arrivals.expected.tolist() == pytest.approx([0.3 * 14.0, 0.0])  # the second from 7.2 s of the trace on
    assert world.arrivals.requests[0] == draw_arrivals(world.lane.key, 0, 2.1, 3, 2.0)
    assert world.arrivals.requests[1] == 0.0
