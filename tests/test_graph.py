"""The graph of services: what a profile may say of it, what is wrong, what becomes rows, and the means of it."""

from __future__ import annotations

import copy
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim_core.dataplane.services import kinds, records
from sim_core.dataplane.services.drafts import KINDS, callers_first, cycles_of
from sim_core.dataplane.services.graph import resolve
from sim_core.dataplane.services.kinds import (
    BRANCH,
    CACHED_READ,
    CALL_STEP,
    CPU,
    INGRESS,
    NO_PARENT,
    PARALLEL,
    READ,
    WAIT,
    WRITE,
)
from sim_core.dataplane.services.profile import Client, Step
from sim_core.errors import ProfileError
from sim_core.profile import Profile, bundled_profiles, ideal_latency_seconds, load_profile, warnings_of
from tests.generated import PLAIN_ONLY, graph_profiles, large_profile

EXAMPLES = Path(__file__).parents[1] / "experiments" / "profiles"
PRODUCTION = load_profile("production").to_dict()
QUERY_KINDS = (CACHED_READ, READ, WRITE)


def service(name, **changes):
    """A service of production under another name; with `endpoints`, a mapping of steps, these say what a call costs."""
    made = copy.deepcopy(PRODUCTION["services"][0]) | {"name": name}
    if endpoints := changes.pop("endpoints", None):
        made["endpoints"] = [{"name": key, "steps": steps} for key, steps in endpoints.items()]
        made["container"] |= dict.fromkeys(PLAIN_ONLY)
        made["queries"] = {}
    made["container"] |= changes.pop("container", {})
    return made | changes


def document(*services, requests=None, **changes):
    return copy.deepcopy(PRODUCTION) | {"services": list(services), "requests": requests} | changes


def cpu(seconds=0.01, **changes):
    return {"cpu": {"seconds": seconds} | changes}


def call(endpoint, **changes):
    return {"call": {"endpoint": endpoint} | changes}


def entering(*endpoints):
    return [{"name": f"c{index}", "share": 1, "endpoint": endpoint} for index, endpoint in enumerate(endpoints)]


def problems_of(data):
    with pytest.raises(ProfileError) as refused:
        Profile.from_dict(data, "file.yaml")
    return refused.value.problems


def by_name(rows):
    return {row.name: row for row in rows}


# --- plain profiles


def test_a_plain_service_has_one_endpoint_and_requests_visit_every_service_in_turn():
    """CPU, wait, cached reads, reads, writes: what `experimental` says of a call; web asks nothing. The web tier calls
    nobody: a request visits web once and then the API twice, as it always did."""
    graph = resolve(load_profile("experimental"))
    assert [endpoint.name for endpoint in graph.endpoints] == ["ingress.all", "web", "api"]
    steps = [[graph.steps[e.steps_first + i] for i in range(e.n_steps)] for e in graph.endpoints]
    assert [[step.kind for step in of] for of in steps] == [
        [WAIT, CALL_STEP, CALL_STEP],
        [CPU, WAIT],
        [CPU, WAIT, CACHED_READ, READ, WRITE],
    ]
    assert [step.count for step in steps[0]] == [1.0, 1.0, 2.0]
    assert [(step.mean_s, step.scv) for step in steps[2][:2]] == [(0.02, 4.0), (0.01, 1.0)]
    assert [step.count for step in steps[2][2:]] == pytest.approx([1.8, 0.2, 0.1], rel=1e-12)
    assert graph.visits == (1.0, 2.0)
    assert graph.cpu_seconds_per_request == pytest.approx((0.006, 0.04), rel=1e-12)
    (whole,) = graph.classes
    assert (whole.name, whole.endpoint, whole.shares, whole.own_slo) == ("all", 0, (1.0,), False)
    assert (whole.objective, whole.latency_threshold_s) == (0.98, 0.5)


@pytest.mark.parametrize("name", bundled_profiles())
def test_a_bundled_profile_has_nothing_to_warn_of(name):
    assert warnings_of(load_profile(name)) == []


def test_what_takes_no_time_is_no_step():
    api = service(
        "api", container={"io_seconds_per_request": 0.0}, queries={"reads_per_call": 2.0, "cacheable_share": 1.0}
    )
    graph = resolve(Profile.from_dict(document(api)))
    assert [step.kind for step in graph.steps if step.endpoint == 1] == [CPU, CACHED_READ]


def test_a_service_with_one_endpoint_needs_no_kinds_of_requests():
    api = service("api", endpoints={"get": [cpu()]}, calls_per_request=3.0)
    graph = resolve(Profile.from_dict(document(api)))
    assert [endpoint.name for endpoint in graph.endpoints] == ["ingress.all", "api.get"]
    assert graph.visits == (3.0,)


# --- examples


