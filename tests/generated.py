"""Hypothesis strategies: whole valid profiles from the schema's own bounds, plain ones and graphs, and lanes that play
them far over capacity."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from typing import Any, Literal

import annotated_types
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from sim_core.dataplane.services.graph import build, resolve
from sim_core.documents import Section, is_list, readable, section_of
from sim_core.profile import MAX_LOG, MAX_RETRY_TICKS, Profile, ideal_latency_seconds, load_profile
from sim_core.workload import Trace
from sim_core.world import Lane, Scaler

Draw = typing.Callable[[st.SearchStrategy[Any]], Any]
SMALLEST = 1e-6  # beside 0 itself, where a field may be 0
MOST_PODS = 256  # of a service: enough to be many, few enough for hundreds of worlds
PLAIN: dict[str, Any] = {"requests": None, "endpoints": None, "calls": []}  # what a plain profile leaves out
PLAIN_ONLY = ("cpu_seconds_per_request", "cpu_scv", "io_seconds_per_request")  # null where a service has endpoints
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


def _field(name: str, field: Any) -> st.SearchStrategy[Any]:
    parts = [part for part in typing.get_args(field.annotation) if part is not type(None)]
    kind = parts[0] if parts and type(None) in typing.get_args(field.annotation) else field.annotation
    if typing.get_origin(kind) is Literal:
        values: st.SearchStrategy[Any] = st.sampled_from(typing.get_args(kind))
    elif kind is str:
        values = st.just("generated")
    else:
        low, high = _bounds(field.metadata)
        values = numbers(math.ceil(low), high).map(round) if kind is int else numbers(low, high)
    return st.one_of(st.none(), values) if kind is not field.annotation and name not in PLAIN_ONLY else values


def section(kind: type[Section]) -> st.SearchStrategy[dict[str, Any]]:
    """Plain data of a section, every field within its own bounds; lists of sections have one or two items.

    What makes a graph of a profile is left out.
    """
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in kind.model_fields.items():
        below = section_of(field.annotation)
        if name in PLAIN:
            fields[name] = st.just(PLAIN[name])
        elif below is None:
            fields[name] = _field(name, field)
        else:
            part: st.SearchStrategy[Any] = section(below)
            if is_list(field.annotation):
                part = st.lists(part, min_size=1, max_size=4 if name == "services" else 2)
            fields[name] = st.one_of(st.none(), part) if type(None) in typing.get_args(field.annotation) else part
    return st.fixed_dictionaries(fields)


_PROFILES = section(Profile)


@st.composite
def profiles(draw: Draw) -> Profile:
    """Whole valid plain profiles: one to four services, with and without stores, every balancing, sharing and tick."""
    data = _plain_data(draw)
    assume(_fits_threshold(data))
    return Profile.from_dict(data)


def _plain_data(draw: Draw) -> dict[str, Any]:
    data: dict[str, Any] = draw(_PROFILES)
    tick_s = data["tick_seconds"] = draw(st.sampled_from(TICKS_S))
    _set_clocks(draw, data, tick_s)
    for index, service in enumerate(data["services"]):
        service["name"] = f"s{index}"
        _set_limits(data, service)
        _set_patience(data, service["client"], tick_s)
        _shorten_memory(service["autoscaler"], MAX_LOG * data["controller"]["sync_period_seconds"])
    _set_stores(data)
    return data


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
    replicas["min"], replicas["max"] = sorted(min(replicas[key], MOST_PODS) for key in ("min", "max"))
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
        ideal_s = ideal_latency_seconds(readable(Profile, data))
        if ideal_s < threshold_s:
            return True
        for record, name in places:
            least = 0.0 if name in ("latency_seconds", "io_seconds_per_request", "server_seconds") else SMALLEST
            record[name] = max(least, record[name] * 0.9 * threshold_s / ideal_s)
    return ideal_latency_seconds(readable(Profile, data)) < threshold_s


# --- Graphs


@st.composite
def graph_profiles(draw: Draw) -> Profile:
    """Whole valid profiles whose services have endpoints that call each other: nested joins, classes, edges."""
    data = _plain_data(draw)
    services = data["services"]
    for service in services:
        service["calls_per_request"] = 1.0
    targets: list[str] = []  # of the services behind
    for index in reversed(range(len(services))):
        targets += _give_endpoints(draw, data, services[index], list(targets))
    data["requests"] = draw(st.lists(_classes(data, targets), min_size=1, max_size=3))
    for index, kind in enumerate(data["requests"]):
        kind["name"] = f"c{index}"
    for owner in (data["ingress"], *services):
        owner["calls"] = draw(_edges(services, _called(data, owner)))
    assume(_graph_fits_threshold(data))
    return Profile.from_dict(data)


def _give_endpoints(draw: Draw, data: dict[str, Any], service: dict[str, Any], behind: list[str]) -> list[str]:
    """Gives a service up to three endpoints, which may call those behind it and their own later ones; their names."""
    names = [f"e{number}" for number in range(draw(st.integers(0, 3)))]
    if not names:
        return [service["name"]]
    for key in PLAIN_ONLY:
        service["container"][key] = None
    service["queries"] = {}
    service["endpoints"] = []
    for name in reversed(names):
        steps = draw(st.lists(_steps(data, list(behind)), min_size=1, max_size=4))
        service["endpoints"].append({"name": name, "steps": steps})
        behind.append(f"{service['name']}.{name}")
    return [f"{service['name']}.{name}" for name in names]


def _steps(data: dict[str, Any], targets: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    share, seconds, scv = numbers(SMALLEST, 1.0), numbers(SMALLEST, 60.0), numbers(0.0, 100.0)
    work = st.fixed_dictionaries({"seconds": seconds}, optional={"scv": scv, "probability": share})
    queries = st.fixed_dictionaries({}, optional={"count": numbers(SMALLEST, 10.0), "probability": share})
    kinds = {"cpu": work, "wait": work}
    if targets:
        kinds["call"] = _call_steps(targets)
    if data["database"] is not None:
        kinds |= {"read": queries, "write": queries}
        if data["cache"] is not None:
            kinds["cached_read"] = queries
    leaves = st.one_of([st.fixed_dictionaries({key: kind}) for key, kind in kinds.items()])
    return st.recursive(leaves, lambda inner: st.fixed_dictionaries({"parallel": _branches(inner)}), max_leaves=6)


def _branches(steps: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.lists(steps, min_size=1, max_size=2), min_size=1, max_size=3)


def _call_steps(targets: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"endpoint": st.sampled_from(targets)},
        optional={"count": numbers(0.001, 5.0), "probability": numbers(SMALLEST, 1.0)},
    )


def _classes(data: dict[str, Any], targets: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    threshold_s = data["slo"]["latency_threshold_seconds"]
    slo = st.fixed_dictionaries(
        {"objective": st.floats(0.5, 0.999), "latency_threshold_seconds": st.floats(threshold_s, 60.0)}
    )
    share = st.one_of(
        st.fixed_dictionaries({"share": numbers(SMALLEST, 100.0)}),
        st.fixed_dictionaries({"shares": st.lists(numbers(SMALLEST, 100.0), min_size=24, max_size=24)}),
    )
    entry = st.one_of(
        st.fixed_dictionaries({"endpoint": st.sampled_from(targets)}),
        st.fixed_dictionaries({"calls": st.lists(_call_steps(targets), min_size=1, max_size=3)}),
    )
    return st.builds(lambda *parts: parts[0] | parts[1] | {"slo": parts[2]}, share, entry, st.one_of(st.none(), slo))


def _called(data: dict[str, Any], owner: dict[str, Any]) -> list[str]:
    """Names of the services that a service or the ingress calls."""
    if owner is data["ingress"]:
        calls = [call for kind in data["requests"] for call in kind.get("calls", [kind])]
    else:
        calls = [step["call"] for step in _flat(e["steps"] for e in owner["endpoints"] or ()) if "call" in step]
    return sorted({call["endpoint"].partition(".")[0] for call in calls})


def _flat(lists: typing.Iterable[list[dict[str, Any]]]) -> typing.Iterator[dict[str, Any]]:
    for steps in lists:
        for step in steps:
            yield step
            yield from _flat(step.get("parallel", ()))


def _edges(services: list[dict[str, Any]], called: list[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """For some of the called services, no client more patient than the callee's own."""
    if not called:
        return st.just([])
    edges = []
    for service in (service for service in services if service["name"] in called):
        timeout_s, retries = service["client"]["timeout_seconds"], service["client"]["max_retries"]
        client = st.fixed_dictionaries(
            {}, optional={"timeout_seconds": numbers(1e-3, timeout_s), "max_retries": st.integers(0, retries)}
        )
        breaker = st.fixed_dictionaries({}, optional={"max_requests": st.integers(1, 1000)})
        ejection = st.fixed_dictionaries({}, optional={"consecutive_failures": st.integers(1, 20)})
        optional = {
            "client": client,
            "pass_deadline": st.booleans(),
            "circuit_breaker": breaker,
            "outlier_ejection": ejection,
        }
        edges.append(st.fixed_dictionaries({"service": st.just(service["name"])}, optional=optional))
    return st.lists(st.one_of(edges), max_size=len(edges), unique_by=lambda edge: edge["service"])


