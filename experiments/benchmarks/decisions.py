"""What one decision of the general model takes: the policy's own time, in process, for one lane."""

from __future__ import annotations

import time

import numpy as np

from agents.observation import Observations
from agents.policies.learned import general_policy
from experiments.benchmarks.measuring import Figures, figure
from sim_core.profile import load_profile
from sim_core.simulation import Worlds
from sim_core.workload import bundled_traffic
from sim_core.world import Lane, Scaler, scale_to_replicas

DAY_S = 86_400.0
PEAK_REPLICAS = 20
UNSEEN = 100  # decisions before those that count: the first ones load kernels


def decision_latency(quick: bool) -> Figures:
    """Median and 99th percentile over a day of decisions, a new scrape before each; worlds go on in between, untimed.

    CPU time is that of the deciding thread: elapsed time on shared cores also holds what others do there.
    """
    profile = load_profile("production")
    trace = scale_to_replicas(bundled_traffic().generate(2 * DAY_S, seed=0), profile, PEAK_REPLICAS)
    lanes = [Lane(profile, trace, 1, scaler=Scaler.external())]
    worlds, policy = Worlds(lanes), general_policy()
    observations = Observations(worlds)
    sync_ticks = int(worlds.params["sync_ticks"][0])
    n = UNSEEN + (1000 if quick else 5760)
    policy.reset(lanes, DAY_S)
    spent_ns = np.zeros((2, n))
    for k in range(n):
        worlds.advance(sync_ticks)
        began = time.thread_time_ns(), time.perf_counter_ns()
        desired = policy.predict(observations)
        ended = time.thread_time_ns(), time.perf_counter_ns()
        spent_ns[:, k] = np.subtract(ended, began)
        worlds.request_replicas(desired)
    (cpu_median, cpu_p99), (median, p99) = np.percentile(spent_ns[:, UNSEEN:], (50.0, 99.0), axis=1).T * 1e-6
    note = f"p50 {cpu_median:.2g} ms; elapsed p50 {median:.2g}, p99 {p99:.2g} ms; {n - UNSEEN} decisions, one lane"
    return [figure("decision of the general model, p99", float(cpu_p99), "ms of CPU", "< 1", note)]
