"""Kernels of the fluid engine one by one, on rows made by hand: every figure here can be checked on paper.

Whole worlds cannot tell which of their many parts a small error is in, and hide those that cancel each other.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from sim_core.dataplane.known import known_stations
from sim_core.dataplane.queueing import share_within, take_shape, third_cumulant_factor
from sim_core.dataplane.services import fluid
from sim_core.dataplane.services.flows import BRANCH_FLOW, CALL_FLOW, ENDPOINT_FLOW, SERVICE_FLOW, STEP_FLOW
from sim_core.dataplane.services.kinds import (
    BRANCH,
    CALL_STEP,
    CPU,
    NO_PARENT,
    PARALLEL,
    READ,
    RETRY_SLOTS,
    WAIT,
)
from sim_core.dataplane.services.records import CALL, ENDPOINT, FIFO, SERVICE, SERVICE_STATE, SERVICE_SUMS, STEP
from sim_core.dataplane.station import CUT, LOAD, SHAPE, STATION_STATE
from tests.handmade import CUMULANTS, cumulants, python, row, rows, seen, summed

# --- Retries


def test_retries_that_are_due_leave_the_ring_and_join_their_endpoint():
    """Those of this tick's slot alone, by attempt; the ring has as many slots as it has and begins anew."""
    for tick in (5, 5 + RETRY_SLOTS):
        flow, endpoint = row(CALL_FLOW, retries_waiting=10.0), row(ENDPOINT_FLOW, flow=100.0, expected=90.0)
        flow.retries[5], flow.retries[6] = (1.0, 2.0, 3.0), 7.0
        fluid.take_due_retries(flow, endpoint, tick)
        assert flow.due.tolist() == [1.0, 2.0, 3.0]
        assert flow.retries[5].tolist() == [0.0, 0.0, 0.0] and flow.retries[6].tolist() == [7.0] * 3
        assert (flow.retries_waiting, endpoint.flow, endpoint.expected) == (4.0, 106.0, 96.0)
        flow.retries[5, 0] = 4.5  # by rounding more than all there are
        fluid.take_due_retries(flow, endpoint, tick)
        assert flow.retries_waiting == 0.0


def a_call(**values: Any) -> Any:
    return row(
        CALL, **{"max_retries": 2, "retry_budget_ratio": 0.05, "backoff_s": [2.0, 4.0, 8.0], "timeout_s": 3.0} | values
    )


def test_lost_calls_come_back_after_backoff_and_timeout_as_far_as_the_budget_goes():
    """10 of 100 are lost, 80 of them first attempts: the budget of 5 % of these admits 4 of the 10. Ticks of half a second:
    refused ones come back after 2 or 4 s, those that timed out 3 s later."""
    flow = row(CALL_FLOW, new_calls=80.0, due=[20.0, 0.0, 0.0], retries_waiting=1.0)
    failed = fluid.schedule_retries(a_call(), flow, 60, 0.5, 10.0, 100.0, 0.4, 0.0, 0.0, 0.0)
    assert failed == pytest.approx(6.0)
    assert flow.retries_waiting == pytest.approx(5.0)
    expected = np.zeros_like(flow.retries)
    for ticks, attempt, calls in ((4, 0, 3.2 * 0.6), (10, 0, 3.2 * 0.4), (8, 1, 0.8 * 0.6), (14, 1, 0.8 * 0.4)):
        expected[(60 + ticks) % RETRY_SLOTS, attempt] = calls
    np.testing.assert_allclose(flow.retries, expected)


def test_every_attempt_but_the_last_is_tried_again_where_the_budget_allows():
    """Of new calls, first and second retries a tenth each; third retries fail for good."""
    flow = row(CALL_FLOW, new_calls=50.0, due=[20.0, 20.0, 10.0])
    call = a_call(max_retries=3, retry_budget_ratio=1.0)
    failed = fluid.schedule_retries(call, flow, 0, 1.0, 10.0, 100.0, 0.0, 0.0, 0.0, 0.0)
    assert failed == pytest.approx(1.0)
    assert [flow.retries[at, attempt] for attempt, at in enumerate((2, 4, 8))] == pytest.approx([5.0, 2.0, 2.0])
    assert flow.retries.sum() == pytest.approx(9.0)


@pytest.mark.parametrize(("backoff_s", "ticks"), [(0.0, 1), (0.6, 1), (0.7, 1), (0.8, 2), (1.2, 2), (1.3, 3)])
def test_a_backoff_is_rounded_to_whole_ticks_and_is_at_least_one(backoff_s: float, ticks: int):
    flow = row(CALL_FLOW, new_calls=10.0)
    call = a_call(max_retries=1, retry_budget_ratio=1.0, backoff_s=[backoff_s, 9.0, 9.0], timeout_s=0.0)
    for timeout_share in (0.0, 1.0):
        flow.retries[:] = 0.0
        assert fluid.schedule_retries(call, flow, 0, 0.5, 0.5, 10.0, timeout_share, 0.0, 0.0, 0.0) == 0.0
        assert flow.retries[ticks, 0] == pytest.approx(0.5)


@pytest.mark.parametrize("changes", [{"max_retries": 0}, {"retry_budget_ratio": 0.0}])
def test_without_attempts_or_budget_lost_calls_fail_for_good(changes: dict[str, Any]):
    flow = row(CALL_FLOW, new_calls=80.0, due=[20.0, 0.0, 0.0])
    assert fluid.schedule_retries(a_call(**changes), flow, 0, 1.0, 10.0, 100.0, 0.5, 0.0, 0.0, 0.0) == 10.0
    assert not flow.retries.any() and flow.retries_waiting == 0.0


