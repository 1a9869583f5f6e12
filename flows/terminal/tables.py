"""The documents of the commands as tables for people."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.policies.registry import value_of
from experiments.analysis.amounts import objective_text
from experiments.analysis.savings import Savings
from experiments.store.state import DEFAULT_FOLDER, HOME_VARIABLE
from flows.terminal.output import figure, print_table, print_text, with_interval
from sim_core.engines import FLUID
from sim_core.indicators import FIXED_COST_TITLES, MIN_VALUES
from sim_core.units import format_duration

# What a reader compares first; the JSON document and the report hold every indicator.
HEADLINES = (
    "cost_usd",
    "slo_attainment",
    "cost_pods_usd",
    "latency_p95_s",
    "error_ratio",
    "utilization_mean",
    "scale_events",
)
_LANES_SHOWN = 20
_TIES_SHOWN = 5
_NO_BREAK = "\N{NO-BREAK SPACE}"


def show_run(document: Mapping[str, Any]) -> None:
    """Indicators of `devops-sim run` with their intervals, a column a policy, then services and lanes of each."""
    seeds, played = document["seeds"], document["policies"]
    several = len(played) > 1
    stretch = _stretch(document["duration_s"], len(seeds)) + _engine(document)
    title = f"{document['profile']} under {', '.join(played)}, {stretch}"
    names = list(next(iter(played.values()))["indicators"])
    rows = [[name, *(_measured(name, entry["indicators"][name]) for entry in played.values())] for name in names]
    alone = "mean [95 % interval]" if len(seeds) >= MIN_VALUES else "mean"
    print_table(title, ("indicator", *(played if several else [alone])), rows)
    for policy, entry in played.items():
        of = f" of {policy}" if several else ""
        if len(entry.get("classes", ())) > 1:
            _show_classes(of, entry["classes"], document["classes"])
        _show_services(of, entry["services"])
        if len(seeds) > 1:
            _show_lanes(of, entry["lanes"])
    if document["timeline"]:
        print(f"Timeline: {document['timeline']}")
    if document["request_traces"]:
        print(f"Request traces: {', '.join(document['request_traces'])}")


def show_explanation(document: Mapping[str, Any]) -> None:
    """The decisions around a moment, then the one that was asked about in words."""
    shown = {"load": ".1f", "forecast": ".1f", "uncertainty": ".0%", "budget_spent": ".0%", "price": ".3f"}
    shown |= {"residual": "+.1%", "needed": ".0f", "margin": "+.0%", "desired": ".0f"}
    rows = [
        [
            ("> " if row["asked"] else "  ") + row["clock"],
            row["service"],
            *(f"{row[name]:{form}}" for name, form in shown.items()),
        ]
        for row in document["decisions"]
    ]
    title = f"{document['policy']} on {document['profile']}, seed {document['seed']}"
    print_table(title, ("time", "service", *(name.replace("_", " ") for name in shown)), rows)
    for sentence in document["in_words"]:
        print(sentence)
    if document["output"]:
        print(f"Decisions: {document['output']}")


def _show_services(of: str, services: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [[service, *_of_part(figures)] for service, figures in services.items()]
    print_table(f"Services{of}", ("service", *next(iter(services.values()))), rows)


def _show_classes(of: str, played: Mapping[str, Mapping[str, Any]], promised: Mapping[str, Mapping[str, Any]]) -> None:
    """Figures of each class of requests, each against the SLO of its own or the whole's that stands beside them."""
    rows = [
        [_starred(figures, promised[name]), name, class_slo(promised[name]), *_of_part(figures)]
        for name, figures in played.items()
    ]
    names = next(iter(played.values()))
    print_table(f"Requests by class{of} (* keeps its SLO)", ("", "class", "slo", *names), rows, words=3)


def _starred(figures: Mapping[str, Any], promised: Mapping[str, Any]) -> str:
    attained = figures["slo_attainment"]["mean"]
    return "*" if attained is not None and attained >= promised["slo"]["objective"] else ""


def class_slo(promised: Mapping[str, Any]) -> str:
    """`99 % in 0.5 s`: what was promised for a class of requests."""
    slo = promised["slo"]
    return f"{objective_text(slo['objective'])} in {slo['latency_threshold_seconds']:g} s"


def _of_part(figures: Mapping[str, Any]) -> list[str]:
    """Figures of a service or a class; how many calls or requests there were needs no interval."""
    return [
        figure(name, entry["mean"]) if name in ("calls", "requests") else _measured(name, entry)
        for name, entry in figures.items()
    ]


