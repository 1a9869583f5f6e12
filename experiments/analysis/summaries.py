"""The parts that the documents of several commands share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.analysis.comparison import indicators_of
from experiments.analysis.ties import ties, without_effect
from sim_core.dataplane.services.graph import resolve
from sim_core.indicators import bounds_of
from sim_core.intervals import interval

if TYPE_CHECKING:
    import pandas as pd

    from sim_core.profile import Profile

_DERIVED = ("_ci95_low", "_ci95_high", "_diff")


def over_seeds(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Mean and 95 % interval over the rows of each indicator column."""
    result = {}
    for name in table.columns:
        measured = interval(table[name], *bounds_of(str(name)))
        result[str(name)] = {"mean": measured.mean, "ci95": [measured.low, measured.high]}
    return result


def services_over_seeds(services: pd.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and 95 % interval over the lanes of each figure of each service, in call order.

    Args:
        services: rows of `Simulation.services`.
    """
    return _groups_over_seeds(services.drop(columns="lane"), "service")


def classes_over_seeds(classes: pd.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and 95 % interval over the lanes of each figure of each class of requests, in the profile's order.

    Args:
        classes: rows of `Simulation.classes`.
    """
    return _groups_over_seeds(classes.drop(columns="lane"), "request_class")


def _groups_over_seeds(table: pd.DataFrame, by: str) -> dict[str, dict[str, dict[str, Any]]]:
    return {str(name): over_seeds(group.drop(columns=by)) for name, group in table.groupby(by, sort=False)}


def request_classes(profile: Profile) -> dict[str, dict[str, Any]]:
    """What was promised for each class of requests, and its share of the traffic over the day [1]."""
    return {
        kind.name: {
            "share": kind.mean_share,
            "slo": {"objective": kind.objective, "latency_threshold_seconds": kind.latency_threshold_s},
            "own_slo": kind.own_slo,
        }
        for kind in resolve(profile).classes
    }


def measured(row: dict[str, Any], name: str) -> dict[str, Any]:
    """An indicator of a row of `comparison.compare`, or of an evaluation, as mean and interval."""
    return {"mean": row.get(name), "ci95": [row.get(f"{name}_ci95_low"), row.get(f"{name}_ci95_high")]}


def configurations(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of `comparison.compare` as plain data: label, settings, scenario, indicators with intervals, differences."""
    names = [name for name in indicators_of(table) if not name.endswith(_DERIVED) and name != "seeds"]
    result = []
    for row in table.to_dict("records"):
        plain = {str(column): value for column, value in row.items()}
        entry = {name: plain[name] for name in ("configuration_key", "label", "policy", "seeds")}
        entry |= {name: json.loads(plain[name]) for name in ("settings", "parameters", "scenario")}
        entry["indicators"] = {name: measured(plain, name) for name in names}
        if f"{names[0]}_diff" in plain:
            entry["differences"] = {name: measured(plain, f"{name}_diff") for name in names}
        result.append(entry)
    return result


def sameness(table: pd.DataFrame, points: pd.DataFrame, indicators: Sequence[str]) -> dict[str, Any]:
    """What cannot be told apart, as plain data: `ties` as lists of keys, and `without_effect` with its words.

    Args:
        table: rows of `comparison.compare`.
        points: those that it was made from.
        indicators: columns of `points`.
    """
    idle = [
        {"name": found.name, "values": list(found.values), "text": str(found)}
        for found in without_effect(points, indicators)
    ]
    return {"ties": ties(table), "without_effect": idle}
