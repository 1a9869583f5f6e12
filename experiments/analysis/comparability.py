"""Which sweeps may be compared: those that asked the same of the same environment under the same traffic.

A configuration is better than another one only where both met the same. Sweeps whose bases are equal are one group; what
differs between groups is said, and no configuration is best across them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.analysis.comparison import limits_words, scenario_words
from experiments.planning.values import combinations, limits_of
from experiments.store.identity import digest
from sim_core.documents import shown
from sim_core.engines import FLUID
from sim_core.profile import load_profile

UNKNOWN = "not kept: the sweep was registered by an earlier version; run it again to compare it with others"
_MOST_PATHS = 5


@dataclass(frozen=True)
class Basis:
    """What all points of a sweep have in common.

    Attributes:
        facts: what must be equal, as text for people, by name, in the order in which a reader wants it.
        digests: the same, to the bit; of an older sweep its id, for what it played under is not known.
        minimize: indicator of the objective.
        subject_to: its constraints as numbers.
        profile: as plain data; empty if unknown.
    """

    facts: Mapping[str, str]
    digests: Mapping[str, str]
    minimize: str
    subject_to: Mapping[str, float]
    profile: Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Sweeps that may be compared, and what makes them so."""

    sweeps: tuple[str, ...]
    basis: Basis


def basis_of(manifest: Mapping[str, Any]) -> Basis:
    """The basis of a registered sweep.

    Args:
        manifest: of `ResultStore.manifest`.

    Raises:
        ProfileError: an older manifest does not hold the profile, and the specification's cannot be read.
    """
    spec, kept = manifest["spec"], manifest.get("basis")
    profile = kept["profile"] if kept else load_profile(spec["profile"]).to_dict()
    minimize, slo = spec["objective"]["minimize"], profile["slo"]
    subject_to = limits_of(spec["objective"]["subject_to"], slo["objective"])
    scenarios = [dict(scenario) for scenario in combinations(spec.get("scenarios") or {})]
    asked = {
        "SLO": f"{slo['objective']:.6g} within {slo['latency_threshold_seconds']:g} s",
        "objective": f"least {minimize}, {limits_words(subject_to)}",
        "scenarios": "; ".join(map(scenario_words, scenarios)) if scenarios[0] else "none",
    }
    if not kept:
        met = dict.fromkeys(("traffic", "window", "profile", "engine", "simulator"), UNKNOWN)
        return Basis({**met, **asked}, {"sweep": manifest["sweep_id"]}, minimize, subject_to, {})
    traffic = kept["traffic"]
    met = {
        "traffic": f"{traffic['name']}, peak {traffic['peak_per_s']:.6g}/s ({traffic['digest'][:8]})",
        "window": f"{kept['duration_s']:g} s from {kept['start_s']:g} s",
        "profile": f"{profile['name']} ({digest(profile)[:8]})",
        "engine": kept.get("engine", FLUID),  # manifests that name none are older than the other one
        "simulator": kept["version"],
    }
    exact = {"traffic": traffic["digest"], "profile": digest(profile), "objective": digest([minimize, subject_to]),
             "scenarios": digest(sorted(json.dumps(scenario, sort_keys=True) for scenario in scenarios))}  # fmt: skip
    facts = {**met, **asked}
    return Basis(facts, {**facts, **exact}, minimize, subject_to, profile)


def groups_of(manifests: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The sweeps as groups of comparable ones, in the order given.

    Raises:
        ProfileError: see `basis_of`.
    """
    groups: dict[str, Group] = {}
    for manifest in manifests:
        basis = basis_of(manifest)
        key = digest(dict(basis.digests))
        known = groups[key].sweeps if key in groups else ()
        groups[key] = Group((*known, manifest["sweep_id"]), basis)
    return list(groups.values())


def differences(groups: Sequence[Group]) -> list[str]:
    """What differs between groups: a line each, with what each group has; empty for a single group."""
    lines = []
    for name in groups[0].basis.facts:
        values = [group.basis.facts[name] for group in groups]
        exact = {group.basis.digests.get(name, UNKNOWN) for group in groups}
        if len(exact) > 1 or UNKNOWN in values:
            told = "; ".join(f"group {i} {value}" for i, value in enumerate(values, start=1))
            lines.append(f"{name}: {told}")
    return lines + _profile_paths([group.basis.profile for group in groups]) if len(groups) > 1 else []


def _profile_paths(profiles: Sequence[Mapping[str, Any]]) -> list[str]:
    flat = [_leaves(profile) for profile in profiles]
    if any(not leaves for leaves in flat):
        return []
    paths = dict.fromkeys(path for leaves in flat for path in leaves)
    changed = [path for path in paths if len({repr(leaves.get(path)) for leaves in flat}) > 1]
    lines = []
    for path in changed[:_MOST_PATHS]:
        told = "; ".join(f"group {i} {shown(leaves.get(path))}" for i, leaves in enumerate(flat, start=1))
        lines.append(f"profile {path}: {told}")
    more = len(changed) - _MOST_PATHS
    return lines + ([f"profile: {more} more paths differ"] if more > 0 else [])


def _leaves(data: Any, prefix: str = "") -> dict[str, Any]:
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else None
    if items is None:
        return {prefix.removesuffix("."): data}
    return {path: value for name, item in items for path, value in _leaves(item, f"{prefix}{name}.").items()}
