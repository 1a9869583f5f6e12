"""What a service will be asked for when pods that are ordered now are ready: a forecast that knows how wrong it is.

The log of the load is followed as a level and a trend beside what earlier days brought at this time (a local linear trend
with a seasonal regressor; Hyndman et al., Forecasting with Exponential Smoothing, 2008, chapter 2). Of every forecast is
remembered what it said, and its squared errors are averaged with a memory of their own: the spread that decisions count on
is that of the forecasts themselves. All of it follows published scrapes, one step a scrape.
"""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.workload.arrivals import rate_at

HORIZONS = 2  # when the next decision takes effect for what runs, and for what is ordered now
RING = 64  # scrapes that a forecast may lie ahead
SEASON_S = 86_400.0
SEASON_DAYS = 3
SMOOTH_S = 60.0  # on both sides of a moment of an earlier day: one minute of a trace is no season
LEAST_LOAD = 0.02  # [pods]; below it the log of a load says nothing
_FIRST_SPREAD = 0.15  # of the log of the load, before any error is known
_MOST_CHANGE = 1.5  # of the log of the load, that trend or season may tell ahead

# How a forecast is made; one row a service of a lane.
FORECAST = np.dtype(
    [
        ("rise_s", np.float64),  # half-life of the level where the load rises [s]
        ("fall_s", np.float64),  # ... and where it falls
        ("trend_s", np.float64),  # half-life of the trend
        ("trend_weight", np.float64),  # how much of the trend goes on
        ("season_weight", np.float64),  # how much of what earlier days brought is expected
        ("spread_s", np.float64),  # half-life of the errors' squares
    ],
    align=True,
)

FORECAST_STATE = np.dtype(
    [
        ("begun", np.bool_),  # a scrape was taken in
        ("n_seen", np.int64),  # scrapes so far, those that nobody looked at in time among them
        ("time_s", np.float64),  # middle of the newest scrape
        ("log_load", np.float64),  # of the newest scrape
        ("level", np.float64),  # of the log of the load, less the season
        ("trend_per_s", np.float64),
        ("season", np.float64),  # at the newest scrape
        ("last_error", np.float64),  # log of the newest load, less what was expected of it
        ("variance", np.float64, (HORIZONS,)),  # of the log of the load over its forecast
        ("said", np.float64, (HORIZONS, RING)),  # forecasts, by the number of the scrape that they are about
        ("about", np.int64, (HORIZONS, RING)),  # that number + 1; 0: none
        ("log_ahead", np.float64, (HORIZONS,)),  # the newest forecasts
    ],
    align=True,
)


@kernel
def season_at(traffic, rates, time_s, days):
    """Log of what earlier days brought around this time of day, mean over the days; 0 without any.

    Args:
        time_s: of the lane's clock; all that is read lies a day less SMOOTH_S before it, or further back.
        days: how many earlier days are remembered, see `days_before`.
    """
    if days <= 0:
        return 0.0
    total = 0.0
    for day in range(days):
        then_s = time_s - (day + 1) * SEASON_S
        rate = (
            rate_at(traffic, rates, then_s - SMOOTH_S)
            + 2.0 * rate_at(traffic, rates, then_s)
            + rate_at(traffic, rates, then_s + SMOOTH_S)
        )
        total += math.log(max(0.25 * rate, 1e-6))
    return total / days


@kernel
def days_before(traffic, furthest_s):
    """Whole days that the trace reaches back from a lane's start, at most SEASON_DAYS.

    0 where a trace's steps are so long that interpolation, `furthest_s` ahead on an earlier day, would touch the present.
    """
    if 1.5 * traffic.step_s + furthest_s + SMOOTH_S > SEASON_S:
        return 0
    return min(SEASON_DAYS, int(traffic.start_s / SEASON_S))  # before its first step a trace is level


@kernel
def follow(forecast, state, load, time_s, season, step_s):
    """Takes in one scrape: errors of what was said about it, then level and trend.

    Args:
        load: of the scrape [pods].
        time_s: its middle.
        season: `season_at(time_s)`.
        step_s: time from scrape to scrape.
    """
    value = math.log(max(load, LEAST_LOAD))
    state.time_s, state.log_load = time_s, value
    plain = value - forecast.season_weight * season
    if not state.begun:
        state.begun, state.level, state.trend_per_s = True, plain, 0.0
        for h in range(HORIZONS):
            state.variance[h] = _FIRST_SPREAD * _FIRST_SPREAD
    else:
        keep = 0.5 ** (step_s / forecast.spread_s)
        slot = state.n_seen % RING
        for h in range(HORIZONS):
            if state.about[h, slot] == state.n_seen + 1:
                error = value - state.said[h, slot]
                state.variance[h] = keep * state.variance[h] + (1.0 - keep) * error * error
        before = state.level
        expected = before + forecast.trend_weight * state.trend_per_s * step_s
        state.last_error = plain - expected
        half_life_s = forecast.rise_s if plain > expected else forecast.fall_s
        state.level = expected + (1.0 - 0.5 ** (step_s / half_life_s)) * (plain - expected)
        learn = 1.0 - 0.5 ** (step_s / forecast.trend_s)
        state.trend_per_s += learn * ((state.level - before) / step_s - state.trend_per_s)
    state.season = season
    state.n_seen += 1


@kernel
def look_ahead(forecast, state, season_ahead, ahead_s, step_s):
    """Writes the newest forecasts, and remembers them for the scrapes that they are about.

    Args:
        season_ahead: `season_at` at each horizon, shape (HORIZONS,).
        ahead_s: how far ahead of the newest scrape's middle they look, shape (HORIZONS,).
        step_s: time from scrape to scrape.
    """
    for h in range(HORIZONS):
        change = forecast.trend_weight * state.trend_per_s * ahead_s[h]
        change += forecast.season_weight * (season_ahead[h] - state.season)
        change = min(max(change, -_MOST_CHANGE), _MOST_CHANGE)
        state.log_ahead[h] = state.level + forecast.season_weight * state.season + change
        steps = min(max(1, round(ahead_s[h] / step_s)), RING - 1)
        slot = (state.n_seen - 1 + steps) % RING
        state.said[h, slot], state.about[h, slot] = state.log_ahead[h], state.n_seen + steps
