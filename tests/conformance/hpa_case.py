"""Vector cases of the HorizontalPodAutoscaler: JSON into records, kernels, codes back into words.

What a case asks is decided by the kernels of `sim_core.controlplane`; here are only translations. "Now" is time 0, so
an age of n seconds is the time -n. A pod of a sample or request list that is not among the case's pods gets an empty
slot (phase 0) of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sim_core.controlplane import hpa_records as codes
from sim_core.controlplane.hpa import reconcile_hpa
from sim_core.controlplane.hpa_behavior import (
    limit_legacy,
    limit_rate,
    rate_limit,
    stabilize,
    stabilize_legacy,
)
from sim_core.controlplane.hpa_logs import change_in_period, count_used, store_event
from sim_core.controlplane.hpa_manifest import write_metric, write_rules
from sim_core.controlplane.hpa_metrics import (
    IGNORED,
    MISSING,
    UNREADY,
    group_pods,
    series_replicas,
    utilization_replicas,
    value_replicas,
)
from sim_core.controlplane.hpa_records import EVENT, HPA, HPA_STATE, RECOMMENDATION
from sim_core.controlplane.pods import (
    FAILED,
    NO_CONTAINER,
    NO_REQUEST,
    NO_RESOURCE,
    NO_USAGE,
    PENDING,
    POD,
    READY_FALSE,
    READY_LOST,
    READY_TRUE,
    READY_UNKNOWN,
    RUNNING,
    SAMPLE,
    SUCCEEDED,
)
from sim_core.limits import MAX_CONTAINERS, MAX_METRICS
from tests.conformance.selectors import SelectorError, parse_selector, selects

Json = dict[str, Any]

NOW_S = 0.0
VALUE_CONTAINER = "value"  # where samples without containers keep their value
MOST_PODS, MOST_ENTRIES = 256, 64  # of a case, of one of its logs

PHASES = {"Pending": PENDING, "Running": RUNNING, "Succeeded": SUCCEEDED, "Failed": FAILED}
READY_WORDS = {None: READY_UNKNOWN, False: READY_FALSE, True: READY_TRUE}
READY_STATUSES = {"True": READY_TRUE, "False": READY_FALSE, "Unknown": READY_LOST}
DIRECTIONS = {"up": codes.UP, "down": codes.DOWN}
FAIL_BITS = {
    "get_scale": codes.FAIL_GET_SCALE,
    "update_scale": codes.FAIL_UPDATE_SCALE,
    "resource_metrics": codes.FAIL_RESOURCE_METRICS,
    "custom_metrics": codes.FAIL_CUSTOM_METRICS,
    "external_metrics": codes.FAIL_EXTERNAL_METRICS,
}
FAILURES = {
    codes.NO_METRICS_RETURNED: "no_metrics_returned",
    codes.MISSING_CONTAINER_METRIC: "missing_container_metric",
    codes.MISSING_REQUEST: "missing_request",
    codes.NO_PODS: "no_metrics_for_known_pods",
    codes.NO_METRICS_LEFT: "no_metrics_for_known_pods",
    codes.NO_METRICS_FOR_KNOWN_PODS: "no_metrics_for_known_pods",
}


class Unsupported(Exception):
    """The case is larger than the records, or says something that has no record."""


class Case:
    """Rows of the tables of one case, and the names of its pods and containers in the order of their slots."""

    def __init__(self) -> None:
        self.hpa, self.state = rows(HPA, 1)[0], rows(HPA_STATE, 1)[0]
        self.recommendations = rows(RECOMMENDATION, MOST_ENTRIES)
        self.up_events, self.down_events = rows(EVENT, MOST_ENTRIES), rows(EVENT, MOST_ENTRIES)
        self.pods = rows(POD, MOST_PODS)
        self.n_pods = 0
        self.samples = rows(SAMPLE, MAX_METRICS, MOST_PODS)
        self.samples.time_s = math.nan
        self.samples.usage_m = NO_USAGE
        self.slots: list[str] = []
        self.containers: list[str] = []

    def slot(self, name: str) -> int:
        """Slot of a pod; a new one when the name is new."""
        if name not in self.slots:
            _fit(f"pods of the case and {name}", len(self.slots) + 1, MOST_PODS)
            self.slots.append(name)
            self.n_pods = len(self.slots)
            self.pods[self.n_pods - 1].request_m[:] = NO_CONTAINER
        return self.slots.index(name)

    def container(self, name: str) -> int:
        """Index of a container; a new one when the name is new."""
        if name not in self.containers:
            _fit(f"containers of the case and {name}", len(self.containers) + 1, MAX_CONTAINERS)
            self.containers.append(name)
        return self.containers.index(name)

    def add_pod(self, pod: Json) -> None:
        """Writes a pod. Readiness is either `ready` and `ready_transition_age_s`, or `ready_condition`."""
        record = self.pods[self.slot(pod["name"])]
        record.phase = PHASES[pod["phase"]]
        record.deleting = pod["deleting"]
        record.start_s = math.nan if pod["start_age_s"] is None else _time(pod["start_age_s"])
        if "ready" in pod:
            record.ready = READY_WORDS[pod["ready"]]
            transition_age_s = pod["ready_transition_age_s"]
        else:
            condition = pod["ready_condition"]
            record.ready = READY_UNKNOWN if condition is None else READY_STATUSES[condition["status"]]
            transition_age_s = None if condition is None else condition["transition_age_s"]
        record.ready_transition_s = _time(transition_age_s)
        requests_m = pod.get("requests_m")
        if not requests_m:  # a pod has containers, here none with a request
            record.request_m[:] = NO_REQUEST
            return
        for name, request_m in requests_m.items():
            record.request_m[self.container(name)] = NO_REQUEST if request_m is None else request_m

    def add_samples(self, row: int, samples: Iterable[Json]) -> None:
        """Writes the answer to one metric."""
        for sample in samples:
            record = self.samples[row, self.slot(sample["pod"])]
            record.time_s = _time(sample.get("age_s", 0))
            record.window_s = sample.get("window_s", 0)
            record.usage_m = NO_USAGE
            if "value_m" in sample:
                record.usage_m[0] = sample["value_m"]
                continue
            for name, usage_m in sample["usage_m"].items():
                record.usage_m[self.container(name)] = NO_RESOURCE if usage_m is None else usage_m

    def add_values(self, row: int, values_m: Sequence[int]) -> None:
        """Writes the series that an Object or External metric answers with."""
        _fit("values of a metric", len(values_m), MOST_PODS)
        for index, value_m in enumerate(values_m):
            self.samples[row, index].time_s = NOW_S
            self.samples[row, index].usage_m[0] = value_m

    def set_controller(self, flags: Mapping[str, Any]) -> None:
        """Writes the controller's flags. Tolerance is one number or one a direction."""
        tolerance = flags["tolerance"]
        if not isinstance(tolerance, Mapping):
            tolerance = {"scale_up": tolerance, "scale_down": tolerance}
        self.hpa.tolerance_up, self.hpa.tolerance_down = tolerance["scale_up"], tolerance["scale_down"]
        for name in (
            "cpu_initialization_period_s",
            "initial_readiness_delay_s",
            "downscale_stabilization_window_s",
            "scale_up_limit_factor",
            "scale_up_limit_minimum",
        ):
            if name in flags:
                setattr(self.hpa, name, flags[name])
        self.hpa.container_resource_metrics_enabled = flags.get("container_resource_metrics_enabled", True)

    def set_metrics(self, metrics: Sequence[Json]) -> None:
        """Writes the metrics; their containers get an index even if no pod has them."""
        _fit("metrics", len(metrics), MAX_METRICS)
        self.hpa.n_metrics = len(metrics)
        for row, metric in enumerate(metrics):
            if metric.get("container") is not None:
                self.container(metric["container"])
            write_metric(self.hpa.metrics[row], metric, self.containers)

    def set_rules(self, direction: str, rules: Json | None) -> Any:
        """Writes the rules of one direction; returns their record."""
        record = self.hpa.scale_up if direction == "up" else self.hpa.scale_down
        write_rules(record, rules, DIRECTIONS[direction])
        return record

    def events(self, direction: str) -> Any:
        """Event log of one direction."""
        return self.up_events if direction == "up" else self.down_events

    def add_events(self, direction: str, events: Sequence[Json]) -> None:
        """Writes the events of one direction."""
        _fit("events", len(events), MOST_ENTRIES)
        for entry, event in zip(self.events(direction), events, strict=False):
            entry.time_s, entry.change, entry.used = _time(event["age_s"]), event["replica_change"], True
            entry.outdated = event.get("outdated", False)

    def add_recommendations(self, recommendations: Sequence[Json] | None) -> None:
        """Writes the recommendations; None: there is no log yet."""
        self.state.has_log = recommendations is not None
        _fit("recommendations", len(recommendations or ()), MOST_ENTRIES)
        for entry, recommendation in zip(self.recommendations, recommendations or (), strict=False):
            entry.time_s, entry.replicas, entry.used = _time(recommendation["age_s"]), recommendation["replicas"], True


