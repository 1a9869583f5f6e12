"""The gate before promotion: a model becomes champion by a comparison on held-out traffic, and by nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from agents.learning.evaluate import BASELINE
from agents.policies.learned import LearnedPolicy
from experiments.held_out import model_content
from experiments.tracking import CHAMPION, MlflowTracker, registered_name
from sim_core.errors import ModelError
from sim_core.intervals import interval

if TYPE_CHECKING:
    import pandas as pd

    from agents.learning.evaluate import Evaluation
    from experiments.store.state import StateDir
    from sim_core.profile import Profile

LEAST_SEEDS = 3  # of a paired comparison; fewer tell nothing about chance
AGENT = "agent"  # the model that wants to be promoted, among an evaluation's policies


@dataclass(frozen=True)
class Gate:
    """Whether a model may become champion, and on what evidence.

    Attributes:
        passed: all conditions hold.
        failures: the conditions that do not, with figures; empty when passed.
        seeds: paired seeds of the comparison.
        slo_attainment: of the model on held-out traffic, mean over seeds [1]; None: not evaluated.
        cost_differences: by rival that keeps the SLO, cost of the model less the rival's: `mean` and `ci95` [USD].
        missed_by: SLO attainment of the rivals that miss the SLO, whose costs do not count [1].
    """

    passed: bool
    failures: tuple[str, ...]
    seeds: int = 0
    slo_attainment: float | None = None
    cost_differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    missed_by: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for documents."""
        return asdict(self) | {"reason": self.reason}

    @property
    def reason(self) -> str:
        """The outcome in one line, with figures."""
        if self.failures:
            return "; ".join(self.failures)
        facts = [f"keeps the SLO with {_percent(self.slo_attainment or 0.0)}"]
        facts += [f"costs {_difference(entry)} than {name}" for name, entry in self.cost_differences.items()]
        facts += [f"{name} misses the SLO with {_percent(attained)}" for name, attained in self.missed_by.items()]
        return ", ".join(facts)

    def tags(self) -> dict[str, str]:
        """What is kept with the registered version."""
        return {"gate": "passed" if self.passed else "failed", "gate_reason": self.reason}


def not_evaluated(why: str) -> Gate:
    """The gate of a model that was compared with nothing."""
    return Gate(False, (f"not evaluated: {why}",))


def promotion_gate(evaluation: Evaluation, objective: float) -> Gate:
    """Whether the agent of an evaluation earned to be champion.

    It has to keep the SLO, and to be cheaper than each rival that keeps it: the tuned HPA, which must be among the
    policies, and the present champion. Cheaper: the 95 % interval of the paired difference lies below 0.

    Args:
        evaluation: on held-out traffic, of the policies `agent`, `hpa-tuned` and, where there is one, the champion.
        objective: of the SLO [1].
    """
    by_policy = {str(name): group.sort_values("seed") for name, group in evaluation.lanes.groupby("policy")}
    if AGENT not in by_policy:
        return not_evaluated("the agent is not among the policies of the evaluation")
    agent = by_policy[AGENT]
    failures = []
    if len(agent) < LEAST_SEEDS:
        failures.append(f"evidence: {len(agent)} paired seeds, at least {LEAST_SEEDS} are needed")
    attained = float(agent["slo_attainment"].mean())
    if attained < objective:
        failures.append(f"SLO: attains {_percent(attained)}, the objective is {_percent(objective)}")
    if BASELINE not in by_policy:
        failures.append(f"evidence: {BASELINE} is not among the policies of the evaluation")
    differences, missed_by = {}, {}
    for name, rival in by_policy.items():
        if name != BASELINE and not name.endswith(f"@{CHAMPION}"):
            continue
        rival_attained = float(rival["slo_attainment"].mean())
        if rival_attained < objective:
            missed_by[name] = rival_attained
            continue
        differences[name] = _paired_cost(agent, rival)
        if not differences[name]["ci95"][1] < 0.0:
            failures.append(f"cost: {_difference(differences[name])} than {name}; the interval must lie below 0")
    return Gate(not failures, tuple(failures), len(agent), attained, differences, missed_by)


def _paired_cost(one: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any]:
    difference = interval(one["cost_usd"].to_numpy() - other["cost_usd"].to_numpy())
    return {"mean": difference.mean, "ci95": [difference.low, difference.high]}


def _difference(entry: Mapping[str, Any]) -> str:
    """`0.42 USD less (95 % interval of the difference -0.50 to -0.34)`."""
    low, high = entry["ci95"]
    direction = "less" if entry["mean"] < 0.0 else "more"
    interval = f"95 % interval of the difference {low:+.4g} to {high:+.4g}" if math.isfinite(low) else "no interval"
    return f"{abs(entry['mean']):.4g} USD {direction} ({interval})"


def _percent(share: float) -> str:
    # Rounded down: 98.9996 % does not keep 99 %.
    return f"{math.floor(share * 1e5 + 1e-6) / 1e3:.3f} %"


def reigning_champion(
    profile: Profile, challenger: bytes, tracker: MlflowTracker, state: StateDir
) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """The registered champion as a policy, unless it is the challenger itself or cannot be compared with it.

    That is one of another profile, or of an earlier version whose observations were others: it can no longer be played.

    Returns:
        Content and metadata by its URI; empty or one entry.
    """
    if tracker.alias_version(profile.name, CHAMPION) is None:
        return {}
    name = f"models:/{registered_name(profile.name)}@{CHAMPION}"
    content, metadata = model_content(name, state)
    same_profile = (metadata.get("training") or {}).get("profile_digest") == profile.digest
    try:
        LearnedPolicy(content, name)
    except ModelError:
        return {}
    return {name: (content, metadata)} if same_profile and content != challenger else {}
