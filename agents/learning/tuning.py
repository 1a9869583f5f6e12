"""Searches of a training on its traffic: for the HPA to compare with, for the best fixed action, for an agent's headroom.

All of them look for the cheapest choice that keeps the SLO; where none keeps it, for the one that comes nearest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.actions import N_ACTIONS
from agents.env import EnvSpec, Episodes
from agents.learning.families import HPA
from agents.learning.search import DAY_S, SEARCH_SEED, Part, search, search_target
from agents.policies.contract import Policy, play
from agents.policies.hpa import HpaPolicy
from sim_core.profile import Profile
from sim_core.simulation import simulate
from sim_core.workload import Trace
from sim_core.world import Lane, Scaler

HEADROOMS = tuple(round(0.9 + 0.005 * k, 3) for k in range(64))


@dataclass(frozen=True)
class TunedHpa:
    """The HPA settings that a search found, and what it cost to find them.

    Attributes:
        slo_attainment, cost_usd: of one lane over the whole part, in the profile's own ticks [1, USD].
        simulated_days, candidates: what the search and that lane spent.
    """

    settings: dict[str, Any]
    slo_attainment: float
    cost_usd: float
    simulated_days: float
    candidates: int

    def policy(self) -> HpaPolicy:
        """The policy, named as in comparisons."""
        policy = HpaPolicy(**self.settings)
        policy.name = "hpa-tuned"
        return policy


def cheapest_that_keeps(attained: np.ndarray, cost: np.ndarray, objective: float) -> int:
    """Index of the least cost among those with attainment >= objective; of the highest attainment if there is none."""
    keeps = attained >= objective
    return int(np.argmin(np.where(keeps, cost, np.inf))) if keeps.any() else int(np.argmax(attained))


def tune_hpa(profile: Profile, trace: Trace, start_s: float, end_s: float, budget_days: float) -> TunedHpa:
    """The best HPA for a profile on some traffic.

    Args:
        start_s, end_s: the part of the trace to tune on [s].
        budget_days: simulated days that may be spent; it stays below as far as one candidate allows.
    """
    days = (end_s - start_s) / DAY_S
    found = search(HPA, Part(profile, trace, start_s, end_s), budget_days - days)
    lane = Lane(profile, trace, SEARCH_SEED, start_s, Scaler.hpa(**found.settings))
    outcome = simulate([lane], end_s - start_s).indicators.iloc[0]
    return TunedHpa(
        found.settings,
        float(outcome["slo_attainment"]),
        float(outcome["cost_usd"]),
        found.simulated_days + days,
        found.candidates,
    )


def _busiest_start(trace: Trace, start_s: float, end_s: float, stretch_s: float) -> float:
    """Where the stretch with the highest mean rate begins, on whole hours [s]."""
    starts = np.arange(start_s, end_s - stretch_s + 1.0, 3600.0)
    if len(starts) == 0:
        return start_s
    sums = np.concatenate([[0.0], np.cumsum(trace.rates_per_s)])
    first = (starts / trace.step_s).astype(int)
    last = np.minimum(first + max(1, int(stretch_s / trace.step_s)), len(sums) - 1)
    return float(starts[int(np.argmax((sums[last] - sums[first]) / np.maximum(1, last - first)))])


def rank_actions(profile: Profile, trace: Trace, start_s: float, end_s: float, seed: int) -> int:
    """The fixed action of a learned policy that keeps the SLO at the least cost on the busiest day of the part."""
    duration_s = min(end_s - start_s, DAY_S)
    busy_s = _busiest_start(trace, start_s, end_s, duration_s)
    spec = EnvSpec(profile, trace, busy_s, busy_s + duration_s, episode_s=duration_s)
    episodes = Episodes([spec] * N_ACTIONS)
    episodes.begin(np.arange(N_ACTIONS), [np.random.default_rng(seed) for _ in range(N_ACTIONS)])
    actions = np.repeat(np.arange(N_ACTIONS), episodes.n_services).reshape(N_ACTIONS, -1)
    while not episodes.step(actions).any():
        pass
    table = episodes.worlds.indicators()
    return cheapest_that_keeps(table["slo_attainment"].to_numpy(), table["cost_usd"].to_numpy(), search_target(profile))


def calibrate_headroom(
    policy_with: Callable[[float], Policy],
    profile: Profile,
    trace: Trace,
    start_s: float,
    end_s: float,
    attainment: float,
) -> tuple[float, list[dict[str, float]]]:
    """The least headroom with which a policy reaches an SLO attainment on the training traffic.

    Args:
        policy_with: the policy with a given headroom.
        attainment: to be reached [1].

    Returns:
        (headroom, rows of headroom, slo_attainment and cost_usd in the order they were tried): a bisection. Where no
        headroom reaches the attainment, the highest, whose row tells how near it comes.
    """
    rows: dict[int, dict[str, float]] = {}

    def reaches(index: int) -> bool:
        lane = Lane(profile, trace, SEARCH_SEED, start_s)
        outcome = play([lane], policy_with(HEADROOMS[index]), end_s - start_s).indicators.iloc[0]
        rows[index] = {
            "headroom": HEADROOMS[index],
            "slo_attainment": float(outcome["slo_attainment"]),
            "cost_usd": float(outcome["cost_usd"]),
        }
        return rows[index]["slo_attainment"] >= attainment

    low, high = 0, len(HEADROOMS) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle + 1, high)
    if low not in rows:
        reaches(low)
    return HEADROOMS[low], list(rows.values())
