"""A line for one tick: calls are served in order of arrival by equal groups of servers, each with a line of its own.

The station of whoever nobody balances, gives up or retries: the instances of a database, the pool of a pod, the thread of
a cache. At rest it is the same M/G/c/K queue as that of a pod of a service chosen at random, in motion it is taken for
one at rest in the same way (`serving.py`), and its record is a fifth of that of a service's station.
"""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.grid import LAST, MOST, cell_of, edge_of
from sim_core.dataplane.known import copy_point, mixed, recall, remember, row_beside
from sim_core.dataplane.queueing import (
    entry_weight,
    free_servers,
    geometric_sum,
    line_log_ratio,
    mixed_cumulants,
    scv_factor,
    third_cumulant_factor,
    third_moment_factors,
    truncated_geometric,
)
from sim_core.dataplane.station import POINT

_LINES = np.uint64(0x6C696E65)  # tags of lines begin with it
_LEAST = 1e-100  # calls; fewer are none
_SAME = 0.01  # change of an scv, over 1 + scv, from which on a line is another one
_UNNOTICED = 4e-3  # change of the calls, over calls and idle share, that leaves a line as it was
_AT_REST = 1e-5  # of the idle share: a utilization this near to that of a line at rest

LINE = np.dtype(
    [
        ("open", np.float64),  # calls in all groups that wait or are served, expected [calls]
        ("utilization", np.float64),  # at which a line at rest holds that many [1]
        ("servers", np.float64),  # of a group, that the points below were worked out for; 0: none were
        ("room", np.float64),  # calls that a group holds
        ("scv", np.float64),  # of service times
        ("cell", np.int64),  # of the grid of utilizations: between `below` and `above`
        ("below", POINT),  # times in units of the mean service time
        ("above", POINT),
        ("moving", np.float64),  # how far its utilization is from that of a line at rest under this tick's calls
        ("busy", np.float64),  # of the servers, in this tick [1]
        ("waits", np.float64),  # share of calls that wait [1]
        ("wait_s", np.float64),  # what this tick's calls wait on the mean
        ("wait_variance_s2", np.float64),
        ("wait_third_s3", np.float64),
        ("last_wait_s", np.float64),  # what a call waits that comes at the end of the tick
        ("last_variance_s2", np.float64),
        ("last_third_s3", np.float64),
    ],
    align=True,
)


@kernel
def serve_line(known_points, line, calls, groups, servers, room, service_s, scv, tick_s):
    """Serves a tick's calls. Those that find no room are lost: whoever asks sees to it that there is room.

    Args:
        known_points: a table of `known.known_stations`.
        line: LINE, as the last tick left it; zeros at the start.
        calls: expected number, spread over the groups at random.
        groups: equal ones [groups].
        servers: of a group; a fractional number are as many slower ones as the next whole number.
        room: calls that a group can hold, waiting or served; at least one more than its servers.
        service_s, scv: mean time that a call needs a whole server, and variance over squared mean.
    """
    if calls <= _LEAST and line.open <= 1e-6 * groups:
        rest(line)
        return
    _renew(line, servers, max(room, math.ceil(servers) + 1.0), scv)
    capacity = servers / service_s * tick_s  # of a group
    inflow = calls / groups if calls > _LEAST else 0.0
    before = min(line.open / groups, line.room)
    part = _settle(known_points, line, inflow, capacity, before)
    below, above = line.below, line.above
    line.utilization = below.utilization + part * (above.utilization - below.utilization)
    blocked = below.blocked + part * (above.blocked - below.blocked)
    after = min(below.open + part * (above.open - below.open), before + inflow)
    line.open = after * groups
    line.busy = min(1.0, line.utilization * (1.0 - blocked))
    _tell_waits(line, part, inflow / capacity, before, after, capacity, service_s)


@kernel
def is_as_before(line, calls, seen_calls):
    """Whether a line rests, and so many calls more or less than it saw last leave it as it is.

    The nearer it is to saturation, the more it minds.
    """
    idle = 1.0 - line.busy
    if calls <= 0.0 and line.open > 0.0:
        return False
    return line.moving <= _AT_REST * idle and abs(calls - seen_calls) <= _UNNOTICED * idle * calls


