"""Each mechanism of the request engine alone, in worlds so small that what must happen is known by hand."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from sim_core import theory
from sim_core.dataplane.cache.records import CACHE
from sim_core.dataplane.database.records import DATABASE
from sim_core.dataplane.requests import balancing
from sim_core.dataplane.services import records as r
from tests.request_worlds import (
    RequestClass,
    RequestWorld,
    Service,
    cached_read,
    call,
    cpu,
    parallel,
    read,
    row,
    run_all,
    wait,
    write,
)

RETRIES = dict(timeout_s=0.5, max_retries=2, backoff_s=(0.05, 0.1, 0.2), retry_budget_ratio=0.2)


def world_of(steps, edge=None, rate_per_s=0.0, seed=0, **service):
    """One service, called once by each request."""
    classes = [RequestClass([call("api", **(edge or {}))], rate_per_s)]
    return RequestWorld([Service("api", {"main": steps}, **service)], classes, seed=seed)


def shop(seed=0, balancing=r.LEAST_OUTSTANDING, sharing=r.FIFO, rate_per_s=300.0, **settings):
    """A front that calls two services side by side, one of which asks a cache and a database; everything fails at times."""
    cache = row(CACHE, capacity_keys=1000.0, initial_keys=0.0, lookup_s=5e-4, server_s=1e-4, scv=0.5,
                hit_ratio=tuple(np.linspace(0.0, 0.9, 33)))  # fmt: skip
    database = row(DATABASE, cores=2.0, read_s=0.004, write_s=0.006, scv=1.0, read_replicas=1.0, connection_limit=14.0,
                   pool_size=2.0)  # fmt: skip
    more = dict(balancing=balancing, sharing=sharing, settings=settings, workers=8.0, queue_limit=6.0)
    return RequestWorld(
        [
            Service("front", {"main": [cpu(0.008), parallel([call("cart", **RETRIES)],
                                                            [call("stock", **RETRIES), cpu(0.002)])]},
                    pods=5, room=9, **more),
            Service("cart", {"main": [cpu(0.01, 2.0), call("stock", probability=0.3, **RETRIES)]}, pods=5, room=9, **more),
            Service("stock", {"main": [cpu(0.006, 0.25), cached_read(count=2.5), read(count=0.5), write(count=0.2)]},
                    pods=6, room=9, **more),
        ],
        [RequestClass([wait(0.002), call("front", **RETRIES)], rate_per_s),
         RequestClass([call("cart", **RETRIES)], rate_per_s / 5)],
        caches=[cache], databases=[database], seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize("sharing", range(3))
@pytest.mark.parametrize("balancing", range(4))
def test_every_request_is_answered_or_failed_and_leaves_nothing_behind(balancing, sharing):
    """Conservation with retries, timeouts, refusals, parallel calls and pods that come and go; then all is at rest."""
    world = shop(balancing=balancing, sharing=sharing, balancer_nodes=2)
    for service, change in ((0, "remove"), (1, "add"), (2, "remove"), (2, "add"), (0, "add"), (1, "remove")) * 3:
        world.run(3)
        assert world.engine["arrived"] == world.engine["answered"] + world.engine["failed"] + world.engine["in_flight"]
        if change == "add":
            world.add_pod(service)
        else:
            world.remove_pod(service, 1)
    assert world.engine["failed"] > 0 and world.engine["answered"] > 0
    assert world.engine["arrived"] == world.class_sums["requests"].sum()
    assert world.engine["failed"] == world.class_sums["failed"].sum()
    assert (world.sums["calls"] > world.sums["failed"]).all()
    assert world.latency.sum() == world.class_sums["latency_weight"].sum()
    world.serve(ticks=60)
    assert world.engine["in_flight"] == 0
    assert world.left_over() == (0, 0, 0, 0, 0, 0)


def test_a_lane_walks_the_same_path_alone_and_on_threads():
    """The key of a lane decides its path, to the bit; threads and neighbours do not."""
    alone = shop(seed=3).run(20)
    beside = run_all([shop(seed=seed) for seed in range(5)], 20)[3]
    for name in ("sums", "class_sums", "latency", "pods", "cache_states", "database_states"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(beside, name))


def test_another_balancer_leaves_the_work_of_a_request_alone():
    """Common random numbers: request by request the same CPU, so the same total once all are done."""
    used = []
    for choice in range(4):
        world = world_of([cpu(0.01, 4.0), wait(0.01), cpu(0.002, 0.4)], rate_per_s=150.0, pods=4, balancing=choice)
        world.run(10).serve(ticks=30)
        used.append(world.sums["cpu_core_s"][0])
    assert used == pytest.approx([used[0]] * 4, rel=1e-9)


def test_open_calls_are_their_rate_times_their_sojourn():
    """Little's law on the calls of one service, retried and timed out ones among them."""
    world = shop(seed=8)
    world.run(20)
    world.clear()
    opens = []
    for _ in range(1500):
        world.run(1)
        opens.append(world.left_over()[1])
    mean_open = float(world.sums["latency_s"].sum()) / 1500.0
    groups = np.mean(np.reshape(opens, (30, 50)), axis=1)
    error = groups.std(ddof=1) / math.sqrt(30)
    assert error < 0.03 * mean_open
    assert abs(groups.mean() - mean_open) <= 4.0 * error


