"""`devops-sim run`: one profile, one policy, some seeds, played in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.inputs import TrafficChoice, check_engine, check_policies, duration_s, load_profile, overrides
from sim_core.errors import InputError, PolicyError

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
    timeline: Path | None = None
    timeline_step: str = "60s"


def run_lanes(request: RunRequest) -> dict[str, Any]:
    """Play the lanes and return the document of the command: indicators with intervals over the seeds, and each lane.

    With `timeline`, the time series of every lane is written there; a place that cannot be is refused before.

    Raises:
        InputError: any part of the request is wrong.
    """
    from agents.policies.contract import play
    from experiments.summaries import over_seeds, services_over_seeds
    from experiments.timelines import check_place, check_step, write_timeline
    from sim_core.world import Lane

    engine = check_engine(request.engine)
    policy = policy_of(request)
    start_s, length_s = duration_s("--start", request.start), duration_s("--duration", request.duration)
    profile = load_profile(request.profile, overrides(request.settings))
    step_s = None
    if request.timeline is not None:
        step_s = duration_s("--timeline-step", request.timeline_step)
        check_place(request.timeline)
        check_step(step_s, profile, length_s)
    trace = request.traffic.load(profile, start_s, length_s)
    seeds = list(range(request.seed, request.seed + request.lanes))
    lanes = [Lane(profile, trace, seed, start_s) for seed in seeds]
    played = play(lanes, policy, length_s, step_s)
    table = played.indicators
    if request.timeline is not None:
        services = [service.name for service in profile.services]
        write_timeline(request.timeline, {request.policy: played}, seeds, services)
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
        "services": services_over_seeds(played.services),
        "lanes": [{"seed": seed, **row} for seed, row in zip(seeds, table.to_dict("records"), strict=True)],
        "timeline": str(request.timeline) if request.timeline else None,
    }


def track_run(request: RunRequest, document: Mapping[str, Any]) -> None:
    """Write to MLflow what `run_lanes` returned, and say where it is; a failure is a warning.

    It comes after the answer is printed: MLflow alone takes longer to import than a day takes to play. There is no HTML
    page: one policy has nothing to be compared with, and the printed tables hold all there is.
    """
    from experiments.identity import digest, simulator_version
    from experiments.state import StateDir
    from experiments.tracking import MlflowTracker
    from flows.terminal.output import plain, say

    profile = load_profile(request.profile, overrides(request.settings))
    inputs = {name: document[name] for name in ("policy", "engine", "seeds", "start_s", "duration_s")}
    params = inputs | document["settings"] | {f"traffic.{name}": value for name, value in document["traffic"].items()}
    params |= {f"set.{path}": value for path, value in overrides(request.settings).items()}
    try:
        state = StateDir.open(request.state)
    except InputError as error:
        say(f"Not tracked: {error}; or leave it with --no-track")
        return
    tracker = MlflowTracker.open(state, profile.name)
    key = digest(plain({"profile": profile.digest, "version": simulator_version(), "inputs": params}))
    files = [request.timeline] if request.timeline else []
    run_id = tracker.log_play(key, params, document, profile.to_dict(), files)
    if page := tracker.page(run_id):
        say(f"MLflow: {page} (while `devops-sim ui` runs)")


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
