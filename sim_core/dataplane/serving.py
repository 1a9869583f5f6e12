"""A station for one tick: calls arrive, wait, are served, refused, or given up by their callers."""

from __future__ import annotations

import math

from sim_core.compiled import kernel
from sim_core.dataplane.queueing import (
    call_speed,
    cumulants_within,
    share_within,
    take_shape,
    third_cumulant_factor,
)
from sim_core.dataplane.stationary import draw_curve, effective_slowness, take_point

_FINE = 0.05  # of the grid of utilizations: spacing over distance from saturation
_NEAR = 0.02  # ... which is taken as at least this
_MIDDLE = int(math.log((1.0 + _NEAR) / _NEAR) / _FINE) + 1  # the cell that begins at saturation
_MOST = 40.0  # utilization
_LEAST = 1e-100  # calls; fewer are none
_HELD_MOVES = 0.02  # change of held time, over CPU time and held time, from which on a station is computed anew


@kernel
def _edge(cell):
    """The utilization at which a cell of the grid begins: fine near saturation, where queues change most."""
    if cell >= _MIDDLE:
        return 1.0 + _NEAR * math.expm1((cell - _MIDDLE) * _FINE)
    return max(0.0, 1.0 - _NEAR * math.expm1((_MIDDLE - cell) * _FINE))


@kernel
def _cell_of(utilization):
    if utilization >= 1.0:
        return _MIDDLE + int(math.log1p((utilization - 1.0) / _NEAR) / _FINE)
    return max(0, _MIDDLE - 1 - int(math.log1p((1.0 - utilization) / _NEAR) / _FINE))


@kernel
def _copy(into, of):
    into.utilization, into.open, into.blocked, into.waits = of.utilization, of.open, of.blocked, of.waits
    into.wait_s, into.wait_variance_s2, into.wait_third_s3 = of.wait_s, of.wait_variance_s2, of.wait_third_s3
    into.extra_variance_s2, into.extra_third_s3 = of.extra_variance_s2, of.extra_third_s3


@kernel
def _go_to(load, state, utilization):
    """Has `below` and `above` enclose this utilization."""
    if state.cell >= 0 and state.below.utilization <= utilization <= state.above.utilization:
        return
    cell = _cell_of(utilization)
    if cell == state.cell:  # by rounding at an edge
        return
    if state.cell >= 0 and cell == state.cell + 1:
        _copy(state.below, state.above)
    else:
        take_point(load, state, state.below, _edge(cell))
    take_point(load, state, state.above, _edge(cell + 1))
    state.cell = cell


@kernel
def _settle(load, state, inflow, capacity, before):
    """Sets `state.utilization`: that of the stationary station which holds what a pod holds after the tick.

    A station in motion is taken for a stationary one at another utilization u: it serves u times its capacity (less
    what it refuses), and holds open(u) calls: open(u) - before = (inflow - u capacity) (1 - blocked(u)), by Newton's
    method. Implicit in time, so that a tick may be longer than the station takes to settle.
    Source: Wang, Tipper and Banerjee, "Modeling nonstationary queues: the pointwise stationary fluid flow
    approximation", INFOCOM (1996).

    Args:
        inflow, capacity: calls that come to a pod, and that it could serve, in the tick.
        before: calls of a pod, waiting for the CPU or having it.
    """
    aim = min(_MOST, inflow / capacity)
    _go_to(load, state, aim)
    below, above = state.below, state.above
    part = (aim - below.utilization) / (above.utilization - below.utilization)
    open_calls = below.open + part * (above.open - below.open)
    low, high = 0.0, _MOST
    if open_calls > before:
        high = aim
    else:
        low = aim
    slack = 1e-6 * (capacity + open_calls)
    if abs(open_calls - before) <= slack:
        state.utilization = aim
        return
    at = min(high, max(low, state.utilization))
    for _ in range(30):
        _go_to(load, state, at)
        width = above.utilization - below.utilization
        part = (at - below.utilization) / width
        slope = (above.open - below.open) / width
        through = 1.0 - (below.blocked + part * (above.blocked - below.blocked))
        change_of_through = -(above.blocked - below.blocked) / width
        off = below.open + part * (above.open - below.open) - before - (inflow - at * capacity) * through
        if off > 0.0:
            high = at
        else:
            low = at
        if abs(off) <= slack or high - low < 1e-7:
            break
        gradient = slope + capacity * through - (inflow - at * capacity) * change_of_through
        following = at - off / gradient if gradient > 0.0 else 0.5 * (low + high)
        if following <= low or following >= high or abs(following - at) > 2.0 * width:
            # The slope of one cell says nothing of those far away: halve the number of cells between.
            first, last = _cell_of(low), _cell_of(high)
            following = 0.5 * (low + high)
            if last - first > 1:
                middle = (first + last) // 2
                following = 0.5 * (_edge(middle) + _edge(middle + 1))
        at = following
    state.utilization = at
    _go_to(load, state, at)