def test_a_call_that_times_out_goes_on_burning_cpu():
    """The caller gives up after 0.5 s; the callee computes for 1 s all the same, and so does what it calls then."""
    world = RequestWorld(
        [Service("a", {"main": [wait(0.6, 0.0), call("b")]}), Service("b", {"main": [cpu(1.0, 0.0)]})],
        [RequestClass([call("a", timeout_s=0.5)], 0.0)],
    )
    world.serve(1, ticks=5)
    assert world.class_sums["failed"][0] == 1.0
    assert world.sums["failed"].tolist() == [1.0, 0.0]
    assert world.sums["latency_s"][0] == pytest.approx(0.5)
    assert world.sums["cpu_core_s"].tolist() == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize(("passed", "cpu_s"), [(False, 2.4), (True, 0.8)])
def test_a_deadline_that_is_passed_on_saves_the_work_nobody_waits_for(passed, cpu_s):
    """3 calls of 0.8 s for one worker, given up after 0.5 s: with the deadline only the first is ever begun."""
    world = world_of([cpu(0.8, 0.0)], dict(timeout_s=0.5, pass_deadline=passed), workers=1.0)
    world.tick_s = 0.1  # all arrive within 0.1 s
    world.serve(3, ticks=60)
    assert world.sums["cpu_core_s"][0] == pytest.approx(cpu_s)
    assert world.class_sums["failed"][0] == 3.0


def test_attempts_are_one_more_than_retries_where_the_budget_allows():
    """No pod: every attempt fails at once. Three attempts a request, and the pauses have the backoff's mean."""
    world = world_of([cpu(0.01)], dict(max_retries=2, backoff_s=(0.2, 0.4, 0.0), retry_budget_ratio=10.0), pods=1)
    world.remove_pod(0, 0)
    world.serve(4000, ticks=1)
    for _ in range(20):
        world.serve()
    assert world.sums["calls"][0] == world.sums["failed"][0] == 12000.0
    assert world.class_sums["failed"][0] == 4000.0


def test_retries_stay_within_the_budget():
    """Where everything fails, retries are the budget's share of first attempts, and one more that was held."""
    world = world_of(
        [cpu(0.01)], dict(max_retries=3, backoff_s=(0.1, 0.1, 0.1), retry_budget_ratio=0.2), rate_per_s=200.0
    )
    world.remove_pod(0, 0)
    world.run(40).serve(ticks=5)
    requests = world.class_sums["requests"][0]
    retries = world.sums["calls"][0] - requests
    assert 0.95 * 0.2 * requests <= retries <= 0.2 * requests + 1.0


