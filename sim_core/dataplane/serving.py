"""A station for one tick: calls arrive, wait, are served, refused, or given up by their callers."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import glue, kernel
from sim_core.dataplane.balanced import queued_part
from sim_core.dataplane.balanced_corrections import loose_variance
from sim_core.dataplane.curve import call_speed, draw_curve
from sim_core.dataplane.grid import MOST, cell_of, edge_of
from sim_core.dataplane.known import copy_point, mix_points, mixed, recall, remember, row_beside, row_of
from sim_core.dataplane.queueing import third_cumulant_factor
from sim_core.dataplane.services.records import FIFO, PROCESSOR_SHARING, ROUND_ROBIN
from sim_core.dataplane.stationary import effective_slowness, keeps_equal, take_point

_LEAST = 1e-100  # calls; fewer are none
# What calls are held moves on a grid: steps of CPU time and held time together [1], and of the variance over their square.
_HELD_MOVES, _HELD_VARIES = 0.01, 0.05
_SLACK = 2e-5  # calls that may be where they are not, over those that are there or could be served in the tick
_LAG = 1e-3  # by how much the utilization may lag behind at rest, over its distance from 1: waits differ by as much
_TRIALS = 40  # of the utilization
_WIDEST = 8.0  # variance of lines over that at rest
# Idle share of a line that drifts away from 0, over that of one at rest as long: exp(-0.8 q), q = length drift / variance.
_LEAVES = 0.8
_QUICK = 12.0  # variance of what comes and goes in a tick, over that at rest, from which on lines vary as at rest


@kernel
def _take_edge(known_points, known_curves, state, point, cell):
    """Sets POINT to that at the edge where a cell begins."""
    tag, row = mixed(state.tag, float(cell)), row_beside(state.tag, cell, known_points)
    if not recall(known_points, row, tag, point):
        take_point(state.asked, _curve_of(known_curves, state.asked), point, edge_of(cell))
        remember(known_points, row, tag, point)


@kernel
def _go_to(known_points, known_curves, state, utilization):
    """Has `below` and `above` enclose this utilization."""
    if state.cell >= 0 and state.below.utilization <= utilization <= state.above.utilization:
        return
    cell = cell_of(utilization)
    if cell == state.cell:  # by rounding at an edge
        return
    first, last = cell, cell + 1
    if state.cell >= 0 and cell == state.cell + 1:
        copy_point(state.below, state.above)
        first = last
    elif state.cell >= 0 and cell == state.cell - 1:
        copy_point(state.above, state.below)
        last = first
    for edge in range(first, last + 1):  # one place that works out points: they are the largest part of all kernels
        _take_edge(known_points, known_curves, state, state.below if edge == cell else state.above, edge)
    state.cell = cell


@kernel
def _settle(known_points, known_curves, load, state, inflow, capacity, before, unit):
    """Sets `state.utilization`, that of the stationary station which holds what a pod holds after the tick, and `here`.

    A station in motion is taken for a stationary one at another utilization u, which holds open(u) calls: open(u) - before
    = inflow (1 - full) - capacity (1 - idle), by Newton's method. Implicit in time, so that a tick may be longer than the
    station takes to settle. Source: Wang, Tipper and Banerjee, "Modeling nonstationary queues: the pointwise stationary
    fluid flow approximation", INFOCOM (1996).

    How many pods are idle or full depends on how lines vary, too. At rest a line is spread like a (truncated) exponential
    distribution; while it fills or drains, its variance v grows by what comes and goes (where lines are kept equal, also by
    the retries of those that time out, which make long lines longer), and empty and full lines pull it together: v' =
    inflow + served - pulled, linear in r, the ratio of v to the variance at rest with as many calls. A
    normal distribution, truncated at 0, of that mean and variance has exp(0.6 - 0.6 / r) as many lines near 0 as an
    exponential one (within 5 %); of a distribution that drifts against 0 some have arrived (see `_arrived`), and one that
    drifts away from it leaves it behind: a reflected Brownian motion that began at 0 is idle 2 / pi exp(-0.7 q) times as
    often as one at rest with as long a line, one that was at rest begins with 1. Variance tells that well enough where calls
    are exponential; of more variable ones, which are served one after the other, lines at rest are too long to tell.
    Closing the equations of mean and variance by a family of distributions is Rothkopf and Oren's idea: "A closure
    approximation for the nonstationary M/M/s queue", Management Science 25 (1979).

    While a pod fills, it is work that adds up, not calls: those that share the CPU are soon the long ones, of which (1 + scv)
    / 2 of a CPU time is left on the mean, and fewer of them are there than of calls in line that are as much work.

    Args:
        inflow, capacity: calls that come to a pod, and that it could serve, in the tick.
        before: calls of a pod, waiting for the CPU or having it.
        unit: mean CPU time of a call [s].
    """
    aim = min(MOST, inflow / capacity)
    below, above = state.below, state.above
    stir, pods = stir_of(load), load.ready if keeps_equal(load) else 1.0
    places = max(1.0, load.workers + load.queue_limit - load.cores)
    room = load.workers + load.queue_limit - capacity * load.held_s / load.tick_s
    settled = unit / load.cores
    # What is left of a call at a CPU that is shared, over its mean CPU time, less 1: half of its scv beyond 1. (Steady calls
    # end late, all of them; but CPU is booked by the calls that end, and most of a CPU in overload has to be.)
    heavier = 0.5 * (load.cpu_scv - 1.0) if load.sharing == PROCESSOR_SHARING else 0.0
    if heavier < 0.0 and inflow > capacity:
        heavier = max(heavier, -((capacity / inflow) ** 2))
    if not state.moves and state.uneven == 0.0:
        _go_to(known_points, known_curves, state, aim)
        part = (aim - below.utilization) / (above.utilization - below.utilization)
        open_calls = below.open + part * (above.open - below.open)
        if abs(open_calls - before) <= max(_SLACK * (capacity + open_calls), _LAG * capacity * (1.0 - aim)):
            state.utilization = state.aim = aim
            here = state.here
            mix_points(here, below, above, part)
            state.blocked = here.blocked
            if aim < 1.0:
                taken = _part_in_line(here.open, here.wait_s, settled, places)
                state.variance = state.at_rest = _at_rest(taken, places, aim, stir)
            return
    retries = 0.0  # what they add to the variance: twice their covariance with the length of lines
    if state.uneven > 0.0:
        own = 1.0 / load.ready if keeps_equal(load) else load.ready**-1.5
        retries = 2.0 * state.uneven * own * math.sqrt(state.variance)
    state.uneven = 0.0
    drains, fills = max(0.0, 1.0 - inflow / capacity), max(0.0, 1.0 - capacity / max(inflow, _LEAST))
    varied = max(0.0, (load.cpu_scv - 1.0) / (load.cpu_scv + 1.0)) if load.sharing == FIFO and fills > 0.0 else 0.0
    low, high = 0.0, MOST
    at = min(high, max(low, state.utilization + aim - state.aim))  # as far behind as a tick ago
    state.aim = aim
    for trial in range(_TRIALS):
        _go_to(known_points, known_curves, state, at)
        width = above.utilization - below.utilization
        part = (at - below.utilization) / width
        open_calls = below.open + part * (above.open - below.open)
        blocked = below.blocked + part * (above.blocked - below.blocked)
        change_of_blocked = (above.blocked - below.blocked) / width
        idle = max(0.0, 1.0 - at * (1.0 - blocked))
        gradient = (above.open - below.open) / width
        wait = below.wait_s + part * (above.wait_s - below.wait_s)
        taken = _part_in_line(open_calls, wait, settled, places)
        line = places * taken
        at_rest, bursts = _at_rest(taken, places, at, stir), 0.0
        if at > 1.0 and pods > 1.0:
            free = room - open_calls - 0.5 * stir / (at - 1.0)
            if free > 0.0:
                at_rest += loose_variance(load.balancing, free, load.cpu_scv)
                bursts = 2.0 * inflow * blocked
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
        idles = pull
        if varied > 0.0 and at < aim:
            idles = min(pull, math.exp(-_LEAVES * varied * line * (aim - max(at, 1.0)) / (stir * pods)))
        if idles * idle >= drained:
            gradient += idles * capacity * (1.0 - blocked - at * change_of_blocked)
            drained = idles * idle
        else:
            arrived += line * capacity * (drained - idles * idle)
        if pull * blocked >= filled:
            gradient += pull * inflow * change_of_blocked
            filled = min(1.0, pull * blocked)
        else:
            arrived += (places - line) * inflow * (filled - pull * blocked)
        off = open_calls - before - inflow * (1.0 - filled) + capacity * (1.0 - drained)
        if heavier != 0.0:
            off += heavier * (min(open_calls, load.workers) - min(before, load.workers))
            if open_calls < load.workers:
                gradient += heavier * (above.open - below.open) / width
        slack = _SLACK * (capacity + open_calls)
        if off > 0.0:
            high = at
        else:
            low = at
        if abs(off) <= slack or high - low < 1e-7 or trial == _TRIALS - 1:
            break
        following = at - off / gradient if gradient > 0.0 else 0.5 * (low + high)
        if following <= low or following >= high or abs(following - at) > 2.0 * width:
            # The slope of one cell says nothing of those far away: halve the number of cells between.
            first, last = cell_of(low), cell_of(high)
            following = 0.5 * (low + high)
            if last - first > 1:
                middle = (first + last) // 2
                following = 0.5 * (edge_of(middle) + edge_of(middle + 1))
        at = following
    if at > MOST - 1e-6 and aim < MOST:  # it holds more than it would at any load: it is full, as at rest
        at, ratio = aim, 1.0
        _go_to(known_points, known_curves, state, at)
        filled = blocked_at(state, at)
    state.utilization = at
    state.blocked, state.ratio, state.at_rest = filled, ratio, at_rest
    state.variance = ratio * at_rest
    if arrived > 0.0:
        state.variance /= 1.0 + 2.0 * arrived / state.variance
        state.ratio = state.variance / at_rest
    # A diffusion with this noise and variance forgets where it was as an Ornstein-Uhlenbeck process does, at first at least.
    # Calls refused in bursts, of a geometric number that is that of the pods on the mean, are part of the noise.
    state.memory_s = 2.0 * state.variance / max(_LEAST, pulled + bursts) * load.tick_s
    state.moves = abs(state.ratio - 1.0) > 1e-3
    _interpolate(state)


@kernel
def _hold_back(known_points, known_curves, load, state, inflow, capacity, before):
    """Refuses what would bring more calls into the pods than may be open together.

    Pods chosen at random that hold a fixed number of calls between them are as under the load at which they would hold
    them on the mean (a closed network of many stations); what more comes is refused.
    """
    below, above = state.below, state.above
    most = max(1e-3, load.most_open - load.held_s / load.tick_s * capacity * min(1.0, state.utilization))
    part = (state.utilization - below.utilization) / (above.utilization - below.utilization)
    if inflow <= 0.0 or below.open + part * (above.open - below.open) <= most:
        return
    low, high = 0, cell_of(state.utilization)
    while low < high:  # the first cell that ends with as many
        middle = (low + high) // 2
        _go_to(known_points, known_curves, state, 0.5 * (edge_of(middle) + edge_of(middle + 1)))
        if above.open < most:
            low = middle + 1
        else:
            high = middle
    _go_to(known_points, known_curves, state, 0.5 * (edge_of(low) + edge_of(low + 1)))
    part = min(1.0, max(0.0, (most - below.open) / max(1e-9, above.open - below.open)))
    state.utilization = below.utilization + part * (above.utilization - below.utilization)
    blocked = blocked_at(state, state.utilization)
    admitted = most - before + capacity * state.utilization * (1.0 - blocked)
    state.blocked = 1.0 - min(1.0, max(0.0, admitted / inflow))
    state.ratio, state.moves = 1.0, False
    _interpolate(state)


@kernel
def blocked_at(state, utilization):
    """The share of arrivals that full pods refuse, between the points around this utilization [1]."""
    below, above = state.below, state.above
    part = (utilization - below.utilization) / max(_LEAST, above.utilization - below.utilization)
    return below.blocked + part * (above.blocked - below.blocked)


@kernel
def stir_of(load):
    """Variance that a call which comes and goes adds to the line of a pod; where lines are kept equal, of the mean pod."""
    gaps = 1.0 / load.ready if load.balancing == ROUND_ROBIN else 1.0
    scv = load.cpu_scv if load.sharing == FIFO else 1.0
    return (gaps + scv) / (load.ready if keeps_equal(load) else 1.0)


@kernel
def _part_in_line(open_calls, wait, settled, places):
    """The part of a pod's places that waiting calls take, by the times that calls wait and are served [1]."""
    return min(1.0, open_calls * wait / ((wait + settled) * places))