def test_the_front_waits_for_the_slowest_of_three():
    """By hand: proxy 2 ms, 4 + 6 ms CPU, and of catalog 8 + 4 x 0.5 = 10 ms, reviews 12 + 10 + 0.5 + 2 = 24.5 ms and
    recommendations 0.8 x 30 = 24 ms the longest. Catalog is called by pages and 3.5 times by checkouts."""
    graph = resolve(load_profile(EXAMPLES / "front.yaml"))
    page, checkout = graph.classes
    assert graph.idle_s[page.endpoint] == pytest.approx(0.0365, rel=1e-12)
    assert page.mean_share + checkout.mean_share == pytest.approx(1.0, rel=1e-12)
    assert graph.visits == pytest.approx(
        (1.0, page.mean_share + 3.5 * checkout.mean_share, page.mean_share, 0.8 * page.mean_share), rel=1e-12
    )
    assert page.shares[0] == pytest.approx(40 / 41, rel=1e-12)
    assert checkout.shares[20] == pytest.approx(12 / 107, rel=1e-12)
    assert page.share_step_s == 3600.0
    assert (checkout.own_slo, checkout.objective, checkout.latency_threshold_s) == (True, 0.95, 1.5)


def test_the_store_of_the_diamond_sees_every_request_twice():
    """The slower side: 2 + 5 + 15 + 8 + 5 = 35 ms."""
    graph = resolve(load_profile(EXAMPLES / "diamond.yaml"))
    assert graph.visits == (1.0, 1.0, 1.0, 2.0)
    assert graph.mean_idle_s == pytest.approx(0.035, rel=1e-12)
    assert graph.order == (0, 1, 2, 3)


def test_the_boutique_calls_as_its_source_does():
    """Of 23 requests 13 look at a product, 3 at the cart, 3 add to it, 2 set the currency, 1 each is home and checkout.
    Currency: list and 9 at home, list and 1 for a product, list, 1 and 2 for the cart, 1 list and 3 at checkout."""
    profile = load_profile(EXAMPLES / "boutique.yaml")
    graph = resolve(profile)
    visits = {service.name: 23 * calls for service, calls in zip(graph.services, graph.visits, strict=True)}
    assert len(profile.services) == 10
    assert visits["frontend"] == pytest.approx(23)
    assert visits["currency"] == pytest.approx(1 * 10 + 13 * 2 + 3 * 4 + 1 * 4)
    assert visits["recommendations"] == pytest.approx(13 + 3 + 1)
    assert visits["products"] == pytest.approx(1 + 13 + 3 + 3 * 2 + 2 + visits["recommendations"])
    assert visits["carts"] == pytest.approx(1 + 13 + 3 + 3 + 2)
    assert visits["ads"] == pytest.approx(14)
    assert [visits[name] for name in ("checkout", "payment", "email")] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("name", ["front", "diamond", "boutique"])
def test_an_example_is_whole(name):
    profile = load_profile(EXAMPLES / f"{name}.yaml")
    assert profile.name == name
    assert warnings_of(profile) == []
    assert Profile.from_dict(profile.to_dict()) == profile
    assert resolve(profile) is resolve(Profile.from_dict(profile.to_dict()))  # equal profiles share their graph


def test_a_profile_may_have_thirty_services_of_two_hundred_pods():
    profile = large_profile(n_services=30, pods=200)
    graph = resolve(profile)
    assert len(profile.services) == 30 and profile.services[29].replicas.max == 200
    assert sum(endpoint.service == INGRESS for endpoint in graph.endpoints) == 3
    assert warnings_of(profile) == []


def test_the_limits_are_two_hundred_services_of_five_thousand_pods():
    profile = large_profile(n_services=200, pods=5000, fan_out=5)
    assert len(resolve(profile).services) == 200
    with pytest.raises(ProfileError, match=r"services\.0\.replicas\.max: must be at most 5000 \(got 5001\)"):
        profile.with_overrides({"services.0.replicas.max": 5001})


# --- rows


def tree(graph, first, end):
    """Steps of rows first to end as nested lists, read from `end` alone."""
    row = first
    while row < end:
        step = graph.steps[row]
        yield row, step, list(tree(graph, row + 1, step.end))
        row = step.end


def check_parents(graph, nodes, parent, endpoint):
    for row, step, inner in nodes:
        assert (step.parent, step.endpoint) == (parent, endpoint)
        if step.kind == PARALLEL:
            assert inner and all(below.kind == BRANCH for _, below, _ in inner)
        elif step.kind == BRANCH:
            assert inner and all(below.kind != BRANCH for _, below, _ in inner)
        else:
            assert not inner and step.end == row + 1
        check_parents(graph, inner, row, endpoint)


def steps_of(graph, endpoint):
    return list(tree(graph, endpoint.steps_first, endpoint.steps_first + endpoint.n_steps))


