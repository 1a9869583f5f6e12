"""The tick: one transition of one world, written once, and what drives batches of worlds through it.

Phases of a tick, in this order: controllers that are due; pods advance; traffic arrives; the data plane serves;
telemetry is scraped and published; accounting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sim_core.accounting import (
    costs,
    indicators,
    latency_percentiles,
    service_figures,
    service_indicators,
    service_sums,
)
from sim_core.compiled import kernel
from sim_core.controlplane.hpa import reconcile_hpa
from sim_core.controlplane.pods import SAMPLE, advance_pods, collect_samples, set_replicas, start_warm
from sim_core.dataplane.fluid import serve
from sim_core.engines import check_engine, is_installed
from sim_core.errors import InputError
from sim_core.limits import MAX_METRICS, MAX_PODS
from sim_core.telemetry import publish, scrape
from sim_core.workload.arrivals import draw_arrivals, rate_at
from sim_core.world import (
    HISTORY,
    HORIZONTAL_POD_AUTOSCALER,
    SCHEDULE,
    STATE,
    STATIC,
    Lane,
    build_params,
)


@kernel
def begin_lane(params, state):
    """Fills a zeroed state: pods that have been warm for long, a cache as full as the profile says."""
    for i in range(params.n_services):
        service, state_i = params.services[i], state.services[i]
        start_warm(service, state_i, service.initial_replicas)
        state_i.backend_s = 0.0
    state.cached_keys = params.cache.initial_keys
    state.sample_time_s = -math.inf
    state.next_scrape_tick = params.scrape_ticks
    state.next_publish_tick = -1


@kernel
def run_controllers(params, state, schedules, samples, now_s):
    """Phase 1: at each controller sync every scaler says how many replicas it wants; its Deployment follows."""
    if state.tick < state.next_sync_tick:
        return
    state.next_sync_tick += params.sync_ticks
    window_s = params.scrape_ticks * params.tick_s
    for i in range(params.n_services):
        service, state_i = params.services[i], state.services[i]
        desired = state_i.desired_replicas
        kind = service.scaler.kind
        if kind == HORIZONTAL_POD_AUTOSCALER:
            collect_samples(state_i, samples[0], state.sample_time_s, window_s)
            desired = reconcile_hpa(
                service.hpa, state_i.hpa, state_i.pods, state_i.n_pods, samples, desired, state_i.n_active, 0, now_s
            )
        elif kind == SCHEDULE:
            row = min(state.tick // params.sync_ticks, service.scaler.length - 1)
            desired = schedules[service.scaler.offset + row, i]
        elif kind == STATIC:
            desired = service.scaler.replicas
        desired = min(max(desired, service.min_replicas), service.max_replicas)
        state_i.desired_replicas = desired
        if state_i.n_active != desired and set_replicas(service, state_i, params.key, now_s):
            state.account.scale_events += 1.0


@kernel
def tick(params, state, rates, schedules, samples):
    """Takes one world one tick further."""
    tick_s = params.tick_s
    now_s = state.tick * tick_s
    run_controllers(params, state, schedules, samples, now_s)
    pods, pods_usd_per_s = 0.0, 0.0
    for i in range(params.n_services):
        service, state_i = params.services[i], state.services[i]
        advance_pods(service, state_i, state.window_start_s, now_s)
        pods += state_i.n_pods
        pods_usd_per_s += state_i.n_pods * service.usd_per_pod_s
        state.account.services[i].pod_s += state_i.n_pods * tick_s
    rate_per_s = rate_at(params.traffic, rates, now_s + 0.5 * tick_s)
    serve(params, state, draw_arrivals(params.key, rate_per_s, state.tick, tick_s), rate_per_s * tick_s)
    state.tick += 1
    if state.tick == state.next_publish_tick:  # before the next scrape: a delay may be as long as the interval
        publish(params, state)
    if state.tick >= state.next_scrape_tick:
        scrape(params, state, state.tick * tick_s)
        state.window_start_s = state.tick * tick_s
        state.next_publish_tick = state.next_scrape_tick + params.publish_ticks
        state.next_scrape_tick += params.scrape_ticks
        if params.publish_ticks == 0:
            publish(params, state)
    state.account.pods_usd += pods_usd_per_s * tick_s
    state.account.pod_s += pods * tick_s
    state.account.seconds += tick_s


@kernel
def advance_lanes(params, state, rates, schedules, samples, n_ticks):
    """Takes every world of a batch `n_ticks` further, one world after the other (its records stay in the CPU's cache)."""
    for lane in range(len(params)):
        for _ in range(n_ticks):
            tick(params[lane], state[lane], rates, schedules, samples)


@kernel
def _begin_lanes(params, state, lanes):
    for lane in lanes:
        begin_lane(params[lane], state[lane])


class Worlds:
    """A batch of worlds: parameters, state, and the tables that the parameters point into.

    Args:
        lanes: one a world; they may differ in everything but nothing has to be equal.
        engine: how requests are served, see `sim_core.engines`.
        threads: that lanes are shared among; the outcome does not depend on them.

    Raises:
        InputError: no lane, or no such engine.

    Attributes:
        params, state: structured arrays, shape (n_lanes,); see `world.py`.
    """

    def __init__(self, lanes: Sequence[Lane], engine: str = "fluid", threads: int = 1):
        if not lanes:
            raise InputError("lanes", "must hold at least one lane (got none)")
        if not is_installed(check_engine(engine)):
            raise InputError("engine", f"is not part of this package (got {engine!r})")
        self.lanes = tuple(lanes)
        self.params, self.rates, self.schedules = build_params(self.lanes)
        self.state = np.zeros(len(lanes), dtype=STATE)
        self._bytes = self.state.view(np.uint8).reshape(len(lanes), -1)  # to clear a lane's record at once
        self.samples = np.zeros((MAX_METRICS, MAX_PODS), dtype=SAMPLE)
        _begin_lanes(self.params, self.state, np.arange(len(lanes)))

    def __len__(self) -> int:
        return len(self.lanes)

    @property
    def n_services(self) -> int:
        """Services of the widest profile of the batch."""
        return int(self.params["n_services"].max())

    @property
    def time_s(self) -> np.ndarray:
        """Each lane's clock, shape (n_lanes,) [s]."""
        return self.state["tick"] * self.params["tick_s"]

    def reset(self, lanes: np.ndarray) -> None:
        """Sends the lanes at these indices, shape (k,), back to their beginning, under the parameters they have now."""
        self._bytes[lanes] = 0
        _begin_lanes(self.params, self.state, lanes)

    def advance(self, n_ticks: int) -> None:
        """Takes every world `n_ticks` further."""
        advance_lanes(self.params, self.state, self.rates, self.schedules, self.samples, n_ticks)

    def request_replicas(self, desired: np.ndarray) -> None:
        """What services of `Scaler.external` lanes scale to at their next sync, shape (n_lanes, n_services) [pods]."""
        self.state["services"]["desired_replicas"][:, : desired.shape[1]] = desired

    def telemetry(self) -> np.ndarray:
        """What each lane's readers saw last: TELEMETRY records, shape (n_lanes,); zeros before the first scrape."""
        newest = (self.state["n_published"] - 1) % HISTORY
        return self.state["history"][np.arange(len(self)), newest]

    def indicators(self) -> pd.DataFrame:
        """Indicators so far, one row a lane."""
        return indicators(self.params, self.state)

    def services(self) -> pd.DataFrame:
        """Figures of each service so far, one row a lane and service; see `accounting.service_indicators`."""
        return service_indicators(
            self.params, self.state, [[service.name for service in lane.profile.services] for lane in self.lanes]
        )


@dataclass(frozen=True)
class Simulation:
    """What came out of `simulate`.

    Attributes:
        indicators: one row a lane, columns `sim_core.indicators.INDICATORS`.
        services: one row a lane and service, columns `lane`, `service` and `SERVICE_INDICATORS` of the same module.
        timeline: by name, shape (n_lanes, n_steps), except `time_s` (n_steps,): means over a step; `cost_usd` and its
            parts `cost_pods_usd`, `cost_fixed_usd` summed up since the start.
        service_timeline: by name, shape (n_lanes, n_services, n_steps): means over a step, replicas at its end.
    """

    indicators: pd.DataFrame
    services: pd.DataFrame
    timeline: dict[str, np.ndarray] | None = None
    service_timeline: dict[str, np.ndarray] | None = None


def simulate(
    lanes: Sequence[Lane],
    duration_s: float,
    timeline_step_s: float | None = None,
    engine: str = "fluid",
    threads: int = 1,
) -> Simulation:
    """Plays every lane for `duration_s` [s].

    Args:
        timeline_step_s: record a timeline with this step [s].
        engine, threads: see `Worlds`.

    Raises:
        InputError: a lane's trace ends before the simulation does, the duration is not positive, or no such engine.
    """
    check_duration(lanes, duration_s)
    worlds = Worlds(lanes, engine, threads)
    n_ticks = round(duration_s / float(worlds.params["tick_s"][0]))
    if timeline_step_s is None:
        worlds.advance(n_ticks)
        return Simulation(worlds.indicators(), worlds.services())
    recorder = TimelineRecorder(worlds)
    step = max(1, round(timeline_step_s / float(worlds.params["tick_s"][0])))
    for begin in range(0, n_ticks, step):
        worlds.advance(min(step, n_ticks - begin))
        recorder.record()
    return Simulation(worlds.indicators(), worlds.services(), recorder.timeline(), recorder.service_timeline())


def check_duration(lanes: Sequence[Lane], duration_s: float) -> None:
    """Refuses a duration that is not positive, shorter than a tick, or longer than a lane's trace.

    Raises:
        InputError: with every such trace and start, once.
    """
    if not duration_s > 0.0 or not math.isfinite(duration_s):
        raise InputError("duration", f"must be greater than 0 (got {duration_s})")
    tick_s = max((lane.profile.tick_seconds for lane in lanes), default=0.0)
    if round(duration_s / tick_s if tick_s else 1.0) < 1:
        raise InputError("duration", f"must be at least one tick of {tick_s:g} s (got {duration_s})")
    problems = []
    for trace, start_s in {(id(lane.trace), lane.start_s): (lane.trace, lane.start_s) for lane in lanes}.values():
        if start_s < 0.0 or start_s + duration_s > trace.duration_s * (1 + 1e-9):
            problems.append(
                f"trace '{trace.name}' lasts {trace.duration_s:g} s; "
                f"cannot play {duration_s:g} s from {start_s:g} s; choose an earlier start or a shorter duration"
            )
    if problems:
        raise InputError("duration", problems)
    if len({lane.profile.tick_seconds for lane in lanes}) > 1:
        raise InputError("lanes", "must share one tick_seconds")


class TimelineRecorder:
    """Records worlds at even steps; every quantity comes from differences of their accounts."""

    _SUMS = ("requests", "good", "failed", "latency_s", "latency_weight", "cpu_core_s", "request_core_s", "seconds")

    def __init__(self, worlds: Worlds):
        self._worlds = worlds
        self._steps: list[dict[str, np.ndarray]] = []
        self._service_steps: list[dict[str, np.ndarray]] = []
        self._before = self._sums()
        self._services_before = service_sums(worlds.state)

    def _sums(self) -> dict[str, np.ndarray]:
        account = self._worlds.state["account"]
        return {name: account[name].copy() for name in (*self._SUMS, "latency")}

    def record(self) -> None:
        """Notes what happened since the last call."""
        now, before, state = self._sums(), self._before, self._worlds.state
        change = {name: now[name] - before[name] for name in now}
        cost = costs(self._worlds.params, state["account"])
        services = state["services"]
        with np.errstate(invalid="ignore", divide="ignore"):
            self._steps.append(
                {
                    "time_s": self._worlds.time_s,
                    "load_per_s": change["requests"] / change["seconds"],
                    "replicas_ready": services["n_ready"].sum(axis=1).astype(float),
                    "replicas_desired": services["desired_replicas"].sum(axis=1).astype(float),
                    "latency_mean_s": change["latency_s"] / change["latency_weight"],
                    "latency_p95_s": latency_percentiles(change["latency"], np.array([0.95]))[:, 0],
                    "slo_attainment": change["good"] / change["requests"],
                    "error_ratio": change["failed"] / change["requests"],
                    "utilization": change["cpu_core_s"] / change["request_core_s"],
                    **{name: cost[name] for name in ("cost_usd", "cost_pods_usd", "cost_fixed_usd")},
                }
            )
        self._before = now
        self._record_services(change["seconds"])

    def _record_services(self, seconds: np.ndarray) -> None:
        now, n = service_sums(self._worlds.state), self._worlds.n_services
        change = {name: (now[name] - self._services_before[name])[:, :n] for name in now}
        services = self._worlds.state["services"][:, :n]
        replicas = {name: services[name].astype(float) for name in ("n_ready", "desired_replicas")}
        figures = service_figures(change, seconds)
        self._service_steps.append(
            {
                "replicas_ready": replicas["n_ready"],
                "replicas_desired": replicas["desired_replicas"],
                "call_rate_per_s": change["calls"] / seconds[:, None],
                **{name: figures[name] for name in ("utilization", "latency_mean_s", "error_ratio", "queue_len")},
            }
        )
        self._services_before = now

    def timeline(self) -> dict[str, np.ndarray]:
        """All steps so far; see `Simulation.timeline`."""
        names = self._steps[0]
        timeline = {name: np.stack([step[name] for step in self._steps], axis=1) for name in names}
        timeline["time_s"] = timeline["time_s"][0]
        return timeline

    def service_timeline(self) -> dict[str, np.ndarray]:
        """All steps so far by service; see `Simulation.service_timeline`."""
        return {name: np.stack([step[name] for step in self._service_steps], axis=2) for name in self._service_steps[0]}
