"""What the monitoring system sees: means over a scrape interval, shown to readers some seconds after its end."""

from __future__ import annotations

import math

from sim_core.compiled import kernel
from sim_core.controlplane.pods import measure_pods, publish_samples
from sim_core.world import HISTORY

_Z95 = 1.6448536269514722


@kernel
def scrape(params, state, now_s):
    """Closes the window that ends at `now_s`, books it for each service and stages what it says."""
    window, staged = state.window, state.staged
    window_s = params.scrape_ticks * params.tick_s
    requests = max(window.requests, 1e-12)
    staged.time_s = now_s
    staged.request_rate_per_s = window.requests / window_s
    staged.good_ratio = window.good / requests if window.requests > 0.0 else 1.0
    staged.error_ratio = min(1.0, window.failed / requests)
    staged.database_utilization = window.database_busy / window_s
    staged.cache_hit_ratio = window.hits / window.lookups if window.lookups > 0.0 else 0.0
    if window.latency_weight > 0.0:
        mean = window.latency_s / window.latency_weight
        variance = max(0.0, window.latency_s2 / window.latency_weight - mean * mean)
        log_variance = math.log1p(variance / (mean * mean))
        staged.latency_mean_s = mean
        staged.latency_p95_s = mean * math.exp(_Z95 * math.sqrt(log_variance) - 0.5 * log_variance)
    for i in range(params.n_services):
        service, state_i, window_i, staged_i = (
            params.services[i],
            state.services[i],
            window.services[i],
            staged.services[i],
        )
        measure_pods(service, state_i, now_s - window_s, window_s)
        staged_i.call_rate_per_s = window_i.calls / window_s
        staged_i.cpu_cores = window_i.cpu_core_s / window_s
        staged_i.utilization = window_i.cpu_core_s / window_i.request_core_s if window_i.request_core_s > 0.0 else 0.0
        staged_i.queue_len = window_i.queue_s / window_s
        if window_i.calls > 0.0:
            staged_i.latency_mean_s = window_i.latency_s / window_i.calls
            staged_i.error_ratio = window_i.failed / window_i.calls
        else:
            staged_i.error_ratio = 0.0
        staged_i.replicas_ready = state_i.n_ready
        staged_i.replicas_starting = state_i.n_active - state_i.n_ready
        staged_i.replicas_desired = state_i.desired_replicas
        account_i = state.account.services[i]
        account_i.calls += window_i.calls
        account_i.failed += window_i.failed
        account_i.cpu_core_s += window_i.cpu_core_s
        account_i.request_core_s += window_i.request_core_s
        account_i.queue_s += window_i.queue_s
        account_i.latency_s += window_i.latency_s
        window_i.calls = 0.0
        window_i.failed = 0.0
        window_i.cpu_core_s = 0.0
        window_i.request_core_s = 0.0
        window_i.queue_s = 0.0
        window_i.latency_s = 0.0
    window.requests = 0.0
    window.failed = 0.0
    window.good = 0.0
    window.latency_weight = 0.0
    window.latency_s = 0.0
    window.latency_s2 = 0.0
    window.database_busy = 0.0
    window.lookups = 0.0
    window.hits = 0.0


@kernel
def publish(params, state):
    """Shows readers what the last scrape staged."""
    state.history[state.n_published % HISTORY] = state.staged
    state.n_published += 1
    state.sample_time_s = state.staged.time_s
    for i in range(params.n_services):
        publish_samples(state.services[i])