def idle_s(graph, profile, nodes, speed):
    """Mean time of rows, from the rows alone."""
    total = 0.0
    for _, step, inner in nodes:
        if step.kind == PARALLEL:
            seconds = max(idle_s(graph, profile, below, speed) for _, _, below in inner)
        elif step.kind == CALL_STEP:
            seconds = graph.idle_s[graph.calls[step.target].endpoint]
        elif step.kind == CPU:
            seconds = step.mean_s / speed
        elif step.kind == WAIT:
            seconds = step.mean_s
        elif step.kind == CACHED_READ:
            seconds = profile.cache.lookup_seconds
        else:
            seconds = profile.database.read_seconds if step.kind == READ else profile.database.write_seconds
        total += step.probability * step.count * seconds
    return total


def cores_of_one(service):
    """By the meaning of the kinds: a FIFO core may be a slow one, a quota is full speed, else no more than the limit."""
    cores, sharing = service.container.cpu_limit_cores, service.container.cpu_sharing
    return {"fifo": cores / math.ceil(cores), "cfs_quota": 1.0, "processor_sharing": min(1.0, cores)}[sharing]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph_profiles())
def test_rows_are_whole_and_their_means_are_those_of_the_graph(profile):
    """Ranges partition the tables, callers come first, shares add up to 1. Visits solve v = classes + v P, which is solved
    here as the sum of classes P^n (elimination would lose the smallest of them); mean times follow from the rows alone;
    plain data makes the same profile again."""
    graph = resolve(profile)
    n_classes, rows = len(graph.classes), range(len(graph.endpoints))
    assert [graph.endpoints[i].service for i in range(n_classes)] == [INGRESS] * n_classes
    assert [kind.endpoint for kind in graph.classes] == list(range(n_classes))
    ends = list(itertools.accumulate(e.n_steps for e in graph.endpoints))
    assert [e.steps_first for e in graph.endpoints] == [0, *ends[:-1]] and ends[-1] == len(graph.steps)
    assert [c.step for c in graph.calls] == [row for row, step in enumerate(graph.steps) if step.kind == CALL_STEP]
    assert [graph.steps[c.step].target for c in graph.calls] == list(range(len(graph.calls)))
    for row, endpoint in enumerate(graph.endpoints):
        check_parents(graph, steps_of(graph, endpoint), NO_PARENT, row)
    for index, of_service in enumerate(graph.services):
        own = [row for row in rows if graph.endpoints[row].service == index]
        assert own == list(range(of_service.endpoints_first, of_service.endpoints_first + of_service.n_endpoints))
    place = {row: position for position, row in enumerate(graph.endpoint_order)}
    assert sorted(place) == list(rows) and sorted(graph.order) == list(range(len(profile.services)))
    for one in graph.calls:
        assert one.caller == graph.steps[one.step].endpoint and one.service == graph.endpoints[one.endpoint].service
        assert place[one.caller] < place[one.endpoint]
        assert one.caller < one.endpoint  # these services make no circle: rows themselves are in call order
    for shares in zip(*(kind.shares for kind in graph.classes), strict=True):
        assert sum(shares) == pytest.approx(1.0, rel=1e-12)

    entered, moved = np.zeros(len(rows)), np.zeros((len(rows), len(rows)))
    for kind in graph.classes:
        entered[kind.endpoint] = kind.mean_share
    for one in graph.calls:
        step = graph.steps[one.step]
        moved[one.caller, one.endpoint] += step.probability * step.count
    visits, deeper = entered, entered
    for _ in rows:  # no path is longer
        deeper = deeper @ moved
        visits = visits + deeper
    np.testing.assert_allclose(graph.endpoint_visits, visits, rtol=1e-9, atol=1e-300)
    cpu_s = [sum(s.probability * s.mean_s for s in graph.steps if s.endpoint == row and s.kind == CPU) for row in rows]
    np.testing.assert_allclose([e.cpu_s for e in graph.endpoints], cpu_s, rtol=1e-12)
    for index in range(len(profile.services)):
        own = [row for row in rows if graph.endpoints[row].service == index]
        assert graph.visits[index] == pytest.approx(sum(visits[row] for row in own), rel=1e-9)
        expected = sum(visits[row] * cpu_s[row] for row in own)
        assert graph.cpu_seconds_per_request[index] == pytest.approx(expected, rel=1e-9)
    for row, endpoint in enumerate(graph.endpoints):
        speed = 1.0 if endpoint.service == INGRESS else cores_of_one(profile.services[endpoint.service])
        expected = idle_s(graph, profile, steps_of(graph, endpoint), speed)
        assert graph.idle_s[row] == pytest.approx(expected, rel=1e-12)
    assert ideal_latency_seconds(profile) == graph.mean_idle_s
    assert Profile.from_dict(profile.to_dict()) == profile


