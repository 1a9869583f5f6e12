"""Comparison of policies on held-out traffic: the same lanes for all, seed by seed, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from agents.policies.contract import Policy, play
from agents.policies.explained import decisions_of
from agents.policies.learned import LearnedPolicy
from agents.policies.rule import RulePolicy
from sim_core.dataplane.services.graph import resolve
from sim_core.engines import FLUID
from sim_core.errors import PolicyError
from sim_core.indicators import CLASS_INDICATORS, INDICATORS, bounds_of
from sim_core.intervals import interval
from sim_core.profile import Profile
from sim_core.saturation import saturated_services
from sim_core.workload import Trace
from sim_core.world import Lane

FIRST_SEED = 1000  # of evaluations; searches and training use other seeds
TIMELINE_STEP_S = 60.0
DECISIONS_S = 86_400.0  # of which decisions are told, at most
BASELINE, OPTIMUM = "hpa-tuned", "clairvoyant"
_SAME_COST = 1e-9  # relative; what sums of floats may differ by


@dataclass(frozen=True)
class EvaluateRequest:
    """What is compared on what.

    Args:
        trace: already scaled to the profile.
        policies: with unique names.
        start_s, duration_s: the held-out part of the trace [s].
        seeds: how many; lane k has seed first_seed + k in every policy.
        engine: that the policies are played in; what they were tuned, searched or trained in is the fluid one.
    """

    profile: Profile
    trace: Trace
    policies: Sequence[Policy]
    start_s: float
    duration_s: float
    seeds: int = 10
    first_seed: int = FIRST_SEED
    engine: str = FLUID


@dataclass(frozen=True)
class Evaluation:
    """Outcome of a comparison.

    Attributes:
        table: one row a policy: `policy`, and for every indicator `NAME`, `NAME_ci95_low`, `NAME_ci95_high` (mean over
            seeds and its 95 % interval, see `sim_core/intervals.py`), `gap_closed` with its interval, `keeps_slo`, and
            `attainment_not_worse` than the tuned HPA's (NaN or None where there is no tuned HPA or clairvoyant policy to
            compare with).
        lanes: one row a policy and seed, with every indicator.
        gap_closed: by policy, see `gap_closed`; only policies that have one.
        timelines: by policy, of the first seed; see `sim_core.simulation.Simulation`.
        settings: by policy, what it was set to.
        classes: one row a policy and class of requests: `policy`, `request_class`, what was promised for it
            (`slo_objective` [1], `latency_threshold_s` [s]), and CLASS_INDICATORS with their intervals as in `table`.
        saturated: by policy, a sentence for each service that was saturated; see `sim_core.saturation`.
        decisions: of the first day and seed, of one policy that explains itself (`told_of`) and the service with most
            replicas: `policy` and `agents.policies.explained.COLUMNS`. Empty where no policy explains itself.
    """

    table: pd.DataFrame
    lanes: pd.DataFrame
    gap_closed: dict[str, dict[str, Any]]
    timelines: dict[str, dict[str, np.ndarray]]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    classes: pd.DataFrame = field(default_factory=pd.DataFrame)
    saturated: dict[str, list[str]] = field(default_factory=dict)
    decisions: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def no_room(self) -> str | None:
        """Why some or all seeds have no gap to close; see `no_room`."""
        return no_room(self.lanes)


def evaluate(request: EvaluateRequest, on_policy: Callable[[str], None] = lambda name: None) -> Evaluation:
    """Plays every policy on the same lanes.

    Args:
        on_policy: told the name of each policy when it is done.

    Raises:
        PolicyError: no policy, or two of one name.
        InputError: the part does not lie in the trace.
    """
    names = [policy.name for policy in request.policies]
    if not names or len(set(names)) < len(names):
        raise PolicyError("policies", f"must be one or more with unique names (got {', '.join(names) or 'none'})")
    seeds = [request.first_seed + k for k in range(request.seeds)]
    lanes = [Lane(request.profile, request.trace, seed, request.start_s) for seed in seeds]
    rows, classes, timelines, settings, saturated = [], [], {}, {}, {}
    for policy in request.policies:
        played = play(lanes, policy, request.duration_s, TIMELINE_STEP_S, engine=request.engine)
        assert played.timeline is not None
        timelines[policy.name] = {
            name: values if name == "time_s" else values[0] for name, values in played.timeline.items()
        }
        settings[policy.name] = dict(getattr(policy, "settings", {}))
        rows.append(played.indicators.assign(policy=policy.name, seed=seeds))
        saturated[policy.name] = saturated_services(played.services, request.profile)
        classes += _by_class(policy.name, played.classes, request.profile)
        on_policy(policy.name)
    table = pd.concat(rows, ignore_index=True)[["policy", "seed", *INDICATORS]]
    gaps = {name: gap for name in names if (gap := gap_closed(table, name)) is not None}
    summary = _summary(table, names, gaps, request.profile)
    decisions = _decisions(request, lanes[0])
    return Evaluation(summary, table, gaps, timelines, settings, pd.DataFrame(classes), saturated, decisions)


def told_of(policies: Iterable[Policy]) -> RulePolicy | LearnedPolicy | None:
    """The policy whose decisions are told: the agent trained for this, else another model, the general one, the rule."""

    def rank(policy: RulePolicy | LearnedPolicy) -> tuple[bool, bool, bool]:
        return isinstance(policy, RulePolicy), policy.name.startswith("general"), policy.name != "agent"

    explaining = [policy for policy in policies if isinstance(policy, RulePolicy | LearnedPolicy)]
    return min(explaining, key=rank, default=None)


def _decisions(request: EvaluateRequest, lane: Lane) -> pd.DataFrame:
    policy = told_of(request.policies)
    if policy is None:
        return pd.DataFrame()
    decisions = decisions_of(policy, lane, min(request.duration_s, DECISIONS_S), request.engine)
    most = decisions.groupby("service", sort=False)["desired"].mean().idxmax()
    shown = decisions[decisions["service"] == most].reset_index(drop=True)
    shown.insert(0, "policy", policy.name)
    return shown


def gap_closed(lanes: pd.DataFrame, policy: str) -> dict[str, Any] | None:
    """(cost of tuned HPA - cost of policy) / (cost of tuned HPA - clairvoyant cost), seed by seed.

    Args:
        lanes: `Evaluation.lanes`.

    Returns:
        {"mean", "ci95", "seeds"} over the seeds that have room, as many as `seeds` says; the interval is over evaluation
        seeds of this traffic and these policies: another day or another training may differ by more. None where no seed
        has room (`no_room` says so), and where there is no tuned HPA or no clairvoyant policy.
    """
    cost = _cost_by_policy(lanes)
    if policy in (BASELINE, OPTIMUM) or BASELINE not in cost or OPTIMUM not in cost:
        return None
    room = _has_room(cost)
    if not room.any():
        return None
    saved, possible = cost[BASELINE] - cost[policy], cost[BASELINE] - cost[OPTIMUM]
    closed = interval(saved[room] / possible[room])
    return {"mean": closed.mean, "ci95": [closed.low, closed.high], "seeds": int(room.sum())}


def no_room(lanes: pd.DataFrame) -> str | None:
    """Why no gap can be closed in some or all of the seeds, as on days that both spend at `minReplicas`; else None.

    Args:
        lanes: `Evaluation.lanes`.
    """
    cost = _cost_by_policy(lanes)
    if BASELINE not in cost or OPTIMUM not in cost or (room := _has_room(cost)).all():
        return None
    dearer = np.any(cost[OPTIMUM][~room] > cost[BASELINE][~room] * (1.0 + _SAME_COST))
    why = "clairvoyant costs no less than the HPA" if dearer else "HPA and clairvoyant cost the same"
    return f"no room in {(~room).sum()} of {len(room)} seeds: {why} there" if room.any() else f"no room: {why}"


def _cost_by_policy(lanes: pd.DataFrame) -> dict[str, np.ndarray]:
    """Costs of each policy in the order of its seeds, shape (n_seeds,) [USD]."""
    return {str(name): group.sort_values("seed")["cost_usd"].to_numpy() for name, group in lanes.groupby("policy")}


def _has_room(cost: dict[str, np.ndarray]) -> np.ndarray:
    """Seeds in which the clairvoyant policy is cheaper than the tuned HPA, shape (n_seeds,)."""
    return np.asarray(cost[BASELINE] - cost[OPTIMUM] > _SAME_COST * cost[BASELINE])


def _over_seeds(lanes: pd.DataFrame, indicators: Iterable[str]) -> dict[str, float]:
    """Mean of each indicator over the rows, and its 95 % interval in columns beside it."""
    found: dict[str, float] = {}
    for name in indicators:
        value = interval(lanes[name], *bounds_of(name))
        found |= {name: value.mean, f"{name}_ci95_low": value.low, f"{name}_ci95_high": value.high}
    return found


def _by_class(policy: str, classes: pd.DataFrame, profile: Profile) -> list[dict[str, Any]]:
    """Rows of `Evaluation.classes` of one policy."""
    played = {str(name): rows for name, rows in classes.groupby("request_class", sort=False)}
    return [
        {"policy": policy, "request_class": kind.name, "slo_objective": kind.objective}
        | {"latency_threshold_s": kind.latency_threshold_s}
        | _over_seeds(played[kind.name], CLASS_INDICATORS)
        for kind in resolve(profile).classes
    ]


def _summary(
    lanes: pd.DataFrame, names: Sequence[str], gaps: dict[str, dict[str, Any]], profile: Profile
) -> pd.DataFrame:
    by_policy = {name: group for name, group in lanes.groupby("policy")}
    baseline = by_policy[BASELINE]["slo_attainment"].mean() if BASELINE in by_policy else None
    rows = []
    for name in names:
        row: dict[str, Any] = {"policy": name}
        row |= _over_seeds(by_policy[name], INDICATORS)
        gap = gaps.get(name, {"mean": math.nan, "ci95": [math.nan, math.nan]})
        row |= {
            "gap_closed": gap["mean"],
            "gap_closed_ci95_low": gap["ci95"][0],
            "gap_closed_ci95_high": gap["ci95"][1],
        }
        row["keeps_slo"] = row["slo_attainment"] >= profile.slo.objective
        row["attainment_not_worse"] = None if baseline is None else row["slo_attainment"] >= baseline
        rows.append(row)
    return pd.DataFrame(rows)
