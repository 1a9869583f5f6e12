"""Services in the fluid engine: calls flow down the graph, pods serve, and sojourn times are added up on the way back.

A tick goes twice over the endpoints. Downwards, callers first: the calls that reach an endpoint, what its pods serve of
them, and what each of its steps begins. Upwards, callees first: how long a call takes and whether it is answered.
"""

from __future__ import annotations

from sim_core.compiled import kernel, phase
from sim_core.dataplane.latency import join, lognormal_tail
from sim_core.dataplane.queueing import queue_after, wait_moments
from sim_core.dataplane.services.records import (
    BRANCH,
    CALL_STEP,
    CPU,
    LEAST_OUTSTANDING,
    NO_PARENT,
    PARALLEL,
    RETRY_SLOTS,
    ROUND_ROBIN,
    WAIT,
)

LEAST = 1e-100  # of requests, calls, queries: fewer are none, for products with them would vanish, and ratios overflow


@phase
def begin(world):
    """Fills the zeroed flows of a lane: steps that always take the same."""
    position = 0
    for k in range(len(world.order)):  # where each service stands in the order of serving
        world.service_flows[world.order[k]].stretch = 1.0
    for s in range(len(world.steps)):
        step = world.steps[s]
        if step.kind == WAIT:
            world.step_flows[s].mean_s = step.mean_s
            world.step_flows[s].variance_s2 = step.scv * step.mean_s * step.mean_s
    for c in range(len(world.calls)):
        call, flow = world.calls[c], world.call_flows[c]
        flow.clean_share = 1.0
        caller = world.endpoints[call.caller].service
        if caller >= 0:
            position = 0
            while world.order[position] != call.service and world.order[position] != caller:
                position += 1
            flow.late = world.order[position] == call.service
    for e in range(len(world.endpoints)):
        world.endpoint_flows[e].answered_share = 1.0
        world.endpoint_flows[e].clean_share = 1.0


@phase
def begin_tick(world):
    """Calls that were held back from the tick before, and retries that are due, are the first to join."""
    for e in range(len(world.endpoints)):
        flow = world.endpoint_flows[e]
        flow.flow, flow.expected = flow.next_flow, flow.next_expected
        flow.next_flow = flow.next_expected = 0.0
    for c in range(len(world.calls)):
        flow = world.call_flows[c]
        flow.new_calls = flow.next_calls
        flow.next_calls = 0.0
        if flow.retries_waiting > 0.0:
            take_due_retries(flow, world.endpoint_flows[world.calls[c].endpoint], world.state.tick)


@kernel
def take_due_retries(flow, endpoint_flow, tick):
    """Moves the retries that are due in this tick from the ring to the endpoint that they call."""
    slot = flow.retries[tick % RETRY_SLOTS]
    due = 0.0
    for attempt in range(len(slot)):
        flow.due[attempt] = slot[attempt]
        due += slot[attempt]
        slot[attempt] = 0.0
    flow.retries_waiting = max(0.0, flow.retries_waiting - due)
    endpoint_flow.flow += due
    endpoint_flow.expected += due


@phase
def spread(world, e):
    """Begins the steps of the calls that endpoint `e` passes on; a call whose earlier calls failed goes no further."""
    endpoint, flow = world.endpoints[e], world.endpoint_flows[e]
    reach = 1.0
    for s in range(endpoint.steps_first, endpoint.steps_first + endpoint.n_steps):
        step, step_flow = world.steps[s], world.step_flows[s]
        kind = step.kind
        if kind == CPU or kind == WAIT:  # noqa: SIM109 (Numba would build a tuple); nobody asks for their flows
            continue
        if step.parent == NO_PARENT:
            share = step.executions * reach
            step_flow.flow, step_flow.expected = flow.passed_on * share, flow.passed_on_expected * share
        else:
            above = world.step_flows[step.parent]
            step_flow.flow, step_flow.expected = above.flow * step.executions, above.expected * step.executions
        if kind == CALL_STEP:
            call, call_flow = world.calls[step.target], world.call_flows[step.target]
            target = world.endpoint_flows[call.endpoint]
            if call_flow.late:
                call_flow.next_calls += step_flow.flow
                target.next_flow += step_flow.flow
                target.next_expected += step_flow.expected
            else:
                call_flow.new_calls += step_flow.flow
                target.flow += step_flow.flow
                target.expected += step_flow.expected
            if call_flow.failed_share > 0.0:
                reach *= all_answered(1.0 - call_flow.failed_share, step)
        elif kind == PARALLEL or kind == BRANCH:  # noqa: SIM109 (Numba would build a tuple)
            step_flow.sum_mean_s = step_flow.sum_variance_s2 = 0.0


