"""`devops-sim evaluate`: policies on held-out traffic, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.policies.registry import check_made, choices_of
from flows.inputs import TrafficChoice, duration_s, load_profile, overrides
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

    A search for the HPA's settings may simulate as much as the longest training of the models took. What can be refused
    without the simulator is refused before it is imported.

    Raises:
        InputError: any part of the request is wrong, a model cannot be found, or a policy has nothing to be tuned on.
    """
    choices = choices_of("--policies", request.policies, "evaluate")
    start_s, length_s = duration_s("--start", request.start), duration_s("--duration", request.duration)
    request.traffic.check()
    profile = load_profile(request.profile, overrides(request.settings))

    from experiments.held_out import DEFAULT_STEPS, HeldOut, compare_policies, model_content, policies_document
    from experiments.state import StateDir

    names = [choice.text for choice in choices]
    trace = request.traffic.load(profile, start_s, length_s)
    check_made(choices)
    state = StateDir.open(request.state)
    models = {choice.text: model_content(choice.text, state) for choice in choices if choice.is_model}
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
    }
