"""Requests per CPU-second of the request engine: `python -m tests.bench_requests`.

Beside a bare loop that does nothing but M/M/4, because machines differ by a factor of two: the ratios count.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.cache.records import CACHE, HIT_POINTS
from sim_core.dataplane.database.records import DATABASE
from sim_core.dataplane.requests.draws import next_uniform
from sim_core.dataplane.requests.records import ARRIVAL
from sim_core.dataplane.services import records as r
from sim_core.theory import lru_hit_ratio
from tests.request_worlds import RequestClass, RequestWorld, Service, cached_read, call, cpu, read, row, wait, write

POD_RATE_PER_S = 40.0  # that keeps one pod of `production` busy


def production(pods: int, load: float, balancing: int = r.LEAST_OUTSTANDING, sharing: int = r.FIFO) -> RequestWorld:
    """The chain of the profile `production`: load balancer, api, cache, database; static pods at `load` of their CPU."""
    capacity = 150_000.0
    hit_ratio = tuple(lru_hit_ratio(1_000_000, 1.1, capacity * (i / (HIT_POINTS - 1)) ** 2) for i in range(HIT_POINTS))
    cache = row(CACHE, capacity_keys=capacity, initial_keys=capacity, lookup_s=5e-4, server_s=1e-5, scv=0.5,
                hit_ratio=hit_ratio)  # fmt: skip
    database = row(DATABASE, cores=4.0, read_s=0.002, write_s=0.003, scv=1.0, read_replicas=2.0, connection_limit=497.0,
                   pool_size=4.0)  # fmt: skip
    edge = dict(timeout_s=2.0, max_retries=2, backoff_s=(0.5, 1.0, 2.0), retry_budget_ratio=0.2)
    steps = [cpu(0.025), wait(0.015), cached_read(count=2.7), read(count=0.3), write(count=0.2)]
    return RequestWorld(
        [Service("api", {"main": steps}, pods=pods, workers=16, queue_limit=64, balancing=balancing, sharing=sharing)],
        [RequestClass([wait(0.002), call("api", **edge)], load * pods * POD_RATE_PER_S, threshold_s=0.3)],
        caches=[cache], databases=[database], threshold_s=0.3,
    )  # fmt: skip


def mm4(load: float = 0.8) -> RequestWorld:
    """One pod of 4 cores and nothing else."""
    return RequestWorld([Service("api", {"main": [cpu(0.01)]}, cores=4.0)], [RequestClass([call("api")], 400.0 * load)])


@kernel
def bare_mm4(stream, n):
    """Mean sojourn of `n` requests at M/M/4, 0.8, by Kiefer and Wolfowitz's recursion: a loop that books nothing."""
    free = np.zeros(4)
    now, total = 0.0, 0.0
    for _ in range(n):
        now -= math.log(next_uniform(stream)) / 320.0
        server = 0
        for other in range(1, 4):
            if free[other] < free[server]:
                server = other
        free[server] = max(free[server], now) - 0.01 * math.log(next_uniform(stream))
        total += free[server] - now
    return total / n


def rate_per_cpu_s(play: Callable[[], float]) -> float:
    """Requests per CPU-second of a call that returns how many it has played; the best of three."""
    best = 0.0
    for _ in range(3):
        begin_s = time.process_time()
        requests = play()
        best = max(best, requests / (time.process_time() - begin_s))
    return best


def world_rate(world: RequestWorld, seconds: int) -> float:
    """The same of a world that has warmed up, over so many seconds of its own."""
    world.run(20)

    def play() -> float:
        before = world.class_sums["requests"].sum()
        world.run(seconds)
        return float(world.class_sums["requests"].sum() - before)

    return rate_per_cpu_s(play)


def main() -> None:
    """Prints the table."""
    stream = np.zeros(1, dtype=ARRIVAL)[0]
    bare_mm4(stream, 10)

    def play_bare() -> float:
        assert math.isfinite(bare_mm4(stream, 2_000_000))
        return 2e6

    bare = rate_per_cpu_s(play_bare)
    rates = {
        "bare loop M/M/4 at 0.8": bare,
        "M/M/4 at 0.8": world_rate(mm4(), 5000),
        "production, 20 pods at 0.7": world_rate(production(20, 0.7), 600),
        "production, 80 pods at 0.7": world_rate(production(80, 0.7), 150),
        "production, 20 pods at 0.7, processor sharing": world_rate(
            production(20, 0.7, sharing=r.PROCESSOR_SHARING), 600
        ),
        "production, 20 pods at 0.7, CFS quota": world_rate(production(20, 0.7, sharing=r.CFS_QUOTA), 600),
        "production, 20 pods at 1.2": world_rate(production(20, 1.2), 300),
    }
    print(f"{'':48} {'M requests per CPU-s':>22} {'of the bare loop':>18}")
    for name, rate in rates.items():
        print(f"{name:48} {rate / 1e6:22.2f} {rate / bare:18.3f}")
    print(f"largest resident set: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
