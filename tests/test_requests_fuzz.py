"""Worlds drawn at random, with everything in them at once: nothing is lost, nothing is left, nothing depends on memory."""

from __future__ import annotations

import numpy as np
import pytest

from sim_core.dataplane.cache.records import CACHE
from sim_core.dataplane.database.records import DATABASE
from sim_core.dataplane.services import records as r
from tests.request_worlds import (
    RequestClass,
    RequestWorld,
    Service,
    cached_read,
    call,
    cpu,
    parallel,
    read,
    row,
    wait,
    write,
)


class Draft:
    """Draws one world: a graph without cycles, services that differ in every setting, two classes."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.n = int(self.random.integers(2, 7))
        self.classes = [RequestClass([*self.steps(0, depth=2), self.call(0)], float(self.random.uniform(20, 200))),
                        RequestClass([self.call(0, spread=2)], float(self.random.uniform(5, 50)))]  # fmt: skip
        self.services = [self.service(i) for i in range(self.n)]
        self.cache = row(CACHE, capacity_keys=500.0, initial_keys=50.0, lookup_s=4e-4, server_s=1e-4, scv=0.5,
                         hit_ratio=tuple(np.linspace(0.1, 0.95, 33)))  # fmt: skip
        self.database = row(DATABASE, cores=float(self.random.choice([0.5, 2.0])), read_s=0.003, write_s=0.005, scv=2.0,
                            read_replicas=float(self.random.integers(0, 3)), connection_limit=20.0,
                            pool_size=float(self.random.integers(1, 4)))  # fmt: skip

    def call(self, i, spread=1):
        """A call of the i-th service or one behind it, protected in some way."""
        pick = self.random
        return call(
            f"s{min(self.n - 1, i + int(pick.integers(0, spread)))}",
            count=float(pick.choice([1.0, 1.0, 1.6])), probability=float(pick.choice([1.0, 0.6])),
            timeout_s=float(pick.choice([0.05, 0.5, np.inf])), max_retries=int(pick.integers(0, 4)),
            backoff_s=tuple(pick.uniform(0.0, 0.3, 3)), retry_budget_ratio=float(pick.choice([0.2, 2.0])),
            pass_deadline=bool(pick.integers(0, 2)), breaker_requests=float(pick.choice([3.0, np.inf])),
            ejection_failures=int(pick.choice([0, 3])), ejection_s=1.0, ejection_share=0.5,
        )  # fmt: skip

    def steps(self, i, depth):
        """Steps of an endpoint of the i-th service; it calls only services behind it."""
        pick, steps = self.random, []
        for _ in range(int(pick.integers(1, 4))):
            kind = int(pick.integers(0, 7))
            if kind == 0:
                steps.append(wait(float(pick.uniform(0, 0.02)), float(pick.choice([0.0, 1.0]))))
            elif kind == 1 and i + 1 < self.n:
                steps.append(self.call(i + 1, spread=2))
            elif kind == 2 and depth > 0:
                steps.append(parallel(*(self.steps(i, depth - 1) for _ in range(int(pick.integers(1, 4))))))
            elif kind in (3, 4):
                steps.append(cached_read(count=float(pick.uniform(0, 2))) if kind == 3 else read(probability=0.5))
            elif kind == 5:
                steps.append(write(count=0.3))
            else:
                steps.append(cpu(float(pick.uniform(0, 0.01)), float(pick.choice([0.0, 0.25, 0.7, 1.0, 3.0]))))
        return steps

    def service(self, i):
        """A service with settings of its own."""
        pick = self.random
        settings = dict(balancer_nodes=int(pick.integers(1, 4)), slow_start_s=float(pick.choice([0.0, 5.0])),
                        sticky_share=float(pick.choice([0.0, 0.3])), cold_factor=1.5, quota_period_s=0.1)  # fmt: skip
        return Service(f"s{i}", {"main": self.steps(i, depth=2)}, pods=int(pick.integers(1, 6)), room=9,
                       cores=float(pick.choice([0.5, 1.0, 2.5])), workers=float(pick.integers(1, 9)),
                       queue_limit=float(pick.choice([0.0, 4.0, 1e9])), balancing=int(pick.integers(0, 4)),
                       sharing=int(pick.integers(0, 3)), settings=settings)  # fmt: skip

    def world(self, trace_share=0.0):
        """The world, at its beginning."""
        return RequestWorld(self.services, self.classes, caches=[self.cache], databases=[self.database], seed=7,
                            trace_share=trace_share)  # fmt: skip

    def disturb(self, world):
        """Pods come, go, drain, get ready and warm."""
        pick, service = np.random.default_rng(int(world.tick)), world.tick % self.n
        n = int(world.states[service]["n_pods"])
        what = int(pick.integers(0, 5))
        if what == 0 and n < 9:
            world.add_pod(service, ready=bool(pick.integers(0, 2)))
        elif what == 1 and n > 0:
            world.remove_pod(service, int(pick.integers(0, n)))
        elif n > 0:
            pod = world.pods_of(service)[int(pick.integers(0, n))]
            name, value = (("deleting", True), ("ready", r.RANDOM + 1), ("cold", bool(pick.integers(0, 2))))[what - 2]
            pod[name] = value
            world.count_pods(service)


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_lost_and_nothing_is_left(seed):
    """At any time arrived = answered + failed + in flight; when traffic ends, no thread, call, queue or connection is left.

    Tracing every request changes nothing but the spans: the same path, so memory that is not cleared would show.
    """
    draft = Draft(seed)
    worlds = [draft.world(), draft.world(trace_share=1.0)]
    for world in worlds:
        for _ in range(30):
            world.run(1)
            engine = world.engine
            assert engine["arrived"] == engine["answered"] + engine["failed"] + engine["in_flight"]
            assert engine["in_flight"] >= 0
            assert (world.sums["failed"] <= world.sums["calls"]).all()
            assert (world.sums["cpu_core_s"] >= -1e-9).all()
            draft.disturb(world)
        used = [world.peek_station(i)["busy"] for i in range(len(world.pods))]
        assert min(used) >= 0
    plain, traced = worlds
    assert plain.engine["arrived"] > 500
    np.testing.assert_array_equal(plain.sums, traced.sums)
    np.testing.assert_array_equal(plain.class_sums, traced.class_sums)
    np.testing.assert_array_equal(plain.latency, traced.latency)
    plain.serve(ticks=400)
    assert plain.engine["in_flight"] == 0
    assert plain.left_over() == (0, 0, 0, 0, 0, 0)
