"""The events of a lane that lie ahead: a heap with four children a node, in one table that grows.

Source: LaMarca, Ladner, "The influence of caches on the performance of heaps", JEA 1 (1996).
"""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.requests.memory import allocate, grow
from sim_core.dataplane.requests.records import EVENT, event_at

_EVENT_BYTES = EVENT.itemsize
_CHILDREN = 4
TOKEN_BITS = np.int64(0xFFFFFFFF)


@kernel
def begin_events(engine, room):
    """An empty heap with room for so many events."""
    engine.n_events, engine.room_events = 0, room
    engine.events = allocate((room + _CHILDREN) * _EVENT_BYTES)
    _clear(engine.events, 0, room + _CHILDREN)


@kernel
def _clear(events, first, end):
    """Rows beyond the last event never happen: so each node has four children to compare."""
    for place in range(first, end):
        event_at(events, place).time_s = math.inf


@kernel
def _grow_events(engine):
    before, room = engine.room_events + _CHILDREN, 2 * engine.room_events
    engine.events = grow(engine.events, before * _EVENT_BYTES, (room + _CHILDREN) * _EVENT_BYTES)
    _clear(engine.events, before, room + _CHILDREN)
    engine.room_events = room


@kernel
def push_event(engine, time_s, thread, token):
    """Adds an event."""
    place = engine.n_events
    if place == engine.room_events:
        _grow_events(engine)
    events = engine.events
    engine.n_events = place + 1
    while place > 0:
        above = (place - 1) >> 2
        parent = event_at(events, above)
        if parent.time_s <= time_s:
            break
        event = event_at(events, place)
        event.time_s = parent.time_s
        event.what = parent.what
        place = above
    event = event_at(events, place)
    event.time_s = time_s
    event.what = (np.int64(thread) << 32) | (np.int64(token) & TOKEN_BITS)


@kernel
def next_event_s(engine):
    """When the earliest event happens [s]; infinite: there is none."""
    return event_at(engine.events, 0).time_s


@kernel
def drop_first(engine):
    """Removes the earliest event."""
    n = engine.n_events - 1
    engine.n_events = n
    last = event_at(engine.events, n)
    time_s, what = last.time_s, last.what
    last.time_s = math.inf
    if n > 0:
        _sink(engine.events, n, time_s, what)


@kernel
def move_first(engine, time_s):
    """Lets the earliest event happen again, at `time_s`: cheaper than to remove it and to add it."""
    _sink(engine.events, engine.n_events, time_s, event_at(engine.events, 0).what)


@kernel
def _sink(events, n, time_s, what):
    """Puts an event in the place of the first of `n`, and each child that is earlier above it."""
    place = 0
    while True:
        child = 4 * place + 1
        if child >= n:
            break
        # Sums and choices instead of branches: which child is the least cannot be foreseen.
        time_0, time_1 = event_at(events, child).time_s, event_at(events, child + 1).time_s
        time_2, time_3 = event_at(events, child + 2).time_s, event_at(events, child + 3).time_s
        least, least_s = child + (time_1 < time_0), time_1 if time_1 < time_0 else time_0
        other, other_s = child + 2 + (time_3 < time_2), time_3 if time_3 < time_2 else time_2
        least = other if other_s < least_s else least
        least_s = other_s if other_s < least_s else least_s
        if least_s >= time_s:
            break
        event = event_at(events, place)
        event.time_s = least_s
        event.what = event_at(events, least).what
        place = least
    event = event_at(events, place)
    event.time_s = time_s
    event.what = what
