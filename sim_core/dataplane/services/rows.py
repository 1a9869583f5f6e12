"""Services of a profile as rows of tables: the only place that converts their units."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sim_core.controlplane.hpa_logs import place_logs
from sim_core.controlplane.hpa_manifest import hpa_record
from sim_core.controlplane.hpa_records import EVENT, RECOMMENDATION
from sim_core.controlplane.pods import POD
from sim_core.dataplane.services.flows import (
    BRANCH_FLOW,
    CALL_FLOW,
    CLASS_FLOW,
    ENDPOINT_FLOW,
    SERVICE_FLOW,
    STEP_FLOW,
)
from sim_core.dataplane.services.kinds import BRANCH, CPU, LATENCY_BUCKETS, MAX_RETRIES
from sim_core.dataplane.services.records import (
    ARRIVALS,
    CALL,
    CLASS_SUMS,
    ENDPOINT,
    REQUEST_CLASS,
    SERVICE,
    SERVICE_STATE,
    SERVICE_SUMS,
    STEP,
)
from sim_core.tables import Table

if TYPE_CHECKING:
    from sim_core.dataplane.services.graph import Graph
    from sim_core.dataplane.services.profile import ScalingRules, Service
    from sim_core.profile import Profile

LATENCY = np.dtype([("requests", np.float64, (LATENCY_BUCKETS,))])  # of a class, by latency

TABLES = (
    Table("services", "services", SERVICE),
    Table("order", "services", np.int64),  # row k: the service that is served k-th
    Table("service_states", "services", SERVICE_STATE, is_state=True),
    Table("service_flows", "services", SERVICE_FLOW, is_state=True),
    Table("service_windows", "services", SERVICE_SUMS, is_state=True),
    Table("service_totals", "services", SERVICE_SUMS, is_state=True),
    Table("pods", "pods", POD, is_state=True),
    Table("recommendations", "recommendations", RECOMMENDATION, is_state=True),
    Table("up_events", "up_events", EVENT, is_state=True),
    Table("down_events", "down_events", EVENT, is_state=True),
    Table("endpoints", "endpoints", ENDPOINT),
    Table("endpoint_order", "endpoints", np.int64),  # rows of endpoints, callers before callees
    Table("endpoint_flows", "endpoints", ENDPOINT_FLOW, is_state=True),
    Table("steps", "steps", STEP),
    Table("step_flows", "steps", STEP_FLOW, is_state=True),
    Table("branch_flows", "branches", BRANCH_FLOW, is_state=True),
    Table("calls", "calls", CALL),
    Table("call_flows", "calls", CALL_FLOW, is_state=True),
    Table("classes", "classes", REQUEST_CLASS),
    Table("arrivals", "classes", ARRIVALS, is_state=True),
    Table("class_flows", "classes", CLASS_FLOW, is_state=True),
    Table("class_windows", "classes", CLASS_SUMS, is_state=True),
    Table("class_totals", "classes", CLASS_SUMS, is_state=True),
    Table("latency", "classes", LATENCY, is_state=True),
    Table("shares", "shares", np.float64),
)


def rows(profile: Profile, graph: Graph, settings: tuple[tuple[str, object], ...] = ()) -> dict[str, np.ndarray | int]:
    """Rows of the parameter tables by name, and numbers of rows of the kinds that are state alone.

    Args:
        settings: of the autoscalers, instead of the profile's; see `hpa_of_service`.
    """
    services = np.zeros(len(profile.services), dtype=SERVICE)
    pods = 0
    for index, service in enumerate(profile.services):
        record = services[index]
        _write_service(record, profile, graph, service, index)
        record["hpa"] = hpa_of_service(profile, index, settings)
        record["pods_first"], record["n_pods"] = pods, pod_rows(service.replicas.max)
        pods += int(record["n_pods"])
    logs = place_logs(services["hpa"])
    endpoints, steps = _endpoints(graph), _steps(graph)
    for endpoint in endpoints:
        own = steps[endpoint["steps_first"] : endpoint["steps_first"] + endpoint["n_steps"]]
        cpu = own[own["kind"] == CPU]
        endpoint["cpu_s"] = (cpu["executions"] * cpu["mean_s"]).sum()
        spread = cpu["executions"] * cpu["scv"] + cpu["executions_variance"]
        endpoint["cpu_variance_s2"] = (spread * cpu["mean_s"] ** 2).sum()
    classes, shares = _classes(profile, graph)
    return {
        "services": services,
        "order": np.array(graph.order, dtype=np.int64),
        "pods": pods,
        **logs._asdict(),
        "endpoints": endpoints,
        "endpoint_order": np.array(graph.endpoint_order, dtype=np.int64),
        "steps": steps,
        "branches": int((steps["kind"] == BRANCH).sum()),
        "calls": _calls(graph),
        "classes": classes,
        "shares": shares,
    }


def pod_rows(max_replicas: int) -> int:
    """Rows for the pods of a service [pods]: half as many again for pods that end while others take their place."""
    return max_replicas + max(8, max_replicas // 2)


def _endpoints(graph: Graph) -> np.ndarray:
    records = np.zeros(len(graph.endpoints), dtype=ENDPOINT)
    for record, endpoint in zip(records, graph.endpoints, strict=True):
        record["service"] = endpoint.service
        record["steps_first"], record["n_steps"] = endpoint.steps_first, endpoint.n_steps
    return records


def _steps(graph: Graph) -> np.ndarray:
    records = np.zeros(len(graph.steps), dtype=STEP)
    for record, step in zip(records, graph.steps, strict=True):
        for name in ("kind", "endpoint", "parent", "end", "probability", "count", "mean_s", "scv", "target"):
            record[name] = getattr(step, name)
        whole = math.floor(step.count)
        rest = step.count - whole
        number = np.array([0.0, whole, whole + 1.0])
        share = np.array([1.0 - step.probability, step.probability * (1.0 - rest), step.probability * rest])
        mean = share @ number
        record["executions"] = mean
        record["executions_variance"] = share @ (number - mean) ** 2
        record["executions_third"] = share @ (number - mean) ** 3
    branches = records["kind"] == BRANCH
    records["target"][branches] = np.arange(branches.sum())
    return records


def _calls(graph: Graph) -> np.ndarray:
    records = np.zeros(len(graph.calls), dtype=CALL)
    for record, call in zip(records, graph.calls, strict=True):
        for name in ("step", "caller", "endpoint", "service", "pass_deadline"):
            record[name] = getattr(call, name)
        client = call.client
        record["timeout_s"] = client.timeout_seconds
        record["max_retries"] = client.max_retries
        record["backoff_s"] = [client.backoff_seconds * 2**attempt for attempt in range(MAX_RETRIES)]
        record["retry_budget_ratio"] = client.retry_budget_ratio
        for name in ("breaker_requests", "ejection_failures", "ejection_s", "ejection_share"):
            record[name] = getattr(call, name)
    return records


def _classes(profile: Profile, graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    records = np.zeros(len(graph.classes), dtype=REQUEST_CLASS)
    shares: list[float] = []
    for record, each in zip(records, graph.classes, strict=True):
        record["endpoint"] = each.endpoint
        record["shares_first"], record["n_shares"] = len(shares), len(each.shares)
        record["share_step_s"] = each.share_step_s
        record["latency_threshold_s"] = each.latency_threshold_s
        record["slo_objective"] = each.objective
        record["own_slo"] = each.own_slo
        shares.extend(each.shares)
    return records, np.array(shares)


def _write_service(record: Any, profile: Profile, graph: Graph, service: Service, index: int) -> None:
    container, life = service.container, service.lifecycle
    log_variance = math.log1p(life.startup_scv)
    price_per_h = (
        container.cpu_request_cores * profile.prices.usd_per_core_hour
        + container.memory_request_gib * profile.prices.usd_per_gib_hour
    )
    own = graph.services[index]
    values = {
        "index": index,
        "endpoints_first": own.endpoints_first,
        "n_endpoints": own.n_endpoints,
        "balancing": own.balancing,
        "balancer_nodes": own.balancer_nodes,
        "slow_start_s": own.slow_start_s,
        "sticky_share": own.sticky_share,
        "sharing": own.sharing,
        "quota_period_s": own.quota_period_s,
        "min_replicas": service.replicas.min,
        "max_replicas": service.replicas.max,
        "cores": container.cpu_limit_cores,
        "request_cores": container.cpu_request_cores,
        "workers": container.workers,
        "queue_limit": container.queue_limit,
        "scheduling_s": life.scheduling_seconds,
        "image_pull_s": life.image_pull_seconds,
        "startup_log_mean": math.log(max(life.startup_seconds, 1e-9)) - 0.5 * log_variance,
        "startup_log_sd": math.sqrt(log_variance),
        "startup_cores": life.startup_cpu_cores,
        "readiness_delay_s": life.readiness.initial_delay_seconds,
        "readiness_period_s": life.readiness.period_seconds,
        "cold_s": life.cold_seconds,
        "cold_factor": life.cold_factor,
        "termination_s": life.termination_seconds,
        "cpu_s": graph.cpu_seconds_per_request[index] / max(graph.visits[index], 1e-12),
        "cpu_s_per_request": graph.cpu_seconds_per_request[index],
        "timeout_s": _mean_timeout_s(graph, index),
        "usd_per_pod_s": price_per_h / 3600.0,
    }
    for name, value in values.items():
        record[name] = value


def _mean_timeout_s(graph: Graph, service: int) -> float:
    """Timeout of those who call a service, each by its calls; of one whom nobody calls, none."""
    weights, timeouts = [], []
    for call in graph.calls:
        if call.service == service:
            step = graph.steps[call.step]
            weights.append(graph.endpoint_visits[call.caller] * step.probability * step.count)
            timeouts.append(call.client.timeout_seconds)
    return float(np.average(timeouts, weights=weights)) if sum(weights) > 0.0 else math.inf


@lru_cache(maxsize=4096)
def hpa_of_service(profile: Profile, index: int, settings: tuple[tuple[str, object], ...]) -> np.void:
    """HPA record of a service: its autoscaler, the controller's flags, and settings that replace some of them.

    Args:
        settings: pairs of a name in HPA_SETTINGS and its value.

    Raises:
        InputError: a value is outside the API's range.
    """
    service, controller = profile.services[index], profile.controller
    values = dict(settings)
    behavior: dict[str, dict[str, object] | None] | None = None
    if service.autoscaler.behavior is not None:
        behavior = {
            direction: _rules(getattr(service.autoscaler.behavior, direction))
            for direction in ("scale_up", "scale_down")
        }
    for name, direction in (
        ("scale_up_stabilization_window_seconds", "scale_up"),
        ("scale_down_stabilization_window_seconds", "scale_down"),
    ):
        if name in values:
            behavior = behavior or {"scale_up": None, "scale_down": None}
            behavior[direction] = {**(behavior[direction] or {}), "stabilization_window_s": values[name]}
    for direction in ("scale_up", "scale_down"):
        paces = [
            {"type": kind, "value": values[name], "period_s": 60}
            for kind in ("Percent", "Pods")
            if (name := f"{direction}_{kind.lower()}_per_minute") in values
        ]
        if paces:
            behavior = behavior or {"scale_up": None, "scale_down": None}
            behavior[direction] = {**(behavior[direction] or {}), "policies": paces}
    return hpa_record(
        min_replicas=int(values.get("min_replicas", service.replicas.min)),  # type: ignore[call-overload]
        max_replicas=service.replicas.max,
        target_cpu_utilization_pct=int(
            values.get("target_cpu_utilization_pct", service.autoscaler.target_cpu_utilization_pct)  # type: ignore[call-overload]
        ),
        behavior=behavior,
        tolerance=float(values.get("tolerance", controller.tolerance)),  # type: ignore[arg-type]
        cpu_initialization_period_s=controller.cpu_initialization_period_seconds,
        initial_readiness_delay_s=controller.initial_readiness_delay_seconds,
        downscale_stabilization_window_s=controller.downscale_stabilization_window_seconds,
        sync_period_s=controller.sync_period_seconds,
    )


def _rules(rules: ScalingRules | None) -> dict[str, object] | None:
    if rules is None:
        return None
    policies = rules.policies and [
        {"type": policy.type, "value": policy.value, "period_s": policy.period_seconds} for policy in rules.policies
    ]
    return {
        "stabilization_window_s": rules.stabilization_window_seconds,
        "select_policy": rules.select_policy,
        "policies": policies,
    }
