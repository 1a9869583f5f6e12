"""How the pod for a call is chosen, from what one balancer node knows.

Least outstanding keeps, for each node, the stations in the order of the node's open calls, with where each number of calls
begins: a call that opens or closes moves one station by one swap, and choosing is reading the front. Stations with
`bucket_limit` open calls or more are no longer told apart by the order; if all are such, they are scanned.

Source: Azar, Broder, Karlin, Upfal, "Balanced allocations", SIAM J. Comput. 29 (1999), and Mitzenmacher, IEEE TPDS 12
(2001) (two choices); Lamping, Veach, "A fast, minimal memory, consistent hash algorithm", arXiv:1406.2294 (sessions);
Envoy, "Load balancing: slow start" (weight of a fresh pod).
"""

from __future__ import annotations

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.requests.draws import next_below, next_uniform
from sim_core.dataplane.requests.records import NONE, group_at, index_at, node_at, open_at, station_at
from sim_core.dataplane.services.guards import weight_in_slow_start
from sim_core.dataplane.services.records import LEAST_OUTSTANDING, POWER_OF_TWO, ROUND_ROBIN

_TRIES = 64
_JUMP = np.uint64(2862933555777941757)
_S33 = np.uint64(33)


@kernel
def opens_of(group, node):
    """First row of `opens` of a node; those of its stations follow."""
    return group.open_first + node * group.rows


@kernel
def _buckets_of(group, node):
    return group.buckets_first + node * (group.bucket_limit + 2)


@kernel
def open_call(engine, group, node, station):
    """A node sends a call to a station."""
    first = opens_of(group, node)
    known = open_at(engine.opens, first + station - group.first)
    if group.balancing == LEAST_OUTSTANDING and known.place != NONE and known.calls < group.bucket_limit:
        above = index_at(engine.buckets, _buckets_of(group, node) + known.calls + 1)
        above.at -= 1
        _swap(engine.opens, first, known, above.at)
    known.calls += 1


@kernel
def close_call(engine, group, node, station):
    """A call of a node is no longer open."""
    first = opens_of(group, node)
    known = open_at(engine.opens, first + station - group.first)
    if group.balancing == LEAST_OUTSTANDING and known.place != NONE and known.calls <= group.bucket_limit:
        bucket = index_at(engine.buckets, _buckets_of(group, node) + known.calls)
        _swap(engine.opens, first, known, bucket.at)
        bucket.at += 1
    known.calls -= 1


@kernel
def _swap(opens, first, known, place):
    """Puts a station at another's place in a node's order. `ordered` of row i says which station is i-th."""
    mine, theirs = open_at(opens, first + known.place), open_at(opens, first + place)
    moved = mine.ordered
    other = open_at(opens, first + theirs.ordered)
    mine.ordered, theirs.ordered = theirs.ordered, moved
    other.place = known.place
    known.place = place


@kernel
def order_stations(engine, group, node):
    """Orders a node's stations anew, after those to choose from have changed."""
    first, buckets, limit = opens_of(group, node), _buckets_of(group, node), group.bucket_limit
    for place in range(limit + 2):
        index_at(engine.buckets, buckets + place).at = 0
    for row in range(group.rows):
        open_at(engine.opens, first + row).place = NONE
    for choice in range(group.choices):
        row = index_at(engine.choices, group.first + choice).at - group.first
        calls = min(open_at(engine.opens, first + row).calls, limit)
        index_at(engine.buckets, buckets + calls + 1).at += 1
    for place in range(1, limit + 2):
        index_at(engine.buckets, buckets + place).at += index_at(engine.buckets, buckets + place - 1).at
    for choice in range(group.choices):  # bucket `calls` begins where it should end, for a while
        row = index_at(engine.choices, group.first + choice).at - group.first
        known = open_at(engine.opens, first + row)
        bucket = index_at(engine.buckets, buckets + min(known.calls, limit))
        known.place = bucket.at
        open_at(engine.opens, first + bucket.at).ordered = row
        bucket.at += 1
    for place in range(limit + 1, 0, -1):
        index_at(engine.buckets, buckets + place).at = index_at(engine.buckets, buckets + place - 1).at
    index_at(engine.buckets, buckets).at = 0


@kernel
def renew_choices(engine, group):
    """Lists the stations that a call can go to, in the order of their pods, and orders them for each node."""
    group.choices = 0
    for row in range(group.known):
        index = index_at(engine.by_row, group.first + row).at
        if station_at(engine.stations, index).choosable:
            index_at(engine.choices, group.first + group.choices).at = index
            group.choices += 1
    if group.balancing == LEAST_OUTSTANDING:
        for node in range(group.nodes):
            order_stations(engine, group, node)


