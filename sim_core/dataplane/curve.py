"""How fast a pod works with so and so many open calls: the curve of a station, drawn once for many points.

A pod with k open calls is a closed network of its CPU and of the time that calls are held elsewhere; it keeps X(k) cores
busy. Beside X(k) the curve keeps integrals of its logarithm, from which `balanced` has the weights of the states of a
birth-death chain without running through them.
"""

from __future__ import annotations

import math

from sim_core.compiled import glue, kernel
from sim_core.dataplane.services.records import CFS_QUOTA, FIFO
from sim_core.dataplane.station import LEVELS

_HALF_PER_PI = 0.5 / math.pi
_SATURATED = 1e-4  # a pod that works this near to its capacity works at it
HEAVY_POWER = 64.0


@kernel
def call_speed(load):
    """Cores that one call alone keeps busy: FIFO servers are equal, shared CPUs give a call at most one core, and under a
    quota it runs on a whole one until the quota is used up."""
    if load.sharing == FIFO:
        return load.cores / math.ceil(load.cores)
    if load.sharing == CFS_QUOTA:
        return 1.0
    return min(1.0, load.cores)


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
    _integrate(state)


@kernel
def _integrate(state):
    """Sets what `weigh` needs: at each level the logarithm of speed over that of a saturated pod, how heavy it is, and
    the integrals up to there of the logarithm, of the weight, and of their product.
    """
    last = int(state.saturated)
    stride = float(state.stride)
    one_by_most = 1.0 / state.speed[last]
    part = state.speed[1] * one_by_most
    here, heavy = math.log(part), heaviness(part)
    # Below the first level the speed is proportional to the calls.
    state.log_speed[1], state.heavy[1] = here, heavy
    state.log_sum[1] = stride * (here - 1.0)
    state.heavy_sum[1] = stride * heavy / (HEAVY_POWER + 1.0)
    state.heavy_log_sum[1] = state.heavy_sum[1] * (here - 1.0 / (HEAVY_POWER + 1.0))
    bends = 0.0
    state.bend_sum[1] = 0.0
    for level in range(1, last):
        before, heavy_before = here, heavy
        part = state.speed[level + 1] * one_by_most
        here, heavy = math.log(part), heaviness(part)
        half = 0.5 * (here - before)
        # The speed goes linearly from level to level: log((1 + r) / (2 sqrt(r))), r the ratio of neighbors, as a series.
        bend = half * half * (0.5 - half * half / 12.0)
        bends += stride * bend * (2.0 / 3.0)
        mean, gain = 0.5 * (before + here), heavy - heavy_before
        state.log_speed[level + 1], state.heavy[level + 1] = here, heavy
        state.bend[level], state.bend_sum[level + 1] = bend, bends
        state.log_sum[level + 1] = state.log_sum[level] + stride * mean
        state.heavy_sum[level + 1] = state.heavy_sum[level] + stride * (heavy_before + 0.2 * gain)
        added = heavy_before * mean + gain * (before / 30.0 + here / 6.0)
        state.heavy_log_sum[level + 1] = state.heavy_log_sum[level] + stride * added


@kernel
def heaviness(part):
    """How much the variability of service times counts where a pod works at this part of its capacity [1]; fitted."""
    for _ in range(6):
        part *= part
    return part


@kernel
def speed_with(state, calls):
    """Cores busy in a pod with so many open calls, between whole numbers linearly."""
    at = calls / state.stride
    if at >= state.saturated:
        return state.speed[state.saturated]
    level = int(at)
    return state.speed[level] + (at - level) * (state.speed[level + 1] - state.speed[level])


@kernel
def calls_for(state, busy):
    """The open calls with which a pod keeps so many cores busy; those from which on it is saturated if it cannot."""
    low, high = 0, int(state.saturated)
    if state.speed[high] <= busy:
        return high * state.stride
    while high - low > 1:
        middle = (low + high) >> 1
        if state.speed[middle] < busy:
            low = middle
        else:
            high = middle
    return (low + (busy - state.speed[low]) / (state.speed[high] - state.speed[low])) * state.stride


@glue
def weigh(state, calls, pods, log_ratio, lighter):
    """Logarithm of the weight of a state of the chain in which each of the pods has so many calls, up to a constant.

    The chain goes from n to n + 1 calls at the rate b, back at X(n / pods); its weights are products of b / X. Their
    logarithms are sums, here integrals and Euler and Maclaurin's first correction. Where service times vary, the
    chain is diffused: exponents are divided by 1 where pods are not busy, and by `factor` where they are saturated.

    Args:
        log_ratio: logarithm of the busy cores that calls ask for over those of a saturated pod.
        lighter: 1 / factor - 1.
    """
    stride = float(state.stride)
    at = calls / stride
    per_state = 1.0 / (pods * stride)
    if at < 1.0:  # factorials, by Stirling's formula
        if calls <= 0.0:
            return -0.5 * (state.log_speed[1] + math.log(_HALF_PER_PI * per_state))
        log_here = state.log_speed[1] + math.log(at)
        area = calls * (log_here - 1.0) + stride * per_state * per_state / (12.0 * at)
        if lighter == 0.0:
            return pods * (calls * log_ratio - area) - 0.5 * log_here
        heavy = state.heavy[1] * heaviness(at)
        heavy_area = calls * heavy / (HEAVY_POWER + 1.0)
        heavy_log_area = heavy_area * (log_here - 1.0 / (HEAVY_POWER + 1.0))
    else:
        # The logarithm goes nearly linearly from level to level, the heaviness with the fourth power.
        level = min(int(at), int(state.saturated))
        part = at - level
        way = part * stride
        if level == state.saturated:
            log_here, mean, bends = 0.0, 0.0, 0.0
        else:
            log_low = state.log_speed[level]
            rise = state.log_speed[level + 1] - log_low
            bend = state.bend[level]
            log_here = log_low + part * (rise + 4.0 * bend * (1.0 - part))
            mean = log_low + 0.5 * part * rise
            bends = bend * (part * (2.0 - (4.0 / 3.0) * part) - (2.0 / 3.0) * per_state * per_state)
        area = state.log_sum[level] + way * (mean + bends)
        area += state.bend_sum[level] * (1.0 - per_state * per_state) + stride * per_state * per_state / 12.0
        if lighter == 0.0:
            return pods * (calls * log_ratio - area) - 0.5 * log_here
        if level == state.saturated:
            heavy = 1.0
            heavy_area, heavy_log_area = state.heavy_sum[level] + way, state.heavy_log_sum[level]
        else:
            heavy_low = state.heavy[level]
            part_4 = part**4
            gained = part_4 * (state.heavy[level + 1] - heavy_low)
            heavy = heavy_low + gained
            heavy_area = state.heavy_sum[level] + way * (heavy_low + 0.2 * gained)
            added = heavy_low * mean + gained * (0.2 * log_low + part * rise / 6.0)
            heavy_log_area = state.heavy_log_sum[level] + way * added
    plain = calls * log_ratio - area
    return pods * (plain + lighter * (log_ratio * heavy_area - heavy_log_area)) - 0.5 * log_here * (
        1.0 + lighter * heavy
    )
