"""Searches on the training traffic: for the HPA's settings, for the best fixed action, for the headroom of an agent.

All of them look for the cheapest choice that keeps the SLO; where none keeps it, for the one that comes nearest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.actions import N_ACTIONS
from agents.env import EnvSpec, Episodes
from agents.policies.contract import Policy, play
from agents.policies.hpa import HpaPolicy
from sim_core.profile import Profile
from sim_core.simulation import simulate
from sim_core.workload import Trace
from sim_core.world import Lane, Scaler, capacity_per_replica

DAY_S = 86_400.0
COARSE_TARGETS_PCT = (50, 60, 70, 75, 80, 85, 90)
DOWN_WINDOWS_S = (0, 60, 300)
UP_WINDOWS_S = (0, 30)
# Fine candidates as far as the budget goes: (place among the windows, offset from the best coarse target [%]).
_FINE_ORDER = (
    (0, 0), (0, 1), (0, 2), (0, -2), (0, 3), (1, 0), (1, 2), (0, -4), (1, 1), (0, -1), (1, -2), (2, 0), (2, 2), (0, 4),
    (0, -3), (1, 3), (1, -1), (2, 1), (2, -2), (0, -6), (1, 4), (1, -4), (2, 3), (2, -1), (0, -8), (2, 4), (2, -4), (0, -12),
)  # fmt: skip
SEARCH_SEED = 77_000  # of the lanes in which choices are compared; evaluations use other seeds
# A policy that just keeps the SLO on the traffic it was fitted to would miss it on other days every second time.
BUDGET_MARGIN = 0.1
# Static fleets are tried from this utilization of the mean load to this one of the peak.
STATIC_UTILIZATIONS = (1.0, 0.4)
HEADROOMS = tuple(round(0.9 + 0.005 * k, 3) for k in range(64))


@dataclass(frozen=True)
class TunedHpa:
    """The HPA settings that a search found, and what it cost to find them."""

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


def search_target(profile: Profile) -> float:
    """SLO attainment that a search asks for: the objective, and a margin of the error budget above it."""
    return profile.slo.objective + BUDGET_MARGIN * (1.0 - profile.slo.objective)


def tune_hpa(profile: Profile, trace: Trace, start_s: float, end_s: float, budget_days: float) -> TunedHpa:
    """The best HPA for a profile on some traffic.

    First all combinations of coarse targets and stabilization windows on one busy stretch; then, with what is left of
    the budget, fine targets of the best windows on the whole part.

    Args:
        start_s, end_s: the part of the trace to tune on [s].
        budget_days: simulated days that the search may spend; it stays below as far as one candidate allows.
    """
    part_s = end_s - start_s
    grid = list(itertools.product(COARSE_TARGETS_PCT, DOWN_WINDOWS_S, UP_WINDOWS_S))
    affordable = max(
        1, int(0.5 * budget_days * DAY_S / min(part_s, 3600.0))
    )  # an hour tells little, less tells nothing
    if affordable < len(grid):
        grid = [grid[int(k)] for k in np.linspace(0, len(grid) - 1, affordable)]
    stretch_s = min(part_s, DAY_S, 0.5 * budget_days * DAY_S / len(grid))
    busy_s = _busiest_start(trace, start_s, end_s, stretch_s)
    objective = search_target(profile)
    coarse = _play_hpas(profile, trace, busy_s, stretch_s, grid)
    spent = len(grid) * stretch_s / DAY_S
    part_s = min(part_s, (budget_days - spent) * DAY_S)
    n_fine = int((budget_days - spent) * DAY_S / part_s)
    fine = _fine_candidates(grid, *coarse, objective, n_fine)
    attained, cost = _play_hpas(profile, trace, start_s, part_s, fine)
    spent += len(fine) * part_s / DAY_S
    best = cheapest_that_keeps(attained, cost, objective)
    return TunedHpa(_hpa_settings(fine[best]), float(attained[best]), float(cost[best]), spent, len(grid) + len(fine))


def hpa_settings(profile: Profile, trace: Trace, start_s: float, end_s: float, budget_days: float) -> dict[str, Any]:
    """Settings of the policy `hpa-tuned`, see `tune_hpa`."""
    return tune_hpa(profile, trace, start_s, end_s, budget_days).settings


def static_settings(profile: Profile, trace: Trace, start_s: float, end_s: float, budget_days: float) -> dict[str, Any]:
    """Settings of the policy `static`, see `tune_static`: every fleet of interest is tried once, whatever the budget."""
    return {"replicas": tune_static(profile, trace, start_s, end_s)}


def tune_static(profile: Profile, trace: Trace, start_s: float, end_s: float) -> int:
    """The smallest fleet that keeps the SLO over a part of the traffic; the one that comes nearest if none does [pods].

    Args:
        start_s, end_s: the part of the trace [s].
    """
    seen = trace.slice(start_s, end_s)
    per_replica = capacity_per_replica(profile)
    least = math.floor(seen.mean_per_s / (per_replica * STATIC_UTILIZATIONS[0]))
    most = math.ceil(seen.peak_per_s / (per_replica * STATIC_UTILIZATIONS[1]))
    limits = [(service.replicas.min, service.replicas.max) for service in profile.services]
    lowest, highest = min(low for low, _ in limits), max(high for _, high in limits)
    fleets = range(min(max(least, lowest), highest), min(max(most, lowest), highest) + 1)
    lanes = [Lane(profile, trace, SEARCH_SEED, start_s, Scaler.static(replicas)) for replicas in fleets]
    table = simulate(lanes, end_s - start_s).indicators
    attained, cost = table["slo_attainment"].to_numpy(), table["cost_usd"].to_numpy()
    return fleets[cheapest_that_keeps(attained, cost, search_target(profile))]


def _hpa_settings(candidate: tuple[int, int, int]) -> dict[str, Any]:
    target, down, up = candidate
    return {
        "target_cpu_utilization_pct": target,
        "scale_down_stabilization_window_seconds": down,
        "scale_up_stabilization_window_seconds": up,
    }


def _play_hpas(
    profile: Profile, trace: Trace, start_s: float, duration_s: float, candidates: Sequence[tuple[int, int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """SLO attainment and cost of HPA settings, shape (n_candidates,) each."""
    lanes = [Lane(profile, trace, SEARCH_SEED, start_s, Scaler.hpa(**_hpa_settings(c))) for c in candidates]
    table = simulate(lanes, duration_s).indicators
    return table["slo_attainment"].to_numpy(), table["cost_usd"].to_numpy()


def _fine_candidates(
    grid: Sequence[tuple[int, int, int]], attained: np.ndarray, cost: np.ndarray, objective: float, n_fine: int
) -> list[tuple[int, int, int]]:
    """The most promising windows, each with targets around the highest coarse one that keeps the SLO."""
    by_windows: dict[tuple[int, int], tuple[float, int]] = {}
    for (target, down, up), good, usd in zip(grid, attained, cost, strict=True):
        if good >= objective and usd < by_windows.get((down, up), (np.inf, 0))[0]:
            by_windows[down, up] = usd, target
    if not by_windows:
        best = int(np.argmax(attained))
        target, down, up = grid[best]
        by_windows[down, up] = float(cost[best]), target
    ranked = sorted((usd, target, windows) for windows, (usd, target) in by_windows.items())
    candidates: list[tuple[int, int, int]] = []
    for place, offset in _FINE_ORDER:
        if place < len(ranked):
            _, target, (down, up) = ranked[place]
            if len(candidates) < n_fine and 1 <= target + offset <= 100:
                candidates.append((target + offset, down, up))
    return candidates


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
