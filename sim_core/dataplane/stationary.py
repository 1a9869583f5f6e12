"""The stationary station: what a pod's queue settles at, for any utilization, balancer, sharing of the CPU, and room.

Two models, each exact where its assumptions hold:

* *Independent pods* (random, round robin): every pod is a chain of its own calls (`independent`). Exact for exponential
  service times, but for what is fitted beyond.
* *Balanced pods* (least outstanding, power of two; and any pod whose workers bind): a pod with k open calls is a closed
  network of its CPU and the time calls are held elsewhere, which works at the speed X(k); the open calls of all pods
  are a birth-death chain in which the balancer keeps pods equal. That is the decomposition of Chandy, Herzog and Woo,
  "Parametric analysis of queuing networks", IBM J. Res. Dev. 19 (1975); exact for one pod. What a balancer leaves
  unequal (power of two; several nodes) is added from the limit of many pods. These are in `balanced`.

Times inside this module are in units of the mean CPU time of a call, speeds in cores.
"""

from __future__ import annotations

from sim_core.compiled import glue, kernel
from sim_core.dataplane.balanced import balanced_point, crowded_point
from sim_core.dataplane.curve import call_speed
from sim_core.dataplane.independent import independent_point
from sim_core.dataplane.known import copy_point, mix_points, scale_times
from sim_core.dataplane.services.records import LEAST_OUTSTANDING, POWER_OF_TWO, RANDOM


@kernel
def keeps_equal(load):
    """Whether the balancer looks at open calls, and so keeps pods about equal."""
    return load.balancing == LEAST_OUTSTANDING or load.balancing == POWER_OF_TWO


@kernel
def take_point(load, state, point, utilization):
    """Sets POINT, times in seconds."""
    point.utilization = utilization
    if utilization <= 0.0:
        point.open = point.blocked = point.waits = point.wait_s = 0.0
        point.wait_variance_s2 = point.wait_third_s3 = point.extra_variance_s2 = point.extra_third_s3 = 0.0
        return
    balancing, share = load.balancing, chance_counts(load, utilization)
    state.pure.utilization = utilization
    for at_random in range(2):
        weight = share if at_random == 1 else 1.0 - share
        if weight > 0.0:
            if at_random == 1:
                load.balancing = RANDOM
            _take_pure_point(load, state, state.pure, utilization)
            load.balancing = balancing
            if weight >= 1.0 or at_random == 0:
                copy_point(point, state.pure)
            else:
                _add_chance(load, point, state.pure, weight)


@kernel
def _add_chance(load, point, pure, share):
    """Takes a POINT a share of the way to that of chance.

    Lines that sticky calls alone make unequal are as much shorter as their load is further from saturation: of so much smaller
    times the variance counts once less, and the third cumulant twice.
    """
    smaller = 1.0
    if keeps_equal(load):
        smaller = (1.0 - point.utilization) / (1.0 - load.sticky_share * point.utilization)
    variance_s2, extra_variance_s2 = point.wait_variance_s2, point.extra_variance_s2
    third_s3, extra_third_s3 = point.wait_third_s3, point.extra_third_s3
    mix_points(point, point, pure, share)
    share *= smaller
    point.wait_variance_s2 = variance_s2 + share * (pure.wait_variance_s2 - variance_s2)
    point.extra_variance_s2 = extra_variance_s2 + share * (pure.extra_variance_s2 - extra_variance_s2)
    share *= smaller
    point.wait_third_s3 = third_s3 + share * (pure.wait_third_s3 - third_s3)
    point.extra_third_s3 = extra_third_s3 + share * (pure.extra_third_s3 - extra_third_s3)


@kernel
def chance_counts(load, utilization):
    """How far sticky calls, which go to pods at random, take a station from what its balancer makes of the others [1].

    A balancer that looks at open calls evens out with its share what chance does with the rest: pods are as unequal as
    under the sticky calls alone. Fitted to least outstanding at loads of 0.5 to 0.8, within 0.06.
    """
    share = load.sticky_share
    if share <= 0.0 or load.balancing == RANDOM:
        return 0.0
    if not keeps_equal(load) or share >= 1.0:
        return share
    if utilization >= 1.0:
        return 0.0
    both = share * utilization
    return share ** (1.1 + 0.5 * both) * (1.0 - utilization) / (1.0 - both)


@glue
def _take_pure_point(load, state, point, utilization):
    """The same where all calls go where the balancer sends them."""
    unit = load.cpu_s * effective_slowness(load)
    room = load.workers + load.queue_limit
    if keeps_equal(load) and load.ready > 1.5:
        balanced_point(load, state, point, utilization, load.held_s / unit, room)
    elif state.capacity < 1.0 and state.stride > 1.0:
        crowded_point(load, state, point, utilization, load.held_s / unit, room)
    else:
        independent_point(load, state, point, utilization, load.held_s / unit, room)
    scale_times(point, unit)
    point.open = max(0.0, min(point.open, room))  # approximations may dip below nothing where workers are few
    point.wait_s, point.wait_variance_s2 = max(0.0, point.wait_s), max(0.0, point.wait_variance_s2)


@kernel
def effective_slowness(load):
    """CPU time of a call over that on a warm pod, on the mean [1]: each pod is given what it can take."""
    if load.cold <= 0.0:
        return 1.0
    return load.ready / (load.ready - load.cold * (1.0 - 1.0 / load.cold_factor))


@kernel
def stretch_of(load):
    """Time of a CPU step without any wait over its CPU time on a warm pod [1]."""
    if load.ready < 0.5:
        return 1.0
    return effective_slowness(load) / call_speed(load)
