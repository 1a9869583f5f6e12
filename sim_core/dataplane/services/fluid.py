"""Services in the fluid engine: calls flow down the graph, pods serve, and sojourn times are added up on the way back.

A tick goes twice over the endpoints. Downwards, callers first: the calls that reach an endpoint, what its pods serve of
them, and what each of its steps begins. Upwards, callees first: how long a call takes and whether it is answered.
"""

from __future__ import annotations

import math

from sim_core.compiled import glue, kernel, phase
from sim_core.dataplane.apart import tell_overload_apart, tell_served_at_once
from sim_core.dataplane.cold import serve_fleet
from sim_core.dataplane.curve import call_speed
from sim_core.dataplane.latency import slowest_branch
from sim_core.dataplane.queueing import cut_at, mixture, third_cumulant_factor
from sim_core.dataplane.services.deadlines import ends_at_deadline, meet_deadline
from sim_core.dataplane.services.guards import guard_pods, has_guard
from sim_core.dataplane.services.kinds import BRANCH, CALL_STEP, CPU, NO_PARENT, PARALLEL, RETRY_SLOTS, WAIT
from sim_core.dataplane.serving import blocked_at, stir_of
from sim_core.dataplane.stationary import stretch_of
from sim_core.tables import rows

_SAME = 2e-3  # relative change of what a call costs
_FAR2 = 150.0  # squared standard deviations: further out, nobody gives up
_FEW = 1e-4  # of calls that time out: that few do not make an overload
_SQRT_2 = math.sqrt(2.0)
LEAST = 1e-100  # of requests, calls, queries: fewer are none, for products with them would vanish, and ratios overflow


@phase
def begin(world):
    """Fills the zeroed flows of a lane: steps that always take the same."""
    for i in range(len(world.services)):
        begin_station(world.services[i], world.service_flows[i], world.lane.tick_s)
        world.service_flows[i].guarded = has_guard(world.services[i], world.calls)
    for s in range(len(world.steps)):
        step = world.steps[s]
        if step.kind == WAIT:
            world.step_flows[s].mean_s = step.mean_s
            world.step_flows[s].variance_s2 = step.scv * step.mean_s**2
            world.step_flows[s].third_s3 = third_cumulant_factor(step.scv) * step.mean_s**3
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


@kernel
def begin_station(service, flow, tick_s):
    """What the station of a service is told once."""
    load = flow.load
    load.cold_factor, load.cores = service.cold_factor, service.cores
    load.workers, load.queue_limit = service.workers, service.queue_limit
    # Until the first calls say which they are; a service that no request enters has none.
    load.cpu_s, load.cpu_scv = service.cpu_s if service.cpu_s > 0.0 else tick_s, 1.0
    load.balancing, load.nodes = service.balancing, service.balancer_nodes
    load.sticky_share = service.sticky_share
    load.sharing, load.quota_period_s = service.sharing, service.quota_period_s
    load.timeout_s, load.tick_s = service.timeout_s, tick_s
    flow.station.cell = flow.cold.station.cell = -1
    flow.stretch = 1.0


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
        elif kind == BRANCH:
            step_flow.sum_mean_s = step_flow.sum_variance_s2 = step_flow.sum_third_s3 = 0.0


@kernel
def all_answered(answered_share, step):
    """The share of callers that have all executions of a step answered, where each is with `answered_share`.

    A step with a count below 1 is done at most once.
    """
    if step.count < 1.0:
        return 1.0 - step.executions * (1.0 - answered_share)
    if step.count == 1.0:
        return 1.0 - step.probability * (1.0 - answered_share)
    return 1.0 - step.probability * (1.0 - answered_share**step.count)


