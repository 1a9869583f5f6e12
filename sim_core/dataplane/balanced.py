"""The stationary station of pods that a balancer keeps equal (least outstanding, power of two), and of a single pod
whose workers bind.

A pod with k open calls works at the speed X(k) of a closed network (see `curve`); the open calls of all pods are a
birth-death chain in which the balancer keeps pods equal. That is the decomposition of Chandy, Herzog and Woo,
"Parametric analysis of queuing networks", IBM J. Res. Dev. 19 (1975); exact for one pod. What a balancer leaves
unequal (power of two; several nodes) is added from the limit of many pods. What that leaves over is fitted to an exact
simulation: see `balanced_corrections`, and `fit_balanced`, which repeats it.

Times inside this module are in units of the mean CPU time of a call, speeds in cores.
"""

from __future__ import annotations

import math

from sim_core.compiled import kernel
from sim_core.dataplane.balanced_corrections import correction, reach
from sim_core.dataplane.curve import call_speed, calls_for, heaviness, speed_with, weigh
from sim_core.dataplane.queueing import (
    gap_factor,
    geometric_sum,
    mixed_cumulants,
    scv_factor,
    third_cumulant_factor,
    truncated_geometric,
)
from sim_core.dataplane.services.records import CFS_QUOTA, FIFO, POWER_OF_TWO, PROCESSOR_SHARING

# In `scratch` after a point: wait, variance and skewness without corrections, and the features these are made of.
SEEN = (
    "wait", "whole", "skewness", "waiting", "uneven", "held", "few", "together", "full", "servers", "nodes", "load",
    "buffer", "lost",
)  # fmt: skip
_FAR = 8.0  # logarithm of a weight over that of the likeliest state; states beyond count no more
_WIDE = 1.4  # of the standard deviation of the chain: distance of the states that are looked at
_WIDE_AT_END = 0.8  # ... where it ends
_LONGEST_HELD = 12.0  # of held times that corrections were fitted to, over the time at the CPU
_FEW = 11.0  # calls, of which each number is looked at
_CERTAIN = 14.0  # logarithm of a weight beyond which a geometric sum has no end
_MOST_NODES = 8
# Fitted, see fit.py: the power of variability that many pods feel where it is above 1, ...
_HEAVY_TOGETHER = 0.9
# ... what a balancer that picks a pod once leaves unequal, over the calls that wait, ...
_ONCE = 0.55
# ... how the disorder of several nodes exceeds the binomial one, ...
_NODES_DISORDER = 1.08
# ... how much of the fluctuation of all calls together two choices keep, over the square of utilization, ...
_TWO_CHOICES = 0.82
# ... and how evenly calls that share CPUs are spread over balanced pods.
_SHARED_EVENNESS = 0.5


