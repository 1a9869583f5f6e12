"""HorizontalPodAutoscaler: one reconcile, from scale and metrics to the replicas that the target shall have.

The order of the steps, and which failure stops which of them, are those of the controller. Records and codes are in
`hpa_records`, metrics in `hpa_metrics`, pace and stabilization in `hpa_behavior`, what they remember in `hpa_logs`,
building from plain values in `hpa_manifest`.

Source: Kubernetes v1.28, pkg/controller/podautoscaler/horizontal.go, reconcileAutoscaler.
"""

from __future__ import annotations

from numba import njit

from sim_core.controlplane.hpa_behavior import (
    limit_legacy,
    limit_rate,
    stabilize,
    stabilize_legacy,
)
from sim_core.controlplane.hpa_conditions import set_condition
from sim_core.controlplane.hpa_logs import log_first_recommendation, store_event
from sim_core.controlplane.hpa_metrics import (
    series_replicas,
    utilization_replicas,
    value_replicas,
)
from sim_core.controlplane.hpa_records import (
    ABLE_TO_SCALE,
    AMBIGUOUS_SELECTOR,
    AVERAGE_VALUE,
    CALL_FAILED,
    COMPUTED,
    CONTAINER_RESOURCE,
    EXTERNAL,
    FAIL_CUSTOM_METRICS,
    FAIL_EXTERNAL_METRICS,
    FAIL_GET_SCALE,
    FAIL_RESOURCE_METRICS,
    FAIL_UPDATE_SCALE,
    FAILED_GET_CONTAINER_RESOURCE_METRIC,
    FAILED_GET_EXTERNAL_METRIC,
    FAILED_GET_OBJECT_METRIC,
    FAILED_GET_PODS_METRIC,
    FAILED_GET_RESOURCE_METRIC,
    FAILED_GET_SCALE,
    FAILED_UPDATE_SCALE,
    FALSE,
    GATE_DISABLED,
    HPA,
    HPA_STATE,
    INTERNAL_ERROR,
    INVALID_METRIC_SOURCE_TYPE,
    INVALID_SELECTOR,
    INVALID_TARGET,
    NO_ACTION,
    NO_ERROR,
    OBJECT,
    PODS,
    READY_FOR_NEW_SCALE,
    RESOURCE,
    SCALE_DOWN,
    SCALE_DOWN_STABILIZED,
    SCALE_UP,
    SCALE_UP_STABILIZED,
    SCALING_ACTIVE,
    SCALING_DISABLED,
    SELECTOR_INVALID,
    SELECTOR_SHARED,
    SPEC_ERROR,
    SUCCEEDED_GET_SCALE,
    SUCCEEDED_RESCALE,
    TRUE,
    UNKNOWN_METRIC_TYPE,
    UTILIZATION,
    VALID_METRIC_FOUND,
    VALUE,
)

__all__ = ["HPA", "HPA_STATE", "reconcile_hpa"]

_HOLD = -1  # no replicas can be recommended


@njit(cache=True)
def action_of(current, desired):
    """Direction of a change of replicas."""
    if desired > current:
        return SCALE_UP
    return SCALE_DOWN if desired < current else NO_ACTION


@njit(cache=True)
def failure_reason(kind):
    """Reason of condition ScalingActive when a metric of this type fails."""
    if kind == RESOURCE:
        return FAILED_GET_RESOURCE_METRIC
    if kind == CONTAINER_RESOURCE:
        return FAILED_GET_CONTAINER_RESOURCE_METRIC
    if kind == PODS:
        return FAILED_GET_PODS_METRIC
    if kind == OBJECT:
        return FAILED_GET_OBJECT_METRIC
    if kind == EXTERNAL:
        return FAILED_GET_EXTERNAL_METRIC
    return INVALID_METRIC_SOURCE_TYPE


@njit(cache=True)
def failed_call(kind, fail_mask):
    """Whether the API that serves this type of metric does not answer."""
    if kind in (RESOURCE, CONTAINER_RESOURCE):
        return fail_mask & FAIL_RESOURCE_METRICS != 0
    if kind in (PODS, OBJECT):
        return fail_mask & FAIL_CUSTOM_METRICS != 0
    return kind == EXTERNAL and fail_mask & FAIL_EXTERNAL_METRICS != 0