def test_what_a_caller_does_not_say_is_the_callees_and_the_ingresses():
    """The edge's own words count for its calls alone; every other caller has the callee's client and no protection."""
    web = service(
        "web",
        endpoints={"home": [cpu(), call("api")]},
        calls=[
            {
                "service": "api",
                "client": {"timeout_seconds": 0.7, "max_retries": 1},
                "pass_deadline": True,
                "circuit_breaker": {},
                "outlier_ejection": {"max_ejection_share": 0.5},
            }
        ],
        load_balancing="power_of_two",
        sticky_share=0.25,
        container={"cpu_sharing": "cfs_quota"},
    )
    api = service("api", slow_start_seconds=60)
    ingress = PRODUCTION["ingress"] | {"balancer_nodes": 3, "slow_start_seconds": 5.0}
    data = document(web, api, requests=entering("web.home", "api"), ingress=ingress)
    graph = resolve(Profile.from_dict(data))
    plain, own = (
        next(c for c in graph.calls if c.service == 1 and graph.endpoints[c.caller].service == s) for s in (-1, 0)
    )
    assert plain.client == Profile.from_dict(data).services[1].client
    assert (plain.pass_deadline, plain.breaker_requests, plain.ejection_failures) == (False, math.inf, 0)
    assert (own.client.timeout_seconds, own.client.max_retries) == (0.7, 1)
    assert (own.client.backoff_seconds, own.client.retry_budget_ratio) == (0.5, 0.2)
    assert (own.pass_deadline, own.breaker_requests) == (True, 1024.0)  # Envoy's default
    assert (own.ejection_failures, own.ejection_s, own.ejection_share) == (5, 30.0, 0.5)
    first, second = graph.services
    assert (first.balancing, second.balancing) == (kinds.POWER_OF_TWO, kinds.LEAST_OUTSTANDING)
    assert (first.balancer_nodes, first.slow_start_s, first.sticky_share) == (3, 5.0, 0.25)
    assert (second.balancer_nodes, second.slow_start_s, second.sticky_share) == (3, 60.0, 0.0)
    assert (first.sharing, second.sharing) == (kinds.CFS_QUOTA, kinds.PROCESSOR_SHARING)


def test_callers_come_first_wherever_a_profile_lists_them():
    services = [service("c"), service("b", endpoints={"x": [call("c")]}), service("a", endpoints={"x": [call("b.x")]})]
    graph = resolve(Profile.from_dict(document(*services, requests=entering("a.x"))))
    assert graph.order == (2, 1, 0)
    assert [endpoint.name for endpoint in graph.endpoints] == ["ingress.c0", "a.x", "b.x", "c"]
    assert [one.name for one in graph.services] == ["c", "b", "a"]


def test_services_may_call_each_other_in_a_circle_where_their_endpoints_do_not():
    """a.x calls b.y, b.z calls a.w: no call comes back to where it began. Endpoints of a service stay together."""
    services = [
        service("a", endpoints={"w": [cpu()], "x": [call("b.y")]}),
        service("b", endpoints={"y": [cpu()], "z": [call("a.w")]}),
    ]
    graph = resolve(Profile.from_dict(document(*services, requests=entering("a.x", "b.z"))))
    assert sorted(graph.order) == [0, 1]
    assert [e.service for e in graph.endpoints] == [-1, -1, 0, 0, 1, 1]
    place = {graph.endpoints[row].name: position for position, row in enumerate(graph.endpoint_order)}
    assert place["a.x"] < place["b.y"] and place["b.z"] < place["a.w"]
    assert graph.visits == (1.0, 1.0)  # each class enters one service and calls the other, and is half of the traffic


def test_a_calls_share_is_the_product_of_what_leads_to_it():
    """0.5 x 2 calls of b, each 0.25 x 4 of c, in a branch or not; probability and count multiply."""
    branch = {"parallel": [[cpu()], [call("b.x", probability=0.5, count=2.0)]]}
    services = [
        service("a", endpoints={"x": [branch]}),
        service("b", endpoints={"x": [call("c", probability=0.25, count=4.0), call("c", count=0.5)]}),
        service("c"),
    ]
    graph = resolve(Profile.from_dict(document(*services, requests=entering("a.x"))))
    assert graph.visits == (1.0, 1.0, 1.5)


def test_a_pod_without_a_whole_core_is_slow_even_when_idle():
    """10 ms of CPU at a limit of 0.5 cores take 20 ms, unless a quota of 50 ms in each period holds them; 1.5 cores are
    two FIFO servers at 0.75 of the speed."""
    for sharing, cores, expected_s in (
        ("processor_sharing", 0.5, 0.02),
        ("processor_sharing", 1.5, 0.01),
        ("fifo", 0.5, 0.02),
        ("fifo", 1.5, 0.01 / 0.75),
        ("cfs_quota", 0.5, 0.01),
    ):
        container = {"cpu_sharing": sharing, "cpu_limit_cores": cores, "cpu_request_cores": cores}
        api = service("api", endpoints={"x": [cpu(0.01)]}, container=container)
        api["lifecycle"] = api["lifecycle"] | {"startup_cpu_cores": 0.1}
        graph = resolve(Profile.from_dict(document(api, requests=entering("api.x"))))
        assert graph.idle_s[1] == pytest.approx(expected_s, rel=1e-12)