def rows(dtype: np.dtype, *shape: int) -> Any:
    """Zeroed rows whose fields are attributes."""
    return np.zeros(shape, dtype).view(np.recarray)


def _time(age_s: float | None) -> float:
    return -math.inf if age_s is None else NOW_S - age_s


def _fit(what: str, count: int, most: int) -> None:
    if count > most:
        raise Unsupported(f"{what}: {count}, the records hold {most}")


# The kernels under test, called with the rows of a case.


def call_reconcile(case: Case, spec_replicas: int, status_replicas: int, fail_mask: int, now_s: float) -> int:
    """One reconcile; the scale's spec.replicas afterwards."""
    return reconcile_hpa(
        case.hpa, case.state, case.recommendations, case.up_events, case.down_events, case.pods, case.n_pods,
        case.samples, spec_replicas, status_replicas, fail_mask, now_s,
    )  # fmt: skip


def _pods_result(kernel: Callable[..., None], case: Case, current: int) -> Any:
    """What the first metric proposes, if it is one of pods."""
    result = case.state.results[0]
    kernel(
        case.hpa, case.hpa.metrics[0], case.pods, case.n_pods, case.samples, 0, current, NOW_S, case.state.tally, result
    )
    return result


def _series_result(case: Case, current: int) -> Any:
    """What the first metric proposes, if it is an Object or External one."""
    result, metric = case.state.results[0], case.hpa.metrics[0]
    series_replicas(case.hpa, metric, case.samples[0], case.pods, case.n_pods, current, current, result)
    return result


