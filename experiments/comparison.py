"""What the numbers say: intervals over seeds, paired differences, the Pareto front and the best configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from sim_core.indicators import HIGHER_IS_BETTER

CONFIDENCE = 0.95
# Columns of a result row that are not indicators.
IDENTITY = frozenset(
    {
        "key",
        "configuration_key",
        "profile",
        "policy",
        "settings",
        "parameters",
        "seed",
        "start_s",
        "duration_s",
        "compute_s",
    }
)


@dataclass(frozen=True)
class Interval:
    """Mean and 95 % t-interval; `low` and `high` are NaN below two values, where no interval exists."""

    mean: float
    low: float
    high: float
    n: int


def interval(values: Sequence[float] | np.ndarray | pd.Series) -> Interval:
    """Mean of independent values and its 95 % confidence interval by Student's t with n - 1 degrees of freedom.

    NaN values (an indicator that did not occur in that run) are left out.
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    n = int(finite.size)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(finite.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    quantile = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2))  # Student's t; scipy.stats takes a second to import
    half = quantile * float(finite.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def indicators_of(points: pd.DataFrame) -> list[str]:
    """Numeric columns of a table of points that are indicators, in its order."""
    numeric = points.select_dtypes("number").columns
    return [str(name) for name in numeric if name not in IDENTITY]


def label(policy: str, settings: Mapping[str, object], parameters: Mapping[str, object] | None = None) -> str:
    """One line for people: `hpa target_utilization_pct=60 scale_down_stabilization_window_seconds=300`."""
    pairs = [f"{name}={value}" for name, value in {**settings, **(parameters or {})}.items()]
    return " ".join([policy, *pairs])


def compare(points: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """One row a configuration: every indicator as mean and 95 % interval over its seeds.

    Args:
        points: one row a point, with `configuration_key`, `policy`, `settings` and `parameters` (JSON), `seed` and
            indicator columns.
        baseline: a configuration key; adds the difference to it for each indicator, paired by seed.

    Returns:
        Columns `configuration_key`, `label`, `policy`, `settings`, `parameters` (JSON), `seeds`, and for each
        indicator X: `X` (mean), `X_ci95_low`, `X_ci95_high`; with a baseline also `X_diff`, `X_diff_ci95_low`,
        `X_diff_ci95_high`. In the order of first appearance.

    Raises:
        KeyError: the baseline is not among the configurations.
    """
    names = indicators_of(points)
    groups = {str(key): group for key, group in points.groupby("configuration_key", sort=False)}
    if baseline is not None and baseline not in groups:
        raise KeyError(f"baseline {baseline!r} is not one of the {len(groups)} configurations")
    rows = []
    for key, group in groups.items():
        row = _describe(key, group)
        for name in names:
            row |= _columns(name, interval(group[name]))
            if baseline is not None:
                row |= _columns(name, paired_difference(group, groups[baseline], name), "_diff")
        rows.append(row)
    return pd.DataFrame(rows)


def paired_difference(group: pd.DataFrame, baseline: pd.DataFrame, indicator: str) -> Interval:
    """Mean and interval of group minus baseline over the seeds that both have.

    Pairing removes what the seeds have in common (the same arrivals), so the interval is narrower than that of two
    independent means: Law, Simulation Modeling and Analysis, section 10.2 (paired-t confidence interval).
    """
    pairs = group.set_index("seed")[indicator].sub(baseline.set_index("seed")[indicator]).dropna()
    return interval(pairs)


def pareto_front(table: pd.DataFrame, cost: str = "cost_usd", value: str = "slo_attainment") -> pd.DataFrame:
    """Rows that no other row beats: none is cheaper at the same value or better at the same cost. Sorted by cost.

    Rows with equal cost and value are all kept; rows with NaN in either are dropped.
    """
    rows = table.dropna(subset=[cost, value]).sort_values([cost, value], ascending=[True, False])
    best, kept, best_cost = -math.inf, [], math.nan
    for index, row in rows.iterrows():
        if row[value] > best or (row[value] == best and row[cost] == best_cost):
            best, best_cost = row[value], row[cost]
            kept.append(index)
    return rows.loc[kept]


@dataclass(frozen=True)
class Best:
    """The configuration an objective chooses; `feasible` says whether it meets the constraints, `reason` why it won."""

    configuration_key: str
    label: str
    feasible: bool
    reason: str


def best(table: pd.DataFrame, minimize: str, subject_to: Mapping[str, float]) -> Best:
    """The configuration with the smallest mean of `minimize` among those whose means meet every constraint.

    When none does: the one that comes nearest, by the largest relative shortfall over the constraints (for a single
    `slo_attainment` the highest attainment), and the reason says so.

    Args:
        table: rows of `compare`.
        minimize: an indicator of which less is better.
        subject_to: limit of each constrained indicator: a lower limit where more is better, else an upper limit.

    Raises:
        ValueError: the table is empty.
    """
    if table.empty:
        raise ValueError("no configuration to choose from")
    shortfall = np.zeros(len(table))
    for name, limit in subject_to.items():
        gap = (limit - table[name]) if name in HIGHER_IS_BETTER else (table[name] - limit)
        shortfall = np.maximum(shortfall, (gap / max(abs(limit), 1e-12)).fillna(math.inf).to_numpy())
    target = table[minimize].to_numpy(dtype=np.float64)
    met = shortfall <= 0.0
    order = np.lexsort((np.nan_to_num(target, nan=math.inf), np.where(met, 0.0, shortfall)))
    row = table.iloc[int(order[0])]
    limits = ", ".join(_limit(name, limit) for name, limit in subject_to.items()) or "no constraint"
    if met[order[0]]:
        reason = f"lowest {minimize} of the {int(met.sum())} of {len(table)} configurations that meet {limits}"
    else:
        reached = ", ".join(f"{name} {row[name]:.6g}" for name in subject_to)
        reason = f"none of {len(table)} configurations meets {limits}; this one comes nearest ({reached})"
    return Best(str(row["configuration_key"]), str(row["label"]), bool(met[order[0]]), reason)


def _limit(name: str, limit: float) -> str:
    return f"{name} {'>=' if name in HIGHER_IS_BETTER else '<='} {limit:g}"


def _columns(name: str, value: Interval, suffix: str = "") -> dict[str, float]:
    stem = f"{name}{suffix}"
    return {stem: value.mean, f"{stem}_ci95_low": value.low, f"{stem}_ci95_high": value.high}


def _describe(key: str, group: pd.DataFrame) -> dict[str, object]:
    first = group.iloc[0]
    settings, parameters = json.loads(first["settings"]), json.loads(first["parameters"])
    return {
        "configuration_key": key,
        "label": label(first["policy"], settings, parameters),
        "policy": first["policy"],
        "settings": first["settings"],
        "parameters": first["parameters"],
        "seeds": group["seed"].nunique(),
    }
