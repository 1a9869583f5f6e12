"""Telemetry: what a scrape says, how late readers see it, and that the newest history is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sim_core.accounting import lane_sums
from sim_core.profile import Profile
from sim_core.simulation import Worlds
from sim_core.telemetry import HISTORY
from sim_core.workload import Trace
from sim_core.world import Lane, Scaler
from tests.conftest import (
    Seen,
    burst,
    flat,
    in_step,
    plan_of,
    run_in_step,
    run_worlds,
    scrapes,
    spiky_day,
    watch,
)

API = "services.api"


def timed(profile: Profile, interval_s: float, delay_s: float) -> Profile:
    return profile.with_overrides({"telemetry.scrape_interval_seconds": interval_s, "telemetry.delay_seconds": delay_s})


# --- How late


@pytest.mark.parametrize(("interval_s", "delay_s"), [(15, 10), (15, 0), (15, 15), (30, 5), (60, 60), (10, 1)])
def test_a_scrape_is_visible_when_its_delay_is_over_and_not_before(steady, interval_s, delay_s):
    """Window k ends at k x interval; from its end plus the delay on it is the newest, until the next one is."""
    worlds = in_step([Lane(timed(steady, interval_s, delay_s), flat(100.0), 1, scaler=Scaler.static(5))])
    for second in range(1, 400):
        worlds.advance(1)
        expected = max(0, (second - delay_s) // interval_s)
        assert worlds.state["n_published"][0] == expected, second
        assert worlds.telemetry()["time_s"][0] == expected * interval_s
        if expected:
            assert worlds.state["sample_time_s"][0] == expected * interval_s


def test_the_clock_of_the_scrapes_is_the_lanes_own(steady):
    """The first window ends within an interval, at a moment that the seed decides; the others follow it by whole ones."""
    lanes = [Lane(timed(steady, 15, 10), flat(100.0), seed, scaler=Scaler.static(5)) for seed in range(20)]
    worlds = Worlds(lanes)
    first_s = worlds.params["scrape_phase_ticks"].astype(float)
    assert ((first_s >= 1.0) & (first_s <= 15.0)).all()
    assert len(set(first_s)) > 5
    for second in range(1, 100):
        worlds.advance(1)
        expected = np.maximum(0, (second - 10 - first_s) // 15 + 1)
        np.testing.assert_array_equal(worlds.state["n_published"], expected)
        ends = np.where(expected > 0, first_s + 15.0 * (expected - 1), 0.0)
        np.testing.assert_array_equal(worlds.telemetry()["time_s"], ends)
    lengths = np.where(worlds.state["n_published"] == 1, first_s, 15.0)
    np.testing.assert_array_equal(worlds.state["sample_window_s"], lengths)


def test_the_first_window_is_shorter_and_says_what_happened_in_it(steady):
    """Rates are over the window's own length, from the first tick on."""
    lanes = [Lane(timed(steady, 60, 0), flat(400.0), seed, scaler=Scaler.static(15)) for seed in range(8)]
    worlds = Worlds(lanes)
    first_s = worlds.params["scrape_phase_ticks"].astype(float)
    assert len(set(first_s)) > 4
    for lane, end_s in enumerate(first_s):
        worlds.reset(np.array([lane]))
        worlds.advance(np.where(np.arange(len(lanes)) == lane, round(end_s), 0))
        requests = worlds.state["account"]["requests"][lane]
        seen, (service,) = worlds.telemetry()[lane], scrapes(worlds, lane)[-1]
        assert seen["time_s"] == worlds.state["sample_window_s"][lane] == end_s
        assert seen["request_rate_per_s"] == pytest.approx(requests / end_s, rel=1e-12)
        assert service["call_rate_per_s"] == pytest.approx(requests / end_s, rel=1e-12)


