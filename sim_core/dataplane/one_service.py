"""One service, call by call: what the stations of the fluid engine are fitted and held to.

A world of a single service without a graph, cache or database: calls come as a Poisson stream whose rate changes from
tick to tick, a balancer picks a pod, the call takes a worker (or waits for one, or is refused), needs CPU, and then holds
its worker for a while longer (io, backends). Callers give up after a timeout and may try again. It is written apart from
the request engine and shares no code with it, so that each can be held to the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim_core.compiled import kernel
from sim_core.dataplane.services.records import (
    CFS_QUOTA,
    FIFO,
    LEAST_OUTSTANDING,
    POWER_OF_TWO,
    PROCESSOR_SHARING,
    RANDOM,
    ROUND_ROBIN,
)

__all__ = ["HISTOGRAM_EDGES_S", "OneService", "Played", "play"]

Floats = NDArray[np.float64]

_BUCKETS = 800
_LOG_MIN, _LOG_MAX = math.log(1e-5), math.log(100.0)
HISTOGRAM_EDGES_S: Floats = np.exp(np.linspace(_LOG_MIN, _LOG_MAX, _BUCKETS + 1))
# Columns of the sums that a tick's arrivals leave.
(
    _OFFERED,
    _REFUSED,
    _TIMED_OUT,
    _FAILED,
    _FIRST,
    _DONE,
    _WAIT,
    _WAIT2,
    _WAIT3,
    _WAITED,
    _SOJOURN,
    _SOJOURN2,
    _SOJOURN3,
) = range(13)
_ANSWERED, _LATENCY, _LATENCY2, _OPEN, _WAITING, _CPU = range(13, 19)
_COLUMNS = 19

_ARRIVAL, _CPU_DONE, _HELD_DONE, _TIMEOUT, _RETRY, _POD = range(6)


@dataclass(frozen=True)
class OneService:
    """What is simulated. Times in seconds; a pod's cores and workers as in the table of services."""

    pods: int = 20
    balancing: int = RANDOM
    nodes: int = 1
    sharing: int = FIFO
    cores: float = 1.0
    workers: int = 16
    queue_limit: int = 64
    cpu_s: float = 0.025
    cpu_scv: float = 1.0
    held_s: float = 0.015
    held_scv: float = 1.0
    timeout_s: float = 2.0
    max_retries: int = 0
    backoff_s: float = 0.5  # mean before the first retry, doubled before each further one
    retry_budget_ratio: float = 0.2
    cold_pods: int = 0
    cold_factor: float = 1.5
    quota_period_s: float = 0.1
    tick_s: float = 1.0

    @property
    def capacity_per_s(self) -> float:
        """Calls that all CPUs together can serve, cold pods at their slow pace [1/s]."""
        effective = self.pods - self.cold_pods * (1.0 - 1.0 / self.cold_factor)
        return effective * self.cores / self.cpu_s

    def but(self, **changes: object) -> OneService:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Played:
    """What became of the calls that arrived in each tick.

    Attributes:
        sums: one row a tick, columns as named by the properties; of calls by the tick of their arrival.
        histogram: calls answered in time at the first attempt, from `first` on, by latency between HISTOGRAM_EDGES_S.
    """

    sums: Floats
    histogram: Floats

    def column(self, index: int, first: int = 0) -> float:
        return float(self.sums[first:, index].sum())

    def offered(self, first: int = 0) -> float:
        """Attempts."""
        return self.column(_OFFERED, first)

    def first_attempts(self, first: int = 0) -> float:
        return self.column(_FIRST, first)

    def refused_share(self, first: int = 0) -> float:
        return self.column(_REFUSED, first) / max(1.0, self.offered(first))

    def timeout_share(self, first: int = 0) -> float:
        """Of all attempts."""
        return self.column(_TIMED_OUT, first) / max(1.0, self.offered(first))

    def failed_share(self, first: int = 0) -> float:
        """Calls that failed for good, of all first attempts."""
        return self.column(_FAILED, first) / max(1.0, self.first_attempts(first))

    def wait_s(self, first: int = 0) -> float:
        """Mean of sojourn less CPU time less held time, of all admitted attempts, those given up included."""
        return self.column(_WAIT, first) / max(1.0, self.column(_DONE, first))

    def wait_cumulants(self, first: int = 0) -> tuple[float, float, float]:
        return _cumulants(*(self.column(c, first) / self.column(_DONE, first) for c in (_WAIT, _WAIT2, _WAIT3)))

    def waiting_share(self, first: int = 0) -> float:
        return self.column(_WAITED, first) / max(1.0, self.column(_DONE, first))

    def sojourn_cumulants(self, first: int = 0) -> tuple[float, float, float]:
        columns = (_SOJOURN, _SOJOURN2, _SOJOURN3)
        return _cumulants(*(self.column(c, first) / self.column(_DONE, first) for c in columns))

    def latency_s(self, first: int = 0) -> float:
        """Mean latency of the first attempts that were answered in time."""
        return self.column(_LATENCY, first) / max(1.0, self.column(_ANSWERED, first))

    def quantile_s(self, probability: float) -> float:
        """Of the latency of first attempts answered in time."""
        below = np.cumsum(self.histogram)
        return float(np.interp(probability * below[-1], np.concatenate([[0.0], below]), HISTOGRAM_EDGES_S))

    def good_share(self, threshold_s: float) -> float:
        """First attempts answered within the threshold, of those answered in time."""
        below = np.concatenate([[0.0], np.cumsum(self.histogram)])
        return float(np.interp(math.log(threshold_s), np.log(HISTOGRAM_EDGES_S), below) / max(1.0, below[-1]))

    def open_calls(self, first: int = 0) -> float:
        """Mean number of calls in the pods at the ends of ticks."""
        return float(self.open_calls_at_ends(first).mean())

    def open_calls_at_ends(self, first: int = 0) -> Floats:
        """Calls in the pods at the end of each tick."""
        return self.sums[first:, _OPEN]


