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
from sim_core.dataplane.database.records import (
    DATABASE,
    DATABASE_CLIENT,
    DATABASE_GROUP,
    DATABASE_STATE,
    ENDPOINT_QUERIES,
)
from sim_core.dataplane.queueing import queue_after, third_cumulant_factor, wait_moments
from sim_core.dataplane.services.flows import ENDPOINT_FLOW, STEP_FLOW
from sim_core.dataplane.services.kinds import CACHED_READ, READ, WRITE
from sim_core.dataplane.services.records import ENDPOINT, SERVICE_STATE, STEP
from sim_core.theory import mg1_mean_wait_s
from tests.handmade import cumulants, python, row, rows, seen

# --- Cache


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


def test_a_look_up_waits_for_one_thread_as_pollaczek_and_khinchine_say():
    """800 look-ups in half a second, 0.2 ms each: 600 of them miss, and fill the cache up to its capacity."""
    cache, state = a_cache(), row(CACHE_STATE, cached_keys=250.0, lookups=10.0, hits=5.0)
    cache_fluid.look_up(cache, state, 800.0, 0.5)
    assert state.hit_ratio == pytest.approx(0.25)
    assert state.misses == pytest.approx(600.0)
    assert state.cached_keys == pytest.approx(850.0)
    assert (state.lookups, state.hits) == pytest.approx((810.0, 205.0))
    assert state.lookup_s == pytest.approx(0.001 + mg1_mean_wait_s(1600.0, 2e-4, 3.0))
    cache_fluid.look_up(cache, state, 800.0, 0.5)
    assert state.cached_keys == 1000.0


@pytest.mark.parametrize("lookups", [2500.0, 2499.999, 9000.0])
def test_a_saturated_cache_makes_a_look_up_wait_a_whole_tick(lookups: float):
    state = row(CACHE_STATE)
    cache_fluid.look_up(a_cache(), state, lookups, 0.5)
    assert state.lookup_s == 0.501


