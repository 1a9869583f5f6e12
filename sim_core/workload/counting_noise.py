"""The rate behind a small log: its counting noise taken off before the log is scaled up.

A log of ten requests a step is a rate and a draw. Scaled up a hundredfold, the draw would pass for traffic that comes and
goes within a step, which no autoscaler could follow and no system ever had; the simulator draws arrivals of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sim_core.workload.trace import Trace

QUIET = 0.01  # of the rate: counting noise that is too small to matter
_WHOLE = 0.02  # how far from a whole number a count may be that was written as a rate of some digits
_WHOLE_SHARE = 0.95  # of the steps; the rest may be gaps that were filled
_LEAST_DISPERSION = 0.5  # variance over mean of what is noise; Poisson counts have 1, rounded smooth rates nearly 0
# Three busy public logs, thinned to 10 and 50 requests a step, came back nearest to themselves with 1.5 to 2, a sine of
# 3 to 50 with 2; by 2 an eighth to a half of the noise is left.
_THRESHOLD = 2.0
_GROWTH = 1.4  # from one window to the next


def rate_estimate(trace: Trace) -> Trace:
    """The trace with the counting noise of a small log taken off; one that has none is returned as it is.

    At every step the mean over the longest window around it that tells nothing new: windows grow as long as the intervals
    of all of them overlap (intersection of confidence intervals). Half an interval is _THRESHOLD standard deviations of
    Poisson counts, on the scale of square roots: what stands out further, a flash crowd or a sharp edge, stays as it was
    counted. An estimate holds no whole counts any more: taken again, it stays as it is.

    Args:
        trace: as it was logged, not scaled: its counts have to be known.

    Source: Goldenshluger and Nemirovski, Mathematical Methods of Statistics 6 (1997) 135 (the choice of windows);
    Anscombe, Biometrika 35 (1948) 246 (the root of a count).
    """
    if not has_counting_noise(trace):
        return trace
    return replace(trace, rates_per_s=_smoothed(trace.rates_per_s * trace.step_s) / trace.step_s)


def has_counting_noise(trace: Trace) -> bool:
    """Whether rates are whole counts a step, scattered like draws, and few enough for that to be more than QUIET."""
    counts = trace.rates_per_s * trace.step_s
    if len(counts) < 8 or not 0.0 < counts.mean() < 1.0 / QUIET**2:
        return False
    whole = np.abs(counts - np.rint(counts)) <= _WHOLE
    if whole.mean() < _WHOLE_SHARE:
        return False
    # Of second differences a smooth rate leaves nothing, and white noise six times its variance.
    noise = np.mean(np.diff(counts, 2) ** 2) / 6.0
    return bool(noise >= _LEAST_DISPERSION * counts.mean())


def _smoothed(counts: np.ndarray) -> np.ndarray:
    """Mean counts a step, shape (n,)."""
    n = len(counts)
    sums = np.concatenate([[0.0], np.cumsum(counts)])
    at = np.arange(n)
    low, high = np.full(n, -np.inf), np.full(n, np.inf)
    estimate, growing = np.array(counts, dtype=np.float64), np.ones(n, dtype=bool)
    reach = 0
    while growing.any() and reach < n // 4:
        near = np.minimum(np.minimum(at, n - 1 - at), reach)  # symmetric at the ends, too, or a trend would shift them
        width = 2 * near + 1
        mean = (sums[at + near + 1] - sums[at - near]) / width
        root, half = np.sqrt(mean + 0.375 / width), _THRESHOLD / (2.0 * np.sqrt(width))
        low, high = np.maximum(low, root - half), np.minimum(high, root + half)
        growing &= low <= high
        estimate = np.where(growing, mean, estimate)
        growing &= (mean * width < 1.0 / QUIET**2) & (near == reach)
        reach = max(reach + 1, math.ceil(reach * _GROWTH))
    return estimate