def test_parallel_branches_join_when_the_slowest_is_done():
    """0.1, 0.3 and 0.2 s side by side, one of them twice over a branch inside, then 0.05 s: 0.45 s."""
    world = RequestWorld(
        [Service("api", {"main": [parallel(
            [wait(0.1, 0.0)], [wait(0.3, 0.0), parallel([wait(0.1, 0.0)], [wait(0.02, 0.0)])], [wait(0.2, 0.0)],
        ), wait(0.05, 0.0)]})],
        [RequestClass([call("api")], 0.0)],
    )  # fmt: skip
    world.serve(20, ticks=3)
    assert world.mean_latency_s == pytest.approx(0.45, abs=1e-9)
    assert world.class_sums["latency_s2"][0] == pytest.approx(20 * 0.45**2)
    assert world.left_over()[0] == 0


def test_a_failed_branch_fails_the_whole_at_once():
    """One branch finds no pod; the request has failed although its sibling still waits, which then ends quietly."""
    world = RequestWorld(
        [Service("api", {"main": [parallel([call("gone")], [wait(2.0, 0.0), parallel([wait(1.0, 0.0)])])]}, workers=1.0),
         Service("gone", {"main": [cpu(0.1)]})],
        [RequestClass([call("api")], 0.0)],
    )  # fmt: skip
    world.remove_pod(1, 0)
    world.serve(3)
    assert world.class_sums["failed"][0] == 3.0  # one worker, one after the other, each at once
    assert world.left_over() == (3, 0, 0, 0, 0, 0)  # the waits go on
    world.serve(ticks=4)
    assert world.left_over() == (0, 0, 0, 0, 0, 0)


def test_steps_are_done_as_often_as_their_count_and_probability_say():
    """Count 2.5 is 2 or 3 times, never else; probability 0.3 is none or all."""
    world = RequestWorld(
        [
            Service("a", {"main": [wait(0.1, 0.0, count=2.5)]}),
            Service("b", {"main": [wait(0.1, 0.0, count=2, probability=0.3)]}),
        ],
        [RequestClass([call("a")], 0.0), RequestClass([call("b")], 0.0)],
    )
    world.serve(20000, 20000, ticks=3)
    edges = np.exp(np.linspace(math.log(r.LATENCY_MIN_S), math.log(r.LATENCY_MAX_S), r.LATENCY_BUCKETS + 1))
    for place, times in ((0, {0.2: 0.5, 0.3: 0.5}), (1, {0.0: 0.7, 0.2: 0.3})):
        for latency_s, share in times.items():
            bucket = max(0, int(np.searchsorted(edges, latency_s + 1e-9)) - 1)
            assert world.latency[place, bucket] / 20000 == pytest.approx(share, abs=4 * math.sqrt(0.25 / 20000))


def test_fractions_of_cores_are_slower_cores():
    """FIFO: 1.5 cores are two of 0.75; shared: a call never gets more than one core, and half a core doubles its time."""
    for cores, sharing, factor in ((1.5, r.FIFO, 4 / 3), (0.5, r.FIFO, 2.0), (1.5, r.PROCESSOR_SHARING, 1.0),
                                   (0.5, r.PROCESSOR_SHARING, 2.0)):  # fmt: skip
        world = world_of([cpu(0.06, 0.0)], cores=cores, sharing=sharing)
        world.serve(1, ticks=2)
        assert world.mean_latency_s == pytest.approx(0.06 * factor, rel=1e-9)
        assert world.pods["cpu_core_s"][0] == pytest.approx(0.06)


def throttled(arrivals_s, works_s, cores, period_s, period_end_s):
    """Ends of CPU steps under a quota, by following every change: an independent reference."""
    left = dict(enumerate(works_s))
    ends = np.zeros(len(works_s))
    waiting = sorted(range(len(works_s)), key=lambda i: arrivals_s[i])
    now, quota, running = 0.0, cores * period_s, []
    while waiting or running:
        at = arrivals_s[waiting[0]] if waiting else math.inf
        stands = quota <= 1e-12
        speed = 0.0 if stands else 1.0
        ends_at = now + min((left[i] for i in running), default=math.inf) if speed else math.inf
        spent_at = now + quota / len(running) if running and speed else math.inf
        then = min(at, ends_at, spent_at, period_end_s)
        for i in running:
            left[i] -= speed * (then - now)
        quota -= speed * len(running) * (then - now)
        now = then
        if now == period_end_s:
            period_end_s, quota = period_end_s + period_s, cores * period_s
        for i in [i for i in running if left[i] <= 1e-12]:
            running.remove(i)
            ends[i] = now
        if waiting and now == at:
            running.append(waiting.pop(0))
    return ends


