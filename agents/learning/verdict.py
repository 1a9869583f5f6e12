"""Who is cheaper at equal attainment, and how sure that is.

Cost at an attainment is read from each policy's frontier: bad requests and pods pooled over the days, linear between two
points in the logarithm of the share of bad requests. Nothing is extrapolated.

Intervals are those of a bootstrap that resamples the same days and training seeds for all contestants. Evaluation seeds
stay with their day: the spread of days holds theirs already, and resampled once more they would count twice (Ren et al.,
Journal of Applied Statistics 37 (2010) 1487). Of n days it draws n - 1, which makes its variance that of a mean (Rao and
Wu, JASA 83 (1988) 231); days and training seeds are resampled apart and their variances added, with t quantiles by
Satterthwaite's degrees of freedom, since five days know little of their own spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from agents.learning.evaluate import BASELINE, OPTIMUM
from agents.learning.protocol import LEARNED, UNLEARNED, Outcomes
from sim_core.intervals import CONFIDENCE

RESAMPLES = 2000
BOOTSTRAP_SEED = 88_000
REACHED, BETTER, MISSED = "", "better than asked at its least", "does not reach it"
AT_SLO, AT_HALF = "pods_at_slo_usd", "pods_at_half_budget_usd"
WIN, TIE, LOSS = "win", "tie", "loss"
_SAME = 1e-9  # relative; what sums of floats may differ by
_LEAST_KNOWN = 0.975  # of the resamples, for an interval


@dataclass(frozen=True)
class Verdict:
    """What a comparison on one trace says.

    Attributes:
        table: one row a contestant, see `judge`.
        frontiers: one row a contestant and point, in the order of its knob: `policy`, `point`, `tuned`, `bad_share` [1] and
            `pods_usd` [USD a day], over days, seeds and trainings.
        days: indices of the days that count; the others nobody could differ on. Where there is none, the table is over all.
        levels: what intervals are over: `days`, or `seeds` where one day is left.
    """

    table: pd.DataFrame
    frontiers: pd.DataFrame
    days: list[int]
    levels: list[str]


def judge(
    outcomes: Sequence[Outcomes], objective: float, resamples: int = RESAMPLES, seed: int = BOOTSTRAP_SEED
) -> Verdict:
    """Compares contestants that were played on the same days.

    Args:
        objective: the SLO [1].

    Returns:
        Its table holds, each X with `X_ci95_low` and `X_ci95_high`: `policy`, `ceiling`; `slo_attainment` [1] and `pods_usd`
        [USD a day] as it was tuned; `keeps_slo`, whether the lower limit of its attainment does; `pods_at_slo_usd`,
        `pods_at_half_budget_usd`, with a `_note` where the frontier does not hold that attainment; `gap_closed` at the SLO,
        (hpa-tuned - policy) / (hpa-tuned - clairvoyant) in pods; `best_rival`, the cheapest of its rivals at the SLO, and
        `against_best_pct`, how much dearer it is than that [%]; `rank` among those who are no ceilings, and `outcome`: a
        win where the whole interval lies below 0, a loss where it lies above or the SLO is out of reach, else a tie;
        `against_rule_pct`, how much dearer a learned policy is than its own rule, where that is a contestant too [%];
        `fixed_usd`. What there is not is NaN or None.
    """
    days = days_that_count(outcomes)
    pools = [_Pool(played, days or range(played.pods_usd.shape[2])) for played in outcomes]
    draws = _Draws(pools, resamples, seed)
    rows = [_alone(pool, draws, objective) for pool in pools]
    by_name = {pool.name: pool for pool in pools}
    costs = {row["policy"]: row[AT_SLO] for row in rows if not row["ceiling"]}
    for pool, row in zip(pools, rows, strict=True):
        _against_others(pool, row, by_name, costs, draws, objective)
    ranked = sorted(costs, key=lambda name: (math.isnan(costs[name]), costs[name]))
    for row in rows:
        row["rank"] = None if row["ceiling"] else ranked.index(row["policy"]) + 1
        row["outcome"] = None if row["ceiling"] or len(costs) < 2 else _outcome(row)
    table = pd.DataFrame(rows)
    for name in ("rank", "best_rival", "outcome", "keeps_slo"):  # what there is not stays None
        table[name] = pd.Series([row[name] for row in rows], dtype=object)
    return Verdict(table, _frontiers(pools), days, draws.levels)


def days_that_count(outcomes: Sequence[Outcomes]) -> list[int]:
    """Days on which contestants, as they were tuned, differ in their pods; on others, as all at minReplicas, nobody could."""
    pods = np.stack([played.pods_usd[played.tuned].mean(axis=(0, 2)) for played in outcomes])
    spread = pods.max(axis=0) - pods.min(axis=0)
    return np.flatnonzero(spread > _SAME * pods.max(axis=0)).tolist()


def cost_at(bad_share: np.ndarray, pods_usd: np.ndarray, allowed: float) -> tuple[np.ndarray, np.ndarray]:
    """Cost of pods at a share of bad requests, interpolated along frontiers.

    A point that others beat in both costs as much as the cheapest of those: who owns the policy can set it so.

    Args:
        bad_share, pods_usd: of the points of each frontier, shape (n_points, n); a share of 0 counts as it is given.
        allowed: the share [1].

    Returns:
        cost: shape (n,) [USD a day]; that of the cheapest point where all points are better than asked, NaN where none is
            good enough.
        note: REACHED, BETTER or MISSED, shape (n,).
    """
    order = np.argsort(bad_share, axis=0, kind="stable")
    share = np.take_along_axis(bad_share, order, axis=0)
    cost = np.minimum.accumulate(np.take_along_axis(pods_usd, order, axis=0), axis=0)
    good = (share <= allowed).sum(axis=0)  # points that are good enough
    below, above = np.maximum(good - 1, 0), np.minimum(good, len(share) - 1)
    columns = np.arange(share.shape[1])
    x0, x1 = np.log(share[below, columns]), np.log(share[above, columns])
    place = np.where(x1 > x0, (math.log(allowed) - x0) / np.where(x1 > x0, x1 - x0, 1.0), 0.0)
    found = cost[below, columns] + place * (cost[above, columns] - cost[below, columns])
    exact = share[below, columns] == allowed
    note = np.where(good == 0, MISSED, np.where((good == len(share)) & ~exact, BETTER, REACHED))
    return np.where(good == 0, np.nan, found), note


class _Pool:
    """Sums of a contestant over seeds: requests, bad ones and cost of pods, shape (n_points, n_trainings, n_days).

    Where one day is left, its seeds take the place of days.
    """

    def __init__(self, played: Outcomes, days: Sequence[int]):
        self.name, self.tuned, self.ceiling, self.settings = played.name, played.tuned, played.ceiling, played.settings
        chosen = [array[:, :, days] for array in (played.requests, played.bad, played.pods_usd)]
        if len(days) > 1:
            sums = [chosen[0].sum(axis=3), chosen[1].sum(axis=3), chosen[2].mean(axis=3)]
        else:
            sums = [array.reshape(*array.shape[:2], -1) for array in chosen]
        self.requests, self.bad, self.pods = sums
        self.fixed_usd = float(played.fixed_usd.mean())
        self.trainings = played.requests.shape[1]

    def under(self, days: np.ndarray, trainings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Share of bad requests and cost of pods of each point, shape (n_points, n), for weights of days and trainings.

        Args:
            days: shape (n, n_days), trainings: shape (n, n_trainings); each row sums to 1.
        """
        requests, bad, pods = (
            np.einsum("pnt,nt->pn", days @ np.moveaxis(sums, 1, 2), trainings)
            for sums in (self.requests, self.bad, self.pods)
        )
        least = 0.5 / np.maximum(self.requests.sum(axis=(1, 2)), 1.0)  # no bad one was seen: half of one stands for it
        return np.maximum(bad / np.maximum(requests, 1e-12), least[:, np.newaxis]), pods


