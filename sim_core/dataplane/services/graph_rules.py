"""What is wrong with the graph of a profile, and what is allowed but will surprise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sim_core.dataplane.services.drafts import Draft, callees_of, calls_of, cycles_of, drafts_of
from sim_core.dataplane.services.graph import Graph, build, client_of, resolve
from sim_core.dataplane.services.kinds import INGRESS
from sim_core.dataplane.services.profile import STEP_KEYS
from sim_core.dataplane.services.rules import impatience, repeated_names, retries_broken, steps_of
from sim_core.documents import Location, Problem, dotted
from sim_core.errors import nearest

if TYPE_CHECKING:
    from sim_core.profile import CoreProfile


def broken_rules(profile: Any) -> Iterator[Problem]:
    """Broken rules of endpoints, steps, calls and kinds of requests. Written as "if broken": NaN breaks none of them."""
    broken = [
        *_requests_broken(profile),
        *_endpoints_broken(profile),
        *_edges_broken(profile),
    ]
    if _names_readable(profile):
        broken += _calls_broken(profile)
        if not broken:
            yield from _means_broken(profile)
    yield from broken


def _names_readable(profile: Any) -> bool:
    """Whether every list is there and every name is text: else nobody can tell what a call leads to."""
    endpoints = [endpoint for service in profile.services for endpoint in service.endpoints or ()]
    lists = [
        profile.services,
        profile.requests,
        *(kind.shares for kind in profile.requests or ()),
        *(s.endpoints for s in profile.services),
        *(e.steps for e in endpoints),
    ]
    return all(items is None or items for items in lists) and all(
        isinstance(item.name, str) for item in [*profile.services, *endpoints, *(profile.requests or ())]
    )


def _means_broken(profile: Any) -> Iterator[Problem]:
    graph = build(profile)
    if sum(graph.cpu_seconds_per_request) == 0.0:  # nothing to size pods by
        yield Problem(("requests",), "must lead to an endpoint with a cpu step", profile.requests)
    for kind in graph.classes:
        ideal_s = graph.idle_s[kind.endpoint]
        if ideal_s < kind.latency_threshold_s or math.isnan(ideal_s) or math.isnan(kind.latency_threshold_s):
            continue
        at: Location = ("requests", kind.endpoint) if kind.own_slo else ()
        rule = f"must be greater than the latency of an idle system, {ideal_s:.3g} s (mean times added up)"
        if profile.requests is not None and not kind.own_slo:
            rule = f"{rule}, for requests of class {kind.name}, unless they have an slo of their own"
        yield Problem((*at, "slo", "latency_threshold_seconds"), rule, kind.latency_threshold_s)


# --- Kinds of requests


def _requests_broken(profile: Any) -> Iterator[Problem]:
    requests = profile.requests
    if requests is None:
        yield from _plain_broken(profile)
        return
    for index, first in repeated_names([kind.name for kind in requests]):
        yield Problem(("requests", index, "name"), f"must be unique; requests.{first} has it too", requests[index].name)
    for index, kind in enumerate(requests):
        yield from _one_of(("requests", index), kind, ("endpoint", "calls"))
        yield from _one_of(("requests", index), kind, ("share", "shares"))
    yield from _shares_broken(requests)
    for index, service in enumerate(profile.services):
        if service.calls_per_request < 1.0 or service.calls_per_request > 1.0:
            rule = "must be left out beside requests: they and the calls of endpoints say it"
            yield Problem(("services", index, "calls_per_request"), rule, service.calls_per_request)


def _plain_broken(profile: Any) -> Iterator[Problem]:
    """Without kinds of requests each request visits every service in turn: each must have one endpoint, which calls none."""
    for index, service in enumerate(profile.services):
        called = next((step.call.endpoint for _, step in steps_of(service) if step.call is not None), None)
        if called is not None:
            rule = "required where endpoints call others: it says where requests enter"
            yield Problem(("requests",), f"{rule} (services.{index} calls {called})", None)
            return
        if len(service.endpoints or ()) > 1:
            rule = "required where a service has several endpoints: it says which ones requests visit"
            yield Problem(("requests",), f"{rule} (services.{index} has {len(service.endpoints)})", None)
            return


def _one_of(at: Location, item: Any, keys: tuple[str, str]) -> Iterator[Problem]:
    given = [key for key in keys if getattr(item, key) is not None]
    if len(given) != 1:
        yield Problem(at, f"needs one of {' and '.join(keys)}", " and ".join(given) or "none")


def _shares_broken(requests: Any) -> Iterator[Problem]:
    tables = {index: kind.shares for index, kind in enumerate(requests) if kind.shares}
    first = next(iter(tables), 0)
    for index, shares in tables.items():
        if len(shares) != len(tables[first]):
            rule = f"must have as many items as requests.{first}.shares, {len(tables[first])}"
            yield Problem(("requests", index, "shares"), rule, shares)
            return
    for step in range(len(tables[first]) if tables else 1):
        weights = [kind.shares[step] if kind.shares else kind.share for kind in requests]
        if weights and all(weight == 0 for weight in weights):
            when = f" in step {step}" if tables else ""
            yield Problem(("requests",), f"shares must not all be 0{when}", 0)
            return


# --- Endpoints, their steps, and how they call each other


def _endpoints_broken(profile: Any) -> Iterator[Problem]:
    for index, service in enumerate(profile.services):
        endpoints = service.endpoints or ()
        for place, first in repeated_names([endpoint.name for endpoint in endpoints]):
            rule = f"must be unique in the service; endpoints.{first} has it too"
            yield Problem(("services", index, "endpoints", place, "name"), rule, endpoints[place].name)
        for at, step in steps_of(service):
            yield from _step_broken(step, ("services", index, *at))


def _step_broken(step: Any, at: Location) -> Iterator[Problem]:
    given = [key for key in STEP_KEYS if getattr(step, key) is not None]
    if len(given) != 1:
        yield Problem(at, f"must hold one of {', '.join(STEP_KEYS)}", " and ".join(given) or "none")
    if step.parallel is None:
        return
    if len(step.parallel) == 0:
        yield Problem((*at, "parallel"), "must have at least 1 branch: this is a join of nothing", step.parallel)
    for number, branch in enumerate(step.parallel):
        if len(branch) == 0:
            rule = "must have at least 1 step: a join waits for something in each branch"
            yield Problem((*at, "parallel", number), rule, branch)


def _calls_broken(profile: Any) -> Iterator[Problem]:
    drafts = drafts_of(profile)
    known = {draft.name: index for index, draft in enumerate(drafts) if draft.service != INGRESS}
    for draft in drafts:
        for call in calls_of(draft.actions):
            if call.target not in known:
                yield Problem(call.at, _unknown_target(call.target, list(known)), call.target)
    for places in cycles_of(callees_of(drafts)):
        *_, last, again = [drafts[place] for place in places]
        closing = next(call for call in calls_of(last.actions) if call.target == again.name)
        names = " -> ".join(drafts[place].name for place in places)
        yield Problem(closing.at, f"calls must not go in a circle: {names}", closing.target)


def _unknown_target(target: str, known: Sequence[str]) -> str:
    service, _, endpoint = target.partition(".")
    of_service = [name for name in known if name.partition(".")[0] == service]
    if endpoint and of_service == [service]:
        return f"no such endpoint: {service} has none of its own; write '{service}'"
    if of_service:
        return f"no such endpoint; {service} has {', '.join(of_service)}{nearest(target, of_service)}"
    return f"no such endpoint{nearest(target, known)}"


def _edges_broken(profile: Any) -> Iterator[Problem]:
    """Edges that lead nowhere, stand twice or belong to no call, and their clients."""
    services = {service.name: service for service in profile.services}
    called = _called_services(profile) if _names_readable(profile) else None
    owners: list[tuple[int, Location, Any]] = [(INGRESS, ("ingress",), profile.ingress)]
    owners += [(index, ("services", index), service) for index, service in enumerate(profile.services)]
    for caller, at, owner in owners:
        repeated = dict(repeated_names([edge.service for edge in owner.calls]))
        for index, edge in enumerate(owner.calls):
            here: Location = (*at, "calls", index)
            if index in repeated:
                rule = f"must be unique; calls.{repeated[index]} has it too"
                yield Problem((*here, "service"), rule, edge.service)
            elif isinstance(edge.service, str) and called is not None and edge.service not in services:
                yield Problem((*here, "service"), f"no such service{nearest(edge.service, services)}", edge.service)
            elif isinstance(edge.service, str) and called is not None and edge.service not in called[caller]:
                who = "the ingress" if caller == INGRESS else owner.name
                yield Problem((*here, "service"), f"is never called by {who}", edge.service)
            if edge.client is not None and edge.service in services:
                client = client_of(services[edge.service], edge.client)
                if caller == INGRESS and profile.requests is None:
                    yield from impatience(profile, client, (*here, "client"))
                yield from retries_broken(profile, client, (*here, "client"))


def _called_services(profile: Any) -> dict[int, set[str]]:
    """Names of the services that each service and the ingress call."""
    called: dict[int, set[str]] = {INGRESS: set(), **{index: set() for index in range(len(profile.services))}}
    for draft in drafts_of(profile):
        called[draft.service].update(call.target.partition(".")[0] for call in calls_of(draft.actions))
    return called


# --- Allowed, but surprising


def warnings_of(profile: CoreProfile) -> list[str]:
    """What a profile may hold but hardly means: endpoints that nobody enters, callers that give up before the answer."""
    return [*_never_entered(drafts_of(profile)), *dict.fromkeys(_too_impatient(resolve(profile)))]


def _never_entered(drafts: Sequence[Draft]) -> Iterator[str]:
    callees = callees_of(drafts)
    entered = {place for place, draft in enumerate(drafts) if draft.service == INGRESS}
    pending = list(entered)
    while pending:
        called = set(callees[pending.pop()]) - entered
        entered |= called
        pending += called
    for place, draft in enumerate(drafts):
        if place not in entered:
            yield f"{dotted(draft.at)}: nobody enters {draft.name}: no request and no call leads there"


def _too_impatient(graph: Graph) -> Iterator[str]:
    for call in graph.calls:
        caller, callee = graph.endpoints[call.caller].name, graph.endpoints[call.endpoint].name
        timeout_s, idle_s, retries = call.client.timeout_seconds, graph.idle_s[call.endpoint], call.client.max_retries
        if timeout_s <= idle_s:
            then = f"and be retried up to {retries} times" if retries else "and fail"
            yield (
                f"{caller}: most calls of {caller} to {callee} will time out {then}, while {callee} works on for nobody: "
                f"their timeout of {timeout_s:g} s is not above the mean time below it, {idle_s:.3g} s on an idle system"
            )
