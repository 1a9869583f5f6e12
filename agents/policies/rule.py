"""A rule that decides as an operator with a forecast would: the pods that cost least, counting what bad requests cost.

Of every number of pods it knows what share of the requests goes wrong at which load (`capacity_tables`, from the profile
alone), and of the load that lies ahead a forecast and its spread (`agents/forecasting.py`). It takes the number for which
pods and expected bad requests together cost least, at one price of the error budget: a newsvendor's choice. The price
follows the budget: what was spent too fast makes it dear. Then what makes it safe: metrics that are old hold what is
there, as the HPA does without any, what the newest scrape needs is kept, steps are bounded, pods that should have been
ready by now do not count, whether or not there are metrics: the API server tells of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from agents.forecasting import FORECAST, FORECAST_STATE, HORIZONS, days_before, follow, look_ahead, season_at
from agents.observation import Observations, load_of, scrape_of
from agents.policies.capacity import requests_per_pod_s, time_to_ready_s
from agents.policies.clairvoyant import RAMP, RAMP_POINTS, bad_shares
from agents.policies.settings import RULE as RULE_SETTINGS
from agents.policies.settings import completed, for_lanes
from sim_core.compiled import kernel, phase
from sim_core.controlplane.pods import READY_TRUE
from sim_core.dataplane.services.graph import resolve
from sim_core.profile import Profile
from sim_core.simulation import cut
from sim_core.tables import rows
from sim_core.telemetry import HISTORY
from sim_core.world import Lane, Scaler

# Expected values over a normal distribution, on even steps: what is bad sets in too sharply for fewer points of Gauss'.
_POINTS = np.linspace(-4.0, 4.0, 17)
_WEIGHTS = np.exp(-0.5 * _POINTS**2) / np.exp(-0.5 * _POINTS**2).sum()
HELD = 64  # decisions that a hold may last
BUDGET_MEMORY_S = 86_400.0  # e-folding time of the error budget's account
BUDGET_PRIOR_S = 7200.0  # requests of so long count as having spent just the budget, before anything is known
_MOST_BUDGETS = 3.0  # spent, that the price answers to
# Where a budget is worth more than the pods that its load keeps busy, no price buys what the spread says will not come:
# there the spread itself is doubted, by the root of the price, up to so much.
_MOST_DOUBT = 12.0
STALE_SCRAPES = 2.5  # a newest scrape older than so many intervals and the usual delay is stale
FURTHEST_S = 1800.0  # that a decision looks ahead
_DRAIN_S = 60.0  # a queue is to be worked off in so long
_UP_FACTOR, _UP_PODS = 2.0, 4  # a decision at most doubles the replicas, or adds so many
_DOWN_FACTOR = 0.5

RULE = np.dtype(
    [
        ("forecast", FORECAST),
        ("spread_weight", np.float64),  # of the forecast's spread that is planned for
        ("tail", np.float64),  # how much heavier than normal the ends of its distribution are
        ("count_weight", np.float64),  # of a spread that falls with the root of the load [pods]
        ("price", np.float64),  # of the error budget of some load, in the pods that this load keeps busy
        ("feedback", np.float64),  # by how much the log of the price rises where a budget is spent once too often
        ("hold_s", np.float64),  # replicas fall only to the most that was wanted for so long
        ("backlog_weight", np.float64),  # of the work that waits
        # what follows from the profile
        ("full_load", np.float64),  # load that uses up one pod [pods at 100 % of their request]
        ("work_s", np.float64),  # of a queued call [pod-seconds]
        ("budget", np.float64),  # share of requests that may be bad
        ("ahead_s", np.float64, (HORIZONS,)),  # after a decision, when it has taken effect
        ("overdue_s", np.float64),  # a pod that started so long ago should be ready
        ("capacity", np.int64),  # number of its table
        ("min_replicas", np.int64),
        ("max_replicas", np.int64),
    ],
    align=True,
)

RULE_STATE = np.dtype(
    [
        ("forecast", FORECAST_STATE),
        ("wanted", np.int64, (HELD,)),  # what was wanted at the last decisions
        ("n_decisions", np.int64),
        ("requests", np.float64),  # of the budget's account, which forgets
        ("bad", np.float64),
        # of the newest decision
        ("spent", np.float64),  # of the budget: 1 is just all of it
        ("price", np.float64),  # that follows from it
        ("waiting", np.float64),  # load of the queue that is to be worked off [pods]
        ("spread", np.float64, (HORIZONS,)),  # of the log of the load
        ("needed", np.int64, (HORIZONS,)),
        ("least", np.int64),  # that the newest scrape needs
        ("overdue", np.int64),  # pods that do not count
        ("replaced", np.int64),  # of them, those that the desired replicas make up for
        ("stale", np.bool_),
        ("residual", np.float64),  # what a learned policy added to the log of the load
        ("desired", np.int64),
    ],
    align=True,
)


@dataclass(frozen=True)
class Capacity:
    """Shares of bad requests by utilization and replicas, of several services.

    Attributes:
        least, most: utilization of the first and the last point [1].
        bad: shape (n_services, replicas + 1, n_points) [1]; services with fewer replicas are padded with their last row.
    """

    least: float
    most: float
    bad: np.ndarray


NOTHING = Capacity(*RAMP, np.zeros((1, 1, 2)))


@lru_cache(maxsize=8)
def capacity_tables(profile: Profile) -> Capacity:
    """What the services of a profile can take, see `clairvoyant.bad_shares`; no traffic is looked at."""
    tables = [
        np.zeros((1, RAMP_POINTS)) if requests_per_pod_s(profile, i) is None else bad_shares(profile, i)[1]
        for i in range(len(profile.services))
    ]
    rows_needed = max(len(table) for table in tables)
    padded = [np.concatenate([t, np.repeat(t[-1:], rows_needed - len(t), axis=0)]) for t in tables]
    return Capacity(*RAMP, np.ascontiguousarray(np.stack(padded)))


@kernel
def bad_at(table, least, most, replicas, utilization):
    """Share of bad requests at a load, from `Capacity.bad` of one service."""
    n = table.shape[1]
    position = (utilization - least) / (most - least) * (n - 1)
    if position <= 0.0:
        return 0.0 if utilization < least else table[replicas, 0]
    if position >= n - 1:
        return 1.0
    before = int(position)
    share = position - before
    return table[replicas, before] + share * (table[replicas, before + 1] - table[replicas, before])


@kernel
def cheapest(table, least, most, log_load, spread, tail, bad_cost, lowest, highest):
    """Replicas for which pods and expected bad requests cost least.

    Args:
        table, least, most: see `Capacity`, of one service.
        log_load: mean of the log of the load, in pods that it uses up.
        spread: its standard deviation; tail: how the ends are stretched.
        bad_cost: what it costs if all requests of the mean load are bad [pods].
        lowest, highest: replicas that come into question.
    """
    best, least_cost = highest, math.inf
    loads, weights = np.empty(len(_POINTS)), np.empty(len(_POINTS))
    for k in range(len(_POINTS)):
        more = math.exp(spread * _POINTS[k] * (1.0 + tail * abs(_POINTS[k])))
        loads[k] = math.exp(log_load) * more
        weights[k] = _WEIGHTS[k] * more  # a request counts, not a moment
    for replicas in range(highest, lowest - 1, -1):
        bad = 0.0
        for k in range(len(_POINTS) - 1, -1, -1):
            share = bad_at(table, least, most, replicas, loads[k] / replicas)
            if share == 0.0:
                break  # loads fall from here on
            bad += weights[k] * share
        cost = replicas + bad_cost * bad
        if cost < least_cost:
            best, least_cost = replicas, cost
        if bad_cost * bad > least_cost:
            break  # fewer pods make it only worse
    return best


@phase
def follow_scrapes(world, rules, states):
    """Takes in the scrapes that were published since the last decision, for every service and the budget's account."""
    lane, state = world.lane, world.state
    step_s = lane.scrape_ticks * lane.tick_s
    for i in range(len(world.services)):
        rule, memory = rules[i], states[i]
        fresh = min(state.n_published - memory.forecast.n_seen, HISTORY - 1)
        memory.forecast.n_seen = max(memory.forecast.n_seen, state.n_published - fresh)
        days = days_before(lane.traffic, FURTHEST_S)
        for back in range(fresh - 1, -1, -1):
            time_s = state.published.time_s - (back + 0.5) * step_s
            load = load_of(world.services[i], scrape_of(world, back, i))
            season = season_at(lane.traffic, world.rates, time_s, days)
            follow(rule.forecast, memory.forecast, load, time_s, season, step_s)
        if fresh > 0:
            requests = state.published.request_rate_per_s * step_s * fresh
            keep = math.exp(-step_s * fresh / BUDGET_MEMORY_S)
            if memory.requests == 0.0:
                memory.requests = state.published.request_rate_per_s * BUDGET_PRIOR_S
                memory.bad = rule.budget * memory.requests
            memory.requests = keep * memory.requests + requests
            memory.bad = keep * memory.bad + requests * (1.0 - state.published.good_ratio)


