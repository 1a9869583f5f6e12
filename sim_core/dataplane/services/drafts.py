"""Endpoints as a profile describes them, with what it leaves unsaid, before they become rows: who calls whom, by name.

Reads whatever reads like a profile, invalid ones too, so that rules can be checked before there is a profile: numbers
may be NaN, targets may lead nowhere, calls may go in circles.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sim_core.dataplane.services.kinds import CACHED_READ, CALL_STEP, CPU, INGRESS, PARALLEL, READ, WAIT, WRITE
from sim_core.documents import Location

KINDS = {
    "cpu": CPU,
    "wait": WAIT,
    "call": CALL_STEP,
    "parallel": PARALLEL,
    "cached_read": CACHED_READ,
    "read": READ,
    "write": WRITE,
}


@dataclass(frozen=True)
class Action:
    """A step: what is done, how often, and where the profile says so."""

    kind: int
    at: Location
    probability: float = 1.0
    count: float = 1.0
    mean_s: float = 0.0  # of CPU and WAIT
    scv: float = 0.0
    target: str = ""  # of CALL_STEP: the endpoint's name
    branches: tuple[tuple[Action, ...], ...] = ()  # of PARALLEL

    @property
    def times(self) -> float:
        """How often it is done, on the mean [1]."""
        return self.probability * self.count


@dataclass(frozen=True)
class Draft:
    """An endpoint of a service, or what the ingress does for a class of requests."""

    name: str
    service: int  # its place in the profile, or INGRESS
    at: Location
    actions: tuple[Action, ...]


def drafts_of(profile: Any) -> list[Draft]:
    """Every endpoint: those of the ingress, one a class, then those of the services, in the profile's order."""
    services = [
        draft
        for index, service in enumerate(profile.services)
        for draft in _service_drafts(service, ("services", index))
    ]
    return [*_ingress_drafts(profile, services), *services]


def _service_drafts(service: Any, at: Location) -> Iterator[Draft]:
    index = int(at[-1])
    if service.endpoints is None:
        yield Draft(str(service.name), index, at, tuple(_plain_actions(service, at)))
    for number, endpoint in enumerate(service.endpoints or ()):
        here = (*at, "endpoints", number)
        actions = tuple(_actions(endpoint.steps, (*here, "steps")))
        yield Draft(f"{service.name}.{endpoint.name}", index, here, actions)


def _plain_actions(service: Any, at: Location) -> Iterator[Action]:
    """What a call of a service without endpoints does; what takes no time is no step."""
    container, queries = service.container, service.queries
    cached = queries.reads_per_call * queries.cacheable_share
    yield Action(
        CPU, (*at, "container"), mean_s=_number(container.cpu_seconds_per_request), scv=_number(container.cpu_scv)
    )
    if container.io_seconds_per_request != 0.0:
        yield Action(WAIT, (*at, "container"), mean_s=_number(container.io_seconds_per_request), scv=1.0)
    for kind, count in (
        (CACHED_READ, cached),
        (READ, queries.reads_per_call - cached),
        (WRITE, queries.writes_per_call),
    ):
        if count > 0.0:
            yield Action(kind, (*at, "queries"), count=count)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _actions(steps: Any, at: Location) -> Iterator[Action]:
    """The steps of a list; one with no key or with several is left out, which a rule reports."""
    for index, step in enumerate(steps):
        given = [key for key in KINDS if getattr(step, key) is not None]
        if len(given) == 1:
            yield _action(given[0], getattr(step, given[0]), (*at, index, given[0]))


def _action(key: str, step: Any, at: Location) -> Action:
    kind = KINDS[key]
    if kind == PARALLEL:
        branches = (tuple(_actions(branch, (*at, number))) for number, branch in enumerate(step))
        return Action(kind, at, branches=tuple(branches))
    if kind == CALL_STEP:
        return _call(step, at)
    if kind in (CPU, WAIT):
        return Action(kind, at, step.probability, mean_s=step.seconds, scv=step.scv)
    return Action(kind, at, step.probability, step.count)


def _call(step: Any, at: Location) -> Action:
    return _calling(step.endpoint, (*at, "endpoint"), step.probability, step.count)


def _calling(target: Any, at: Location, probability: float = 1.0, count: float = 1.0) -> Action:
    if not isinstance(target, str):  # an invalid one: it takes nobody knows how long
        return Action(WAIT, at, mean_s=math.nan)
    return Action(CALL_STEP, at, probability, count, target=target)


def _ingress_drafts(profile: Any, services: Sequence[Draft]) -> Iterator[Draft]:
    wait = Action(WAIT, ("ingress",), mean_s=profile.ingress.latency_seconds, scv=profile.ingress.scv)
    waits = () if wait.mean_s == 0.0 else (wait,)
    if profile.requests is None:
        calls = [
            Action(CALL_STEP, draft.at, count=profile.services[draft.service].calls_per_request, target=draft.name)
            for draft in services
        ]
        yield Draft("ingress.all", INGRESS, ("ingress",), (*waits, *calls))
    for index, kind in enumerate(profile.requests or ()):
        at: Location = ("requests", index)
        if kind.endpoint is not None:
            calls = [_calling(kind.endpoint, (*at, "endpoint"))]
        else:
            calls = [_call(step, (*at, "calls", number)) for number, step in enumerate(kind.calls or ())]
        yield Draft(f"ingress.{kind.name}", INGRESS, at, (*waits, *calls))


def calls_of(actions: Sequence[Action]) -> Iterator[Action]:
    """Every call among steps, those within branches too, in their order."""
    for action in actions:
        if action.kind == CALL_STEP:
            yield action
        for branch in action.branches:
            yield from calls_of(branch)


def callees_of(drafts: Sequence[Draft]) -> list[list[int]]:
    """For each draft those that it calls, by their place in `drafts`; targets that are not there are left out."""
    place = {draft.name: index for index, draft in enumerate(drafts) if draft.service != INGRESS}
    return [
        list(dict.fromkeys(place[call.target] for call in calls_of(draft.actions) if call.target in place))
        for draft in drafts
    ]


def callers_first(callees: Sequence[Sequence[int]]) -> list[int]:
    """Places in an order in which callers come before callees, else the lower place first.

    Where calls go in a circle, the one of it with the fewest callers that are still to come goes first.
    """
    waits_for = [0] * len(callees)
    for called in callees:
        for index in called:
            waits_for[index] += 1
    ready = [index for index, callers in enumerate(waits_for) if callers == 0]
    left, order = set(range(len(callees))), list[int]()
    while left:
        index = heapq.heappop(ready) if ready else min(left, key=lambda place: (waits_for[place], place))
        left.remove(index)
        order.append(index)
        for callee in callees[index]:
            waits_for[callee] -= 1
            if waits_for[callee] == 0 and callee in left:
                heapq.heappush(ready, callee)
    return order


def cycles_of(callees: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Cycles of calls, each as the places that it leads through, the first one again at its end; one a closing call."""
    done: set[int] = set()
    for root in range(len(callees)):
        path, on_path = [root], {root: 0}
        pending = [iter(callees[root])] if root not in done else []
        while pending:
            called = next(pending[-1], None)
            if called is None:
                pending.pop()
                done.add(path[-1])
                del on_path[path.pop()]
            elif called in on_path:
                yield [*path[on_path[called] :], called]
            elif called not in done:
                on_path[called] = len(path)
                path.append(called)
                pending.append(iter(callees[called]))
