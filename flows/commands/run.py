"""`devops-sim run`: one profile, one policy, some seeds, played in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.inputs import TrafficChoice, check_engine, check_policies, duration_s, load_profile, overrides
from sim_core.errors import PolicyError

if TYPE_CHECKING:
    from agents.policies.contract import Policy

RUN_POLICIES = ("static", "hpa", "clairvoyant")


@dataclass(frozen=True)
class RunRequest:
    """What `devops-sim run` was asked; durations as written."""

    profile: str
    settings: list[str]
    traffic: TrafficChoice
    policy: str
    replicas: int | None
    target_utilization_pct: int | None
    engine: str
    seed: int
    lanes: int
    start: str
    duration: str
    state: Path | None


def run_lanes(request: RunRequest) -> dict[str, Any]:
    """Play the lanes and return the document of the command: indicators with intervals over the seeds, and each lane.

    Raises:
        InputError: any part of the request is wrong.
    """
    from agents.policies.contract import play
    from experiments.summaries import over_seeds
    from sim_core.world import Lane

    engine = check_engine(request.engine)
    policy = policy_of(request)
    start_s, length_s = duration_s("--start", request.start), duration_s("--duration", request.duration)
    profile = load_profile(request.profile, overrides(request.settings))
    trace = request.traffic.load(profile, start_s, length_s)
    seeds = list(range(request.seed, request.seed + request.lanes))
    lanes = [Lane(profile, trace, seed, start_s) for seed in seeds]
    table = play(lanes, policy, length_s).indicators
    return {
        "command": "run",
        "profile": profile.name,
        "policy": request.policy,
        "settings": getattr(policy, "settings", {}),
        "engine": engine,
        "seeds": seeds,
        "start_s": start_s,
        "duration_s": length_s,
        "traffic": request.traffic.describe(trace),
        "slo": profile.slo.model_dump(mode="json"),
        "indicators": over_seeds(table),
        "lanes": [{"seed": seed, **row} for seed, row in zip(seeds, table.to_dict("records"), strict=True)],
    }


def policy_of(request: RunRequest) -> Policy:
    """The policy that the request names.

    Raises:
        PolicyError: unknown; a setting that the policy needs is missing; or one that it does not have is given.
        ModelError: no such model, or not one for this profile.
    """
    name = check_policies("--policy", [request.policy], RUN_POLICIES)[0]
    problems = []
    if name == "static" and request.replicas is None:
        problems.append("the static policy needs --replicas N")
    if name != "static" and request.replicas is not None:
        problems.append(f"--replicas is a setting of the static policy, not of {name}")
    if name != "hpa" and request.target_utilization_pct is not None:
        problems.append(f"--target-utilization is a setting of the HPA, not of {name}")
    if problems:
        raise PolicyError(f"--policy {name}", problems)
    return _build(name, request)


def _build(name: str, request: RunRequest) -> Policy:
    from agents.policies.clairvoyant import ClairvoyantPolicy
    from agents.policies.hpa import HpaPolicy
    from agents.policies.static import StaticPolicy

    if request.replicas is not None:
        return StaticPolicy(request.replicas)
    if name == "hpa":
        target = request.target_utilization_pct
        return HpaPolicy() if target is None else HpaPolicy(target_cpu_utilization_pct=target)
    if name == "clairvoyant":
        return ClairvoyantPolicy()
    from agents.policies.learned import LearnedPolicy
    from experiments.held_out import model_content
    from experiments.state import StateDir

    content, metadata = model_content(name, StateDir.at(request.state))
    return LearnedPolicy(content, name, metadata)
