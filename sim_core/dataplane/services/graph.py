"""The graph of a profile: endpoints, their steps, the calls between them and the kinds of requests, as the tables have them.

A profile names what it calls; rows of tables count. `resolve` turns one into the other, adds what the profile leaves
unsaid (the one endpoint of a plain service, the one class of a plain profile, what callers inherit) and works out the
means that need no simulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sim_core.dataplane.services.drafts import Action, Draft, callees_of, callers_first, calls_of, drafts_of
from sim_core.dataplane.services.kinds import (
    BALANCINGS,
    BRANCH,
    CACHED_READ,
    CALL_STEP,
    CPU,
    INGRESS,
    NO_PARENT,
    PARALLEL,
    READ,
    SHARINGS,
    WRITE,
)
from sim_core.dataplane.services.profile import client_of

if TYPE_CHECKING:
    from sim_core.dataplane.services.profile import Client
    from sim_core.profile import CoreProfile

DAY_S = 86_400.0
NO_TARGET = -1  # of a step that calls nothing and asks nothing
ONLY = 0  # row of the cache, and of the database: a profile has at most one


@dataclass(frozen=True)
class Service:
    """What a service's row has from the graph, and from the ingress where the service itself is silent."""

    name: str
    endpoints_first: int
    n_endpoints: int
    balancing: int  # of kinds.BALANCINGS
    balancer_nodes: int
    slow_start_s: float
    sticky_share: float
    sharing: int  # of kinds.SHARINGS
    quota_period_s: float


@dataclass(frozen=True)
class Endpoint:
    """Row of `endpoints`."""

    name: str  # `web.home`, `web` where the service has none of its own, `ingress.browse` for a class of requests
    service: int  # its place in the profile, or INGRESS
    steps_first: int
    n_steps: int  # with all that its steps hold
    cpu_s: float  # mean of a call on a warm pod, all its CPU steps together


@dataclass(frozen=True)
class Step:
    """Row of `steps`."""

    kind: int
    endpoint: int
    parent: int
    end: int
    probability: float
    count: float
    mean_s: float
    scv: float
    target: int  # of CALL_STEP: row of `calls`; of queries: row of caches or databases; else NO_TARGET


@dataclass(frozen=True)
class Call:
    """Row of `calls`: one a CALL_STEP."""

    step: int
    caller: int
    endpoint: int
    service: int
    client: Client
    pass_deadline: bool
    breaker_requests: float  # inf: off
    ejection_failures: int  # 0: off
    ejection_s: float
    ejection_share: float


@dataclass(frozen=True)
class RequestClass:
    """Row of `classes`."""

    name: str
    endpoint: int
    shares: tuple[float, ...]  # of the traffic, in equal steps from midnight; all classes' add up to 1 in each
    share_step_s: float
    objective: float
    latency_threshold_s: float
    own_slo: bool

    @property
    def mean_share(self) -> float:
        """Share of the traffic over the day, every step counted alike [1]."""
        return sum(self.shares) / len(self.shares)


@dataclass(frozen=True)
class Graph:
    """The rows of a profile, and what they mean on the average.

    Endpoints of the ingress come first, one a class; then those of each service, next to each other, the services in
    `order`. "A request" below is one of the mean mix: each class by its mean share of the day. No means hold retries.
    """

    services: tuple[Service, ...]  # as in the profile
    endpoints: tuple[Endpoint, ...]
    steps: tuple[Step, ...]
    calls: tuple[Call, ...]
    classes: tuple[RequestClass, ...]
    order: tuple[int, ...]  # services, callers before callees; a best effort where services call each other in a circle
    endpoint_order: tuple[int, ...]  # rows of endpoints, callers before callees, always
    endpoint_visits: tuple[float, ...]  # calls of each endpoint a request
    visits: tuple[float, ...]  # calls of each service a request
    cpu_seconds_per_request: tuple[float, ...]  # of each service, on warm pods [s of one core]
    idle_s: tuple[
        float, ...
    ]  # mean sojourn in each endpoint where nothing waits, pods are warm and cacheable reads hit

    @property
    def mean_idle_s(self) -> float:
        """Mean latency of a request where nothing waits [s]."""
        return sum(kind.mean_share * self.idle_s[kind.endpoint] for kind in self.classes)


@lru_cache(maxsize=256)
def resolve(profile: CoreProfile) -> Graph:
    """The graph of a valid profile."""
    return build(profile)


