"""Results that are the same: configurations that tie, and parameters whose values make no difference.

Equal means equal to the bit, in every indicator, every seed and every scenario: the simulation is deterministic, so what
has no part in a result leaves it as it is, and what has changes some digit.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

Cell = tuple[str, str]  # configuration key and scenario (JSON)
NO_SCENARIO = "{}"


@dataclass(frozen=True)
class WithoutEffect:
    """A setting, parameter or scenario of which some values give the same results, all else being equal."""

    name: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        numbers = all(_is_number(value) for value in self.values)
        words = f"between {self.values[0]} and {self.values[-1]}" if numbers else f"among {_listed(self.values)}"
        return f"{self.name}: no effect {words}"


def cells(points: pd.DataFrame) -> dict[Cell, pd.DataFrame]:
    """Points of each configuration in each scenario, in the order of first appearance.

    Args:
        points: one row a point, with `configuration_key` and, if there are scenarios, `scenario` (JSON); rows from
            before there were any have none.
    """
    scenario = points["scenario"].fillna(NO_SCENARIO) if "scenario" in points else pd.Series(NO_SCENARIO, points.index)
    grouped = points.groupby(["configuration_key", scenario.rename("scenario")], sort=False)
    return {(str(key), str(name)): group for (key, name), group in grouped}


def first_alike(groups: Mapping[Cell, pd.DataFrame], indicators: Sequence[str]) -> dict[str, str]:
    """For each configuration the first one that has the same results in every seed and scenario: itself, if none.

    Args:
        groups: of `cells`.
        indicators: the columns to look at.
    """
    results: dict[str, list[Hashable]] = {}
    for (key, scenario), group in groups.items():
        results.setdefault(key, []).append((scenario, _result(group, indicators)))
    first: dict[Hashable, str] = {}
    return {key: first.setdefault(frozenset(found), key) for key, found in results.items()}


def ties(table: pd.DataFrame) -> list[list[str]]:
    """Keys of the configurations that tie, a list each time; in the order of the table.

    Args:
        table: rows of `comparison.compare`.
    """
    rows = table.drop_duplicates("configuration_key")
    alike = [list(map(str, group)) for _, group in rows.groupby("same_as", sort=False)["configuration_key"]]
    return [keys for keys in alike if len(keys) > 1]


def without_effect(points: pd.DataFrame, indicators: Sequence[str]) -> list[WithoutEffect]:
    """Settings, parameters and scenarios of which neighbouring values give the same results, all else being equal.

    Two values are compared wherever points differ in nothing else; one difference anywhere is an effect.

    Args:
        points: as for `cells`, with `policy`, `settings` and `parameters` (JSON) and `seed`.
        indicators: the columns to look at.
    """
    played = []
    for (_, scenario), group in cells(points).items():
        row = group.iloc[0]
        varied = json.loads(row["settings"]) | json.loads(row["parameters"]) | json.loads(scenario)
        played.append(({"policy": row["policy"], **varied}, _result(group, indicators)))
    names = dict.fromkeys(name for choice, _ in played for name in choice if name != "policy")
    return [WithoutEffect(name, run) for name in names for run in _runs_alike(name, played)]


def _runs_alike(name: str, played: Sequence[tuple[dict[str, Any], Hashable]]) -> list[tuple[Any, ...]]:
    """Longest runs of neighbouring values of one name, at least two, between which nothing changes anywhere."""
    by_rest: dict[str, dict[Any, Hashable]] = {}
    values: dict[Any, None] = {}
    for choice, result in played:
        if name in choice:
            rest = json.dumps({other: value for other, value in choice.items() if other != name}, sort_keys=True)
            by_rest.setdefault(rest, {})[_hashable(choice[name])] = result
            values.setdefault(_hashable(choice[name]))
    ordered = sorted(values) if all(_is_number(value) for value in values) else list(values)
    runs: list[list[Any]] = [[value] for value in ordered[:1]]
    for one, other in pairwise(ordered):
        pairs = [(found[one], found[other]) for found in by_rest.values() if one in found and other in found]
        if pairs and all(left == right for left, right in pairs):
            runs[-1].append(other)
        else:
            runs.append([other])
    return [tuple(run) for run in runs if len(run) > 1]


def _result(group: pd.DataFrame, indicators: Sequence[str]) -> Hashable:
    rows = group.sort_values("seed")
    numbers = rows[list(indicators)].to_numpy(dtype=np.float64) + 0.0  # -0.0 is 0.0
    return tuple(rows["seed"]), np.where(np.isnan(numbers), np.nan, numbers).tobytes()


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(value if isinstance(value, str) else json.dumps(value) for value in values)
