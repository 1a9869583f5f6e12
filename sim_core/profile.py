"""Profiles: an environment described once, checked strictly, frozen.

A profile is written in YAML, in the words of the components it describes (Kubernetes, PostgreSQL, Redis). Units stand
in the names; `world.py` converts them. Every problem of a file is reported at once, with path, rule and value.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sim_core.bundled import PROFILES, names_in
from sim_core.documents import (
    Location,
    Number,
    Problem,
    Section,
    dotted,
    examine,
    is_list,
    read_yaml,
    refuse_inconsistent,
    section_of,
    shown,
    validate,
)
from sim_core.errors import ProfileError, nearest
from sim_core.limits import MAX_PODS, MAX_SERVICES, RETRY_SLOTS

MAX_READ_REPLICAS = 8
MAX_POLICIES = 8  # of an autoscaler, a direction
MAX_LOG = 255  # recommendations and scale events that an autoscaler remembers
MAX_RETRY_TICKS = RETRY_SLOTS - 1  # a retry lies at most so far ahead
LEAST_CORES = 0.001  # of a CPU: Kubernetes counts in milli-cores
LEAST_QUERIES = 1e-6  # of a call, where it makes any
LEAST_SECONDS = 1e-6  # of work: no service time may vanish beside the others, nor its square

_UNIT = r"(seconds|cores|bytes|pct|ratio|usd\w*|per_\w+)"  # what the names of quantities end in
_DNS_LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"

DnsLabel = Annotated[str, Field(pattern=_DNS_LABEL, max_length=63)]


class Slo(Section):
    """What users were promised."""

    objective: Number = Field(
        gt=0,
        lt=1,
        description="Share of valid requests that must be good: answered without error within the threshold [1].",
    )
    latency_threshold_seconds: Number = Field(
        ge=0.001,
        le=60,
        description="A slower answer is not a good one, end to end as the client sees it, retries included [s].",
    )
    window_days: Number = Field(
        default=30,
        gt=0,
        le=366,
        description="Window of the error budget [days]; default: a rolling month, as SRE teams use.",
    )


class Ingress(Section):
    """Load balancer in front of the first service; its rule also spreads the calls between services."""

    load_balancing: Literal["random", "round_robin", "least_outstanding"] = Field(
        description="How a pod is chosen: kube-proxy in iptables mode is random, NGINX is round_robin by default, "
        "least_outstanding sends to the pod with the fewest open requests (ALB, Envoy LEAST_REQUEST)."
    )
    latency_seconds: Number = Field(
        ge=0, le=10, description="Mean time of TLS termination and proxying of a request [s]."
    )
    scv: Number = Field(
        ge=0, le=100, description="Squared coefficient of variation of that time [1]; 0 constant, 1 exponential."
    )


class Replicas(Section):
    """How many pods of a service there may be."""

    initial: int | None = Field(
        default=None,
        ge=1,
        le=MAX_PODS,
        description="Pods at the start [pods]; null: sized for the first load of the trace.",
    )
    min: int = Field(
        default=1, ge=1, le=MAX_PODS, description="HPA minReplicas [pods]; default: that of autoscaling/v2."
    )
    max: int = Field(ge=1, le=MAX_PODS, description="HPA maxReplicas [pods].")


class Container(Section):
    """The application container of a pod, and what a request costs it."""

    cpu_request_cores: Number = Field(
        ge=LEAST_CORES, le=256, description="resources.requests.cpu [cores]; HPA utilization is a share of it."
    )
    cpu_limit_cores: Number = Field(
        ge=LEAST_CORES, le=256, description="resources.limits.cpu [cores]; CFS throttles above it."
    )
    memory_request_gib: Number = Field(gt=0, le=4096, description="resources.requests.memory [GiB]; it costs money.")
    workers: int = Field(
        ge=1, le=10_000, description="Requests that a pod works on at once (threads, processes) [requests]."
    )
    cpu_seconds_per_request: Number = Field(
        ge=LEAST_SECONDS, le=60, description="Mean CPU time of one call, warm [s of one core]."
    )
    cpu_scv: Number = Field(
        ge=0, le=100, description="Squared coefficient of variation of the CPU time [1]; 1 is exponential."
    )
    io_seconds_per_request: Number = Field(
        ge=0, le=60, description="Mean time a call waits without burning CPU, apart from database and cache [s]."
    )
    queue_limit: int = Field(
        ge=0,
        le=100_000,
        description="Requests that wait in a pod while all workers are busy; more are refused with 503 [requests].",
    )


class Client(Section):
    """How the callers of a service behave when it is slow or refuses."""

    timeout_seconds: Number = Field(gt=0, le=300, description="The caller gives up after this time [s].")
    max_retries: int = Field(ge=0, le=3, description="Attempts after the first one [attempts].")
    backoff_seconds: Number = Field(
        ge=0, le=60, description="Mean wait before the first retry, doubled before each further one [s]."
    )
    retry_budget_ratio: Number = Field(
        ge=0,
        le=1,
        description="Retries may add at most this share to fresh requests [1]; Finagle and Linkerd default to 0.2.",
    )


class Readiness(Section):
    """readinessProbe of the container."""

    initial_delay_seconds: Number = Field(
        default=0, ge=0, le=3600, description="initialDelaySeconds [s]; default: the API's."
    )
    period_seconds: Number = Field(default=10, ge=1, le=3600, description="periodSeconds [s]; default: the API's.")


class Lifecycle(Section):
    """Life of a pod from its creation to its removal."""

    scheduling_seconds: Number = Field(ge=0, le=3600, description="From creation until the pod is bound to a node [s].")
    image_pull_seconds: Number = Field(
        ge=0, le=3600, description="From binding until the container runs: pull and create [s]."
    )
    startup_seconds: Number = Field(
        ge=0, le=3600, description="Mean time from container start until it can answer [s]."
    )
    startup_scv: Number = Field(ge=0, le=100, description="Squared coefficient of variation of the start-up time [1].")
    startup_cpu_cores: Number = Field(
        ge=0, le=256, description="CPU burned while starting [cores]; the autoscaler may see it."
    )
    readiness: Readiness = Field(description="When a started pod gets traffic.")
    cold_seconds: Number = Field(
        ge=0, le=3600, description="How long a ready pod stays slow: JIT, empty caches, connections [s]."
    )
    cold_factor: Number = Field(
        ge=1, le=100, description="CPU time of a call on a cold pod over that on a warm one [1]."
    )
    termination_seconds: Number = Field(
        ge=0,
        le=3600,
        description="From deletion until the pod is gone: preStop and draining [s]; it holds its resources so long.",
    )


class Queries(Section):
    """What one call of a service asks of cache and database; by default nothing."""

    reads_per_call: Number = Field(default=0, ge=0, le=1000, description="Mean reads of one call [queries].")
    writes_per_call: Number = Field(default=0, ge=0, le=1000, description="Mean writes of one call [queries].")
    cacheable_share: Number = Field(
        default=0, ge=0, le=1, description="Share of the reads that ask the cache first [1]."
    )


class ScalingPolicy(Section):
    """HPAScalingPolicy of autoscaling/v2."""

    type: Literal["Pods", "Percent"] = Field(description="What `value` counts.")
    value: int = Field(gt=0, le=2**31 - 1, description="Change allowed within the period [pods or %].")
    period_seconds: int = Field(ge=1, le=1800, description="periodSeconds [s]; range: the API's.")


class ScalingRules(Section):
    """HPAScalingRules of autoscaling/v2; what is left out is filled with the API's defaults of the direction."""

    stabilization_window_seconds: int | None = Field(
        default=None,
        ge=0,
        le=3600,
        description="stabilizationWindowSeconds [s]; null: 0 for scale-up, the controller's window for scale-down.",
    )
    select_policy: Literal["Max", "Min", "Disabled"] | None = Field(
        default=None, description="selectPolicy: which policy's limit counts; null: Max."
    )
    policies: tuple[ScalingPolicy, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_POLICIES,
        strict=False,
        description="Limits of the pace; null: up 4 pods or 100 % in 15 s, down 100 % in 15 s.",
    )


