"""The search for the settings of a policy: one for all of them, within one budget of simulated days.

Every policy that has settings to be found is a `Family`: what they may be, and which one of them trades pods for good
requests. A search plays candidates on days of the training traffic, many at once, and looks for the fewest pods that keep
the SLO with a margin (CMA-ES; Hansen 2016, arXiv 1604.00772, by the package cmaes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cmaes import CMA

from agents.policies.contract import Policy, play
from sim_core.profile import Profile, in_long_ticks
from sim_core.simulation import Simulation
from sim_core.workload import Trace
from sim_core.world import Lane

Settings = dict[str, Any]

DAY_S = 86_400.0
SEARCH_SEED = 77_000  # of the lanes in which choices are compared; evaluations use other seeds
# A policy that just keeps the SLO on the traffic it was fitted to would miss it on other days every second time.
BUDGET_MARGIN = 0.1
MOST_DAYS = 4  # of the training traffic that a candidate plays: with more, too few candidates are played
FINALISTS = 6
LEAST_SEARCH_DAYS, MOST_SEARCH_DAYS = 20.0, 300.0  # of the search for a rule before a training
_FINAL_SHARE = 0.2  # of the budget, for playing the finalists with other draws
OTHER_DRAWS = 1000  # from the seed of the candidates to that of the finalists
_SIGMA = 0.2  # of the range of a parameter: how far the first candidates lie from the start
# How many times its pods a candidate is charged for spending the whole budget once more than it may; on the frontiers
# that were measured a budget is worth a tenth of the pods or less.
_PENALTY = 0.5


@dataclass(frozen=True)
class Parameter:
    """One setting of a policy and its range.

    Args:
        log: the scale is logarithmic.
        whole: only whole numbers.
        default: where a search begins; None: the middle.
    """

    name: str
    low: float
    high: float
    log: bool = False
    whole: bool = False
    default: float | None = None

    def to_unit(self, value: float) -> float:
        """The place of a value in the range [0, 1]."""
        if self.high == self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def at(self, unit: float) -> float | int:
        """The value at a place from 0 to 1."""
        unit = min(max(unit, 0.0), 1.0)
        value = self.low * (self.high / self.low) ** unit if self.log else self.low + unit * (self.high - self.low)
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else float(value)

    @property
    def start(self) -> float:
        """Where a search begins, in the range [0, 1]."""
        return 0.5 if self.default is None else self.to_unit(self.default)


@dataclass(frozen=True)
class Part:
    """A part of some traffic that settings are searched on.

    Args:
        trace: scaled to the profile.
        start_s, end_s: the part [s].
        most_days: of it that a candidate plays.
    """

    profile: Profile
    trace: Trace
    start_s: float
    end_s: float
    most_days: int = MOST_DAYS

    @property
    def block_s(self) -> float:
        """Length of what a candidate plays at a stretch [s]: a day, or the part if that is shorter."""
        sync_s = self.profile.controller.sync_period_seconds
        return max(sync_s, math.floor(min(DAY_S, self.end_s - self.start_s) / sync_s) * sync_s)

    @property
    def starts_s(self) -> list[float]:
        """Where the days that candidates play begin [s]: at most `most_days`, the last one of the part among them."""
        n_days = max(1, int((self.end_s - self.start_s) / self.block_s + 1e-9))
        chosen = np.unique(np.linspace(n_days - 1, 0, min(n_days, self.most_days)).round().astype(int))
        return [float(self.end_s - (n_days - day) * self.block_s) for day in chosen]


@dataclass(frozen=True)
class Family:
    """A policy whose settings are to be found.

    Args:
        parameters: what they may be, for a profile on a part of some traffic.
        policy_of: a policy that plays lane k with settings k.
        knob: the parameter that trades pods for good requests.
        knob_factors: by what the knob is multiplied to see that trade; a range as wide as the frontier of interest.
    """

    parameters: Callable[[Part], Sequence[Parameter]]
    policy_of: Callable[[Sequence[Mapping[str, Any]]], Policy]
    knob: str
    knob_factors: tuple[float, ...] = (0.7, 0.8, 0.87, 0.93, 1.0, 1.07, 1.15, 1.25)

    def frontier(self, settings: Mapping[str, Any], part: Part) -> list[Settings]:
        """The settings with other values of the knob, without repetition, in the order of its values."""
        parameter = next(p for p in self.parameters(part) if p.name == self.knob)
        values = {
            parameter.at(parameter.to_unit(min(max(settings[self.knob] * f, parameter.low), parameter.high)))
            for f in self.knob_factors
        }
        return [{**settings, self.knob: value} for value in sorted(values)]


@dataclass(frozen=True)
class Found:
    """What a search found, on the traffic it was made on.

    Attributes:
        slo_attainment: over all days it was played [1].
        pods_usd: mean cost of its pods over those days [USD a day].
        simulated_days, candidates: what the search spent.
    """

    settings: Settings
    slo_attainment: float
    pods_usd: float
    simulated_days: float
    candidates: int


def budget_days(steps: int, decision_s: float) -> float:
    """Simulated days that a training of so many steps takes, and its search before: rivals may spend as many.

    Args:
        decision_s: time between two steps [s].
    """
    learned_days = steps * decision_s / DAY_S
    return learned_days + min(MOST_SEARCH_DAYS, max(LEAST_SEARCH_DAYS, 4.0 * learned_days))


def search_target(profile: Profile) -> float:
    """SLO attainment that a search asks for: the objective, and a margin of the error budget above it."""
    return profile.slo.objective + BUDGET_MARGIN * (1.0 - profile.slo.objective)


def search(
    family: Family, part: Part | Sequence[Part], budget_days: float, seed: int = SEARCH_SEED, threads: int = 2
) -> Found:
    """The settings of a family with the fewest pods that keep the SLO with a margin; where none does, the nearest to it.

    Args:
        part: what is searched on; of several parts, which may be of different profiles, each counts alike: pods relative to
            those of the first candidate, and what it is charged for missing the SLO.
        budget_days: simulated days that the search may spend; candidates are played in the profile's longest ticks. One
            candidate is always played.
        seed: of the draws of the first candidates' days.
        threads: that lanes are played on; the outcome does not depend on them.
    """
    parts = [part] if isinstance(part, Part) else list(part)
    parameters = list(family.parameters(parts[0]))
    field = _Field(family, parts, threads)
    start = [parameter.start for parameter in parameters]
    free = [k for k, parameter in enumerate(parameters) if parameter.high > parameter.low]
    n_final = min(FINALISTS, int(_FINAL_SHARE * budget_days / field.days))
    for_candidates = budget_days - n_final * field.days
    candidates = [_settings(parameters, start)]
    field.play(candidates, seed)
    if len(free) == 1:  # a line needs no evolution: ever finer steps around the best
        _search_line(field, parameters, free[0], for_candidates, seed)
    elif free:
        _evolve(field, parameters, start, free, for_candidates, seed)
    field.finish(n_final, seed + OTHER_DRAWS)
    return field.best()


def _settings(parameters: Sequence[Parameter], place: Sequence[float]) -> Settings:
    return {parameter.name: parameter.at(unit) for parameter, unit in zip(parameters, place, strict=True)}


def _evolve(
    field: _Field,
    parameters: Sequence[Parameter],
    start: Sequence[float],
    free: Sequence[int],
    budget: float,
    seed: int,
) -> None:
    def cma(mean: np.ndarray, run: int) -> CMA:
        return CMA(mean=mean, sigma=_SIGMA, bounds=np.tile([0.0, 1.0], (len(free), 1)), seed=seed + run)

    mean, run = np.array([start[k] for k in free]), 0
    evolution = cma(mean, run)
    while field.spent_days + evolution.population_size * field.days <= budget:
        places = [evolution.ask() for _ in range(evolution.population_size)]
        candidates = []
        for place in places:
            whole = list(start)
            for k, unit in zip(free, place, strict=True):
                whole[k] = float(unit)
            candidates.append(_settings(parameters, whole))
        scores = field.play(candidates, seed)
        evolution.tell(list(zip(places, scores, strict=True)))
        if evolution.should_stop():
            run += 1
            evolution = cma(np.random.default_rng(seed + run).random(len(free)), run)


def _search_line(field: _Field, parameters: Sequence[Parameter], free: int, budget: float, seed: int) -> None:
    parameter = parameters[free]
    low, high = 0.0, 1.0
    while field.spent_days + field.days <= budget:
        n = max(1, min(12, int((budget - field.spent_days) / field.days)))
        units = np.linspace(low, high, n + 2)[1:-1] if (low, high) != (0.0, 1.0) else np.linspace(0.0, 1.0, n)
        values = sorted({parameter.at(unit) for unit in units} - {entry[parameter.name] for entry in field.tried})
        if not values:
            return
        base = field.tried[0]
        field.play([{**base, parameter.name: value} for value in values], seed)
        known = sorted(entry[parameter.name] for entry in field.tried)
        best = known.index(field.leader()[parameter.name])
        low = parameter.to_unit(known[max(best - 1, 0)])
        high = parameter.to_unit(known[min(best + 1, len(known) - 1)])


def requests_by_lane(played: Simulation) -> np.ndarray:
    """Requests of each lane, shape (n_lanes,)."""
    return played.classes.groupby("lane")["requests"].sum().to_numpy()


def requests_and_bad(played: Simulation) -> tuple[np.ndarray, np.ndarray]:
    """Requests of each lane, and how many of them were bad, shape (n_lanes,) each; none is bad where there was none."""
    requests = requests_by_lane(played)
    return requests, (1.0 - played.indicators["slo_attainment"].fillna(1.0).to_numpy()) * requests


class _Field:
    """Candidates that were played, and what came of them on each part."""

    def __init__(self, family: Family, parts: Sequence[Part], threads: int):
        self._family, self._parts, self._threads = family, parts, threads
        self._profiles = [in_long_ticks(part.profile) for part in parts]
        self._allowed = np.array([1.0 - search_target(part.profile) for part in parts])
        # Cost of pods [USD a day], bad requests and requests, summed over plays, shape (n_candidates, 3, n_parts).
        self._sums = np.zeros((0, 3, len(parts)))
        self._plays = np.zeros(0, dtype=int)
        self.tried: list[Settings] = []
        self.spent_days = 0.0

    @property
    def days(self) -> float:
        """Simulated days that one candidate takes."""
        return sum(len(part.starts_s) * part.block_s for part in self._parts) / DAY_S

    def play(self, candidates: Sequence[Settings], seed: int) -> np.ndarray:
        """Scores of new candidates, the lower the better, shape (n_candidates,)."""
        self._sums = np.concatenate([self._sums, self._outcomes(candidates, seed)])
        self._plays = np.append(self._plays, np.ones(len(candidates), dtype=int))
        self.tried += candidates
        return self._scores()[len(self.tried) - len(candidates) :]

    def finish(self, n: int, seed: int) -> None:
        """Plays the best ones once more with other draws: luck with the first ones is no merit."""
        finalists = np.argsort(self._scores(), kind="stable")[:n]
        self._sums[finalists] += self._outcomes([self.tried[k] for k in finalists], seed)
        self._plays[finalists] += 1

    def leader(self) -> Settings:
        """The best candidate so far."""
        return self.tried[int(np.argmin(self._scores()))]

    def best(self) -> Found:
        """The fewest pods among those that keep the SLO with a margin everywhere, of those that were played the most.

        Where none does: of one part the one that comes nearest; of several the best score.
        """
        missed, final = self._missed(), self._plays == self._plays.max()
        keeps = final & (missed <= self._allowed).all(axis=1)
        if keeps.any():
            k = int(np.argmin(np.where(keeps, self._scores(), np.inf)))
        else:
            worst = missed[:, 0] if len(self._parts) == 1 else self._scores()
            k = int(np.argmin(np.where(final, worst, np.inf)))
        pods, bad, requests = self._sums[k].sum(axis=1)
        attained = 1.0 - bad / max(requests, 1e-9)
        usd = pods / self._plays[k] / len(self._parts)
        return Found(self.tried[k], float(attained), float(usd), self.spent_days, len(self.tried))

    def _missed(self) -> np.ndarray:
        return self._sums[:, 1] / np.maximum(self._sums[:, 2], 1e-9)

    def _scores(self) -> np.ndarray:
        pods = self._sums[:, 0] / self._plays[:, None]
        charged = pods / pods[0] * (1.0 + _PENALTY * np.maximum(0.0, self._missed() / self._allowed - 1.0))
        return charged.mean(axis=1)

    def _outcomes(self, candidates: Sequence[Settings], seed: int) -> np.ndarray:
        """Cost of pods [USD a day], bad requests and requests of candidates, shape (n_candidates, 3, n_parts)."""
        outcomes = np.zeros((len(candidates), 3, len(self._parts)))
        if not candidates:
            return outcomes
        for p, (part, profile) in enumerate(zip(self._parts, self._profiles, strict=True)):
            starts = part.starts_s
            lanes = [Lane(profile, part.trace, seed + day, at) for _ in candidates for day, at in enumerate(starts)]
            settings = [candidate for candidate in candidates for _ in starts]
            played = play(lanes, self._family.policy_of(settings), part.block_s, threads=self._threads)
            shape = len(candidates), len(starts)
            requests = requests_by_lane(played).reshape(shape)
            bad = (1.0 - played.indicators["slo_attainment"].to_numpy().reshape(shape)) * requests
            pods = played.indicators["cost_pods_usd"].to_numpy().reshape(shape).sum(axis=1)
            days = len(starts) * part.block_s / DAY_S
            outcomes[:, 0, p], outcomes[:, 1, p], outcomes[:, 2, p] = pods / days, bad.sum(axis=1), requests.sum(axis=1)
        self.spent_days += len(candidates) * self.days
        return outcomes