def _show_lanes(of: str, lanes: Sequence[Mapping[str, Any]]) -> None:
    names = [name for name in HEADLINES if name in lanes[0]]
    rows = [[str(lane["seed"]), *(figure(name, lane[name]) for name in names)] for lane in lanes[:_LANES_SHOWN]]
    hidden = len(lanes) - len(rows)
    more = f" (the first {_LANES_SHOWN}, {hidden} more with --json)" if hidden else ""
    print_table(f"Lanes{of}{more}", ("seed", *names), rows)


def show_sweep(document: Mapping[str, Any]) -> None:
    """What to do with a finished sweep: the report and the pages."""
    points, seconds = document["points"], document["seconds"]
    print(
        f"\nSweep {document['sweep_id']}: {points['simulated']} points simulated, {points['resumed']} from earlier runs"
    )
    show_choice(document, document["configurations"], "Best of the sweep")
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
    _show_page(document["mlflow"])


def show_training(document: Mapping[str, Any]) -> None:
    """The outcome of a training and how to use the model."""
    training = document["training"]
    model = document["model"]["registered"]
    rows = [[name, _learned_figure(name, value)] for name, value in training["last"].items()]
    print_table(
        f"{training['profile']}: {training['steps']:,} steps, seed {training['seed']}", ("last rollout", "value"), rows
    )
    print(f"Learned: {training['outcome']['verdict']}")
    _show_gate(document["model"]["gate"])
    if model:
        print(f"Model: {model['name']} version {model['version']} ({', '.join(model['aliases'])})")
        if command := evaluation_command(document):
            print(f"Compare it: {command}")
        elif document["evaluation"] is None:
            print("All of the trace was seen: train on less to compare on the rest")
    if document["mlflow"]["warning"]:
        print(f"MLflow: {document['mlflow']['warning']}")
    _show_page(document["mlflow"])


def _show_gate(gate: Mapping[str, Any]) -> None:
    """Whether the model won its comparison on held-out traffic, and if not, what it failed."""
    if gate["passed"]:
        print(f"Promoted to champion: {gate['reason']}")
    for failure in gate["failures"]:
        print(f"Not promoted, {failure}")


def evaluation_command(document: Mapping[str, Any]) -> str:
    """The command that compares a trained model on traffic it has not seen; empty where none is left.

    It names all that the training was asked, quoted for a shell, and runs from the same folder.
    """
    asked, held_out = document["request"], document["held_out"]
    if held_out is None:
        return ""
    words = ["evaluate", asked["profile"]]
    words += ["--policies", f"hpa-tuned,clairvoyant,{document['model']['registered']['uri']}"]
    words += ["--start", format_duration(held_out["start_s"]), "--duration", format_duration(held_out["duration_s"])]
    if asked["trace"]:
        words += ["--trace", asked["trace"]]
    else:
        words += ["--traffic", asked["traffic"], "--traffic-seed", str(asked["traffic_seed"])]
    if asked["scale_peak_to_replicas"]:
        words += ["--scale-peak-to-replicas", str(asked["scale_peak_to_replicas"])]
    for path, value in asked["overrides"].items():
        words += ["--set", f"{path}={value if value_of(str(value)) == value else json.dumps(value)}"]
    return f"{_command()} {shlex.join(words)}{_state_option(document['state'])}"


def show_evaluation(document: Mapping[str, Any]) -> None:
    """Policies on held-out traffic, one a row; a star marks those that keep the SLO."""
    policies = document["policies"]
    names = [name for name in HEADLINES if any(name in entry["indicators"] for entry in policies.values())]
    names[2:2] = ["gap_closed"]  # beside cost and attainment: a narrow terminal leaves out what stands last
    rows = []
    for policy, entry in policies.items():
        figures = {**entry["indicators"], "gap_closed": entry["gap_closed"]}
        rows.append(
            ["*" if entry["keeps_slo"] else "", policy, *(_measured(name, figures.get(name)) for name in names)]
        )
    objective = objective_text(document["slo"]["objective"])
    title = (
        f"{document['profile']}, {_stretch(document['duration_s'], document['seeds'])}{_engine(document)} "
        f"(* keeps the SLO of {objective})"
    )
    print_table(title, ("", "policy", *names), rows, words=2)
    if len(document.get("classes", ())) > 1:
        for policy, entry in policies.items():
            _show_classes(f" under {policy}", entry["classes"], document["classes"])
    _show_fixed_cost([entry["indicators"] for entry in policies.values()])
    for policy, entry in policies.items():
        if entry["savings"]:
            amounts = dict(entry["savings"])
            against = amounts.pop("against")
            print_text(f"{policy}: {Savings(**amounts).words(against)}")
    if document["seeds"] >= MIN_VALUES and any(entry["gap_closed"] for entry in policies.values()):
        stretch = format_duration(document["duration_s"])
        print_text(
            f"gap_closed: intervals over the seeds of one stretch of {stretch} and one training; others may differ by more"
        )
    if document["no_room"]:
        print_text(f"Gap closed: {document['no_room']}")
    for policy, entry in policies.items():
        if entry["settings"]:
            print(
                f"{policy}: " + ", ".join(f"{name} {_plain_figure(value)}" for name, value in entry["settings"].items())
            )

    print(f"Report: {document['report']}")
    _show_page(document["mlflow"])