@njit(cache=True)
def has_target(metric):
    """Whether the metric has a target of a type that it can have."""
    if metric.type in (OBJECT, EXTERNAL):
        return metric.target_type in (VALUE, AVERAGE_VALUE)
    if metric.type == PODS:
        return metric.target_type == AVERAGE_VALUE
    return metric.target_type in (UTILIZATION, AVERAGE_VALUE)


@njit(cache=True)
def metric_replicas(hpa, state, row, pods, n_pods, samples, spec_replicas, status_replicas, fail_mask, now_s):
    """What one metric proposes; leaves it in `state.results[row]`, whose `failure` says why there is no proposal."""
    metric, result = hpa.metrics[row], state.results[row]
    result.proposal = 0
    result.reported = 0
    result.average_value_m = 0
    result.ratio = 0.0
    if failure_reason(metric.type) == INVALID_METRIC_SOURCE_TYPE:
        result.failure = UNKNOWN_METRIC_TYPE
    elif metric.type == CONTAINER_RESOURCE and not hpa.container_resource_metrics_enabled:
        result.failure = GATE_DISABLED
    elif not has_target(metric):
        result.failure = INVALID_TARGET
    elif failed_call(metric.type, fail_mask):
        result.failure = CALL_FAILED
    elif metric.type in (OBJECT, EXTERNAL):
        series_replicas(hpa, metric, samples[row], pods, n_pods, spec_replicas, status_replicas, result)
    elif metric.target_type == UTILIZATION:
        utilization_replicas(hpa, metric, pods, n_pods, samples, row, spec_replicas, now_s, state.tally, result)
    else:
        value_replicas(hpa, metric, pods, n_pods, samples, row, spec_replicas, now_s, state.tally, result)


@njit(cache=True)
def selector_reason(pods, n_pods, fail_mask):
    """Why the selector cannot be used, or VALID_METRIC_FOUND; a shared one harms only where there are pods."""
    if fail_mask & SELECTOR_INVALID:
        return INVALID_SELECTOR
    if fail_mask & SELECTOR_SHARED:
        for index in range(n_pods):
            if pods[index].phase != 0:
                return AMBIGUOUS_SELECTOR
    return VALID_METRIC_FOUND


@njit(cache=True)
def metrics_replicas(hpa, state, pods, n_pods, samples, spec_replicas, status_replicas, fail_mask, now_s):
    """The largest proposal; _HOLD when every metric fails, or one does while the others would shrink the target."""
    reason = selector_reason(pods, n_pods, fail_mask)
    if reason != VALID_METRIC_FOUND:
        set_condition(state, SCALING_ACTIVE, FALSE, reason)
        state.error = INTERNAL_ERROR
        return _HOLD
    replicas, failed, first_failed = 0, 0, 0
    state.n_results = hpa.n_metrics
    for row in range(hpa.n_metrics):
        metric_replicas(hpa, state, row, pods, n_pods, samples, spec_replicas, status_replicas, fail_mask, now_s)
        result = state.results[row]
        if result.failure == COMPUTED:
            result.action = action_of(spec_replicas, result.proposal)
            result.error = NO_ERROR
            replicas = max(replicas, result.proposal)
            continue
        result.action = NO_ACTION
        result.error = SPEC_ERROR if result.failure == UNKNOWN_METRIC_TYPE else INTERNAL_ERROR
        if failed == 0:
            first_failed = row
        failed += 1
    if failed > 0:
        state.error = INTERNAL_ERROR
    if failed == hpa.n_metrics or (failed > 0 and replicas < spec_replicas):
        set_condition(state, SCALING_ACTIVE, FALSE, failure_reason(hpa.metrics[first_failed].type))
        return _HOLD
    set_condition(state, SCALING_ACTIVE, TRUE, VALID_METRIC_FOUND)
    return replicas


@njit(cache=True)
def stabilized_replicas(hpa, state, recommendations, current, recommended, now_s):
    """What the recommendations of the windows let through [pods]; condition AbleToScale says if it is something else."""
    reason = SCALE_DOWN_STABILIZED
    if hpa.behavior_set:
        stabilized = stabilize(hpa, recommendations, current, recommended, now_s)
        if recommended >= current:
            reason = SCALE_UP_STABILIZED
    else:
        stabilized = stabilize_legacy(hpa, recommendations, recommended, now_s)
    set_condition(state, ABLE_TO_SCALE, TRUE, READY_FOR_NEW_SCALE if stabilized == recommended else reason)
    return stabilized