class Behavior(Section):
    """HorizontalPodAutoscalerBehavior of autoscaling/v2."""

    scale_up: ScalingRules | None = Field(default=None, description="Rules for more pods; null: the API's defaults.")
    scale_down: ScalingRules | None = Field(default=None, description="Rules for fewer pods; null: the API's defaults.")


class Autoscaler(Section):
    """HorizontalPodAutoscaler on CPU utilization."""

    target_cpu_utilization_pct: int = Field(
        default=80, ge=1, le=1000, description="averageUtilization of the CPU request [whole %]; default: Kubernetes'."
    )
    behavior: Behavior | None = Field(default=None, description="null: the HPA has no behavior field set.")


class Service(Section):
    """A Deployment with its HPA, and the clients that call it."""

    name: DnsLabel = Field(description="DNS label, unique in the profile.")
    calls_per_request: Number = Field(
        default=1.0,
        ge=0.001,
        le=100,
        description="Mean visits that one request of a user makes to this service [calls].",
    )
    replicas: Replicas = Field(description="How many pods.")
    container: Container = Field(description="What a pod is given and what a call costs.")
    client: Client = Field(description="Timeouts and retries of its callers.")
    lifecycle: Lifecycle = Field(description="Start, readiness, warm-up and end of a pod.")
    queries: Queries = Field(default=Queries(), description="What a call asks of cache and database.")
    autoscaler: Autoscaler = Field(description="The HPA that steers it unless a policy does.")