@kernel
def take_chain(state, point, pods, busy, room, factor):
    """Sets `open` (all calls of a pod), `blocked`, and in wait_variance_s2, wait_third_s3 the cumulants of `open`.

    The birth-death chain of the open calls of `pods` pods that are kept equal: sums over states up to where all pods are
    saturated, by the trapezoidal rule at distances of a part of the chain's width, corrected at its end as Euler and
    Maclaurin have it; from there on in closed form.

    Args:
        busy: cores that would be busy in each pod if no call were refused.
        room: calls that a pod can hold.
        factor: variability of arrivals and service times, 1 for Poisson arrivals and exponential times [1].
    """
    last = int(state.saturated)
    most = state.speed[last]
    ratio = busy / most
    log_ratio = math.log(max(1e-12, ratio))
    lighter = 1.0 / factor - 1.0
    edge = min(room, float(last * state.stride))
    end = math.floor(edge * pods + 1e-9)
    edge = end / pods
    edge_speed = speed_with(state, edge)
    edge_part = edge_speed / most
    slope = log_ratio
    if edge_part < 1.0:
        slope = (log_ratio - math.log(max(1e-12, edge_part))) * (1.0 + lighter * heaviness(edge_part))
    else:
        slope = log_ratio * (1.0 + lighter)
    places = math.floor(pods * room - end + 1e-9)
    point.blocked = 0.0
    if slope * places > _CERTAIN:
        # All pods are full but for some departures.
        free = 1.0 / math.expm1(slope)
        mean, variance, third = end + places - free, free * (free + 1.0), -free * (free + 1.0) * (2.0 * free + 1.0)
        point.blocked = 1.0 - 1.0 / ratio
        _tell_chain(point, pods, ratio, mean, variance, third)
        return
    likeliest = min(edge, calls_for(state, busy)) if slope < 0.0 else edge
    center = math.floor(likeliest * pods)
    level = min(last - 1, int(likeliest / state.stride))
    if slope >= 0.0 or center >= end:
        level = max(0, min(last, math.ceil(edge / state.stride)) - 1)
    rise = state.log_speed[level + 1] - state.log_speed[level] if level > 0 else state.stride / max(0.3, likeliest)
    width = math.sqrt(pods * state.stride / (max(1e-9, rise) * (1.0 + lighter * state.heavy[level])))
    top = weigh(state, center / pods, pods, log_ratio, lighter)
    at_end = -math.inf
    if slope >= 0.0 or center + 8.0 * width >= end:
        at_end = weigh(state, edge, pods, log_ratio, lighter) - top
    mean = variance = third = 0.0
    if at_end < -_FAR:
        # The chain ends before all pods are saturated.
        step = 1.0 if center < _FEW or width < 1.3 else _WIDE * width
        total, first, second, cube = 1.0, 0.0, 0.0, 0.0
        for direction in (-1.0, 1.0):
            away = direction * step
            while 0.0 <= center + away <= end:
                weight = weigh(state, (center + away) / pods, pods, log_ratio, lighter) - top
                if weight < -_FAR:
                    break
                weight = math.exp(weight)
                total += weight
                first += weight * away
                second += weight * away * away
                cube += weight * away * away * away
                away += direction * step
        mean = first / total
        second /= total
        variance = second - mean * mean
        third = cube / total - 3.0 * mean * second + 2.0 * mean**3
        _tell_chain(point, pods, ratio, center + mean, variance, third)
        return
    # From the end downwards. How wide it is there: from the mean rise of the logarithm over that width.
    if level > 1:
        lower = max(1, level - int(min(float(last), width / (pods * state.stride))))
        rise = (state.log_speed[level + 1] - state.log_speed[lower]) / (level + 1.0 - lower)
        width = math.sqrt(pods * state.stride / (max(1e-9, rise) * (1.0 + lighter * state.heavy[level])))
    reach = min(width, 1.0 / max(1e-9, slope), 0.125 * end)
    step = 1.0 if center < _FEW else max(1.0, _WIDE_AT_END * reach)
    edge_weight = math.exp(at_end)
    total = edge_weight * (0.5 * (step + 1.0) - slope * (step * step - 1.0) / 12.0)
    first = -edge_weight * (step * step - 1.0) / 12.0
    second, cube = 0.0, 0.0
    away = 0.0
    while True:
        away -= step
        at = end + away
        if at < 0.0:
            break
        weight = weigh(state, at / pods, pods, log_ratio, lighter) - top
        if weight < -_FAR and at < center:
            break
        weight = step * math.exp(weight)
        total += weight
        weight *= away
        first += weight
        weight *= away
        second += weight
        cube += weight * away
    if places < 1.0:
        point.blocked = edge_weight / total
    else:
        # States end + 1 .. end + places with weights exp(i slope): over the largest of them, that nothing overflows.
        if slope < 0.0 and slope * places < -_CERTAIN:
            mean_i = 1.0 / math.expm1(-slope)
            variance_i, third_i = mean_i * (mean_i + 1.0), mean_i * (mean_i + 1.0) * (2.0 * mean_i + 1.0)
            mass = edge_weight * mean_i
            top = edge_weight * math.exp(slope * places) if slope * places > -700.0 else 0.0
        else:
            mean_i, variance_i, third_i = truncated_geometric(slope, places)
            if slope > 0.0:
                scale = math.exp(-slope * places)
                total, first, second, cube = total * scale, first * scale, second * scale, cube * scale
                mass, top = edge_weight * geometric_sum(-slope, places), edge_weight
            else:
                mass = edge_weight * math.exp(slope) * geometric_sum(slope, places)
                top = edge_weight * math.exp(slope * places)
        away = 1.0 + mean_i
        total += mass
        first += mass * away
        second += mass * (variance_i + away * away)
        cube += mass * (third_i + 3.0 * away * variance_i + away**3)
        correction = factor
        if abs(slope) > 1e-7:
            correction = math.expm1(-abs(log_ratio)) / math.expm1(-abs(slope))
        point.blocked = min(1.0, top / total * correction)
    mean = first / total
    second /= total
    variance = second - mean * mean
    third = cube / total - 3.0 * mean * second + 2.0 * mean**3
    _tell_chain(point, pods, ratio, end + mean, variance, third)