def build(profile: Any) -> Graph:
    """As `resolve`, also for what reads like a profile; its targets must be there, and its calls make no cycle."""
    drafts = drafts_of(profile)
    order = _service_order(drafts, len(profile.services))
    rank = {service: place for place, service in enumerate((INGRESS, *order))}
    sequence = callers_first(callees_of(drafts))
    drafts = [drafts[place] for place in sorted(sequence, key=lambda place: rank[drafts[place].service])]
    callees = {draft.name: row for row, draft in enumerate(drafts) if draft.service != INGRESS}
    tables = _Tables(profile, drafts, callees)
    classes = tuple(_classes(profile))
    endpoint_order = callers_first(callees_of(drafts))
    endpoint_visits = _visits(drafts, callees, classes, endpoint_order)
    visits, cpu_seconds = [0.0] * len(profile.services), [0.0] * len(profile.services)
    for endpoint, calls in zip(tables.endpoints, endpoint_visits, strict=True):
        if endpoint.service != INGRESS:
            visits[endpoint.service] += calls
            cpu_seconds[endpoint.service] += calls * endpoint.cpu_s
    return Graph(
        services=tuple(_services(profile, tables.endpoints)),
        endpoints=tuple(tables.endpoints),
        steps=tuple(tables.steps),
        calls=tuple(tables.calls),
        classes=classes,
        order=tuple(order),
        endpoint_order=tuple(endpoint_order),
        endpoint_visits=tuple(endpoint_visits),
        visits=tuple(visits),
        cpu_seconds_per_request=tuple(cpu_seconds),
        idle_s=tuple(_idle_s(profile, drafts, callees, endpoint_order)),
    )


def _service_order(drafts: Sequence[Draft], n_services: int) -> list[int]:
    called: list[dict[int, None]] = [{} for _ in range(n_services)]
    for draft, callees in zip(drafts, callees_of(drafts), strict=True):
        for callee in callees:
            if draft.service not in (INGRESS, drafts[callee].service):
                called[draft.service][drafts[callee].service] = None
    return callers_first([list(services) for services in called])


class _Tables:
    """Rows of endpoints, steps and calls, filled endpoint by endpoint."""

    def __init__(self, profile: Any, drafts: Sequence[Draft], callees: dict[str, int]):
        self.endpoints: list[Endpoint] = []
        self.steps: list[Any] = []  # of Step
        self.calls: list[Call] = []
        self._profile, self._drafts, self._callees = profile, drafts, callees
        self._edges = {
            (caller, edge.service): edge
            for caller, owner in [(INGRESS, profile.ingress), *enumerate(profile.services)]
            for edge in owner.calls
        }
        for row, draft in enumerate(drafts):
            first = len(self.steps)
            for action in draft.actions:
                self._add(action, row, NO_PARENT)
            cpu_s = _cpu_s(draft.actions)
            self.endpoints.append(Endpoint(draft.name, draft.service, first, len(self.steps) - first, cpu_s))

    def _add(self, action: Action, endpoint: int, parent: int) -> None:
        row = len(self.steps)
        target = NO_TARGET
        if action.kind == CALL_STEP:
            target = len(self.calls)
            self.calls.append(self._call(row, endpoint, self._callees[action.target]))
        elif action.kind in (CACHED_READ, READ, WRITE):
            target = ONLY
        self.steps.append(None)  # its end is known when all that it holds stands below it
        for branch in action.branches:
            self._add_branch(branch, endpoint, row)
        self.steps[row] = Step(
            action.kind,
            endpoint,
            parent,
            len(self.steps),
            action.probability,
            action.count,
            action.mean_s,
            action.scv,
            target,
        )

    def _add_branch(self, actions: Sequence[Action], endpoint: int, parent: int) -> None:
        row = len(self.steps)
        self.steps.append(None)
        for action in actions:
            self._add(action, endpoint, row)
        self.steps[row] = Step(BRANCH, endpoint, parent, len(self.steps), 1.0, 1.0, 0.0, 0.0, NO_TARGET)

    def _call(self, step: int, caller: int, endpoint: int) -> Call:
        service = self._drafts[endpoint].service
        callee = self._profile.services[service]
        edge = self._edges.get((self._drafts[caller].service, callee.name))
        breaker, ejection = getattr(edge, "circuit_breaker", None), getattr(edge, "outlier_ejection", None)
        return Call(
            step,
            caller,
            endpoint,
            service,
            client=client_of(callee, getattr(edge, "client", None)),
            pass_deadline=getattr(edge, "pass_deadline", False),
            breaker_requests=math.inf if breaker is None else float(breaker.max_requests),
            ejection_failures=0 if ejection is None else ejection.consecutive_failures,
            ejection_s=0.0 if ejection is None else ejection.base_ejection_seconds,
            ejection_share=0.0 if ejection is None else ejection.max_ejection_share,
        )


