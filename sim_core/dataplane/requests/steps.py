"""What a thread does next: the steps of its endpoint one after the other, until one of them takes time."""

from __future__ import annotations

from sim_core.compiled import kernel
from sim_core.dataplane.requests.buckets import bucket_of
from sim_core.dataplane.requests.calls import (
    answer_caller,
    begin_call,
    change_waiting,
    offer_attempt,
)
from sim_core.dataplane.requests.cpu import start_cpu_step
from sim_core.dataplane.requests.draws import mixed, next_bits, next_time, next_uniform
from sim_core.dataplane.requests.records import (
    DONE,
    FAILED,
    JOINING,
    NONE,
    QUERYING,
    RETRY,
    START,
    class_at,
    class_sums_at,
    count_at,
    distribution_at,
    frame_at,
    group_at,
    station_at,
    step_at,
)
from sim_core.dataplane.requests.spans import REQUEST_SPAN, VISIT_SPAN, note_step, note_visit
from sim_core.dataplane.requests.stores import begin_lookup, begin_query, end_query
from sim_core.dataplane.requests.threads import free_frame, take_frame, wait_for, wake
from sim_core.dataplane.services.records import (
    CACHED_READ,
    CALL_STEP,
    CPU,
    LATENCY_BUCKETS,
    PARALLEL,
    READ,
    WAIT,
    WRITE,
)


@kernel
def advance(engine, thread):
    """A thread goes on from where it stands."""
    frame = frame_at(engine.frames, thread)
    state = frame.state
    if state == QUERYING:
        end_query(engine, thread)
    if frame.owner != thread and frame_at(engine.frames, frame.owner).life != frame.owner_life:
        _end_branch(engine, thread)  # a sibling has failed: the call is answered already
        return
    if state == RETRY:
        offer_attempt(engine, thread)
        return
    if state == FAILED:
        _fail(engine, thread)
        return
    if state != START:
        if frame.trace != 0:
            note_step(engine, thread, True)
        if frame.repeats > 1:
            frame.repeats -= 1
            _begin_step(engine, thread)
            return
        frame.pc = step_at(engine.the_steps, frame.pc).end
    _find_step(engine, thread)


@kernel
def _times(frame, step):
    """How often a step is done this time."""
    if step.probability < 1.0 and next_uniform(frame) > step.probability:
        return 0
    whole = int(step.count)
    if step.count > whole and next_uniform(frame) <= step.count - whole:
        whole += 1
    return whole


@kernel
def _find_step(engine, thread):
    """Begins the first step from `pc` on that is to be done; with none left the thread is done."""
    frame = frame_at(engine.frames, thread)
    while frame.pc < frame.end:
        step = step_at(engine.the_steps, frame.pc)
        times = _times(frame, step)
        if times > 0:
            frame.repeats = times
            _begin_step(engine, thread)
            return
        frame.pc = step.end
    if frame.loops > 1:
        frame.loops -= 1
        frame.pc = frame.first
        wake(engine, thread, START)
    elif frame.owner == thread:
        finish(engine, thread, True)
    else:
        _end_branch(engine, thread)


@kernel
def _begin_step(engine, thread):
    frame = frame_at(engine.frames, thread)
    step = step_at(engine.the_steps, frame.pc)
    if frame.trace != 0:
        frame.step_s = engine.now_s
    kind = step.kind
    if kind == CPU:
        work_s = next_time(frame, distribution_at(engine.step_times, frame.pc), step.mean_s)
        if frame.station == NONE:
            wait_for(engine, thread, work_s)
        else:
            start_cpu_step(engine, thread, work_s * station_at(engine.stations, frame.station).cold_factor)
    elif kind == WAIT:
        wait_for(engine, thread, next_time(frame, distribution_at(engine.step_times, frame.pc), step.mean_s))
    elif kind == CALL_STEP:
        begin_call(engine, thread, step.target)
    elif kind == PARALLEL:
        _begin_branches(engine, thread)
    elif kind == CACHED_READ:
        begin_lookup(engine, thread, step.target)
    elif kind == READ:
        begin_query(engine, thread, step.target, False)
    elif kind == WRITE:
        begin_query(engine, thread, step.target, True)


