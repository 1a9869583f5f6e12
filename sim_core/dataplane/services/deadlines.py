"""Calls in the line of pods that drop whom their callers have given up: who is picked in time, and answered in time.

A call that a worker picks has a time T left until its deadline, then it holds the worker for a time S whether or not
somebody waits for the answer. Where the line never gets as long as to refuse, the wait of a pod that is sought at random
is that of M/M/c + D: T has the density a exp(-a t) on (0, D), over its integral; source: Baccelli and Hebuterne, "On
queues with impatient customers", Performance '81 (1981). A balancer that looks at open calls gives pods as many, so that
one which works them off early gets more: a force back to the mean, by which T is a normal variable, cut at 0. In both, as
much is dropped as there are calls whose time is up just now, so that the density of T at 0 follows from the share that
is dropped.

Where the line has no room for all that come within the deadline, its places are what makes pods equal.

S is a sum or a mixture of two exponential times, after a constant one, of its mean and variance. What is fitted was fitted
to overloaded pods played by `one_service` with deadlines: loads of 1 to 2, 2 to 16 workers, CPU times of scv 0.25 to 4.
"""

from __future__ import annotations

import math

from sim_core.compiled import kernel
from sim_core.dataplane.queueing import truncated_exponential
from sim_core.dataplane.services.records import FIFO, POWER_OF_TWO, ROUND_ROBIN
from sim_core.dataplane.stationary import effective_slowness, keeps_equal

_NONE = 1e-9  # of the calls that are dropped
_SURE = 0.01  # of the calls that are dropped: from so many on the wait for a worker is what decides
_EVEN, _EVEN_OF_TWO = 0.82, 0.9  # spread of waits by least outstanding and the better of two, over that by chance
_FEELS, _FEELS_TOGETHER = 1.1, 0.9  # power by which the variability of CPU times counts in the long run
_BINDS = 4.0  # how soon workers that bind have waits vary as what they do does
_ROOM_ENDS = 6.5  # how sharply the places of a line limit what comes in
_BEGINS = 0.2  # of S, if it varies very much: what it takes at least
_PILES_UP = 3.0  # calls too many within the deadline: from there on times pile up before it
_LEAST_SPREAD = 0.1
_FEW = 0.05  # of an effect that is left out
_HALF = (
    0.502  # squared coefficient of variation below which a constant time is part of S; two equal exponential ones: 0.5
)
_TRIALS = 8
_SHORT = 50.0  # S over T, from which on what is left of T varies as T does
_ROOT_HALF_PI, _ROOT_2 = math.sqrt(0.5 * math.pi), math.sqrt(2.0)


@kernel
def meet_deadline(load, station, places, timeout_s, timed_out, step_flow):
    """The share of admitted calls that are not answered in time [1].

    Args:
        load, station: of the callee.
        places: of the line of a pod [calls].
        timed_out: the same, as the sojourn's cumulants alone have it: what holds where hardly a call is dropped.
        step_flow: the time of those in time, by these cumulants; set.
    """
    dropped = min(0.999, station.here.blocked)
    if dropped <= _NONE:
        return timed_out
    sure = min(1.0, dropped / _SURE)
    served_per_s = load.cores * station.capacity / (load.cpu_s * effective_slowness(load))  # of a pod
    picked_s = load.workers / served_per_s
    # Of what comes within the deadline, the line takes no more than it has places.
    filled = (served_per_s * timeout_s / ((1.0 - dropped) * places)) ** _ROOM_ENDS
    dropped = max(1e-3 * dropped, 1.0 - (1.0 - dropped) * (1.0 + filled) ** (1.0 / _ROOM_ENDS))
    late, mean, variance, third = late_calls(
        load, served_per_s, dropped, timeout_s, picked_s, _picked_variance(load, picked_s), filled / (1.0 + filled)
    )
    step_flow.mean_s += sure * (timeout_s - mean - step_flow.mean_s)
    step_flow.variance_s2 += sure * (variance - step_flow.variance_s2)
    step_flow.third_s3 -= sure * (third + step_flow.third_s3)
    return timed_out + sure * (late - timed_out)


