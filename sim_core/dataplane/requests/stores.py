"""Cache and databases.

A cache is one server, first come first served; a look-up's end is known when it comes, and ends come in the order of the
look-ups: they stand in a list with one event for the first. A database instance is `cores` such servers. A query holds a
connection of its pod's pool from before it waits for a server until it is answered.
"""

from __future__ import annotations

from sim_core.compiled import kernel
from sim_core.dataplane.cache.fluid import cache_hit_ratio
from sim_core.dataplane.requests.cpu import first_free
from sim_core.dataplane.requests.draws import next_below, next_time, next_uniform
from sim_core.dataplane.requests.heap import drop_first, move_first, push_event
from sim_core.dataplane.requests.records import (
    DONE,
    FAILED,
    FOR_CONNECTION,
    LOOKING_UP,
    NONE,
    OF_CACHE,
    QUERYING,
    ZOMBIE,
    cache_at,
    cache_state_at,
    cache_station_at,
    clock_at,
    database_at,
    database_station_at,
    distribution_at,
    frame_at,
    pool_at,
)
from sim_core.dataplane.requests.threads import free_frame, sleep_until, wake


@kernel
def begin_lookup(engine, thread, row):
    """A thread looks a key up in a cache."""
    cache = cache_at(engine.the_caches, row)
    station = cache_station_at(engine.cache_stations, row)
    frame = frame_at(engine.frames, thread)
    service_s = next_time(frame, distribution_at(engine.cache_times, row), cache.server_s)
    station.free_s = max(station.free_s, engine.now_s) + service_s
    frame.due_s = station.free_s + (cache.lookup_s - cache.server_s)
    frame.state = LOOKING_UP
    frame.next = NONE
    station.lookups += 1.0
    station.sojourn_s += frame.due_s - engine.now_s
    if station.head == NONE:
        station.head = thread
        push_event(engine, frame.due_s, OF_CACHE, row)
    else:
        frame_at(engine.frames, station.tail).next = thread
    station.tail = thread


@kernel
def handle_cache(engine, row):
    """The first look-up on its way is answered: a hit ends the step, a miss fills the cache and asks the database.

    Its end is the earliest event of the heap, and still there: it gives way to the end of the next look-up.
    """
    station = cache_station_at(engine.cache_stations, row)
    thread = station.head
    frame = frame_at(engine.frames, thread)
    station.head = frame.next
    if station.head != NONE:
        move_first(engine, frame_at(engine.frames, station.head).due_s)
    else:
        drop_first(engine)
    if frame.state == ZOMBIE:
        free_frame(engine, thread)
        return
    cache = cache_at(engine.the_caches, row)
    state = cache_state_at(engine.the_cache_states, row)
    state.lookups += 1.0
    state.total_lookups += 1.0
    if next_uniform(frame) <= state.hit_ratio:
        state.hits += 1.0
        state.total_hits += 1.0
        wake(engine, thread, DONE)
        return
    if state.cached_keys < cache.capacity_keys:
        state.cached_keys = min(cache.capacity_keys, state.cached_keys + 1.0)
        state.hit_ratio = cache_hit_ratio(cache, state.cached_keys)
    begin_query(engine, thread, cache.database, False)


@kernel
def pool_of(engine, database, station):
    """The connections to a database that a pod holds."""
    return pool_at(engine.pools, database * engine.n_stations + station)


@kernel
def begin_query(engine, thread, row, write):
    """A thread asks a database: it may be refused, or wait for a connection of its pod first."""
    frame = frame_at(engine.frames, thread)
    station = database_station_at(engine.database_stations, row)
    frame.due_s = engine.now_s
    frame.target = row
    frame.write = write
    if frame.station == NONE:  # the load balancer has no pool
        _run_query(engine, thread)
        return
    if station.refused_share > 0.0 and next_uniform(engine) <= station.refused_share:
        wake(engine, thread, FAILED)
        return
    pool = pool_of(engine, row, frame.station)
    if pool.used < database_at(engine.the_databases, row).pool_size:
        pool.used += 1
        _run_query(engine, thread)
        return
    station.pool_waiting += 1
    frame.state = FOR_CONNECTION
    frame.next = NONE
    if pool.head == NONE:
        pool.head = thread
    else:
        frame_at(engine.frames, pool.tail).next = thread
    pool.tail = thread


@kernel
def _run_query(engine, thread):
    """A query goes to the primary if it writes, else to a read replica at random where there is one."""
    frame = frame_at(engine.frames, thread)
    database = database_at(engine.the_databases, frame.target)
    station = database_station_at(engine.database_stations, frame.target)
    mean_s = database.write_s if frame.write else database.read_s
    service_s = next_time(frame, distribution_at(engine.database_times, frame.target), mean_s)
    instance = 0
    if not frame.write and station.replicas > 0:
        instance = 1 + (next_below(engine, station.replicas) if station.replicas > 1 else 0)
        station.replicas_s += service_s
    else:
        station.primary_s += service_s
    server = first_free(engine.database_servers, station.servers_first + instance * station.servers, station.servers)
    clock = clock_at(engine.database_servers, server)
    clock.free_s = max(clock.free_s, engine.now_s) + service_s / station.speed
    sleep_until(engine, thread, clock.free_s, QUERYING)


@kernel
def end_query(engine, thread):
    """A query is answered: its connection goes to the next that waits in the pod."""
    frame = frame_at(engine.frames, thread)
    station = database_station_at(engine.database_stations, frame.target)
    sojourn_s = engine.now_s - frame.due_s
    if frame.write:
        station.writes += 1.0
        station.writes_s += sojourn_s
        station.writes_s2 += sojourn_s * sojourn_s
    else:
        station.reads += 1.0
        station.reads_s += sojourn_s
        station.reads_s2 += sojourn_s * sojourn_s
    if frame.station == NONE:
        return
    pool = pool_of(engine, frame.target, frame.station)
    if pool.head == NONE:
        pool.used -= 1
        return
    following = pool.head
    pool.head = frame_at(engine.frames, following).next
    station.pool_waiting -= 1
    _run_query(engine, following)
