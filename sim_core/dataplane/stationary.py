"""The stationary station: what a pod's queue settles at, for any utilization, balancer, sharing of the CPU, and room.

Two models, each exact where its assumptions hold:

* *Independent pods* (random, round robin): every pod is an M/G/c/K queue of its own. Exact for exponential service times
  and, by insensitivity, for processor sharing with any.
* *Balanced pods* (least outstanding, power of two; and any pod whose workers bind): a pod with k open calls is a closed
  network of its CPU and the time calls are held elsewhere, which works at the speed X(k); the open calls of all pods
  are a birth-death chain in which the balancer keeps pods equal. That is the decomposition of Chandy, Herzog and Woo,
  "Parametric analysis of queuing networks", IBM J. Res. Dev. 19 (1975); exact for one pod. What a balancer leaves
  unequal (power of two; several nodes) is added from the limit of many pods.

Times inside this module are in units of the mean CPU time of a call, speeds in cores.
"""

from __future__ import annotations

import math

from sim_core.compiled import kernel
from sim_core.dataplane.independent import independent_point
from sim_core.dataplane.queueing import (
    call_speed,
    gap_factor,
    geometric_sum,
    mixed_cumulants,
    scv_factor,
    speed_with,
    third_cumulant_factor,
    truncated_geometric,
)
from sim_core.dataplane.services.records import (
    CFS_QUOTA,
    FIFO,
    LEAST_OUTSTANDING,
    POWER_OF_TWO,
    PROCESSOR_SHARING,
)
from sim_core.dataplane.station import LEVELS

_SATURATED = 1e-4  # a pod that works this near to its capacity works at it
_NEGLIGIBLE = 1e-6  # weight of a state of the chain, over that of the likeliest
_MOST_NODES = 8
_LARGE = 1e100
# Fitted, see fit.py: from which occupancy on the variability of service times widens the chain, ...
_SATURATION_POWER = 60
# ... the power of that variability that many pods feel where it is above 1, ...
_HEAVY_TOGETHER = 0.9
# ... what a balancer that picks a pod once leaves unequal, over the calls that wait, ...
_ONCE = 0.55
# ... how the disorder of several nodes exceeds the binomial one, ...
_NODES_DISORDER = 1.08
# ... how much of the fluctuation of all calls together two choices keep: a factor, times a power of utilization, ...
_TWO_CHOICES, _TWO_CHOICES_POWER = 0.82, 2.0
# ... and standard deviations between a timeout and the work in pods that refuse while others have room.
_HOLE, _HOLE_BY_LOG_PODS, _HOLE_BY_OVERLOAD, _HOLE_BY_SCV = 0.33, 0.31, 1.1, 0.24
_HOLE_OF_TWO, _HOLE_OF_TWO_BY_LOG_PODS, _HOLE_OF_TWO_BY_OVERLOAD = 0.62, 0.075, 2.4
_SHARED_EVENNESS = 0.5  # of calls that share the CPUs of balanced pods
_HOLE_SPREAD = 1.8  # variance of a wait that such pods add, over the calls that there is room for beyond


@kernel
def draw_curve(load, state, held):
    """Sets `state.speed`: cores busy in a pod with so many open calls (exact mean value analysis, exponential times).

    Args:
        held: mean time that a call holds its worker beyond its CPU time, over that CPU time [1].

    Source: Reiser and Lavenberg, "Mean-value analysis of closed multichain queuing networks", J. ACM 27 (1980).
    """
    cores, speed = load.cores, call_speed(load)
    servers = math.ceil(cores / speed - 1e-9)
    workers = max(1, int(load.workers))
    typical = cores * held + cores
    stride = max(1, math.ceil(min(float(workers), typical + 5.0 * math.sqrt(typical) + 12.0) / (LEVELS - 1)))
    delay, alone = held, 1.0 / speed
    if servers > LEVELS:  # Seidmann: as one fast server, and a delay that makes up for it
        delay, servers = held + alone - 1.0 / cores, 1
    # The probabilities that 0 .. servers - 1 calls are at the CPU.
    at_cpu = state.scratch
    for j in range(servers):
        at_cpu[j] = 0.0
    at_cpu[0] = 1.0
    queue, busy = 0.0, 0.0
    k, level = 0, 0
    state.speed[0] = 0.0
    while True:
        k += 1
        sojourn = (1.0 + queue) / cores
        for j in range(1, servers):
            sojourn += j * (1.0 / (j * speed) - 1.0 / cores) * at_cpu[j - 1]
        busy = min(cores, k / (delay + sojourn))
        queue = busy * sojourn
        idle = 0.0
        for j in range(servers - 1, 0, -1):
            at_cpu[j] = busy / (j * speed) * at_cpu[j - 1]
            idle += (cores - j * speed) * at_cpu[j]
        at_cpu[0] = max(0.0, (cores - busy - idle) / cores)
        if k % stride == 0:
            level += 1
            state.speed[level] = busy
        if k == workers or busy >= cores * (1.0 - _SATURATED) or level == LEVELS:
            break
    if k % stride != 0:
        level += 1
        state.speed[level] = busy
    state.saturated = level
    state.stride = stride
    state.capacity = busy / cores if k == workers and busy < cores * (1.0 - _SATURATED) else 1.0
    if state.capacity == 1.0:
        state.speed[level] = cores


