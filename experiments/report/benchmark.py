"""The report of a benchmark of agents: who stands where, and for each trace the frontiers and the table behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from agents.learning.evaluate import BASELINE
from agents.learning.faults import FAULTS, MOMENTS, WINDOW_S
from experiments.agent_benchmark import AgentBenchmark, Benchmarked, Compared
from experiments.analysis.amounts import NOTHING, attained, objective_text, percent, usd
from experiments.report.data import Style, role_of, styles_of
from experiments.report.figures import cost_figure, dark_colors_of, safe
from experiments.report.html import Cell, Row, Table, page_of, write_file
from experiments.report.series import nines_axis
from sim_core.units import format_duration

_COLUMNS = (
    "Rank",
    "SLO attainment",
    "SLO",
    "Pods as tuned",
    "Pods at the SLO",
    "Pods at half the budget",
    "Gap closed",
    "Against the best rival",
    "Against its own rule",
)
_STANDING_COLUMNS = (
    "Mean rank",
    "Wins",
    "Ties",
    "Losses",
    "Keeps the SLO",
    "Gap closed, median",
    "Against the best rival, median",
)
_WORST = 8.0  # error budgets: a figure ends there, so that what lies around the SLO has room
_TONES = {"win": "good", "tie": "", "loss": "bad", None: ""}


def write_benchmark_report(
    benchmark: AgentBenchmark, result: Benchmarked, skipped: Sequence[Mapping[str, str]], path: str | Path
) -> Path:
    """Write the report as one self-contained HTML file, whole or not at all, and return its path.

    Args:
        skipped: traces that were left out: `trace`, and `why`.

    Raises:
        InputError: the folder cannot be made or written.
    """
    page = render_benchmark(benchmark, result, skipped)
    return write_file(Path(path), page.encode("utf-8", errors="replace"))


def render_benchmark(benchmark: AgentBenchmark, result: Benchmarked, skipped: Sequence[Mapping[str, str]]) -> str:
    """The page as text."""
    rules = benchmark.rules
    objective = rules.profile.slo.objective
    styles = styles_of([choice.text for choice in benchmark.choices])
    drawn = {f"trace-{number}": _frontier_figure(one, objective, styles) for number, one in enumerate(result.compared)}
    sections = [
        {
            "name": one.name,
            "figure": f"trace-{number}",
            "table": _trace_table(one, objective, styles),
            "faults": _faults_tables(one, objective, styles),
            "days": _days(one),
            "over": " and ".join(one.verdict.levels),
        }
        for number, one in enumerate(result.compared)
    ]
    return page_of(
        "benchmark.html.j2",
        drawn,
        dark_colors_of(styles.values()),
        title=" on ".join(
            [_counted(len(benchmark.choices), "policy", "policies"), _counted(len(result.compared), "trace", "traces")]
        ),
        profile=rules.profile.name,
        slo=f"{objective_text(objective)} of requests",
        rules=_rules(benchmark),
        fault_window=format_duration(WINDOW_S),
        standings=_standings(result, styles),
        sections=sections,
        skipped=skipped,
    )


def _counted(n: int, one: str, several: str) -> str:
    return f"{n} {one if n == 1 else several}"


def _rules(benchmark: AgentBenchmark) -> list[str]:
    rules = benchmark.rules
    tuned = "anew before each held-out block" if rules.refit else "once, on what lies before the first held-out block"
    ticks = "the profile's own ticks" if rules.own_ticks else "the longest ticks that the profile's periods allow"
    return [
        f"The last {rules.days} whole blocks of {format_duration(rules.block_s)} of each trace are held out; policies are "
        f"tuned {tuned}, within {rules.budget_days:g} simulated days each.",
        f"{rules.seeds} seeds a block, the same for every policy; played in {ticks}.",
        f"The peak of each trace is what {rules.peak_replicas} replicas serve at 70 % utilization; counting noise of small "
        "logs was taken off before.",
        "Pods are compared at equal attainment: read from each policy's frontier, linear in the logarithm of the share of "
        "bad requests, never extrapolated. Fixed cost stands apart: no policy decides it.",
        "A policy keeps the SLO where the lower limit of its attainment, as it was tuned, does. It wins where it is cheaper "
        "than the best of the others with its whole interval, and loses where it is dearer, or never attains the SLO.",
    ]


def _days(one: Compared) -> list[str]:
    starts_s, block_s = one.trial.days.starts_s, one.trial.days.block_s
    return [
        f"Block from {format_duration(starts_s[day])} on, of {format_duration(block_s)}: left out, nobody could differ."
        for day in one.left_out
    ]


def _frontier_figure(one: Compared, objective: float, styles: Mapping[str, Style]) -> go.Figure:
    """Pods against attainment: a line a policy over the values of its knob, a larger marker where it was tuned to be."""
    points = one.verdict.frontiers
    axis = nines_axis(np.maximum(1.0 - points["bad_share"].to_numpy(), 1.0 - _WORST * (1.0 - objective)), objective)
    figure = cost_figure(axis, objective, "pods [$/day]")
    for policy, own in points.groupby("policy", sort=False):
        style = styles[str(policy)]
        line = own.sort_values("bad_share")
        figure.add_scatter(
            x=line["pods_usd"].tolist(),
            y=axis.position(1.0 - line["bad_share"].to_numpy()),
            mode="lines+markers",
            name=safe(str(policy)),
            line={
                "color": style.color,
                "width": 1.6,
                "dash": "dot" if role_of(str(policy)) == "clairvoyant" else "solid",
            },
            marker={
                "color": style.color,
                "symbol": style.symbol,
                "size": [13 if tuned else 6 for tuned in line["tuned"]],
            },
            customdata=[
                f"{safe(str(policy))}: {attained(1.0 - share, objective)}, {usd(cost)}"
                for share, cost in zip(line["bad_share"], line["pods_usd"], strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    return figure


def _trace_table(one: Compared, objective: float, styles: Mapping[str, Style]) -> Table:
    rows = []
    table = one.verdict.table.sort_values("rank", na_position="first", kind="stable")
    for plain in table.to_dict("records"):
        row = {str(name): value for name, value in plain.items()}
        missed = row["slo_attainment_ci95_high"] < objective
        shown = Cell("missed", tone="bad") if missed else Cell("not shown to be kept", tone="fair")
        keeps = {True: Cell("kept", tone="good"), False: shown}
        best = f"than {row['best_rival']}" if row["best_rival"] else ""
        rank = Cell("ceiling") if row["ceiling"] else Cell(f"{row['rank']:g}", "", row["rank"], _TONES[row["outcome"]])
        cells = [
            rank,
            _estimated(row, "slo_attainment", lambda value: attained(value, objective)),
            keeps.get(row["keeps_slo"], Cell(NOTHING)),
            _estimated(row, "pods_usd", usd),
            _estimated(row, "pods_at_slo_usd", usd, row["pods_at_slo_usd_note"]),
            _estimated(row, "pods_at_half_budget_usd", usd, row["pods_at_half_budget_usd_note"]),
            _estimated(row, "gap_closed", lambda value: f"{value:.2f}"),
            _estimated(row, "against_best_pct", _dearer, best),
            _estimated(row, "against_rule_pct", _dearer),
        ]
        note = f"fixed cost {usd(row['fixed_usd'])}"
        rows.append(Row(row["policy"], note, styles[row["policy"]].color, cells))
    return Table(_COLUMNS, rows)


def _faults_tables(one: Compared, objective: float, styles: Mapping[str, Style]) -> dict[str, Table]:
    """By moment: attainment through each fault, under it the difference to the tuned HPA's."""
    if one.faults is None:
        return {}
    tables = {}
    for moment, at_once in one.faults.groupby("moment", sort=False):
        rows = [
            Row(str(policy), "", styles[str(policy)].color, [_struck(row, objective) for row in own.to_dict("records")])
            for policy, own in at_once.groupby("policy", sort=False)
        ]
        tables[MOMENTS[str(moment)]] = Table([fault.about for fault in FAULTS], rows)
    return tables


