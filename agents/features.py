"""What a learned policy sees of one service: its forecast, how sure it is, the budget, what scrapes and the clock say.

One vector a service, of the same length for every profile: a policy that was trained on one reads any other. Start-up time,
objective and size of a pod are entries, so that one policy can serve profiles that differ in them.
"""

from __future__ import annotations

import math

import numpy as np

from agents.forecasting import HORIZONS, days_before, season_at
from agents.observation import BOUND, SERVICE_FEATURES, observe_requests, observe_service
from agents.policies.rule import FURTHEST_S, choose, follow_scrapes, prepare
from sim_core.compiled import kernel, phase
from sim_core.simulation import cut
from sim_core.tables import rows

LAYOUT_VERSION = 2  # of the vector; models of another one are refused
SEASON_AHEAD_S = np.array([60.0, 300.0, 900.0])
FORECAST_FEATURES = (
    *(f"forecast_{h}" for h in range(HORIZONS)),  # log(forecast / load now)
    *(f"spread_{h}" for h in range(HORIZONS)),  # of the log of the load, times 4
    *(f"replicas_over_forecast_{h}" for h in range(HORIZONS)),  # log(desired replicas / forecast)
    "trend_per_min",
    "last_error",  # log(load / what was expected of this scrape)
    *(f"season_{int(s)}s" for s in SEASON_AHEAD_S),  # log(earlier days so far ahead / at the scrape)
    "season_days",
    "budget_spent",
    "price_log",
    "residual_before",
    "overdue_share",
    "stale",
)
REQUEST_FEATURES = (
    "latency_mean_log", "latency_p95_log", "bad_ratio", "error_ratio", "database_utilization", "connection_ratio",
    "cache_miss_ratio",
)  # fmt: skip
PROFILE_FEATURES = ("lead_log", "budget_log", "full_load_log", "min_replicas_log")
CLOCK_FEATURES = ("day_sin", "day_cos", "half_day_sin", "half_day_cos", "week_sin", "week_cos")
FEATURES = (*SERVICE_FEATURES, *FORECAST_FEATURES, *REQUEST_FEATURES, *PROFILE_FEATURES, *CLOCK_FEATURES)
N_FEATURES = len(FEATURES)
_N_SERVICE, _N_FORECAST, _N_REQUEST = len(SERVICE_FEATURES), len(FORECAST_FEATURES), len(REQUEST_FEATURES)
_N_PROFILE = len(PROFILE_FEATURES)
_DAY = 2.0 * math.pi / 86_400.0


@phase
def see(world, i, rule, memory, out):
    """Writes the vector of one service, once it is prepared.

    Args:
        rule, memory: its RULE and RULE_STATE.
        out: float32, shape (N_FEATURES,).
    """
    lane, state = world.lane, world.state
    now_s = state.tick * lane.tick_s
    out[:] = 0.0
    base = _N_SERVICE
    if state.n_published > 0:
        observe_service(world, i, out)
        forecast = memory.forecast
        replicas = math.log(max(1.0, world.service_states[i].desired_replicas))
        for h in range(HORIZONS):
            out[base + h] = forecast.log_ahead[h] - forecast.log_load
            out[base + HORIZONS + h] = 4.0 * memory.spread[h]
            out[base + 2 * HORIZONS + h] = replicas - forecast.log_ahead[h]
        at = base + 3 * HORIZONS
        out[at] = 60.0 * forecast.trend_per_s
        out[at + 1] = forecast.last_error
        days = days_before(lane.traffic, FURTHEST_S)
        for k in range(len(SEASON_AHEAD_S)):
            if days > 0:
                out[at + 2 + k] = (
                    season_at(lane.traffic, world.rates, now_s + SEASON_AHEAD_S[k], days) - forecast.season
                )
        at += 2 + len(SEASON_AHEAD_S)
        out[at] = days / 3.0
        out[at + 1] = min(memory.spent, 5.0) - 1.0
        out[at + 2] = math.log(memory.price) + 2.0
        out[at + 3] = 4.0 * memory.residual
        out[at + 4] = memory.overdue / max(1.0, world.service_states[i].desired_replicas)
        out[at + 5] = 1.0 if memory.stale else 0.0
        observe_requests(lane, state.published, len(world.caches) > 0, out[base + _N_FORECAST :])
    at = base + _N_FORECAST + _N_REQUEST
    out[at] = math.log(max(rule.ahead_s[HORIZONS - 1], 1.0) / 40.0)
    out[at + 1] = 0.5 * math.log(rule.budget / 0.01)
    out[at + 2] = math.log(rule.full_load)
    out[at + 3] = math.log(max(rule.min_replicas, 1.0))
    clock = (lane.traffic.start_s + now_s) * _DAY
    at += _N_PROFILE
    out[at] = math.sin(clock)
    out[at + 1] = math.cos(clock)
    out[at + 2] = 2.0 * out[at] * out[at + 1]
    out[at + 3] = 1.0 - 2.0 * out[at] * out[at]
    out[at + 4] = math.sin(clock / 7.0)
    out[at + 5] = math.cos(clock / 7.0)
    for k in range(N_FEATURES):
        out[k] = min(max(out[k], -BOUND), BOUND)


@phase
def see_world(world, rules, states, out):
    """Takes in what was published and writes the vectors of a lane's services, shape (n_services, N_FEATURES)."""
    follow_scrapes(world, rules, states)
    for i in range(len(world.services)):
        prepare(world, i, rules[i], states[i])
        see(world, i, rules[i], states[i], out[i])


@kernel
def see_lanes(tables, lanes, rules, states, out):
    """The same for some lanes of a batch; rows of `out` are services, as in the tables."""
    for index in lanes:
        world = cut(tables, index)
        first, n = world.lane.services_first, len(world.services)
        see_world(world, rows(rules, first, n), rows(states, first, n), out[first : first + n])


@kernel
def choose_lanes(tables, lanes, rules, states, capacity, least, most, residuals, desired):
    """Replicas of every service of some lanes, once they were seen, into `desired`, (n_lanes, n_services) [pods].

    Args:
        residuals: float64, one a service, as in the tables.
    """
    for index in lanes:
        world = cut(tables, index)
        first = world.lane.services_first
        for i in range(len(world.services)):
            desired[index, i] = choose(
                world, i, rules[first + i], states[first + i], capacity, least, most, residuals[first + i]
            )