@kernel
def all_answered(answered_share, step):
    """The share of callers that have all executions of a step answered, where each is with `answered_share`.

    A step with a count below 1 is done at most once.
    """
    if step.count < 1.0:
        return 1.0 - step.executions * (1.0 - answered_share)
    return 1.0 - step.probability * (1.0 - answered_share**step.count)


@phase
def serve_service(world, i):
    """The calls of all endpoints of service `i` meet its pods."""
    service, flow = world.services[i], world.service_flows[i]
    offered, expected, cpu_s, cpu_s2 = 0.0, 0.0, 0.0, 0.0
    held_s, held_s2 = 0.0, 0.0
    last = service.endpoints_first + service.n_endpoints
    for e in range(service.endpoints_first, last):
        endpoint, endpoint_flow = world.endpoints[e], world.endpoint_flows[e]
        calls = endpoint_flow.expected
        offered += endpoint_flow.flow
        expected += calls
        cpu_s += calls * endpoint.cpu_s
        cpu_s2 += calls * endpoint.cpu_s2
        held_s += calls * endpoint_flow.held_s
        held_s2 += calls * (endpoint_flow.held_variance_s2 + endpoint_flow.held_s * endpoint_flow.held_s)
    flow.offered = offered if offered >= LEAST else 0.0
    flow.expected = expected
    if expected > LEAST:
        flow.cpu_s = cpu_s / expected
        flow.cpu_scv = max(0.0, cpu_s2 / (expected * flow.cpu_s * flow.cpu_s) - 1.0)
        flow.held_s = held_s / expected
        flow.held_variance_s2 = max(0.0, held_s2 / expected - flow.held_s * flow.held_s)
    elif flow.cpu_s == 0.0:
        flow.cpu_s, flow.cpu_scv = service.cpu_s, 1.0
    serve_pods(service, world.service_states[i], flow, world.service_windows[i], world.lane.tick_s)
    for e in range(service.endpoints_first, last):
        endpoint_flow = world.endpoint_flows[e]
        if flow.offered > 0.0:  # else what waited is worked off, in the mix in which it came
            endpoint_flow.share = endpoint_flow.flow / flow.offered
        if expected > LEAST:
            endpoint_flow.expected_share = endpoint_flow.expected / expected
        endpoint_flow.passed_on = flow.served * endpoint_flow.share
        endpoint_flow.passed_on_expected = flow.passed_on * endpoint_flow.expected_share