def test_lost_calls_are_counted_as_failed_attempts_and_those_for_good_against_what_is_over():
    """Of 100 attempts 90 are answered, 4 time out, 4 of the 10 are tried again: 6 of the 96 that are over failed."""
    flow, window = row(CALL_FLOW, new_calls=80.0, due=[20.0, 0.0, 0.0]), row(SERVICE_SUMS, failed=3.0)
    again = fluid.count_lost_calls(a_call(), flow, window, 100.0, 0.9, 0.04, 0.0, 0.0, 0.0, 60, 0.5)
    assert again == pytest.approx(4.0 / 80.0)
    assert window.failed == pytest.approx(13.0)
    assert flow.failed_share == pytest.approx(6.0 / 96.0)
    assert flow.retries[6, 0] == pytest.approx(3.2 * 0.4)  # timed out


def test_a_loss_of_next_to_nothing_is_none():
    flow, window = row(CALL_FLOW, new_calls=1.0), row(SERVICE_SUMS)
    assert fluid.count_lost_calls(a_call(), flow, window, 1.0, 1.0 - 1e-13, 0.0, 0.0, 0.0, 0.0, 0, 1.0) == 0.0
    assert window.failed == flow.failed_share == 0.0
    assert fluid.count_lost_calls(a_call(), flow, window, 1.0, 1.0 - 1e-11, 0.0, 0.0, 0.0, 0.0, 0, 1.0) > 0.0
    assert window.failed == pytest.approx(1e-11, rel=1e-3)


def test_when_all_is_lost_and_only_retries_came_the_share_that_failed_is_one():
    """No first attempts: no budget, and no retries over first attempts to speak of."""
    flow, window = row(CALL_FLOW, due=[0.0, 5.0, 0.0]), row(SERVICE_SUMS)
    assert fluid.count_lost_calls(a_call(), flow, window, 5.0, 0.0, 1.5, 0.0, 0.0, 0.0, 0, 1.0) == 0.0
    assert flow.failed_share == 1.0


@pytest.mark.parametrize("kept", [0.2, 0.6])
def test_retries_that_meet_what_their_first_attempt_met_are_lost_more_often(kept: float):
    """A tenth is lost; retries, by a correlation of `kept`, 0.1 + 0.9 `kept`; as many losses in all. No budget binds."""
    call = a_call(max_retries=3, retry_budget_ratio=50.0)
    flow = row(CALL_FLOW, new_calls=80.0, due=[6.0, 2.0, 0.0])
    failed = fluid.schedule_retries(call, flow, 0, 1.0, 8.8, 88.0, 1.0, 1.0, kept, 0.0)
    again = 0.1 + 0.9 * kept
    sent = flow.retries.sum(axis=0)
    assert sent[1] / 6.0 == pytest.approx(sent[2] / 2.0, rel=1e-9)
    if 8.0 * again < 8.8:
        assert sent[1] / sent[0] == pytest.approx(6.0 * again / (8.8 - 8.0 * again))
    assert failed + sent.sum() == pytest.approx(8.8)


def test_retries_that_only_keep_others_out_fail():
    """As many of the admitted ones as meet the same again, and are displaced or displace."""
    sent = []
    for displaced in (0.0, 0.5):
        flow = row(CALL_FLOW, new_calls=80.0, due=[20.0, 0.0, 0.0])
        call = a_call(retry_budget_ratio=1.0)
        failed = fluid.schedule_retries(call, flow, 0, 1.0, 10.0, 100.0, 1.0, 0.5, 0.4, displaced)
        sent.append(flow.retries.sum())
        assert failed + sent[-1] == pytest.approx(10.0)
    assert sent[1] / sent[0] == pytest.approx(1.0 - 0.5 * 0.4 * 0.9 * 0.5)


@pytest.mark.parametrize("share", [0.002, 0.03, 0.3, 0.5, 0.9])
def test_whether_a_line_is_among_the_longest_goes_with_its_length_as_in_an_exponential_distribution(share: float):
    few = min(share, 1.0 - share)
    lines = -np.log1p(-(np.arange(200_000) + 0.5) / 200_000)
    longest = lines > -math.log(few)
    assert fluid.alike(share) == pytest.approx(np.corrcoef(lines, longest)[0, 1], rel=2e-3)
    assert fluid.alike(0.0) == 0.0 == fluid.alike(1.0)


@pytest.mark.parametrize(("utilization", "scv"), [(0.9, 4.0), (0.99999999, 1.0), (1.02, 1.0)])
def test_long_lines_are_full_before_they_are_empty_as_a_diffusion_is(utilization: float, scv: float):
    """A random walk of the same drift and variance, by its harmonic function; blocked calls of neighbours subtracted."""
    load = row(LOAD, workers=16.0, queue_limit=64.0, cores=1.0, cpu_s=0.025, cpu_scv=scv, sharing=FIFO, ready=1.0)
    station = row(STATION_STATE, utilization=utilization)
    station.below.utilization, station.above.utilization = utilization - 0.01, utilization + 0.01
    start = fluid.late_line(load, 1.5)
    assert start == pytest.approx(60.0 - math.sqrt(60.0 * scv))
    steps = np.arange(8001)  # hundredths of a call
    up = 0.5 * (1.0 + 0.01 * (utilization - 1.0) / (1.0 + scv))
    harmonic = np.cumsum(np.concatenate([[0.0], ((1.0 - up) / up) ** steps[:-1]]))
    expected = np.interp(start * 100.0, steps, harmonic / harmonic[-1])
    assert fluid.full_first(load, station, start) == pytest.approx(expected, rel=2e-2)
    station.below.blocked, station.above.blocked = 0.0, 1.0
    assert fluid.full_first(load, station, start) == 0.0


