"""Latencies as distributions: the slowest of parallel branches, and the histogram of a class."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.queueing import quantile_of_shape, share_within, take_shape
from sim_core.dataplane.services.flows import SLICES
from sim_core.dataplane.services.kinds import LATENCY_BUCKETS, LATENCY_MAX_S, LATENCY_MIN_S

_LOG_MIN = math.log(LATENCY_MIN_S)
_BUCKETS_PER_LOG = LATENCY_BUCKETS / math.log(LATENCY_MAX_S / LATENCY_MIN_S)
# A latency distribution is written down as these points: normal quantiles at the middles of slices of probability,
# thinner where the tail counts. The 95th and the 99th percentile are middles of their slices.
_EDGES = np.array([0.0, 0.05, 0.15, 0.3, 0.45, 0.55, 0.7, 0.84, 0.93, 0.97, 0.985, 0.995, 1.0])
_SLICE_WEIGHTS = np.diff(_EDGES)
# scipy.stats.norm.ppf((_EDGES[1:] + _EDGES[:-1]) / 2), written out so that importing the kernels stays light
_SLICE_QUANTILES = np.array([
    -1.959963985, -1.281551566, -0.755415026, -0.318639364, 0.0, 0.318639364, 0.738846849, 1.200358858,
    1.644853627, 2.004654462, 2.326347874, 2.807033768,
])  # fmt: skip
_MOVED = 1e-3  # relative change of a latency distribution from which on it is worked out anew
# Gauss-Legendre nodes and weights on [0, 1], for the slowest of branches
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(24)
_NODES, _NODE_WEIGHTS = 0.5 * (_NODES + 1.0), 0.5 * _NODE_WEIGHTS
# ln(1 + x) on [0, 1] within 4e-6: plenty for buckets of 2 %
_LN = np.polynomial.Chebyshev.interpolate(np.log1p, 6, domain=[0.0, 1.0]).convert(kind=np.polynomial.Polynomial).coef
_LN_2 = math.log(2.0)
_FAR = 6.0  # standard deviations beyond the mean of the slowest branch: nothing lies further


@kernel
def slowest_branch(steps, flows, row):
    """Cumulants of the time of a PARALLEL from those of its branches, which count as independent.

    E max^k = integral of k x^(k-1) (1 - F_1(x) F_2(x) ...) dx, by Gauss-Legendre; kept until a branch has moved.

    Args:
        steps, flows: views of the lane's steps; the branches' `sum_` fields are set.
        row: of the PARALLEL.
    """
    moved, whole, far = 0.0, 0.0, 0.0
    branch, end = row + 1, steps[row].end
    while branch < end:
        flow = flows[branch]
        deviation = math.sqrt(flow.sum_variance_s2)
        moved += abs(flow.sum_mean_s + deviation - flow.seen)  # branches that move against each other have moved, too
        whole += flow.sum_mean_s + deviation
        far = max(far, flow.sum_mean_s + _FAR * deviation)
        branch = steps[branch].end
    if moved <= _MOVED * whole:
        return
    slowest = flows[row]
    branch = row + 1
    while branch < end:
        flow = flows[branch]
        flow.seen = flow.sum_mean_s + math.sqrt(flow.sum_variance_s2)
        take_shape(flow.shape, flow.sum_mean_s, flow.sum_variance_s2, flow.sum_third_s3)
        branch = steps[branch].end
    first, second, third = 0.0, 0.0, 0.0
    for k in range(len(_NODES)):
        time_s = far * _NODES[k] * _NODES[k]  # more nodes where distributions begin
        weight = far * 2.0 * _NODES[k] * _NODE_WEIGHTS[k]
        within = 1.0
        branch = row + 1
        while branch < end:
            skipped = 1.0 - steps[branch].probability
            within *= skipped + (1.0 - skipped) * share_within(flows[branch].shape, time_s)
            branch = steps[branch].end
        beyond = (1.0 - within) * weight
        first += beyond
        second += 2.0 * time_s * beyond
        third += 3.0 * time_s * time_s * beyond
    slowest.sum_mean_s = first
    slowest.sum_variance_s2 = max(0.0, second - first * first)
    slowest.sum_third_s3 = third - 3.0 * first * second + 2.0 * first**3


@kernel
def _bucket_of(time_s):
    """The bucket of the histogram in which a time lies; times beyond its edges lie in the outermost."""
    bits = np.float64(max(LATENCY_MIN_S, time_s)).view(np.int64)
    part = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64) - 1.0
    log = _LN[6]
    for k in range(5, -1, -1):
        log = log * part + _LN[k]
    log += ((bits >> 52) - 1023) * _LN_2
    return int(max(0.0, min((log - _LOG_MIN) * _BUCKETS_PER_LOG, LATENCY_BUCKETS - 1.0)))


@kernel
def take_latency(booked, flow, threshold_s, own_threshold_s):
    """Works the latency distribution of a class out anew where it has moved since it was booked last.

    Args:
        booked: CLASS_FLOW.
        flow: ENDPOINT_FLOW where requests of the class enter; its `shape` is set.
    """
    mean, variance, third = flow.mean_s, flow.variance_s2, flow.third_s3
    if (
        abs(mean - booked.mean_s) <= _MOVED * booked.mean_s
        and abs(variance - booked.variance_s2) <= _MOVED * booked.variance_s2
        and abs(third - booked.third_s3) <= 4.0 * _MOVED * abs(booked.third_s3)
    ):
        return
    booked.mean_s, booked.variance_s2, booked.third_s3 = mean, variance, third
    shape = flow.shape
    take_shape(shape, mean, variance, third)
    booked.within = share_within(shape, threshold_s)
    booked.within_own = booked.within
    if own_threshold_s != threshold_s:
        booked.within_own = share_within(shape, own_threshold_s)
    if shape.sd > 0.0 and shape.lognormal == 0.0:  # no branch within, so that slices are worked out side by side
        for k in range(SLICES):
            root = max(0.0, shape.cube_mean + shape.cube_sd * shape.sign * _SLICE_QUANTILES[k])
            booked.buckets[k] = _bucket_of(shape.cube_shift + shape.sign * shape.cube_scale * root * root * root)
    else:
        for k in range(SLICES):
            booked.buckets[k] = _bucket_of(quantile_of_shape(shape, _SLICE_QUANTILES[k]))


@kernel
def book_latency(histogram, booked, requests):
    """Adds requests to a row of `latency` (LATENCY_BUCKETS)."""
    for k in range(SLICES):
        histogram[booked.buckets[k]] += requests * _SLICE_WEIGHTS[k]