@kernel
def ends_at_deadline(load, station, timeout_s):
    """Whether the times of the calls answered in time pile up before the deadline, so that their cumulants tell how they are
    spread; else most of them are spread evenly, and the sojourns of all, cut there, tell more."""
    dropped = min(0.999, station.here.blocked)
    if keeps_equal(load):
        return dropped >= _SURE
    served_per_s = load.cores * station.capacity / (load.cpu_s * effective_slowness(load))
    return dropped / (1.0 - dropped) * served_per_s * timeout_s >= _PILES_UP


@kernel
def _picked_variance(load, picked_s):
    """Variance of the time that a call holds its worker, where all workers are busy [s^2]."""
    at_cpu = max(load.cpu_s, picked_s - load.held_s)
    scv = load.cpu_scv
    if load.sharing == FIFO:  # one's own service and those of the workers in front
        scv *= load.cpu_s / at_cpu
    return scv * at_cpu * at_cpu + load.held_variance_s2


@kernel
def late_calls(load, served_per_s, dropped, patience_s, picked_s, variance_s2, filled):
    """The share of the calls that are picked in time but not answered so [1], and three cumulants of the time that the others
    have left when they are.

    Args:
        served_per_s: by a pod.
        dropped: share of its calls that are not picked in time [1].
        picked_s, variance_s2: mean and variance of S.
        filled: how far it is the places of the line that limit what comes in [1].
    """
    balanced = keeps_equal(load) and load.ready > 1.5
    together = balanced or filled > _FEW
    excess_s = (1.0 - dropped) / (dropped * served_per_s)
    spread = max(_LEAST_SPREAD, _spread(load, balanced, min(excess_s, patience_s) / picked_s, served_per_s))
    at_end = served_per_s / spread * dropped / (1.0 - dropped)  # density of T at 0
    # S: a constant time and two exponential ones, or one of them.
    scv = max(1e-4, variance_s2 / (picked_s * picked_s))
    constant_s, mean = 0.0, picked_s
    if scv < _HALF:
        mean = picked_s * math.sqrt(scv / _HALF)
        constant_s, scv = picked_s - mean, _HALF
    elif scv > 1.0:
        constant_s = _BEGINS * picked_s * (1.0 - 1.0 / scv)
        mean = picked_s - constant_s
        scv *= (picked_s / mean) ** 2
    if scv < 1.0:
        root = math.sqrt(2.0 * scv - 1.0)
        one, other = 2.0 / (mean * (1.0 + root)), 2.0 / (mean * (1.0 - root))
        weight = other / (other - one)
    else:
        root = math.sqrt((scv - 1.0) / (scv + 1.0))
        one, other = (1.0 - root) / mean, (1.0 + root) / mean
        weight = 0.5 * (1.0 - root)
    # T beyond the constant time, and the Laplace transform of it
    if together:
        pull = served_per_s / ((1.0 - dropped) * spread * patience_s)
        pull *= max(filled, 1.0 - 1.0 / load.ready) if balanced else filled
        root = math.sqrt(pull)
        first = root * _place_of_hazard(at_end / root)
        start = first + pull * constant_s
        whole = _mills(start / root)
        reached = whole / _mills(first / root) * math.exp(-constant_s * (first + 0.5 * pull * constant_s))
        at_one, at_other = _mills((start + one) / root) / whole, _mills((start + other) / root) / whole
        m1 = max(0.0, root / whole - start) / pull
        m2 = (1.0 - start * m1) / pull
        m3 = (2.0 * m1 - start * m2) / pull
    else:
        rate = _rate_of_density(at_end * patience_s) / patience_s
        left_s = max(1e-9 * patience_s, patience_s - constant_s)
        whole = _decays(rate, left_s)
        reached = 0.0
        if constant_s < patience_s:
            reached = math.exp(-rate * constant_s) * whole / _decays(rate, patience_s)
        at_one, at_other = _decays(rate + one, left_s) / whole, _decays(rate + other, left_s) / whole
        mean, variance, third = truncated_exponential(rate * left_s)
        m1, m2 = left_s * mean, left_s**2 * (variance + mean * mean)
        m3 = left_s**3 * (third + 3.0 * mean * variance + mean**3)
    rest = 1.0 - weight
    answered = 1.0 - weight * at_one - rest * at_other
    if reached * answered < 1e-9:
        return 1.0, 0.0, 0.0, 0.0
    if at_end * picked_s < _SHORT:
        # Moments of what is left of T after S: those of T - S, less those of what S takes beyond T.
        s1, s2, s3 = weight / one, weight / one**2, weight / one**3
        t1, t2, t3 = rest / other, rest / other**2, rest / other**3
        beyond = m1 - s1 - t1 + s1 * at_one + t1 * at_other
        square = m2 - 2.0 * m1 * (s1 + t1) + 2.0 * (s2 * (1.0 - at_one) + t2 * (1.0 - at_other))
        cube = m3 - 3.0 * m2 * (s1 + t1) + 6.0 * m1 * (s2 + t2)
        cube -= 6.0 * (s3 * (1.0 - at_one) + t3 * (1.0 - at_other))
        m1, m2, m3 = beyond / answered, square / answered, cube / answered
    m1 = min(patience_s, max(0.0, m1))
    variance = max(0.0, m2 - m1 * m1)
    most = 2.0 * variance * math.sqrt(variance)
    third = m3 - 3.0 * m1 * m2 + 2.0 * m1**3
    return 1.0 - reached * answered, m1, variance, min(most, max(-most, third))


