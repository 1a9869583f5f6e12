"""The events of a lane that lie ahead: a heap with four children a node, in one table that grows.

Source: LaMarca, Ladner, "The influence of caches on the performance of heaps", JEA 1 (1996).
"""

from __future__ import annotations

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.requests.memory import grow
from sim_core.dataplane.requests.records import EVENT, event_at

_EVENT_BYTES = EVENT.itemsize
_TOKEN = np.int64(0xFFFFFFFF)


@kernel
def push_event(engine, time_s, thread, token):
    """Adds an event."""
    place = engine.n_events
    if place == engine.room_events:
        engine.events = grow(engine.events, place * _EVENT_BYTES, 2 * place * _EVENT_BYTES)
        engine.room_events = 2 * place
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
    event.what = (np.int64(thread) << 32) | (np.int64(token) & _TOKEN)


@kernel
def drop_first(engine):
    """Removes the earliest event."""
    n = engine.n_events - 1
    engine.n_events = n
    last = event_at(engine.events, n)
    _sink(engine.events, n, last.time_s, last.what)


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
        least = child
        least_s = event_at(events, child).time_s
        for other in range(child + 1, min(child + 4, n)):
            other_s = event_at(events, other).time_s
            if other_s < least_s:
                least = other
                least_s = other_s
        if least_s >= time_s:
            break
        event = event_at(events, place)
        event.time_s = least_s
        event.what = event_at(events, least).what
        place = least
    event = event_at(events, place)
    event.time_s = time_s
    event.what = what