@kernel
def _tell_chain(point, pods, ratio, mean, variance, third):
    # No more is served than all can do, no less than by one server without waiting room (Erlang's loss formula).
    point.blocked = min(ratio / (1.0 + ratio), max(1.0 - 1.0 / ratio, point.blocked))
    point.open = mean / pods
    point.wait_variance_s2 = max(0.0, variance) / (pods * pods)
    point.wait_third_s3 = third / pods**3


@kernel
def calls_of_nodes(state, busy, nodes):
    """The same where each of several nodes keeps its own calls equal, and knows nothing of the others'.

    A node has the pods at two neighboring numbers of its calls; over the nodes that adds up to a binomial spread. By
    Newton's method from below: the curve is concave, so that every step falls short.
    """
    nodes = min(nodes, _MOST_NODES)
    calls, most = calls_for(state, busy), (state.saturated + nodes) * state.stride
    for _ in range(12):
        each = math.floor(calls / nodes)
        more = calls / nodes - each
        ratio = more / (1.0 - more)
        mean = slope = 0.0
        probability, below = (1.0 - more) ** (nodes - 1), speed_with(state, nodes * each)
        for j in range(nodes):
            above = speed_with(state, nodes * each + j + 1.0)
            mean += probability * (below + more * (above - below))
            slope += probability * (above - below)
            probability *= (nodes - 1.0 - j) / (j + 1.0) * ratio
            below = above
        if slope <= 1e-9:
            return calls
        change = (busy - mean) / slope
        calls = min(most, calls + change)
        if change < 1e-3 * calls:
            break
    return calls


@kernel
def _two_choices(state, busy, highest):
    """Calls of a pod and busy cores, where of very many pods few have `highest` calls, and each call the better of two.

    The share s(k) of pods with at least k calls: b s(k-1)^2 is what flows up to k and more, and what flows down from
    there is a sum of X over them. From a share of exp(-9) and less downwards, where each step halves the error of its
    logarithm. Where s(0) comes out as p instead of 1, s / p is the solution for p times as many calls.
    """
    level = math.floor(highest)
    share = math.exp(-9.0 * (2.0 - (highest - level)))
    total = 0.0
    flow = share * speed_with(state, level)
    one_by_busy = 1.0 / busy
    while level > 0.5:
        total += share
        before = share
        level -= 1.0
        share = math.sqrt(flow * one_by_busy)
        change = share - before
        if change < 2e-4 * share and before > 0.5:  # nearly all pods have as many
            total += share * level
            break
        flow += change * speed_with(state, level)
    return total / share, busy * share