class Database(Section):
    """PostgreSQL: one primary takes the writes, read replicas (else the primary) take the reads."""

    cores: Number = Field(ge=LEAST_CORES, le=1024, description="CPU of each instance [cores].")
    read_seconds: Number = Field(ge=LEAST_SECONDS, le=60, description="Mean CPU time of a read query [s of one core].")
    write_seconds: Number = Field(
        ge=LEAST_SECONDS, le=60, description="Mean CPU time of a write transaction [s of one core]."
    )
    query_scv: Number = Field(ge=0, le=100, description="Squared coefficient of variation of the query times [1].")
    read_replicas: int = Field(
        ge=0, le=MAX_READ_REPLICAS, description="Streaming replicas that answer reads [instances]."
    )
    max_connections: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="max_connections of an instance [connections]; default: PostgreSQL's.",
    )
    reserved_connections: int = Field(
        default=3, ge=0, le=1000, description="superuser_reserved_connections [connections]; default: PostgreSQL's."
    )
    pool_size_per_pod: int = Field(
        ge=1, le=10_000, description="Connections that each pod of a service with queries opens [connections]."
    )
    usd_per_instance_hour: Number = Field(
        ge=0, le=10_000, description="Price of the primary and of each replica [USD/h]."
    )


class Cache(Section):
    """Redis in front of the database, look-aside, Zipf popularity of the keys."""

    keys: int = Field(ge=1, le=10**9, description="Distinct keys that requests ask for [keys].")
    zipf_exponent: Number = Field(
        ge=0, le=5, description="Popularity of the k-th key is k^-exponent [1]; 0 is uniform."
    )
    capacity_keys: int = Field(ge=1, le=10**9, description="Keys that fit into maxmemory; LRU evicts the rest [keys].")
    lookup_seconds: Number = Field(ge=LEAST_SECONDS, le=10, description="Mean time of a lookup, network included [s].")
    server_seconds: Number = Field(
        default=1e-5,
        ge=0,
        le=1,
        description="Part of a lookup in Redis' one thread [s]; default: 100,000 lookups/s, as redis-benchmark shows.",
    )
    lookup_scv: Number = Field(ge=0, le=100, description="Squared coefficient of variation of the lookup time [1].")
    initial_fill: Number = Field(
        ge=0, le=1, description="Share of the capacity that is filled at the start [1]; 0 is cold."
    )
    usd_per_hour: Number = Field(ge=0, le=10_000, description="Price of the cache [USD/h].")


class Telemetry(Section):
    """Path of a pod's CPU use to its readers: cAdvisor, kubelet, metrics-server."""

    scrape_interval_seconds: Number = Field(
        default=15,
        gt=0,
        le=600,
        description="--metric-resolution of metrics-server [s], and the window that a sample is the mean over; "
        "default: its released manifest.",
    )
    delay_seconds: Number = Field(ge=0, le=600, description="From the end of a window until a reader sees it [s].")


