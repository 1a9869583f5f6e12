"""The request engine: every request, call, step, timeout and retry of a lane is an event of its own.

A tick of a lane: stations follow the pods; arrivals come at independent, even random moments of the tick, and each event
in the order of time lets threads go on until each waits for something; then the tick's figures are booked. Between two ticks
everything under way stays in the engine's own tables, which grow by doubling and hold nothing of requests that are over.
"""

from __future__ import annotations

import math

from sim_core.compiled import kernel
from sim_core.dataplane.cache.fluid import cache_hit_ratio
from sim_core.dataplane.requests.arrivals import arrive, expect_arrivals, next_arrival
from sim_core.dataplane.requests.calls import change_waiting
from sim_core.dataplane.requests.cpu import report_cpu
from sim_core.dataplane.requests.direct import can_play_direct, is_direct, play_direct
from sim_core.dataplane.requests.dispatch import handle_first, run_woken
from sim_core.dataplane.requests.records import (
    NONE,
    cache_at,
    cache_state_at,
    cache_station_at,
    call_state_at,
    clock_at,
    database_at,
    database_state_at,
    database_station_at,
    event_at,
    group_at,
    index_at,
    pod_at,
    service_at,
    service_state_at,
    sums_at,
)
from sim_core.dataplane.requests.stations import follow_pods
from sim_core.dataplane.requests.steps import advance
from sim_core.dataplane.requests.threads import make_room


@kernel
def serve_requests(
    engine, services, states, endpoints, steps, calls, classes, pods, caches, cache_states, databases, database_states,
    sums, class_sums, latency, arrivals, key, threshold_s, tick, tick_s,
):  # fmt: skip
    """Takes one lane's data plane one tick further.

    Args:
        engine: the lane's ENGINE record, set up by `begin_engine` with the same tables.
        services, states, endpoints, steps, calls, classes, pods, caches, cache_states, databases, database_states: views
            of the lane's tables.
        sums: SERVICE_SUMS by service, class_sums: CLASS_SUMS by class; added to.
        latency: requests by latency, shape (n_classes, LATENCY_BUCKETS); added to.
        arrivals: requests of this tick by class, whole numbers, shape (n_classes,).
        key: of the lane's random numbers.
        threshold_s: latency of a good request [s].
        tick: number of the tick; tick_s: its length [s].
    """
    engine.the_services, engine.the_states, engine.the_endpoints = (
        services.ctypes.data,
        states.ctypes.data,
        endpoints.ctypes.data,
    )
    engine.the_steps, engine.the_calls, engine.the_classes = steps.ctypes.data, calls.ctypes.data, classes.ctypes.data
    engine.the_pods, engine.the_caches, engine.the_cache_states = (
        pods.ctypes.data,
        caches.ctypes.data,
        cache_states.ctypes.data,
    )
    engine.the_databases, engine.the_database_states = databases.ctypes.data, database_states.ctypes.data
    engine.the_sums, engine.the_class_sums, engine.the_latency = (
        sums.ctypes.data,
        class_sums.ctypes.data,
        latency.ctypes.data,
    )
    engine.key = key
    engine.threshold_s = threshold_s
    engine.now_s = tick * tick_s
    begin_tick(engine)
    play(engine, arrivals, tick, tick_s)
    engine.now_s = (tick + 1) * tick_s
    end_tick(engine, tick_s)


@kernel
def begin_tick(engine):
    """What may have changed between two ticks: pods, parameters, the fill of caches, refused connections."""
    now_s = engine.now_s
    for service in range(engine.n_services):
        group = group_at(engine.groups, service)
        parameters = service_at(engine.the_services, service)
        group.workers = int(min(parameters.workers, 2.0**62))
        group.queue_limit = int(min(parameters.queue_limit, 2.0**62))
        group.slow_start_s = parameters.slow_start_s
        group.sticky_share = parameters.sticky_share
        group.waiting_since_s = now_s
    follow_pods(engine)
    engine.direct = is_direct(engine)
    for row in range(engine.n_calls):
        state = call_state_at(engine.call_states, row)
        state.last_attempts = state.first_attempts
        state.first_attempts = 0.0
    for row in range(engine.n_caches):
        cache, state = cache_at(engine.the_caches, row), cache_state_at(engine.the_cache_states, row)
        state.hit_ratio = cache_hit_ratio(cache, state.cached_keys)
    for row in range(engine.n_databases):
        _count_connections(engine, row)


