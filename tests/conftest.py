"""Small worlds that many tests share: traces from formulas, and profiles without what a test is not about."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis
import numpy as np
import pytest

import experiments  # noqa: F401  (sets what Ray reads when a test module imports it)
from sim_core.profile import Profile, load_profile
from sim_core.simulation import Worlds
from sim_core.workload import Trace
from sim_core.world import Lane, Scaler

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--policy",
        action="append",
        default=[],
        help="Hold this policy of yours to the contract too: my_module:MyPolicy.",
    )


def flat(rate_per_s: float, duration_s: float = 7200.0, step_s: float = 60.0) -> Trace:
    """A trace of one rate."""
    return Trace("flat", step_s, np.full(round(duration_s / step_s), float(rate_per_s)))


def steps(rates_per_s: Sequence[float], step_s: float) -> Trace:
    """A trace of these rates; runs linearly from the middle of one step to that of the next."""
    return Trace("steps", step_s, np.array(rates_per_s, dtype=float))


def burst(low_per_s: float, high_per_s: float, start_s: int, end_s: int, duration_s: int, step_s: int = 5) -> Trace:
    """A trace that is high between two times, which are multiples of the step, and low before and after."""
    rates = np.full(duration_s // step_s, float(low_per_s))
    rates[start_s // step_s : end_s // step_s] = high_per_s
    return Trace("burst", float(step_s), rates)


def spiky_day(mean_per_s: float, days: float = 1.0, step_s: float = 60.0) -> Trace:
    """A day's wave with short bursts at odd times, the same every day but for the bursts."""
    time_s = np.arange(0.0, days * 86_400.0, step_s)
    wave = 1.0 - 0.6 * np.cos(2.0 * np.pi * time_s / 86_400.0)
    bursts = 0.5 * np.exp(-((((time_s % 7000.0) - 3500.0) / 200.0) ** 2)) + 0.3 * (np.sin(time_s / 977.0) > 0.9)
    return Trace("spiky", step_s, mean_per_s * wave * (1.0 + bursts))


def run_worlds(lanes: Sequence[Lane], duration_s: float) -> Worlds:
    """Worlds that have played for a while."""
    worlds = Worlds(lanes)
    worlds.advance(round(duration_s / float(worlds.params["tick_s"][0])))
    return worlds


def scrapes(worlds: Worlds, lane: int = 0) -> np.ndarray:
    """All scrapes that a lane has published, oldest first; at most as many as the history holds."""
    state = worlds.state[lane]
    published, size = int(state["n_published"]), len(state["history"])
    first = max(0, published - size)
    return state["history"][np.arange(first, published) % size]


def plan_of(*parts: tuple[int, float], sync_s: float = 15.0) -> Scaler:
    """Replicas of one service over time: (replicas, for how long [s]) one after the other; the last goes on."""
    return Scaler.schedule(np.concatenate([np.full((round(long_s / sync_s), 1), n) for n, long_s in parts]))


@pytest.fixture(scope="session")
def production() -> Profile:
    return load_profile("production")


@pytest.fixture(scope="session")
def steady(production: Profile) -> Profile:
    """Production where nothing but the arrivals is random, and no call is tried twice."""
    return production.with_overrides({"services.api.lifecycle.startup_scv": 0.0, "services.api.client.max_retries": 0})