@kernel
def _renew(load, state, slowness):
    """Forgets points and curve where they were computed for another station."""
    key = state.key
    balanced = load.balancing >= 2
    pods = load.ready if load.balancing != 0 else 0.0
    kind = load.balancing + 8.0 * load.sharing + 64.0 * load.nodes
    unit = load.cpu_s * slowness
    moved = abs(load.held_s - state.seen_held_s) > _HELD_MOVES * (load.held_s + unit)
    if (
        not moved
        and state.cell >= 0
        and key[0] == pods
        and key[1] == load.cores
        and key[2] == load.workers
        and key[3] == load.queue_limit
        and key[4] == load.cpu_s
        and key[5] == load.cpu_scv
        and key[6] == slowness
        and key[7] == kind
    ):
        return
    key[0], key[1], key[2], key[3] = pods, load.cores, load.workers, load.queue_limit
    key[4], key[5], key[6], key[7] = load.cpu_s, load.cpu_scv, slowness, kind
    state.seen_held_s = load.held_s
    state.cell = -1
    held = load.held_s / unit
    typical = load.cores * (held + 1.0)
    if balanced or typical + 8.0 * math.sqrt(typical) + 8.0 > load.workers:
        draw_curve(load, state, held)
    else:
        state.capacity = 1.0


@kernel
def serve_station(load, state, answer, shape):
    """Serves a tick's calls.

    Args:
        load: LOAD, what comes and what the pods are.
        state: STATION_STATE, as the last tick left it; zeros with `cell` -1 at the start.
        answer: ANSWER, set.
        shape: SHAPE, scratch.
    """
    offered = load.arrivals if load.arrivals >= _LEAST else 0.0
    expected = load.expected if load.expected >= _LEAST else 0.0
    if load.ready < 0.5:
        _refuse_all(load, state, answer, offered)
        return
    slowness = effective_slowness(load)
    _renew(load, state, slowness)
    unit = load.cpu_s * slowness
    capacity = load.cores * state.capacity / unit * load.tick_s  # of a pod
    inflow = expected / load.ready
    room = load.workers + load.queue_limit
    before = min(state.open / load.ready, room)
    if inflow == 0.0 and before < 1e-9:
        state.open = state.utilization = 0.0
    _settle(load, state, inflow, capacity, before)
    _interpolate(state)
    here = state.here
    after = min(here.open, before + inflow)
    if inflow > _MOST * capacity:  # beyond the grid: what there is neither time nor room for
        here.blocked = max(here.blocked, 1.0 - (capacity + max(0.0, after - before)) / inflow)
    refused = expected * here.blocked
    admitted = offered * (1.0 - here.blocked)
    expected_admitted = expected - refused
    # The expected calls may run ahead of the draws: these catch up with them.
    work = state.unserved + (before - after) * load.ready + admitted
    served = min(capacity * load.ready, max(0.0, work))
    state.unserved = work - served
    state.open = after * load.ready
    answer.served = served
    answer.passed_on = max(0.0, min(capacity * load.ready, (before - after) * load.ready + expected_admitted))
    answer.refused = offered - admitted
    answer.admitted = admitted
    answer.cpu_core_s = served * unit
    answer.utilization = min(_MOST, inflow / capacity)
    _as_met(state, capacity)
    _tell_times(load, state, answer, shape, unit)
    answer.waiting = min(state.open, expected_admitted / load.tick_s * here.wait_s)