@kernel
def calls_for(state, busy):
    """The open calls with which a pod keeps so many cores busy; those from which on it is saturated if it cannot."""
    level = 0
    while level < state.saturated and state.speed[level + 1] < busy:
        level += 1
    if level == state.saturated:
        return level * state.stride
    return (level + (busy - state.speed[level]) / (state.speed[level + 1] - state.speed[level])) * state.stride


@kernel
def calls_of_nodes(state, busy, nodes):
    """The same where each of several nodes keeps its own calls equal, and knows nothing of the others'.

    A node has the pods at two neighboring numbers of its calls; over the nodes that adds up to a binomial spread.
    """
    nodes = min(nodes, _MOST_NODES)
    low, high = 0.0, (state.saturated + nodes) * state.stride
    for _ in range(24):
        calls = 0.5 * (low + high)
        each = int(calls / nodes)
        more = calls / nodes - each
        mean, probability = 0.0, (1.0 - more) ** nodes
        if more > 0.999999:
            each, more, probability = each + 1, 0.0, 1.0
        for j in range(nodes + 1):
            mean += probability * speed_with(state, float(nodes * each + j))
            probability *= (nodes - j) / (j + 1.0) * more / (1.0 - more)
        if mean < busy:
            low = calls
        else:
            high = calls
    return 0.5 * (low + high)


@kernel
def calls_of_two_choices(state, busy):
    """Mean open calls of a pod where each call goes to the better of two pods, of very many.

    The share s(k) of pods with at least k calls: busy s(k-1)^2 is what flows up to k and more, X of those is what flows
    down: by bisection. Source: Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12 (2001).
    """
    saturated = int(state.saturated * state.stride)
    most = state.speed[state.saturated]
    low, high = 0.0, 1.0  # share of pods with a call; all further shares follow from it
    for _ in range(40):
        first = 0.5 * (low + high)
        before, share, total = 1.0, first, first
        too_many = False
        for k in range(1, saturated + 1):
            above = share - busy * (before * before - share * share) / speed_with(state, float(k))
            if above <= 0.0:
                break
            before, share = share, above
            total += share
            if k == saturated:  # from here on it must be s(k) = busy s(k-1)^2 / most
                too_many = share * most > busy * before * before
        if too_many:
            high = first
        else:
            low = first
        if high - low < 1e-10:
            break
    while share > 1e-6:
        share = busy * share * share / most
        total += share
    return total


