"""`devops-sim run`: one profile, one policy or several side by side, some seeds, played in this process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.policies.registry import Choice, choices_of
from experiments.request_traces import check_traces, write_traces
from flows.estimates import tell_time
from flows.inputs import TrafficChoice, duration_s, load_profile, overrides, warn_of, warn_of_saturation
from flows.terminal.output import say
from sim_core.engines import FLUID, check_engine
from sim_core.errors import InputError, PolicyError

if TYPE_CHECKING:
    from agents.policies.contract import Policy
    from sim_core.profile import Profile
    from sim_core.simulation import Simulation, Worlds

_DAY_S = 86_400.0
_WATCHED_STEPS, _WATCHED_CELLS = 144, 100_000  # of the timeline that is kept for a look at loads: steps; times lanes


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
    timeline: Path | None = None
    timeline_step: str = "60s"
    threads: int = 1
    trace_requests: float | None = None
    trace_output: Path = Path("request-traces")


def run_lanes(request: RunRequest) -> dict[str, Any]:
    """Play the lanes under each policy and return the document of the command.

    It holds, for each policy, the indicators with intervals over the seeds, and each lane; all play the same lanes. What
    can be refused without the simulator is refused before it is imported.

    With `timeline`, the time series of every lane is written there; a place that cannot be is refused before.

    Raises:
        InputError: any part of the request is wrong.
    """
    engine = check_engine(request.engine, "--engine")
    choices = chosen(request)
    if request.trace_requests is not None:
        check_traces(request.trace_requests, engine, request.trace_output)
    start_s, length_s = duration_s("--start", request.start), duration_s("--duration", request.duration)
    request.traffic.check()
    profile = load_profile(request.profile, overrides(request.settings))
    warnings = warn_of([profile])

    from agents.policies.contract import play
    from experiments.analysis.summaries import classes_over_seeds, over_seeds, request_classes, services_over_seeds
    from experiments.timelines import check_place, check_step, write_timeline
    from sim_core.dates import end_of_window_s, today
    from sim_core.saturation import saturated_services
    from sim_core.world import Lane

    step_s = None
    if request.timeline is not None:
        step_s = duration_s("--timeline-step", request.timeline_step)
        check_place(request.timeline)
        check_step(step_s, profile, length_s)
    policies = [made(choice, request.state) for choice in choices]
    trace = request.traffic.load(profile, start_s, length_s)
    seeds = list(range(request.seed, request.seed + request.lanes))
    lanes = [Lane(profile, trace, seed, start_s) for seed in seeds]
    watched_s = step_s or watch_step_s(engine, profile, length_s, len(lanes))
    tell_time(engine, ((lane, length_s) for lane in lanes), len(policies), request.threads)
    # Traces begin at midnight, so spans show the time of day that is played, today.
    epoch_s = end_of_window_s(today()) + start_s % _DAY_S
    traced: list[Path] = []
    played = {}
    for policy in policies:

        def keep(worlds: Worlds, name: str = policy.name) -> None:
            traced.extend(write_traces(request.trace_output, worlds, name, seeds, epoch_s))

        played[policy.name] = play(
            lanes, policy, length_s, watched_s,
            engine=engine, threads=request.threads, trace_share=request.trace_requests or 0.0, on_end=keep,
        )  # fmt: skip
    if request.timeline is not None:
        write_timeline(request.timeline, played, seeds, [service.name for service in profile.services])
    warnings += warn_of_saturation(
        {name: saturated_services(simulation.services, profile) for name, simulation in played.items()}
    )
    not_validated = {name: beyond_validated(engine, profile, simulation) for name, simulation in played.items()}
    for name, sentences in not_validated.items():
        for sentence in sentences:
            say(f"{name}: {sentence}")
    return {
        "command": "run",
        "profile": profile.name,
        "engine": engine,
        "seeds": seeds,
        "start_s": start_s,
        "duration_s": length_s,
        "traffic": request.traffic.describe(trace),
        "slo": profile.slo.model_dump(mode="json"),
        "classes": request_classes(profile),
        "warnings": warnings,
        "policies": {
            policy.name: {
                "settings": getattr(policy, "settings", {}),
                "indicators": over_seeds(played[policy.name].indicators),
                "services": services_over_seeds(played[policy.name].services),
                "classes": classes_over_seeds(played[policy.name].classes),
                "not_validated": not_validated[policy.name],
                "lanes": [
                    {"seed": seed, **row}
                    for seed, row in zip(seeds, played[policy.name].indicators.to_dict("records"), strict=True)
                ],
            }
            for policy in policies
        },
        "timeline": str(request.timeline) if request.timeline else None,
        "request_traces": [str(path) for path in traced],
    }


def watch_step_s(engine: str, profile: Profile, length_s: float, lanes: int) -> float | None:
    """Step of a timeline that tells how loaded the services were, coarse where there are many lanes [s].

    None where nothing is to be told: of the request engine, and without a record of what was validated.
    """
    from experiments.agreement.validated import shipped_record

    if engine != FLUID or shipped_record() is None:
        return None
    steps = max(1, min(_WATCHED_STEPS, _WATCHED_CELLS // lanes))
    sync_s = profile.controller.sync_period_seconds
    return math.ceil(length_s / steps / sync_s) * sync_s


def beyond_validated(engine: str, profile: Profile, simulation: Simulation) -> list[str]:
    """In which respects a run in the fluid engine lies outside of what it was validated for, a sentence each."""
    from experiments.agreement.validated import facts_of, peak_load, remarks, shipped_record

    record = shipped_record()
    if engine != FLUID or record is None or simulation.service_timeline is None:
        return []
    return remarks(facts_of(profile, *peak_load(profile, simulation.service_timeline)), record)


def track_run(request: RunRequest, document: Mapping[str, Any]) -> None:
    """Write to MLflow what `run_lanes` returned, and say where it is; a failure is a warning.

    It comes after the answer is printed: MLflow alone takes longer to import than a day takes to play. There is no HTML
    page: one policy has nothing to be compared with, and the printed tables hold all there is.
    """
    from experiments.store.identity import digest, simulator_version
    from experiments.store.state import StateDir
    from experiments.tracking import MlflowTracker
    from flows.terminal.output import announce, plain

    profile = load_profile(request.profile, overrides(request.settings))
    inputs = {name: document[name] for name in ("engine", "seeds", "start_s", "duration_s")}
    params = inputs | {f"traffic.{name}": value for name, value in document["traffic"].items()}
    params |= {f"set.{path}": value for path, value in overrides(request.settings).items()}
    try:
        state = StateDir.open(request.state)
    except InputError as error:
        say(f"Not tracked: {error}; or leave it with --no-track")
        return
    tracker = MlflowTracker.open(state, profile.name)
    files = [request.timeline] if request.timeline else []
    for policy, entry in document["policies"].items():
        played = {"policy": policy, **entry["settings"]} | params
        key = digest(plain({"profile": profile.digest, "version": simulator_version(), "inputs": played}))
        shown = {**document, "policy": policy, **entry}
        run_id = tracker.log_play(key, played, shown, profile.to_dict(), files)
        if page := tracker.page(run_id):
            announce(f"MLflow, {policy}: {page} (while `devops-sim ui` runs)")


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
    from experiments.store.state import StateDir

    content, metadata = model_content(choice.name, StateDir.at(folder))
    return LearnedPolicy(content, choice.text, metadata)