@pytest.mark.parametrize("delay_s", [0, 5, 10, 15])
def test_a_step_in_load_is_visible_only_after_scrape_and_delay(steady, delay_s):
    """Load doubles at 307 s, within the window that ends at 315 s; nothing shows before 315 s plus the delay."""
    calm = Trace("calm", 1.0, np.full(600, 200.0))
    step = Trace("step", 1.0, np.where(np.arange(600) < 307, 200.0, 400.0))
    profile = timed(steady, 15, delay_s)
    worlds = in_step([Lane(profile, trace, 1, scaler=Scaler.static(12)) for trace in (calm, step)])
    for second in range(1, 400):
        worlds.advance(1)
        one, other = worlds.telemetry()
        assert (one.tobytes() == other.tobytes()) == (second < 315 + delay_s), second
    assert other["request_rate_per_s"] > 1.8 * one["request_rate_per_s"]


def test_what_is_measured_and_not_published_shows_nowhere(steady):
    """Between the end of a window and its publication readers see the window before."""
    lane = Lane(steady, burst(100.0, 900.0, 31, 44, 600, step_s=1), 1, scaler=Scaler.static(30))
    worlds = run_in_step([lane], 54.0)
    high = pytest.approx((13 * 900.0 + 2 * 100.0) / 15, rel=0.1)
    assert worlds.telemetry()["request_rate_per_s"][0] == pytest.approx(100.0, rel=0.15)
    assert worlds.state["staged"]["request_rate_per_s"][0] == high
    worlds.advance(1)
    assert worlds.telemetry()["request_rate_per_s"][0] == high


def test_before_the_first_scrape_there_is_nothing(steady):
    worlds = run_in_step([Lane(steady, flat(100.0), 1)], 24.0)
    assert worlds.telemetry()[0].tobytes() == np.zeros_like(worlds.telemetry()[0]).tobytes()
    assert worlds.state["sample_time_s"][0] == -math.inf


# --- What it says


def test_a_scrape_says_what_happened_in_its_window(production):
    """Rates and ratios are those of the lane's own account between the window's ends."""
    lane = Lane(production, spiky_day(200.0), 1, start_s=36_000.0, scaler=Scaler.static(10))
    worlds = in_step([lane])

    def account() -> dict[str, float]:
        sums, cache = lane_sums(worlds), worlds.of(0, "cache_states")[0]
        names = ("requests", "good", "failed", "latency_s", "latency_weight", "cpu_core_s", "request_core_s")
        stores = {name: float(cache[name] + cache[f"total_{name}"]) for name in ("lookups", "hits")}
        return {name: float(sums[name][0]) for name in names} | stores

    accounts, parts = [account()], []
    for _ in range(30):
        parts.append(watch(worlds, 15.0))
        accounts.append(account())
    parts.append(watch(worlds, 10.0))
    seen, services = Seen(*(np.concatenate(rows) for rows in zip(*parts, strict=True)))
    assert len(seen) == 30

    def change(name: str) -> np.ndarray:
        return np.diff([row[name] for row in accounts])

    requests = change("requests")
    np.testing.assert_allclose(seen["time_s"], 15.0 * np.arange(1, 31))
    np.testing.assert_allclose(seen["request_rate_per_s"], requests / 15.0)
    np.testing.assert_allclose(seen["good_ratio"], change("good") / requests, atol=1e-12)
    np.testing.assert_allclose(seen["error_ratio"], np.minimum(1.0, change("failed") / requests), atol=1e-12)
    np.testing.assert_allclose(seen["latency_mean_s"], change("latency_s") / change("latency_weight"))
    np.testing.assert_allclose(seen["cache_hit_ratio"], change("hits") / change("lookups"))
    service = services[:, 0]
    np.testing.assert_allclose(service["cpu_cores"], change("cpu_core_s") / 15.0)
    np.testing.assert_allclose(service["utilization"], change("cpu_core_s") / change("request_core_s"))
    assert (seen["latency_p95_s"] > seen["latency_mean_s"]).all()
    assert len(np.unique(seen["request_rate_per_s"])) > 20


