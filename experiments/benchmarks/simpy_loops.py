"""The same queues as SimPy processes, as anybody would write them: what an event costs in plain Python.

SimPy is a development dependency; `simpy` is imported when these are called.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any

_PODS, _CPU_S, _IO_S, _LOOKUP_S, _READ_S, _WRITE_S = 20, 0.025, 0.015, 0.0005, 0.002, 0.003
_HIT_RATIO, _CACHED, _PLAIN, _WRITES = 0.907, 2.7, 0.3, 0.2


def mmc_mean_sojourn_s(
    arrival_rate_per_s: float, service_rate_per_s: float, servers: int, n_requests: int, seed: int
) -> float:
    """Mean sojourn of `n_requests` of M/M/c [s]."""
    import simpy

    random.seed(seed)
    world = simpy.Environment()
    pool = simpy.Resource(world, servers)
    sojourns: list[float] = []

    def request() -> Generator[Any, Any, None]:
        began_s = world.now
        with pool.request() as server:
            yield server
            yield world.timeout(random.expovariate(service_rate_per_s))
        sojourns.append(world.now - began_s)

    def arrivals() -> Generator[Any, Any, None]:
        for _ in range(n_requests):
            yield world.timeout(random.expovariate(arrival_rate_per_s))
            world.process(request())

    world.process(arrivals())
    world.run()
    return sum(sojourns) / n_requests


def chain_mean_sojourn_s(arrival_rate_per_s: float, n_requests: int, seed: int) -> float:
    """Mean sojourn of `n_requests` of `production`'s chain in its simplest form [s].

    The pod with the fewest requests, one core in order of arrival, a wait for another system, look-ups at one server,
    reads at two replicas of four cores and writes at a primary; no workers, time-outs, retries, pools, scaling.
    """
    import simpy

    random.seed(seed)
    world = simpy.Environment()
    cores = [simpy.Resource(world, 1) for _ in range(_PODS)]
    outstanding = [0] * _PODS
    cache, primary = simpy.Resource(world, 1), simpy.Resource(world, 4)
    replicas = [simpy.Resource(world, 4) for _ in range(2)]
    sojourns: list[float] = []

    def hold(station: Any, mean_s: float) -> Generator[Any, Any, None]:
        with station.request() as turn:
            yield turn
            yield world.timeout(random.expovariate(1.0 / mean_s))

    def times(mean: float) -> int:
        return int(mean) + (random.random() < mean - int(mean))

    def request() -> Generator[Any, Any, None]:
        began_s = world.now
        pod = min(range(_PODS), key=outstanding.__getitem__)
        outstanding[pod] += 1
        yield from hold(cores[pod], _CPU_S)
        yield world.timeout(random.expovariate(1.0 / _IO_S))
        reads = times(_PLAIN)
        for _ in range(times(_CACHED)):
            yield from hold(cache, _LOOKUP_S / 50.0)
            yield world.timeout(random.expovariate(1.0 / _LOOKUP_S))
            reads += random.random() > _HIT_RATIO
        for _ in range(reads):
            yield from hold(random.choice(replicas), _READ_S)
        for _ in range(times(_WRITES)):
            yield from hold(primary, _WRITE_S)
        outstanding[pod] -= 1
        sojourns.append(world.now - began_s)

    def arrivals() -> Generator[Any, Any, None]:
        for _ in range(n_requests):
            yield world.timeout(random.expovariate(arrival_rate_per_s))
            world.process(request())

    world.process(arrivals())
    world.run()
    return sum(sojourns) / n_requests
