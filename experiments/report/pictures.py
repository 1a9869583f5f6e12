"""The same figures as still pictures for a README or a ticket, in the same colours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MultipleLocator, NullFormatter, NullLocator

from experiments.analysis.amounts import objective_text, seconds
from experiments.report.data import STYLES, Outcome, ReportData, at_worst, evaluated, styles_of, swept
from experiments.report.decisions import decision_day
from experiments.report.figures import (
    FRONT,
    GRID,
    INK,
    LIMIT,
    LOAD,
    MAX_POINTS,
    MUTED,
    learning_panels,
    shown_in_timeline,
    timeline_load,
)
from experiments.report.series import NinesAxis, nines_axis, pareto_front, thin_extremes, thin_steps


def draw_pareto(data: ReportData) -> Figure | None:
    """Cost against SLO attainment: the sweep on the left, the held-out comparison on the right, as far as there are any."""
    panels = [
        ("Sweep on training traffic", at_worst(swept(data)), True),
        ("Held-out comparison", evaluated(data), False),
    ]
    shown = [(title, [o for o in outcomes if o.measured], front) for title, outcomes, front in panels]
    shown = [panel for panel in shown if panel[1]]
    if not shown:
        return None
    figure = _figure(width=5.2 * len(shown) + 0.4, height=4.2)
    for i, (title, outcomes, front) in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), i + 1)
        _plain_axes(axes)
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        scale = nines_axis(
            [
                v
                for o in outcomes
                for v in (o.attainment.mean, *(() if front else (o.attainment.low, o.attainment.high)))
            ],
            data.objective,
        )
        _draw_outcomes(axes, outcomes, scale, front)
        goal = float(scale.position(data.objective))
        axes.axhline(goal, color=LIMIT, linewidth=1.1, linestyle="--")
        axes.annotate(
            f"SLO {objective_text(data.objective)}",
            (1.0, goal),
            xycoords=("axes fraction", "data"),
            xytext=(-3, 3),
            textcoords="offset points",
            ha="right",
            color=LIMIT,
            fontsize=9,
        )
        axes.yaxis.set_major_locator(FixedLocator(list(scale.ticks)))
        axes.set_yticklabels(list(scale.labels))
        axes.set_ylim(scale.low, scale.top + 0.06 * (scale.top - scale.low))
        axes.set_xlabel("whole cost [$/day]")
        axes.set_ylabel("SLO attainment [% of requests]")
        axes.legend(frameon=False, fontsize=9, loc="lower right" if front else "center right")
    return figure


def draw_timeline(data: ReportData) -> Figure | None:
    """Load, ready replicas and p95 latency of one day for the policies that the report shows first."""
    if not data.timelines:
        return None
    shown = shown_in_timeline(data)
    names = {outcome.policy: outcome.label for outcome in evaluated(data)}
    styles = styles_of([outcome.policy for outcome in evaluated(data)] + list(data.timelines))
    figure = _figure(width=9.6, height=6.0)
    load, replicas, latency = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [0.8, 1.1, 1.1]})
    time_s, load_per_s = timeline_load(data)
    load.fill_between(time_s / 3600.0, load_per_s, color=LOAD, alpha=0.3, linewidth=0)
    load.plot(time_s / 3600.0, load_per_s, color=LOAD, linewidth=0.9)
    peaks_s = [1.3 * data.threshold_s]
    for policy in shown:
        timeline, style = data.timelines[policy], styles[policy]
        time, ready = thin_steps(timeline["time_s"], timeline["replicas_ready"], MAX_POINTS)
        label = names.get(policy, policy)
        replicas.step(time / 3600.0, ready, where="post", color=style.color, linewidth=1.5, label=_literal(label))
        time, p95_s = thin_extremes(timeline["time_s"], timeline["latency_p95_s"], MAX_POINTS)
        latency.plot(time / 3600.0, 1000.0 * p95_s, color=style.color, linewidth=1.0)
        peaks_s += [float(np.nanmax(p95_s))] if np.isfinite(p95_s).any() else []
    if max(peaks_s) > 4.0 * data.threshold_s:
        latency.set_yscale("log")
        latency.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        latency.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        latency.yaxis.set_minor_formatter(NullFormatter())
        latency.yaxis.set_minor_locator(NullLocator())
    else:
        latency.set_ylim(0.0, 1080.0 * max(peaks_s))
    latency.axhline(1000.0 * data.threshold_s, color=LIMIT, linewidth=1.1, linestyle="--")
    # Above the panel: on the line it would lie on the curve.
    latency.set_title(f"- - SLO threshold {seconds(data.threshold_s)}", loc="right", color=LIMIT, fontsize=9, pad=3)
    for axes, title in ((load, "load\n[req/s]"), (replicas, "ready replicas\n[pods]"), (latency, "p95 latency\n[ms]")):
        _plain_axes(axes)
        axes.set_ylabel(title)
    load.set_ylim(bottom=0.0)
    replicas.set_ylim(bottom=0.0)
    replicas.legend(frameon=False, fontsize=9, ncols=4, loc="upper left", bbox_to_anchor=(0.0, 1.18), borderaxespad=0.0)
    latency.set_xlabel("time since the start of the day [h]")
    _hours(latency, time_s)
    figure.align_ylabels()
    return figure


def draw_learning_curve(data: ReportData) -> Figure | None:
    """Mean episode return over environment steps and, where known, cost and SLO attainment below it."""
    panels = learning_panels(data)
    if not panels or data.learning_curve is None:
        return None
    steps = data.learning_curve["step"].to_numpy(dtype=np.float64)
    unit, word = (1e6, "millions") if np.nanmax(steps) >= 2e6 else (1e3, "thousands")
    figure = _figure(width=7.2, height=1.2 + 2.2 * len(panels))
    color = STYLES["agent"].color
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, values) in zip(rows, panels, strict=True):
        _plain_axes(axes)
        smooth = pd.Series(values).rolling(window=max(1, len(values) // 25), center=True, min_periods=1).mean()
        axes.plot(steps / unit, values, color=color, linewidth=0.8, alpha=0.35)
        axes.plot(steps / unit, smooth, color=color, linewidth=1.8)
        axes.set_ylabel(title)
    rows[-1].set_xlabel(f"environment steps [{word}]")
    return figure


def draw_decisions(data: ReportData) -> Figure | None:
    """Load and replicas of a day of decisions, and below them the margin and the error budget."""
    day = decision_day(data)
    if day is None:
        return None
    color, hours = day.style.color, day.time_s / 3600.0
    figure = _figure(width=9.6, height=6.4)
    pods, margin, budget = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [2.6, 0.9, 0.8]})
    pods.fill_between(hours, day.load, color=LOAD, alpha=0.3, linewidth=0, label="load seen")
    pods.fill_between(hours, day.low, day.high, color=color, alpha=0.28, linewidth=0, label="load provided for (90 %)")
    pods.plot(hours, day.forecast, color=color, linewidth=0.9, linestyle="--", label="forecast")
    for name, (time_s, replicas), line in (
        ("replicas chosen", day.chosen, {"color": color, "linewidth": 1.7}),
        ("replicas ready", day.ready, {"color": INK, "linewidth": 0.9, "linestyle": ":"}),
    ):
        pods.step(time_s / 3600.0, replicas, where="post", label=name, **line)
    margin.plot(day.margin[0] / 3600.0, 100.0 * day.margin[1], color=color, linewidth=1.0)
    budget.plot(day.spent[0] / 3600.0, 100.0 * day.spent[1], color=color, linewidth=1.4)
    budget.axhline(100.0, color=LIMIT, linewidth=1.1, linestyle="--")
    budget.set_title("- - all of the error budget", loc="right", color=LIMIT, fontsize=9, pad=3)
    for axes, title in ((pods, "pods"), (margin, "margin [%]"), (budget, "budget\nspent [%]")):
        _plain_axes(axes)
        axes.set_ylabel(title)
    pods.set_ylim(bottom=0.0)
    margin.set_ylim(bottom=min(0.0, 100.0 * float(np.nanmin(day.margin[1]))))
    budget.set_ylim(0.0, 108.0 * max(1.0, float(np.nanmax(day.spent[1]))))
    pods.set_title(f"A day of decisions: {day.phrase}", loc="left", fontsize=11, color=INK, pad=22)
    pods.legend(frameon=False, fontsize=9, ncols=5, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.0)
    budget.set_xlabel("time of day [h]")
    _hours(budget, day.time_s)
    figure.align_ylabels()
    return figure


PICTURES: dict[str, Callable[[ReportData], Figure | None]] = {
    "pareto.png": draw_pareto,
    "timeline.png": draw_timeline,
    "decisions.png": draw_decisions,
    "learning_curve.png": draw_learning_curve,
}


def _draw_outcomes(axes: Axes, outcomes: list[Outcome], scale: NinesAxis, front: bool) -> None:
    cost, attainment = [o.cost.mean for o in outcomes], [o.attainment.mean for o in outcomes]
    places = scale.position(attainment)
    if front:
        best = pareto_front(cost, attainment)
        axes.step([cost[i] for i in best], places[best], where="post", color=FRONT, linewidth=1.2, label="Pareto front")
        for policy in dict.fromkeys(o.policy for o in outcomes):
            mine = [i for i, o in enumerate(outcomes) if o.policy == policy]
            style = outcomes[mine[0]].style
            name = {"hpa": "HPA", "static": "Static"}.get(policy, policy)
            axes.scatter(
                [cost[i] for i in mine],
                places[mine],
                color=style.color,
                marker=style.marker,
                label=_literal(name),
                s=26,
                alpha=0.85,
                linewidths=0,
                zorder=3,
            )
        return
    for outcome, place in zip(outcomes, places, strict=True):
        low, high = scale.position([outcome.attainment.low, outcome.attainment.high])
        up_down, left_right = None, None
        if math.isfinite(low) and math.isfinite(high):
            up_down = [[max(0.0, place - low)], [max(0.0, high - place)]]
        if outcome.cost.has_interval:
            left_right = [[outcome.cost.mean - outcome.cost.low], [outcome.cost.high - outcome.cost.mean]]
        axes.errorbar(
            outcome.cost.mean,
            place,
            fmt=outcome.style.marker,
            color=outcome.style.color,
            markersize=11 if outcome.style.marker == "*" else 8,
            elinewidth=1.3,
            capsize=3,
            yerr=up_down,
            xerr=left_right,
        )
        # A marker of its own for the legend, where bars would lie over the markers of other rows.
        shape: dict[str, Any] = {
            "marker": outcome.style.marker,
            "color": outcome.style.color,
            "linestyle": "none",
            "markersize": 8,
        }
        axes.plot([], [], label=_literal(outcome.label), **shape)


def _hours(axes: Axes, time_s: np.ndarray) -> None:
    """An axis of hours without empty ends; every third one is named on a day."""
    first, last = float(time_s[0]) / 3600.0, float(time_s[-1]) / 3600.0
    axes.set_xlim(math.floor(first * 20.0) / 20.0, math.ceil(last * 20.0) / 20.0)
    if 12.0 <= last - first <= 25.0:
        axes.xaxis.set_major_locator(MultipleLocator(3.0))


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _plain_axes(axes: Axes) -> None:
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)


def _literal(text: str) -> str:
    # matplotlib reads $...$ as mathematics and hides labels that begin with an underscore.
    return f" {text}".replace("$", r"\$")