@kernel
def serve_pods(service, state, flow, window, tick_s):
    """One service for one tick: pods serve what they can, the rest waits or is refused."""
    ready, offered, expected = float(state.n_ready), flow.offered, flow.expected
    window.request_core_s += ready * service.request_cores * tick_s
    window.calls += offered
    if ready == 0.0:
        flow.queue_len = flow.unserved = 0.0  # nobody holds these calls any more
        flow.refused_share = 1.0
        flow.served = flow.passed_on = flow.wait_s = flow.wait_variance_s2 = 0.0
        flow.stretch = 1.0
        return
    # Cold pods are slow pods; the balancer gives each as much as it can take.
    effective = ready - state.n_cold * (1.0 - 1.0 / service.cold_factor)
    flow.stretch = ready / effective
    cpu_s = flow.cpu_s * flow.stretch
    capacity = effective * service.cores / flow.cpu_s * tick_s
    servers = service.cores
    waiting_room = ready * max(0.0, service.workers - service.cores + service.queue_limit)
    held_s = cpu_s + flow.held_s
    by_workers = ready * service.workers / held_s * tick_s
    if by_workers < capacity:  # workers stand and wait for others: they are the bottleneck, not the CPU
        capacity = by_workers
        servers = service.workers
        waiting_room = ready * service.queue_limit
    groups, gap_scv = ready, 1.0
    if service.balancing == LEAST_OUTSTANDING:
        servers *= ready
        groups = 1.0
    elif service.balancing == ROUND_ROBIN:
        gap_scv = 1.0 / ready  # every ready-th arrival of a Poisson stream: Erlang gaps
    variability = 0.5 * (gap_scv + flow.cpu_scv)
    queue_before = flow.queue_len
    queue_now, stationary, waits = queue_after(
        queue_before, expected, capacity, servers, groups, variability, waiting_room
    )
    refused = min(expected, max(0.0, queue_now - waiting_room))
    refused = refused * offered / expected if expected > 0.0 else 0.0
    queue_now = min(queue_now, waiting_room)
    wait, wait_variance = wait_moments(queue_before, queue_now, stationary, waits, expected, capacity, tick_s)
    if wait_variance > 0.0:  # nobody waits for more than the whole room
        wait_variance = min(wait_variance, (waiting_room / capacity * tick_s) ** 2 / 12.0)
    flow.wait_s, flow.wait_variance_s2 = wait, wait_variance
    work = flow.unserved + queue_before + offered - refused - queue_now
    served = min(capacity, max(0.0, work))  # the expected queue may run ahead of the draws: they catch up with it
    flow.unserved = work - served
    flow.queue_len = queue_now
    flow.served = served
    flow.passed_on = served if served >= capacity else max(0.0, served - offered + expected)
    flow.refused_share = refused / offered if offered > 0.0 else 0.0
    cpu_core_s = served * cpu_s
    state.ready_cpu_core_s += cpu_core_s / ready
    window.cpu_core_s += cpu_core_s
    window.queue_s += queue_now * tick_s


@phase
def compose(world, e):
    """Adds up what a call of endpoint `e` takes: its own wait and all its steps, those inside first."""
    endpoint, flow = world.endpoints[e], world.endpoint_flows[e]
    mean, variance, extra = 0.0, 0.0, 0.0
    answered, clean = 1.0, 1.0
    stretch = world.service_flows[endpoint.service].stretch if endpoint.service >= 0 else 1.0
    first = endpoint.steps_first
    for back in range(endpoint.n_steps):
        s = first + endpoint.n_steps - 1 - back
        step, step_flow = world.steps[s], world.step_flows[s]
        kind = step.kind
        if kind == CPU:
            time_s = step.mean_s * stretch
            spread_s2 = step.scv * time_s * time_s
        elif kind == PARALLEL or kind == BRANCH:  # noqa: SIM109 (Numba would build a tuple)
            time_s, spread_s2 = step_flow.sum_mean_s, step_flow.sum_variance_s2
        else:
            if kind == CALL_STEP:
                call_flow = world.call_flows[step.target]
                finish_call(world, step.target, step_flow)
                if call_flow.failed_share > 0.0:
                    answered *= all_answered(1.0 - call_flow.failed_share, step)
                if call_flow.clean_share < 1.0:
                    clean *= all_answered(call_flow.clean_share, step)
                extra += step.executions * call_flow.extra_held_s
            time_s, spread_s2 = step_flow.mean_s, step_flow.variance_s2
        if step.executions_variance > 0.0:
            spread_s2 = step.executions * spread_s2 + step.executions_variance * time_s * time_s
        else:
            spread_s2 *= step.executions
        time_s *= step.executions
        if step.parent == NO_PARENT:
            mean += time_s
            variance += spread_s2
        elif kind == BRANCH:
            join(world.step_flows[step.parent], time_s, spread_s2)
        else:
            above = world.step_flows[step.parent]
            above.sum_mean_s += time_s
            above.sum_variance_s2 += spread_s2
    if endpoint.service >= 0:
        own = world.service_flows[endpoint.service]
        flow.held_s = max(0.0, mean - endpoint.cpu_s * stretch) + extra
        flow.held_variance_s2 = max(0.0, variance - (endpoint.cpu_s2 - endpoint.cpu_s**2) * stretch * stretch)
        mean += own.wait_s
        variance += own.wait_variance_s2
        taken = (1.0 - own.refused_share) * (1.0 - flow.error_share)
        answered *= taken
        clean *= taken
        world.service_windows[endpoint.service].latency_s += flow.flow * mean
    flow.mean_s, flow.variance_s2 = mean, variance
    flow.answered_share, flow.clean_share = answered, clean