@kernel
def _at_rest(part, places, utilization, stir):
    """Variance of a line at rest with calls in so large a part of its places: a truncated exponential's, within 13 %.

    No more than that without a limit to the places, or, in overload, to those that are free.
    """
    square = part * (1.0 - part)
    variance = places * places * square * square * (1.0 + 4.0 / 3.0 * square)
    away = 2.0 * (1.0 - utilization)
    if variance * away * away > stir * stir:
        variance = stir * stir / (away * away)
    return variance


@kernel
def _is_as_asked(load, asked, unit):
    """Whether a station is the one that its points were worked out for."""
    total = load.held_s + unit
    return (
        load.ready == asked.ready
        and load.cold == asked.cold
        and load.cold_factor == asked.cold_factor
        and load.cpu_s == asked.cpu_s
        and load.cpu_scv == asked.cpu_scv
        and load.cores == asked.cores
        and load.workers == asked.workers
        and load.queue_limit == asked.queue_limit
        and abs(load.held_s - asked.held_s) <= _HELD_MOVES * total
        and abs(load.held_variance_s2 - asked.held_variance_s2) <= _HELD_VARIES * total * total
    )


@kernel
def _ask(load, asked, unit):
    """Sets `asked` to the load as points see it: what calls are held lies on a grid, so that few loads differ."""
    asked.ready, asked.cold, asked.cold_factor = load.ready, load.cold, load.cold_factor
    asked.cores, asked.workers, asked.queue_limit = load.cores, load.workers, load.queue_limit
    asked.cpu_s, asked.cpu_scv = load.cpu_s, load.cpu_scv
    asked.balancing, asked.nodes, asked.sharing = load.balancing, load.nodes, load.sharing
    asked.sticky_share = load.sticky_share
    asked.quota_period_s, asked.timeout_s, asked.tick_s = load.quota_period_s, load.timeout_s, load.tick_s
    total = unit * math.exp(_HELD_MOVES * round(math.log1p(load.held_s / unit) / _HELD_MOVES))
    asked.held_s = total - unit
    steps = round(math.log1p(load.held_variance_s2 / (total * total)) / _HELD_VARIES)
    asked.held_variance_s2 = total * total * math.expm1(_HELD_VARIES * steps)