class Controller(Section):
    """Flags of kube-controller-manager; defaults are upstream's."""

    sync_period_seconds: Number = Field(
        default=15, gt=0, le=600, description="--horizontal-pod-autoscaler-sync-period [s]."
    )
    tolerance: Number = Field(default=0.1, ge=0, lt=1, description="--horizontal-pod-autoscaler-tolerance [1].")
    cpu_initialization_period_seconds: Number = Field(
        default=300, ge=0, le=3600, description="--horizontal-pod-autoscaler-cpu-initialization-period [s]."
    )
    initial_readiness_delay_seconds: Number = Field(
        default=30, ge=0, le=3600, description="--horizontal-pod-autoscaler-initial-readiness-delay [s]."
    )
    downscale_stabilization_window_seconds: Number = Field(
        default=300, ge=0, le=3600, description="--horizontal-pod-autoscaler-downscale-stabilization [s]."
    )


class Prices(Section):
    """What running costs, beside database and cache."""

    usd_per_core_hour: Number = Field(ge=0, le=1000, description="Price of a requested core [USD/h].")
    usd_per_gib_hour: Number = Field(ge=0, le=1000, description="Price of a requested GiB of memory [USD/h].")
    load_balancer_usd_per_hour: Number = Field(ge=0, le=1000, description="Price of the load balancer [USD/h].")


class Profile(Section):
    """An environment: what users were promised, what serves them, what steers it and what it costs."""

    name: DnsLabel = Field(description="DNS label of the profile.")
    description: str = Field(min_length=1, max_length=1000, description="One or two sentences for people.")
    tick_seconds: Number = Field(default=1.0, ge=0.1, le=5, description="Step of the simulation [s].")
    slo: Slo = Field(description="Service level objective.")
    ingress: Ingress = Field(description="Load balancer.")
    services: tuple[Service, ...] = Field(
        min_length=1,
        max_length=MAX_SERVICES,
        strict=False,
        description="Services in call order: each request visits every one in turn.",
    )
    database: Database | None = Field(default=None, description="PostgreSQL; null: none.")
    cache: Cache | None = Field(default=None, description="Redis; null: none.")
    telemetry: Telemetry = Field(description="How late and how smooth the autoscaler sees the pods.")
    controller: Controller = Field(default=Controller(), description="HPA controller.")
    prices: Prices = Field(description="Prices.")

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        return refuse_inconsistent(self, broken_rules)

    @classmethod
    def from_dict(cls, data: Any, where: str = "profile") -> Profile:
        """A profile from plain data, as `to_dict` gives it or a YAML file holds it.

        Raises:
            ProfileError: with every problem of `data`; `where` names its origin.
        """
        return validate(cls, data, where, ProfileError, broken_rules)

    def to_dict(self) -> dict[str, Any]:
        """Plain data (dict, list, str, int, float, None): every field, defaults included, in the schema's order."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """sha256 [hex] of the canonical JSON: equal profiles, however they are written, have equal digests."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def with_overrides(self, overrides: Mapping[str, Any]) -> Profile:
        """This profile with other values at dotted paths; list items by index, services also by name.

        Args:
            overrides: value by path, `{"services.api.replicas.max": 20, "cache": None}`. A section that is null is
                created when a path leads into it.

        Raises:
            ProfileError: unknown paths (with the nearest known key), one field given twice, or a result that breaks the
                schema; every problem at once.
        """
        data = self.to_dict()
        problems, targets = [], dict[Location, str]()
        for path in overrides:
            try:
                _claim(targets, _target(data, path), path)
            except LookupError as unknown:
                problems.append(str(unknown.args[0]))
        for target, path in targets.items():
            _put(data, target, overrides[path])
        found, profile = examine(Profile, data, broken_rules)
        if problems or profile is None:
            raise ProfileError(f"{self.name} with overrides", problems + found)
        return profile


def bundled_profiles() -> list[str]:
    """Names of the profiles that come with the package, sorted."""
    return names_in(PROFILES)


def load_profile(name_or_path: str | Path) -> Profile:
    """A bundled profile by name, or one from a YAML file.

    Args:
        name_or_path: a name of `bundled_profiles()`, or a path.

    Raises:
        ProfileError: unknown name, unreadable file, bad YAML, or a broken schema; all problems at once.
    """
    known = bundled_profiles()
    path = PROFILES / f"{name_or_path}.yaml" if str(name_or_path) in known else Path(name_or_path)
    named = isinstance(name_or_path, str) and os.sep not in name_or_path and not path.suffix
    if named and not os.path.exists(name_or_path):
        hint = nearest(str(name_or_path), known)
        raise ProfileError(shown(name_or_path), f"unknown profile (known: {', '.join(known)}; or name a file){hint}")
    return Profile.from_dict(read_yaml(path, ProfileError), str(path))