@kernel
def _begin_branches(engine, thread):
    """Starts the branches of a PARALLEL; it is done when the last of them is."""
    frame = frame_at(engine.frames, thread)
    row = frame.pc + 1
    end = step_at(engine.the_steps, frame.pc).end
    frame.pending = 0
    frame.state = JOINING
    while row < end:
        step = step_at(engine.the_steps, row)
        times = _times(frame, step)
        if times > 0:
            _new_branch(engine, thread, row + 1, step.end, times)
            frame.pending += 1
        row = step.end
    if frame.pending == 0:
        wake(engine, thread, DONE)


@kernel
def _new_branch(engine, thread, first, end, loops):
    branch = take_frame(engine)
    parent = frame_at(engine.frames, thread)
    frame = frame_at(engine.frames, branch)
    frame.random = mixed(next_bits(parent), first)
    frame.started_s = engine.now_s
    frame.owner = parent.owner
    frame.owner_life = parent.owner_life
    frame.joins = thread
    frame.joins_life = parent.life
    frame.first = first
    frame.pc = first
    frame.end = end
    frame.repeats = 0
    frame.loops = loops
    frame.station = parent.station
    frame.service = parent.service
    frame.parent = NONE
    frame.call = NONE
    frame.request_class = parent.request_class
    frame.retried = False
    frame.session = parent.session
    frame.deadline_s = parent.deadline_s
    frame.trace = parent.trace
    frame.span = parent.span
    wake(engine, branch, START)


@kernel
def _end_branch(engine, thread):
    """A branch is over; the last one lets the thread go on that waits for them."""
    frame = frame_at(engine.frames, thread)
    joins = frame.joins
    waiting = frame_at(engine.frames, joins)
    if waiting.life == frame.joins_life:
        waiting.pending -= 1
        if waiting.pending == 0:
            wake(engine, joins, DONE)
    free_frame(engine, thread)


@kernel
def _fail(engine, thread):
    """A call or query of this thread has failed for good: its endpoint fails at once.

    Branches beside it end with their present step; what they have called goes on.
    """
    frame = frame_at(engine.frames, thread)
    if frame.trace != 0:
        note_step(engine, thread, False)
    owner = frame.owner
    finish(engine, owner, False)
    if owner != thread:
        _end_branch(engine, thread)


@kernel
def finish(engine, thread, answered):
    """A call is answered, well or with an error, and its worker is free; or a request is over."""
    frame = frame_at(engine.frames, thread)
    if frame.station == NONE:
        _end_request(engine, thread, answered)
    else:
        if frame.trace != 0:
            note_visit(engine, thread, VISIT_SPAN, answered)
        answer_caller(engine, thread, answered)
        free_worker(engine, frame.station)
    free_frame(engine, thread)


@kernel
def free_worker(engine, index):
    """A worker takes the next call that waits; calls whose deadline has passed are dropped on the way."""
    station = station_at(engine.stations, index)
    group = group_at(engine.groups, station.service)
    while station.queued > 0:
        visit = station.queue_head
        frame = frame_at(engine.frames, visit)
        station.queue_head = frame.next
        station.queued -= 1
        change_waiting(engine, station.service, group, -1)
        if engine.now_s < frame.deadline_s:
            wake(engine, visit, START)
            return
        answer_caller(engine, visit, False)
        free_frame(engine, visit)
    station.busy -= 1


@kernel
def _end_request(engine, thread, answered):
    """Books a request: what became of it, and its latency where no call of it needed a second attempt."""
    frame = frame_at(engine.frames, thread)
    engine.in_flight -= 1
    sums = class_sums_at(engine.the_class_sums, frame.request_class)
    if frame.trace != 0:
        note_visit(engine, thread, REQUEST_SPAN, answered)
    if not answered:
        engine.failed += 1
        sums.failed += 1.0
        return
    engine.answered += 1
    if frame.retried:
        return
    book_latency(engine, frame.request_class, sums, engine.now_s - frame.started_s)


@kernel
def book_latency(engine, row, sums, latency_s):
    """Books the latency of a request of a class that is answered without a second attempt."""
    sums.latency_weight += 1.0
    sums.latency_s += latency_s
    sums.latency_s2 += latency_s * latency_s
    if latency_s <= engine.threshold_s:
        sums.good += 1.0
    if latency_s <= class_at(engine.the_classes, row).latency_threshold_s:
        sums.good_own += 1.0
    count_at(engine.the_latency, row * LATENCY_BUCKETS + bucket_of(latency_s)).n += 1.0
