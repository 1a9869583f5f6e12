"""Indicators from accounts that are written down here, so that every figure can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sim_core.accounting import costs, indicators, latency_percentiles, service_figures
from sim_core.dataplane.services.kinds import LATENCY_BUCKETS, LATENCY_MAX_S, LATENCY_MIN_S
from sim_core.indicators import FIXED_COSTS, INDICATORS
from sim_core.profile import load_profile
from sim_core.simulation import Worlds
from sim_core.world import Lane
from tests.conftest import flat

ONE_HOUR = {
    "seconds": 3600.0,
    "requests": 8000.0,
    "good": 7900.0,
    "failed": 40.0,
    "latency_weight": 7960.0,
    "latency_s": 398.0,
    "pods_usd": 5.0,
    "pod_s": 36_000.0,
    "scale_events": 7.0,
    "cpu_core_s": 9000.0,
    "request_core_s": 18_000.0,
    "lookups": 500.0,
    "hits": 450.0,
}
OF_CLASSES = ("requests", "good", "failed", "latency_weight", "latency_s")
OF_SERVICES = ("cpu_core_s", "request_core_s")
OF_CACHES = ("lookups", "hits")


def lane(**account: float) -> Worlds:
    """A lane with these sums: an objective of 98 %, and $0.36, $0.72 and $1.08 an hour whatever it does.

    Of what is summed up between scrapes, a quarter stands in the window that is open, and the rest is booked.
    """
    worlds = Worlds([Lane(load_profile("production"), flat(1.0), 1)])
    tables = worlds.tables
    worlds.params["slo_objective"] = 0.98
    tables.databases["usd_per_s"], tables.caches["usd_per_s"] = 1e-4, 2e-4
    worlds.params["load_balancer_usd_per_s"] = 3e-4
    for name, value in account.items():
        if name in worlds.state["account"].dtype.names:
            worlds.state["account"][name] = value
        if name in OF_CLASSES:
            tables.class_totals[name], tables.class_windows[name] = 0.75 * value, 0.25 * value
        if name in OF_SERVICES:
            tables.service_totals[name], tables.service_windows[name] = 0.75 * value, 0.25 * value
        if name in OF_CACHES:
            tables.cache_states[f"total_{name}"], tables.cache_states[name] = 0.75 * value, 0.25 * value
    return worlds


def test_an_hour_worked_out_by_hand():
    """10 pods of which half the CPU is used; 1.25 % of the requests are not good where 2 % may be: 3/8 of the budget left."""
    table = indicators(lane(**ONE_HOUR)).iloc[0].to_dict()
    percentiles = {name: table.pop(name) for name in ("latency_p50_s", "latency_p95_s", "latency_p99_s")}
    assert np.isnan(list(percentiles.values())).all()  # the histogram is empty
    assert table == pytest.approx(
        {
            "slo_attainment": 0.9875,
            "availability": 0.995,
            "error_ratio": 0.005,
            "latency_mean_s": 0.05,
            "throughput_per_s": 7960.0 / 3600.0,
            "error_budget_left": 0.375,
            "cost_usd": 7.16,
            "cost_pods_usd": 5.0,
            "cost_fixed_usd": 2.16,
            "cost_database_usd": 0.36,
            "cost_cache_usd": 0.72,
            "cost_load_balancer_usd": 1.08,
            "cost_usd_per_month": 7.16 * 24 * 30,
            "cost_usd_per_million_requests": 7.16 / 7900.0 * 1e6,
            "replica_hours": 10.0,
            "scale_events": 7.0,
            "utilization_mean": 0.5,
            "cache_hit_ratio": 0.9,
        },
        rel=1e-12,
    )


def test_what_nothing_divides_is_not_a_number():
    table = indicators(lane()).iloc[0]
    sums = ["cost_usd", "cost_pods_usd", "cost_fixed_usd", *(f"cost_{what}_usd" for what in FIXED_COSTS)]
    zero = [*sums, "replica_hours", "scale_events"]
    assert (table[zero] == 0.0).all()
    assert table.drop(zero).isna().all()
    assert list(table.index) == list(INDICATORS)


def test_calls_that_fail_over_and_over_do_not_make_more_failed_requests_than_there_are():
    table = indicators(lane(**ONE_HOUR | {"requests": 30.0, "good": 0.0}))
    assert (table["error_ratio"][0], table["availability"][0], table["throughput_per_s"][0]) == (1.0, 0.0, 0.0)


def test_costs_are_copies():
    worlds = lane(**ONE_HOUR)
    parts = costs(worlds)
    for values in parts.values():
        values[:] = 0.0
    assert worlds.state["account"]["pods_usd"][0] == 5.0
    assert costs(worlds)["cost_usd"][0] == pytest.approx(7.16)


@pytest.mark.filterwarnings("error")
def test_percentiles_lie_where_the_buckets_say():
    """All in one bucket: percentiles run evenly in the logarithm from its lower edge to its upper one."""
    ratio = (LATENCY_MAX_S / LATENCY_MIN_S) ** (1.0 / LATENCY_BUCKETS)
    for bucket in (0, 60, LATENCY_BUCKETS - 1):
        histogram = np.zeros((2, LATENCY_BUCKETS))
        histogram[1, bucket] = 40.0
        found = latency_percentiles(histogram, np.array([0.0, 0.25, 1.0]))
        low_s = LATENCY_MIN_S * ratio**bucket
        assert np.isnan(found[0]).all()
        if bucket == 0:  # below the first request any latency has a share of 0
            np.testing.assert_allclose(found[1, 0], low_s)
        np.testing.assert_allclose(found[1, 1], low_s * ratio**0.25)
        if bucket == LATENCY_BUCKETS - 1:
            np.testing.assert_allclose(found[1, 2], LATENCY_MAX_S)


def test_percentiles_of_two_buckets():
    """A quarter in bucket 10, the rest in bucket 30: the median is a third of the way through the latter."""
    ratio = (LATENCY_MAX_S / LATENCY_MIN_S) ** (1.0 / LATENCY_BUCKETS)
    histogram = np.zeros((1, LATENCY_BUCKETS))
    histogram[0, 10], histogram[0, 30] = 0.25, 0.75  # less than one request: weights of a fluid
    assert latency_percentiles(histogram, np.array([0.5]))[0, 0] == pytest.approx(LATENCY_MIN_S * ratio ** (30 + 1 / 3))


def test_a_lane_has_the_percentiles_of_its_histogram():
    """Slices of 60, 37 and 3 %, with middles at 30, 78.5 and 98.5 %, in buckets 10, 100 and 120: log-linear between."""
    ratio = (LATENCY_MAX_S / LATENCY_MIN_S) ** (1.0 / LATENCY_BUCKETS)
    worlds = lane(**ONE_HOUR)
    worlds.tables.latency["requests"][0, [10, 100, 120]] = 60.0, 37.0, 3.0
    table = indicators(worlds).iloc[0]
    places = {
        "latency_p50_s": 10.5 + 90 * 20 / 48.5,
        "latency_p95_s": 100.5 + 20 * 16.5 / 20,
        "latency_p99_s": 120.5,
    }
    for name, place in places.items():
        assert table[name] == pytest.approx(LATENCY_MIN_S * ratio**place, rel=1e-9)


def test_figures_of_services_worked_out_by_hand():
    """Two lanes of one and two minutes with two services each; the second of them is idle, and has no pods."""
    sums = {
        "calls": np.array([[600.0, 0.0], [1200.0, 0.5]]),
        "failed": np.array([[6.0, 0.0], [0.0, 0.0]]),
        "cpu_core_s": np.array([[30.0, 0.0], [60.0, 0.0]]),
        "request_core_s": np.array([[120.0, 0.0], [120.0, 0.0]]),
        "latency_s": np.array([[60.0, 0.0], [240.0, 0.25]]),
        "queue_s": np.array([[180.0, 0.0], [60.0, 0.0]]),
        "pod_s": np.array([[240.0, 0.0], [7200.0, 0.0]]),
    }
    figures = service_figures(sums, np.array([[60.0], [120.0]]))
    expected = {
        "calls": [[600.0, 0.0], [1200.0, 0.5]],
        "utilization": [[0.25, np.nan], [0.5, np.nan]],
        "latency_mean_s": [[0.1, np.nan], [0.2, 0.5]],
        "error_ratio": [[0.01, np.nan], [0.0, 0.0]],
        "queue_len": [[3.0, 0.0], [0.5, 0.0]],
        "replica_hours": [[240.0 / 3600.0, 0.0], [2.0, 0.0]],
    }
    assert set(figures) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(figures[name], values, rtol=1e-12, err_msg=name)
    assert np.isnan(service_figures(sums, np.zeros((2, 1)))["queue_len"]).all()