def test_weights_are_shares_of_the_sum():
    requests = [
        {"name": "a", "share": 3, "endpoint": "api"},
        {"name": "b", "shares": [1, 0, 6], "calls": [{"endpoint": "api", "count": 2}, {"endpoint": "api"}]},
    ]
    graph = resolve(Profile.from_dict(document(service("api"), requests=requests)))
    a, b = graph.classes
    assert a.shares == pytest.approx((0.75, 1.0, 1 / 3)) and b.shares == pytest.approx((0.25, 0.0, 2 / 3))
    assert a.share_step_s == b.share_step_s == 28_800.0
    assert graph.visits[0] == pytest.approx(a.mean_share + 3 * b.mean_share)


# --- what is wrong

WEB = {"home": [cpu(), call("api")]}
BROKEN = [
    (document(service("web", endpoints=WEB), service("api")), [
        "requests: required where endpoints call others: it says where requests enter (services.0 calls api) (got null)"
    ]),
    (document(service("web", endpoints={"a": [cpu()], "b": [cpu()]})), [
        "requests: required where a service has several endpoints: it says which ones requests visit "
        "(services.0 has 2) (got null)"
    ]),
    (document(service("web", endpoints={"home": [call("apy")]}), service("api"), requests=entering("wep.home")), [
        "requests.0.endpoint: no such endpoint; did you mean 'web.home'? (got 'wep.home')",
        "services.0.endpoints.0.steps.0.call.endpoint: no such endpoint; did you mean 'api'? (got 'apy')",
    ]),
    (document(service("web", endpoints={"home": [call("api.get")]}), service("api"), requests=entering("web")), [
        "requests.0.endpoint: no such endpoint; web has web.home (got 'web')",
        "services.0.endpoints.0.steps.0.call.endpoint: no such endpoint: api has none of its own; write 'api' "
        "(got 'api.get')",
    ]),
    (
        document(
            service("a", endpoints={"x": [{"parallel": [[cpu()], [call("b.y")]]}]}),
            service("b", endpoints={"y": [cpu(), call("a.x")]}),
            service("c", endpoints={"z": [call("c.z")]}),
            requests=entering("a.x", "c.z"),
        ),
        [
            "services.1.endpoints.0.steps.1.call.endpoint: calls must not go in a circle: a.x -> b.y -> a.x (got 'a.x')",
            "services.2.endpoints.0.steps.0.call.endpoint: calls must not go in a circle: c.z -> c.z (got 'c.z')",
        ],
    ),
    (document(service("a", endpoints={"x": [cpu(probability=1.5), call("b", probability=2)]}), service("b"),
              requests=entering("a.x")), [
        "services.0.endpoints.0.steps.0.cpu.probability: must be at most 1 (got 1.5)",
        "services.0.endpoints.0.steps.1.call.probability: must be at most 1 (got 2)",
    ]),
    (document(service("a", endpoints={"x": [{"parallel": []}, {"parallel": [[cpu()], []]}]}), requests=entering("a.x")), [
        "services.0.endpoints.0.steps.0.parallel: must have at least 1 branch: this is a join of nothing (got a list of 0)",
        "services.0.endpoints.0.steps.1.parallel.1: must have at least 1 step: a join waits for something in each branch "
        "(got a list of 0)",
    ]),
    (document(service("a", endpoints={"x": [cpu() | call("b"), {}]}), service("b"), requests=entering("a.x")), [
        "services.0.endpoints.0.steps.0: must hold one of cpu, wait, call, parallel, cached_read, read, write "
        "(got 'cpu and call')",
        "services.0.endpoints.0.steps.1: must hold one of cpu, wait, call, parallel, cached_read, read, write (got 'none')",
    ]),
    (document(service("a", endpoints={"x": [{"parallel": [[{"cpuu": {}}]]}]}), requests=entering("a.x")), [
        "services.0.endpoints.0.steps.0.parallel.0.0.cpuu: unknown key; did you mean 'cpu'?",
        "services.0.endpoints.0.steps.0.parallel.0.0: must hold one of cpu, wait, call, parallel, cached_read, read, write "
        "(got 'none')",
    ]),
    (document(service("a", endpoints={"x": [cpu()]}) | {"endpoints": [{"name": "x", "steps": [cpu()]}] * 2},
              requests=[entering("a.x")[0]] * 2), [
        "requests.1.name: must be unique; requests.0 has it too (got 'c0')",
        "services.0.endpoints.1.name: must be unique in the service; endpoints.0 has it too (got 'x')",
    ]),
    (document(service("api"), requests=[
        {"name": "a"}, entering("api")[0] | {"shares": [1], "calls": [{"endpoint": "api"}]}
    ]), [
        "requests.0: needs one of endpoint and calls (got 'none')",
        "requests.0: needs one of share and shares (got 'none')",
        "requests.1: needs one of endpoint and calls (got 'endpoint and calls')",
        "requests.1: needs one of share and shares (got 'share and shares')",
    ]),
    (document(service("api"), requests=[
        {"name": name, "shares": shares, "endpoint": "api"} for name, shares in (("a", [1, 0]), ("b", [2, 0]), ("c", [1]))
    ]), ["requests.2.shares: must have as many items as requests.0.shares, 2 (got a list of 1)"]),
    (document(service("api"), requests=[{"name": n, "shares": [1, 0], "endpoint": "api"} for n in ("a", "b")]),
     ["requests: shares must not all be 0 in step 1 (got 0)"]),
    (document(service("api"), requests=[{"name": "a", "share": 0, "endpoint": "api"}]),
     ["requests: shares must not all be 0 (got 0)"]),
    (document(service("a", endpoints={"x": [{"wait": {"seconds": 0.01}}]}), requests=entering("a.x")),
     ["requests: must lead to an endpoint with a cpu step (got a list of 1)"]),
    (document(service("api"), requests=[{"name": "a", "shares": [1, -1, "x"], "endpoint": "api"}]), [
        "requests.0.shares.1: must be at least 0 (got -1)",
        "requests.0.shares.2: must be a number (got 'x')",
    ]),
    (document(service("api", calls_per_request=2.0), requests=entering("api")), [
        "services.0.calls_per_request: must be left out beside requests: they and the calls of endpoints say it (got 2.0)"
    ]),
    (document(service("api") | {"endpoints": [{"name": "x", "steps": [cpu()]}]}, requests=entering("api.x")), [
        "services.0.container.cpu_seconds_per_request: must be left out beside endpoints: their steps say it (got 0.025)",
        "services.0.container.cpu_scv: must be left out beside endpoints: their steps say it (got 1.0)",
        "services.0.container.io_seconds_per_request: must be left out beside endpoints: their steps say it (got 0.015)",
        "services.0.queries.reads_per_call: must be left out beside endpoints: their steps say it (got 3.0)",
        "services.0.queries.writes_per_call: must be left out beside endpoints: their steps say it (got 0.2)",
        "services.0.queries.cacheable_share: must be left out beside endpoints: their steps say it (got 0.9)",
    ]),
    (document(service("api", container={"cpu_scv": None})),
     ["services.0.container.cpu_scv: required where a service has no endpoints (got null)"]),
    (document(service("a", endpoints={"x": [cpu(), {"cached_read": {}}, {"read": {"count": 2}}, {"write": {}}]}),
              requests=entering("a.x"), database=None, cache=None), [
        "services.0.endpoints.0.steps.1.cached_read: needs a cache (got 1.0)",
        "services.0.endpoints.0.steps.1.cached_read: needs a database (got 1.0)",
        "services.0.endpoints.0.steps.2.read: needs a database (got 2)",
        "services.0.endpoints.0.steps.3.write: needs a database (got 1.0)",
    ]),
    (document(service("a", endpoints={"x": [cpu(), call("b")]},
                      calls=[{"service": "c"}, {"service": "bb"}, {"service": "bb"}]),
              service("b"), service("c"), requests=entering("a.x"),
              ingress=PRODUCTION["ingress"] | {"calls": [{"service": "b"}]}), [
        "ingress.calls.0.service: is never called by the ingress (got 'b')",
        "services.0.calls.0.service: is never called by a (got 'c')",
        "services.0.calls.1.service: no such service; did you mean 'b'? (got 'bb')",
        "services.0.calls.2.service: must be unique; calls.1 has it too (got 'bb')",
    ]),
    (document(service("a", endpoints={"x": [cpu(), call("b")]}, calls=[{"service": "b", "client": {"timeout_seconds": 63}}]),
              service("b"), requests=entering("a.x")), [
        "services.0.calls.0.client.timeout_seconds: timeout and the last backoff, 1 s, must be at most 63 ticks = 63 s "
        "(got 63)"
    ]),
    (document(service("a"), ingress=PRODUCTION["ingress"] | {
        "calls": [{"service": "a", "client": {"timeout_seconds": 0.2}}]
    }), [
        "ingress.calls.0.client.timeout_seconds: must be greater than slo.latency_threshold_seconds 0.3 (got 0.2)"
    ]),
    (document(service("a", endpoints={"x": [cpu(0.4)], "y": [cpu(0.1)]}), requests=[
        {"name": "slow", "share": 1, "endpoint": "a.x"},
        {"name": "own", "share": 1, "endpoint": "a.y", "slo": {"objective": 0.9, "latency_threshold_seconds": 0.05}},
    ]), [
        "slo.latency_threshold_seconds: must be greater than the latency of an idle system, 0.402 s (mean times added up), "
        "for requests of class slow, unless they have an slo of their own (got 0.3)",
        "requests.1.slo.latency_threshold_seconds: must be greater than the latency of an idle system, 0.102 s "
        "(mean times added up) (got 0.05)",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "lines"), BROKEN)
def test_a_broken_graph_is_named_with_every_path_and_value(data, lines):
    assert problems_of(data) == lines


def test_an_invalid_field_of_a_call_hides_no_other_problem_and_makes_none():
    """A target that is no text leads nobody knows where: that is one problem, not two."""
    web = service("web", endpoints={"home": [call(7), call("apy")]})
    assert problems_of(document(web, service("api"), requests=entering("web.home"))) == [
        "services.0.endpoints.0.steps.0.call.endpoint: must be text (got 7)",
        "services.0.endpoints.0.steps.1.call.endpoint: no such endpoint; did you mean 'api'? (got 'apy')",
    ]


def test_joins_within_joins_end_somewhere():
    """Ten are more than anybody writes; hundreds are refused before anything recurses into them."""
    step = cpu()
    for depth in range(1, 401):
        step = {"parallel": [[step]]}
        if depth == 10:
            data = document(service("a", endpoints={"x": [step]}), requests=entering("a.x"))
            assert len(resolve(Profile.from_dict(data)).steps) == 2 + 2 * 10 + 1
    data = document(service("b", endpoints={"x": [cpu()]}), requests=entering("b.x"))
    data["services"][0]["endpoints"][0]["steps"] = [step]
    assert problems_of(data) == ["is nested too deeply"]


def test_only_services_whose_steps_ask_it_open_connections():
    """2 pods (replicas.min) of b x 4; a asks nothing."""
    services = [
        service("a", endpoints={"x": [cpu(), call("b.x")]}),
        service("b", endpoints={"x": [{"parallel": [[{"write": {}}]]}]}),
    ]
    database = PRODUCTION["database"] | {"max_connections": 11}
    Profile.from_dict(document(*services, requests=entering("a.x"), database=database))
    database["max_connections"] = 10
    assert problems_of(document(*services, requests=entering("a.x"), database=database)) == [
        "database.pool_size_per_pod: 2 pods (replicas.min) would open 8 connections, "
        "more than max_connections 10 - reserved_connections 3 (got 4)"
    ]


def test_long_chains_of_calls_are_no_trouble():
    """A caller may stand 9,999 calls above: neither the order nor the search for cycles recurses."""
    chain = [[place + 1] for place in range(9_999)] + [[]]
    assert callers_first(chain) == list(range(10_000))
    assert list(cycles_of(chain)) == []
    chain[-1] = [0]
    (cycle,) = cycles_of(chain)
    assert cycle == [*range(10_000), 0]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 7).flatmap(lambda n: st.lists(st.lists(st.integers(0, n - 1), unique=True), min_size=n, max_size=n))
)
def test_a_cycle_is_found_exactly_where_there_is_one(callees):
    """Against the transitive closure; what is found are closed walks along calls. Without one, callers come first."""
    n = len(callees)
    reach = np.zeros((n, n), dtype=bool)
    for caller, called in enumerate(callees):
        reach[caller, called] = True
    for middle in range(n):
        reach |= np.outer(reach[:, middle], reach[middle])
    cycles = list(cycles_of(callees))
    assert bool(cycles) == reach.diagonal().any()
    for cycle in cycles:
        assert cycle[0] == cycle[-1]
        assert all(callee in callees[caller] for caller, callee in itertools.pairwise(cycle))
    order = callers_first(callees)
    assert sorted(order) == list(range(n))
    if not cycles:
        assert all(order.index(caller) < order.index(callee) for caller in range(n) for callee in callees[caller])


