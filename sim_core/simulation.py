"""The tick: one transition of one world, written once, and what drives batches of worlds through it.

Phases of a tick, in this order: controllers that are due; pods advance; traffic arrives; the data plane serves;
telemetry is scraped and published; accounting.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sim_core.accounting import (
    class_indicators,
    costs,
    indicators,
    lane_sums,
    latency_percentiles,
    service_figures,
    service_indicators,
    service_sums,
)
from sim_core.compiled import glue, kernel, phase
from sim_core.controlplane.hpa import reconcile_hpa
from sim_core.controlplane.hpa_logs import down_events_of, recommendations_of, up_events_of
from sim_core.controlplane.pods import SAMPLE, advance_pods, collect_samples, set_replicas, start_warm
from sim_core.dataplane.fluid import begin_components, serve
from sim_core.dataplane.known import known_stations
from sim_core.dataplane.requests.begin import begin_engine
from sim_core.dataplane.requests.events import serve_requests
from sim_core.dataplane.requests.lanes import RequestEngines
from sim_core.dataplane.services import fluid as services
from sim_core.dataplane.services.kinds import HORIZONTAL_POD_AUTOSCALER, SCHEDULE, STATIC
from sim_core.engines import FLUID, REQUESTS, check_engine
from sim_core.errors import InputError
from sim_core.limits import MAX_METRICS
from sim_core.tables import rows
from sim_core.telemetry import publish, scrape
from sim_core.workload.arrivals import arrive
from sim_core.world import LAYOUT, Lane, Tables, build_tables

if TYPE_CHECKING:
    import pandas as pd

SPANS_KEPT = 1_000_000  # of sampled requests, a lane; more are counted and lost
SHORT_STRETCH_S, LONG_STRETCH_S = 0.1, 0.5  # after less the next stretch of ticks is doubled, after more it is halved

cut = LAYOUT.cutter()


@glue
def begin_lane(world):
    """Fills a zeroed state: pods that have been warm for long, components as full as the profile says."""
    lane, state = world.lane, world.state
    for i in range(len(world.services)):
        service = world.services[i]
        start_warm(service, world.service_states[i], pods_of(world, service), service.initial_replicas)
    services.begin(world)
    begin_components(world)
    state.sample_time_s = -math.inf
    state.next_scrape_tick = lane.scrape_phase_ticks
    state.next_sync_tick = lane.sync_phase_ticks
    state.next_publish_tick = -1


@phase
def pods_of(world, service):
    """The pods of a service: the first `n_pods` of its state are in use."""
    return rows(world.pods, service.pods_first, service.n_pods)


@phase
def run_controllers(world, now_s):
    """Phase 1: at each controller sync every scaler says how many replicas it wants; its Deployment follows."""
    lane, state = world.lane, world.state
    if state.tick < state.next_sync_tick:
        return
    state.next_sync_tick += lane.sync_ticks
    for i in range(len(world.services)):
        service, state_i = world.services[i], world.service_states[i]
        pods = pods_of(world, service)
        desired = state_i.desired_replicas
        kind = service.scaler.kind
        if kind == HORIZONTAL_POD_AUTOSCALER:
            desired = ask_hpa(world, service, state_i, pods, now_s)
        elif kind == SCHEDULE:
            row = min(state.n_syncs, service.scaler.length - 1)
            desired = world.schedules[service.scaler.offset + row]
        elif kind == STATIC:
            desired = service.scaler.replicas
        desired = min(max(desired, service.min_replicas), service.max_replicas)
        state_i.desired_replicas = desired
        if state_i.n_active != desired and set_replicas(service, state_i, pods, lane.key, now_s):
            state.account.scale_events += 1.0
    state.n_syncs += 1


@glue
def ask_hpa(world, service, state, pods, now_s):
    """Replicas that the HorizontalPodAutoscaler of a service asks for [pods]."""
    hpa, samples = service.hpa, world.samples
    collect_samples(state, pods, samples[0], world.state.sample_time_s, world.state.sample_window_s)
    return reconcile_hpa(
        hpa, state.hpa,
        recommendations_of(hpa, world.recommendations),
        up_events_of(hpa, world.up_events),
        down_events_of(hpa, world.down_events),
        pods, state.n_pods, samples, state.desired_replicas, state.n_active, 0, now_s,
    )  # fmt: skip


@phase
def before_serving(world):
    """What comes before the data plane in a tick."""
    lane, state = world.lane, world.state
    now_s = state.tick * lane.tick_s
    run_controllers(world, now_s)
    pods, pods_usd_per_s = 0.0, 0.0
    for i in range(len(world.services)):
        service, state_i = world.services[i], world.service_states[i]
        if now_s >= state_i.next_event_s:
            advance_pods(service, state_i, pods_of(world, service), state.window_start_s, now_s)
        pods += state_i.n_pods
        pods_usd_per_s += state_i.n_pods * service.usd_per_pod_s
        state_i.pod_s += state_i.n_pods * lane.tick_s
    state.account.pods_usd += pods_usd_per_s * lane.tick_s
    state.account.pod_s += pods * lane.tick_s
    arrive(world, now_s)


@phase
def after_serving(world):
    """What comes after the data plane in a tick."""
    lane, state = world.lane, world.state
    state.tick += 1
    state.account.seconds += lane.tick_s
    if state.tick == state.next_publish_tick:  # before the next scrape: a delay may be as long as the interval
        publish(world)
    if state.tick >= state.next_scrape_tick:
        scrape(world)
        state.next_publish_tick = state.next_scrape_tick + lane.publish_ticks
        state.next_scrape_tick += lane.scrape_ticks
        if lane.publish_ticks == 0:
            publish(world)


@glue
def tick(world):
    """Takes one world one tick further, with the fluid engine."""
    before_serving(world)
    serve(world)
    after_serving(world)


@kernel
def advance_lanes(tables, lanes, n_ticks):
    """Takes some worlds of a batch further, one world after the other (its rows stay in the CPU's cache).

    Args:
        lanes: their indices, shape (k,).
        n_ticks: how far each goes, shape (k,).
    """
    for k in range(len(lanes)):
        world = cut(tables, lanes[k])
        for _ in range(n_ticks[k]):
            tick(world)


@kernel
def _begin_lanes(tables, lanes):
    for lane in lanes:
        begin_lane(cut(tables, lane))


@kernel
def advance_lanes_by_requests(tables, engines, lanes, n_ticks):
    """As `advance_lanes`, every request an event.

    Args:
        engines: ENGINE records, shape (n_lanes,).
    """
    for k in range(len(lanes)):
        world, engine = cut(tables, lanes[k]), engines[lanes[k]]
        account = world.state.account
        for _ in range(n_ticks[k]):
            before_serving(world)
            good = 0.0
            for c in range(len(world.classes)):
                account.requests += world.arrivals[c].requests
                good -= world.class_windows[c].good
            serve_requests(
                engine, world.services, world.service_states, world.endpoints, world.steps, world.calls, world.classes,
                world.pods, world.caches, world.cache_states, world.databases, world.database_states,
                world.service_windows, world.class_windows, world.latency, world.arrivals.requests, world.lane.key,
                world.lane.latency_threshold_s, world.state.tick, world.lane.tick_s,
            )  # fmt: skip
            for c in range(len(world.classes)):
                good += world.class_windows[c].good
            account.good += good
            after_serving(world)


@kernel
def _begin_engines(tables, engines, lanes, trace_share, room_spans):
    for lane in lanes:
        world = cut(tables, lane)
        begin_engine(
            engines[lane], world.services, world.endpoints, world.steps, world.calls, world.classes, world.pods,
            world.caches, world.databases, world.lane.key, trace_share, room_spans,
        )  # fmt: skip


class Worlds:
    """A batch of worlds: tables of all that there is, see `sim_core/tables.py`.

    Args:
        lanes: one a world; they may differ in everything but `tick_seconds`.
        engine: how requests are served, see `sim_core.engines`.
        threads: that lanes are shared among; the outcome does not depend on them.
        trace_share: of the requests that leave spans behind, request engine only [1].

    Raises:
        InputError: no lane, or no such engine.

    Attributes:
        tables: the arrays, by name `lanes` (parameters), `states`, and those of `world.LAYOUT`.
        service_rows: rows of each lane's services, shape (n_lanes, n_services of the widest); -1: it has no more.
    """

    def __init__(self, lanes: Sequence[Lane], engine: str = FLUID, threads: int = 1, trace_share: float = 0.0):
        if not lanes:
            raise InputError("lanes", "must hold at least one lane (got none)")
        check_engine(engine)
        self.lanes = tuple(lanes)
        arrays, records = build_tables(self.lanes)
        samples = np.zeros((MAX_METRICS, int(arrays["services"]["n_pods"].max())), dtype=SAMPLE)
        states = np.zeros(len(lanes), LAYOUT.state)
        self.tables = Tables(lanes=records, states=states, samples=samples, **known_stations(), **arrays)
        n = records["n_services"]
        places = np.arange(n.max())
        self.service_rows = np.where(places < n[:, None], records["services_first"][:, None] + places, -1)
        self._bytes: dict[int, list[np.ndarray]] = {}
        self._everyone = np.arange(len(lanes))
        self._threads = max(1, min(threads, len(lanes)))
        self._pool: ThreadPoolExecutor | None = None
        # Each thread has a place of its own for the samples that it collects and the stations that it knows.
        others = range(1, self._threads)
        self._parts = [
            self.tables,
            *(self.tables._replace(samples=np.zeros_like(samples), **known_stations()) for _ in others),
        ]
        self._trace_share = trace_share
        self._stretch_ticks = [1] * self._threads
        self.engines = RequestEngines(len(lanes)) if engine == REQUESTS else None
        self._begin(self._everyone)

    def __len__(self) -> int:
        return len(self.lanes)

    @property
    def parts(self) -> list[tuple[Any, np.ndarray]]:
        """What each thread may work on beside the others: tables with scratch of their own, and indices of lanes."""
        return list(zip(self._parts, np.array_split(self._everyone, self._threads), strict=True))

    @property
    def params(self) -> np.ndarray:
        """Parameters of the lanes, LANE records, shape (n_lanes,)."""
        return self.tables.lanes

    @property
    def state(self) -> np.ndarray:
        """States of the lanes, LANE_STATE records, shape (n_lanes,)."""
        return self.tables.states

    @property
    def n_services(self) -> int:
        """Services of the widest profile of the batch."""
        return self.service_rows.shape[1]

    @property
    def time_s(self) -> np.ndarray:
        """Each lane's clock, shape (n_lanes,) [s]."""
        return self.state["tick"] * self.params["tick_s"]

    def of(self, lane: int, table: str) -> np.ndarray:
        """The rows of one lane of a table, a view."""
        kind, record = LAYOUT.tables[table].kind, self.params[lane]
        first = int(record[f"{kind}_first"])
        return getattr(self.tables, table)[first : first + int(record[f"n_{kind}"])]

    def by_service(self, values: np.ndarray, missing: float = np.nan) -> np.ndarray:
        """Values of services in rows, shape (n_lanes, n_services); `missing` where a lane has fewer services."""
        return np.where(self.service_rows >= 0, values[self.service_rows], missing)

    def reset(self, lanes: np.ndarray) -> None:
        """Sends the lanes at these indices, shape (k,), back to their beginning, under the parameters they have now."""
        self.state[lanes] = np.zeros((), LAYOUT.state)
        for lane in lanes:
            for there in self._state_bytes(int(lane)):
                there[:] = 0
        self._begin(lanes)

    def _state_bytes(self, lane: int) -> list[np.ndarray]:
        """The rows of a lane in all tables of states, as bytes; cut once."""
        if lane not in self._bytes:
            states = (table.name for table in LAYOUT.tables.values() if table.is_state)
            self._bytes[lane] = [self.of(lane, name).view(np.uint8) for name in states]
        return self._bytes[lane]

    def _begin(self, lanes: np.ndarray) -> None:
        _begin_lanes(self.tables, lanes)
        if self.engines is not None:
            _begin_engines(self.tables, self.engines.records, lanes, self._trace_share, SPANS_KEPT)

    def advance(self, n_ticks: int | np.ndarray) -> None:
        """Takes every world `n_ticks` further; with an array of shape (n_lanes,) each as far as its entry says.

        It goes in stretches of a fraction of a second: Ctrl-C is not heard within a kernel, and one call of it may play
        for hours. They change nothing: a world walks the same path in any number of calls.
        """
        ticks = np.broadcast_to(np.int64(n_ticks), len(self)).copy()
        stopped = threading.Event()
        if self._threads == 1:
            self._advance(0, self._everyone, ticks, stopped)
            return
        if self._pool is None:  # kept: a policy from outside is asked every few ticks
            self._pool = ThreadPoolExecutor(self._threads)
        parts = [(part, lanes, ticks[lanes], stopped) for part, (_, lanes) in enumerate(self.parts)]
        try:
            list(self._pool.map(lambda part: self._advance(*part), parts))
        except BaseException:
            stopped.set()  # signals reach the main thread only, and the pool waits for the others
            raise

    def _advance(self, part: int, lanes: np.ndarray, ticks: np.ndarray, stopped: threading.Event) -> None:
        while (ticks > 0).any() and not stopped.is_set():
            stretch = np.minimum(ticks, self._stretch_ticks[part])
            began_s = time.perf_counter()
            if self.engines is None:
                advance_lanes(self._parts[part], lanes, stretch)
            else:
                advance_lanes_by_requests(self._parts[part], self.engines.records, lanes, stretch)
            took_s = time.perf_counter() - began_s
            if took_s > LONG_STRETCH_S:
                self._stretch_ticks[part] = max(1, self._stretch_ticks[part] // 2)
            elif took_s < SHORT_STRETCH_S and stretch.max() == self._stretch_ticks[part]:
                self._stretch_ticks[part] *= 2
            ticks = ticks - stretch

    def request_replicas(self, desired: np.ndarray) -> None:
        """What services of `Scaler.external` lanes scale to at their next sync, shape (n_lanes, n_services) [pods]."""
        there = self.service_rows[:, : desired.shape[1]] >= 0
        rows_there = self.service_rows[:, : desired.shape[1]][there]
        self.tables.service_states["desired_replicas"][rows_there] = desired[there]

    def telemetry(self) -> np.ndarray:
        """What each lane's readers saw last: TELEMETRY records, shape (n_lanes,); zeros before the first scrape."""
        return self.state["published"]

    def indicators(self) -> pd.DataFrame:
        """Indicators so far, one row a lane."""
        return indicators(self)

    def services(self) -> pd.DataFrame:
        """Figures of each service so far, one row a lane and service; see `accounting.service_indicators`."""
        return service_indicators(self)

    def classes(self) -> pd.DataFrame:
        """Figures of each class of requests so far, one row a lane and class; see `accounting.class_indicators`."""
        return class_indicators(self)


@dataclass(frozen=True)
class Simulation:
    """What came out of `simulate`.

    Attributes:
        indicators: one row a lane, columns `sim_core.indicators.INDICATORS`.
        services: one row a lane and service, columns `lane`, `service` and `SERVICE_INDICATORS` of the same module.
        classes: one row a lane and class of requests, columns `lane`, `request_class` and `CLASS_INDICATORS`.
        timeline: by name, shape (n_lanes, n_steps), except `time_s` (n_steps,): means over a step; `cost_usd` and its
            parts `cost_pods_usd`, `cost_fixed_usd` summed up since the start.
        service_timeline: by name, shape (n_lanes, n_services, n_steps): means over a step, replicas at its end.
    """

    indicators: pd.DataFrame
    services: pd.DataFrame
    classes: pd.DataFrame
    timeline: dict[str, np.ndarray] | None = None
    service_timeline: dict[str, np.ndarray] | None = None

    @classmethod
    def of(cls, worlds: Worlds, recorder: TimelineRecorder | None = None) -> Simulation:
        """What worlds have done so far."""
        tables = worlds.indicators(), worlds.services(), worlds.classes()
        return cls(*tables) if recorder is None else cls(*tables, recorder.timeline(), recorder.service_timeline())


def simulate(
    lanes: Sequence[Lane],
    duration_s: float,
    timeline_step_s: float | None = None,
    engine: str = FLUID,
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
        return Simulation.of(worlds)
    recorder = TimelineRecorder(worlds)
    step = max(1, round(timeline_step_s / float(worlds.params["tick_s"][0])))
    for begin in range(0, n_ticks, step):
        worlds.advance(min(step, n_ticks - begin))
        recorder.record()
    return Simulation.of(worlds, recorder)


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
    """Records worlds at even steps; every quantity comes from differences of their sums."""

    def __init__(self, worlds: Worlds):
        self._worlds = worlds
        self._steps: list[dict[str, np.ndarray]] = []
        self._service_steps: list[dict[str, np.ndarray]] = []
        self._before = self._sums()
        self._services_before = service_sums(worlds)

    def _sums(self) -> dict[str, np.ndarray]:
        return lane_sums(self._worlds) | {"seconds": self._worlds.state["account"]["seconds"].copy()}

    def record(self) -> None:
        """Notes what happened since the last call."""
        worlds, before = self._worlds, self._before
        now = self._sums()
        change = {name: now[name] - before[name] for name in now}
        cost = costs(worlds)
        states = worlds.tables.service_states
        replicas = {name: worlds.by_service(states[name], 0) for name in ("n_ready", "desired_replicas")}
        with np.errstate(invalid="ignore", divide="ignore"):
            self._steps.append(
                {
                    "time_s": worlds.time_s,
                    "load_per_s": change["requests"] / change["seconds"],
                    "replicas_ready": replicas["n_ready"].sum(axis=1).astype(float),
                    "replicas_desired": replicas["desired_replicas"].sum(axis=1).astype(float),
                    "latency_mean_s": change["latency_s"] / change["latency_weight"],
                    "latency_p95_s": latency_percentiles(change["latency"], np.array([0.95]), worlds.engines is None)[
                        :, 0
                    ],
                    "slo_attainment": change["good"] / change["requests"],
                    "error_ratio": change["failed"] / change["requests"],
                    "utilization": change["cpu_core_s"] / change["request_core_s"],
                    **{name: cost[name] for name in ("cost_usd", "cost_pods_usd", "cost_fixed_usd")},
                }
            )
        self._before = now
        self._record_services(change["seconds"], replicas)

    def _record_services(self, seconds: np.ndarray, replicas: dict[str, np.ndarray]) -> None:
        now = service_sums(self._worlds)
        change = {name: self._worlds.by_service(now[name] - self._services_before[name]) for name in now}
        figures = service_figures(change, seconds[:, None])
        self._service_steps.append(
            {
                "replicas_ready": replicas["n_ready"].astype(float),
                "replicas_desired": replicas["desired_replicas"].astype(float),
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