@kernel
def rest(line):
    """Nobody is there."""
    line.open = line.utilization = line.moving = line.busy = line.waits = 0.0
    line.wait_s = line.wait_variance_s2 = line.wait_third_s3 = 0.0
    line.last_wait_s = line.last_variance_s2 = line.last_third_s3 = 0.0


@kernel
def _renew(line, servers, room, scv):
    """Forgets the points where they were worked out for another line."""
    if servers == line.servers and room == line.room and abs(scv - line.scv) <= _SAME * (1.0 + scv):
        return
    line.servers, line.room, line.scv = servers, room, scv
    line.cell = -1


@kernel
def line_at_rest(point, utilization, capacity, scv, room):
    """POINT of an M/G/c/K queue, times in units of the mean service time.

    Exact for exponential times; else the line is as much longer or shorter as `scv_factor` says, with the same share of
    free servers below it.

    Args:
        capacity: servers; a fractional number are as many slower ones as the next whole number.
    """
    servers = math.ceil(capacity)
    speed = capacity / servers
    busy = utilization * capacity
    factor = max(0.02, scv_factor(scv, servers, utilization))
    log_ratio = line_log_ratio(utilization, factor)
    places = max(1.0, room - servers)
    # Weights of 0 .. servers - 1 calls, and of `servers` or more.
    weight, idle, busy_sum = free_servers(busy, speed, servers)
    weight *= utilization * entry_weight(utilization, factor)
    if log_ratio > 0.0:
        down = math.exp(-log_ratio * (places - 1.0)) if log_ratio * places < 700.0 else 0.0
        idle, busy_sum = idle * down, busy_sum * down
        in_line = weight * geometric_sum(-log_ratio, places)
    else:
        in_line = weight * geometric_sum(log_ratio, places)
    mean_busy = (busy_sum + capacity * in_line) / (idle + in_line)
    odds = max(0.0, (busy - mean_busy) / capacity)
    point.blocked = odds / (1.0 + odds)
    point.waits = in_line / (idle + in_line)
    mean_i, variance_i, third_i = truncated_geometric(log_ratio, places)
    # Little's law over all states, the full one among them.
    waiting = (1.0 - point.blocked) * point.waits * mean_i + point.blocked * places
    accepted = max(1e-300, busy * (1.0 - point.blocked))
    point.wait_s = waiting / accepted
    # A call that finds i in line waits for i + 1 departures.
    scv_departures = (scv + servers - 1.0) / servers
    mean = (mean_i + 1.0) / capacity
    variance = ((mean_i + 1.0) * scv_departures + variance_i) / capacity**2
    third = (mean_i + 1.0) * third_cumulant_factor(scv) / servers**2 + 3.0 * variance_i * scv_departures + third_i
    third /= capacity**3
    scale = point.wait_s / max(1e-12, point.waits * mean)
    variance, third = mixed_cumulants(point.waits, mean * scale, variance * scale**2, third * scale**3)
    if servers == 1.0 and scv > 1.0 and utilization < 1.0:
        # Takacs: a heavy tail of service times is one of waits.
        m3, _ = third_moment_factors(scv)
        settled = utilization * factor / (1.0 - utilization)
        heavy = settled * settled + utilization * m3 / (3.0 * (1.0 - utilization))
        light = settled * settled * (2.0 / max(utilization, 1e-9) - 1.0)
        part = min(1.0, point.wait_s / max(1e-12, settled)) ** 2
        added = 0.4 * max(0.0, heavy - light) * part
        third += 3.0 * added * (point.wait_s + math.sqrt(variance + added))
        variance += added
    point.wait_variance_s2, point.wait_third_s3 = variance, third
    point.open = accepted * (point.wait_s + 1.0 / speed)


@kernel
def _take_edge(known_points, line, point, cell):
    """Sets POINT to that where a cell of the grid begins."""
    line_tag = mixed(mixed(mixed(_LINES, line.servers), line.room), line.scv)
    tag, row = mixed(line_tag, float(cell)), row_beside(line_tag, cell, known_points)
    if recall(known_points, row, tag, point):
        return
    utilization = edge_of(cell)
    point.extra_variance_s2 = point.extra_third_s3 = 0.0
    if utilization <= 0.0:
        point.open = point.blocked = point.waits = point.wait_s = 0.0
        point.wait_variance_s2 = point.wait_third_s3 = 0.0
    else:
        line_at_rest(point, utilization, line.servers, line.scv, line.room)
        point.open = max(0.0, min(point.open, line.room))
    point.utilization = utilization
    remember(known_points, row, tag, point)


