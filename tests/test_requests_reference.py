"""The request engine against an independent simulation of the same chain, written as plainly as Python allows.

Pods with workers, a queue, one core and a wait, behind a balancer and a client with timeouts, backoff and a retry budget:
what no closed form covers. Both draw for themselves; their means must agree within their errors.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque

import numpy as np
import pytest

from sim_core.dataplane.services import records as r
from tests.request_worlds import RequestClass, RequestWorld, Service, call, cpu, run_all, wait

PODS, WORKERS, QUEUE, CPU_S, WAIT_S = 4, 6, 5, 0.02, 0.03
TIMEOUT_S, RETRIES, BACKOFF_S, BUDGET = 0.4, 2, (0.1, 0.2), 0.25
SECONDS = 60


class Pod:
    """Calls by stage: for a worker, for the core, on the core."""

    def __init__(self, shared):
        self.shared, self.busy, self.waiting, self.open = shared, 0, deque(), 0
        self.line, self.left, self.seen, self.turn = deque(), {}, 0.0, 0


class Reference:
    """One run; `results` as of the engine's sums."""

    def __init__(self, rate_per_s, balancing, shared, seed):
        self.random, self.balancing = random.Random(seed), balancing
        self.pods = [Pod(shared) for _ in range(PODS)]
        self.events, self.count, self.now, self.turn = [], itertools.count(), 0.0, 0
        self.tokens, self.first, self.before = 0.0, 0, 0
        self.sums = dict(calls=0, lost=0, failed=0, clean=0, latency=0.0, answered=0)
        for second in range(SECONDS):
            self.at(float(second), self.new_second)
        now = self.random.expovariate(rate_per_s)
        self.requests = 0
        while now < SECONDS:
            self.at(now, self.arrive)
            self.requests += 1
            now += self.random.expovariate(rate_per_s)
        while self.events:
            self.now, _, what, arguments = heapq.heappop(self.events)
            what(*arguments)

    def at(self, time_s, what, *arguments):
        heapq.heappush(self.events, (time_s, next(self.count), what, arguments))

    def new_second(self):
        self.before, self.first = self.first, 0

    def arrive(self):
        self.first += 1
        cap = max(1.0, BUDGET * max(self.first, self.before))
        self.tokens = max(self.tokens, min(self.tokens + BUDGET, cap))
        self.attempt(dict(arrived=self.now, attempts=0))

    def choose(self):
        if self.balancing == r.RANDOM:
            return self.random.choice(self.pods)
        if self.balancing == r.POWER_OF_TWO:
            return min(self.random.sample(self.pods, 2), key=lambda pod: pod.open)
        if self.balancing == r.ROUND_ROBIN:
            self.turn = (self.turn + 1) % PODS
            return self.pods[self.turn]
        least = min(pod.open for pod in self.pods)
        return self.random.choice([pod for pod in self.pods if pod.open == least])

    def attempt(self, request):
        request["attempts"] += 1
        self.sums["calls"] += 1
        pod = self.choose()
        visit = dict(request=request, pod=pod, over=False)
        if pod.busy < WORKERS:
            pod.busy += 1
            self.start(visit)
        elif len(pod.waiting) < QUEUE:
            pod.waiting.append(visit)
        else:
            self.fail(request)
            return
        pod.open += 1
        self.at(self.now + TIMEOUT_S, self.time_out, visit)

    def start(self, visit):
        pod, work = visit["pod"], self.random.expovariate(1.0 / CPU_S)
        if not pod.shared:
            pod.line.append((visit, work))
            if len(pod.line) == 1:
                self.at(self.now + work, self.end_cpu, pod)
            return
        self.progress(pod)
        pod.left[id(visit)] = [work, visit]
        self.next_leaves(pod)

    def end_cpu(self, pod):
        visit, _ = pod.line.popleft()
        if pod.line:
            self.at(self.now + pod.line[0][1], self.end_cpu, pod)
        self.at(self.now + self.random.expovariate(1.0 / WAIT_S), self.end, visit)

    def progress(self, pod):
        for entry in pod.left.values():
            entry[0] -= (self.now - pod.seen) / len(pod.left)
        pod.seen = self.now

    def next_leaves(self, pod):
        pod.turn += 1
        if pod.left:
            least = min(entry[0] for entry in pod.left.values())
            self.at(self.now + max(0.0, least) * len(pod.left), self.leave, pod, pod.turn)

    def leave(self, pod, turn):
        if turn != pod.turn:
            return
        self.progress(pod)
        _, visit = pod.left.pop(min(pod.left, key=lambda key: pod.left[key][0]))
        self.next_leaves(pod)
        self.at(self.now + self.random.expovariate(1.0 / WAIT_S), self.end, visit)

    def end(self, visit):
        pod, request = visit["pod"], visit["request"]
        if not visit["over"]:
            visit["over"] = True
            pod.open -= 1
            self.sums["answered"] += 1
            if request["attempts"] == 1:
                self.sums["clean"] += 1
                self.sums["latency"] += self.now - request["arrived"]
        if pod.waiting:
            self.start(pod.waiting.popleft())
        else:
            pod.busy -= 1

    def time_out(self, visit):
        if not visit["over"]:
            visit["over"] = True
            visit["pod"].open -= 1
            self.fail(visit["request"])

    def fail(self, request):
        self.sums["lost"] += 1
        if request["attempts"] > RETRIES or self.tokens < 1.0:
            self.sums["failed"] += 1
            return
        self.tokens -= 1.0
        self.at(self.now + self.random.expovariate(1.0 / BACKOFF_S[request["attempts"] - 1]), self.attempt, request)


