"""What faults do to contestants: each is played as it was tuned through the same faults, and compared with the tuned HPA.

A fault sets in half an hour into a play: in the traffic, in the profile, or in the worlds themselves. What counts is the
share of good requests in a window from there on, less that of the tuned HPA on the same day under the same draws. It is
played at the busiest time of every held-out day, and where the load rises most: there an HPA lags without any fault, and
whoever foresees the day has an advantage that is not the fault's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from agents.learning.evaluate import BASELINE, FIRST_SEED
from agents.learning.protocol import Contestant, Trial
from agents.learning.search import requests_and_bad
from agents.policies.contract import Policy, play
from sim_core.controlplane.pods import NO_USAGE, READY_FALSE, READY_TRUE
from sim_core.errors import InputError
from sim_core.intervals import interval
from sim_core.profile import Profile
from sim_core.simulation import Simulation, Worlds
from sim_core.units import format_duration
from sim_core.workload import Trace
from sim_core.world import Lane

WARM_UP_S = 1800.0  # from the beginning of a play to the fault
WINDOW_S = 1500.0  # from the beginning of a fault: 15 to 20 min beyond the end of those that end
CROWD, CROWD_S = 3.0, 600.0  # times the requests, for so long
OUTAGE_S = 300.0  # without metrics
STUCK_SHARE = 0.2  # of the ready pods
SLOWER = 2.0  # times the start-up time
_MOST_STARTUP_S = 3600.0  # that a profile may have
_CROWD_STEP_S = (
    10.0  # a crowd comes within so long: the rate of a lane runs from the middle of a step to that of the next
)
_SEARCH_STEP_S = 300.0  # between moments that a fault may set in at


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Args:
        name: in tables.
        about: for people.
        profile: that the worlds have; policies read it there, as they would read it from pods that started.
        traffic: the trace with the fault from a moment of it on [s].
        strike: what happens to the worlds at that moment.
    """

    name: str
    about: str
    profile: Callable[[Profile], Profile] = lambda profile: profile
    traffic: Callable[[Trace, float], Trace] = lambda trace, at_s: trace
    strike: Callable[[Worlds], None] = lambda worlds: None


def crowded(trace: Trace, at_s: float) -> Trace:
    """The trace with CROWD times the requests for CROWD_S from a moment on [s].

    Longer steps are cut into steps of ten seconds along the line that a lane's rate runs on.
    """
    parts = math.ceil(trace.step_s / _CROWD_STEP_S)
    step_s = trace.step_s / parts
    begins_s = np.arange(parts * len(trace.rates_per_s)) * step_s
    middles_s = (np.arange(len(trace.rates_per_s)) + 0.5) * trace.step_s
    rates = np.interp(begins_s + 0.5 * step_s, middles_s, trace.rates_per_s)
    within_s = np.minimum(begins_s + step_s, at_s + CROWD_S) - np.maximum(begins_s, at_s)
    return replace(trace, step_s=step_s, rates_per_s=rates * (1.0 + (CROWD - 1.0) * np.maximum(within_s, 0.0) / step_s))


