"""The HorizontalPodAutoscaler: what must hold whatever the numbers, and what no upstream vector covers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sim_core.controlplane import hpa_records as codes
from sim_core.controlplane.hpa_behavior import limit_rate, stabilize, stabilize_legacy
from sim_core.controlplane.hpa_logs import (
    count_used,
    down_events_of,
    log_first_recommendation,
    place_logs,
    recommendations_of,
    store_event,
    up_events_of,
)
from sim_core.controlplane.hpa_manifest import hpa_record
from sim_core.controlplane.hpa_metrics import truncated_quotient
from sim_core.controlplane.hpa_records import EVENT, HPA, HPA_STATE, RECOMMENDATION
from sim_core.controlplane.pods import NO_REQUEST, PENDING, READY_FALSE, READY_TRUE, RUNNING
from sim_core.errors import InputError
from tests.conformance.hpa_case import Case, call_reconcile, pods_metric, resource_utilization, rows
from tests.conformance.selectors import SelectorError, parse_selector, selects

BEHAVIOR: dict[str, Any] = {"scale_up": None, "scale_down": None}
PROPERTIES = settings(max_examples=60, deadline=None)


class Target:
    """A Deployment of pods with one container of 1000 milli-cores, all long ready, and its HPA."""

    def __init__(self, replicas: int, **hpa: Any):
        self.case = Case()
        self.case.hpa = self.hpa = hpa_record(**{"max_replicas": 100} | hpa)
        self.state, self.pods = self.case.state, self.case.pods
        self.replicas = replicas
        self.resize()

    def resize(self) -> None:
        """As many running pods as the scale says, at once."""
        self.case.n_pods = self.replicas
        self.pods["phase"] = RUNNING
        self.pods["ready"] = READY_TRUE
        self.pods["start_s"] = self.pods["ready_transition_s"] = -1e9
        self.pods["request_m"][:, 0] = 1000

    def sync(
        self, usage_m: int | list[int], now_s: float = 0.0, fail_mask: int = 0, series_m: Sequence[int] = ()
    ) -> int:
        """One reconcile at the given usage of each pod, or series of an external metric; the scale follows at once."""
        used_m = usage_m if isinstance(usage_m, list) else [usage_m] * self.replicas
        samples = self.case.samples
        samples.time_s = math.nan
        samples.window_s = 30.0
        for row in range(self.hpa.n_metrics):
            external = self.hpa.metrics[row].type == codes.EXTERNAL
            for index, value_m in enumerate(series_m if external else used_m):
                samples[row, index].time_s = now_s
                samples[row, index].usage_m[0] = value_m
        self.replicas = int(call_reconcile(self.case, self.replicas, self.replicas, fail_mask, float(now_s)))
        return self.replicas

    def conditions(self) -> list[tuple[str, str, str]]:
        """Type, status and reason of the conditions, in their order."""
        return [
            (codes.CONDITION_TYPES[c.type], codes.STATUSES[c.status], codes.REASONS[c.reason])
            for c in self.state.conditions[: self.state.n_conditions]
        ]


def test_utilization_is_cut_to_whole_percent_before_it_is_divided():
    """105 % over 60 % of 4 pods is 7 pods; as fractions (1.054 / 0.6) it would round up to 8."""
    assert Target(4, target_cpu_utilization_pct=60).sync(1054) == 7
    assert math.ceil(1.054 / 0.6 * 4) == 8


@PROPERTIES
@given(
    replicas=st.integers(0, 120),
    usage_m=st.integers(0, 20_000),
    target=st.integers(1, 200),
    bounds=st.tuples(st.integers(0, 100), st.integers(1, 100)),
    behavior=st.sampled_from([None, BEHAVIOR]),
)
def test_result_is_always_between_min_and_max(replicas, usage_m, target, bounds, behavior):
    """Only a target that a person has set to 0 replicas stays outside: scaling is disabled then."""
    low, high = min(bounds), max(bounds)
    scaled = Target(
        replicas, min_replicas=low, max_replicas=high, target_cpu_utilization_pct=target, behavior=behavior
    ).sync(usage_m)
    assert low <= scaled <= high or (replicas == 0 and scaled == 0)


@PROPERTIES
@given(
    usage_m=st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    pod=st.integers(0, 11),
    more_m=st.integers(0, 3000),
    unready=st.sets(st.integers(0, 11)),
    pending=st.sets(st.integers(0, 11)),
)
def test_more_usage_never_asks_for_fewer_replicas(usage_m, pod, more_m, unready, pending):
    """The window is empty, so that the first recommendation is what the metric proposes."""

    def replicas(usage: list[int]) -> int:
        target = Target(len(usage), target_cpu_utilization_pct=60)
        target.state.has_log = True
        for index in unready & set(range(len(usage))):
            target.pods[index].ready = READY_FALSE
        for index in pending & set(range(len(usage))):
            target.pods[index].phase = PENDING
        return target.sync(usage)

    higher = list(usage_m)
    higher[pod % len(usage_m)] += more_m
    assert replicas(higher) >= replicas(usage_m)


@PROPERTIES
@given(usage_m=st.lists(st.integers(0, 5000), min_size=1, max_size=30), target=st.integers(1, 300))
@example(usage_m=[829] * 4, target=75)
def test_ready_pods_follow_the_formula_of_the_documentation(usage_m, target):
    """ceil(replicas * utilization / target) outside the tolerance, in exact fractions, with whole percentages."""
    utilization = sum(usage_m) * 100 // (1000 * len(usage_m))
    ratio = Fraction(utilization, target)
    assume(abs(abs(ratio - 1) - Fraction(1, 10)) > Fraction(1, 10**9))  # the last bit of the tolerance is open
    scaled = Target(
        len(usage_m),
        target_cpu_utilization_pct=target,
        max_replicas=100_000,
        scale_up_limit_minimum=100_000,
        downscale_stabilization_window_s=0.0,
        min_replicas=0,
    )
    scaled.state.has_log = True
    expected = len(usage_m) if abs(ratio - 1) <= Fraction(1, 10) else math.ceil(ratio * len(usage_m))
    product = utilization / target * len(usage_m)  # where floats leave a whole number, Kubernetes rounds up too
    assert scaled.sync(usage_m) in {expected, math.ceil(product)}


@PROPERTIES
@given(
    loads=st.lists(st.integers(10, 8000), min_size=5, max_size=60),
    window=st.sampled_from([0, 60, 300]),
    behavior=st.booleans(),
)
def test_shrinking_never_undercuts_a_recommendation_of_the_window(loads, window, behavior):
    """The log never outgrows what the window holds, and the newest recommendation is in it."""
    rules = {"scale_up": None, "scale_down": {"stabilization_window_s": window}} if behavior else None
    target = Target(3, target_cpu_utilization_pct=60, behavior=rules, downscale_stabilization_window_s=window)
    for step, load_m in enumerate(loads):
        now_s = 15.0 * step
        before = target.replicas
        log = target.case.recommendations
        recent = [
            int(entry.replicas)
            for entry in log[: count_used(log)]
            if (now_s - entry.time_s < window if behavior else now_s - entry.time_s <= window)
        ]
        scaled = target.sync(load_m // max(1, before), now_s)
        if scaled < before and recent:
            assert scaled >= max(recent)
        assert count_used(log) <= target.hpa.n_recommendations
        assert now_s in [entry.time_s for entry in log[: count_used(log)]]
        target.resize()


@PROPERTIES
@given(
    current=st.integers(1, 200),
    desired=st.integers(0, 400),
    value=st.integers(1, 400),
    percent=st.integers(1, 400),
    select=st.sampled_from(["Max", "Min", "Disabled"]),
    past=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100), st.booleans()), max_size=8),
)
def test_the_pace_never_turns_a_change_around(current, desired, value, percent, select, past):
    policies = [{"type": "Pods", "value": value, "period_s": 60}, {"type": "Percent", "value": percent, "period_s": 30}]
    rules = {"select_policy": select, "policies": policies}
    target = Target(current, min_replicas=0, max_replicas=1000, behavior={"scale_up": rules, "scale_down": rules})
    for change, age_s, up in past:
        log = target.case.events("up" if up else "down")
        entry = log[count_used(log)]
        entry.time_s, entry.change, entry.used = -float(age_s), change, True
    up_events, down_events = target.case.up_events, target.case.down_events
    limited = limit_rate(target.hpa, target.state, up_events, down_events, current, desired, 0.0)
    [(_, status, reason)] = target.conditions()
    assert min(current, desired) <= limited <= max(current, desired)
    assert (limited == desired) == (reason == "DesiredWithinRange") == (status == "False")
    if select == "Disabled":
        assert limited == current


@pytest.mark.parametrize(("select", "highest", "lowest"), [("Max", 20, 5), ("Min", 14, 6)])
def test_max_takes_the_policy_that_changes_most_and_min_the_one_that_changes_least(select, highest, lowest):
    """10 pods that may change by 4, or grow by 95 % to 19.5, which is 20, and shrink by 45 % to 5.5, which is 5."""
    pods = {"type": "Pods", "value": 4, "period_s": 60}
    growing, shrinking = ({"type": "Percent", "value": percent, "period_s": 30} for percent in (95, 45))
    behavior = {
        "scale_up": {"select_policy": select, "policies": [pods, growing]},
        "scale_down": {"select_policy": select, "policies": [shrinking, pods]},
    }
    target = Target(10, min_replicas=1, max_replicas=1000, behavior=behavior)
    up_events, down_events = target.case.up_events, target.case.down_events
    for wanted, expected, why in ((500, highest, "ScaleUpLimit"), (1, lowest, "ScaleDownLimit")):
        assert limit_rate(target.hpa, target.state, up_events, down_events, 10, wanted, 0.0) == expected
        assert target.conditions() == [("ScalingLimited", "True", why)]


def test_a_policy_counts_from_the_replicas_at_the_begin_of_its_period():
    """10 pods that were 7 three quarters of a minute ago: 4 more a minute is 11, twice as many in 30 s is 20."""
    pods, percent = {"type": "Pods", "value": 4, "period_s": 60}, {"type": "Percent", "value": 100, "period_s": 30}
    target = Target(10, max_replicas=1000, behavior={"scale_up": {"policies": [pods]}, "scale_down": None})
    up_events, down_events = target.case.up_events, target.case.down_events

    def limited(hpa: np.record) -> int:
        return int(limit_rate(hpa, target.state, up_events, down_events, 10, 500, 0.0))

    up_events[0].time_s, up_events[0].change, up_events[0].used = -45.0, 3, True
    assert limited(target.hpa) == 11
    down_events[0].time_s, down_events[0].change, down_events[0].used = -59.0, 2, True
    assert limited(target.hpa) == 13
    up_events[0].time_s = -60.0  # no longer younger than the period
    assert limited(target.hpa) == 16
    assert (
        limited(hpa_record(max_replicas=1000, behavior={"scale_up": {"policies": [percent]}, "scale_down": None})) == 20
    )


# A second reading of the rules, over names and dictionaries and in exact fractions, to hold the one-pass kernels to.


def plain_groups(case: dict[str, Any], cpu: bool) -> dict[str, str]:
    samples = {sample["pod"]: sample for sample in case["pod_metrics"]}
    groups = {}
    for pod in case["pods"]:
        start_s, transition_s, sample = -pod["start_age_s"], -pod["ready_transition_age_s"], samples.get(pod["name"])
        if pod["deleting"] or pod["phase"] == "Failed":
            group = "ignored"
        elif pod["phase"] == "Pending":
            group = "unready"
        elif sample is None:
            group = "missing"
        elif not cpu:
            group = "ready"
        elif start_s + case["cpu_initialization_period_s"] > 0:
            fresh = -sample["age_s"] >= transition_s + sample["window_s"]
            group = "ready" if pod["ready"] and fresh else "unready"
        else:
            never = not pod["ready"] and start_s + case["initial_readiness_delay_s"] > transition_s
            group = "unready" if never else "ready"
        groups[pod["name"]] = group
    return groups


def plain_replicas(case: dict[str, Any], ratio_of: Any, fill: Any, groups: dict[str, str]) -> Any:
    values = {sample["pod"]: sample["value_m"] for sample in case["pod_metrics"]}
    values = {name: value for name, value in values.items() if groups.get(name) not in ("ignored", "unready")}
    if not values:
        return "error"
    reported, ratio = ratio_of(values)
    if ratio is None:
        return "error"
    names = {group: [name for name in groups if groups[name] == group] for group in ("ready", "unready", "missing")}
    current = case["current_replicas"]
    if not names["missing"] and not (names["unready"] and ratio > 1):
        return current if abs(ratio - 1) <= Fraction(1, 10) else math.ceil(ratio * len(names["ready"])), reported
    if ratio != 1:
        values |= {name: fill(name) if ratio < 1 else 0 for name in names["missing"]}
    if ratio > 1:
        values |= dict.fromkeys(names["unready"], 0)
    _, new_ratio = ratio_of(values)
    replicas = math.ceil(new_ratio * len(values))
    if abs(new_ratio - 1) <= Fraction(1, 10) or (ratio - 1) * (new_ratio - 1) < 0:
        return current, reported
    return current if (new_ratio - 1) * (replicas - current) < 0 else replicas, reported


PLAIN_POD = st.fixed_dictionaries(
    {
        "phase": st.sampled_from(["Running"] * 5 + ["Pending", "Failed", "Succeeded"]),
        "deleting": st.sampled_from([False] * 5 + [True]),
        "ready": st.sampled_from([True, True, False]),
        "start_age_s": st.sampled_from([0, 60, 119, 120, 121, 1000]),
        "ready_transition_age_s": st.sampled_from([0, 30, 60, 110, 111, 990]),
        "request_m": st.sampled_from([0, 100, 250, 1000]),
        "sample": st.none() | st.tuples(st.sampled_from([0, 30, 60]), st.sampled_from([0, 30]), st.integers(0, 2000)),
    }
)


def plain_case(drawn: list[dict[str, Any]], foreign: list[int], current: int) -> dict[str, Any]:
    """A case as the vector files have it. 64 is a power of two: as a target it keeps floats exact."""
    case: dict[str, Any] = {"tolerance": 0.1, "cpu_initialization_period_s": 120, "initial_readiness_delay_s": 10}
    samples = [(f"gone-{index}", (0, 30, value_m)) for index, value_m in enumerate(foreign)]
    pods = []
    for index, pod in enumerate(drawn):
        pods.append({**pod, "name": f"pod-{index}", "requests_m": {"app": pod["request_m"]}})
        if pod["sample"] is not None:
            samples.append((f"pod-{index}", pod["sample"]))
    case["pods"], case["current_replicas"] = pods, current
    case["pod_metrics"] = [
        {"pod": name, "age_s": age_s, "window_s": window_s, "value_m": value_m, "usage_m": {"app": value_m}}
        for name, (age_s, window_s, value_m) in samples
    ]
    return case


@settings(max_examples=300, deadline=None)
@given(st.lists(PLAIN_POD, max_size=8), st.lists(st.integers(0, 2000), max_size=2), st.integers(0, 10))
def test_utilization_agrees_with_a_second_reading_of_the_rules(drawn, foreign, current):
    case = plain_case(drawn, foreign, current)
    requests_m = {pod["name"]: pod["request_m"] for pod in case["pods"]}

    def ratio_of(values: dict[str, int]) -> Any:
        known = [name for name in values if name in requests_m]
        total_m = sum(requests_m[name] for name in known)
        if total_m == 0:
            return None, None
        utilization = 100 * sum(values[name] for name in known) // total_m
        return utilization, Fraction(utilization, 64)

    expected = plain_replicas(case, ratio_of, requests_m.__getitem__, plain_groups(case, cpu=True))
    for sample in case["pod_metrics"]:
        del sample["value_m"]
    found = resource_utilization(case | {"resource": "cpu", "target_utilization": 64})
    assert expected == ("error" if "error" in found else (found["replicas"], found["utilization"]))


@settings(max_examples=300, deadline=None)
@given(st.lists(PLAIN_POD, max_size=8), st.lists(st.integers(0, 2000), max_size=2), st.integers(0, 10))
def test_values_agree_with_a_second_reading_of_the_rules(drawn, foreign, current):
    case = plain_case(drawn, foreign, current)

    def ratio_of(values: dict[str, int]) -> tuple[int, Fraction]:
        usage_m = sum(values.values()) // len(values)
        return usage_m, Fraction(usage_m, 1024)

    groups = plain_groups(case, cpu=False)
    expected = plain_replicas(case, ratio_of, lambda name: 1024, groups) if case["pods"] else "error"
    found = pods_metric(case | {"target_average_m": 1024})
    assert expected == ("error" if "error" in found else (found["replicas"], found["usage_m"]))


def test_pods_that_have_gone_leave_samples_that_still_count():
    """Usage of 2 pods, samples of 4: the mean over known pods decides, the number of samples multiplies."""
    target = Target(2, target_cpu_utilization_pct=50, scale_up_limit_minimum=100)
    target.case.n_pods = 5
    target.pods["phase"][2:4] = 0
    target.pods["phase"][4] = PENDING
    assert target.sync([1000, 1000, 1000, 1000]) == 7  # ceil(2000 / 3000 -> 66 % over 50 % = 1.32, times 5 samples)


def test_a_pod_of_two_containers_needs_both_requests_but_a_named_one_only_its_own():
    cpu = {"type": "Utilization", "average_utilization": 50}
    named = {"type": "ContainerResource", "resource": "cpu", "container": "app", "target": cpu}
    for metric, failure in ((named | {"type": "Resource", "container": None}, "MISSING_REQUEST"), (named, "COMPUTED")):
        target = Target(2, metrics=[metric], containers=("app", "proxy"))
        target.pods["request_m"][:, 1] = NO_REQUEST
        target.sync(1000)
        assert target.state.results[0].failure == getattr(codes, failure)


def test_conditions_keep_their_order_and_say_the_last_state():
    target = Target(4, target_cpu_utilization_pct=60)
    assert target.sync(1050) == 7
    first = target.conditions()
    assert [kind for kind, _, _ in first] == ["AbleToScale", "ScalingActive", "ScalingLimited"]
    assert first[0] == ("AbleToScale", "True", "SucceededRescale")
    target.sync(600, now_s=15.0, fail_mask=codes.FAIL_GET_SCALE)
    assert target.conditions() == [("AbleToScale", "False", "FailedGetScale"), *first[1:]]
    target.sync(600, now_s=30.0, fail_mask=codes.FAIL_RESOURCE_METRICS)
    assert target.conditions()[:2] == [
        ("AbleToScale", "True", "SucceededGetScale"),
        ("ScalingActive", "False", "FailedGetResourceMetric"),
    ]


def test_unready_and_missing_pods_are_left_out_at_exactly_the_target():
    """2 of 4 pods at the target: filling the others in with nothing would halve the replicas."""
    target = Target(4, target_cpu_utilization_pct=60, min_replicas=1)
    target.state.has_log = True
    target.pods["ready"][2] = READY_FALSE
    assert target.sync([600, 600, 0]) == 4


@pytest.mark.parametrize(
    ("usage_m", "earlier", "reason"),
    [(1050, 4, "ScaleUpStabilized"), (600, 9, "ReadyForNewScale"), (300, 4, "ScaleDownStabilized")],
)
def test_stabilization_names_the_direction_of_the_raw_recommendation(usage_m, earlier, reason):
    """An earlier recommendation of 4 holds 4 replicas against 7 and against 2; one of 9 does not move them."""
    target = Target(4, target_cpu_utilization_pct=60, behavior=BEHAVIOR)
    target.hpa.scale_up.stabilization_window_s = 300.0
    target.case.add_recommendations([{"age_s": 0.0, "replicas": earlier}])
    target.sync(usage_m, now_s=15.0)
    assert target.conditions()[0] == ("AbleToScale", "True", reason)


def test_an_event_as_old_as_the_longest_period_keeps_its_place():
    rules = {"policies": [{"type": "Pods", "value": 9, "period_s": 60}]}
    target = Target(1, behavior={"scale_up": rules, "scale_down": None})
    log = target.case.up_events
    for now_s, changes in ((0.0, [1]), (60.0, [1, 2]), (61.0, [3, 2])):
        store_event(target.hpa, log, target.hpa.scale_up, max(changes[0], changes[-1]), now_s)
        assert [int(entry.change) for entry in log[: count_used(log)]] == changes


@pytest.mark.parametrize(("usage_m", "expected"), [(1050, 7), (600, 4), (300, 4)])
def test_a_failing_metric_forbids_to_shrink_and_not_to_grow(usage_m, expected):
    cpu = {"type": "Resource", "resource": "cpu", "target": {"type": "Utilization", "average_utilization": 60}}
    queue = {"type": "External", "target": {"type": "Value", "value_m": 1000}}
    target = Target(4, metrics=[cpu, queue])
    target.state.has_log = True
    assert target.sync(usage_m, fail_mask=codes.FAIL_EXTERNAL_METRICS) == expected
    assert target.state.error == codes.INTERNAL_ERROR
    active = ("False", "FailedGetExternalMetric") if usage_m == 300 else ("True", "ValidMetricFound")
    assert target.conditions()[1] == ("ScalingActive", *active)


def test_an_update_that_fails_is_not_remembered():
    target = Target(4, target_cpu_utilization_pct=60, behavior=BEHAVIOR)
    assert target.sync(1050, fail_mask=codes.FAIL_UPDATE_SCALE) == 4
    assert (count_used(target.case.up_events), target.state.has_scaled, target.state.scale_updated) == (0, False, False)
    assert target.sync(1050, now_s=15.0) == 7
    assert (count_used(target.case.up_events), target.state.last_scale_s) == (1, 15.0)
    assert target.case.up_events[0].change == 3


def test_zero_replicas_stay_zero_unless_the_minimum_is_zero():
    queue = {"type": "External", "target": {"type": "Value", "value_m": 1000}}
    disabled, awake = Target(0, metrics=[queue]), Target(0, metrics=[queue], min_replicas=0)
    for target in (disabled, awake):
        target.sync([], series_m=[1500, 1000])
    assert (disabled.replicas, awake.replicas) == (0, 3)
    assert ("ScalingActive", "False", "ScalingDisabled") in disabled.conditions()


# --- Logs

WINDOWS = st.integers(0, 30)
PERIODS = st.lists(st.integers(1, 30), min_size=1, max_size=3)


def behavior_of(up_window_s: int, down_window_s: int | None, periods_s: list[int]) -> dict[str, Any]:
    """Rules whose policies let little through, so that what they remember matters."""
    policies = [{"type": "Pods", "value": 2, "period_s": period_s} for period_s in periods_s]
    return {
        "scale_up": {"stabilization_window_s": up_window_s, "policies": policies},
        "scale_down": {"stabilization_window_s": down_window_s, "policies": policies[:1]},
    }


@PROPERTIES
@given(
    usage_m=st.lists(st.integers(0, 3000), min_size=20, max_size=80),
    behavior=st.none() | st.builds(behavior_of, WINDOWS, st.none() | WINDOWS, PERIODS),
    window_s=WINDOWS,
    sync_s=st.sampled_from([0.3, 0.7, 1.0, 7.0, 45.0]),
)
def test_logs_as_long_as_the_record_says_forget_nothing_that_counts(usage_m, behavior, window_s, sync_s):
    """Sync by sync, replicas are those of an autoscaler whose logs have room for everything."""
    settings_of = {"behavior": behavior, "downscale_stabilization_window_s": window_s, "sync_period_s": sync_s}
    short, long = Target(20, **settings_of), Target(20, **settings_of)
    for target, room in ((short, 0), (long, 2 * len(usage_m))):
        target.case.recommendations = rows(RECOMMENDATION, target.hpa.n_recommendations + room)
        target.case.up_events = rows(EVENT, target.hpa.n_up_events + room)
        target.case.down_events = rows(EVENT, target.hpa.n_down_events + room)
    for step, used_m in enumerate(usage_m):
        assert short.sync(used_m, step * sync_s) == long.sync(used_m, step * sync_s)
        short.resize()
        long.resize()


@pytest.mark.parametrize(
    ("sync_s", "recommendations", "up_events"), [(15.0, 22, 5), (60.0, 7, 2), (0.7, 430, 86), (400.0, 2, 1)]
)
def test_no_row_of_a_log_is_spare(sync_s, recommendations, up_events):
    """300 s of recommendations, 60 s of events, both ends included; steady growth fills every row."""
    rules = {"stabilization_window_s": 0, "policies": [{"type": "Pods", "value": 2, "period_s": 60}]}
    target = Target(1, behavior={"scale_up": rules, "scale_down": None}, max_replicas=10_000, sync_period_s=sync_s)
    assert (target.hpa.n_recommendations, target.hpa.n_up_events) == (recommendations, up_events)
    target.case.recommendations = rows(RECOMMENDATION, recommendations + 5)
    events = rows(EVENT, up_events + 5)
    log_first_recommendation(target.state, target.case.recommendations, 1, 0.0)
    for step in range(2 * recommendations):
        stabilize(target.hpa, target.case.recommendations, 1, 1, step * sync_s)
        store_event(target.hpa, events, target.hpa.scale_up, 1, step * sync_s)
    assert count_used(target.case.recommendations) == recommendations
    assert count_used(events) == up_events


def test_a_quotient_that_is_rounded_down_costs_no_row():
    """33 s are 30 periods of 1.1 s, though 33 / 1.1 is a hair less than 30 as a float."""
    assert 33 / 1.1 < 30
    hpa = hpa_record(max_replicas=10, downscale_stabilization_window_s=33.0, sync_period_s=1.1)
    assert hpa.n_recommendations == 32


def test_a_full_log_gives_up_its_oldest_entry():
    """A record whose windows were made longer by hand stays sound: it forgets early, and never writes elsewhere."""
    target = Target(1, behavior=BEHAVIOR)
    log, events = rows(RECOMMENDATION, 20), rows(EVENT, 20)
    target.hpa.scale_down.stabilization_window_s = 1e9
    target.hpa.scale_up.policies[0].period_s = 1e9
    for step in range(25):
        stabilize(target.hpa, log, 1, step, float(step))
        store_event(target.hpa, events, target.hpa.scale_up, 1 + step, float(step))
    assert sorted(log["replicas"]) == sorted(events["change"] - 1) == list(range(5, 25))
    assert stabilize_legacy(target.hpa, log, 3, 25.0) == 24
    none, nothing = rows(RECOMMENDATION, 0), rows(EVENT, 0)
    assert stabilize(target.hpa, none, 3, 5, 0.0) == stabilize(target.hpa, none, 3, 5, 1.0) == 5
    store_event(target.hpa, nothing, target.hpa.scale_up, 1, 0.0)
    assert count_used(none) == count_used(nothing) == 0


def test_an_autoscaler_without_behavior_has_no_events():
    target = Target(4, target_cpu_utilization_pct=60)
    assert (target.hpa.n_up_events, target.hpa.n_down_events) == (0, 0)
    target.case.up_events, target.case.down_events = rows(EVENT, 0), rows(EVENT, 0)
    target.case.recommendations = rows(RECOMMENDATION, target.hpa.n_recommendations)
    assert target.sync(1050) == 7
    target.resize()
    assert target.sync(100, now_s=900.0) == 2


def test_autoscalers_of_a_lane_share_no_row_of_their_logs():
    """Their ranges lie one behind the other, and fill the tables."""
    hpas = np.zeros(3, HPA)
    for index, behavior in enumerate((None, BEHAVIOR, behavior_of(60, 30, [45]))):
        hpas[index] = hpa_record(max_replicas=10, behavior=behavior)
    lane = place_logs(hpas)
    for log, total in lane._asdict().items():
        first, length = hpas[f"{log}_first"], hpas[f"n_{log}"]
        assert first.tolist() == [0, *np.cumsum(length)[:-1]]
        assert total == length.sum()
    assert hpas["n_recommendations"].tolist() == [22, 22, 6]
    assert hpas["n_up_events"].tolist() == [0, 2, 4]
    hpa = hpas.view(np.recarray)[2]
    tables = [rows(RECOMMENDATION, lane.recommendations), rows(EVENT, lane.up_events), rows(EVENT, lane.down_events)]
    recommendations_of(hpa, tables[0])["replicas"] = 7
    up_events_of(hpa, tables[1])["change"] = 7
    down_events_of(hpa, tables[2])["change"] = 7
    assert (tables[0].replicas == [0] * 44 + [7] * 6).all()
    assert (tables[1].change == [0] * 2 + [7] * 4).all()
    assert (tables[2].change == [0] * 2 + [7] * 4).all()


def test_a_service_remembers_its_autoscaler_in_less_than_a_kilobyte():
    assert HPA_STATE.itemsize < 1024


@PROPERTIES
@given(dividend=st.integers(-(10**15), 10**15), divisor=st.integers(1, 10**9))
def test_integer_division_cuts_towards_zero(dividend, divisor):
    assert truncated_quotient(dividend, divisor) == math.trunc(Fraction(dividend, divisor))


def test_defaults_are_those_of_kubernetes():
    record = hpa_record(max_replicas=10, behavior={"scale_down": {"select_policy": "Min"}})
    assert (record.min_replicas, record.metrics[0].target, record.metrics[0].resource) == (1, 80, codes.CPU)
    up, down = record.scale_up, record.scale_down
    assert (up.stabilization_window_s, up.n_policies, up.select_policy) == (0, 2, codes.MAX_CHANGE)
    assert [tuple(policy) for policy in up.policies[:2]] == [
        (codes.PODS_POLICY, 4, 15.0),
        (codes.PERCENT_POLICY, 100, 15.0),
    ]
    assert (down.stabilization_window_s, down.n_policies, down.select_policy) == (codes.NOT_SET, 1, codes.MIN_CHANGE)
    assert record.behavior_set and not hpa_record(max_replicas=10).behavior_set


def test_a_record_can_be_assigned_and_changed_in_place():
    lanes = np.zeros(3, HPA)
    lanes[1] = hpa_record(max_replicas=10)
    lanes[1]["scale_down"]["stabilization_window_s"] = 60
    assert lanes["max_replicas"].tolist() == [0, 10, 0]
    assert lanes[1]["scale_down"]["stabilization_window_s"] == 60
    assert HPA_STATE.isalignedstruct and HPA.isalignedstruct


def test_wrong_values_are_reported_all_at_once():
    policy = {"type": "Pod", "value": 0, "period_s": 4000}
    with pytest.raises(InputError) as caught:
        hpa_record(
            min_replicas=5,
            max_replicas=3,
            metrics=[{"type": "Pods", "target": {"type": "Utilization", "average_utilization": 50}}],
            behavior={"scale_up": {"stabilisation_window_s": 3}, "scale_down": {"policies": [policy]}},
        )
    message = str(caught.value)
    for part in (
        "min_replicas: must be between 0 and 3 (got 5)",
        "metrics.0.target.type: must be one of AverageValue (got 'Utilization')",
        "behavior.scale_up.stabilisation_window_s: unknown key; did you mean 'stabilization_window_s'?",
        "behavior.scale_down.policies.0.type: must be one of Pods, Percent (got 'Pod')",
        "behavior.scale_down.policies.0.value: must be between 1",
        "behavior.scale_down.policies.0.period_s: must be between 1 and 1800 (got 4000)",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "labels", "selected"),
    [
        ("name=pod", {"name": "pod"}, True),
        ("name==pod, tier!=web", {"name": "pod", "tier": "web"}, False),
        ("tier in (web, api),!old", {"tier": "api"}, True),
        ("tier notin (web)", {}, True),
        ("example.com/size>3", {"example.com/size": "4"}, True),
        ("name", {"other": ""}, False),
    ],
)
def test_selectors_select_as_in_kubernetes(text, labels, selected):
    assert selects(parse_selector(text), labels) is selected


@pytest.mark.parametrize("text", ["cheddar cheese", "a=b,", "=b", "a in b", "a>b", "a,,b", "-a=b"])
def test_what_is_no_selector_is_refused(text):
    with pytest.raises(SelectorError):
        parse_selector(text)