def _services(profile: Any, endpoints: Sequence[Endpoint]) -> Iterator[Service]:
    first = {endpoint.service: row for row, endpoint in reversed(list(enumerate(endpoints)))}
    counts = [endpoint.service for endpoint in endpoints]
    for index, service in enumerate(profile.services):
        inherited = {
            field: getattr(profile.ingress if getattr(service, field) is None else service, field)
            for field in ("load_balancing", "balancer_nodes", "slow_start_seconds", "sticky_share")
        }
        yield Service(
            service.name,
            first.get(index, 0),
            counts.count(index),
            balancing=_place(BALANCINGS, inherited["load_balancing"]),
            balancer_nodes=inherited["balancer_nodes"],
            slow_start_s=inherited["slow_start_seconds"],
            sticky_share=inherited["sticky_share"],
            sharing=_place(SHARINGS, service.container.cpu_sharing),
            quota_period_s=service.container.cfs_quota_period_seconds,
        )


def _place(names: Sequence[str], name: Any) -> int:
    return names.index(name) if name in names else -1  # of an invalid name: no row is made of it


def _classes(profile: Any) -> Iterator[RequestClass]:
    whole = profile.slo
    if profile.requests is None:
        yield RequestClass("all", 0, (1.0,), DAY_S, whole.objective, whole.latency_threshold_seconds, False)
        return
    steps = max((len(kind.shares) for kind in profile.requests if kind.shares is not None), default=1)
    weights = [[kind.share] * steps if kind.shares is None else list(kind.shares) for kind in profile.requests]
    totals = [sum(of_step) for of_step in zip(*weights, strict=True)]
    for row, kind in enumerate(profile.requests):
        shares = tuple(weight / total for weight, total in zip(weights[row], totals, strict=True))
        slo = whole if kind.slo is None else kind.slo
        yield RequestClass(
            kind.name, row, shares, DAY_S / steps, slo.objective, slo.latency_threshold_seconds, kind.slo is not None
        )


# --- Means


def _cpu_s(actions: Sequence[Action]) -> float:
    own = sum((action.times * action.mean_s for action in actions if action.kind == CPU), 0.0)
    return own + sum(_cpu_s(branch) for action in actions for branch in action.branches)


def _visits(
    drafts: Sequence[Draft], callees: dict[str, int], classes: Sequence[RequestClass], order: Sequence[int]
) -> list[float]:
    visits = [0.0] * len(drafts)
    for kind in classes:
        visits[kind.endpoint] = kind.mean_share
    for row in order:
        for call in calls_of(drafts[row].actions):
            visits[callees[call.target]] += visits[row] * call.times
    return visits


def _idle_s(profile: Any, drafts: Sequence[Draft], callees: dict[str, int], order: Sequence[int]) -> list[float]:
    cache, database = getattr(profile, "cache", None), getattr(profile, "database", None)
    query_s = {
        CACHED_READ: 0.0 if cache is None else cache.lookup_seconds,
        READ: 0.0 if database is None else database.read_seconds,
        WRITE: 0.0 if database is None else database.write_seconds,
    }
    idle_s = [0.0] * len(drafts)

    def one_s(action: Action, speed: float) -> float:
        if action.kind == PARALLEL:
            return max(all_s(branch, speed) for branch in action.branches)
        if action.kind == CALL_STEP:
            return idle_s[callees[action.target]]
        if action.kind == CPU:
            return action.mean_s / speed
        return query_s.get(action.kind, action.mean_s)

    def all_s(actions: Sequence[Action], speed: float) -> float:
        return sum((action.times * one_s(action, speed) for action in actions), 0.0)

    for row in reversed(order):
        service = drafts[row].service
        speed = 1.0 if service == INGRESS else _speed(profile.services[service].container)
        idle_s[row] = all_s(drafts[row].actions, speed)
    return idle_s


def _speed(container: Any) -> float:
    """CPU that a call gets while it is alone in its pod [cores]; under a quota at most so much, until it is used up."""
    cores = container.cpu_limit_cores
    if container.cpu_sharing == "fifo" and not math.isnan(cores):
        return cores / math.ceil(cores)
    return 1.0 if container.cpu_sharing == "cfs_quota" else min(1.0, cores)
