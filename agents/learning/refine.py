"""A good model made better for some traffic: one setting changed at a time, as long as that saves pods at the objective.

A search in all directions takes hundreds of days before it is better than settings that were found on many traffics, and
what just keeps the SLO cheaply is luck with the price as often as merit. So few changes are tried, each at several prices of
the error budget, all on the same draws, and compared at equal attainment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from agents.learning.search import DAY_S, OTHER_DRAWS, SEARCH_SEED, Part, Settings, requests_and_bad
from agents.policies.contract import play
from agents.policies.learned import LearnedPolicy
from agents.policies.settings import RULE
from sim_core.profile import in_long_ticks
from sim_core.world import Lane

PRICES = (0.35, 1.0, 2.8)  # over the one with which the present settings just keep the SLO
FIRST_PRICES = (0.06, 0.25, 1.0, 4.0, 16.0)
LEAST_GAIN = 0.003  # of the pods, that a change must save
DAYS = 3  # of the traffic that each is played on
AT_ONCE = (
    6  # changes that are tried on the same settings, before the best of them, or the three best together, is taken
)
# Settings and by what they are multiplied, the ones that matter most first; `hold_s` and `kept` are set.
MOVES: tuple[tuple[str, float], ...] = (
    ("hold_s", 120.0),
    ("fall_s", 3.0),
    ("season_weight", 1.8),
    ("trend_weight", 0.0),
    ("kept", 0.0),
    ("feedback", 0.3),
    ("season_weight", 0.0),
    ("spread_weight", 3.0),
    ("fall_s", 0.4),
    ("rise_s", 2.5),
    ("count_weight", 1.5),
    ("kept", 1.0),
    ("hold_s", 300.0),
    ("trend_weight", 2.0),
    ("tail", 2.0),
)
_SET = ("kept", "hold_s")


@dataclass(frozen=True)
class Refined:
    """What came of it.

    Attributes:
        gain: pods that it saves at the objective, of those of the model as it was [1].
        days: of the traffic that both were compared on.
        simulated_days, candidates: what was spent.
    """

    settings: Settings
    gain: float
    days: float
    simulated_days: float
    candidates: int


@dataclass(frozen=True)
class _Costed:
    """Settings with the price that just attains the objective, and what pods cost there [USD a day], NaN if none does."""

    settings: Settings
    pods_usd: float


def refine(model: LearnedPolicy, part: Part, budget_days: float, seed: int = SEARCH_SEED, threads: int = 2) -> Refined:
    """Settings of a model, `kept` among them, that need no more pods than its own at the objective, on a part of some traffic.

    Args:
        budget_days: simulated days that may be spent. Where they are few, fewer changes are tried.
        seed: of the days.

    Returns:
        the settings with a price that just keeps the objective there, as far as one does; and what was gained.
    """
    field = _Field(model, replace(part, most_days=DAYS), seed, threads)
    (best,) = field.at_objective([model.settings], FIRST_PRICES)
    (best,) = field.at_objective([best.settings], PRICES)
    first = best
    moves = list(MOVES)
    while moves and not math.isnan(best.pods_usd):
        affordable = int((budget_days - field.spent_days) / (field.days * len(PRICES)))
        if affordable < 1:
            break
        n_tried = min(affordable, AT_ONCE)
        tried, moves = moves[:n_tried], moves[n_tried:]
        changed = [_moved(best.settings, *move) for move in tried]
        candidates = [settings for settings in changed if settings != best.settings]
        found = field.at_objective(candidates, PRICES)
        better = [one for one in found if one.pods_usd < (1.0 - LEAST_GAIN) * best.pods_usd]
        better.sort(key=lambda one: one.pods_usd)
        if better:
            best, start = better[0], best
            together = _together(start.settings, [one.settings for one in better[:3]])
            if len(better) > 1 and affordable > n_tried:
                best = min([best, *field.at_objective([together], PRICES)], key=lambda one: _or_inf(one.pods_usd))
    gain = 0.0 if best is first else 1.0 - best.pods_usd / first.pods_usd
    return Refined(best.settings, gain, field.days, field.spent_days, field.candidates)


def _or_inf(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _moved(settings: Settings, name: str, by: float) -> Settings:
    value = by if name in _SET else settings[name] * by
    limits = {setting.name: (setting.low, setting.high) for setting in RULE} | {"kept": (0.0, 1.0)}
    return {**settings, name: min(max(value, limits[name][0]), limits[name][1])}


def _together(start: Settings, changed: Sequence[Settings]) -> Settings:
    """All changes at once but those of the price; of two of one setting the better, which comes first."""
    whole = dict(changed[0])
    for settings in changed[1:]:
        whole |= {
            name: value
            for name, value in settings.items()
            if name != "price" and value != start[name] and whole[name] == start[name]
        }
    return whole


class _Field:
    """Plays settings of a model on the days of a part."""

    def __init__(self, model: LearnedPolicy, part: Part, seed: int, threads: int):
        self._model, self._part, self._seed, self._threads = model, part, seed, threads
        self._profile = in_long_ticks(part.profile)
        self.spent_days, self.candidates = 0.0, 0

    @property
    def days(self) -> float:
        """Simulated days that one play takes."""
        return len(self._part.starts_s) * self._part.block_s / DAY_S

    def at_objective(self, candidates: Sequence[Settings], prices: Sequence[float]) -> list[_Costed]:
        """What each of some settings needs at the objective, with a price that just attains it; NaN where none does.

        Args:
            prices: over the settings' own, that are played.
        """
        if not candidates:
            return []
        price = next(setting for setting in RULE if setting.name == "price")
        tried = [
            {**settings, "price": min(max(settings["price"] * factor, price.low), price.high)}
            for settings in candidates
            for factor in prices
        ]
        bad, usd = self._played(tried)
        objective = self._part.profile.slo.objective
        found = []
        for k, settings in enumerate(candidates):
            own = slice(k * len(prices), (k + 1) * len(prices))
            at, cost = _at(bad[own], usd[own], np.array([one["price"] for one in tried[own]]), 1.0 - objective)
            found.append(_Costed({**settings, "price": at}, cost))
        return found

    def _played(self, settings: Sequence[Settings]) -> tuple[np.ndarray, np.ndarray]:
        """Share of bad requests, and cost of pods [USD a day], of each settings over the days."""
        starts = self._part.starts_s
        draws = self._seed + OTHER_DRAWS
        lanes = [Lane(self._profile, self._part.trace, draws + d, at) for _ in settings for d, at in enumerate(starts)]
        policy = self._model.by_lane([own for own in settings for _ in starts])
        played = play(lanes, policy, self._part.block_s, threads=self._threads)
        self.spent_days += len(settings) * self.days
        self.candidates += len(settings)
        shape = len(settings), len(starts)
        requests, bad = (amount.reshape(shape) for amount in requests_and_bad(played))
        usd = played.indicators["cost_pods_usd"].to_numpy().reshape(shape).sum(axis=1) / self.days
        return bad.sum(axis=1) / np.maximum(requests.sum(axis=1), 1e-9), usd


def _at(bad: np.ndarray, usd: np.ndarray, prices: np.ndarray, allowed: float) -> tuple[float, float]:
    """Price and cost of pods at a share of bad requests, on the line through the logs of shares; nothing is extrapolated.

    Prices rise, and bad shares are taken to fall with them. Where all are better than that it is the first, which is the
    cheapest; where all are worse it is the last price, and no cost.
    """
    log_bad = np.log(np.maximum(np.minimum.accumulate(bad), 1e-9))[::-1]  # rising, as np.interp wants places
    aim = math.log(allowed)
    price = float(math.exp(np.interp(aim, log_bad, np.log(prices[::-1]))))
    return price, math.nan if log_bad[0] > aim else float(np.interp(aim, log_bad, usd[::-1]))