@glue
def serve_service(world, i):
    """The calls of all endpoints of service `i` meet its pods."""
    service, flow = world.services[i], world.service_flows[i]
    load = flow.load
    mix_calls(service, load, world.endpoints, world.endpoint_flows)
    if flow.guarded:
        pods, now_s = rows(world.pods, service.pods_first, service.n_pods), world.state.tick * world.lane.tick_s
        guard_pods(service, world.service_states[i], flow, pods, world.calls, world.call_flows, now_s)
    serve_pods(world.known_points, world.known_curves, service, world.service_states[i], flow, world.service_windows[i])
    pass_on(service, flow, world.endpoint_flows)


@kernel
def pass_on(service, flow, flows):
    """Shares the calls that were served among the endpoints, each by its part of those in the pods: the ones that were
    there and the ones that came. Whatever was offered goes on at last, also when no more calls come, or others."""
    station, cold, answer, taken = flow.station, flow.cold.station, flow.answer, 1.0 - flow.refused_share
    inside, expected = 0.0, 0.0
    for e in range(service.endpoints_first, service.endpoints_first + service.n_endpoints):
        own = flows[e]
        own.inside += taken * own.flow
        own.inside_expected += taken * own.expected
        inside += own.inside
        expected += own.inside_expected
    left_expected = station.open + cold.open
    left = max(0.0, left_expected + station.unserved + cold.unserved)
    for e in range(service.endpoints_first, service.endpoints_first + service.n_endpoints):
        own = flows[e]
        share = share_of(own.inside, inside)
        own.passed_on, own.inside = answer.served * share, left * share
        share = share_of(own.inside_expected, expected)
        own.passed_on_expected, own.inside_expected = answer.passed_on * share, left_expected * share


@kernel
def share_of(part, whole):
    """A part over the whole, 0 where there is none; most services have one endpoint, and divisions take long."""
    if whole <= LEAST:
        return 0.0
    return 1.0 if part == whole else part / whole


@kernel
def mix_calls(service, load, endpoints, flows):
    """Tells the station of a service what comes: the calls of all its endpoints together, and what one takes."""
    arrivals, expected, cpu_s, cpu_s2 = 0.0, 0.0, 0.0, 0.0
    held, held2, held3 = 0.0, 0.0, 0.0  # moments of the time beside CPU
    for e in range(service.endpoints_first, service.endpoints_first + service.n_endpoints):
        endpoint, flow = endpoints[e], flows[e]
        calls, mean = flow.expected, flow.held_s
        square = flow.held_variance_s2 + mean * mean
        arrivals += flow.flow
        expected += calls
        cpu_s += calls * endpoint.cpu_s
        cpu_s2 += calls * (endpoint.cpu_variance_s2 + endpoint.cpu_s * endpoint.cpu_s)
        held += calls * mean
        held2 += calls * square
        held3 += calls * (flow.held_third_s3 + mean * (3.0 * square - 2.0 * mean * mean))
    load.arrivals, load.expected = arrivals, expected
    if expected > LEAST:
        share = 1.0 / expected
        cpu_s *= share
        cpu_scv = max(0.0, cpu_s2 * share / (cpu_s * cpu_s) - 1.0)
        # A station is computed anew for other calls: a mix that has hardly moved is the same one.
        if abs(cpu_s - load.cpu_s) > _SAME * cpu_s or abs(cpu_scv - load.cpu_scv) > _SAME * (1.0 + cpu_scv):
            load.cpu_s, load.cpu_scv = cpu_s, cpu_scv
        held, held2, held3 = held * share, held2 * share, held3 * share
        load.held_s = held
        load.held_variance_s2 = max(0.0, held2 - held * held)
        load.held_third_s3 = held3 - held * (3.0 * held2 - 2.0 * held * held)


