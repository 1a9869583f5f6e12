"""A station for one tick: calls arrive, wait, are served, refused, or given up by their callers."""

from __future__ import annotations

import math

from sim_core.compiled import kernel
from sim_core.dataplane.queueing import (
    cumulants_within,
    share_within,
    take_shape,
    third_cumulant_factor,
)
from sim_core.dataplane.services.records import FIFO, LEAST_OUTSTANDING, POWER_OF_TWO, ROUND_ROBIN
from sim_core.dataplane.stationary import draw_curve, effective_slowness, take_point

_FINE = 0.05  # of the grid of utilizations: spacing over distance from saturation
_NEAR = 0.02  # ... which is taken as at least this
_MIDDLE = int(math.log((1.0 + _NEAR) / _NEAR) / _FINE) + 1  # the cell that begins at saturation
_MOST = 40.0  # utilization
_LEAST = 1e-100  # calls; fewer are none
_WIDEST = 8.0  # variance of lines over that at rest
_FOLLOW = 0.7  # correlation of retries with the lines they meet, a timeout after those that caused them
_QUICK = 12.0  # variance of what comes and goes in a tick, over that at rest, from which on lines vary as at rest
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
def _settle(load, state, inflow, capacity, before, unit):
    """Sets `state.utilization`: that of the stationary station which holds what a pod holds after the tick.

    A station in motion is taken for a stationary one at another utilization u, which holds open(u) calls: open(u) - before
    = inflow (1 - full) - capacity (1 - idle), by Newton's method. Implicit in time, so that a tick may be longer than the
    station takes to settle. Source: Wang, Tipper and Banerjee, "Modeling nonstationary queues: the pointwise stationary
    fluid flow approximation", INFOCOM (1996).

    How many pods are idle or full depends on how lines vary, too. At rest a line is spread like a (truncated) exponential
    distribution; while it fills or drains, its variance v grows by what comes and goes (where lines are kept equal, also by
    the retries of those that time out, which make long lines longer), and empty and full lines pull it together: v' =
    inflow + served - pulled, linear in r, the ratio of v to the variance at rest with as many calls. A
    normal distribution, truncated at 0, of that mean and variance has exp(0.6 - 0.6 / r) as many lines near 0 as an
    exponential one (within 5 %); of a distribution that drifts against 0 some have arrived (see `_arrived`).
    Closing the equations of mean and variance by a family of distributions is Rothkopf and Oren's idea: "A closure
    approximation for the nonstationary M/M/s queue", Management Science 25 (1979).

    Args:
        inflow, capacity: calls that come to a pod, and that it could serve, in the tick.
        before: calls of a pod, waiting for the CPU or having it.
        unit: mean CPU time of a call [s].
    """
    aim = min(_MOST, inflow / capacity)
    _go_to(load, state, aim)
    below, above = state.below, state.above
    part = (aim - below.utilization) / (above.utilization - below.utilization)
    open_calls = below.open + part * (above.open - below.open)
    slack = 1e-6 * (capacity + open_calls)
    if not state.moves and abs(open_calls - before) <= slack and state.uneven == 0.0:
        state.utilization = aim
        state.blocked = below.blocked + part * (above.blocked - below.blocked)
        return
    stir, pods = _stir(load), load.ready if _kept_equal(load) else 1.0
    places = max(1.0, load.workers + load.queue_limit - load.cores)
    settled = unit / load.cores
    retries = 0.0  # what they add to the variance: twice their covariance with the length of lines
    if state.uneven > 0.0 and pods > 1.0:
        retries = 2.0 * _FOLLOW * state.uneven / pods * math.sqrt(state.variance)
    state.uneven = 0.0
    drains, fills = max(0.0, 1.0 - inflow / capacity), max(0.0, 1.0 - capacity / max(inflow, _LEAST))
    low, high = 0.0, _MOST
    at = min(high, max(low, state.utilization))
    for _ in range(40):
        _go_to(load, state, at)
        width = above.utilization - below.utilization
        part = (at - below.utilization) / width
        open_calls = below.open + part * (above.open - below.open)
        blocked = below.blocked + part * (above.blocked - below.blocked)
        change_of_blocked = (above.blocked - below.blocked) / width
        idle = max(0.0, 1.0 - at * (1.0 - blocked))
        gradient = (above.open - below.open) / width
        wait = below.wait_s + part * (above.wait_s - below.wait_s)
        line = min(places, open_calls * wait / (wait + settled))
        at_rest = _at_rest(line, places, at, stir)
        pulled = stir * capacity * at * (1.0 - blocked)
        drained, filled, pull, ratio, arrived = 0.0, 0.0, 1.0, 1.0, 0.0
        if pulled < _QUICK * at_rest:
            more = (inflow - at * capacity) * (1.0 - blocked) / pods
            ratio = min(_WIDEST, max(1e-3, (state.variance + pulled + more + retries) / (at_rest + pulled)))
            pull = math.exp(0.6 - 0.6 / ratio)
            if drains > 0.0:
                drained = drains * _arrived(ratio * at_rest, line)
            if fills > 0.0:
                filled = fills * _arrived(ratio * at_rest, places - line)
        if pull * idle >= drained:
            gradient += pull * capacity * (1.0 - blocked - at * change_of_blocked)
            drained = pull * idle
        else:
            arrived += line * capacity * (drained - pull * idle)
        if pull * blocked >= filled:
            gradient += pull * inflow * change_of_blocked
            filled = min(1.0, pull * blocked)
        else:
            arrived += (places - line) * inflow * (filled - pull * blocked)
        off = open_calls - before - inflow * (1.0 - filled) + capacity * (1.0 - drained)
        if off > 0.0:
            high = at
        else:
            low = at
        if abs(off) <= slack or high - low < 1e-7:
            break
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
    state.blocked, state.ratio, state.at_rest = filled, ratio, at_rest
    state.variance = ratio * at_rest
    if arrived > 0.0:
        state.variance /= 1.0 + 2.0 * arrived / state.variance
        state.ratio = state.variance / at_rest
    state.moves = abs(state.ratio - 1.0) > 1e-3
    _go_to(load, state, at)


