"""What the numbers say: intervals over seeds, paired differences, the Pareto front and the best configuration.

A configuration that was played in several scenarios has a row in each; what it is worth is what it is worth in the worst.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.analysis.amounts import rounded_down
from experiments.analysis.ties import cells, first_alike
from sim_core.indicators import HIGHER_IS_BETTER, bounds_of
from sim_core.intervals import Interval, interval

# Columns of a result row that are not indicators.
IDENTITY = frozenset(
    {
        "key",
        "configuration_key",
        "profile",
        "policy",
        "settings",
        "parameters",
        "scenario",
        "profile_digest",
        "trace_digest",
        "seed",
        "start_s",
        "duration_s",
        "engine",
        "compute_s",
    }
)


def indicators_of(points: pd.DataFrame) -> list[str]:
    """Numeric columns of a table of points that are indicators, in its order."""
    numeric = points.select_dtypes("number").columns
    return [str(name) for name in numeric if name not in IDENTITY]


def label(policy: str, settings: Mapping[str, object], parameters: Mapping[str, object] | None = None) -> str:
    """One line for people: `hpa target_utilization_pct=60 scale_down_stabilization_window_seconds=300`."""
    pairs = [f"{name}={value}" for name, value in {**settings, **(parameters or {})}.items()]
    return " ".join([policy, *pairs])


def scenario_words(scenario: Mapping[str, object]) -> str:
    """A scenario in one line, for people; empty where there is none."""
    return " ".join(f"{path}={value}" for path, value in scenario.items())


def compare(points: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """One row a configuration and scenario: every indicator as mean and 95 % interval over the seeds in it.

    Args:
        points: one row a point, with `configuration_key`, `policy`, `settings`, `parameters` and, if there are
            scenarios, `scenario` (JSON), `seed` and indicator columns.
        baseline: a configuration key; adds the difference to it in the same scenario for each indicator, paired by
            seed.

    Returns:
        Columns `configuration_key`, `label`, `policy`, `settings`, `parameters`, `scenario` (JSON), `seeds`, `same_as`
        (key of the first configuration with the same results, its own if there is none before it), and for each
        indicator X: `X` (mean), `X_ci95_low`, `X_ci95_high`; with a baseline also `X_diff`, `X_diff_ci95_low`,
        `X_diff_ci95_high`. In the order of first appearance.

    Raises:
        KeyError: the baseline is not among the configurations.
    """
    names = indicators_of(points)
    groups = cells(points)
    known = {key for key, _ in groups}
    if baseline is not None and baseline not in known:
        raise KeyError(f"baseline {baseline!r} is not one of the {len(known)} configurations")
    same_as = first_alike(groups, names)
    rows = []
    for (key, scenario), group in groups.items():
        row = {**_describe(key, group), "scenario": scenario, "same_as": same_as[key]}
        for name in names:
            row |= _columns(name, interval(group[name], *bounds_of(name)))
            if baseline is not None:
                other = groups.get((baseline, scenario), group.iloc[:0])
                row |= _columns(name, paired_difference(group, other, name), "_diff")
        rows.append(row)
    return pd.DataFrame(rows)


def worst(table: pd.DataFrame) -> pd.DataFrame:
    """One row a configuration: each indicator as it is in the scenario where it is worst; NaN where one is missing.

    A configuration that is not finished in every scenario has no worst one yet. Intervals are those of the row that
    counts; without scenarios the table comes back as it is.

    Args:
        table: rows of `compare`.
    """
    scenarios = table["scenario"].nunique()
    if scenarios < 2:
        return table
    names = [name for name in indicators_of(table) if f"{name}_ci95_low" in table]
    rows = []
    for _, group in table.groupby("configuration_key", sort=False):
        row = group.iloc[0].to_dict() | {"scenario": "{}"}
        for name in names:
            columns = [name, f"{name}_ci95_low", f"{name}_ci95_high"]
            complete = len(group) == scenarios and group[name].notna().all()
            if complete:
                place = group[name].argmin() if name in HIGHER_IS_BETTER else group[name].argmax()
                row |= group[columns].iloc[int(place)].to_dict()
            else:  # also an indicator that no scenario has, such as the hit ratio of no cache
                row |= dict.fromkeys(columns, math.nan)
        rows.append(row)
    return pd.DataFrame(rows)


def paired_difference(group: pd.DataFrame, baseline: pd.DataFrame, indicator: str) -> Interval:
    """Mean and interval of group minus baseline over the seeds that both have.

    Pairing removes what the seeds have in common (the same arrivals), so the interval is narrower than that of two
    independent means: Law, Simulation Modeling and Analysis, section 10.2 (paired-t confidence interval). A difference
    has no bounds.
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
    """The configuration an objective chooses; `feasible` says whether it meets the constraints, `reason` why it won.

    `ties` names the configurations that cannot be told from it: their results are the same in every seed and scenario.
    """

    configuration_key: str
    label: str
    feasible: bool
    reason: str
    ties: tuple[str, ...] = ()


