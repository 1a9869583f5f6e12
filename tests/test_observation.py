"""Every feature of the observation vector against a second reading of its formula, on scrapes that nobody simulated."""

from __future__ import annotations

import numpy as np
import pytest

from agents.observation import LOG_LOAD_CENTER, Observations, feature_names
from sim_core.profile import Profile, load_profile
from sim_core.simulation import Worlds
from sim_core.telemetry import HISTORY
from sim_core.workload import Trace
from sim_core.world import Lane
from tests.conftest import scrapes

DAY_S = 86_400.0
STEP_S = 60.0
SYNC_S = 15.0


@pytest.fixture(scope="module")
def chain() -> Profile:
    return load_profile("experimental")


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace("random", STEP_S, np.random.default_rng(1).uniform(1.0, 500.0, size=round(5 * DAY_S / STEP_S)))


def scraped(profile: Profile, trace: Trace, published: int, start_s: float, seed: int, quiet: bool = False) -> Worlds:
    """A lane that has run as long as that many scrapes take, with random numbers in all that it has published."""
    rng = np.random.default_rng(seed)
    worlds = Worlds([Lane(profile, trace, seed, start_s)])
    state = worlds.state[:1]
    state["tick"], state["n_published"] = 10 + 15 * published, published
    whole = state["published"]
    for name in whole.dtype.names:
        whole[name] = rng.uniform(0.05, 0.9)
    whole["time_s"] = 15.0 * published
    history = worlds.of(0, "service_scrapes")
    for name in history.dtype.names:
        history[name] = 0.0 if quiet else rng.uniform(0.05, 0.9, len(history))
    history["call_rate_per_s"] *= 0.0 if quiet else 300.0
    for name in ("replicas_ready", "replicas_starting", "replicas_desired"):
        history[name] = 0.0 if quiet else rng.integers(4, 30, len(history))
    return worlds


def plain_service(profile: Profile, newest_first: np.ndarray, index: int) -> dict[str, float]:
    """Features of one service; scrapes from the newest to the oldest, at most as many as the history holds."""
    service = profile.services[index]
    seen = newest_first[:, index]
    per_call = service.container.cpu_seconds_per_request / service.container.cpu_request_cores
    loads = np.maximum(seen["call_rate_per_s"] * per_call, 1e-3)
    now = seen[0]
    said = {
        "load_log": np.log(loads[0]) - LOG_LOAD_CENTER,
        "ready_over_load_log": np.log(max(now["replicas_ready"], 0.5) / loads[0]),
        "desired_over_load_log": np.log(max(now["replicas_desired"], 0.5) / loads[0]),
        "starting_share": now["replicas_starting"] / max(now["replicas_desired"], 1.0),
        "utilization": now["utilization"],
        "queue_s": now["queue_len"] / max(now["call_rate_per_s"], 1.0),
        "error_ratio": now["error_ratio"],
        "load_noise": np.std(seen["call_rate_per_s"][:20] * per_call) / loads[0],
    }
    for back in (1, 2, 4, 8, 20, 40):
        said[f"load_change_{back}"] = np.log(loads[0] / loads[back]) if back < len(loads) else 0.0
    for window in (4, 12):
        said[f"load_peak_{window}"] = np.log(loads[:window].max() / loads[0])
    return {f"service_{index}/{name}": value for name, value in said.items()}


