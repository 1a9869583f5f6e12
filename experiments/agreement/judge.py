"""Both engines on one scenario, with the same seeds: how far apart they are, how sure that is, and whether it is too far.

Seeds are paired: both engines meet the same arrivals, so that most of their noise cancels. There are as many seeds as it
takes to tell: until the noise of every judged figure is below a third of its bound, or the requests to be spent are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.agreement.scenarios import Scenario
from sim_core.engines import FLUID, REQUESTS, calls_per_request
from sim_core.intervals import interval
from sim_core.simulation import simulate
from sim_core.world import Lane

Engine = Callable[[Sequence[Lane], float], pd.DataFrame]  # lanes, how long [s] -> indicators, one row a lane


@dataclass(frozen=True)
class Figure:
    """One figure that is compared.

    Attributes:
        name: of the indicator.
        title: of its column.
        relative: compared in % of what the request engine finds; else in points of per cent.
        bound: how far apart the engines may be [% or points]; None: shown, not judged.
    """

    name: str
    title: str
    relative: bool
    bound: float | None = None

    @property
    def unit(self) -> str:
        return "%" if self.relative else "points"


FIGURES = (
    Figure("latency_mean_s", "mean %", True, 5.0),
    Figure("latency_p50_s", "p50 %", True),
    Figure("latency_p95_s", "p95 %", True, 10.0),
    Figure("latency_p99_s", "p99 %", True),
    Figure("slo_attainment", "SLO points", False, 0.5),
    Figure("error_ratio", "errors points", False, 1.0),
    Figure("replica_hours", "pod-hours %", True),
)
JUDGED = tuple(figure for figure in FIGURES if figure.bound is not None)
SHARE_WITHIN = 0.95  # of the scenarios that have to keep every bound
FURTHEST = 2.0  # times a bound, nowhere more
NOISE_SHARE = 1.0 / 3.0  # of a bound that the half-width of an interval may be
FIRST_SEED, LEAST_SEEDS, MOST_SEEDS = 5000, 4, 64
CALLS_TO_SPEND = 2e7  # on one scenario, by the request engine


@dataclass(frozen=True)
class Difference:
    """Fluid less exact, in % or points, with the 95 % interval over seeds."""

    mean: float
    low: float
    high: float

    @property
    def noise(self) -> float:
        """Half-width of the interval; inf where there is none."""
        half = 0.5 * (self.high - self.low)
        return half if math.isfinite(half) else math.inf


@dataclass(frozen=True)
class Outcome:
    """What came out of one scenario.

    Attributes:
        scenario: its name.
        fitting: whether it may have been fitted to, and so does not count.
        seeds: that were played in both.
        differences: by name of the figure.
        exact: means of the request engine by the same names.
    """

    scenario: str
    fitting: bool
    seeds: int
    differences: Mapping[str, Difference]
    exact: Mapping[str, float]

    @property
    def noisy(self) -> list[str]:
        """Judged figures whose noise is not below a third of the bound: the requests to be spent did not suffice."""
        return [figure.name for figure in JUDGED if not _is_quiet(figure, self.differences[figure.name])]

    @property
    def worst(self) -> float:
        """The largest distance of a judged figure, in bounds."""
        return max(_in_bounds(figure, self.differences[figure.name]) for figure in JUDGED)

    @property
    def agrees(self) -> bool:
        """Whether every judged figure keeps its bound."""
        return self.worst <= 1.0


def _in_bounds(figure: Figure, difference: Difference) -> float:
    assert figure.bound is not None
    return abs(difference.mean) / figure.bound if not math.isnan(difference.mean) else math.inf


def _is_quiet(figure: Figure, difference: Difference) -> bool:
    assert figure.bound is not None
    return difference.noise <= NOISE_SHARE * figure.bound


@dataclass(frozen=True)
class Verdict:
    """Whether the engines agree over all scenarios that count."""

    judged: int
    within: int
    beyond: tuple[str, ...]  # scenarios with a figure further off than FURTHEST bounds
    noisy: tuple[str, ...]

    @property
    def agree(self) -> bool:
        return self.judged > 0 and self.within >= SHARE_WITHIN * self.judged and not self.beyond

    def words(self) -> str:
        """One sentence."""
        share = f"{self.within} of {self.judged} scenarios keep every bound"
        if self.judged:
            share += f" ({100.0 * self.within / self.judged:.0f} %, to be {100.0 * SHARE_WITHIN:.0f} %)"
        far = f"{len(self.beyond)} are off by more than {FURTHEST:g} bounds"
        return f"{'The engines agree' if self.agree else 'The engines do not agree'}: {share}; {far}"


def verdict_of(outcomes: Iterable[Outcome]) -> Verdict:
    """The verdict over scenarios that nothing was fitted to."""
    counted = [outcome for outcome in outcomes if not outcome.fitting]
    return Verdict(
        len(counted),
        sum(outcome.agrees for outcome in counted),
        tuple(outcome.scenario for outcome in counted if outcome.worst > FURTHEST),
        tuple(outcome.scenario for outcome in counted if outcome.noisy),
    )


def engine_of(name: str, threads: int) -> Engine:
    """An engine of the simulator as the judge wants it."""

    def play(lanes: Sequence[Lane], duration_s: float) -> pd.DataFrame:
        return simulate(lanes, duration_s, engine=name, threads=threads).indicators

    return play


def judge(
    scenario: Scenario,
    *,
    fast: Engine | None = None,
    exact: Engine | None = None,
    traces: Path | None = None,
    most_seeds: int = MOST_SEEDS,
    calls: float = CALLS_TO_SPEND,
    threads: int = 1,
) -> Outcome:
    """Plays a scenario in both engines until it can be told how far apart they are.

    Args:
        fast, exact: what is judged, and by what; the fluid and the request engine where None.
        traces: folder of trace files.
        most_seeds: no more than these.
        calls: that may be spent on it, in all seeds together.
        threads: that share the lanes.
    """
    play_fast = fast or engine_of(FLUID, threads)
    play_exact = exact or engine_of(REQUESTS, threads)
    trace = scenario.traffic(traces)
    a_seed = max(1.0, trace.mean_per_s * scenario.duration_s * calls_per_request(scenario.profile))
    affordable = int(min(most_seeds, max(LEAST_SEEDS, calls / a_seed)))
    names = [figure.name for figure in FIGURES]
    ours, theirs = (np.empty((0, len(names))) for _ in range(2))
    count = min(LEAST_SEEDS, affordable)
    while True:
        lanes = scenario.lanes(range(FIRST_SEED + len(ours), FIRST_SEED + count), traces)
        ours = np.vstack([ours, play_fast(lanes, scenario.duration_s)[names].to_numpy()])
        theirs = np.vstack([theirs, play_exact(lanes, scenario.duration_s)[names].to_numpy()])
        differences = {f.name: difference(f, ours[:, k], theirs[:, k]) for k, f in enumerate(FIGURES)}
        means = {name: _mean(theirs[:, k]) for k, name in enumerate(names)}
        outcome = Outcome(scenario.name, scenario.fitting, count, differences, means)
        if not outcome.noisy or count >= affordable:
            return outcome
        count = min(affordable, max(count + 1, _seeds_needed(outcome)))


def difference(figure: Figure, fast: np.ndarray, exact: np.ndarray) -> Difference:
    """How far one figure is apart, seed by seed.

    A relative difference is one of means: each pair's difference over the mean of the exact values. What neither has in a
    seed (the latency where nothing was answered) is no difference; what only one has is one without end.

    Args:
        fast, exact: of each seed, shape (n_seeds,).
    """
    missing = np.isnan(fast), np.isnan(exact)
    if (missing[0] != missing[1]).any():
        return Difference(math.nan, math.nan, math.nan)
    fast, exact = fast[~missing[0]], exact[~missing[1]]
    if not len(exact):
        return Difference(0.0, 0.0, 0.0)
    scale = abs(float(exact.mean())) if figure.relative else 1.0
    if scale == 0.0:
        same = bool((fast == exact).all())
        return Difference(0.0, 0.0, 0.0) if same else Difference(math.nan, math.nan, math.nan)
    value = interval(100.0 * (fast - exact) / scale)
    return Difference(value.mean, value.low, value.high)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _seeds_needed(outcome: Outcome) -> int:
    """Seeds after which the noise should be low enough, were the spread as it is now; at most four times as many."""
    ratios = [
        outcome.differences[figure.name].noise / (NOISE_SHARE * figure.bound) for figure in JUDGED if figure.bound
    ]
    finite = [ratio for ratio in ratios if math.isfinite(ratio)]
    growth = min(4.0, max([1.5, *(1.1 * ratio**2 for ratio in finite)]))
    return math.ceil(outcome.seeds * growth)


def judge_all(
    asked: Sequence[Scenario],
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    *,
    traces: Path | None = None,
    most_seeds: int = MOST_SEEDS,
    calls: float = CALLS_TO_SPEND,
    threads: int = 1,
) -> list[Outcome]:
    """The outcome of each scenario that can be played, in order; see `judge`."""
    outcomes = []
    ask = partial(judge, traces=traces, most_seeds=most_seeds, calls=calls, threads=threads)
    for scenario in asked:
        if scenario.is_playable(traces):
            outcomes.append(ask(scenario))
            on_outcome(outcomes[-1])
    return outcomes
