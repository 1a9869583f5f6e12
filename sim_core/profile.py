"""Profiles: an environment described once, checked strictly, frozen.

A profile is written in YAML, in the words of the components it describes (Kubernetes, PostgreSQL, Redis). Units stand
in the names; `world.py` converts them. Every problem of a file is reported at once, with path, rule and value.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, create_model, model_validator

from sim_core.bundled import PROFILES, names_in
from sim_core.components import COMPONENTS
from sim_core.dataplane.services import graph, graph_rules
from sim_core.dataplane.services import profile as services
from sim_core.dataplane.services.graph_rules import warnings_of
from sim_core.dataplane.services.profile import (
    MAX_CLASSES,
    MAX_LOG,
    MAX_POLICIES,
    MAX_RETRY_TICKS,
    MAX_SERVICES,
    Autoscaler,
    Client,
    Container,
    DnsLabel,
    Ingress,
    Lifecycle,
    RequestClass,
    ScalingRules,
    Service,
)
from sim_core.documents import (
    Location,
    Number,
    Problem,
    Section,
    dotted,
    examine,
    list_depth,
    read_yaml,
    refuse_inconsistent,
    section_of,
    shown,
    validate,
)
from sim_core.errors import ProfileError, nearest

__all__ = [
    "MAX_LOG",
    "MAX_POLICIES",
    "MAX_RETRY_TICKS",
    "Autoscaler",
    "Client",
    "Container",
    "Controller",
    "CoreProfile",
    "Ingress",
    "Lifecycle",
    "Prices",
    "Profile",
    "ScalingRules",
    "Service",
    "Slo",
    "Telemetry",
    "bundled_profiles",
    "ideal_latency_seconds",
    "load_profile",
    "profile_model",
    "warnings_of",
]

_UNIT = r"(seconds|cores|bytes|pct|ratio|usd\w*|per_\w+)"  # what the names of quantities end in


class Slo(Section):
    """What users were promised."""

    objective: Number = Field(
        gt=0,
        lt=1,
        description="Share of valid requests that must be good: answered without error within the threshold [1].",
    )
    latency_threshold_seconds: Number = Field(
        ge=0.001,
        le=60,
        description="A slower answer is not a good one, end to end as the client sees it, retries included [s].",
    )
    window_days: Number = Field(
        default=30,
        gt=0,
        le=366,
        description="Window of the error budget [days]; default: a rolling month, as SRE teams use.",
    )


class Telemetry(Section):
    """Path of a pod's CPU use to its readers: cAdvisor, kubelet, metrics-server."""

    scrape_interval_seconds: Number = Field(
        default=15,
        gt=0,
        le=600,
        description="--metric-resolution of metrics-server [s], and the window that a sample is the mean over; "
        "default: its released manifest.",
    )
    delay_seconds: Number = Field(ge=0, le=600, description="From the end of a window until a reader sees it [s].")


class Controller(Section):
    """Flags of kube-controller-manager; defaults are upstream's."""

    sync_period_seconds: Number = Field(
        default=15, gt=0, le=600, description="--horizontal-pod-autoscaler-sync-period [s]."
    )
    tolerance: Number = Field(default=0.1, ge=0, lt=1, description="--horizontal-pod-autoscaler-tolerance [1].")
    cpu_initialization_period_seconds: Number = Field(
        default=300, ge=0, le=3600, description="--horizontal-pod-autoscaler-cpu-initialization-period [s]."
    )
    initial_readiness_delay_seconds: Number = Field(
        default=30, ge=0, le=3600, description="--horizontal-pod-autoscaler-initial-readiness-delay [s]."
    )
    downscale_stabilization_window_seconds: Number = Field(
        default=300, ge=0, le=3600, description="--horizontal-pod-autoscaler-downscale-stabilization [s]."
    )


class Prices(Section):
    """What running costs, beside database and cache."""

    usd_per_core_hour: Number = Field(ge=0, le=1000, description="Price of a requested core [USD/h].")
    usd_per_gib_hour: Number = Field(ge=0, le=1000, description="Price of a requested GiB of memory [USD/h].")
    load_balancer_usd_per_hour: Number = Field(ge=0, le=1000, description="Price of the load balancer [USD/h].")


@dataclass(frozen=True)
class Component:
    """What the profile module of a component declares; see `sim_core/components.py`."""

    key: str
    section: type[Section]
    description: str
    broken_rules: Callable[[Any], Iterator[Problem]]