@kernel
def choose_station(engine, service, node, session):
    """The station that a node sends a call to, or NONE."""
    group = group_at(engine.groups, service)
    n = group.choices
    if n == 0:
        return NONE
    if n == 1:
        return index_at(engine.choices, group.first).at
    if group.sticky_share > 0.0 and next_uniform(engine) <= group.sticky_share:
        return index_at(engine.choices, group.first + _place_of_session(session, n)).at
    if engine.now_s < group.fresh_until_s:
        return _choose_by_weight(engine, group, node, n)
    if group.balancing == LEAST_OUTSTANDING:
        return _least_outstanding(engine, group, node, n)
    if group.balancing == POWER_OF_TWO:
        one, other = _two(engine, group, n)
        first = opens_of(group, node) - group.first
        return other if open_at(engine.opens, first + other).calls < open_at(engine.opens, first + one).calls else one
    if group.balancing == ROUND_ROBIN:
        return _next_in_turn(engine, group, node, n)
    return index_at(engine.choices, group.first + next_below(engine, n)).at


@kernel
def _next_in_turn(engine, group, node, n):
    turn = node_at(engine.nodes, group.nodes_first + node)
    if turn.turn == NONE:  # nodes do not begin with the same pod
        turn.turn = next_below(engine, n)
    turn.turn = turn.turn + 1 if turn.turn + 1 < n else 0
    return index_at(engine.choices, group.first + turn.turn).at


@kernel
def _two(engine, group, n):
    """Two different stations at random."""
    one = next_below(engine, n)
    other = next_below(engine, n - 1)
    if other >= one:
        other += 1
    return index_at(engine.choices, group.first + one).at, index_at(engine.choices, group.first + other).at


@kernel
def _least_outstanding(engine, group, node, n):
    first = opens_of(group, node)
    least = open_at(engine.opens, first + open_at(engine.opens, first).ordered).calls
    if least >= group.bucket_limit:
        return _least_loaded(engine, group, node, n)
    equal = index_at(engine.buckets, _buckets_of(group, node) + least + 1).at
    place = next_below(engine, equal) if equal > 1 else 0
    return group.first + open_at(engine.opens, first + place).ordered


@kernel
def weight_of(station, slow_start_s, now_s):
    """Share of a full pod's load that a pod is given."""
    if slow_start_s <= 0.0:
        return 1.0
    return weight_in_slow_start(station.ready_s, slow_start_s, now_s)


@kernel
def _least_loaded(engine, group, node, n):
    """The station with the fewest open calls for its weight, ties at random: a look at all of them."""
    first = opens_of(group, node) - group.first
    best, best_load, ties = NONE, np.inf, 0
    for choice in range(n):
        index = index_at(engine.choices, group.first + choice).at
        weight = weight_of(station_at(engine.stations, index), group.slow_start_s, engine.now_s)
        load = (open_at(engine.opens, first + index).calls + 1.0) / weight
        if load < best_load:
            best, best_load, ties = index, load, 1
        elif load == best_load:
            ties += 1
            if next_below(engine, ties) == 0:
                best = index
    return best


@kernel
def _choose_by_weight(engine, group, node, n):
    """The choice while some pod is in its slow start."""
    if group.balancing == LEAST_OUTSTANDING:
        return _least_loaded(engine, group, node, n)
    first = opens_of(group, node) - group.first
    if group.balancing == POWER_OF_TWO:
        one, other = _two(engine, group, n)
        one_load = (open_at(engine.opens, first + one).calls + 1.0) / weight_of(
            station_at(engine.stations, one), group.slow_start_s, engine.now_s
        )
        other_load = (open_at(engine.opens, first + other).calls + 1.0) / weight_of(
            station_at(engine.stations, other), group.slow_start_s, engine.now_s
        )
        return other if other_load < one_load else one
    index = NONE
    for _ in range(_TRIES):
        if group.balancing == ROUND_ROBIN:
            index = _next_in_turn(engine, group, node, n)
        else:
            index = index_at(engine.choices, group.first + next_below(engine, n)).at
        weight = weight_of(station_at(engine.stations, index), group.slow_start_s, engine.now_s)
        if weight >= 1.0 or next_uniform(engine) <= weight:
            break
    return index


@kernel
def _place_of_session(session, n):
    """Which of n stations a session belongs to: one more of them takes over the n-th part of the sessions, no others move."""
    key = np.uint64(session)
    place, jump = np.int64(-1), np.int64(0)
    while jump < n:
        place = jump
        key = key * _JUMP + np.uint64(1)
        jump = np.int64((place + 1) * (2147483648.0 / (np.float64(key >> _S33) + 1.0)))
    return place
