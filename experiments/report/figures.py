"""The figures of a report as plotly figures: light colours here; the page swaps them when the reader's screen is dark."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from experiments.analysis.amounts import attained, number, objective_text, seconds, usd
from experiments.report.data import (
    STYLES,
    Estimate,
    Outcome,
    ReportData,
    Style,
    at_worst,
    baseline_of,
    evaluated,
    styles_of,
    swept,
)
from experiments.report.series import NinesAxis, nines_axis, pareto_front, thin_extremes, thin_mean, thin_steps
from experiments.report.words import cheapest_that_keeps, interval_words, slo_status, worded

INK, MUTED, GRID, FRONT, LOAD, LIMIT = "#20252c", "#5d6672", "#e4e7eb", "#49515c", "#98a1ad", "#b3261e"
_DARK_INK = {INK: "#e6e9ee", MUTED: "#a2abb8", GRID: "#2e353f", FRONT: "#c3cad4", LOAD: "#76808d", LIMIT: "#ff8a80"}
_SURFACE, _DARK_SURFACE = "#ffffff", "#191d23"
MAX_POINTS = 1_500
_RETURN_COLUMNS = ("episode_return", "rollout/ep_rew_mean", "ep_rew_mean")


def dark_colors(data: ReportData) -> dict[str, str]:
    """Light colour -> the colour that takes its place on dark ground, for all that the figures use."""
    names = [o.policy for o in evaluated(data)] + [o.policy for o in swept(data)] + list(data.timelines)
    return dark_colors_of(styles_of(names).values())


def dark_colors_of(used: Iterable[Style]) -> dict[str, str]:
    """The same for the styles of some policies."""
    styles = [*STYLES.values(), *used]
    return {**_DARK_INK, _SURFACE: _DARK_SURFACE, **{style.color: style.dark_color for style in styles}}


def comparison_figure(data: ReportData) -> go.Figure | None:
    """Cost against SLO attainment of the evaluated policies with their intervals, or None without evaluation."""
    outcomes = [outcome for outcome in evaluated(data) if outcome.measured]
    if not outcomes:
        return None
    axis = nines_axis(_attainments(outcomes), data.objective)
    figure = cost_figure(axis, data.objective)
    for outcome in outcomes:
        mean, low, high = (float(place) for place in axis.position([_values(outcome.attainment)])[0])
        figure.add_scatter(
            x=[outcome.cost.mean],
            y=axis.position([outcome.attainment.mean]),
            error_x=_error(outcome.cost.mean, outcome.cost.low, outcome.cost.high, outcome.style),
            error_y=_error(mean, low, high, outcome.style),
            mode="markers",
            name=safe(outcome.label),
            marker={"color": outcome.style.color, "symbol": outcome.style.symbol, "size": 13},
            customdata=[_hover(outcome, data.objective)],
            hovertemplate="%{customdata}<extra></extra>",
        )
    return figure


def sweep_figure(data: ReportData) -> go.Figure | None:
    """Cost against SLO attainment of all swept configurations with the Pareto front, or None for an empty sweep."""
    outcomes = [outcome for outcome in at_worst(swept(data)) if outcome.measured]
    if not outcomes:
        return None
    axis = nines_axis([outcome.attainment.mean for outcome in outcomes], data.objective)
    figure = cost_figure(axis, data.objective)
    places = axis.position([outcome.attainment.mean for outcome in outcomes])
    front = pareto_front([o.cost.mean for o in outcomes], [o.attainment.mean for o in outcomes])
    figure.add_scatter(
        x=[outcomes[i].cost.mean for i in front],
        y=places[front],
        mode="lines",
        name="Pareto front",
        line={"color": FRONT, "width": 1.5, "shape": "hv"},
        hoverinfo="skip",
    )
    for policy in dict.fromkeys(outcome.policy for outcome in outcomes):
        mine = [i for i, outcome in enumerate(outcomes) if outcome.policy == policy]
        style = outcomes[mine[0]].style
        figure.add_scatter(
            x=[outcomes[i].cost.mean for i in mine],
            y=places[mine],
            mode="markers",
            name=safe({"hpa": "HPA", "static": "Static"}.get(policy, policy)),
            marker={"color": style.color, "symbol": style.symbol, "size": 8, "opacity": 0.8},
            customdata=[_hover(outcomes[i], data.objective) for i in mine],
            hovertemplate="%{customdata}<extra></extra>",
        )
    best = cheapest_that_keeps(outcomes, data.objective)
    if best is not None:
        figure.add_scatter(
            x=[best.cost.mean],
            y=axis.position([best.attainment.mean]),
            mode="markers",
            name="cheapest that keeps the SLO",
            marker={"color": INK, "symbol": "circle-open", "size": 17, "line": {"width": 2}},
            hoverinfo="skip",
        )
    return figure


def timeline_figure(data: ReportData) -> go.Figure | None:
    """Load, replicas and p95 latency of one day for each policy, or None without timelines."""
    if not data.timelines:
        return None
    figure = go.Figure(layout=base_layout())
    names, shown = _timeline_names(data), shown_in_timeline(data)
    styles = _timeline_styles(data)
    time_s, load_per_s = timeline_load(data)
    figure.add_scatter(
        x=on_clock(time_s),
        y=load_per_s.astype(np.float32),
        name="load",
        line={"color": LOAD, "width": 1},
        fill="tozeroy",
        fillcolor="rgba(152, 161, 173, 0.25)",
        hovertemplate="%{y:.0f} req/s",
        yaxis="y",
        showlegend=False,
    )
    latencies = [np.asarray(timeline["latency_p95_s"]) for timeline in data.timelines.values()]
    for policy in sorted(data.timelines, key=lambda name: name in shown):
        timeline = data.timelines[policy]
        common = {
            "name": safe(names[policy]),
            "legendgroup": policy,
            "visible": True if policy in shown else "legendonly",
        }
        line = {"color": styles[policy].color, "width": 1.8}
        time, ready = thin_steps(timeline["time_s"], timeline["replicas_ready"], MAX_POINTS)
        pods = {"line": {**line, "shape": "hv"}, "hovertemplate": "%{y:.0f} ready", "yaxis": "y2"}
        figure.add_scatter(x=on_clock(time), y=ready, mode="lines", **pods, **common)
        time, p95_s = thin_extremes(timeline["time_s"], timeline["latency_p95_s"], MAX_POINTS)
        wait = {"line": {**line, "width": 1.4}, "hovertemplate": "p95 %{y:.0f} ms", "yaxis": "y3", "showlegend": False}
        figure.add_scatter(x=on_clock(time), y=(1000.0 * p95_s).astype(np.float32), mode="lines", **wait, **common)
    _add_desired(figure, data, shown, styles)
    _timeline_axes(figure, time_s, load_per_s, np.concatenate(latencies), data.threshold_s)
    return figure


def learning_figure(data: ReportData) -> go.Figure | None:
    """The learning curve: mean episode return and, where known, cost and SLO attainment over env steps; or None."""
    panels = learning_panels(data)
    if not panels or data.learning_curve is None:
        return None
    figure = go.Figure(layout=base_layout())
    steps = data.learning_curve["step"].to_numpy(dtype=np.float64)
    wall_s = data.learning_curve.get("wall_s", pd.Series(np.full(len(steps), np.nan))).to_numpy(dtype=np.float64)
    after = [f"after {seconds(wall)}" if math.isfinite(wall) else "" for wall in wall_s]
    color, height = STYLES["agent"].color, 1.0 / len(panels)
    for i, (title, values) in enumerate(panels):
        axis = "y" if i == 0 else f"y{i + 1}"
        smooth = pd.Series(values).rolling(window=max(1, len(values) // 25), center=True, min_periods=1).mean()
        raw = {"line": {"color": color, "width": 1}, "opacity": 0.35, "hoverinfo": "skip"}
        figure.add_scatter(x=steps, y=values.astype(np.float32), mode="lines", yaxis=axis, **raw)
        figure.add_scatter(
            x=steps,
            y=smooth.to_numpy(dtype=np.float32),
            mode="lines",
            line={"color": color, "width": 2.2},
            customdata=after,
            hovertemplate="%{y:.4~g} at %{x:.3s} steps<br>%{customdata}<extra></extra>",
            yaxis=axis,
        )
        top = 1.0 - i * height
        domain = [top - height + (0.07 if i < len(panels) - 1 else 0.0), top]
        figure.update_layout({f"yaxis{axis[1:]}": {**axis_of(title), "domain": domain}})
    figure.update_layout(
        showlegend=False,
        height=120 + 210 * len(panels),
        hovermode="closest",
        xaxis={
            **axis_of("environment steps"),
            "anchor": f"y{len(panels)}" if len(panels) > 1 else "y",
            "tickformat": "~s",
        },
    )
    return figure


def learning_panels(data: ReportData) -> list[tuple[str, np.ndarray]]:
    """Axis title and values of each panel of the learning curve; empty when there is nothing to draw."""
    curve = data.learning_curve
    if curve is None or "step" not in curve or not len(curve):
        return []
    columns = [str(column) for column in curve.columns]
    found = [
        ("mean episode return", next((name for name in _RETURN_COLUMNS if name in columns), None)),
        ("cost [$]", next((name for name in columns if name.endswith(("cost_usd", "cost_usd_per_day"))), None)),
        ("SLO attainment [%]", next((name for name in columns if name.endswith("slo_attainment")), None)),
    ]
    panels = [(title, curve[name].to_numpy(dtype=np.float64)) for title, name in found if name is not None]
    scaled = [(title, 100.0 * values if "%" in title else values) for title, values in panels]
    return [(title, values) for title, values in scaled if np.isfinite(values).any()]


def shown_in_timeline(data: ReportData) -> list[str]:
    """Policies drawn from the start: the baseline HPA and trained agents, where there are none the general one, else the
    rule; all when there is none of these."""
    outcomes = {outcome.policy: outcome for outcome in evaluated(data)}
    baseline = baseline_of(outcomes.values())
    hpas = [policy for policy in data.timelines if policy.lower().startswith("hpa")]
    chosen = baseline.policy if baseline is not None and baseline.policy in data.timelines else next(iter(hpas), None)
    styles = _timeline_styles(data)
    by_role = [
        [policy for policy in data.timelines if styles[policy] is STYLES[role]] for role in ("agent", "general", "rule")
    ]
    agents = next(filter(None, by_role), [])
    return [policy for policy in data.timelines if policy in agents or policy == chosen] or list(data.timelines)


def timeline_load(data: ReportData) -> tuple[np.ndarray, np.ndarray]:
    """The offered load of the day, means over stretches: times [s] and load [1/s], shape (n,)."""
    first = data.timelines[shown_in_timeline(data)[0]]
    return thin_mean(first["time_s"], first["load_per_s"], MAX_POINTS)


def _timeline_names(data: ReportData) -> dict[str, str]:
    labels = {outcome.policy: outcome.label for outcome in evaluated(data)}
    return {policy: labels.get(policy, policy) for policy in data.timelines}


def _timeline_styles(data: ReportData) -> dict[str, Style]:
    return styles_of([outcome.policy for outcome in evaluated(data)] + list(data.timelines))


def _add_desired(figure: go.Figure, data: ReportData, shown: Sequence[str], styles: dict[str, Style]) -> None:
    first = True
    for policy in shown:
        timeline = data.timelines[policy]
        if "replicas_desired" not in timeline:
            continue
        time, desired = thin_steps(timeline["time_s"], timeline["replicas_desired"], MAX_POINTS)
        figure.add_scatter(
            x=on_clock(time),
            y=desired,
            mode="lines",
            name="desired (dotted)",
            legendgroup="desired replicas",
            showlegend=first,
            visible="legendonly",
            line={"color": styles[policy].color, "width": 1.2, "shape": "hv", "dash": "dot"},
            hovertemplate="%{y:.0f} desired",
            yaxis="y2",
        )
        first = False


def _timeline_axes(
    figure: go.Figure, time_s: np.ndarray, load_per_s: np.ndarray, p95_s: np.ndarray, threshold_s: float
) -> None:
    finite = p95_s[np.isfinite(p95_s) & (p95_s > 0.0)]
    wide = finite.size > 0 and finite.max() > 4.0 * threshold_s
    spread = [1000.0 * threshold_s, *(1000.0 * finite[[finite.argmin(), finite.argmax()]] if finite.size else [])]
    within = [math.log10(min(spread)) - 0.05, math.log10(max(spread)) + 0.1] if wide else [0, 1.08 * max(spread)]
    peak = float(np.nanmax(load_per_s)) if np.isfinite(load_per_s).any() else 1.0
    one_day = time_s.size == 0 or time_s[-1] - time_s[0] <= 90_000.0
    figure.update_layout(
        height=640,
        hovermode="x unified",
        hoversubplots="axis",
        xaxis={
            **axis_of("time since the start of the day [h:min]" if one_day else "time since the start [day h:min]"),
            "type": "date",
            "anchor": "y3",
            "tickformat": "%H:%M" if one_day else "%-j d %H:%M",
            "hoverformat": "%H:%M:%S" if one_day else "day %-j, %H:%M",
            "showspikes": False,
        },
        yaxis={**axis_of("load [req/s]"), "domain": [0.76, 1.0], "range": [0, 1.08 * peak]},
        yaxis2={**axis_of("ready replicas"), "domain": [0.38, 0.71], "rangemode": "tozero"},
        yaxis3={
            **axis_of("p95 latency [ms]"),
            "domain": [0.0, 0.33],
            "type": "log" if wide else "linear",
            "range": within,
        },
    )
    if wide:
        figure.update_yaxes(dtick="D2", tickformat="~r", selector={"type": "log"})
    threshold_line(figure, "y3", 1000.0 * threshold_s)
    # Above the panel: on the line it would lie on the curve, which mostly runs near the threshold when it matters.
    threshold_name(figure, f"- - SLO threshold {seconds(threshold_s)}", y=1.0, yref="y3 domain")


def threshold_line(figure: go.Figure, axis: str, value: float) -> None:
    line = {"color": LIMIT, "width": 1.3, "dash": "dash"}
    figure.add_shape(type="line", x0=0, x1=1, y0=value, y1=value, line=line, xref="x domain", yref=axis)


def threshold_name(figure: go.Figure, text: str, y: float, yref: str) -> None:
    font = {"color": LIMIT, "size": 12}
    figure.add_annotation(
        x=1, y=y, text=text, showarrow=False, xanchor="right", yanchor="bottom", font=font, xref="x domain", yref=yref
    )


def on_clock(time_s: np.ndarray) -> np.ndarray:
    return 1000.0 * time_s  # plotly's date axis counts milliseconds


def cost_figure(axis: NinesAxis, objective: float, title: str = "whole cost [$/day]") -> go.Figure:
    """Empty axes for cost against SLO attainment, with the line of the objective [1]."""
    figure = go.Figure(layout=base_layout())
    figure.update_layout(
        height=430,
        hovermode="closest",
        xaxis={**axis_of(title), "tickprefix": "$"},
        yaxis={
            **axis_of("SLO attainment [% of requests, scale of nines]"),
            "tickvals": axis.ticks,
            "ticktext": axis.labels,
            "range": [axis.low, axis.top + 0.06 * (axis.top - axis.low)],
        },
    )
    goal = float(axis.position(objective))
    threshold_line(figure, "y", goal)
    threshold_name(figure, f"SLO {objective_text(objective)}", y=goal, yref="y")
    return figure


def base_layout() -> dict[str, Any]:
    return {
        "template": None,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 68, "r": 14, "t": 12, "b": 52},
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": MUTED},
        "modebar": {"orientation": "v", "bgcolor": "rgba(0,0,0,0)"},  # beside the legend, which it would cover
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"color": INK},
        },
        "hoverlabel": {"bgcolor": _SURFACE, "bordercolor": GRID, "font": {"color": INK, "size": 12}, "align": "left"},
        "uirevision": "keep",
    }


def axis_of(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "automargin": True,
    }


def _error(mean: float, low: float, high: float, style: Style) -> dict[str, Any]:
    if not (math.isfinite(low) and math.isfinite(high)):
        return {"visible": False}
    spread = {"array": [max(0.0, high - mean)], "arrayminus": [max(0.0, mean - low)]}
    return {"type": "data", "symmetric": False, "color": style.color, "thickness": 1.6, "width": 5, **spread}


def _values(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.mean, estimate.low, estimate.high


def _attainments(outcomes: Sequence[Outcome]) -> list[float]:
    return [value for outcome in outcomes for value in _values(outcome.attainment)]


def _hover(outcome: Outcome, objective: float) -> str:
    lines = [f"<b>{safe(outcome.label)}</b>"]
    lines += [f"{safe(name)}: {safe(setting_words(value))}" for name, value in outcome.settings.items()]
    lines.append(f"cost {usd(outcome.cost.mean)} a day{_bracket('cost_usd', outcome.cost, objective)}")
    if math.isfinite(outcome.indicator("cost_pods_usd").mean):
        lines.append(f"of that {usd(outcome.indicator('cost_pods_usd').mean)} for pods")
    reached = f"SLO attainment {attained(outcome.attainment.mean, objective)}"
    lines.append(
        f"{reached}{_bracket('slo_attainment', outcome.attainment, objective)}: {slo_status(outcome, objective)[1]}"
    )
    if math.isfinite(outcome.indicator("latency_p95_s").mean):
        lines.append(f"p95 latency {worded('latency_p95_s', outcome.indicator('latency_p95_s').mean, objective)}")
    return "<br>".join(lines)


def _bracket(name: str, estimate: Estimate, objective: float) -> str:
    words = interval_words(name, estimate, objective)
    return f" ({words})" if words else ""


def setting_words(value: Any) -> str:
    """A swept setting as text: whole numbers without a point, others with three digits, the rest as they are."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return str(value)
    return str(int(value)) if float(value).is_integer() else number(float(value))


def safe(text: str) -> str:
    """Text that plotly shows as it is: its labels understand a few HTML tags."""
    return html.escape(text, quote=False)