def _graph_fits_threshold(data: dict[str, Any]) -> bool:
    """Makes everything as much faster as the SLOs' thresholds ask for; whether they then can be met."""
    threshold_s = data["slo"]["latency_threshold_seconds"]
    plain = [service for service in data["services"] if service["endpoints"] is None]
    steps = list(_flat(e["steps"] for service in data["services"] for e in service["endpoints"] or ()))
    places = [(data["ingress"], "latency_seconds")]
    places += [(service["container"], f"{kind}_seconds_per_request") for service in plain for kind in ("cpu", "io")]
    places += [(step[key], "seconds") for step in steps for key in ("cpu", "wait") if key in step]
    places += [(data["database"], f"{kind}_seconds") for kind in ("read", "write") if data["database"]]
    places += [(data["cache"], f"{kind}_seconds") for kind in ("lookup", "server") if data["cache"]]
    for _ in range(3):
        ideal_s = _slowest_idle_s(data)
        if ideal_s < threshold_s:
            return True
        for record, name in places:
            least = 0.0 if name in ("latency_seconds", "io_seconds_per_request", "server_seconds") else SMALLEST
            record[name] = max(least, record[name] * 0.9 * threshold_s / ideal_s)
    return _slowest_idle_s(data) < threshold_s


def _slowest_idle_s(data: dict[str, Any]) -> float:
    graph = build(readable(Profile, data))
    return max(graph.idle_s[kind.endpoint] for kind in graph.classes)


