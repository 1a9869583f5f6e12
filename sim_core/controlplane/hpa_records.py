"""HorizontalPodAutoscaler: its parameters, its state, its logs and its codes, as rows of tables.

All fields are plain numbers: a sweep writes a few fields of the records of many lanes. A zeroed `HPA_STATE` is that of
an autoscaler that has never run, a zeroed log an empty one. How long the logs of an autoscaler must be follows from its
settings, see `hpa_logs`; kernels take each log as a view of its rows.

Source: Kubernetes API autoscaling/v2; kube-controller-manager flags --horizontal-pod-autoscaler-*.
"""

from __future__ import annotations

import numpy as np

from sim_core.limits import MAX_METRICS

MAX_POLICIES = 8  # a direction
NOT_SET = -1  # of stabilization_window_s, select_policy and n_policies

# METRIC.type
UNKNOWN_METRIC, RESOURCE, CONTAINER_RESOURCE, PODS, OBJECT, EXTERNAL = range(6)
METRIC_TYPES = ("Unknown", "Resource", "ContainerResource", "Pods", "Object", "External")
# METRIC.target_type
NO_TARGET, UTILIZATION, AVERAGE_VALUE, VALUE = range(4)
TARGET_TYPES = ("", "Utilization", "AverageValue", "Value")
# METRIC.resource
OTHER_RESOURCE, CPU = range(2)
ALL_CONTAINERS = -1  # METRIC.container

# POLICY.type
PODS_POLICY, PERCENT_POLICY = range(2)
POLICY_TYPES = ("Pods", "Percent")
# RULES.select_policy
MAX_CHANGE, MIN_CHANGE, DISABLED = range(3)
SELECT_POLICIES = ("Max", "Min", "Disabled")
# direction
UP, DOWN = range(2)

# HPA_STATE.action, RESULT.action
NO_ACTION, SCALE_UP, SCALE_DOWN = range(3)
ACTIONS = ("none", "scale_up", "scale_down")
# HPA_STATE.error, RESULT.error
NO_ERROR, INTERNAL_ERROR, SPEC_ERROR = range(3)
ERRORS = ("none", "internal", "spec")

# RESULT.failure: why a metric gives no proposal
(
    COMPUTED,
    CALL_FAILED,  # the API call, or what it needs
    NO_METRICS_RETURNED,  # the answer is empty
    MISSING_CONTAINER_METRIC,  # a sample does not name the container
    NO_PODS,  # the selector selects none
    NO_METRICS_LEFT,  # every sample belongs to an unready or ignored pod
    MISSING_REQUEST,  # a container without a request
    NO_METRICS_FOR_KNOWN_PODS,  # no sample belongs to a pod with a request
    INVALID_TARGET,  # the metric has no target of a type that it can have
    GATE_DISABLED,  # feature gate HPAContainerMetrics
    UNKNOWN_METRIC_TYPE,
) = range(11)

# CONDITION.type, CONDITION.status, CONDITION.reason
ABLE_TO_SCALE, SCALING_ACTIVE, SCALING_LIMITED = range(3)
CONDITION_TYPES = ("AbleToScale", "ScalingActive", "ScalingLimited")
FALSE, TRUE = range(2)
STATUSES = ("False", "True")
(
    SUCCEEDED_GET_SCALE,
    FAILED_GET_SCALE,
    READY_FOR_NEW_SCALE,
    SCALE_UP_STABILIZED,
    SCALE_DOWN_STABILIZED,
    SUCCEEDED_RESCALE,
    FAILED_UPDATE_SCALE,
    VALID_METRIC_FOUND,
    SCALING_DISABLED,
    INVALID_SELECTOR,
    AMBIGUOUS_SELECTOR,
    INVALID_METRIC_SOURCE_TYPE,
    FAILED_GET_RESOURCE_METRIC,
    FAILED_GET_CONTAINER_RESOURCE_METRIC,
    FAILED_GET_PODS_METRIC,
    FAILED_GET_OBJECT_METRIC,
    FAILED_GET_EXTERNAL_METRIC,
    DESIRED_WITHIN_RANGE,
    TOO_FEW_REPLICAS,
    TOO_MANY_REPLICAS,
    SCALE_UP_LIMIT,
    SCALE_DOWN_LIMIT,
) = range(22)
REASONS = (
    "SucceededGetScale",
    "FailedGetScale",
    "ReadyForNewScale",
    "ScaleUpStabilized",
    "ScaleDownStabilized",
    "SucceededRescale",
    "FailedUpdateScale",
    "ValidMetricFound",
    "ScalingDisabled",
    "InvalidSelector",
    "AmbiguousSelector",
    "InvalidMetricSourceType",
    "FailedGetResourceMetric",
    "FailedGetContainerResourceMetric",
    "FailedGetPodsMetric",
    "FailedGetObjectMetric",
    "FailedGetExternalMetric",
    "DesiredWithinRange",
    "TooFewReplicas",
    "TooManyReplicas",
    "ScaleUpLimit",
    "ScaleDownLimit",
)

# Bits of fail_mask: what goes wrong around one reconcile.
FAIL_GET_SCALE = 1
FAIL_UPDATE_SCALE = 2
FAIL_RESOURCE_METRICS = 4  # resource metrics API: Resource and ContainerResource
FAIL_CUSTOM_METRICS = 8  # custom metrics API: Pods and Object
FAIL_EXTERNAL_METRICS = 16
SELECTOR_INVALID = 32  # the scale's selector is empty or cannot be parsed
SELECTOR_SHARED = 64  # another HPA's selector selects pods of this one, if there are any

