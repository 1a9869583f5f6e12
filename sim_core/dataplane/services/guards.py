"""What stands between callers and pods, as the fluid engine sees it: each is another number of pods or another room.

* Slow start: a fresh pod counts as the part of a pod whose load it is given.
* Outlier ejection: pods that are out do not count. One is out when so many attempts in a row have failed.
* Circuit breaker: as many calls as its nodes may have open together are the room of all pods.
* Deadlines that are passed on: a line is no longer than what workers take within the timeout, for they drop the rest;
  who of those they take is answered in time, `deadlines` says.

All are off by default; the request engine plays them call by call, and is what they are held to.
"""

from __future__ import annotations

import math

from sim_core.compiled import kernel
from sim_core.controlplane.pods import READY_TRUE
from sim_core.dataplane.stationary import effective_slowness, keeps_equal

_LEAST_WEIGHT = 0.1  # of a fresh pod; Envoy's default min_weight_percent
_STEP = 0.25  # pods, calls: what stations are told moves in such steps, so that few differ
_MOST_FAILURES = 1.0 - 1e-9  # share of attempts that fail


@kernel
def guard_pods(service, state, flow, pods, calls, call_flows, now_s):
    """Sets how many pods LOAD has, and their room.

    Args:
        service: SERVICE; `flow`: its SERVICE_FLOW, whose `load` tells the calls of this tick.
        pods: view of the pods of the service.
        calls, call_flows: views of the lane's edges.
    """
    load = flow.load
    load.ready, load.cold = state.n_ready, state.n_cold
    if service.slow_start_s > 0.0:
        _start_slowly(service, state, load, pods, now_s)
    _eject(service, state, flow, calls, load.tick_s)
    load.ready = max(1.0, load.ready) if state.n_ready > 0 else 0.0
    load.cold = min(load.cold, load.ready)
    load.workers, load.queue_limit, load.timeout_s = service.workers, service.queue_limit, service.timeout_s
    flow.drops_late = False
    if state.n_ready > 0 and load.expected > 0.0:
        _limit_room(service, flow, calls, call_flows)


@kernel
def _start_slowly(service, state, load, pods, now_s):
    """Counts each ready pod by its weight."""
    ready, cold = 0.0, 0.0
    for index in range(state.n_pods):
        pod = pods[index]
        if pod.ready == READY_TRUE and not pod.deleting:
            weight = weight_in_slow_start(pod.ready_transition_s, service.slow_start_s, now_s)
            ready += weight
            if pod.cold:
                cold += weight
    load.ready, load.cold = _STEP * round(ready / _STEP), _STEP * round(cold / _STEP)


@kernel
def weight_in_slow_start(ready_s, slow_start_s, now_s):
    """Share of a full pod's load that a pod is given: from 0.1 on, straight up to 1 over its slow start."""
    return min(1.0, _LEAST_WEIGHT + (1.0 - _LEAST_WEIGHT) * max(0.0, now_s - ready_s) / slow_start_s)


@kernel
def _eject(service, state, flow, calls, tick_s):
    """Takes pods out that have failed so many times in a row, and lets those back whose time is over.

    Attempts fail each on its own with the share p of the tick before: k in a row come after (1 - p^k) / ((1 - p) p^k) of them
    on the mean. A pod that is out for the n-th time stays for n times as long.
    """
    share = min(_MOST_FAILURES, flow.failures / flow.attempts) if flow.attempts > 0.0 else 0.0
    per_s = flow.attempts / (max(1.0, flow.load.ready) * tick_s)
    flow.attempts = flow.failures = 0.0
    for c in range(len(calls)):
        call = calls[c]
        if call.service == service.index and call.ejection_failures > 0:
            most = math.floor(call.ejection_share * state.n_ready + 1e-9)
            times = 1.0 + flow.ejections / max(1.0, state.n_ready)
            flow.ejected *= math.exp(-tick_s / (call.ejection_s * times))
            if share > 0.0:
                in_a_row = share**call.ejection_failures
                chance = -math.expm1(-tick_s * per_s * (1.0 - share) * in_a_row / (1.0 - in_a_row))
                more = max(0.0, min(most - flow.ejected, (state.n_ready - flow.ejected) * chance))
                flow.ejected += more
                flow.ejections += more
            flow.ejected = min(flow.ejected, most)
            flow.load.ready -= _STEP * round(flow.ejected / _STEP)
            return


@kernel
def _limit_room(service, flow, calls, call_flows):
    """Narrows the room of a pod to what breakers and deadlines leave of it."""
    load, station = flow.load, flow.station
    unit = load.cpu_s * effective_slowness(load)
    served_per_s = load.cores / unit * (station.capacity if station.cell >= 0 else 1.0)
    offered, most_open, patience_s = 0.0, math.inf, 0.0
    for c in range(len(calls)):
        if calls[c].service == service.index:
            offered += call_flows[c].new_calls + call_flows[c].due.sum()
    for c in range(len(calls)):
        call = calls[c]
        if call.service == service.index:
            own = call_flows[c].new_calls + call_flows[c].due.sum()
            if own > 0.0:
                most_open = min(most_open, load.nodes * call.breaker_requests * offered / own)
                patience_s = max(patience_s, call.timeout_s if call.pass_deadline else math.inf)
    line = load.queue_limit
    if 0.0 < patience_s < math.inf and served_per_s * patience_s < line:
        line = _STEP * math.ceil(served_per_s * patience_s / _STEP)
        flow.drops_late, load.timeout_s = True, math.inf  # nobody in the line has given up
    # Calls that have timed out are not open any more: a breaker counts no more than come within a timeout.
    room = most_open / load.ready
    load.most_open = 0.0
    if room < served_per_s * service.timeout_s and not keeps_equal(load):
        load.most_open = room
    elif room < load.workers + line and room < served_per_s * service.timeout_s:
        load.workers = min(load.workers, max(1.0, room))
        line = max(0.0, room - load.workers)
        flow.drops_late, load.timeout_s = False, service.timeout_s
    load.queue_limit = line


@kernel
def has_guard(service, calls):
    """Whether anything of this is on for the calls of a service."""
    if service.slow_start_s > 0.0:
        return True
    for c in range(len(calls)):
        call = calls[c]
        if call.service == service.index and (
            call.pass_deadline or call.breaker_requests < math.inf or call.ejection_failures > 0
        ):
            return True
    return False
