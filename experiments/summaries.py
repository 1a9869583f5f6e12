"""The parts that the documents of several commands share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from experiments.comparison import indicators_of, interval

if TYPE_CHECKING:
    import pandas as pd

_DERIVED = ("_ci95_low", "_ci95_high", "_diff")


def over_seeds(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Mean and 95 % interval over the rows of each indicator column."""
    result = {}
    for name in table.columns:
        measured = interval(table[name])
        result[str(name)] = {"mean": measured.mean, "ci95": [measured.low, measured.high]}
    return result


def services_over_seeds(services: pd.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and 95 % interval over the lanes of each figure of each service, in call order.

    Args:
        services: rows of `Simulation.services`.
    """
    groups = services.drop(columns="lane").groupby("service", sort=False)
    return {str(name): over_seeds(group.drop(columns="service")) for name, group in groups}


def measured(row: dict[str, Any], name: str) -> dict[str, Any]:
    """An indicator of a row of `comparison.compare`, or of an evaluation, as mean and interval."""
    return {"mean": row.get(name), "ci95": [row.get(f"{name}_ci95_low"), row.get(f"{name}_ci95_high")]}


def configurations(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of `comparison.compare` as plain data: label, settings, indicators with intervals, and differences."""
    names = [name for name in indicators_of(table) if not name.endswith(_DERIVED) and name != "seeds"]
    result = []
    for row in table.to_dict("records"):
        plain = {str(column): value for column, value in row.items()}
        entry = {name: plain[name] for name in ("configuration_key", "label", "policy", "seeds")}
        entry |= {name: json.loads(plain[name]) for name in ("settings", "parameters")}
        entry["indicators"] = {name: measured(plain, name) for name in names}
        if f"{names[0]}_diff" in plain:
            entry["differences"] = {name: measured(plain, f"{name}_diff") for name in names}
        result.append(entry)
    return result