@kernel
def take_chain(load, state, point, pods, busy, held, room, factor):
    """Sets `open` (all calls of a pod), `blocked`, and in wait_variance_s2, wait_third_s3 the cumulants of `open`.

    The birth-death chain of the open calls of `pods` pods that are kept equal. From the likeliest state downwards and
    upwards in steps of a part of its width, and by closed form where all pods are saturated.

    Args:
        busy: cores that would be busy in each pod if no call were refused.
        room: calls that a pod can hold.
        factor: variability of arrivals and service times, 1 for Poisson arrivals and exponential times [1].
    """
    most = state.speed[state.saturated]
    saturated = min(room, state.saturated * state.stride)
    ratio = busy / most
    log_ratio = math.log(max(1e-12, ratio))
    likeliest = min(saturated, calls_for(state, busy)) if ratio < 1.0 else saturated
    if ratio < 1.0 and likeliest < saturated:
        slope = (speed_with(state, likeliest + 0.5) - speed_with(state, max(0.0, likeliest - 0.5))) / busy
        width = math.sqrt(pods * factor / max(1e-3, slope))
    else:
        width = math.sqrt(pods * factor * state.stride)
    step = max(1.0, math.floor(0.35 * width))
    center = float(int(likeliest * pods))
    end = saturated * pods
    # Sums of weights, and of powers of the distance from the center.
    total, first, second, third = step, 0.0, 0.0, 0.0
    weight, at = 1.0, center
    while at > 0.0 and weight > _NEGLIGIBLE:
        width = min(step, at)
        middle = speed_with(state, (at - 0.5 * (width - 1.0)) / pods)
        local = 1.0 + (factor - 1.0) * (middle / most) ** _SATURATION_POWER
        weight *= math.exp(-width * math.log(busy / middle) / local)
        at -= width
        mass, away = weight * width, at - center
        total += mass
        first += mass * away
        second += mass * away * away
        third += mass * away**3
    weight, at = 1.0, center
    while at + 1.0 <= end and weight > _NEGLIGIBLE:
        width = min(step, math.floor(end - at))
        middle = speed_with(state, (at + 0.5 * (width + 1.0)) / pods)
        local = 1.0 + (factor - 1.0) * (middle / most) ** _SATURATION_POWER
        weight *= math.exp(width * math.log(busy / middle) / local)
        at += width
        mass, away = weight * width, at - center
        total += mass
        first += mass * away
        second += mass * away * away
        third += mass * away**3
    places = math.floor(pods * room - at)
    point.blocked = 0.0
    if weight > _NEGLIGIBLE and places < 1.0:
        point.blocked = weight / total
    elif weight > _NEGLIGIBLE:
        # States at + 1 .. at + places with weights exp(i slope): over the largest of them, that nothing overflows.
        slope = log_ratio / factor
        mean_i, variance_i, third_i = truncated_geometric(slope, places)
        if slope > 0.0:
            scale = math.exp(-slope * places) if slope * places < 700.0 else 0.0
            total, first, second, third = total * scale, first * scale, second * scale, third * scale
            mass, top = weight * geometric_sum(-slope, places), weight
        else:
            mass = weight * math.exp(slope) * geometric_sum(slope, places)
            top = weight * math.exp(slope * places) if slope * places > -700.0 else 0.0
        away = at + 1.0 + mean_i - center
        total += mass
        first += mass * away
        second += mass * (variance_i + away * away)
        third += mass * (third_i + 3.0 * away * variance_i + away**3)
        correction = factor
        if abs(slope) > 1e-7:
            correction = math.expm1(-abs(log_ratio)) / math.expm1(-abs(slope))
        point.blocked = min(1.0, top / total * correction)
    # No more is served than all can do, no less than by one server without waiting room (Erlang's loss formula).
    point.blocked = min(ratio / (1.0 + ratio), max(1.0 - 1.0 / ratio, point.blocked))
    mean = first / total
    second /= total
    variance = max(0.0, second - mean * mean)
    third = third / total - 3.0 * mean * second + 2.0 * mean**3
    point.open = (center + mean) / pods
    point.wait_variance_s2 = variance / (pods * pods)
    point.wait_third_s3 = third / pods**3


@kernel
def unequal_factor(balancing, scv, utilization):
    """Wait of many pods with this scv of service times, over that with exponential ones [1]. Fitted: see fit.py."""
    spread = 0.5 * (1.0 + scv)
    if balancing == POWER_OF_TWO:
        return spread if scv <= 1.0 else spread**0.61
    power = 0.87
    if scv > 1.0:
        power = 0.33 + 0.24 * min(1.0, max(0.0, (0.9 - utilization) / 0.4))
    return spread**power


@kernel
def line_scv(load, utilization):
    """SCV of service times as the calls of a pod's line feel it [1].

    Sharing the CPU makes them not matter, as long as every call finds a worker: a line for workers is served in order.
    """
    if load.sharing == FIFO:
        return load.cpu_scv
    in_line = min(1.0, utilization) ** (1.5 * max(0.0, load.workers - load.cores))
    return 1.0 + (load.cpu_scv - 1.0) * in_line