METRIC = np.dtype(
    [
        ("type", np.int64),
        ("resource", np.int64),  # Resource and ContainerResource only
        ("container", np.int64),  # index in POD.request_m and SAMPLE.usage_m; ALL_CONTAINERS: their sum
        ("target_type", np.int64),
        ("target", np.int64),  # Utilization: whole %; else milli-units
    ],
    align=True,
)

POLICY = np.dtype(
    [
        ("type", np.int64),
        ("value", np.int64),  # pods or %
        ("period_s", np.float64),
    ],
    align=True,
)

RULES = np.dtype(
    [
        ("stabilization_window_s", np.float64),  # NOT_SET: scale-down uses the controller's window
        ("select_policy", np.int64),
        ("n_policies", np.int64),
        ("policies", POLICY, (MAX_POLICIES,)),
    ],
    align=True,
)

HPA = np.dtype(
    [
        ("min_replicas", np.int64),
        ("max_replicas", np.int64),
        ("n_metrics", np.int64),
        ("metrics", METRIC, (MAX_METRICS,)),
        ("behavior_set", np.bool_),  # else the rules of the time before autoscaling/v2beta2 hold
        ("scale_up", RULES),
        ("scale_down", RULES),
        ("tolerance_up", np.float64),  # no change while ratio <= 1 + tolerance_up [1]
        ("tolerance_down", np.float64),  # and ratio >= 1 - tolerance_down [1]
        ("cpu_initialization_period_s", np.float64),
        ("initial_readiness_delay_s", np.float64),
        ("downscale_stabilization_window_s", np.float64),
        ("scale_up_limit_factor", np.float64),  # without behavior: at most factor * current replicas [1] ...
        ("scale_up_limit_minimum", np.float64),  # ... or this many [pods]
        ("container_resource_metrics_enabled", np.bool_),
        ("sync_period_s", np.float64),  # for the caller: when the next reconcile is due
        ("recommendations_first", np.int64),  # rows of the lane's `recommendations`
        ("n_recommendations", np.int64),
        ("up_events_first", np.int64),  # rows of the lane's `up_events`
        ("n_up_events", np.int64),
        ("down_events_first", np.int64),  # rows of the lane's `down_events`
        ("n_down_events", np.int64),
    ],
    align=True,
)

# What the metrics asked for at one reconcile, before it was stabilized and limited.
RECOMMENDATION = np.dtype(
    [
        ("time_s", np.float64),
        ("replicas", np.int32),
        ("used", np.bool_),  # else the log ends before this row
    ],
    align=True,
)

# A change of replicas.
EVENT = np.dtype(
    [
        ("time_s", np.float64),
        ("change", np.int32),  # always positive [pods]
        ("used", np.bool_),  # else the log ends before this row
        ("outdated", np.bool_),  # its place is free
    ],
    align=True,
)

CONDITION = np.dtype([("type", np.int64), ("status", np.int64), ("reason", np.int64)], align=True)

# What one metric said at the last reconcile.
RESULT = np.dtype(
    [
        ("action", np.int64),  # proposal against current replicas
        ("error", np.int64),
        ("failure", np.int64),
        ("proposal", np.int64),  # [pods]
        ("reported", np.int64),  # status.currentMetrics: whole % for a utilization target, else milli-units
        ("average_value_m", np.int64),  # utilization targets: mean usage of a pod
        ("ratio", np.float64),  # of usage to target, before pods without a value are filled in [1]
    ],
    align=True,
)

# The answer to one metric of pods, summed up by their groups.
TALLY = np.dtype(
    [
        ("n_answered", np.int64),  # samples, whosever they are
        ("n_listed", np.int64),  # pods that the selector selects
        ("n_ready", np.int64),
        ("n_foreign", np.int64),  # values of pods that the selector does not select
        ("n_unready", np.int64),
        ("n_missing", np.int64),
        ("ready_m", np.int64),  # sums of values
        ("foreign_m", np.int64),
        ("ready_request_m", np.int64),  # sums of requests
        ("unready_request_m", np.int64),
        ("missing_request_m", np.int64),
        ("missing_usage_m", np.int64),  # what missing pods are taken to use when the others ask to shrink
        ("lacks_container", np.bool_),  # a sample does not name the container
        ("lacks_request", np.bool_),  # a container of a listed pod sets no request
    ],
    align=True,
)

HPA_STATE = np.dtype(
    [
        ("has_log", np.bool_),  # else the first reconcile logs the current replicas
        ("has_scaled", np.bool_),
        ("last_scale_s", np.float64),  # meaningless before has_scaled
        # outcome of the last reconcile
        ("desired_replicas", np.int64),
        ("scale_updated", np.bool_),
        ("action", np.int64),
        ("error", np.int64),
        ("n_results", np.int64),  # 0: the metrics were not looked at
        ("results", RESULT, (MAX_METRICS,)),
        ("n_conditions", np.int64),
        ("conditions", CONDITION, (len(CONDITION_TYPES),)),  # in the order of their first appearance
        ("tally", TALLY),  # of the metric that is looked at
    ],
    align=True,
)
