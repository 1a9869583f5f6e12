"""Repeats the fit of balanced pods to an exact simulation, in four steps; each in a process of its own, because kernels are
compiled with the coefficients that they find:

    python -m sim_core.dataplane.fit_balanced play stations.csv         # an hour; goes on where it was interrupted
    python -m sim_core.dataplane.fit_balanced reach stations.csv        # rewrites REACH in balanced_corrections.py
    python -m sim_core.dataplane.fit_balanced loose stations.csv        # ... LOOSE
    python -m sim_core.dataplane.fit_balanced corrections stations.csv  # ... and TABLE

Stations are points of Sobol sequences over loads, pods, held times, variabilities, rooms, cores, balancer nodes and
timeouts; none of them is a scenario that `fit` or the agreement of the engines is judged by. Each step prints residuals
before and after, those after of stations that a fit has not seen (five folds).
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import least_squares
from scipy.special import ndtri
from scipy.stats import qmc

from sim_core.dataplane import balanced_corrections
from sim_core.dataplane.balanced import SEEN
from sim_core.dataplane.curve import draw_curve
from sim_core.dataplane.fit import load_of
from sim_core.dataplane.one_service import Floats, OneService, play
from sim_core.dataplane.queueing import (
    cumulants_within,
    quantile_of_shape,
    share_within,
    take_shape,
    third_cumulant_factor,
)
from sim_core.dataplane.services.records import FIFO, LEAST_OUTSTANDING, POWER_OF_TWO, SHARINGS
from sim_core.dataplane.station import CURVE, POINT, SHAPE
from sim_core.dataplane.stationary import take_point

__all__ = ["designed", "main", "ridge"]

_SERVICE = (
    "balancing", "sharing", "pods", "utilization", "cpu_scv", "held_s", "cpu_s", "cores", "workers", "queue_limit", "nodes",
    "timeout_s", "held_scv",
)  # fmt: skip
_SEEN = (
    "wait_s", "sojourn_s", "sojourn_2", "sojourn_3", "refused", "timed_out", "latency_s", "p50", "p90", "p95", "p99", "calls",
    "open", "open_variance",
)  # fmt: skip
_SEEN_BY_MODEL = tuple(f"model_{name}" for name in SEEN)
_NORMAL = {"p50": 0.0, "p90": 1.2815515655, "p95": 1.6448536270, "p99": 2.3263478740}
STATIONS = {"any": 2120, "overload": 360, "near": 330, "extreme": 300}  # of each design
CALLS = 500_000.0  # of a station; more near saturation
_PODS = (2, 3, 4, 6, 8, 12, 15, 25, 32, 48, 64, 100, 150)
_ROOMS = ((2, 4), (3, 0), (4, 3), (5, 8), (6, 0), (8, 4), (4, 30), (10, 10))


def _between(low: float, high: float, part: float) -> float:
    """On a logarithmic scale."""
    return low * (high / low) ** part


def _any(q: Floats) -> tuple[OneService, float]:
    """A station of any kind: a third of the utilizations below 0.75, half of them near saturation."""
    pods = (2, 3, 4, 6, 8, 11, 14, 18, 24, 30, 36, 48, 64, 96, 130, 170)[int(q[2] * 16)]
    if q[3] < 0.35:
        utilization = 0.3 + q[3] / 0.35 * 0.45
    elif q[3] < 0.8:
        utilization = 0.75 + (q[3] - 0.35) / 0.45 * 0.27
    else:
        utilization = 1.02 + ((q[3] - 0.8) / 0.2) ** 1.5 * 0.5
    held = 0.0
    if q[5] >= 0.06:
        held = 0.3 + 2.0 * (q[5] - 0.06) if q[5] < 0.66 else _between(1.5, 10.5, (q[5] - 0.66) / 0.34)
    cpu_s = 0.025 if q[6] < 0.6 else _between(0.008, 0.08, (q[6] - 0.6) / 0.4)
    if q[8] < 0.82:
        workers, queue_limit = (16, 64) if q[8] < 0.72 else (50, 50)
    else:
        workers, queue_limit = _ROOMS[int((q[8] - 0.82) / 0.18 * 7.999)]
    balancing = LEAST_OUTSTANDING if q[0] < 0.58 else POWER_OF_TWO
    service = OneService(
        pods=pods,
        balancing=balancing,
        nodes=1 if balancing == POWER_OF_TWO or q[9] <= 0.8 else 2 + int(q[9] > 0.9),
        sharing=int(q[1] * 2.999),
        cores=1.0 if q[7] < 0.75 else (0.5, 0.25, 2.0, 3.0, 4.0)[int((q[7] - 0.75) / 0.25 * 4.999)],
        workers=workers,
        queue_limit=queue_limit,
        cpu_s=cpu_s,
        cpu_scv=1.0 if q[4] < 0.35 else _between(0.25, 4.0, (q[4] - 0.35) / 0.65),
        held_s=held * cpu_s,
        held_scv=1.0 if q[11] < 0.7 else 4.0 * q[11] - 2.7,
        timeout_s=60.0 if q[10] < 0.45 else (1.5 + 3.0 * (q[10] - 0.45) / 0.55) * cpu_s / 0.025,
    )
    return service, utilization


def _overload(q: Floats, near: bool) -> tuple[OneService, float]:
    """A station in overload whose room is worth about as much time as callers have; `near`: nearly as much."""
    if near:
        rooms, usual, one = ((16, 64), (32, 48), (8, 92)), (0.85, 0.92), 0.65
        utilization, held, fits = 1.01 + 0.6 * q[3] ** 1.3, 0.4 + 0.7 * q[5], 0.88 + 0.35 * q[6]
    else:
        rooms, usual, one = ((16, 64), (32, 32), (8, 40)), (0.75, 0.87), 0.55
        utilization, held, fits = 1.0 + 0.52 * q[3] ** 1.4, 0.3 + 1.2 * q[5], 0.7 + 0.9 * q[6]
    workers, queue_limit = rooms[int(np.searchsorted(usual, q[7], side="right"))]
    service = OneService(
        pods=_PODS[int(q[2] * 13)],
        balancing=LEAST_OUTSTANDING if q[0] < 0.55 else POWER_OF_TWO,
        sharing=int(q[1] * 2.999),
        workers=workers,
        queue_limit=queue_limit,
        cpu_scv=1.0 if q[4] < one else _between(0.25, 4.0, (q[4] - one) / (1.0 - one)),
        held_s=held * 0.025,
        timeout_s=(fits * (workers + queue_limit) + held) * 0.025,
    )
    return service, utilization


def _extreme(q: Floats) -> tuple[OneService, float]:
    """A station whose service times vary little or much."""
    service = OneService(
        pods=_PODS[int(q[2] * 13)],
        balancing=LEAST_OUTSTANDING if q[0] < 0.5 else POWER_OF_TWO,
        sharing=0 if q[1] < 0.7 else 1 + int(q[1] >= 0.85),
        cpu_scv=_between(0.2, 0.45, 2.0 * q[4]) if q[4] < 0.5 else _between(2.2, 4.8, 2.0 * q[4] - 1.0),
        held_s=0.025 * (0.2 + 1.4 * q[5]),
        timeout_s=60.0,
    )
    return service, 0.45 + 0.55 * q[3] ** 0.8


_DESIGNS: dict[str, tuple[int, int, int, Callable[[Floats], tuple[OneService, float]]]] = {
    "any": (12, 77, 1000, _any),  # dimensions, seed of the sequence and of the first station
    "overload": (8, 5, 5000, partial(_overload, near=False)),
    "near": (8, 9, 9000, partial(_overload, near=True)),
    "extreme": (6, 13, 12000, _extreme),
}


def designed(design: str, count: int) -> Iterator[tuple[OneService, float, int]]:
    """(service, utilization, seed) of the first `count` stations of a design."""
    dimensions, sobol_seed, first_seed, station = _DESIGNS[design]
    points = qmc.Sobol(dimensions, seed=sobol_seed).random(1 << max(0, count - 1).bit_length())
    for index in range(count):
        service, utilization = station(points[index])
        yield service, utilization, first_seed + index


def _play_one(service: OneService, utilization: float, seed: int) -> list[float]:
    """A row of the table: what the station is, and what was seen of it."""
    calls = 2.4 * CALLS if 0.88 < utilization < 1.03 else CALLS
    if service.pods <= 8 and utilization > 0.8:
        calls *= 1.5
    rate = utilization * service.capacity_per_s
    room_s = (service.workers + service.queue_limit) * service.cpu_s / service.cores
    first = 60 + int(
        max(4000.0 * service.cpu_s / service.cores, min(300.0, 2.0 * room_s / max(0.02, abs(utilization - 1.0))))
    )
    played = play(service, np.full(first + int(max(60.0, calls / rate)), rate), seed, first)
    cumulants = played.sojourn_cumulants(first)
    quantiles = [played.quantile_s(p) for p in (0.5, 0.9, 0.95, 0.99)]
    open_calls = played.open_calls_at_ends(first) / service.pods
    said = [utilization if name == "utilization" else float(getattr(service, name)) for name in _SERVICE]
    return [
        *said, played.wait_s(first), *cumulants, played.refused_share(first), played.timeout_share(first),
        played.latency_s(first), *quantiles, played.first_attempts(first), open_calls.mean(), open_calls.var(),
    ]  # fmt: skip


def _play_all(path: Path) -> None:
    done = len(pd.read_csv(path)) if path.exists() else 0
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if done == 0:
            writer.writerow([*_SERVICE, *_SEEN])
        stations = [station for design, count in STATIONS.items() for station in designed(design, count)]
        for station in stations[done:]:
            writer.writerow(_play_one(*station))
            file.flush()


def _service_of(row: pd.Series) -> OneService:
    whole = ("balancing", "sharing", "pods", "workers", "queue_limit", "nodes")
    values = {name: int(row[name]) if name in whole else float(row[name]) for name in _SERVICE if name != "utilization"}
    return OneService(**values)  # type: ignore[arg-type]


def _with_model(table: pd.DataFrame, patient: bool) -> pd.DataFrame:
    """The table with what stands in `scratch` after `take_point`: see SEEN. `patient`: as if no caller gave up."""
    rows = []
    for _, row in table.iterrows():
        service = _service_of(row)
        load, state, point = load_of(service), np.zeros(1, CURVE), np.zeros(1, POINT)
        if patient:
            load["timeout_s"] = 1e6
        draw_curve(load[0], state[0], service.held_s / service.cpu_s)
        capacity = float(state["capacity"][0])
        take_point(load[0], state[0], point[0], row["utilization"] / capacity)
        rows.append([*state["scratch"][0, : len(SEEN)], float(point["blocked"][0]), capacity])
    return pd.concat(
        [table.reset_index(drop=True), pd.DataFrame(rows, columns=[*_SEEN_BY_MODEL, "blocked", "capacity"])], axis=1
    )


def _columns(polynomial: Callable[..., Any], terms: int, features: list[Floats]) -> Floats:
    """Shape (n, terms): what each coefficient of a polynomial is multiplied by."""
    plain = getattr(polynomial, "py_func", polynomial)
    return np.stack([np.broadcast_to(plain(unit, *features), features[0].shape) for unit in np.eye(terms)], axis=1)


def _alone(table: pd.DataFrame) -> pd.Series:
    """Sojourn without wait and held time, over CPU time."""
    cores = table["cores"]
    return (1.0 / cores.clip(upper=1.0)).where(table["sharing"] != FIFO, np.ceil(cores) / cores)


def _wait(table: pd.DataFrame) -> pd.Series:
    """Mean wait that was seen, over CPU time: `one_service` counts what a fraction of a core slows calls down."""
    slowed = (_alone(table) - 1.0).where(table["sharing"] != FIFO, 0.0)
    return (table["wait_s"] / table["cpu_s"] - slowed).clip(lower=1e-6)


def ridge(columns: Floats, aim: Floats, weights: Floats, strength: float = 1.0) -> Floats:
    """Coefficients of least squares, regularized, residuals beyond 2.5 counting linearly (Huber); the first is an offset.

    Args:
        columns: shape (n, terms).
        aim, weights: shape (n,); weights are inverse squares of the residuals that are small enough.
        strength: of the penalty of squared coefficients.
    """
    penalty = np.full(columns.shape[1], strength)
    penalty[0] *= 0.1
    robust = np.ones(len(aim))
    for _ in range(12):
        part = weights * robust
        found = np.linalg.solve(
            (columns * part[:, None]).T @ columns + np.diag(penalty), (columns * part[:, None]).T @ aim
        )
        off = np.abs((columns @ found - aim) * np.sqrt(weights))
        robust = np.minimum(1.0, 2.5 / np.maximum(off, 1e-9))
    return np.asarray(found, np.float64)


def _effective(row: pd.Series) -> tuple[float, float]:
    """Variance and skewness of the time in a pod (held time left out) with which quantiles come out right, near the true ones.

    Of calls that are answered in time, where some are not: also their share.
    """
    held, held_3 = row["held_scv"] * row["held_s"] ** 2, third_cumulant_factor(row["held_scv"]) * row["held_s"] ** 3
    variance = row["sojourn_2"] - held
    if variance <= 0.0:
        return math.nan, math.nan
    skewness = (row["sojourn_3"] - held_3) / variance**1.5
    lost = row["timed_out"] / (1.0 - row["refused"])
    if lost > 0.97:
        return variance, skewness
    shape, cut = np.zeros(1, SHAPE), np.zeros(1, SHAPE)

    def off(x: Floats) -> Floats:
        whole = variance * math.exp(2.0 * x[0])
        take_shape(shape[0], row["sojourn_s"], whole + held, (skewness + x[1]) * whole**1.5 + held_3)
        if row["timed_out"] < 2e-3:
            told = [
                (quantile_of_shape(shape[0], z) / row[p] - 1.0) / (0.05 if p == "p50" else 0.02)
                for p, z in _NORMAL.items()
            ]
            return np.array([*told, x[0] / 0.1, x[1] / (0.6 + 0.3 * abs(skewness))])
        within = share_within(shape[0], row["timeout_s"])
        kept = cumulants_within(shape[0], row["timeout_s"], within)
        take_shape(cut[0], *kept)
        mean, p95 = kept[0], quantile_of_shape(cut[0], _NORMAL["p95"])
        told = [(1.0 - within - lost) / 0.005, (mean / row["latency_s"] - 1.0) / 0.03, (p95 / row["p95"] - 1.0) / 0.05]
        return np.array([*told, x[0] / 0.15, x[1] / 0.6])

    found = least_squares(off, np.zeros(2), diff_step=1e-3, max_nfev=25).x
    return float(variance) * math.exp(2.0 * found[0]), float(skewness) + float(found[1])


def _aims(table: pd.DataFrame) -> list[tuple[Floats, Floats]]:
    """What is to be added to logarithms of wait and variance, and to the skewness; each with its weights.

    A residual of 1 is 2 % of the mean latency, 4 % of the standard deviation, a third of the skewness; less where few calls
    were played for how long the station remembers.
    """
    wait = _wait(table)
    share = wait * table["cpu_s"] / table["sojourn_s"]
    seconds = table["calls"] / (table["utilization"] * table["pods"] * table["cores"] / table["cpu_s"])
    memory_s = table["cpu_s"] / table["cores"] * (1.0 + table["cpu_scv"])
    memory_s /= np.maximum(0.004, np.abs(1.0 - table["utilization"])) ** 2
    room = table["workers"] + table["queue_limit"]
    memory_s = np.minimum(memory_s, room**2 * table["pods"] * table["cpu_s"] / table["cores"])
    noise = 0.8 * np.sqrt(2.0 * memory_s / seconds) * table["model_together"].clip(lower=0.02, upper=1.0)
    whole, skewness = np.array([_effective(row) for _, row in table.iterrows()]).T
    part = whole / table["sojourn_2"]
    weights = (
        (share / 0.02) ** 2 / (1.0 + (noise * share / 0.02) ** 2) + 0.02 * np.minimum(1.0, (wait / 0.02) ** 2),
        (part / 0.08) ** 2 / (1.0 + (noise / 0.08) ** 2),
        (part / 0.35) ** 2 / (1.0 + (noise / 0.1) ** 2) / (1.0 + 0.15 * skewness**2),
    )
    aside = np.where((table["workers"] < 16) | (table["cores"] != 1.0), 0.4, 1.0) * np.where(
        table["capacity"] < 0.98, 0.3, 1.0
    )
    aside *= np.where(
        (table["sharing"] == 2) & (table["cores"] < 1.0), 0.02, 1.0
    )  # calls run faster than their pod's cores
    aims = (
        np.log((wait + 0.003) / (table["model_wait"] + 0.003)),
        np.log(whole / table["cpu_s"] ** 2 / table["model_whole"]),
        skewness - table["model_skewness"],
    )
    return [(np.asarray(aim), np.asarray(weight * aside)) for aim, weight in zip(aims, weights, strict=True)]


def _told(off: Floats) -> str:
    return f"median {np.median(off):.2f}, nine tenths below {np.quantile(off, 0.9):.2f}"


def _fit_corrections(table: pd.DataFrame) -> Floats:
    """TABLE, shape (6, 3, TERMS)."""
    table = _with_model(table, patient=False)
    coefficients = np.zeros((6, 3, balanced_corrections.TERMS))
    for group in range(6):
        part = table[(table["sharing"] + 3 * (table["balancing"] == POWER_OF_TWO)) == group]
        part = part[part["sojourn_2"] > part["held_scv"] * part["held_s"] ** 2]
        features = [part[name].to_numpy() for name in _SEEN_BY_MODEL[3:]]
        columns = _columns(balanced_corrections.sum_of_terms, balanced_corrections.TERMS, features)
        filling = columns * (1.0 - part[["model_full"]].to_numpy())  # what full pods hold is no question of waiting
        fold = np.random.default_rng(1).integers(0, 5, len(part))
        for k, (aim, weights) in enumerate(_aims(part)):
            of_this = filling if k == 0 else columns
            coefficients[group, k] = ridge(of_this, aim, weights)
            unseen = np.zeros(len(part))
            for f in range(5):
                known = fold != f
                unseen[~known] = of_this[~known] @ ridge(of_this[known], aim[known], weights[known])
            before, after = np.abs(aim) * np.sqrt(weights), np.abs(unseen - aim) * np.sqrt(weights)
            what = ("wait", "variance", "skewness")[k]
            balancing = "two choices" if group > 2 else "least outstanding"
            print(f"{balancing}, {SHARINGS[group % 3]}, {what}: before {_told(before)}; after {_told(after)}")
    return coefficients


def _reach_terms(table: pd.DataFrame) -> Floats:
    """Columns that `reach` sums, shape (n, REACH_TERMS)."""
    room = (table["workers"] + table["queue_limit"]).to_numpy()
    features = [
        np.log(0.5 * (1.0 + table["cpu_scv"].to_numpy())),
        1.0 / np.sqrt(table["pods"].to_numpy()),
        np.minimum(table["utilization"].to_numpy() - 1.0, 0.6),
        np.where(table["sharing"] == FIFO, 0.0, table["workers"] / room),
        1.0 / np.sqrt(room),
    ]
    return _columns(balanced_corrections.sum_of_reach, balanced_corrections.REACH_TERMS, features)


def _fit_reach(table: pd.DataFrame) -> Floats:
    """REACH, shape (6, 2, REACH_TERMS): residuals of 1 are 2 % of a pod's calls, or 1 point of calls that are given up."""
    table = _with_model(table[(table["utilization"] > 1.005) & (table["timeout_s"] < 50.0)], patient=True)
    room = table["workers"] + table["queue_limit"]
    per_core = _alone(table) + table["held_s"] / table["cpu_s"]
    patient = (table["model_wait"] + per_core) * (1.0 - table["blocked"])
    hold = ((_wait(table) + per_core) * (1.0 - table["refused"]) / patient).to_numpy()
    fits = ((table["timeout_s"] - table["held_s"]) / table["cpu_s"] * table["cores"] / room).to_numpy()
    lost = (table["timed_out"] / (1.0 - table["refused"])).to_numpy()
    steep = np.exp(-0.5 * ndtri(np.clip(lost, 1e-6, 1.0 - 1e-6)) ** 2) / math.sqrt(2.0 * math.pi)
    points = np.where(lost < 1e-5, 0.0, 100.0 * steep * table["sojourn_s"] / np.sqrt(table["sojourn_2"]))
    weights = np.sqrt((1.0 / 0.02) ** 2 + np.minimum(points, 400.0) ** 2)
    columns = _reach_terms(table)
    coefficients = np.zeros((6, 2, columns.shape[1]))
    for group in range(6):
        mine = table["sharing"] + 3 * (table["balancing"] == POWER_OF_TWO) == group
        use = (mine & (table["capacity"] > 0.97)).to_numpy() & (fits < 3.0)

        def off(x: Floats, use: np.ndarray = use) -> Floats:
            scale, power = (columns[use] @ half for half in np.split(x, 2))
            scale, power = np.clip(scale, -1.0, 1.0), np.exp(np.clip(power, 0.0, 3.0))
            reached = -np.log1p((fits[use] * np.exp(scale)) ** -power) / power
            return np.asarray((reached - np.log(hold[use])) * weights[use])

        def all_off(x: Floats, off: Callable[[Floats], Floats] = off) -> Floats:
            half = len(x) // 2
            return np.concatenate([off(x), 0.5 * x[1:half], 0.5 * x[half + 1 :]])

        start = np.zeros(2 * columns.shape[1])
        start[0], start[columns.shape[1]] = 0.3, 2.2
        found = least_squares(all_off, start, loss="soft_l1", f_scale=2.0, x_scale="jac", max_nfev=60).x
        coefficients[group] = found.reshape(2, -1)
        print(f"reach, group {group}: {use.sum()} stations, {_told(np.abs(off(found)))}")
    return coefficients