@pytest.mark.parametrize("common", [0.05, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2, 0.4, 0.7])
def test_calls_that_are_lost_together_get_less_of_the_budget(share: float, common: float):
    """E min(X, 0.2) of a beta distributed share X: within 0.02, a tenth of the budget."""
    scale = 1.0 / common - 1.0
    lost = stats.beta(share * scale, (1.0 - share) * scale)
    beyond = quad(lambda x: lost.sf(x), 0.0, 0.2, limit=200)[0]
    assert fluid.within_budget(share, 0.2, common) == pytest.approx(beyond, abs=0.02)
    assert fluid.within_budget(share, 0.2, 0.0) == min(share, 0.2)
    assert fluid.within_budget(share, 0.2, 1.0) == pytest.approx(0.2 * share)


@pytest.mark.parametrize(
    ("share", "common"), [(0.02, 0.5), (0.1, 0.05), (0.1, 0.5), (0.2, 0.2), (0.5, 0.05), (0.5, 0.8)]
)
def test_retries_vary_as_the_budget_lets_them(share: float, common: float):
    """The standard deviation of min(X, 0.2), X as above: within 0.035; none where the budget is always used up."""
    scale = 1.0 / common - 1.0
    lost = stats.beta(share * scale, (1.0 - share) * scale)
    mean = quad(lambda x: lost.sf(x), 0.0, 0.2, limit=200)[0]
    square = quad(lambda x: 2.0 * x * lost.sf(x), 0.0, 0.2, limit=200)[0]
    assert fluid.deviation_within(share, 0.2, common, mean) == pytest.approx(math.sqrt(square - mean**2), abs=0.035)
    assert fluid.deviation_within(0.9, 0.2, 0.01, 0.2) == 0.0


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.5, 0.9, 1.0, 2.0])
def test_fates_are_as_correlated_as_normal_waits_cut_at_their_median(correlation: float):
    """P(both beyond) = 1/4 + asin(rho) / (2 pi); over 1/4, as the correlation of two coins."""
    both = 0.25 + math.asin(min(1.0, correlation)) / (2.0 * math.pi)
    assert fluid.in_common(correlation * 0.04, 0.04) == pytest.approx((both - 0.25) / 0.25)


# --- Shares of callers


@pytest.mark.parametrize(
    ("probability", "count", "share"),
    [(1.0, 1.0, 0.8), (1.0, 2.0, 0.64), (0.5, 2.0, 0.82), (1.0, 0.25, 0.95), (0.5, 0.25, 0.975), (0.5, 1.0, 0.9)],
)
def test_a_caller_goes_on_when_all_its_calls_are_answered(probability: float, count: float, share: float):
    """Each is with 0.8; a step is done with its probability, and one with a count below 1 at most once."""
    step = row(STEP, probability=probability, count=count, executions=probability * count)
    assert fluid.all_answered(0.8, step) == pytest.approx(share, rel=1e-12)


def test_calls_that_are_served_are_shared_among_endpoints_by_what_is_in_the_pods():
    """The second and third of four endpoints are this service's; half of what comes is refused."""
    flows = rows(ENDPOINT_FLOW, 4, inside=[9, 1, 3, 9], inside_expected=[9, 0.5, 1.5, 9])
    flows.flow, flows.expected = [9, 4, 6, 9], [9, 5, 5, 9]
    own = row(SERVICE_FLOW, refused_share=0.5)
    own.station.open, own.station.unserved, own.answer.served, own.answer.passed_on = 4.0, 2.0, 3.0, 2.0
    fluid.pass_on(row(SERVICE, endpoints_first=1, n_endpoints=2), own, flows)
    assert flows.passed_on.tolist() == pytest.approx([0, 1, 2, 0])
    assert flows.inside.tolist() == pytest.approx([9, 2, 4, 9])
    assert flows.passed_on_expected.tolist() == pytest.approx([0, 2 * 3 / 7, 2 * 4 / 7, 0])
    assert flows.inside_expected.tolist() == pytest.approx([9, 4 * 3 / 7, 4 * 4 / 7, 9])


def test_nothing_is_inside_where_the_draws_have_caught_up_or_nobody_came():
    flows = rows(ENDPOINT_FLOW, 1, flow=2.0, expected=2.0)
    own = row(SERVICE_FLOW)
    own.station.open, own.station.unserved, own.answer.served = 1.0, -3.0, 2.0
    fluid.pass_on(row(SERVICE, n_endpoints=1), own, flows)
    assert (flows.passed_on[0], flows.inside[0], flows.inside_expected[0]) == (2.0, 0.0, 1.0)
    flows = rows(ENDPOINT_FLOW, 1)
    fluid.pass_on(row(SERVICE, n_endpoints=1), own, flows)
    assert [flows[name][0] for name in ("passed_on", "inside", "passed_on_expected", "inside_expected")] == [0.0] * 4


# --- What a station is told


def mixed(load: Any, calls: tuple[float, float] = (2.0, 6.0)) -> tuple[float, float, tuple[float, float, float]]:
    """Mixes two endpoints into a load; CPU time and its scv, and cumulants of the held time, by enumeration."""
    held = [[(0.0, 0.5), (0.1, 0.5)], [(0.2, 0.75), (0.5, 0.25)]]
    cpu = [[(0.01, 0.5), (0.03, 0.5)], [(0.02, 0.8), (0.07, 0.2)]]
    endpoints, flows = rows(ENDPOINT, 4, cpu_s=9.0), rows(ENDPOINT_FLOW, 4, flow=90.0, expected=90.0, held_s=9.0)
    for place in range(2):
        flows.flow[place + 1], flows.expected[place + 1] = calls[place] + 1.0, calls[place]
        for name, value in zip(("held_s", "held_variance_s2", "held_third_s3"), cumulants(held[place]), strict=True):
            flows[name][place + 1] = value
        endpoints.cpu_s[place + 1], endpoints.cpu_variance_s2[place + 1], _ = cumulants(cpu[place])
    fluid.mix_calls(row(SERVICE, endpoints_first=1, n_endpoints=2), load, endpoints, flows)
    shares = [number / max(sum(calls), 1e-9) for number in calls]

    def mix(parts: list[list[tuple[float, float]]]) -> tuple[float, float, float]:
        return cumulants([(v, s * p) for s, atoms in zip(shares, parts, strict=True) for v, p in atoms])

    mean, variance, _ = mix(cpu)
    return mean, variance / mean**2 if mean else 0.0, mix(held)