def figures(calls, lost, failed, clean, latency, requests):
    """Attempts and failed attempts a request, share of failed and of clean requests, mean latency of the clean."""
    return [calls / requests, lost / requests, failed / requests, clean / requests, latency / clean]


@pytest.mark.parametrize(
    ("balancing", "sharing", "load"),
    [
        (r.RANDOM, r.FIFO, 0.85),
        (r.ROUND_ROBIN, r.PROCESSOR_SHARING, 0.9),
        (r.LEAST_OUTSTANDING, r.FIFO, 1.1),
        (r.LEAST_OUTSTANDING, r.PROCESSOR_SHARING, 0.95),
        (r.POWER_OF_TWO, r.FIFO, 1.3),
    ],
)
def test_a_chain_with_retries_agrees_with_a_plain_simulation(balancing, sharing, load):
    """Below saturation and above, where timeouts, refusals, retries and their budget decide: within 4 errors, all figures."""
    rate_per_s, n = load * PODS / CPU_S, 8
    plain = []
    for seed in range(n):
        run = Reference(rate_per_s, balancing, sharing == r.PROCESSOR_SHARING, seed)
        assert run.sums["answered"] + run.sums["failed"] == run.requests
        plain.append(
            figures(*(run.sums[name] for name in ("calls", "lost", "failed", "clean", "latency")), run.requests)
        )
    edge = dict(timeout_s=TIMEOUT_S, max_retries=RETRIES, backoff_s=(*BACKOFF_S, 0.0), retry_budget_ratio=BUDGET)
    service = dict(pods=PODS, workers=WORKERS, queue_limit=QUEUE, balancing=balancing, sharing=sharing)
    worlds = [
        RequestWorld([Service("api", {"main": [cpu(CPU_S), wait(WAIT_S)]}, **service)],
                     [RequestClass([call("api", **edge)], rate_per_s)], seed=seed) for seed in range(4 * n)
    ]  # fmt: skip
    run_all(worlds, SECONDS)
    engine = [
        figures(w.serve(ticks=10).sums["calls"][0], w.sums["failed"][0], w.class_sums["failed"][0],
                w.class_sums["latency_weight"][0], w.class_sums["latency_s"][0], w.class_sums["requests"][0]) for w in worlds
    ]  # fmt: skip
    plain, engine = np.array(plain), np.array(engine)
    errors = np.sqrt(plain.var(axis=0, ddof=1) / n + engine.var(axis=0, ddof=1) / (4 * n))
    assert (errors <= 0.02).all()
    assert (np.abs(plain.mean(axis=0) - engine.mean(axis=0)) <= 4.0 * errors + 1e-12).all(), (
        plain.mean(0),
        engine.mean(0),
    )
    assert math.isfinite(engine.sum())
