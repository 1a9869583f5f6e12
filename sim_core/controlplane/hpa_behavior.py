"""HorizontalPodAutoscaler: how fast replicas may change, and how long an earlier recommendation holds.

What limits the replicas says so in condition ScalingLimited.

Source: Kubernetes v1.28, pkg/controller/podautoscaler/horizontal.go; defaults: pkg/apis/autoscaling/v2/defaults.go.
"""

from __future__ import annotations

import math

from numba import njit

from sim_core.controlplane.hpa_conditions import set_condition
from sim_core.controlplane.hpa_logs import change_in_period, count_used, log_recommendation
from sim_core.controlplane.hpa_records import (
    DESIRED_WITHIN_RANGE,
    DISABLED,
    DOWN,
    FALSE,
    MAX_CHANGE,
    MIN_CHANGE,
    NOT_SET,
    PERCENT_POLICY,
    PODS_POLICY,
    SCALE_DOWN_LIMIT,
    SCALE_UP_LIMIT,
    SCALING_LIMITED,
    TOO_FEW_REPLICAS,
    TOO_MANY_REPLICAS,
    TRUE,
    UP,
)

_MIN_INT32, _MAX_INT32 = -(2**31), 2**31 - 1


@njit(cache=True)
def default_rules(rules, direction):
    """Fills what is not set as the API server does: a direction's policies as a whole, or not at all."""
    if rules.stabilization_window_s == NOT_SET and direction == UP:
        rules.stabilization_window_s = 0.0
    if rules.select_policy == NOT_SET:
        rules.select_policy = MAX_CHANGE
    if rules.n_policies != NOT_SET:
        return
    rules.n_policies = 0
    if direction == UP:
        _add_policy(rules, PODS_POLICY, 4, 15.0)
    _add_policy(rules, PERCENT_POLICY, 100, 15.0)


@njit(cache=True)
def _add_policy(rules, kind, value, period_s):
    policy = rules.policies[rules.n_policies]
    policy.type = kind
    policy.value = value
    policy.period_s = period_s
    rules.n_policies += 1


@njit(cache=True)
def rate_limit(rules, direction, up_events, down_events, current, now_s):
    """Replicas that the policies of a direction allow [pods]; on the wrong side of `current` once they are used up."""
    if rules.select_policy == DISABLED:
        return current
    highest = (direction == UP) == (rules.select_policy != MIN_CHANGE)
    limit = _MIN_INT32 if highest else _MAX_INT32
    for index in range(rules.n_policies):
        policy = rules.policies[index]
        added = change_in_period(up_events, policy.period_s, now_s)
        removed = change_in_period(down_events, policy.period_s, now_s)
        start = current - added + removed
        if policy.type == PODS_POLICY:
            proposed = start + policy.value if direction == UP else start - policy.value
        elif direction == UP:
            proposed = math.ceil(float(start) * (1.0 + float(policy.value) / 100.0))
        else:
            proposed = int(float(start) * (1.0 - float(policy.value) / 100.0))  # cut towards zero
        limit = max(limit, proposed) if highest else min(limit, proposed)
    return limit


@njit(cache=True)
def capped(state, desired, range_limit, pace_limit, range_reason, pace_reason):
    """Clamps from above, and says which of two limits did it: the range on a tie [pods]."""
    if desired <= min(range_limit, pace_limit):
        return unlimited(state, desired)
    set_condition(state, SCALING_LIMITED, TRUE, pace_reason if pace_limit < range_limit else range_reason)
    return min(range_limit, pace_limit)


@njit(cache=True)
def floored(state, desired, range_limit, pace_limit, range_reason, pace_reason):
    """Clamps from below, and says which of two limits did it: the range on a tie [pods]."""
    if desired >= max(range_limit, pace_limit):
        return unlimited(state, desired)
    set_condition(state, SCALING_LIMITED, TRUE, pace_reason if pace_limit > range_limit else range_reason)
    return max(range_limit, pace_limit)


@njit(cache=True)
def unlimited(state, desired):
    """Leaves the replicas as they are, and says so [pods]."""
    set_condition(state, SCALING_LIMITED, FALSE, DESIRED_WITHIN_RANGE)
    return desired


@njit(cache=True)
def limit_rate(hpa, state, up_events, down_events, current, desired, now_s):
    """Clamps to the policies' pace and to minReplicas and maxReplicas [pods]."""
    if desired > current:
        pace = max(current, rate_limit(hpa.scale_up, UP, up_events, down_events, current, now_s))
        return capped(state, desired, hpa.max_replicas, pace, TOO_MANY_REPLICAS, SCALE_UP_LIMIT)
    if desired < current:
        pace = min(current, rate_limit(hpa.scale_down, DOWN, up_events, down_events, current, now_s))
        return floored(state, desired, hpa.min_replicas, pace, TOO_FEW_REPLICAS, SCALE_DOWN_LIMIT)
    return unlimited(state, desired)


@njit(cache=True)
def limit_legacy(hpa, state, current, desired):
    """Clamps as an HPA without behavior does: to minReplicas, maxReplicas and a factor of current [pods]."""
    if desired < hpa.min_replicas:
        return floored(state, desired, hpa.min_replicas, hpa.min_replicas, TOO_FEW_REPLICAS, TOO_FEW_REPLICAS)
    pace = int(max(hpa.scale_up_limit_factor * float(current), hpa.scale_up_limit_minimum))
    return capped(state, desired, hpa.max_replicas, pace, TOO_MANY_REPLICAS, SCALE_UP_LIMIT)


@njit(cache=True)
def stabilize(hpa, recommendations, current, desired, now_s):
    """Replicas that no recommendation of the windows contradicts [pods]; logs `desired` itself, not the result."""
    up_window_s = hpa.scale_up.stabilization_window_s
    down_window_s = hpa.scale_down.stabilization_window_s
    if down_window_s == NOT_SET:
        down_window_s = hpa.downscale_stabilization_window_s
    up, down, outdated = desired, desired, -1
    for index in range(count_used(recommendations)):
        entry = recommendations[index]
        age_s = now_s - entry.time_s
        if age_s < up_window_s:
            up = min(up, entry.replicas)
        if age_s < down_window_s:
            down = max(down, entry.replicas)
        if age_s > up_window_s and age_s > down_window_s:
            outdated = index
    log_recommendation(recommendations, outdated, desired, now_s)
    return min(max(current, up), down)


@njit(cache=True)
def stabilize_legacy(hpa, recommendations, desired, now_s):
    """Highest recommendation of the controller's downscale window [pods]; scale-up is not delayed."""
    highest, outdated = desired, -1
    for index in range(count_used(recommendations)):
        entry = recommendations[index]
        if now_s - entry.time_s > hpa.downscale_stabilization_window_s:
            outdated = index
        else:
            highest = max(highest, entry.replicas)
    log_recommendation(recommendations, outdated, desired, now_s)
    return highest
