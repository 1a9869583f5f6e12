"""Hypothesis strategies: whole valid profiles from the schema's own bounds, and lanes that play them far over capacity."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from typing import Any, Literal

import annotated_types
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from sim_core.documents import Section, is_list, section_of
from sim_core.profile import MAX_LOG, MAX_RETRY_TICKS, Profile, ideal_latency_seconds
from sim_core.workload import Trace
from sim_core.world import Lane, Scaler

Draw = typing.Callable[[st.SearchStrategy[Any]], Any]
SMALLEST = 1e-6  # beside 0 itself, where a field may be 0
TICKS_S = (0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0)


def _bounds(metadata: typing.Sequence[Any]) -> tuple[float, float]:
    """Least and greatest value that a field may have, just inside where the bound itself is not allowed."""
    low, high = -math.inf, math.inf
    for rule in metadata:
        if isinstance(rule, annotated_types.Ge):
            low = max(low, float(rule.ge))
        elif isinstance(rule, annotated_types.Gt):
            low = max(low, math.nextafter(float(rule.gt), math.inf))
        elif isinstance(rule, annotated_types.Le):
            high = min(high, float(rule.le))
        elif isinstance(rule, annotated_types.Lt):
            high = min(high, math.nextafter(float(rule.lt), -math.inf))
    return low, high


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Both ends, and everything between them in even shares of the logarithm."""
    smallest = max(low, min(SMALLEST, high)) if low >= 0.0 else low
    even = st.floats(math.log(smallest), math.log(high)).map(lambda log: min(max(math.exp(log), low), high))
    return st.one_of(even, even, st.sampled_from([low, high, smallest]))


def _field(field: Any) -> st.SearchStrategy[Any]:
    parts = [part for part in typing.get_args(field.annotation) if part is not type(None)]
    kind = parts[0] if parts and type(None) in typing.get_args(field.annotation) else field.annotation
    if typing.get_origin(kind) is Literal:
        values: st.SearchStrategy[Any] = st.sampled_from(typing.get_args(kind))
    elif kind is str:
        values = st.just("generated")
    else:
        low, high = _bounds(field.metadata)
        values = numbers(math.ceil(low), high).map(round) if kind is int else numbers(low, high)
    return st.one_of(st.none(), values) if kind is not field.annotation else values