@kernel
def _count_connections(engine, row):
    """The share of pods' connections that a database refuses: those of running pods beyond its limit."""
    database, state = database_at(engine.the_databases, row), database_state_at(engine.the_database_states, row)
    asked = 0.0
    for service in range(engine.n_services):
        if index_at(engine.users, row * engine.n_services + service).at > 0:
            asked += service_state_at(engine.the_states, service).n_running * database.pool_size
    state.connection_ratio = asked / database.connection_limit
    state.refused_share = max(0.0, 1.0 - 1.0 / state.connection_ratio) if asked > 0.0 else 0.0
    database_station_at(engine.database_stations, row).refused_share = state.refused_share


@kernel
def play(engine, arrivals, tick, tick_s):
    """Every event of a tick, in the order of time; what can be played without events is."""
    begin_s, end_s = tick * tick_s, (tick + 1) * tick_s
    expect_arrivals(engine, arrivals, tick)
    next_arrival(engine, begin_s, tick_s)
    if engine.direct and engine.run_head == NONE and can_play_direct(engine):
        play_direct(engine, begin_s, tick_s)
    while True:
        run_woken(engine)
        event_s = event_at(engine.events, 0).time_s if engine.n_events > 0 else math.inf
        if engine.arrival_s <= event_s:
            if engine.left == 0:
                return
            engine.plain = False
            engine.now_s = engine.arrival_s
            make_room(engine)
            thread = arrive(engine)
            next_arrival(engine, begin_s, tick_s)
            advance(engine, thread)
        elif event_s < end_s:
            engine.plain = False
            handle_first(engine, event_s)
        else:
            return


@kernel
def end_tick(engine, tick_s):
    """Books what was used up to the end of the tick."""
    for service in range(engine.n_services):
        group = group_at(engine.groups, service)
        parameters = service_at(engine.the_services, service)
        change_waiting(engine, service, group, 0)
        sums = sums_at(engine.the_sums, service)
        for row in range(group.known):
            index = index_at(engine.by_row, group.first + row).at
            used_core_s = report_cpu(engine, index, engine.now_s)
            pod_at(engine.the_pods, parameters.pods_first + row).cpu_core_s += used_core_s
            sums.cpu_core_s += used_core_s
        sums.request_core_s += service_state_at(engine.the_states, service).n_ready * parameters.request_cores * tick_s
    for row in range(engine.n_caches):
        station, state = cache_station_at(engine.cache_stations, row), cache_state_at(engine.the_cache_states, row)
        if station.lookups > 0.0:
            state.lookup_s = station.sojourn_s / station.lookups
        station.lookups = 0.0
        station.sojourn_s = 0.0
    for row in range(engine.n_databases):
        _book_database(engine, row, tick_s)


@kernel
def _book_database(engine, row, tick_s):
    database, state = database_at(engine.the_databases, row), database_state_at(engine.the_database_states, row)
    station = database_station_at(engine.database_stations, row)
    primary_s = station.primary_s - _backlog_s(engine, station, 0, 1)
    replicas_s = station.replicas_s - _backlog_s(engine, station, 1, 1 + station.replicas)
    capacity_s = database.cores * tick_s
    primary = (primary_s - station.primary_reported_s) / capacity_s
    replicas = (replicas_s - station.replicas_reported_s) / (capacity_s * max(1, station.replicas))
    station.primary_reported_s, station.replicas_reported_s = primary_s, replicas_s
    state.busy_s += max(primary, replicas) * tick_s
    state.pool_queue = station.pool_waiting
    if station.reads > 0.0:
        state.read_s = station.reads_s / station.reads
        state.read_variance_s2 = max(0.0, station.reads_s2 / station.reads - state.read_s**2)
    if station.writes > 0.0:
        state.write_s = station.writes_s / station.writes
        state.write_variance_s2 = max(0.0, station.writes_s2 / station.writes - state.write_s**2)
    station.reads = station.reads_s = station.reads_s2 = 0.0
    station.writes = station.writes_s = station.writes_s2 = 0.0


@kernel
def _backlog_s(engine, station, first, end):
    """Service time that these instances have been given and not yet done."""
    backlog_s = 0.0
    for server in range(station.servers_first + first * station.servers, station.servers_first + end * station.servers):
        backlog_s += max(0.0, clock_at(engine.database_servers, server).free_s - engine.now_s) * station.speed
    return backlog_s