# --- warnings


def test_an_endpoint_that_nobody_enters_is_warned_of():
    """Neither old nor what only old calls; a whole service without calls too."""
    services = [
        service("web", endpoints={"home": [cpu()], "old": [call("api.get")]}),
        service("api", endpoints={"get": [cpu()]}),
        service("spare"),
    ]
    assert warnings_of(Profile.from_dict(document(*services, requests=entering("web.home")))) == [
        "services.0.endpoints.1: nobody enters web.old: no request and no call leads there",
        "services.1.endpoints.0: nobody enters api.get: no request and no call leads there",
        "services.2: nobody enters spare: no request and no call leads there",
    ]


def test_a_timeout_below_the_mean_time_below_it_is_warned_of_with_what_will_happen():
    """Each caller for itself: web gives api.get 50 ms and not its 42 ms + 20 ms; the ingress never retries."""
    services = [
        service(
            "web",
            endpoints={"home": [cpu(), call("api.get"), call("api.get")]},
            calls=[{"service": "api", "client": {"timeout_seconds": 0.05}}],
        ),
        service("api", endpoints={"get": [cpu(0.06)]}),
    ]
    ingress = PRODUCTION["ingress"] | {
        "calls": [{"service": "web", "client": {"timeout_seconds": 0.1, "max_retries": 0}}]
    }
    data = document(*services, requests=entering("web.home", "api.get"), ingress=ingress)
    assert warnings_of(Profile.from_dict(data)) == [
        "ingress.c0: most calls of ingress.c0 to web.home will time out and fail, while web.home works on for nobody: "
        "their timeout of 0.1 s is not above the mean time below it, 0.13 s on an idle system",
        "web.home: most calls of web.home to api.get will time out and be retried up to 2 times, while api.get works on "
        "for nobody: their timeout of 0.05 s is not above the mean time below it, 0.06 s on an idle system",
    ]


