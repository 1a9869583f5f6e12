"""Any valid profile under any load: every number is finite and in its range, and nothing is lost or made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from sim_core.limits import MAX_PODS
from sim_core.simulation import Worlds
from sim_core.workload import Trace
from sim_core.world import Lane, Scaler
from tests.conftest import scrapes
from tests.generated import Play, capacity_per_s, plays

SHARES = ("slo_attainment", "availability", "error_ratio", "cache_hit_ratio")
MAY_BE_NAN = {  # where there is nothing to divide by
    "requests": (
        "slo_attainment",
        "availability",
        "error_ratio",
        "error_budget_left",
    ),
    "good": ("cost_usd_per_million_requests",),
    "latency_weight": ("latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s"),
    "lookups": ("cache_hit_ratio",),
}


def broken_promises(play: Play) -> list[str]:
    """What a play breaks of what every play must keep; empty if all is well."""
    worlds = Worlds([play.lane])
    worlds.advance(play.n_ticks)
    return [*_account_broken(worlds), *_indicators_broken(worlds), *_scrapes_broken(worlds), *_services_broken(worlds)]


def _fields(record: np.ndarray, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every number of a record, those of records within it too."""
    for name in record.dtype.names:
        values = record[name]
        yield from _fields(values, f"{prefix}{name}.") if values.dtype.names else [(f"{prefix}{name}", values)]


def _account_broken(worlds: Worlds) -> Iterator[str]:
    account = worlds.state["account"][0]
    for name, values in _fields(account):
        if not (np.isfinite(values).all() and (values >= 0.0).all()):
            yield f"account.{name} {values}"
    slack = 1e-9 * float(account["requests"])
    profile, states = worlds.lanes[0].profile, worlds.state["services"][0]
    coming_back = sum(
        states["retries"][i].sum() / max(1.0, s.calls_per_request) for i, s in enumerate(profile.services)
    )
    if account["good"] + account["failed"] + coming_back > account["requests"] + slack:
        yield f"good {account['good']} + failed {account['failed']} + {coming_back} > requests {account['requests']}"
    if abs(account["latency"].sum() - account["latency_weight"]) > slack:
        yield "the histogram does not hold every answered request"
    if account["hits"] > account["lookups"] * (1 + 1e-9):
        yield "more hits than lookups"


def _indicators_broken(worlds: Worlds) -> Iterator[str]:
    account, row = worlds.state["account"][0], worlds.indicators().iloc[0]
    nan = {name for divisor, names in MAY_BE_NAN.items() if account[divisor] == 0.0 for name in names}
    for name, value in row.items():
        if (not np.isfinite(value) and name not in nan) or (name != "error_budget_left" and value < 0.0):
            yield f"{name} {value}"
    for name in SHARES:
        if row[name] > 1.0 + 1e-9:
            yield f"{name} {row[name]}"


def _scrapes_broken(worlds: Worlds) -> Iterator[str]:
    n_services = worlds.n_services
    seen = scrapes(worlds)
    services = seen["services"][:, :n_services]
    for where, table in (("scrape", seen), ("scrape.services", services)):
        for name in table.dtype.names:
            if name != "services" and not (np.isfinite(table[name]).all() and (table[name] >= 0.0).all()):
                yield f"{where}.{name} {table[name][~(table[name] >= 0)][:4]}"
            if name.endswith("_ratio") and name != "connection_ratio" and (table[name] > 1.0 + 1e-9).any():
                yield f"{where}.{name} {table[name].max()}"
    if (seen["good_ratio"] > 1.0 + 1e-9).any() or (seen["database_utilization"] > 1.0 + 1e-9).any():
        yield "a share above 1"


def _services_broken(worlds: Worlds) -> Iterator[str]:
    profile = worlds.lanes[0].profile
    for i, service in enumerate(profile.services):
        state = worlds.state["services"][0, i]
        for name in ("queue_len", "backend_s", "backend_variance_s2", "retries_waiting", "ready_cpu_core_s", "retries"):
            if not (np.isfinite(state[name]).all() and (state[name] >= 0.0).all()):
                yield f"services.{name} {state[name][~(state[name] >= 0.0)][:4]}"
        limits = service.replicas
        if not limits.min <= state["desired_replicas"] <= limits.max:
            yield f"desired replicas {state['desired_replicas']}"
        if state["n_active"] > limits.max or state["n_pods"] > MAX_PODS or state["n_ready"] > state["n_active"]:
            yield f"replicas {state['n_active']}, pods {state['n_pods']}"
        container = service.container
        most = state["n_pods"] * (container.workers + container.queue_limit)
        if state["queue_len"] > max(most, 0.0) * (1 + 1e-9):
            yield f"queue {state['queue_len']} in {most} places"
        seen = scrapes(worlds)["services"][:, i]
        cpu = container.cpu_limit_cores / container.cpu_request_cores
        if (seen["utilization"] > cpu * (1 + 1e-9)).any():
            yield f"utilization {seen['utilization'].max()} of {cpu}"


