"""Calls of independent pods that are told apart: no shape of three cumulants is like all of them together.

A pod whose calls share the CPU, with a finite room and just above saturation, is mostly full, but now and then nearly empty:
states are as in a truncated geometric distribution that rises towards the room. Calls that find less than half of it are told
apart (*early* ones). Where CPU times vary more than exponential ones, it is the sharing that counts: a call takes its own CPU
time times those that share, beside a wait for a worker that is about the same for all. Calls of long CPU times are told apart
(*long* ones). Below saturation it is very variable calls that are served one after the other: those that find their pod idle
are quick. Any part of each may be told apart: with the cumulants of both, a mixture has those of all.
"""

from __future__ import annotations

import math

from sim_core.compiled import kernel
from sim_core.dataplane.curve import call_speed
from sim_core.dataplane.queueing import line_log_ratio, scv_factor, third_cumulant_factor
from sim_core.dataplane.services.records import FIFO, PROCESSOR_SHARING, RANDOM, ROUND_ROBIN
from sim_core.dataplane.stationary import keeps_equal

_EARLY = 0.5  # of the places
_MOST_PLACES = 500  # rooms so large fill too rarely for that, and their states are many
_LONG = 1.3  # CPU time over the mean
_VARIABLE = 1.2  # scv from which on it is the long ones, or those that need not wait
_BEGINS = 0.03  # overload from which on all of them are told apart
_FEW = 1e-3  # of the calls: so few are not told apart
_SQRT_HALF = math.sqrt(0.5)


@kernel
def tell_overload_apart(load, met, flow, cpu_s, cpu_scv):
    """Sets `flow.apart` where independent pods are overloaded, and leaves it elsewhere.

    Args:
        load: LOAD, of pods that have workers enough to keep their CPU busy.
        met: POINT, what the calls met, in overload.
        flow: ENDPOINT_FLOW whose cumulants are set.
        cpu_s, cpu_scv: CPU time of its calls: mean, and variance over squared mean.
    """
    if load.sharing != PROCESSOR_SHARING:
        return
    begun = min(1.0, (met.utilization - 1.0) / _BEGINS)
    if cpu_scv > _VARIABLE:
        if load.balancing == RANDOM or load.balancing == ROUND_ROBIN:
            _tell_long_apart(load, flow, cpu_s, cpu_scv, begun)
    elif load.balancing == RANDOM:
        _tell_early_apart(load, met, flow, begun)


@kernel
def tell_served_at_once(load, utilization, flow, mean, variance, third):
    """Tells calls apart that find a pod idle, where very variable ones are served one after the other, and leaves others.

    Three cumulants of all such calls know little of how many are quick. Arrivals at random find a pod of one server idle as
    long as it is; even gaps find it idle more often (fitted to exact plays of 2 to 40 pods, utilizations of 0.5 to 0.95 and
    scv 2 to 8: within 0.014). Half of them are told apart: with the shape that all others get, that is nearest to the
    attainments of such pods.

    Args:
        mean, variance, third: of a call that does not wait.
    """
    if load.sharing != FIFO or load.cpu_scv <= _VARIABLE or keeps_equal(load):
        return
    idle = 1.0 - utilization
    if load.balancing == ROUND_ROBIN:
        even = (1.0 - 1.0 / load.ready) ** 1.26
        idle *= 1.0 + 1.33 * even * (1.0 + load.cpu_scv) ** -0.4 * utilization**0.64 / load.nodes
    flow.apart.share = 0.5 * idle
    flow.apart.mean_s, flow.apart.variance_s2, flow.apart.third_s3 = mean, variance, third


@kernel
def _tell_early_apart(load, met, flow, begun):
    """Calls that find less than half of the places taken, by the states of the pod's chain, times in those of a departure.

    A call that finds k of them waits for those in line and then takes its CPU time times all that share.

    Args:
        begun: share of them that is told apart [1].
    """
    unit, scv = load.cpu_s / load.cores, load.cpu_scv
    with_backends = load.held_s / unit
    sharing = int(max(0.0, load.workers - with_backends - load.cores))
    places = int(load.workers + load.queue_limit - with_backends - load.cores)
    to_share = line_log_ratio(met.utilization, 1.0)
    to_line = line_log_ratio(met.utilization, max(0.02, scv_factor(scv, math.ceil(load.cores), met.utilization)))
    if places > _MOST_PLACES or _EARLY * places * min(to_share, to_line) > -math.log(_FEW):
        return
    to_share, to_line = math.exp(to_share), math.exp(to_line)
    skewness = third_cumulant_factor(scv)
    weight, total, early = 1.0, 0.0, 0.0
    first, second, third = 0.0, 0.0, 0.0
    for k in range(places):
        total += weight
        if k < _EARLY * places:
            early = total
            line = max(0.0, k - sharing)
            beside = k - line + 1.0
            mean = line + beside
            variance = scv * (line + beside * beside)
            skewed = skewness * (line + beside**3)
            first += weight * mean
            second += weight * (variance + mean * mean)
            third += weight * (skewed + 3.0 * mean * variance + mean**3)
        weight *= to_share if k < sharing else to_line
    if begun * early <= _FEW * total:
        return
    first, second, third = first / early, second / early, third / early
    variance = second - first * first
    skewed = third - 3.0 * first * variance - first**3
    alone, apart = load.cpu_s / call_speed(load), flow.apart
    apart.share = begun * early / total
    apart.mean_s = flow.mean_s - met.wait_s - alone + first * unit
    waited_s2 = met.wait_variance_s2 + met.extra_variance_s2 + scv * alone**2
    apart.variance_s2 = max(0.0, flow.variance_s2 - waited_s2 + variance * unit**2)
    waited_s3 = met.wait_third_s3 + met.extra_third_s3 + skewness * alone**3
    apart.third_s3 = flow.third_s3 - waited_s3 + skewed * unit**3


@kernel
def _tell_long_apart(load, flow, cpu_s, cpu_scv, begun):
    """Calls whose CPU time, a lognormal one, is longer than on the mean: it is stretched by all that share."""
    sharing = max(load.cores, load.workers - load.cores * load.held_s / load.cpu_s)
    shared_s = cpu_s * sharing / load.cores
    others_s2 = flow.variance_s2 - cpu_scv * shared_s * shared_s
    if others_s2 <= 0.0 or flow.mean_s <= shared_s:  # lines are still to fill
        return
    log_variance = math.log1p(cpu_scv)
    log_sd = math.sqrt(log_variance)
    place = math.log(_LONG) / log_sd + 0.5 * log_sd
    long = _beyond(place)
    first = _beyond(place - log_sd) / long
    second = math.exp(log_variance) * _beyond(place - 2.0 * log_sd) / long
    third = math.exp(3.0 * log_variance) * _beyond(place - 3.0 * log_sd) / long
    variance = second - first * first
    skewed = third - 3.0 * first * variance - first**3
    apart = flow.apart
    apart.share = begun * long
    apart.mean_s = flow.mean_s + (first - 1.0) * shared_s
    apart.variance_s2 = others_s2 + variance * shared_s**2
    apart.third_s3 = flow.third_s3 + (skewed - third_cumulant_factor(cpu_scv)) * shared_s**3


@kernel
def _beyond(place):
    """P(Z > place) of a standard normal variable."""
    return 0.5 * math.erfc(place * _SQRT_HALF)
