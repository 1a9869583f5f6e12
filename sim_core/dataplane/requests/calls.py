"""Calls as their callers see them: attempts, timeouts, retries, and what protects the callee.

An attempt is over when it is answered, refused, or not answered in time; then the caller's `call_token` grows, and an answer
that comes later finds nobody. Attempts that may time out stand in a list by call, oldest first, with one event for the
oldest: an answered attempt leaves the list and costs no event.
"""

from __future__ import annotations

import math

from sim_core.compiled import kernel
from sim_core.dataplane.requests.balancing import choose_station, close_call, open_call, renew_choices
from sim_core.dataplane.requests.draws import mixed, next_below, next_bits, next_exponential
from sim_core.dataplane.requests.heap import push_event
from sim_core.dataplane.requests.records import (
    DONE,
    FAILED,
    IN_CALL,
    NONE,
    OF_EJECTION,
    OF_TIMEOUTS,
    QUEUED,
    RETRY,
    START,
    call_at,
    call_state_at,
    count_at,
    endpoint_at,
    frame_at,
    group_at,
    station_at,
    sums_at,
)
from sim_core.dataplane.requests.spans import note_attempt
from sim_core.dataplane.requests.threads import sleep_until, take_main, wake


@kernel
def begin_call(engine, thread, call_row):
    """A thread comes to a step that calls another endpoint."""
    frame = frame_at(engine.frames, thread)
    call = call_at(engine.the_calls, call_row)
    state = call_state_at(engine.call_states, call_row)
    frame.out_call = call_row
    frame.out_attempt = 0
    earn_retries(call, state, engine.tick_s)
    offer_attempt(engine, thread)


@kernel
def earn_retries(call, state, tick_s):
    """A first attempt adds its share of a retry to the budget, up to that of one second's first attempts, and at least one."""
    state.first_attempts += 1.0
    if call.max_retries > 0:
        held = call.retry_budget_ratio * max(state.first_attempts, state.last_attempts) / tick_s
        state.tokens = max(state.tokens, min(state.tokens + call.retry_budget_ratio, max(1.0, held)))


@kernel
def offer_attempt(engine, thread):
    """Offers an attempt to a pod: a worker takes it, or it waits for one, or it is refused at once."""
    frame = frame_at(engine.frames, thread)
    call = call_at(engine.the_calls, frame.out_call)
    state = call_state_at(engine.call_states, frame.out_call)
    group = group_at(engine.groups, call.service)
    now_s = engine.now_s
    sums_at(engine.the_sums, call.service).calls += 1.0
    frame.attempt_s = now_s
    frame.out_station = NONE
    if frame.trace != 0:
        engine.next_span += 1
        frame.out_span = engine.next_span
    frame.out_node = next_below(engine, group.nodes) if group.nodes > 1 else 0
    opens = count_at(engine.call_opens, state.open_first + frame.out_node)
    if opens.n >= call.breaker_requests:
        _fail_attempt(engine, thread)
        return
    index = choose_station(engine, call.service, frame.out_node, frame.session)
    if index == NONE:
        _fail_attempt(engine, thread)
        return
    station = station_at(engine.stations, index)
    if station.busy + station.queued >= group.workers + group.queue_limit:
        if call.ejection_failures > 0:
            _note_failure(engine, call, group, index)
        _fail_attempt(engine, thread)
        return
    frame.out_station = index
    opens.n += 1.0
    open_call(engine, group, frame.out_node, index)
    visit = new_visit(engine, thread, call, index)
    if station.busy < group.workers:
        station.busy += 1
        wake(engine, visit, START)
    else:
        _enqueue(engine, station, group, visit)
    frame_at(engine.frames, thread).state = IN_CALL
    if call.timeout_s < math.inf:
        may_time_out(engine, thread, frame.out_call, state, now_s + call.timeout_s)


@kernel
def new_visit(engine, thread, call, index):
    """The main thread of the callee in a pod."""
    visit = take_main(engine, endpoint_at(engine.the_endpoints, call.endpoint))
    caller = frame_at(engine.frames, thread)
    frame = frame_at(engine.frames, visit)
    frame.random = mixed(next_bits(caller), caller.out_attempt)
    frame.station = index
    frame.service = call.service
    frame.parent = thread
    frame.parent_token = caller.call_token
    frame.call = caller.out_call
    frame.request_class = caller.request_class
    frame.session = caller.session
    frame.deadline_s = caller.deadline_s
    if call.pass_deadline:
        frame.deadline_s = min(frame.deadline_s, engine.now_s + call.timeout_s)
    frame.trace = caller.trace
    if caller.trace != 0:
        engine.next_span += 1
        frame.span = engine.next_span
        frame.parent_span = caller.out_span
    return visit


@kernel
def _enqueue(engine, station, group, visit):
    frame = frame_at(engine.frames, visit)
    frame.state = QUEUED
    frame.next = NONE
    if station.queued == 0:
        station.queue_head = visit
    else:
        frame_at(engine.frames, station.queue_tail).next = visit
    station.queue_tail = visit
    station.queued += 1
    change_waiting(engine, frame.service, group, 1)


@kernel
def change_waiting(engine, service, group, change):
    """Books the calls that have waited for a worker up to now, and changes how many do."""
    sums_at(engine.the_sums, service).queue_s += group.waiting * (engine.now_s - group.waiting_since_s)
    group.waiting_since_s = engine.now_s
    group.waiting += change