def _limiting_reason(case: Case) -> str:
    """Reason of the only condition that was set, ScalingLimited."""
    return codes.REASONS[case.state.conditions[0].reason]


# Replica calculation


def _calculation(given: Json, metric: Json) -> Case:
    case = Case()
    case.set_controller(given)
    case.set_metrics([metric])
    for pod in given["pods"]:
        case.add_pod(pod)
    return case


def _resource_metric(given: Json, target: Json) -> Json:
    return {"type": "Resource", "resource": given["resource"], "container": given.get("container"), "target": target}


def resource_utilization(given: Json) -> Json:
    """Replicas for a resource with a target utilization."""
    target = {"type": "Utilization", "average_utilization": given["target_utilization"]}
    case = _calculation(given, _resource_metric(given, target))
    case.add_samples(0, given["pod_metrics"])
    found = _pods_result(utilization_replicas, case, given["current_replicas"])
    if found.failure != codes.COMPUTED:
        return {"error": FAILURES[found.failure]}
    utilization, average_value_m = int(found.reported), int(found.average_value_m)
    return {"replicas": int(found.proposal), "utilization": utilization, "average_value_m": average_value_m}


def pods_metric(given: Json) -> Json:
    """Replicas for a value per pod."""
    target = {"type": "AverageValue", "average_value_m": given["target_average_m"]}
    case = _calculation(given, {"type": "Pods", "target": target})
    case.add_samples(0, given["pod_metrics"])
    found = _pods_result(value_replicas, case, given["current_replicas"])
    if found.failure != codes.COMPUTED:
        return {"error": FAILURES[found.failure]}
    return {"replicas": int(found.proposal), "usage_m": int(found.reported)}


