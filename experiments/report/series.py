"""The numbers behind the figures: nines on an axis, the Pareto front, and timelines thinned without losing peaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NinesAxis:
    """An axis on which 99 %, 99.9 % and 99.99 % are equally far apart: position is -log10(share of bad requests).

    All that lies two nines or more above the objective is drawn at `top`: it is equally safe, and 100 % is infinitely far.
    """

    low: float
    top: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]

    def position(self, attainment: ArrayLike) -> Floats:
        """Place of each SLO attainment [1] on the axis, same shape; NaN stays NaN."""
        missed = np.clip(1.0 - np.asarray(attainment, dtype=np.float64), 10.0**-self.top, 1.0)
        return -np.log10(missed)


def nines_axis(attainment: ArrayLike, objective: float) -> NinesAxis:
    """The axis that shows all `attainment` [1] and the `objective` [1], with readable ticks."""
    values = np.asarray(attainment, dtype=np.float64).ravel()
    goal = -math.log10(max(1.0 - objective, 1e-9))
    cap = goal + 2.0
    nines = np.minimum(-np.log10(np.clip(1.0 - values[np.isfinite(values)], 1e-12, 1.0)), cap)
    below = nines[nines < cap]
    highest = max([goal, *below])
    top = min(cap, highest + 0.45) if len(below) < len(nines) else highest + 0.12
    low = max(0.0, min([goal, *nines]) - 0.12)
    ticks = [tick for tick in _tick_places(low, highest) if tick < top - 0.15 or len(below) == len(nines)]
    labels = [_percent_of_nines(tick) for tick in ticks]
    if len(below) < len(nines):
        perfect = np.all(values[np.isfinite(values)][nines >= cap] >= 1.0)
        ticks.append(top)
        labels.append("100 %" if perfect else f"≥ {_percent_of_nines(cap)}")
    return NinesAxis(low, top, tuple(ticks), tuple(labels))


def _tick_places(low: float, high: float) -> list[float]:
    # 1-2-5 steps while they have room (90, 95, 98, 99, 99.5 ...), else every half or whole nine.
    steps = ((1, 2, 5), (1, 5), (1,))
    for mantissas in steps:
        shares = [m * 10.0**-decade for decade in range(1, 12) for m in reversed(mantissas)]
        places = [-math.log10(share) for share in shares]
        shown = [place for place in places if low - 1e-9 <= place <= high + 0.2]
        if len(shown) <= 7:
            return shown
    return shown


def _percent_of_nines(nines: float) -> str:
    share = 10.0**-nines
    decimals = max(0, math.ceil(nines - 1e-9) - 2)
    return f"{100.0 * (1.0 - share):.{decimals}f} %"


def pareto_front(cost: Sequence[float], attainment: Sequence[float]) -> list[int]:
    """Indices, cheapest first, of the points than which no other is both cheaper and better; NaN never is one."""
    finite = [i for i in range(len(cost)) if math.isfinite(cost[i]) and math.isfinite(attainment[i])]
    front: list[int] = []
    for i in sorted(finite, key=lambda i: (cost[i], -attainment[i])):
        if not front or attainment[i] > attainment[front[-1]]:
            front.append(i)
    return front


def thin_extremes(time_s: ArrayLike, values: ArrayLike, max_points: int) -> tuple[Floats, Floats]:
    """At most `max_points` points that keep the least and the greatest value of every stretch of time.

    Args:
        time_s: shape (n,), ascending [s].
        values: shape (n,), any unit; NaN is a gap and stays one where a whole stretch has no value.
        max_points: at least 2.

    Returns:
        Times and values, both of the same shape (m,), m <= max(max_points, 2).
    """
    time, value = np.asarray(time_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(time) <= max_points:
        return time, value
    kept: list[int] = []
    for stretch in np.array_split(np.arange(len(time)), max(1, max_points // 2)):
        inside = value[stretch]
        if np.isnan(inside).all():
            kept.append(int(stretch[0]))
        else:
            kept += sorted({int(stretch[np.nanargmin(inside)]), int(stretch[np.nanargmax(inside)])})
    return time[kept], value[kept]


def thin_mean(time_s: ArrayLike, values: ArrayLike, max_points: int) -> tuple[Floats, Floats]:
    """At most `max_points` means over stretches of equal length, each at the start of its stretch; for noisy load."""
    time, value = np.asarray(time_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(time) <= max_points:
        return time, value
    width = math.ceil(len(time) / max_points)
    starts = np.arange(0, len(time), width)
    known = np.isfinite(value)
    count = np.add.reduceat(known.astype(np.float64), starts)
    total = np.add.reduceat(np.where(known, value, 0.0), starts)
    return time[starts], np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def thin_steps(time_s: ArrayLike, values: ArrayLike, max_points: int) -> tuple[Floats, Floats]:
    """Only the points at which a step function changes, first and last always; extremes if these are too many."""
    time, value = np.asarray(time_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(time) < 3:
        return time, value
    same = (value[1:] == value[:-1]) | (np.isnan(value[1:]) & np.isnan(value[:-1]))
    changes = np.concatenate([[True], ~same])
    changes[-1] = True
    if changes.sum() > max_points:
        return thin_extremes(time[changes], value[changes], max_points)
    return time[changes], value[changes]
