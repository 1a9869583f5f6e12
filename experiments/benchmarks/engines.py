"""What the engines cost: beside hand-written loops and SimPy, by service, and in memory."""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from experiments.agreement.graphs import GRAPHS
from experiments.benchmarks import queue_loops, simpy_loops, six_stations
from experiments.benchmarks.measuring import Figures, cpu_s_in_turn, figure, fill_kernel_cache, median_ratio, skipped
from sim_core.engines import REQUESTS
from sim_core.profile import Profile, load_profile
from sim_core.simulation import Worlds
from sim_core.workload import Trace
from sim_core.world import LAYOUT, Lane, Scaler, scale_to_replicas

LANES = 64
DAY_S = 86_400.0
PEAK_REPLICAS = 20
SERVERS, SERVICE_S = 4, 0.01
_NO_SIMPY = "SimPy is not installed (pip install 'devops-sim[dev]')"
_MEGA = 1e-6


def _flat(profile: Profile, replicas: float, duration_s: float) -> Trace:
    """Traffic that so many replicas serve at 70 % utilization, all the time."""
    return scale_to_replicas(Trace("flat", 60.0, np.ones(round(duration_s / 60.0) + 1)), profile, replicas)


def _has_simpy() -> bool:
    return importlib.util.find_spec("simpy") is not None


def mmc_profile(servers: int, service_s: float) -> Profile:
    """`production` cut down to M/M/c: one pod with as many cores, work in order of arrival, no other station."""
    api, container = "services.api", "services.api.container"
    return load_profile("production").with_overrides(
        {
            "ingress.latency_seconds": 0.0,
            f"{api}.replicas": {"initial": 1, "min": 1, "max": 1},
            f"{api}.queries": {"reads_per_call": 0.0, "writes_per_call": 0.0, "cacheable_share": 0.0},
            f"{api}.client.timeout_seconds": 300.0,
            f"{api}.client.max_retries": 0,
            f"{container}.cpu_request_cores": float(servers),
            f"{container}.cpu_limit_cores": float(servers),
            f"{container}.cpu_sharing": "fifo",
            f"{container}.cpu_scv": 1.0,
            f"{container}.cpu_seconds_per_request": service_s,
            f"{container}.io_seconds_per_request": 0.0,
            f"{container}.workers": 10_000,
            f"{container}.queue_limit": 100_000,
            "database": None,
            "cache": None,
        }
    )


