"""Fits what is fitted for pods that get their calls regardless: `python -m sim_core.dataplane.fit_independent`.

Draws stations by chance (random and round robin, all ways to share a CPU, loads 0.25 to 1.5, SCV 0.2 to 5, 2 to 120 pods,
rooms of 3 to 200 calls), plays them with `one_service`, and fits in this order:

* `--shapes`: how a SHAPE is split (SPLIT in queueing.py), so that distributions with the cumulants of the played ones come
  near these. Each may take another skewness than its own for that, and a little another deviation;
* the corrections (independent_table.py): log of the mean wait, log of the deviation, and form of the skewness of the sojourn
  beside held time, so that share by share the distribution and its mean come near the played ones.

Both are sums of squares with a ridge, by Gauss and Newton. What theory knows stays: terms that would move it are left out
(`allowed`). Prints how far stations are off before and after, and writes the coefficients (`--out`).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.curve import call_speed, draw_curve
from sim_core.dataplane.fit import load_of
from sim_core.dataplane.independent import (
    DEVIATION,
    FORM,
    N_TERMS,
    PAIRS,
    WAIT,
    correct,
    independent_base,
    kind_of,
)
from sim_core.dataplane.independent_table import COEFFICIENTS
from sim_core.dataplane.one_service import HISTOGRAM_EDGES_S, Floats, OneService, play
from sim_core.dataplane.queueing import (
    SPLIT,
    share_within,
    take_shape,
    take_split_shape,
    third_cumulant_factor,
)
from sim_core.dataplane.services.records import CFS_QUOTA
from sim_core.dataplane.station import CURVE, POINT, SHAPE

__all__ = ["Sample", "allowed", "draw", "fit_corrections", "fit_split", "main", "play_sample"]

KINDS = (
    "FIFO, random", "FIFO, round robin", "processor sharing, random", "processor sharing, round robin",
    "CFS quota, random", "CFS quota, round robin",
)  # fmt: skip
_SHARES = np.concatenate(
    [
        np.linspace(0.04, 0.5, 8),
        np.linspace(0.54, 0.9, 12),
        [0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998],
    ]
)
_WEIGHT_OF_MEAN = 0.4
_RIDGE = 0.06


@dataclass(frozen=True)
class Sample:
    """A station that was played.

    Attributes:
        cumulants: mean, variance, third cumulant of the sojourn, held time included [s, s^2, s^3].
        times_s: below which lie _SHARES of the sojourns.
        weight: by how sure that is [1].
    """

    service: OneService
    utilization: float
    cumulants: tuple[float, float, float]
    times_s: Floats
    weight: float


def draw(index: int, rng: np.random.Generator) -> tuple[OneService, float]:
    """A station and its load (over what the CPUs could serve)."""
    balancing, sharing = index % 2, index // 2 % 3
    scv = 1.0 if rng.random() < 0.3 else math.exp(rng.uniform(math.log(0.2), math.log(5.0)))
    cpu_s = math.exp(rng.uniform(math.log(0.008), math.log(0.05))) if sharing == CFS_QUOTA else 0.025
    cores = float(rng.choice([0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 4.0]))
    room = rng.random()
    if room < 0.55:
        workers, queue = 16, 64
    elif room < 0.75:
        workers, queue = int(rng.integers(3, 9)), int(rng.integers(0, 9))
    else:
        workers = int(math.exp(rng.uniform(math.log(6.0), math.log(80.0))))
        queue = int(math.exp(rng.uniform(math.log(2.0), math.log(120.0))))
    service = OneService(
        pods=int(math.exp(rng.uniform(math.log(2.0), math.log(120.0)))) if balancing else 8,
        balancing=balancing,
        sharing=sharing,
        cores=cores,
        workers=max(workers, 2 * math.ceil(cores)),
        queue_limit=queue,
        cpu_s=cpu_s,
        cpu_scv=scv,
        held_s=cpu_s * math.exp(rng.uniform(math.log(0.2), math.log(2.5))),
        timeout_s=100.0,
    )
    low, high = ((0.25, 0.7), (0.6, 0.95), (0.8, 1.0), (1.0, 1.5))[rng.choice(4, p=[0.3, 0.4, 0.2, 0.1])]
    return service, float(rng.uniform(low, high))


def play_sample(service: OneService, utilization: float, seed: int, calls: float) -> Sample:
    """Plays a station for so many calls, after it has settled."""
    rate, slack = utilization * service.capacity_per_s, abs(1.0 - utilization)
    room, one_s = service.workers + service.queue_limit, service.cpu_s / service.cores
    settles_s = 2.0 * one_s * (1.0 + service.cpu_scv) / max(1e-3, slack) ** 2
    settles_s = min(settles_s, room**2 * one_s / (1.0 + service.cpu_scv))
    first = int(min(400.0, 30.0 + 10.0 * settles_s))
    played = play(service, np.full(int(calls / rate) + first, rate), seed, first)
    below = np.concatenate([[0.0], np.cumsum(played.histogram)])
    error = math.sqrt(2.0 * settles_s / (service.pods * calls / rate))  # of the mean, about
    times_s = np.interp(_SHARES, below / below[-1], HISTOGRAM_EDGES_S)
    weight = 1.0 / math.sqrt(1.0 + (error / 0.012) ** 2)
    return Sample(service, utilization, played.sojourn_cumulants(first), times_s, weight)


def allowed(kind: int, what: int) -> np.ndarray:
    """The terms of a correction: those that vanish where theory is exact.

    Facts: 1 utilization, 2 overload, 3 variability, 4 fullness, 5 line for workers, 6 rotation, 7 held (CFS quota:
    what a period buffers), 8 cores (CFS quota: wait that is left), 9 the fourth power of 1, 10 the product of 3 and 4.
    """
    held = {(4, 7), (7, 7), (5, 7)}
    if kind >= 2 * CFS_QUOTA or (kind >= 2 and what == FORM):
        return np.ones(N_TERMS, np.bool_)
    pairs = [tuple(k for fact in pair for k in ((3, 4) if fact == 10 else (int(fact),))) for pair in PAIRS]
    in_turn = kind % 2 == 1
    if what == WAIT:  # M/M/c/K, Pollaczek and Khinchine, insensitivity
        ends = {4, 7} if kind < 2 else {4, 5, 7}
        right = [(3 in pair and bool(ends & set(pair))) or pair in held for pair in pairs]
    elif kind < 2:  # M/M/c/K
        right = [3 in pair or pair in held for pair in pairs]
    else:  # Coffman, Muntz and Trotter
        right = [bool({3, 4, 5, 7} & set(pair)) for pair in pairs]
    return np.array([ok or (in_turn and 6 in pair) for ok, pair in zip(right, pairs, strict=True)])


def _gauss_newton(misses: Callable[[Floats], Floats], start: Floats, ridge: float, steps: int) -> Floats:
    """Least squares of `misses` and of `ridge` times the distance from `start`; steps are halved until they help."""
    at, here = start.copy(), misses(start)
    cost = float(here @ here)
    for _ in range(steps):
        slopes = np.empty((len(here), len(at)))
        for k in range(len(at)):
            moved = at.copy()
            moved[k] += 1e-4
            slopes[:, k] = (misses(moved) - here) / 1e-4
        normal = slopes.T @ slopes + ridge**2 * np.eye(len(at))
        step = -np.linalg.solve(normal, slopes.T @ here + ridge**2 * (at - start))
        for _ in range(6):
            there = misses(at + step)
            off = at + step - start
            if float(there @ there) + ridge**2 * float(off @ off) < cost:
                break
            step *= 0.5
        else:
            break
        at, here = at + step, there
        cost = float(here @ here) + ridge**2 * float((at - start) @ (at - start))
    return at


def _weights(shares: Floats) -> Floats:
    """Of misses of a share: tails count by their thickness, the lower half by half."""
    weights: Floats = np.where(shares > 0.5, 1.0, 0.5) / (0.1 + 1.8 * np.sqrt(shares * (1.0 - shares)))
    return weights


@kernel
def _split_misses(split, cumulants, times_s, shares, weights, shape, misses):
    for k in range(len(cumulants)):
        take_split_shape(shape, cumulants[k, 0], cumulants[k, 1], cumulants[k, 2], split)
        for i in range(len(shares)):
            misses[k, i] = (share_within(shape, times_s[k, i]) - shares[i]) * weights[i]


def fit_split(samples: list[Sample], rounds: int = 4) -> Floats:
    """SPLIT: in turn the coefficients, and for each sample the cumulants that suit them best."""
    true = np.array([s.cumulants for s in samples])
    times_s, weights, shape = np.array([s.times_s for s in samples]), _weights(_SHARES), np.zeros(1, SHAPE)[0]
    misses = np.empty((len(samples), len(_SHARES)))
    split, taken = SPLIT.copy(), true.copy()

    def missed(flat: Floats) -> Floats:
        _split_misses(flat.reshape(SPLIT.shape), taken, times_s, _SHARES, weights, shape, misses)
        return misses.ravel().copy()

    for _ in range(rounds):
        split = _gauss_newton(missed, split.ravel(), 0.01, 6).reshape(SPLIT.shape)
        least, best = np.full(len(samples), np.inf), true.copy()
        size = np.abs(true[:, 2]) + 0.3 * true[:, 1] ** 1.5
        for wider in np.linspace(-0.18, 0.18, 13):
            for skewed in np.linspace(-1.0, 0.8, 19):
                taken[:, 1] = true[:, 1] * math.exp(2.0 * wider)
                taken[:, 2] = (true[:, 2] + size * math.expm1(skewed)) * math.exp(3.0 * wider)
                missed(split.ravel())
                cost = (misses**2).sum(axis=1) + 0.06 * wider**2 + 0.003 * skewed**2
                better = cost < least
                least[better], best[better] = cost[better], taken[better]
        taken[:] = best
    return split


@kernel
def _correction_misses(rows, bases, facts, loads, held, samples, times_s, shares, weights, point, shape, misses):
    """Args: held: cumulants of the held time, one row a sample; samples: utilization, mean sojourn, weight."""
    for k in range(len(bases)):
        load, base = loads[k], bases[k]
        point.wait_s, point.wait_variance_s2, point.wait_third_s3 = (
            base.wait_s,
            base.wait_variance_s2,
            base.wait_third_s3,
        )
        point.extra_variance_s2, point.extra_third_s3 = base.extra_variance_s2, base.extra_third_s3
        correct(load, point, facts[k], rows, samples[k, 0])
        alone, unit = 1.0 / call_speed(load), load.cpu_s
        mean = (point.wait_s + alone) * unit + held[k, 0]
        variance = (point.wait_variance_s2 + point.extra_variance_s2 + load.cpu_scv * alone**2) * unit**2 + held[k, 1]
        third = point.wait_third_s3 + point.extra_third_s3 + third_cumulant_factor(load.cpu_scv) * alone**3
        take_shape(shape, mean, variance, third * unit**3 + held[k, 2])
        for i in range(len(shares)):
            misses[k, i] = (share_within(shape, times_s[k, i]) - shares[i]) * weights[i] * samples[k, 2]
        misses[k, len(shares)] = math.log(mean / samples[k, 1]) * samples[k, 2]


def _base(sample: Sample) -> tuple[np.void, Floats, np.void, float, int]:
    """POINT without corrections, facts, LOAD, utilization over what the pods can serve, and kind of a sample."""
    service = sample.service
    load, state, point = load_of(service)[0], np.zeros(1, CURVE)[0], np.zeros(1, POINT)[0]
    held = service.held_s / service.cpu_s
    typical, state["capacity"] = service.cores * (held + 1.0), 1.0
    if typical + 8.0 * math.sqrt(typical) + 8.0 > service.workers:
        draw_curve(load, state, held)
    utilization = sample.utilization / float(state["capacity"])
    independent_base(load, state, point, utilization, held, float(service.workers + service.queue_limit))
    return point, state["facts"].copy(), load, utilization, int(kind_of(load))


def fit_corrections(samples: list[Sample]) -> tuple[Floats, list[str]]:
    """COEFFICIENTS, and a line for each kind: how far its stations were off, and are."""
    table, told = np.zeros_like(COEFFICIENTS), []
    based = [_base(sample) for sample in samples]
    for kind in range(len(KINDS)):
        part = [k for k in range(len(samples)) if based[k][4] == kind]
        if not part:
            continue
        services = [samples[k].service for k in part]
        bases = np.array([based[k][0] for k in part], POINT)
        facts = np.array([based[k][1] for k in part])
        loads = np.concatenate([load_of(service) for service in services])
        held = np.array(
            [(s.held_s, s.held_scv * s.held_s**2, third_cumulant_factor(s.held_scv) * s.held_s**3) for s in services]
        )
        rows = np.array([(based[k][3], samples[k].cumulants[0], samples[k].weight) for k in part])
        times_s = np.array([samples[k].times_s for k in part])
        free = np.array([allowed(kind, what) for what in (WAIT, DEVIATION, FORM)])
        misses = np.empty((len(part), len(_SHARES) + 1))
        point, shape, weights = np.zeros(1, POINT)[0], np.zeros(1, SHAPE)[0], _weights(_SHARES)
        coefficients = np.zeros((3, N_TERMS))

        def missed(
            values, coefficients=coefficients, free=free, bases=bases, facts=facts, loads=loads, held=held, rows=rows,
            times_s=times_s, weights=weights, point=point, shape=shape, misses=misses,
        ):  # fmt: skip
            coefficients[free] = values
            _correction_misses(
                coefficients, bases, facts, loads, held, rows, times_s, _SHARES, weights, point, shape, misses
            )
            scaled = misses.copy()
            scaled[:, -1] *= _WEIGHT_OF_MEAN
            return scaled.ravel()

        def off(misses=misses, weights=weights) -> str:
            shares = np.abs(misses[:, :-1] / weights)[:, _SHARES > 0.5].max(axis=1)
            means = math.sqrt(float((misses[:, -1] ** 2).mean()))
            return f"mean {100.0 * means:.1f} %, shares {100.0 * float(shares.mean()):.2f} points"

        missed(np.zeros(int(free.sum())))
        before = off()
        values = _gauss_newton(missed, np.zeros(int(free.sum())), _RIDGE, 8)
        missed(values)
        table[kind] = coefficients
        told.append(f"{KINDS[kind]:32} {len(part):4} stations; off by {before}; corrected by {off()}")
    return table, told


def table_text(table: Floats) -> str:
    """The source of independent_table.py."""
    lines = [
        '"""Coefficients of the corrections in independent.py, fitted by fit_independent.py."""',
        "", "from __future__ import annotations", "", "import numpy as np", "",
        "# A block of three rows (wait, deviation, form) for each sharing and balancing.", "# fmt: off",
        "COEFFICIENTS = np.array([",
    ]  # fmt: skip
    for kind, name in enumerate(KINDS):
        lines += [f"    # {name}", "    ["]
        for row in table[kind]:
            lines.append("        [")
            numbers = [f"{value:.4f}" for value in row]
            lines += ["            " + ", ".join(numbers[at : at + 9]) + "," for at in range(0, len(numbers), 9)]
            lines.append("        ],")
        lines.append("    ],")
    return "\n".join([*lines, "])", "# fmt: on", ""])


def main(arguments: list[str] | None = None) -> int:
    """The command: draws, plays, fits, prints, writes."""
    parser = argparse.ArgumentParser(
        prog="python -m sim_core.dataplane.fit_independent", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--stations", type=int, default=1200)
    parser.add_argument("--calls", type=float, default=8e5, help="that are played for a station")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument(
        "--shapes", action="store_true", help="print SPLIT, fitted anew, and leave the corrections alone"
    )
    parser.add_argument("--out", type=Path, default=None, help="Python file for the table of coefficients")
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    samples = []
    for index in range(options.stations):
        service, utilization = draw(index, rng)
        samples.append(play_sample(service, utilization, options.seed * 10_000 + index, options.calls))
    if options.shapes:
        print(np.array2string(fit_split(samples), precision=3, separator=", "))
        return 0
    table, told = fit_corrections(samples)
    print("\n".join(told))
    if options.out is not None:
        options.out.write_text(table_text(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