def test_a_station_is_told_the_mix_of_its_endpoints_calls():
    """Moments of a mixture: of the two endpoints in the middle of four."""
    load = row(SERVICE_FLOW).load
    cpu_s, scv, held = mixed(load)
    assert (load.arrivals, load.expected) == (10.0, 8.0)
    assert load.cpu_s == pytest.approx(cpu_s, rel=1e-12)
    assert load.cpu_scv == pytest.approx(scv, rel=1e-12)
    assert (load.held_s, load.held_variance_s2, load.held_third_s3) == pytest.approx(held, rel=1e-12)


@pytest.mark.parametrize("name", ["cpu_s", "cpu_scv"])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_mix_that_has_hardly_moved_is_the_same_one(name: str, sign: float):
    """Two thousandths, of the CPU time or of 1 + scv: below, both figures stay; above, both are set anew."""
    right = row(SERVICE_FLOW).load
    cpu_s, scv, _ = mixed(right)
    unit = cpu_s if name == "cpu_s" else 1.0 + scv
    for off, stays in ((0.0018, True), (0.0022, False)):
        load = row(SERVICE_FLOW).load
        load.cpu_s, load.cpu_scv = cpu_s, scv
        load[name] += sign * off * unit
        before = float(load[name])
        mixed(load)
        assert (load[name] == before) == stays
        assert stays or (load.cpu_s, load.cpu_scv) == pytest.approx((cpu_s, scv), rel=1e-12)


def test_where_nobody_comes_a_station_keeps_what_it_knew_of_its_calls():
    load = row(SERVICE_FLOW).load
    mixed(load)
    before = [float(load[name]) for name in ("cpu_s", "cpu_scv", "held_s", "held_variance_s2", "held_third_s3")]
    mixed(load, (0.0, 0.0))
    assert (load.arrivals, load.expected) == (2.0, 0.0)
    assert before == [float(load[name]) for name in ("cpu_s", "cpu_scv", "held_s", "held_variance_s2", "held_third_s3")]


def test_a_station_begins_with_the_settings_of_its_service():
    names = (
        "cold_factor",
        "cores",
        "workers",
        "queue_limit",
        "cpu_s",
        "balancing",
        "sharing",
        "quota_period_s",
        "timeout_s",
    )
    service = row(SERVICE, balancer_nodes=11, **{name: 2 + place for place, name in enumerate(names)})
    flow = row(SERVICE_FLOW)
    fluid.begin_station(service, flow, 0.25)
    assert [float(flow.load[name]) for name in names] == [float(service[name]) for name in names]
    assert (flow.load.cpu_scv, flow.load.nodes, flow.load.tick_s) == (1.0, 11, 0.25)
    assert (flow.station.cell, flow.stretch) == (-1, 1.0)


def a_service(**load: Any) -> tuple[Any, Any, Any]:
    """A service of pods of 2 cores whose calls take 0.1 s, its flow and its window; ticks of half a second."""
    service = row(
        SERVICE, cold_factor=1.0, cores=2.0, workers=10.0, queue_limit=10.0, cpu_s=0.1, balancer_nodes=1,
        request_cores=1.5, timeout_s=60.0,
    )  # fmt: skip
    flow = row(SERVICE_FLOW)
    fluid.begin_station(service, flow, 0.5)
    for name, value in load.items():
        flow.load[name] = value
    window = row(SERVICE_SUMS, request_core_s=1.0, calls=1.0, cpu_core_s=1.0, queue_s=1.0)
    return service, flow, window


def serve_pods(service: Any, state: Any, flow: Any, window: Any) -> None:
    """One tick, with nothing known of the station."""
    fluid.serve_pods(*known_stations().values(), service, state, flow, window)


def test_what_pods_served_is_booked_in_the_window_of_their_service():
    """Three pods, offered three times what they can serve: all cores are busy, and two thirds are refused in the end."""
    service, flow, window = a_service(arrivals=90.0, expected=90.0, held_s=0.05)
    state = row(SERVICE_STATE, n_ready=3, n_cold=1, ready_cpu_core_s=5.0)
    for _ in range(40):
        before, cpu = window.copy(), float(state.ready_cpu_core_s)
        serve_pods(service, state, flow, window)
    load, answer = flow.load, flow.answer
    assert (load.ready, load.cold) == (3.0, 1.0)
    assert window.request_core_s - before.request_core_s == pytest.approx(3 * 1.5 * 0.5)
    assert window.calls - before.calls == pytest.approx(90.0)
    assert window.cpu_core_s - before.cpu_core_s == pytest.approx(answer.cpu_core_s)
    assert answer.cpu_core_s == pytest.approx(3 * 2.0 * 0.5, rel=0.01)
    assert window.queue_s - before.queue_s == pytest.approx(0.5 * answer.waiting)
    assert answer.waiting > 1.0
    assert state.ready_cpu_core_s - cpu == pytest.approx(answer.cpu_core_s / 3)
    assert flow.refused_share == pytest.approx(2.0 / 3.0, rel=0.01)
    assert flow.stretch == pytest.approx(1.0, rel=0.01)