def _cumulants(m1: float, m2: float, m3: float) -> tuple[float, float, float]:
    return m1, m2 - m1 * m1, m3 - 3.0 * m1 * m2 + 2.0 * m1**3


def play(service: OneService, rates_per_s: Floats, seed: int, first: int = 0) -> Played:
    """Plays `len(rates_per_s)` ticks; the histogram takes calls that arrive from tick `first` on."""
    sums = np.zeros((len(rates_per_s), _COLUMNS))
    histogram = np.zeros(_BUCKETS)
    most = service.pods * (service.workers + service.queue_limit)
    ahead = int(np.max(rates_per_s, initial=0.0) * (service.timeout_s + 8.0 * service.backoff_s) * 3.0) + most
    status = _play(
        np.asarray(rates_per_s, np.float64), seed, first, sums, histogram, 4 * most + 2 * ahead + 1000,
        service.pods, service.balancing, service.nodes, service.sharing, service.cores, service.workers,
        service.queue_limit, service.cpu_s, service.cpu_scv, service.held_s, service.held_scv, service.timeout_s,
        service.max_retries, service.backoff_s, service.retry_budget_ratio, service.cold_pods, service.cold_factor,
        service.quota_period_s, service.tick_s,
    )  # fmt: skip
    if status != 0:
        raise MemoryError(f"the slab of calls of {service} is too small")
    return Played(sums, histogram)


@kernel
def _draw(mean, scv):
    """A time of this mean: constant, gamma (scv below 1), exponential, or lognormal (above 1)."""
    if scv == 0.0 or mean == 0.0:
        return mean
    if scv == 1.0:
        return np.random.exponential(mean)
    if scv < 1.0:
        return np.random.gamma(1.0 / scv, mean * scv)
    log_variance = math.log1p(scv)
    return mean * math.exp(np.random.normal(0.0, math.sqrt(log_variance)) - 0.5 * log_variance)


@kernel
def _push(times, kinds, jobs, n, time, kind, job):
    at = n
    while at > 0:
        up = (at - 1) >> 1
        if times[up] <= time:
            break
        times[at], kinds[at], jobs[at] = times[up], kinds[up], jobs[up]
        at = up
    times[at], kinds[at], jobs[at] = time, kind, job
    return n + 1


