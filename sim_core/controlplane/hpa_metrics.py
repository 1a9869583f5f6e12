"""HorizontalPodAutoscaler: from pods and metric answers to the replicas that one metric proposes.

Integers are cut where Kubernetes cuts them, and floating-point numbers are multiplied and compared in its order.

Source: Kubernetes v1.28, pkg/controller/podautoscaler/replica_calculator.go and metrics/utilization.go; the tolerance
with two sides is that of later releases.
"""

from __future__ import annotations

import math

from numba import njit

from sim_core.controlplane.hpa_records import (
    ALL_CONTAINERS,
    COMPUTED,
    CPU,
    MISSING_CONTAINER_METRIC,
    MISSING_REQUEST,
    NO_METRICS_FOR_KNOWN_PODS,
    NO_METRICS_LEFT,
    NO_METRICS_RETURNED,
    NO_PODS,
    PODS,
    VALUE,
)
from sim_core.controlplane.pods import (
    FAILED,
    MAX_CONTAINERS,
    NO_REQUEST,
    NO_RESOURCE,
    NO_USAGE,
    PENDING,
    READY_FALSE,
    READY_TRUE,
    READY_UNKNOWN,
    RUNNING,
)

ABSENT, IGNORED, UNREADY, MISSING, READY = range(5)  # group of a pod; absent: the slot holds no pod
_MAX_INT32 = 2**31 - 1


@njit(cache=True)
def truncated_quotient(dividend, divisor):
    """Integer division that cuts towards zero, as Go does; `//` rounds down."""
    quotient = abs(dividend) // abs(divisor)
    return quotient if (dividend >= 0) == (divisor >= 0) else -quotient


@njit(cache=True)
def usage_ratio(usage, target):
    """usage / target [1]; infinite or NaN, not an exception, when the target is 0."""
    if target != 0.0:
        return float(usage) / float(target)
    if usage == 0:
        return math.nan
    return math.inf if usage > 0 else -math.inf


@njit(cache=True)
def whole_replicas(replicas):
    """Rounds up [pods]; what fits no 32-bit integer ends at its bounds."""
    if math.isnan(replicas):
        return 0
    return math.ceil(min(max(replicas, -_MAX_INT32), _MAX_INT32))


@njit(cache=True)
def within_tolerance(hpa, ratio):
    """Whether the ratio is too near to 1 to act on."""
    return 1.0 - hpa.tolerance_down <= ratio <= 1.0 + hpa.tolerance_up


@njit(cache=True)
def sample_value(metric, sample):
    """Value of one pod in an answer [milli-units], whether there is one, whether the named container is missing."""
    if math.isnan(sample.time_s):
        return 0, False, False
    if metric.type == PODS:
        return sample.usage_m[0], True, False
    if metric.container != ALL_CONTAINERS:
        usage_m = sample.usage_m[metric.container]
        return usage_m, usage_m != NO_USAGE and usage_m != NO_RESOURCE, usage_m == NO_USAGE
    total_m, named, complete = 0, False, True
    for container in range(MAX_CONTAINERS):
        usage_m = sample.usage_m[container]
        if usage_m == NO_RESOURCE:
            complete = False
        elif usage_m != NO_USAGE:
            total_m += usage_m
            named = True
    return total_m, named and complete, False


@njit(cache=True)
def pod_request(metric, pod):
    """Request of one pod [milli-units], and whether a container that counts sets none."""
    if metric.container != ALL_CONTAINERS:
        request_m = pod.request_m[metric.container]
        return max(0, request_m), request_m == NO_REQUEST
    total_m, lacking = 0, False
    for container in range(MAX_CONTAINERS):
        request_m = pod.request_m[container]
        lacking = lacking or request_m == NO_REQUEST
        total_m += max(0, request_m)
    return total_m, lacking


@njit(cache=True)
def cpu_is_untrustworthy(hpa, pod, sample, now_s):
    """Whether a CPU sample may be start-up work: it was never ready, or its window reaches back before readiness."""
    if pod.ready == READY_UNKNOWN or math.isnan(pod.start_s):
        return True
    if now_s < pod.start_s + hpa.cpu_initialization_period_s:
        return pod.ready == READY_FALSE or sample.time_s < pod.ready_transition_s + sample.window_s
    return pod.ready == READY_FALSE and pod.start_s + hpa.initial_readiness_delay_s > pod.ready_transition_s


@njit(cache=True)
def pod_group(hpa, metric, pod, sample, found, now_s):
    """Group of one pod: the first rule that fits. `found` is whether the answer holds a value of it."""
    if pod.phase == 0:
        return ABSENT
    if pod.deleting or pod.phase == FAILED:
        return IGNORED
    if pod.phase == PENDING:
        return UNREADY
    if not found:
        return MISSING
    if metric.type != PODS and metric.resource == CPU and cpu_is_untrustworthy(hpa, pod, sample, now_s):
        return UNREADY
    return READY