def test_without_a_ready_pod_every_call_is_refused_and_without_calls_none():
    service, flow, window = a_service(arrivals=10.0, expected=10.0)
    state = row(SERVICE_STATE, ready_cpu_core_s=5.0)
    serve_pods(service, state, flow, window)
    assert (flow.refused_share, window.calls, window.cpu_core_s, state.ready_cpu_core_s) == (1.0, 11.0, 1.0, 5.0)
    flow.load.arrivals = flow.load.expected = 0.0
    serve_pods(service, state, flow, window)
    assert flow.refused_share == 1.0  # of calls that will come
    state.n_ready = 1
    serve_pods(service, state, flow, window)
    assert flow.refused_share == 0.0


def test_a_service_serves_the_calls_of_all_its_endpoints():
    """Told of them, it serves them, and passes on what it served: 3 in 10 of it to the first endpoint."""
    service, flow, _ = a_service()
    service.n_endpoints = 2
    world = SimpleNamespace(
        services=[service],
        service_flows=[flow],
        service_states=rows(SERVICE_STATE, 1, n_ready=3),
        service_windows=rows(SERVICE_SUMS, 1),
        endpoints=rows(ENDPOINT, 2, cpu_s=[0.2, 0.1]),
        endpoint_flows=rows(ENDPOINT_FLOW, 2, flow=[3.0, 7.0], expected=[3.0, 7.0]),
        **known_stations(),
    )
    for _ in range(200):
        python(fluid.serve_service)(world, 0)
    assert flow.load.cpu_s == pytest.approx(0.13)
    assert world.endpoint_flows.passed_on.tolist() == pytest.approx([3.0, 7.0], rel=1e-3)
    assert world.endpoint_flows.passed_on_expected.tolist() == pytest.approx([3.0, 7.0], rel=1e-3)
    assert world.service_windows.calls[0] == pytest.approx(2000.0)


# --- What a call takes


def test_a_worker_is_held_beside_the_cpu_time_of_the_call():
    """CPU 10 ms, variance 2e-4 s^2 (scv 2, third cumulant 20 times the cube), on pods that take twice as long."""
    endpoint, own = row(ENDPOINT, cpu_s=0.01, cpu_variance_s2=2e-4), row(SERVICE_FLOW, stretch=2.0)
    flow = row(ENDPOINT_FLOW)
    fluid.hold(endpoint, flow, own, 0.05, 0.002, 0.003, 0.2)
    assert flow.held_s == pytest.approx(0.03 + 0.2)
    assert flow.held_variance_s2 == pytest.approx(0.002 - 8e-4)
    assert flow.held_third_s3 == pytest.approx(0.003 - 20.0 * 0.02**3)
    fluid.hold(endpoint, flow, own, 0.019, 7e-4, 0.003, 0.2)  # by rounding
    assert (flow.held_s, flow.held_variance_s2) == (0.2, 0.0)
    fluid.hold(row(ENDPOINT), flow, own, 0.05, 0.002, 0.003, 0.0)
    assert (flow.held_s, flow.held_variance_s2, flow.held_third_s3) == (0.05, 0.002, 0.003)


def test_the_sojourn_of_a_call_is_its_steps_and_its_wait():
    """Waits come with what makes them vary together with the call's own time; their cumulants add up."""
    own, flow = row(SERVICE_FLOW), row(ENDPOINT_FLOW)
    own.answer.wait_s, own.answer.wait_variance_s2 = 0.3, 0.04
    own.station.met.extra_variance_s2, own.station.met.wait_third_s3, own.station.met.extra_third_s3 = 0.5, 0.6, 0.7
    fluid.wait_for_pod(row(ENDPOINT), flow, own, 1.0, 2.0, 3.0)
    assert seen(flow) == pytest.approx((1.3, 2.54, 4.3))
    own.station.met.extra_variance_s2 = -2.5
    fluid.wait_for_pod(row(ENDPOINT), flow, own, 1.0, 2.0, 3.0)
    assert flow.variance_s2 == 0.0


def test_who_is_not_answered_in_time_has_gone_and_the_others_were_faster():
    """Exponential with mean 0.1 s and a timeout of 0.2 s: exp(-2) give up, within 0.005; the others took 0.0687 s."""
    below, step = row(ENDPOINT_FLOW, mean_s=0.1, variance_s2=0.01, third_s3=0.002), row(STEP_FLOW)
    assert fluid.give_up(0.2, below, row(CUT), step) == pytest.approx(math.exp(-2.0), abs=0.005)
    kept = (0.1 - (0.2 + 0.1) * math.exp(-2.0)) / (1.0 - math.exp(-2.0))
    assert step.mean_s == pytest.approx(kept, rel=0.03)
    assert 0.0 < step.variance_s2 < 0.01 and abs(step.third_s3) < 0.002
    step = row(STEP_FLOW, mean_s=7.0)
    below.variance_s2 = below.third_s3 = 0.0
    assert fluid.give_up(0.2, below, row(CUT), step) == 0.0
    assert step.mean_s == 7.0  # all are in time: as it was


def test_no_answer_comes_before_its_call():
    """A shape of negative skewness reaches below zero: what of it is within a short timeout has a mean there."""
    below, step = row(ENDPOINT_FLOW, mean_s=0.45, variance_s2=0.45**2, third_s3=-(0.45**3)), row(STEP_FLOW)
    assert 0.8 < fluid.give_up(0.05, below, row(CUT), step) < 0.9
    assert step.mean_s == 0.0


def calling(**call: Any) -> SimpleNamespace:
    """One call step: exponential answers of 0.1 s, 9 in 10 without error; 10 first attempts and 6 retries."""
    world = SimpleNamespace(
        calls=rows(CALL, 1, **{"endpoint": 1, "service": 1, "timeout_s": 0.2} | call),
        call_flows=rows(CALL_FLOW, 1, new_calls=10.0, due=[[1.0, 2.0, 3.0]], failed_share=0.7),
        endpoint_flows=rows(ENDPOINT_FLOW, 2, mean_s=0.1, variance_s2=0.01, third_s3=0.002, answered_share=0.9),
        service_flows=rows(SERVICE_FLOW, 2),
        service_windows=rows(SERVICE_SUMS, 2),
        state=SimpleNamespace(tick=0),
        lane=SimpleNamespace(tick_s=1.0),
    )
    world.endpoint_flows.clean_share = 0.8
    return world