def _show_page(tracked: Mapping[str, Any] | None) -> None:
    if tracked and tracked["page"]:
        print(f"In MLflow, while `devops-sim ui` runs: {tracked['page']}")


def show_comparison(document: Mapping[str, Any], limit: int = 40) -> None:
    """A table for each group of comparable sweeps: `>` marks what the objective chooses, `*` the Pareto front.

    What is chosen stands first, then the cheapest.
    """
    alone = len(document["groups"]) == 1
    for group in document["groups"]:
        rows = [row for row in document["configurations"] if row["group"] == group["group"]]
        _show_group(group, rows, limit, "" if alone else f"group {group['group']}", document["baseline"])
    if not alone:
        print(f"\nNo best over all: {document['no_best_because']}. They differ in")
        for difference in document["differences"]:
            print(f"  {difference}")


def _show_group(
    group: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], limit: int, name: str, baseline: str | None
) -> None:
    best, front = group["best"]["configuration_key"], set(group["pareto_front"])
    rows = _best_first(rows, best)
    names = [name for name in HEADLINES if rows and name in rows[0]["indicators"]]
    kept = {row["configuration_key"] for row in rows[:limit]}  # whole configurations, with all their scenarios
    shown = [row for row in rows if row["configuration_key"] in kept]
    common, labels = short_labels(shown)
    cells = [
        [(">" if row["configuration_key"] == best else " ") + ("*" if row["configuration_key"] in front else " "),
         label, *(_measured(name, row["indicators"][name]) for name in names)]
        for row, label in zip(shown, labels, strict=True)
    ]  # fmt: skip
    hidden = len(rows) - len(shown)
    title = (
        f"{f'{name.capitalize()}: ' if name else ''}{', '.join(group['sweeps'])}{f'; all: {common}' if common else ''}"
    )
    print_table(
        f"\n{title} (> the best, * Pareto front{f', {hidden} more with --json' if hidden else ''})",
        ("", "configuration", *names), cells, words=2,
    )  # fmt: skip
    if group["baseline"]:
        different = [
            [label, *(_measured(n, row["differences"][n]) for n in names)]
            for row, label in zip(shown, labels, strict=True)
        ]
        print_table(f"\nDifferences to {baseline}, paired by seed", ("configuration", *names), different)
    _show_fixed_cost([row["indicators"] for row in rows])
    show_choice(group, rows, f"Best of {name}" if name else "Best")


def _best_first(rows: Sequence[Mapping[str, Any]], best: str) -> list[Mapping[str, Any]]:
    """Rows of a configuration together: those of the best, then those of the others by what they cost at worst."""
    worst_usd: dict[str, float] = {}
    for row in rows:
        cost = row["indicators"]["cost_usd"]["mean"]
        worst_usd[row["configuration_key"]] = max(cost, worst_usd.get(row["configuration_key"], cost))
    return sorted(rows, key=lambda row: (row["configuration_key"] != best, worst_usd[row["configuration_key"]]))


