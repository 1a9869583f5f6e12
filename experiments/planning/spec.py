"""Sweep specifications: the question that a YAML file asks, checked strictly, every problem of it at once.

A specification names a profile, traffic with a training and a held-out part, policies with ranges of settings, ranges
of profile parameters (what is decided), scenarios (what every decision has to stand), seeds and an objective; the
sections `train` and `evaluation` are optional.
"""

from __future__ import annotations

import datetime as dt
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from experiments.planning.rules import broken_rules, suffered
from experiments.planning.values import Settings, combinations, date_of, limits_of, seconds_of, values_of
from sim_core.bundled import profile_names
from sim_core.documents import Section, read_yaml, refuse_inconsistent, shown, validate
from sim_core.engines import FLUID, described
from sim_core.errors import SpecError, nearest
from sim_core.profile import Profile

_FOLDER = Path(__file__).parents[1] / "specs"


Duration = Annotated[float, BeforeValidator(seconds_of)]
Date = Annotated[dt.date, BeforeValidator(date_of)]


class Window(Section):
    """A part of the traffic."""

    start: Duration = Field(default=0.0, ge=0, description="From the start of the traffic [s, or text such as 7d].")
    duration: Duration = Field(gt=0, description="[s, or text such as 24h].")


class PrometheusQuery(Section):
    """A query of a Prometheus server; a token, if it wants one, comes from DEVOPS_SIM_PROMETHEUS_TOKEN."""

    url: str = Field(description="http://HOST:9090 or https://HOST/PREFIX, without credentials.")
    query: str = Field(min_length=1, description="PromQL of one series [1/s]: sum(rate(http_requests_total[1m])).")
    step: Duration = Field(default=30.0, gt=0, description="Of the trace [s, or text such as 30s].")


class Traffic(Section):
    """Where requests come from: a trace file, a bundled generator or a Prometheus server."""

    trace: str | None = Field(default=None, description="Trace file (CSV, gzip or not); relative to the specification.")
    generator: str | None = Field(default=None, description="Bundled traffic model.")
    prometheus: PrometheusQuery | None = Field(default=None, description="Query of a Prometheus server; needs `last`.")
    last: Duration | None = Field(
        default=None,
        gt=0,
        description="Roll: only the last so much of the traffic [s, or text such as 8d], in which the windows count; a "
        "trace file ends now, a query and a generator at 00:00 UTC of the date.",
    )
    date: Date | None = Field(default=None, description="The day that `last` looks back from; default: today (UTC).")
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
    seed: int | None = Field(
        default=0, ge=0, description="Of the training; null derives it from the date: 20261122 on 2026-11-22."
    )
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
    engine: str = Field(
        default=FLUID,
        description=f"How requests are served, in the sweep and in the section `evaluation`: {described()}. Searches and "
        "training are always in fluid.",
    )
    policies: tuple[dict[str, Any], ...] = Field(
        min_length=1, strict=False, description="`policy` and its settings; lists and ranges are expanded as a product."
    )
    parameters: dict[str, Any] = Field(default={}, description="Values of profile paths, expanded as a product.")
    scenarios: dict[str, Any] = Field(
        default={},
        description="Values of profile paths that are suffered rather than chosen, expanded as a product; every "
        "configuration is played in every scenario, and the worst one counts.",
    )
    objective: Objective = Field(default=Objective(), description="Which configuration is best.")
    train: Training | None = Field(default=None, description="Also train an agent.")
    evaluation: EvaluationSection | None = Field(default=None, description="Also compare on held-out traffic.")

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        return refuse_inconsistent(self, broken_rules)

    def to_dict(self) -> dict[str, Any]:
        """Plain data with every field; durations in seconds. `spec_from_dict` reads it back."""
        return self.model_dump(mode="json")

    def settings(self) -> list[tuple[str, Settings]]:
        """Every (policy, settings) of the section `policies`, in its order."""
        return [
            (entry["policy"], chosen) for entry in self.policies for chosen in combinations(entry, without="policy")
        ]

    def limits(self, profile: Profile) -> dict[str, float]:
        """Constraints of the objective as numbers: `slo` becomes the profile's objective."""
        return limits_of(self.objective.subject_to, profile.slo.objective)

    def warnings(self) -> list[str]:
        """What can be run as written but hardly means what it says, one line each."""
        return [
            f"parameters.{path} is suffered rather than chosen; put it under scenarios, so that the best configuration "
            "is one that stands all its values"
            for path, values in self.parameters.items()
            if suffered(path) and len(values_of(values)) > 1
        ]


def shrink_windows(data: dict[str, Any], traffic_s: float) -> dict[str, Any]:
    """Plain data of a specification whose windows fit into shorter traffic, in proportion to each other.

    Args:
        data: as `Spec.to_dict` gives it.
        traffic_s: how long the traffic lasts [s]. Windows that fit already stay as they are.
    """
    traffic = dict(data["traffic"])
    windows = {name: dict(traffic[name]) for name in ("train", "evaluate") if traffic.get(name)}
    longest_s = max((window["start"] + window["duration"] for window in windows.values()), default=0.0)
    if longest_s <= traffic_s:
        return data
    share = traffic_s / longest_s
    for name, window in windows.items():
        traffic[name] = {key: math.floor(seconds * share) for key, seconds in window.items()}
    shrunk = {**data, "traffic": traffic}
    if data.get("duration") is not None and "train" in windows:
        shrunk["duration"] = min(data["duration"], traffic["train"]["duration"])
    return shrunk


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
    elif not os.path.exists(path) and path.name == str(name_or_path) and not path.suffix:
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
        # os.path takes a name that is too long for a file as one that is none
        return str((folder / name).absolute()) if isinstance(name, str) and os.path.isfile(folder / name) else name

    changed = dict(data)
    if data.get("profile") not in profile_names():
        changed |= {"profile": located(data["profile"])} if "profile" in data else {}
    traffic = data.get("traffic")
    if isinstance(traffic, dict) and "trace" in traffic:
        changed["traffic"] = traffic | {"trace": located(traffic["trace"])}
    return changed