@kernel
def _held(asked):
    """Time that a call holds its worker beyond its CPU time, over that CPU time [1]."""
    return asked.held_s / (asked.cpu_s * effective_slowness(asked))


@kernel
def _tag_of_curve(asked):
    tag = mixed(np.uint64(1), asked.cores)
    tag = mixed(tag, asked.workers)
    tag = mixed(tag, float(asked.sharing + 8 * keeps_equal(asked)))
    return mixed(tag, _held(asked))


@kernel
def _tag_of(asked):
    tag = mixed(_tag_of_curve(asked), asked.ready)
    tag = mixed(tag, asked.cold)
    tag = mixed(tag, asked.cold_factor)
    tag = mixed(tag, asked.queue_limit)
    tag = mixed(tag, asked.cpu_s)
    tag = mixed(tag, asked.cpu_scv)
    tag = mixed(tag, asked.held_variance_s2)
    tag = mixed(tag, float(asked.balancing + 8 * asked.nodes))
    tag = mixed(tag, asked.quota_period_s)
    if asked.sticky_share > 0.0:
        tag = mixed(tag, asked.sticky_share)
    return mixed(tag, asked.timeout_s)


@kernel
def _needs_curve(asked):
    """Whether the open calls of a pod decide how fast it works: if a balancer looks at them, or workers may bind."""
    typical = asked.cores * (_held(asked) + 1.0)
    return keeps_equal(asked) or typical + 8.0 * math.sqrt(typical) + 8.0 > asked.workers


