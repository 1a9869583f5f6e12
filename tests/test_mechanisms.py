"""Single mechanisms of the data plane and of what telemetry says of it, each against a figure worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sim_core.accounting import lane_sums
from sim_core.dataplane.fluid import account_requests
from sim_core.dataplane.services.kinds import RETRY_SLOTS
from sim_core.profile import Profile, load_profile
from sim_core.simulation import Worlds
from sim_core.world import Lane, Scaler
from tests.conftest import burst, flat, in_step, plan_of, run_worlds, scrapes, watch

API = "services.api"


@pytest.fixture
def bare(production: Profile) -> Profile:
    """Production without stores and retries: pods of one core, 25 ms of CPU and 15 ms of other waiting a call."""
    return production.with_overrides(
        {"database": None, "cache": None, f"{API}.queries": {}, f"{API}.client.max_retries": 0}
    )


def test_workers_that_stand_and_wait_are_the_bottleneck(bare: Profile):
    """One worker a pod holds a call for 25 + 15 ms: a pod serves 25 calls/s, and not the 40 that its CPU could."""
    profile = bare.with_overrides({f"{API}.container.workers": 1, f"{API}.container.queue_limit": 200})
    for rate_per_s, served_per_s in ((60.0, 60.0), (400.0, 100.0)):
        worlds = run_worlds([Lane(profile, flat(rate_per_s), 1, scaler=Scaler.static(4))], 900.0)
        cores = scrapes(worlds)["cpu_cores"][-20:, 0].mean()
        assert cores == pytest.approx(served_per_s * 0.025, rel=0.03)


def test_throughput_counts_what_was_answered(bare: Profile):
    """Offered three times what two pods can serve: requests less failures over time, and no more than the pods can."""
    worlds = run_worlds([Lane(bare, flat(240.0), 1, scaler=Scaler.static(2))], 1200.0)
    sums, seen = lane_sums(worlds), worlds.indicators().iloc[0]
    assert seen["throughput_per_s"] == pytest.approx((sums["requests"][0] - sums["failed"][0]) / 1200.0, rel=1e-12)
    assert seen["throughput_per_s"] < 90.0 < 230.0 < sums["requests"][0] / 1200.0


def test_a_request_waits_for_each_of_its_calls(bare: Profile):
    """At a load near zero: 2 ms in the balancer and 40 ms for each call, however many calls a request makes."""
    for calls in (0.5, 1.0, 3.0):
        profile = bare.with_overrides({f"{API}.calls_per_request": calls})
        seen = run_worlds([Lane(profile, flat(1.0), 1, scaler=Scaler.static(20))], 600.0).indicators()
        assert seen["latency_mean_s"][0] == pytest.approx(0.002 + calls * 0.040, rel=1e-3)


@pytest.mark.parametrize(("calls", "availability"), [(0.25, 0.75 + 0.25 * 0.6), (1.0, 0.6), (2.0, 0.36)])
def test_a_request_fails_with_the_calls_that_it_makes(production: Profile, calls: float, availability: float):
    """Two of five connections are refused, and every call makes one query. Of requests with a quarter of a call on average,
    three quarters make none."""
    profile = production.with_overrides(
        {
            f"{API}.queries": {"reads_per_call": 1.0, "writes_per_call": 0.0, "cacheable_share": 0.0},
            f"{API}.calls_per_request": calls,
            f"{API}.client.max_retries": 0,
            "database.max_connections": 27,
            "database.reserved_connections": 3,
        }
    )
    seen = run_worlds([Lane(profile, flat(20.0), 1, scaler=Scaler.static(10))], 300.0).indicators()
    assert seen["availability"][0] == pytest.approx(availability, rel=1e-6)
    assert seen["slo_attainment"][0] == pytest.approx(availability, rel=0.01)


def test_connections_are_counted_from_pods_that_run_not_from_ready_ones(steady: Profile):
    """Between 300 s and 325 s twelve more pods start; from 305 s they run, and hold connections before they serve."""
    seen = watch(in_step([Lane(steady, flat(100.0), 1, scaler=plan_of((12, 300.0), (24, 300.0)))]), 390.0)
    time_s = seen.whole["time_s"].astype(int).tolist()
    ratio = dict(zip(time_s, seen.whole["connection_ratio"], strict=True))
    ready = dict(zip(time_s, seen.services["replicas_ready"][:, 0], strict=True))
    assert (ready[300], ready[315], ready[345]) == (12, 12, 24)
    assert [ratio[300], ratio[315], ratio[345]] == pytest.approx([12 * 4 / 497, 24 * 4 / 497, 24 * 4 / 497])


def test_the_backoff_doubles_with_each_attempt(production: Profile):
    """Under overload what comes back does so 4, 8 and 16 s after its first, second and third attempt."""
    profile = production.with_overrides(
        {
            f"{API}.client.max_retries": 3,
            f"{API}.client.backoff_seconds": 4.0,
            f"{API}.client.retry_budget_ratio": 1.0,
            f"{API}.container.queue_limit": 0,
            f"{API}.container.workers": 1,
            f"{API}.container.cpu_seconds_per_request": 0.2,
            f"{API}.container.io_seconds_per_request": 0.0,
        }
    )
    worlds = run_worlds([Lane(profile, burst(0.0, 4000.0, 5, 60, 120), 1, scaler=Scaler.static(2))], 5.0)
    seen = set()
    for _ in range(40):
        tick = int(worlds.state["tick"][0])
        before = worlds.of(0, "call_flows")["retries"][0].copy()
        worlds.advance(1)
        added = worlds.of(0, "call_flows")["retries"][0] - before
        added[tick % RETRY_SLOTS] = 0.0
        for slot, attempt in np.argwhere(added > 1e-6 * max(1.0, added.max())):
            wait_s = (slot - tick) % RETRY_SLOTS
            assert wait_s in (4 * 2**attempt, 4 * 2**attempt + 2), attempt  # timed out: 2 s later
            seen.add(int(attempt))
    assert seen == {0, 1, 2}


def test_the_queue_of_a_scrape_is_its_mean_over_the_interval(bare: Profile):
    """In calls, of this interval alone: the same as the mean of the state at the ticks, and zero when all is quiet."""
    profile = bare.with_overrides({f"{API}.container.queue_limit": 5000, f"{API}.client.timeout_seconds": 300.0})
    worlds = in_step([Lane(profile, burst(40.0, 320.0, 60, 120, 600), 1, scaler=Scaler.static(4))])
    queue = []
    for _ in range(400):
        worlds.advance(1)
        queue.append(float(worlds.of(0, "service_flows")["answer"]["waiting"][0]))
    seen = scrapes(worlds)["queue_len"][:, 0]
    expected = np.array(queue[: 15 * len(seen)]).reshape(-1, 15).mean(axis=1)
    np.testing.assert_allclose(seen, expected, rtol=1e-9, atol=1e-12)
    assert seen.max() > 1000.0
    assert seen[-1] < 0.1


def test_the_latency_of_a_service_in_a_scrape_is_that_of_its_calls(bare: Profile):
    """For one service, in each interval: a request's latency less the balancer's 2 ms, calm or overloaded. The calls of
    the service hold those few in 10,000 that the tail of an analytic distribution has beyond the timeout."""
    profile = bare.with_overrides({f"{API}.container.queue_limit": 5000, f"{API}.client.timeout_seconds": 300.0})
    lane = Lane(profile, burst(40.0, 320.0, 60, 120, 600), 1, scaler=Scaler.static(4))
    seen, services = watch(Worlds([lane]), 400.0)
    np.testing.assert_allclose(services["latency_mean_s"][:, 0], seen["latency_mean_s"] - 0.002, rtol=4e-3)
    assert seen["latency_mean_s"].max() > 5.0
    calm_s = seen["latency_mean_s"][2]  # before the burst
    assert seen["latency_mean_s"][-1] == pytest.approx(calm_s, rel=1e-3)


def test_a_service_behind_retries_sees_all_that_comes_through():
    """Web loses calls and tries again; the API's queue grows by what web passes on, retried calls included.

    Calls that the API answers in the first second are no more than its pods can serve: they do not pass as answered
    while the work piles up unseen.
    """
    changes = {
        "services.web.container.queue_limit": 0,
        "services.web.client.max_retries": 3,
        "services.web.client.retry_budget_ratio": 1.0,
        "services.api.client.max_retries": 0,
        "database.max_connections": 10_000,
    }
    profile = load_profile("experimental").with_overrides(changes)
    plan = Scaler.schedule(np.array([[4, 2]]))
    worlds = run_worlds([Lane(profile, flat(700.0), 1, scaler=plan)], 600.0)
    assert (
        worlds.of(0, "service_flows")["station"]["unserved"][1] < 30.0 * 200.0
    )  # seconds of two pods' work, and not minutes


@pytest.mark.parametrize("variance", [0.00100, 0.00102, 0.00104])
def test_a_share_of_good_requests_too_small_to_divide_by_is_none(production, variance):
    """A second on average where 300 ms are asked for, hardly varying: as good as no request is within the threshold."""
    worlds = Worlds([Lane(production, flat(10.0), 1)])
    flow, (request_class,) = worlds.of(0, "endpoint_flows")[0], worlds.of(0, "classes")
    flow["mean_s"], flow["variance_s2"] = 1.0, variance
    account_requests(
        worlds.params[0], worlds.state[0]["account"], request_class, 10.0, flow, worlds.of(0, "class_flows")[0],
        worlds.of(0, "class_windows")[0], worlds.of(0, "latency")["requests"][0],
    )  # fmt: skip
    assert worlds.state["account"]["requests"][0] == 10.0
    assert worlds.state["account"]["good"][0] == 0.0
    assert np.isnan(worlds.indicators()["cost_usd_per_million_requests"][0])