@kernel
def calls_of_two_choices(state, busy):
    """Mean open calls of a pod where each call goes to the better of two pods, of very many.

    Two solutions of nearly this load, and a line between them over the logarithm of the idle part.
    Source: Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12 (2001).
    """
    most = state.speed[int(state.saturated)]
    aim = -math.log1p(-busy / most)
    equal = calls_for(state, busy)
    root, part = math.sqrt(aim), 1.0 / (1.0 + equal)
    highest = equal + 5.1 + 0.45 * aim - 0.785 * root + 0.073 * math.sqrt(equal) + 3.28 * aim / (equal + 2.0)
    highest += part * (-2.08 - 0.376 * aim + 0.15 * aim * aim)
    calls, busy_one = _two_choices(state, busy, max(1.0, highest))
    busy_one = min(busy_one, 0.9999 * most)
    equal_one = calls_for(state, busy_one)
    aim_one = -math.log1p(-busy_one / most)
    for _ in range(2):
        if abs(aim_one - aim) < 0.03 * aim:
            break
        highest += equal - equal_one
        calls, busy_one = _two_choices(state, busy, max(1.0, highest))
        busy_one = min(busy_one, 0.9999 * most)
        equal_one = calls_for(state, busy_one)
        aim_one = -math.log1p(-busy_one / most)
    unequal = max(0.0, calls - equal_one)
    return equal + unequal * (1.0 + 1.7 * (aim - aim_one) / aim_one)


@kernel
def room_in_reach(load, pods, utilization, held, room, uneven):
    """Calls that overloaded pods hold before some refuse while others have room [calls].

    A balancer does not see calls that their callers gave up. A pod that fell behind holds such calls: it looks emptier
    than the others, draws calls until it is full, and refuses from then on. Pods therefore hold little more than what
    can be answered in time, or their room: a smooth minimum of both.

    Args:
        uneven: logarithm of the variability of service times.
    """
    fits = max(0.0, load.timeout_s / load.cpu_s - held) * load.cores
    if utilization < 0.9 or fits > 3.0 * room:
        return room
    shared = 0.0 if load.sharing == FIFO else load.workers / room  # part of the calls that do not wait in line
    over = min(0.6, max(0.0, utilization - 1.0))
    group = load.sharing + (3 if load.balancing == POWER_OF_TWO else 0)
    scale, power = reach(group, uneven, 1.0 / math.sqrt(pods), over, shared, 1.0 / math.sqrt(room))
    power = math.exp(power)
    reached = math.exp(-math.log1p(math.exp(-power * (math.log(max(1e-3, fits / room)) + scale))) / power)
    # Where hardly a call is answered in time, what a balancer sees says nothing any more.
    return room * (1.0 - min(1.0, 10.0 * utilization - 9.0) * (1.0 - max(0.45, reached)))


@kernel
def served_scv(load, state, utilization, held):
    """SCV of what the servers of a pod serve, and their number: cores, or workers where these bind."""
    scv = line_scv(load, utilization)
    if state.capacity < 1.0 and load.sharing == FIFO:
        # Workers bind: what is served is the whole time that a call holds its worker.
        return (scv + load.held_variance_s2 / load.cpu_s**2) / (1.0 + held) ** 2, load.workers
    return scv, float(math.ceil(load.cores))


@kernel
def excess_cumulants(point, at_rest, pods, per_call):
    """Variance and third cumulant of what the open calls of a pod beyond those at rest make a call wait.

    Args:
        point: as `take_chain` leaves it.
        at_rest: calls of a pod, on the mean, that are no part of a wait; as many in each pod as chance has it.
        per_call: wait for a call in front.
    """
    variance = max(0.0, point.wait_variance_s2 - at_rest / pods) * per_call**2
    bound = 2.0 * variance * math.sqrt(variance)
    third = (point.wait_third_s3 - at_rest / (pods * pods)) * per_call**3
    return variance, min(bound, max(-bound, third))


