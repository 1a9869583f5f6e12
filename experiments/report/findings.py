"""What a sweep found, kept beside its points, so that its report can be made again at any time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments.agreement.validated import facts_of_report, remarks, shipped_record
from experiments.analysis.comparison import best, best_by_scenario, compare, indicators_of, scenario_words
from experiments.analysis.ties import ties, without_effect
from experiments.planning.plan import worlds_of
from experiments.planning.spec import Spec, spec_from_dict
from experiments.report.data import ReportData
from experiments.store.files import write_atomically
from experiments.store.results import ResultStore
from experiments.store.state import StateDir
from sim_core.engines import FLUID
from sim_core.errors import InputError
from sim_core.profile import Profile, load_profile, warnings_of

if TYPE_CHECKING:
    from agents.learning.evaluate import Evaluation
    from experiments.held_out import HeldOut
    from experiments.planning.plan import Plan
    from experiments.training.job import Trained

# Names under which the report knows the columns of a learning curve.
_TIES_SHOWN = 5
_CURVE = {"slo/attainment": "slo_attainment", "time/wall_s": "wall_s"}


def keep_findings(
    plan: Plan, state: StateDir, evaluation: Evaluation | None, held_out: HeldOut | None, trained: Trained | None,
    provenance: dict[str, Any], spent_s: Mapping[str, float],
) -> Path:  # fmt: skip
    """Write down what a sweep found beside its points, for `report_data`; the file.

    Args:
        spent_s: wall time of the stages that did their work in this run [s]; of the others that of an earlier run stays.
    """
    file = state.reports / f"{plan.sweep_id}.json"
    earlier = json.loads(file.read_text())["provenance"].get("wall_time_s", {}) if file.exists() else {}
    wall_time_s = earlier | {stage: round(seconds, 1) for stage, seconds in spent_s.items()}
    findings: dict[str, Any] = {
        "traffic": {
            "name": plan.trace.name,
            "mean_per_s": plan.trace.mean_per_s,
            "peak_per_s": plan.trace.peak_per_s,
            "duration_s": plan.trace.duration_s,
            "digest": plan.trace.digest,
            **{name: value for name, value in plan.spec.to_dict()["traffic"].items() if value is not None},
        },
        "evaluation": None,
        "evaluation_duration_s": held_out.duration_s if held_out else None,
        "timelines": {},
        "curve": trained.rows if trained else None,
        "provenance": provenance | {"wall_time_s": wall_time_s},
    }
    if evaluation is not None:
        findings["evaluation"] = _policies(evaluation).to_dict(orient="split", index=False)
        findings["saturated"] = evaluation.saturated
        findings["classes"] = evaluation.classes.to_dict(orient="split", index=False)
        findings["decisions"] = evaluation.decisions.to_dict(orient="split", index=False)
        findings["timelines"] = {
            policy: {name: np.asarray(values, dtype=float).tolist() for name, values in timeline.items()}
            for policy, timeline in evaluation.timelines.items()
        }
    write_atomically(file, json.dumps(findings).encode(), "the findings of a sweep")
    return file


def evaluation_data(held_out: HeldOut, evaluation: Evaluation, commands: Sequence[str]) -> ReportData:
    """All that the report of a comparison without a sweep shows.

    Args:
        commands: to open and to repeat it.
    """
    described = held_out.describe()
    trace = held_out.trace
    return ReportData(
        title="Policies on held-out traffic",
        profile=held_out.profile.to_dict(),
        spec=None,
        traffic={
            "name": trace.name,
            "mean_per_s": trace.mean_per_s,
            "peak_per_s": trace.peak_per_s,
            "duration_s": trace.duration_s,
            "digest": trace.digest,
            **{name: described[name] for name in ("tuned_on_s", "start_s")},
        },
        sweep=pd.DataFrame(),
        evaluation=_policies(evaluation),
        timelines=evaluation.timelines,
        provenance={
            "version": described["version"],
            "profile_digest": held_out.profile.digest,
            "seeds": held_out.seeds,
            "commands": list(commands),
        },
        evaluation_duration_s=held_out.duration_s,
        engine=held_out.engine,
        classes=evaluation.classes,
        saturated=evaluation.saturated,
        decisions=evaluation.decisions,
        beyond=_beyond(held_out.engine, lambda: [held_out.profile], evaluation.timelines),
    )


def _policies(evaluation: Evaluation) -> pd.DataFrame:
    settings = [_words(evaluation.settings.get(policy, {})) for policy in evaluation.table["policy"]]
    return evaluation.table.assign(settings=settings).drop(columns=["keeps_slo", "attainment_not_worse"])


def report_data(sweep_id: str, state: StateDir) -> ReportData:
    """All that the report of a sweep shows, from disk.

    Raises:
        InputError: no such sweep, or no point of it is finished.
    """
    store = ResultStore(state.results)
    manifest = store.manifest(sweep_id)
    spec = spec_from_dict(manifest["spec"], sweep_id)
    profile = load_profile(spec.profile)
    points = store.load(sweep_id)
    if points.empty:
        raise InputError(f"sweep {sweep_id}", "no point is finished yet; run the sweep again, it resumes")
    file = state.reports / f"{sweep_id}.json"
    findings = json.loads(file.read_text()) if file.exists() else {}
    table = compare(points)
    evaluation, curve, classes, decisions = (
        findings.get(name) for name in ("evaluation", "curve", "classes", "decisions")
    )
    timelines = {
        policy: {name: np.array(values) for name, values in timeline.items()}
        for policy, timeline in findings.get("timelines", {}).items()
    }
    return ReportData(
        title=f"Sweep {spec.name}",
        profile=profile.to_dict(),
        spec=manifest["spec"],
        traffic=findings.get("traffic", manifest["spec"]["traffic"]),
        sweep=_configurations(table),
        evaluation=pd.DataFrame(**evaluation) if evaluation else None,
        timelines=timelines,
        learning_curve=pd.DataFrame(curve).rename(columns=_CURVE) if curve else None,
        provenance=findings.get("provenance", {"sweep": sweep_id}),
        remarks=(*_remarks(spec, table, points, spec.limits(profile)), *of_profiles(spec, profile)),
        sweep_duration_s=float(points["duration_s"].iloc[0]),
        evaluation_duration_s=findings.get("evaluation_duration_s") or 86_400.0,
        recommended=best(table, spec.objective.minimize, spec.limits(profile)),
        engine=spec.engine,
        classes=pd.DataFrame(**classes) if classes else None,
        saturated=findings.get("saturated", {}),
        decisions=pd.DataFrame(**decisions) if decisions else None,
        beyond=_beyond(spec.engine, lambda: worlds_of(spec, profile), timelines),
    )


def _beyond(
    engine: str, worlds: Callable[[], Sequence[Profile]], timelines: Mapping[str, Mapping[str, np.ndarray]]
) -> tuple[str, ...]:
    """Where figures of the fluid engine lie outside of what it was validated for; nothing of the other engine."""
    record = shipped_record()
    if engine != FLUID or record is None:
        return ()
    return tuple(remarks(facts_of_report(worlds(), timelines), record))


def _configurations(table: pd.DataFrame) -> pd.DataFrame:
    settings = pd.DataFrame([json.loads(row) for row in table["settings"]], index=table.index)
    parameters = pd.DataFrame([json.loads(row) for row in table["parameters"]], index=table.index)
    played = [scenario_words(json.loads(row)) for row in table["scenario"]]
    scenario = pd.DataFrame({"scenario": played} if any(played) else {}, index=table.index)
    chosen = ["settings", "parameters", "scenario", "same_as"]
    plain = table.rename(columns={"label": "configuration"}).drop(columns=chosen)
    return pd.concat([plain, scenario, settings, parameters], axis=1)


def of_profiles(spec: Spec, profile: Profile) -> Iterator[str]:
    """What the profiles that were played may hold but hardly mean, each thing once."""
    for warning in dict.fromkeys(w for played in worlds_of(spec, profile) for w in warnings_of(played)):
        yield f"{warning}."


def _remarks(spec: Spec, table: pd.DataFrame, points: pd.DataFrame, limits: dict[str, float]) -> tuple[str, ...]:
    """What a reader of the sweep's table must know: the choice, its ties, scenarios, what has no effect, warnings."""
    goal = (spec.objective.minimize, limits)
    chosen = best(table, *goal)
    remarks = [f"The objective chooses {chosen.label}: {chosen.reason}."]
    if spec.scenarios:
        worst = "each of its figures as it is in the scenario where it is worst"
        remarks.append(
            f"Answer, figure and Pareto front show a configuration by {worst}; the table shows every scenario."
        )
    if chosen.ties:
        remarks.append(f"Its results are those of {'; '.join(chosen.ties)}, in every seed.")
    for entry in best_by_scenario(table, *goal):
        kept = "" if entry["feasible"] else ", which misses the constraints"
        remarks.append(f"In the scenario {scenario_words(entry['scenario'])} alone: {entry['label']}{kept}.")
    labels = dict(zip(table["configuration_key"], table["label"], strict=True))
    others = [keys for keys in ties(table) if chosen.configuration_key not in keys]
    remarks += [f"A tie: {' = '.join(labels[key] for key in keys)}." for keys in others[:_TIES_SHOWN]]
    remarks += [f"{found}." for found in without_effect(points, indicators_of(points))]
    return (*remarks, *(f"{warning}." for warning in spec.warnings()))


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )
