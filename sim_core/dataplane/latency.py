"""Latencies as distributions: the slowest of parallel branches, and the histogram of a class."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.queueing import (
    quantile_of_piece,
    quantile_of_shape,
    share_of_piece,
    share_within,
    take_apart,
    take_shape,
    without,
)
from sim_core.dataplane.services.flows import SLICES
from sim_core.dataplane.services.kinds import LATENCY_BUCKETS, LATENCY_MAX_S, LATENCY_MIN_S

_LOG_MIN = math.log(LATENCY_MIN_S)
_BUCKETS_PER_LOG = LATENCY_BUCKETS / math.log(LATENCY_MAX_S / LATENCY_MIN_S)
# A latency distribution is written down as these points: normal quantiles at the middles of slices of probability,
# thinner where the tail counts. The 50th, 90th, 95th and 99th percentile are middles of theirs.
_EDGES = np.array([
    0.0, 0.03, 0.09, 0.17, 0.25, 0.33, 0.41, 0.47, 0.53, 0.59,
    0.67, 0.75, 0.82, 0.88, 0.92, 0.94, 0.96, 0.975, 0.985, 0.995,
    1.0,
])  # fmt: skip
_SLICE_WEIGHTS, _SLICE_MIDDLES = np.diff(_EDGES), 0.5 * (_EDGES[1:] + _EDGES[:-1])
_SLICE_TAILS = -np.log1p(-_SLICE_MIDDLES)
# scipy.stats.norm.ppf(_SLICE_MIDDLES), written out so that importing the kernels stays light
_SLICE_QUANTILES = np.array([
    -2.170090378, -1.554773595, -1.126391129, -0.806421247, -0.553384720, -0.331853346, -0.150969215,
    0.0, 0.150969215, 0.331853346, 0.553384720, 0.789191653, 1.036433389, 1.281551566,
    1.475791028, 1.644853627, 1.845258117, 2.053748911, 2.326347874, 2.807033768,
])  # fmt: skip
# Normal quantiles at which the pieces of a distribution are looked at, and their shares (scipy.stats.norm.cdf)
_POINTS = np.array([-2.2, -1.4, -0.8, -0.3, 0.2, 0.7, 1.2, 1.7, 2.3, 3.0])
_POINT_SHARES = np.array([
    0.013903448, 0.080756659, 0.211855399, 0.382088578, 0.579259709, 0.758036348, 0.884930330,
    0.955434537, 0.989275890, 0.998650102,
])  # fmt: skip
_BRANCH_MOVED = 1e-3  # relative change of branches from which on the slowest is worked out anew
_FEW = 1e-3  # of requests: where no more are in time, it does not matter how they are spread
_MOVED = 4e-3  # relative change of a latency distribution from which on it is worked out anew, in ticks of a second
_WRITTEN = 1e-2  # ... and written down anew: half the width of a bucket
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
def take_latency(booked, flow, threshold_s, own_threshold_s, moved=_MOVED):
    """Works the latency distribution of a class out anew where it has moved since it was booked last.

    It is that of all requests, if nobody gave up, cut off where so many remain as did not: up to the shortest timeout that
    is exact, whatever the shape. (A shape of the cumulants that a cut leaves has forgotten how the cut one began.) Where
    calls are told apart, which ones gave up is known of each part, and their cumulants are cut already.

    Args:
        booked: CLASS_FLOW.
        flow: ENDPOINT_FLOW where requests of the class enter; its `shape` is set.
        moved: relative change of its times from which on it is worked out anew.
    """
    in_time, apart = 1.0 - flow.given_up, flow.apart
    mean, variance, third = flow.mean_s, flow.variance_s2, flow.third_s3
    if in_time > _FEW and apart.share <= 0.0:
        mean, variance, third = mean + flow.lost_mean_s, variance + flow.lost_variance_s2, third + flow.lost_third_s3
    if in_time <= _FEW or in_time >= 1.0 - _FEW or apart.share > 0.0:
        in_time = 1.0
    others = abs(apart.share - booked.apart_share) > moved * booked.apart_share
    if not others and not _has_moved(mean, variance, third, booked.mean_s, booked.variance_s2, booked.third_s3, moved):
        return
    booked.mean_s, booked.variance_s2, booked.third_s3 = mean, variance, third
    booked.apart_share = apart.share
    shape = flow.shape
    if apart.share > 0.0:
        mean, variance, third = without(apart, mean, variance, third)
    take_shape(shape, mean, variance, third)
    booked.within = min(1.0, share_within(shape, threshold_s) / in_time)
    booked.within_own = booked.within
    if own_threshold_s != threshold_s:
        booked.within_own = min(1.0, share_within(shape, own_threshold_s) / in_time)
    if apart.share > 0.0:
        take_apart(flow.apart_piece, apart)
        booked.within += apart.share * (share_of_piece(flow.apart_piece, threshold_s) - booked.within)
        booked.within_own += apart.share * (share_of_piece(flow.apart_piece, own_threshold_s) - booked.within_own)
    booked.in_time, booked.sliced = in_time, False
    if others:
        booked.written_mean_s = -1.0


@kernel
def moved_in_ticks_of(tick_s):
    """The change from which on distributions are worked out anew: as coarse as the ticks are, and never finer."""
    return _MOVED * max(1.0, tick_s)


@kernel
def _has_moved(mean, variance, third, mean_before, variance_before, third_before, by):
    """Whether three cumulants have moved by this relative change of times."""
    return (
        abs(mean - mean_before) > by * mean_before
        or abs(variance - variance_before) > 2.0 * by * variance_before
        or abs(third - third_before) > 4.0 * by * abs(third_before)
    )


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
def _take_slices_between(buckets, shape, in_time):
    """The same of the quickest `in_time` of a SHAPE [1].

    They are read between quantiles of both pieces, where the SHAPE is known; between two of these it counts as an exponential
    distribution.
    """
    n_points, slow_share = len(_POINTS), shape.slow_share
    i, j, k = 0, 0 if slow_share > 0.0 else n_points, 0
    fast = quantile_of_piece(shape.fast, _POINTS[0])
    slow = quantile_of_piece(shape.slow, _POINTS[0]) if j == 0 else math.inf
    last, last_s = 0.0, min(fast, slow)  # the point before, as the negative logarithm of what lies beyond
    aim = _tail_of_slice(0, in_time)
    while i < n_points or j < n_points:
        time_s = min(fast, slow)
        if fast <= slow:
            within = _POINT_SHARES[i]
            if slow_share > 0.0:
                within += slow_share * (share_of_piece(shape.slow, time_s) - within)
            i += 1
            fast = quantile_of_piece(shape.fast, _POINTS[i]) if i < n_points else math.inf
        else:
            within = share_of_piece(shape.fast, time_s)
            within += slow_share * (_POINT_SHARES[j] - within)
            j += 1
            slow = quantile_of_piece(shape.slow, _POINTS[j]) if j < n_points else math.inf
        here = -math.log(max(1e-9, 1.0 - within))
        while aim <= here:
            part = (aim - last) / (here - last) if here > last else 1.0
            buckets[k] = _bucket_of(last_s + part * (time_s - last_s))
            k += 1
            if k == SLICES:
                return
            aim = _tail_of_slice(k, in_time)
        last, last_s = here, time_s
    for rest in range(k, SLICES):
        buckets[rest] = _bucket_of(last_s)


@kernel
def _tail_of_slice(k, in_time):
    """The negative logarithm of what lies beyond the middle of a slice of the quickest `in_time`."""
    return _SLICE_TAILS[k] if in_time == 1.0 else -math.log1p(-in_time * _SLICE_MIDDLES[k])


@kernel
def book_latency(histogram, booked, flow, requests):
    """Adds requests to a row of `latency` (LATENCY_BUCKETS).

    Args:
        booked: CLASS_FLOW.
        flow: ENDPOINT_FLOW, as `take_latency` has set it last.
    """
    if not booked.sliced:
        booked.sliced = True
        _write_down(booked, flow)
    if booked.apart_share > 0.0:
        apart = booked.apart_share * requests
        for k in range(SLICES):
            histogram[booked.apart_buckets[k]] += apart * _SLICE_WEIGHTS[k]
        requests -= apart
    for k in range(SLICES):
        histogram[booked.buckets[k]] += requests * _SLICE_WEIGHTS[k]


@kernel
def _write_down(booked, flow):
    """Sets the slices of a distribution that has moved since they were set."""
    if not _has_moved(
        booked.mean_s, booked.variance_s2, booked.third_s3,
        booked.written_mean_s, booked.written_variance_s2, booked.written_third_s3, _WRITTEN,
    ):  # fmt: skip
        return
    booked.written_mean_s, booked.written_variance_s2 = booked.mean_s, booked.variance_s2
    booked.written_third_s3 = booked.third_s3
    if flow.shape.slow_share <= 0.0 and booked.in_time == 1.0:
        _take_slices(booked.buckets, flow.shape.fast)
    else:
        _take_slices_between(booked.buckets, flow.shape, booked.in_time)
    if booked.apart_share > 0.0:
        _take_slices(booked.apart_buckets, flow.apart_piece)
