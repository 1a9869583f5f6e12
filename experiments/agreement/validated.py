"""What the fluid engine was validated for, and in which respects a run lies outside of that.

`devops-sim bench agreement --record FILE` writes the record. The envelope is what its scenarios span: of each balancer
the loads at which the engines agreed; of everything else the least and the most, or the kinds, that were played.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.store.files import write_atomically
from experiments.store.identity import simulator_version
from sim_core.dataplane.services.graph import resolve
from sim_core.dataplane.services.kinds import CPU
from sim_core.errors import InputError
from sim_core.world import capacity_per_replica

if TYPE_CHECKING:
    import numpy as np

    from experiments.agreement.judge import Outcome
    from experiments.agreement.scenarios import Scenario
    from sim_core.dataplane.services.graph import Graph
    from sim_core.profile import Profile

RECORD = Path(__file__).parent / "validated.json"
_MARGIN = 0.02  # of a load: traffic is random
_JUDGED = ("latency_mean_s", "latency_p95_s", "slo_attainment", "error_ratio")


@dataclass(frozen=True)
class Facts:
    """What decides how well the fluid engine can follow a world.

    Attributes:
        balancings, sharings: kinds that its services use.
        scv: largest squared coefficient of variation of the CPU time of a call [1].
        room: least number of calls that a pod holds, working and waiting.
        services: how many.
        options: what calls and balancers do beyond the usual, such as `slow start`.
        pods: least and most of a service [pods]; None where it is not known.
        load: highest offered CPU load of a service over a while [1 of what its ready pods serve]; None: not known.
    """

    balancings: tuple[str, ...]
    sharings: tuple[str, ...]
    scv: float
    room: float
    services: int
    options: tuple[str, ...] = ()
    pods: tuple[float, float] | None = None
    load: float | None = None


def facts_of(profile: Profile, pods: tuple[float, float] | None = None, load: float | None = None) -> Facts:
    """Facts of a world.

    Args:
        pods, load: as it was played, see `Facts`.
    """
    services, graph = profile.services, resolve(profile)
    scvs = [step.scv for step in graph.steps if step.kind == CPU]
    rooms = [service.container.workers + service.container.queue_limit for service in services]
    return Facts(
        tuple(sorted({service.load_balancing or profile.ingress.load_balancing for service in services})),
        tuple(sorted({service.container.cpu_sharing for service in services})),
        max(scvs, default=1.0),
        float(min(rooms)),
        len(services),
        tuple(_options_of(graph)),
        pods,
        load,
    )


def _options_of(graph: Graph) -> Iterator[str]:
    """What calls and balancers can do beyond the usual, and do here, in order of their names."""
    calls, services = graph.calls, graph.services
    used = {
        "balancer nodes": any(service.balancer_nodes > 1 for service in services),
        "circuit breaker": any(call.breaker_requests < math.inf for call in calls),
        "outlier ejection": any(call.ejection_failures > 0 for call in calls),
        "passed deadline": any(call.pass_deadline for call in calls),
        "slow start": any(service.slow_start_s > 0.0 for service in services),
        "sticky sessions": any(service.sticky_share > 0.0 for service in services),
    }
    return (name for name, is_used in used.items() if is_used)


def peak_load(profile: Profile, timeline: Mapping[str, np.ndarray]) -> tuple[tuple[float, float], float | None]:
    """Least and most ready pods of a service, and the highest offered load of any, over the steps of a timeline.

    Args:
        timeline: `Simulation.service_timeline`, shape (n_lanes, n_services, n_steps) by name.

    Returns:
        (pods, load): no load where never a pod was ready.
    """
    import numpy as np

    ready = timeline["replicas_ready"]
    known = ready > 0.0
    if not known.any():
        return (0.0, 0.0), None
    graph = resolve(profile)
    cpu_s = [cpu / max(visits, 1e-12) for cpu, visits in zip(graph.cpu_seconds_per_request, graph.visits, strict=True)]
    cores = np.array([service.container.cpu_limit_cores for service in profile.services])
    load = timeline["call_rate_per_s"] * (np.array(cpu_s) / cores)[:, None] / np.maximum(ready, 1.0)
    return (float(ready[known].min()), float(ready.max())), float(load[known].max())


def facts_of_report(worlds: Sequence[Profile], timelines: Mapping[str, Mapping[str, np.ndarray]]) -> Facts:
    """Facts of all that a report shows, as one: every kind that occurs, and what is furthest out.

    Args:
        worlds: profiles that were played.
        timelines: by policy, as `Simulation.timeline` has it of one lane of the first world; may be empty.
    """
    import numpy as np

    all_of = [facts_of(world) for world in worlds]
    pods, load = None, None
    if len(worlds[0].services) == 1 and timelines:
        ready = np.concatenate([np.asarray(line["replicas_ready"], dtype=float) for line in timelines.values()])
        rate = np.concatenate([np.asarray(line["load_per_s"], dtype=float) for line in timelines.values()])
        known = ready > 0.0
        if known.any():
            pods = (float(ready[known].min()), float(ready.max()))
            load = float((rate[known] / ready[known]).max()) / capacity_per_replica(worlds[0])
    return Facts(
        tuple(sorted({kind for facts in all_of for kind in facts.balancings})),
        tuple(sorted({kind for facts in all_of for kind in facts.sharings})),
        max(facts.scv for facts in all_of), min(facts.room for facts in all_of),
        max(facts.services for facts in all_of), tuple(sorted({name for facts in all_of for name in facts.options})),
        pods, load,
    )  # fmt: skip


@dataclass(frozen=True)
class Played:
    """One scenario of a record: its facts, how far apart the engines were, and whether that keeps every bound."""

    name: str
    facts: Facts
    errors: Mapping[str, float]
    agrees: bool


@dataclass(frozen=True)
class Record:
    """What a run of the agreement bench found."""

    version: str
    played: tuple[Played, ...]


def write_record(path: Path, asked: Sequence[Scenario], outcomes: Iterable[Outcome]) -> None:
    """Writes what was played and what came out.

    Args:
        asked: scenarios, those of the outcomes among them.

    Raises:
        PlatformError: the file cannot be written.
    """
    by_name = {scenario.name: scenario for scenario in asked}
    rows = []
    for outcome in outcomes:
        scenario = by_name[outcome.scenario]
        load = max(scenario.loads) if scenario.loads and not scenario.hpa else None
        pods = (1.0, 2.0 * scenario.pods) if scenario.hpa else (float(scenario.pods),) * 2
        errors = {name: outcome.differences[name].mean for name in _JUDGED}
        rows.append(
            {
                "name": outcome.scenario,
                "facts": asdict(facts_of(scenario.profile, pods, load)),
                "errors": {name: error if math.isfinite(error) else None for name, error in errors.items()},
                "agrees": outcome.agrees,
            }
        )
    text = json.dumps({"version": simulator_version(), "scenarios": rows}, indent=1, allow_nan=False)
    write_atomically(path, text.encode(), "what was validated")


def read_record(path: Path = RECORD) -> Record | None:
    """The record of a file; None where there is none.

    Raises:
        InputError: the file is no such record.
    """
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text())
        played = tuple(
            Played(row["name"], _facts(row["facts"]), _errors(row["errors"]), bool(row["agrees"]))
            for row in data["scenarios"]
        )
        return Record(str(data["version"]), played)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(str(path), f"is no record of `devops-sim bench agreement` ({error})") from None


@cache
def shipped_record() -> Record | None:
    """The record that comes with the package."""
    return read_record()


def _facts(data: Mapping[str, Any]) -> Facts:
    pods = data["pods"]
    return Facts(
        tuple(data["balancings"]), tuple(data["sharings"]), float(data["scv"]), float(data["room"]),
        int(data["services"]), tuple(data["options"]), None if pods is None else (float(pods[0]), float(pods[1])),
        None if data["load"] is None else float(data["load"]),
    )  # fmt: skip


def _errors(data: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if error is None else float(error) for name, error in data.items()}


def beyond(facts: Facts, record: Record) -> list[str]:
    """In which respects a world lies outside of what was validated, a sentence each; empty where it lies within.

    Args:
        facts: of the world.
        record: what was validated.
    """
    agreed = [played.facts for played in record.played if played.agrees]
    if not agreed:
        return ["The fluid engine was not validated: it agreed with the request engine in no scenario."]
    sentences = []
    for title, of in (("balancer", "balancings"), ("CPU sharing", "sharings"), ("option", "options")):
        known = sorted({kind for one in agreed for kind in getattr(one, of)})
        for kind in getattr(facts, of):
            if kind not in known:
                sentences.append(f"The {title} {kind} was not validated (validated: {', '.join(known) or 'none'}).")
    for balancing in facts.balancings:
        sentences += _loads_beyond(balancing, facts, agreed)
    sentences += _range_beyond("SCV of CPU time", (facts.scv, facts.scv), [(f.scv, f.scv) for f in agreed])
    rooms = [(f.room, f.room) for f in agreed]
    least = min(room for room, _ in rooms)
    if facts.room < least:
        sentences.append(f"Rooms of {facts.room:g} calls a pod were not validated (validated: {least:g} or more).")
    if facts.pods is not None:
        sentences += _range_beyond("Pods of a service", facts.pods, [f.pods for f in agreed if f.pods])
    return sentences


def _loads_beyond(balancing: str, facts: Facts, agreed: Sequence[Facts]) -> list[str]:
    loads = [f.load for f in agreed if f.load is not None and balancing in f.balancings]
    if facts.load is None or not loads or facts.load <= max(loads) + _MARGIN:
        return []
    return [f"A load of {facts.load:.2f} with {balancing} was not validated (validated: up to {max(loads):g})."]


def _range_beyond(what: str, given: tuple[float, float], spans: Sequence[tuple[float, float]]) -> list[str]:
    if not spans:
        return []
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    if given[0] >= low and given[1] <= high:
        return []
    shown = f"{given[0]:g}" if given[0] == given[1] else f"{given[0]:g} to {given[1]:g}"
    return [f"{what} of {shown} were not validated (validated: {low:g} to {high:g})."]


def nearest_disagreement(facts: Facts, record: Record) -> str | None:
    """The scenario most like a world in which the engines did not agree, in a sentence; None where none is like it.

    Like it is one with the same balancers and sharing, and a load at most a tenth away.
    """
    candidates = [
        (abs(played.facts.load - facts.load), played)
        for played in record.played
        if not played.agrees and played.facts.load is not None and facts.load is not None
        if played.facts.balancings == facts.balancings and played.facts.sharings == facts.sharings
    ]
    near = [(distance, played) for distance, played in candidates if distance <= 0.1]
    if not near:
        return None
    _, played = min(near, key=lambda pair: pair[0])
    errors = played.errors
    return (
        f"In a scenario like this one ({played.name}) the fluid engine is off by {errors['latency_mean_s']:+.0f} % in the "
        f"mean, {errors['latency_p95_s']:+.0f} % in p95, {errors['slo_attainment']:+.1f} points of SLO attainment and "
        f"{errors['error_ratio']:+.1f} of errors."
    )


def remarks(facts: Facts, record: Record) -> list[str]:
    """All that has to be said of a run in the fluid engine: `beyond` and `nearest_disagreement`."""
    near = nearest_disagreement(facts, record)
    return beyond(facts, record) + ([near] if near else [])