def section(kind: type[Section]) -> st.SearchStrategy[dict[str, Any]]:
    """Plain data of a section, every field within its own bounds; lists of sections have one or two items."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in kind.model_fields.items():
        below = section_of(field.annotation)
        if below is None:
            fields[name] = _field(field)
        else:
            part: st.SearchStrategy[Any] = section(below)
            if is_list(field.annotation):
                part = st.lists(part, min_size=1, max_size=4 if name == "services" else 2)
            fields[name] = st.one_of(st.none(), part) if type(None) in typing.get_args(field.annotation) else part
    return st.fixed_dictionaries(fields)


_PROFILES = section(Profile)


@st.composite
def profiles(draw: Draw) -> Profile:
    """Whole valid profiles: one to four services, with and without database and cache, every balancing and tick."""
    data = draw(_PROFILES)
    tick_s = data["tick_seconds"] = draw(st.sampled_from(TICKS_S))
    _set_clocks(draw, data, tick_s)
    for index, service in enumerate(data["services"]):
        service["name"] = f"s{index}"
        _set_limits(data, service)
        _set_patience(data, service["client"], tick_s)
        _shorten_memory(service["autoscaler"], MAX_LOG * data["controller"]["sync_period_seconds"])
    _set_stores(data)
    assume(_fits_threshold(data))
    return Profile.from_dict(data)


def _set_clocks(draw: Draw, data: dict[str, Any], tick_s: float) -> None:
    longest = int(600.0 / tick_s)
    scrape_ticks = draw(st.integers(1, min(60, longest)))
    data["telemetry"]["scrape_interval_seconds"] = scrape_ticks * tick_s
    data["telemetry"]["delay_seconds"] = draw(st.integers(0, scrape_ticks)) * tick_s
    sync_s = data["controller"]["sync_period_seconds"] = draw(st.integers(1, min(60, longest))) * tick_s
    window = data["controller"]["downscale_stabilization_window_seconds"]
    data["controller"]["downscale_stabilization_window_seconds"] = min(window, MAX_LOG * sync_s)


def _set_limits(data: dict[str, Any], service: dict[str, Any]) -> None:
    replicas, container, queries = service["replicas"], service["container"], service["queries"]
    replicas["min"], replicas["max"] = sorted((replicas["min"], replicas["max"]))
    if replicas["initial"] is not None:
        replicas["initial"] = min(max(replicas["initial"], replicas["min"]), replicas["max"])
    limit = container["cpu_limit_cores"]
    container["cpu_request_cores"] = min(container["cpu_request_cores"], limit)
    service["lifecycle"]["startup_cpu_cores"] = min(service["lifecycle"]["startup_cpu_cores"], limit)
    if data["database"] is None:
        queries["reads_per_call"] = queries["writes_per_call"] = 0.0
    if data["cache"] is None:
        queries["cacheable_share"] = 0.0


def _set_patience(data: dict[str, Any], client: dict[str, Any], tick_s: float) -> None:
    threshold_s, longest_s = data["slo"]["latency_threshold_seconds"], MAX_RETRY_TICKS * tick_s
    client["timeout_seconds"] = max(client["timeout_seconds"], 1.01 * threshold_s)
    if 1.01 * threshold_s > longest_s:
        client["max_retries"] = 0
    elif client["max_retries"] > 0:
        client["timeout_seconds"] = min(client["timeout_seconds"], longest_s)
        spare_s = (longest_s - client["timeout_seconds"]) / 2.0 ** (client["max_retries"] - 1)
        client["backoff_seconds"] = min(client["backoff_seconds"], spare_s)


def _shorten_memory(autoscaler: dict[str, Any], longest_s: float) -> None:
    for rules in (autoscaler["behavior"] or {}).values():
        if rules is None:
            continue
        if rules["stabilization_window_seconds"] is not None:
            rules["stabilization_window_seconds"] = min(rules["stabilization_window_seconds"], int(longest_s))
        for policy in rules["policies"] or ():
            policy["period_seconds"] = min(policy["period_seconds"], int(longest_s))


def _set_stores(data: dict[str, Any]) -> None:
    database, cache = data["database"], data["cache"]
    if cache is not None:
        cache["capacity_keys"] = min(cache["capacity_keys"], cache["keys"])
        cache["server_seconds"] = min(cache["server_seconds"], cache["lookup_seconds"])
    if database is not None:
        pods = sum(service["replicas"]["min"] for service in data["services"])
        least = database["reserved_connections"] + pods
        database["max_connections"] = max(database["max_connections"], least)
        most = (database["max_connections"] - database["reserved_connections"]) // pods
        database["pool_size_per_pod"] = min(database["pool_size_per_pod"], most)


def _fits_threshold(data: dict[str, Any]) -> bool:
    """Makes everything as much faster as the SLO's threshold asks for; whether it then can be met."""
    threshold_s = data["slo"]["latency_threshold_seconds"]
    places = [(data["ingress"], "latency_seconds")]
    places += [(s["container"], f"{kind}_seconds_per_request") for s in data["services"] for kind in ("cpu", "io")]
    places += [(data["database"], f"{kind}_seconds") for kind in ("read", "write") if data["database"]]
    places += [(data["cache"], f"{kind}_seconds") for kind in ("lookup", "server") if data["cache"]]
    for _ in range(2):
        ideal_s = ideal_latency_seconds(_Plain(data))
        if ideal_s < threshold_s:
            return True
        for record, name in places:
            least = 0.0 if name in ("latency_seconds", "io_seconds_per_request", "server_seconds") else SMALLEST
            record[name] = max(least, record[name] * 0.9 * threshold_s / ideal_s)
    return ideal_latency_seconds(_Plain(data)) < threshold_s


class _Plain:
    """Plain data read by attribute, as the schema's rules read a profile."""

    def __init__(self, data: dict[str, Any]):
        self._data = data

    def __getattr__(self, name: str) -> Any:
        value = self._data[name]
        if isinstance(value, dict):
            return _Plain(value)
        return [_Plain(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Play:
    """A lane, for how many ticks, and its load in each step over what its replicas at the start can serve [1]."""

    lane: Lane
    n_ticks: int
    load: tuple[float, ...]


@st.composite
def plays(draw: Draw, most: float = 50.0, least: float = 0.0) -> Play:
    """Lanes under loads of `least` to `most` times their capacity, in up to six steps, under every kind of scaler."""
    profile = draw(profiles())
    loads = st.one_of(numbers(max(least, 1e-3), most), st.sampled_from([least, most]))
    load = tuple(draw(st.lists(loads, min_size=1, max_size=6)))
    n_ticks = draw(st.integers(30, 400))
    kind = draw(st.sampled_from(["hpa", "static", "schedule"]))
    plan = np.array(draw(st.lists(st.lists(st.integers(0, 300), min_size=4, max_size=4), min_size=1, max_size=8)))
    scaler = {"hpa": Scaler.hpa(), "static": Scaler.static(int(plan[0, 0])), "schedule": Scaler.schedule(plan)}[kind]
    rates = np.array(load) * capacity_per_s(profile, scaler)
    step_s = n_ticks * profile.tick_seconds / len(load)
    return Play(Lane(profile, Trace("generated", step_s, rates), draw(st.integers(0, 99)), 0.0, scaler), n_ticks, load)


def capacity_per_s(profile: Profile, scaler: Scaler) -> float:
    """User requests per second that load the busiest service's CPU fully, with the static replicas or else the most [1/s]."""
    rates = []
    for service in profile.services:
        replicas = min(max(scaler.replicas, service.replicas.min), service.replicas.max)
        if scaler.kind != Scaler.static(1).kind:
            replicas = service.replicas.max
        container = service.container
        call_per_s = container.cpu_limit_cores / container.cpu_seconds_per_request
        rates.append(replicas * call_per_s / service.calls_per_request)
    return min(rates)
