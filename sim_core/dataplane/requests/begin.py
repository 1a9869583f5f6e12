"""Sets a lane's engine up: tables as long as the lane's services, calls and stores need."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.requests.draws import mixed, set_distribution
from sim_core.dataplane.requests.heap import begin_events
from sim_core.dataplane.requests.memory import allocate, release
from sim_core.dataplane.requests.records import (
    ARRIVAL,
    CACHE_STATION,
    CALL_STATE,
    CLOCK,
    COUNT,
    DATABASE_STATION,
    DISTRIBUTION,
    FRAME,
    GROUP,
    INDEX,
    NODE,
    NONE,
    OPEN,
    POOL,
    STATION,
    cache_station_at,
    call_state_at,
    database_station_at,
    distribution_at,
    group_at,
    index_at,
    node_at,
    open_at,
    pool_at,
    station_at,
)
from sim_core.dataplane.requests.threads import add_frames
from sim_core.dataplane.services.records import CACHED_READ, INGRESS, PARALLEL, READ, WRITE

_BYTES_ARRIVAL, _BYTES_CACHE, _BYTES_CALL = ARRIVAL.itemsize, CACHE_STATION.itemsize, CALL_STATE.itemsize
_BYTES_CLOCK, _BYTES_COUNT, _BYTES_DATABASE = CLOCK.itemsize, COUNT.itemsize, DATABASE_STATION.itemsize
_BYTES_DISTRIBUTION, _BYTES_FRAME = DISTRIBUTION.itemsize, FRAME.itemsize
_BYTES_GROUP, _BYTES_INDEX, _BYTES_NODE, _BYTES_OPEN = GROUP.itemsize, INDEX.itemsize, NODE.itemsize, OPEN.itemsize
_BYTES_POOL, _BYTES_STATION = POOL.itemsize, STATION.itemsize
_MOST_BUCKETS = 256
_FIRST_FRAMES, _FIRST_EVENTS = 64, 64
_BALANCERS = np.uint64(0x42616C616E636572)


@kernel
def end_engine(engine):
    """Gives back a lane's tables; the engine can begin again."""
    if not engine.began:
        return
    release(engine.frames)
    release(engine.events)
    release(engine.stations)
    release(engine.servers)
    release(engine.groups)
    release(engine.choices)
    release(engine.by_row)
    release(engine.nodes)
    release(engine.opens)
    release(engine.buckets)
    release(engine.call_states)
    release(engine.call_opens)
    release(engine.cache_stations)
    release(engine.database_stations)
    release(engine.database_servers)
    release(engine.pools)
    release(engine.step_times)
    release(engine.cache_times)
    release(engine.database_times)
    release(engine.spans)
    release(engine.users)
    release(engine.to_come)
    release(engine.visits)
    engine.began = False


@kernel
def begin_engine(
    engine, services, endpoints, steps, calls, classes, pods, caches, databases, key, trace_share, room_spans
):
    """An engine with nothing under way.

    Args:
        engine: ENGINE record, zero or used before.
        services, endpoints, steps, calls, classes, pods, caches, databases: views of the lane's tables.
        key: of the lane's random numbers [uint64].
        trace_share: of the requests that leave spans behind [1].
        room_spans: spans that are held at most until they are taken.
    """
    end_engine(engine)
    engine.began = True
    engine.n_services, engine.n_stations, engine.n_calls = len(services), len(pods), len(calls)
    engine.n_caches, engine.n_databases, engine.n_classes = len(caches), len(databases), len(classes)
    engine.n_steps = len(steps)
    engine.key = key
    engine.random = mixed(key ^ _BALANCERS, 0)
    engine.now_s = 0.0
    engine.arrived = engine.answered = engine.failed = engine.in_flight = engine.handled = 0
    engine.plain = False
    engine.run_head = engine.run_tail = NONE
    engine.trace_share = trace_share
    engine.n_spans = engine.lost_spans = 0
    engine.room_spans = room_spans
    engine.next_span = np.uint64(0)
    engine.spans, engine.n_span_rows = 0, 0
    _begin_groups(engine, services)
    _begin_calls(engine, services, calls)
    _begin_stores(engine, endpoints, steps, caches, databases)
    engine.to_come = allocate((engine.n_classes + 2) * _BYTES_ARRIVAL)
    most = 1  # frames that a thread takes at most before it waits: a call, or the branches of a PARALLEL
    for row in range(len(steps)):
        if steps[row].kind == PARALLEL:
            most = max(most, steps[row].end - row)
    engine.reserve = most + 1
    engine.n_frames, engine.n_used, engine.free = 0, 0, NONE
    engine.frames = allocate(_BYTES_FRAME)
    add_frames(engine, _FIRST_FRAMES + engine.reserve)
    engine.room_visits, engine.visits = 0, 0
    begin_events(engine, _FIRST_EVENTS)