# --- Rules between fields. Written as "if broken": an invalid number reads as NaN and breaks none of them.


def broken_rules(profile: Any) -> Iterator[Problem]:
    """Broken rules between the fields of a profile, in its order. Also sees profiles with invalid fields (as NaN)."""
    yield from _ticks_broken(profile)
    yield from _latency_broken(profile)
    for index, service in enumerate(profile.services):
        for problem in _service_broken(profile, service):
            yield problem._replace(at=("services", index, *problem.at))
    yield from _names_broken(profile.services)
    if profile.database is not None:
        yield from _connections_broken(profile)
    if profile.cache is not None:
        yield from _cache_broken(profile.cache)
    yield from _too_long_for_log(
        profile,
        ("controller", "downscale_stabilization_window_seconds"),
        profile.controller.downscale_stabilization_window_seconds,
    )


def _ticks_broken(profile: Any) -> Iterator[Problem]:
    for section, field in (
        ("telemetry", "scrape_interval_seconds"),
        ("telemetry", "delay_seconds"),
        ("controller", "sync_period_seconds"),
    ):
        value = getattr(getattr(profile, section), field)
        if abs(math.remainder(value, profile.tick_seconds)) > 1e-9 * profile.tick_seconds:
            yield Problem((section, field), f"must be a multiple of tick_seconds {profile.tick_seconds:g}", value)
        elif field != "delay_seconds" and value < 0.5 * profile.tick_seconds:
            yield Problem((section, field), f"must be at least tick_seconds {profile.tick_seconds:g}", value)
    telemetry = profile.telemetry
    if telemetry.delay_seconds > telemetry.scrape_interval_seconds:
        rule = f"must be at most scrape_interval_seconds {telemetry.scrape_interval_seconds:g}"
        yield Problem(("telemetry", "delay_seconds"), rule, telemetry.delay_seconds)


def _latency_broken(profile: Any) -> Iterator[Problem]:
    ideal_s = ideal_latency_seconds(profile)
    threshold_s = profile.slo.latency_threshold_seconds
    if ideal_s >= threshold_s:
        rule = f"must be greater than the latency of an idle system, {ideal_s:.3g} s (mean times added up)"
        yield Problem(("slo", "latency_threshold_seconds"), rule, threshold_s)


def ideal_latency_seconds(profile: Any) -> float:
    """Mean end-to-end time of a request that waits nowhere, on warm pods, with every cacheable read a hit [s]."""
    total_s: float = profile.ingress.latency_seconds
    for service in profile.services:
        container, queries = service.container, service.queries
        call_s = container.cpu_seconds_per_request + container.io_seconds_per_request
        cached_reads = queries.reads_per_call * queries.cacheable_share
        if profile.cache is not None:
            call_s += cached_reads * profile.cache.lookup_seconds
        if profile.database is not None:
            call_s += (queries.reads_per_call - cached_reads) * profile.database.read_seconds
            call_s += queries.writes_per_call * profile.database.write_seconds
        total_s += service.calls_per_request * call_s
    return total_s


