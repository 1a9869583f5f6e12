"""Pods: the records that the autoscaler reads, and their life from creation to removal.

Kernels take a service's row, its state and `pods`, the view of the rows that belong to the service. The first
`state.n_pods` of them are in use; there are never more pods than rows.
"""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.limits import MAX_CONTAINERS
from sim_core.randomness import POD_STARTUP, normal_quantile, uniform

PENDING, RUNNING, SUCCEEDED, FAILED = 1, 2, 3, 4  # phase
READY_UNKNOWN, READY_FALSE, READY_TRUE = -1, 0, 1  # condition Ready; unknown: the pod has no such condition yet
READY_LOST = 2  # condition Ready is there with status "Unknown": the node does not answer
NO_REQUEST = -1  # request_m of a container that sets none: an error for a utilization target
NO_CONTAINER = -2  # request_m of a container that the pod does not have
LONG_AGO_S = 1e6  # age of the pods that a world starts with
NO_USAGE = -1  # usage_m of a container that the sample does not name
NO_RESOURCE = -2  # usage_m of a container that the sample names, without this resource
FRESH_CONTAINER_S = 10.0  # a container that ran for less at its first scrape has no sample yet

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
        ("cpu_core_s", np.float64),  # its own integral of CPU since the last scrape; in the fluid engine up to the mark
        ("cpu_mark_core_s", np.float64),  # state.ready_cpu_core_s up to which cpu_core_s holds this pod's share
        ("sample_m", np.int64),  # CPU sample that readers see [milli-cores]; NO_USAGE: none
        ("staged_m", np.int64),  # CPU sample that is measured and not yet published
        ("request_m", np.int64, (MAX_CONTAINERS,)),  # CPU request [milli-cores]
    ],
    align=True,
)

# One value in one metric's answer: that of the pod at the same index, or a series of an Object or External metric.
SAMPLE = np.dtype(
    [
        ("time_s", np.float64),  # end of the window; NaN: the answer holds nothing here
        ("window_s", np.float64),
        ("usage_m", np.int64, (MAX_CONTAINERS,)),  # milli-units; a metric without containers uses the first
    ],
    align=True,
)


@kernel
def create_pod(service, state, pods, key, now_s):
    """Adds one pod; its whole life up to being warm is drawn and fixed here.

    Pending until it is scheduled and its image is there, then running; ready at the first probe after the application
    has started; cold until `cold_s` later.
    """
    pod = pods[state.n_pods]
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


@kernel
def start_warm(service, state, pods, replicas):
    """Fills an empty service with pods that have been ready and warm for long."""
    for index in range(replicas):
        create_pod(service, state, pods, np.uint64(0), -LONG_AGO_S)
        pod = pods[index]
        pod.phase = RUNNING
        pod.ready = READY_TRUE
        pod.ready_transition_s = pod.ready_s
        pod.next_event_s = math.inf
    state.desired_replicas = replicas
    count_pods(state, pods)


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
def delete_pod(service, state, pods, now_s):
    """Marks one pod for deletion: it takes no new calls, and is away after `termination_s`."""
    victim = -1
    for index in range(state.n_pods):
        if not pods[index].deleting and (victim < 0 or _goes_before(pods[index], pods[victim])):
            victim = index
    pod = pods[victim]
    if pod.ready == READY_TRUE:
        book_cpu(state, pod)
    pod.deleting = True
    pod.gone_s = now_s + (service.termination_s if pod.phase == RUNNING else 0.0)
    pod.next_event_s = pod.gone_s
    state.n_active -= 1


@kernel
def set_replicas(service, state, pods, key, now_s):
    """Creates or deletes pods until as many are active as are desired (the Deployment's replica set).

    Where terminating pods still hold the rows, new ones wait for room.

    Returns:
        Whether any pod was created or deleted.
    """
    changed = False
    while state.n_active < state.desired_replicas and state.n_pods < len(pods):
        create_pod(service, state, pods, key, now_s)
        changed = True
    while state.n_active > state.desired_replicas:
        delete_pod(service, state, pods, now_s)
        changed = True
    if changed:
        count_pods(state, pods)
    return changed


@kernel
def count_pods(state, pods):
    """Brings the counts of a service up to date with its pods."""
    state.n_running = 0
    state.n_ready = 0
    state.n_cold = 0
    state.next_event_s = math.inf
    for index in range(state.n_pods):
        pod = pods[index]
        state.next_event_s = min(state.next_event_s, pod.next_event_s)
        if pod.phase == RUNNING:
            state.n_running += 1
            if pod.ready == READY_TRUE and not pod.deleting:
                state.n_ready += 1
                if pod.cold:
                    state.n_cold += 1


@kernel
def startup_core_s(service, pod, since_s, until_s):
    """CPU that a pod's start burns between two times [core s]; it starts from when it runs until it is ready."""
    return service.startup_cores * max(0.0, until_s - max(pod.running_s, since_s))


