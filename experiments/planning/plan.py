"""From a specification to points: what is simulated, under which key, in which order and in which batches."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from agents.policies.registry import scaler_of
from experiments.analysis.comparison import label
from experiments.planning.spec import Spec, Traffic
from experiments.planning.values import Settings, combinations
from experiments.store.identity import digest, simulator_version
from sim_core.dates import end_of_window_s, today
from sim_core.engines import FLUID
from sim_core.errors import SpecError
from sim_core.profile import Profile, load_profile
from sim_core.workload import Trace, bundled_traffic, read_trace
from sim_core.workload.prometheus import read_prometheus
from sim_core.workload.rolling import generated_until, last_part
from sim_core.world import Lane, scale_to_replicas

LANES_PER_BATCH = 64


@dataclass(frozen=True)
class Point:
    """One simulation of a sweep: one lane.

    `profile_digest` is that of the profile as played, after `overrides` (what was decided) and `scenario` (what it
    meets), and `decision_digest` that after `overrides` alone, when there is a scenario. `trace_digest` is that of the
    whole scaled traffic, of which the point plays `duration_s` from `start_s`. `engine` serves the requests: what one
    engine finds is no result of the other.
    """

    profile: str
    profile_digest: str
    overrides: Settings
    trace_digest: str
    policy: str
    settings: Settings
    seed: int
    start_s: float
    duration_s: float
    scenario: Settings = ()
    decision_digest: str | None = None
    engine: str = FLUID

    @cached_property
    def configuration_key(self) -> str:
        """sha256 [hex, 24 digits] over everything that was decided or given, the simulator included.

        It leaves out the seed and the scenario: a configuration is played under every seed in every scenario.
        """
        return self._identity(self.decision_digest or self.profile_digest)

    @cached_property
    def key(self) -> str:
        """sha256 [hex, 24 digits] over everything that decides the result.

        What is played decides it, not what it is called: the same value as a parameter or as a scenario is one point.
        """
        return digest({"configuration": self._identity(self.profile_digest), "seed": self.seed})

    def _identity(self, profile_digest: str) -> str:
        return digest(
            {
                "profile": profile_digest,
                "trace": self.trace_digest,
                "policy": self.policy,
                "settings": dict(self.settings),
                "start_s": self.start_s,
                "duration_s": self.duration_s,
                "engine": self.engine,
                "version": simulator_version(),
            }
        )

    @property
    def label(self) -> str:
        """The configuration in one line, for people; without the scenario, which is none of its own doing."""
        return label(self.policy, dict(self.settings), dict(self.overrides))

    def row(self) -> dict[str, Any]:
        """Columns of a result row that say what was simulated; settings, parameters and scenario as JSON."""
        return {
            "key": self.key,
            **self.identity(),
            "profile_digest": self.profile_digest,
            "trace_digest": self.trace_digest,
            "seed": self.seed,
            "start_s": self.start_s,
            "duration_s": self.duration_s,
            "engine": self.engine,
        }

    def identity(self) -> dict[str, str]:
        """The columns of `row` in which sweeps that share the point may differ: how each of them calls it."""
        return {
            "configuration_key": self.configuration_key,
            "profile": self.profile,
            "policy": self.policy,
            "settings": json.dumps(dict(self.settings)),
            "parameters": json.dumps(dict(self.overrides)),
            "scenario": json.dumps(dict(self.scenario), sort_keys=True),  # the same in whatever order it is written
        }


@dataclass(frozen=True)
class Plan:
    """All points of a specification, with the traffic and the profiles that they name by digest."""

    spec: Spec
    points: tuple[Point, ...]
    trace: Trace
    profile: Profile
    profiles: Mapping[str, Profile]

    @cached_property
    def sweep_id(self) -> str:
        """Name and digest of the points: the same question has the same id, whenever it is asked."""
        asked: list[Any] = [point.key for point in self.points]
        if self.spec.scenarios:  # the same points under `parameters` are another question
            asked.append([point.scenario for point in self.points])
        return f"{self.spec.name}-{digest(asked)[:10]}"

    @property
    def keys(self) -> list[str]:
        """Keys of all points, in order."""
        return [point.key for point in self.points]

    def basis(self) -> dict[str, Any]:
        """What all points have in common, as plain data: results are comparable only where this is the same."""
        return {
            "version": simulator_version(),
            "profile": self.profile.to_dict(),
            "traffic": {
                "name": self.trace.name,
                "digest": self.trace.digest,
                "mean_per_s": self.trace.mean_per_s,
                "peak_per_s": self.trace.peak_per_s,
            },
            "start_s": self.points[0].start_s,
            "duration_s": self.points[0].duration_s,
            "engine": self.spec.engine,
        }

    def pending(self, finished: Collection[str]) -> list[Point]:
        """Points without a result yet, in order."""
        return [point for point in self.points if point.key not in finished]

    def lanes(self, finished: Collection[str] = ()) -> Iterator[tuple[Lane, float]]:
        """The world of each pending point and how long it is played [s], in order."""
        for point in self.pending(finished):
            yield lane_of(point, self.trace, self.profiles), point.duration_s

    def batches(
        self, finished: Collection[str] = (), workers: int = 1, lanes: int = LANES_PER_BATCH
    ) -> list[list[Point]]:
        """`pack` of the pending points, by the shapes of their profiles."""
        shapes = {digest: _shape(profile.to_dict()) for digest, profile in self.profiles.items()}
        return pack(self.pending(finished), lanes, workers, shapes)


def make_plan(spec: Spec) -> Plan:
    """Reads profile and traffic of a specification and expands it.

    Points are ordered by policy, settings, parameters, scenario and seed, as written; equal ones are listed once. The
    scale of the traffic is that of the profile without overrides, so that all points of a sweep get the same load.

    Raises:
        SpecError: the windows do not fit into the trace.
        InputError: profile or trace cannot be read.
    """
    profile = load_profile(spec.profile)
    trace = traffic_of(spec, profile)
    start_s = spec.traffic.train.start if spec.traffic.train else 0.0
    duration_s = spec.duration or (spec.traffic.train.duration if spec.traffic.train else trace.duration_s - start_s)
    worlds = _worlds(spec, profile)
    profiles = {world.digest: world for _, _, _, world in worlds}
    seeds = range(spec.seeds.first, spec.seeds.first + spec.seeds.count)
    points = (
        Point(profile.name, world.digest, chosen, trace.digest, policy, settings, seed, start_s, duration_s,
              scenario, decided, spec.engine)
        for policy, settings in spec.settings()
        for chosen, scenario, decided, world in worlds
        for seed in seeds
    )  # fmt: skip
    unique = {point.key: point for point in points}
    return Plan(spec, tuple(unique.values()), trace, profile, profiles)


def _worlds(spec: Spec, profile: Profile) -> list[tuple[Settings, Settings, str | None, Profile]]:
    """Parameters, scenario, digest of the profile that was decided on (None without scenarios), and the one played."""
    worlds: list[tuple[Settings, Settings, str | None, Profile]] = []
    scenarios = combinations(spec.scenarios)
    for chosen in combinations(spec.parameters):
        decided = profile.with_overrides(dict(chosen))
        for scenario in scenarios:
            played = profile.with_overrides({**dict(chosen), **dict(scenario)}) if scenario else decided
            worlds.append((chosen, scenario, decided.digest if scenario else None, played))
    return worlds


def lane_of(point: Point, trace: Trace, profiles: Mapping[str, Profile]) -> Lane:
    """The world of a point.

    Args:
        trace: the whole scaled traffic of its sweep.
        profiles: profile of each `profile_digest`.
    """
    scaler = scaler_of(point.policy, dict(point.settings))
    return Lane(profiles[point.profile_digest], trace, point.seed, point.start_s, scaler)


def worlds_of(spec: Spec, profile: Profile) -> list[Profile]:
    """Every profile that a specification plays, in its order, each once."""
    return list({world.digest: world for _, _, _, world in _worlds(spec, profile)}.values())


def expand(spec: Spec) -> list[Point]:
    """The points of a specification, in order; see `make_plan`."""
    return list(make_plan(spec).points)


def traffic_of(spec: Spec, profile: Profile) -> Trace:
    """The whole traffic of a specification, read, asked for or generated, and scaled to the profile.

    Raises:
        SpecError: a window or the duration of a point reaches beyond the end of the trace.
        TraceError: the trace cannot be read, or is shorter than `last`.
    """
    traffic = spec.traffic
    windows = {"traffic.train": traffic.train, "traffic.evaluate": traffic.evaluate}
    ends = {name: window.start + window.duration for name, window in windows.items() if window}
    if spec.duration and not traffic.train:
        ends["duration"] = spec.duration
    trace = _rolling(traffic, traffic.last) if traffic.last else _whole(traffic, max(ends.values(), default=0.0))
    beyond = [f"{name}: must end within the trace, which lasts {trace.duration_s:g} s (ends at {end_s:g} s)"
              for name, end_s in ends.items() if end_s > trace.duration_s * (1 + 1e-12)]  # fmt: skip
    if beyond:
        raise SpecError(f"{spec.name} on {trace.name}", beyond)
    replicas = traffic.scale_peak_to_replicas
    return scale_to_replicas(trace, profile, replicas) if replicas else trace


def _whole(traffic: Traffic, end_s: float) -> Trace:
    if traffic.trace:
        return read_trace(traffic.trace)
    return bundled_traffic(str(traffic.generator)).generate(end_s, seed=traffic.seed)


def _rolling(traffic: Traffic, last_s: float) -> Trace:
    """The last part of the traffic [s]: of a file by its own length, else until its date, or today."""
    date = traffic.date or today()
    if traffic.prometheus:
        asked = traffic.prometheus
        return read_prometheus(asked.url, asked.query, end_of_window_s(date), last_s, asked.step)
    if traffic.trace:
        return last_part(read_trace(traffic.trace), last_s)
    return generated_until(bundled_traffic(str(traffic.generator)), date, last_s, traffic.seed)


def pack(
    points: Sequence[Point],
    lanes_per_batch: int = LANES_PER_BATCH,
    workers: int = 1,
    shapes: Mapping[str, str] | None = None,
) -> list[list[Point]]:
    """Points as batches that are simulated together, evenly filled, in order.

    Args:
        points: what to simulate.
        lanes_per_batch: most points of a batch.
        workers: actors that share the work; there are enough batches to keep all of them busy.
        shapes: shape of the profile of each `profile_digest`; only equal shapes, durations and engines share a
            batch.

    Returns:
        Every point exactly once.
    """
    groups: dict[tuple[str, float, str], list[Point]] = {}
    for point in points:
        shape = shapes[point.profile_digest] if shapes else point.profile_digest
        groups.setdefault((shape, point.duration_s, point.engine), []).append(point)
    batches = []
    for group in groups.values():
        count = max(math.ceil(len(group) / lanes_per_batch), math.ceil(workers / len(groups)))
        if count > 1:
            count = math.ceil(count / workers) * workers  # no actor idles while another takes the last batch
        count = min(count, len(group))
        edges = [len(group) * i // count for i in range(count + 1)]
        batches += [group[begin:end] for begin, end in pairwise(edges)]
    return batches


def _shape(data: Any) -> str:
    """Structure of a profile: which sections there are, how long the lists are, and the tick, which lanes share."""
    if isinstance(data, dict):
        parts = (f"{name}:{value if name == 'tick_seconds' else _shape(value)}" for name, value in sorted(data.items()))
        return "{" + ",".join(parts) + "}"
    if isinstance(data, list):
        return "[" + ",".join(_shape(item) for item in data) + "]"
    return "0" if data is None else "1"