def _service_broken(profile: Any, service: Any) -> Iterator[Problem]:
    replicas, container, queries = service.replicas, service.container, service.queries
    if replicas.min > replicas.max:
        yield Problem(("replicas", "min"), f"must be at most replicas.max {replicas.max}", replicas.min)
    if replicas.initial is not None and replicas.initial < replicas.min:
        yield Problem(("replicas", "initial"), f"must be at least replicas.min {replicas.min}", replicas.initial)
    if replicas.initial is not None and replicas.initial > replicas.max:
        yield Problem(("replicas", "initial"), f"must be at most replicas.max {replicas.max}", replicas.initial)
    limit = f"must be at most container.cpu_limit_cores {container.cpu_limit_cores:g}"
    if container.cpu_request_cores > container.cpu_limit_cores:
        yield Problem(("container", "cpu_request_cores"), limit, container.cpu_request_cores)
    if service.lifecycle.startup_cpu_cores > container.cpu_limit_cores:
        yield Problem(("lifecycle", "startup_cpu_cores"), limit, service.lifecycle.startup_cpu_cores)
    if service.client.timeout_seconds <= profile.slo.latency_threshold_seconds:
        rule = f"must be greater than slo.latency_threshold_seconds {profile.slo.latency_threshold_seconds:g}"
        yield Problem(("client", "timeout_seconds"), rule, service.client.timeout_seconds)
    yield from _retries_broken(profile, service.client)
    for field in ("reads_per_call", "writes_per_call", "cacheable_share"):
        if 0 < getattr(queries, field) < LEAST_QUERIES:
            yield Problem(("queries", field), f"must be 0 or at least {LEAST_QUERIES:g}", getattr(queries, field))
    for field in ("reads_per_call", "writes_per_call"):
        if profile.database is None and getattr(queries, field) > 0:
            yield Problem(("queries", field), "must be 0 without a database", getattr(queries, field))
    if profile.cache is None and queries.cacheable_share > 0:
        yield Problem(("queries", "cacheable_share"), "must be 0 without a cache", queries.cacheable_share)
    yield from _behavior_broken(profile, service.autoscaler.behavior)


def _retries_broken(profile: Any, client: Any) -> Iterator[Problem]:
    if client.max_retries > 0:
        backoff_s = client.backoff_seconds * 2 ** (client.max_retries - 1)  # doubles with each attempt
        longest_s = MAX_RETRY_TICKS * profile.tick_seconds
        if client.timeout_seconds + backoff_s > longest_s:
            limit = f"{MAX_RETRY_TICKS} ticks = {longest_s:g} s"
            rule = f"timeout and the last backoff, {backoff_s:g} s, must be at most {limit}"
            yield Problem(("client", "timeout_seconds"), rule, client.timeout_seconds)


def _behavior_broken(profile: Any, behavior: Any) -> Iterator[Problem]:
    for direction in ("scale_up", "scale_down"):
        rules = getattr(behavior, direction, None)
        if rules is None:
            continue
        at: Location = ("autoscaler", "behavior", direction)
        if rules.stabilization_window_seconds is not None:
            at_window = (*at, "stabilization_window_seconds")
            yield from _too_long_for_log(profile, at_window, rules.stabilization_window_seconds)
        for index, policy in enumerate(rules.policies or ()):
            yield from _too_long_for_log(profile, (*at, "policies", index, "period_seconds"), policy.period_seconds)


def _too_long_for_log(profile: Any, at: Location, seconds: float) -> Iterator[Problem]:
    # One recommendation and at most one scale event a sync are remembered until they are older than the window.
    longest_s = MAX_LOG * profile.controller.sync_period_seconds
    if seconds > longest_s:
        yield Problem(at, f"must be at most {MAX_LOG} x controller.sync_period_seconds = {longest_s:g}", seconds)


def _names_broken(services: Any) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, service in enumerate(services):
        if isinstance(service.name, str) and service.name in first:
            rule = f"must be unique; services.{first[service.name]} has it too"
            yield Problem(("services", index, "name"), rule, service.name)
        elif isinstance(service.name, str):
            first[service.name] = index


def _cache_broken(cache: Any) -> Iterator[Problem]:
    if cache.capacity_keys > cache.keys:
        yield Problem(("cache", "capacity_keys"), f"must be at most cache.keys {cache.keys}", cache.capacity_keys)
    if cache.server_seconds > cache.lookup_seconds:
        rule = f"must be at most cache.lookup_seconds {cache.lookup_seconds:g}"
        yield Problem(("cache", "server_seconds"), rule, cache.server_seconds)


def _connections_broken(profile: Any) -> Iterator[Problem]:
    database = profile.database
    if database.reserved_connections >= database.max_connections:
        rule = f"must be less than database.max_connections {database.max_connections}"
        yield Problem(("database", "reserved_connections"), rule, database.reserved_connections)
        return
    pods = sum(s.replicas.min for s in profile.services if s.queries.reads_per_call + s.queries.writes_per_call > 0)
    needed = database.pool_size_per_pod * pods
    if needed > database.max_connections - database.reserved_connections:
        left = f"max_connections {database.max_connections} - reserved_connections {database.reserved_connections}"
        rule = f"{pods} pods (replicas.min) would open {needed} connections, more than {left}"
        yield Problem(("database", "pool_size_per_pod"), rule, database.pool_size_per_pod)


