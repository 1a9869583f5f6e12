"""Indicators of a lane: SLIs, cost and use, from what its tables have summed up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sim_core.assembly import modules
from sim_core.dataplane.services.kinds import LATENCY_BUCKETS, LATENCY_MAX_S, LATENCY_MIN_S
from sim_core.indicators import CLASS_INDICATORS, COST_PARTS, FIXED_COST_PARTS, INDICATORS, MONTH_S, SERVICE_INDICATORS

if TYPE_CHECKING:
    import pandas as pd

    from sim_core.simulation import Worlds


def _frame(columns: Mapping[str, object]) -> pd.DataFrame:
    import pandas as pd  # half a second and 60 MB, for who plays without asking what came out

    return pd.DataFrame(columns)


def per_lane(worlds: Worlds, kind: str, values: np.ndarray) -> np.ndarray:
    """Sums over the rows of each lane: values of shape (n_rows, ...) become (n_lanes, ...)."""
    numbers = worlds.params[f"n_{kind}"]
    sums = np.zeros((len(worlds), *values.shape[1:]))
    np.add.at(sums, np.repeat(np.arange(len(worlds)), numbers), values[: int(numbers.sum())])
    return sums


def indicators(worlds: Worlds) -> pd.DataFrame:
    """One row a lane, columns INDICATORS; NaN where a lane saw nothing that the indicator divides by.

    `cost_usd` is exactly the sum of COST_PARTS, and `cost_fixed_usd` that of FIXED_COST_PARTS. `cost_usd_per_month` is
    what 30 days would cost at this rate. `cost_usd_per_million_requests` counts good requests only: a policy that fails
    most requests is not cheap.
    """
    account, sums = worlds.state["account"], lane_sums(worlds)
    cost = costs(worlds)
    seconds = _nan_if_zero(account["seconds"])
    columns = {
        **request_figures(sums, sliced=worlds.engines is None),
        "throughput_per_s": (sums["requests"] - np.minimum(sums["failed"], sums["requests"])) / seconds,
        "error_budget_left": error_budget_left(sums, worlds.params["slo_objective"]),
        **cost,
        "cost_usd_per_month": cost["cost_usd"] / seconds * MONTH_S,
        "cost_usd_per_million_requests": cost["cost_usd"] / _nan_if_zero(sums["good"]) * 1e6,
        "replica_hours": account["pod_s"] / 3600.0,
        "scale_events": account["scale_events"],
        "utilization_mean": sums["cpu_core_s"] / _nan_if_zero(sums["request_core_s"]),
    }
    for module in modules("accounts"):
        columns |= module.indicators(worlds)
    assert set(columns) == set(INDICATORS)  # each is in the table, and none is forgotten here
    return _frame({name: columns[name] for name in INDICATORS})


def lane_sums(worlds: Worlds) -> dict[str, np.ndarray]:
    """What became of requests and what services used since the start, by lane; `latency` is the histogram."""
    tables = worlds.tables
    sums = {name: per_lane(worlds, "classes", values) for name, values in class_sums(worlds).items()}
    sums["latency"] = per_lane(worlds, "classes", tables.latency["requests"])
    services = service_sums(worlds)
    for name in ("cpu_core_s", "request_core_s"):
        sums[name] = per_lane(worlds, "services", services[name])
    return sums


def class_sums(worlds: Worlds) -> dict[str, np.ndarray]:
    """What became of the requests of each class since the start, by field of CLASS_SUMS, each of shape (n_rows,)."""
    totals, windows = worlds.tables.class_totals, worlds.tables.class_windows
    return {name: totals[name] + windows[name] for name in totals.dtype.names or ()}


def request_figures(sums: Mapping[str, np.ndarray], good: str = "good", sliced: bool = False) -> dict[str, np.ndarray]:
    """SLIs of requests: of lanes, or of classes.

    Args:
        sums: fields of CLASS_SUMS, and `latency`, shape (n, LATENCY_BUCKETS).
        good: the field that counts the good ones.
        sliced: see `latency_percentiles`.
    """
    requests = _nan_if_zero(sums["requests"])
    failed = np.minimum(sums["failed"], sums["requests"])
    percentiles = latency_percentiles(sums["latency"], np.array([0.50, 0.95, 0.99]), sliced)
    return {
        "slo_attainment": sums[good] / requests,
        "availability": 1.0 - failed / requests,
        "error_ratio": failed / requests,
        "latency_mean_s": sums["latency_s"] / _nan_if_zero(sums["latency_weight"]),
        "latency_p50_s": percentiles[:, 0],
        "latency_p95_s": percentiles[:, 1],
        "latency_p99_s": percentiles[:, 2],
    }


def error_budget_left(sums: Mapping[str, np.ndarray], objective: np.ndarray, good: str = "good") -> np.ndarray:
    """The share of the error budget that is not spent [1]; negative: more than all."""
    return 1.0 - (1.0 - sums[good] / _nan_if_zero(sums["requests"])) / (1.0 - objective)


def costs(worlds: Worlds) -> dict[str, np.ndarray]:
    """What each lane has cost so far and its parts, by indicator, each of shape (n_lanes,) [USD]."""
    seconds = worlds.state["account"]["seconds"]
    usd_per_s = {"load_balancer": worlds.params["load_balancer_usd_per_s"]}
    for module in modules("accounts"):
        usd_per_s |= module.usd_per_s(worlds)
    parts = {f"cost_{what}_usd": price * seconds for what, price in usd_per_s.items()}
    parts["cost_fixed_usd"] = sum(parts[name] for name in FIXED_COST_PARTS)
    parts["cost_pods_usd"] = worlds.state["account"]["pods_usd"].copy()
    return {"cost_usd": sum(parts[name] for name in COST_PARTS), **parts}


def _nan_if_zero(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0.0, values, np.nan)


def latency_percentiles(histogram: np.ndarray, probabilities: np.ndarray, sliced: bool = False) -> np.ndarray:
    """Percentiles [s], shape (n, n_probabilities), of `histogram` (n, LATENCY_BUCKETS).

    Args:
        sliced: each bucket holds whole slices of a distribution, at their middles, as the fluid engine books them: between
            these it is log-linear. Else a bucket holds single requests, and it is log-linear within a bucket.
    """
    edges = np.linspace(np.log(LATENCY_MIN_S), np.log(LATENCY_MAX_S), LATENCY_BUCKETS + 1)
    result = np.full((len(histogram), len(probabilities)), np.nan)
    for row, counts in enumerate(histogram):
        total = counts.sum()
        if not total > 0.0:
            continue
        cumulative = np.concatenate([[0.0], np.cumsum(counts)]) / total
        if sliced:
            there = np.flatnonzero(counts > 0.0)
            middles, places = 0.5 * (cumulative[1:] + cumulative[:-1]), 0.5 * (edges[1:] + edges[:-1])
            result[row] = np.exp(np.interp(probabilities, middles[there], places[there]))
        else:
            result[row] = np.exp(np.interp(probabilities, cumulative, edges))
    return result


def service_sums(worlds: Worlds) -> dict[str, np.ndarray]:
    """What each service did since the start, by field of SERVICE_SUMS and `pod_s`, each of shape (n_rows,)."""
    totals, windows = worlds.tables.service_totals, worlds.tables.service_windows
    sums = {name: totals[name] + windows[name] for name in totals.dtype.names or ()}
    return sums | {"pod_s": worlds.tables.service_states["pod_s"].copy()}


def service_figures(sums: Mapping[str, np.ndarray], seconds: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of services over a stretch of time, by SERVICE_INDICATORS; NaN where a service saw nothing to divide by.

    Args:
        sums: of the stretch, as `service_sums` has them, each of the same shape.
        seconds: length of the stretch, of a shape that broadcasts against it [s].
    """
    calls = _nan_if_zero(sums["calls"])
    return {
        "calls": sums["calls"],
        "utilization": sums["cpu_core_s"] / _nan_if_zero(sums["request_core_s"]),
        "latency_mean_s": sums["latency_s"] / calls,
        "error_ratio": sums["failed"] / calls,
        "queue_len": sums["queue_s"] / _nan_if_zero(seconds),
        "replica_hours": sums["pod_s"] / 3600.0,
    }


