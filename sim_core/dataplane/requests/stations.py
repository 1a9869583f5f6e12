"""Pods come and go between two ticks: the engine's stations follow them, by serial."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.controlplane.pods import READY_TRUE, RUNNING
from sim_core.dataplane.requests.balancing import opens_of, renew_choices
from sim_core.dataplane.requests.calls import abandon_attempt, answer_caller, change_waiting
from sim_core.dataplane.requests.draws import mixed
from sim_core.dataplane.requests.records import (
    FOR_CONNECTION,
    FREE,
    IN_CALL,
    LOOKING_UP,
    NONE,
    ZOMBIE,
    clock_at,
    database_station_at,
    frame_at,
    group_at,
    index_at,
    open_at,
    pod_at,
    service_at,
    service_state_at,
    station_at,
)
from sim_core.dataplane.requests.stores import pool_of
from sim_core.dataplane.requests.threads import free_frame
from sim_core.dataplane.services.records import FIFO

_UNIT = 2.0**-64


@kernel
def follow_pods(engine):
    """Brings the stations of every service up to date with its pods at the begin of a tick; what is in pods that are gone
    fails."""
    any_gone = False
    for service in range(engine.n_services):
        if _follow(engine, service):
            any_gone = True
    if any_gone:
        _fail_what_is_gone(engine)
    for service in range(engine.n_services):
        _set_ready(engine, service)


@kernel
def _follow(engine, service):
    """Finds the station of each pod of a service. Returns whether a pod is gone that had one.

    Rows of pods keep their order: those that are gone leave it, new ones are added at its end.
    """
    group = group_at(engine.groups, service)
    parameters = service_at(engine.the_services, service)
    n_pods = service_state_at(engine.the_states, service).n_pods
    same = n_pods == group.known
    row = 0
    while same and row < n_pods:
        index = index_at(engine.by_row, group.first + row).at
        same = station_at(engine.stations, index).serial == pod_at(engine.the_pods, parameters.pods_first + row).serial
        row += 1
    if same:
        return False
    for index in range(group.first, group.first + group.rows):
        station_at(engine.stations, index).row = NONE
    index = NONE
    for row in range(n_pods):  # those that were here before keep their station
        serial = pod_at(engine.the_pods, parameters.pods_first + row).serial
        index = _station_of(engine, group, serial, index + 1)
        index_at(engine.by_row, group.first + row).at = index
        if index != NONE:
            station_at(engine.stations, index).row = row
    gone = False
    for index in range(group.first, group.first + group.rows):
        station = station_at(engine.stations, index)
        if station.serial != NONE and station.row == NONE:
            gone = True
    group.known = n_pods
    group.changed = True
    return gone


@kernel
def _station_of(engine, group, serial, likely):
    """The station of a pod or NONE; stations mostly lie in the order of their pods, so that of the pod before is a hint."""
    if group.first <= likely < group.first + group.rows and station_at(engine.stations, likely).serial == serial:
        return np.int64(likely)
    for index in range(group.first, group.first + group.rows):
        if station_at(engine.stations, index).serial == serial:
            return np.int64(index)
    return np.int64(NONE)


@kernel
def _is_gone(engine, index):
    return (
        index != NONE
        and station_at(engine.stations, index).serial != NONE
        and station_at(engine.stations, index).row == NONE
    )


@kernel
def _fail_what_is_gone(engine):
    """Ends every thread in pods that are gone, and tells callers elsewhere that still wait."""
    for thread in range(engine.n_frames):
        frame = frame_at(engine.frames, thread)
        if frame.state == FREE or frame.state == ZOMBIE or not _is_gone(engine, frame.station):
            continue
        if frame.state == IN_CALL:
            abandon_attempt(engine, thread)
        if frame.state == FOR_CONNECTION:
            database_station_at(engine.database_stations, frame.target).pool_waiting -= 1
        if frame.owner == thread and not _is_gone(engine, frame_at(engine.frames, frame.parent).station):
            answer_caller(engine, thread, False)
        if frame.state == LOOKING_UP:  # it stands in the cache's list until its turn
            frame.state = ZOMBIE
            frame.life += 1
            frame.call_token += 1
        else:
            free_frame(engine, thread)
    for service in range(engine.n_services):
        group = group_at(engine.groups, service)
        for index in range(group.first, group.first + group.rows):
            if _is_gone(engine, index):
                _clear_station(engine, service, group, index)


@kernel
def _clear_station(engine, service, group, index):
    station = station_at(engine.stations, index)
    change_waiting(engine, service, group, -station.queued)
    station.queued = 0
    station.busy = 0
    station.running = 0
    station.soonest = NONE
    station.armed_s = math.inf
    station.choosable = False
    station.ready = False
    station.serial = NONE
    if station.ejected_until_s > 0.0:
        group.ejected -= 1
        station.ejected_until_s = 0.0
    for database in range(engine.n_databases):
        pool = pool_of(engine, database, index)
        pool.used = 0
        pool.head = NONE


@kernel
def _set_up_station(engine, service, group, index, row, serial):
    """A new pod gets a station that nobody uses."""
    station = station_at(engine.stations, index)
    station.serial = serial
    station.service = service
    station.row = row
    station.busy = 0
    station.queued = 0
    station.running = 0
    station.soonest = NONE
    station.choosable = False
    station.ready = False
    station.virtual_s = 0.0
    station.updated_s = engine.now_s
    station.armed_s = math.inf
    station.cpu_core_s = 0.0
    station.reported_core_s = 0.0
    station.waited_s = 0.0
    station.failures = 0
    station.ejections = 0
    station.ejected_until_s = 0.0
    station.throttled = False
    station.quota_left_core_s = group.cores * group.period_s
    phase = np.float64(mixed(engine.key + np.uint64(service), serial)) * _UNIT
    station.period_end_s = engine.now_s + group.period_s * (1.0 - phase)
    if group.sharing == FIFO:
        for server in range(group.servers):
            clock_at(engine.servers, group.servers_first + (index - group.first) * group.servers + server).free_s = 0.0
    for node in range(group.nodes):
        open_at(engine.opens, opens_of(group, node) + index - group.first).calls = 0
    for database in range(engine.n_databases):
        pool = pool_of(engine, database, index)
        pool.used = 0
        pool.head = NONE


@kernel
def _set_ready(engine, service):
    """Gives new pods a station, and lists anew what a call can go to where that has changed."""
    group = group_at(engine.groups, service)
    parameters = service_at(engine.the_services, service)
    changed = group.changed
    if group.changed:
        free = group.first
        for row in range(group.known):
            if index_at(engine.by_row, group.first + row).at == NONE:
                while station_at(engine.stations, free).serial != NONE:
                    free += 1
                serial = pod_at(engine.the_pods, parameters.pods_first + row).serial
                _set_up_station(engine, service, group, free, row, serial)
                index_at(engine.by_row, group.first + row).at = free
        group.changed = False
    for row in range(group.known):
        pod = pod_at(engine.the_pods, parameters.pods_first + row)
        station = station_at(engine.stations, index_at(engine.by_row, group.first + row).at)
        station.cold_factor = parameters.cold_factor if pod.cold else 1.0
        ready = pod.phase == RUNNING and pod.ready == READY_TRUE and not pod.deleting
        if ready == station.ready:
            continue
        changed = True
        station.ready = ready
        station.choosable = ready and station.ejected_until_s == 0.0
        if ready:
            station.ready_s = pod.ready_transition_s
            group.fresh_until_s = max(group.fresh_until_s, station.ready_s + group.slow_start_s)
    if changed:
        renew_choices(engine, group)