def test_a_quota_throttles_as_a_step_by_step_simulation_does():
    """CFS quota at 90 % of 1.5 cores: each request ends at the same moment, to a microsecond."""
    world = RequestWorld(
        [Service("api", {"main": [cpu(0.03, 1.0)]}, cores=1.5, sharing=r.CFS_QUOTA)], [RequestClass([call("api")], 45.0)],
        seed=5, trace_share=1.0,
    )  # fmt: skip
    world.run(1)
    station = world.peek_station(0)
    world.run(19).serve(ticks=20)
    spans = world.engines.take_spans(0)
    spans = np.sort(spans[spans["kind"] == r.CPU], order="start_s")
    works_s = world.service_times(spans, 0.03)
    period_end_s = station["period_end_s"] % 0.1
    ends_s = throttled(spans["start_s"], works_s, 1.5, 0.1, period_end_s)
    np.testing.assert_allclose(spans["end_s"], ends_s, atol=1e-6)
    assert len(spans) > 500


@pytest.mark.parametrize("load", [0.5, 0.85])
@pytest.mark.parametrize("scv", [0.25, 1.0, 4.0])
def test_one_server_follows_lindleys_recursion(scv, load):
    """G/G/1: the wait of each request is max(0, the wait before + its service - the gap), on the same path."""
    world = RequestWorld(
        [Service("api", {"main": [cpu(0.01, scv)]})],
        [RequestClass([call("api")], 100.0 * load)],
        seed=2,
        trace_share=1.0,
    )
    world.run(round(20 / load)).serve(ticks=10)
    spans = world.engines.take_spans(0)
    spans = np.sort(spans[spans["kind"] == r.CPU], order="start_s")
    works_s = world.service_times(spans, 0.01, scv)
    waits_s = np.zeros(len(spans))
    for i in range(1, len(spans)):
        waits_s[i] = max(0.0, waits_s[i - 1] + works_s[i - 1] - (spans["start_s"][i] - spans["start_s"][i - 1]))
    assert len(spans) > 1500
    np.testing.assert_allclose(spans["end_s"] - spans["start_s"], waits_s + works_s, atol=1e-9)


def test_cold_pods_compute_longer():
    """The cold factor holds for CPU steps that begin while the pod is cold, and for no wait."""
    world = world_of([cpu(0.1, 0.0), wait(0.05, 0.0)], settings=dict(cold_factor=3.0))
    world.pods["cold"] = True
    world.serve(1, ticks=2)
    assert world.mean_latency_s == pytest.approx(0.35)
    world.pods["cold"] = False
    world.clear()
    world.serve(1, ticks=2)
    assert world.mean_latency_s == pytest.approx(0.15)


def test_a_pod_that_is_deleted_finishes_what_it_has_and_gets_no_more():
    """Draining: its open calls are answered; new calls go to the other pod."""
    world = world_of([wait(3.0, 0.0), cpu(0.01, 0.0)], pods=2, balancing=r.ROUND_ROBIN)
    world.serve(10)
    world.pods["deleting"][0] = True
    world.count_pods(0)
    world.serve(10, ticks=8)
    assert world.class_sums["failed"][0] == 0.0
    assert world.pods["cpu_core_s"].tolist() == pytest.approx([0.05, 0.15])


def test_what_is_in_a_pod_that_is_gone_fails_and_the_rest_keeps_its_place():
    """Rows of pods shift, identity is the serial: CPU is booked to the pod that used it."""
    world = world_of([wait(1.5, 0.0), cpu(0.01, 0.0)], pods=3, balancing=r.ROUND_ROBIN, room=4)
    world.serve(9)
    world.remove_pod(0, 1)
    world.add_pod(0)
    world.serve(ticks=4)
    assert world.class_sums["failed"][0] == 3.0
    assert world.pods_of(0)["serial"].tolist() == [0, 2, 3]
    assert world.pods_of(0)["cpu_core_s"].tolist() == pytest.approx([0.03, 0.03, 0.0])
    world.serve(9, ticks=4)
    assert world.pods_of(0)["cpu_core_s"].tolist() == pytest.approx([0.06, 0.06, 0.03])