def lone(play: Play, stores: bool = True) -> Play:
    """The play of its first service alone, from warm pods whose number is fixed, in one scrape interval."""
    lane, tick_s = play.lane, play.lane.profile.tick_seconds
    n_ticks = min(play.n_ticks, int(600.0 / tick_s) - 1)
    first = lane.profile.services[0].model_dump(mode="json")
    first["calls_per_request"] = min(1.0, first["calls_per_request"])
    telemetry = {"scrape_interval_seconds": (n_ticks + 1) * tick_s, "delay_seconds": 0.0}
    changes: dict[str, Any] = {"services": [first], "telemetry": telemetry}
    if not stores:
        first["queries"] = {}
        changes |= {"database": None, "cache": None}
    profile, scaler = lane.profile.with_overrides(changes), Scaler.static(max(1, first["replicas"]["max"] // 2))
    rates = np.array(play.load) * capacity_per_s(profile, scaler)
    return Play(
        Lane(profile, Trace("lone", n_ticks * tick_s / len(rates), rates), lane.seed, 0.0, scaler), n_ticks, play.load
    )


def unbalanced(play: Play) -> list[str]:
    """Which sums of a lone service do not agree: calls made, answered, failed, under way; work taken on and done."""
    worlds = Worlds([play.lane])
    worlds.advance(play.n_ticks)
    service, state = play.lane.profile.services[0], worlds.state["services"][0, 0]
    account, window = worlds.state["account"][0], worlds.state["window"]["services"][0, 0]
    offered, lost = float(window["calls"]), float(window["failed"])
    new = float(account["requests"]) * service.calls_per_request
    ends = (offered - lost) + float(account["failed"]) + float(state["retries"].sum())
    done = float(window["cpu_core_s"]) / service.container.cpu_seconds_per_request
    work = done + float(state["queue_len"]) + float(state["unserved"])
    slack = 1e-9 * max(1.0, offered)
    found = []
    if abs(ends - new) > slack:
        found.append(f"{new} calls, {ends} answered, failed or to be retried")
    if not offered - lost - slack <= work <= offered + slack:
        found.append(f"{offered} calls, {lost} lost, {work} worked on or waiting")
    return found


def idle_under_overload(play: Play) -> str:
    """What a lone service without stores does in a play that always asks too much of it, if less than it must.

    It is busy for rho / (1 + rho) of the time at least, as the least of stations is (one server, no waiting room), but
    for chance in the arrivals.
    """
    profile, scaler = play.lane.profile, play.lane.scaler
    container = profile.services[0].container
    cpu_s, io_s = container.cpu_seconds_per_request, container.io_seconds_per_request
    pod_per_s = min(container.cpu_limit_cores / cpu_s, container.workers / (cpu_s + io_s))
    pods = min(max(scaler.replicas, profile.services[0].replicas.min), profile.services[0].replicas.max)
    most = pod_per_s * pods * play.n_ticks * profile.tick_seconds
    rho = min(play.load) * container.cpu_limit_cores / cpu_s / pod_per_s
    least = rho / (1.0 + rho) - 4.0 * np.sqrt(max(play.load) * container.cpu_limit_cores / cpu_s / pod_per_s / most)
    assume(least > 0.5)  # else there are too few arrivals to tell
    worlds = Worlds([play.lane])
    worlds.advance(play.n_ticks)
    done = float(worlds.state["window"]["services"][0, 0]["cpu_core_s"]) / cpu_s
    return "" if done >= least * most else f"{done} of {most} calls done, at least {least:.3f} of them expected"


_SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]
suite = settings(max_examples=100, suppress_health_check=_SLOW)
night = settings(max_examples=2000, suppress_health_check=_SLOW, derandomize=False)


def check_account(play: Play) -> None:
    assert broken_promises(play) == []


def check_balance(play: Play) -> None:
    assert unbalanced(lone(play)) == []


def check_busy(play: Play) -> None:
    assert idle_under_overload(lone(play, stores=False)) == ""


@suite
@given(play=plays())
def test_no_valid_profile_breaks_the_account(play: Play):
    """Every indicator and every scrape is finite and in its range, and no request counts twice, at up to 50 times the
    capacity."""
    check_account(play)


@suite
@given(play=plays())
def test_every_call_is_answered_fails_or_is_under_way(play: Play):
    """To 1e-9, for one service whose calls are its requests; and pods work on what they took on, no more and no less."""
    check_balance(play)


@suite
@given(play=plays(least=2.0))
def test_a_service_under_overload_is_busy(play: Play):
    check_busy(play)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("check", "least"),
    [(check_account, 0.0), (check_balance, 0.0), (check_busy, 2.0)],
    ids=["account", "balance", "busy"],
)
def test_two_thousand_profiles_of_the_night_keep_every_promise(check: Callable[[Play], None], least: float):
    """The three properties above over 2,000 other profiles each, drawn anew every night."""
    night(given(play=plays(least=least))(check))()
