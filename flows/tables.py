"""The documents of the commands as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.output import figure, print_table, with_interval

# What a reader compares first; the JSON document and the report hold every indicator.
HEADLINES = ("cost_usd", "slo_attainment", "latency_p95_s", "error_ratio", "utilization_mean", "scale_events")
_LANES_SHOWN = 20


def show_run(document: Mapping[str, Any]) -> None:
    """Indicators of `devops-sim run` with their intervals, then the lanes."""
    seeds = document["seeds"]
    title = f"{document['profile']} under {document['policy']}, {document['duration_s']:,.0f} s, {len(seeds)} seeds"
    rows = [[name, _measured(name, value)] for name, value in document["indicators"].items()]
    print_table(title, ("indicator", "mean [95 % interval]"), rows)
    if len(seeds) > 1:
        names = [name for name in HEADLINES if name in document["indicators"]]
        lanes = [
            [str(lane["seed"]), *(figure(name, lane[name]) for name in names)]
            for lane in document["lanes"][:_LANES_SHOWN]
        ]
        hidden = len(seeds) - len(lanes)
        print_table(
            "Lanes" + (f" (the first {_LANES_SHOWN}, {hidden} more with --json)" if hidden else ""),
            ("seed", *names),
            lanes,
        )


def show_policies(title: str, policies: Mapping[str, Mapping[str, Any]], slo_objective: float) -> None:
    """Policies on held-out traffic, one a row; a star marks those that keep the SLO."""
    names = [name for name in HEADLINES if any(name in entry["indicators"] for entry in policies.values())]
    rows = []
    for policy, entry in policies.items():
        indicators = entry["indicators"]
        kept = (indicators.get("slo_attainment", {}).get("mean") or 0.0) >= slo_objective
        gap = entry.get("gap_closed")
        cells = [_measured(name, indicators.get(name)) for name in names]
        rows.append([f"{policy} {'*' if kept else ' '}", *cells, _measured("gap_closed", gap)])
    print_table(f"{title} (* keeps the SLO of {slo_objective:.3%})", ("policy", *names, "gap_closed"), rows)


def show_configurations(title: str, rows: Sequence[Mapping[str, Any]], best: str | None, limit: int = 12) -> None:
    """Configurations of a sweep, cheapest first; an arrow marks the one that the objective chooses."""
    names = [name for name in HEADLINES if rows and name in rows[0]]
    ordered = sorted(rows, key=lambda row: row.get("cost_usd") or 0.0)
    chosen = [row for row in ordered if row["configuration_key"] == best]
    shown = ordered[:limit] + [row for row in chosen if row not in ordered[:limit]]
    cells = [
        [
            ("> " if row["configuration_key"] == best else "  ") + str(row["label"]),
            *(with_interval(name, row[name], row[f"{name}_ci95_low"], row[f"{name}_ci95_high"]) for name in names),
        ]
        for row in shown
    ]
    hidden = len(rows) - len(shown)
    print_table(title + (f" ({hidden} more in the report)" if hidden else ""), ("configuration", *names), cells)


def _measured(name: str, value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    low, high = value["ci95"]
    return with_interval(name, value["mean"], low, high)
