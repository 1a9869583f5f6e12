"""Confidence intervals of means over independent runs that stay where their quantity can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes a second to import

from sim_core.indicators import MIN_VALUES

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
_ROUNDING = 1e-9  # how far beyond its bounds a value may come to lie by rounding


@dataclass(frozen=True)
class Interval:
    """Mean of `n` values and its 95 % interval; `low` and `high` are NaN below three values, where no interval is given."""

    mean: float
    low: float
    high: float
    n: int


def interval(
    values: Sequence[float] | np.ndarray | pd.Series, least: float = -math.inf, greatest: float = math.inf
) -> Interval:
    """Mean of independent values and its 95 % confidence interval, which never leaves [least, greatest].

    Student's t with n - 1 degrees of freedom, on a scale on which the mean has no bounds, and transformed back: the logit
    between two bounds (shares), the logarithm of the distance from one bound (costs, latencies, counts: 0 or more),
    the plain scale without bounds (differences). The standard error on that scale is the delta method's, so the interval
    is always one of the arithmetic mean and holds it.

    A bootstrap would need no transformation, but resamples of three to ten seeds have too little spread, and its
    intervals come out too narrow.

    Args:
        values: one a run; NaN (an indicator that did not occur in that run) is left out.
        least, greatest: what the quantity can be at the least and at the most, in its own unit.

    Returns:
        The interval; its limits are NaN below three values, and the mean itself where all values are equal.

    Raises:
        ValueError: a value lies outside the bounds by more than rounding.

    Source: Agresti, Categorical Data Analysis (2013), section 3.1 (delta method, applied to the logit); Korn and Graubard,
    Survey Methodology 24 (1998) 193 (logit intervals with t quantiles); Hesterberg, The American Statistician 69 (2015)
    371 (how narrow bootstrap intervals of small samples are).
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    n = int(known.size)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    if known.min() < least - _ROUNDING or known.max() > greatest + _ROUNDING:
        raise ValueError(f"values from {known.min():g} to {known.max():g} lie outside [{least:g}, {greatest:g}]")
    mean = min(max(float(known.mean()), least), greatest)
    if n < MIN_VALUES:
        return Interval(mean, math.nan, math.nan, n)
    if known.min() == known.max():  # the mean of equal values may differ from them by rounding
        return Interval(mean, mean, mean, n)
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * float(known.std(ddof=1)) / math.sqrt(n)
    low, high = _limits(mean, half, least, greatest)
    return Interval(mean, min(low, mean), max(high, mean), n)  # a mean beside a bound: rounding must not put it outside


def _limits(mean: float, half: float, least: float, greatest: float) -> tuple[float, float]:
    """Lower and upper limit from the half width that the interval would have on the plain scale."""
    above, below = mean - least, greatest - mean
    if above <= 0.0 or below <= 0.0:  # at a bound all values are equal but for rounding
        return mean, mean
    if math.isinf(above) and math.isinf(below):
        return mean - half, mean + half
    if math.isinf(below):
        return least + above * math.exp(-half / above), least + above * math.exp(half / above)
    if math.isinf(above):
        return greatest - below * math.exp(half / below), greatest - below * math.exp(-half / below)
    odds, factor = above / below, math.exp(half * (greatest - least) / (above * below))
    low, high = (least + (greatest - least) * odds / (odds + spread) for spread in (factor, 1.0 / factor))
    return low, high
