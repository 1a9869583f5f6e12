"""What both engines are asked: worlds, traffic and scalers, each by a name.

Every scenario is `production` with some values changed, or a graph of services of its own. Those with `fitting` may be
looked at while coefficients are fitted; a verdict counts the others alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experiments.agreement.graphs import GRAPHS
from sim_core.profile import Profile, load_profile
from sim_core.workload import Trace, read_trace
from sim_core.world import Lane, Scaler, scale_to_replicas

BASE = "production"
STEP_S = 10.0  # of written traffic
REQUESTS_PER_LANE = 400_000.0
SHORTEST_S, LONGEST_S = 300.0, 1800.0
# Of `production`, so that a fleet twice as large has a database twice as large.
_CORES_PER_POD, _POOL, _RESERVED = 0.08, 4, 3
_API, _CONTAINER, _CLIENT = "services.api", "services.api.container", "services.api.client"
TRACES = ("nasa_http_jul95", "worldcup98_part1", "ms_mongo_app01", "twitter_stream_2021_day03_1s", "servegen_m_small")


@dataclass(frozen=True)
class Scenario:
    """One world under one traffic.

    Attributes:
        name: what `--only` matches.
        changes: values of `production` by dotted path.
        graph: name of a whole profile in `graphs.GRAPHS`, in place of `production`.
        loads: offered CPU load over the time in equal parts [1 of what `pods` serve]; written traffic holds each part,
            or with `ramp` goes straight from each to the next.
        pods: of the fleet that 1 refers to, and that is played unless `hpa`.
        hpa: whether the profile's autoscalers are in the loop.
        trace: name of a trace file, whose busiest stretch is played, its peak at 70 % of `pods`.
        duration_s: how long [s].
        fitting: whether coefficients may be fitted to it.
    """

    name: str
    pods: int
    duration_s: float
    loads: tuple[float, ...] = ()
    ramp: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    graph: str | None = None
    hpa: bool = False
    trace: str | None = None
    fitting: bool = False

    @cached_property
    def profile(self) -> Profile:
        """Its world.

        Raises:
            ProfileError: the changes break the schema.
        """
        if self.graph is not None:
            return Profile.from_dict(GRAPHS[self.graph](), self.name)
        return load_profile(BASE).with_overrides(dict(self.changes))

    def file(self, folder: Path | None) -> Path | None:
        """The file of its trace in a folder of traces."""
        return None if folder is None or self.trace is None else folder / f"{self.trace}.csv.gz"

    def is_playable(self, folder: Path | None) -> bool:
        """Whether its traffic is there: always, but for traces."""
        file = self.file(folder)
        return self.trace is None or (file is not None and file.is_file())

    def traffic(self, folder: Path | None = None) -> Trace:
        """Request rates of its whole duration.

        Args:
            folder: of trace files, for scenarios that have one.

        Raises:
            TraceError: the file cannot be read.
        """
        if self.trace is None:
            full = scale_to_replicas(Trace(self.name, STEP_S, np.ones(1)), self.profile, self.pods).peak_per_s / 0.7
            return Trace(self.name, STEP_S, full * self._shape())
        file = self.file(folder)
        assert file is not None
        whole = read_trace(file)
        start_s = _busiest_s(whole, self.duration_s)
        return scale_to_replicas(whole.slice(start_s, start_s + self.duration_s), self.profile, self.pods)

    def _shape(self) -> np.ndarray:
        steps = round(self.duration_s / STEP_S)
        if self.ramp:
            knots = np.linspace(0.0, steps - 1.0, len(self.loads))
            return np.interp(np.arange(steps), knots, self.loads)
        return np.asarray(self.loads)[np.arange(steps) * len(self.loads) // steps]

    def lanes(self, seeds: Sequence[int], folder: Path | None = None) -> list[Lane]:
        """Its world once a seed: the same lanes for both engines."""
        trace, scaler = self.traffic(folder), Scaler.hpa() if self.hpa else Scaler.static(self.pods)
        return [Lane(self.profile, trace, seed, 0.0, scaler) for seed in seeds]


def _busiest_s(trace: Trace, length_s: float) -> float:
    """Where the stretch of that length with the highest mean begins, in whole steps [s]; 0 for a shorter trace."""
    count = round(length_s / trace.step_s)
    if count >= len(trace.rates_per_s):
        return 0.0
    sums = np.concatenate([[0.0], np.cumsum(trace.rates_per_s)])
    return float(np.argmax(sums[count:] - sums[:-count])) * trace.step_s


def fleet(pods: int, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Changes of `production` that give it so many pods, warm, and a database that they do not exhaust; and further ones."""
    limits = {
        f"{_API}.replicas": {"initial": pods, "min": 1, "max": max(pods, 2)},
        "database.cores": 4.0 + _CORES_PER_POD * pods,
        "database.max_connections": _POOL * pods + 100,
    }
    return limits | dict(changes or {})