@kernel
def _spread(load, balanced, long, served_per_s):
    """How unevenly work comes to a pod and is done there, over that of Poisson arrivals and exponential times [1]. Fitted.

    Several calls that are worked on end nearly at random at first, however variable their CPU times are.

    Args:
        long: T over S, about [1].
    """
    scv = load.cpu_scv ** min(1.0, (_FEELS_TOGETHER if balanced else _FEELS) * long / (1.0 + long))
    free = load.cores / (load.cpu_s * effective_slowness(load) * served_per_s)  # 1: workers do not bind
    whole = load.cpu_s + load.held_s
    scv += min(1.0, _BINDS * (1.0 - 1.0 / max(1.0, free))) * (
        (load.cpu_scv * load.cpu_s**2 + load.held_variance_s2) / whole**2 - scv
    )
    if balanced:
        return (_EVEN_OF_TWO if load.balancing == POWER_OF_TWO else _EVEN) * scv
    gaps = 1.0 / load.ready if load.balancing == ROUND_ROBIN else 1.0
    return 0.5 * (gaps + scv)


@kernel
def _decays(rate, time_s):
    """The integral of exp(-rate t) over a time [s]."""
    if abs(rate) * time_s < 1e-9:
        return time_s
    return -math.expm1(-rate * time_s) / rate


@kernel
def _mills(x):
    """P(Z > x) over the density of Z at x, Z standard normal."""
    if x > 25.0:
        square = x * x
        return (1.0 - (1.0 - 3.0 / square) / square) / x
    return _ROOT_HALF_PI * math.exp(0.5 * x * x) * math.erfc(x / _ROOT_2)


@kernel
def _place_of_hazard(hazard):
    """Where the hazard of a standard normal variable, 1 over `_mills`, is that; by Newton's method, no further out than -8.

    The hazard is convex: from above every step falls short.
    """
    x = 0.0
    if hazard > 0.8:
        x = hazard - 1.0 / hazard
    elif hazard < 0.3:
        x = max(-8.0, -math.sqrt(-2.0 * math.log(2.0 * _ROOT_HALF_PI * max(1e-15, hazard))))
    for _ in range(_TRIALS):
        here = 1.0 / _mills(x)
        x = max(-8.0, x - (here - hazard) / max(1e-12, here * (here - x)))
    return x


@kernel
def _rate_of_density(density):
    """The rate x with which an exponential distribution, cut at 1, begins with this density: x / (1 - exp(-x))."""
    x = max(0.01, density)  # convex, too
    for _ in range(_TRIALS):
        if abs(x) < 0.01:
            x = 0.01
        lost = -math.expm1(-x)
        x = max(-20.0, x - (x / lost - density) * lost * lost / (lost - x * (1.0 - lost)))
    return x if abs(x) >= 0.01 else 0.01
