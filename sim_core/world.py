"""Lanes -> tables: what a batch of worlds is made of, and how it is laid out.

After this file all times are seconds, all rates 1/s, all CPU is in cores (milli-cores only where Kubernetes counts in
them) and all money in US dollars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sim_core.assembly import modules
from sim_core.controlplane.hpa_settings import HPA_SETTINGS
from sim_core.dataplane.services import rows as services
from sim_core.dataplane.services.graph import resolve
from sim_core.dataplane.services.kinds import EXTERNAL, HORIZONTAL_POD_AUTOSCALER, SCHEDULE, STATIC
from sim_core.dataplane.services.records import CLASS_SUMS
from sim_core.errors import InputError, PolicyError, nearest
from sim_core.randomness import SCRAPE_PHASE, SYNC_PHASE, lane_key, uniform
from sim_core.tables import Layout, Table
from sim_core.telemetry import CLASS_TELEMETRY, HISTORY, SERVICE_TELEMETRY, TELEMETRY

if TYPE_CHECKING:
    from sim_core.dataplane.services.profile import Service
    from sim_core.profile import Profile
    from sim_core.workload import Trace

TRAFFIC = np.dtype(
    [
        ("offset", np.int64),  # first rate of this lane's trace in the batch's rates
        ("length", np.int64),
        ("step_s", np.float64),
        ("start_s", np.float64),  # trace time at lane time 0
    ],
    align=True,
)

# Parameters of a lane itself; the ranges of its rows come behind them.
LANE = [
    ("key", np.uint64),  # of the lane's random numbers
    ("tick_s", np.float64),
    ("traffic", TRAFFIC),
    ("latency_threshold_s", np.float64),
    ("latency_threshold_log", np.float64),
    ("slo_objective", np.float64),
    ("scrape_ticks", np.int64),
    ("scrape_phase_ticks", np.int64),  # end of the first scrape interval, from 1 on
    ("publish_ticks", np.int64),  # from the end of a window until readers see it
    ("sync_ticks", np.int64),
    ("sync_phase_ticks", np.int64),  # of the first sync
    ("load_balancer_usd_per_s", np.float64),
    ("keeps_latencies", np.bool_),  # in the histograms of its classes: else their percentiles are not known
]

# Sums since the start. What became of requests and what services did stands in tables, by class and by service.
ACCOUNT = np.dtype(
    [
        ("requests", np.float64),
        ("good", np.float64),
        ("pods_usd", np.float64),
        ("pod_s", np.float64),
        ("scale_events", np.float64),
        ("seconds", np.float64),
    ],
    align=True,
)

LANE_STATE = [
    ("tick", np.int64),
    ("next_sync_tick", np.int64),
    ("n_syncs", np.int64),
    ("next_scrape_tick", np.int64),  # end of the scrape interval that runs
    ("next_publish_tick", np.int64),
    ("window_start_s", np.float64),  # begin of the scrape interval that runs
    ("window_s", np.float64),  # length of the last one
    ("sample_time_s", np.float64),  # end of the pod samples' window that readers see
    ("sample_window_s", np.float64),
    ("n_published", np.int64),  # scrapes that readers have seen
    ("window", CLASS_SUMS),  # of all classes, of the last scrape
    ("staged", TELEMETRY),  # scraped, not yet published
    ("published", TELEMETRY),  # what readers see
    ("account", ACCOUNT),
]

LAYOUT = Layout(
    [
        *services.TABLES,
        Table("staged_services", "services", SERVICE_TELEMETRY, is_state=True),
        Table("staged_classes", "classes", CLASS_TELEMETRY, is_state=True),
        Table("published_classes", "classes", CLASS_TELEMETRY, is_state=True),
        # A ring of scrapes, each with a row a service; the newest begins at ((n_published - 1) % HISTORY) * n_services.
        Table("service_scrapes", "service_scrapes", SERVICE_TELEMETRY, is_state=True),
        *(table for module in modules("rows") for table in module.TABLES),
    ],
    lane=LANE,
    state=LANE_STATE,
    shared=("rates", "schedules", "samples", "known_points", "known_curves"),
)
Tables, World = LAYOUT.Tables, LAYOUT.World  # where kernels on disk look for their types
Tables.__module__ = World.__module__ = __name__


@dataclass(frozen=True)
class Scaler:
    """Who sets the replicas of a lane's services, inside the simulation.

    Build one with `static`, `hpa`, `schedule` or `external`.
    """

    kind: int = HORIZONTAL_POD_AUTOSCALER
    replicas: int = 0
    settings: dict[str, object] = field(default_factory=dict)
    replicas_by_sync: np.ndarray | None = None

    @staticmethod
    def static(replicas: int) -> Scaler:
        """The same number of replicas of every service, all the time [pods]."""
        return Scaler(kind=STATIC, replicas=int(replicas))

    @staticmethod
    def hpa(**settings: object) -> Scaler:
        """The profile's HorizontalPodAutoscalers, with some settings replaced in every one of them.

        Args:
            settings: values by name; the names are `HPA_SETTINGS`, in the units that they end in.

        Raises:
            PolicyError: unknown names, values that are no whole number, or no tolerance from 0 to below 1; all at once.
        """
        problems = []
        for name, value in settings.items():
            if name not in HPA_SETTINGS:
                problems.append(f"{name}: unknown setting{nearest(name, HPA_SETTINGS)}")
            elif isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
                problems.append(f"{name}: must be a number (got {value!r})")
            elif name == "tolerance" and not 0.0 <= value < 1.0:
                problems.append(f"{name}: must be from 0 to below 1 (got {value})")
            elif name != "tolerance" and isinstance(value, float | np.floating) and not float(value).is_integer():
                problems.append(f"{name}: must be a whole number (got {value})")
        if problems:
            raise PolicyError("hpa", problems)
        return Scaler(kind=HORIZONTAL_POD_AUTOSCALER, settings=dict(settings))

    @staticmethod
    def schedule(replicas_by_sync: np.ndarray) -> Scaler:
        """Replicas fixed in advance, shape (n_syncs, n_services) [pods], one row a controller sync; the last row stays."""
        return Scaler(kind=SCHEDULE, replicas_by_sync=np.asarray(replicas_by_sync, dtype=np.int64))

    @staticmethod
    def external() -> Scaler:
        """Replicas come from outside, through `Worlds.request_replicas`."""
        return Scaler(kind=EXTERNAL)


@dataclass(frozen=True)
class Lane:
    """One world: a profile under a trace, from one start, with one seed and one scaler.

    Args:
        start_s: trace time at lane time 0 [s].
        seed: of everything that is random in the lane.
    """

    profile: Profile
    trace: Trace
    seed: int
    start_s: float = 0.0
    scaler: Scaler = field(default_factory=Scaler)


def capacity_per_replica(profile: Profile) -> float:
    """User requests per second that load one replica of the busiest service to 100 % of its CPU request [1/s]."""
    return min(
        service.container.cpu_request_cores / cpu_s
        for service, cpu_s in zip(profile.services, resolve(profile).cpu_seconds_per_request, strict=True)
        if cpu_s > 0.0
    )


def scale_to_replicas(trace: Trace, profile: Profile, replicas: float) -> Trace:
    """The trace with its peak at the load that `replicas` replicas serve at 70 % CPU utilization.

    Raises:
        InputError: the trace holds no traffic, or `replicas` is not greater than 0.
    """
    if not replicas > 0.0:
        raise InputError("scale_peak_to_replicas", f"must be greater than 0 (got {replicas})")
    if not trace.peak_per_s > 0.0:
        raise InputError(
            f"trace '{trace.name}'", "holds no traffic: every rate is 0, so its peak cannot be scaled; use another"
        )
    return trace.scaled(0.7 * replicas * capacity_per_replica(profile) / trace.peak_per_s)


def initial_replicas(profile: Profile, index: int, request_rate_per_s: float, target_utilization: float = 0.6) -> int:
    """The replicas a service starts with: the profile's, else those that run at the target utilization [pods]."""
    service = profile.services[index]
    if service.replicas.initial is not None:
        return service.replicas.initial
    cores = request_rate_per_s * resolve(profile).cpu_seconds_per_request[index]
    sized = math.ceil(cores / (target_utilization * service.container.cpu_request_cores))
    return min(max(sized, service.replicas.min), service.replicas.max)