@kernel
def _begin_groups(engine, services):
    engine.groups = allocate(engine.n_services * _BYTES_GROUP + 8)
    engine.stations = allocate(engine.n_stations * _BYTES_STATION + 8)
    engine.choices = allocate(engine.n_stations * _BYTES_INDEX + 8)
    engine.by_row = allocate(engine.n_stations * _BYTES_INDEX + 8)
    servers, nodes, opens, buckets = 0, 0, 0, 0
    for row in range(engine.n_services):
        service, group = services[row], group_at(engine.groups, row)
        group.first, group.rows = service.pods_first, service.n_pods
        group.servers = max(1, math.ceil(service.cores))
        group.speed = service.cores / group.servers
        group.servers_first = servers
        group.sharing, group.cores = service.sharing, service.cores
        group.period_s = service.quota_period_s if service.quota_period_s > 0.0 else 0.1
        group.balancing, group.nodes = service.balancing, max(1, service.balancer_nodes)
        group.nodes_first, group.open_first, group.buckets_first = nodes, opens, buckets
        group.bucket_limit = int(min(service.workers + service.queue_limit + 1.0, float(_MOST_BUCKETS)))
        group.choices, group.ejected, group.waiting, group.known = 0, 0, 0, 0
        group.fresh_until_s = -math.inf
        group.changed = False
        servers += group.servers * group.rows
        nodes += group.nodes
        opens += group.nodes * group.rows
        buckets += group.nodes * (group.bucket_limit + 2)
        for index in range(group.first, group.first + group.rows):
            station_at(engine.stations, index).serial = NONE
            station_at(engine.stations, index).service = row
            station_at(engine.stations, index).row = NONE
    engine.servers = allocate(servers * _BYTES_CLOCK + 8)
    engine.nodes = allocate(nodes * _BYTES_NODE + 8)
    engine.opens = allocate(opens * _BYTES_OPEN + 8)
    engine.buckets = allocate(buckets * _BYTES_INDEX + 8)
    for row in range(opens):
        open_at(engine.opens, row).place = NONE
    for row in range(nodes):
        node_at(engine.nodes, row).turn = NONE


@kernel
def _begin_calls(engine, services, calls):
    engine.call_states = allocate(engine.n_calls * _BYTES_CALL + 8)
    opens = 0
    for row in range(engine.n_calls):
        state = call_state_at(engine.call_states, row)
        state.oldest = state.newest = NONE
        state.open_first = opens
        opens += group_at(engine.groups, calls[row].service).nodes
    engine.call_opens = allocate(opens * _BYTES_COUNT + 8)


@kernel
def _begin_stores(engine, endpoints, steps, caches, databases):
    engine.step_times = allocate(engine.n_steps * _BYTES_DISTRIBUTION + 8)
    for row in range(engine.n_steps):
        set_distribution(distribution_at(engine.step_times, row), steps[row].scv)
    engine.cache_times = allocate(engine.n_caches * _BYTES_DISTRIBUTION + 8)
    engine.cache_stations = allocate(engine.n_caches * _BYTES_CACHE + 8)
    for row in range(engine.n_caches):
        set_distribution(distribution_at(engine.cache_times, row), caches[row].scv)
        cache_station_at(engine.cache_stations, row).head = NONE
    engine.database_times = allocate(engine.n_databases * _BYTES_DISTRIBUTION + 8)
    engine.database_stations = allocate(engine.n_databases * _BYTES_DATABASE + 8)
    servers = 0
    for row in range(engine.n_databases):
        database, station = databases[row], database_station_at(engine.database_stations, row)
        set_distribution(distribution_at(engine.database_times, row), database.scv)
        station.servers = max(1, math.ceil(database.cores))
        station.speed = database.cores / station.servers
        station.replicas = int(database.read_replicas)
        station.servers_first = servers
        servers += station.servers * (1 + station.replicas)
    engine.database_servers = allocate(servers * _BYTES_CLOCK + 8)
    n_pools = engine.n_databases * engine.n_stations
    engine.pools = allocate(n_pools * _BYTES_POOL + 8)
    for row in range(n_pools):
        pool_at(engine.pools, row).head = NONE
    engine.users = allocate(engine.n_databases * engine.n_services * _BYTES_INDEX + 8)
    for row in range(engine.n_steps):
        step = steps[row]
        service = endpoints[step.endpoint].service
        if service == INGRESS:
            continue
        if step.kind == READ or step.kind == WRITE:
            index_at(engine.users, step.target * engine.n_services + service).at = 1
        elif step.kind == CACHED_READ:
            index_at(engine.users, caches[step.target].database * engine.n_services + service).at = 1
