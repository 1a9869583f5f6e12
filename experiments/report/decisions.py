"""A day of a policy's decisions: what load it saw and provided for, what it chose, and what state its error budget was in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from experiments.analysis.decisions import day_in_words
from experiments.report.data import ReportData, Style, evaluated, styles_of
from experiments.report.figures import (
    INK,
    LOAD,
    MAX_POINTS,
    axis_of,
    base_layout,
    on_clock,
    threshold_line,
    threshold_name,
)
from experiments.report.series import Floats, thin_extremes, thin_mean, thin_steps

_DAY_S = 86_400.0
_MEANS = ("load", "forecast", "low", "high")  # drawn as means over stretches; metrics that were too old leave a gap


@dataclass(frozen=True)
class DecisionDay:
    """The decisions of a report, ready to be drawn; times are of the day [s].

    Args:
        phrase: the policy inside a sentence.
        service: whose replicas are decided.
        time_s: of the means, shape (n,); `load`, `forecast`, `low`, `high` [pods] belong to it.
        chosen, ready: times and replicas [pods] where these change.
        margin: times and the pods needed over the forecast, less 1 [1].
        spent: times and how much of the error budget was spent [1].
    """

    phrase: str
    style: Style
    service: str
    time_s: Floats
    load: Floats
    forecast: Floats
    low: Floats
    high: Floats
    chosen: tuple[Floats, Floats]
    ready: tuple[Floats, Floats]
    margin: tuple[Floats, Floats]
    spent: tuple[Floats, Floats]
    sentences: tuple[str, ...]


def decision_day(data: ReportData) -> DecisionDay | None:
    """The decisions of a report thinned for a figure; None where there are none, or all of them were held."""
    decisions = data.decisions
    if decisions is None or decisions.empty or decisions["stale"].all():
        return None
    policy = str(decisions["policy"].iloc[0])
    outcomes = evaluated(data)
    phrases = {outcome.policy: outcome.phrase for outcome in outcomes}
    styles = styles_of([*(outcome.policy for outcome in outcomes), policy])
    at_s = decisions["at_s"].to_numpy(dtype=np.float64)
    time_s = at_s - _DAY_S * np.floor(at_s[0] / _DAY_S)
    known = decisions.mask(decisions["stale"].astype(bool))

    def column(name: str, of: pd.DataFrame = known) -> Floats:
        return of[name].to_numpy(dtype=np.float64)

    means = {name: thin_mean(time_s, column(name), MAX_POINTS) for name in _MEANS}
    return DecisionDay(
        phrase=phrases.get(policy, f"“{policy}”"),
        style=styles[policy],
        service=str(decisions["service"].iloc[0]),
        time_s=means["load"][0],
        **{name: values for name, (_, values) in means.items()},
        chosen=thin_steps(time_s, column("desired", decisions), MAX_POINTS),
        ready=thin_steps(time_s, column("ready", decisions), MAX_POINTS),
        margin=thin_extremes(time_s, column("margin"), MAX_POINTS),
        spent=thin_mean(time_s, column("budget_spent"), MAX_POINTS),
        sentences=tuple(day_in_words(decisions)),
    )


def decision_caption(day: DecisionDay) -> str:
    """What the figure shows, for those who see it and those who do not."""
    return (
        f"First evaluation seed, service {day.service}. Above: the load that scrapes showed (grey), what {day.phrase} "
        "provided for (band: 90 % of what the load may be when pods ordered now are ready), replicas chosen (solid) and "
        "ready (dotted). Below: replicas needed over the forecast, and how much of the error budget is spent by its own "
        "account, which sets the price of a bad request."
    )


def decision_figure(day: DecisionDay | None) -> go.Figure | None:
    """Load and replicas of a day, and below them the margin and the error budget; None without decisions."""
    if day is None:
        return None
    figure = go.Figure(layout=base_layout())
    time, color = _on_day(day.time_s), day.style.color
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "legendgroup": "band"}
    figure.add_scatter(
        x=time, y=_short(day.load), name="load seen", line={"color": LOAD, "width": 1}, mode="lines",
        fill="tozeroy", fillcolor="rgba(152, 161, 173, 0.25)", hovertemplate="%{y:.1f} pods of load seen",
    )  # fmt: skip
    figure.add_scatter(x=time, y=_short(day.low), showlegend=False, **band)
    figure.add_scatter(
        x=time, y=_short(day.high), name="load provided for (90 %)", fill="tonexty", fillcolor=_faint(color), **band
    )
    figure.add_scatter(
        x=time, y=_short(day.forecast), name="forecast", mode="lines",
        line={"color": color, "width": 1, "dash": "dash"},
        customdata=np.stack([_short(day.low), _short(day.high)], axis=-1),
        hovertemplate="%{y:.1f} forecast, %{customdata[0]:.1f} to %{customdata[1]:.1f} provided for",
    )  # fmt: skip
    for name, (at_s, pods), line in (
        ("replicas chosen", day.chosen, {"color": color, "width": 2}),
        ("replicas ready", day.ready, {"color": INK, "width": 1, "dash": "dot"}),
    ):
        step = {"line": {**line, "shape": "hv"}, "hovertemplate": f"%{{y:.0f}} {name}"}
        figure.add_scatter(x=_on_day(at_s), y=pods, name=name, mode="lines", **step)
    for name, (at_s, shares), axis, words in (
        ("margin", day.margin, "y2", "margin %{y:+.0f} %<extra></extra>"),
        ("budget", day.spent, "y3", "%{y:.0f} % of the error budget spent<extra></extra>"),
    ):
        figure.add_scatter(
            x=_on_day(at_s), y=_short(100.0 * shares), yaxis=axis, mode="lines", showlegend=False,
            line={"color": color, "width": 1.4}, hovertemplate=words, name=name,
        )  # fmt: skip
    figure.update_layout(
        height=680,
        hovermode="x unified",
        hoversubplots="axis",
        xaxis={
            **axis_of("time of day [h:min]"),
            "type": "date",
            "anchor": "y3",
            "tickformat": "%H:%M",
            "hoverformat": "%H:%M:%S",
            "showspikes": False,
        },
        yaxis={**axis_of("pods"), "domain": [0.46, 1.0], "rangemode": "tozero"},
        yaxis2={**axis_of("margin [%]"), "domain": [0.23, 0.41], "rangemode": "tozero"},
        yaxis3={**axis_of("budget spent [%]"), "domain": [0.0, 0.17], "range": [0, _top(day)]},
    )
    threshold_line(figure, "y3", 100.0)
    threshold_name(figure, "- - all of the error budget", y=1.0, yref="y3 domain")
    return figure


def _on_day(time_s: Floats) -> np.ndarray:
    return on_clock(time_s + _DAY_S)  # the second day of 1970: plotly takes numbers of four digits for years


def _top(day: DecisionDay) -> float:
    return 108.0 * max(1.0, float(np.nanmax(day.spent[1])))


def _short(values: np.ndarray) -> Any:
    return values.astype(np.float32)


def _faint(color: str) -> str:
    """The color of a band: hexadecimal in, see-through out, for light and dark ground alike."""
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.28)"