@phase
def prepare(world, i, rule, memory):
    """Works out what one service has to expect: forecasts, their spread, what the budget's account makes of the price.

    Args:
        rule, memory: its RULE and RULE_STATE.
    """
    lane, state, service, own = world.lane, world.state, world.services[i], world.service_states[i]
    now_s = state.tick * lane.tick_s
    step_s = lane.scrape_ticks * lane.tick_s
    memory.overdue = overdue_pods(own, rows(world.pods, service.pods_first, service.n_pods), now_s, rule.overdue_s)
    usual_s = (lane.publish_ticks + lane.sync_ticks) * lane.tick_s
    newest_s = state.published.time_s if state.n_published > 0 else 0.0
    memory.stale = state.n_published == 0 or now_s - newest_s > usual_s + STALE_SCRAPES * step_s
    if memory.stale:
        return
    forecast = memory.forecast
    days = days_before(lane.traffic, FURTHEST_S)
    age_s = now_s - forecast.time_s
    season = np.empty(HORIZONS)
    ahead_s = np.empty(HORIZONS)
    for h in range(HORIZONS):
        ahead_s[h] = age_s + rule.ahead_s[h]
        season[h] = season_at(lane.traffic, world.rates, now_s + rule.ahead_s[h], days)
    look_ahead(rule.forecast, forecast, season, ahead_s, step_s)
    seen = scrape_of(world, 0, i)
    memory.waiting = rule.backlog_weight * seen.queue_len * rule.work_s / _DRAIN_S
    memory.spent = memory.bad / max(rule.budget * memory.requests, 1e-9)
    memory.price = rule.price * math.exp(rule.feedback * (min(memory.spent, _MOST_BUDGETS) - 1.0))
    doubt = min(max(1.0, math.sqrt(memory.price)), _MOST_DOUBT)
    for h in range(HORIZONS):
        variance = rule.spread_weight * rule.spread_weight * forecast.variance[h]
        variance += rule.count_weight * rule.count_weight / max(math.exp(forecast.log_ahead[h]), 0.1)
        memory.spread[h] = doubt * math.sqrt(variance)