def best(table: pd.DataFrame, minimize: str, subject_to: Mapping[str, float]) -> Best:
    """The configuration with the smallest mean of `minimize` among those whose means meet every constraint.

    With scenarios the worst counts: constraints must be met in every one, and `minimize` is its largest mean in any.
    When no configuration meets them: the one that comes nearest, by the largest relative shortfall over the constraints
    (for a single `slo_attainment` the highest attainment), and the reason says so. Of equal values the one wins that
    keeps the constraints by the larger margin, of equal ones the first in the table: the specification's first.

    Args:
        table: rows of `compare`.
        minimize: an indicator of which less is better.
        subject_to: limit of each constrained indicator: a lower limit where more is better, else an upper limit.

    Raises:
        ValueError: the table is empty.
    """
    if table.empty:
        raise ValueError("no configuration to choose from")
    scenarios = table["scenario"].nunique()
    table = worst(table)
    shortfall = np.full(len(table), -math.inf)
    for name, limit in subject_to.items():
        gap = (limit - table[name]) if name in HIGHER_IS_BETTER else (table[name] - limit)
        shortfall = np.maximum(shortfall, (gap / max(abs(limit), 1e-12)).fillna(math.inf).to_numpy())
    target = np.nan_to_num(table[minimize].to_numpy(dtype=np.float64), nan=math.inf)
    met = shortfall <= 0.0
    order = np.lexsort((shortfall, target, np.where(met, 0.0, shortfall)))  # stable: equals stay as they are
    row = table.iloc[int(order[0])]
    limits = limits_words(subject_to) + (f" in each of {scenarios} scenarios" if scenarios > 1 else "")
    if met[order[0]]:
        lowest = f"lowest {minimize}" + (" in its worst scenario" if scenarios > 1 else "")
        reason = f"{lowest} of the {int(met.sum())} of {len(table)} configurations that meet {limits}"
    else:
        reached = ", ".join(f"{name} {_reached(name, float(row[name]))}" for name in subject_to)
        reason = f"none of {len(table)} configurations meets {limits}; this one comes nearest ({reached})"
    alike = table[(table["same_as"] == row["same_as"]) & (table["configuration_key"] != row["configuration_key"])]
    ties = tuple(str(label) for label in alike["label"])
    if ties:
        reason += f"; it ties with {len(ties)} other{'s' if len(ties) > 1 else ''} and is named first"
    return Best(str(row["configuration_key"]), str(row["label"]), bool(met[order[0]]), reason, ties)


def best_by_scenario(table: pd.DataFrame, minimize: str, subject_to: Mapping[str, float]) -> list[dict[str, Any]]:
    """What would be best if only one scenario came true: `scenario` and the fields of `Best`; empty without scenarios.

    Args:
        table, minimize, subject_to: as for `best`.
    """
    parts = list(table.groupby("scenario", sort=False))
    if len(parts) < 2:
        return []
    chosen = [(str(scenario), best(part, minimize, subject_to)) for scenario, part in parts]
    return [{"scenario": json.loads(scenario), **asdict(winner)} for scenario, winner in chosen]


def limits_words(subject_to: Mapping[str, float]) -> str:
    """`slo_attainment >= 0.99, latency_p99_s <= 1`, or `no constraint`."""
    return ", ".join(_limit(name, limit) for name, limit in subject_to.items()) or "no constraint"


def _limit(name: str, limit: float) -> str:
    return f"{name} {'>=' if name in HIGHER_IS_BETTER else '<='} {limit:g}"


def _reached(name: str, value: float) -> str:
    # Rounded away from what is good: a limit that is missed by little must not read as met.
    shown = rounded_down(value, 6) if name in HIGHER_IS_BETTER else -rounded_down(-value, 6)
    return f"{shown:.6f}".rstrip("0").rstrip(".")


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