@kernel
def crowded_point(load, state, point, utilization, held, room):
    """POINT of a single pod whose workers bind, or of independent ones."""
    most = state.speed[int(state.saturated)]
    busy = utilization * most
    scv, servers = served_scv(load, state, utilization, held)
    factor = scv_factor(scv, servers, utilization)
    factor *= gap_factor(load, scv, utilization) / (0.5 * (1.0 + scv))
    # Whoever finds no place to wait is lost, and a loss system does not care for the variability of service times (Erlang).
    typical = load.cores * (1.0 + held)
    factor = 1.0 + (factor - 1.0) * min(1.0, max(0.0, room - typical) / max(1.0, typical))
    # A single pod's wait goes with the variability; in overload, its room is what counts.
    full = min(1.0, utilization) ** 20
    alone_factor = 1.0 + (factor - 1.0) * (1.0 - full)
    take_chain(state, point, 1.0, busy, room, max(0.05, 1.0 + (factor - 1.0) * full))
    accepted = max(1e-12, busy * (1.0 - point.blocked))
    alone = 1.0 / call_speed(load)
    wait = max(0.0, point.open / accepted - held - alone) * alone_factor
    # Calls that are held are no part of the wait, but of what varies; the call that is being served is one of them.
    per_call = 1.0 / most
    variance_open, third_open = excess_cumulants(point, accepted * held, 1.0, per_call)
    cpu_scv = line_scv(load, utilization)
    scv_departures = (cpu_scv + servers - 1.0) / servers
    third_departures = third_cumulant_factor(cpu_scv) / servers**2
    point.wait_s = wait
    point.wait_variance_s2 = wait * per_call * scv_departures + variance_open
    point.wait_third_s3 = (
        wait * per_call * per_call * third_departures + 3.0 * variance_open * per_call * scv_departures + third_open
    )
    point.extra_variance_s2 = point.extra_third_s3 = 0.0
    point.waits = -math.expm1(-1.2 * wait)
    if load.sharing == PROCESSOR_SHARING:
        shared_cumulants(load, point, 0.0)
    elif load.sharing == CFS_QUOTA:
        take_quota(load, point, utilization)
    point.open = accepted * (point.wait_s + alone)