def _static(
    balancing: str, sharing: str, load: float, pods: int, scv: float, what: str = "",
    changes: Mapping[str, Any] | None = None, fitting: bool = False,
) -> Scenario:  # fmt: skip
    """A constant load on a fixed fleet.

    Args:
        what: makes it special; stands before what every such name tells.
        changes: further values by dotted path.
    """
    facts = f"{balancing} {sharing} load {load:g} pods {pods} scv {scv:g}"
    rate_per_s = 40.0 * load * pods  # of production's pods
    duration_s = STEP_S * round(min(max(REQUESTS_PER_LANE / rate_per_s, SHORTEST_S), LONGEST_S) / STEP_S)
    world = {"ingress.load_balancing": balancing, f"{_CONTAINER}.cpu_sharing": sharing, f"{_CONTAINER}.cpu_scv": scv}
    return Scenario(
        f"{what}: {facts}" if what else facts,
        pods,
        duration_s,
        (load,),
        changes=fleet(pods, world | dict(changes or {})),
        fitting=fitting,
    )


_LO, _R, _RR, _P2 = "least_outstanding", "random", "round_robin", "power_of_two"
_FIFO, _PS, _CFS = "fifo", "processor_sharing", "cfs_quota"
# Balancing, sharing, load, pods, SCV.
_JUDGED: tuple[tuple[str, str, float, int, float], ...] = (
    (_LO, _FIFO, 0.3, 5, 1.0), (_LO, _PS, 0.5, 20, 1.0), (_LO, _PS, 0.7, 20, 1.0), (_LO, _PS, 0.7, 80, 1.0),
    (_LO, _FIFO, 0.7, 20, 4.0), (_LO, _PS, 0.8, 20, 1.0), (_LO, _PS, 0.8, 200, 0.25), (_LO, _CFS, 0.8, 20, 1.0),
    (_LO, _PS, 0.9, 20, 1.0), (_LO, _FIFO, 0.9, 80, 1.0), (_LO, _PS, 0.95, 20, 1.0), (_LO, _PS, 1.05, 20, 1.0),
    (_LO, _PS, 1.2, 5, 1.0), (_LO, _PS, 1.5, 20, 1.0),
    (_R, _PS, 0.3, 20, 4.0), (_R, _PS, 0.5, 5, 1.0), (_R, _PS, 0.7, 20, 1.0), (_R, _FIFO, 0.7, 80, 1.0),
    (_R, _CFS, 0.7, 20, 4.0), (_R, _PS, 0.8, 200, 1.0), (_R, _PS, 0.9, 20, 1.0), (_R, _PS, 1.05, 80, 1.0),
    (_R, _FIFO, 1.2, 20, 0.25), (_R, _PS, 0.7, 1, 1.0), (_R, _FIFO, 0.9, 1, 4.0),
    (_RR, _PS, 0.5, 80, 1.0), (_RR, _PS, 0.7, 20, 1.0), (_RR, _FIFO, 0.8, 20, 4.0), (_RR, _PS, 0.9, 5, 0.25),
    (_RR, _CFS, 0.9, 20, 1.0), (_RR, _PS, 1.05, 20, 1.0), (_RR, _PS, 1.2, 80, 4.0),
    (_P2, _PS, 0.7, 20, 1.0), (_P2, _FIFO, 0.8, 80, 1.0), (_P2, _PS, 0.9, 20, 4.0), (_P2, _PS, 0.95, 80, 1.0),
    (_P2, _CFS, 1.2, 20, 1.0),
)  # fmt: skip
_FITTED: tuple[tuple[str, str, float, int, float], ...] = (
    (_LO, _PS, 0.6, 10, 1.0), (_LO, _FIFO, 0.6, 40, 1.0), (_LO, _FIFO, 0.85, 10, 0.25), (_LO, _FIFO, 0.85, 40, 4.0),
    (_LO, _PS, 0.93, 40, 1.0), (_LO, _PS, 1.1, 40, 1.0),
    (_R, _FIFO, 0.6, 10, 1.0), (_R, _FIFO, 0.85, 40, 1.0), (_R, _PS, 0.85, 10, 4.0), (_R, _PS, 1.1, 10, 1.0),
    (_RR, _FIFO, 0.6, 10, 1.0), (_RR, _FIFO, 0.85, 40, 1.0), (_RR, _PS, 0.85, 10, 4.0), (_RR, _PS, 1.1, 40, 1.0),
    (_P2, _FIFO, 0.6, 40, 1.0), (_P2, _FIFO, 0.85, 10, 4.0), (_P2, _PS, 1.1, 10, 1.0),
)  # fmt: skip