@kernel
def _refuse_all(load, state, answer, offered):
    state.open = state.unserved = state.utilization = 0.0
    answer.served = answer.passed_on = answer.admitted = answer.cpu_core_s = answer.waiting = 0.0
    answer.refused = offered
    answer.utilization = 0.0
    answer.waits = answer.wait_s = answer.wait_variance_s2 = answer.timeout_share = 0.0
    answer.sojourn_s = answer.answered_s = load.cpu_s + load.held_s
    variance = load.cpu_scv * load.cpu_s**2 + load.held_variance_s2
    answer.sojourn_variance_s2 = answer.answered_variance_s2 = variance
    answer.sojourn_third_s3 = answer.answered_third_s3 = load.held_third_s3


@kernel
def _interpolate(state):
    """Sets `here` to the point at `utilization`."""
    here, below, above = state.here, state.below, state.above
    _mix(here, below, above, (state.utilization - below.utilization) / (above.utilization - below.utilization))


@kernel
def _mix(into, one, other, part):
    into.utilization = one.utilization + part * (other.utilization - one.utilization)
    into.open = one.open + part * (other.open - one.open)
    into.blocked = one.blocked + part * (other.blocked - one.blocked)
    into.waits = one.waits + part * (other.waits - one.waits)
    into.wait_s = one.wait_s + part * (other.wait_s - one.wait_s)
    into.wait_variance_s2 = one.wait_variance_s2 + part * (other.wait_variance_s2 - one.wait_variance_s2)
    into.wait_third_s3 = one.wait_third_s3 + part * (other.wait_third_s3 - one.wait_third_s3)
    into.extra_variance_s2 = one.extra_variance_s2 + part * (other.extra_variance_s2 - one.extra_variance_s2)
    into.extra_third_s3 = one.extra_third_s3 + part * (other.extra_third_s3 - one.extra_third_s3)


@kernel
def _as_met(state, capacity):
    """Sets `met`: what the arrivals of this tick meet on the mean, from the last tick's end to this one's.

    A station that settles within far less than a tick is met as it is at the end; one that takes long, half way.
    """
    last, here = state.last, state.here
    moved = abs(last.open - here.open)
    if moved <= 1e-3 * here.open or last.utilization <= 0.0:
        _copy(state.met, here)
    else:
        ticks = (state.above.open - state.below.open) / (state.above.utilization - state.below.utilization) / capacity
        _mix(state.met, here, last, 0.5 * ticks / (1.0 + ticks))
    _copy(last, here)


@kernel
def _tell_times(load, state, answer, shape, unit):
    """Sets the times of ANSWER from those of the point that was met."""
    here = state.met
    alone = unit / call_speed(load)
    mean = here.wait_s + alone + load.held_s
    variance = here.wait_variance_s2 + here.extra_variance_s2 + load.cpu_scv * alone * alone + load.held_variance_s2
    third = (
        here.wait_third_s3 + here.extra_third_s3 + third_cumulant_factor(load.cpu_scv) * alone**3 + load.held_third_s3
    )
    variance = max(0.0, variance)
    answer.waits, answer.wait_s, answer.wait_variance_s2 = here.waits, here.wait_s, here.wait_variance_s2
    answer.sojourn_s, answer.sojourn_variance_s2, answer.sojourn_third_s3 = mean, variance, third
    answer.timeout_share = 0.0
    slack = load.timeout_s - mean
    if slack > 0.0 and slack * slack > 150.0 * variance:
        answer.answered_s, answer.answered_variance_s2, answer.answered_third_s3 = mean, variance, third
        return
    known = state.known
    if not (
        abs(mean - known.sojourn_s) <= 1e-4 * mean
        and abs(variance - known.sojourn_variance_s2) <= 2e-4 * variance
        and abs(third - known.sojourn_third_s3) <= 3e-4 * abs(third)
        and load.timeout_s == state.known_timeout_s
    ):
        take_shape(shape, mean, variance, third)
        within = share_within(shape, load.timeout_s)
        kept, kept_variance, kept_third = cumulants_within(shape, load.timeout_s, within)
        known.sojourn_s, known.sojourn_variance_s2, known.sojourn_third_s3 = mean, variance, third
        known.timeout_share = 1.0 - within
        known.answered_s, known.answered_variance_s2, known.answered_third_s3 = kept, kept_variance, kept_third
        state.known_timeout_s = load.timeout_s
    answer.timeout_share = known.timeout_share
    answer.answered_s = max(0.0, known.answered_s)
    answer.answered_variance_s2, answer.answered_third_s3 = known.answered_variance_s2, known.answered_third_s3
