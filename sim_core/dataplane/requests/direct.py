"""Lanes that need no events: one class of requests that calls one service, whose pods do one FIFO CPU step.

There a request's end is known when it arrives (Lindley's recursion over the servers of its pod), unless it is refused or
times out. A tick is played request by request up to the first of those; what is under way then is handed to the event loop,
which goes on. Both walk the same path, to the bit: same streams, same order of draws.

Source: Kiefer, Wolfowitz, "On the theory of queues with many servers", Trans. AMS 78 (1955), on Lindley's recursion.
"""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.requests.arrivals import new_request, next_arrival
from sim_core.dataplane.requests.balancing import choose_station, open_call
from sim_core.dataplane.requests.calls import earn_retries, may_time_out, new_visit
from sim_core.dataplane.requests.cpu import first_free
from sim_core.dataplane.requests.dispatch import handle_first, run_woken
from sim_core.dataplane.requests.draws import mixed, next_bits, next_time
from sim_core.dataplane.requests.memory import grow
from sim_core.dataplane.requests.records import (
    FREE,
    IN_CALL,
    NONE,
    TIMED,
    VISIT,
    arrival_at,
    call_at,
    call_state_at,
    class_at,
    class_sums_at,
    clock_at,
    count_at,
    distribution_at,
    endpoint_at,
    event_at,
    frame_at,
    group_at,
    index_at,
    node_at,
    station_at,
    step_at,
    sums_at,
    visit_at,
)
from sim_core.dataplane.requests.steps import book_latency
from sim_core.dataplane.requests.threads import make_room, sleep_until
from sim_core.dataplane.services.records import CALL_STEP, CPU, FIFO, RANDOM, ROUND_ROBIN

_VISIT_BYTES = VISIT.itemsize


@kernel
def _only_step(engine, endpoint, kind):
    """The row of an endpoint's step if that is its only one, of this kind, and done once each time; else NONE."""
    row = endpoint_at(engine.the_endpoints, endpoint).steps_first
    if endpoint_at(engine.the_endpoints, endpoint).n_steps != 1:
        return NONE
    step = step_at(engine.the_steps, row)
    return row if step.kind == kind and step.probability >= 1.0 and step.count == 1.0 else NONE


@kernel
def is_direct(engine):
    """Whether a lane, with the pods that it has now, is of the kind that needs no events."""
    if engine.n_classes != 1 or engine.trace_share > 0.0:
        return False
    step = _only_step(engine, class_at(engine.the_classes, 0).endpoint, CALL_STEP)
    if step == NONE:
        return False
    call = call_at(engine.the_calls, step_at(engine.the_steps, step).target)
    if call.pass_deadline or call.breaker_requests < math.inf or call.ejection_failures > 0:
        return False
    if _only_step(engine, call.endpoint, CPU) == NONE:
        return False
    group = group_at(engine.groups, call.service)
    if group.sharing != FIFO or group.workers < group.servers or group.choices == 0 or group.nodes > 1:
        return False
    if group.sticky_share > 0.0 or engine.now_s < group.fresh_until_s:
        return False
    return group.choices == 1 or group.balancing == RANDOM or group.balancing == ROUND_ROBIN


@kernel
def can_play_direct(engine):
    """Whether all that is under way are first attempts that will be answered in time."""
    if engine.plain:
        return True
    for thread in range(engine.n_frames):
        frame = frame_at(engine.frames, thread)
        if frame.state == FREE or (frame.state == IN_CALL and frame.out_attempt == 0):
            continue
        if frame.state != TIMED or frame.station == NONE:
            return False
        caller = frame_at(engine.frames, frame.parent)
        if caller.call_token != frame.parent_token:
            return False
        if frame.due_s > caller.attempt_s + call_at(engine.the_calls, frame.call).timeout_s:
            return False
    engine.plain = True
    return True


