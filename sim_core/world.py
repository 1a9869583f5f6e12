"""Profile -> Params and State: nested records, one a lane. The only place that converts units.

Every kernel works on these two record types. After this file all times are seconds, all rates 1/s, all CPU is in
cores (milli-cores only where Kubernetes counts in them) and all money in US dollars.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from sim_core.controlplane.hpa_manifest import hpa_record
from sim_core.controlplane.hpa_records import HPA, HPA_STATE
from sim_core.controlplane.pods import POD
from sim_core.errors import InputError, PolicyError, nearest
from sim_core.limits import MAX_PODS, MAX_RETRIES, MAX_SERVICES, RETRY_SLOTS
from sim_core.randomness import lane_key
from sim_core.theory import lru_hit_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sim_core.profile import Profile, ScalingRules, Service
    from sim_core.workload import Trace

HIT_POINTS = 33  # of the table of hit ratios
HISTORY = 64  # scrapes that an observation can look back
LATENCY_BUCKETS = 160
LATENCY_MIN_S, LATENCY_MAX_S = 5e-4, 120.0  # outermost bucket edges; buckets are even in log(latency)

RANDOM, ROUND_ROBIN, LEAST_OUTSTANDING = 0, 1, 2  # ingress.balancing
EXTERNAL, STATIC, HORIZONTAL_POD_AUTOSCALER, SCHEDULE = 0, 1, 2, 3  # scaler.kind

TRAFFIC = np.dtype(
    [
        ("offset", np.int64),  # first rate of this lane's trace in the batch's rates
        ("length", np.int64),
        ("step_s", np.float64),
        ("start_s", np.float64),  # trace time at lane time 0
    ],
    align=True,
)

SCALER = np.dtype(
    [
        ("kind", np.int64),
        ("replicas", np.int64),  # STATIC
        ("offset", np.int64),  # SCHEDULE: first entry of this lane in the batch's schedules
        ("length", np.int64),
    ],
    align=True,
)

SERVICE = np.dtype(
    [
        ("index", np.int64),  # its place in the chain
        ("calls_per_request", np.float64),
        ("min_replicas", np.int64),
        ("max_replicas", np.int64),
        ("initial_replicas", np.int64),
        ("cpu_s", np.float64),  # CPU time of a call on a warm pod
        ("cpu_scv", np.float64),
        ("io_s", np.float64),  # waits of a call that burn no CPU; exponential
        ("cores", np.float64),  # CPU limit of a pod
        ("request_cores", np.float64),
        ("workers", np.float64),  # calls a pod works on at once
        ("queue_limit", np.float64),  # calls a pod holds beyond its workers
        ("timeout_s", np.float64),
        ("max_retries", np.int64),
        ("backoff_s", np.float64, (MAX_RETRIES,)),  # before the first, second, third retry
        ("retry_budget_ratio", np.float64),
        ("scheduling_s", np.float64),
        ("image_pull_s", np.float64),
        ("startup_log_mean", np.float64),  # start-up time is lognormal
        ("startup_log_sd", np.float64),
        ("startup_cores", np.float64),  # CPU that a starting pod burns
        ("readiness_delay_s", np.float64),
        ("readiness_period_s", np.float64),
        ("cold_s", np.float64),
        ("cold_factor", np.float64),
        ("termination_s", np.float64),
        ("cached_reads_per_call", np.float64),
        ("plain_reads_per_call", np.float64),
        ("writes_per_call", np.float64),
        ("usd_per_pod_s", np.float64),
        ("scaler", SCALER),
        ("hpa", HPA),
    ],
    align=True,
)

DATABASE = np.dtype(
    [
        ("present", np.bool_),
        ("cores", np.float64),  # of one instance
        ("read_s", np.float64),
        ("write_s", np.float64),
        ("scv", np.float64),
        ("read_replicas", np.float64),
        ("connection_limit", np.float64),  # max_connections less the reserved ones
        ("pool_size", np.float64),  # connections a pod holds open
    ],
    align=True,
)

CACHE = np.dtype(
    [
        ("present", np.bool_),
        ("capacity_keys", np.float64),
        ("initial_keys", np.float64),
        ("lookup_s", np.float64),  # round trip without waiting
        ("server_s", np.float64),  # of it in Redis's one thread
        ("scv", np.float64),
        ("hit_ratio", np.float64, (HIT_POINTS,)),  # at fill = capacity * (i / (HIT_POINTS - 1)) ** 2
    ],
    align=True,
)

PARAMS = np.dtype(
    [
        ("key", np.uint64),  # of the lane's random numbers
        ("tick_s", np.float64),
        ("traffic", TRAFFIC),
        ("latency_threshold_s", np.float64),
        ("latency_threshold_log", np.float64),
        ("slo_objective", np.float64),
        ("balancing", np.int64),
        ("ingress_s", np.float64),
        ("ingress_variance_s2", np.float64),
        ("n_services", np.int64),
        ("services", SERVICE, (MAX_SERVICES,)),
        ("database", DATABASE),
        ("cache", CACHE),
        ("scrape_ticks", np.int64),
        ("publish_ticks", np.int64),  # from the end of a window until readers see it
        ("sync_ticks", np.int64),
        ("database_usd_per_s", np.float64),
        ("cache_usd_per_s", np.float64),
        ("load_balancer_usd_per_s", np.float64),
    ],
    align=True,
)

# What one scrape of one service says. Means are over the scrape interval.
SERVICE_TELEMETRY = np.dtype(
    [
        ("call_rate_per_s", np.float64),  # offered, with retries
        ("cpu_cores", np.float64),  # used by ready pods
        ("utilization", np.float64),  # CPU of ready pods over their requests
        ("queue_len", np.float64),
        ("latency_mean_s", np.float64),
        ("error_ratio", np.float64),
        ("replicas_ready", np.float64),
        ("replicas_starting", np.float64),  # created, not ready
        ("replicas_desired", np.float64),
    ],
    align=True,
)

TELEMETRY = np.dtype(
    [
        ("time_s", np.float64),  # end of the scrape interval
        ("request_rate_per_s", np.float64),  # fresh requests
        ("latency_mean_s", np.float64),
        ("latency_p95_s", np.float64),
        ("good_ratio", np.float64),
        ("error_ratio", np.float64),
        ("database_utilization", np.float64),  # of the busier of primary and read replicas
        ("connection_ratio", np.float64),  # connections asked for over those there are
        ("cache_hit_ratio", np.float64),
        ("services", SERVICE_TELEMETRY, (MAX_SERVICES,)),
    ],
    align=True,
)

# What is summed up between two scrapes.
SERVICE_WINDOW = np.dtype(
    [
        ("calls", np.float64),
        ("failed", np.float64),
        ("cpu_core_s", np.float64),
        ("request_core_s", np.float64),
        ("queue_s", np.float64),
        ("latency_s", np.float64),
        ("latency_weight", np.float64),
    ],
    align=True,
)

WINDOW = np.dtype(
    [
        ("requests", np.float64),
        ("failed", np.float64),
        ("good", np.float64),
        ("latency_weight", np.float64),
        ("latency_s", np.float64),
        ("latency_s2", np.float64),
        ("database_busy", np.float64),
        ("lookups", np.float64),
        ("hits", np.float64),
        ("services", SERVICE_WINDOW, (MAX_SERVICES,)),
    ],
    align=True,
)

SERVICE_STATE = np.dtype(
    [
        ("desired_replicas", np.int64),  # spec.replicas
        ("n_pods", np.int64),  # records in use, terminating pods included
        ("n_active", np.int64),  # not deleted
        ("n_running", np.int64),  # containers run: hold connections
        ("n_ready", np.int64),
        ("n_cold", np.int64),
        ("serial", np.int64),
        ("next_event_s", np.float64),  # earliest change of any pod
        ("ready_cpu_core_s", np.float64),  # integral of CPU per ready pod
        ("queue_len", np.float64),  # calls that wait
        ("unserved", np.float64),  # calls of a chance surplus that the pods have still to work on
        ("backend_s", np.float64),  # cache and database part of a call, of the tick before
        ("backend_variance_s2", np.float64),
        ("retries_waiting", np.float64),
        ("retries", np.float64, (RETRY_SLOTS, MAX_RETRIES)),  # calls that come back, by tick and attempt
        ("hpa", HPA_STATE),
        ("pods", POD, (MAX_PODS,)),
    ],
    align=True,
)

# What each service did since the start, up to the last scrape; the open window holds the rest.
SERVICE_ACCOUNT = np.dtype(
    [
        ("calls", np.float64),  # offered, with retries
        ("failed", np.float64),
        ("cpu_core_s", np.float64),
        ("request_core_s", np.float64),
        ("queue_s", np.float64),
        ("latency_s", np.float64),
        ("pod_s", np.float64),  # up to now
    ],
    align=True,
)

ACCOUNT = np.dtype(
    [
        ("requests", np.float64),
        ("good", np.float64),
        ("failed", np.float64),
        ("latency_weight", np.float64),
        ("latency_s", np.float64),
        ("pods_usd", np.float64),
        ("pod_s", np.float64),
        ("scale_events", np.float64),
        ("cpu_core_s", np.float64),
        ("request_core_s", np.float64),
        ("lookups", np.float64),
        ("hits", np.float64),
        ("seconds", np.float64),
        ("latency", np.float64, (LATENCY_BUCKETS,)),  # requests by latency
        ("services", SERVICE_ACCOUNT, (MAX_SERVICES,)),
    ],
    align=True,
)

STATE = np.dtype(
    [
        ("tick", np.int64),
        ("next_sync_tick", np.int64),
        ("next_scrape_tick", np.int64),  # end of the scrape interval that runs
        ("next_publish_tick", np.int64),
        ("window_start_s", np.float64),  # begin of the scrape interval that runs
        ("services", SERVICE_STATE, (MAX_SERVICES,)),
        ("primary_queue", np.float64),
        ("replica_queue", np.float64),
        ("pool_queue", np.float64),
        ("cached_keys", np.float64),
        ("sample_time_s", np.float64),  # end of the pod samples' window that readers see
        ("window", WINDOW),
        ("staged", TELEMETRY),
        ("n_published", np.int64),  # scrapes that readers have seen
        ("history", TELEMETRY, (HISTORY,)),  # ring; the newest is at (n_published - 1) % HISTORY
        ("account", ACCOUNT),
    ],
    align=True,
)


# What a policy may change in every HPA of a profile; all else stays as the profile says.
HPA_SETTINGS = (
    "target_cpu_utilization_pct",
    "scale_up_stabilization_window_seconds",
    "scale_down_stabilization_window_seconds",
    "scale_down_percent_per_minute",
    "tolerance",
    "min_replicas",
)


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
            elif name != "tolerance" and not float(value).is_integer():
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
        service.container.cpu_request_cores / (service.container.cpu_seconds_per_request * service.calls_per_request)
        for service in profile.services
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


def initial_replicas(service: Service, request_rate_per_s: float, target_utilization: float = 0.6) -> int:
    """The replicas a service starts with: the profile's, else those that run at the target utilization [pods]."""
    if service.replicas.initial is not None:
        return service.replicas.initial
    cores = request_rate_per_s * service.calls_per_request * service.container.cpu_seconds_per_request
    sized = math.ceil(cores / (target_utilization * service.container.cpu_request_cores))
    return min(max(sized, service.replicas.min), service.replicas.max)