@glue
def serve_pods(known_points, known_curves, service, state, flow, window):
    """One service for one tick: pods serve what they can, the rest waits or is refused."""
    load, answer = flow.load, flow.answer
    if not flow.guarded:
        load.ready, load.cold = state.n_ready, state.n_cold
    serve_fleet(known_points, known_curves, load, flow.station, flow.cold, state.n_warmed, answer)
    arrivals = load.arrivals
    flow.refused_share = answer.refused / arrivals if arrivals > LEAST else 0.0
    if state.n_ready == 0:
        flow.refused_share = 1.0
    flow.stretch = stretch_of(load) if flow.cold.share == 0.0 else 1.0 / call_speed(load)
    window.request_core_s += state.n_ready * service.request_cores * load.tick_s
    window.calls += arrivals
    window.cpu_core_s += answer.cpu_core_s
    window.queue_s += answer.waiting * load.tick_s
    if state.n_ready > 0:
        state.ready_cpu_core_s += answer.cpu_core_s / state.n_ready


@phase
def compose(world, e):
    """Adds up what a call of endpoint `e` takes: its own wait and all its steps, those inside first."""
    endpoint, flow = world.endpoints[e], world.endpoint_flows[e]
    mean, variance, third, extra = 0.0, 0.0, 0.0, 0.0
    lost_mean, lost_variance, lost_third = 0.0, 0.0, 0.0
    answered, clean, in_time = 1.0, 1.0, 1.0
    apart_step, apart_spread_s2 = -1, 0.0
    stretch = world.service_flows[endpoint.service].stretch if endpoint.service >= 0 else 1.0
    for back in range(endpoint.n_steps):
        s = endpoint.steps_first + endpoint.n_steps - 1 - back
        step, step_flow = world.steps[s], world.step_flows[s]
        kind = step.kind
        if kind == CPU:
            step_flow.mean_s = step.mean_s * stretch
            step_flow.variance_s2 = step.scv * step_flow.mean_s**2
            step_flow.third_s3 = third_cumulant_factor(step.scv) * step_flow.mean_s**3
        elif kind == CALL_STEP:
            call_flow = world.call_flows[step.target]
            finish_call(world, step.target, step_flow)
            if call_flow.failed_share > 0.0:
                answered *= all_answered(1.0 - call_flow.failed_share, step)
            if call_flow.clean_share < 1.0:
                clean *= all_answered(call_flow.clean_share, step)
            extra += step.executions * call_flow.extra_held_s
            if call_flow.cut.apart.share > 0.0 and step.parent == NO_PARENT and step.executions == 1.0:
                spread_s2 = spread_of(call_flow.cut.apart, step_flow.mean_s)
                if spread_s2 > apart_spread_s2 and step.executions_variance == 0.0:
                    apart_step, apart_spread_s2 = s, spread_s2
        elif kind == BRANCH:
            continue  # the PARALLEL around it asks for it
        elif kind == PARALLEL:
            slowest_branch(world.steps, world.step_flows, world.branch_flows, s)
            step_flow.mean_s, step_flow.variance_s2 = step_flow.sum_mean_s, step_flow.sum_variance_s2
            step_flow.third_s3 = step_flow.sum_third_s3
        time_s, spread_s2, skew_s3 = executed(step, step_flow.mean_s, step_flow.variance_s2, step_flow.third_s3)
        if step.parent == NO_PARENT:
            mean += time_s
            variance += spread_s2
            third += skew_s3
            if kind == CALL_STEP and world.call_flows[step.target].given_up > 0.0:
                below = world.endpoint_flows[world.calls[step.target].endpoint]
                whole_s, whole_s2, whole_s3 = executed(
                    step,
                    below.mean_s + below.lost_mean_s,
                    below.variance_s2 + below.lost_variance_s2,
                    below.third_s3 + below.lost_third_s3,
                )
                lost_mean += whole_s - time_s
                lost_variance += whole_s2 - spread_s2
                lost_third += whole_s3 - skew_s3
                in_time *= all_answered(1.0 - world.call_flows[step.target].given_up, step)
        else:
            above = world.step_flows[step.parent]
            above.sum_mean_s += time_s
            above.sum_variance_s2 += spread_s2
            above.sum_third_s3 += skew_s3
    if endpoint.service >= 0:
        own = world.service_flows[endpoint.service]
        hold(endpoint, flow, own, mean, variance, third, extra)
        wait_for_pod(endpoint, flow, own, mean, variance, third)
        taken = (1.0 - own.refused_share) * (1.0 - flow.error_share)
        answered *= taken
        clean *= taken
        world.service_windows[endpoint.service].latency_s += flow.flow * flow.mean_s
    else:
        flow.mean_s, flow.variance_s2, flow.third_s3 = mean, variance, third
        flow.apart.share = 0.0
    if apart_step >= 0 and apart_spread_s2 > spread_of(flow.apart, flow.mean_s):
        tell_apart(flow, world.call_flows[world.steps[apart_step].target].cut.apart, world.step_flows[apart_step])
    flow.answered_share, flow.clean_share = answered, clean
    flow.given_up = 1.0 - in_time
    # (Shapes that are split again after a cut may keep a little more than there was.)
    flow.lost_mean_s, flow.lost_variance_s2 = max(0.0, lost_mean), max(0.0, lost_variance)
    flow.lost_third_s3 = lost_third