def test_nodes_that_know_less_balance_worse():
    """Least outstanding by one node, by 4 that see their own calls only, and by chance."""
    means = []
    for nodes, choice in ((1, r.LEAST_OUTSTANDING), (4, r.LEAST_OUTSTANDING), (1, r.RANDOM)):
        world = world_of([cpu(0.01)], rate_per_s=850.0, pods=10, balancing=choice, settings=dict(balancer_nodes=nodes))
        world.run(300)
        means.append(world.mean_latency_s)
    assert means[0] < 0.8 * means[1] < 0.8 * 0.8 * means[2]


def test_open_calls_are_ordered_as_a_scan_would_find_them():
    """The front of each node's order holds the fewest open calls of all pods, whatever has opened and closed."""
    world = shop(seed=4, balancer_nodes=2, rate_per_s=500.0)
    for _ in range(40):
        world.run(1)
        for calls, places, ordered, choices in world.orders():
            in_order = calls[ordered[:choices]]
            assert (np.diff(in_order) >= 0).all()
            assert (places[ordered[:choices]] == np.arange(choices)).all()


def test_a_session_keeps_its_pod_when_pods_are_added():
    """Of many sessions one in n + 1 moves to the new pod, all others stay, and each pod has its share."""
    sessions = np.random.default_rng(1).integers(0, 2**64, 20_000, dtype=np.uint64)
    before = np.array([balancing._place_of_session(session, 9) for session in sessions])
    after = np.array([balancing._place_of_session(session, 10) for session in sessions])
    assert (after[after != before] == 9).all()
    assert np.bincount(after, minlength=10) / 20_000 == pytest.approx(np.full(10, 0.1), abs=0.01)


def test_sticky_calls_ignore_the_load():
    """All calls sticky: as random as sessions are, so each of the pods is M/M/1 under any balancing."""
    worlds = [world_of([cpu(0.01)], rate_per_s=320.0, pods=4, balancing=r.LEAST_OUTSTANDING, seed=seed,
                       settings=dict(sticky_share=1.0)) for seed in range(12)]  # fmt: skip
    means = np.array([w.mean_latency_s for w in run_all(worlds, 300)])
    assert abs(means.mean() - 0.05) <= 4.0 * means.std(ddof=1) / math.sqrt(12)


@pytest.mark.parametrize("choice", range(4))
def test_a_fresh_pod_is_given_its_load_slowly(choice):
    """Slow start of 100 s: within the first seconds a fresh pod gets far less than its share, later as much as others."""
    world = world_of(
        [cpu(0.01, 0.0)], rate_per_s=100.0, pods=3, room=4, balancing=choice, settings=dict(slow_start_s=100.0)
    )
    world.run(5)
    world.add_pod(0)
    world.clear()
    world.run(10)
    share = world.pods["cpu_core_s"][3] / world.pods["cpu_core_s"].sum()
    assert share < 0.12
    world.run(100)
    world.clear()
    world.run(60)
    assert world.pods["cpu_core_s"][3] / world.pods["cpu_core_s"].sum() == pytest.approx(0.25, abs=0.03)


def test_a_pod_that_fails_again_and_again_is_ejected_and_comes_back():
    """A pod a thousand times too slow times out: after 3 failures in a row it is out for 5 s, then for 10 s."""
    edge = dict(timeout_s=0.05, ejection_failures=3, ejection_s=5.0, ejection_share=0.5)
    world = world_of(
        [cpu(0.001, 0.0)], edge, rate_per_s=50.0, pods=4, balancing=r.ROUND_ROBIN, settings=dict(cold_factor=1000.0)
    )
    world.pods["cold"][2] = True
    world.run(4)
    early = world.class_sums["failed"][0]
    assert 3.0 <= early <= 6.0
    world.run(1)
    assert world.class_sums["failed"][0] == early
    world.run(25)
    assert early + 3.0 <= world.class_sums["failed"][0] <= 5 * early
    world.pods["cold"] = False
    world.run(40)
    world.clear()
    world.run(20)
    assert world.class_sums["failed"][0] == 0.0
    assert world.pods["cpu_core_s"][2] == pytest.approx(world.pods["cpu_core_s"].mean(), rel=0.05)


