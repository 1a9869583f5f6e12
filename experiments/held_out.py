"""Policies on held-out traffic: built by name, tuned on the traffic before it, compared with paired seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from agents.learning.evaluate import BASELINE, FIRST_SEED, EvaluateRequest, Evaluation, evaluate
from agents.learning.search import budget_days
from agents.policies.learned import LearnedPolicy
from agents.policies.registry import Choice, choice_of, policy_of, tuned_policy
from experiments.analysis.savings import Savings, savings
from experiments.analysis.summaries import measured
from experiments.store.files import write_atomically
from experiments.store.identity import digest, sources_version
from experiments.store.state import StateDir
from sim_core.engines import FLUID
from sim_core.errors import InputError
from sim_core.indicators import CLASS_INDICATORS
from sim_core.world import Lane

if TYPE_CHECKING:
    from pathlib import Path

    from agents.policies.contract import Policy
    from experiments.tracking import MlflowTracker
    from sim_core.profile import Profile
    from sim_core.workload import Trace

_DAY_S = 86_400.0
DEFAULT_STEPS = 500_000  # of a training that nothing is known of


@dataclass(frozen=True)
class HeldOut:
    """What is compared, and on what.

    Args:
        trace: the whole traffic, scaled to the profile.
        tune_start_s, tune_end_s: the part that policies may be tuned on [s]; empty where equal.
        start_s, duration_s: the held-out part [s].
        seeds: evaluation seeds of each policy.
        budget_steps: env steps of a training; a search may simulate as much as that and the training's own search.
        names: policies by name; those of `models` among them.
        models: learned policies by name: content and metadata.
        engine: that all of them are played in; they are tuned in the fluid one.
    """

    profile: Profile
    trace: Trace
    tune_start_s: float
    tune_end_s: float
    start_s: float
    duration_s: float
    seeds: int
    budget_steps: int
    names: Sequence[str]
    models: Mapping[str, tuple[bytes, dict[str, Any]]] = field(default_factory=dict)
    engine: str = FLUID

    @property
    def key(self) -> str:
        """Digest [hex, 24 digits] of everything that decides the outcome."""
        return digest(
            {
                "profile": self.profile.digest,
                "trace": self.trace.digest,
                "window_s": [self.tune_start_s, self.tune_end_s, self.start_s, self.duration_s],
                "seeds": self.seeds,
                "budget_steps": self.budget_steps,
                "names": list(self.names),
                "models": {name: digest(content.hex()) for name, (content, _) in sorted(self.models.items())},
                "own": own_sources(self.names),
                "engine": self.engine,
                "sources": sources_version(),
            }
        )

    def lanes(self) -> Iterator[tuple[Lane, float]]:
        """The worlds that every policy plays and how long [s]."""
        for seed in range(FIRST_SEED, FIRST_SEED + self.seeds):
            yield Lane(self.profile, self.trace, seed, self.start_s), self.duration_s

    def describe(self) -> dict[str, Any]:
        """The comparison as plain data, for parameters and documents."""
        return {
            "profile": self.profile.name,
            "traffic": self.trace.name,
            "trace_digest": self.trace.digest,
            "tuned_on_s": [self.tune_start_s, self.tune_end_s],
            "start_s": self.start_s,
            "duration_s": self.duration_s,
            "seeds": self.seeds,
            "policies": list(self.names),
            "engine": self.engine,
            "version": sources_version(),
        }


def compare_policies(
    held_out: HeldOut, state: StateDir, on_progress: Callable[[int, int, str], None] = lambda done, total, name: None
) -> Evaluation:
    """The evaluation, from disk when the same one was made before.

    Args:
        held_out: what is compared on what.
        state: keeps evaluations by their key.
        on_progress: told how many policies of how many are done, and what was done last.

    Raises:
        InputError: a policy has no traffic to be tuned on, or a model does not fit the profile.
    """
    file = evaluation_file(held_out, state)
    total = len(held_out.names)
    if file.exists():
        on_progress(total, total, "from an earlier run")
        return _from_plain(json.loads(file.read_text()))
    on_progress(0, total, "tuning")
    policies = build_policies(held_out)
    done = 0

    def on_policy(name: str) -> None:
        nonlocal done
        done += 1
        on_progress(done, total, name)

    request = EvaluateRequest(
        held_out.profile,
        held_out.trace,
        policies,
        held_out.start_s,
        held_out.duration_s,
        held_out.seeds,
        engine=held_out.engine,
    )
    evaluation = evaluate(request, on_policy)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(_to_plain(evaluation), default=_unwrapped).encode(), "an evaluation")
    return evaluation


def evaluation_file(held_out: HeldOut, state: StateDir) -> Path:
    """Where an evaluation is kept once it is made."""
    return state.root / "evaluations" / f"{held_out.key}.json"


def own_sources(names: Sequence[str]) -> dict[str, str]:
    """Digest of the user's sources behind each policy that comes from a module of theirs.

    Raises:
        PolicyError: one cannot be imported.
    """
    own = [choice for name in names if (choice := choice_of(name, "evaluation")).is_own]
    if not own:
        return {}
    from agents.policies.own import sources_of

    return {choice.text: sources_of(choice) for choice in own}


def track_evaluation(held_out: HeldOut, evaluation: Evaluation, tracker: MlflowTracker) -> str | None:
    """Log an evaluation to MLflow; the id of its run, or None when MLflow failed."""
    name = f"evaluation of {len(held_out.names)} policies"
    params = held_out.describe() | ({"gap_closed": evaluation.no_room} if evaluation.no_room else {})
    table = _with_classes(table_with_savings(evaluation, held_out.duration_s), evaluation)
    return tracker.log_evaluation(held_out.key, name, table, evaluation.lanes, evaluation.gap_closed, params)


def model_content(uri: str, state: StateDir) -> tuple[bytes, dict[str, Any]]:
    """Content and metadata of a model in the registry.

    Raises:
        ModelError: no such model, alias or version, or it cannot be read.
    """
    from experiments.tracking import resolve_model

    model = resolve_model(uri, state)
    return model.path.read_bytes(), model.metadata


def build_policies(held_out: HeldOut) -> list[Policy]:
    """The policies by their names, tuned where they are to be.

    Raises:
        InputError: no traffic to tune on.
        PolicyError: a policy that cannot be made.
        ModelError: a model that cannot be loaded.
    """
    choices = [choice_of(name, "evaluation") for name in held_out.names]
    if held_out.tune_end_s <= held_out.tune_start_s and (tuned := [choice.text for choice in choices if choice.tuned]):
        raise InputError(
            " and ".join(tuned), "no traffic lies before --start to be tuned on; begin later, as with --start 7d"
        )
    return [_build(choice, held_out) for choice in choices]


def _build(choice: Choice, held_out: HeldOut) -> Policy:
    if choice.text in held_out.models:
        content, metadata = held_out.models[choice.text]
        return LearnedPolicy(content, choice.text, metadata)
    if not choice.tuned:
        return policy_of(choice)
    profile = held_out.profile
    days = budget_days(held_out.budget_steps, profile.controller.sync_period_seconds)
    return tuned_policy(choice, profile, held_out.trace, held_out.tune_start_s, held_out.tune_end_s, days)


def policies_document(evaluation: Evaluation, duration_s: float) -> dict[str, dict[str, Any]]:
    """Policies of an evaluation by name: indicators with intervals, gap closed, savings against the tuned HPA, settings.

    Args:
        duration_s: of the traffic that was played [s].
    """
    names = [str(column) for column in evaluation.table.columns if f"{column}_ci95_low" in evaluation.table.columns]
    table = [{str(column): value for column, value in row.items()} for row in evaluation.table.to_dict("records")]
    classes = [{str(column): value for column, value in row.items()} for row in evaluation.classes.to_dict("records")]
    saved = savings_of(evaluation, duration_s)
    result = {}
    for plain in table:
        policy = str(plain["policy"])
        result[policy] = {
            "indicators": {name: measured(plain, name) for name in names if name != "gap_closed"},
            "gap_closed": evaluation.gap_closed.get(policy),
            "savings": {"against": BASELINE, **asdict(saved[policy])} if policy in saved else None,
            "keeps_slo": bool(plain["keeps_slo"]),
            "settings": evaluation.settings.get(policy, {}),
            "classes": {
                str(row["request_class"]): {name: measured(row, name) for name in CLASS_INDICATORS}
                for row in classes
                if row["policy"] == policy
            },
        }
    return result


def savings_of(evaluation: Evaluation, duration_s: float) -> dict[str, Savings]:
    """What each policy saves against the tuned HPA, by name; empty without one.

    Args:
        duration_s: of the traffic that was played [s].
    """
    rows = evaluation.table.set_index("policy")[["replica_hours", "cost_pods_usd", "cost_usd"]].to_dict("index")
    means = {str(policy): {str(name): float(mean) for name, mean in row.items()} for policy, row in rows.items()}
    if BASELINE not in means:
        return {}
    found = {
        name: savings(own, means[BASELINE], duration_s / _DAY_S) for name, own in means.items() if name != BASELINE
    }
    return {name: saved for name, saved in found.items() if saved is not None}


def table_with_savings(evaluation: Evaluation, duration_s: float) -> pd.DataFrame:
    """The table of an evaluation with what each policy saves, in columns such as `saved_replica_hours_share`.

    Args:
        duration_s: of the traffic that was played [s].
    """
    rows = {name: asdict(saved) for name, saved in savings_of(evaluation, duration_s).items()}
    if not rows:
        return evaluation.table
    saved = pd.DataFrame.from_dict(rows, orient="index").filter(regex="^(?!other)").add_prefix("saved_")
    return evaluation.table.join(saved, on="policy")


def _with_classes(table: pd.DataFrame, evaluation: Evaluation) -> pd.DataFrame:
    """The table with the figures of each class of requests, in columns such as `classes/checkout/slo_attainment`.

    One class alone is the whole: nothing is added.
    """
    columns: dict[str, dict[str, float]] = {}
    for (policy, name), row in evaluation.classes.groupby(["policy", "request_class"], sort=False):
        figures = row.drop(columns=["policy", "request_class", "slo_objective", "latency_threshold_s"]).iloc[0]
        columns.setdefault(str(policy), {}).update({f"classes/{name}/{key}": value for key, value in figures.items()})
    if all(len(figures) <= len(CLASS_INDICATORS) * 3 for figures in columns.values()):
        return table
    return table.join(pd.DataFrame.from_dict(columns, orient="index"), on="policy")


def _unwrapped(scalar: Any) -> Any:
    return scalar.item()  # NumPy's own numbers and truth values


def _to_plain(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "table": evaluation.table.to_dict(orient="split", index=False),
        "lanes": evaluation.lanes.to_dict(orient="split", index=False),
        "gap_closed": evaluation.gap_closed,
        "timelines": {
            policy: {name: values.tolist() for name, values in timeline.items()}
            for policy, timeline in evaluation.timelines.items()
        },
        "settings": evaluation.settings,
        "classes": evaluation.classes.to_dict(orient="split", index=False),
        "saturated": evaluation.saturated,
        "decisions": evaluation.decisions.to_dict(orient="split", index=False),
    }


def _from_plain(data: Mapping[str, Any]) -> Evaluation:
    timelines = {
        policy: {name: np.array(values, dtype=np.float64) for name, values in timeline.items()}
        for policy, timeline in data["timelines"].items()
    }
    table, lanes, classes, decisions = (
        pd.DataFrame(**data[name]) for name in ("table", "lanes", "classes", "decisions")
    )
    return Evaluation(
        table, lanes, data["gap_closed"], timelines, data["settings"], classes, data["saturated"], decisions
    )
