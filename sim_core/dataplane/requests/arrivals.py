"""Requests that arrive in a tick: when, of which class, and with which random numbers."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.requests.draws import exp_of_minus, mixed, next_below, next_exponential, unit
from sim_core.dataplane.requests.records import (
    NONE,
    START,
    arrival_at,
    class_at,
    class_sums_at,
    endpoint_at,
    frame_at,
)
from sim_core.dataplane.requests.threads import take_main

# Streams of a lane's key, apart from the small numbers of components in `randomness.py`.
REQUESTS = np.uint64(0x5265717565737473)
_MOMENTS = np.uint64(0x4D6F6D656E747321)
_TRACED = 1 << 40  # counter of a request's stream that it never comes to


@kernel
def expect_arrivals(engine, arrivals, tick):
    """Notes how many requests of each class arrive in this tick."""
    engine.left = 0
    for row in range(engine.n_classes):
        arrival = arrival_at(engine.to_come, row)
        arrival.left = int(arrivals[row])
        arrival.taken = 0
        arrival.key = mixed(mixed(engine.key ^ REQUESTS, row), tick)
        engine.left += arrival.left
        class_sums_at(engine.the_class_sums, row).requests += arrival.left
    engine.arrived += engine.left
    engine.in_flight += engine.left
    engine.ahead = 1.0
    arrival_at(engine.to_come, engine.n_classes).random = mixed(engine.key ^ _MOMENTS, tick)


@kernel
def next_arrival(engine, begin_s, tick_s):
    """Draws the next of the requests that are left: their moments are even and independent, and come in their order.

    The least of k uniform numbers leaves behind it a share distributed as U ** (1 / k), which is exp(-E / k).
    """
    if engine.left == 0:
        engine.arrival_s = math.inf
        return
    moments = arrival_at(engine.to_come, engine.n_classes)
    engine.ahead *= exp_of_minus(next_exponential(moments) / engine.left)
    engine.arrival_s = begin_s + tick_s * (1.0 - engine.ahead)


@kernel
def _class_of_next(engine):
    """The class of the next request: each of those that are still to come is as likely."""
    row = 0
    if engine.n_classes > 1:
        place = next_below(arrival_at(engine.to_come, engine.n_classes), engine.left)
        while place >= arrival_at(engine.to_come, row).left:
            place -= arrival_at(engine.to_come, row).left
            row += 1
    return row


@kernel
def arrive(engine):
    """One of the requests that are left arrives now: its main thread, ready to start."""
    row = _class_of_next(engine)
    arrival = arrival_at(engine.to_come, row)
    thread = new_request(engine, row, mixed(arrival.key, arrival.taken))
    arrival.taken += 1
    arrival.left -= 1
    engine.left -= 1
    return thread


@kernel
def new_request(engine, row, stream):
    """The main thread of a request of a class, with a random stream of its own."""
    thread = take_main(engine, endpoint_at(engine.the_endpoints, class_at(engine.the_classes, row).endpoint))
    frame = frame_at(engine.frames, thread)
    frame.random = stream
    frame.station = NONE
    frame.service = NONE
    frame.parent = NONE
    frame.call = NONE
    frame.request_class = row
    frame.session = ~stream
    frame.deadline_s = math.inf
    frame.trace = np.uint64(0)
    if engine.trace_share > 0.0 and unit(mixed(stream, _TRACED)) <= engine.trace_share:
        engine.next_span += 1
        frame.trace = stream | np.uint64(1)
        frame.span = engine.next_span
        frame.parent_span = np.uint64(0)
    frame.state = START
    return thread
