"""HorizontalPodAutoscaler: how fast replicas may change, and how long an earlier recommendation holds.

Source: Kubernetes v1.28, pkg/controller/podautoscaler/horizontal.go; defaults: pkg/apis/autoscaling/v2/defaults.go.
"""

from __future__ import annotations

import math

from numba import njit

from sim_core.controlplane.hpa_records import (
    DESIRED_WITHIN_RANGE,
    DISABLED,
    DOWN,
    MAX_CHANGE,
    MAX_LOG,
    MIN_CHANGE,
    NOT_SET,
    PERCENT_POLICY,
    PODS_POLICY,
    SCALE_DOWN_LIMIT,
    SCALE_UP_LIMIT,
    TOO_FEW_REPLICAS,
    TOO_MANY_REPLICAS,
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
def change_in_period(log, period_s, now_s):
    """Sum of the changes that are strictly younger than the period [pods]."""
    change = 0
    for index in range(log.n):
        event = log.entries[index]
        if now_s - event.time_s < period_s:
            change += event.change
    return change


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
def limit_rate(hpa, up_events, down_events, current, desired, now_s):
    """Clamps to the policies' pace and to minReplicas and maxReplicas.

    Returns:
        (replicas [pods], reason).
    """
    if desired > current:
        limit = max(current, rate_limit(hpa.scale_up, UP, up_events, down_events, current, now_s))
        highest, reason = hpa.max_replicas, TOO_MANY_REPLICAS
        if limit < highest:
            highest, reason = limit, SCALE_UP_LIMIT
        if desired > highest:
            return highest, reason
    elif desired < current:
        limit = min(current, rate_limit(hpa.scale_down, DOWN, up_events, down_events, current, now_s))
        lowest, reason = hpa.min_replicas, TOO_FEW_REPLICAS
        if limit > lowest:
            lowest, reason = limit, SCALE_DOWN_LIMIT
        if desired < lowest:
            return lowest, reason
    return desired, DESIRED_WITHIN_RANGE


@njit(cache=True)
def limit_legacy(hpa, current, desired):
    """Clamps as an HPA without behavior does: to minReplicas, maxReplicas and a factor of the current replicas.

    Returns:
        (replicas [pods], reason).
    """
    limit = int(max(hpa.scale_up_limit_factor * float(current), hpa.scale_up_limit_minimum))
    highest, reason = hpa.max_replicas, TOO_MANY_REPLICAS
    if limit < highest:
        highest, reason = limit, SCALE_UP_LIMIT
    if desired < hpa.min_replicas:
        return hpa.min_replicas, TOO_FEW_REPLICAS
    if desired > highest:
        return highest, reason
    return desired, DESIRED_WITHIN_RANGE


@njit(cache=True)
def free_slot(log, slot):
    """Where the next entry of a log goes: the given slot if there is one, else the end, else over the oldest entry."""
    if slot >= 0:
        return slot
    if log.n < MAX_LOG:
        log.n += 1
        return log.n - 1
    oldest = 0
    for index in range(1, log.n):
        if log.entries[index].time_s < log.entries[oldest].time_s:
            oldest = index
    return oldest


@njit(cache=True)
def log_recommendation(log, slot, replicas, now_s):
    """Writes a recommendation over an outdated one, or behind the others."""
    entry = log.entries[free_slot(log, slot)]
    entry.time_s = now_s
    entry.replicas = replicas


@njit(cache=True)
def log_first_recommendation(log, current, now_s):
    """Begins the log with the current replicas, once: a controller that has just started does not shrink at once."""
    if not log.exists:
        log.exists = True
        log.n = 0
        log_recommendation(log, -1, current, now_s)


@njit(cache=True)
def store_event(hpa, log, rules, change, now_s):
    """Remembers a change of replicas; events older than the longest policy period give their place away."""
    if not hpa.behavior_set:
        return
    longest_s = 0.0
    for index in range(rules.n_policies):
        longest_s = max(longest_s, rules.policies[index].period_s)
    slot = -1
    for index in range(log.n):
        event = log.entries[index]
        if now_s - event.time_s > longest_s:
            event.outdated = True
        if event.outdated:
            slot = index
    entry = log.entries[free_slot(log, slot)]
    entry.time_s = now_s
    entry.change = abs(change)
    entry.outdated = False


@njit(cache=True)
def stabilize(hpa, log, current, desired, now_s):
    """Replicas that no recommendation of the windows contradicts [pods]; logs `desired` itself, not the result."""
    up_window_s = hpa.scale_up.stabilization_window_s
    down_window_s = hpa.scale_down.stabilization_window_s
    if down_window_s == NOT_SET:
        down_window_s = hpa.downscale_stabilization_window_s
    up, down, slot = desired, desired, -1
    for index in range(log.n):
        entry = log.entries[index]
        age_s = now_s - entry.time_s
        if age_s < up_window_s:
            up = min(up, entry.replicas)
        if age_s < down_window_s:
            down = max(down, entry.replicas)
        if age_s > up_window_s and age_s > down_window_s:
            slot = index
    log_recommendation(log, slot, desired, now_s)
    return min(max(current, up), down)


@njit(cache=True)
def stabilize_legacy(hpa, log, desired, now_s):
    """Highest recommendation of the controller's downscale window [pods]; scale-up is not delayed."""
    highest, slot = desired, -1
    for index in range(log.n):
        entry = log.entries[index]
        if now_s - entry.time_s > hpa.downscale_stabilization_window_s:
            slot = index
        else:
            highest = max(highest, entry.replicas)
    log_recommendation(log, slot, desired, now_s)
    return highest