@kernel
def take_quota(load, point, utilization, balanced):
    """What a CPU quota makes of the waits of shared CPUs: calls run at full speed until it is used up. Fitted.

    A pod's unused quota buffers bursts up to the length of a period; balanced pods seldom use theirs up.
    """
    buffered = math.sqrt(load.quota_period_s / (4.0 * load.cpu_s))
    if balanced:
        kept = min(1.0, 0.35 * load.cpu_scv**0.33 * utilization / max(1e-9, buffered))
        kept += (1.0 - kept) * min(1.0, utilization) ** 40
        wait = point.wait_s * kept
        waits = -math.expm1(-1.2 * wait)
    else:
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
def room_in_reach(load, pods, utilization, held, room, most):
    """Calls that pods hold in overload before some refuse while others have room [calls].

    A balancer does not see calls that their callers gave up. A pod that fell behind holds such calls: it looks emptier
    than the others, draws calls until it is full, and refuses from then on. That starts where the work in a pod is
    within so many of its standard deviations of the timeout; more pods, more chances.
    """
    fits = max(0.0, load.timeout_s / load.cpu_s) * most
    if fits >= 2.0 * room:
        return room
    if load.balancing == POWER_OF_TWO:
        deviations = (
            _HOLE_OF_TWO
            + _HOLE_OF_TWO_BY_LOG_PODS * math.log(pods)
            - _HOLE_OF_TWO_BY_OVERLOAD * min(0.22, max(0.0, utilization - 1.0))
        )
    else:
        deviations = _HOLE + _HOLE_BY_LOG_PODS * math.log(pods) - _HOLE_BY_OVERLOAD * max(0.0, utilization - 1.0)
    scv = line_scv(load, utilization)
    deviations = max(0.0, deviations) * (1.0 + _HOLE_BY_SCV * max(0.0, scv - 1.0))
    spread = deviations * math.sqrt(scv)
    root = 0.5 * (math.sqrt(spread * spread + 4.0 * fits) - spread)
    reached = min(room, root * root)
    # Where pods hold far more than can be answered in time, what a balancer sees says nothing any more.
    lost = min(1.0, max(0.0, room / max(1e-9, fits) - 1.3))
    return max(min(room, load.cores + 1.0), reached + lost * (room - reached))


@kernel
def balanced_point(load, state, point, utilization, held, room):
    """POINT of pods that are kept equal, and of a single pod whose workers bind."""
    most = state.speed[state.saturated]
    busy = utilization * most
    balanced = load.balancing == LEAST_OUTSTANDING or load.balancing == POWER_OF_TWO
    pods = max(1.0, load.ready) if balanced else 1.0
    scv = line_scv(load, utilization)
    servers = math.ceil(load.cores)
    if state.capacity < 1.0 and load.sharing == FIFO:
        # Workers bind: what is served is the whole time that a call holds its worker.
        scv = (scv + load.held_variance_s2 / load.cpu_s**2) / (1.0 + held) ** 2
        servers = load.workers
    factor = scv_factor(scv, servers, utilization)
    factor *= gap_factor(load, scv, utilization) / (0.5 * (1.0 + scv))
    if balanced and pods > 1.0 and factor > 1.0:
        factor **= _HEAVY_TOGETHER
    alone_factor = 1.0
    if not balanced:
        # A single pod's wait goes with the variability; in overload, its room is what counts.
        full = min(1.0, utilization) ** 20
        alone_factor = 1.0 + (factor - 1.0) * (1.0 - full)
        factor = 1.0 + (factor - 1.0) * full
    reached = room
    if balanced and pods > 1.0:
        reached = room_in_reach(load, pods, utilization, held, room, most)
    take_chain(load, state, point, pods, busy, held, reached, max(0.05, factor))
    accepted = max(1e-12, busy * (1.0 - point.blocked))
    alone = 1.0 / call_speed(load)
    wait = max(0.0, point.open / accepted - held - alone) * alone_factor
    local, fill = 0.0, 1.0
    if balanced and pods > 1.0:
        at = min(utilization, 0.985) * most
        equal = calls_for(state, at)
        local = max(0.0, equal / at - held - alone)
        unequal, together = local, 1.0
        if load.balancing == POWER_OF_TWO:
            unequal = max(local, calls_of_two_choices(state, at) / at - held - alone)
            together = _TWO_CHOICES * min(1.0, utilization) ** _TWO_CHOICES_POWER
        elif load.nodes > 1:
            unequal = max(local, _NODES_DISORDER * (calls_of_nodes(state, at, load.nodes) / at - held - alone))
        spread = unequal_factor(load.balancing, scv, utilization) if load.sharing == FIFO else 1.0
        fill = 1.0 - min(1.0, (point.open + accepted * (unequal - local)) / reached) ** 3
        fluctuation = wait - local
        if fluctuation > 0.0:
            share = fluctuation / (wait + 1e-9)
            once = _ONCE / (1.0 + 0.5 * held) * (1.0 - 1.0 / pods) * share / load.cores * fill
            fluctuation += once * -math.expm1(-1.6 * wait * load.cores) * min(1.0, spread)
            if fill > 0.5:
                fluctuation *= together
        wait = max(0.0, fluctuation + local + (unequal * spread - local) * fill)
        local = unequal * spread * fill
    # Calls that are held or have a core are no part of the wait, but of what varies. A pod's excess of calls is a wait
    # of so many departures; a single pod's call that is being served is one of them.
    per_call = 1.0 / most
    at_rest = held if pods == 1.0 else held + alone
    variance_open = max(0.0, point.wait_variance_s2 - accepted * at_rest / pods) * per_call**2
    bound = 2.0 * variance_open * math.sqrt(variance_open)
    third_open = (point.wait_third_s3 - accepted * at_rest / (pods * pods)) * per_call**3
    third_open = min(bound, max(-bound, third_open))
    point.open = accepted * (wait + alone)
    cpu_scv = line_scv(load, utilization)
    scv_departures = (cpu_scv + servers - 1.0) / servers
    third_departures = third_cumulant_factor(cpu_scv) / servers**2
    point.wait_s = wait
    spread_j = 0.8 * local + _HOLE_SPREAD * math.sqrt(scv) * (room - reached) * (1.0 - fill)
    point.wait_variance_s2 = wait * per_call * scv_departures + spread_j * per_call + variance_open
    point.wait_third_s3 = (
        wait * per_call * per_call * third_departures
        + 3.0 * (spread_j * per_call + variance_open) * per_call * scv_departures
        + third_open
    )
    point.extra_variance_s2 = point.extra_third_s3 = 0.0
    point.waits = -math.expm1(-1.2 * wait)
    if load.sharing == PROCESSOR_SHARING:
        shared_cumulants(load, point, _SHARED_EVENNESS if balanced and pods > 1.0 else 0.0)
    elif load.sharing == CFS_QUOTA:
        take_quota(load, point, utilization, balanced)
        point.open = accepted * (point.wait_s + alone)


