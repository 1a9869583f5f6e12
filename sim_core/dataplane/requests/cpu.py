"""The CPU of a pod: first come first served, shared equally, or in bursts up to a quota.

- FIFO: ceil(cores) servers, each at speed cores / ceil(cores). A step goes to the server that is free first; its end is
  known when it comes, so it is one event.
- Processor sharing: each of n calls gets min(1, cores / n) of a core. What a call that runs all the time has got is the
  pod's virtual time; calls leave in the order of the virtual time at which they are done, whatever happens meanwhile.
- CFS quota: every call gets a whole core until cores x period is used up in the period; then all stand still to its end.
  Virtual time runs as the wall clock does, or not at all. Periods of a pod begin at a phase of its own.

Source: Kleinrock, "Queueing Systems II" (1976), section 4.4 (processor sharing); Linux,
Documentation/scheduler/sched-bwc.rst (quota); Fredman and others, "The pairing heap", Algorithmica 1 (1986).
"""

from __future__ import annotations

import math

from sim_core.compiled import kernel
from sim_core.dataplane.requests.heap import push_event
from sim_core.dataplane.requests.records import (
    DONE,
    NONE,
    OF_STATION,
    ON_CPU,
    TIMED,
    clock_at,
    frame_at,
    group_at,
    station_at,
    sums_at,
)
from sim_core.dataplane.requests.threads import sleep_until, wake
from sim_core.dataplane.services.records import FIFO, PROCESSOR_SHARING

_NANOSECOND = 1e-9  # of CPU: less than this is done; rounding of the clock is 1e-11 s after a day


@kernel
def first_free(clocks, first, n):
    """The row of the server that is free first among `n` from row `first` on."""
    best = first
    best_s = clock_at(clocks, first).free_s
    for server in range(first + 1, first + n):
        free_s = clock_at(clocks, server).free_s
        if free_s < best_s:
            best = server
            best_s = free_s
    return best


@kernel
def start_cpu_step(engine, thread, work_s):
    """A thread asks its pod for `work_s` of one core."""
    frame = frame_at(engine.frames, thread)
    station = station_at(engine.stations, frame.station)
    group = group_at(engine.groups, frame.service)
    if group.sharing == FIFO:
        server = first_free(
            engine.servers, group.servers_first + (frame.station - group.first) * group.servers, group.servers
        )
        clock = clock_at(engine.servers, server)
        begin_s = max(clock.free_s, engine.now_s)
        clock.free_s = begin_s + work_s / group.speed
        station.cpu_core_s += work_s
        sums_at(engine.the_sums, frame.service).queue_s += begin_s - engine.now_s
        frame.due_s = clock.free_s
        sleep_until(engine, thread, clock.free_s, TIMED)
        return
    catch_up(station, group, engine.now_s)
    frame.state = ON_CPU
    frame.due_s = station.virtual_s + work_s
    frame.child = NONE
    frame.sibling = NONE
    station.soonest = _meld(engine.frames, station.soonest, thread)
    station.running += 1
    _arm(engine, frame.station, station, group)


@kernel
def catch_up(station, group, now_s):
    """Brings a shared CPU to `now_s`: no call may have got what it needs before.

    What calls get less than one would alone is time that they wait.
    """
    if group.sharing == PROCESSOR_SHARING:
        if station.running > 0:
            passed_s = now_s - station.updated_s
            got_s = min(1.0, group.cores / station.running) * passed_s
            station.virtual_s += got_s
            station.cpu_core_s += station.running * got_s
            station.waited_s += station.running * (passed_s - got_s / min(1.0, group.cores))
        station.updated_s = now_s
        return
    quota = group.cores * group.period_s
    if station.running == 0 and now_s >= station.period_end_s:
        periods = math.floor((now_s - station.period_end_s) / group.period_s) + 1.0
        station.period_end_s += periods * group.period_s
        station.quota_left_core_s = quota
        station.throttled = False
    while True:
        until_s = min(now_s, station.period_end_s)
        if station.running > 0 and not station.throttled:
            got_s = until_s - station.updated_s
            station.virtual_s += got_s
            station.cpu_core_s += station.running * got_s
            station.quota_left_core_s -= station.running * got_s
            station.throttled = station.quota_left_core_s <= _NANOSECOND
        elif station.running > 0:
            station.waited_s += station.running * (until_s - station.updated_s)
        station.updated_s = until_s
        if now_s < station.period_end_s:
            return
        station.period_end_s += group.period_s
        station.quota_left_core_s = quota
        station.throttled = False


