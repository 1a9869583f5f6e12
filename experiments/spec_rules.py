"""Rules of a specification beyond the types of its fields.

They also see documents with invalid fields, which read as NaN, and stay silent about those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.policies.registry import choice_of, known, scaler_of
from experiments.values import Settings, combinations, seconds_of, values_of
from sim_core.bundled import check_traffic
from sim_core.controlplane.hpa_settings import HPA_SETTINGS
from sim_core.documents import Problem, shown
from sim_core.errors import InputError, PolicyError, ProfileError, nearest
from sim_core.indicators import HIGHER_IS_BETTER, INDICATORS
from sim_core.profile import Profile, load_profile

MAX_POINTS = 100_000
MAX_PROBLEMS_OF_PARAMETERS = 10  # combinations can break the same rule many times


def broken_rules(spec: Any) -> Iterator[Problem]:
    """Broken rules of a specification beyond the types of its fields, in its order."""
    profile: Profile | None = None
    if isinstance(spec.profile, str):
        try:
            profile = load_profile(spec.profile)
        except ProfileError as error:
            yield Problem(("profile",), "; ".join(error.problems), spec.profile)
    yield from _traffic_broken(spec)
    yield from _policies_broken(spec.policies, profile, spec.parameters)
    yield from _parameters_broken(spec.parameters, profile)
    yield from _size_broken(spec)
    yield from _objective_broken(spec.objective)
    yield from _sections_broken(spec)


def _traffic_broken(spec: Any) -> Iterator[Problem]:
    traffic = spec.traffic
    if isinstance(traffic.trace, str) == isinstance(traffic.generator, str) and not _invalid(
        traffic.trace, traffic.generator
    ):
        yield Problem(("traffic",), "needs either trace or generator", "both" if traffic.trace else "neither")
    if isinstance(traffic.trace, str) and not Path(traffic.trace).is_file():
        yield Problem(("traffic", "trace"), "no such file", traffic.trace)
    if isinstance(traffic.generator, str):
        try:
            check_traffic(traffic.generator)
        except InputError as error:
            yield Problem(("traffic", "generator"), "; ".join(error.problems), traffic.generator)
    train, evaluate = _ends(traffic.train), _ends(traffic.evaluate)
    if train and evaluate and train[0] < evaluate[1] and evaluate[0] < train[1]:
        rule = f"must not overlap with traffic.train ({train[0]:g} s to {train[1]:g} s): it is held out"
        yield Problem(("traffic", "evaluate"), rule, f"{evaluate[0]:g} s to {evaluate[1]:g} s")
    duration_s = _number(spec.duration)
    if train and duration_s > train[1] - train[0]:
        yield Problem(("duration",), f"must be at most traffic.train.duration {train[1] - train[0]:g} s", spec.duration)
    if isinstance(traffic.generator, str) and train is None and spec.duration is None:
        yield Problem(("duration",), "required with a generator and no traffic.train", None)


def _policies_broken(policies: Any, profile: Profile | None, parameters: Any) -> Iterator[Problem]:
    for index, entry in enumerate(policies if isinstance(policies, list | tuple) else ()):
        if not isinstance(entry, dict):
            continue
        policy, names = entry.get("policy"), known("sweep")
        if policy not in names:
            rule = f"must be one of {', '.join(names)}{nearest(str(policy), names)}"
            yield Problem(("policies", index, "policy"), rule, policy)
            continue
        check = _static_broken if policy == "static" else _hpa_broken
        seen: set[Problem] = set()
        for problem in check(entry, profile, parameters):
            shown_as = problem._replace(at=("policies", index, *problem.at), value=shown(problem.value))
            if shown_as not in seen:
                seen.add(shown_as)
                yield problem._replace(at=shown_as.at)


def _static_broken(entry: dict[str, Any], profile: Profile | None, parameters: Any) -> Iterator[Problem]:
    for name in entry:
        if name not in ("policy", "replicas"):
            yield Problem((name,), f"unknown setting of static{nearest(str(name), ['replicas'])}", entry[name])
    if "replicas" not in entry:
        yield Problem(("replicas",), "required setting is missing", None)
        return
    try:
        values = values_of(entry["replicas"])
    except ValueError as error:
        yield Problem(("replicas",), str(error), entry["replicas"])
        return
    # More than the profile allows would be the same point under two names. A sweep over the limit may raise it.
    swept = isinstance(parameters, dict) and any("replicas" in str(path) for path in parameters)
    most = max(service.replicas.max for service in profile.services) if profile and not swept else math.inf
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            yield Problem(("replicas",), "must be a whole number of at least 1", value)
        elif value > most:
            yield Problem(("replicas",), f"must be at most replicas.max {most:g} of the profile", value)


def _hpa_broken(entry: dict[str, Any], profile: Profile | None, parameters: Any) -> Iterator[Problem]:
    sound = True
    for name, raw in entry.items():
        for problem in _hpa_setting_broken(name, raw) if name != "policy" else ():
            sound = False
            yield problem
    if not sound or profile is None:
        return
    import numpy as np  # the simulator, only where settings are sound so far

    from sim_core.workload import Trace
    from sim_core.world import Lane, build_params

    flat = Trace("flat", 60.0, np.ones(2))
    for settings in combinations(entry, without="policy")[:MAX_POINTS]:
        try:
            build_params([Lane(profile, flat, seed=0, scaler=scaler_of("hpa", dict(settings)))])
        except InputError as error:
            for line in error.problems:
                yield Problem((), line, _written(settings))


def _hpa_setting_broken(name: Any, raw: Any) -> Iterator[Problem]:
    if name not in HPA_SETTINGS:
        yield Problem((name,), f"unknown setting of hpa{nearest(str(name), HPA_SETTINGS)}", raw)
        return
    try:
        values = values_of(raw)
    except ValueError as error:
        yield Problem((name,), str(error), raw)
        return
    kinds, rule = ((int, float), "a number") if name == "tolerance" else ((int,), "a whole number")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, kinds):
            yield Problem((name,), f"must be {rule}", value)


def _written(settings: Settings) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings) or "no settings"


def _parameters_broken(parameters: Any, profile: Profile | None) -> Iterator[Problem]:
    if not isinstance(parameters, dict):
        return
    sound = True
    for path, raw in parameters.items():
        try:
            values_of(raw)
        except ValueError as error:
            sound = False
            yield Problem(("parameters", path), str(error), raw)
    if not sound or profile is None:
        return
    seen: set[str] = set()
    for overrides in combinations(parameters)[:MAX_POINTS]:
        try:
            profile.with_overrides(dict(overrides))
        except ProfileError as error:
            for line in error.problems:
                if line not in seen and len(seen) < MAX_PROBLEMS_OF_PARAMETERS:
                    seen.add(line)
                    yield Problem(("parameters",), line, _written(overrides))


def _size_broken(spec: Any) -> Iterator[Problem]:
    try:
        configurations = sum(len(combinations(entry, without="policy")) for entry in spec.policies)
        count = configurations * len(combinations(spec.parameters)) * int(spec.seeds.count)
    except (TypeError, ValueError, AttributeError):
        return  # reported where it is wrong
    if count > MAX_POINTS:
        yield Problem(("policies",), f"policies x parameters x seeds must be at most {MAX_POINTS} points", count)


def _objective_broken(objective: Any) -> Iterator[Problem]:
    if isinstance(objective.minimize, str):
        if objective.minimize not in INDICATORS:
            yield Problem(
                ("objective", "minimize"),
                f"unknown indicator{nearest(objective.minimize, INDICATORS)}",
                objective.minimize,
            )
        elif objective.minimize in HIGHER_IS_BETTER:
            yield Problem(("objective", "minimize"), "must be an indicator of which less is better", objective.minimize)
    for name, limit in objective.subject_to.items() if isinstance(objective.subject_to, dict) else ():
        at = ("objective", "subject_to", name)
        if name not in INDICATORS:
            yield Problem(at, f"unknown indicator{nearest(str(name), INDICATORS)}", limit)
        elif limit == "slo":
            if name != "slo_attainment":
                yield Problem(at, "must be a number; 'slo' is for slo_attainment only", limit)
        elif isinstance(limit, bool) or not isinstance(limit, int | float) or not math.isfinite(limit):
            yield Problem(at, "must be a finite number, or 'slo'", limit)


def _sections_broken(spec: Any) -> Iterator[Problem]:
    train, evaluation, traffic = spec.train, spec.evaluation, spec.traffic
    if train is not None and traffic.train is None:
        yield Problem(("traffic", "train"), "required by the section train", None)
    if evaluation is None:
        return
    if traffic.evaluate is None:
        yield Problem(("traffic", "evaluate"), "required by the section evaluation", None)
    names = evaluation.policies if isinstance(evaluation.policies, list | tuple) else ()
    for index, name in enumerate(names):
        at = ("evaluation", "policies", index)
        if not isinstance(name, str):
            continue
        if name in names[:index]:
            yield Problem(at, "is named twice", name)
        try:
            choice = choice_of(name, "evaluation")
        except PolicyError as error:
            for problem in error.problems:
                yield Problem(at, problem, name)
            continue
        if choice.entry and choice.entry.trained and train is None:
            yield Problem(at, "needs the section train", name)
        elif choice.tuned and traffic.train is None:
            yield Problem(at, "needs traffic.train to be tuned on", name)


def _ends(window: Any) -> tuple[float, float] | None:
    if window is None:
        return None
    start_s, duration_s = _number(window.start), _number(window.duration)
    return (start_s, start_s + duration_s)


def _number(value: Any) -> float:
    """Seconds of a duration that may still be text or invalid (NaN)."""
    try:
        return float(seconds_of(value))
    except (TypeError, ValueError):
        return math.nan


def _invalid(*values: Any) -> bool:
    return any(isinstance(value, float) for value in values)