@njit(cache=True)
def group_pods(hpa, metric, pods, n_pods, samples, row, now_s, groups):
    """Writes the group of each pod into `groups`, shape (n_pods or more,); returns how many are ready."""
    ready = 0
    for index in range(n_pods):
        _, found, _ = sample_value(metric, samples[row, index])
        groups[index] = pod_group(hpa, metric, pods[index], samples[row, index], found, now_s)
        ready += groups[index] == READY
    return ready


@njit(cache=True)
def count_ready_pods(pods, n_pods):
    """Pods that are running and ready, and pods at all. Pods that are being deleted count too."""
    ready, listed = 0, 0
    for index in range(n_pods):
        if pods[index].phase != 0:
            listed += 1
            ready += pods[index].phase == RUNNING and pods[index].ready == READY_TRUE
    return ready, listed


@njit(cache=True)
def utilization_ratio(usage_m, request_m, target_pct):
    """Utilization in whole percent, cut before it is divided by the target, and the ratio of the two [1]."""
    utilization_pct = truncated_quotient(100 * usage_m, request_m)
    return utilization_pct, usage_ratio(utilization_pct, target_pct)


@njit(cache=True)
def value_ratio(total_m, n_values, target_m):
    """Mean value of a pod in whole milli-units, and its ratio to the target [1]."""
    usage_m = truncated_quotient(total_m, n_values)
    return usage_m, usage_ratio(usage_m, target_m)


@njit(cache=True)
def rebalanced_replicas(hpa, ratio, new_ratio, n_values, current):
    """Replicas once missing and unready pods have been filled in [pods]: never against the direction of before."""
    if within_tolerance(hpa, new_ratio) or (ratio < 1.0 < new_ratio) or (new_ratio < 1.0 < ratio):
        return current
    replicas = whole_replicas(new_ratio * n_values)
    if (new_ratio < 1.0 and replicas > current) or (new_ratio > 1.0 and replicas < current):
        return current
    return replicas


@njit(cache=True)
def utilization_replicas(hpa, metric, pods, n_pods, samples, row, current, now_s):
    """Replicas that bring usage over request to the target percentage.

    A sample whose slot holds no pod is one of a pod that the selector does not select: it has no request, yet counts
    as a sample.

    Returns:
        (replicas [pods], utilization [whole %], mean usage of a pod [milli-units], utilization / target [1], failure).
    """
    answered, listed, container_missing, request_missing = 0, 0, False, False
    n_ready, n_foreign, n_unready, n_missing = 0, 0, 0, 0
    usage_m, request_m, unready_request_m, missing_request_m, fallback_m = 0, 0, 0, 0, 0
    fallback_pct = max(100, metric.target)
    for index in range(n_pods):
        pod, sample = pods[index], samples[row, index]
        value_m, found, lacks_container = sample_value(metric, sample)
        answered += not math.isnan(sample.time_s)
        container_missing = container_missing or lacks_container
        group = pod_group(hpa, metric, pod, sample, found, now_s)
        if group == ABSENT:
            n_foreign += found
            continue
        listed += 1
        pod_request_m, lacks_request = pod_request(metric, pod)
        request_missing = request_missing or lacks_request
        if group == READY:
            n_ready += 1
            usage_m += value_m
            request_m += pod_request_m
        elif group == UNREADY:
            n_unready += 1
            unready_request_m += pod_request_m
        elif group == MISSING:
            n_missing += 1
            missing_request_m += pod_request_m
            fallback_m += pod_request_m * fallback_pct // 100

    if answered == 0:
        return 0, 0, 0, 0.0, NO_METRICS_RETURNED
    if container_missing:
        return 0, 0, 0, 0.0, MISSING_CONTAINER_METRIC
    if listed == 0:
        return 0, 0, 0, 0.0, NO_PODS
    if n_ready + n_foreign == 0:
        return 0, 0, 0, 0.0, NO_METRICS_LEFT
    if request_missing:
        return 0, 0, 0, 0.0, MISSING_REQUEST
    if request_m == 0:
        return 0, 0, 0, 0.0, NO_METRICS_FOR_KNOWN_PODS
    utilization_pct, ratio = utilization_ratio(usage_m, request_m, metric.target)
    average_m = truncated_quotient(usage_m, n_ready)
    fill_unready = n_unready > 0 and ratio > 1.0
    if n_missing == 0 and not fill_unready:
        replicas = current if within_tolerance(hpa, ratio) else whole_replicas(ratio * n_ready)
        return replicas, utilization_pct, average_m, ratio, COMPUTED
    n_values = n_ready + n_foreign
    if ratio < 1.0:
        usage_m += fallback_m
    if ratio < 1.0 or ratio > 1.0:
        request_m += missing_request_m
        n_values += n_missing
    if fill_unready:
        request_m += unready_request_m
        n_values += n_unready
    _, new_ratio = utilization_ratio(usage_m, request_m, metric.target)
    replicas = rebalanced_replicas(hpa, ratio, new_ratio, n_values, current)
    return replicas, utilization_pct, average_m, ratio, COMPUTED