def large_profile(n_services: int = 30, pods: int = 200, fan_out: int = 3) -> Profile:
    """Services in layers, as large installations have them: each calls the next `fan_out` in parallel, every other one
    asks cache and database, and three kinds of requests enter at the front."""
    data = load_profile("production").to_dict()
    model = data["services"][0]
    container = model["container"] | dict.fromkeys(PLAIN_ONLY)
    replicas = {"initial": None, "min": 2, "max": pods}
    services = []
    for index in range(n_services):
        called = range(fan_out * index + 1, min(fan_out * index + fan_out + 1, n_services))
        steps: list[dict[str, Any]] = [{"cpu": {"seconds": 0.004}}]
        if called:
            steps.append({"parallel": [[{"call": {"endpoint": f"s{callee}.get"}}] for callee in called]})
        if index % 2 == 1:
            steps += [{"cached_read": {"count": 2}}, {"write": {"probability": 0.1}}]
        endpoints = [{"name": "get", "steps": steps}, {"name": "ping", "steps": [{"cpu": {"seconds": 0.0002}}]}]
        services.append(
            model
            | {"name": f"s{index}", "container": container, "queries": {}, "endpoints": endpoints, "replicas": replicas}
        )
    shares = [float(1 + hour % 12) for hour in range(24)]
    requests = [
        {"name": "page", "shares": shares, "endpoint": "s0.get"},
        {
            "name": "both",
            "shares": shares[::-1],
            "calls": [{"endpoint": "s0.get"}, {"endpoint": "s1.get", "count": 1.5}],
        },
        {"name": "ping", "share": 2.0, "calls": [{"endpoint": f"s{i}.ping"} for i in range(n_services)]},
    ]
    connections = {"max_connections": 100_000, "read_replicas": 8, "cores": 16.0}
    return Profile.from_dict(
        data | {"name": "large", "requests": requests, "services": services, "database": data["database"] | connections}
    )


# --- Lanes


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
    for service, cpu_s in zip(profile.services, resolve(profile).cpu_seconds_per_request, strict=True):
        if cpu_s == 0.0:
            continue  # no request comes this way
        replicas = min(max(scaler.replicas, service.replicas.min), service.replicas.max)
        if scaler.kind != Scaler.static(1).kind:
            replicas = service.replicas.max
        rates.append(replicas * service.container.cpu_limit_cores / cpu_s)
    return min(rates)
