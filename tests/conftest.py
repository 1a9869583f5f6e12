"""Small worlds that many tests share: traces from formulas, and profiles without what a test is not about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest

import experiments  # noqa: F401  (sets what Ray reads when a test module imports it)
from sim_core.profile import Profile, load_profile
from sim_core.simulation import Simulation, TimelineRecorder, Worlds
from sim_core.telemetry import HISTORY
from sim_core.workload import Trace
from sim_core.world import LAYOUT, Lane, Scaler

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


def in_step(lanes: Sequence[Lane]) -> Worlds:
    """Worlds with clocks that a test can reckon with: scrapes end at whole intervals, and syncs begin with the lane."""
    worlds = Worlds(lanes)
    worlds.params["scrape_phase_ticks"] = worlds.params["scrape_ticks"]
    worlds.params["sync_phase_ticks"] = 0
    worlds.reset(np.arange(len(worlds)))
    return worlds


def ticks_of(worlds: Worlds, duration_s: float) -> int:
    """How many ticks of a batch a time is."""
    return round(duration_s / float(worlds.params["tick_s"][0]))


def run_worlds(lanes: Sequence[Lane], duration_s: float) -> Worlds:
    """Worlds that have played for a while, each lane scraped and synced at moments of its own."""
    worlds = Worlds(lanes)
    worlds.advance(ticks_of(worlds, duration_s))
    return worlds


def run_in_step(lanes: Sequence[Lane], duration_s: float) -> Worlds:
    """Worlds that have played for a while by the clocks of `in_step`."""
    worlds = in_step(lanes)
    worlds.advance(ticks_of(worlds, duration_s))
    return worlds


def simulate_in_step(lanes: Sequence[Lane], duration_s: float, timeline_step_s: float) -> Simulation:
    """What `simulate` does, by the clocks of `in_step`."""
    worlds = in_step(lanes)
    recorder, n_ticks, step = TimelineRecorder(worlds), ticks_of(worlds, duration_s), ticks_of(worlds, timeline_step_s)
    for begin in range(0, n_ticks, step):
        worlds.advance(min(step, n_ticks - begin))
        recorder.record()
    return Simulation.of(worlds, recorder)


def path_of(worlds: Worlds, lane: int) -> bytes:
    """All that a lane has come to, in its record and in its rows of every table."""
    tables = [table.name for table in LAYOUT.tables.values() if table.is_state]
    return worlds.state[lane].tobytes() + b"".join(worlds.of(lane, name).tobytes() for name in tables)


def scrapes(worlds: Worlds, lane: int = 0) -> np.ndarray:
    """What a lane's scrapes have said of its services, oldest first, SERVICE_TELEMETRY of shape (n, n_services); at most
    as many as the history holds."""
    published, n_services = int(worlds.state["n_published"][lane]), int(worlds.params["n_services"][lane])
    ring = worlds.of(lane, "service_scrapes").reshape(HISTORY, n_services)
    return ring[np.arange(max(0, published - HISTORY), published) % HISTORY]


class Seen(NamedTuple):
    """Scrapes of a lane as its readers saw them, oldest first.

    Attributes:
        whole: TELEMETRY, shape (n,).
        services: SERVICE_TELEMETRY, shape (n, n_services).
    """

    whole: np.ndarray
    services: np.ndarray


def watch(worlds: Worlds, duration_s: float, lane: int = 0) -> Seen:
    """Plays on for a while, and keeps every scrape of a lane that is published meanwhile."""
    whole, services = [], []
    for _ in range(ticks_of(worlds, duration_s)):
        published = int(worlds.state["n_published"][lane])
        worlds.advance(1)
        if worlds.state["n_published"][lane] > published:
            whole.append(worlds.telemetry()[lane].copy())
            services.append(scrapes(worlds, lane)[-1].copy())
    n_services = int(worlds.params["n_services"][lane])
    return Seen(
        np.array(whole, dtype=worlds.telemetry().dtype),
        np.array(services, dtype=worlds.tables.service_scrapes.dtype).reshape(-1, n_services),
    )


def fields_of(records: np.ndarray, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every number of records by its path, those of records within them too."""
    for name in records.dtype.names:
        values = records[name]
        yield from fields_of(values, f"{prefix}{name}.") if values.dtype.names else [(f"{prefix}{name}", values)]


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
