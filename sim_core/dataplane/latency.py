"""Latencies as distributions: lognormal by two moments, the maximum of branches, and the histogram of a class."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.services.records import LATENCY_BUCKETS, LATENCY_MAX_S, LATENCY_MIN_S

_SQRT_HALF = math.sqrt(0.5)
_NORMAL_DENSITY_0 = 1.0 / math.sqrt(2.0 * math.pi)
_LOG_MIN = math.log(LATENCY_MIN_S)
_BUCKETS_PER_LOG = LATENCY_BUCKETS / math.log(LATENCY_MAX_S / LATENCY_MIN_S)
# A latency distribution is written down as these points: normal quantiles at the middles of slices of probability,
# thinner where the tail counts.
_EDGES = np.array([0.0, 0.12, 0.32, 0.55, 0.75, 0.88, 0.94, 0.97, 0.985, 0.995, 1.0])
_SLICE_WEIGHTS = np.diff(_EDGES)
# scipy.stats.norm.ppf((_EDGES[1:] + _EDGES[:-1]) / 2), written out so that importing the kernels stays light
_SLICE_QUANTILES = np.array(
    [-1.55477, -0.77219, -0.16366, 0.38532, 0.89647, 1.34076, 1.69540, 2.00465, 2.32635, 2.80703]
)


@kernel
def lognormal_tail(mean, variance, threshold):
    """P(X > threshold) of the lognormal distribution with this mean and variance."""
    if variance <= 1e-12 * mean * mean:
        return 1.0 if mean > threshold else 0.0
    log_variance = math.log1p(variance / (mean * mean))
    log_mean = math.log(mean) - 0.5 * log_variance
    return 0.5 * math.erfc((math.log(threshold) - log_mean) / math.sqrt(log_variance) * _SQRT_HALF)


@kernel
def join(slowest, mean, variance):
    """Takes one more branch into the time of the slowest: `slowest.sum_mean_s`, `sum_variance_s2` become the moments of
    the maximum. The branches count as independent and normal.

    Source: Clark, "The greatest of a finite set of random variables", Operations Research 9 (1961).
    """
    first, first_variance = slowest.sum_mean_s, slowest.sum_variance_s2
    if first == 0.0 and first_variance == 0.0:
        slowest.sum_mean_s, slowest.sum_variance_s2 = mean, variance
        return
    spread = math.sqrt(first_variance + variance)
    if spread <= 1e-9 * (first + mean):
        slowest.sum_mean_s = max(first, mean)
        slowest.sum_variance_s2 = max(first_variance, variance)
        return
    apart = (first - mean) / spread
    first_wins = 0.5 * math.erfc(-apart * _SQRT_HALF)
    density = spread * _NORMAL_DENSITY_0 * math.exp(-0.5 * apart * apart)
    greatest = first * first_wins + mean * (1.0 - first_wins) + density
    square = (
        (first * first + first_variance) * first_wins
        + (mean * mean + variance) * (1.0 - first_wins)
        + (first + mean) * density
    )
    slowest.sum_mean_s = greatest
    slowest.sum_variance_s2 = max(0.0, square - greatest * greatest)


@kernel
def book_latency(histogram, requests, log_mean, log_sd):
    """Adds requests with lognormal latencies to a row of `latency` (LATENCY_BUCKETS)."""
    first = (log_mean - _LOG_MIN) * _BUCKETS_PER_LOG
    width = log_sd * _BUCKETS_PER_LOG
    for k in range(len(_SLICE_QUANTILES)):
        bucket = int(min(max(0.0, first + width * _SLICE_QUANTILES[k]), LATENCY_BUCKETS - 1.0))
        histogram[bucket] += requests * _SLICE_WEIGHTS[k]


@kernel
def share_within(log_threshold, log_mean, log_sd):
    """P(X <= threshold) of a lognormal distribution, 1 and 0 where it is beyond six standard deviations."""
    above = log_threshold - log_mean
    if above > 6.0 * log_sd:
        return 1.0
    return 0.5 * math.erfc(-above / log_sd * _SQRT_HALF) if log_sd > 0.0 else 0.0