def build_params(lanes: Sequence[Lane]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Params of a batch, with the tables they point into.

    Returns:
        params: PARAMS, shape (n_lanes,).
        rates: all distinct traces, one behind the other [1/s].
        schedules: all distinct replica schedules, shape (n_rows, MAX_SERVICES) [pods].
    """
    params = np.zeros(len(lanes), dtype=PARAMS)
    templates: dict[int, np.ndarray] = {}
    rates, schedules = _Table(), _Table()
    for position, lane in enumerate(lanes):
        template = templates.get(id(lane.profile))
        if template is None:
            template = templates[id(lane.profile)] = _profile_params(lane.profile)
        params[position] = template
        record = params[position]
        record["key"] = lane_key(lane.seed)
        traffic = record["traffic"]
        traffic["offset"] = rates.add(lane.trace.rates_per_s)
        traffic["length"] = len(lane.trace.rates_per_s)
        traffic["step_s"] = lane.trace.step_s
        traffic["start_s"] = lane.start_s
        first_rate = lane.trace.rates_per_s[min(int(lane.start_s / lane.trace.step_s), len(lane.trace.rates_per_s) - 1)]
        for i, service in enumerate(lane.profile.services):
            _write_scaler(record["services"][i], lane, i, service, float(first_rate), schedules)
    return params, rates.joined(np.float64, ()), schedules.joined(np.int64, (MAX_SERVICES,))


def _write_scaler(
    record: np.ndarray, lane: Lane, index: int, service: Service, first_rate_per_s: float, schedules: _Table
) -> None:
    scaler = lane.scaler
    record["initial_replicas"] = initial_replicas(service, first_rate_per_s)
    record["scaler"]["kind"] = scaler.kind
    if scaler.kind == STATIC:
        replicas = min(max(scaler.replicas, service.replicas.min), service.replicas.max)
        record["scaler"]["replicas"] = record["initial_replicas"] = replicas
    elif scaler.kind == SCHEDULE:
        assert scaler.replicas_by_sync is not None
        padded = np.zeros((len(scaler.replicas_by_sync), MAX_SERVICES), dtype=np.int64)
        padded[:, : scaler.replicas_by_sync.shape[1]] = scaler.replicas_by_sync
        record["scaler"]["offset"] = schedules.add(padded, identity=scaler.replicas_by_sync)
        record["scaler"]["length"] = len(padded)
        record["initial_replicas"] = min(max(int(padded[0, index]), service.replicas.min), service.replicas.max)
    elif scaler.kind == HORIZONTAL_POD_AUTOSCALER and scaler.settings:
        record["hpa"] = hpa_of_service(lane.profile, index, tuple(sorted(scaler.settings.items())))


class _Table:
    """Arrays of many lanes joined into one; an array that several lanes share is stored once."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._offsets: dict[int, int] = {}
        self._length = 0

    def add(self, array: np.ndarray, identity: object | None = None) -> int:
        """Offset of the array in the table."""
        key = id(array if identity is None else identity)
        if key not in self._offsets:
            self._offsets[key] = self._length
            self._arrays.append(array)
            self._length += len(array)
        return self._offsets[key]

    def joined(self, dtype: type, item: tuple[int, ...]) -> np.ndarray:
        if not self._arrays:
            return np.zeros((1, *item), dtype=dtype)
        return np.ascontiguousarray(np.concatenate(self._arrays), dtype=dtype)


def _profile_params(profile: Profile) -> np.ndarray:
    """PARAMS of one lane as far as the profile decides them."""
    record = np.zeros((), dtype=PARAMS)
    tick_s = profile.tick_seconds
    record["tick_s"] = tick_s
    record["latency_threshold_s"] = profile.slo.latency_threshold_seconds
    record["latency_threshold_log"] = math.log(profile.slo.latency_threshold_seconds)
    record["slo_objective"] = profile.slo.objective
    record["balancing"] = {"random": RANDOM, "round_robin": ROUND_ROBIN, "least_outstanding": LEAST_OUTSTANDING}[
        profile.ingress.load_balancing
    ]
    record["ingress_s"] = profile.ingress.latency_seconds
    record["ingress_variance_s2"] = profile.ingress.scv * profile.ingress.latency_seconds**2
    record["n_services"] = len(profile.services)
    for i, service in enumerate(profile.services):
        _write_service(record["services"][i], profile, service, i)
    record["load_balancer_usd_per_s"] = profile.prices.load_balancer_usd_per_hour / 3600.0
    if profile.database is not None:
        record["database_usd_per_s"] = _write_database(record["database"], profile) / 3600.0
    if profile.cache is not None:
        record["cache_usd_per_s"] = _write_cache(record["cache"], profile) / 3600.0
    record["scrape_ticks"] = round(profile.telemetry.scrape_interval_seconds / tick_s)
    record["publish_ticks"] = round(profile.telemetry.delay_seconds / tick_s)
    record["sync_ticks"] = round(profile.controller.sync_period_seconds / tick_s)
    return record


def _write_service(record: np.ndarray, profile: Profile, service: Service, index: int) -> None:
    container, client, life, queries = service.container, service.client, service.lifecycle, service.queries
    cached = queries.reads_per_call * queries.cacheable_share
    log_variance = math.log1p(life.startup_scv)
    price_per_h = (
        container.cpu_request_cores * profile.prices.usd_per_core_hour
        + container.memory_request_gib * profile.prices.usd_per_gib_hour
    )
    values = {
        "index": index,
        "calls_per_request": service.calls_per_request,
        "min_replicas": service.replicas.min,
        "max_replicas": service.replicas.max,
        "cpu_s": container.cpu_seconds_per_request,
        "cpu_scv": container.cpu_scv,
        "io_s": container.io_seconds_per_request,
        "cores": container.cpu_limit_cores,
        "request_cores": container.cpu_request_cores,
        "workers": container.workers,
        "queue_limit": container.queue_limit,
        "timeout_s": client.timeout_seconds,
        "max_retries": client.max_retries,
        "backoff_s": [client.backoff_seconds * 2**attempt for attempt in range(MAX_RETRIES)],
        "retry_budget_ratio": client.retry_budget_ratio,
        "scheduling_s": life.scheduling_seconds,
        "image_pull_s": life.image_pull_seconds,
        "startup_log_mean": math.log(max(life.startup_seconds, 1e-9)) - 0.5 * log_variance,
        "startup_log_sd": math.sqrt(log_variance),
        "startup_cores": life.startup_cpu_cores,
        "readiness_delay_s": life.readiness.initial_delay_seconds,
        "readiness_period_s": life.readiness.period_seconds,
        "cold_s": life.cold_seconds,
        "cold_factor": life.cold_factor,
        "termination_s": life.termination_seconds,
        "cached_reads_per_call": cached,
        "plain_reads_per_call": queries.reads_per_call - cached,
        "writes_per_call": queries.writes_per_call,
        "usd_per_pod_s": price_per_h / 3600.0,
    }
    for name, value in values.items():
        record[name] = value
    record["hpa"] = hpa_of_service(profile, index, ())


@lru_cache(maxsize=4096)
def hpa_of_service(profile: Profile, index: int, settings: tuple[tuple[str, object], ...]) -> np.void:
    """HPA record of a service: its autoscaler, the controller's flags, and settings that replace some of them.

    Args:
        settings: pairs of a name in HPA_SETTINGS and its value.

    Raises:
        InputError: a value is outside the API's range.
    """
    service, controller = profile.services[index], profile.controller
    values = dict(settings)
    behavior: dict[str, dict[str, object] | None] | None = None
    if service.autoscaler.behavior is not None:
        behavior = {
            direction: _rules(getattr(service.autoscaler.behavior, direction))
            for direction in ("scale_up", "scale_down")
        }
    for name, direction in (
        ("scale_up_stabilization_window_seconds", "scale_up"),
        ("scale_down_stabilization_window_seconds", "scale_down"),
    ):
        if name in values:
            behavior = behavior or {"scale_up": None, "scale_down": None}
            behavior[direction] = {**(behavior[direction] or {}), "stabilization_window_s": values[name]}
    if "scale_down_percent_per_minute" in values:
        behavior = behavior or {"scale_up": None, "scale_down": None}
        pace = {"type": "Percent", "value": values["scale_down_percent_per_minute"], "period_s": 60}
        behavior["scale_down"] = {**(behavior["scale_down"] or {}), "policies": [pace]}
    return hpa_record(
        min_replicas=int(values.get("min_replicas", service.replicas.min)),  # type: ignore[call-overload]
        max_replicas=service.replicas.max,
        target_cpu_utilization_pct=int(
            values.get("target_cpu_utilization_pct", service.autoscaler.target_cpu_utilization_pct)  # type: ignore[call-overload]
        ),
        behavior=behavior,
        tolerance=float(values.get("tolerance", controller.tolerance)),  # type: ignore[arg-type]
        cpu_initialization_period_s=controller.cpu_initialization_period_seconds,
        initial_readiness_delay_s=controller.initial_readiness_delay_seconds,
        downscale_stabilization_window_s=controller.downscale_stabilization_window_seconds,
        sync_period_s=controller.sync_period_seconds,
    )


def _rules(rules: ScalingRules | None) -> dict[str, object] | None:
    if rules is None:
        return None
    policies = rules.policies and [
        {"type": policy.type, "value": policy.value, "period_s": policy.period_seconds} for policy in rules.policies
    ]
    return {
        "stabilization_window_s": rules.stabilization_window_seconds,
        "select_policy": rules.select_policy,
        "policies": policies,
    }


def _write_database(record: np.ndarray, profile: Profile) -> float:
    """Writes the database's record; returns its price [USD/h]."""
    database = profile.database
    assert database is not None
    record["present"] = True
    record["cores"] = database.cores
    record["read_s"] = database.read_seconds
    record["write_s"] = database.write_seconds
    record["scv"] = database.query_scv
    record["read_replicas"] = database.read_replicas
    record["connection_limit"] = database.max_connections - database.reserved_connections
    record["pool_size"] = database.pool_size_per_pod
    return database.usd_per_instance_hour * (1 + database.read_replicas)


def _write_cache(record: np.ndarray, profile: Profile) -> float:
    """Writes the cache's record; returns its price [USD/h]."""
    cache = profile.cache
    assert cache is not None
    record["present"] = True
    record["capacity_keys"] = cache.capacity_keys
    record["initial_keys"] = cache.initial_fill * cache.capacity_keys
    record["lookup_s"] = cache.lookup_seconds
    record["server_s"] = cache.server_seconds
    record["scv"] = cache.lookup_scv
    record["hit_ratio"] = hit_ratio_table(cache.keys, cache.zipf_exponent, cache.capacity_keys)
    return cache.usd_per_hour


@lru_cache(maxsize=256)
def hit_ratio_table(keys: int, zipf_exponent: float, capacity_keys: int) -> tuple[float, ...]:
    """Hit ratio of an LRU cache at fills capacity * (i / (HIT_POINTS - 1)) ** 2, i = 0..HIT_POINTS - 1.

    A cache that fills holds every key seen so far, which is what an LRU cache of that size holds in steady state.
    """
    fills = [capacity_keys * (i / (HIT_POINTS - 1)) ** 2 for i in range(HIT_POINTS)]
    return tuple(0.0 if fill < 1.0 else float(lru_hit_ratio(keys, zipf_exponent, fill)) for fill in fills)