def offered(worlds: Worlds, sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """Work of the calls over what the ready pods serve, of each service, shape (n_rows,) [1]; NaN where nobody called.

    Their CPU time over the CPU limit, or the time that they hold workers where nothing waits over the workers, whichever is
    more. Retries are calls; infinite where no pod was ready.
    """
    from sim_core.dataplane.services.graph import resolve

    held_s = []
    for lane in worlds.lanes:
        graph = resolve(lane.profile)
        calls, in_all_s = np.zeros((2, len(graph.services)))
        for endpoint, visits, idle_s in zip(graph.endpoints, graph.endpoint_visits, graph.idle_s, strict=True):
            if endpoint.service >= 0:  # else the load balancer
                calls[endpoint.service] += visits
                in_all_s[endpoint.service] += visits * idle_s
        held_s.append(in_all_s / np.maximum(calls, 1e-300))
    services = worlds.tables.services
    ready_s = sums["request_core_s"] / services["request_cores"]
    work = np.maximum(services["cpu_s"] / services["cores"], np.concatenate(held_s) / services["workers"])
    with np.errstate(divide="ignore"):
        return np.where(sums["calls"] > 0.0, sums["calls"] * work / np.where(sums["calls"] > 0.0, ready_s, 1.0), np.nan)


def service_indicators(worlds: Worlds) -> pd.DataFrame:
    """One row a lane and service: `lane` (its index), `service`, and SERVICE_INDICATORS.

    Calls count retries, and errors calls that failed at an attempt: a request may still succeed. Latency is that of a
    call, with all that it waits for.
    """
    lane = np.repeat(np.arange(len(worlds)), worlds.params["n_services"])
    sums = service_sums(worlds)
    figures = service_figures(sums, worlds.state["account"]["seconds"][lane]) | {"offered_load": offered(worlds, sums)}
    names = [service.name for each in worlds.lanes for service in each.profile.services]
    return _frame({"lane": lane, "service": names} | {name: figures[name] for name in SERVICE_INDICATORS})


def class_indicators(worlds: Worlds) -> pd.DataFrame:
    """One row a lane and class of requests: `lane` (its index), `request_class`, and CLASS_INDICATORS.

    A request is good here when it keeps the SLO of its class.
    """
    from sim_core.dataplane.services.graph import resolve

    lane = np.repeat(np.arange(len(worlds)), worlds.params["n_classes"])
    sums = class_sums(worlds) | {"latency": worlds.tables.latency["requests"]}
    figures = request_figures(sums, "good_own", worlds.engines is None) | {
        "requests": sums["requests"],
        "error_budget_left": error_budget_left(sums, worlds.tables.classes["slo_objective"], "good_own"),
    }
    names = [each.name for one in worlds.lanes for each in resolve(one.profile).classes]
    return _frame({"lane": lane, "request_class": names} | {name: figures[name] for name in CLASS_INDICATORS})
