"""`devops-sim evaluate`: policies on held-out traffic, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.policies.registry import check_made, choices_of, with_rivals
from flows.estimates import tell_time
from flows.inputs import TrafficChoice, duration_s, load_profile, overrides, warn_of, warn_of_saturation
from flows.terminal.progress import Progress
from sim_core.engines import FLUID, check_engine

if TYPE_CHECKING:
    from agents.learning.evaluate import Evaluation
    from experiments.held_out import HeldOut
    from experiments.store.state import StateDir


@dataclass(frozen=True)
class EvaluationRequest:
    """What `devops-sim evaluate` was asked; durations as written."""

    profile: str
    settings: Sequence[str]
    traffic: TrafficChoice
    policies: Sequence[str]
    seeds: int
    start: str
    duration: str
    state: Path | None
    track: bool = True
    engine: str = FLUID
    rivals: Sequence[str] = ()


def evaluate_policies(request: EvaluationRequest) -> dict[str, Any]:
    """Compare the policies, write the report and track it, and return the document of the command.

    A search for the HPA's settings may simulate as much as the longest training of the models took. What can be refused
    without the simulator is refused before it is imported.

    Raises:
        InputError: any part of the request is wrong, a model cannot be found, or a policy has nothing to be tuned on.
    """
    engine = check_engine(request.engine, "--engine")
    named = with_rivals("--rivals", request.rivals, request.policies)
    choices = choices_of("--policies", named, "evaluate")
    start_s, length_s = duration_s("--start", request.start), duration_s("--duration", request.duration)
    request.traffic.check()
    profile = load_profile(request.profile, overrides(request.settings))
    warnings = warn_of([profile])

    from experiments.analysis.summaries import request_classes
    from experiments.held_out import DEFAULT_STEPS, HeldOut, compare_policies, model_content, policies_document
    from experiments.store.state import StateDir

    names = [choice.text for choice in choices]
    trace = request.traffic.load(profile, start_s, length_s)
    check_made(choices)
    at = StateDir.at(request.state)
    models = {choice.text: model_content(choice.text, at) for choice in choices if choice.is_model}
    state = StateDir.open(request.state)  # only now: nothing is made for a request that cannot be answered
    trained_steps = [int((metadata.get("training") or {}).get("steps", 0)) for _, metadata in models.values()]
    budget_steps = max([*trained_steps, 0]) or DEFAULT_STEPS
    held_out = HeldOut(
        profile, trace, 0.0, start_s, start_s, length_s, request.seeds, budget_steps, names, models, engine
    )
    with Progress() as progress:
        tell_time(engine, held_out.lanes(), len(names), say=progress.say)
        evaluation = compare_policies(
            held_out, state, lambda done, total, note: progress.update("evaluate", done, total, note)
        )
    warnings += warn_of_saturation(evaluation.saturated)
    return {
        "command": "evaluate",
        **held_out.describe(),
        "traffic": request.traffic.describe(trace),
        "slo": profile.slo.model_dump(mode="json"),
        "classes": request_classes(profile),
        "warnings": warnings,
        "no_room": evaluation.no_room,
        "policies": policies_document(evaluation, length_s),
        **_kept(held_out, evaluation, state, request.track),
    }


def _kept(held_out: HeldOut, evaluation: Evaluation, state: StateDir, track: bool) -> dict[str, Any]:
    """The report of an evaluation, and its runs in MLflow unless nobody wants them; where both are."""
    from experiments.report import evaluation_data, write_report

    name = f"evaluation-{held_out.key[:10]}"
    data = evaluation_data(held_out, evaluation, ["devops-sim ui"])
    report = write_report(data, state.reports / f"{name}.html")
    if not track:
        return {"report": str(report), "mlflow": None, "state": str(state.root)}
    from experiments.held_out import track_evaluation
    from experiments.tracking import MlflowTracker

    tracker = MlflowTracker.open(state, held_out.profile.name)
    run_id = track_evaluation(held_out, evaluation, tracker)
    tracker.log_file(run_id, report)
    tracked = {"uri": tracker.uri, "run_id": run_id, "page": tracker.page(run_id), "warning": tracker.warning}
    return {"report": str(report), "mlflow": tracked, "state": str(state.root)}
