"""What a report is made of: plain data in, and one typed row for each policy or configuration out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from experiments.analysis.comparison import Best
from sim_core.engines import FLUID
from sim_core.indicators import GAP_CLOSED, HIGHER_IS_BETTER, INDICATORS

SECONDS_PER_DAY = 86_400.0
INTERVAL_SUFFIXES = ("_ci95_low", "_ci95_high")
# Shown in this order.
INDICATOR_TITLES = {indicator.name: indicator.title for indicator in (*INDICATORS.values(), GAP_CLOSED)}
PER_DAY = frozenset(indicator.name for indicator in INDICATORS.values() if indicator.per_day)
_NOT_SETTINGS = {"configuration", "policy", "configuration_key", "sweep_id", "seeds", "n_seeds", "profile", "pareto"}


@dataclass(frozen=True)
class ReportData:
    """All that a report shows, as plain data: no tracking server, cluster or simulator is needed to draw it.

    Args:
        title: headline of the page.
        profile: the profile as plain data; needs `name` and `slo: {objective [1], latency_threshold_seconds [s]}`.
        spec: the sweep specification as plain data, or None.
        traffic: `name`, `source`, `mean_per_s`, `peak_per_s`, scale, windows: shown as given.
        sweep: one row a configuration: `configuration`, `policy`, columns of settings, and for each indicator
            `<name>`, `<name>_ci95_low`, `<name>_ci95_high` over seeds; with scenarios a row in each, named in the
            column `scenario`. May be empty.
        evaluation: one row a `policy` on held-out traffic with the same indicator columns and `gap_closed` with its
            interval [1]; a text column `settings`, if any, is shown under the policy. None: nothing was held out.
        timelines: policy -> arrays of equal length: `time_s` [s], `load_per_s` [1/s], `replicas_ready`,
            `replicas_desired` [pods], `latency_p95_s` [s], `utilization` [1].
        learning_curve: `step` [env steps] and the mean episode return (`episode_return` or `rollout/ep_rew_mean`);
            columns ending in `cost_usd` or `slo_attainment` and `wall_s` [s] are shown when present.
        provenance: version, commit, seeds, digests, wall times, commands: shown as given, nested one level or more.
        recommended: what the objective of the sweep chooses, by the name in the column `configuration`; None leaves the
            choice to the SLO: the cheapest that keeps it.
        remarks: sentences about the sweep beside its table: ties, parameters without effect, the best in each scenario.
        sweep_duration_s: simulated time of one row of the sweep [s]; turns its sums into figures per day.
        evaluation_duration_s: the same for the evaluation [s].
        engine: that served the requests, by its name in `sim_core.engines`.
        classes: of the evaluation, one row a policy and class of requests; see `agents.learning.evaluate.Evaluation`.
        saturated: of the evaluation, by policy, a sentence for each service that was saturated.
        beyond: sentences on where the figures lie outside of what the fluid engine was validated for.
        decisions: of the first evaluation seed, see `agents.learning.evaluate.Evaluation`.

    Raises:
        ValueError: the profile has no SLO, a duration is not positive, or a table lacks a column that every report needs.
    """

    title: str
    profile: dict[str, Any]
    spec: dict[str, Any] | None
    traffic: dict[str, Any]
    sweep: pd.DataFrame
    evaluation: pd.DataFrame | None = None
    timelines: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    learning_curve: pd.DataFrame | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    sweep_duration_s: float = SECONDS_PER_DAY
    evaluation_duration_s: float = SECONDS_PER_DAY
    recommended: Best | None = None
    engine: str = FLUID
    beyond: tuple[str, ...] = ()
    saturated: Mapping[str, Sequence[str]] = field(default_factory=dict)
    classes: pd.DataFrame | None = None
    decisions: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        problems = [
            f"profile: slo.{key} is missing"
            for key in ("objective", "latency_threshold_seconds")
            if key not in self.profile.get("slo", {})
        ]
        for name in ("sweep_duration_s", "evaluation_duration_s"):
            if not getattr(self, name) > 0.0:
                problems.append(f"{name}: must be greater than 0 (got {getattr(self, name)})")
        tables = {"sweep": (self.sweep, ("configuration", "policy")), "evaluation": (self.evaluation, ("policy",))}
        for name, (table, labels) in tables.items():
            if table is not None and len(table):
                needed = (*labels, "cost_usd", "slo_attainment")
                problems += [f"{name}: column {column!r} is missing" for column in needed if column not in table]
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def objective(self) -> float:
        """Share of requests that the SLO asks to be good [1]."""
        return float(self.profile["slo"]["objective"])

    @property
    def threshold_s(self) -> float:
        """Latency within which a request is good [s]."""
        return float(self.profile["slo"]["latency_threshold_seconds"])


@dataclass(frozen=True)
class Style:
    """How one policy looks in every figure: colours on light and dark ground, marker (plotly, matplotlib), dash."""

    color: str
    dark_color: str
    symbol: str
    marker: str


STYLES = {
    "agent": Style("#d1495b", "#ff7b8a", "diamond", "D"),
    "hpa": Style("#1f6fb2", "#5fb0f0", "circle", "o"),
    "clairvoyant": Style("#2a9d72", "#4fcf9f", "star", "*"),
    "static": Style("#80868f", "#a3abb6", "square", "s"),
    "general": Style("#8a5fbf", "#b795e6", "triangle-up", "^"),
    "rule": Style("#b87a14", "#e3ab4c", "triangle-down", "v"),
}
_OTHER_STYLES = (
    Style("#0e8a95", "#45c4cf", "pentagon", "p"),
    Style("#a0527a", "#d98ab3", "hexagon", "h"),
    Style("#5c7a29", "#a3c26b", "cross", "P"),
    Style("#6b5b4b", "#c2ae99", "x", "X"),
)
_LABELS = {
    "agent": ("Trained agent", "the trained agent"),
    "general": ("General agent", "the general agent"),
    "rule": ("Rule", "the rule"),
    "hpa-tuned": ("Tuned HPA", "the tuned HPA"),
    "hpa": ("HPA", "the HPA"),
    "clairvoyant": ("Clairvoyant", "the clairvoyant policy"),
    "static": ("Static", "the static fleet"),
}


def role_of(policy: str) -> str:
    """`agent`, `general`, `rule`, `hpa`, `clairvoyant`, `static`, or the policy's own name when it is none of these."""
    name = policy.lower()
    if name.startswith(("models:/", "runs:/")) or (":" not in name and name.startswith(("agent", "learned", "ppo"))):
        return "agent"
    if ":" in name:  # from a user's own module, whatever that is called
        return policy
    if (alone := name.partition("(")[0]) in ("general", "rule"):
        return alone
    return next((role for role in ("hpa", "clairvoyant", "static") if name.startswith(role)), policy)


def styles_of(policies: Iterable[str]) -> dict[str, Style]:
    """A style for each policy: the role's own for the first of a role, further colours for the rest, in order."""
    styles: dict[str, Style] = {}
    used: set[str] = set()
    spare = 0
    for policy in policies:
        role = role_of(policy)
        if policy in styles:
            continue
        if role in STYLES and role not in used:
            styles[policy] = STYLES[role]
        else:
            styles[policy] = _OTHER_STYLES[spare % len(_OTHER_STYLES)]
            spare += 1
        used.add(role)
    return styles


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds and its 95 % interval; NaN where there is none (fewer than three seeds have no interval)."""

    mean: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def scaled(self, factor: float) -> Estimate:
        return Estimate(self.mean * factor, self.low * factor, self.high * factor)

    def overlaps(self, other: Estimate) -> bool:
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True, eq=False)
class Outcome:
    """One policy of the evaluation, or one configuration of the sweep, in the units that the report shows.

    `label` names it in tables, `phrase` inside a sentence; `settings` holds what was swept.
    """

    policy: str
    label: str
    phrase: str
    style: Style
    settings: Mapping[str, Any]
    indicators: Mapping[str, Estimate]

    @property
    def role(self) -> str:
        return role_of(self.policy)

    def indicator(self, name: str) -> Estimate:
        return self.indicators.get(name, Estimate(math.nan))

    @property
    def cost(self) -> Estimate:
        """Cost [$/day]."""
        return self.indicator("cost_usd")

    @property
    def attainment(self) -> Estimate:
        """Share of requests that were good [1]."""
        return self.indicator("slo_attainment")

    @property
    def measured(self) -> bool:
        return math.isfinite(self.cost.mean) and math.isfinite(self.attainment.mean)


def evaluated(data: ReportData) -> list[Outcome]:
    """Policies of the held-out evaluation, in the order given; empty when there was none."""
    if data.evaluation is None or not len(data.evaluation):
        return []
    policies = [str(policy) for policy in data.evaluation["policy"]]
    styles = styles_of(policies)
    outcomes = _outcomes(data.evaluation, data.evaluation_duration_s, styles)
    roles = [outcome.role for outcome in outcomes]
    return [_named(o) if roles.count(o.role) == 1 or o.policy in _LABELS else o for o in outcomes]


def swept(data: ReportData) -> list[Outcome]:
    """Configurations of the sweep, in the order given."""
    if not len(data.sweep):
        return []
    styles = styles_of(str(policy) for policy in data.sweep["policy"])
    outcomes = _outcomes(data.sweep, data.sweep_duration_s, styles)
    labels = [str(label) for label in data.sweep["configuration"]]
    return [replace(o, label=label, phrase=label) for o, label in zip(outcomes, labels, strict=True)]


def at_worst(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One outcome a configuration: each indicator as it is in the scenario where it is worst, NaN where one is missing.

    Args:
        outcomes: of `swept`; without scenarios they come back as they are.
    """
    if not any("scenario" in outcome.settings for outcome in outcomes):
        return list(outcomes)
    by_label: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_label.setdefault(outcome.label, []).append(outcome)
    scenarios = len({outcome.settings.get("scenario") for outcome in outcomes})
    return [_at_worst(group, scenarios) for group in by_label.values()]


