"""Plain values -> HPA record, with the API's words in snake case, its defaults and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim_core.controlplane.hpa_behavior import default_rules
from sim_core.controlplane.hpa_logs import place_logs
from sim_core.controlplane.hpa_records import (
    ALL_CONTAINERS,
    CPU,
    DOWN,
    HPA,
    MAX_POLICIES,
    METRIC_TYPES,
    NOT_SET,
    OTHER_RESOURCE,
    POLICY_TYPES,
    SELECT_POLICIES,
    TARGET_TYPES,
    UNKNOWN_METRIC,
    UP,
)
from sim_core.errors import InputError, nearest
from sim_core.limits import MAX_CONTAINERS, MAX_METRICS

DEFAULT_CPU_UTILIZATION_PCT = 80  # of an HPA without metrics
LONGEST_WINDOW_S = 3600.0  # the API's bound of stabilizationWindowSeconds; of the controller's window here too
LONGEST_PERIOD_S = 1800.0  # the API's bound of periodSeconds
_TARGET_FIELDS = {"Utilization": "average_utilization", "AverageValue": "average_value_m", "Value": "value_m"}


def hpa_record(
    *,
    max_replicas: int,
    min_replicas: int = 1,
    target_cpu_utilization_pct: int | None = None,
    metrics: Sequence[Mapping[str, Any]] | None = None,
    behavior: Mapping[str, Mapping[str, Any] | None] | None = None,
    containers: Sequence[str] = ("app",),
    tolerance: float = 0.1,
    tolerance_up: float | None = None,
    tolerance_down: float | None = None,
    cpu_initialization_period_s: float = 300.0,
    initial_readiness_delay_s: float = 30.0,
    downscale_stabilization_window_s: float = 300.0,
    scale_up_limit_factor: float = 2.0,
    scale_up_limit_minimum: float = 4.0,
    container_resource_metrics_enabled: bool = True,
    sync_period_s: float = 15.0,
) -> Any:
    """HPA record, a scalar of dtype HPA that can be assigned to a field of that type.

    It says how many rows its logs need, placed as those of the only autoscaler of a lane; see `place_logs` for more.

    Args:
        max_replicas: maxReplicas [pods].
        min_replicas: minReplicas [pods]; 0 is the feature gate HPAScaleToZero.
        target_cpu_utilization_pct: averageUtilization of one Resource metric on CPU [whole %]; instead of `metrics`.
        metrics: as `write_metric` reads them; none at all: CPU at 80 %.
        behavior: {"scale_up": rules or None, "scale_down": rules or None}, rules as `write_rules` reads them; None: the
            HPA has no behavior, and the older rules hold.
        containers: names of a pod's containers, in the order of POD.request_m.
        tolerance: of both directions [1]; `tolerance_up` and `tolerance_down` replace it in one.
        cpu_initialization_period_s: and all that follow: flags of kube-controller-manager, with their defaults.

    Raises:
        InputError: values out of the API's ranges, or more than the records hold; all problems at once.
    """
    problems: list[str] = []
    _check(problems, "min_replicas", min_replicas, 0, max_replicas)
    _check(problems, "max_replicas", max_replicas, 1, 2**31 - 1)
    _check(problems, "sync_period_s", sync_period_s, 1e-3, np.inf)
    _check(problems, "downscale_stabilization_window_s", downscale_stabilization_window_s, 0, LONGEST_WINDOW_S)
    if metrics and target_cpu_utilization_pct is not None:
        problems.append("metrics: must be left out beside target_cpu_utilization_pct")
    if not metrics:
        target = DEFAULT_CPU_UTILIZATION_PCT if target_cpu_utilization_pct is None else target_cpu_utilization_pct
        metrics = [_cpu_metric(target)]
    for index, metric in enumerate(metrics):
        _check_metric(problems, f"metrics.{index}", metric, containers)
    if len(metrics) > MAX_METRICS:
        problems.append(f"metrics: must be at most {MAX_METRICS} (got {len(metrics)})")
    for direction in behavior or ():
        if direction not in ("scale_up", "scale_down"):
            near = nearest(direction, ("scale_up", "scale_down"))
            problems.append(f"behavior.{direction}: unknown key{near}")
    for direction in ("scale_up", "scale_down"):
        _check_rules(problems, f"behavior.{direction}", (behavior or {}).get(direction))
    if problems:
        raise InputError("HorizontalPodAutoscaler", problems)

    record = np.zeros(1, HPA).view(np.recarray)[0]
    record.min_replicas, record.max_replicas = min_replicas, max_replicas
    record.n_metrics = len(metrics)
    for row, metric in zip(record.metrics, metrics, strict=False):
        write_metric(row, metric, containers)
    record.behavior_set = behavior is not None
    write_rules(record.scale_up, (behavior or {}).get("scale_up"), UP)
    write_rules(record.scale_down, (behavior or {}).get("scale_down"), DOWN)
    record.tolerance_up = tolerance if tolerance_up is None else tolerance_up
    record.tolerance_down = tolerance if tolerance_down is None else tolerance_down
    record.cpu_initialization_period_s = cpu_initialization_period_s
    record.initial_readiness_delay_s = initial_readiness_delay_s
    record.downscale_stabilization_window_s = downscale_stabilization_window_s
    record.scale_up_limit_factor = scale_up_limit_factor
    record.scale_up_limit_minimum = scale_up_limit_minimum
    record.container_resource_metrics_enabled = container_resource_metrics_enabled
    record.sync_period_s = sync_period_s
    place_logs([record])
    return record


def write_metric(record: Any, metric: Mapping[str, Any], containers: Sequence[str]) -> None:
    """Writes one metric into its METRIC record; nothing is checked here.

    Args:
        record: METRIC.
        metric: {"type": "Resource", "resource": "cpu", "target": {"type": "Utilization", "average_utilization": 60}}.
            Types: Resource, ContainerResource (with "container", a name), Pods, Object, External. Targets:
            average_utilization [whole %], average_value_m, value_m [milli-units].
        containers: names of a pod's containers, in the order of POD.request_m.

    Raises:
        ValueError: the container is not among the names.
    """
    target = metric.get("target") or {}
    target_type = target.get("type") or ""
    record.type = METRIC_TYPES.index(metric["type"]) if metric["type"] in METRIC_TYPES else UNKNOWN_METRIC
    record.resource = CPU if metric.get("resource") == "cpu" else OTHER_RESOURCE
    record.container = ALL_CONTAINERS
    if metric.get("container") is not None:
        record.container = list(containers).index(metric["container"])
    record.target_type = TARGET_TYPES.index(target_type)
    record.target = target[_TARGET_FIELDS[target_type]] if target_type else 0


def write_rules(record: Any, rules: Mapping[str, Any] | None, direction: int) -> None:
    """Writes scaling rules into their RULES record and fills what they leave open with the API's defaults.

    Args:
        record: RULES.
        rules: {"stabilization_window_s": 300, "select_policy": "Max", "policies": [{"type": "Pods", "value": 4,
            "period_s": 15}]}; None for a key, or for all: not set.
        direction: UP or DOWN.

    Raises:
        ValueError: more policies than the record holds, or an unknown word.
    """
    rules = rules or {}
    window_s, select, policies = (rules.get(key) for key in ("stabilization_window_s", "select_policy", "policies"))
    record.stabilization_window_s = NOT_SET if window_s is None else window_s
    record.select_policy = NOT_SET if select is None else SELECT_POLICIES.index(select)
    record.n_policies = NOT_SET if policies is None else len(policies)
    if policies is not None and len(policies) > MAX_POLICIES:
        raise ValueError(f"{len(policies)} policies; a record holds {MAX_POLICIES}")
    for row, policy in zip(record.policies, policies or (), strict=False):
        row.type = POLICY_TYPES.index(policy["type"])
        row.value = policy["value"]
        row.period_s = policy["period_s"]
    default_rules(record, direction)


def _cpu_metric(target_pct: int) -> dict[str, Any]:
    target = {"type": "Utilization", "average_utilization": target_pct}
    return {"type": "Resource", "resource": "cpu", "target": target}


def _check(problems: list[str], where: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        problems.append(f"{where}: must be between {lowest:g} and {highest:g} (got {value})")


def _check_metric(problems: list[str], where: str, metric: Mapping[str, Any], containers: Sequence[str]) -> None:
    kind, target = metric.get("type"), metric.get("target") or {}
    if kind not in METRIC_TYPES[1:]:
        problems.append(f"{where}.type: must be one of {', '.join(METRIC_TYPES[1:])} (got {kind!r})")
        return
    if kind in ("Resource", "ContainerResource"):
        allowed: tuple[str, ...] = ("Utilization", "AverageValue")
    else:
        allowed = ("AverageValue",) if kind == "Pods" else ("Value", "AverageValue")
    if target.get("type") not in allowed:
        problems.append(f"{where}.target.type: must be one of {', '.join(allowed)} (got {target.get('type')!r})")
    else:
        field = _TARGET_FIELDS[target["type"]]
        _check(problems, f"{where}.target.{field}", target.get(field, 0), 1, 2**63 - 1)
    if kind == "ContainerResource" and metric.get("container") not in containers:
        got = metric.get("container")
        near = nearest(str(got), containers)
        problems.append(f"{where}.container: must be one of {', '.join(containers)} (got {got!r}){near}")
    if len(containers) > MAX_CONTAINERS:
        problems.append(f"containers: must be at most {MAX_CONTAINERS} (got {len(containers)})")


def _check_rules(problems: list[str], where: str, rules: Mapping[str, Any] | None) -> None:
    for key in rules or ():
        known = ("stabilization_window_s", "select_policy", "policies")
        if key not in known:
            problems.append(f"{where}.{key}: unknown key{nearest(key, known)}")
    rules = rules or {}
    if rules.get("stabilization_window_s") is not None:
        window_s = rules["stabilization_window_s"]
        _check(problems, f"{where}.stabilization_window_s", window_s, 0, LONGEST_WINDOW_S)
    if rules.get("select_policy") not in (None, *SELECT_POLICIES):
        words = ", ".join(SELECT_POLICIES)
        problems.append(f"{where}.select_policy: must be one of {words} (got {rules['select_policy']!r})")
    policies = rules.get("policies")
    if policies is not None and not 1 <= len(policies) <= MAX_POLICIES:
        problems.append(f"{where}.policies: must be 1 to {MAX_POLICIES} (got {len(policies)})")
    for index, policy in enumerate(policies or ()):
        at = f"{where}.policies.{index}"
        if policy.get("type") not in POLICY_TYPES:
            problems.append(f"{at}.type: must be one of {', '.join(POLICY_TYPES)} (got {policy.get('type')!r})")
        _check(problems, f"{at}.value", policy.get("value", 0), 1, 2**31 - 1)
        _check(problems, f"{at}.period_s", policy.get("period_s", 0), 1, LONGEST_PERIOD_S)