def test_no_more_than_the_allowed_share_of_pods_is_ejected():
    """All pods fail; at most half of them are out at once, so calls still go somewhere."""
    edge = dict(timeout_s=0.05, ejection_failures=2, ejection_s=100.0, ejection_share=0.5)
    world = world_of([wait(1.0, 0.0)], edge, rate_per_s=100.0, pods=6)
    world.run(20)
    assert world.ejected(0) == 3


def test_a_breaker_bounds_the_open_calls():
    """At most 3 open calls: M/M/3/3 in front of a callee with room for all, so Erlang B of them fail at once."""
    worlds = [world_of([wait(0.1)], dict(breaker_requests=3.0), rate_per_s=20.0, seed=seed) for seed in range(10)]
    failed = np.array([w.sums["failed"][0] / w.sums["calls"][0] for w in run_all(worlds, 600)])
    error = failed.std(ddof=1) / math.sqrt(10)
    assert error < 0.01
    assert abs(failed.mean() - theory.erlang_b(3, 2.0)) <= 4.0 * error


@pytest.mark.parametrize(
    ("edge", "service"),
    [
        (dict(timeout_s=0.06, max_retries=2, backoff_s=(0.05, 0.1, 0.2), retry_budget_ratio=0.3), dict(cores=4.0)),
        (dict(timeout_s=2.0, max_retries=1, backoff_s=(0.05, 0.1, 0.2), retry_budget_ratio=0.3),
         dict(cores=4.0, workers=5.0, queue_limit=3.0)),
        (dict(), dict(pods=4, balancing=r.RANDOM, workers=2.0, queue_limit=6.0)),
        (dict(timeout_s=0.2, max_retries=1), dict(pods=4, balancing=r.ROUND_ROBIN)),
    ],
)  # fmt: skip
def test_a_lane_that_needs_no_events_walks_the_path_of_the_events(edge, service):
    """Played request by request or event by event: the same counts, to the last request, and the same times."""
    worlds = []
    for share in (0.0, 1e-18):  # a lane that may leave traces is played by events
        world = RequestWorld([Service("api", {"main": [cpu(0.01)]}, **service)], [RequestClass([call("api", **edge)], 360.0)],
                             seed=6, trace_share=share)  # fmt: skip
        world.pods["cold"] = True
        world.services["cold_factor"] = 1.2
        for _ in range(3):
            world.run(30)
            world.rates *= 1.05
            world.pods["cold"] = False
        worlds.append(world)
    direct, events = worlds
    assert direct.engine["direct"] and not events.engine["direct"]
    np.testing.assert_array_equal(direct.latency, events.latency)
    for name in ("arrived", "answered", "failed", "in_flight", "random"):
        assert direct.engine[name] == events.engine[name]
    assert direct.left_over() == events.left_over()
    for one, other in ((direct.sums, events.sums), (direct.class_sums, events.class_sums)):
        for name in one.dtype.names:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-9)
    np.testing.assert_allclose(direct.pods["cpu_core_s"], events.pods["cpu_core_s"], rtol=1e-9)
    if edge:
        assert events.sums["failed"][0] > 0


def test_a_pool_that_is_too_small_makes_queries_wait():
    """A database without limit behind a pool of 3 connections: M/M/3 on the pool."""
    database = row(DATABASE, cores=1000.0, read_s=0.02, write_s=0.02, scv=1.0, connection_limit=1e9, pool_size=3.0)
    worlds = run_all(
        [RequestWorld([Service("api", {"main": [read()]})], [RequestClass([call("api")], 120.0)],
                      databases=[database], seed=seed) for seed in range(12)], 400)  # fmt: skip
    means = np.array([w.mean_latency_s for w in worlds])
    error = means.std(ddof=1) / math.sqrt(12)
    assert error < 0.015 * means.mean()
    assert abs(means.mean() - theory.mmc_mean_sojourn_s(120.0, 50.0, 3)) <= 4.0 * error
    assert worlds[0].database_states["read_s"][0] == pytest.approx(means.mean(), rel=0.5)