def series_value(given: Json) -> Json:
    """Replicas for an Object or External metric, with target Value or AverageValue."""
    target = {"type": "Value", "value_m": given.get("target_m")}
    if "target_average_m" in given:
        target = {"type": "AverageValue", "average_value_m": given["target_average_m"]}
    case = _calculation(given, {"type": "External", "target": target})
    case.add_values(0, given["values_m"] if "values_m" in given else [given["value_m"]])
    found = _series_result(case, given["current_replicas"])
    if found.failure != codes.COMPUTED:
        return {"error": FAILURES[found.failure]}
    return {"replicas": int(found.proposal), "usage_m": int(found.reported)}


def pod_groups(given: Json) -> Json:
    """Groups of pods; the names of each are a set."""
    flags = {"tolerance": 0.1} | given
    case = _calculation(flags, {"type": "Resource" if given["resource"] else "Pods", "resource": given["resource"]})
    case.add_samples(0, given["pod_metrics"])
    groups = np.zeros(case.n_pods, np.int64)
    ready = group_pods(case.hpa, case.hpa.metrics[0], case.pods, case.n_pods, case.samples, 0, NOW_S, groups)
    names = {group: [] for group in (UNREADY, MISSING, IGNORED)}
    for name, group in zip(case.slots, groups, strict=True):
        names.get(group, []).append(name)
    return {
        "ready_count": ready,
        "unready": sorted(names[UNREADY]),
        "missing": sorted(names[MISSING]),
        "ignored": sorted(names[IGNORED]),
    }


def _plain_pods(names: Iterable[str], requests_m: Mapping[str, int]) -> list[Json]:
    long_ago = {"start_age_s": 1_000_000_000, "ready_transition_age_s": 1_000_000_000}
    plain = {"phase": "Running", "ready": True, "deleting": False} | long_ago
    return [plain | {"name": name, "requests_m": {VALUE_CONTAINER: requests_m.get(name, 0)}} for name in names]


def utilization_ratio(given: Json) -> Json:
    """Ratio of the utilization to its target; pods without a request are none."""
    requests_m = given["pod_requests_m"]
    target = {"type": "Utilization", "average_utilization": given["target_utilization"]}
    flags = {"tolerance": 0.1, "pods": _plain_pods(requests_m, requests_m), "resource": "cpu"}
    case = _calculation(flags, _resource_metric(flags, target))
    values = given["pod_metrics_m"].items()
    case.add_samples(0, [{"pod": pod, "usage_m": {VALUE_CONTAINER: value_m}} for pod, value_m in values])
    found = _pods_result(utilization_replicas, case, 1)
    if found.failure != codes.COMPUTED:
        return {"error": FAILURES[codes.NO_METRICS_FOR_KNOWN_PODS]}  # the only failure that the function has
    utilization, average_value_m = int(found.reported), int(found.average_value_m)
    return {"ratio": float(found.ratio), "utilization": utilization, "average_value_m": average_value_m}


def usage_ratio(given: Json) -> Json:
    """Ratio of a value per pod to its target."""
    target = {"type": "AverageValue", "average_value_m": given["target_average_m"]}
    values = given["pod_metrics_m"].items()
    flags = {"tolerance": 0.1, "pods": _plain_pods(given["pod_metrics_m"], {})}
    case = _calculation(flags, {"type": "Pods", "target": target})
    case.add_samples(0, [{"pod": pod, "value_m": value_m} for pod, value_m in values])
    found = _pods_result(value_replicas, case, 1)
    return {"ratio": float(found.ratio), "usage_m": int(found.reported)}


# Behavior