@njit(cache=True)
def value_replicas(hpa, metric, pods, n_pods, samples, row, current, now_s):
    """Replicas that bring the mean value of a pod to the target: Pods metrics and resources with AverageValue.

    Samples of pods that the selector does not select count like any other.

    Returns:
        (replicas [pods], mean value of a pod [milli-units], mean / target [1], failure).
    """
    answered, listed, container_missing = 0, 0, False
    n_values, n_ready, n_unready, n_missing, total_m = 0, 0, 0, 0, 0
    for index in range(n_pods):
        sample = samples[row, index]
        value_m, found, lacks_container = sample_value(metric, sample)
        answered += not math.isnan(sample.time_s)
        container_missing = container_missing or lacks_container
        group = pod_group(hpa, metric, pods[index], sample, found, now_s)
        listed += group != ABSENT
        if group == READY or (group == ABSENT and found):
            n_values += 1
            n_ready += group == READY
            total_m += value_m
        elif group == UNREADY:
            n_unready += 1
        elif group == MISSING:
            n_missing += 1

    if answered == 0:
        return 0, 0, 0.0, NO_METRICS_RETURNED
    if container_missing:
        return 0, 0, 0.0, MISSING_CONTAINER_METRIC
    if listed == 0:
        return 0, 0, 0.0, NO_PODS
    if n_values == 0:
        return 0, 0, 0.0, NO_METRICS_LEFT
    usage_m, ratio = value_ratio(total_m, n_values, metric.target)
    fill_unready = n_unready > 0 and ratio > 1.0
    if n_missing == 0 and not fill_unready:
        replicas = current if within_tolerance(hpa, ratio) else whole_replicas(ratio * n_ready)
        return replicas, usage_m, ratio, COMPUTED
    if ratio < 1.0:
        total_m += n_missing * metric.target
    if ratio < 1.0 or ratio > 1.0:
        n_values += n_missing
    if fill_unready:
        n_values += n_unready
    _, new_ratio = value_ratio(total_m, n_values, metric.target)
    return rebalanced_replicas(hpa, ratio, new_ratio, n_values, current), usage_m, ratio, COMPUTED


@njit(cache=True)
def sum_values(values_m, n_values, row):
    """Sum of the series of an Object or External metric [milli-units]."""
    total_m = 0
    for index in range(n_values[row]):
        total_m += values_m[row, index]
    return total_m


@njit(cache=True)
def total_value_replicas(hpa, target_m, pods, n_pods, usage_m, current):
    """Replicas for an Object or External metric with target Value: the ratio times the pods that are running and ready.

    Returns:
        (replicas [pods], failure).
    """
    ratio = usage_ratio(usage_m, target_m)
    if current == 0:
        return whole_replicas(ratio), COMPUTED
    if within_tolerance(hpa, ratio):
        return current, COMPUTED
    ready, listed = count_ready_pods(pods, n_pods)
    if listed == 0:
        return 0, NO_PODS
    return whole_replicas(ratio * ready), COMPUTED


@njit(cache=True)
def per_pod_value_replicas(hpa, target_m, usage_m, status_replicas):
    """Replicas for an Object or External metric with target AverageValue.

    Returns:
        (replicas [pods], value of a pod, rounded up [milli-units]).
    """
    replicas = status_replicas
    if not within_tolerance(hpa, usage_ratio(usage_m, float(target_m) * float(status_replicas))):
        replicas = whole_replicas(usage_ratio(usage_m, target_m))
    if status_replicas == 0:
        return replicas, 0
    return replicas, math.ceil(float(usage_m) / float(status_replicas))


@njit(cache=True)
def series_replicas(hpa, metric, values_m, n_values, row, pods, n_pods, spec_replicas, status_replicas):
    """Replicas for an Object or External metric: its series are summed.

    Returns:
        (replicas [pods], reported value [milli-units], failure).
    """
    if n_values[row] == 0:
        return 0, 0, NO_METRICS_RETURNED
    usage_m = sum_values(values_m, n_values, row)
    if metric.target_type == VALUE:
        replicas, failure = total_value_replicas(hpa, metric.target, pods, n_pods, usage_m, spec_replicas)
        return replicas, usage_m, failure
    replicas, per_pod_m = per_pod_value_replicas(hpa, metric.target, usage_m, status_replicas)
    return replicas, per_pod_m, COMPUTED
