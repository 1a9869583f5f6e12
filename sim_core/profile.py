"""Profiles: an environment described once, checked strictly, frozen.

A profile is written in YAML, in the words of the components it describes (Kubernetes, PostgreSQL, Redis). Units stand
in the names; `world.py` converts them. Every problem of a file is reported at once, with path, rule and value.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, create_model, model_validator

from sim_core.bundled import EXAMPLES, PROFILES, names_in, profile_file, profile_names
from sim_core.components import COMPONENTS
from sim_core.dataplane.services import graph, graph_rules, rules
from sim_core.dataplane.services.graph_rules import warnings_of
from sim_core.dataplane.services.profile import (
    MAX_CLASSES,
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
    Number,
    Problem,
    Section,
    examine,
    read_yaml,
    refuse_inconsistent,
    shown,
    validate,
)
from sim_core.errors import ProfileError, nearest
from sim_core.overrides import override

__all__ = [
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
    "example_profiles",
    "ideal_latency_seconds",
    "in_long_ticks",
    "load_profile",
    "profile_model",
    "warnings_of",
]

_MAX_TICK_S = 5.0
_PERIODS = (  # of whole ticks
    ("telemetry", "scrape_interval_seconds"),
    ("telemetry", "delay_seconds"),
    ("controller", "sync_period_seconds"),
)


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
    tick_seconds: Number = Field(default=1.0, ge=0.1, le=_MAX_TICK_S, description="Step of the simulation [s].")
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
        yield from rules.broken_rules(profile)
        for component in cls.components:
            yield from component.broken_rules(profile)

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
        problems = override(type(self), data, overrides)
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
    """Names of the environments that come with the package, sorted."""
    return names_in(PROFILES)


def example_profiles() -> list[str]:
    """Names of the examples of graphs of services that come with the package, sorted."""
    return names_in(EXAMPLES)


def load_profile(name_or_path: str | Path) -> Profile:
    """A bundled profile by name, or one from a YAML file.

    Args:
        name_or_path: a name of `bundled_profiles()` or `example_profiles()`, or a path.

    Raises:
        ProfileError: unknown name, unreadable file, bad YAML, or a broken schema; all problems at once.
    """
    known = profile_names()
    path = profile_file(str(name_or_path)) or Path(name_or_path)
    named = isinstance(name_or_path, str) and os.sep not in name_or_path and not path.suffix
    if named and not os.path.exists(name_or_path):
        hint = nearest(str(name_or_path), known)
        raise ProfileError(shown(name_or_path), f"unknown profile (known: {', '.join(known)}; or name a file){hint}")
    return Profile.from_dict(read_yaml(path, ProfileError), str(path))


# --- Rules between fields


def _ticks_broken(profile: Any) -> Iterator[Problem]:
    for section, field in _PERIODS:
        value = getattr(getattr(profile, section), field)
        if abs(math.remainder(value, profile.tick_seconds)) > 1e-9 * profile.tick_seconds:
            yield Problem((section, field), f"must be a multiple of tick_seconds {profile.tick_seconds:g}", value)
        elif field != "delay_seconds" and value < 0.5 * profile.tick_seconds:
            yield Problem((section, field), f"must be at least tick_seconds {profile.tick_seconds:g}", value)
    telemetry = profile.telemetry
    if telemetry.delay_seconds > telemetry.scrape_interval_seconds:
        rule = f"must be at most scrape_interval_seconds {telemetry.scrape_interval_seconds:g}"
        yield Problem(("telemetry", "delay_seconds"), rule, telemetry.delay_seconds)


def in_long_ticks(profile: Profile) -> Profile:
    """The profile in the longest ticks that it may have: what learners play.

    The fluid engine is implicit in time: longer ticks cost a learner next to nothing, and a decision takes fewer of them
    (a third of the time in `production`, where the share of bad requests moves by 2 %).
    """
    periods = [
        Fraction(getattr(getattr(profile, section), field)).limit_denominator(1000) for section, field in _PERIODS
    ]
    scale = math.lcm(*(period.denominator for period in periods))
    common_s = math.gcd(*(int(period * scale) for period in periods)) / scale
    tick_s = common_s / math.ceil(common_s / _MAX_TICK_S)
    return profile.with_overrides({"tick_seconds": tick_s}) if tick_s > profile.tick_seconds else profile


def ideal_latency_seconds(profile: Any) -> float:
    """Mean end-to-end time of a request that waits nowhere, on warm pods, with every cacheable read a hit [s]."""
    return graph.build(profile).mean_idle_s