def test_the_p95_of_a_scrape_is_that_of_its_requests(steady):
    """Within 15 % of the histogram's over the same calm time: the scrape knows two moments, the histogram the shape."""
    worlds = Worlds([Lane(steady, flat(300.0), 1, scaler=Scaler.static(12))])
    said = watch(worlds, 900.0).whole["latency_p95_s"].mean()
    assert said == pytest.approx(worlds.indicators()["latency_p95_s"][0], rel=0.15)


def test_replicas_are_reported_by_what_they_are(steady):
    """Asked for at 30 s, running from 35 s, ready at 55 s: starting in the scrape of 45 s, ready in that of 60 s."""
    seen = watch(in_step([Lane(steady, flat(100.0), 1, scaler=plan_of((4, 30.0), (9, 90.0), (5, 90.0)))]), 175.0)
    at = dict(zip(seen.whole["time_s"].astype(int).tolist(), seen.services[:, 0], strict=True))
    names = ("replicas_ready", "replicas_starting", "replicas_desired")
    counts = {time_s: tuple(int(at[time_s][name]) for name in names) for time_s in (30, 45, 60, 120, 135)}
    assert counts == {30: (4, 0, 4), 45: (4, 5, 9), 60: (9, 0, 9), 120: (9, 0, 9), 135: (5, 0, 5)}


def test_a_quiet_window_reports_no_load_and_no_errors(steady):
    worlds = run_worlds([Lane(steady, burst(0.0, 200.0, 0, 60, 600), 1, scaler=Scaler.static(6))], 200.0)
    last = worlds.telemetry()[0]
    assert last["request_rate_per_s"] == last["error_ratio"] == 0.0
    assert last["good_ratio"] == 1.0
    service = scrapes(worlds)[-1, 0]
    assert service["call_rate_per_s"] == service["utilization"] == 0.0
    assert all(np.isfinite(row[name]).all() for row in (last, service) for name in row.dtype.names)


def test_the_database_and_its_connections_are_reported(steady):
    """Twelve pods with four connections each of 497; reads by two replicas, as the profile's comment computes."""
    worlds = run_worlds([Lane(steady, flat(400.0), 1, scaler=Scaler.static(15))], 600.0)
    seen = worlds.telemetry()[0]
    assert seen["connection_ratio"] == pytest.approx(15 * 4 / 497)
    hit = float(seen["cache_hit_ratio"])
    reads_per_s = 400.0 * (0.3 + 2.7 * (1.0 - hit))
    busier = max(reads_per_s * 0.002 / (2 * 4.0), 400.0 * 0.2 * 0.003 / 4.0)
    assert seen["database_utilization"] == pytest.approx(busier, rel=0.08)


# --- How much is kept


def test_the_newest_scrapes_are_kept_in_order(steady):
    """Of each service: the history holds what readers saw, the last HISTORY times, the oldest first."""
    worlds = in_step([Lane(steady, flat(50.0), 1, scaler=Scaler.static(4))])
    seen = watch(worlds, 15.0 * (HISTORY + 20) + 10.0)
    assert worlds.state["n_published"][0] == len(seen.whole) == HISTORY + 20
    assert len(np.unique(seen.services["call_rate_per_s"])) > HISTORY / 2
    np.testing.assert_array_equal(scrapes(worlds), seen.services[-HISTORY:])
    np.testing.assert_allclose(seen.whole["time_s"], 15.0 * np.arange(1, HISTORY + 21))


def test_lanes_with_other_scrape_intervals_keep_their_own_time(steady):
    """In one batch; the HPA of each decides on its own samples."""
    lanes = [Lane(timed(steady, every, 5), flat(200.0), 1) for every in (10, 15, 60)]
    worlds = run_in_step(lanes, 121.0)
    assert list(worlds.telemetry()["time_s"]) == [110.0, 105.0, 60.0]
