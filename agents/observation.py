"""What a policy may know: scraped, lagged metrics and the API server's answers, never the simulator's own state."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.simulation import Worlds
from sim_core.workload.arrivals import rate_at
from sim_core.world import HISTORY

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


@kernel
def load_of(params, telemetry, i):
    """Offered load of service i in one scrape [pods at 100 % of their CPU request]."""
    service = params.services[i]
    return telemetry.services[i].call_rate_per_s * service.cpu_s / service.request_cores


@kernel
def load_age_s(params, state, now_s):
    """Age of what the load features tell [s]: that of the middle of the newest published scrape, by its own time stamp.

    Before the first scrape the load is that of the replicas now.
    """
    if state.n_published == 0:
        return 0.0
    end_s = state.history[(state.n_published - 1) % HISTORY].time_s
    return now_s - end_s + 0.5 * params.scrape_ticks * params.tick_s


@kernel
def observe_season(params, rates, now_s, lag_s, out):
    """What the traffic did on earlier days from this time of day on.

    Every point lies at least a day less five minutes back, and a step and a half of the trace before now: interpolation
    reaches no further, so nothing here looks ahead. Traces in steps of most of a day show no season.

    Args:
        lag_s: age of the newest scrape's middle, which the load of the other features is from [s].
        out: float32; the highest rate within each of SEASON_STEPS over the rate at the scrape, mean over the days, log;
            then the share of days that the trace reaches back.
    """
    traffic = params.traffic
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


@kernel
def observe(params, state, rates, out):
    """Writes one lane's observation vector.

    Before the first scrape nothing is known but the clock and the replicas, which are taken to be 60 % busy.

    Args:
        rates: all traces of the batch [1/s].
        out: float32, shape (observation_size(n_services),).
    """
    n_services = params.n_services
    now_s = state.tick * params.tick_s
    clock = (params.traffic.start_s + now_s) * _DAY
    base = n_services * N_SERVICE_FEATURES
    out[:] = 0.0
    observe_season(params, rates, now_s, load_age_s(params, state, now_s), out[base:])
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
            out[at] = math.log(0.6 * max(1, state.services[i].desired_replicas)) - LOG_LOAD_CENTER
            out[at + 1] = out[at + 2] = -math.log(0.6)
    else:
        observe_telemetry(params, state, out, base)
    for k in range(len(out)):
        out[k] = min(max(out[k], -BOUND), BOUND)


@kernel
def observe_telemetry(params, state, out, base):
    """Writes what the published scrapes say: the services' features, and from `base` on the shared ones."""
    n_services, published = params.n_services, state.n_published
    newest = state.history[(published - 1) % HISTORY]
    for i in range(n_services):
        service, seen = params.services[i], newest.services[i]
        at = i * N_SERVICE_FEATURES
        load = max(load_of(params, newest, i), 1e-3)
        log_load = math.log(load)
        out[at] = log_load - LOG_LOAD_CENTER
        out[at + 1] = math.log(max(seen.replicas_ready, 0.5)) - log_load
        out[at + 2] = math.log(max(seen.replicas_desired, 0.5)) - log_load
        out[at + 3] = seen.replicas_starting / max(seen.replicas_desired, 1.0)
        out[at + 4] = seen.utilization
        out[at + 5] = seen.queue_len / max(seen.call_rate_per_s, 1.0)
        out[at + 6] = seen.error_ratio
        for k in range(len(LOOK_BACK)):
            back = LOOK_BACK[k]
            if published > back:
                then = load_of(params, state.history[(published - 1 - back) % HISTORY], i)
                out[at + 7 + k] = log_load - math.log(max(then, 1e-3))
        peak = 0.0
        window = 1
        for back in range(min(published, PEAK_SCRAPES[-1])):
            peak = max(peak, load_of(params, state.history[(published - 1 - back) % HISTORY], i))
            while window < len(PEAK_SCRAPES) and (back + 1 == PEAK_SCRAPES[window] or back + 1 == published):
                out[at + 12 + window] = math.log(max(peak, 1e-3)) - log_load
                window += 1
        total, squares, count = 0.0, 0.0, min(published, NOISE_SCRAPES)
        scale = service.cpu_s / service.request_cores / load
        for back in range(count):
            relative = state.history[(published - 1 - back) % HISTORY].services[i].call_rate_per_s * scale
            total += relative
            squares += relative * relative
        out[at + 15] = math.sqrt(max(0.0, squares / count - (total / count) ** 2))
    out[base] = math.log(max(newest.latency_mean_s, 1e-4)) - params.latency_threshold_log
    out[base + 1] = math.log(max(newest.latency_p95_s, 1e-4)) - params.latency_threshold_log
    out[base + 2] = 1.0 - newest.good_ratio
    out[base + 3] = newest.error_ratio
    out[base + 4] = newest.database_utilization
    out[base + 5] = newest.connection_ratio
    out[base + 6] = 1.0 - newest.cache_hit_ratio if params.cache.present else 0.0


@kernel
def observe_lanes(params, state, rates, out):
    """Writes the observation vectors of a batch, `out` float32 of shape (n_lanes, observation_size)."""
    for lane in range(len(params)):
        observe(params[lane], state[lane], rates, out[lane])


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
    def telemetry(self) -> np.ndarray:
        """Newest published scrape, records `TELEMETRY`, shape (n_lanes,)."""
        return self._worlds.telemetry()

    @property
    def replicas(self) -> np.ndarray:
        """spec.replicas of every Deployment, shape (n_lanes, n_services) [pods]."""
        return self._worlds.state["services"]["desired_replicas"][:, : self.n_services]

    @property
    def vectors(self) -> np.ndarray:
        """Observation vectors for learned policies, float32, shape (n_lanes, observation_size)."""
        out = np.empty((self.n_lanes, observation_size(self.n_services)), dtype=np.float32)
        observe_lanes(self._worlds.params, self._worlds.state, self._worlds.rates, out)
        return out

    @property
    def deployments(self) -> np.ndarray:
        """The API server's view of every Deployment: replicas, pods, and the pods' published CPU samples.

        Records `SERVICE_STATE`, shape (n_lanes, n_services), for controllers that read pods (`desired_replicas`,
        `n_active`, `n_pods`, `pods`); queues and accounts in them are the simulator's own and not for policies.
        """
        return self._worlds.state["services"][:, : self.n_services]

    @property
    def sample_time_s(self) -> np.ndarray:
        """End of the window of the pods' CPU samples, shape (n_lanes,) [s]; -inf before the first."""
        return self._worlds.state["sample_time_s"]