def build_tables(lanes: Sequence[Lane]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The tables of a batch with all parameters, and the traces and schedules that they point into.

    Returns:
        arrays by name: every table of `LAYOUT`, `rates` (all distinct traces, one behind the other [1/s]) and
            `schedules` (all distinct columns of replica schedules [pods]).
        lanes: LANE records, shape (n_lanes,).
    """
    templates: dict[object, dict[str, np.ndarray | int]] = {}
    rates, schedules = _Joined(), _Joined()
    parts = []
    for lane in lanes:
        settings = tuple(sorted(lane.scaler.settings.items()))
        template = templates.get((id(lane.profile), settings))
        if template is None:
            template = templates[id(lane.profile), settings] = _profile_rows(lane.profile, settings)
        parts.append(template)
    arrays, records = LAYOUT.allocate(parts)
    for record, lane in zip(records, lanes, strict=True):
        _write_lane(record, lane, rates)
        first_rate = lane.trace.rates_per_s[min(int(lane.start_s / lane.trace.step_s), len(lane.trace.rates_per_s) - 1)]
        for i, service in enumerate(lane.profile.services):
            row = arrays["services"][record["services_first"] + i]
            _write_scaler(row, lane, i, service, float(first_rate), schedules)
    arrays["rates"], arrays["schedules"] = rates.array(np.float64), schedules.array(np.int64)
    return arrays, records


def _profile_rows(profile: Profile, settings: tuple[tuple[str, object], ...]) -> dict[str, np.ndarray | int]:
    """Rows of one lane as far as the profile and settings of its autoscalers decide them."""
    graph = resolve(profile)
    parts = services.rows(profile, graph, settings)
    parts["service_scrapes"] = HISTORY * len(profile.services)
    for module in modules("rows"):
        parts |= module.rows(profile, graph)
    return parts


def _write_lane(record: np.ndarray, lane: Lane, rates: _Joined) -> None:
    profile, traffic = lane.profile, record["traffic"]
    record["tick_s"] = profile.tick_seconds
    record["latency_threshold_s"] = profile.slo.latency_threshold_seconds
    record["latency_threshold_log"] = math.log(profile.slo.latency_threshold_seconds)
    record["slo_objective"] = profile.slo.objective
    record["scrape_ticks"] = round(profile.telemetry.scrape_interval_seconds / profile.tick_seconds)
    record["publish_ticks"] = round(profile.telemetry.delay_seconds / profile.tick_seconds)
    record["sync_ticks"] = round(profile.controller.sync_period_seconds / profile.tick_seconds)
    record["load_balancer_usd_per_s"] = profile.prices.load_balancer_usd_per_hour / 3600.0
    record["keeps_latencies"] = True
    draw_clocks(record, lane_key(lane.seed))
    traffic["offset"] = rates.add(lane.trace.rates_per_s)
    traffic["length"] = len(lane.trace.rates_per_s)
    traffic["step_s"] = lane.trace.step_s
    traffic["start_s"] = lane.start_s


def draw_clocks(record: np.ndarray, key: int) -> None:
    """Gives a lane its key, and with it the moments within a period at which it is scraped and synced first.

    Nothing ties the clocks of a monitoring system and a controller manager together: locked to multiples of a common
    period, delays of 5 and of 15 s would look the same.
    """
    record["key"] = key
    record["scrape_phase_ticks"] = 1 + int(uniform(np.uint64(key), SCRAPE_PHASE, 0) * record["scrape_ticks"])
    record["sync_phase_ticks"] = int(uniform(np.uint64(key), SYNC_PHASE, 0) * record["sync_ticks"])


def _write_scaler(
    record: np.ndarray, lane: Lane, index: int, service: Service, first_rate_per_s: float, schedules: _Joined
) -> None:
    scaler = lane.scaler
    record["initial_replicas"] = initial_replicas(lane.profile, index, first_rate_per_s)
    record["scaler"]["kind"] = scaler.kind
    if scaler.kind == STATIC:
        replicas = min(max(scaler.replicas, service.replicas.min), service.replicas.max)
        record["scaler"]["replicas"] = record["initial_replicas"] = replicas
    elif scaler.kind == SCHEDULE:
        assert scaler.replicas_by_sync is not None
        column = scaler.replicas_by_sync[:, index]
        record["scaler"]["offset"] = schedules.add(column, identity=(id(scaler.replicas_by_sync), index))
        record["scaler"]["length"] = len(column)
        record["initial_replicas"] = min(max(int(column[0]), service.replicas.min), service.replicas.max)


class _Joined:
    """Arrays of many lanes joined into one; an array that several lanes share is stored once."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._offsets: dict[object, int] = {}
        self._length = 0

    def add(self, array: np.ndarray, identity: object | None = None) -> int:
        """Offset of the array in the whole."""
        key = id(array) if identity is None else identity
        if key not in self._offsets:
            self._offsets[key] = self._length
            self._arrays.append(array)
            self._length += len(array)
        return self._offsets[key]

    def array(self, dtype: type) -> np.ndarray:
        if not self._arrays:
            return np.zeros(1, dtype=dtype)
        return np.ascontiguousarray(np.concatenate(self._arrays), dtype=dtype)