@kernel
def executed(step, mean, variance, third):
    """Cumulants of a step done its random number of times, from those of one execution."""
    number = step.executions
    if step.executions_variance > 0.0:
        third = number * third + 3.0 * step.executions_variance * mean * variance + step.executions_third * mean**3
        return number * mean, number * variance + step.executions_variance * mean * mean, third
    return number * mean, number * variance, number * third


@kernel
def spread_of(apart, mean_s):
    """What calls that are told APART add to the variance of all, whose mean is `mean_s`, by being elsewhere [s^2]."""
    return apart.share * (apart.mean_s - mean_s) ** 2


@kernel
def tell_apart(flow, apart, step_flow):
    """Tells those calls apart that met, in this step, calls that are; others that were so count among the rest."""
    own = flow.apart
    own.share = apart.share
    own.mean_s = flow.mean_s + apart.mean_s - step_flow.mean_s
    own.variance_s2 = max(0.0, flow.variance_s2 + apart.variance_s2 - step_flow.variance_s2)
    own.third_s3 = flow.third_s3 + apart.third_s3 - step_flow.third_s3


@kernel
def hold(endpoint, flow, own, mean, variance, third, extra):
    """The time that a call holds its worker beside its CPU time, in the next tick.

    Args:
        mean, variance, third: of all its steps; `extra`: what timeouts and retries of its own calls add [s].
    """
    cpu_s = endpoint.cpu_s * own.stretch
    cpu_variance_s2 = endpoint.cpu_variance_s2 * own.stretch**2
    flow.held_s = max(0.0, mean - cpu_s) + extra
    flow.held_variance_s2 = max(0.0, variance - cpu_variance_s2)
    cpu_scv = cpu_variance_s2 / (cpu_s * cpu_s) if cpu_s > 0.0 else 0.0
    flow.held_third_s3 = third - third_cumulant_factor(cpu_scv) * cpu_s**3


@kernel
def wait_for_pod(endpoint, flow, own, mean, variance, third):
    """The sojourn of a call: its steps, and what its pod lets it wait for a worker and for the CPU."""
    if own.cold.share > 0.0:
        _wait_for_either(endpoint, flow, own, mean, variance, third)
        return
    here = own.station.met
    flow.apart.share = 0.0
    flow.mean_s = mean + own.answer.wait_s
    flow.variance_s2 = max(0.0, variance + own.answer.wait_variance_s2 + here.extra_variance_s2)
    flow.third_s3 = third + here.wait_third_s3 + here.extra_third_s3
    if own.station.capacity == 1.0 and endpoint.cpu_s > 0.0:
        if here.utilization > 1.0:
            tell_overload_apart(own.load, here, flow, endpoint.cpu_s, endpoint.cpu_variance_s2 / endpoint.cpu_s**2)
        else:
            tell_served_at_once(own.load, here.utilization, flow, mean, variance, third)


