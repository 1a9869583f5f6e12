"""Sweep specifications: the question that a YAML file asks, checked strictly, every problem of it at once.

A specification names a profile, traffic with a training and a held-out part, policies with ranges of settings, ranges
of profile parameters, seeds and an objective; the sections `train` and `evaluation` are optional.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from experiments.comparison import HIGHER_IS_BETTER
from sim_core.accounting import INDICATORS
from sim_core.documents import Problem, Section, read_yaml, refuse_inconsistent, shown, validate
from sim_core.errors import InputError, ProfileError, SpecError, nearest
from sim_core.profile import Profile, bundled_profiles, load_profile
from sim_core.units import parse_duration
from sim_core.workload import Trace, bundled_traffic
from sim_core.world import HPA_SETTINGS, Lane, Scaler, build_params

Scalar = int | float | str | bool | None
Settings = tuple[tuple[str, Scalar], ...]

MAX_POINTS = 100_000
MAX_VALUES = 1000  # of one range or list
MAX_PROBLEMS_OF_PARAMETERS = 10  # combinations can break the same rule many times
SWEEP_POLICIES = ("static", "hpa")
EVALUATION_POLICIES = ("static", "hpa", "hpa-tuned", "clairvoyant", "agent")
MODEL_SCHEMES = ("models:/", "runs:/")

_FOLDER = Path(__file__).parent / "specs"


def _seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except InputError as error:
        raise ValueError(error.problems[0]) from None


Duration = Annotated[float, BeforeValidator(_seconds)]


class Window(Section):
    """A part of the traffic."""

    start: Duration = Field(default=0.0, ge=0, description="From the start of the traffic [s, or text such as 7d].")
    duration: Duration = Field(gt=0, description="[s, or text such as 24h].")


class Traffic(Section):
    """Where requests come from: a trace file or a bundled generator."""

    trace: str | None = Field(default=None, description="Trace file (CSV, gzip or not); relative to the specification.")
    generator: str | None = Field(default=None, description="Bundled traffic model.")
    seed: int = Field(default=0, ge=0, description="Of the generator.")
    scale_peak_to_replicas: int | None = Field(
        default=None,
        ge=1,
        description="Scales the peak of the whole traffic to what so many replicas serve at 70 % CPU.",
    )
    train: Window | None = Field(
        default=None, description="What policies may be tuned and trained on; default: all of it."
    )
    evaluate: Window | None = Field(default=None, description="Held out: touched by the section `evaluation` only.")


class Seeds(Section):
    """Seeds of the repetitions of each configuration; the same for all, so that comparisons are paired."""

    first: int = Field(default=0, ge=0, description="The first one; the others follow it.")
    count: int = Field(default=1, ge=1, le=10_000, description="How many.")


class Objective(Section):
    """Which configuration is best."""

    minimize: str = Field(default="cost_usd", description="An indicator of which less is better.")
    subject_to: dict[str, Any] = Field(
        default={"slo_attainment": "slo"},
        description="Limit of each constrained indicator: a lower one where more is better, else an upper one; "
        "`slo` is the objective of the profile.",
    )


class Training(Section):
    """Also train an agent on the training part of the traffic."""

    algorithm: Literal["ppo"] = Field(default="ppo", description="Learning algorithm.")
    steps: int = Field(ge=1, description="Environment steps over all lanes.")
    seed: int = Field(default=0, ge=0, description="Of the training.")
    lanes: int = Field(default=64, ge=1, le=4096, description="Worlds stepped at once.")


class EvaluationSection(Section):
    """Also compare policies on the held-out part of the traffic."""

    policies: tuple[str, ...] = Field(min_length=1, strict=False, description="Names of policies, or URIs of models.")
    seeds: int = Field(default=10, ge=1, le=10_000, description="Paired evaluation seeds of each policy.")


class Spec(Section):
    """A whole specification."""

    name: str = Field(
        pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40, description="DNS label; starts the sweep id."
    )
    profile: str = Field(description="Name of a bundled profile, or a YAML file relative to the specification.")
    traffic: Traffic = Field(description="Requests.")
    duration: Duration | None = Field(
        default=None, gt=0, description="Of one point [s, or text]; default: traffic.train."
    )
    seeds: Seeds = Field(default=Seeds(), description="Repetitions.")
    policies: tuple[dict[str, Any], ...] = Field(
        min_length=1, strict=False, description="`policy` and its settings; lists and ranges are expanded as a product."
    )
    parameters: dict[str, Any] = Field(default={}, description="Values of profile paths, expanded as a product.")
    objective: Objective = Field(default=Objective(), description="Which configuration is best.")
    train: Training | None = Field(default=None, description="Also train an agent.")
    evaluation: EvaluationSection | None = Field(default=None, description="Also compare on held-out traffic.")

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        return refuse_inconsistent(self, broken_rules)

    def to_dict(self) -> dict[str, Any]:
        """Plain data with every field; durations in seconds. `spec_from_dict` reads it back."""
        return self.model_dump(mode="json")

    def with_trace(self, path: str | Path) -> Spec:
        """The same specification on another trace file, scaled as before.

        Raises:
            SpecError: no such file.
        """
        data = self.to_dict()
        data["traffic"] |= {"trace": str(path), "generator": None}
        return spec_from_dict(data, f"{self.name} with trace {path}")

    def settings(self) -> list[tuple[str, Settings]]:
        """Every (policy, settings) of the section `policies`, in its order."""
        return [
            (entry["policy"], chosen) for entry in self.policies for chosen in combinations(entry, without="policy")
        ]

    def limits(self, profile: Profile) -> dict[str, float]:
        """Constraints of the objective as numbers: `slo` becomes the profile's objective."""
        pairs = self.objective.subject_to.items()
        return {name: profile.slo.objective if limit == "slo" else float(limit) for name, limit in pairs}


