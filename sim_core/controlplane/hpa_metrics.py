"""HorizontalPodAutoscaler: from pods and metric answers to the replicas that one metric proposes.

Integers are cut where Kubernetes cuts them, and floating-point numbers are multiplied and compared in its order. The
pods of a metric are summed up by group (TALLY) first; what follows needs no pod any more. What a metric proposes goes
into its RESULT; without a proposal its `failure` says why.

Source: Kubernetes v1.28, pkg/controller/podautoscaler/replica_calculator.go and metrics/utilization.go; the tolerance
with two sides is that of later releases.
"""

from __future__ import annotations

import math

from numba import njit

from sim_core.controlplane.hpa_records import (
    ALL_CONTAINERS,
    AVERAGE_VALUE,
    COMPUTED,
    CPU,
    MISSING_CONTAINER_METRIC,
    MISSING_REQUEST,
    NO_METRICS_FOR_KNOWN_PODS,
    NO_METRICS_LEFT,
    NO_METRICS_RETURNED,
    NO_PODS,
    PODS,
)
from sim_core.controlplane.pods import (
    FAILED,
    NO_REQUEST,
    NO_RESOURCE,
    NO_USAGE,
    PENDING,
    READY_FALSE,
    READY_TRUE,
    READY_UNKNOWN,
    RUNNING,
)
from sim_core.limits import MAX_CONTAINERS

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
def has_sample(sample):
    """Whether the answer holds anything at this place."""
    return not math.isnan(sample.time_s)


@njit(cache=True)
def container_of(metric):
    """Container whose usage is the value of a pod; ALL_CONTAINERS: their sum."""
    return 0 if metric.type == PODS else metric.container


@njit(cache=True)
def has_value(metric, sample):
    """Whether the answer holds a value of the pod: of the named container, or of every container that it names."""
    if not has_sample(sample):
        return False
    if metric.type == PODS:
        return True
    if metric.container != ALL_CONTAINERS:
        return sample.usage_m[metric.container] not in (NO_USAGE, NO_RESOURCE)
    named = False
    for container in range(MAX_CONTAINERS):
        if sample.usage_m[container] == NO_RESOURCE:
            return False
        named = named or sample.usage_m[container] != NO_USAGE
    return named


@njit(cache=True)
def pod_value_m(metric, sample):
    """Value of a pod whose answer holds one [milli-units]."""
    if container_of(metric) != ALL_CONTAINERS:
        return sample.usage_m[container_of(metric)]
    total_m = 0
    for container in range(MAX_CONTAINERS):
        if sample.usage_m[container] != NO_USAGE:
            total_m += sample.usage_m[container]
    return total_m


@njit(cache=True)
def lacks_container(metric, sample):
    """Whether there is a sample that does not name the metric's container."""
    if metric.type == PODS or metric.container == ALL_CONTAINERS or not has_sample(sample):
        return False
    return sample.usage_m[metric.container] == NO_USAGE


@njit(cache=True)
def pod_request_m(metric, pod):
    """Request of the containers that count [milli-units]."""
    if metric.container != ALL_CONTAINERS:
        return max(0, pod.request_m[metric.container])
    total_m = 0
    for container in range(MAX_CONTAINERS):
        total_m += max(0, pod.request_m[container])
    return total_m


@njit(cache=True)
def lacks_request(metric, pod):
    """Whether a container that counts sets no request."""
    if metric.container != ALL_CONTAINERS:
        return pod.request_m[metric.container] == NO_REQUEST
    lacking = False
    for container in range(MAX_CONTAINERS):
        lacking = lacking or pod.request_m[container] == NO_REQUEST
    return lacking


@njit(cache=True)
def cpu_is_untrustworthy(hpa, pod, sample, now_s):
    """Whether a CPU sample may be start-up work: it was never ready, or its window reaches back before readiness."""
    if pod.ready == READY_UNKNOWN or math.isnan(pod.start_s):
        return True
    if now_s < pod.start_s + hpa.cpu_initialization_period_s:
        return pod.ready == READY_FALSE or sample.time_s < pod.ready_transition_s + sample.window_s
    return pod.ready == READY_FALSE and pod.start_s + hpa.initial_readiness_delay_s > pod.ready_transition_s


@njit(cache=True)
def pod_group(hpa, metric, pod, sample, now_s):
    """Group of one pod: the first rule that fits."""
    if pod.phase == 0:
        return ABSENT
    if pod.deleting or pod.phase == FAILED:
        return IGNORED
    if pod.phase == PENDING:
        return UNREADY
    if not has_value(metric, sample):
        return MISSING
    if metric.type != PODS and metric.resource == CPU and cpu_is_untrustworthy(hpa, pod, sample, now_s):
        return UNREADY
    return READY


@njit(cache=True)
def group_pods(hpa, metric, pods, n_pods, samples, row, now_s, groups):
    """Writes the group of each pod into `groups`, shape (n_pods or more,); returns how many are ready."""
    ready = 0
    for index in range(n_pods):
        groups[index] = pod_group(hpa, metric, pods[index], samples[row, index], now_s)
        ready += groups[index] == READY
    return ready