def in_time(timeout_s: float) -> float:
    shape = row(SHAPE)
    take_shape(shape, 0.1, 0.01, 0.002)
    return float(share_within(shape, timeout_s))


def test_a_call_is_answered_when_its_callee_answers_in_time():
    world, step = calling(), row(STEP_FLOW)
    python(fluid.finish_call)(world, 0, step)
    flow, within = world.call_flows[0], in_time(0.2)
    assert flow.clean_share == pytest.approx(0.8 * within)
    assert world.service_windows.failed.tolist() == pytest.approx([0.0, 16.0 * (1.0 - 0.9 * within)])
    assert flow.failed_share == pytest.approx(1.0 - 0.9 * within)  # nothing is tried again
    assert flow.extra_held_s == pytest.approx((1.0 - within) * (0.2 - step.mean_s))
    assert step.mean_s < 0.1
    assert flow.due.tolist() == [0.0, 0.0, 0.0]


def test_retries_hold_the_caller_for_their_backoff_and_their_time():
    """A budget for all of them: of 16 attempts those that were no second retry come back."""
    world, step = calling(max_retries=3, retry_budget_ratio=9.0, backoff_s=[[3.0, 6.0, 12.0]]), row(STEP_FLOW)
    python(fluid.finish_call)(world, 0, step)
    flow, within = world.call_flows[0], in_time(0.2)
    again = 13.0 * (1.0 - 0.9 * within) / 10.0
    timed_out_s = (1.0 - within) * (0.2 - step.mean_s)
    assert flow.extra_held_s == pytest.approx(timed_out_s + again * (3.0 + step.mean_s))


@pytest.mark.parametrize(("timeout_s", "all_wait"), [(1.31, False), (1.34, True)])
def test_far_beyond_the_mean_nobody_gives_up(timeout_s: float, all_wait: bool):
    """From 12.2 standard deviations on."""
    world, step = calling(timeout_s=timeout_s), row(STEP_FLOW)
    python(fluid.finish_call)(world, 0, step)
    assert (world.call_flows.clean_share[0] == 0.8) == all_wait
    assert (seen(step) == (0.1, 0.01, 0.002)) == all_wait


def test_a_constant_answer_comes_in_time_or_never():
    for timeout_s, clean in ((0.11, 0.8), (0.09, 0.0)):
        world = calling(timeout_s=timeout_s)
        world.endpoint_flows.variance_s2 = world.endpoint_flows.third_s3 = 0.0
        python(fluid.finish_call)(world, 0, row(STEP_FLOW))
        assert world.call_flows.clean_share[0] == clean
    world = calling(timeout_s=9.0)
    world.endpoint_flows.answered_share = 1.0
    python(fluid.finish_call)(world, 0, row(STEP_FLOW))
    assert world.call_flows.failed_share[0] == world.service_windows.failed.sum() == 0.0


# --- The way down and the way up


def graph() -> SimpleNamespace:
    """An endpoint that computes, calls twice, calls at times, and then does two things in parallel."""
    kinds = [CPU, CALL_STEP, CALL_STEP, PARALLEL, BRANCH, CALL_STEP, BRANCH, READ, WAIT]
    world = SimpleNamespace(
        steps=rows(STEP, 9, kind=kinds, probability=1.0, count=1.0, executions=1.0, parent=NO_PARENT),
        step_flows=rows(STEP_FLOW, 9, flow=7.0, expected=7.0, sum_mean_s=5.0, sum_variance_s2=5.0, sum_third_s3=5.0),
        calls=rows(CALL, 3, endpoint=[1, 2, 1]),
        call_flows=rows(CALL_FLOW, 3, new_calls=1.0, next_calls=2.0),
        endpoints=rows(ENDPOINT, 3, n_steps=[9, 0, 0]),
        endpoint_flows=rows(ENDPOINT_FLOW, 3, flow=3.0, expected=4.0, next_flow=5.0, next_expected=6.0),
    )
    world.steps.end = [1, 2, 3, 8, 6, 6, 8, 8, 9]
    world.steps.parent[4:8] = [3, 4, 3, 6]
    world.steps.target[[1, 2, 5]] = [0, 1, 2]
    return world


def test_calls_flow_down_by_the_steps_that_make_them():
    """Ten calls (eight expected) do their steps; whose earlier calls failed go no further, and what is called late joins
    its endpoint in the next tick."""
    world = graph()
    world.steps.executions[[1, 2, 3, 5, 7]] = [2.0, 0.5, 0.25, 3.0, 2.0]
    world.steps.count[1], world.steps.probability[2] = 2.0, 0.5
    world.call_flows.failed_share, world.call_flows.late = [0.1, 0.2, 0.0], [False, True, False]
    world.endpoint_flows.passed_on[0], world.endpoint_flows.passed_on_expected[0] = 10.0, 8.0
    python(fluid.spread)(world, 0)
    through = 0.9**2
    beyond = 0.25 * through * (1.0 - 0.5 * 0.2)  # of these, a quarter do the PARALLEL
    shares = np.array([2.0, 0.5 * through, beyond, beyond, 3.0 * beyond, beyond, 2.0 * beyond])
    np.testing.assert_allclose(world.step_flows.flow[1:8], 10.0 * shares)
    np.testing.assert_allclose(world.step_flows.expected[1:8], 8.0 * shares)
    assert world.step_flows.flow[[0, 8]].tolist() == [7.0, 7.0]  # nobody asks
    np.testing.assert_allclose(world.call_flows.new_calls, [1.0 + 20.0, 1.0, 1.0 + 30.0 * beyond])
    np.testing.assert_allclose(world.call_flows.next_calls, [2.0, 2.0 + 5.0 * through, 2.0])
    np.testing.assert_allclose(world.endpoint_flows.flow, [3.0, 3.0 + 20.0 + 30.0 * beyond, 3.0])
    np.testing.assert_allclose(world.endpoint_flows.expected, [4.0, 4.0 + 16.0 + 24.0 * beyond, 4.0])
    np.testing.assert_allclose(world.endpoint_flows.next_flow, [5.0, 5.0, 5.0 + 5.0 * through])
    np.testing.assert_allclose(world.endpoint_flows.next_expected, [6.0, 6.0, 6.0 + 4.0 * through])
    for name in ("sum_mean_s", "sum_variance_s2", "sum_third_s3"):
        assert world.step_flows[name][[4, 6]].tolist() == [0.0, 0.0]
        assert world.step_flows[name][3] == 5.0


