"""Rules between the fields of services, and what components ask of services for rules of their own.

Written as "if broken": an invalid number reads as NaN and breaks none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim_core.dataplane.services.profile import LEAST_QUERIES, MAX_RETRY_TICKS
from sim_core.documents import Location, Problem


def broken_rules(profile: Any) -> Iterator[Problem]:
    """Broken rules between the fields of each service; those of the graph of calls are in `graph_rules.py`."""
    for index, service in enumerate(profile.services):
        for problem in _service_broken(profile, service):
            yield problem._replace(at=("services", index, *problem.at))
    yield from _names_broken("services", profile.services)


def _service_broken(profile: Any, service: Any) -> Iterator[Problem]:
    replicas, container = service.replicas, service.container
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
    yield from _client_broken(profile, service)
    yield from _work_broken(service)
    for field in ("reads_per_call", "writes_per_call", "cacheable_share"):
        if 0 < getattr(service.queries, field) < LEAST_QUERIES:
            rule = f"must be 0 or at least {LEAST_QUERIES:g}"
            yield Problem(("queries", field), rule, getattr(service.queries, field))


def _client_broken(profile: Any, service: Any) -> Iterator[Problem]:
    overridden = any(edge.service == service.name and edge.client is not None for edge in profile.ingress.calls)
    if profile.requests is None and not overridden:
        yield from impatience(profile, service.client, ("client",))
    yield from retries_broken(profile, service.client, ("client",))


def impatience(profile: Any, client: Any, at: Location) -> Iterator[Problem]:
    """A timeout of the ingress below the latency threshold, in a profile without kinds of requests."""
    if client.timeout_seconds <= profile.slo.latency_threshold_seconds:
        rule = f"must be greater than slo.latency_threshold_seconds {profile.slo.latency_threshold_seconds:g}"
        yield Problem((*at, "timeout_seconds"), rule, client.timeout_seconds)


def retries_broken(profile: Any, client: Any, at: Location) -> Iterator[Problem]:
    """Retries that lie further ahead than the fluid engine remembers."""
    if client.max_retries > 0:
        backoff_s = client.backoff_seconds * 2 ** (client.max_retries - 1)  # doubles with each attempt
        longest_s = MAX_RETRY_TICKS * profile.tick_seconds
        if client.timeout_seconds + backoff_s > longest_s:
            limit = f"{MAX_RETRY_TICKS} ticks = {longest_s:g} s"
            rule = f"timeout and the last backoff, {backoff_s:g} s, must be at most {limit}"
            yield Problem((*at, "timeout_seconds"), rule, client.timeout_seconds)


def _work_broken(service: Any) -> Iterator[Problem]:
    """Either the container and `queries` say what a call costs, or the steps of the endpoints do."""
    for field in ("cpu_seconds_per_request", "cpu_scv", "io_seconds_per_request"):
        value = getattr(service.container, field)
        if service.endpoints is None and value is None:
            yield Problem(("container", field), "required where a service has no endpoints", value)
        elif service.endpoints is not None and value is not None:
            yield Problem(("container", field), "must be left out beside endpoints: their steps say it", value)
    if service.endpoints is not None:
        for field in ("reads_per_call", "writes_per_call", "cacheable_share"):
            if getattr(service.queries, field) > 0:
                rule = "must be left out beside endpoints: their steps say it"
                yield Problem(("queries", field), rule, getattr(service.queries, field))


def _names_broken(key: str, items: Any) -> Iterator[Problem]:
    for index, first in repeated_names([item.name for item in items]):
        yield Problem((key, index, "name"), f"must be unique; {key}.{first} has it too", items[index].name)


def repeated_names(names: list[Any]) -> Iterator[tuple[int, int]]:
    """Place of each name that stands there before, with the place of the first such; what is no text has no name."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if isinstance(name, str) and first.setdefault(name, index) != index:
            yield index, first[name]


# --- What components ask of services


def asks(service: Any) -> bool:
    """Whether calls of a service ask the database, through the cache or not."""
    if service.endpoints is None:
        return bool(service.queries.reads_per_call + service.queries.writes_per_call > 0)
    return any(
        getattr(step, key) is not None for _, step in steps_of(service) for key in ("cached_read", "read", "write")
    )


def steps_of(service: Any) -> Iterator[tuple[Location, Any]]:
    """Every step of the endpoints of a service, those within branches too, and where it stands in the service."""
    for index, endpoint in enumerate(service.endpoints or ()):
        yield from _within(endpoint.steps, ("endpoints", index, "steps"))


def _within(steps: Any, at: Location) -> Iterator[tuple[Location, Any]]:
    for index, step in enumerate(steps):
        yield (*at, index), step
        for number, branch in enumerate(step.parallel or ()):
            yield from _within(branch, (*at, index, "parallel", number))


def queries_broken(profile: Any, fields: tuple[str, ...], keys: tuple[str, ...], needed: str) -> Iterator[Problem]:
    """Queries of services that need a component which the profile does not have.

    Args:
        fields: of `queries`.
        keys: of steps.
        needed: the component's key.
    """
    for index, service in enumerate(profile.services):
        for field in fields:
            if getattr(service.queries, field) > 0:
                at: Location = ("services", index, "queries", field)
                yield Problem(at, f"must be 0 without a {needed}", getattr(service.queries, field))
        for place, step in steps_of(service):
            for key in keys:
                if getattr(step, key) is not None:
                    yield Problem(("services", index, *place, key), f"needs a {needed}", getattr(step, key).count)