class _Draws:
    """Weights of days and training seeds: each once, and as resampled, the same for all contestants."""

    def __init__(self, pools: Sequence[_Pool], resamples: int, seed: int):
        rng = np.random.default_rng(seed)
        self.n_days = pools[0].requests.shape[2]
        self.levels = ["days" if pools[0].requests.shape[2] > 1 else "seeds"]
        self.days = _weights(rng, self.n_days, resamples)
        self.trainings = {n: _weights(rng, n, resamples) for n in sorted({pool.trainings for pool in pools})}
        if max(self.trainings) > 1:
            self.levels.append("training seeds")

    def of(self, statistic: Callable[..., np.ndarray], pools: Sequence[_Pool], scale: str = "plain") -> list[float]:
        """A statistic of some contestants with its interval, [value, low, high]; NaN where there is none.

        Args:
            statistic: takes (bad_share, pods_usd) of each contestant, shape (n_points, n), and gives shape (n,).
            scale: on which its resamples are about even: `plain`, `log` or `logit`.
        """
        even_days, one = np.full((1, self.n_days), 1.0 / self.n_days), np.ones((1, 1))
        even = {n: one / n * np.ones((1, n)) for n in self.trainings}
        value = float(statistic(*[pool.under(even_days, even[pool.trainings]) for pool in pools])[0])
        if not math.isfinite(value):
            return [math.nan, math.nan, math.nan]
        variances, freedom = [], []
        if self.n_days > 1:
            again = [np.repeat(even[pool.trainings], len(self.days), axis=0) for pool in pools]
            drawn = statistic(*[pool.under(self.days, weights) for pool, weights in zip(pools, again, strict=True)])
            variances.append(_variance(drawn, scale))
            freedom.append(self.n_days - 1)
        trained = [pool.trainings for pool in pools if pool.trainings > 1]
        if trained:
            same = np.repeat(even_days, len(self.days), axis=0)
            drawn = statistic(*[pool.under(same, self.trainings[pool.trainings]) for pool in pools])
            variances.append(_variance(drawn, scale))
            freedom.append(min(trained) - 1)
        whole = sum(variances)
        if not variances or not math.isfinite(whole):
            return [value, math.nan, math.nan]
        if whole <= 0.0:
            return [value, value, value]
        effective = whole**2 / sum(v**2 / n for v, n in zip(variances, freedom, strict=True))
        half = float(stdtrit(effective, 0.5 + CONFIDENCE / 2)) * math.sqrt(whole)
        return [value, *(_BACK[scale](_SCALES[scale](value) + sign * half) for sign in (-1.0, 1.0))]