def _at_worst(group: Sequence[Outcome], scenarios: int) -> Outcome:
    def worst(name: str) -> Estimate:
        estimates = [outcome.indicator(name) for outcome in group]
        known = len(group) == scenarios and all(math.isfinite(estimate.mean) for estimate in estimates)
        order = min if name in HIGHER_IS_BETTER else max
        return order(estimates, key=lambda estimate: estimate.mean) if known else Estimate(math.nan)

    settings = {**group[0].settings, "scenario": f"worst of {scenarios}"}
    return replace(group[0], settings=settings, indicators={name: worst(name) for name in group[0].indicators})


def baseline_of(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The tuned HPA, or the first HPA when none is called tuned."""
    hpas = [outcome for outcome in outcomes if outcome.role == "hpa" and outcome.measured]
    return next((o for o in hpas if "tuned" in o.policy.lower()), hpas[0] if hpas else None)


def _named(outcome: Outcome) -> Outcome:
    default = _LABELS.get(outcome.role, (outcome.label, outcome.phrase))
    label, phrase = _LABELS.get(outcome.policy.lower().replace("_", "-"), default)
    return replace(outcome, label=label, phrase=phrase)


def _outcomes(table: pd.DataFrame, duration_s: float, styles: Mapping[str, Style]) -> list[Outcome]:
    names = [str(column) for column in table.columns]
    settings = [name for name in names if _is_setting(name, names) and table[name].notna().any()]
    days = duration_s / SECONDS_PER_DAY
    rows = []
    for record in table.to_dict("records"):
        policy = str(record["policy"])
        indicators = {
            name: estimate_of(record, name).scaled(1.0 / days if name in PER_DAY else 1.0)
            for name in INDICATOR_TITLES
            if name in record
        }
        chosen = {name: record[name] for name in settings if not _is_missing(record[name])}
        rows.append(Outcome(policy, policy, f"“{policy}”", styles[policy], chosen, indicators))
    return rows


def _is_setting(name: str, names: list[str]) -> bool:
    # A numeric column with an interval beside it was measured, whatever its name; the rest was chosen.
    measured = name in INDICATOR_TITLES or name.endswith(INTERVAL_SUFFIXES) or f"{name}_ci95_low" in names
    return not measured and name not in _NOT_SETTINGS


def estimate_of(record: Mapping[Any, Any], name: str) -> Estimate:
    """An indicator of a row, with the interval in the columns beside it."""
    values = [record.get(key) for key in (name, *(f"{name}{suffix}" for suffix in INTERVAL_SUFFIXES))]
    return Estimate(*(math.nan if _is_missing(value) else float(value) for value in values))  # type: ignore[arg-type]


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float | np.floating) and not math.isfinite(value))