@kernel
def balanced_point(load, state, point, utilization, held, room):
    """POINT of several pods that are kept equal."""
    most = state.speed[int(state.saturated)]
    busy = utilization * most
    pods = load.ready
    scv, servers = served_scv(load, state, utilization, held)
    factor = max(0.05, scv_factor(scv, servers, utilization))
    if factor > 1.0:
        factor **= _HEAVY_TOGETHER
    uneven = math.log(0.5 * (1.0 + load.cpu_scv))
    reached = room_in_reach(load, pods, utilization, held, room, uneven)
    take_chain(state, point, pods, busy, reached, factor)
    accepted = max(1e-12, busy * (1.0 - point.blocked))
    alone = 1.0 / call_speed(load)
    wait = max(0.0, point.open / accepted - held - alone)
    at = min(utilization, 0.985) * most
    equal = calls_for(state, at)
    local = max(0.0, equal / at - held - alone)
    unequal, together = local, 1.0
    if load.balancing == POWER_OF_TWO:
        unequal = max(local, calls_of_two_choices(state, at) / at - held - alone)
        together = _TWO_CHOICES * min(1.0, utilization) ** 2
    elif load.nodes > 1:
        unequal = max(local, _NODES_DISORDER * (calls_of_nodes(state, at, load.nodes) / at - held - alone))
    spread = math.exp(0.6 * uneven) if load.sharing == FIFO else 1.0
    part = min(1.0, (point.open + accepted * (unequal - local)) / reached)
    full = part * part * part
    fill = 1.0 - full
    fluctuation = wait - local
    share = 0.0
    if fluctuation > 0.0:
        share = fluctuation / (wait + 1e-9)
        once = _ONCE / (1.0 + 0.5 * held) * (1.0 - 1.0 / pods) * share / load.cores * fill
        fluctuation += once * -math.expm1(-1.6 * wait * load.cores) * min(1.0, spread)
        fluctuation *= 1.0 - (1.0 - together) * fill * fill
    wait = max(0.0, fluctuation + local + (unequal * spread - local) * fill)
    local = unequal * spread * fill
    buffer = 0.0
    if load.sharing == CFS_QUOTA:
        # A pod's unused quota buffers bursts up to the length of a period; balanced pods seldom use theirs up.
        period = load.quota_period_s / load.cpu_s
        kept = min(1.0, 0.35 * load.cpu_scv**0.33 * utilization / math.sqrt(0.25 * period))
        kept += (1.0 - kept) * min(1.0, utilization) ** 40
        wait *= kept
        buffer = period / (4.0 + period)
    point.wait_s = wait
    # Calls that are held or have a core are no part of the wait, but of what varies. A pod's excess of calls is a wait
    # of so many departures.
    per_call = 1.0 / most
    variance_open, third_open = excess_cumulants(point, accepted * (held + alone), pods, per_call)
    own, own_third = load.cpu_scv * alone * alone, third_cumulant_factor(load.cpu_scv) * alone**3
    spread_j = 0.8 * local
    # Full pods without a line hold the same number of calls all the time: they share the CPU evenly.
    still = 0.0 if load.sharing == FIFO else full * (1.0 - line_part(load)) ** 2
    scv_departures = (scv + servers - 1.0) / servers
    third_departures = third_cumulant_factor(scv) / servers**2
    variance = wait * per_call * scv_departures + spread_j * per_call + variance_open
    third = (
        wait * per_call * per_call * third_departures
        + 3.0 * (spread_j * per_call + variance_open) * per_call * scv_departures
        + third_open
    )
    if load.sharing == PROCESSOR_SHARING:
        point.wait_variance_s2, point.wait_third_s3 = variance, third
        shared_cumulants(load, point, _SHARED_EVENNESS + (1.0 - _SHARED_EVENNESS) * still)
        variance = point.wait_variance_s2 + point.extra_variance_s2
        third = point.wait_third_s3 + point.extra_third_s3
    elif load.sharing == CFS_QUOTA:
        stops = wait * (2.0 * wait + 0.7 * load.quota_period_s / load.cpu_s)
        deep = min(1.0, utilization) ** 20
        variance = deep * variance + (1.0 - deep) * stops
        third = deep * third + (1.0 - deep) * 1.5 * stops * stops / (wait + 1e-12)
        # By variance and skewness: a little of a third cumulant that is large would turn the tail round.
        even = load.cpu_scv * wait * (wait + 2.0 * alone)
        even_third = third_cumulant_factor(load.cpu_scv) * ((wait + alone) ** 3 - alone**3)
        skewed = third / (variance * math.sqrt(variance) + 1e-300)
        skewed += still * (even_third / (even * math.sqrt(even) + 1e-300) - skewed)
        variance += still * (even - variance)
        third = skewed * variance * math.sqrt(variance)
    whole = variance + own
    skewness = (third + own_third) / (whole * math.sqrt(whole) + 1e-300)
    # What all this leaves over. What it is fitted by stays in `scratch`.
    seen = state.scratch
    seen[0], seen[1], seen[2] = wait, whole, skewness
    waiting = wait * load.cores / (1.0 + wait * load.cores)
    uneven, few, load_now = max(-0.7, min(1.2, uneven)), 1.0 / math.sqrt(pods), min(1.1, utilization)
    at_rest, lost = held / (held + alone), 1.0 - reached / room
    more_servers, more_nodes = 1.0 - 1.0 / servers, 1.0 - 1.0 / load.nodes
    seen[3], seen[4], seen[5], seen[6], seen[7], seen[8] = waiting, uneven, at_rest, few, share, full
    seen[9], seen[10], seen[11], seen[12], seen[13] = more_servers, more_nodes, load_now, buffer, lost
    on_wait, on_spread, on_skew = correction(
        load.sharing + (3 if load.balancing == POWER_OF_TWO else 0),
        waiting, uneven, at_rest, few, share, full, more_servers, more_nodes, load_now, buffer, lost,
    )  # fmt: skip
    known = min(1.0, _LONGEST_HELD * alone / (held + 1e-9))  # nothing was played beyond
    wait *= math.exp(known * fill * on_wait)  # what full pods hold is no question of waiting
    point.wait_s = wait
    point.waits = -math.expm1(-1.2 * wait)
    point.open = accepted * (wait + alone)
    known *= 1.0 - still  # of which all is known
    whole *= math.exp(known * on_spread)
    skewness += known * on_skew
    third = whole * math.sqrt(whole) * skewness
    point.wait_variance_s2 = max(0.0, whole - own)
    point.extra_variance_s2 = whole - own - point.wait_variance_s2
    point.wait_third_s3, point.extra_third_s3 = third - own_third, 0.0