@phase
def choose(world, i, rule, memory, capacity, least, most, residual):
    """Replicas that one service should have [pods], once it is prepared.

    Args:
        rule, memory: its RULE and RULE_STATE.
        capacity, least, most: see `Capacity`.
        residual: what is added to the log of the load that is planned for.
    """
    lane = world.lane
    current = world.service_states[i].desired_replicas
    memory.residual = residual
    if memory.stale:
        remember(memory, current - memory.replaced)
        lacking = max(0, memory.overdue - memory.replaced)
        kept = min(current + lacking, highest_step(current), rule.max_replicas)
        memory.desired = max(kept, rule.min_replicas)
        memory.replaced += max(0, memory.desired - current)
        return memory.desired
    wanted = rule.min_replicas
    for h in range(HORIZONS):
        load = (math.exp(memory.forecast.log_ahead[h] + residual) + memory.waiting) / rule.full_load
        spread = memory.spread[h]
        lowest = max(rule.min_replicas, min(int(load / 1.1), rule.max_replicas))
        furthest = load * math.exp(min(3.75 * spread * (1.0 + 3.75 * rule.tail), 1.5)) / 0.6
        highest = min(rule.max_replicas, max(lowest, int(furthest) + 2))
        bad_cost = memory.price * load / rule.budget
        needed = cheapest(
            capacity[rule.capacity], least, most, math.log(load), spread, rule.tail, bad_cost, lowest, highest
        )
        memory.needed[h] = needed
        wanted = max(wanted, needed)
    seen_load = math.exp(memory.forecast.log_load) / rule.full_load
    memory.least = min(math.ceil(seen_load - 1e-6), rule.max_replicas)
    wanted = max(wanted, memory.least)
    remember(memory, wanted)
    held = min(int(rule.hold_s / (lane.sync_ticks * lane.tick_s)) + 1, min(HELD, memory.n_decisions))
    most_held = 0
    for back in range(held):
        most_held = max(most_held, memory.wanted[(memory.n_decisions - 1 - back) % HELD])
    wanted = max(wanted, min(most_held, current))  # a hold keeps what runs; it adds nothing
    wanted += memory.overdue
    memory.replaced = memory.overdue
    wanted = min(wanted, highest_step(current))
    wanted = max(wanted, math.ceil(_DOWN_FACTOR * current))
    memory.desired = min(max(wanted, rule.min_replicas), rule.max_replicas)
    return memory.desired


@kernel
def highest_step(current):
    """The most replicas that one decision may ask for [pods]."""
    return max(int(_UP_FACTOR * current), current + _UP_PODS)


@kernel
def remember(memory, wanted):
    """Notes what was wanted, for the hold."""
    memory.wanted[memory.n_decisions % HELD] = wanted
    memory.n_decisions += 1


@kernel
def overdue_pods(own, pods, now_s, overdue_s):
    """Pods that should have been ready by now and are not: the API server tells since when each has been there."""
    count = 0
    for k in range(own.n_pods):
        pod = pods[k]
        if not pod.deleting and pod.ready != READY_TRUE and now_s - pod.start_s > overdue_s:
            count += 1
    return count