def _struck(row: Mapping[Any, Any], objective: float) -> Cell:
    mean, low, high = (100.0 * row[f"difference{end}"] for end in ("", "_ci95_low", "_ci95_high"))
    is_compared = math.isfinite(low) and row["policy"] != BASELINE
    note = f"{mean:+.2f} ({low:+.2f} to {high:+.2f}) points" if is_compared else ""
    share = row["slo_attainment"]
    return Cell(attained(share, objective), note, share, "bad" if row["below"] else "")


def _estimated(row: Mapping[str, Any], name: str, shown: Any, note: str = "") -> Cell:
    mean, low, high = row[name], row[f"{name}_ci95_low"], row[f"{name}_ci95_high"]
    if mean is None or not math.isfinite(mean):
        return Cell(NOTHING, note)
    limits = f"{shown(low)} to {shown(high)}" if math.isfinite(low) and math.isfinite(high) else ""
    return Cell(shown(mean), ", ".join(filter(None, (limits, note))), mean)


def _dearer(value: float) -> str:
    return f"{'+' if value >= 0 else '−'}{percent(abs(value) / 100.0)}"


def _standings(result: Benchmarked, styles: Mapping[str, Style]) -> Table:
    rows = []
    for plain in result.standings.to_dict("records"):
        row = {str(name): value for name, value in plain.items()}
        counts = [Cell(str(row[name]), key=row[name]) for name in ("win", "tie", "loss")]
        gap, against = row["median_gap_closed"], row["median_against_best_pct"]
        cells = [
            Cell(f"{row['mean_rank']:.2f}", key=row["mean_rank"]),
            *counts,
            Cell(f"{row['keeps_slo']} of {row['traces']}", key=row["keeps_slo"]),
            Cell(f"{gap:.2f}", key=gap) if math.isfinite(gap) else Cell(NOTHING),
            Cell(_dearer(against), key=against) if math.isfinite(against) else Cell(NOTHING),
        ]
        rows.append(Row(row["policy"], "", styles[row["policy"]].color, cells))
    return Table(_STANDING_COLUMNS, rows)
