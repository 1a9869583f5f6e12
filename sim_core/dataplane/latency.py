"""Latencies as distributions: the slowest of parallel branches, and the histogram of a class."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.queueing import quantile_of_piece, quantile_of_shape, share_within, take_shape
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
_BRANCH_MOVED = 1e-3  # relative change of branches from which on the slowest is worked out anew
_MOVED = 4e-3  # relative change of a latency distribution from which on it is worked out anew (buckets are 2 % wide)
# Gauss-Legendre nodes and weights on [0, 1], for the slowest of branches
# ln(1 + x) on [0, 1] within 4e-6: plenty for buckets of 2 %
_LN = np.polynomial.Chebyshev.interpolate(np.log1p, 6, domain=[0.0, 1.0]).convert(kind=np.polynomial.Polynomial).coef
_LN_2 = math.log(2.0)
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(20)
_LOG_NODES, _NODE_WEIGHTS = np.log(0.5 * (_NODES + 1.0)), 0.5 * _NODE_WEIGHTS
_FAR = 5.0  # standard deviations of a normal variable: nothing lies further out
_TYPICAL = 0.7  # ... where half of the nodes lie below


@kernel
def slowest_branch(steps, flows, branches, row):
    """Cumulants of the time of a PARALLEL from those of its branches, which count as independent.

    E (max - low)^k = integral of k (x - low)^(k-1) (1 - F_1(x) F_2(x) ...) dx from the time `low` on before which some
    branch is surely not done, by Gauss-Legendre; kept until a branch has moved. Where a branch that may be skipped begins
    to be done, the integrand may drop suddenly, and a new piece of the integral begins.

    Args:
        steps, flows: views of the lane's steps; the branches' `sum_` fields are set.
        branches: view of the lane's BRANCH_FLOWs, by `target` of a branch's step.
        row: of the PARALLEL.
    """
    moved, whole = 0.0, 0.0
    branch, end = row + 1, steps[row].end
    while branch < end:
        flow = flows[branch]
        deviation = math.sqrt(flow.sum_variance_s2)
        # branches that move against each other have moved, too
        moved += abs(flow.sum_mean_s + deviation - branches[steps[branch].target].seen)
        whole += flow.sum_mean_s + deviation
        branch = steps[branch].end
    if moved <= _BRANCH_MOVED * whole:
        return
    low, high, typical = 0.0, 0.0, 0.0
    branch = row + 1
    while branch < end:
        flow, own = flows[branch], branches[steps[branch].target]
        own.seen = flow.sum_mean_s + math.sqrt(flow.sum_variance_s2)
        take_shape(own.shape, flow.sum_mean_s, flow.sum_variance_s2, flow.sum_third_s3)
        own.begins_s = quantile_of_shape(own.shape, -_FAR)
        if steps[branch].probability >= 1.0:
            low = max(low, own.begins_s)
        high = max(high, quantile_of_shape(own.shape, _FAR))
        typical = max(typical, quantile_of_shape(own.shape, _TYPICAL))
        branch = steps[branch].end
    first, second, third = 0.0, 0.0, 0.0
    begin = low
    while begin < high:
        until, branch = high, row + 1
        while branch < end:
            begins_s = branches[steps[branch].target].begins_s
            if begin < begins_s < until:
                until = begins_s
            branch = steps[branch].end
        # Half of the nodes lie below what is typical: distributions begin steeply and have long tails.
        width, power = until - begin, 2.0
        if begin < typical < until:
            power = min(6.0, max(1.0, -math.log2((typical - begin) / width)))
        for k in range(len(_LOG_NODES)):
            part = math.exp((power - 1.0) * _LOG_NODES[k])
            time_s = begin + width * part * math.exp(_LOG_NODES[k])
            within, branch = 1.0, row + 1
            while branch < end:
                skipped = 1.0 - steps[branch].probability
                within *= skipped + (1.0 - skipped) * share_within(branches[steps[branch].target].shape, time_s)
                branch = steps[branch].end
            beyond, after = (1.0 - within) * width * power * part * _NODE_WEIGHTS[k], time_s - low
            first += beyond
            second += 2.0 * after * beyond
            third += 3.0 * after * after * beyond
        begin = until
    slowest = flows[row]
    slowest.sum_mean_s = low + first
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
        and abs(variance - booked.variance_s2) <= 2.0 * _MOVED * booked.variance_s2
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
    booked.slow_share = shape.slow_share
    booked.sliced = False


@kernel
def _take_slices(buckets, piece):
    """The buckets of the histogram in which the slices of a PIECE lie."""
    if piece.sd > 0.0 and piece.lognormal == 0.0:  # no branch within, so that slices are worked out side by side
        for k in range(SLICES):
            root = max(0.0, piece.cube_mean + piece.cube_sd * piece.sign * _SLICE_QUANTILES[k])
            buckets[k] = _bucket_of(piece.cube_shift + piece.sign * piece.cube_scale * root * root * root)
    else:
        for k in range(SLICES):
            buckets[k] = _bucket_of(quantile_of_piece(piece, _SLICE_QUANTILES[k]))


@kernel
def book_latency(histogram, booked, shape, requests):
    """Adds requests to a row of `latency` (LATENCY_BUCKETS).

    Args:
        booked: CLASS_FLOW.
        shape: SHAPE that `take_latency` has set last.
    """
    if not booked.sliced:
        booked.sliced = True
        _take_slices(booked.buckets, shape.fast)
        if shape.slow_share > 0.0:
            _take_slices(booked.slow_buckets, shape.slow)
    slow = booked.slow_share * requests
    for k in range(SLICES):
        histogram[booked.buckets[k]] += (requests - slow) * _SLICE_WEIGHTS[k]
    if slow > 0.0:
        for k in range(SLICES):
            histogram[booked.slow_buckets[k]] += slow * _SLICE_WEIGHTS[k]