def test_what_was_held_back_joins_in_the_next_tick_before_the_retries():
    world = graph()
    world.call_flows.retries_waiting, world.state = [0.0, 8.0, 0.0], SimpleNamespace(tick=9)
    world.call_flows.retries[:, 9, 0] = 3.0
    python(fluid.begin_tick)(world)
    assert world.endpoint_flows.flow.tolist() == [5.0, 5.0, 8.0]
    assert world.endpoint_flows.expected.tolist() == [6.0, 6.0, 9.0]
    assert world.endpoint_flows.next_flow.tolist() == world.endpoint_flows.next_expected.tolist() == [0.0] * 3
    assert world.call_flows.new_calls.tolist() == [2.0] * 3
    assert world.call_flows.next_calls.tolist() == [0.0] * 3
    assert world.call_flows.due[:, 0].tolist() == [0.0, 3.0, 0.0]


def test_a_lane_begins_with_what_always_takes_the_same():
    """Waits as their scv says; every call answered; and calls to services that are served before their caller are late."""
    world = graph()
    world.lane, world.order = SimpleNamespace(tick_s=0.5), np.array([2, 0, 1])
    world.services, world.service_flows = rows(SERVICE, 2, cores=[3.0, 4.0]), rows(SERVICE_FLOW, 2)
    world.steps.mean_s[[0, 8]], world.steps.scv[[0, 8]] = 0.3, 2.0
    world.endpoints.service, world.calls.service = -1, [1, 2, 0]
    python(fluid.begin)(world)
    assert world.call_flows.late.tolist() == [False] * 3  # the load balancer comes before all services
    world.endpoints.service, world.calls.caller = [0, -1, 1], [0, 0, 2]
    python(fluid.begin)(world)
    assert world.call_flows.late.tolist() == [False, True, True]
    assert seen(world.step_flows[8]) == pytest.approx((0.3, 2.0 * 0.09, third_cumulant_factor(2.0) * 0.027))
    assert seen(world.step_flows[0]) == (0.0, 0.0, 0.0)
    assert world.service_flows.load.cores.tolist() == [3.0, 4.0]
    assert world.service_flows.load.tick_s.tolist() == [0.5, 0.5]
    for flows in (world.call_flows, world.endpoint_flows):
        assert flows.clean_share.tolist() == [1.0] * 3
    assert world.endpoint_flows.answered_share.tolist() == [1.0] * 3


ONCE, TWICE = [(0.2, 0.5), (0.6, 0.5)], [(0.1, 0.25), (0.3, 0.75)]  # times of a step, (s, probability)


