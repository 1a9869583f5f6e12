"""Pods: the records that the autoscaler reads, and their life from creation to removal."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.limits import MAX_CONTAINERS, MAX_METRICS, MAX_PODS
from sim_core.randomness import POD_STARTUP, normal_quantile, uniform

__all__ = ["MAX_CONTAINERS", "MAX_METRICS", "MAX_PODS", "POD", "SAMPLE"]

PENDING, RUNNING, SUCCEEDED, FAILED = 1, 2, 3, 4  # phase
READY_UNKNOWN, READY_FALSE, READY_TRUE = -1, 0, 1  # condition Ready; unknown: the pod has no such condition yet
READY_LOST = 2  # condition Ready is there with status "Unknown": the node does not answer
NO_REQUEST = -1  # request_m of a container that sets none: an error for a utilization target
NO_CONTAINER = -2  # request_m of a container that the pod does not have
LONG_AGO_S = 1e6  # age of the pods that a world starts with
NO_USAGE = -1  # usage_m of a container that the sample does not name
NO_RESOURCE = -2  # usage_m of a container that the sample names, without this resource

# Two lines of a CPU's cache: the first holds what the life cycle reads at every event.
POD = np.dtype(
    [
        ("phase", np.int8),
        ("ready", np.int8),
        ("deleting", np.bool_),
        ("cold", np.bool_),  # ready, but still slow
        ("serial", np.int32),  # how many pods of the service came before it
        ("next_event_s", np.float64),  # when its life goes on; infinite: nothing lies ahead
        ("running_s", np.float64),  # when its containers run
        ("ready_s", np.float64),  # when its readiness probe succeeds first
        ("warm_s", np.float64),  # when it stops being slow
        ("gone_s", np.float64),  # when a deleted pod is away; infinite while it is not deleted
        ("start_s", np.float64),  # status.startTime; NaN: not set
        ("ready_transition_s", np.float64),  # last change of condition Ready
        ("cpu_core_s", np.float64),  # used in this metrics window, up to cpu_mark_core_s
        ("cpu_mark_core_s", np.float64),  # integral of CPU per ready pod at which cpu_core_s was brought up to date
        ("sample_m", np.int64),  # CPU sample that readers see [milli-cores]; NO_USAGE: none
        ("staged_m", np.int64),  # CPU sample that is measured and not yet published
        ("request_m", np.int64, (MAX_CONTAINERS,)),  # CPU request [milli-cores]
    ],
    align=True,
)

# One pod in one metric's answer, at the same index as the pod.
SAMPLE = np.dtype(
    [
        ("time_s", np.float64),  # end of the window; NaN: the answer holds no sample of this pod
        ("window_s", np.float64),
        ("usage_m", np.int64, (MAX_CONTAINERS,)),  # milli-units; a metric without containers uses the first
    ],
    align=True,
)


@kernel
def create_pod(service, state, key, now_s):
    """Adds one pod; its whole life up to being warm is drawn and fixed here.

    Pending until it is scheduled and its image is there, then running; ready at the first probe after the application
    has started; cold until `cold_s` later.
    """
    pod = state.pods[state.n_pods]
    pod.phase = PENDING
    pod.ready = READY_FALSE
    pod.deleting = False
    pod.cold = False
    pod.serial = state.serial
    pod.start_s = now_s + service.scheduling_s
    pod.ready_transition_s = pod.start_s
    pod.running_s = pod.start_s + service.image_pull_s
    draw = normal_quantile(uniform(key, POD_STARTUP + (service.index << 8), state.serial))
    startup_s = math.exp(service.startup_log_mean + service.startup_log_sd * draw)
    late_s = max(0.0, startup_s - service.readiness_delay_s)
    # exp(log(x)) may be a hair more than x: that must not cost a whole period
    probes = math.ceil(late_s / service.readiness_period_s - 1e-6)
    pod.ready_s = pod.running_s + service.readiness_delay_s + probes * service.readiness_period_s
    pod.warm_s = pod.ready_s + service.cold_s
    pod.gone_s = math.inf
    pod.cpu_core_s = 0.0
    pod.cpu_mark_core_s = 0.0
    pod.sample_m = NO_USAGE
    pod.staged_m = NO_USAGE
    for container in range(MAX_CONTAINERS):
        pod.request_m[container] = NO_CONTAINER
    pod.request_m[0] = round(1000.0 * service.request_cores)
    state.serial += 1
    state.n_pods += 1
    state.n_active += 1
    pod.next_event_s = pod.running_s
    state.next_event_s = min(state.next_event_s, pod.next_event_s)


@kernel
def start_warm(service, state, replicas):
    """Fills an empty service with pods that have been ready and warm for long."""
    for index in range(replicas):
        create_pod(service, state, np.uint64(0), -LONG_AGO_S)
        pod = state.pods[index]
        pod.phase = RUNNING
        pod.ready = READY_TRUE
        pod.ready_transition_s = pod.ready_s
        pod.next_event_s = math.inf
    state.desired_replicas = replicas
    state.next_event_s = math.inf
    count_pods(state)


@kernel
def _goes_before(pod, other):
    """Whether `pod` is deleted rather than `other`: pending, then not ready, then ready for less time, then younger.

    Source: Kubernetes, pkg/controller/controller_utils.go, ActivePodsWithRanks (deletion cost and node ranks are equal
    here).
    """
    if (pod.phase == PENDING) != (other.phase == PENDING):
        return pod.phase == PENDING
    if pod.ready != other.ready:
        return pod.ready != READY_TRUE
    if pod.ready == READY_TRUE and pod.ready_transition_s != other.ready_transition_s:
        return pod.ready_transition_s > other.ready_transition_s
    return pod.serial > other.serial


@kernel
def delete_pod(service, state, now_s):
    """Marks one pod for deletion: it takes no new calls, and is away after `termination_s`."""
    victim = -1
    for index in range(state.n_pods):
        if not state.pods[index].deleting and (victim < 0 or _goes_before(state.pods[index], state.pods[victim])):
            victim = index
    pod = state.pods[victim]
    pod.deleting = True
    pod.gone_s = now_s + (service.termination_s if pod.phase == RUNNING else 0.0)
    pod.next_event_s = pod.gone_s
    state.n_active -= 1
    state.next_event_s = min(state.next_event_s, pod.gone_s)


@kernel
def set_replicas(service, state, key, now_s):
    """Creates or deletes pods until as many are active as are desired (the Deployment's replica set)."""
    changed = False
    while state.n_active < state.desired_replicas and state.n_pods < MAX_PODS:
        create_pod(service, state, key, now_s)
        changed = True
    while state.n_active > state.desired_replicas:
        delete_pod(service, state, now_s)
        changed = True
    if changed:
        count_pods(state)
    return changed


@kernel
def count_pods(state):
    """Brings the counts of a service up to date with its pods."""
    running, ready, cold = 0, 0, 0
    next_event_s = math.inf
    for index in range(state.n_pods):
        pod = state.pods[index]
        next_event_s = min(next_event_s, pod.next_event_s)
        if pod.phase == RUNNING:
            running += 1
            if pod.ready == READY_TRUE and not pod.deleting:
                ready += 1
                if pod.cold:
                    cold += 1
    state.n_running = running
    state.n_ready = ready
    state.n_cold = cold
    state.next_event_s = next_event_s


@kernel
def advance_pod(service, state, pod, window_start_s, now_s):
    """Takes one pod to where it is at `now_s`: running, ready, warm."""
    if pod.phase == PENDING and now_s >= pod.running_s:
        pod.phase = RUNNING
    if pod.phase == RUNNING and pod.ready != READY_TRUE and now_s >= pod.ready_s:
        pod.ready = READY_TRUE
        pod.ready_transition_s = now_s
        pod.cold = service.cold_s > 0.0
        pod.cpu_core_s = service.startup_cores * (now_s - max(pod.running_s, window_start_s))
        pod.cpu_mark_core_s = state.ready_cpu_core_s
    if pod.cold and now_s >= pod.warm_s:
        pod.cold = False
    if pod.deleting:
        pod.next_event_s = pod.gone_s
    elif pod.phase == PENDING:
        pod.next_event_s = pod.running_s
    elif pod.ready != READY_TRUE:
        pod.next_event_s = pod.ready_s
    elif pod.cold:
        pod.next_event_s = pod.warm_s
    else:
        pod.next_event_s = math.inf


@kernel
def advance_pods(service, state, window_start_s, now_s):
    """Takes every pod to where it is at `now_s`; pods that are gone leave their place."""
    if now_s < state.next_event_s:
        return
    kept = 0
    for index in range(state.n_pods):
        pod = state.pods[index]
        if now_s >= pod.next_event_s:
            if pod.deleting and now_s >= pod.gone_s:
                continue
            advance_pod(service, state, pod, window_start_s, now_s)
        if kept != index:
            state.pods[kept] = pod
        kept += 1
    state.n_pods = kept
    count_pods(state)


@kernel
def measure_pods(service, state, window_start_s, window_s):
    """Stages a CPU sample of every pod whose containers ran through the whole window, and begins the next window.

    A pod that ran for less has no sample: the metrics server needs two readings of the same container.
    """
    for index in range(state.n_pods):
        pod = state.pods[index]
        if pod.ready == READY_TRUE:
            used = pod.cpu_core_s
            if not pod.deleting:
                used += state.ready_cpu_core_s - pod.cpu_mark_core_s
        else:
            used = service.startup_cores * window_s
        pod.staged_m = int(1000.0 * used / window_s) if pod.running_s <= window_start_s else NO_USAGE
        pod.cpu_core_s = 0.0
        pod.cpu_mark_core_s = state.ready_cpu_core_s


@kernel
def publish_samples(state):
    """Shows readers the staged samples."""
    for index in range(state.n_pods):
        state.pods[index].sample_m = state.pods[index].staged_m


@kernel
def collect_samples(state, samples, time_s, window_s):
    """Writes the published samples as the answer of the resource metrics API for one metric, in the order of the pods."""
    for index in range(state.n_pods):
        used_m = state.pods[index].sample_m
        samples[index].time_s = time_s if used_m != NO_USAGE else math.nan
        samples[index].window_s = window_s
        samples[index].usage_m[0] = used_m
        for container in range(1, MAX_CONTAINERS):
            samples[index].usage_m[container] = NO_USAGE
