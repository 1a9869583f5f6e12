"""Policies that know the future: the yardstick that no real autoscaler reaches, and the one of a perfect forecast.

The clairvoyant knows every arrival of its lanes and every delay; `known-rates` knows the rates that a trace will have,
but not what is drawn from them, as a forecast without an error would. At each moment they take the replicas for which
pods and bad requests together cost least, at one price of a bad request; they ask for them as early as a pod takes to
become ready, and keep pods over dips that are shorter than that. Price, lead and averaging are searched on the very
traffic that is played (by `known-rates` on other draws of it), for the cheapest schedule that keeps the SLO over the
whole run: the error budget is spent where that saves most. Where the price is given, lead and averaging are those for
which pods and bad requests together cost least at that price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from agents.observation import Observations
from agents.policies.capacity import requests_per_pod_s, time_to_ready_s
from agents.policies.settings import CLAIRVOYANT, completed, for_lanes
from sim_core.compiled import kernel
from sim_core.profile import Profile
from sim_core.simulation import Worlds, cut, simulate
from sim_core.workload import Trace
from sim_core.workload.arrivals import arrive, rate_at
from sim_core.world import Lane, Scaler

# Price of the bad requests that use up the error budget of the mean load, in pods.
PRICES = np.geomspace(0.004, 2.0, 14)
LEADS_S = (-15.0, 0.0, 15.0)  # beyond the time a pod needs until it is ready
SMOOTHING_S = (15.0, 45.0)
SEARCH_SEEDS = 2  # lanes of the first search
FINALISTS = 8  # choices that are played on all lanes
OTHER_DRAWS = 7_000_003  # further are the seeds of the lanes that known rates are tried on
# Utilization runs up this ramp, slowly, to measure what n pods can take.
RAMP = (0.4, 1.2)
_RAMP_S = 2400.0
_RAMP_STEP_S = 20.0
RAMP_POINTS = int(_RAMP_S / _RAMP_STEP_S)


@kernel
def arrivals_ahead(tables, index, out):
    """Every arrival of one lane, one entry a tick [requests]."""
    world = cut(tables, index)
    for tick in range(len(out)):
        world.state.tick = tick
        arrive(world, tick * world.lane.tick_s)
        out[tick] = 0.0
        for k in range(len(world.arrivals)):
            out[tick] += world.arrivals[k].requests
    world.state.tick = 0


@lru_cache(maxsize=8)
def bad_shares(profile: Profile, service: int) -> tuple[np.ndarray, np.ndarray]:
    """What n replicas of a service can take, from simulations of a slow ramp with all other services at their most.

    Returns:
        utilization: of what one pod can take at most, shape (n_points,) [1].
        bad: share of bad requests, shape (max_replicas + 1, n_points); row 0 is 1.
    """
    limit = profile.services[service].replicas.max
    full_rate = requests_per_pod_s(profile, service)
    assert full_rate is not None  # the least pods are enough for a service that nobody asks anything of
    ramp = np.linspace(*RAMP, RAMP_POINTS)
    lanes = []
    for replicas in range(1, limit + 1):
        plan = np.array([[replicas if i == service else s.replicas.max for i, s in enumerate(profile.services)]])
        trace = Trace(f"ramp {replicas}", _RAMP_STEP_S, ramp * replicas * full_rate)
        lanes.append(Lane(profile, trace, seed=0, scaler=Scaler.schedule(plan)))
    timeline = simulate(lanes, _RAMP_S, _RAMP_STEP_S).timeline
    assert timeline is not None
    bad = 1.0 - np.nan_to_num(timeline["slo_attainment"], nan=1.0)
    bad = np.maximum.accumulate(np.vstack([np.ones(RAMP_POINTS), bad]), axis=1)
    return ramp, bad


@kernel
def rates_ahead(tables, index, out):
    """The requests that one lane expects, one entry a tick [requests]."""
    world = cut(tables, index)
    for tick in range(len(out)):
        middle_s = (tick + 0.5) * world.lane.tick_s
        out[tick] = rate_at(world.lane.traffic, world.rates, middle_s) * world.lane.tick_s


class ClairvoyantPolicy:
    """Knows the future; see the module. `settings` tells what the search chose.

    Args:
        settings: `bad_request_price`: what the bad requests that use up the error budget of the mean load cost [pods];
            searched where it is not given.

    Raises:
        PolicyError: unknown names or wrong values; all at once.
    """

    name = "clairvoyant"
    _knows_draws = True

    def __init__(self, **settings: Any):
        self._prices = [self._price_of(settings)]
        self.settings: dict[str, Any] = dict(settings)
        self._schedules: list[np.ndarray] = []
        self._sync_s = 1.0

    @classmethod
    def by_lane(cls, settings: Sequence[Mapping[str, Any]]) -> ClairvoyantPolicy:
        """A policy that plays lane k with settings k; lanes of one price are searched together."""
        policy = cls()
        policy._prices = [cls._price_of(each) for each in settings]
        return policy

    @classmethod
    def _price_of(cls, settings: Mapping[str, Any]) -> float | None:
        price = completed(cls.name, CLAIRVOYANT, settings)["bad_request_price"]
        return float(price) if settings else None

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        self._sync_s = lanes[0].profile.controller.sync_period_seconds
        prices = for_lanes(self._prices, len(lanes))
        plans: dict[int, np.ndarray] = {}
        for price in dict.fromkeys(prices):
            places = [k for k, own in enumerate(prices) if own == price]
            chosen = [lanes[k] for k in places]
            plans |= dict(zip(places, self._plans(chosen, duration_s, price), strict=True))
        self._schedules = [plans[k] for k in range(len(lanes))]

    def _plans(self, lanes: Sequence[Lane], duration_s: float, price: float | None) -> list[np.ndarray]:
        """Schedules of lanes of one price; the search is told in `settings`."""
        tried = lanes if self._knows_draws else [replace(lane, seed=lane.seed + OTHER_DRAWS) for lane in lanes]
        future = _Future(tried, duration_s, self._knows_draws)
        searched = range(min(SEARCH_SEEDS, len(tried)))
        prices = PRICES if price is None else [price]
        choices = [(price, lead, smooth) for smooth in SMOOTHING_S for price in prices for lead in LEADS_S]
        outcomes = _outcomes(tried, future, choices, searched, duration_s)
        if len(searched) < len(tried):  # the most promising once more, on all lanes
            choices = [choices[k] for k in outcomes.order(price)[:FINALISTS]]
            outcomes = _outcomes(tried, future, choices, range(len(tried)), duration_s)
        best = choices[outcomes.best(price)]
        self.settings = {"bad_request_price": float(best[0]), "extra_lead_s": best[1], "smoothing_s": best[2]}
        if not self._knows_draws:
            future = _Future(lanes, duration_s, self._knows_draws)
        return [future.schedule(k, *best) for k in range(len(lanes))]

    def predict(self, observations: Observations) -> np.ndarray:
        rows = (observations.time_s / self._sync_s).astype(int)  # a sync of its own in every period
        return np.stack([plan[min(row, len(plan) - 1)] for plan, row in zip(self._schedules, rows, strict=True)])

    def scalers(self) -> list[Scaler]:
        return [Scaler.schedule(plan) for plan in self._schedules]


class KnownRatesPolicy(ClairvoyantPolicy):
    """Knows the rates of the trace, not what is drawn from them; see the module."""

    name = "known-rates"
    _knows_draws = False


@dataclass(frozen=True)
class _Outcomes:
    """What came of choices, shape (n_choices,) each.

    Attributes:
        attained: SLO attainment [1].
        cost_usd: of all [USD].
        pods: mean over time [pods].
    """

    attained: np.ndarray
    cost_usd: np.ndarray
    pods: np.ndarray
    objective: float

    def order(self, price: float | None) -> list[int]:
        """The most promising choices first."""
        if price is not None:
            return [int(k) for k in np.argsort(self._paid(price), kind="stable")]
        return [int(k) for k in np.lexsort((self.cost_usd, self.attained < self.objective))]

    def best(self, price: float | None) -> int:
        """The cheapest choice that keeps the SLO, or the one that comes nearest; of a given price the cheapest at it."""
        if price is not None:
            return int(np.argmin(self._paid(price)))
        keeps = self.attained >= self.objective
        return int(np.argmin(np.where(keeps, self.cost_usd, np.inf))) if keeps.any() else int(np.argmax(self.attained))

    def _paid(self, price: float) -> np.ndarray:
        """Pods and bad requests together [pods]."""
        return np.asarray(self.pods + price * (1.0 - self.attained) / (1.0 - self.objective))


def _outcomes(
    lanes: Sequence[Lane],
    future: _Future,
    choices: Sequence[tuple[float, float, float]],
    played: Sequence[int],
    duration_s: float,
) -> _Outcomes:
    """Means of choices over some of the lanes."""
    trial = [replace(lanes[k], scaler=Scaler.schedule(future.schedule(k, *c))) for c in choices for k in played]
    table = simulate(trial, duration_s).indicators
    names = ("slo_attainment", "cost_usd", "replica_hours")
    shape = len(choices), len(played)
    attained, cost_usd, pod_hours = (table[name].to_numpy().reshape(shape).mean(axis=1) for name in names)
    return _Outcomes(attained, cost_usd, pod_hours * 3600.0 / duration_s, lanes[0].profile.slo.objective)


class _Future:
    """What is to come in each lane, and what it needs at any price of a bad request.

    Args:
        knows_draws: the arrivals themselves, not only their rates.
    """

    def __init__(self, lanes: Sequence[Lane], duration_s: float, knows_draws: bool):
        worlds = Worlds(lanes)
        params = worlds.params
        self._profile = lanes[0].profile
        self._tick_s = float(params["tick_s"][0])
        self._sync_ticks = int(params["sync_ticks"][0])
        self._arrivals = np.zeros((len(lanes), round(duration_s / self._tick_s)))
        for lane, row in enumerate(self._arrivals):
            (arrivals_ahead if knows_draws else rates_ahead)(worlds.tables, lane, row)
        self._sync_phases = params["sync_phase_ticks"].tolist()
        self._needed: dict[tuple[int, float, float], np.ndarray] = {}
        self._lead_s = [time_to_ready_s(service) for service in self._profile.services]

    def schedule(self, lane: int, price: float, extra_lead_s: float, smoothing_s: float) -> np.ndarray:
        """Replicas by sync, shape (n_syncs, n_services) [pods]."""
        needed = self._replicas(lane, price, smoothing_s)
        columns = []
        for i in range(needed.shape[1]):
            ahead = 1 + max(0, round((self._lead_s[i] + extra_lead_s) / (self._sync_ticks * self._tick_s)))
            later = np.pad(needed[:, i], (0, ahead - 1), mode="edge")
            columns.append(np.lib.stride_tricks.sliding_window_view(later, ahead).max(axis=1))
        return np.stack(columns, axis=1)

    def _replicas(self, lane: int, price: float, smoothing_s: float) -> np.ndarray:
        """Cheapest replicas at each sync, delays aside, shape (n_syncs, n_services) [pods]."""
        key = lane, price, smoothing_s
        if key not in self._needed:
            arrivals = self._arrivals[lane][self._sync_phases[lane] :]  # its syncs are at moments of its own
            window = max(1, round(smoothing_s / self._tick_s))
            smooth = np.convolve(np.pad(arrivals, window // 2, mode="edge"), np.ones(window) / window, mode="same")
            smooth = smooth[window // 2 : window // 2 + len(arrivals)]
            n_syncs = -(-len(smooth) // self._sync_ticks)
            padded = np.pad(smooth, (0, n_syncs * self._sync_ticks - len(smooth)), mode="edge")
            load = padded.reshape(n_syncs, self._sync_ticks).mean(axis=1)
            budget = (1.0 - self._profile.slo.objective) * max(arrivals.mean(), 1e-12)
            columns = [self._cheapest(i, load, price * load / budget) for i in range(len(self._profile.services))]
            self._needed[key] = np.stack(columns, axis=1)
        return self._needed[key]

    def _cheapest(self, i: int, load: np.ndarray, bad_cost: np.ndarray) -> np.ndarray:
        """Replicas with the least sum of pods and bad requests; `bad_cost` is what it costs if all are bad [pods]."""
        service = self._profile.services[i]
        best = np.full(len(load), service.replicas.min)
        full_rate = requests_per_pod_s(self._profile, i)
        if full_rate is None:
            return best
        per_pod = full_rate * self._tick_s
        utilization, bad = bad_shares(self._profile, i)
        least = np.full(len(load), np.inf)
        for replicas in range(service.replicas.min, service.replicas.max + 1):
            share = np.interp(load / (replicas * per_pod), utilization, bad[replicas], left=0.0, right=1.0)
            cost = replicas + bad_cost * share
            better = cost < least
            best[better], least[better] = replicas, cost[better]
        return best