@njit(cache=True)
def tally_answer(hpa, metric, pods, n_pods, samples, row, now_s, tally):
    """Sums up one metric's answer by groups of pods; the slots hold pods and samples as `reconcile_hpa` says."""
    clear_tally(tally)
    fallback_pct = max(100, metric.target)  # a missing pod uses its request, or as much as it may
    for index in range(n_pods):
        pod, sample = pods[index], samples[row, index]
        tally.n_answered += has_sample(sample)
        tally.lacks_container = tally.lacks_container or lacks_container(metric, sample)
        group = pod_group(hpa, metric, pod, sample, now_s)
        if group == ABSENT:
            if has_value(metric, sample):
                tally.n_foreign += 1
                tally.foreign_m += pod_value_m(metric, sample)
            continue
        tally.n_listed += 1
        tally.lacks_request = tally.lacks_request or lacks_request(metric, pod)
        request_m = pod_request_m(metric, pod)
        if group == READY:
            tally.n_ready += 1
            tally.ready_m += pod_value_m(metric, sample)
            tally.ready_request_m += request_m
        elif group == UNREADY:
            tally.n_unready += 1
            tally.unready_request_m += request_m
        elif group == MISSING:
            tally.n_missing += 1
            tally.missing_request_m += request_m
            tally.missing_usage_m += request_m * fallback_pct // 100


@njit(cache=True)
def clear_tally(tally):
    """Sets all counts and sums to 0."""
    tally.n_answered = 0
    tally.n_listed = 0
    tally.n_ready = 0
    tally.n_foreign = 0
    tally.n_unready = 0
    tally.n_missing = 0
    tally.ready_m = 0
    tally.foreign_m = 0
    tally.ready_request_m = 0
    tally.unready_request_m = 0
    tally.missing_request_m = 0
    tally.missing_usage_m = 0
    tally.lacks_container = False
    tally.lacks_request = False


@njit(cache=True)
def answer_failure(tally):
    """Why the pods' values say nothing, or COMPUTED."""
    if tally.n_answered == 0:
        return NO_METRICS_RETURNED
    if tally.lacks_container:
        return MISSING_CONTAINER_METRIC
    if tally.n_listed == 0:
        return NO_PODS
    if tally.n_ready + tally.n_foreign == 0:
        return NO_METRICS_LEFT
    return COMPUTED


@njit(cache=True)
def request_failure(tally):
    """Why the pods' requests do not make a utilization, or COMPUTED."""
    if tally.lacks_request:
        return MISSING_REQUEST
    if tally.ready_request_m == 0:
        return NO_METRICS_FOR_KNOWN_PODS
    return COMPUTED


@njit(cache=True)
def utilization_pct(usage_m, request_m):
    """Utilization in whole percent: cut before it is divided by its target."""
    return truncated_quotient(100 * usage_m, request_m)


@njit(cache=True)
def fills_unready(tally, ratio):
    """Whether unready pods count as pods that use nothing: only where the others ask for more."""
    return tally.n_unready > 0 and ratio > 1.0


@njit(cache=True)
def is_complete(tally, ratio):
    """Whether no pod without a value has to be filled in."""
    return tally.n_missing == 0 and not fills_unready(tally, ratio)


@njit(cache=True)
def filled_in_values(tally, ratio):
    """Number of values once pods without one are filled in: missing ones unless the ratio is exactly 1, unready ones."""
    n_values = tally.n_ready + tally.n_foreign
    if ratio < 1.0 or ratio > 1.0:
        n_values += tally.n_missing
    if fills_unready(tally, ratio):
        n_values += tally.n_unready
    return n_values


@njit(cache=True)
def filled_in_utilization_pct(tally, ratio):
    """Utilization once missing and unready pods are filled in [whole %]."""
    usage_m, request_m = tally.ready_m, tally.ready_request_m
    if ratio < 1.0:
        usage_m += tally.missing_usage_m
    if ratio < 1.0 or ratio > 1.0:
        request_m += tally.missing_request_m
    if fills_unready(tally, ratio):
        request_m += tally.unready_request_m
    return utilization_pct(usage_m, request_m)


@njit(cache=True)
def filled_in_value_m(tally, ratio, target_m):
    """Mean value of a pod once missing and unready pods are filled in [milli-units]."""
    total_m = tally.ready_m + tally.foreign_m
    if ratio < 1.0:
        total_m += tally.n_missing * target_m
    return truncated_quotient(total_m, filled_in_values(tally, ratio))


