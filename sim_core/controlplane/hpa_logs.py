"""HorizontalPodAutoscaler: its logs, how long they have to be and how they are written.

Three logs, each a view of rows of its own: `recommendations` (RECOMMENDATION), what the metrics asked for; `up_events`
and `down_events` (EVENT), the changes of replicas in either direction. A log fills from its first row on; entries never
move, a new one takes the place of an outdated one where there is one.

Source: Kubernetes v1.28, pkg/controller/podautoscaler/horizontal.go.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from numba import njit

from sim_core.controlplane.hpa_records import NOT_SET


class LogRows(NamedTuple):
    """Rows of a lane's tables."""

    recommendations: int
    up_events: int
    down_events: int


def recommendation_log_length(hpa: Any) -> int:
    """Recommendations that are remembered at once, at most [rows].

    Enough, because a reconcile adds one entry and takes the place of one that is older than every window, if there is
    any. When it appends, all entries there are at most as old as the longest window: one a sync period, which is
    `window / period`, and one more because the first reconcile logs the current replicas beside what it recommends.
    """
    windows_s = [hpa["downscale_stabilization_window_s"]]
    if hpa["behavior_set"]:
        down_s = hpa["scale_down"]["stabilization_window_s"]
        windows_s = [hpa["scale_up"]["stabilization_window_s"], windows_s[0] if down_s == NOT_SET else down_s]
    return _syncs_within(max(windows_s), hpa) + 2


def event_log_length(hpa: Any, rules: Any) -> int:
    """Events of the direction of these rules that are remembered at once, at most [rows].

    Enough, because a sync adds at most one event, in the place of one that is older than the longest period of the
    direction's policies, if there is any; without behavior there are none.
    """
    if not hpa["behavior_set"]:
        return 0
    longest_s = max((policy["period_s"] for policy in rules["policies"][: rules["n_policies"]]), default=0.0)
    return _syncs_within(longest_s, hpa) + 1


def _syncs_within(window_s: float, hpa: Any) -> int:
    # A window that is a whole number of periods holds the entry of its far end, whichever way the quotient is rounded.
    return math.floor(window_s / hpa["sync_period_s"] * (1.0 + 1e-9))


def place_logs(hpas: Iterable[Any]) -> LogRows:
    """Gives each autoscaler of a lane rows of its own in the lane's three log tables.

    Args:
        hpas: HPA records of the lane's services; where their logs begin and how long they are is written into them.

    Returns:
        How many rows the lane needs of each table.
    """
    rows = LogRows(0, 0, 0)
    for hpa in hpas:
        lengths = LogRows(
            recommendation_log_length(hpa),
            event_log_length(hpa, hpa["scale_up"]),
            event_log_length(hpa, hpa["scale_down"]),
        )
        for name, first, length in zip(LogRows._fields, rows, lengths, strict=True):
            hpa[f"{name}_first"], hpa[f"n_{name}"] = first, length
        rows = LogRows(*(first + length for first, length in zip(rows, lengths, strict=True)))
    return rows


@njit(cache=True)
def recommendations_of(hpa, recommendations):
    """The autoscaler's view of the lane's recommendations."""
    return recommendations[hpa.recommendations_first : hpa.recommendations_first + hpa.n_recommendations]


@njit(cache=True)
def up_events_of(hpa, up_events):
    """The autoscaler's view of the lane's events of scale-up."""
    return up_events[hpa.up_events_first : hpa.up_events_first + hpa.n_up_events]


@njit(cache=True)
def down_events_of(hpa, down_events):
    """The autoscaler's view of the lane's events of scale-down."""
    return down_events[hpa.down_events_first : hpa.down_events_first + hpa.n_down_events]


@njit(cache=True)
def count_used(log):
    """Entries of a log."""
    n = 0
    while n < len(log) and log[n].used:
        n += 1
    return n


@njit(cache=True)
def free_slot(log, outdated):
    """Where the next entry goes: row `outdated` unless it is negative, else the end, else over the oldest entry.

    Args:
        log: of at least one row.
    """
    if outdated >= 0:
        return outdated
    n = count_used(log)
    if n < len(log):
        return n
    oldest = 0
    for index in range(1, n):
        if log[index].time_s < log[oldest].time_s:
            oldest = index
    return oldest


@njit(cache=True)
def log_recommendation(recommendations, outdated, replicas, now_s):
    """Writes a recommendation over an outdated one, or behind the others; a log without rows stays empty."""
    if len(recommendations) == 0:
        return
    entry = recommendations[free_slot(recommendations, outdated)]
    entry.time_s = now_s
    entry.replicas = replicas
    entry.used = True


@njit(cache=True)
def log_first_recommendation(state, recommendations, current, now_s):
    """Begins the log with the current replicas, once: a controller that has just started does not shrink at once."""
    if not state.has_log:
        state.has_log = True
        log_recommendation(recommendations, -1, current, now_s)


@njit(cache=True)
def store_event(hpa, events, rules, change, now_s):
    """Remembers a change of replicas; events older than the longest policy period give their place away.

    A log without rows stays empty.
    """
    if not hpa.behavior_set or len(events) == 0:
        return
    longest_s = 0.0
    for index in range(rules.n_policies):
        longest_s = max(longest_s, rules.policies[index].period_s)
    outdated = -1
    for index in range(count_used(events)):
        event = events[index]
        if now_s - event.time_s > longest_s:
            event.outdated = True
        if event.outdated:
            outdated = index
    event = events[free_slot(events, outdated)]
    event.time_s = now_s
    event.change = abs(change)
    event.used = True
    event.outdated = False


@njit(cache=True)
def change_in_period(events, period_s, now_s):
    """Sum of the changes that are strictly younger than the period [pods]."""
    change = 0
    for index in range(count_used(events)):
        if now_s - events[index].time_s < period_s:
            change += events[index].change
    return change
