"""The protocol by which policies are compared: whole held-out days, every policy over its frontier, the same draws for all.

One day decides nothing: how much there is to gain, and who misses the SLO, differs more between days than between policies.
And no two policies attain the same: cheap may be who spends more of the error budget. So each contestant is played over
several days with several values of the one setting that trades pods for good requests; what costs less at equal
attainment is worked out from that by `agents.learning.verdict`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.learning.evaluate import FIRST_SEED, OPTIMUM
from agents.learning.search import DAY_S, Part, Settings, requests_and_bad
from agents.policies.contract import Policy, play
from agents.policies.registry import KEPT
from sim_core.errors import InputError
from sim_core.profile import Profile
from sim_core.units import format_duration
from sim_core.workload import Trace
from sim_core.world import Lane

LEAST_DAYS = 5
TUNING_BLOCKS = 2  # of traffic that must lie before the first held-out day
CEILINGS = (OPTIMUM, "known-rates")  # know what nobody can know: marks of what there is to gain, no rivals
LEARNED = ("agent", "general")  # two ways to use one thing, and no rivals of each other
UNLEARNED = f"({KEPT}=0)"  # after the name of a learned policy: its rule alone, which is a rival
_LANES_AT_ONCE = 256  # in one batch; more only takes memory
_MOST_WIDER = 3  # further values at each end of a frontier that does not hold what it is asked for


@dataclass(frozen=True)
class HeldOutDays:
    """Days that are played, and what lies before them.

    Attributes:
        block_s: length of a day, as far as the protocol goes [s].
        starts_s: where each begins in the trace [s]. All traffic before it is its history.
        tune_ends_s: where the part ends that policies may be tuned on for each [s]; it begins with the trace. The same for
            all days, where they are tuned once; the day itself, where they are tuned anew for each.
    """

    block_s: float
    starts_s: tuple[float, ...]
    tune_ends_s: tuple[float, ...]

    @property
    def fits_s(self) -> list[float]:
        """Ends of the parts to tune on, each once [s]."""
        return list(dict.fromkeys(self.tune_ends_s))


def held_out_days(
    trace: Trace, block_s: float = DAY_S, days: int = LEAST_DAYS, refit: bool = False, sync_s: float = 15.0
) -> HeldOutDays:
    """The last whole blocks of a trace, counted from its beginning.

    Args:
        block_s: length of a block [s].
        days: how many are held out, at least LEAST_DAYS.
        refit: policies may be tuned on all that lies before each day (rolling origins); else once, before the first.
        sync_s: of the controllers [s]; a block holds whole syncs.

    Raises:
        InputError: too few days are asked for, the trace is too short, which says what it would take, or its steps are
            longer than a block.
    """
    check_rules(block_s, days, sync_s)
    where = f"trace '{trace.name}'"
    if block_s < trace.step_s:
        rule = f"--block must be at least a step of the trace, {format_duration(trace.step_s)}"
        raise InputError(where, f"{rule} (got {format_duration(block_s)})")
    whole, needed = int(trace.duration_s / block_s + 1e-9), TUNING_BLOCKS + days
    if whole < needed:
        longest = format_duration(_fitting(trace, needed, sync_s))
        rule = f"{needed} blocks, {TUNING_BLOCKS} to tune on and {days} held out ({format_duration(needed * block_s)})"
        raise InputError(
            where,
            f"lasts {format_duration(trace.duration_s)}; the protocol takes {rule} of {format_duration(block_s)}, or a "
            f"--block of {longest}",
        )
    starts_s = tuple(float(block) * block_s for block in range(whole - days, whole))
    return HeldOutDays(block_s, starts_s, starts_s if refit else (starts_s[0],) * days)


def check_rules(block_s: float, days: int, sync_s: float) -> None:
    """Whether there are enough days, and blocks that hold whole syncs [s].

    Raises:
        InputError: with both problems at once.
    """
    problems = []
    if days < LEAST_DAYS:
        problems.append(f"--days must be at least {LEAST_DAYS} (got {days})")
    if block_s < sync_s or abs(block_s / sync_s - round(block_s / sync_s)) > 1e-9:
        rule = f"--block must be a multiple of the controllers' period of {sync_s:g} s"
        problems.append(f"{rule} (got {format_duration(block_s)})")
    if problems:
        raise InputError("protocol", problems)


def _fitting(trace: Trace, blocks: int, sync_s: float) -> float:
    """The longest block of which a trace has so many, in whole minutes if that leaves any [s]."""
    unit_s = 60.0 if trace.duration_s >= 60.0 * blocks and 60.0 % sync_s == 0.0 else sync_s
    return max(unit_s, trace.duration_s / blocks // unit_s * unit_s)


@dataclass(frozen=True)
class Fit:
    """A contestant as it was made from one part of the traffic.

    Args:
        tuned: its settings as they were found, learned or given.
        frontier: the same with other values of its knob, in the order of these; may be empty.
        policies: one a training seed: what makes a policy that plays lane k with settings k.
        wider: the settings beyond an end of the frontier, from those at that end and whether they are the last ones; None
            where the knob goes no further.
    """

    tuned: Settings
    frontier: Sequence[Settings]
    policies: Sequence[Callable[[Sequence[Mapping[str, Any]]], Policy]]
    wider: Callable[[Settings, bool], Settings | None] = lambda settings, last: None


@dataclass(frozen=True)
class Contestant:
    """Who is compared.

    Args:
        fits: one for all days, or one for each.
        by_lane: its policies play every lane with settings of its own; else each settings are played apart.
    """

    name: str
    fits: Sequence[Fit]
    by_lane: bool = True

    @property
    def trainings(self) -> int:
        """Training seeds; 1 where nothing is trained."""
        return len(self.fits[0].policies)


@dataclass(frozen=True)
class Outcomes:
    """What came of a contestant.

    Attributes:
        settings: of each point, the points of the frontier in the order of their knob; of the first fit.
        tuned: which point is the contestant as it was found.
        requests, bad: of each lane, shape (n_points, n_trainings, n_days, n_seeds).
        pods_usd, fixed_usd: what pods cost, and all that no policy decides, same shape [USD a day].
    """

    name: str
    settings: list[Settings]
    tuned: int
    requests: np.ndarray
    bad: np.ndarray
    pods_usd: np.ndarray
    fixed_usd: np.ndarray

    @property
    def ceiling(self) -> bool:
        """Whether it knows what nobody can know."""
        return self.name.partition("(")[0] in CEILINGS


@dataclass(frozen=True)
class Trial:
    """What contestants are played on.

    Args:
        trace: scaled to the profile.
        seeds: of evaluation, on each day; no two days share one, all contestants do.
        threads: that lanes are played on; the outcome does not depend on them.
    """

    profile: Profile
    trace: Trace
    days: HeldOutDays
    seeds: int
    threads: int = 2

    def parts(self) -> list[Part]:
        """What contestants may be tuned on, one a fit."""
        return [Part(self.profile, self.trace, 0.0, end_s) for end_s in self.days.fits_s]

    def lanes(self, days: Sequence[int]) -> list[Lane]:
        """Worlds of some of the days, in the order (seed, day)."""
        return [
            Lane(self.profile, self.trace, FIRST_SEED + day * self.seeds + seed, self.days.starts_s[day])
            for seed in range(self.seeds)
            for day in days
        ]


def outcomes_of(contestant: Contestant, trial: Trial) -> Outcomes:
    """Plays a contestant with all its settings on all days.

    A frontier that holds neither the SLO nor half of its error budget, pooled over the days, is carried on at the end that
    lies nearer to it, by up to three values of the knob.
    """
    field = _Field(contestant, trial)
    field.play([0, *range(1, len(contestant.fits[0].frontier) + 1)])
    allowed = 1.0 - trial.profile.slo.objective
    for _ in range(_MOST_WIDER):
        shares = field.bad_shares()
        first, last = field.order[0], field.order[-1]
        better, worse = (first, last) if shares[first] < shares[last] else (last, first)
        asked = [better] if shares[better] > 0.5 * allowed else []
        asked += [worse] if shares[worse] < allowed else []
        if len(field.order) < 2 or not any([field.carry_on(end) for end in asked]):
            break
    return field.outcomes()


class _Field:
    """The points of a contestant that were played. Point 0 is the contestant as it was found."""

    def __init__(self, contestant: Contestant, trial: Trial):
        self._contestant, self._trial = contestant, trial
        n_days = len(trial.days.starts_s)
        fits = contestant.fits
        self._fit_of = [0] * n_days if len(fits) == 1 else list(range(n_days))
        assert len(fits) in (1, n_days) and len({len(fit.policies) for fit in fits}) == 1
        longest = max(len(fit.frontier) for fit in fits)
        # Fits whose knob is held by its limits have fewer values: the last one stands for those it lacks.
        self._points = [
            [fit.tuned, *fit.frontier, *list(fit.frontier[-1:]) * (longest - len(fit.frontier))] for fit in fits
        ]
        self.order = list(range(1, longest + 1)) or [0]
        self._played: dict[int, np.ndarray] = {}

    def play(self, points: Sequence[int]) -> None:
        """Plays points that were not played before; equal settings once."""
        known = {self._key(point): point for point in self._played}
        fresh: dict[str, int] = {}
        for point in points:
            if self._key(point) not in known:
                fresh.setdefault(self._key(point), point)
        for point, outcome in zip(fresh.values(), self._outcomes(list(fresh.values())), strict=True):
            self._played[point] = outcome
        known |= fresh
        for point in points:
            self._played[point] = self._played[known[self._key(point)]]

    def carry_on(self, end: int) -> bool:
        """Plays one more value beyond an end of the frontier; False where there is none."""
        last = end == self.order[-1]
        fits = self._contestant.fits
        further = [fit.wider(points[end], last) for fit, points in zip(fits, self._points, strict=True)]
        if all(settings is None for settings in further):
            return False
        for points, settings in zip(self._points, further, strict=True):
            points.append(points[end] if settings is None else settings)
        new = len(self._points[0]) - 1
        self.order = [*self.order, new] if last else [new, *self.order]
        self.play([new])
        return True

    def bad_shares(self) -> dict[int, float]:
        """Share of bad requests over all that was played, by point of the frontier [1]."""
        played = {point: self._played[point] for point in self.order}
        return {point: float(rows[1].sum() / max(rows[0].sum(), 1.0)) for point, rows in played.items()}

    def outcomes(self) -> Outcomes:
        keys = [self._key(point) for point in self.order]
        order = list(self.order) if self._key(0) in keys else [*self.order, 0]
        tuned = [self._key(point) for point in order].index(self._key(0))
        arrays = np.stack([self._played[point] for point in order], axis=1)
        return Outcomes(self._contestant.name, [self._points[0][point] for point in order], tuned, *arrays)

    def _key(self, point: int) -> str:
        return repr([sorted(points[point].items()) for points in self._points])

    def _outcomes(self, points: Sequence[int]) -> list[np.ndarray]:
        """Requests, bad ones, cost of pods and of the rest of points, (4, n_trainings, n_days, n_seeds) each."""
        trial, contestant = self._trial, self._contestant
        n_days = len(trial.days.starts_s)
        found = [np.zeros((4, contestant.trainings, n_days, trial.seeds)) for _ in points]
        at_once = max(1, _LANES_AT_ONCE // (n_days * trial.seeds)) if contestant.by_lane else 1
        for fit in range(len(contestant.fits)):
            days = [day for day in range(n_days) if self._fit_of[day] == fit]
            lanes = trial.lanes(days)
            for training, policy_of_settings in enumerate(contestant.fits[fit].policies):
                for begin in range(0, len(points), at_once):
                    batch = points[begin : begin + at_once]
                    settings = [self._points[fit][point] for point in batch for _ in lanes]
                    policy = policy_of_settings(settings)
                    played = _played(policy, lanes * len(batch), trial)
                    split = played.reshape(4, len(batch), trial.seeds, len(days))
                    for k in range(len(batch)):
                        found[begin + k][:, training, days, :] = split[:, k].transpose(0, 2, 1)
        return found


def _played(policy: Policy, lanes: Sequence[Lane], trial: Trial) -> np.ndarray:
    """Requests, bad ones, cost of pods and of the rest [USD a day] of lanes, shape (4, n_lanes)."""
    played = play(lanes, policy, trial.days.block_s, threads=trial.threads)
    table, a_day = played.indicators, DAY_S / trial.days.block_s
    usd = [table[name].to_numpy() * a_day for name in ("cost_pods_usd", "cost_fixed_usd")]
    return np.stack([*requests_and_bad(played), *usd])