@kernel
def _wait_for_either(endpoint, flow, own, mean, variance, third):
    """The same where cold pods are told apart; `mean`, `variance`, and `third` are those of steps in a warm pod."""
    warm, cold, apart = own.station.met, own.cold.station.met, flow.apart
    stretch, cold_stretch, cpu_s = own.stretch, own.cold.stretch, endpoint.cpu_s
    skewness = third_cumulant_factor(endpoint.cpu_variance_s2 / cpu_s**2) if cpu_s > 0.0 else 0.0
    more_s2 = endpoint.cpu_variance_s2 * (cold_stretch**2 - stretch**2)
    more_s3 = skewness * cpu_s**3 * (cold_stretch**3 - stretch**3)
    apart.share = own.cold.share
    apart.mean_s = mean + cold.wait_s + cpu_s * (cold_stretch - stretch)
    apart.variance_s2 = max(0.0, variance + cold.wait_variance_s2 + cold.extra_variance_s2 + more_s2)
    apart.third_s3 = third + cold.wait_third_s3 + cold.extra_third_s3 + more_s3
    mean += warm.wait_s
    variance = max(0.0, variance + warm.wait_variance_s2 + warm.extra_variance_s2)
    third += warm.wait_third_s3 + warm.extra_third_s3
    flow.mean_s, flow.variance_s2, flow.third_s3 = mixture(
        apart.share, mean, variance, third, apart.mean_s, apart.variance_s2, apart.third_s3
    )


@phase
def finish_call(world, c, step_flow):
    """What became of the calls of one call step: answered, tried again, or failed for good; and how long one took."""
    call, flow = world.calls[c], world.call_flows[c]
    below = world.endpoint_flows[call.endpoint]
    step_flow.mean_s, step_flow.variance_s2, step_flow.third_s3 = below.mean_s, below.variance_s2, below.third_s3
    timed_out = 0.0
    slack_s = call.timeout_s - below.mean_s
    if slack_s < 0.0 or slack_s * slack_s < _FAR2 * below.variance_s2 or below.apart.share > 0.0:
        timed_out = give_up(call.timeout_s, below, flow.cut, step_flow)
    else:
        flow.cut.apart_share = flow.cut.apart.share = 0.0
    callee = world.service_flows[call.service]
    told = False  # whether the times of those in time are known, with no distribution of all to cut
    if callee.drops_late and below.apart.share <= 0.0:
        places = world.services[call.service].queue_limit
        timed_out = meet_deadline(callee.load, callee.station, places, call.timeout_s, timed_out, step_flow)
        told = ends_at_deadline(callee.load, callee.station, call.timeout_s)
    given_up = 0.0 if told else timed_out
    flow.clean_share = below.clean_share * (1.0 - timed_out)
    flow.given_up = 1.0 - (1.0 - below.given_up) * (1.0 - given_up)
    answered = below.answered_share * (1.0 - timed_out)
    flow.extra_held_s = timed_out * (call.timeout_s - step_flow.mean_s)
    offered = flow.new_calls + flow.due[0] + flow.due[1] + flow.due[2]
    flow.failed_share = 0.0
    flow.uneven = 0.0
    if call.ejection_failures > 0:
        callee.attempts += offered
        callee.failures += offered * (1.0 - answered)
    if callee.drops_late:  # what found no room was given up by its caller
        late = callee.refused_share * (1.0 - timed_out)
        flow.extra_held_s += late * call.timeout_s
        timed_out += late
    if answered < 1.0 and offered > LEAST:
        common = remembered = displaced = 0.0
        if timed_out > _FEW:
            common, remembered, displaced = what_retries_meet(call, callee, below.variance_s2, answered, timed_out)
        again = count_lost_calls(call, flow, world.service_windows[call.service], offered, answered, timed_out, common,
                                 remembered, displaced, world.state.tick, world.lane.tick_s)  # fmt: skip
        flow.extra_held_s += again * (call.backoff_s[0] + step_flow.mean_s)
        if flow.uneven > 0.0:
            callee.station.uneven += flow.uneven * remembered
    for attempt in range(len(flow.due)):
        flow.due[attempt] = 0.0


