"""Rules of a specification beyond the types of its fields.

They also see documents with invalid fields, which read as NaN, and stay silent about those.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from agents.policies.registry import choice_of, known, scaler_of
from experiments.planning.values import Settings, combinations, is_finite_number, seconds_of, values_of
from sim_core.bundled import check_traffic
from sim_core.controlplane.hpa_settings import HPA_SETTINGS
from sim_core.documents import Problem, shown
from sim_core.engines import NAMES as ENGINE_NAMES
from sim_core.errors import InputError, PolicyError, ProfileError, nearest
from sim_core.indicators import HIGHER_IS_BETTER, INDICATORS
from sim_core.profile import Profile, load_profile

MAX_POINTS = 100_000
MAX_PROBLEMS_OF_PARAMETERS = 10  # combinations can break the same rule many times
# Paths of a profile that no team chooses: what is asked, how long things take, what requests cost, what things cost.
# `*` is one step, `**` at the end any number of them.
SUFFERED = (
    "requests", "requests.*", "requests.*.share", "requests.*.shares.**", "requests.*.endpoint", "requests.*.calls.**",
    "ingress.latency_seconds", "ingress.scv",
    "services.*.calls_per_request", "services.*.queries", "services.*.queries.*",
    "services.*.container.cpu_seconds_per_request", "services.*.container.cpu_scv",
    "services.*.container.io_seconds_per_request", "services.*.endpoints.**",
    "services.*.lifecycle.scheduling_seconds", "services.*.lifecycle.image_pull_seconds",
    "services.*.lifecycle.startup_seconds", "services.*.lifecycle.startup_scv",
    "services.*.lifecycle.startup_cpu_cores", "services.*.lifecycle.cold_seconds", "services.*.lifecycle.cold_factor",
    "database.read_seconds", "database.write_seconds", "database.query_scv", "database.usd_per_instance_hour",
    "cache.keys", "cache.zipf_exponent", "cache.lookup_seconds", "cache.server_seconds", "cache.lookup_scv",
    "cache.initial_fill", "cache.usd_per_hour", "telemetry.delay_seconds", "prices", "prices.*",
)  # fmt: skip


def broken_rules(spec: Any) -> Iterator[Problem]:
    """Broken rules of a specification beyond the types of its fields, in its order."""
    profile: Profile | None = None
    if isinstance(spec.profile, str):
        try:
            profile = load_profile(spec.profile)
        except ProfileError as error:
            yield Problem(("profile",), "; ".join(error.problems), spec.profile)
    yield from _traffic_broken(spec)
    if isinstance(spec.engine, str) and spec.engine not in ENGINE_NAMES:
        rule = f"must be one of {', '.join(ENGINE_NAMES)}{nearest(spec.engine, ENGINE_NAMES)}"
        yield Problem(("engine",), rule, spec.engine)
    yield from _policies_broken(spec.policies, profile, {**_mapping(spec.parameters), **_mapping(spec.scenarios)})
    parameters = yield from _values_broken("parameters", spec.parameters)
    scenarios = yield from _values_broken("scenarios", spec.scenarios)
    yield from _variants_broken(parameters, scenarios, profile)
    yield from _size_broken(spec)
    yield from _objective_broken(spec.objective)
    yield from _sections_broken(spec)


def _traffic_broken(spec: Any) -> Iterator[Problem]:
    traffic = spec.traffic
    sources = {name: getattr(traffic, name) for name in ("trace", "generator", "prometheus")}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1 and not _invalid(*sources.values()):
        yield Problem(("traffic",), "needs one of trace, generator and prometheus", " and ".join(given) or "none")
    if traffic.prometheus is not None and traffic.last is None:
        yield Problem(("traffic", "last"), "required by prometheus: how much of the past to ask for", None)
    if traffic.date is not None and traffic.last is None:
        yield Problem(("traffic", "date"), "needs last, which looks back from it", str(traffic.date))
    if isinstance(traffic.trace, str) and not os.path.isfile(traffic.trace):
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
    if isinstance(traffic.generator, str) and traffic.last is None and train is None and spec.duration is None:
        yield Problem(("duration",), "required with a generator and no traffic.train", None)


def _policies_broken(policies: Any, profile: Profile | None, overrides: dict[str, Any]) -> Iterator[Problem]:
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
        for problem in check(entry, profile, overrides):
            shown_as = problem._replace(at=("policies", index, *problem.at), value=shown(problem.value))
            if shown_as not in seen:
                seen.add(shown_as)
                yield problem._replace(at=shown_as.at)


def _static_broken(entry: dict[str, Any], profile: Profile | None, overrides: dict[str, Any]) -> Iterator[Problem]:
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
    swept = any("replicas" in str(path) for path in overrides)
    most = max(service.replicas.max for service in profile.services) if profile and not swept else math.inf
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            yield Problem(("replicas",), "must be a whole number of at least 1", value)
        elif value > most:
            yield Problem(("replicas",), f"must be at most replicas.max {most:g} of the profile", value)


def _hpa_broken(entry: dict[str, Any], profile: Profile | None, overrides: dict[str, Any]) -> Iterator[Problem]:
    sound = True
    for name, raw in entry.items():
        for problem in _hpa_setting_broken(name, raw) if name != "policy" else ():
            sound = False
            yield problem
    if not sound or profile is None:
        return
    import numpy as np  # the simulator, only where settings are sound so far

    from sim_core.workload import Trace
    from sim_core.world import Lane, build_tables

    flat = Trace("flat", 60.0, np.ones(2))
    for settings in combinations(entry, without="policy")[:MAX_POINTS]:
        try:
            build_tables([Lane(profile, flat, seed=0, scaler=scaler_of("hpa", dict(settings)))])
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


def _values_broken(section: str, values: Any) -> Generator[Problem, None, dict[str, Any] | None]:
    """Broken rules of the values of a section; returns the section, or None where the rest cannot be checked."""
    if not isinstance(values, dict):
        return None
    sound = all(isinstance(path, str) for path in values)  # the schema says of others that they must be text
    for path, raw in values.items():
        try:
            values_of(raw)
        except ValueError as error:
            sound = False
            yield Problem((section, path), str(error), raw)
    return values if sound else None


def _variants_broken(
    parameters: dict[str, Any] | None, scenarios: dict[str, Any] | None, profile: Profile | None
) -> Iterator[Problem]:
    """Whether every combination of parameters gives a profile, and in every scenario too; scenarios must differ."""
    twice = [path for path in scenarios or () if path in (parameters or ())]
    for path in twice:
        rule = "stands under parameters too; a value is either chosen (parameters) or suffered (scenarios)"
        yield Problem(("scenarios", path), rule, (scenarios or {})[path])
    if parameters is None or profile is None or _count(parameters) * _count(scenarios or {}) > MAX_POINTS:
        return
    decisions = combinations(parameters)
    broken = list(_profiles_broken("parameters", profile, decisions))
    yield from broken
    if broken or twice or not scenarios:
        return
    played = (decision + scenario for scenario in combinations(scenarios) for decision in decisions)
    broken = list(_profiles_broken("scenarios", profile, played))
    yield from broken or _scenarios_alike(profile, decisions[0], combinations(scenarios))


def _profiles_broken(section: str, profile: Profile, variants: Iterable[Settings]) -> Iterator[Problem]:
    seen: set[str] = set()
    for overrides in variants:
        try:
            profile.with_overrides(dict(overrides))
        except ProfileError as error:
            for line in error.problems:
                if line not in seen and len(seen) < MAX_PROBLEMS_OF_PARAMETERS:
                    seen.add(line)
                    yield Problem((section,), line, _written(overrides))


def _scenarios_alike(profile: Profile, chosen: Settings, scenarios: list[Settings]) -> Iterator[Problem]:
    first: dict[str, Settings] = {}
    for scenario in scenarios:
        before = first.setdefault(profile.with_overrides(dict(chosen + scenario)).digest, scenario)
        if before is not scenario:
            yield Problem(("scenarios",), f"must differ; the same as {_written(before)}", _written(scenario))


def suffered(path: str) -> bool:
    """Whether a path of a profile is known to be no decision: a start-up time is not chosen, it happens to a team.

    What endpoints do and what is asked of them is suffered too; how services call each other (`services.*.calls`,
    `ingress.calls`: timeouts, retries, breakers) and what is promised (`requests.*.slo`) is decided.
    """
    return any(_covers(pattern.split("."), path.split(".")) for pattern in SUFFERED)


def _covers(pattern: list[str], steps: list[str]) -> bool:
    if pattern[-1] == "**":
        pattern, steps = pattern[:-1], steps[: len(pattern) - 1]
    return len(pattern) == len(steps) and all(a in ("*", b) for a, b in zip(pattern, steps, strict=True))


def _size_broken(spec: Any) -> Iterator[Problem]:
    try:
        configurations = sum(_count(entry, without="policy") for entry in spec.policies)
        count = configurations * _count(spec.parameters) * _count(spec.scenarios) * int(spec.seeds.count)
    except (TypeError, ValueError, AttributeError, LookupError):
        return  # reported where it is wrong
    if count > MAX_POINTS:
        factors = f"policies x parameters x {'scenarios x ' if spec.scenarios else ''}seeds"
        yield Problem(("policies",), f"{factors} must be at most {MAX_POINTS} points", count)


def _count(raw: dict[str, Any], without: str = "") -> int:
    """How many `combinations` there are, without making them: a few long ranges fill the memory."""
    return math.prod(len(values_of(values)) for name, values in raw.items() if name != without)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


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
        elif not is_finite_number(limit):
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