@kernel
def _go_to(known_points, line, cell):
    """Has `below` and `above` enclose a cell."""
    if cell == line.cell:
        return
    first, last = cell, cell + 1
    if line.cell >= 0 and cell == line.cell + 1:
        copy_point(line.below, line.above)
        first = last
    elif line.cell >= 0 and cell == line.cell - 1:
        copy_point(line.above, line.below)
        last = first
    for edge in range(first, last + 1):
        _take_edge(known_points, line, line.below if edge == cell else line.above, edge)
    line.cell = cell


@kernel
def _excess(point, inflow, capacity, before):
    """Calls that a line at rest at this point holds, less those that one holds which worked at its pace for the tick."""
    return point.open - before - (inflow - point.utilization * capacity) * (1.0 - point.blocked)


@kernel
def _settle(known_points, line, inflow, capacity, before):
    """Finds the cell of the utilization u at which a line at rest holds what this one does after the tick, and the place
    in the cell: open(u) - before = (inflow - u capacity) (1 - blocked(u)), as for a station of a service.

    Within a cell both are linear, and the equation is quadratic.
    """
    low, high, tried = 0, LAST, 0
    aim = min(LAST, cell_of(min(MOST, inflow / capacity)))
    cell = line.cell if line.cell >= 0 else aim
    while True:
        _go_to(known_points, line, cell)
        at_below = _excess(line.below, inflow, capacity, before)
        at_above = _excess(line.above, inflow, capacity, before)
        if at_below > 0.0 and cell > low:
            high = cell - 1
        elif at_above < 0.0 and cell < high:
            low = cell + 1
        else:
            break
        tried += 1
        if tried == 1:  # the next one
            cell = high if at_below > 0.0 else low
        elif tried == 2:
            cell = min(high, max(low, aim))
        else:
            cell = (low + high) // 2
    if at_below >= 0.0:
        return 0.0
    if at_above <= 0.0:
        return 1.0
    below, above = line.below, line.above
    slope = above.open - below.open
    slope += (above.utilization - below.utilization) * capacity * (1.0 - below.blocked)
    slope += (inflow - below.utilization * capacity) * (above.blocked - below.blocked)
    bend = (above.utilization - below.utilization) * capacity * (above.blocked - below.blocked)
    root = math.sqrt(max(0.0, slope * slope + 4.0 * bend * at_below))
    return min(1.0, max(0.0, -2.0 * at_below / (slope + root)))


@kernel
def _tell_waits(line, part, aim, before, after, capacity, service_s):
    """Sets the waits of this tick's calls: those of a line at rest at the utilization found, and where it moves, the mean
    of those at the last tick's end and at this one's."""
    below, above = line.below, line.above
    line.waits = below.waits + part * (above.waits - below.waits)
    wait = below.wait_s + part * (above.wait_s - below.wait_s)
    variance = below.wait_variance_s2 + part * (above.wait_variance_s2 - below.wait_variance_s2)
    third = below.wait_third_s3 + part * (above.wait_third_s3 - below.wait_third_s3)
    moving = line.moving = abs(aim - line.utilization)
    if moving > _AT_REST * (1.0 - line.busy):
        # A backlog that drifts away from where it began is spread by what came and went meanwhile, not like one at rest.
        backlog = max(0.0, after - line.servers * line.busy) / line.servers**2
        spread = backlog * ((aim + line.scv) / moving + line.scv)
        if spread < variance:
            third *= (spread / variance) ** 2
            variance = spread
    wait, variance, third = wait * service_s, variance * service_s**2, third * service_s**3
    weight = 0.0
    if abs(after - before) > 1e-3 * after:
        # One that settles within far less than a tick is met as it is at the end; one that takes long, half way.
        ticks = (above.open - below.open) / ((above.utilization - below.utilization) * capacity)
        weight = 0.5 * ticks / (1.0 + ticks)
    line.wait_s = wait + weight * (line.last_wait_s - wait)
    line.wait_variance_s2 = variance + weight * (line.last_variance_s2 - variance)
    line.wait_third_s3 = third + weight * (line.last_third_s3 - third)
    line.last_wait_s, line.last_variance_s2, line.last_third_s3 = wait, variance, third