@kernel
def _curve_of(known_curves, asked):
    """CURVE of a station: from the table, else drawn and put there."""
    tag = _tag_of_curve(asked)
    curve = known_curves[row_of(tag, known_curves)]
    if curve.tag != tag:
        curve.tag = tag
        if _needs_curve(asked):
            draw_curve(asked, curve, _held(asked))
        else:
            curve.capacity = 1.0
    return curve


@kernel
def _renew(known_curves, load, state, unit):
    """Forgets points where they are those of another station."""
    if state.cell >= 0 and _is_as_asked(load, state.asked, unit):
        return
    _ask(load, state.asked, unit)
    state.tag = _tag_of(state.asked)
    state.capacity = _curve_of(known_curves, state.asked).capacity
    state.cell = -1


@glue
def serve_station(known_points, known_curves, load, state, answer):
    """Serves a tick's calls.

    Args:
        known_points, known_curves: tables of `known.known_stations`.
        load: LOAD, what comes and what the pods are.
        state: STATION_STATE, as the last tick left it; zeros with `cell` -1 at the start.
        answer: ANSWER, set.
    """
    offered = load.arrivals if load.arrivals >= _LEAST else 0.0
    expected = load.expected if load.expected >= _LEAST else 0.0
    if load.pods < 0.5:
        _refuse_all(load, state, answer, offered)
        return
    unit = load.cpu_s * effective_slowness(load)
    _renew(known_curves, load, state, unit)
    capacity = load.cores * state.capacity / unit * load.tick_s  # of a pod
    inflow = expected / load.pods
    room = load.workers + load.queue_limit
    before = min(state.open / load.pods, room)
    if inflow == 0.0 and before < 1e-9:
        state.open = state.utilization = 0.0
    _settle(known_points, known_curves, load, state, inflow, capacity, before, unit)
    if load.most_open > 0.0:
        _hold_back(known_points, known_curves, load, state, inflow, capacity, before)
    here = state.here
    here.blocked = state.blocked
    after = min(here.open, before + inflow)
    if inflow > MOST * capacity:  # beyond the grid: what there is neither time nor room for
        here.blocked = max(here.blocked, 1.0 - (capacity + max(0.0, after - before)) / inflow)
    refused = expected * here.blocked
    admitted = offered * (1.0 - here.blocked)
    expected_admitted = expected - refused
    # The expected calls may run ahead of the draws: these catch up with them.
    work = state.unserved + (before - after) * load.pods + admitted
    served = min(capacity * load.pods, max(0.0, work))
    state.unserved = work - served
    state.open = after * load.pods
    answer.served = served
    answer.passed_on = max(0.0, min(capacity * load.pods, (before - after) * load.pods + expected_admitted))
    answer.refused = offered - admitted
    answer.admitted = admitted
    answer.cpu_core_s = served * unit
    answer.utilization = min(MOST, inflow / capacity)
    _as_met(state, capacity)
    _fluctuate(load, state, unit)
    _tell_times(load, state, answer, unit)
    answer.waiting = min(state.open, expected_admitted / load.tick_s * here.wait_s)