def show_choice(choice: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """What is best, also in each scenario; what ties, and what makes no difference.

    Args:
        choice: `best`, `best_by_scenario`, `ties` and `without_effect` of a document.
        rows: `configurations` of the document.
        title: of the first line.
    """
    best = choice["best"]
    print(f"{title}: {best['label']} ({best['reason']})")
    for label in best["ties"]:
        print(f"  ties with it: {label}")
    for scenario in choice["best_by_scenario"]:
        words = _pairs(scenario["scenario"].items())
        print(f"  best if {words}: {scenario['label']}{'' if scenario['feasible'] else ' (misses the constraints)'}")
    once = {row["configuration_key"]: {**row, "scenario": {}} for row in rows}
    labels = dict(zip(once, short_labels(list(once.values()))[1], strict=True))
    others = [keys for keys in choice["ties"] if best["configuration_key"] not in keys]
    for keys in others[:_TIES_SHOWN]:
        print(f"Tie: {' = '.join(labels[key] for key in keys)}")
    if len(others) > _TIES_SHOWN:
        print(f"{len(others) - _TIES_SHOWN} more ties with --json")
    for found in choice["without_effect"]:
        print(f"Note: {found['text']}")


def short_labels(rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """What all configurations have in common, and of each row what it has of its own, which tells it from the others.

    Paths are cut to their last step where that is clear. A scenario stands behind a dot, from which no line is broken.

    Args:
        rows: `policy`, `settings`, `parameters` and `scenario` of each.
    """
    decided = [{"policy": row["policy"], **row["settings"], **row["parameters"]} for row in rows]
    names = dict.fromkeys(name for choice in [*decided, *(row["scenario"] for row in rows)] for name in choice)
    ends = [name.rpartition(".")[2] for name in names]
    short = {name: end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)}
    common = {
        name: value for name, value in (decided[0].items() if len(decided) > 1 else ())
        if all(name in choice and choice[name] == value for choice in decided)
    }  # fmt: skip
    labels = []
    for row, choice in zip(rows, decided, strict=True):
        own = _pairs((short.get(name, name), value) for name, value in choice.items() if name not in common)
        scenario = _pairs((short[name], value) for name, value in row["scenario"].items())
        played = f"·{_NO_BREAK}{scenario}" if scenario else ""
        labels.append(" ".join(part for part in (own, played) if part) or row["label"])
    return _pairs(common.items()), labels


def _pairs(items: Iterable[tuple[str, Any]]) -> str:
    return " ".join(str(value) if name == "policy" else f"{name}={_written(value)}" for name, value in items)


def _written(value: Any) -> str:
    """A setting as it is written in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def _show_fixed_cost(rows: Sequence[Mapping[str, Any]]) -> None:
    """The part of the cost that no policy decides, apart from the table: mostly it is the same in every row."""
    names = ("cost_fixed_usd", *FIXED_COST_TITLES.values())
    means = [[row[name]["mean"] for name in names] for row in rows if all(name in row for name in names)]
    means = [row for row in means if all(mean is not None and math.isfinite(mean) for mean in row)]
    if means:
        whole, *parts = (_from_to([row[column] for row in means]) for column in range(len(means[0])))
        named = ", ".join(f"{what} {amount}" for what, amount in zip(FIXED_COST_TITLES, parts, strict=True))
        print_text(f"In cost_usd, and fixed whatever the policy does: {whole} ({named}).")


def _from_to(values: Sequence[float]) -> str:
    least, most = figure("cost_usd", min(values)), figure("cost_usd", max(values))
    return least if least == most else f"{least} to {most}"


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


def show_agreement(document: Mapping[str, Any]) -> None:
    """How far the engines are apart, a scenario a row, and the verdict."""
    from experiments.agreement.table import cells, columns

    bounds = ", ".join(f"{name} {bound['bound']:g} {bound['unit']}" for name, bound in document["bounds"].items())
    print_table(
        "Fluid engine less request engine, paired by seed, ± half of the 95 % interval",
        columns(),
        [cells(row) for row in document["scenarios"]],
        words=2,
    )
    print_text(
        f"Bounds: {bounds}. x: beyond one (!); f: may be fitted to, does not count; ~: noise above a third of one."
    )
    if document["skipped"]:
        print_text(f"Skipped: {', '.join(document['skipped'])}")
    print_text(document["verdict"]["words"])


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


def _learned_figure(name: str, value: Any) -> str:
    return figure("slo_attainment", value) if name == "slo/attainment" else _plain_figure(value)


def _stretch(duration_s: float, seeds: int) -> str:
    count = f"{seeds} seed{'' if seeds == 1 else 's'}" + ("" if seeds >= MIN_VALUES else ", too few for intervals")
    return f"{format_duration(duration_s)}, {count}"


def _engine(document: Mapping[str, Any]) -> str:
    """Which engine it was, unless it was the usual one."""
    engine = document.get("engine", FLUID)  # older documents name none
    return "" if engine == FLUID else f", engine {engine}"


def _measured(name: str, value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    low, high = value["ci95"]
    return with_interval(name, value["mean"], low, high)