def rules_defaults(given: Json) -> Json:
    """Rules with what they leave open filled in."""
    rules = Case().set_rules(given["direction"], given["rules"])
    window_s = rules.stabilization_window_s
    policies = [
        {"type": codes.POLICY_TYPES[policy.type], "value": int(policy.value), "period_s": policy.period_s}
        for policy in rules.policies[: rules.n_policies]
    ]
    return {
        "stabilization_window_s": None if window_s == codes.NOT_SET else window_s,
        "select_policy": codes.SELECT_POLICIES[rules.select_policy],
        "policies": policies,
    }


def policy_limit(given: Json) -> Json:
    """Replicas that the policies of a direction allow."""
    case, direction = Case(), given["direction"]
    rules = case.set_rules(direction, given["rules"])
    case.add_events("up", given["scale_up_events"])
    case.add_events("down", given["scale_down_events"])
    current = given["current_replicas"]
    events = (case.events("up"), case.events("down"))
    return {"limit": rate_limit(rules, DIRECTIONS[direction], *events, current, NOW_S)}


def rate(given: Json) -> Json:
    """Desired replicas under the policies and the range."""
    case = Case()
    case.hpa.min_replicas, case.hpa.max_replicas = given["min_replicas"], given["max_replicas"]
    for direction in DIRECTIONS:
        case.set_rules(direction, given[f"scale_{direction}_rules"])
        case.add_events(direction, given[f"scale_{direction}_events"])
    events = (case.events("up"), case.events("down"))
    current, desired = given["current_replicas"], given["desired_replicas"]
    replicas = limit_rate(case.hpa, case.state, *events, current, desired, NOW_S)
    return {"replicas": replicas, "reason": _limiting_reason(case)}


def event_log(given: Json) -> Json:
    """Event log after one change of replicas."""
    case, direction = Case(), given["direction"]
    case.hpa.behavior_set = given["behavior_set"]
    rules = case.set_rules(direction, given["rules"])
    case.add_events(direction, given["events"])
    log = case.events(direction)
    before = change_in_period(log, float(given["change_query_period_s"]), NOW_S)
    store_event(case.hpa, log, rules, given["new_replicas"] - given["previous_replicas"], NOW_S)
    entries = [
        {"replica_change": int(entry.change), "outdated": bool(entry.outdated)} for entry in log[: count_used(log)]
    ]
    return {"change_in_period_before": before, "events": entries}


def stabilization(given: Json) -> Json:
    """Stabilized replicas with a behavior, and the log afterwards."""
    case = Case()
    case.add_recommendations(given["recommendations"])
    case.set_rules("up", {"stabilization_window_s": given["scale_up_stabilization_window_s"]})
    case.set_rules("down", {"stabilization_window_s": given["scale_down_stabilization_window_s"]})
    log = case.recommendations
    replicas = stabilize(case.hpa, log, given["current_replicas"], given["desired_replicas"], NOW_S)
    return {"replicas": replicas, "recommendation_log": [int(entry.replicas) for entry in log[: count_used(log)]]}


def legacy_stabilization(given: Json) -> Json:
    """Stabilized replicas without a behavior."""
    case = Case()
    case.add_recommendations(given["recommendations"])
    case.hpa.downscale_stabilization_window_s = given["downscale_stabilization_window_s"]
    replicas = stabilize_legacy(case.hpa, case.recommendations, given["desired_replicas"], NOW_S)
    return {"replicas": replicas, "log_length": count_used(case.recommendations)}


def legacy_limits(given: Json) -> Json:
    """Desired replicas in the range, without a behavior."""
    case = Case()
    for name in ("min_replicas", "max_replicas", "scale_up_limit_factor", "scale_up_limit_minimum"):
        setattr(case.hpa, name, given[name])
    replicas = limit_legacy(case.hpa, case.state, given["current_replicas"], given["desired_replicas"])
    return {"replicas": replicas, "reason": _limiting_reason(case)}


# Controller