@njit(cache=True)
def limited_replicas(hpa, state, up_events, down_events, current, stabilized, now_s):
    """What range and pace let through [pods]."""
    if hpa.behavior_set:
        return limit_rate(hpa, state, up_events, down_events, current, stabilized, now_s)
    return limit_legacy(hpa, state, current, stabilized)


@njit(cache=True)
def rescale(hpa, state, up_events, down_events, current, desired, fail_mask, now_s):
    """Writes the scale and remembers the change; returns the replicas that the target is left with [pods]."""
    if fail_mask & FAIL_UPDATE_SCALE:
        set_condition(state, ABLE_TO_SCALE, FALSE, FAILED_UPDATE_SCALE)
        state.error = INTERNAL_ERROR
        return current
    set_condition(state, ABLE_TO_SCALE, TRUE, SUCCEEDED_RESCALE)
    if desired > current:
        store_event(hpa, up_events, hpa.scale_up, desired - current, now_s)
    else:
        store_event(hpa, down_events, hpa.scale_down, desired - current, now_s)
    state.action = action_of(current, desired)
    state.scale_updated = True
    state.has_scaled = True
    state.last_scale_s = now_s
    return desired


@njit(cache=True)
def reconcile_hpa(
    hpa, state, recommendations, up_events, down_events, pods, n_pods, samples,
    spec_replicas, status_replicas, fail_mask, now_s,
):  # fmt: skip
    """One reconcile.

    Args:
        hpa: HPA record.
        state: HPA_STATE record; carries conditions from one reconcile to the next, and holds the outcome.
        recommendations: RECOMMENDATION, shape (hpa.n_recommendations or more,): this autoscaler's log.
        up_events, down_events: EVENT, shapes (hpa.n_up_events or more,) and (hpa.n_down_events or more,): its logs.
        pods: POD records of the pods that the selector selects, in slots 0 to n_pods - 1; phase 0: an empty slot.
        samples: SAMPLE, shape (at least hpa.n_metrics, at least n_pods): the answer to each metric. Of metrics of pods
            it is in the slots of the pods, and a sample in an empty slot belongs to a pod that the selector does not
            select; of Object and External metrics every slot may hold a series.
        spec_replicas: the scale's spec.replicas [pods].
        status_replicas: the scale's status.replicas [pods].
        fail_mask: FAIL_* and SELECTOR_* bits; 0: all goes well.
        now_s: time of the reconcile, on the clock of all other times [s].

    Returns:
        The scale's spec.replicas afterwards [pods].
    """
    state.desired_replicas = spec_replicas
    state.scale_updated = False
    state.action = NO_ACTION
    state.error = NO_ERROR
    state.n_results = 0
    if fail_mask & FAIL_GET_SCALE:
        set_condition(state, ABLE_TO_SCALE, FALSE, FAILED_GET_SCALE)
        state.error = INTERNAL_ERROR
        return spec_replicas
    set_condition(state, ABLE_TO_SCALE, TRUE, SUCCEEDED_GET_SCALE)
    log_first_recommendation(state, recommendations, spec_replicas, now_s)
    if spec_replicas == 0 and hpa.min_replicas != 0:
        set_condition(state, SCALING_ACTIVE, FALSE, SCALING_DISABLED)
        return spec_replicas
    if spec_replicas > hpa.max_replicas:
        desired = hpa.max_replicas
    elif spec_replicas < hpa.min_replicas:
        desired = hpa.min_replicas
    else:
        recommended = metrics_replicas(
            hpa, state, pods, n_pods, samples, spec_replicas, status_replicas, fail_mask, now_s
        )
        if recommended == _HOLD:
            return spec_replicas
        stabilized = stabilized_replicas(hpa, state, recommendations, spec_replicas, recommended, now_s)
        desired = limited_replicas(hpa, state, up_events, down_events, spec_replicas, stabilized, now_s)
    if desired != spec_replicas:
        desired = rescale(hpa, state, up_events, down_events, spec_replicas, desired, fail_mask, now_s)
    state.desired_replicas = desired
    return desired
