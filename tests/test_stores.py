"""Kernels of cache and database in the fluid engine, on rows made by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sim_core.dataplane.cache import fluid as cache_fluid
from sim_core.dataplane.cache import telemetry as cache_telemetry
from sim_core.dataplane.cache.records import CACHE, CACHE_STATE, HIT_POINTS
from sim_core.dataplane.database import fluid as database_fluid
from sim_core.dataplane.database import telemetry as database_telemetry
from sim_core.dataplane.database.records import DATABASE, DATABASE_CLIENT, DATABASE_STATE
from sim_core.dataplane.known import known_stations
from sim_core.dataplane.line import LINE, serve_line
from sim_core.dataplane.queueing import third_cumulant_factor
from sim_core.dataplane.services.flows import ENDPOINT_FLOW, STEP_FLOW
from sim_core.dataplane.services.kinds import CACHED_READ, READ, WRITE
from sim_core.dataplane.services.records import ENDPOINT, SERVICE, SERVICE_STATE, STEP
from sim_core.theory import mg1_mean_wait_s, mmc_mean_wait_s
from tests.handmade import cumulants, python, row, rows, seen

# --- Cache


KNOWN = known_stations()["known_points"]


def a_cache(**values: Any) -> Any:
    """1,000 keys; the hit ratio at fill (i / 32)^2 is i / 64."""
    ratios = [np.arange(HIT_POINTS) / 64.0]
    return row(
        CACHE,
        **{"capacity_keys": 1000.0, "hit_ratio": ratios, "lookup_s": 0.001, "server_s": 2e-4, "scv": 3.0} | values,
    )


@pytest.mark.parametrize(
    ("keys", "ratio"), [(0.0, 0.0), (1000.0, 0.5), (250.0, 0.25), (1000.0 * (10.25 / 32) ** 2, 10.25 / 64)]
)
def test_the_hit_ratio_is_linear_in_the_root_of_the_fill(keys: float, ratio: float):
    assert cache_fluid.cache_hit_ratio(a_cache(), keys) == pytest.approx(ratio, rel=1e-12)


def test_a_hit_ratio_is_at_most_one():
    """Where rounding of the table or of the fill goes beyond it."""
    cache = a_cache(hit_ratio=[np.linspace(0.0, 1.01, HIT_POINTS)])
    assert cache_fluid.cache_hit_ratio(cache, 1000.0) == 1.0


def test_look_ups_find_keys_and_fill_the_cache():
    """800 look-ups in half a second: 600 of them miss, and fill the cache up to its capacity."""
    cache, state = a_cache(), row(CACHE_STATE, cached_keys=250.0, lookups=10.0, hits=5.0)
    cache_fluid.look_up(KNOWN, cache, state, 800.0, 1e5, 0.5)
    assert state.hit_ratio == pytest.approx(0.25)
    assert state.misses == pytest.approx(600.0)
    assert state.cached_keys == pytest.approx(850.0)
    assert (state.lookups, state.hits) == pytest.approx((810.0, 205.0))
    cache_fluid.look_up(KNOWN, cache, state, 800.0, 1e5, 0.5)
    assert state.cached_keys == 1000.0


@pytest.mark.parametrize("scv", [0.0, 1.0, 3.0])
def test_a_look_up_waits_for_one_thread_as_pollaczek_and_khinchine_say(scv: float):
    """1,600 look-ups a second of 0.2 ms each; the rest of the round trip is no wait and does not vary."""
    cache, state = a_cache(scv=scv), row(CACHE_STATE)
    for _ in range(50):
        cache_fluid.look_up(KNOWN, cache, state, 800.0, 1e5, 0.5)
    assert state.lookup_s - 0.001 == pytest.approx(mg1_mean_wait_s(1600.0, 2e-4, scv), rel=0.01)
    if scv == 1.0:  # wait and service together are exponential
        assert state.lookup_variance_s2 == pytest.approx((2e-4 / (1.0 - 0.32)) ** 2, rel=0.02)
        assert state.lookup_third_s3 == pytest.approx(2.0 * (2e-4 / (1.0 - 0.32)) ** 3, rel=0.04)


def test_a_saturated_cache_keeps_all_its_callers_waiting():
    """4,500 look-ups where 2,500 are answered: the line grows by the others, up to those that look up at once."""
    state = row(CACHE_STATE)
    cache_fluid.look_up(KNOWN, a_cache(), state, 4500.0, 3000.0, 0.5)
    assert state.line.open == pytest.approx(2000.0, rel=0.02)
    for _ in range(20):
        cache_fluid.look_up(KNOWN, a_cache(), state, 4500.0, 3000.0, 0.5)
    assert state.line.open == pytest.approx(3000.0, rel=0.01)
    assert state.lookup_s == pytest.approx(0.001 + 3000 * 2e-4, rel=0.01)
    for _ in range(3):
        cache_fluid.look_up(KNOWN, a_cache(), state, 0.0, 3000.0, 0.5)
    assert state.line.open == pytest.approx(0.0, abs=1e-3)
    assert state.lookup_s == pytest.approx(0.001, rel=1e-4)


def stores() -> SimpleNamespace:
    """Two caches before one database; three cached reads, two reads and a write."""
    kinds = [CACHED_READ, CACHED_READ, CACHED_READ, READ, READ, WRITE]
    return SimpleNamespace(
        known_points=KNOWN,
        lane=SimpleNamespace(tick_s=1.0),
        state=SimpleNamespace(window_s=10.0, staged=SimpleNamespace(cache_hit_ratio=9.0)),
        steps=rows(STEP, 6, kind=kinds, target=[0, 1, 1, 0, 0, 0]),
        step_flows=rows(STEP_FLOW, 6, expected=[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]),
        lookups=np.array([0, 1, 2]),
        queries=np.array([3, 4, 5]),
        caches=np.concatenate([[a_cache()], [a_cache()]]).view(rows(CACHE, 1).dtype).view(type(rows(CACHE, 1))),
        cache_states=rows(CACHE_STATE, 2),
        databases=rows(
            DATABASE, 1, cores=4.0, read_s=0.002, write_s=0.003, scv=1.0, connection_limit=100.0, pool_size=5.0
        ),
        database_states=rows(DATABASE_STATE, 1),
    )


def test_every_cache_is_asked_by_its_own_steps_and_begins_as_full_as_it_is_told():
    world = stores()
    world.caches.initial_keys = [250.0, 0.0]
    python(cache_fluid.begin)(world)
    assert world.cache_states.cached_keys.tolist() == [250.0, 0.0]
    python(cache_fluid.serve)(world)
    assert world.cache_states.lookups.tolist() == [1.0, 6.0]
    assert world.cache_states.misses.tolist() == pytest.approx([0.75, 6.0])


def test_a_scrape_of_the_caches_says_the_hit_ratio_of_all_of_them():
    world = stores()
    world.cache_states.lookups, world.cache_states.hits = [10.0, 30.0], [1.0, 9.0]
    world.cache_states.total_lookups, world.cache_states.total_hits = 100.0, 50.0
    python(cache_telemetry.scrape)(world)
    assert world.state.staged.cache_hit_ratio == pytest.approx(0.25)
    assert world.cache_states.total_lookups.tolist() == [110.0, 130.0]
    assert world.cache_states.total_hits.tolist() == [51.0, 59.0]
    assert not world.cache_states.lookups.any() and not world.cache_states.hits.any()
    python(cache_telemetry.scrape)(world)
    assert world.state.staged.cache_hit_ratio == 0.0


# --- Database


def a_database(**values: float) -> Any:
    usual = {"cores": 4.0, "read_s": 0.01, "write_s": 0.02, "scv": 1.0, "connection_limit": 100.0, "pool_size": 5.0}
    return row(DATABASE, **usual | values)


def settled(
    database: Any, reads: float, writes: float, pool: float = 0.0, callers: float = 1e5, ticks: int = 300
) -> Any:
    """State of a database after a while of constant load (queries of a tick of half a second)."""
    state = row(DATABASE_STATE, pool=pool, callers=callers)
    for _ in range(ticks):
        state.busy_s = 0.0
        database_fluid.serve_database(KNOWN, database, state, reads, writes, 0.5)
    return state


def settled_line(queries: float, query_s: float, scv: float, cores: float, instances: float = 1.0) -> Any:
    line = row(LINE)
    for _ in range(300):
        serve_line(KNOWN, line, queries, instances, cores, 1e5 / instances, query_s, scv, 0.5)
    return line


def test_without_read_replicas_the_primary_takes_all_queries():
    """Reads of 10 ms and writes of 20 ms, 3 to 1: 12.5 ms on the mean, scv 1.48; both wait in the same line."""
    state = settled(a_database(cores=1.0), 21.0, 7.0)
    alone = settled_line(28.0, 0.0125, 2.0 * (0.75 * 1e-4 + 0.25 * 4e-4) / 0.0125**2 - 1.0, 1.0)
    assert alone.wait_s == pytest.approx(mg1_mean_wait_s(56.0, 0.0125, 1.24), rel=0.01)
    assert state.read_s == pytest.approx(0.01 + alone.wait_s, rel=1e-3)
    assert state.write_s == pytest.approx(0.02 + alone.wait_s, rel=1e-3)
    assert state.busy_s == pytest.approx(0.7 * 0.5, rel=1e-3)
    assert state.read_variance_s2 == pytest.approx(0.01**2 + alone.wait_variance_s2, rel=1e-3)
    assert state.write_variance_s2 == pytest.approx(0.02**2 + alone.wait_variance_s2, rel=1e-3)
    assert state.read_third_s3 == pytest.approx(2.0 * 0.01**3 + alone.wait_third_s3, rel=1e-3)
    assert state.write_third_s3 == pytest.approx(2.0 * 0.02**3 + alone.wait_third_s3, rel=1e-3)


def test_read_replicas_take_the_reads():
    """Two of them: writes alone at the primary; the busier of both is what the database reports."""
    database = a_database(cores=1.0, read_replicas=2.0, scv=4.0)
    state = settled(database, 70.0, 10.0)
    reads, writes = settled_line(70.0, 0.01, 4.0, 1.0, 2.0), settled_line(10.0, 0.02, 4.0, 1.0)
    assert reads.wait_s == pytest.approx(mg1_mean_wait_s(70.0, 0.01, 4.0), rel=0.01)
    assert (state.read_s, state.write_s) == pytest.approx((0.01 + reads.wait_s, 0.02 + writes.wait_s), rel=1e-3)
    assert state.busy_s == pytest.approx(0.7 * 0.5, rel=1e-3)
    assert state.read_variance_s2 == pytest.approx(4.0 * 0.01**2 + reads.wait_variance_s2, rel=1e-3)
    assert state.write_variance_s2 == pytest.approx(4.0 * 0.02**2 + writes.wait_variance_s2, rel=1e-3)
    factor = third_cumulant_factor(4.0)
    assert state.read_third_s3 == pytest.approx(factor * 0.01**3 + reads.wait_third_s3, rel=1e-3)
    assert state.write_third_s3 == pytest.approx(factor * 0.02**3 + writes.wait_third_s3, rel=1e-3)
    assert settled(database, 10.0, 20.0).busy_s == pytest.approx(0.8 * 0.5, rel=1e-3)  # now the primary
    single = settled(a_database(cores=1.0, read_replicas=1.0), 10.0, 0.0)
    assert single.primary.busy == 0.0 and single.replicas.busy == pytest.approx(0.2, rel=1e-3)


def test_half_a_core_takes_twice_as_long():
    state = settled(a_database(cores=0.5), 1e-3, 0.0)
    assert (state.read_s, state.write_s) == pytest.approx((0.02, 0.04), rel=1e-3)


def test_a_database_that_nobody_asks_takes_as_long_as_a_query_alone():
    for replicas in (0.0, 1.0):
        for pool in (0.0, 20.0):
            state = settled(a_database(read_replicas=replicas), 0.0, 0.0, pool, ticks=2)
            assert (state.read_s, state.write_s, state.busy_s) == (0.01, 0.02, 0.0)
            assert (state.read_third_s3, state.write_third_s3) == pytest.approx((2e-6, 1.6e-5))
            assert (state.pool_queue, state.pools.open) == (0.0, 0.0)


def test_no_more_queries_wait_than_there_are_callers():
    """Each waits for one answer at a time: 60 of them at most, whatever comes."""
    state = settled(a_database(cores=1.0), 400.0, 0.0, callers=60.0)
    assert state.primary.open == pytest.approx(60.0, rel=0.02)
    assert state.read_s == pytest.approx(60 * 0.01, rel=0.03)
    both = settled(a_database(cores=1.0, read_replicas=3.0), 900.0, 300.0, callers=60.0)
    assert both.replicas.open == pytest.approx(60.0, rel=0.06) and both.primary.open == pytest.approx(60.0, rel=0.02)


@pytest.mark.parametrize("pods", [1.0, 5.0])
@pytest.mark.parametrize(("pool_size", "utilization"), [(1, 0.5), (2, 0.7), (4, 0.6), (4, 0.9)])
def test_a_query_waits_for_a_connection_of_its_pod(pool_size: int, utilization: float, pods: float):
    """A database that lets nobody wait: each pool is a queue of its own, M/M/c with its connections as servers."""
    database = a_database(cores=1000.0, read_s=0.2, pool_size=float(pool_size))
    state = settled(database, 0.5 * utilization * pods * pool_size / 0.2, 0.0, pods * pool_size)
    theory_s = mmc_mean_wait_s(utilization * pool_size / 0.2, 5.0, pool_size)
    assert state.read_s == pytest.approx(0.2 + theory_s, rel=0.01)
    waiting = utilization * pods * pool_size / 0.2 * theory_s
    assert state.pool_queue == pytest.approx(waiting, rel=0.05)


@pytest.mark.parametrize("pool_size", [2.0, 4.0, 8.0])
def test_one_pod_waits_once_for_its_bottleneck(pool_size: float):
    """Its queries stand in one line for four cores and so many connections: M/M/c with the smaller number."""
    servers = int(min(4.0, pool_size))
    state = settled(a_database(pool_size=pool_size), 0.5 * 0.85 * servers / 0.01, 0.0, pool_size)
    theory_s = mmc_mean_wait_s(0.85 * servers / 0.01, 100.0, servers)
    assert state.read_s == pytest.approx(0.01 + theory_s, rel=0.02)


def test_a_pool_that_chance_alone_never_needs_keeps_nobody_waiting():
    state = settled(a_database(pool_size=100.0), 100.0, 0.0, 1000.0)
    assert (state.pools.wait_s, state.pool_queue) == (0.0, 0.0)


def test_what_pools_hold_back_does_not_reach_the_servers():
    """Ten connections that 20 queries a second want for a second each: half of the queries go on, a line grows by the
    rest, and shortens by as much once nobody comes."""
    database = a_database(cores=100.0, read_s=1.0, pool_size=2.0)
    state = row(DATABASE_STATE, pool=10.0, callers=1e5)
    queued = []
    for queries in [20.0] * 10 + [0.0] * 20:
        before = float(state.primary.open)
        database_fluid.serve_database(KNOWN, database, state, queries, 0.0, 1.0)
        queued.append(float(state.pool_queue))
        assert state.primary.open <= max(before, 10.5)
    assert queued[2:10] == pytest.approx([10.0 * (k + 1) for k in range(2, 10)], abs=4.0)
    assert queued[10:16] == pytest.approx([90.0 - 10.0 * k for k in range(6)], abs=6.0)
    assert queued[-1] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("connections", [1.0, 2.0, 4.0])
def test_evened_pods_wait_as_a_closed_network_with_so_many_calls(connections: float):
    """One connection: exact mean value analysis by hand, two calls of 50 ms there and 100 ms elsewhere. More of them wait
    less; and more queries than they can do have no wait at all."""
    if connections == 1.0:
        rate = 2.0 / (0.1 + 0.05 * (1.0 + 0.05 / 0.15))
        assert database_fluid.wait_in_even_pods(rate, 1.0, 0.05, 0.1, 16.0) == pytest.approx(0.05 * 0.05 / 0.15)
    capacity = connections / 0.05
    waits = [database_fluid.wait_in_even_pods(u * capacity, connections, 0.05, 0.1, 100.0) for u in (0.3, 0.6, 0.9)]
    assert 0.0 <= waits[0] < waits[1] < waits[2]
    assert waits[2] < mmc_mean_wait_s(0.9 * capacity, 20.0, int(connections))
    assert database_fluid.wait_in_even_pods(1.01 * capacity, connections, 0.05, 0.1, 100.0) == math.inf


def test_a_full_primary_holds_the_connections_from_reads():
    """Writes at twice what it can do take all of them: reads, whose replicas are idle, wait nearly as long."""
    state = settled(a_database(cores=1.0, read_replicas=1.0, pool_size=4.0), 1.0, 50.0, 20.0, ticks=60)
    assert state.write_s > 10.0
    assert state.read_s == pytest.approx(state.write_s - 20 * 0.02, rel=0.05)


def test_a_database_that_rests_is_not_worked_out_again():
    """For so small a change of queries that nobody would notice; busy time goes on."""
    database = a_database()
    state = settled(database, 100.0, 10.0, 20.0)
    kept = state.copy()
    database_fluid.serve_database(KNOWN, database, state, 100.0 * (1 + 1e-4), 10.0, 0.5)
    assert state.busy_s == pytest.approx(2.0 * kept["busy_s"])
    assert (state.read_s, state.seen_reads) == (kept["read_s"], kept["seen_reads"])
    for change in ({"pool": 25.0}, {"callers": 9e4}):
        state = kept.copy().view(type(state))
        state = settled(database, 100.0, 10.0, 20.0)
        for name, value in change.items():
            state[name] = value
        database_fluid.serve_database(KNOWN, database, state, 100.0, 10.0, 0.5)
        assert all(float(state[f"seen_{name}"]) == value for name, value in change.items())
    database_fluid.serve_database(KNOWN, database, state, 110.0, 10.0, 0.5)
    assert state.seen_reads == 110.0


def test_a_cached_read_is_a_look_up_and_on_a_miss_a_read():
    """Hits take no more than the look-up; a read takes 0.1 or 0.4 s: by enumeration."""
    database, flow = row(DATABASE_STATE), row(STEP_FLOW)
    cache = row(CACHE_STATE, hit_ratio=0.7, lookup_s=0.05, lookup_variance_s2=1e-3, lookup_third_s3=1e-4)
    reads = [(0.1, 0.75), (0.4, 0.25)]
    database.read_s, database.read_variance_s2, database.read_third_s3 = cumulants(reads)
    database_fluid.read_through(cache, database, flow)
    mean, variance, third = cumulants([(0.0, 0.7), *((value, 0.3 * share) for value, share in reads)])
    assert seen(flow) == pytest.approx((mean + 0.05, variance + 1e-3, third + 1e-4), rel=1e-9)


def test_reads_writes_and_misses_meet_in_the_database():
    """Every step is told the time of its own kind."""
    world = stores()
    world.cache_states.misses, world.cache_states.hit_ratio = [100.0, 200.0], [0.5, 0.25]
    world.cache_states.lookup_s = [0.001, 0.002]
    world.known_points = known_stations()["known_points"]
    python(database_fluid.serve)(world)
    state, alone = world.database_states[0], row(DATABASE_STATE)
    database_fluid.serve_database(
        known_stations()["known_points"], world.databases[0], alone, 8.0 + 16.0 + 300.0, 32.0, 1.0
    )
    assert state.tobytes() == alone.tobytes()
    for place, kind in ((3, "read"), (4, "read"), (5, "write")):
        of_kind = [float(state[f"{kind}_{name}"]) for name in ("s", "variance_s2", "third_s3")]
        assert seen(world.step_flows[place]) == tuple(of_kind)
    for place, cache in ((0, 0), (1, 1), (2, 1)):
        flow = row(STEP_FLOW)
        database_fluid.read_through(world.cache_states[cache], state, flow)
        assert seen(world.step_flows[place]) == seen(flow) != (0.0, 0.0, 0.0)


def pods_of(running: list[int], ready: list[int], limit: float) -> SimpleNamespace:
    """Three services of 8 workers a pod, the second without connections; endpoints that make no query, half a write, two
    reads and then a look-up of which a quarter hits."""
    world = SimpleNamespace(
        known_points=KNOWN,
        databases=rows(DATABASE, 1, connection_limit=limit, pool_size=5.0),
        database_states=rows(DATABASE_STATE, 1),
        services=rows(SERVICE, 3, workers=8.0),
        service_states=rows(SERVICE_STATE, 3, n_running=running, n_ready=ready),
        database_clients=rows(DATABASE_CLIENT, 3, connects=[True, False, True]),
        endpoints=rows(ENDPOINT, 3),
        endpoint_flows=rows(ENDPOINT_FLOW, 3, error_share=9.0),
        steps=rows(
            STEP, 3, kind=[WRITE, READ, CACHED_READ], endpoint=[1, 2, 2], probability=[0.5, 1.0, 1.0],
            count=[1.0, 2.0, 1.0], executions=[0.5, 2.0, 1.0],
        ),
        queries=np.array([0, 1]),
        lookups=np.array([2]),
        cache_states=rows(CACHE_STATE, 1, hit_ratio=0.25),
    )  # fmt: skip
    python(database_fluid.before)(world)
    return world


def test_calls_that_need_a_refused_connection_fail():
    """Pods that run hold connections, those that are ready use them: 12 x 5 of 48 asked for, so a fifth is refused, and a
    call fails with its first query that is."""
    world = pods_of([4, 50, 8], [3, 40, 7], 48.0)
    state = world.database_states[0]
    assert (state.pool, state.callers, state.connection_ratio) == (50.0, 80.0, 1.25)
    assert state.refused_share == pytest.approx(0.2)
    assert world.endpoint_flows.error_share.tolist() == pytest.approx([0.0, 0.1, 1.0 - 0.8**2 * 0.85])
    world.databases.connection_limit = 75.0
    python(database_fluid.before)(world)
    assert (state.connection_ratio, state.refused_share) == (0.8, 0.0)
    assert world.endpoint_flows.error_share.tolist() == [0.0] * 3  # once more after the last refusal
    assert pods_of([4, 50, 8], [3, 40, 7], 60.0).endpoint_flows.error_share.tolist() == [9.0] * 3  # and not without one
    python(database_fluid.before)(SimpleNamespace(databases=[]))


def test_queries_that_are_refused_reach_no_server():
    world = stores()
    world.database_states.refused_share, world.database_states.callers = 0.25, 1e5
    python(database_fluid.serve)(world)
    assert world.database_states[0].seen_reads == pytest.approx(0.75 * 24.0)
    assert world.database_states[0].seen_writes == pytest.approx(0.75 * 32.0)


def test_a_scrape_of_the_databases_says_the_busiest_ones_figures():
    world = stores()
    world.databases, world.database_states = (
        range(2),
        rows(DATABASE_STATE, 2, busy_s=[2.0, 4.0], connection_ratio=[0.6, 0.3]),
    )
    python(database_telemetry.scrape)(world)
    assert world.state.staged.database_utilization == pytest.approx(0.4)
    assert world.state.staged.connection_ratio == 0.6
    assert not world.database_states.busy_s.any()
    assert math.isfinite(world.state.staged.database_utilization)