@kernel
def line_scv(load, utilization):
    """SCV of service times as the calls of a pod's line feel it [1].

    Sharing the CPU makes them not matter, as long as every call finds a worker: a line for workers is served in order.
    """
    if load.sharing == FIFO:
        return load.cpu_scv
    power = 1.5 * max(0.0, load.workers - load.cores)
    if power * (1.0 - utilization) > 10.0:
        return 1.0
    return 1.0 + (load.cpu_scv - 1.0) * min(1.0, utilization) ** power


@kernel
def take_quota(load, point, utilization):
    """What a CPU quota makes of the waits of shared CPUs: calls run at full speed until it is used up. Fitted.

    A pod's unused quota buffers bursts up to the length of a period.
    """
    buffered = math.sqrt(load.quota_period_s / (4.0 * load.cpu_s))
    kept = min(1.0, utilization) ** (1.5 * max(0.05, load.cpu_scv) ** -0.4 * buffered)
    wait = point.wait_s * kept
    waits = min(1.0, kept * utilization)
    line = min(1.0, utilization) ** (1.5 * max(0.0, load.workers - load.cores))
    mean = wait / max(1e-9, waits)
    variance, third = mixed_cumulants(waits, mean, mean * mean, 2.0 * mean**3)
    point.wait_s, point.waits = wait, waits
    point.wait_variance_s2 = line * point.wait_variance_s2 + (1.0 - line) * variance
    point.wait_third_s3 = line * point.wait_third_s3 + (1.0 - line) * third


@kernel
def queued_part(load, calls):
    """The part of a wait before a worker is free, where calls share the CPU and so many wait in front [1]."""
    sharers = max(1.0, load.workers - load.cores)
    if sharers >= 12.0 * (1.0 + calls):  # else it is less than 1e-5
        return 0.0
    return min((calls / (1.0 + calls)) ** sharers, line_part(load))


@kernel
def line_part(load):
    """No larger part of the calls that wait in a full pod is in line [1]; where few share the CPU it varies, and counts as
    more."""
    sharers = max(1.0, load.workers - load.cores)
    return min(1.0, load.queue_limit / (load.queue_limit + sharers) * (1.0 + 3.0 / sharers))


@kernel
def shared_cumulants(load, point, evenness):
    """Cumulants where calls share the CPU: long calls wait longer, so the wait correlates with the CPU time.

    A call of the CPU time x takes x times the stretch on the mean; what varies beyond is fitted to the exponential case
    of Coffman, Muntz and Trotter, "Waiting time distributions for processor-sharing systems", J. ACM 17 (1970). Calls
    beyond the workers wait in line for one, as they would for a CPU that serves them one by one.

    Args:
        point: with the cumulants of a wait in line, which are replaced.
        evenness: of the calls in pods: 0 at random, 1 as many in each all the time [1].
    """
    scv, wait = load.cpu_scv, point.wait_s
    alone = 1.0 / call_speed(load)
    queued = queued_part(load, wait)
    stretch = alone + wait * (1.0 - queued)
    rest = 2.0 * max(0.0, stretch - alone) / (stretch + alone) * stretch * stretch * math.sqrt(0.5 * (1.0 + scv))
    rest *= (1.0 - queued) * (1.0 - evenness)
    shared = scv * stretch * stretch + rest
    skewed = third_cumulant_factor(scv) * stretch**3 + 3.0 * rest * (rest / stretch + 0.6 * scv * stretch)
    line, line3 = point.wait_variance_s2 * queued, point.wait_third_s3 * queued
    point.wait_variance_s2 = line + rest + scv * (stretch - alone) ** 2
    point.wait_third_s3 = line3
    point.extra_variance_s2 = shared + line - scv * alone * alone - point.wait_variance_s2
    point.extra_third_s3 = skewed - third_cumulant_factor(scv) * alone**3
