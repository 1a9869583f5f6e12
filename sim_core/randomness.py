"""Counter-based random numbers: a draw is a function of (lane key, component, counter) and of nothing else.

Changing what one component draws leaves the draws of all others alone, so policies can be compared under common
random numbers, and a lane walks the same path alone and in any batch.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (the idea); Steele, Lea, Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014 (the mixing function, SplitMix64).
"""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel

# Components that draw. A number once given stays, because results depend on it.
ARRIVALS = 1
POD_STARTUP = 2  # + 256 x the service's index
SCRAPE_PHASE = 3
SYNC_PHASE = 4

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_UNIT = 2.0**-53


@kernel
def _mix(z):
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@kernel
def lane_key(seed):
    """The key of a lane [uint64] from its seed [int]."""
    return _mix(np.uint64(seed) * _WEYL + _WEYL)


@kernel
def uniform(key, component, counter):
    """One draw from (0, 1), never 0 and never 1."""
    z = _mix(key + np.uint64(component) * _WEYL)
    z = _mix(z + np.uint64(counter) * _WEYL)
    # The half of the highest of the 2**53 values has no float of its own and would round up to 1.
    return min((np.float64(z >> _S11) + 0.5) * _UNIT, 1.0 - _UNIT)


@kernel
def normal_quantile(p):
    """The standard normal quantile of p in (0, 1), relative error below 1.2e-9.

    Source: P. J. Acklam's rational approximation (2003).
    """
    if p < 0.02425 or p > 0.97575:
        tail = p if p < 0.5 else 1.0 - p
        q = math.sqrt(-2.0 * math.log(tail))
        numerator = (
            (((-7.784894002430293e-03 * q - 3.223964580411365e-01) * q - 2.400758277161838) * q - 2.549732539343734) * q
            + 4.374664141464968
        ) * q + 2.938163982698783
        denominator = (
            ((7.784695709041462e-03 * q + 3.224671290700398e-01) * q + 2.445134137142996) * q + 3.754408661907416
        ) * q + 1.0
        z = numerator / denominator
        return z if p < 0.5 else -z
    q = p - 0.5
    r = q * q
    numerator = (
        (((-3.969683028665376e01 * r + 2.209460984245205e02) * r - 2.759285104469687e02) * r + 1.383577518672690e02) * r
        - 3.066479806614716e01
    ) * r + 2.506628277459239
    denominator = (
        (((-5.447609879822406e01 * r + 1.615858368580409e02) * r - 1.556989798598866e02) * r + 6.680131188771972e01) * r
        - 1.328068155288572e01
    ) * r + 1.0
    return q * numerator / denominator


@kernel
def poisson_quantile(mean, p):
    """The number of events of a Poisson distribution at probability p.

    Exact by summation for a mean up to 30; above, the Cornish-Fisher expansion of the normal quantile
    (skewness term), which is off by at most one event for p in [1e-9, 1 - 1e-9], and rarely by that.

    Args:
        mean: expected events, >= 0.
        p: in (0, 1).
    """
    if mean <= 0.0:
        return 0.0
    if mean <= 30.0:
        term = math.exp(-mean)
        total, k = term, 0
        while total < p and k < 200:
            k += 1
            term *= mean / k
            total += term
        return float(k)
    z = normal_quantile(p)
    return max(0.0, math.floor(mean + z * math.sqrt(mean) + (z * z - 1.0) / 6.0 + 0.5))