@njit(cache=True)
def ready_pods_replicas(hpa, ratio, n_ready, current):
    """Replicas where no pod has to be filled in [pods]."""
    return current if within_tolerance(hpa, ratio) else whole_replicas(ratio * n_ready)


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
def utilization_replicas(hpa, metric, pods, n_pods, samples, row, current, now_s, tally, result):
    """Replicas that bring utilization to the target: Resource and ContainerResource metrics with target Utilization.

    Samples of pods that the selector does not select are values without a request: they count only where the ratio is
    multiplied by the number of values.
    """
    tally_answer(hpa, metric, pods, n_pods, samples, row, now_s, tally)
    result.failure = answer_failure(tally)
    if result.failure == COMPUTED:
        result.failure = request_failure(tally)
    if result.failure != COMPUTED:
        return
    result.reported = utilization_pct(tally.ready_m, tally.ready_request_m)
    result.average_value_m = truncated_quotient(tally.ready_m, tally.n_ready)
    result.ratio = usage_ratio(result.reported, metric.target)
    if is_complete(tally, result.ratio):
        result.proposal = ready_pods_replicas(hpa, result.ratio, tally.n_ready, current)
        return
    new_ratio = usage_ratio(filled_in_utilization_pct(tally, result.ratio), metric.target)
    n_values = filled_in_values(tally, result.ratio)
    result.proposal = rebalanced_replicas(hpa, result.ratio, new_ratio, n_values, current)


@njit(cache=True)
def value_replicas(hpa, metric, pods, n_pods, samples, row, current, now_s, tally, result):
    """Replicas that bring the mean value of a pod to the target: Pods metrics and resources with AverageValue.

    Samples of pods that the selector does not select count like any other.
    """
    tally_answer(hpa, metric, pods, n_pods, samples, row, now_s, tally)
    result.failure = answer_failure(tally)
    if result.failure != COMPUTED:
        return
    result.reported = truncated_quotient(tally.ready_m + tally.foreign_m, tally.n_ready + tally.n_foreign)
    result.ratio = usage_ratio(result.reported, metric.target)
    if is_complete(tally, result.ratio):
        result.proposal = ready_pods_replicas(hpa, result.ratio, tally.n_ready, current)
        return
    new_ratio = usage_ratio(filled_in_value_m(tally, result.ratio, metric.target), metric.target)
    n_values = filled_in_values(tally, result.ratio)
    result.proposal = rebalanced_replicas(hpa, result.ratio, new_ratio, n_values, current)


@njit(cache=True)
def count_listed_pods(pods, n_pods):
    """Pods that the selector selects."""
    listed = 0
    for index in range(n_pods):
        listed += pods[index].phase != 0
    return listed


@njit(cache=True)
def count_ready_pods(pods, n_pods):
    """Pods that are running and ready. Pods that are being deleted count too."""
    ready = 0
    for index in range(n_pods):
        ready += pods[index].phase == RUNNING and pods[index].ready == READY_TRUE
    return ready


@njit(cache=True)
def count_series(answer):
    """Series that an Object or External metric answers with."""
    n = 0
    for index in range(len(answer)):
        n += has_sample(answer[index])
    return n


@njit(cache=True)
def sum_series_m(answer):
    """Sum of the series of an Object or External metric [milli-units]."""
    total_m = 0
    for index in range(len(answer)):
        if has_sample(answer[index]):
            total_m += answer[index].usage_m[0]
    return total_m


@njit(cache=True)
def total_value_replicas(hpa, target_m, pods, n_pods, usage_m, current, result):
    """Replicas for an Object or External metric with target Value: the ratio times the pods that are running and ready."""
    result.reported = usage_m
    result.ratio = usage_ratio(usage_m, target_m)
    if current == 0:
        result.proposal = whole_replicas(result.ratio)
    elif within_tolerance(hpa, result.ratio):
        result.proposal = current
    elif count_listed_pods(pods, n_pods) == 0:
        result.failure = NO_PODS
    else:
        result.proposal = whole_replicas(result.ratio * count_ready_pods(pods, n_pods))


@njit(cache=True)
def per_pod_value_replicas(hpa, target_m, usage_m, status_replicas, result):
    """Replicas for an Object or External metric with target AverageValue; reports the value of a pod, rounded up."""
    result.proposal = status_replicas
    result.ratio = usage_ratio(usage_m, float(target_m) * float(status_replicas))
    if not within_tolerance(hpa, result.ratio):
        result.proposal = whole_replicas(usage_ratio(usage_m, target_m))
    if status_replicas != 0:
        result.reported = math.ceil(float(usage_m) / float(status_replicas))


@njit(cache=True)
def series_replicas(hpa, metric, answer, pods, n_pods, spec_replicas, status_replicas, result):
    """Replicas for an Object or External metric: its series are summed.

    Args:
        answer: SAMPLE, shape (n,): the series, in any of the slots.
    """
    if count_series(answer) == 0:
        result.failure = NO_METRICS_RETURNED
        return
    result.failure = COMPUTED
    usage_m = sum_series_m(answer)
    if metric.target_type == AVERAGE_VALUE:
        per_pod_value_replicas(hpa, metric.target, usage_m, status_replicas, result)
    else:
        total_value_replicas(hpa, metric.target, pods, n_pods, usage_m, spec_replicas, result)