def bundled_specs() -> list[str]:
    """Names of the specifications that come with the package, sorted."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def load_spec(name_or_path: str | Path) -> Spec:
    """A specification from a YAML file, or a bundled one by name.

    Paths in it are relative to its folder, or else to the current one.

    Raises:
        SpecError: unreadable file, bad YAML, or a specification that breaks the schema; every problem at once.
    """
    path = Path(name_or_path)
    if str(name_or_path) in bundled_specs():
        path = _FOLDER / f"{name_or_path}.yaml"
    elif not path.exists() and path.name == str(name_or_path) and not path.suffix:
        known = f"(known: {', '.join(bundled_specs())}, or a path to a YAML file){nearest(path.name, bundled_specs())}"
        raise SpecError(shown(str(path)), f"unknown specification {known}")
    data = read_yaml(path, SpecError)
    if isinstance(data, dict):
        data = _with_paths(data, path.parent)
    return spec_from_dict(data, str(path))


def spec_from_dict(data: Any, where: str = "specification") -> Spec:
    """A specification from plain data, as `to_dict` gives it or a YAML file holds it.

    Raises:
        SpecError: with every problem of `data`; `where` names its origin.
    """
    return validate(Spec, data, where, SpecError, broken_rules)


def _with_paths(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    def located(name: Any) -> Any:
        return str((folder / name).absolute()) if isinstance(name, str) and (folder / name).is_file() else name

    changed = dict(data)
    if data.get("profile") not in bundled_profiles():
        changed |= {"profile": located(data["profile"])} if "profile" in data else {}
    traffic = data.get("traffic")
    if isinstance(traffic, dict) and "trace" in traffic:
        changed["traffic"] = traffic | {"trace": located(traffic["trace"])}
    return changed


# --- Values: scalars, lists and ranges


def values_of(raw: Any) -> tuple[Scalar, ...]:
    """The values that a scalar, a list or a range `{from, to, step}` (both ends included) stands for.

    Raises:
        ValueError: with the rule that is broken.
    """
    if isinstance(raw, dict):
        return _range(raw)
    if not isinstance(raw, list | tuple):
        return (raw,)
    if not 1 <= len(raw) <= MAX_VALUES:
        raise ValueError(f"a list must have 1 to {MAX_VALUES} values")
    if nested := [value for value in raw if isinstance(value, dict | list | tuple)]:
        raise ValueError(f"a list must hold plain values, not {shown(nested[0])}")
    if len({(type(value), value) for value in raw}) < len(raw):
        raise ValueError("a list must not repeat a value")
    return tuple(raw)


def _range(raw: Mapping[str, Any]) -> tuple[Scalar, ...]:
    if set(raw) != {"from", "to", "step"}:
        raise ValueError(
            f"a range needs the keys from, to and step, and no others (has {', '.join(map(str, raw)) or 'none'})"
        )
    numbers = [raw["from"], raw["to"], raw["step"]]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
        raise ValueError("from, to and step of a range must be finite numbers")
    first, last, step = (Decimal(str(n)) for n in numbers)  # decimal, so that 0.1 steps end where they are written to
    if step <= 0 or last < first:
        raise ValueError("a range needs step > 0 and to >= from")
    count = int((last - first) / step) + 1
    if count > MAX_VALUES:
        raise ValueError(f"a range must have at most {MAX_VALUES} values, this one has {count}")
    whole = all(isinstance(n, int) for n in numbers)
    return tuple(int(first + i * step) if whole else float(first + i * step) for i in range(count))


def combinations(raw: Mapping[str, Any], without: str = "") -> list[Settings]:
    """All combinations of the values of each key, in the order written; the last key varies fastest."""
    names = [name for name in raw if name != without]
    return [tuple(zip(names, chosen, strict=True)) for chosen in product(*(values_of(raw[name]) for name in names))]


def scaler_of(policy: str, settings: Settings) -> Scaler:
    """The simulator's scaler for a policy of a sweep.

    Args:
        policy: one of SWEEP_POLICIES.
        settings: of a checked specification.
    """
    chosen: dict[str, Any] = dict(settings)
    return Scaler.static(chosen["replicas"]) if policy == "static" else Scaler.hpa(**chosen)


# --- Rules between fields. They also see documents with invalid fields (NaN), of which they stay silent.


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
            bundled_traffic(traffic.generator)
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
        policy = entry.get("policy")
        if policy not in SWEEP_POLICIES:
            known = f"must be one of {', '.join(SWEEP_POLICIES)}{nearest(str(policy), SWEEP_POLICIES)}"
            yield Problem(("policies", index, "policy"), known, policy)
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
    flat = Trace("flat", 60.0, np.ones(2))
    for settings in combinations(entry, without="policy")[:MAX_POINTS]:
        try:
            build_params([Lane(profile, flat, seed=0, scaler=scaler_of("hpa", settings))])
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
        if not isinstance(name, str) or name.startswith(MODEL_SCHEMES):
            continue
        if name not in EVALUATION_POLICIES:
            known = f"must be one of {', '.join(EVALUATION_POLICIES)}, or a model such as models:/NAME@champion"
            yield Problem(at, f"{known}{nearest(name, EVALUATION_POLICIES)}", name)
        elif name == "agent" and train is None:
            yield Problem(at, "needs the section train", name)
        elif name == "hpa-tuned" and traffic.train is None:
            yield Problem(at, "needs traffic.train to be tuned on", name)


def _ends(window: Any) -> tuple[float, float] | None:
    if window is None:
        return None
    start_s, duration_s = _number(window.start), _number(window.duration)
    return (start_s, start_s + duration_s)


def _number(value: Any) -> float:
    """Seconds of a duration that may still be text or invalid (NaN)."""
    try:
        return float(_seconds(value))
    except (TypeError, ValueError):
        return math.nan


def _invalid(*values: Any) -> bool:
    return any(isinstance(value, float) for value in values)