@kernel
def book_cpu(state, pod):
    """Books the share of a ready pod in the CPU of its service since the mark.

    The fluid engine serves all ready pods alike, so it keeps one integral for them. The request engine adds what each
    pod burns to `pod.cpu_core_s` itself and leaves the service's integral at 0, so that nothing is added here.
    """
    pod.cpu_core_s += state.ready_cpu_core_s - pod.cpu_mark_core_s
    pod.cpu_mark_core_s = state.ready_cpu_core_s


@kernel
def next_event_s(pod):
    """When the life of a pod goes on; infinite: nothing lies ahead."""
    if pod.deleting:
        return pod.gone_s
    if pod.phase == PENDING:
        return pod.running_s
    if pod.ready != READY_TRUE:
        return pod.ready_s
    return pod.warm_s if pod.cold else math.inf


@kernel
def advance_pod(service, state, pod, window_start_s, now_s):
    """Takes one pod to where it is at `now_s`: running, ready, warm."""
    if pod.phase == PENDING and now_s >= pod.running_s:
        pod.phase = RUNNING
    if pod.phase == RUNNING and pod.ready != READY_TRUE and now_s >= pod.ready_s:
        pod.ready = READY_TRUE
        pod.ready_transition_s = now_s
        pod.cold = service.cold_s > 0.0
        pod.cpu_core_s += startup_core_s(service, pod, window_start_s, now_s)
        pod.cpu_mark_core_s = state.ready_cpu_core_s
    if pod.cold and now_s >= pod.warm_s:
        pod.cold = False
        state.n_warmed += 1
    pod.next_event_s = next_event_s(pod)


@kernel
def advance_pods(service, state, pods, window_start_s, now_s):
    """Takes every pod to where it is at `now_s`; pods that are gone leave their place, and later ones move up.

    Args:
        window_start_s: the last scrape before `now_s`.
    """
    if now_s < state.next_event_s:
        return
    kept = 0
    for index in range(state.n_pods):
        pod = pods[index]
        if now_s >= pod.next_event_s:
            if pod.deleting and now_s >= pod.gone_s:
                continue
            advance_pod(service, state, pod, window_start_s, now_s)
        if kept != index:
            pods[kept] = pod
        kept += 1
    state.n_pods = kept
    count_pods(state, pods)


@kernel
def cpu_sample_m(pod, window_start_s, now_s):
    """CPU of a pod as the resource metrics API says it after the scrape at `now_s` [milli-cores], or NO_USAGE.

    The metrics server needs two readings of a container: those of two scrapes, or, for one that started since the last
    scrape, its start and this scrape, if at least FRESH_CONTAINER_S lie between them. (Upstream has no sample of a
    container that started at the very instant of a scrape, whatever it did before and after: here, where times are
    whole ticks, such a start is one just before it.) Whole nano-cores, rounded up to milli-cores.

    Source: metrics-server, pkg/storage/pod.go, podStorage.Store; apimachinery, Quantity.MilliValue.
    """
    if pod.running_s > window_start_s and now_s - pod.running_s < FRESH_CONTAINER_S:
        return NO_USAGE
    nano_cores = int(1e9 * pod.cpu_core_s / (now_s - max(pod.running_s, window_start_s)))
    return (nano_cores + 999_999) // 1_000_000


@kernel
def measure_pods(service, state, pods, window_start_s, now_s):
    """Stages the CPU sample of every pod that has one at the scrape at `now_s`, and begins the next window.

    Args:
        window_start_s: the scrape before, or when the lane began.
    """
    for index in range(state.n_pods):
        pod = pods[index]
        if pod.ready != READY_TRUE:
            pod.cpu_core_s += startup_core_s(service, pod, window_start_s, now_s)
        elif not pod.deleting:
            book_cpu(state, pod)
        pod.staged_m = cpu_sample_m(pod, window_start_s, now_s)
        pod.cpu_core_s = 0.0


@kernel
def publish_samples(state, pods):
    """Shows readers the staged samples."""
    for index in range(state.n_pods):
        pods[index].sample_m = pods[index].staged_m


@kernel
def collect_samples(state, pods, samples, time_s, window_s):
    """Writes the published samples as the answer of the resource metrics API for one metric, in the order of the pods.

    Args:
        samples: SAMPLE, shape (at least state.n_pods,).
        time_s: the scrape that the published samples are of.
        window_s: from the scrape before it; a container that started since then has a shorter window.
    """
    for index in range(state.n_pods):
        pod, sample = pods[index], samples[index]
        sample.time_s = time_s if pod.sample_m != NO_USAGE else math.nan
        sample.window_s = min(window_s, time_s - pod.running_s)
        sample.usage_m[0] = pod.sample_m
        for container in range(1, MAX_CONTAINERS):
            sample.usage_m[container] = NO_USAGE
