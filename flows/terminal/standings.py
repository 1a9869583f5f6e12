"""The document of `devops-sim benchmark-agents` as tables: each trace, then who stands where over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.analysis.amounts import objective_text
from flows.terminal.output import figure, print_table, print_text
from sim_core.units import format_duration

_COLUMNS = (
    "rank",
    "policy",
    "slo_attainment",
    "pods at SLO",
    "at half budget",
    "gap_closed",
    "against best rival",
    "against its rule",
)
_SIGN = {"win": "+", "tie": "=", "loss": "-", None: ""}
_DOLLARS, _SHARE, _PERCENT = ".2f", ".2f", "+.1f"


def show_benchmark(document: Mapping[str, Any]) -> None:
    """One table a trace, the cheapest at equal attainment first; then ranks, wins and losses over all."""
    objective = objective_text(document["slo"]["objective"])
    for trace in document["traces"]:
        _show_trace(trace, objective)
        if trace["faults"] is not None:
            _show_faults(trace["trace"], trace["faults"])
    for skipped in document["skipped"]:
        print_text(f"Left out: {skipped['why']}")
    print_text(
        f"*: the lower limit of its attainment, as tuned, keeps the SLO of {objective}. Pods: USD a day at equal attainment, "
        "read from each policy's frontier. +, =, -: cheaper than the best rival with its whole interval, not told apart, "
        "dearer or never at the SLO. Without a rank: who knows what nobody can know."
    )
    _show_standings(document)
    print(f"Report: {document['report']}")
    if document["mlflow"] and document["mlflow"]["warning"]:
        print(f"MLflow: {document['mlflow']['warning']}")
    if document["mlflow"] and document["mlflow"]["page"]:
        print(f"MLflow: {document['mlflow']['page']}")


def _show_trace(trace: Mapping[str, Any], objective: str) -> None:
    held_out = trace["held_out_s"]
    block = format_duration(held_out[0][1] - held_out[0][0])
    left_out = "".join(f", day {day + 1} left out: nobody can differ" for day in trace["left_out_days"])
    over = " and ".join(trace["intervals_over"])
    title = f"\n{trace['trace']}: {len(held_out)} held-out blocks of {block}{left_out}; SLO {objective}; intervals over {over}"
    policies = sorted(trace["policies"].items(), key=lambda item: item[1]["rank"] or 0)
    rows = [_row(name, entry) for name, entry in policies]
    print_table(title, ("", *_COLUMNS), rows, words=3)


def _show_faults(name: str, faults: Mapping[str, Any]) -> None:
    """Attainment through each fault and the difference to the tuned HPA's, one table a moment."""
    window, baseline = format_duration(faults["window_s"]), faults["baseline"]
    for moment in faults["moments"].values():
        by_fault = moment["by_fault"]
        policies = list(next(iter(by_fault.values())))
        rows = [
            [policy, *(_struck(entries[policy], policy == baseline) for entries in by_fault.values())]
            for policy in policies
        ]
        title = f"\n{name}, faults {moment['about']}: slo_attainment in the next {window}, and points to {baseline}"
        print_table(title, ("policy", *by_fault), rows)
    about = "; ".join(f"{fault}: {text}" for fault, text in faults["about"].items())
    print_text(f"{about}. -: below {baseline} with its whole interval over days.")


def _struck(entry: Mapping[str, Any], is_baseline: bool) -> str:
    shown, value = figure("slo_attainment", entry["slo_attainment"]), entry["difference"]
    if value is None or is_baseline:
        return shown
    points, low, sign = 100.0 * value["mean"], value["ci95"][0], "-" if entry["below"] else ""
    half = "" if low is None else f" ±{points - 100.0 * low:.2f}"
    return f"{shown} {points:+.2f}{half}{sign}"


def _row(name: str, entry: Mapping[str, Any]) -> list[str]:
    rank = "-" if entry["ceiling"] else f"{entry['rank']}{_SIGN[entry['outcome']]}"
    return [
        "*" if entry["keeps_slo"] else "",
        rank,
        name,
        _measured("slo_attainment", entry["slo_attainment"], ""),
        _at(entry, "pods_at_slo_usd"),
        _at(entry, "pods_at_half_budget_usd"),
        _measured("gap_closed", entry["gap_closed"], _SHARE),
        _measured("against_best_pct", entry["against_best_pct"], _PERCENT, " %"),
        _measured("against_rule_pct", entry["against_rule_pct"], _PERCENT, " %"),
    ]


def _at(entry: Mapping[str, Any], name: str) -> str:
    """A cost at equal attainment; why there is none, or that less was not to be had."""
    note, value = entry.get(f"{name}_note", ""), entry[name]
    if value is None:
        return note or "-"
    return f"{'<= ' if note else ''}{_measured(name, value, _DOLLARS)}"


def _measured(name: str, value: Mapping[str, Any] | None, digits: str, unit: str = "") -> str:
    if value is None or value["mean"] is None:
        return "-"

    def shown(number: float) -> str:
        return f"{number:{digits}}" if digits else figure(name, number)

    low, high = value["ci95"]
    limits = "" if low is None or high is None else f" [{shown(low)}, {shown(high)}]"
    return f"{shown(value['mean'])}{unit}{limits}"


def _show_standings(document: Mapping[str, Any]) -> None:
    rows = [
        [
            row["policy"],
            f"{row['mean_rank']:.2f}",
            str(row["win"]),
            str(row["tie"]),
            str(row["loss"]),
            f"{row['keeps_slo']} of {row['traces']}",
            "-" if row["median_gap_closed"] is None else f"{row['median_gap_closed']:.2f}",
            "-" if row["median_against_best_pct"] is None else f"{row['median_against_best_pct']:+.1f} %",
        ]
        for row in document["standings"]
    ]
    count = len(document["traces"])
    columns = ("policy", "mean_rank", "wins", "ties", "losses", "keeps_slo", "median gap_closed", "median against best")
    print_table(f"\nOver {count} trace{'s'[: count != 1]}", columns, rows)