def plain_season(trace: Trace, now_s: float, age_s: float) -> dict[str, float]:
    """What the same time of day brought on up to three earlier days; the look ahead goes by 30 s, later by 90 s."""
    middles = (np.arange(len(trace.rates_per_s)) + 0.5) * STEP_S
    days = DAY_S * np.arange(1, 1 + min(3, int((now_s - age_s) // DAY_S)))
    said = {"season_days": len(days) / 3}
    for horizon_s in (30, 60, 120, 300):
        ahead_s = [second for second in (0, 30, 60, 90, 120, 210, 300) if second <= horizon_s]
        then = np.interp(now_s - days - age_s, middles, trace.rates_per_s)
        ratios = [np.mean(np.interp(now_s - days + s, middles, trace.rates_per_s) / then) for s in ahead_s if len(days)]
        said[f"season_peak_{horizon_s}s"] = np.log(max(ratios)) if ratios else 0.0
    return said


def plain_lane(profile: Profile, newest: np.ndarray, now_s: float) -> dict[str, float]:
    clock = 2.0 * np.pi * now_s / DAY_S
    threshold_s = profile.slo.latency_threshold_seconds
    return {
        "latency_mean_log": np.log(newest["latency_mean_s"] / threshold_s),
        "latency_p95_log": np.log(newest["latency_p95_s"] / threshold_s),
        "bad_ratio": 1.0 - newest["good_ratio"],
        "error_ratio": newest["error_ratio"],
        "database_utilization": newest["database_utilization"],
        "connection_ratio": newest["connection_ratio"],
        "cache_miss_ratio": 1.0 - newest["cache_hit_ratio"] if profile.cache else 0.0,
        "day_sin": np.sin(clock),
        "day_cos": np.cos(clock),
        "half_day_sin": np.sin(2.0 * clock),
        "half_day_cos": np.cos(2.0 * clock),
        "week_sin": np.sin(clock / 7.0),
        "week_cos": np.cos(clock / 7.0),
    }


@pytest.mark.parametrize("published", [1, 2, 3, 4, 5, 9, 12, 13, 20, 21, 41, 64, 65, 150])
def test_every_feature_is_what_a_second_reading_gives(chain, trace, published):
    """In front of each look back and just beyond it, with the ring half full, full, and turned over."""
    start_s = (0.3 + published % 4) * DAY_S
    worlds = scraped(chain, trace, published, start_s, seed=published)
    newest_first = scrapes(worlds)[::-1]
    assert len(newest_first) == min(published, HISTORY)
    now_s = start_s + 10.0 + 15.0 * published
    age_s = 10.0 + 0.5 * SYNC_S
    expected = plain_lane(chain, worlds.telemetry()[0], now_s) | plain_season(trace, now_s, age_s)
    for index in range(len(chain.services)):
        expected |= plain_service(chain, newest_first, index)
    names = feature_names(len(chain.services))
    assert set(names) == set(expected)
    wanted = np.array([expected[name] for name in names])
    assert np.abs(wanted).max() < 10.0  # nothing is clipped here
    for name, said, value in zip(names, Observations(worlds).vectors[0], wanted, strict=True):
        assert said == pytest.approx(value, rel=1e-5, abs=1e-5), name


def test_a_service_that_nobody_calls_has_the_least_load_and_no_infinity(chain, trace):
    """Loads count from 1e-3 pods, replicas from a half, call rates and replicas in a denominator from 1."""
    names = feature_names(len(chain.services))
    vector = Observations(scraped(chain, trace, 30, 0.0, seed=2, quiet=True)).vectors[0]
    said = dict(zip(names, vector, strict=True))
    assert said["service_0/load_log"] == pytest.approx(np.log(1e-3) - LOG_LOAD_CENTER)
    assert said["service_0/ready_over_load_log"] == pytest.approx(np.log(0.5 / 1e-3))
    assert said["service_0/desired_over_load_log"] == pytest.approx(np.log(0.5 / 1e-3))
    rest = [value for name, value in said.items() if name.startswith("service_0/") and "_log" not in name]
    assert len(rest) == 13 and not np.any(rest)


def test_before_the_first_scrape_the_replicas_are_taken_to_be_60_per_cent_busy(chain, trace):
    worlds = scraped(chain, trace, 0, 2.5 * DAY_S, seed=3)
    said = dict(zip(feature_names(len(chain.services)), Observations(worlds).vectors[0], strict=True))
    for index, replicas in enumerate(Observations(worlds).replicas[0]):
        known = {
            "load_log": np.log(0.6 * replicas) - LOG_LOAD_CENTER,
            "ready_over_load_log": np.log(1.0 / 0.6),
            "desired_over_load_log": np.log(1.0 / 0.6),
        }
        features = {name.split("/")[1]: value for name, value in said.items() if name.startswith(f"service_{index}/")}
        for name, value in features.items():
            assert value == pytest.approx(known.get(name, 0.0), rel=1e-6), name
    season = plain_season(trace, 2.5 * DAY_S + 10.0, 0.0)  # its age is that of the replicas: none
    assert {name: said[name] for name in season} == pytest.approx(season, abs=1e-5)
    assert said["latency_mean_log"] == said["bad_ratio"] == said["cache_miss_ratio"] == 0.0
