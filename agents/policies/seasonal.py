"""What traffic with a daily season will do: forecasts in even steps, with their spread (statsmodels).

Both methods work on the logarithm of the rate, whose season is the same on busy and on quiet days. `holt-winters` is
exponential smoothing with an additive season of a day (Winters 1960); `mstl` splits off the season by LOESS (Bandara,
Hyndman and Bergmeir 2021, arXiv 2107.13462) and smooths what is left.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

Method = Literal["holt-winters", "mstl"]

STEP_S = 300.0
STEPS_OF_DAY = 288
STEPS_AHEAD = 36
# Days of the past that a fit sees. Holt-Winters forgets, and needs two to begin with; LOESS takes the noise of fewer than
# four for a part of the season.
_FEWEST_DAYS = {"holt-winters": 2, "mstl": 4}
_MOST_DAYS = {"holt-winters": 7, "mstl": 14}
_FLOOR = 0.01  # of the mean rate: quieter steps count as much
_JUMP = 24  # steps between two of LOESS' fits: two hours, over which trend and low-pass filter run straight


class Forecast(NamedTuple):
    """Rates of the steps to come.

    Attributes:
        log_mean, log_sd: mean and standard deviation of the logarithm of the rate [1/s], shape (STEPS_AHEAD,).
    """

    log_mean: np.ndarray
    log_sd: np.ndarray


def forecast(past: np.ndarray, method: Method) -> Forecast | None:
    """What comes after the past; None where it is too short for the method.

    A fit is kept: policies with other settings ask for the same one.

    Args:
        past: mean rates in steps of STEP_S, shape (n_steps,) [1/s].
    """
    if len(past) <= _FEWEST_DAYS[method] * STEPS_OF_DAY or not past.any():
        return None
    return _fitted(np.ascontiguousarray(past[-_MOST_DAYS[method] * STEPS_OF_DAY :]).tobytes(), method)


@lru_cache(maxsize=4096)
def _fitted(past: bytes, method: Method) -> Forecast | None:
    rates = np.frombuffer(past)
    series = np.log(np.maximum(rates, _FLOOR * rates.mean()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fit on a plateau: its forecast is as good
        found = _by_holt_winters(series) if method == "holt-winters" else _by_mstl(series)
    return found if np.isfinite(found.log_mean).all() and np.isfinite(found.log_sd).all() else None


def _by_holt_winters(series: np.ndarray) -> Forecast:
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    model = ExponentialSmoothing(
        series, seasonal="add", seasonal_periods=STEPS_OF_DAY, initialization_method="heuristic"
    )
    return _of_fit(model.fit())


def _by_mstl(series: np.ndarray) -> Forecast:
    from statsmodels.tsa.holtwinters import SimpleExpSmoothing
    from statsmodels.tsa.seasonal import MSTL

    jumps = {"trend_jump": _JUMP, "low_pass_jump": _JUMP}
    season = np.asarray(MSTL(series, periods=(STEPS_OF_DAY,), iterate=1, stl_kwargs=jumps).fit().seasonal)
    left = _of_fit(SimpleExpSmoothing(series - season, initialization_method="heuristic").fit())
    # A line through the n days' values of a place takes up two of them: what it leaves is too small by n / (n - 2), and
    # what it says of the next value errs by 2 / n on the average.
    n = len(series) / STEPS_OF_DAY
    return Forecast(
        left.log_mean + season[-STEPS_OF_DAY:][:STEPS_AHEAD], left.log_sd * math.sqrt((n + 2.0) / (n - 2.0))
    )


def _of_fit(fit: object) -> Forecast:
    """Mean and spread of exponential smoothing: errors of a step carry on by the smoothing of the level."""
    smoothing = float(fit.params["smoothing_level"])  # type: ignore[attr-defined]
    error = math.sqrt(float(np.mean(np.square(fit.resid[STEPS_OF_DAY:]))))  # type: ignore[attr-defined]
    ahead = np.arange(STEPS_AHEAD)
    return Forecast(np.asarray(fit.forecast(STEPS_AHEAD)), error * np.sqrt(1.0 + ahead * smoothing**2))  # type: ignore[attr-defined]
