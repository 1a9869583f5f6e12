"""Cold pods: a station of their own where they get as many calls as warm ones.

A balancer that looks at open calls gives a cold pod what it can take, and all pods are one station. At random and in turn
it gives each the same: the line of a new pod grows from nothing while it is slow, and drains when it is warm. Where such
pods drown for half a minute, a few per cent of the calls take fifty times as long as the others: they are told apart up
to where a timeout, a threshold or a percentile asks.
"""

from __future__ import annotations

from sim_core.compiled import glue, kernel
from sim_core.dataplane.curve import call_speed
from sim_core.dataplane.known import copy_point, scale_times
from sim_core.dataplane.queueing import mixture
from sim_core.dataplane.services.records import LEAST_OUTSTANDING
from sim_core.dataplane.serving import serve_station
from sim_core.dataplane.stationary import effective_slowness, keeps_equal, stretch_of

_DRAINED, _CALLS = 1.1, 0.1  # lines of pods that turned warm over those of the others: so near they are like these
_LONGEST_S = 300.0  # that draining counts as


@glue
def serve_fleet(known_points, known_curves, load, station, cold, n_warmed, answer):
    """Serves a tick's calls, as `serve_station`, by pods some of which may be cold.

    Args:
        load: LOAD; its `pods` is set.
        station: STATION_STATE of all pods but those told apart.
        cold: COLD_STATE.
        n_warmed: pods of the service that have turned warm since the start.
        answer: ANSWER of all pods together, set.
    """
    equal = keeps_equal(load)
    if (load.cold > 0.0 or cold.pods > 0.0) and not equal:
        _tell_apart(load, station, cold, n_warmed)
    cold.n_warmed, cold.cold, cold.share = n_warmed, load.cold, 0.0
    equal = equal and 0.0 < load.cold < load.ready
    load.pods = load.ready
    arrivals, expected, queue_limit = load.arrivals, load.expected, load.queue_limit
    cold_pods, cold_factor = load.cold, load.cold_factor
    known = _limit_room(load, station) if equal else 0.0
    share = cold.pods / load.ready if cold.pods > 0.0 else 0.0
    for part in range(2 if share > 0.0 else 1):  # one call in the code: a station is long to compile
        of_cold = share > 0.0 and part == 0
        if of_cold:
            # The points of a station are those of one pod, by how many the balancer deals to and how slow all of them are.
            load.pods, load.cold = cold.pods, load.ready
            load.cold_factor = cold.pods / (cold.pods - cold_pods * (1.0 - 1.0 / cold_factor))
            load.arrivals, load.expected = arrivals * share, expected * share
            cold.stretch = stretch_of(load)
        elif share > 0.0:
            load.pods, load.cold = load.ready - cold.pods, 0.0
            load.arrivals, load.expected = arrivals * (1.0 - share), expected * (1.0 - share)
        state = cold.station if of_cold else station
        into = cold.answer if of_cold else answer
        serve_station(known_points, known_curves, load, state, into)
    load.arrivals, load.expected, load.queue_limit = arrivals, expected, queue_limit
    load.cold, load.cold_factor = cold_pods, cold_factor
    if share > 0.0:
        _add_up(cold, answer, share)
    elif equal:
        _tell_equal_apart(load, station, cold, answer, known)


@kernel
def _tell_apart(load, station, cold, n_warmed):
    """Sets which pods are told apart: the cold ones, and those that turned warm and have not drained since; not all."""
    own = cold.station
    was_apart = cold.pods > 0.0
    warmed = min(cold.cold, float(n_warmed - cold.n_warmed))
    stayed = min(load.cold, cold.cold - warmed)
    draining = min(cold.pods - cold.cold + warmed, load.ready - load.cold) if was_apart else 0.0
    pods = load.cold + draining
    if pods >= load.ready or pods == 0.0:
        _join(station, cold, cold.pods, own.open)
        return
    if not was_apart:
        _begin(own)
        # What was cold before was so with all others, and has their lines.
        if stayed > 0.0:
            own.open = station.open * stayed / (load.ready - load.cold + stayed)
            own.variance = station.variance
            station.open -= own.open
    kept = stayed + draining
    if was_apart and kept < cold.pods:  # deleted: the others take over what they had to do
        moved = own.open * (1.0 - kept / cold.pods)
        own.open -= moved
        station.open += moved
    if kept < pods:  # new pods have no line
        part, line = kept / pods, own.open / max(1.0, kept)
        own.variance = part * (own.variance + (1.0 - part) * line * line)
    cold.pods, cold.cold = pods, load.cold
    if draining > 0.0:
        _drain(load, station, cold, draining, warmed)