def _fit_loose(table: pd.DataFrame) -> Floats:
    """LOOSE, shape (2,): the median of what was seen over what is to be multiplied, stations counting as their free places."""
    table = table[table["utilization"] > 1.03]
    line_scv = table["cpu_scv"].where(table["sharing"] == FIFO, 1.0)
    by_chance = 0.5 * (1.0 + line_scv) / table["pods"] / (table["utilization"] - 1.0)
    free = table["workers"] + table["queue_limit"] - table["open"] - by_chance
    ratio = table["open_variance"] / (0.5 * (1.0 + table["cpu_scv"]) * free)
    found = np.zeros(2)
    for k, balancing in enumerate((LEAST_OUTSTANDING, POWER_OF_TWO)):
        some = (table["balancing"] == balancing) & (free > 0.0)
        order = np.argsort(ratio[some].to_numpy())
        ratios, counted = ratio[some].to_numpy()[order], np.cumsum(free[some].to_numpy()[order])
        found[k] = np.interp(0.5 * counted[-1], counted, ratios)
        half = np.interp([0.25 * counted[-1], 0.75 * counted[-1]], counted, ratios)
        print(f"loose, balancer {k}: {some.sum()} stations, half of them from {half[0]:.2f} to {half[1]:.2f}")
    return found


def _rewrite(name: str, values: Floats) -> None:
    """Puts these values in the place of an array of `balanced_corrections`."""
    path = Path(balanced_corrections.__file__)
    lines = np.array2string(
        values, precision=3, separator=", ", max_line_width=110, threshold=sys.maxsize, floatmode="fixed"
    )
    text = f"{name} = np.array(\n{lines}\n)  # fmt: skip"
    path.write_text(
        re.sub(rf"{name} = np\.array\(.*?\n\)  # fmt: skip", lambda _: text, path.read_text(), flags=re.DOTALL)
    )


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m sim_core.dataplane.fit_balanced", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("step", choices=["play", "reach", "loose", "corrections"])
    parser.add_argument("stations", type=Path, help="CSV file of what was played")
    options = parser.parse_args(arguments)
    if options.step == "play":
        _play_all(options.stations)
        return 0
    table = pd.read_csv(options.stations)
    table = table[table["latency_s"] > 0.0]
    if options.step == "reach":
        _rewrite("REACH", _fit_reach(table))
    elif options.step == "loose":
        _rewrite("LOOSE", _fit_loose(table))
    else:
        _rewrite("TABLE", _fit_corrections(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