def _weights(rng: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    """How often each of n is among n - 1 that are drawn, over n - 1, shape (resamples, n)."""
    if n == 1:
        return np.ones((resamples, 1))
    return rng.multinomial(n - 1, np.full(n, 1.0 / n), size=resamples) / (n - 1)


_SCALES: dict[str, Callable] = {"plain": lambda x: x, "log": np.log, "logit": lambda x: np.log(x / (1.0 - x))}
_BACK: dict[str, Callable] = {
    "plain": float,
    "log": lambda x: float(np.exp(x)),
    "logit": lambda x: float(1.0 / (1.0 + np.exp(-x))),
}


def _variance(drawn: np.ndarray, scale: str) -> float:
    """Variance of resamples on a scale; NaN where too many of them are not known."""
    known = drawn[np.isfinite(drawn)]
    return float(_SCALES[scale](known).var()) if len(known) >= _LEAST_KNOWN * len(drawn) else math.nan


def _alone(pool: _Pool, draws: _Draws, objective: float) -> dict[str, Any]:
    """What a row says of a contestant without the others."""
    k = pool.tuned
    row: dict[str, Any] = {"policy": pool.name, "ceiling": pool.ceiling}
    row |= _with_limits("slo_attainment", draws.of(lambda own: 1.0 - own[0][k], [pool], "logit"))
    row |= _with_limits("pods_usd", draws.of(lambda own: own[1][k], [pool], "log"))
    low = row["slo_attainment_ci95_low"]
    row["keeps_slo"] = bool(low >= objective) if math.isfinite(low) else None
    for name, allowed in ((AT_SLO, 1.0 - objective), (AT_HALF, 0.5 * (1.0 - objective))):
        row |= _with_limits(name, draws.of(lambda own, to=allowed: cost_at(own[0], own[1], to)[0], [pool], "log"))
        row[f"{name}_note"] = _note(pool, allowed)
    return row


def _against_others(
    pool: _Pool,
    row: dict[str, Any],
    by_name: dict[str, _Pool],
    costs: dict[str, float],
    draws: _Draws,
    objective: float,
) -> None:
    """Adds what a row says of a contestant beside the others."""
    allowed = 1.0 - objective

    def gap(own: Any, hpa: Any, best: Any) -> np.ndarray:
        cost, most, least = (cost_at(each[0], each[1], allowed)[0] for each in (own, hpa, best))
        return np.where(most - least > _SAME * most, (most - cost) / np.where(most > least, most - least, 1.0), np.nan)

    def dearer(own: Any, other: Any) -> np.ndarray:
        return cost_at(own[0], own[1], allowed)[0] / cost_at(other[0], other[1], allowed)[0]

    closed = [math.nan] * 3
    if BASELINE in by_name and OPTIMUM in by_name and pool.name not in (BASELINE, OPTIMUM):
        closed = draws.of(gap, [pool, by_name[BASELINE], by_name[OPTIMUM]])
    row |= _with_limits("gap_closed", closed)
    same = LEARNED if pool.name in LEARNED else (pool.name,)
    others = {name: cost for name, cost in costs.items() if name not in same and math.isfinite(cost)}
    best = min(others, key=lambda name: others[name]) if others and not pool.ceiling else None
    ratio = draws.of(dearer, [pool, by_name[best]], "log") if best is not None else [math.nan] * 3
    row["best_rival"] = best
    row |= _with_limits("against_best_pct", [100.0 * (part - 1.0) for part in ratio])
    rule = by_name.get(f"{pool.name}{UNLEARNED}")
    ratio = draws.of(dearer, [pool, rule], "log") if rule is not None else [math.nan] * 3
    row |= _with_limits("against_rule_pct", [100.0 * (part - 1.0) for part in ratio])
    row["fixed_usd"] = pool.fixed_usd


def _outcome(row: dict[str, Any]) -> str:
    if not math.isfinite(row[AT_SLO]) or row["against_best_pct_ci95_low"] > 0.0:
        return LOSS
    return WIN if row["best_rival"] is None or row["against_best_pct_ci95_high"] < 0.0 else TIE


def _note(pool: _Pool, allowed: float) -> str:
    n_days = pool.requests.shape[2]
    even = np.full((1, n_days), 1.0 / n_days), np.full((1, pool.trainings), 1.0 / pool.trainings)
    shares, pods = pool.under(*even)
    return str(cost_at(shares, pods, allowed)[1][0])


def _with_limits(name: str, value: Sequence[float]) -> dict[str, float]:
    mean, low, high = value
    return {name: mean, f"{name}_ci95_low": low, f"{name}_ci95_high": high}


def _frontiers(pools: Sequence[_Pool]) -> pd.DataFrame:
    rows = []
    for pool in pools:
        n_days = pool.requests.shape[2]
        even = np.full((1, n_days), 1.0 / n_days), np.full((1, pool.trainings), 1.0 / pool.trainings)
        shares, pods = pool.under(*even)
        rows += [
            {"policy": pool.name, "point": point, "tuned": point == pool.tuned, "bad_share": share, "pods_usd": usd}
            for point, (share, usd) in enumerate(zip(shares[:, 0], pods[:, 0], strict=True))
        ]
    return pd.DataFrame(rows)
