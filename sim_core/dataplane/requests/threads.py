"""Threads: rows that are taken and given back, and the list of those that go on at this moment."""

from __future__ import annotations

from sim_core.compiled import kernel
from sim_core.dataplane.requests.heap import push_event
from sim_core.dataplane.requests.memory import grow
from sim_core.dataplane.requests.records import FRAME, FREE, NONE, TIMED, frame_at

_FRAME_BYTES = FRAME.itemsize


@kernel
def take_frame(engine):
    """A free row, with its counters of lives and tokens as they were. There must be one; see `make_room`."""
    thread = engine.free
    frame = frame_at(engine.frames, thread)
    engine.free = frame.next
    engine.n_used += 1
    return thread


@kernel
def take_main(engine, endpoint):
    """A row for the main thread of a request or call, at the first step of its ENDPOINT; who it is for is the caller's."""
    thread = take_frame(engine)
    frame = frame_at(engine.frames, thread)
    frame.started_s = engine.now_s
    frame.owner = thread
    frame.owner_life = frame.life
    frame.joins = NONE
    frame.first = endpoint.steps_first
    frame.pc = endpoint.steps_first
    frame.end = endpoint.steps_first + endpoint.n_steps
    frame.repeats = 0
    frame.loops = 1
    frame.retried = False
    return thread


@kernel
def free_frame(engine, thread):
    """Gives a row back; whatever refers to it by life or token is void from now on."""
    frame = frame_at(engine.frames, thread)
    frame.state = FREE
    frame.token += 1
    frame.call_token += 1
    frame.life += 1
    frame.next = engine.free
    engine.free = thread
    engine.n_used -= 1


@kernel
def add_frames(engine, n):
    """Makes the table of frames `n` rows long."""
    before = engine.n_frames
    engine.frames = grow(engine.frames, before * _FRAME_BYTES, n * _FRAME_BYTES)
    for thread in range(n - 1, before - 1, -1):
        frame = frame_at(engine.frames, thread)
        frame.state = FREE
        frame.next = engine.free
        engine.free = thread
    engine.n_frames = n


@kernel
def wake(engine, thread, state):
    """Lets a thread go on, after all that were woken before it."""
    frame = frame_at(engine.frames, thread)
    frame.state = state
    frame.next = NONE
    if engine.run_tail == NONE:
        engine.run_head = thread
    else:
        frame_at(engine.frames, engine.run_tail).next = thread
    engine.run_tail = thread


@kernel
def sleep_until(engine, thread, time_s, state):
    """Lets a thread go on at `time_s`."""
    frame = frame_at(engine.frames, thread)
    frame.state = state
    push_event(engine, time_s, thread, frame.token)


@kernel
def wait_for(engine, thread, duration_s):
    """A thread's present step ends after this time."""
    sleep_until(engine, thread, engine.now_s + duration_s, TIMED)


@kernel
def make_room(engine):
    """Sees to it that one thread, until it waits, has the frames that it may take."""
    if engine.n_used + engine.reserve > engine.n_frames:
        add_frames(engine, 2 * engine.n_frames + engine.reserve)