@kernel
def _drain(load, station, cold, draining, warmed):
    """Has those pods join the others that are warm and have no longer lines than these.

    Pods that are told apart share one mean line. While none of them is cold it says itself when they have drained; else
    they have after the time that it took to serve what they had too much when they turned warm.
    """
    own = cold.station
    line, others = own.open / cold.pods, station.open / (load.ready - cold.pods)
    if warmed > 0.0:
        spare_per_s = load.cores / load.cpu_s * max(0.01, 1.0 - station.aim)
        cold.drains_s = min(_LONGEST_S, max(0.0, line - others) / spare_per_s)
    cold.drains_s = max(0.0, cold.drains_s - load.tick_s)
    if line <= _DRAINED * others + _CALLS or (load.cold > 0.0 and cold.drains_s <= 0.0):
        _join(station, cold, draining, own.open if draining == cold.pods else draining * min(line, others))


@kernel
def _join(station, cold, pods, calls):
    """Has some of the pods that are told apart join the others, with so many calls."""
    own = cold.station
    cold.pods -= pods
    station.open += calls
    own.open -= calls
    if cold.pods <= 0.0:
        station.unserved += own.unserved
        own.open = own.unserved = 0.0


@kernel
def _begin(own):
    """A station whose pods are empty."""
    own.open = own.unserved = own.utilization = own.aim = own.variance = own.uneven = 0.0
    own.ratio = 1.0
    own.last.open = own.last.utilization = 0.0
    own.moves = False


@kernel
def _add_up(cold, answer, share):
    """Adds what became of the calls of cold pods, which got this share, to what became of the others."""
    own = cold.answer
    admitted = answer.admitted + own.admitted
    part = own.admitted / admitted if admitted > 0.0 else share
    cold.share = part
    answer.waits += part * (own.waits - answer.waits)
    answer.wait_s, answer.wait_variance_s2, _ = mixture(
        part, answer.wait_s, answer.wait_variance_s2, 0.0, own.wait_s, own.wait_variance_s2, 0.0
    )
    answer.sojourn_s, answer.sojourn_variance_s2, answer.sojourn_third_s3 = mixture(
        part, answer.sojourn_s, answer.sojourn_variance_s2, answer.sojourn_third_s3,
        own.sojourn_s, own.sojourn_variance_s2, own.sojourn_third_s3,
    )  # fmt: skip
    if answer.utilization > 0.0:  # each pod gets as much: capacities add up
        answer.utilization = 1.0 / ((1.0 - share) / answer.utilization + share / own.utilization)
    answer.served += own.served
    answer.passed_on += own.passed_on
    answer.refused += own.refused
    answer.admitted = admitted
    answer.cpu_core_s += own.cpu_core_s
    answer.waiting += own.waiting


@kernel
def _limit_room(load, station):
    """Calls of a pod that a balancer can know of while pods are equal; sets the room of the mean pod by it.

    Where a full cold pod answers nobody in time, the balancer takes it for less busy than it is: callers that have gone are
    no open calls. By Little's law it knows of those that came to it within a timeout. Warm pods then get no more than that
    many; all the rest goes to the cold pod, and is refused.
    """
    room = load.workers + load.queue_limit
    if load.balancing != LEAST_OUTSTANDING:
        return room
    known = min(room, max(load.workers, load.cores / (load.cpu_s * load.cold_factor) * load.timeout_s))
    if known < room:
        mean_room = known + (room - known) * load.cold / load.ready
        load.queue_limit = mean_room - load.workers
        late = max(0.0, station.open - mean_room * load.ready)  # what more than that is there is still to be done
        station.open -= late
        station.unserved += late
    return known


@kernel
def _tell_equal_apart(load, station, cold, answer, known):
    """Tells the calls of cold pods apart from those of warm ones that the balancer gives as many: they take longer.

    Args:
        known: calls of a warm pod, at most.
    """
    slowness, share = effective_slowness(load), load.cold / load.cold_factor
    share /= load.ready - load.cold + share
    met, own = station.met, cold.station.met
    line = met.open + min(1.0, answer.utilization) * load.cores / (load.cpu_s * slowness) * load.held_s
    by_warm = known / max(known, line) / slowness
    copy_point(own, met)
    scale_times(met, by_warm)
    scale_times(own, (1.0 - (1.0 - share) * by_warm) / share)
    cold.share, cold.stretch = share, load.cold_factor / call_speed(load)
