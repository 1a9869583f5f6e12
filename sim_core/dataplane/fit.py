"""Holds the stations of the fluid engine to an exact simulation: `python -m sim_core.dataplane.fit`.

Prints, for every scenario, the mean wait, and how far the station is from the truth in mean latency [%], 95th percentile
[%], share of calls within 0.3 s [percentage points], and share of attempts refused or given up [points]; and writes the
table to a CSV file (`--out`). Scenarios of the set `fit` were used to choose coefficients by hand (those of balanced pods
are fitted by `fit_balanced`, to stations of its own); those of the set `judge` (other loads, pods, held times, scvs, rooms)
were not looked at for that.

`tests/station_residuals.csv` is the table of 150,000 calls a scenario (`--calls 1.5e5`).

The truth is one function, `--truth module:function`: it takes a OneService, calls per second for each tick, a seed and
the first tick that counts, and returns something with the methods of `Played`. `one_service.play` is the default.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.cold import serve_fleet
from sim_core.dataplane.known import known_stations
from sim_core.dataplane.one_service import Floats, OneService, Played, play
from sim_core.dataplane.queueing import cut_at, quantile_of_shape, share_within, take_shape, third_cumulant_factor
from sim_core.dataplane.services.records import (
    BALANCINGS,
    CFS_QUOTA,
    FIFO,
    LEAST_OUTSTANDING,
    POWER_OF_TWO,
    PROCESSOR_SHARING,
    RANDOM,
    ROUND_ROBIN,
    SHARINGS,
)
from sim_core.dataplane.station import ANSWER, APART, COLD_STATE, CUT, LOAD, PIECE, SHAPE, STATION_STATE

__all__ = ["Residual", "Truth", "load_of", "main", "residual", "scenarios", "serve_ticks", "settled"]

Truth = Callable[[OneService, Floats, int, int], Played]

THRESHOLD_S = 0.3
BOUNDS = {"mean_pct": 5.0, "p95_pct": 10.0, "slo_points": 0.5, "error_points": 1.0}
_ANSWERED = "answered_s", "answered_variance_s2", "answered_third_s3"
# ANSWER, and the share of admitted calls that are not answered in time, and the cumulants of the others' sojourn.
TIMED = np.dtype(
    [*((n, ANSWER[n]) for n in ANSWER.names or ()), *((n, np.float64) for n in ("timeout_share", *_ANSWERED))]
)
_P95 = 1.6448536269514722  # the normal distribution's 95th percentile


def load_of(service: OneService) -> np.ndarray:
    """LOAD of a service, one row, without arrivals."""
    load = np.zeros(1, LOAD)
    for name in (
        "cold_factor", "cores", "workers", "queue_limit", "cpu_s", "cpu_scv", "held_s", "balancing", "nodes", "sharing",
        "quota_period_s", "timeout_s", "tick_s",
    ):  # fmt: skip
        load[name] = getattr(service, name)
    load["ready"] = load["pods"] = service.pods
    load["cold"] = service.cold_pods
    load["held_variance_s2"] = service.held_scv * service.held_s**2
    load["held_third_s3"] = third_cumulant_factor(service.held_scv) * service.held_s**3
    return load


def serve_ticks(service: OneService, rates_per_s: Floats) -> np.ndarray:
    """TIMED answers of a station that starts empty, one a tick; as many calls arrive as are expected."""
    load, state, answers = load_of(service), np.zeros(1, STATION_STATE), np.zeros(len(rates_per_s), ANSWER)
    cold, known = np.zeros(1, COLD_STATE), known_stations()
    state["cell"] = cold["station"]["cell"] = -1
    for tick, rate in enumerate(rates_per_s):
        load["arrivals"] = load["expected"] = rate * service.tick_s
        serve_fleet(**known, load=load[0], station=state[0], cold=cold[0], n_warmed=0, answer=answers[tick])
    return _with_timeout(answers, service.timeout_s)


def settled(service: OneService, utilization: float, ticks: int = 1500) -> np.void:
    """TIMED answer after so many ticks of constant load (over what the CPUs could serve)."""
    load, state, answer = load_of(service), np.zeros(1, STATION_STATE), np.zeros(1, ANSWER)
    cold = np.zeros(1, COLD_STATE)
    state["cell"] = cold["station"]["cell"] = -1
    load["arrivals"] = load["expected"] = utilization * service.capacity_per_s * service.tick_s
    known = known_stations()
    _serve_long(known["known_points"], known["known_curves"], load[0], state[0], cold[0], answer[0], ticks)
    seen: np.void = _with_timeout(answer, service.timeout_s)[0]
    return seen


def _with_timeout(answers: np.ndarray, timeout_s: float) -> np.ndarray:
    """TIMED records: ANSWERs with what callers make of them who wait for so long."""
    timed, shape = np.zeros(len(answers), TIMED), np.zeros(1, SHAPE)
    piece, apart = np.zeros(1, PIECE), np.zeros(1, APART)
    for name in ANSWER.names or ():
        timed[name] = answers[name]
    for answer in timed:
        cut = np.zeros(1, CUT)
        sojourn = answer["sojourn_s"], answer["sojourn_variance_s2"], answer["sojourn_third_s3"]
        cut_at(cut[0], shape[0], piece[0], apart[0], *sojourn, timeout_s)
        answer["timeout_share"] = 1.0 - cut["within"][0]
        for name, kept in zip(_ANSWERED, ("kept_s", "kept_variance_s2", "kept_third_s3"), strict=True):
            answer[name] = cut[kept][0]
    return timed


@kernel
def _serve_long(known_points, known_curves, load, state, cold, answer, ticks):
    for _ in range(ticks):
        serve_fleet(known_points, known_curves, load, state, cold, 0, answer)


@dataclass(frozen=True)
class Residual:
    """How far a settled station is from the truth."""

    set: str
    balancing: str
    nodes: int
    sharing: str
    pods: int
    utilization: float
    cpu_scv: float
    held_s: float
    workers: int
    queue_limit: int
    cores: float
    cold_pods: int
    true_wait_s: float
    wait_s: float
    mean_pct: float
    p95_pct: float
    slo_points: float
    error_points: float


def residual(
    service: OneService, utilization: float, truth: Truth, seed: int = 1, calls: float = 3e5, of_set: str = "judge"
) -> Residual:
    """Plays the service at this constant load, and compares a settled station with it."""
    rate = utilization * service.capacity_per_s
    first = 60
    ticks = first + int(min(20_000, max(60.0, calls / rate)))
    played = truth(service, np.full(ticks, rate), seed, first)
    answer = settled(service, utilization)
    shape = np.zeros(1, SHAPE)
    take_shape(shape[0], answer["answered_s"], answer["answered_variance_s2"], answer["answered_third_s3"])
    in_time = max(1e-9, share_within(shape[0], service.timeout_s))
    lost = (answer["refused"] + answer["timeout_share"] * answer["admitted"]) / (rate * service.tick_s)
    return Residual(
        of_set, BALANCINGS[service.balancing], service.nodes, SHARINGS[service.sharing], service.pods, utilization,
        service.cpu_scv, service.held_s, service.workers, service.queue_limit, service.cores, service.cold_pods,
        true_wait_s=played.wait_s(first),
        wait_s=float(answer["wait_s"]),
        mean_pct=100.0 * (float(answer["answered_s"]) / played.latency_s(first) - 1.0),
        p95_pct=100.0 * (quantile_of_shape(shape[0], _P95) / played.quantile_s(0.95) - 1.0),
        slo_points=100.0 * (share_within(shape[0], THRESHOLD_S) / in_time - played.good_share(THRESHOLD_S)),
        error_points=100.0 * float(lost - played.refused_share(first) - played.timeout_share(first)),
    )  # fmt: skip


def scenarios() -> Iterator[tuple[str, OneService, float]]:
    """(set, service, load over what the CPUs could serve)."""
    base = OneService(held_s=0.018)
    for balancing in (RANDOM, ROUND_ROBIN, LEAST_OUTSTANDING, POWER_OF_TWO):
        for scv in (0.25, 1.0, 4.0):
            for pods in (5, 20, 80):
                for utilization in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.05, 1.2):
                    yield "fit", base.but(balancing=balancing, cpu_scv=scv, pods=pods), utilization
            for pods in (1, 10, 40, 200):
                for utilization in (0.4, 0.75, 0.92, 1.1, 1.5):
                    yield "judge", base.but(balancing=balancing, cpu_scv=scv, pods=pods, held_s=0.03), utilization
    for balancing in (ROUND_ROBIN, LEAST_OUTSTANDING):
        for nodes in (2, 3):
            for utilization in (0.4, 0.75, 0.92):
                yield "judge", base.but(balancing=balancing, nodes=nodes, pods=30), utilization
    for balancing in (RANDOM, LEAST_OUTSTANDING):
        for sharing in (PROCESSOR_SHARING, CFS_QUOTA):
            for scv in (0.25, 1.0, 4.0):
                for utilization in (0.4, 0.75, 0.92, 1.1):
                    yield "judge", base.but(balancing=balancing, sharing=sharing, cpu_scv=scv, pods=30), utilization
        for utilization in (0.4, 0.75, 0.92, 1.1):
            yield "judge", base.but(balancing=balancing, sharing=FIFO, queue_limit=0, pods=30), utilization
            yield "judge", base.but(balancing=balancing, cores=4.0, pods=15), utilization
        for utilization in (0.4, 0.6, 0.75):
            yield "judge", base.but(balancing=balancing, cold_pods=5, pods=30), utilization
            yield "judge", base.but(balancing=balancing, workers=3, held_s=0.04, pods=30), utilization


def _named(place: str) -> Truth:
    module, _, name = place.partition(":")
    truth: Truth = getattr(importlib.import_module(module), name)
    return truth


def _summary(rows: list[Residual]) -> Iterator[str]:
    for of_set in ("fit", "judge"):
        for balancing in BALANCINGS:
            for sharing in SHARINGS:
                part = [r for r in rows if (r.set, r.balancing, r.sharing) == (of_set, balancing, sharing)]
                if part:
                    beyond = {name: sum(abs(getattr(r, name)) > b for r in part) for name, b in BOUNDS.items()}
                    median = {name: statistics.median(abs(getattr(r, name)) for r in part) for name in BOUNDS}
                    told = ", ".join(f"{name} {beyond[name]} (median {median[name]:.2f})" for name in BOUNDS)
                    yield f"{of_set:5} {balancing:17} {sharing:17} {len(part):3} scenarios; beyond the bound: {told}"


def main(arguments: list[str] | None = None) -> int:
    """The command: plays all scenarios, prints the table's summary, writes the table."""
    parser = argparse.ArgumentParser(prog="python -m sim_core.dataplane.fit", description=__doc__.split("\n\n")[0])
    parser.add_argument("--truth", default="sim_core.dataplane.one_service:play", help="module:function")
    parser.add_argument("--calls", type=float, default=3e5, help="that are played for a scenario")
    parser.add_argument("--out", type=Path, default=None, help="CSV file for the table")
    parser.add_argument("--only", default="", help="play only the scenarios of this set")
    options = parser.parse_args(arguments)
    truth = play if options.truth == "sim_core.dataplane.one_service:play" else _named(options.truth)
    rows = [
        residual(service, utilization, truth, calls=options.calls, of_set=of_set)
        for of_set, service, utilization in scenarios()
        if not options.only or of_set == options.only
    ]
    for line in _summary(rows):
        print(line)
    if options.out is not None:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
            writer.writeheader()
            for row in rows:
                values = asdict(row).items()
                writer.writerow({k: f"{v:.4g}" if isinstance(v, float) and math.isfinite(v) else v for k, v in values})
    return 0


if __name__ == "__main__":
    sys.exit(main())