# --- Overrides


def _target(data: dict[str, Any], path: str) -> Location:
    """Location of a dotted path; LookupError with a problem line when the schema or the data have no such place."""
    if not isinstance(path, str):
        raise LookupError(f"{shown(path)}: a path must be text such as services.0.replicas.max")
    at: list[int | str] = []
    section: type[Section] | None = Profile
    node: Any = data
    listed = False  # whether `node` is a list
    for step in path.split("."):
        here = dotted([*at, step])
        if listed:
            index = _item(node or [], step, here)
            at.append(index)
            node, listed = node[index], False
        elif section is None:
            raise LookupError(f"{here}: unknown key; {dotted(at)} holds a value, not keys")
        elif step not in section.model_fields:
            raise LookupError(_unknown_place(data, path, [*at, step], section))
        else:
            annotation = section.model_fields[step].annotation
            section, listed = section_of(annotation), is_list(annotation)
            at.append(step)
            node = node.get(step) if isinstance(node, dict) else None
    return tuple(at)


def _unknown_place(data: dict[str, Any], path: str, at: list[int | str], section: type[Section]) -> str:
    """Problem line of a path that leads nowhere: the nearest key beside it, else the nearest path there is."""
    line = f"{dotted(at)}: unknown key"
    hint = nearest(str(at[-1]), section.model_fields)
    return line + (hint or _nearest_path(path, list(_value_paths(Profile, data))))


def _nearest_path(path: str, known: list[str]) -> str:
    """`; did you mean 'services.api.lifecycle.startup_seconds'?` for a path, a part or the last word of one, or nothing.

    The end of a path counts most, then a last key without its unit, the beginning of one, and one that is spelled alike.
    """
    word = path.rpartition(".")[2]
    leaves = {other: other.rpartition(".")[2] for other in known}
    candidates = (
        [other for other in known if other.endswith(f".{path}")]
        or [
            other for other, leaf in leaves.items() if leaf == word or re.fullmatch(rf"{re.escape(word)}_{_UNIT}", leaf)
        ]
        or [other for other, leaf in leaves.items() if leaf.startswith(f"{word}_")]
        or [other for other, leaf in leaves.items() if leaf in difflib.get_close_matches(word, set(leaves.values()), 1)]
    )
    if not candidates:
        return ""
    best = max(candidates, key=lambda other: difflib.SequenceMatcher(None, path, other).ratio())
    return f"; did you mean '{best}'?"


def _value_paths(section: type[Section], data: Any, prefix: str = "") -> Iterator[str]:
    """Every path that holds a value, list items by name where they have one; sections that are null by their schema."""
    for name, field in section.model_fields.items():
        below, here = section_of(field.annotation), f"{prefix}{name}"
        value = data.get(name) if isinstance(data, dict) else None
        if below is None:
            yield here
        elif is_list(field.annotation):
            for index, item in enumerate(value or []):
                yield from _value_paths(below, item, f"{here}.{item.get('name', index)}.")
        else:
            yield from _value_paths(below, value, f"{here}.")


def _item(items: list[dict[str, Any]], step: str, here: str) -> int:
    names = [item["name"] for item in items if "name" in item]
    if step in names:
        return names.index(step)
    if step.isascii() and step.isdigit() and int(step) < len(items):
        return int(step)
    known = ", ".join(names) or (f"0 to {len(items) - 1}" if items else "none")
    raise LookupError(f"{here}: no such item (there are: {known}){nearest(step, names)}")


def _claim(targets: dict[Location, str], target: Location, path: str) -> None:
    """Remember that a path sets a place; LookupError when another one sets it, a part of it, or the whole around it."""
    for other, other_path in targets.items():
        shared = min(len(other), len(target))
        if other[:shared] == target[:shared]:
            raise LookupError(f"{path}: overlaps with the override {other_path}")
    targets[target] = path


def _put(data: dict[str, Any], target: Location, value: Any) -> None:
    node: Any = data
    for step in target[:-1]:
        if isinstance(step, str) and node.get(step) is None:
            node[step] = {}
        node = node[step]
    node[target[-1]] = deepcopy(value)