def test_connections_beyond_the_limit_are_refused():
    """4 pods of 5 connections each, and 15 allowed: a quarter of the queries fails, and with it the request."""
    database = row(DATABASE, cores=50.0, read_s=0.001, write_s=0.001, scv=1.0, connection_limit=15.0, pool_size=5.0)
    world = RequestWorld(
        [Service("api", {"main": [write()]}, pods=4)], [RequestClass([call("api")], 2000.0)], databases=[database]
    )
    world.run(20)
    share = world.class_sums["failed"][0] / world.class_sums["requests"][0]
    assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.1875 / 40000))
    assert world.database_states["connection_ratio"][0] == pytest.approx(4 / 3)


def test_reads_go_to_replicas_and_writes_to_the_primary():
    """Busy time of the busier group: 120 reads/s of 20 ms on 3 replicas of 2 cores, 10 writes/s on the primary."""
    database = row(DATABASE, cores=2.0, read_s=0.02, write_s=0.02, scv=1.0, read_replicas=3.0, connection_limit=1e9,
                   pool_size=1e9)  # fmt: skip
    world = RequestWorld(
        [Service("api", {"main": [read(), write(probability=1 / 12)]})],
        [RequestClass([call("api")], 120.0)],
        databases=[database],
    )
    world.run(300)
    assert world.database_states["busy_s"][0] / 300 == pytest.approx(120 * 0.02 / 6, rel=0.03)
    alone = (0.02 - 0.0 + theory.mmc_mean_wait_s(40.0, 50.0, 2)) + (0.02 + theory.mmc_mean_wait_s(10.0, 50.0, 2)) / 12
    assert world.mean_latency_s == pytest.approx(alone, rel=0.03)


def test_lookups_queue_at_one_server_and_misses_fill_the_cache():
    """M/G/1 at 0.7 plus the rest of the round trip; each miss brings a key until the cache is full."""
    cache = row(CACHE, capacity_keys=500.0, initial_keys=100.0, lookup_s=0.003, server_s=0.001, scv=0.5,
                hit_ratio=tuple(np.linspace(0.2, 1.0, 33)))  # fmt: skip
    database = row(DATABASE, cores=100.0, read_s=0.0, write_s=0.0, scv=0.0, connection_limit=1e9, pool_size=1e9)
    worlds = [RequestWorld([Service("api", {"main": [cached_read()]})], [RequestClass([call("api")], 700.0)], caches=[cache],
                           databases=[database], seed=seed) for seed in range(12)]  # fmt: skip
    for world in worlds:
        world.run(1)
        state = world.cache_states[0]
        assert state["lookups"] == pytest.approx(700, abs=120)
        assert state["cached_keys"] == 100 + state["lookups"] - state["hits"]
    run_all(worlds, 100)
    for world in worlds:
        assert world.cache_states["cached_keys"][0] == 500.0
        world.clear()
    run_all(worlds, 200)
    means = np.array([w.mean_latency_s for w in worlds])
    error = means.std(ddof=1) / math.sqrt(12)
    assert abs(means.mean() - (0.003 + theory.mg1_mean_wait_s(700.0, 0.001, 0.5))) <= 4.0 * error < 0.05 * means.mean()


def test_the_engine_holds_what_is_under_way_and_nothing_more():
    """Memory is that of requests in flight: ten times the requests at the same rate need no more rows."""
    world = world_of([cpu(0.01)], dict(timeout_s=2.0), rate_per_s=350.0, cores=4.0)
    world.run(100)
    frames, events = int(world.engine["n_frames"]), int(world.engine["room_events"])
    world.run(1000)
    assert world.engine["arrived"] > 350_000
    assert (world.engine["n_frames"], world.engine["room_events"]) <= (2 * frames, 2 * events)
    assert world.engine["n_frames"] < 2000


def test_engines_cannot_be_copied():
    """They own memory: a copy would give it back twice."""
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy(world_of([cpu(0.01)]).engines)