@kernel
def play_direct(engine, begin_s, tick_s):
    """Plays this tick's requests, up to one that might be refused or time out: it and those after it are left."""
    call_row = step_at(engine.the_steps, _only_step(engine, class_at(engine.the_classes, 0).endpoint, CALL_STEP)).target
    call, state = call_at(engine.the_calls, call_row), call_state_at(engine.call_states, call_row)
    step_row = _only_step(engine, call.endpoint, CPU)
    mean_s, times = step_at(engine.the_steps, step_row).mean_s, distribution_at(engine.step_times, step_row)
    group = group_at(engine.groups, call.service)
    room = group.workers + group.queue_limit
    arrival, stream = arrival_at(engine.to_come, 0), arrival_at(engine.to_come, engine.n_classes + 1)
    turn = node_at(engine.nodes, group.nodes_first)
    if engine.left > engine.room_visits:
        engine.visits = grow(engine.visits, engine.room_visits * _VISIT_BYTES, 2 * engine.left * _VISIT_BYTES)
        engine.room_visits = 2 * engine.left
    for choice in range(group.choices):
        station = station_at(engine.stations, index_at(engine.choices, group.first + choice).at)
        station.oldest = station.newest = NONE
        station.inside = 0
    n, queue_s = 0, 0.0
    while engine.left > 0:
        now_s = engine.arrival_s
        while engine.n_events > 0 and event_at(engine.events, 0).time_s < now_s:  # of those from before the tick
            handle_first(engine, event_at(engine.events, 0).time_s)
            run_woken(engine)
        random_before, turn_before = engine.random, turn.turn
        index = choose_station(engine, call.service, 0, np.uint64(0))
        station = station_at(engine.stations, index)
        while station.oldest != NONE and visit_at(engine.visits, station.oldest).end_s < now_s:
            station.oldest = visit_at(engine.visits, station.oldest).following
            station.inside -= 1
        stream.random = mixed(arrival.key, arrival.taken)
        stream.random = mixed(next_bits(stream), 0)
        factor = station.cold_factor
        work_s = next_time(stream, times, mean_s) * factor
        clock = clock_at(
            engine.servers,
            first_free(engine.servers, group.servers_first + (index - group.first) * group.servers, group.servers),
        )
        start_s = max(clock.free_s, now_s)
        end_s = start_s + work_s / group.speed
        # A call that waits for a worker of a cold pod may be begun when the pod is warm.
        if (
            station.busy + station.inside >= (room if factor == 1.0 else group.workers)
            or end_s > now_s + call.timeout_s
        ):
            engine.random, turn.turn = random_before, turn_before
            break
        clock.free_s = end_s
        station.cpu_core_s += work_s
        queue_s += start_s - now_s
        earn_retries(call, state)
        visit = visit_at(engine.visits, n)
        visit.arrival_s, visit.end_s, visit.station, visit.following = now_s, end_s, index, NONE
        if station.oldest == NONE:
            station.oldest = n
        else:
            visit_at(engine.visits, station.newest).following = n
        station.newest = n
        station.inside += 1
        n += 1
        arrival.taken += 1
        arrival.left -= 1
        engine.left -= 1
        next_arrival(engine, begin_s, tick_s)
    sums = sums_at(engine.the_sums, call.service)
    sums.calls += n
    sums.queue_s += queue_s
    engine.handled += n
    _book(engine, call_row, sums, n, min(engine.arrival_s, begin_s + tick_s))


@kernel
def _book(engine, call_row, service_sums, n, now_s):
    """Books the visits that are over before `now_s`, and hands the others to the event loop."""
    sums = class_sums_at(engine.the_class_sums, 0)
    arrival = arrival_at(engine.to_come, 0)
    over = 0
    for row in range(n):
        visit = visit_at(engine.visits, row)
        if visit.end_s < now_s:
            latency_s = visit.end_s - visit.arrival_s
            service_sums.latency_s += latency_s
            book_latency(engine, 0, sums, latency_s)
            over += 1
        else:
            engine.now_s = visit.arrival_s
            _hand_over(engine, call_row, mixed(arrival.key, row), visit.station, visit.end_s)
    engine.answered += over
    engine.in_flight -= over


@kernel
def _hand_over(engine, call_row, stream, index, end_s):
    """A request that has arrived now and is in its CPU step until `end_s`, as the event loop knows it."""
    make_room(engine)
    thread = new_request(engine, 0, stream)
    call, state = call_at(engine.the_calls, call_row), call_state_at(engine.call_states, call_row)
    group = group_at(engine.groups, call.service)
    frame = frame_at(engine.frames, thread)
    frame.repeats = 1
    frame.out_call = call_row
    frame.out_attempt = 0
    frame.out_station = index
    frame.out_node = 0
    frame.attempt_s = engine.now_s
    frame.state = IN_CALL
    count_at(engine.call_opens, state.open_first).n += 1.0
    open_call(engine, group, 0, index)
    visit = new_visit(engine, thread, call, index)
    frame_at(engine.frames, visit).repeats = 1
    frame_at(engine.frames, visit).due_s = end_s
    station_at(engine.stations, index).busy += 1
    sleep_until(engine, visit, end_s, TIMED)
    if call.timeout_s < math.inf:
        may_time_out(engine, thread, call_row, state, engine.now_s + call.timeout_s)