@kernel
def _pop(times, kinds, jobs, n):
    n -= 1
    time, kind, job = times[n], kinds[n], jobs[n]
    at = 0
    while True:
        down = 2 * at + 1
        if down >= n:
            break
        if down + 1 < n and times[down + 1] < times[down]:
            down += 1
        if time <= times[down]:
            break
        times[at], kinds[at], jobs[at] = times[down], kinds[down], jobs[down]
        at = down
    times[at], kinds[at], jobs[at] = time, kind, job
    return n


@kernel
def _pick(balancing, pods, node, open_calls, turn):
    """The pod that a balancer node sends a call to."""
    if balancing == ROUND_ROBIN:
        pod = turn[node]
        turn[node] = pod + 1 if pod + 1 < pods else 0
        return pod
    if balancing == LEAST_OUTSTANDING:
        fewest, ties = open_calls[node, 0], 0
        for p in range(pods):
            if open_calls[node, p] < fewest:
                fewest, ties = open_calls[node, p], 1
            elif open_calls[node, p] == fewest:
                ties += 1
        chosen = np.random.randint(ties)
        for p in range(pods):
            if open_calls[node, p] == fewest:
                if chosen == 0:
                    return p
                chosen -= 1
    pod = np.random.randint(pods)
    if balancing == POWER_OF_TWO and pods > 1:
        other = np.random.randint(pods - 1)
        if other >= pod:
            other += 1
        mine, others = open_calls[node, pod], open_calls[node, other]
        if others < mine or (others == mine and np.random.random() < 0.5):
            return other
    return pod


@kernel
def _rate(sharing, cores, running, throttled):
    """The speed of every running call of a pod that shares its CPU [cores]."""
    if running == 0 or throttled:
        return 0.0
    if sharing == PROCESSOR_SHARING and running > cores:
        return cores / running
    return 1.0


