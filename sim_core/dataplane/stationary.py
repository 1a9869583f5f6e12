"""The stationary station: what a pod's queue settles at, for any utilization, balancer, sharing of the CPU, and room.

Two models, each exact where its assumptions hold:

* *Independent pods* (random, round robin): every pod is an M/G/c/K queue of its own. Exact for exponential service times
  and, by insensitivity, for processor sharing with any.
* *Balanced pods* (least outstanding, power of two; and any pod whose workers bind): a pod with k open calls is a closed
  network of its CPU and the time calls are held elsewhere, which works at the speed X(k); the open calls of all pods
  are a birth-death chain in which the balancer keeps pods equal. That is the decomposition of Chandy, Herzog and Woo,
  "Parametric analysis of queuing networks", IBM J. Res. Dev. 19 (1975); exact for one pod. What a balancer leaves
  unequal (power of two; several nodes) is added from the limit of many pods. These are in `balanced`.

Times inside this module are in units of the mean CPU time of a call, speeds in cores.
"""

from __future__ import annotations

import math

from sim_core.compiled import kernel
from sim_core.dataplane.balanced import balanced_point, crowded_point
from sim_core.dataplane.curve import call_speed
from sim_core.dataplane.queueing import (
    gap_factor,
    geometric_sum,
    mixed_cumulants,
    scv_factor,
    third_cumulant_factor,
    third_moment_factors,
    truncated_geometric,
)
from sim_core.dataplane.services.records import (
    CFS_QUOTA,
    FIFO,
    LEAST_OUTSTANDING,
    POWER_OF_TWO,
    PROCESSOR_SHARING,
    ROUND_ROBIN,
)

_LARGE = 1e100


@kernel
def line_scv(load, utilization):
    """SCV of service times as the calls of a pod's line feel it [1].

    Sharing the CPU makes them not matter, as long as every call finds a worker: a line for workers is served in order.
    """
    if load.sharing == FIFO:
        return load.cpu_scv
    in_line = min(1.0, utilization) ** (1.5 * max(0.0, load.workers - load.cores))
    in_line *= min(1.0, load.queue_limit / load.workers)  # where there is one
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
def independent_point(load, point, utilization, held, room):
    """POINT of pods that get their calls without regard to what they have: M/G/c/K, or evener gaps."""
    cores, speed = load.cores, call_speed(load)
    servers = math.ceil(cores / speed - 1e-9)
    busy = utilization * cores
    scv = line_scv(load, utilization)
    plain = scv_factor(scv, servers, utilization)
    factor = max(0.02, plain * gap_factor(load, scv, utilization) / (0.5 * (1.0 + scv)))
    if utilization < 1.0:
        entry = 1.0 / (1.0 - utilization + utilization * factor)
        ratio = utilization * factor * entry
    else:
        entry = 1.0 / factor
        ratio = (utilization - 1.0 + factor) * entry
    log_ratio = math.log(max(1e-12, ratio))
    places = max(1.0, room - servers - min(utilization, 1.0) * cores * held)  # in line for the CPU
    # Weights of 0 .. servers - 1 calls, and of `servers` or more; `last` is that of a full pod.
    weight, idle, busy_sum = 1.0, 1.0, 0.0
    for j in range(1, int(servers)):
        weight *= busy / (j * speed)
        idle += weight
        busy_sum += weight * j * speed
        if weight > _LARGE:  # many servers far beyond their capacity: only ratios count
            weight, idle, busy_sum = 1.0, idle / weight, busy_sum / weight
    weight *= utilization * entry
    if log_ratio > 0.0:
        down = math.exp(-log_ratio * (places - 1.0)) if log_ratio * places < 700.0 else 0.0
        idle, busy_sum = idle * down, busy_sum * down
        line = weight * geometric_sum(-log_ratio, places)
    else:
        line = weight * geometric_sum(log_ratio, places)
    mean_busy = (busy_sum + cores * line) / (idle + line)
    odds = max(0.0, (busy - mean_busy) / cores)
    point.blocked = odds / (1.0 + odds)
    point.waits = line / (idle + line)
    mean_i, variance_i, third_i = truncated_geometric(log_ratio, places)
    # Little's law over all states, the full pod among them.
    waiting = (1.0 - point.blocked) * point.waits * mean_i + point.blocked * places
    accepted = max(1e-300, busy * (1.0 - point.blocked))
    point.wait_s = waiting / accepted
    if load.balancing == ROUND_ROBIN and load.ready > 1.0 and utilization < 1.0:
        # Even gaps let more calls find the CPU idle than at random: fitted to the mean wait of those that wait.
        even = 0.5 * (1.0 / load.ready + scv) + 0.125 * (1.0 - 1.0 / load.ready) * (scv + scv * scv) * (
            1.0 - utilization
        )
        point.waits = min(point.waits, utilization * factor / even)
    # A call that finds i in line waits for i + 1 departures.
    scv_departures = (scv + servers - 1.0) / servers
    mean = (mean_i + 1.0) / cores
    variance = ((mean_i + 1.0) * scv_departures + variance_i) / cores**2
    third = (mean_i + 1.0) * third_cumulant_factor(scv) / servers**2 + 3.0 * variance_i * scv_departures + third_i
    third /= cores**3
    scale = point.wait_s / max(1e-12, point.waits * mean)
    variance, third = mixed_cumulants(point.waits, mean * scale, variance * scale**2, third * scale**3)
    if servers == 1.0 and scv > 1.0 and utilization < 1.0 and load.sharing == FIFO:
        # Takacs: a heavy tail of service times is one of waits.
        m3, _ = third_moment_factors(scv)
        settled = utilization * factor / (1.0 - utilization)
        heavy = settled * settled + utilization * m3 / (3.0 * (1.0 - utilization))
        light = settled * settled * (2.0 / max(utilization, 1e-9) - 1.0)
        part = min(1.0, point.wait_s / max(1e-12, settled * 1.0)) ** 2
        added = 0.4 * max(0.0, heavy - light) * part
        third += 3.0 * added * (point.wait_s + math.sqrt(variance + added))
        variance += added
    point.wait_variance_s2, point.wait_third_s3 = variance, third
    point.extra_variance_s2 = point.extra_third_s3 = 0.0
    alone = 1.0 / speed
    point.open = accepted * (point.wait_s + alone)
    if load.sharing == PROCESSOR_SHARING:
        shared_cumulants(load, point, 0.0)
    elif load.sharing == CFS_QUOTA:
        take_quota(load, point, utilization, False)
        point.open = accepted * (point.wait_s + alone)


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
    if chosen and load.ready > 1.5:
        balanced_point(load, state, point, utilization, load.held_s / unit, room)
        _in_seconds(point, unit)
    elif state.capacity < 1.0:
        crowded_point(load, state, point, utilization, load.held_s / unit, room)
        _in_seconds(point, unit)
    elif load.cold <= 0.0 or load.cold >= load.ready:
        independent_point(load, point, utilization, load.held_s / unit, room)
        _in_seconds(point, unit)
    else:
        # Cold pods get as many calls as warm ones, and may drown in them.
        cold_s, cold = load.cpu_s * load.cold_factor, state.cold
        independent_point(load, point, utilization / slowness, load.held_s / load.cpu_s, room)
        _in_seconds(point, load.cpu_s)
        independent_point(load, cold, utilization / slowness * load.cold_factor, load.held_s / cold_s, room)
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