# --- plain data and overrides


def test_plain_data_holds_a_step_as_it_is_written():
    data = load_profile(EXAMPLES / "front.yaml").to_dict()
    page = data["services"][0]["endpoints"][0]
    assert page["steps"][1]["parallel"][2] == [
        {"call": {"endpoint": "recommendations", "count": 1.0, "probability": 0.8}}
    ]
    assert [list(step) for step in page["steps"]] == [["cpu"], ["parallel"], ["cpu"]]


def test_overrides_reach_into_the_graph():
    """By index or by name: endpoints, kinds of requests, and edges by the service they lead to; lists in lists by index."""
    profile = load_profile(EXAMPLES / "front.yaml").with_overrides(
        {
            "services.web.endpoints.page.steps.1.parallel.2.0.call.probability": 0.5,
            "services.web.calls.recommendations.client.timeout_seconds": 0.2,
            "services.web.calls.recommendations.circuit_breaker": None,
            "services.catalog.load_balancing": "random",
            "requests.checkout.slo.objective": 0.9,
            "requests.page.shares.3": 50,
            "ingress.balancer_nodes": 4,
        }
    )
    web = profile.services[0]
    assert web.endpoints[0].steps[1].parallel[2][0].call.probability == 0.5
    assert (web.calls[0].client.timeout_seconds, web.calls[0].circuit_breaker) == (0.2, None)
    assert profile.requests[1].slo.objective == 0.9 and profile.requests[0].shares[3] == 50
    assert resolve(profile).services[1].balancing == kinds.RANDOM


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("services.web.endpoints.pag.steps", "services.0.endpoints.pag: no such item (there are: page, checkout)"),
        ("services.web.endpoints.page.steps.1.parallel.3",
         "services.0.endpoints.0.steps.1.parallel.3: no such item (there are: 0 to 2)"),
        ("services.web.endpoints.page.steps.0.cpu.secs",
         "services.0.endpoints.0.steps.0.cpu.secs: unknown key; did you mean 'seconds'?"),
        ("services.web.endpoints.page.steps.0.call.nmae", "services.0.endpoints.0.steps.0.call.nmae: unknown key"),
        ("requests.page.shares.24", "requests.0.shares.24: no such item (there are: 0 to 23)"),
        ("requests.page.shares.0.x", "requests.0.shares.0.x: unknown key; requests.0.shares.0 holds a value, not keys"),
        ("services.web.calls.catalog.client", "services.0.calls.catalog: no such item (there are: recommendations)"),
    ],
)  # fmt: skip
def test_an_override_that_leads_nowhere_says_what_there_is(path, line):
    with pytest.raises(ProfileError) as refused:
        load_profile(EXAMPLES / "front.yaml").with_overrides({path: 1})
    assert refused.value.problems[0].startswith(line)