@kernel
def _refuse_all(load, state, answer, offered):
    state.open = state.unserved = state.utilization = 0.0
    answer.served = answer.passed_on = answer.admitted = answer.cpu_core_s = answer.waiting = 0.0
    answer.refused = offered
    answer.utilization = 0.0
    answer.waits = answer.wait_s = answer.wait_variance_s2 = 0.0
    answer.sojourn_s = load.cpu_s + load.held_s
    answer.sojourn_variance_s2 = load.cpu_scv * load.cpu_s**2 + load.held_variance_s2
    answer.sojourn_third_s3 = load.held_third_s3


@kernel
def _interpolate(state):
    """Sets `here` to the point at `utilization`."""
    here, below, above = state.here, state.below, state.above
    mix_points(here, below, above, (state.utilization - below.utilization) / (above.utilization - below.utilization))


@kernel
def _as_met(state, capacity):
    """Sets `met`: what the arrivals of this tick meet on the mean, from the last tick's end to this one's.

    A station that settles within far less than a tick is met as it is at the end; one that takes long, half way.
    """
    last, here = state.last, state.here
    moved = abs(last.open - here.open)
    if moved <= 1e-3 * here.open or last.utilization <= 0.0:
        copy_point(state.met, here)
    else:
        ticks = (state.above.open - state.below.open) / (state.above.utilization - state.below.utilization) / capacity
        ticks = max(0.0, ticks)  # points of rare stations may hold less at more load
        mix_points(state.met, here, last, 0.5 * ticks / (1.0 + ticks))
    copy_point(last, here)


@kernel
def _fluctuate(load, state, unit):
    """Corrects how the waits that were met vary where lines do not vary as at rest, and notes what calls have in common.

    All of a wait's variance moves but what the service times in front, or those that share the CPU, put into it.
    """
    here, met = state.here, state.met
    per_call = unit / (load.cores * state.capacity)
    together = keeps_equal(load)
    of_lines_s2 = state.variance * per_call * per_call
    state.common_variance_s2 = of_lines_s2
    if not together:
        state.common_variance_s2 /= load.ready
    if load.sharing == FIFO:  # calls that follow each other into a pod wait for the same work
        state.common_variance_s2 += max(0.0, met.wait_variance_s2 - of_lines_s2) / load.ready
    if not state.moves:
        return
    still = met.wait_s * per_call
    if load.sharing == FIFO:
        still *= load.cpu_scv
    else:
        queued = queued_part(load, met.wait_s / per_call)
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
def _tell_times(load, state, answer, unit):
    """Sets the times of ANSWER from those of the point that was met."""
    here = state.met
    alone = unit / call_speed(load)
    mean = here.wait_s + alone + load.held_s
    variance = here.wait_variance_s2 + here.extra_variance_s2 + load.cpu_scv * alone * alone + load.held_variance_s2
    third = (
        here.wait_third_s3 + here.extra_third_s3 + third_cumulant_factor(load.cpu_scv) * alone**3 + load.held_third_s3
    )
    answer.waits, answer.wait_s, answer.wait_variance_s2 = here.waits, here.wait_s, here.wait_variance_s2
    answer.sojourn_s, answer.sojourn_variance_s2, answer.sojourn_third_s3 = mean, max(0.0, variance), third