def hide_metrics(worlds: Worlds, for_s: float = OUTAGE_S) -> None:
    """For so long [s] nothing is scraped or published, and the resource metrics API has no samples of pods.

    So metrics-server answers when no kubelet did. The first scrape afterwards tells the mean since the last one, as
    counters do.
    """
    params, state = worlds.params, worlds.state
    until = state["tick"] + np.round(for_s / params["tick_s"]).astype(np.int64)
    missed = np.maximum(0, -((state["next_scrape_tick"] - until) // params["scrape_ticks"]))
    state["next_scrape_tick"] += missed * params["scrape_ticks"]
    state["next_publish_tick"] = -1
    worlds.tables.pods["sample_m"] = worlds.tables.pods["staged_m"] = NO_USAGE


def stick_pods(worlds: Worlds) -> None:
    """A fifth of the ready pods of every service, rounded up, is not ready any more and never will be.

    As a container that is started over and over each burns what a start burns, which an HPA takes for load.
    """
    for lane in range(len(worlds)):
        services, states, all_pods = (worlds.of(lane, table) for table in ("services", "service_states", "pods"))
        for service, own in zip(services, states, strict=True):
            pods = all_pods[service["pods_first"] : service["pods_first"] + own["n_pods"]]
            ready = np.flatnonzero((pods["ready"] == READY_TRUE) & ~pods["deleting"])
            stuck = ready[: math.ceil(STUCK_SHARE * len(ready))]
            own["n_ready"] -= len(stuck)
            own["n_cold"] -= pods["cold"][stuck].sum()
            # What they burned so far is theirs: from here on ready pods alone share the CPU of their service.
            pods["cpu_core_s"][stuck] += own["ready_cpu_core_s"] - pods["cpu_mark_core_s"][stuck]
            pods["ready"][stuck], pods["cold"][stuck] = READY_FALSE, False
            pods["ready_transition_s"][stuck] = worlds.time_s[lane]
            pods["ready_s"][stuck] = pods["next_event_s"][stuck] = math.inf


def slow_starts(profile: Profile) -> Profile:
    """The profile with SLOWER times the start-up time of every service."""
    return profile.with_overrides(
        {
            f"services.{i}.lifecycle.startup_seconds": min(SLOWER * service.lifecycle.startup_seconds, _MOST_STARTUP_S)
            for i, service in enumerate(profile.services)
        }
    )


FAULTS = (
    Fault("none", "nothing goes wrong"),
    Fault("flash-crowd", f"{CROWD:g} times the requests for {format_duration(CROWD_S)}", traffic=crowded),
    Fault("no-metrics", f"no metrics for {format_duration(OUTAGE_S)}", strike=hide_metrics),
    Fault("stuck-pods", f"{STUCK_SHARE:.0%} of the ready pods are never ready again", strike=stick_pods),
    Fault("slow-starts", f"pods take {SLOWER:g} times as long to start as when policies were tuned", slow_starts),
)


BUSIEST, RISE = "busiest", "rise"
MOMENTS = {BUSIEST: "at the busiest time", RISE: "on the steepest rise"}


@dataclass(frozen=True)
class Struck:
    """What came of a contestant under all faults, in their windows.

    Attributes:
        requests, bad, pod_s: shape (n_moments, n_faults, n_trainings, n_days, n_seeds).
    """

    name: str
    requests: np.ndarray
    bad: np.ndarray
    pod_s: np.ndarray

    @property
    def attainment(self) -> np.ndarray:
        """Share of good requests, mean over trainings, shape (n_moments, n_faults, n_days, n_seeds)."""
        return np.asarray((1.0 - self.bad / np.maximum(self.requests, 1.0)).mean(axis=2))


def check_block(block_s: float) -> None:
    """Whether a block has room for a fault.

    Raises:
        InputError: it has not.
    """
    if block_s < WARM_UP_S + WINDOW_S:
        least = format_duration(WARM_UP_S + WINDOW_S)
        raise InputError("--faults", f"takes blocks of at least {least} (got {format_duration(block_s)})")


def moments_s(trial: Trial) -> dict[str, list[float]]:
    """When a fault sets in on each day, by moment of MOMENTS, in trace time [s].

    At the busiest time most requests lie in its window; on the steepest rise the load in the window is most above that of
    the warm-up.
    """
    trace, sync_s = trial.trace, trial.profile.controller.sync_period_seconds
    step_s = sync_s * max(1, round(_SEARCH_STEP_S / sync_s))
    requests = np.concatenate([[0.0], np.cumsum(trace.rates_per_s * trace.step_s)])
    ends_s = np.arange(len(requests)) * trace.step_s
    chosen: dict[str, list[float]] = {name: [] for name in MOMENTS}
    for start_s in trial.days.starts_s:
        last_s = start_s + trial.days.block_s - WINDOW_S
        at_s = np.arange(start_s + WARM_UP_S, last_s + 1e-6, step_s)
        before, until, after = (np.interp(at_s + add_s, ends_s, requests) for add_s in (-WARM_UP_S, 0.0, WINDOW_S))
        load_per_s = (after - until) / WINDOW_S
        for name, most in ((BUSIEST, load_per_s), (RISE, load_per_s - (until - before) / WARM_UP_S)):
            chosen[name].append(float(at_s[int(np.argmax(most))]))
    return chosen


def strike(contestant: Contestant, trial: Trial) -> Struck:
    """Plays a contestant, as it was tuned, through every fault at both moments of every day."""
    shape = (len(MOMENTS), len(FAULTS), contestant.trainings, len(trial.days.starts_s), trial.seeds)
    found = np.zeros((3, *shape))
    for place, at_s in enumerate(moments_s(trial).values()):
        for number, fault in enumerate(FAULTS):
            by_day = _lanes(fault, trial, at_s)
            for fit_number, fit in enumerate(contestant.fits):
                days = [fit_number] if len(contestant.fits) > 1 else list(range(len(by_day)))
                lanes = [lane for day in days for lane in by_day[day]]
                for training, policy_of_settings in enumerate(fit.policies):
                    played = struck(policy_of_settings([fit.tuned] * len(lanes)), lanes, fault, trial.threads)
                    found[:, place, number, training, days] = played.reshape(3, -1, trial.seeds)
    return Struck(contestant.name, *found)


def _lanes(fault: Fault, trial: Trial, moments_s: Sequence[float]) -> list[list[Lane]]:
    """Worlds of each day, a seed each; no two days share one, all contestants and faults do."""
    profile, lanes = fault.profile(trial.profile), []
    for day, at_s in enumerate(moments_s):
        trace, first = fault.traffic(trial.trace, at_s), FIRST_SEED + day * trial.seeds
        lanes.append([Lane(profile, trace, first + seed, at_s - WARM_UP_S) for seed in range(trial.seeds)])
    return lanes


def struck(policy: Policy, lanes: Sequence[Lane], fault: Fault, threads: int = 1) -> np.ndarray:
    """Requests, bad ones and pod-seconds in the window of a fault that sets in after WARM_UP_S, shape (3, n_lanes)."""
    before: list[np.ndarray] = []

    def at_sync(worlds: Worlds) -> None:
        if not before and worlds.time_s[0] >= WARM_UP_S - 1e-6:
            before.append(_sums(Simulation.of(worlds)))
            fault.strike(worlds)

    played = play(lanes, policy, WARM_UP_S + WINDOW_S, threads=threads, at_sync=at_sync)
    return _sums(played) - before[0]


def _sums(played: Simulation) -> np.ndarray:
    """Requests, bad ones and pod-seconds since the start, shape (3, n_lanes)."""
    return np.stack([*requests_and_bad(played), played.indicators["replica_hours"].to_numpy() * 3600.0])


def compare(outcomes: Sequence[Struck]) -> pd.DataFrame:
    """Contestants under faults beside the tuned HPA.

    Differences are paired by day and seed. A day is what is drawn: its seeds are averaged before the interval, since they
    differ less than days do.

    Returns:
        One row a contestant, moment and fault: `policy`, `moment`, `fault`, `slo_attainment` [1], `pods`, mean over the
        window; `difference` of the attainment to the tuned HPA's with `difference_ci95_low` and `difference_ci95_high`,
        and `below`, whether the whole interval lies below 0. Without a tuned HPA these are NaN and None.
    """
    baseline = next((played for played in outcomes if played.name == BASELINE), None)
    rows: list[dict[str, Any]] = []
    for played in outcomes:
        for (place, moment), (number, fault) in product(enumerate(MOMENTS), enumerate(FAULTS)):
            own = played.attainment[place, number]
            row: dict[str, Any] = {"policy": played.name, "moment": moment, "fault": fault.name}
            row |= {"slo_attainment": float(own.mean()), "pods": float(played.pod_s[place, number].mean()) / WINDOW_S}
            more = np.full(own.shape, math.nan) if baseline is None else own - baseline.attainment[place, number]
            value = interval(more.mean(axis=1))
            row |= {"difference": value.mean, "difference_ci95_low": value.low, "difference_ci95_high": value.high}
            row["below"] = None if baseline is None else bool(value.high < 0.0)
            rows.append(row)
    return pd.DataFrame(rows)
