"""Who handles an event."""

from __future__ import annotations

from sim_core.compiled import kernel
from sim_core.dataplane.requests.calls import handle_ejection, handle_timeouts
from sim_core.dataplane.requests.cpu import handle_station
from sim_core.dataplane.requests.heap import drop_first
from sim_core.dataplane.requests.records import (
    NONE,
    OF_CACHE,
    OF_EJECTION,
    OF_STATION,
    OF_TIMEOUTS,
    event_at,
    frame_at,
)
from sim_core.dataplane.requests.steps import advance
from sim_core.dataplane.requests.stores import handle_cache
from sim_core.dataplane.requests.threads import make_room


@kernel
def run_woken(engine):
    """Lets threads go on until each waits for something."""
    while engine.run_head != NONE:
        _run_first(engine)


@kernel
def _run_first(engine):
    """Lets the thread go on that was woken first."""
    make_room(engine)
    thread = engine.run_head
    following = frame_at(engine.frames, thread).next
    engine.run_head = following
    if following == NONE:
        engine.run_tail = NONE
    advance(engine, thread)


@kernel
def handle_first(engine, time_s):
    """The earliest event happens."""
    what = event_at(engine.events, 0).what
    engine.now_s = time_s
    engine.handled += 1
    thread, token = what >> 32, (what << 32) >> 32
    if thread == OF_CACHE:
        handle_cache(engine, token)
        return
    drop_first(engine)
    if thread >= 0:
        if frame_at(engine.frames, thread).token == token:
            make_room(engine)
            advance(engine, thread)
    elif thread == OF_STATION:
        handle_station(engine, token, time_s)
    elif thread == OF_TIMEOUTS:
        handle_timeouts(engine, token)
    elif thread == OF_EJECTION:
        handle_ejection(engine, token, time_s)