@kernel
def give_up(timeout_s, below, cut, step_flow):
    """The share of calls that are not answered in time [1]; `step_flow` becomes the time of the others."""
    cut_at(cut, below.shape, below.apart_piece, below.apart, below.mean_s, below.variance_s2, below.third_s3, timeout_s)
    if cut.within < 1.0:
        step_flow.mean_s, step_flow.variance_s2 = cut.kept_s, cut.kept_variance_s2
        step_flow.third_s3 = cut.kept_third_s3
    return 1.0 - cut.within


@kernel
def count_lost_calls(call, flow, window, offered, answered, timed_out, common, remembered, displaced, tick, tick_s):
    """Books the attempts that failed and sends them round again; returns retries over first attempts [1].

    Args:
        common, remembered, displaced: as in `schedule_retries`.
    """
    lost = offered * (1.0 - answered)
    if lost <= 1e-12:
        return 0.0
    timeout_share = min(1.0, timed_out / (1.0 - answered))
    failed = schedule_retries(call, flow, tick, tick_s, lost, offered, timeout_share, common, remembered, displaced)
    flow.failed_share = min(1.0, failed / max(offered - lost + failed, LEAST))
    window.failed += lost
    return (lost - failed) / flow.new_calls if flow.new_calls > LEAST else 0.0


@kernel
def in_common(common_variance_s2, variance_s2):
    """The correlation between the fates of two calls of a tick: whether they are answered in time [1].

    Of two normal variables with a common part, cut at the median (Sheppard's formula).
    """
    if common_variance_s2 >= variance_s2:
        return 1.0
    return math.asin(common_variance_s2 / variance_s2) / (0.5 * math.pi)


@kernel
def what_retries_meet(call, callee, variance_s2, answered, timed_out):
    """The arguments `common`, `remembered`, and `displaced` of `schedule_retries`.

    Lines have to do with timeouts, and with what full pods refuse; a breaker before them may refuse more.

    Args:
        callee: SERVICE_FLOW.
        variance_s2: of the calls' sojourn [s^2].
        answered, timed_out: shares of the attempts [1].
    """
    load, station, refused, lost = callee.load, callee.station, callee.refused_share, 1.0 - answered
    remembered = math.exp(-(call.timeout_s + call.backoff_s[0]) / max(LEAST, station.memory_s))
    full = min(refused, blocked_at(station, station.utilization))
    by_lines = timed_out + (1.0 - timed_out) * full
    common = in_common(station.common_variance_s2, variance_s2)
    common = min(1.0, common * by_lines * (1.0 - by_lines) / (lost * max(answered, 1e-9)))
    late_share = min(1.0, timed_out / lost)
    displaced = late_share * full_first(load, station, late_line(load, call.timeout_s))
    if full > 0.0:
        displaced += (1.0 - late_share) * full / refused * full_first(load, station, load.workers + load.queue_limit)
    return common, remembered, displaced


@kernel
def late_line(load, timeout_s):
    """Calls in a pod from which on others time out [1]: as many as take so long, less a standard deviation of their number."""
    late = min(load.workers + load.queue_limit, timeout_s * load.cores / load.cpu_s)
    return max(0.0, late - math.sqrt(late * max(1.0, load.cpu_scv)))


@kernel
def full_first(load, station, calls):
    """The share of pods with so many calls that are full before they are empty, beyond what is so on the mean [1].

    What joins those only keeps out what comes later. Of a diffusion with drift between two ends; on the mean it is what
    blocks more of more calls.
    """
    room = load.workers + load.queue_limit
    part = min(1.0, calls / room)
    drift = min(500.0, max(-500.0, 2.0 * (1.0 - station.utilization) / stir_of(load) * room))
    if abs(drift) > 1e-6:
        part = math.expm1(drift * part) / math.expm1(drift)
    below, above = station.below, station.above
    more = above.utilization * above.blocked - below.utilization * below.blocked
    return max(0.0, part - more / max(LEAST, above.utilization - below.utilization))