# --- light


def test_rows_and_profiles_mean_the_same_kinds():
    """`records.py` compiles, `kinds.py` does not: both hold the same numbers, and every name of a kind is its place."""
    for name in ("RANDOM", "ROUND_ROBIN", "LEAST_OUTSTANDING", "POWER_OF_TWO"):
        assert kinds.BALANCINGS[getattr(records, name)] == name.lower()
    for name in ("FIFO", "PROCESSOR_SHARING", "CFS_QUOTA"):
        assert kinds.SHARINGS[getattr(records, name)] == name.lower()
    assert [getattr(records, key.upper()) for key in KINDS if key != "call"] == [
        kind for key, kind in KINDS.items() if key != "call"
    ]
    assert list(KINDS) == list(Step.model_fields) and KINDS["call"] == records.CALL_STEP
    assert all(hasattr(records, name) for name in records.__all__)
    assert records.CALL["backoff_s"].shape == (Client.model_fields["max_retries"].metadata[1].le,)


def test_profiles_and_their_graphs_load_without_numba():
    """Specifications, help and checks of profiles must not wait for a compiler."""
    code = (
        "import sys, sim_core.profile, sim_core.dataplane.services.graph as graph;"
        f"graph.resolve(sim_core.profile.load_profile({str(EXAMPLES / 'front.yaml')!r}));"
        "print(*({name.partition('.')[0] for name in sys.modules} & {'numba', 'numpy', 'llvmlite'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