@kernel
def shared_cumulants(load, point, evenness):
    """Cumulants where calls share the CPU: long calls wait longer, so the wait correlates with the CPU time.

    A call of the CPU time x takes x times the stretch on the mean; what varies beyond is fitted to the exponential case
    of Coffman, Muntz and Trotter, "Waiting time distributions for processor-sharing systems", J. ACM 17 (1970). Calls
    beyond the workers wait in line for one, as they would for a CPU that serves them one by one.

    Args:
        point: with the cumulants of a wait in line, which are replaced.
        evenness: of the calls in pods: 0 at random, 1 nearly as many in each [1].
    """
    scv, wait = load.cpu_scv, point.wait_s
    alone = 1.0 / call_speed(load)
    queued = (wait / (1.0 + wait)) ** max(1.0, load.workers - load.cores)  # part of the wait before a worker is free
    stretch = alone + wait * (1.0 - queued)
    rest = 2.0 * max(0.0, stretch - alone) / (stretch + alone) * stretch * stretch * (0.5 * (1.0 + scv)) ** 0.5
    rest *= (1.0 - queued) * (1.0 - evenness)
    shared = scv * stretch * stretch + rest
    skewed = third_cumulant_factor(scv) * stretch**3 + 3.0 * rest * (rest / stretch + 0.6 * scv * stretch)
    line, line3 = point.wait_variance_s2 * queued, point.wait_third_s3 * queued
    point.wait_variance_s2 = line + rest + scv * (stretch - alone) ** 2
    point.wait_third_s3 = line3
    point.extra_variance_s2 = shared + line - scv * alone * alone - point.wait_variance_s2
    point.extra_third_s3 = skewed - third_cumulant_factor(scv) * alone**3


