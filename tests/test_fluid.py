"""The fluid engine inside a simulation, held to queueing theory."""

from __future__ import annotations

import numpy as np
import pytest

from sim_core.accounting import service_sums
from sim_core.dataplane.cache.records import HIT_POINTS
from sim_core.dataplane.queueing import share_within, take_shape
from sim_core.dataplane.station import SHAPE
from sim_core.profile import Profile, load_profile
from sim_core.simulation import Worlds, simulate
from sim_core.theory import lru_hit_ratio, mmc_mean_sojourn_s
from sim_core.workload import Trace
from sim_core.world import Lane, Scaler, build_tables


def test_the_tail_of_a_lognormal_distribution_by_sampling():
    """Mean 2, variance 3: a million draws put the tail at 5 within five standard errors; its third cumulant follows from
    E X^3 = exp(3 mu + 9/2 sigma^2)."""
    log_variance = np.log1p(3.0 / 4.0)
    draws = np.random.default_rng(5).lognormal(np.log(2.0) - log_variance / 2, np.sqrt(log_variance), 1_000_000)
    share = float((draws > 5.0).mean())
    growth = np.exp(log_variance)
    (shape,) = np.zeros(1, dtype=SHAPE)
    take_shape(shape, 2.0, 3.0, 3.0**1.5 * (growth + 2.0) * np.sqrt(growth - 1.0))
    assert 1.0 - share_within(shape, 5.0) == pytest.approx(share, abs=5 * np.sqrt(share / 1e6))


def one_station(tick_s: float = 1.0) -> Profile:
    """Production, reduced to pods with one core and exponential service, chosen at random: each is M/M/1, first come first
    served, and nothing else waits."""
    return load_profile("production").with_overrides(
        {
            "tick_seconds": tick_s,
            "database": None,
            "cache": None,
            "ingress.latency_seconds": 0.0,
            "ingress.load_balancing": "random",
            "services.api.container.cpu_sharing": "fifo",
            "services.api.queries": {},
            "services.api.container.io_seconds_per_request": 0.0,
            "services.api.container.workers": 400,
            "services.api.container.queue_limit": 2000,
            "services.api.client.timeout_seconds": 60.0,
            "services.api.client.max_retries": 0,
            "services.api.replicas.min": 1,
        }
    )


def flat(rate_per_s: float, duration_s: float) -> Trace:
    return Trace("flat", 60.0, np.full(int(duration_s / 60), rate_per_s))


@pytest.mark.parametrize("tick_s", [0.5, 1.0])
@pytest.mark.parametrize("replicas", [1, 4, 10, 50])
def test_simulated_sojourns_are_those_of_m_m_1_at_any_tick(replicas: int, tick_s: float):
    """Of pods chosen at random each is M/M/1: mean sojourn within 3 %, utilization within four standard errors of the
    offered load."""
    profile = one_station(tick_s)
    for utilization in (0.5, 0.8, 0.9, 0.95):
        rate = utilization * replicas * 40.0
        lane = Lane(profile, flat(rate, 7200.0), seed=3, scaler=Scaler.static(replicas))
        seen = simulate([lane], 7200.0).indicators.iloc[0]
        theory_s = mmc_mean_sojourn_s(rate / replicas, 40.0, 1)
        assert seen["latency_mean_s"] == pytest.approx(theory_s, rel=0.03), (replicas, utilization)
        assert seen["utilization_mean"] == pytest.approx(
            utilization, abs=4 * utilization / np.sqrt(rate * 7200.0) + 1e-3
        )


@pytest.mark.parametrize("sharing", ["fifo", "processor_sharing"])
@pytest.mark.parametrize(("workers", "utilization"), [(400, 0.5), (400, 0.85), (4, 0.85)])
def test_both_engines_count_the_same_calls_as_waiting(sharing: str, workers: int, utilization: float):
    """Those in line for a worker and those in line for the CPU; where the CPU is shared, what calls get less than one
    would alone. In an easy and in a congested pod, in the sums that scrapes and indicators are made of: M/M/1 holds
    rho^2 / (1 - rho), the fluid engine within 3 %, the request engine (two hours of four pods) within 8 %."""
    changes = {"services.api.container.cpu_sharing": sharing, "services.api.container.workers": workers}
    lanes = [
        Lane(one_station().with_overrides(changes), flat(utilization * 160.0, 3600.0), seed, scaler=Scaler.static(4))
        for seed in range(2)
    ]
    theory = 4.0 * utilization**2 / (1.0 - utilization)
    for engine, tolerance in (("fluid", 0.03), ("requests", 0.08)):
        worlds = Worlds(lanes, engine=engine)
        worlds.advance(3600)
        waiting = float(service_sums(worlds)["queue_s"].mean()) / 3600.0
        assert waiting == pytest.approx(theory, rel=tolerance), engine


def test_percentiles_of_one_pod_are_near_the_exponential_s():
    """The sojourn of M/M/1 is exponential, the engine's lognormal with its mean and variance: p50 within 13 %, p95 within
    10 %, p99 within 25 % (the lognormal's tail is heavier)."""
    rate = 0.8 * 40.0
    seen = simulate([Lane(one_station(), flat(rate, 7200.0), 3, scaler=Scaler.static(1))], 7200.0).indicators.iloc[0]
    mean_s = mmc_mean_sojourn_s(rate, 40.0, 1)
    for name, probability, tolerance in (
        ("latency_p50_s", 0.50, 0.13),
        ("latency_p95_s", 0.95, 0.10),
        ("latency_p99_s", 0.99, 0.25),
    ):
        assert seen[name] == pytest.approx(-mean_s * np.log(1 - probability), rel=tolerance), name


def test_the_table_of_hit_ratios_is_che_s():
    """At its points exactly, between them within half a percentage point."""
    profile = load_profile("production")
    cache = build_tables([Lane(profile, flat(1.0, 120.0), 0)])[0]["caches"][0]
    assert profile.cache is not None
    for share in (1.0, 0.5, 0.123, 0.01):
        keys = share * profile.cache.capacity_keys
        exact = lru_hit_ratio(profile.cache.keys, profile.cache.zipf_exponent, keys)
        position = np.sqrt(share) * (HIT_POINTS - 1)
        seen = np.interp(position, np.arange(HIT_POINTS), cache["hit_ratio"])
        assert seen == pytest.approx(exact, abs=0.005)


# --- Overload that retries keep up


def test_an_overload_that_retries_keep_up_ends_as_it_does_request_by_request(production: Profile):
    """A minute at 1.2, then three at 0.86: with a fifth of retries that is 1.03, so that callers who give up keep the
    overload going, until chance ends it, in one world after 10 s, in another after 100. The share of good requests within
    24 points of the mean of 16 worlds (its standard error is 3): a fluid that knows no chance would stay, 37 points lower.
    """
    pods = 12
    profile = production.with_overrides(
        {
            "services.api.replicas": {"initial": pods, "min": 1, "max": pods},
            "services.api.container.cpu_sharing": "processor_sharing",
            "database.cores": 5.0,
        }
    )
    trace = Trace("overload", 60.0, 40.0 * pods * np.array([1.2, 0.86, 0.86, 0.86]))
    lanes = [Lane(profile, trace, seed, scaler=Scaler.static(pods)) for seed in range(16)]
    good = [simulate(lanes, 240.0, engine=engine).indicators["slo_attainment"] for engine in ("fluid", "requests")]
    error = good[1].std(ddof=1) / 4.0
    assert error <= 0.04  # else the next line could not fail
    assert abs(good[0].mean() - good[1].mean()) <= 0.24