@kernel
def _next_change_s(frames, station, group):
    """When a call leaves the shared CPU, or its quota begins or ends [s]; infinite for an idle one."""
    if station.running == 0:
        return math.inf
    now_s = station.updated_s
    left_s = max(0.0, frame_at(frames, station.soonest).due_s - station.virtual_s)
    if group.sharing == PROCESSOR_SHARING:
        return now_s + left_s / min(1.0, group.cores / station.running)
    if station.throttled:
        return station.period_end_s
    end_s = now_s + station.quota_left_core_s / station.running
    if end_s < station.period_end_s:
        return min(now_s + left_s, end_s)
    if station.running > group.cores:  # the quota of a later period may not last
        return min(now_s + left_s, station.period_end_s)
    return now_s + left_s


@kernel
def _arm(engine, index, station, group):
    """Sees to it that the heap holds an event no later than the next change; a later one stays there and finds nothing."""
    change_s = _next_change_s(engine.frames, station, group)
    if change_s < station.armed_s:
        station.armed_s = change_s
        push_event(engine, change_s, OF_STATION, index)


@kernel
def handle_station(engine, index, time_s):
    """The moment for which a shared CPU was armed."""
    station = station_at(engine.stations, index)
    if time_s != station.armed_s:
        return
    station.armed_s = math.inf
    group = group_at(engine.groups, station.service)
    catch_up(station, group, time_s)
    while station.running > 0 and frame_at(engine.frames, station.soonest).due_s - station.virtual_s <= _NANOSECOND:
        thread = station.soonest
        station.soonest = _without_root(engine.frames, thread)
        station.running -= 1
        wake(engine, thread, DONE)
    if station.running == 0:
        station.virtual_s = 0.0  # so that it never loses digits
    _arm(engine, index, station, group)


@kernel
def _meld(frames, one, other):
    if one == NONE:
        return other
    if other == NONE:
        return one
    if frame_at(frames, other).due_s < frame_at(frames, one).due_s:
        one, other = other, one
    top, below = frame_at(frames, one), frame_at(frames, other)
    below.sibling = top.child
    top.child = other
    return one


@kernel
def _without_root(frames, root):
    """What is left of a pairing heap without its root: melds the root's children in pairs, then the pairs."""
    child = frame_at(frames, root).child
    pairs = NONE
    while child != NONE:
        first = frame_at(frames, child)
        other = first.sibling
        first.sibling = NONE
        if other == NONE:
            pair, child = child, NONE
        else:
            second = frame_at(frames, other)
            following = second.sibling
            second.sibling = NONE
            pair = _meld(frames, child, other)
            child = following
        frame_at(frames, pair).sibling = pairs
        pairs = pair
    merged = NONE
    while pairs != NONE:
        following = frame_at(frames, pairs).sibling
        frame_at(frames, pairs).sibling = NONE
        merged = _meld(frames, merged, pairs)
        pairs = following
    return merged


@kernel
def report_cpu(engine, index, now_s):
    """CPU [core-s] that a station has used since it was asked last, up to `now_s`."""
    station = station_at(engine.stations, index)
    group = group_at(engine.groups, station.service)
    used = station.cpu_core_s
    if group.sharing == FIFO:  # a server that is not free yet has been busy all the time
        first = group.servers_first + (index - group.first) * group.servers
        for server in range(first, first + group.servers):
            used -= max(0.0, clock_at(engine.servers, server).free_s - now_s) * group.speed
    elif station.running > 0:
        catch_up(station, group, now_s)
        used = station.cpu_core_s
    change = used - station.reported_core_s
    station.reported_core_s = used
    sums_at(engine.the_sums, station.service).queue_s += station.waited_s
    station.waited_s = 0.0
    return change