@kernel
def decide_lanes(tables, lanes, rules, states, capacity, least, most, desired):
    """Replicas of every service of some lanes, into `desired`, int64 of shape (n_lanes, n_services) [pods]."""
    for index in lanes:
        world = cut(tables, index)
        first = world.lane.services_first
        follow_scrapes(world, rows(rules, first, len(world.services)), rows(states, first, len(world.services)))
        for i in range(len(world.services)):
            rule, memory = rules[first + i], states[first + i]
            prepare(world, i, rule, memory)
            desired[index, i] = choose(world, i, rule, memory, capacity, least, most, 0.0)


_FORECAST_NAMES = frozenset(FORECAST.names or ())


def rule_rows(profile: Profile, settings: Mapping[str, Any]) -> np.ndarray:
    """RULE records of a profile's services, shape (n_services,); `capacity` counts within the profile.

    Args:
        settings: all of `agents.policies.settings.RULE`.
    """
    graph = resolve(profile)
    made = np.zeros(len(profile.services), dtype=RULE)
    for i, service in enumerate(profile.services):
        row, container = made[i], service.container
        for name, value in settings.items():
            (row["forecast"] if name in _FORECAST_NAMES else row)[name] = value
        per_request = graph.cpu_seconds_per_request[i] / container.cpu_request_cores
        full_rate = requests_per_pod_s(profile, i)
        row["full_load"] = max(per_request * full_rate, 1e-9) if full_rate is not None else 1.0
        row["work_s"] = per_request / max(row["full_load"], 1e-9)
        row["budget"] = 1.0 - profile.slo.objective
        sync_s = profile.controller.sync_period_seconds
        row["ahead_s"] = 0.5 * sync_s, time_to_ready_s(service) + 0.5 * sync_s
        row["overdue_s"] = 3.0 * time_to_ready_s(service) + 10.0
        row["capacity"] = i
        row["min_replicas"], row["max_replicas"] = service.replicas.min, service.replicas.max
    return made


def batch_of_rules(lanes: Sequence[tuple[Profile, Mapping[str, Any]]]) -> tuple[np.ndarray, Capacity]:
    """RULE records of all services of some lanes, as they stand in tables, and the capacities that they name.

    Args:
        lanes: profile and settings of each.
    """
    profiles = list(dict.fromkeys(profile for profile, _ in lanes))
    tables = [capacity_tables(profile) for profile in profiles]
    deepest = max(table.bad.shape[1] for table in tables)
    padded = [
        np.concatenate([t.bad, np.repeat(t.bad[:, -1:], deepest - t.bad.shape[1], axis=1)], axis=1) for t in tables
    ]
    firsts = dict(zip(profiles, np.cumsum([0, *(len(table.bad) for table in tables[:-1])]), strict=True))
    made = []
    for profile, settings in lanes:
        own = rule_rows(profile, settings)
        own["capacity"] += firsts[profile]
        made.append(own)
    bad = np.ascontiguousarray(np.concatenate(padded))
    return np.concatenate(made), Capacity(tables[0].least, tables[0].most, bad)


class RulePolicy:
    """The rule as a policy.

    Args:
        settings: see `agents.policies.settings.RULE`.

    Raises:
        PolicyError: unknown names or wrong values; all at once.
    """

    name = "rule"

    def __init__(self, **settings: Any):
        self.settings = completed(self.name, RULE_SETTINGS, settings)
        self._chosen: list[Mapping[str, Any]] = [self.settings]
        self.rules = np.zeros(0, dtype=RULE)
        self.states = np.zeros(0, dtype=RULE_STATE)
        self.capacity = NOTHING

    @classmethod
    def by_lane(cls, settings: Sequence[Mapping[str, Any]]) -> RulePolicy:
        """A policy that plays lane k with settings k."""
        policy = cls()
        policy._chosen = [completed(cls.name, RULE_SETTINGS, each) for each in settings]
        return policy

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        chosen = for_lanes(self._chosen, len(lanes))
        self.rules, self.capacity = batch_of_rules(
            [(lane.profile, settings) for lane, settings in zip(lanes, chosen, strict=True)]
        )
        self.states = np.zeros(len(self.rules), dtype=RULE_STATE)

    def predict(self, observations: Observations) -> np.ndarray:
        desired = np.zeros((observations.n_lanes, observations.n_services), dtype=np.int64)
        capacity = self.capacity
        observations.decide(decide_lanes, self.rules, self.states, capacity.bad, capacity.least, capacity.most, desired)
        return desired

    def scalers(self) -> list[Scaler] | None:
        return None