def stores() -> SimpleNamespace:
    """Two caches before one database; three cached reads, two reads and a write."""
    kinds = [CACHED_READ, CACHED_READ, CACHED_READ, READ, READ, WRITE]
    return SimpleNamespace(
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


def settled(database: Any, reads: float, writes: float, pool: float = 0.0, ticks: int = 300) -> Any:
    """State of a database after a while of constant load."""
    state = row(DATABASE_STATE, pool=pool)
    for _ in range(ticks):
        state.busy_s = 0.0
        database_fluid.serve_database(database, state, reads, writes, 0.5)
    return state


def settled_group(queries: float, query_s: float, scv: float, cores: float, instances: float, limit: float) -> Any:
    group = row(DATABASE_GROUP)
    for _ in range(300):
        database_fluid.serve_group(group, queries, query_s, scv, cores, instances, limit, 0.5)
    return group


def test_queries_wait_in_equal_queues():
    """One core: Pollaczek and Khinchine; two instances with one core wait as one with half the queries."""
    group = settled_group(35.0, 0.01, 3.0, 1.0, 1.0, 1e9)
    assert group.wait_s == pytest.approx(mg1_mean_wait_s(70.0, 0.01, 3.0), rel=1e-6)
    assert group.utilization == pytest.approx(0.7)
    both = settled_group(70.0, 0.01, 3.0, 1.0, 2.0, 1e9)
    assert (both.wait_s, both.utilization) == pytest.approx((float(group.wait_s), 0.7), rel=1e-6)
    assert both.queue_len == pytest.approx(2.0 * group.queue_len)
    faster = settled_group(70.0, 0.01, 3.0, 2.0, 1.0, 1e9)
    assert 0.0 < faster.wait_s < 0.6 * group.wait_s


def test_no_more_queries_stand_in_line_than_there_are_connections():
    group = settled_group(100.0, 0.01, 1.0, 1.0, 1.0, 40.0)
    assert (group.queue_len, group.utilization) == (40.0, 1.0)
    assert group.wait_s == pytest.approx(40.0 * 0.01)


def test_a_group_that_nobody_asks_drains_and_then_rests():
    group = row(DATABASE_GROUP, queue_len=60.0, wait_s=9.0, wait_variance_s2=9.0, utilization=9.0)
    database_fluid.serve_group(group, 0.0, 0.01, 1.0, 1.0, 1.0, 1e9, 0.5)
    assert group.queue_len == pytest.approx(10.0, abs=0.5)
    for _ in range(3):
        database_fluid.serve_group(group, 0.0, 0.01, 1.0, 1.0, 1.0, 1e9, 0.5)
    assert [float(group[name]) for name in DATABASE_GROUP.names or ()] == [0.0] * 4
    for queue_len in (0.0, 0.7):
        group = row(DATABASE_GROUP, queue_len=queue_len, utilization=9.0)
        database_fluid.serve_group(group, 0.0, 0.01, 1.0, 1.0, 1.0, 1e9, 0.5)
        assert (group.queue_len, group.utilization) == (0.0, 0.0)


def test_without_read_replicas_the_primary_takes_all_queries():
    """Reads of 10 ms and writes of 20 ms, 3 to 1: 12.5 ms on the mean; both wait in the same line."""
    database = a_database(cores=1.0)
    state, alone = settled(database, 21.0, 7.0), settled_group(28.0, 0.0125, 1.0, 1.0, 1.0, 100.0)
    assert state.read_s == pytest.approx(0.01 + alone.wait_s)
    assert state.write_s == pytest.approx(0.02 + alone.wait_s)
    assert state.busy_s == pytest.approx(0.7 * 0.5)
    assert state.read_variance_s2 == pytest.approx(0.01**2 + alone.wait_variance_s2)
    assert state.write_variance_s2 == pytest.approx(0.02**2 + alone.wait_variance_s2)
    skew = 2.0 * alone.wait_variance_s2**2 / alone.wait_s
    assert state.read_third_s3 == pytest.approx(2.0 * 0.01**3 + skew)
    assert state.write_third_s3 == pytest.approx(2.0 * 0.02**3 + skew)


def test_read_replicas_take_the_reads():
    """Two of them: writes alone at the primary; the busier of both is what the database reports."""
    database = a_database(cores=1.0, read_replicas=2.0, scv=4.0)
    state = settled(database, 70.0, 10.0)
    reads = settled_group(70.0, 0.01, 4.0, 1.0, 2.0, 200.0)
    writes = settled_group(10.0, 0.02, 4.0, 1.0, 1.0, 100.0)
    assert (state.read_s, state.write_s) == pytest.approx((0.01 + reads.wait_s, 0.02 + writes.wait_s))
    assert state.busy_s == pytest.approx(0.7 * 0.5)
    assert state.read_variance_s2 == pytest.approx(4.0 * 0.01**2 + reads.wait_variance_s2)
    assert state.write_variance_s2 == pytest.approx(4.0 * 0.02**2 + writes.wait_variance_s2)
    factor = third_cumulant_factor(4.0)
    assert state.read_third_s3 == pytest.approx(factor * 0.01**3 + 2.0 * reads.wait_variance_s2**2 / reads.wait_s)
    assert state.write_third_s3 == pytest.approx(factor * 0.02**3 + 2.0 * writes.wait_variance_s2**2 / writes.wait_s)
    overloaded = settled(database, 400.0, 100.0)
    assert (overloaded.replicas.queue_len, overloaded.primary.queue_len) == (200.0, 100.0)  # all connections of each
    assert settled(database, 10.0, 20.0).busy_s == pytest.approx(0.8 * 0.5)  # now the primary
    single = settled(a_database(cores=1.0, read_replicas=1.0), 10.0, 0.0)
    assert single.primary.utilization == 0.0 and single.replicas.utilization == pytest.approx(0.2)


def test_a_database_that_nobody_asks_takes_as_long_as_a_query_alone():
    for replicas in (0.0, 1.0):
        state = settled(a_database(read_replicas=replicas), 0.0, 0.0, ticks=1)
        assert (state.read_s, state.write_s, state.busy_s) == (0.01, 0.02, 0.0)
        assert (state.read_third_s3, state.write_third_s3) == pytest.approx((2e-6, 1.6e-5))


def test_a_query_waits_for_a_connection_of_its_pod():
    """Four pods with five connections each, seven tenths of them held: a queue of its own in each, as of five servers."""
    state, tick_s = row(DATABASE_STATE, pool=20.0), 0.5
    queries, held = 100.0, 7.0
    for _ in range(300):
        wait_s = database_fluid.wait_for_connection(state, queries, held, 5.0, tick_s)
    capacity = 20.0 * tick_s * queries / held
    queue, stationary, waits = queue_after(state.pool_queue, queries, capacity, 5.0, 4.0, 1.0)
    assert state.pool_queue == pytest.approx(queue)
    expected_s, _ = wait_moments(queue, queue, stationary, waits, queries, capacity, tick_s)
    assert wait_s == pytest.approx(expected_s)
    assert wait_s == pytest.approx(stationary / queries * tick_s, rel=1e-6)
    assert wait_s > 1e-3


def test_connections_that_are_hardly_used_keep_nobody_waiting():
    """Up to three tenths of them."""
    for held, waits in ((3.0, False), (3.1, True)):
        state = row(DATABASE_STATE, pool=20.0)
        assert (database_fluid.wait_for_connection(state, 100.0, held, 5.0, 0.5) > 0.0) == waits
    state = row(DATABASE_STATE, pool=20.0, pool_queue=50.0)
    assert database_fluid.wait_for_connection(state, 100.0, 1.0, 5.0, 0.5) > 0.0  # a line from before


def test_without_pods_or_queries_there_is_no_line_for_connections():
    state = row(DATABASE_STATE, pool_queue=3.0)
    assert database_fluid.wait_for_connection(state, 100.0, 9.0, 5.0, 0.5) == 0.0
    state.pool = 20.0
    assert database_fluid.wait_for_connection(state, 0.0, 0.0, 5.0, 0.5) == 0.0
    assert state.pool_queue == 0.0


def test_the_line_for_connections_is_at_most_four_times_as_long_as_there_are():
    state = row(DATABASE_STATE, pool=20.0)
    for _ in range(100):
        database_fluid.wait_for_connection(state, 100.0, 20.0, 5.0, 0.5)
    assert state.pool_queue == 80.0


def test_queries_take_their_wait_for_a_connection_too():
    """Twenty queries a tick that hold ten of sixteen connection-seconds between them."""
    with_pool = settled(a_database(read_s=0.5, write_s=0.5, cores=1e3), 12.0, 8.0, pool=32.0)
    without = settled(a_database(read_s=0.5, write_s=0.5, cores=1e3), 12.0, 8.0)
    state = row(DATABASE_STATE, pool=32.0)
    for _ in range(300):
        wait_s = database_fluid.wait_for_connection(state, 20.0, 10.0, 5.0, 0.5)
    assert wait_s > 0.0
    assert with_pool.read_s - without.read_s == pytest.approx(wait_s)
    assert with_pool.write_s - without.write_s == pytest.approx(wait_s)


def test_a_cached_read_is_a_look_up_and_on_a_miss_a_read():
    """Hits take no more; a read takes 0.1 or 0.4 s: by enumeration."""
    database, cache, flow = row(DATABASE_STATE), row(CACHE_STATE, hit_ratio=0.7, lookup_s=0.05), row(STEP_FLOW)
    reads = [(0.1, 0.75), (0.4, 0.25)]
    database.read_s, database.read_variance_s2, database.read_third_s3 = cumulants(reads)
    database_fluid.read_through(cache, database, flow)
    mean, variance, third = cumulants([(0.0, 0.7), *((value, 0.3 * share) for value, share in reads)])
    assert seen(flow) == pytest.approx((mean + 0.05, variance, third), rel=1e-9)


def test_reads_writes_and_misses_meet_in_the_database():
    """Every step is told the time of its own kind."""
    world = stores()
    world.cache_states.misses, world.cache_states.hit_ratio = [100.0, 200.0], [0.5, 0.25]
    world.cache_states.lookup_s = [0.001, 0.002]
    python(database_fluid.serve)(world)
    state, alone = world.database_states[0], row(DATABASE_STATE)
    database_fluid.serve_database(world.databases[0], alone, 8.0 + 16.0 + 300.0, 32.0, 1.0)
    assert state.tobytes() == alone.tobytes()
    for place, kind in ((3, "read"), (4, "read"), (5, "write")):
        of_kind = [float(state[f"{kind}_{name}"]) for name in ("s", "variance_s2", "third_s3")]
        assert seen(world.step_flows[place]) == tuple(of_kind)
    for place, cache in ((0, 0), (1, 1), (2, 1)):
        flow = row(STEP_FLOW)
        database_fluid.read_through(world.cache_states[cache], state, flow)
        assert seen(world.step_flows[place]) == seen(flow) != (0.0, 0.0, 0.0)


def pods_of(running: list[int], ready: list[int], limit: float) -> SimpleNamespace:
    """Three services, the second without connections; endpoints with 0, half and two queries a call."""
    world = SimpleNamespace(
        databases=rows(DATABASE, 1, connection_limit=limit, pool_size=5.0),
        database_states=rows(DATABASE_STATE, 1),
        services=range(3),
        service_states=rows(SERVICE_STATE, 3, n_running=running, n_ready=ready),
        database_clients=rows(DATABASE_CLIENT, 3, connects=[True, False, True]),
        endpoints=rows(ENDPOINT, 3),
        endpoint_flows=rows(ENDPOINT_FLOW, 3, error_share=9.0),
        endpoint_queries=rows(ENDPOINT_QUERIES, 3, queries=[0.0, 0.5, 2.0]),
    )
    python(database_fluid.before)(world)
    return world


def test_calls_that_need_a_refused_connection_fail():
    """Pods that run hold connections, those that are ready use them: 12 x 5 of 48 asked for, so a fifth is refused."""
    world = pods_of([4, 50, 8], [3, 40, 7], 48.0)
    state = world.database_states[0]
    assert (state.pool, state.connection_ratio) == (50.0, 1.25)
    assert state.refused_share == pytest.approx(0.2)
    assert world.endpoint_flows.error_share.tolist() == pytest.approx([0.0, 0.1, 0.2])
    world.databases.connection_limit = 75.0
    python(database_fluid.before)(world)
    assert (state.connection_ratio, state.refused_share) == (0.8, 0.0)
    assert world.endpoint_flows.error_share.tolist() == [0.0] * 3  # once more after the last refusal
    assert pods_of([4, 50, 8], [3, 40, 7], 60.0).endpoint_flows.error_share.tolist() == [9.0] * 3  # and not without one
    python(database_fluid.before)(SimpleNamespace(databases=[]))


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