@pytest.fixture
def composing(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An endpoint of a service: 0.1 s of CPU on pods twice as slow; a read that takes ONCE, done half the time; a write
    that takes TWICE, done once or twice; a call of 0.4 s whose callee answers 8 in 10, at once 7 in 10, made twice.

    Phases within phases cannot be called from Python: the one that `compose` calls is made plain here.
    """
    monkeypatch.setattr(fluid, "finish_call", python(fluid.finish_call))
    world = SimpleNamespace(
        steps=rows(STEP, 4, kind=[CPU, READ, READ, CALL_STEP], parent=NO_PARENT),
        step_flows=rows(STEP_FLOW, 4),
        calls=rows(CALL, 1, endpoint=1, timeout_s=60.0),
        call_flows=rows(CALL_FLOW, 1, new_calls=10.0),
        endpoints=rows(ENDPOINT, 2, n_steps=[4, 0], service=1, cpu_s=0.1, cpu_variance_s2=0.01),
        endpoint_flows=rows(ENDPOINT_FLOW, 2, flow=30.0),
        service_flows=rows(SERVICE_FLOW, 2, stretch=[9.0, 2.0], refused_share=[0.9, 0.1]),
        service_windows=rows(SERVICE_SUMS, 2, latency_s=1.0),
        state=SimpleNamespace(tick=0),
        lane=SimpleNamespace(tick_s=1.0),
    )
    steps, below = world.steps, world.endpoint_flows[1]
    steps.mean_s[0], steps.scv[0] = 0.1, 1.0
    steps.probability, steps.count = [1.0, 0.5, 1.0, 1.0], [1.0, 1.0, 1.5, 2.0]
    steps.executions = steps.probability * steps.count
    for place, number in ((1, [(0.0, 0.5), (1.0, 0.5)]), (2, [(1.0, 0.5), (2.0, 0.5)])):
        _, steps.executions_variance[place], steps.executions_third[place] = cumulants(number)
    for place, atoms in ((1, ONCE), (2, TWICE)):
        for name, value in zip(CUMULANTS, cumulants(atoms), strict=True):
            world.step_flows[name][place] = value
    below.mean_s, below.answered_share, below.clean_share = 0.4, 0.8, 0.7
    return world


def test_what_an_endpoint_takes_is_the_sum_of_its_steps(composing: SimpleNamespace):
    """Random numbers of executions too, by enumeration of all that can happen."""
    composing.service_flows.answer.wait_s[1] = 0.05
    composing.endpoint_flows.error_share[0] = 0.25
    python(fluid.compose)(composing, 0)
    once = [(0.0, 0.5), *((v, 0.5 * p) for v, p in ONCE)]
    twice = [*((v, 0.5 * p) for v, p in TWICE), *((v, 0.5 * p) for v, p in summed(TWICE, TWICE))]
    beside = np.array(cumulants(summed(once, twice, [(0.8, 1.0)])))
    cpu = np.array([0.2, 0.04, 2.0 * 0.008])  # exponential
    flow = composing.endpoint_flows[0]
    assert seen(flow) == pytest.approx(tuple(beside + cpu + [0.05, 0.0, 0.0]), rel=1e-9)
    assert (flow.held_s, flow.held_variance_s2, flow.held_third_s3) == pytest.approx(tuple(beside), rel=1e-9)
    taken = 0.9 * 0.75
    assert flow.answered_share == pytest.approx(0.8**2 * taken)
    assert flow.clean_share == pytest.approx(0.7**2 * taken)
    assert composing.service_windows.latency_s.tolist() == pytest.approx([1.0, 1.0 + 30.0 * flow.mean_s])


def test_timeouts_of_its_calls_hold_a_worker_longer_than_a_clean_call(composing: SimpleNamespace):
    """A callee that always takes longer: the caller waits the whole timeout, twice."""
    composing.calls.timeout_s, composing.endpoint_flows.variance_s2[1] = 0.3, 0.0
    python(fluid.compose)(composing, 0)
    extra_s = float(composing.call_flows.extra_held_s[0])
    step_s = float(composing.step_flows.mean_s[3])
    assert extra_s + step_s == pytest.approx(0.3)
    beside_s = cumulants(ONCE)[0] * 0.5 + cumulants(TWICE)[0] * 1.5
    assert composing.endpoint_flows.held_s[0] == pytest.approx(beside_s + 0.6)


def test_an_endpoint_tells_what_giving_up_took_from_its_times(composing: SimpleNamespace):
    """A callee of 0.4 s, exponential, called twice, each time for up to 0.8 s at most: both are in time with (1 - e^-2)^2, and
    if all had waited, the times would be the callee's whole ones."""
    below = composing.endpoint_flows[1]
    below.mean_s, below.variance_s2, below.third_s3 = 0.4, 0.16, 2.0 * 0.4**3
    composing.calls.timeout_s = 60.0
    python(fluid.compose)(composing, 0)
    flow = composing.endpoint_flows[0]
    whole = seen(flow)
    assert (flow.given_up, flow.lost_mean_s) == (0.0, 0.0)
    composing.calls.timeout_s = 0.8
    python(fluid.compose)(composing, 0)
    assert flow.given_up == pytest.approx(1.0 - (1.0 - math.exp(-2.0)) ** 2, abs=0.01)
    kept_s = 0.4 * (1.0 - 3.0 * math.exp(-2.0)) / (1.0 - math.exp(-2.0))
    assert flow.lost_mean_s == pytest.approx(2.0 * (0.4 - kept_s), rel=0.02)
    lost = flow.lost_mean_s, flow.lost_variance_s2, flow.lost_third_s3
    assert np.add(seen(flow), lost) == pytest.approx(whole)


def test_the_load_balancer_has_no_pods_to_wait_for(composing: SimpleNamespace):
    composing.endpoints.service[0] = -1
    composing.service_flows.answer.wait_s = 5.0
    composing.endpoint_flows.error_share = 0.5
    python(fluid.compose)(composing, 0)
    flow = composing.endpoint_flows[0]
    assert flow.mean_s == pytest.approx(0.1 + 0.2 + 0.375 + 0.8)  # its own time, at its own speed
    assert (flow.answered_share, flow.clean_share) == pytest.approx((0.64, 0.49))
    assert composing.service_windows.latency_s.tolist() == [1.0, 1.0]


def test_steps_within_branches_are_summed_there_and_the_slowest_counts(composing: SimpleNamespace):
    """Two branches of two constant waits each: 0.2 + 0.3 s against 0.1 + 0.1 s; the whole is half a second."""
    kinds = [PARALLEL, BRANCH, WAIT, WAIT, BRANCH, WAIT, WAIT]
    composing.steps = rows(STEP, 7, kind=kinds, probability=1.0, count=1.0, executions=1.0)
    composing.steps.parent, composing.steps.end = [NO_PARENT, 0, 1, 1, 0, 4, 4], [7, 4, 3, 4, 7, 6, 7]
    composing.steps.target[4], composing.branch_flows = 1, rows(BRANCH_FLOW, 2)
    composing.step_flows = rows(STEP_FLOW, 7, mean_s=[0.0, 0.0, 0.2, 0.3, 0.0, 0.1, 0.1])
    composing.step_flows.variance_s2[2:4] = 5e-3
    composing.step_flows.third_s3[2:4] = 1e-4
    composing.endpoints.n_steps[0], composing.endpoints.service[0] = 7, -1
    python(fluid.compose)(composing, 0)
    assert composing.step_flows.sum_mean_s[[1, 4]].tolist() == pytest.approx([0.5, 0.2])
    assert composing.step_flows.sum_variance_s2[[1, 4]].tolist() == pytest.approx([1e-2, 0.0])
    assert composing.step_flows.sum_third_s3[[1, 4]].tolist() == pytest.approx([2e-4, 0.0])
    flow = composing.endpoint_flows[0]
    assert flow.mean_s == pytest.approx(0.5, rel=0.01)
    assert flow.variance_s2 == pytest.approx(1e-2, rel=0.05)
    assert seen(flow) == seen(composing.step_flows[0])