@phase
def finish_call(world, c, step_flow):
    """What became of the calls of one call step: answered, tried again, or failed for good; and how long one took."""
    call, flow = world.calls[c], world.call_flows[c]
    below = world.endpoint_flows[call.endpoint]
    timed_out = 0.0
    slack_s = call.timeout_s - below.mean_s
    if slack_s < 0.0 or slack_s * slack_s < 16.0 * below.variance_s2:
        timed_out = lognormal_tail(below.mean_s, below.variance_s2, call.timeout_s)
    step_flow.mean_s, step_flow.variance_s2 = below.mean_s, below.variance_s2
    flow.clean_share = below.clean_share * (1.0 - timed_out)
    answered = below.answered_share * (1.0 - timed_out)
    flow.extra_held_s = timed_out * max(0.0, slack_s)
    offered = flow.new_calls + flow.due[0] + flow.due[1] + flow.due[2]
    flow.failed_share = 0.0
    if answered < 1.0 and offered > LEAST:
        again = count_lost_calls(call, flow, world.service_windows[call.service], offered, answered, timed_out,
                                 world.state.tick, world.lane.tick_s)  # fmt: skip
        flow.extra_held_s += again * (call.backoff_s[0] + below.mean_s)
    for attempt in range(len(flow.due)):
        flow.due[attempt] = 0.0


@kernel
def count_lost_calls(call, flow, window, offered, answered, timed_out, tick, tick_s):
    """Books the attempts that failed and sends them round again; returns retries over first attempts [1]."""
    lost = offered * (1.0 - answered)
    if lost <= 1e-12:
        return 0.0
    timeout_share = min(1.0, timed_out / (1.0 - answered))
    failed = schedule_retries(call, flow, tick, tick_s, lost, offered, timeout_share)
    flow.failed_share = min(1.0, failed / max(offered - lost + failed, LEAST))
    window.failed += lost
    return (lost - failed) / flow.new_calls if flow.new_calls > LEAST else 0.0


@kernel
def schedule_retries(call, flow, tick, tick_s, lost, offered, timeout_share):
    """Sends lost calls round again, as far as attempts and the retry budget allow.

    Args:
        lost: attempts that failed in this tick, of `offered`.
        timeout_share: of the lost calls; they come back a timeout later than refused ones.

    Returns:
        Calls that fail for good.
    """
    share = lost / offered
    wanted = 0.0
    for attempt in range(call.max_retries):
        wanted += share * (flow.new_calls if attempt == 0 else flow.due[attempt - 1])
    allowed = call.retry_budget_ratio * flow.new_calls
    if wanted <= 0.0 or allowed <= 0.0:
        return lost
    admitted = min(1.0, allowed / wanted)
    for attempt in range(call.max_retries):
        calls = admitted * share * (flow.new_calls if attempt == 0 else flow.due[attempt - 1])
        refused_ticks = max(1, int(call.backoff_s[attempt] / tick_s + 0.5))
        timeout_ticks = max(1, int((call.backoff_s[attempt] + call.timeout_s) / tick_s + 0.5))
        flow.retries[(tick + refused_ticks) % RETRY_SLOTS, attempt] += calls * (1.0 - timeout_share)
        flow.retries[(tick + timeout_ticks) % RETRY_SLOTS, attempt] += calls * timeout_share
    flow.retries_waiting += admitted * wanted
    return max(0.0, lost - admitted * wanted)