class CoreProfile(Section):
    """An environment: what users were promised, what serves them, what steers it and what it costs.

    The sections of components are added by `profile_model`; `components` says which.
    """

    components: ClassVar[tuple[Component, ...]] = ()

    name: DnsLabel = Field(description="DNS label of the profile.")
    description: str = Field(min_length=1, max_length=1000, description="One or two sentences for people.")
    tick_seconds: Number = Field(default=1.0, ge=0.1, le=5, description="Step of the simulation [s].")
    slo: Slo = Field(description="Service level objective.")
    requests: tuple[RequestClass, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_CLASSES,
        strict=False,
        description="Kinds of requests; null: one, which visits every service in turn.",
    )
    ingress: Ingress = Field(description="Load balancer.")
    services: tuple[Service, ...] = Field(
        min_length=1,
        max_length=MAX_SERVICES,
        strict=False,
        description="Services; without `requests` in call order: each request visits every one in turn.",
    )
    telemetry: Telemetry = Field(description="How late and how smooth the autoscaler sees the pods.")
    controller: Controller = Field(default=Controller(), description="HPA controller.")
    prices: Prices = Field(description="Prices.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        return refuse_inconsistent(self, self.broken_rules)

    @classmethod
    def broken_rules(cls, profile: Any) -> Iterator[Problem]:
        """Broken rules between the fields of a profile of this class. Also sees profiles with invalid fields (as NaN)."""
        yield from _ticks_broken(profile)
        yield from graph_rules.broken_rules(profile)
        yield from services.broken_rules(profile)
        for component in cls.components:
            yield from component.broken_rules(profile)
        yield from services.too_long_for_log(
            profile,
            ("controller", "downscale_stabilization_window_seconds"),
            profile.controller.downscale_stabilization_window_seconds,
        )

    @classmethod
    def from_dict(cls, data: Any, where: str = "profile") -> Self:
        """A profile from plain data, as `to_dict` gives it or a YAML file holds it.

        Raises:
            ProfileError: with every problem of `data`; `where` names its origin.
        """
        return validate(cls, data, where, ProfileError, cls.broken_rules)

    def to_dict(self) -> dict[str, Any]:
        """Plain data (dict, list, str, int, float, None): every field, defaults included, in the schema's order."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """sha256 [hex] of the canonical JSON: equal profiles, however they are written, have equal digests."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def with_overrides(self, overrides: Mapping[str, Any]) -> Self:
        """This profile with other values at dotted paths; list items by index, those with a name also by name.

        Args:
            overrides: value by path, `{"services.api.replicas.max": 20, "cache": None}`. A section that is null is
                created when a path leads into it.

        Raises:
            ProfileError: unknown paths (with the nearest known key), one field given twice, or a result that breaks the
                schema; every problem at once.
        """
        data = self.to_dict()
        problems, targets = [], dict[Location, str]()
        for path in overrides:
            try:
                _claim(targets, _target(type(self), data, path), path)
            except LookupError as unknown:
                problems.append(str(unknown.args[0]))
        for target, path in targets.items():
            _put(data, target, overrides[path])
        found, profile = examine(type(self), data, self.broken_rules)
        if problems or profile is None:
            raise ProfileError(f"{self.name} with overrides", problems + found)
        return profile


def profile_model(components: tuple[str, ...] = COMPONENTS) -> type[CoreProfile]:
    """The class of profiles with a section for each component, null where a profile leaves it out.

    Args:
        components: packages, as `sim_core/components.py` lists them.
    """
    modules = [importlib.import_module(f"{package}.profile") for package in components]
    declared = tuple(Component(part.KEY, part.SECTION, part.DESCRIPTION, part.broken_rules) for part in modules)
    sections: dict[str, Any] = {
        part.key: (part.section | None, Field(default=None, description=part.description)) for part in declared
    }
    model = create_model("Profile", __base__=CoreProfile, __module__=__name__, __doc__=CoreProfile.__doc__, **sections)
    model.components = declared
    return model


if TYPE_CHECKING:

    class Profile(CoreProfile):
        """What `profile_model()` makes: with sections that only the components know."""

        def __getattr__(self, name: str) -> Any: ...

else:
    Profile = profile_model()


def bundled_profiles() -> list[str]:
    """Names of the profiles that come with the package, sorted."""
    return names_in(PROFILES)


def load_profile(name_or_path: str | Path) -> Profile:
    """A bundled profile by name, or one from a YAML file.

    Args:
        name_or_path: a name of `bundled_profiles()`, or a path.

    Raises:
        ProfileError: unknown name, unreadable file, bad YAML, or a broken schema; all problems at once.
    """
    known = bundled_profiles()
    path = PROFILES / f"{name_or_path}.yaml" if str(name_or_path) in known else Path(name_or_path)
    named = isinstance(name_or_path, str) and os.sep not in name_or_path and not path.suffix
    if named and not os.path.exists(name_or_path):
        hint = nearest(str(name_or_path), known)
        raise ProfileError(shown(name_or_path), f"unknown profile (known: {', '.join(known)}; or name a file){hint}")
    return Profile.from_dict(read_yaml(path, ProfileError), str(path))


# --- Rules between fields


def _ticks_broken(profile: Any) -> Iterator[Problem]:
    for section, field in (
        ("telemetry", "scrape_interval_seconds"),
        ("telemetry", "delay_seconds"),
        ("controller", "sync_period_seconds"),
    ):
        value = getattr(getattr(profile, section), field)
        if abs(math.remainder(value, profile.tick_seconds)) > 1e-9 * profile.tick_seconds:
            yield Problem((section, field), f"must be a multiple of tick_seconds {profile.tick_seconds:g}", value)
        elif field != "delay_seconds" and value < 0.5 * profile.tick_seconds:
            yield Problem((section, field), f"must be at least tick_seconds {profile.tick_seconds:g}", value)
    telemetry = profile.telemetry
    if telemetry.delay_seconds > telemetry.scrape_interval_seconds:
        rule = f"must be at most scrape_interval_seconds {telemetry.scrape_interval_seconds:g}"
        yield Problem(("telemetry", "delay_seconds"), rule, telemetry.delay_seconds)


def ideal_latency_seconds(profile: Any) -> float:
    """Mean end-to-end time of a request that waits nowhere, on warm pods, with every cacheable read a hit [s]."""
    return graph.build(profile).mean_idle_s


# --- Overrides


def _target(model: type[Section], data: dict[str, Any], path: str) -> Location:
    """Location of a dotted path; LookupError with a problem line when the schema or the data have no such place."""
    if not isinstance(path, str):
        raise LookupError(f"{shown(path)}: a path must be text such as services.0.replicas.max")
    at: list[int | str] = []
    section: type[Section] | None = model
    node: Any = data
    depth = 0  # lists around what `node` is a list of
    for step in path.split("."):
        here = dotted([*at, step])
        if depth > 0:
            index = _item(node or [], step, here)
            at.append(index)
            node, depth = node[index], depth - 1
        elif section is None:
            raise LookupError(f"{here}: unknown key; {dotted(at)} holds a value, not keys")
        elif step not in section.model_fields:
            raise LookupError(_unknown_place(model, data, path, [*at, step], section))
        else:
            annotation = section.model_fields[step].annotation
            section, depth = section_of(annotation), list_depth(annotation)
            at.append(step)
            node = node.get(step) if isinstance(node, dict) else None
    return tuple(at)


def _unknown_place(
    model: type[Section], data: dict[str, Any], path: str, at: list[int | str], section: type[Section]
) -> str:
    """Problem line of a path that leads nowhere: the nearest key beside it, else the nearest path there is."""
    line = f"{dotted(at)}: unknown key"
    hint = nearest(str(at[-1]), section.model_fields)
    return line + (hint or _nearest_path(path, list(_value_paths(model, data))))


def _nearest_path(path: str, known: list[str]) -> str:
    """`; did you mean 'services.api.lifecycle.startup_seconds'?` for a path, a part or the last word of one, or nothing.

    The end of a path counts most, then a last key without its unit, the beginning of one, and one that is spelled alike.
    """
    word = path.rpartition(".")[2]
    leaves = {other: other.rpartition(".")[2] for other in known}
    candidates = (
        [other for other in known if other.endswith(f".{path}")]
        or [
            other for other, leaf in leaves.items() if leaf == word or re.fullmatch(rf"{re.escape(word)}_{_UNIT}", leaf)
        ]
        or [other for other, leaf in leaves.items() if leaf.startswith(f"{word}_")]
        or [other for other, leaf in leaves.items() if leaf in difflib.get_close_matches(word, set(leaves.values()), 1)]
    )
    if not candidates:
        return ""
    best = max(candidates, key=lambda other: difflib.SequenceMatcher(None, path, other).ratio())
    return f"; did you mean '{best}'?"


def _value_paths(section: type[Section], data: Any, prefix: str = "") -> Iterator[str]:
    """Every path that holds a value, list items by name where they have one; sections that are null by their schema."""
    for name, field in section.model_fields.items():
        below, here = section_of(field.annotation), f"{prefix}{name}"
        value = data.get(name) if isinstance(data, dict) else None
        if below is None:
            yield here
        else:
            yield from _paths_within(below, list_depth(field.annotation), value, here)


def _paths_within(section: type[Section], depth: int, value: Any, at: str) -> Iterator[str]:
    if depth == 0:
        yield from _value_paths(section, value, f"{at}.")
        return
    for index, item in enumerate(value or []):
        yield from _paths_within(section, depth - 1, item, f"{at}.{_name_of(item) or index}")


def _name_of(item: Any) -> str | None:
    """How a list item is called in a path, unless by its index; an edge by the service that it leads to."""
    return item.get("name", item.get("service")) if isinstance(item, dict) else None


def _item(items: list[Any], step: str, here: str) -> int:
    names = [_name_of(item) for item in items]
    if step in names:
        return names.index(step)
    if step.isascii() and step.isdigit() and int(step) < len(items):
        return int(step)
    named = [name for name in names if name is not None]
    known = ", ".join(named) or (f"0 to {len(items) - 1}" if items else "none")
    raise LookupError(f"{here}: no such item (there are: {known}){nearest(step, named)}")


def _claim(targets: dict[Location, str], target: Location, path: str) -> None:
    """Remember that a path sets a place; LookupError when another one sets it, a part of it, or the whole around it."""
    for other, other_path in targets.items():
        shared = min(len(other), len(target))
        if other[:shared] == target[:shared]:
            raise LookupError(f"{path}: overlaps with the override {other_path}")
    targets[target] = path


def _put(data: dict[str, Any], target: Location, value: Any) -> None:
    node: Any = data
    for step in target[:-1]:
        if isinstance(step, str) and node.get(step) is None:
            node[step] = {}
        node = node[step]
    node[target[-1]] = deepcopy(value)
