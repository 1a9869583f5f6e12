"""`devops-sim evaluate`: policies on held-out traffic, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.held_out import DEFAULT_STEPS, KNOWN, HeldOut, compare_policies, model_content, policies_document
from experiments.state import StateDir
from flows.inputs import TrafficChoice, check_policies, duration_s, load_profile, overrides
from flows.terminal.progress import Progress


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


def evaluate_policies(request: EvaluationRequest) -> dict[str, Any]:
    """Compare the policies and return the document of the command.

    A search for the HPA's settings may simulate as much as the longest training of the models took.

    Raises:
        InputError: any part of the request is wrong, a model cannot be found, or a policy has nothing to be tuned on.
    """
    names = check_policies("--policies", request.policies, KNOWN)
    start_s, length_s = duration_s("--start", request.start), duration_s("--duration", request.duration)
    profile = load_profile(request.profile, overrides(request.settings))
    trace = request.traffic.load(profile, start_s, length_s)
    state = StateDir.open(request.state)
    models = {name: model_content(name, state) for name in names if name.startswith("models:")}
    trained_steps = [int((metadata.get("training") or {}).get("steps", 0)) for _, metadata in models.values()]
    budget_steps = max([*trained_steps, 0]) or DEFAULT_STEPS
    held_out = HeldOut(profile, trace, 0.0, start_s, start_s, length_s, request.seeds, budget_steps, names, models)
    with Progress() as progress:
        evaluation = compare_policies(
            held_out, state, lambda done, total, note: progress.update("evaluate", done, total, note)
        )
    return {
        "command": "evaluate",
        **held_out.describe(),
        "traffic": request.traffic.describe(trace),
        "slo": profile.slo.model_dump(mode="json"),
        "policies": policies_document(evaluation),
        "no_room": evaluation.no_room,
    }