@kernel
def within_budget(share, allowed, common):
    """E min(X, allowed), where X is the share of calls that are lost in a tick, with mean `share`.

    Calls that are lost together, in some ticks all and in others none, do not get what the budget allowed in the others. X
    counts as beta distributed with variance `common` share (1 - share): min(share, allowed) where calls are lost each on
    its own, share * allowed where all are or none.
    """
    allowed = min(1.0, allowed)
    most, least = min(share, allowed), share * allowed
    if common <= 0.0 or most <= 0.0:
        return most
    apart = math.log(share / allowed)
    power = 0.5 + (1.1 * apart if apart > 0.0 else -0.25 * apart)
    return most - (most - least) * common ** min(power, 4.0)


@kernel
def deviation_within(share, allowed, common, given):
    """Standard deviation of min(X, allowed), X as in `within_budget`; `given` is its mean."""
    deviation = math.sqrt(common * share * max(0.0, 1.0 - share))
    below = 0.5 * math.erfc((share - allowed) / (deviation * _SQRT_2))  # P(X < allowed), X taken for normal
    return min(deviation * below, math.sqrt(given * max(0.0, min(1.0, allowed) - given)))


@kernel
def alike(share):
    """Correlation of the length of a line with whether it is one of the longest `share` of lines, which lose calls [1].

    Of lines that are exponentially distributed; of more than half of the lines, as of full ones, whose rooms are.
    """
    few = min(share, 1.0 - share)
    return -math.log(few) * math.sqrt(few / (1.0 - few)) if few > 0.0 else 0.0


@kernel
def schedule_retries(call, flow, tick, tick_s, lost, offered, timeout_share, common, remembered, displaced):
    """Sends lost calls round again, as far as attempts and the retry budget allow.

    A retry that meets what its first attempt met is lost more often than others: with the share of lost calls s, by a
    correlation c of s + c (1 - s).

    Args:
        lost: attempts that failed in this tick, of `offered`.
        timeout_share: of the lost calls; they come back a timeout later than refused ones.
        common: correlation of the fates of two calls of the same tick [1].
        remembered: what is left of it when a call that timed out comes back [1].
        displaced: the share of the calls that meet the same again which only keep others out [1].

    Returns:
        Calls that fail for good.
    """
    share = lost / offered
    retried = offered - flow.new_calls
    kept = common * remembered * (1.0 - share)
    lost_again = share + kept
    if retried * lost_again > lost or flow.new_calls <= LEAST:
        lost_again = lost / retried
    first_lost = max(0.0, lost - lost_again * retried)
    wanted = first_lost if call.max_retries > 0 else 0.0
    for attempt in range(1, call.max_retries):
        wanted += lost_again * flow.due[attempt - 1]
    allowed = call.retry_budget_ratio * flow.new_calls
    if wanted <= 0.0 or allowed <= 0.0:
        return lost
    given = within_budget(share, share * allowed / wanted, common)
    admitted = given / share
    if common > 0.0:
        flow.uneven = wanted / share * deviation_within(share, share * allowed / wanted, common, given) * alike(share)
    admitted *= 1.0 - kept * displaced
    for attempt in range(call.max_retries):
        calls = admitted * (first_lost if attempt == 0 else lost_again * flow.due[attempt - 1])
        refused_ticks = max(1, int(call.backoff_s[attempt] / tick_s + 0.5))
        timeout_ticks = max(1, int((call.backoff_s[attempt] + call.timeout_s) / tick_s + 0.5))
        flow.retries[(tick + refused_ticks) % RETRY_SLOTS, attempt] += calls * (1.0 - timeout_share)
        flow.retries[(tick + timeout_ticks) % RETRY_SLOTS, attempt] += calls * timeout_share
    flow.retries_waiting += admitted * wanted
    return max(0.0, lost - admitted * wanted)
