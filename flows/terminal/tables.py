"""The documents of the commands as tables for people."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.policies.registry import value_of
from experiments.state import DEFAULT_FOLDER, HOME_VARIABLE
from flows.terminal.output import figure, print_table, with_interval

# What a reader compares first; the JSON document and the report hold every indicator.
HEADLINES = ("cost_usd", "slo_attainment", "latency_p95_s", "error_ratio", "utilization_mean", "scale_events")
_LANES_SHOWN = 20


def show_run(document: Mapping[str, Any]) -> None:
    """Indicators of `devops-sim run` with their intervals, a column a policy, then the lanes of each."""
    seeds, played = document["seeds"], document["policies"]
    title = f"{document['profile']} under {', '.join(played)}, {document['duration_s']:,.0f} s, {len(seeds)} seeds"
    names = list(next(iter(played.values()))["indicators"])
    rows = [[name, *(_measured(name, entry["indicators"][name]) for entry in played.values())] for name in names]
    print_table(title, ("indicator", *(played if len(played) > 1 else ["mean [95 % interval]"])), rows)
    for policy, entry in played.items() if len(seeds) > 1 else ():
        _show_lanes(policy if len(played) > 1 else "", entry["lanes"])


def _show_lanes(policy: str, lanes: Sequence[Mapping[str, Any]]) -> None:
    names = [name for name in HEADLINES if name in lanes[0]]
    rows = [[str(lane["seed"]), *(figure(name, lane[name]) for name in names)] for lane in lanes[:_LANES_SHOWN]]
    hidden = len(lanes) - len(rows)
    title = f"Lanes{f' of {policy}' if policy else ''}"
    print_table(
        title + (f" (the first {_LANES_SHOWN}, {hidden} more with --json)" if hidden else ""), ("seed", *names), rows
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
    if model:
        print(f"Model: {model['name']} version {model['version']} ({', '.join(model['aliases'])})")
        command = evaluation_command(document)
        print(
            f"Compare it: {command}" if command else "All of the trace was seen: train on less to compare on the rest"
        )
    if document["mlflow"]["warning"]:
        print(f"MLflow: {document['mlflow']['warning']}")


def evaluation_command(document: Mapping[str, Any]) -> str:
    """The command that compares a trained model on traffic it has not seen; empty where none is left.

    It names all that the training was asked, quoted for a shell, and runs from the same folder.
    """
    asked, held_out = document["request"], document["held_out"]
    if held_out is None:
        return ""
    words = ["evaluate", asked["profile"]]
    words += ["--policies", f"hpa-tuned,clairvoyant,{document['model']['registered']['uri']}"]
    words += ["--start", _duration(held_out["start_s"]), "--duration", _duration(held_out["duration_s"])]
    if asked["trace"]:
        words += ["--trace", asked["trace"]]
    else:
        words += ["--traffic", asked["traffic"], "--traffic-seed", str(asked["traffic_seed"])]
    if asked["scale_peak_to_replicas"]:
        words += ["--scale-peak-to-replicas", str(asked["scale_peak_to_replicas"])]
    for path, value in asked["overrides"].items():
        words += ["--set", f"{path}={value if value_of(str(value)) == value else json.dumps(value)}"]
    return f"{_command()} {shlex.join(words)}{_state_option(document['state'])}"


def _duration(seconds: float) -> str:
    """Seconds as the command line takes them, in the largest unit that leaves a whole number."""
    for unit, length_s in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds % length_s == 0:
            return f"{seconds / length_s:.0f}{unit}"
    return f"{seconds:.12g}s"


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
    return shlex.quote(os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside))


def _state_option(root: str) -> str:
    """How to name the state folder, where it is not the one that is taken without being named."""
    usual = Path(os.environ.get(HOME_VARIABLE) or DEFAULT_FOLDER).expanduser().absolute()
    return "" if Path(root) == usual else f" --state {shlex.quote(root)}"


def _plain_figure(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _measured(name: str, value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    low, high = value["ci95"]
    return with_interval(name, value["mean"], low, high)