@kernel
def _play(
    rates, seed, first, sums, histogram, slab, pods, balancing, nodes, sharing, cores, workers, queue_limit, cpu_s,
    cpu_scv, held_s, held_scv, timeout_s, max_retries, backoff_s, budget_ratio, cold_pods, cold_factor, period_s, tick_s,
):  # fmt: skip
    np.random.seed(seed)
    times, kinds, jobs = np.empty(3 * slab), np.empty(3 * slab, np.int64), np.empty(3 * slab, np.int64)
    n_events = 0
    # Of a call: pod, node, attempt, tick of arrival, time of arrival, CPU and held time, next in a line, still open,
    # in a pod, stamps against events of an earlier holder of the row.
    job_pod, job_node, job_attempt = np.zeros(slab, np.int64), np.zeros(slab, np.int64), np.zeros(slab, np.int64)
    job_tick, job_next = np.zeros(slab, np.int64), np.zeros(slab, np.int64)
    job_at, job_cpu, job_held, job_left = np.zeros(slab), np.zeros(slab), np.zeros(slab), np.zeros(slab)
    job_open, job_refs = np.zeros(slab, np.bool_), np.zeros(slab, np.int64)
    free = np.arange(slab)
    n_free = slab
    turn = np.random.randint(0, pods, nodes)
    open_calls = np.zeros((nodes, pods), np.int64)
    # Lines of a pod: for a worker (0), and for the CPU (1, FIFO only).
    head, tail, in_line = np.full((2, pods), -1), np.full((2, pods), -1), np.zeros((2, pods), np.int64)
    busy_workers, busy_cores = np.zeros(pods, np.int64), np.zeros(pods, np.int64)
    running = np.full((pods, workers), -1) if sharing != FIFO else np.full((1, 1), -1)
    n_running, stamp = np.zeros(pods, np.int64), np.zeros(pods, np.int64)
    updated_at, used, throttled = np.zeros(pods), np.zeros(pods), np.zeros(pods, np.bool_)
    period_end = np.random.random(pods) * period_s
    servers = math.ceil(cores)
    speed = cores / servers
    budget, in_pods, waiting = 0.0, 0, 0

    n_ticks = len(rates)
    tick, arrival_at = 0, np.inf
    tick_end = tick_s
    rate = rates[0]
    now = 0.0
    if rate > 0.0:
        arrival_at = np.random.exponential(1.0 / rate)
    while True:
        event_at = times[0] if n_events > 0 else np.inf
        upcoming = min(event_at, arrival_at)
        if upcoming >= tick_end:
            sums[tick, _OPEN] = in_pods
            sums[tick, _WAITING] = waiting
            tick += 1
            if tick == n_ticks:
                return 0
            now = tick_end
            tick_end += tick_s
            rate = rates[tick]
            arrival_at = now + np.random.exponential(1.0 / rate) if rate > 0.0 else np.inf
            continue
        now = upcoming
        job, enters, pod_event, finished = -1, False, -1, -1
        if arrival_at <= event_at:
            arrival_at = now + np.random.exponential(1.0 / rate)
            if n_free == 0 or n_events + 4 > 3 * slab:
                return 1
            n_free -= 1
            job = free[n_free]
            job_attempt[job] = 0
            sums[tick, _FIRST] += 1.0
            budget = min(budget + budget_ratio, max(1.0, budget_ratio * rate))
            enters = True
        else:
            kind, job = kinds[0], jobs[0]
            n_events = _pop(times, kinds, jobs, n_events)
            if kind == _RETRY:
                enters = True
            elif kind == _TIMEOUT:
                job_refs[job] -= 1
                if job_open[job]:
                    job_open[job] = False
                    open_calls[job_node[job], job_pod[job]] -= 1
                    sums[job_tick[job], _TIMED_OUT] += 1.0
                    attempt = job_attempt[job]
                    if attempt < max_retries and budget >= 1.0:
                        budget -= 1.0
                        n_free -= 1
                        again = free[n_free]
                        job_attempt[again] = attempt + 1
                        back = np.random.exponential(backoff_s * 2.0**attempt)
                        n_events = _push(times, kinds, jobs, n_events, now + back, _RETRY, again)
                    else:
                        sums[tick, _FAILED] += 1.0
                if job_refs[job] == 0:
                    free[n_free] = job
                    n_free += 1
                continue
            elif kind == _CPU_DONE:
                pod = job_pod[job]
                if head[1, pod] >= 0:
                    nxt = head[1, pod]
                    head[1, pod] = job_next[nxt]
                    in_line[1, pod] -= 1
                    n_events = _push(times, kinds, jobs, n_events, now + job_cpu[nxt] / speed, _CPU_DONE, nxt)
                else:
                    busy_cores[pod] -= 1
                finished = job
            elif kind == _HELD_DONE:
                finished = -2
            else:
                pod_event = job % pods
                if stamp[pod_event] != job // pods:
                    continue

        if enters:
            sums[tick, _OFFERED] += 1.0
            node = np.random.randint(nodes) if nodes > 1 else 0
            pod = _pick(balancing, pods, node, open_calls, turn)
            job_tick[job], job_at[job] = tick, now
            if busy_workers[pod] >= workers and in_line[0, pod] >= queue_limit:
                sums[tick, _REFUSED] += 1.0
                attempt = job_attempt[job]
                if attempt < max_retries and budget >= 1.0:
                    budget -= 1.0
                    job_attempt[job] = attempt + 1
                    back = np.random.exponential(backoff_s * 2.0**attempt)
                    n_events = _push(times, kinds, jobs, n_events, now + back, _RETRY, job)
                else:
                    sums[tick, _FAILED] += 1.0
                    free[n_free] = job
                    n_free += 1
                continue
            slow = cold_factor if pod < cold_pods else 1.0
            job_pod[job], job_node[job] = pod, node
            job_cpu[job], job_held[job] = _draw(cpu_s, cpu_scv) * slow, _draw(held_s, held_scv)
            job_open[job], job_refs[job] = True, 2
            open_calls[node, pod] += 1
            in_pods += 1
            n_events = _push(times, kinds, jobs, n_events, now + timeout_s, _TIMEOUT, job)
            if busy_workers[pod] >= workers:
                job_next[job] = -1
                if head[0, pod] < 0:
                    head[0, pod] = job
                else:
                    job_next[tail[0, pod]] = job
                tail[0, pod] = job
                in_line[0, pod] += 1
                waiting += 1
                continue
            busy_workers[pod] += 1
            starts = job
        elif pod_event >= 0:
            starts = -1
        elif finished >= 0:
            n_events = _push(times, kinds, jobs, n_events, now + job_held[finished], _HELD_DONE, finished)
            starts = -1
            continue
        elif finished == -2:
            # The answer: the worker is free again.
            pod = job_pod[job]
            in_pods -= 1
            of_tick = job_tick[job]
            sojourn = now - job_at[job]
            wait = max(0.0, sojourn - job_held[job] - job_cpu[job] / (speed if sharing == FIFO else 1.0))
            sums[of_tick, _DONE] += 1.0
            sums[of_tick, _WAIT] += wait
            sums[of_tick, _WAIT2] += wait * wait
            sums[of_tick, _WAIT3] += wait * wait * wait
            sums[of_tick, _WAITED] += 1.0 if wait > 1e-9 else 0.0
            sums[of_tick, _SOJOURN] += sojourn
            sums[of_tick, _SOJOURN2] += sojourn * sojourn
            sums[of_tick, _SOJOURN3] += sojourn * sojourn * sojourn
            sums[of_tick, _CPU] += job_cpu[job]
            if job_open[job]:
                job_open[job] = False
                open_calls[job_node[job], pod] -= 1
                if job_attempt[job] == 0:
                    sums[of_tick, _ANSWERED] += 1.0
                    sums[of_tick, _LATENCY] += sojourn
                    sums[of_tick, _LATENCY2] += sojourn * sojourn
                    if of_tick >= first:
                        place = (math.log(max(sojourn, 1e-5)) - _LOG_MIN) / (_LOG_MAX - _LOG_MIN) * _BUCKETS
                        histogram[min(int(place), _BUCKETS - 1)] += 1.0
            job_refs[job] -= 1
            if job_refs[job] == 0:
                free[n_free] = job
                n_free += 1
            starts = head[0, pod]
            if starts < 0:
                busy_workers[pod] -= 1
                continue
            head[0, pod] = job_next[starts]
            in_line[0, pod] -= 1
            waiting -= 1

        # A call that has a worker now goes to the CPU.
        if starts >= 0:
            pod = job_pod[starts]
            if sharing == FIFO:
                if busy_cores[pod] < servers:
                    busy_cores[pod] += 1
                    n_events = _push(times, kinds, jobs, n_events, now + job_cpu[starts] / speed, _CPU_DONE, starts)
                else:
                    job_next[starts] = -1
                    if head[1, pod] < 0:
                        head[1, pod] = starts
                    else:
                        job_next[tail[1, pod]] = starts
                    tail[1, pod] = starts
                    in_line[1, pod] += 1
                continue
            pod_event = pod
        # The shared CPU of a pod up to now, and its next change.
        pod = pod_event
        pace = _rate(sharing, cores, n_running[pod], throttled[pod])
        gone = (now - updated_at[pod]) * pace
        updated_at[pod] = now
        used[pod] += gone * n_running[pod]
        k = 0
        while k < n_running[pod]:
            other = running[pod, k]
            job_left[other] -= gone
            if job_left[other] <= 1e-9:
                n_events = _push(times, kinds, jobs, n_events, now + job_held[other], _HELD_DONE, other)
                n_running[pod] -= 1
                running[pod, k] = running[pod, n_running[pod]]
            else:
                k += 1
        if sharing == CFS_QUOTA:
            if now >= period_end[pod] - 1e-9:
                period_end[pod] += math.ceil((now - period_end[pod]) / period_s + 1e-9) * period_s
                used[pod], throttled[pod] = 0.0, False
            if used[pod] >= cores * period_s - 1e-9:
                throttled[pod] = True
        if starts >= 0:
            job_left[starts] = job_cpu[starts]
            running[pod, n_running[pod]] = starts
            n_running[pod] += 1
        stamp[pod] += 1
        if n_running[pod] > 0:
            if throttled[pod]:
                change = period_end[pod]
            else:
                pace = _rate(sharing, cores, n_running[pod], False)
                least = np.inf
                for i in range(n_running[pod]):
                    least = min(least, job_left[running[pod, i]])
                change = now + max(0.0, least) / pace
                if sharing == CFS_QUOTA:
                    change = min(
                        change, now + (cores * period_s - used[pod]) / (pace * n_running[pod]), period_end[pod]
                    )
            n_events = _push(times, kinds, jobs, n_events, change, _POD, stamp[pod] * pods + pod)