@kernel
def may_time_out(engine, thread, call_row, state, time_s):
    """An attempt joins those that may time out, as the youngest."""
    frame = frame_at(engine.frames, thread)
    frame.earlier = state.newest
    frame.later = NONE
    if state.newest == NONE:
        state.oldest = thread
    else:
        frame_at(engine.frames, state.newest).later = thread
    state.newest = thread
    if not state.armed:
        state.armed = True
        push_event(engine, time_s, OF_TIMEOUTS, call_row)


@kernel
def _cannot_time_out(engine, thread, state):
    frame = frame_at(engine.frames, thread)
    if frame.earlier == NONE:
        state.oldest = frame.later
    else:
        frame_at(engine.frames, frame.earlier).later = frame.later
    if frame.later == NONE:
        state.newest = frame.earlier
    else:
        frame_at(engine.frames, frame.later).earlier = frame.earlier


@kernel
def handle_timeouts(engine, call_row):
    """The moment at which the oldest attempt of a call would time out, as it was known when the event was made."""
    call = call_at(engine.the_calls, call_row)
    state = call_state_at(engine.call_states, call_row)
    state.armed = False
    while state.oldest != NONE:
        thread = state.oldest
        time_s = frame_at(engine.frames, thread).attempt_s + call.timeout_s
        if time_s > engine.now_s:
            state.armed = True
            push_event(engine, time_s, OF_TIMEOUTS, call_row)
            return
        conclude_attempt(engine, thread, False)


@kernel
def abandon_attempt(engine, thread):
    """The caller is no longer there: its attempt is not open any more, and nobody waits for the answer."""
    frame = frame_at(engine.frames, thread)
    call = call_at(engine.the_calls, frame.out_call)
    state = call_state_at(engine.call_states, frame.out_call)
    if call.timeout_s < math.inf:
        _cannot_time_out(engine, thread, state)
    close_call(engine, group_at(engine.groups, call.service), frame.out_node, frame.out_station)
    count_at(engine.call_opens, state.open_first + frame.out_node).n -= 1.0
    frame.call_token += 1


@kernel
def conclude_attempt(engine, thread, answered):
    """An open attempt is over: answered well, or with an error, or not in time."""
    frame = frame_at(engine.frames, thread)
    call = call_at(engine.the_calls, frame.out_call)
    abandon_attempt(engine, thread)
    sums_at(engine.the_sums, call.service).latency_s += engine.now_s - frame.attempt_s
    if answered:
        if call.ejection_failures > 0:
            station_at(engine.stations, frame.out_station).failures = 0
        if frame.trace != 0:
            note_attempt(engine, thread, True)
        wake(engine, thread, DONE)
        return
    if call.ejection_failures > 0:
        _note_failure(engine, call, group_at(engine.groups, call.service), frame.out_station)
    _fail_attempt(engine, thread)


@kernel
def _fail_attempt(engine, thread):
    """An attempt has failed: it is tried again as far as attempts and budget go, else the call has failed for good."""
    frame = frame_at(engine.frames, thread)
    call = call_at(engine.the_calls, frame.out_call)
    state = call_state_at(engine.call_states, frame.out_call)
    sums_at(engine.the_sums, call.service).failed += 1.0
    if frame.trace != 0:
        note_attempt(engine, thread, False)
    owner = frame_at(engine.frames, frame.owner)
    if frame.out_attempt >= call.max_retries or state.tokens < 1.0 or owner.life != frame.owner_life:
        wake(engine, thread, FAILED)
        return
    state.tokens -= 1.0
    owner.retried = True
    pause_s = call.backoff_s[frame.out_attempt] * next_exponential(frame)
    frame.out_attempt += 1
    sleep_until(engine, thread, engine.now_s + pause_s, RETRY)


@kernel
def _note_failure(engine, call, group, index):
    """Takes a pod out of the choice that has failed so many times in a row, if not too many are out already."""
    station = station_at(engine.stations, index)
    station.failures += 1
    if station.failures < call.ejection_failures or not station.choosable:
        return
    if group.ejected + 1 > call.ejection_share * (group.choices + group.ejected):
        return
    station.failures = 0
    station.ejections += 1
    station.ejected_until_s = engine.now_s + call.ejection_s * station.ejections
    station.choosable = False
    group.ejected += 1
    renew_choices(engine, group)
    push_event(engine, station.ejected_until_s, OF_EJECTION, index)


@kernel
def handle_ejection(engine, index, time_s):
    """An ejected pod may come back."""
    station = station_at(engine.stations, index)
    if station.ejected_until_s != time_s:
        return
    group = group_at(engine.groups, station.service)
    group.ejected -= 1
    station.ejected_until_s = 0.0
    station.choosable = station.ready
    renew_choices(engine, group)


@kernel
def answer_caller(engine, visit, answered):
    """Hands the answer of a call to its caller, if that still waits for it."""
    frame = frame_at(engine.frames, visit)
    caller = frame_at(engine.frames, frame.parent)
    if caller.call_token != frame.parent_token:
        return
    if frame.retried:
        owner = frame_at(engine.frames, caller.owner)
        if owner.life == caller.owner_life:
            owner.retried = True
    conclude_attempt(engine, frame.parent, answered)
