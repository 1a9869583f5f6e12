"""The outcome of the agreement bench as plain data, as a table for the terminal, and as a record on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from experiments.agreement.judge import FIGURES, JUDGED, Figure, Outcome, Verdict


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Outcomes as plain data, one a scenario."""
    return [
        {
            "scenario": outcome.scenario,
            "fitting": outcome.fitting,
            "seeds": outcome.seeds,
            "agrees": outcome.agrees,
            "worst_in_bounds": outcome.worst,
            "noisy": outcome.noisy,
            "exact": dict(outcome.exact),
            "differences": {
                name: {"mean": value.mean, "ci95": [value.low, value.high]}
                for name, value in outcome.differences.items()
            },
        }
        for outcome in outcomes
    ]


def bounds() -> dict[str, dict[str, Any]]:
    """The bounds as plain data, by name of the figure."""
    return {figure.name: {"bound": figure.bound, "unit": figure.unit} for figure in JUDGED}


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain data."""
    return {**asdict(verdict), "agree": verdict.agree, "words": verdict.words()}


def cells(row: dict[str, Any]) -> list[str]:
    """One row of the table for people, in the order of `columns`."""
    marks = ("" if row["agrees"] else "x") + ("f" if row["fitting"] else "") + ("~" if row["noisy"] else "")
    figures = [_cell(figure, row["differences"][figure.name]) for figure in FIGURES]
    return [marks, row["scenario"], *figures, str(row["seeds"])]


def columns() -> list[str]:
    """Titles of the table for people."""
    return ["", "scenario", *(figure.title for figure in FIGURES), "seeds"]


def _cell(figure: Figure, value: dict[str, Any]) -> str:
    mean, (low, high) = value["mean"], value["ci95"]
    if mean is None or math.isnan(mean):
        return "-"
    half = 0.5 * (high - low) if low is not None and high is not None else math.nan
    noise = f" ±{half:.2g}" if half > 0.0 else ""
    mark = "!" if figure.bound is not None and abs(mean) > figure.bound else ""
    return f"{mean:+.2f}{noise}{mark}" if abs(mean) < 10.0 else f"{mean:+.0f}{noise}{mark}"
