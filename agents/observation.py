"""What a policy may know: scraped, lagged metrics and the API server's answers, never the simulator's own state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sim_core.compiled import kernel, phase
from sim_core.simulation import Worlds, cut
from sim_core.telemetry import HISTORY
from sim_core.workload.arrivals import rate_at

# How far back the load is compared with the newest [scrapes]: 15 s, 30 s, 1, 2, 5 and 10 min at the default interval.
LOOK_BACK = np.array([1, 2, 4, 8, 20, 40])
NOISE_SCRAPES = 20
# Windows over which the highest load counts [scrapes]; the first is the newest scrape alone.
PEAK_SCRAPES = np.array([1, 4, 12])
# The same moment on earlier days, as a metrics database remembers it.
SEASON_S = 86_400.0
SEASON_DAYS = 3
SEASON_STEP_S = 15.0
SEASON_STEPS = np.array([2, 4, 8, 20])  # how far ahead of that moment, in steps: 30 s, 1, 2 and 5 min
LOG_LOAD_CENTER = 2.0  # most loads are 1 to 50 pods

SERVICE_FEATURES = (
    "load_log",  # log of the offered load [pods at 100 % of their request]
    "ready_over_load_log",
    "desired_over_load_log",
    "starting_share",
    "utilization",
    "queue_s",  # queued calls over the call rate
    "error_ratio",
    *(f"load_change_{scrapes}" for scrapes in LOOK_BACK),  # log(load now / load then)
    *(f"load_peak_{scrapes}" for scrapes in PEAK_SCRAPES[1:]),  # log(highest load in that window / load now)
    "load_noise",  # standard deviation of log load over NOISE_SCRAPES
)
SHARED_FEATURES = (
    *(
        f"season_peak_{int(steps * SEASON_STEP_S)}s" for steps in SEASON_STEPS
    ),  # log(highest rate so far ahead / rate then)
    "season_days",  # share of SEASON_DAYS that the history covers
    "latency_mean_log",  # log(latency / SLO threshold)
    "latency_p95_log",
    "bad_ratio",
    "error_ratio",
    "database_utilization",
    "connection_ratio",
    "cache_miss_ratio",
    "day_sin",
    "day_cos",
    "half_day_sin",
    "half_day_cos",
    "week_sin",
    "week_cos",
)
N_SERVICE_FEATURES = len(SERVICE_FEATURES)
N_SHARED_FEATURES = len(SHARED_FEATURES)
BOUND = 10.0  # of every feature; `observe` clips
_DAY = 2.0 * math.pi / 86_400.0


def feature_names(n_services: int) -> tuple[str, ...]:
    """Names of the entries of an observation vector, in order."""
    per_service = tuple(f"service_{i}/{name}" for i in range(n_services) for name in SERVICE_FEATURES)
    return per_service + SHARED_FEATURES


def observation_size(n_services: int) -> int:
    """Length of an observation vector."""
    return n_services * N_SERVICE_FEATURES + N_SHARED_FEATURES


@phase
def scrape_of(world, back, i):
    """What a published scrape says of service i, `back` scrapes before the newest."""
    return world.service_scrapes[(world.state.n_published - 1 - back) % HISTORY * len(world.services) + i]


@kernel
def load_of(service, scrape):
    """Offered load of a service in one scrape [pods at 100 % of their CPU request]."""
    return scrape.call_rate_per_s * service.cpu_s / service.request_cores


@kernel
def load_age_s(lane, state, now_s):
    """Age of what the load features tell [s]: that of the middle of the newest published scrape, by its own time stamp.

    Before the first scrape the load is that of the replicas now.
    """
    if state.n_published == 0:
        return 0.0
    return now_s - state.published.time_s + 0.5 * lane.scrape_ticks * lane.tick_s


@kernel
def observe_season(traffic, rates, now_s, lag_s, out):
    """What the traffic did on earlier days from this time of day on.

    Every point lies at least a day less five minutes back, and a step and a half of the trace before now: interpolation
    reaches no further, so nothing here looks ahead. Traces in steps of most of a day show no season.

    Args:
        lag_s: age of the newest scrape's middle, which the load of the other features is from [s].
        out: float32; the highest rate within each of SEASON_STEPS over the rate at the scrape, mean over the days, log;
            then the share of days that the trace reaches back.
    """
    days = min(SEASON_DAYS, int((traffic.start_s + now_s - lag_s) / SEASON_S))
    n_ahead = len(SEASON_STEPS)
    if 1.5 * traffic.step_s > SEASON_S - SEASON_STEPS[n_ahead - 1] * SEASON_STEP_S:
        days = 0
    out[n_ahead] = days / SEASON_DAYS
    if days <= 0:
        return
    per_day = np.empty(SEASON_DAYS)
    for day in range(days):
        then_s = now_s - (day + 1) * SEASON_S - lag_s
        per_day[day] = 1.0 / (days * max(rate_at(traffic, rates, then_s), 1e-6))
    peak, ahead, step = 0.0, 0, 0
    while ahead < n_ahead:
        ratio = 0.0
        for day in range(days):
            ratio += per_day[day] * rate_at(traffic, rates, now_s - (day + 1) * SEASON_S + step * SEASON_STEP_S)
        peak = max(peak, ratio)
        if step >= SEASON_STEPS[ahead]:
            out[ahead] = math.log(max(peak, 1e-3))
            ahead += 1
        step += 2 if step < 8 else 6


@phase
def observe(world, out):
    """Writes one lane's observation vector.

    Before the first scrape nothing is known but the clock and the replicas, which are taken to be 60 % busy.

    Args:
        out: float32, shape (observation_size(n_services) or more,); what lies behind is left at 0.
    """
    lane, state, n_services = world.lane, world.state, len(world.services)
    now_s = state.tick * lane.tick_s
    clock = (lane.traffic.start_s + now_s) * _DAY
    base = n_services * N_SERVICE_FEATURES
    out[:] = 0.0
    observe_season(lane.traffic, world.rates, now_s, load_age_s(lane, state, now_s), out[base:])
    base += len(SEASON_STEPS) + 1
    out[base + 7] = math.sin(clock)
    out[base + 8] = math.cos(clock)
    out[base + 9] = 2.0 * out[base + 7] * out[base + 8]
    out[base + 10] = 1.0 - 2.0 * out[base + 7] * out[base + 7]
    out[base + 11] = math.sin(clock / 7.0)
    out[base + 12] = math.cos(clock / 7.0)
    if state.n_published == 0:
        for i in range(n_services):
            at = i * N_SERVICE_FEATURES
            out[at] = math.log(0.6 * max(1, world.service_states[i].desired_replicas)) - LOG_LOAD_CENTER
            out[at + 1] = out[at + 2] = -math.log(0.6)
    else:
        for i in range(n_services):
            observe_service(world, i, out[i * N_SERVICE_FEATURES :])
        observe_requests(lane, state.published, len(world.caches) > 0, out[base:])
    for k in range(len(out)):
        out[k] = min(max(out[k], -BOUND), BOUND)


@phase
def observe_service(world, i, out):
    """Writes what the published scrapes say of service i."""
    service, seen, published = world.services[i], scrape_of(world, 0, i), world.state.n_published
    load = max(load_of(service, seen), 1e-3)
    log_load = math.log(load)
    out[0] = log_load - LOG_LOAD_CENTER
    out[1] = math.log(max(seen.replicas_ready, 0.5)) - log_load
    out[2] = math.log(max(seen.replicas_desired, 0.5)) - log_load
    out[3] = seen.replicas_starting / max(seen.replicas_desired, 1.0)
    out[4] = seen.utilization
    out[5] = seen.queue_len / max(seen.call_rate_per_s, 1.0)
    out[6] = seen.error_ratio
    for k in range(len(LOOK_BACK)):
        if published > LOOK_BACK[k]:
            out[7 + k] = log_load - math.log(max(load_of(service, scrape_of(world, LOOK_BACK[k], i)), 1e-3))
    peak, window = 0.0, 1
    for back in range(min(published, PEAK_SCRAPES[-1])):
        peak = max(peak, load_of(service, scrape_of(world, back, i)))
        while window < len(PEAK_SCRAPES) and (back + 1 == PEAK_SCRAPES[window] or back + 1 == published):
            out[12 + window] = math.log(max(peak, 1e-3)) - log_load
            window += 1
    total, squares, count = 0.0, 0.0, min(published, NOISE_SCRAPES)
    for back in range(count):
        relative = load_of(service, scrape_of(world, back, i)) / load
        total += relative
        squares += relative * relative
    out[15] = math.sqrt(max(0.0, squares / count - (total / count) ** 2))


@kernel
def observe_requests(lane, seen, has_cache, out):
    """Writes what the newest published scrape says of the whole."""
    out[0] = math.log(max(seen.latency_mean_s, 1e-4)) - lane.latency_threshold_log
    out[1] = math.log(max(seen.latency_p95_s, 1e-4)) - lane.latency_threshold_log
    out[2] = 1.0 - seen.good_ratio
    out[3] = seen.error_ratio
    out[4] = seen.database_utilization
    out[5] = seen.connection_ratio
    out[6] = 1.0 - seen.cache_hit_ratio if has_cache else 0.0


@kernel
def observe_lanes(tables, lanes, out):
    """Writes the observation vectors of some lanes of a batch, `out` float32 of shape (n_lanes, observation_size)."""
    for lane in lanes:
        observe(cut(tables, lane), out[lane])


class Deployments(NamedTuple):
    """Deployments of a batch as the API server has them.

    Attributes:
        rows: of each lane's services in the next two, shape (n_lanes, n_services); -1: the lane has no more.
        specs: SERVICE records; its pods begin at row `pods_first` of those of its lane.
        states: SERVICE_STATE records (`desired_replicas`, `n_active`, `n_pods`); integrals in them are the simulator's.
        pods: POD records of all lanes.
        pods_first: row of each lane's first pod, shape (n_lanes,).
    """

    rows: np.ndarray
    specs: np.ndarray
    states: np.ndarray
    pods: np.ndarray
    pods_first: np.ndarray


class Observations:
    """One moment of a batch of worlds as its controllers can know it.

    Policies read the properties; which of them a policy needs is its own business. Nothing here shows what has not been
    scraped or what the API server would not tell.
    """

    def __init__(self, worlds: Worlds):
        self._worlds = worlds

    @property
    def n_lanes(self) -> int:
        return len(self._worlds)

    @property
    def n_services(self) -> int:
        return self._worlds.n_services

    @property
    def time_s(self) -> np.ndarray:
        """The controllers' clock, shape (n_lanes,) [s since the lane began]."""
        return self._worlds.time_s

    @property
    def clock_s(self) -> np.ndarray:
        """Time of the traffic, which begins at a midnight, shape (n_lanes,) [s]."""
        return np.asarray(self._worlds.params["traffic"]["start_s"] + self.time_s)

    def past_rates(self, lane: int, step_s: float) -> np.ndarray:
        """What a metrics database remembers of a lane's traffic: mean request rates in steps from the first midnight on.

        Steps of the trace count that have ended, been scraped and been published: nothing here looks ahead.

        Args:
            step_s: length of a step [s].

        Returns:
            New array, shape (n_steps,) [1/s]: step k is from k to k + 1 times `step_s` of `clock_s`.
        """
        params = self._worlds.params[lane]
        traffic = params["traffic"]
        unseen_s = (params["scrape_ticks"] + params["publish_ticks"]) * params["tick_s"]
        known_s = float(traffic["start_s"]) + float(self.time_s[lane]) - float(unseen_s)
        n_known = min(max(0, int(known_s / traffic["step_s"])), int(traffic["length"]))
        rates = self._worlds.tables.rates[traffic["offset"] : traffic["offset"] + n_known]
        requests = np.concatenate([[0.0], np.cumsum(rates * traffic["step_s"])])
        n_steps = int(n_known * traffic["step_s"] / step_s)
        ends = np.interp(np.arange(n_steps + 1) * step_s, np.arange(n_known + 1) * traffic["step_s"], requests)
        return np.asarray(np.diff(ends) / step_s)

    @property
    def telemetry(self) -> np.ndarray:
        """Newest published scrape, records `TELEMETRY`, shape (n_lanes,)."""
        return self._worlds.telemetry()

    @property
    def services(self) -> np.ndarray:
        """The newest published scrape of every service, records `SERVICE_TELEMETRY`, shape (n_lanes, n_services).

        Zeros before the first, and where a lane has fewer services.
        """
        worlds = self._worlds
        params, published = worlds.params, worlds.state["n_published"]
        newest = params["service_scrapes_first"] + (np.maximum(published, 1) - 1) % HISTORY * params["n_services"]
        places = np.arange(self.n_services)
        there = places < params["n_services"][:, None]
        scrapes = np.zeros(there.shape, dtype=worlds.tables.service_scrapes.dtype)
        scrapes[there] = worlds.tables.service_scrapes[(newest[:, None] + places)[there]]
        return scrapes

    @property
    def replicas(self) -> np.ndarray:
        """spec.replicas of every Deployment, shape (n_lanes, n_services) [pods]."""
        return self._worlds.by_service(self._worlds.tables.service_states["desired_replicas"], 0)

    @property
    def vectors(self) -> np.ndarray:
        """Observation vectors for learned policies, float32, shape (n_lanes, observation_size)."""
        out = np.empty((self.n_lanes, observation_size(self.n_services)), dtype=np.float32)
        observe_lanes(self._worlds.tables, np.arange(self.n_lanes), out)
        return out

    def decide(self, kernel: Callable[..., None], *arguments: Any) -> None:
        """Runs a kernel of this package over all lanes: `kernel(tables, lanes, *arguments)`.

        Such a kernel reads what `observe` reads: published scrapes, Deployments and their pods, the clock, earlier days.
        """
        kernel(self._worlds.tables, np.arange(self.n_lanes), *arguments)

    @property
    def deployments(self) -> Deployments:
        """The API server's view of every Deployment: replicas, pods, and the pods' published CPU samples."""
        worlds = self._worlds
        return Deployments(worlds.service_rows, worlds.tables.services, worlds.tables.service_states, worlds.tables.pods,
                           worlds.params["pods_first"])  # fmt: skip

    @property
    def sample_time_s(self) -> np.ndarray:
        """End of the window of the pods' CPU samples, shape (n_lanes,) [s]; -inf before the first."""
        return self._worlds.state["sample_time_s"]

    @property
    def sample_window_s(self) -> np.ndarray:
        """Length of that window, shape (n_lanes,) [s]."""
        return self._worlds.state["sample_window_s"]
