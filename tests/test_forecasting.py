"""The forecast: exact where the traffic follows its model, and as unsure as it is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agents.forecasting import (
    FORECAST,
    FORECAST_STATE,
    HORIZONS,
    SEASON_DAYS,
    days_before,
    follow,
    look_ahead,
    season_at,
)
from agents.policies.settings import RULE
from sim_core.world import TRAFFIC

STEP_S = 15.0
AHEAD_S = np.array([30.0, 60.0])
DAY_S = 86_400.0


def forecast_of(**changes: float) -> np.ndarray:
    row = np.zeros(1, FORECAST)[0]
    for setting in RULE:
        if setting.name in FORECAST.names:
            row[setting.name] = changes.get(setting.name, setting.default)
    return row


def followed(logs: np.ndarray, forecast: np.void, season=lambda time_s: 0.0) -> tuple[np.void, np.ndarray]:
    """The state after some scrapes, and every forecast that was made, shape (n, HORIZONS), of the log of the load."""
    state, said = np.zeros(1, FORECAST_STATE)[0], np.zeros((len(logs), HORIZONS))
    for k, value in enumerate(logs):
        time_s = k * STEP_S
        follow(forecast, state, math.exp(value), time_s, season(time_s), STEP_S)
        ahead = np.array([season(time_s + s) for s in AHEAD_S])
        look_ahead(forecast, state, ahead, AHEAD_S, STEP_S)
        said[k] = state["log_ahead"]
    return state, said


def traffic_of(rates: np.ndarray, step_s: float, start_s: float) -> np.void:
    row = np.zeros(1, TRAFFIC)[0]
    row["length"], row["step_s"], row["start_s"] = len(rates), step_s, start_s
    return row


def test_a_constant_load_is_forecast_exactly_and_the_spread_goes():
    state, said = followed(np.full(2000, math.log(7.0)), forecast_of(spread_s=600.0))
    np.testing.assert_allclose(said, math.log(7.0), atol=1e-12)
    assert np.sqrt(state["variance"]).max() < 1e-4


def test_a_steady_growth_is_carried_on():
    """2 % a minute: with all of the trend, the forecast of the log is right at each horizon."""
    per_s = 0.02 / 60.0
    logs = 1.0 + per_s * STEP_S * np.arange(2000)
    _, said = followed(logs, forecast_of(trend_weight=1.0, rise_s=30.0, trend_s=120.0))
    expected = logs[-1] + per_s * AHEAD_S
    np.testing.assert_allclose(said[-1], expected, atol=1e-3)
    _, without = followed(logs, forecast_of(trend_weight=0.0, rise_s=30.0))
    assert (without[-1] < expected - 0.01).all()  # a level alone lags behind


def test_a_season_that_repeats_is_forecast_within_a_percent():
    """A day's sine that doubles the load, on its second day, against the true load at each horizon."""
    wave = lambda time_s: 0.35 * math.sin(2 * math.pi * time_s / DAY_S)  # noqa: E731
    times = np.arange(0.0, DAY_S, STEP_S)
    logs = np.array([1.0 + wave(t) for t in times])
    _, said = followed(logs, forecast_of(season_weight=1.0, trend_weight=0.0), wave)
    for h, ahead_s in enumerate(AHEAD_S):
        truth = np.array([1.0 + wave(t + ahead_s) for t in times])
        assert np.abs(said[:, h] - truth)[100:].max() < 0.01


@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_the_spread_is_that_of_the_errors(sigma):
    """Independent lognormal noise on a constant: errors of a slow level have its deviation, and a memory's few per cent."""
    generator = np.random.default_rng(1)
    logs = math.log(20.0) + sigma * generator.standard_normal(20_000)
    state, said = followed(logs, forecast_of(rise_s=600.0, fall_s=600.0, trend_weight=0.0, spread_s=14_400.0))
    for h, steps in enumerate((AHEAD_S / STEP_S).astype(int)):
        errors = logs[steps:] - said[:-steps, h]
        assert math.sqrt(state["variance"][h]) == pytest.approx(errors[-4000:].std(), rel=0.05)
        assert math.sqrt(state["variance"][h]) == pytest.approx(sigma, rel=0.1)


def test_a_level_may_rise_faster_than_it_falls():
    up, down = np.r_[np.zeros(100), np.ones(20)], np.r_[np.zeros(100), -np.ones(20)]
    forecast = forecast_of(rise_s=15.0, fall_s=300.0, trend_weight=0.0)
    assert followed(up, forecast)[1][-1, 0] > 0.99
    assert followed(down, forecast)[1][-1, 0] > -0.6


def test_the_season_is_the_mean_of_the_logs_of_earlier_days():
    """By hand, on a trace of whole minutes: days of 100, 200 and 400 requests/s have the geometric mean 200."""
    rates = np.repeat([100.0, 200.0, 400.0, 999.0], 1440)
    traffic = traffic_of(rates, 60.0, 3 * DAY_S + 3600.0)
    assert days_before(traffic, 1800.0) == SEASON_DAYS
    assert season_at(traffic, rates, 7200.0, SEASON_DAYS) == pytest.approx(math.log(200.0), abs=1e-12)
    assert season_at(traffic, rates, 7200.0, 1) == pytest.approx(math.log(400.0), abs=1e-12)
    assert season_at(traffic, rates, 7200.0, 0) == 0.0


def test_a_season_never_looks_ahead():
    """Rates from now on are changed, for starts all over four days: what earlier days say of the next half hour stays."""
    generator = np.random.default_rng(0)
    for step_s in (60.0, 3600.0, 21_600.0, 86_400.0):
        rates = generator.uniform(1.0, 100.0, int(4 * DAY_S / step_s))
        for start_s in generator.uniform(0.0, 3.5 * DAY_S, 20):
            traffic = traffic_of(rates, step_s, start_s)
            days = days_before(traffic, 1800.0)
            for now_s in (0.0, 3000.0):
                changed = rates.copy()
                changed[int(np.ceil((start_s + now_s) / step_s)) :] = 1e6
                for ahead_s in (0.0, 60.0, 1800.0):
                    told = season_at(traffic, rates, now_s + ahead_s, days)
                    assert told == season_at(traffic, changed, now_s + ahead_s, days)