def reconcile(given: Json) -> Json:
    """One whole reconcile."""
    hpa, scale, samples = given["hpa"], given["scale"], given["samples"]
    case = Case()
    case.set_controller(given["controller"])
    case.hpa.min_replicas = 1 if hpa["min_replicas"] is None else hpa["min_replicas"]
    case.hpa.max_replicas = hpa["max_replicas"]
    case.set_metrics(hpa["metrics"])
    behavior = hpa["behavior"]
    case.hpa.behavior_set = behavior is not None
    for direction in DIRECTIONS:
        case.set_rules(direction, None if behavior is None else behavior[f"scale_{direction}"])
    case.add_recommendations(given["recommendations"])
    if given["last_scale_age_s"] is not None:
        case.state.has_scaled, case.state.last_scale_s = True, _time(given["last_scale_age_s"])
    fail_mask, selected = _selector_bits(given)
    for word in given["fail"]:
        fail_mask |= FAIL_BITS[word]
    for pod in given["pods"] if selected else ():
        case.add_pod(pod)
    _add_answers(case, hpa["metrics"], samples)

    spec_replicas, status_replicas = scale["spec_replicas"], scale["status_replicas"]
    replicas = call_reconcile(case, spec_replicas, status_replicas, fail_mask, NOW_S)
    return {"desired_replicas": replicas} | _outcome(case.state, hpa["metrics"])


def _selector_bits(given: Json) -> tuple[int, bool]:
    """Bits that the selectors set, and whether the scale's selector selects the pods."""
    labels = given["pod_labels"] or {}
    try:
        selector = parse_selector(given["scale"]["selector"] or "")
    except SelectorError:
        return codes.SELECTOR_INVALID, True
    bits = codes.SELECTOR_INVALID if not selector else 0
    for other in given["other_hpa_selectors"]:
        text = other if isinstance(other, str) else ",".join(f"{key}={value}" for key, value in other.items())
        if selects(parse_selector(text), labels):
            bits |= codes.SELECTOR_SHARED
    return bits, selects(selector, labels)


def _add_answers(case: Case, metrics: Sequence[Json], samples: Json) -> None:
    for row, metric in enumerate(metrics):
        kind = metric["type"]
        if kind in ("Resource", "ContainerResource"):
            case.add_samples(row, samples.get("resource") or ())
        elif kind == "Pods":
            case.add_samples(row, samples.get("pods") or ())
        elif kind == "Object" and samples.get("object") is not None:
            case.add_values(row, [samples["object"]["value_m"]])
        elif kind == "External":
            case.add_values(row, [value["value_m"] for value in samples.get("external") or ()])


def _outcome(state: Any, metrics: Sequence[Json]) -> Json:
    conditions = [
        {
            "type": codes.CONDITION_TYPES[condition.type],
            "status": codes.STATUSES[condition.status],
            "reason": codes.REASONS[condition.reason],
        }
        for condition in state.conditions[: state.n_conditions]
    ]
    outcome: Json = {
        "scale_updated": bool(state.scale_updated),
        "conditions": conditions,
        "action": codes.ACTIONS[state.action],
        "error": codes.ERRORS[state.error],
        "metric_actions": {},
        "metric_errors": {},
    }
    for metric, result in zip(metrics, state.results[: state.n_results], strict=False):
        outcome["metric_actions"].setdefault(metric["type"], codes.ACTIONS[result.action])
        outcome["metric_errors"].setdefault(metric["type"], codes.ERRORS[result.error])
        if metric["type"] == "Resource" and metric["resource"] == "cpu" and result.failure == codes.COMPUTED:
            outcome.setdefault("cpu_utilization", int(result.reported))
    return outcome


KINDS: dict[str, Callable[[Json], Json]] = {
    "resource_utilization": resource_utilization,
    "pods_metric": pods_metric,
    "object_metric": series_value,
    "external_metric": series_value,
    "object_per_pod_metric": series_value,
    "external_per_pod_metric": series_value,
    "group_pods": pod_groups,
    "utilization_ratio": utilization_ratio,
    "usage_ratio": usage_ratio,
    "default_rules": rules_defaults,
    "rate_limit": policy_limit,
    "rate": rate,
    "store_event": event_log,
    "stabilization": stabilization,
    "legacy_stabilization": legacy_stabilization,
    "legacy_limits": legacy_limits,
    "reconcile": reconcile,
}
SETS = ("unready", "missing", "ignored")  # of expected; their order means nothing