def _rooms_and_clients() -> Iterator[Scenario]:
    """Rooms that fill up, and callers that give up, try again or do not."""
    small = {f"{_CONTAINER}.workers": 4, f"{_CONTAINER}.queue_limit": 2}
    no_queue = small | {f"{_CONTAINER}.queue_limit": 0}
    no_retries = {f"{_CLIENT}.max_retries": 0}
    many_retries = {f"{_CLIENT}.max_retries": 3, f"{_CLIENT}.retry_budget_ratio": 1.0}
    yield _static(_LO, _PS, 0.9, 20, 1.0, "small room", small)
    yield _static(_R, _PS, 0.8, 20, 1.0, "small room", small)
    yield _static(_R, _FIFO, 0.8, 20, 1.0, "no queue", no_queue)
    yield _static(_RR, _PS, 1.2, 5, 1.0, "small room", small)
    yield _static(_R, _PS, 1.05, 20, 1.0, "no retries", no_retries)
    yield _static(_LO, _PS, 0.9, 20, 1.0, "no retries", no_retries)
    yield _static(_R, _PS, 1.2, 20, 1.0, "many retries", many_retries)
    yield _static(_LO, _PS, 0.85, 20, 1.0, "short timeout", {f"{_CLIENT}.timeout_seconds": 0.5})
    yield _static(_LO, _PS, 0.8, 20, 1.0, "three balancer nodes", {"ingress.balancer_nodes": 3})


def _guarded() -> Iterator[Scenario]:
    """What stands between callers and pods: breakers, ejection, deadlines that are passed on, sessions, slow start."""

    def edge(**guard: Any) -> dict[str, Any]:
        return {"ingress.calls": [{"service": "api", **guard}]}

    breaker = edge(circuit_breaker={"max_requests": 200})
    ejection = edge(outlier_ejection={"consecutive_failures": 5, "max_ejection_share": 0.3})
    long_lines = {f"{_CONTAINER}.workers": 4, f"{_CONTAINER}.queue_limit": 200, f"{_CLIENT}.timeout_seconds": 1.0}
    yield _static(_LO, _PS, 1.2, 20, 1.0, "circuit breaker", breaker)
    yield _static(_R, _PS, 1.2, 20, 1.0, "circuit breaker", breaker)
    yield _static(_LO, _PS, 1.2, 20, 1.0, "outlier ejection", ejection)
    yield _static(_LO, _PS, 1.2, 20, 1.0, "passed deadline", long_lines | edge(pass_deadline=True))
    yield _static(_R, _PS, 1.2, 20, 1.0, "passed deadline", long_lines | edge(pass_deadline=True))
    for share, load in ((0.3, 0.8), (0.7, 0.7)):
        yield _static(_LO, _PS, load, 20, 1.0, f"sticky {share:g}", {"ingress.sticky_share": share})
    wave = (0.2, 0.7, 0.3, 0.7, 0.2)
    world = {"ingress.slow_start_seconds": 60.0}
    yield Scenario("slow start: hpa, waves: least_outstanding", 20, 3600.0, wave, True, world, hpa=True)


def _changing() -> Iterator[Scenario]:
    """Loads that rise and fall, overload that ends, with fixed fleets and with the HPA in the loop."""
    ramp, step = (0.3, 1.1, 0.3), (0.6, 0.6, 0.6, 1.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6)
    for balancing, pods in ((_LO, 20), (_R, 20), (_P2, 80)):
        world = fleet(pods, {"ingress.load_balancing": balancing})
        yield Scenario(f"ramp to 1.1 and back: {balancing} pods {pods}", pods, 1200.0, ramp, True, world)
    for balancing, pods in ((_LO, 20), (_R, 20), (_RR, 80)):
        world = fleet(pods, {"ingress.load_balancing": balancing})
        yield Scenario(f"60 s of 1.5 and recovery: {balancing} pods {pods}", pods, 600.0, step, changes=world)
    wave = (0.2, 0.7, 0.3, 0.7, 0.2)
    for balancing in (_LO, _R):
        world = {"ingress.load_balancing": balancing}
        yield Scenario(f"hpa, waves: {balancing}", 20, 7200.0, wave, True, world, hpa=True)
    yield Scenario("hpa, sudden crowd: least_outstanding", 20, 3600.0, (0.2, 0.6, 0.3), hpa=True)


def _of_traces() -> Iterator[Scenario]:
    """Two busy hours of real traces."""
    for index, trace in enumerate(TRACES):
        hpa = index < 3
        world = {} if hpa else fleet(20)
        kind = "hpa" if hpa else "static"
        yield Scenario(
            f"trace {trace}: {kind}", 20, 7200.0 if index < 3 else 3600.0, changes=world, trace=trace, hpa=hpa
        )


def _of_graphs() -> Iterator[Scenario]:
    """Services that call each other."""
    for graph in GRAPHS:
        for load in (0.6, 0.85):
            yield Scenario(f"graph {graph}: load {load:g}", 10, 300.0, (load,), graph=graph)


def scenarios() -> list[Scenario]:
    """All of them, in the order of the table; those to be judged first."""
    judged = [_static(*row) for row in _JUDGED]
    judged += [*_rooms_and_clients(), *_guarded(), *_changing(), *_of_traces(), *_of_graphs()]
    return judged + [_static(*row, "fit", fitting=True) for row in _FITTED]
