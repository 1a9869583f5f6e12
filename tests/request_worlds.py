"""Small worlds for the request engine, built by hand: services with static pods, endpoints as lists of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from sim_core.compiled import kernel
from sim_core.controlplane.pods import POD, READY_FALSE, READY_TRUE, RUNNING
from sim_core.dataplane.cache.records import CACHE, CACHE_STATE
from sim_core.dataplane.database.records import DATABASE, DATABASE_STATE
from sim_core.dataplane.requests import records as er
from sim_core.dataplane.requests.arrivals import REQUESTS
from sim_core.dataplane.requests.begin import begin_engine
from sim_core.dataplane.requests.draws import mixed, next_bits, next_time, set_distribution
from sim_core.dataplane.requests.events import serve_requests
from sim_core.dataplane.requests.lanes import RequestEngines
from sim_core.dataplane.services import records as r
from sim_core.randomness import lane_key, poisson_quantile, uniform

ARRIVALS = 1


@dataclass(frozen=True)
class Step:
    kind: int
    mean_s: float = 0.0
    scv: float = 1.0
    target: str | int = 0  # service of a CALL_STEP (with `endpoint`), row of a cache or database
    endpoint: str = "main"
    count: float = 1.0
    probability: float = 1.0
    edge: dict = field(default_factory=dict)
    branches: tuple[tuple[Step, ...], ...] = ()


def cpu(mean_s, scv=1.0, **more):
    return Step(r.CPU, mean_s, scv, **more)


def wait(mean_s, scv=1.0, **more):
    return Step(r.WAIT, mean_s, scv, **more)


def call(service, endpoint="main", count=1.0, probability=1.0, **edge):
    return Step(r.CALL_STEP, target=service, endpoint=endpoint, count=count, probability=probability, edge=edge)


def parallel(*branches):
    return Step(r.PARALLEL, branches=tuple(tuple(branch) for branch in branches))


def cached_read(cache=0, **more):
    return Step(r.CACHED_READ, target=cache, **more)


def read(database=0, **more):
    return Step(r.READ, target=database, **more)


def write(database=0, **more):
    return Step(r.WRITE, target=database, **more)


def row(dtype, **values):
    """One record of a table, zero where nothing is said."""
    return tuple(values.get(name, np.zeros((), dtype=dtype[name])[()]) for name in dtype.names)


@dataclass
class Service:
    name: str
    endpoints: dict[str, Sequence[Step]]
    pods: int = 1
    cores: float = 1.0
    workers: float = 1e9
    queue_limit: float = 1e9
    balancing: int = r.RANDOM
    sharing: int = r.FIFO
    room: int | None = None  # rows for pods
    settings: dict = field(default_factory=dict)


@dataclass
class RequestClass:
    steps: Sequence[Step]
    rate_per_s: float
    threshold_s: float = math.inf


class RequestWorld:
    """One lane's tables and its engine."""

    def __init__(
        self, services, classes, caches=(), databases=(), seed=0, threshold_s=math.inf, tick_s=1.0, trace_share=0.0
    ):
        self.key, self.threshold_s, self.tick_s, self.tick = np.uint64(lane_key(seed)), threshold_s, tick_s, 0
        self.rates = np.array([c.rate_per_s for c in classes], dtype=float)
        names = [s.name for s in services]
        places = {(r.INGRESS, row): row for row in range(len(classes))}
        for s in services:
            for endpoint in s.endpoints:
                places[(s.name, endpoint)] = len(places)
        endpoints, steps, calls = [], [], []
        for row, c in enumerate(classes):
            self._add_endpoint(places, names, endpoints, steps, calls, r.INGRESS, row, c.steps)
        for s in services:
            for endpoint, its_steps in s.endpoints.items():
                self._add_endpoint(places, names, endpoints, steps, calls, s.name, endpoint, its_steps)
        self.endpoints, self.steps, self.calls = (
            np.array(endpoints, dtype=r.ENDPOINT), np.array(steps, dtype=r.STEP), np.array(calls, dtype=r.CALL)
        )  # fmt: skip
        self.services = np.zeros(len(services), dtype=r.SERVICE)
        self.states = np.zeros(len(services), dtype=r.SERVICE_STATE)
        self.pods = np.zeros(sum(s.room or s.pods for s in services), dtype=POD)
        first = 0
        for row, s in enumerate(services):
            record = self.services[row]
            record["index"], record["pods_first"], record["n_pods"] = row, first, s.room or s.pods
            record["balancing"], record["balancer_nodes"], record["sharing"] = s.balancing, 1, s.sharing
            record["quota_period_s"], record["cores"], record["request_cores"] = 0.1, s.cores, s.cores
            record["workers"], record["queue_limit"], record["cold_factor"] = s.workers, s.queue_limit, 1.0
            for name, value in s.settings.items():
                record[name] = value
            first += s.room or s.pods
            for _ in range(s.pods):
                self.add_pod(row)
        self.classes = np.zeros(len(classes), dtype=r.REQUEST_CLASS)
        self.classes["endpoint"] = np.arange(len(classes))
        self.classes["latency_threshold_s"] = [c.threshold_s for c in classes]
        self.caches = np.array(list(caches), dtype=CACHE) if len(caches) else np.zeros(0, dtype=CACHE)
        self.cache_states = np.zeros(len(caches), dtype=CACHE_STATE)
        self.cache_states["cached_keys"] = self.caches["initial_keys"]
        self.databases = np.array(list(databases), dtype=DATABASE) if len(databases) else np.zeros(0, dtype=DATABASE)
        self.database_states = np.zeros(len(databases), dtype=DATABASE_STATE)
        self.sums = np.zeros(len(services), dtype=r.SERVICE_SUMS)
        self.class_sums = np.zeros(len(classes), dtype=r.CLASS_SUMS)
        self.latency = np.zeros((len(classes), r.LATENCY_BUCKETS))
        self.arrivals = np.zeros(len(classes))
        self.engines = RequestEngines(1)
        begin_engine(
            self.engine, self.services, self.endpoints, self.steps, self.calls, self.classes, self.pods, self.caches,
            self.databases, self.key, trace_share, 1 << 18 if trace_share else 0,
        )  # fmt: skip

    @property
    def engine(self):
        return self.engines.records[0]

    @staticmethod
    def _add_endpoint(places, names, endpoints, steps, calls, owner, name, its_steps):
        index = len(endpoints)
        first = len(steps)

        def add(sequence, parent):
            for step in sequence:
                place = len(steps)
                steps.append(None)
                target = step.target
                if step.kind == r.CALL_STEP:
                    target = len(calls)
                    edge = dict(timeout_s=math.inf, backoff_s=(0.0,) * r.MAX_RETRIES, retry_budget_ratio=0.2,
                                breaker_requests=math.inf) | step.edge  # fmt: skip
                    callee = places[(step.target, step.endpoint)]
                    calls.append(
                        row(r.CALL, step=place, caller=index, endpoint=callee, service=names.index(step.target), **edge)
                    )
                if step.kind == r.PARALLEL:
                    for branch in step.branches:
                        head = len(steps)
                        steps.append(None)
                        add(branch, head)
                        steps[head] = row(r.STEP, kind=r.BRANCH, endpoint=index, parent=place, end=len(steps),
                                          probability=1.0, count=1.0)  # fmt: skip
                steps[place] = row(r.STEP, kind=step.kind, endpoint=index, parent=parent, end=len(steps), target=target,
                                   probability=step.probability, count=step.count, mean_s=step.mean_s,
                                   scv=step.scv)  # fmt: skip

        add(its_steps, r.NO_PARENT)
        service = r.INGRESS if owner == r.INGRESS else names.index(owner)
        endpoints.append(
            row(
                r.ENDPOINT,
                service=service,
                steps_first=first,
                n_steps=len(steps) - first,
                cpu_s=sum(s.mean_s for s in its_steps if s.kind == r.CPU),
            )
        )

    def add_pod(self, service, ready=True):
        state = self.states[service]
        pod = self.pods[self.services[service]["pods_first"] + state["n_pods"]]
        pod["phase"], pod["ready"], pod["deleting"], pod["cold"] = (
            RUNNING,
            READY_TRUE if ready else READY_FALSE,
            False,
            False,
        )
        pod["serial"], pod["ready_transition_s"], pod["cpu_core_s"] = (
            state["serial"],
            self.now_s if self.tick else -1e6,
            0.0,
        )
        state["serial"] += 1
        state["n_pods"] += 1
        self.count_pods(service)

    def remove_pod(self, service, row):
        first, n = self.services[service]["pods_first"], self.states[service]["n_pods"]
        self.pods[first + row : first + n - 1] = self.pods[first + row + 1 : first + n].copy()
        self.states[service]["n_pods"] -= 1
        self.count_pods(service)

    def pods_of(self, service):
        first = self.services[service]["pods_first"]
        return self.pods[first : first + self.states[service]["n_pods"]]

    def count_pods(self, service):
        pods = self.pods_of(service)
        running = pods["phase"] == RUNNING
        self.states[service]["n_running"] = running.sum()
        self.states[service]["n_ready"] = (running & (pods["ready"] == READY_TRUE) & ~pods["deleting"]).sum()

    @property
    def now_s(self):
        return self.tick * self.tick_s

    def run(self, n_ticks):
        """Plays so many ticks with Poisson arrivals."""
        play_ticks(*self.tables(), self.rates, self.tick, n_ticks)
        self.tick += n_ticks
        return self

    def serve(self, *arrivals, ticks=1):
        """Plays `ticks` ticks: in the first of them exactly so many requests of each class arrive, then none."""
        self.arrivals[:] = arrivals or 0
        for _ in range(ticks):
            serve_requests(*self.tables()[:-1], self.tick, self.tick_s)
            self.tick += 1
            self.arrivals[:] = 0
        return self

    def left_over(self):
        """(threads, open calls, waiting calls, busy workers, running CPU steps, used connections) that the engine holds."""
        return _left_over(self.engine)

    def peek_station(self, index):
        """A copy of the engine's record of one pod."""
        copied = np.zeros(1, dtype=er.STATION)
        _peek_station(self.engine, index, copied)
        return copied[0]

    def ejected(self, service):
        """Pods of a service that are out of the choice."""
        return _ejected(self.engine, service)

    def orders(self):
        """(open calls, places, stations by place, stations to choose from) of each service and balancer node."""
        for service, parameters in enumerate(self.services):
            for node in range(int(parameters["balancer_nodes"])):
                known = np.zeros(int(parameters["n_pods"]), dtype=er.OPEN)
                choices = _peek_opens(self.engine, service, node, known)
                yield known["calls"], known["place"], known["ordered"], choices

    def service_times(self, spans, mean_s, scv=1.0):
        """What the first step of each visit drew, from the streams of its request, in the order of arrival.

        Args:
            spans: one of each request of class 0, in the order of arrival.
        """
        stream = np.zeros(1, dtype=er.FRAME)[0]
        distribution = np.zeros(1, dtype=er.DISTRIBUTION)[0]
        set_distribution(distribution, scv)
        times_s, taken, tick = [], 0, -1
        for start_s in spans["start_s"]:
            taken = taken + 1 if int(start_s // self.tick_s) == tick else 0
            tick = int(start_s // self.tick_s)
            times_s.append(_first_draw(stream, distribution, mean_s, self.key, tick, taken))
        return np.array(times_s)

    def tables(self):
        return (
            self.engine, self.services, self.states, self.endpoints, self.steps, self.calls, self.classes, self.pods,
            self.caches, self.cache_states, self.databases, self.database_states, self.sums, self.class_sums, self.latency,
            self.arrivals, self.key, self.threshold_s, self.tick_s,
        )  # fmt: skip

    def clear(self):
        """Forgets what was summed up so far: the end of a warm-up."""
        for sums in (self.sums, self.class_sums, self.latency):
            sums[...] = np.zeros((), dtype=sums.dtype)
        self.database_states["busy_s"] = 0.0
        self.pods["cpu_core_s"] = 0.0

    @property
    def mean_latency_s(self):
        return float(self.class_sums["latency_s"].sum() / self.class_sums["latency_weight"].sum())


@kernel
def play_ticks(
    engine, services, states, endpoints, steps, calls, classes, pods, caches, cache_states, databases, database_states,
    sums, class_sums, latency, arrivals, key, threshold_s, tick_s, rates, first_tick, n_ticks,
):  # fmt: skip
    for tick in range(first_tick, first_tick + n_ticks):
        for row in range(len(rates)):
            arrivals[row] = poisson_quantile(rates[row] * tick_s, uniform(key, ARRIVALS + 1000 * row, tick))
        serve_requests(
            engine, services, states, endpoints, steps, calls, classes, pods, caches, cache_states, databases, database_states,
            sums, class_sums, latency, arrivals, key, threshold_s, tick, tick_s,
        )  # fmt: skip


@kernel
def _left_over(engine):
    opens, waiting, busy, running, used = 0, 0, 0, 0, 0
    for service in range(engine.n_services):
        group = er.group_at(engine.groups, service)
        waiting += group.waiting
        for index in range(group.first, group.first + group.rows):
            station = er.station_at(engine.stations, index)
            if station.serial == er.NONE:
                continue
            busy += station.busy
            running += station.running
            for node in range(group.nodes):
                opens += er.open_at(engine.opens, group.open_first + node * group.rows + index - group.first).calls
            for database in range(engine.n_databases):
                used += er.pool_at(engine.pools, database * engine.n_stations + index).used
    return engine.n_used, opens, waiting, busy, running, used


@kernel
def _first_draw(stream, distribution, mean_s, key, tick, taken):
    stream.random = mixed(mixed(mixed(key ^ REQUESTS, 0), tick), taken)
    stream.random = mixed(next_bits(stream), 0)  # of the visit: its caller's next bits, first attempt
    return next_time(stream, distribution, mean_s)


@kernel
def _peek_station(engine, index, copied):
    copied[0] = er.station_at(engine.stations, index)


@kernel
def _ejected(engine, service):
    return er.group_at(engine.groups, service).ejected


@kernel
def _peek_opens(engine, service, node, known):
    group = er.group_at(engine.groups, service)
    for row in range(group.rows):
        known[row] = er.open_at(engine.opens, group.open_first + node * group.rows + row)
    return group.choices


def run_all(worlds, n_ticks, threads=2):
    """Plays worlds side by side on threads: kernels hold no lock."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda world: world.run(n_ticks), worlds))
