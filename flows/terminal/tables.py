"""The documents of the commands as tables for people."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.terminal.output import figure, print_table, with_interval

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


def show_sweep(document: Mapping[str, Any]) -> None:
    """What to do with a finished sweep: the report and the pages."""
    best, points, seconds = document["best"], document["points"], document["seconds"]
    print(
        f"\nSweep {document['sweep_id']}: {points['simulated']} points simulated, {points['resumed']} from earlier runs"
    )
    print(f"Best of the sweep: {best['label']} ({best['reason']})")
    model = (document["model"] or {}).get("registered")
    if model:
        print(f"Model: {model['name']} version {model['version']} ({', '.join(model['aliases'])})")
    if document["model"]:
        _show_gate(document["model"]["gate"])
    if document["mlflow"]["warning"]:
        print(f"MLflow: {document['mlflow']['warning']}")
    print("Time: " + ", ".join(f"{stage} {spent:.1f} s" for stage, spent in seconds.items()))
    print(f"Report: {document['report']}")
    print(f"MLflow and Prefect: {_command()} ui{_state_option(document['state'])}")


def show_training(document: Mapping[str, Any]) -> None:
    """The outcome of a training and how to use the model."""
    training = document["training"]
    model = document["model"]["registered"]
    rows = [[name, _plain_figure(value)] for name, value in training["last"].items()]
    print_table(
        f"{training['profile']}: {training['steps']:,} steps, seed {training['seed']}", ("last rollout", "value"), rows
    )
    _show_gate(document["model"]["gate"])
    if model:
        print(f"Model: {model['name']} version {model['version']} ({', '.join(model['aliases'])})")
        uri = model["uri"]
        print(f"Compare it: {_command()} evaluate {training['profile']} --policies hpa-tuned,clairvoyant,{uri}")
    if document["mlflow"]["warning"]:
        print(f"MLflow: {document['mlflow']['warning']}")


def _show_gate(gate: Mapping[str, Any]) -> None:
    """Whether the model won its comparison on held-out traffic, and if not, what it failed."""
    if gate["passed"]:
        print(f"Promoted to champion: {gate['reason']}")
    for failure in gate["failures"]:
        print(f"Not promoted, {failure}")


def show_evaluation(document: Mapping[str, Any]) -> None:
    """Policies on held-out traffic, one a row; a star marks those that keep the SLO."""
    policies = document["policies"]
    names = [name for name in HEADLINES if any(name in entry["indicators"] for entry in policies.values())]
    rows = []
    for policy, entry in policies.items():
        cells = [_measured(name, entry["indicators"].get(name)) for name in names]
        rows.append(
            [f"{policy} {'*' if entry['keeps_slo'] else ' '}", *cells, _measured("gap_closed", entry["gap_closed"])]
        )
    title = f"{document['profile']}, {document['seeds']} seeds (* keeps the SLO of {document['slo']['objective']:.3%})"
    print_table(title, ("policy", *names, "gap_closed"), rows)
    if document["no_room"]:
        print(f"Gap closed: {document['no_room']}")
    for policy, entry in policies.items():
        if entry["settings"]:
            print(
                f"{policy}: " + ", ".join(f"{name} {_plain_figure(value)}" for name, value in entry["settings"].items())
            )


def show_comparison(document: Mapping[str, Any], limit: int = 40) -> None:
    """Configurations, cheapest first; `>` marks what the objective chooses, `*` the Pareto front."""
    rows = sorted(document["configurations"], key=lambda row: row["indicators"]["cost_usd"]["mean"])
    names = [name for name in HEADLINES if rows and name in rows[0]["indicators"]]
    best, front = document["best"]["configuration_key"], set(document["pareto_front"])
    shown = [row for place, row in enumerate(rows) if place < limit or row["configuration_key"] == best]
    cells = []
    for row in shown:
        mark = (">" if row["configuration_key"] == best else " ") + ("*" if row["configuration_key"] in front else " ")
        cells.append([f"{mark} {row['label']}", *(_measured(name, row["indicators"][name]) for name in names)])
    hidden = len(rows) - len(shown)
    title = f"{', '.join(document['sweeps'])} (> the best, * Pareto front{f', {hidden} more with --json' if hidden else ''})"
    print_table(title, ("configuration", *names), cells)
    if document["baseline"]:
        different = [[r["label"], *(_measured(n, r["differences"][n]) for n in names)] for r in shown]
        print_table(f"Differences to {document['baseline']}, paired by seed", ("configuration", *names), different)
    print(f"Best: {document['best']['label']} ({document['best']['reason']})")


def show_report(document: Mapping[str, Any]) -> None:
    """Where the report is."""
    print(f"\nReport: {document['report']}")
    for picture in document.get("pictures", []):
        print(f"Picture: {picture}")


def show_bench(document: Mapping[str, Any]) -> None:
    """What was measured, one figure a row."""
    rows = document["figures"]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print_table("Figures", columns, [[_plain_figure(row.get(column)) for column in columns] for row in rows])


def _command() -> str:
    """The command as the user can type it: the one on the path, or the one beside this Python."""
    beside = Path(sys.executable).with_name("devops-sim")
    found = shutil.which("devops-sim")
    if found and Path(found).resolve() == beside.resolve():
        return "devops-sim"
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)


def _state_option(root: str) -> str:
    return "" if Path(root) == Path.cwd() / ".devops-sim" or os.environ.get("DEVOPS_SIM_HOME") else f" --state {root}"


def _plain_figure(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _measured(name: str, value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    low, high = value["ci95"]
    return with_interval(name, value["mean"], low, high)