@kernel
def _stir(load):
    """Variance that a call which comes and goes adds to the line of a pod; where lines are kept equal, of the mean pod."""
    gaps = 1.0 / load.ready if load.balancing == ROUND_ROBIN else 1.0
    scv = load.cpu_scv if load.sharing == FIFO else 1.0
    return (gaps + scv) / (load.ready if _kept_equal(load) else 1.0)


@kernel
def _kept_equal(load):
    return load.balancing == LEAST_OUTSTANDING or load.balancing == POWER_OF_TWO


@kernel
def _at_rest(line, places, utilization, stir):
    """Variance of a line at rest with so many calls: a truncated exponential distribution's, within 13 %.

    No more than that without a limit to the places, or, in overload, to those that are free.
    """
    part = line / places
    square = part * (1.0 - part)
    variance = places * places * square * square * (1.0 + 4.0 / 3.0 * square)
    away = 2.0 * (1.0 - utilization)
    if variance * away * away > stir * stir:
        variance = stir * stir / (away * away)
    return variance


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
    _settle(load, state, inflow, capacity, before, unit)
    _interpolate(state)
    here = state.here
    here.blocked = state.blocked
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
    _fluctuate(load, state, unit)
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
        ticks = max(0.0, ticks)  # points of rare stations may hold less at more load
        _mix(state.met, here, last, 0.5 * ticks / (1.0 + ticks))
    _copy(last, here)


@kernel
def _fluctuate(load, state, unit):
    """Corrects how the waits that were met vary where lines do not vary as at rest, and notes what calls have in common.

    All of a wait's variance moves but what the service times in front, or those that share the CPU, put into it.
    """
    here, met = state.here, state.met
    per_call = unit / (load.cores * state.capacity)
    together = _kept_equal(load)
    state.common_variance_s2 = state.variance * per_call * per_call / (1.0 if together else load.ready)
    if not state.moves:
        return
    still = met.wait_s * per_call
    if load.sharing == FIFO:
        still *= load.cpu_scv
    else:
        calls = met.wait_s / per_call
        queued = (calls / (1.0 + calls)) ** max(1.0, load.workers - load.cores)  # as in `shared_cumulants`
        shared_s = met.wait_s * (1.0 - queued)
        still = queued * still + load.cpu_scv * shared_s * shared_s
    moving = max(0.0, met.wait_variance_s2 - still)
    if together:  # the rest is by what the balancer leaves unequal
        moving = min(moving, 1.2 * state.at_rest * per_call * per_call)
    ratio = state.ratio
    met.wait_variance_s2 += (ratio - 1.0) * moving
    third = 2.0 * moving * math.sqrt(moving) * (1.0 - 2.0 * here.open / (load.workers + load.queue_limit))
    met.wait_third_s3 += (ratio**3 - 1.0 if ratio < 1.0 else ratio * ratio - 1.0) * third


@kernel
def _arrived(variance, distance):
    """The share of lines that drifted to an end, of lines at a mean distance from it.

    As if they varied normally but for that end: max(0, X) then has this mean and variance, and the share is P(X < 0);
    within 0.03.
    """
    square = distance * distance
    if square <= 1e-6 * variance:
        return 1.0
    spread = variance / square
    if spread < 0.02:
        return 0.0
    return math.exp(-0.62 / spread) * (spread + 0.25) / (spread + 1.35)


@kernel
def _tell_times(load, state, answer, shape, unit):
    """Sets the times of ANSWER from those of the point that was met."""
    here = state.met
    alone = unit
    if load.sharing == 0:
        alone = unit * math.ceil(load.cores) / load.cores
    elif load.cores < 1.0:
        alone = unit / load.cores
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