@kernel
def take_point(load, state, point, utilization):
    """Sets POINT, times in seconds."""
    point.utilization = utilization
    if utilization <= 0.0:
        point.open = point.blocked = point.waits = point.wait_s = 0.0
        point.wait_variance_s2 = point.wait_third_s3 = point.extra_variance_s2 = point.extra_third_s3 = 0.0
        return
    slowness = effective_slowness(load)
    unit = load.cpu_s * slowness
    room = load.workers + load.queue_limit
    chosen = load.balancing == LEAST_OUTSTANDING or load.balancing == POWER_OF_TWO
    if (chosen and load.ready > 1.5) or (state.capacity < 1.0 and state.stride > 1.0):
        balanced_point(load, state, point, utilization, load.held_s / unit, room)
        _in_seconds(point, unit)
    elif load.cold <= 0.0 or load.cold >= load.ready or state.capacity < 1.0:
        independent_point(load, state, point, utilization, load.held_s / unit, room)
        _in_seconds(point, unit)
    else:
        # Cold pods get as many calls as warm ones, and may drown in them.
        cold_s, cold = load.cpu_s * load.cold_factor, state.cold
        independent_point(load, state, point, utilization / slowness, load.held_s / load.cpu_s, room)
        _in_seconds(point, load.cpu_s)
        independent_point(load, state, cold, utilization / slowness * load.cold_factor, load.held_s / cold_s, room)
        _in_seconds(cold, cold_s)
        _mix_cold(load, point, cold, unit, cold_s)
    point.open = max(0.0, min(point.open, room))  # approximations may dip below nothing where workers are few
    point.wait_s, point.wait_variance_s2 = max(0.0, point.wait_s), max(0.0, point.wait_variance_s2)


@kernel
def _in_seconds(point, unit):
    point.wait_s *= unit
    point.wait_variance_s2 *= unit * unit
    point.extra_variance_s2 *= unit * unit
    point.wait_third_s3 *= unit**3
    point.extra_third_s3 *= unit**3


@kernel
def _mix_cold(load, point, cold, unit, cold_s):
    """Makes of the points of a warm and a cold pod that of the mean pod, whose calls need `unit` of CPU time."""
    share = load.cold / load.ready
    accepted = (1.0 - share) * (1.0 - point.blocked) + share * (1.0 - cold.blocked)
    part = share * (1.0 - cold.blocked) / accepted  # of the admitted calls
    warm_s = load.cpu_s
    alone = 1.0 / call_speed(load)
    # Sojourns without the held time: cumulants of each, mixed; CPU times of the mean pod are taken off again below.
    one, other = point.wait_s + warm_s * alone, cold.wait_s + cold_s * alone
    mean = one + part * (other - one)
    scv, third_factor = load.cpu_scv * alone * alone, third_cumulant_factor(load.cpu_scv) * alone**3
    one_2 = point.wait_variance_s2 + point.extra_variance_s2 + scv * warm_s**2
    other_2 = cold.wait_variance_s2 + cold.extra_variance_s2 + scv * cold_s**2
    one_3 = point.wait_third_s3 + point.extra_third_s3 + third_factor * warm_s**3
    other_3 = cold.wait_third_s3 + cold.extra_third_s3 + third_factor * cold_s**3
    to_one, to_other = one - mean, other - mean
    variance = (1.0 - part) * (one_2 + to_one**2) + part * (other_2 + to_other**2)
    third = (1.0 - part) * (one_3 + 3.0 * to_one * one_2 + to_one**3)
    third += part * (other_3 + 3.0 * to_other * other_2 + to_other**3)
    to_one, to_other = point.wait_s, cold.wait_s
    point.wait_s = max(0.0, mean - unit * alone)
    spread = part * (1.0 - part) * (to_other - to_one) ** 2
    point.wait_variance_s2 = (1.0 - part) * point.wait_variance_s2 + part * cold.wait_variance_s2 + spread
    point.wait_third_s3 = 0.0
    point.extra_variance_s2 = variance - point.wait_variance_s2 - scv * unit**2
    point.extra_third_s3 = third - third_factor * unit**3
    point.waits += part * (cold.waits - point.waits)
    point.open += share * (cold.open - point.open)
    point.blocked = 1.0 - accepted


@kernel
def effective_slowness(load):
    """CPU time of a call over that on a warm pod, on the mean [1].

    Balancers that look at open calls give each pod what it can take; others give cold pods as much as warm ones.
    """
    if load.cold <= 0.0:
        return 1.0
    return load.ready / (load.ready - load.cold * (1.0 - 1.0 / load.cold_factor))


@kernel
def stretch_of(load):
    """Time of a CPU step without any wait over its CPU time on a warm pod [1]."""
    if load.ready < 0.5:
        return 1.0
    return effective_slowness(load) / call_speed(load)
