"""What the monitoring system sees: means over a scrape interval, shown to readers some seconds after its end."""

from __future__ import annotations

import math

import numpy as np

from sim_core.assembly import modules, phase_of
from sim_core.compiled import kernel, phase
from sim_core.controlplane.pods import measure_pods, publish_samples
from sim_core.tables import rows

HISTORY = 64  # scrapes of a service that an observation can look back
_Z95 = 1.6448536269514722

# What one scrape of one class of requests says.
CLASS_TELEMETRY = np.dtype(
    [
        ("request_rate_per_s", np.float64),  # fresh requests
        ("latency_mean_s", np.float64),
        ("latency_p95_s", np.float64),
        ("good_ratio", np.float64),  # within the whole's threshold
        ("error_ratio", np.float64),
    ],
    align=True,
)

# What one scrape says of the whole, with what components add. Means are over the scrape interval.
TELEMETRY = np.dtype(
    [
        ("time_s", np.float64),  # end of the scrape interval
        *((name, CLASS_TELEMETRY[name]) for name in CLASS_TELEMETRY.names or ()),
        *(field for module in modules("telemetry") for field in module.TELEMETRY),
    ],
    align=True,
)

SERVICE_TELEMETRY = np.dtype(
    [
        ("call_rate_per_s", np.float64),  # offered, with retries
        ("cpu_cores", np.float64),  # used by ready pods
        ("utilization", np.float64),  # CPU of ready pods over their requests
        ("queue_len", np.float64),
        ("latency_mean_s", np.float64),
        ("error_ratio", np.float64),
        ("replicas_ready", np.float64),
        ("replicas_starting", np.float64),  # created, not ready
        ("replicas_desired", np.float64),
    ],
    align=True,
)

scrape_components = phase_of("telemetry", "scrape")


@phase
def scrape(world):
    """Closes the window that ends now, books it, and stages what it says."""
    lane, state = world.lane, world.state
    now_s = state.tick * lane.tick_s
    window_s = now_s - state.window_start_s
    state.window_s = window_s
    state.staged.time_s = now_s
    whole = state.window
    clear_class(whole)
    for k in range(len(world.classes)):
        window = world.class_windows[k]
        stage_requests(world.staged_classes[k], window, window_s)
        add_class(whole, window)
        add_class(world.class_totals[k], window)
        clear_class(window)
    stage_requests(state.staged, whole, window_s)
    for i in range(len(world.services)):
        service, service_state = world.services[i], world.service_states[i]
        pods = rows(world.pods, service.pods_first, service.n_pods)
        measure_pods(service, service_state, pods, state.window_start_s, now_s)
        stage_service(world.staged_services[i], service_state, world.service_windows[i], window_s)
        book_service(world.service_totals[i], world.service_windows[i])
    scrape_components(world)
    state.window_start_s = now_s


@kernel
def stage_requests(staged, window, window_s):
    """What a window says of requests: of a class, or of the whole; latencies keep their last value without an answer."""
    requests = max(window.requests, 1e-12)
    staged.request_rate_per_s = window.requests / window_s
    staged.good_ratio = window.good / requests if window.requests > 0.0 else 1.0
    staged.error_ratio = min(1.0, window.failed / requests)
    if window.latency_weight > 0.0:
        mean = window.latency_s / window.latency_weight
        variance = max(0.0, window.latency_s2 / window.latency_weight - mean * mean)
        staged.latency_mean_s = staged.latency_p95_s = mean
        if mean > 0.0:  # else whoever is answered at all, in an overload, is taken to be so at once
            log_variance = math.log1p(variance / (mean * mean))
            staged.latency_p95_s = mean * math.exp(_Z95 * math.sqrt(log_variance) - 0.5 * log_variance)


@kernel
def add_class(total, window):
    """Adds what became of requests to the sums of a longer time or of more classes."""
    total.requests += window.requests
    total.failed += window.failed
    total.good += window.good
    total.good_own += window.good_own
    total.latency_weight += window.latency_weight
    total.latency_s += window.latency_s
    total.latency_s2 += window.latency_s2


@kernel
def clear_class(window):
    """Begins the sums anew."""
    window.requests = window.failed = window.good = window.good_own = 0.0
    window.latency_weight = window.latency_s = window.latency_s2 = 0.0


@kernel
def stage_service(staged, state, window, window_s):
    """What a window says of a service."""
    staged.call_rate_per_s = window.calls / window_s
    staged.cpu_cores = window.cpu_core_s / window_s
    staged.utilization = window.cpu_core_s / window.request_core_s if window.request_core_s > 0.0 else 0.0
    staged.queue_len = window.queue_s / window_s
    if window.calls > 0.0:
        staged.latency_mean_s = window.latency_s / window.calls
        staged.error_ratio = window.failed / window.calls
    else:
        staged.error_ratio = 0.0
    staged.replicas_ready = state.n_ready
    staged.replicas_starting = state.n_active - state.n_ready
    staged.replicas_desired = state.desired_replicas


@kernel
def book_service(total, window):
    """Adds a service's window to what it did since the start, and begins the next."""
    total.calls += window.calls
    total.failed += window.failed
    total.cpu_core_s += window.cpu_core_s
    total.request_core_s += window.request_core_s
    total.queue_s += window.queue_s
    total.latency_s += window.latency_s
    window.calls = window.failed = window.cpu_core_s = 0.0
    window.request_core_s = window.queue_s = window.latency_s = 0.0


@phase
def publish(world):
    """Shows readers what the last scrape staged."""
    state = world.state
    state.published = state.staged
    slot = (state.n_published % HISTORY) * len(world.services)
    for i in range(len(world.services)):
        world.service_scrapes[slot + i] = world.staged_services[i]
        service = world.services[i]
        publish_samples(world.service_states[i], rows(world.pods, service.pods_first, service.n_pods))
    for k in range(len(world.classes)):
        world.published_classes[k] = world.staged_classes[k]
    state.n_published += 1
    state.sample_time_s = state.staged.time_s
    state.sample_window_s = state.window_s