def request_engine_mmc(quick: bool) -> Figures:
    """M/M/4 at 0.8: the request engine beside a bare compiled loop and SimPy, million requests per CPU-second."""
    rate_per_s = 0.8 * SERVERS / SERVICE_S
    n_requests = 1_000_000 if quick else 10_000_000
    python_requests = 20_000 if quick else 100_000
    ticks = round(n_requests / rate_per_s)

    def bare(count: int) -> None:
        queue_loops.mmc_mean_sojourn_s(rate_per_s, 1.0 / SERVICE_S, np.zeros(SERVERS), count, 1)

    flat = Trace("mmc", 60.0, np.full(ticks // 60 + 2, rate_per_s))
    lane = Lane(mmc_profile(SERVERS, SERVICE_S), flat, 1, 0.0, Scaler.static(1))
    calls: dict[str, Callable[[], object]] = {
        "engine": lambda: Worlds([lane], engine=REQUESTS).advance(ticks),
        "bare": partial(bare, n_requests),
    }
    if _has_simpy():
        calls["simpy"] = partial(
            simpy_loops.mmc_mean_sojourn_s, rate_per_s, 1.0 / SERVICE_S, SERVERS, python_requests, 1
        )
    bare(1000)
    Worlds([lane], engine=REQUESTS).advance(2)
    rates = _rates(quick, calls, {"engine": ticks * rate_per_s, "bare": n_requests, "simpy": python_requests})
    note = f"M/M/{SERVERS} at 0.8, rounds in turn"
    return [
        _rate("request engine, M/M/4", rates["engine"], ">= 10", note),
        _rate("bare loop, M/M/4", rates["bare"], "", note),
        _rate("SimPy, M/M/4", rates.get("simpy"), "", note),
        figure("request engine over bare loop, M/M/4", median_ratio(rates["engine"], rates["bare"]),
               "ratio", ">= 0.42", note),
    ]  # fmt: skip


def request_engine_production(quick: bool) -> Figures:
    """`production` at 70 % with its HPA in the request engine, beside SimPy playing the same chain in its simplest form."""
    profile = load_profile("production")
    minutes = 5 if quick else 30
    trace = _flat(profile, PEAK_REPLICAS, minutes * 60.0)
    python_requests = 5_000 if quick else 20_000
    lane = Lane(profile, trace, 1)
    calls: dict[str, Callable[[], object]] = {"engine": lambda: Worlds([lane], engine=REQUESTS).advance(minutes * 60)}
    if _has_simpy():
        calls["simpy"] = partial(simpy_loops.chain_mean_sojourn_s, trace.mean_per_s, python_requests, 1)
    Worlds([lane], engine=REQUESTS).advance(2)
    rates = _rates(quick, calls, {"engine": trace.mean_per_s * minutes * 60.0, "simpy": python_requests})
    note = f"{trace.mean_per_s:g} requests/s, {PEAK_REPLICAS} pods, {minutes} min"
    rows = [
        _rate("request engine, production at 70 % with HPA", rates["engine"], ">= 1.5", note),
        _rate("SimPy, production's chain in its simplest form", rates.get("simpy"), "", note),
    ]
    if "simpy" in rates:
        ratio = median_ratio(rates["engine"], rates["simpy"])
        rows.append(figure("request engine over SimPy, production", ratio, "ratio", "", note))
    return rows


def _rates(quick: bool, calls: dict[str, Callable[[], object]], requests: dict[str, float]) -> dict[str, list[float]]:
    """Million requests per CPU-second of each call in each round."""
    spent = cpu_s_in_turn(3 if quick else 5, calls)
    return {name: [requests[name] * _MEGA / seconds for seconds in spent[name]] for name in spent}


def _rate(name: str, rates: list[float] | None, reach: str, note: str) -> dict[str, Any]:
    """The median of the rounds; SimPy alone may be missing."""
    if rates is None:
        return skipped(name, _NO_SIMPY)
    return figure(name, statistics.median(rates), "M requests per CPU-second", reach, note)


def fluid_over_six_stations(quick: bool) -> Figures:
    """The fluid engine's cost of a lane and tick over that of a kernel that only computes production's six stations."""
    profile = load_profile("production")
    trace = _flat(profile, PEAK_REPLICAS, 3600.0 * 13)
    ticks = 1200 if quick else 7200
    lanes = [Lane(profile, trace, seed) for seed in range(LANES)]
    stations = six_stations.station_lanes(LANES, trace.mean_per_s)
    six_stations.advance(stations, 10)
    Worlds(lanes).advance(60)
    worlds = Worlds(lanes)
    spent = cpu_s_in_turn(
        3 if quick else 5,
        {"fluid": lambda: worlds.advance(ticks), "kernel": lambda: six_stations.advance(stations, ticks)},
    )
    note = f"production under HPA, {LANES} lanes, rounds in turn; the kernel computes six stations and a histogram"
    cost_ns = {name: 1e9 * statistics.median(seconds) / (LANES * ticks) for name, seconds in spent.items()}
    return [
        figure("fluid engine, production", cost_ns["fluid"], "ns per lane and tick", "", note),
        figure("hand-written six-station kernel", cost_ns["kernel"], "ns per lane and tick", "", note),
        figure(
            "fluid engine over six-station kernel",
            median_ratio(spent["fluid"], spent["kernel"]),
            "ratio",
            "<= 1.4",
            note,
        ),
    ]


def cost_of_a_graph(quick: bool) -> Figures:
    """The fluid engine's cost of a service and tick in the graph of ten services over that in `production`."""
    profiles = {"production": load_profile("production"), "shop": Profile.from_dict(GRAPHS["shop"](), "shop")}
    ticks = 300 if quick else 1800
    worlds: dict[str, Worlds] = {}
    for name, profile in profiles.items():
        trace = _flat(profile, 10.0, 3600.0 * 4)
        worlds[name] = Worlds([Lane(profile, trace, seed) for seed in range(LANES)])
        worlds[name].advance(30)
    calls = {name: partial(world.advance, ticks) for name, world in worlds.items()}
    spent = cpu_s_in_turn(3 if quick else 5, calls)
    n = len(profiles["shop"].services)
    ratio = median_ratio(spent["shop"], spent["production"]) / n
    note = f"{n} services of 10 pods each against one of 10, {LANES} lanes, rounds in turn"
    return [figure("fluid engine, a service-tick of ten services over production's", ratio, "ratio", "<= 1", note)]


def memory_of_a_lane(quick: bool) -> Figures:
    """Bytes of all rows of a lane."""
    del quick
    production = load_profile("production")
    sizes = {}
    for profile in (production, _wide(production)):
        (record,) = Worlds([Lane(profile, _flat(profile, 2.0, 120.0), 1)]).params
        sizes[profile.name] = LAYOUT.bytes_of(record)
    note = "its records and its rows of every table"
    return [
        figure("memory of a lane, production", sizes["production"] / 1e3, "KB", "< 40", note),
        figure("memory of a lane, 30 services x 200 pods", sizes["wide"] / 1e6, "MB", "< 2", note),
    ]


def _wide(production: Profile) -> Profile:
    """Thirty services of up to 200 pods in a chain, without queries."""
    api = production.services[0].model_dump(mode="json")
    del api["queries"]
    api["replicas"] = {"initial": None, "min": 2, "max": 200}
    services = [{**api, "name": f"s{number}"} for number in range(30)]
    data = production.to_dict() | {"name": "wide", "services": services, "database": None, "cache": None}
    data["slo"]["latency_threshold_seconds"] = 1.5  # they are visited one after the other
    return Profile.from_dict(data, "wide")


_DAY = """
import re, sys
from pathlib import Path
import numpy as np
from sim_core.profile import load_profile
from sim_core.simulation import Worlds
from sim_core.workload import Trace
from sim_core.world import Lane
seconds = int(sys.argv[1])
lane = Lane(load_profile("production"), Trace("flat", 60.0, np.full(seconds // 60 + 1, 1000.0)), 1)
# Not getrusage: a child begins with the peak of the process that forked it.
peak_kib = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Worlds([lane], engine=sys.argv[2]).advance(2)
before = peak_kib()
worlds = Worlds([lane], engine=sys.argv[2])
worlds.advance(seconds)
print(before, peak_kib())
"""


def memory_of_a_day(quick: bool, engine: str = REQUESTS) -> Figures:
    """Peak memory of a process that plays a day at 1,000 requests/s; an hour of it with `quick`."""
    seconds = 3600 if quick else int(DAY_S)
    command = [sys.executable, "-c", _DAY, str(seconds), engine]
    fill_kernel_cache()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = (int(kib) / 1024.0 for kib in done.stdout.split())
    name, note = f"a day at 1,000 requests/s, engine {engine}", f"{seconds / 3600:g} h, in a process of its own"
    return [
        figure(f"{name}: peak memory", after, "MiB", "< 300", f"{note}; {before:.0f} MiB of it libraries and kernels"),
        figure(f"{name}: memory since its first request", after - before, "MiB", "", note),
    ]


MEASURES: tuple[Callable[[bool], Figures], ...] = (
    request_engine_mmc, request_engine_production, fluid_over_six_stations, cost_of_a_graph, memory_of_a_lane,
    memory_of_a_day,
)  # fmt: skip
