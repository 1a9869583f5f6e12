"""`devops-sim run`: one profile, one policy or several side by side, some seeds, played in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.policies.registry import Choice, choices_of
from flows.inputs import TrafficChoice, check_engine, duration_s, load_profile, overrides
from sim_core.errors import PolicyError

if TYPE_CHECKING:
    from agents.policies.contract import Policy


@dataclass(frozen=True)
class RunRequest:
    """What `devops-sim run` was asked; durations as written."""

    profile: str
    settings: list[str]
    traffic: TrafficChoice
    policies: Sequence[str]
    replicas: int | None
    target_utilization_pct: int | None
    engine: str
    seed: int
    lanes: int
    start: str
    duration: str
    state: Path | None


def run_lanes(request: RunRequest) -> dict[str, Any]:
    """Play the lanes under each policy and return the document of the command.

    It holds, for each policy, the indicators with intervals over the seeds, and each lane; all play the same lanes. What
    can be refused without the simulator is refused before it is imported.

    Raises:
        InputError: any part of the request is wrong.
    """
    engine = check_engine(request.engine)
    choices = chosen(request)
    start_s, length_s = duration_s("--start", request.start), duration_s("--duration", request.duration)
    request.traffic.check()
    profile = load_profile(request.profile, overrides(request.settings))

    from agents.policies.contract import play
    from experiments.summaries import over_seeds
    from sim_core.world import Lane

    policies = [made(choice, request.state) for choice in choices]
    trace = request.traffic.load(profile, start_s, length_s)
    seeds = list(range(request.seed, request.seed + request.lanes))
    lanes = [Lane(profile, trace, seed, start_s) for seed in seeds]
    played = {}
    for policy in policies:
        table = play(lanes, policy, length_s).indicators
        played[policy.name] = {
            "settings": getattr(policy, "settings", {}),
            "indicators": over_seeds(table),
            "lanes": [{"seed": seed, **row} for seed, row in zip(seeds, table.to_dict("records"), strict=True)],
        }
    return {
        "command": "run",
        "profile": profile.name,
        "engine": engine,
        "seeds": seeds,
        "start_s": start_s,
        "duration_s": length_s,
        "traffic": request.traffic.describe(trace),
        "slo": profile.slo.model_dump(mode="json"),
        "policies": played,
    }


def chosen(request: RunRequest) -> list[Choice]:
    """The policies that the request names, each with the options that are settings of it.

    Raises:
        PolicyError: unknown; a setting that a policy needs is missing; or an option that is a setting of none of them.
    """
    choices = choices_of("--policy", request.policies, "run")
    given = {"replicas": request.replicas, "target_cpu_utilization_pct": request.target_utilization_pct}
    options = {"replicas": "--replicas", "target_cpu_utilization_pct": "--target-utilization"}
    problems = []
    for setting, value in given.items():
        if value is None:
            continue
        takers = [
            choice.entry is not None and setting in choice.entry.settings and setting not in choice.settings
            for choice in choices
        ]
        choices = [
            choice.with_settings({setting: value}) if takes else choice
            for choice, takes in zip(choices, takers, strict=True)
        ]
        if not any(takers):
            names = ", ".join(choice.text for choice in choices)
            problems.append(f"{options[setting]} {value}: no policy takes it (given: {names})")
    for choice in choices:
        missing = [name for name in (choice.entry.required if choice.entry else ()) if name not in choice.settings]
        problems += [
            f"the policy {choice.text} needs {options[name]} N, or {choice.name}({name}=N)" for name in missing
        ]
    if problems:
        raise PolicyError("--policy", problems)
    return choices


def made(choice: Choice, folder: Path | None) -> Policy:
    """The policy that was chosen.

    Raises:
        PolicyError: it cannot be made with these settings.
        ModelError: no such model.
    """
    from agents.policies.registry import policy_of

    if not choice.is_model:
        return policy_of(choice)
    from agents.policies.learned import LearnedPolicy
    from experiments.held_out import model_content
    from experiments.state import StateDir

    content, metadata = model_content(choice.name, StateDir.open(folder))
    return LearnedPolicy(content, choice.text, metadata)
