"""One station of the fluid engine: a queue whose length relaxes to the stationary value and grows under overload."""

from __future__ import annotations

import math

from sim_core.compiled import kernel


@kernel
def probability_of_waiting(utilization, servers):
    """The share of requests that find all servers busy, M/M/c, utilization in [0, 1).

    rho ** (sqrt(2 (c + 1)) - 1): exact for one server.
    Source: Sakasegawa, "An approximation formula L_q = a rho^b / (1 - rho)", Ann. Inst. Stat. Math. 29 (1977).
    """
    if utilization <= 0.0:
        return 0.0
    exponent = math.sqrt(2.0 * (servers + 1.0)) - 1.0
    # exp(-16) of a request waits: not worth two transcendental functions.
    if exponent * (1.0 - utilization) > 16.0:
        return 0.0
    return math.exp(exponent * math.log(utilization))


@kernel
def _growth(queue_len, variance):
    """How much a queue grows by diffusion in a tick; from empty by one standard deviation of the tick's flow."""
    if 4.0 * queue_len * queue_len >= variance:
        return variance / (2.0 * queue_len)
    return math.sqrt(variance)


@kernel
def queue_after(queue_len, arrivals, capacity, servers, groups, variability, room=math.inf):
    """The queue at the end of a tick, and how it is made.

    Below saturation the queue goes to its stationary length L = groups * Pw rho / (1 - rho) * variability
    (Allen-Cunneen with Sakasegawa's Pw); it cannot get there faster than by diffusion (a reflected Brownian motion
    grows by sigma^2 / 2q) nor drain faster than the spare capacity. Above, it grows by what arrives too much. The two
    meet without a jump at rho = 1. Queues are expected values: fractions of a request are meant.

    Diffusion knows no single requests: over a tick of few of them, or with a large scv, it would let servers idle while
    there is work. A queue therefore grows by no more than a single server without waiting room turns away,
    rho / (1 + rho) of what arrives (Erlang's loss formula, which holds for any service time); and above saturation of c
    servers no more than 1 / (rho - 1) are idle (as their number goes up and down, an M/M/1 queue of load 1 / rho).

    Args:
        queue_len: waiting at the start of the tick [requests].
        arrivals, capacity: that arrive and that could be served in the tick [requests].
        servers: of one group [servers].
        groups: equal groups that share the load, each with a queue of its own (1 = one pooled queue).
        variability: (scv of the gaps + scv of the service times) / 2 [1].
        room: places to wait. Near saturation the queue is exponential, cut off there: mean L - room / (exp(room / L) - 1).

    Returns:
        (queue_len at the end, stationary queue_len or a negative number where there is none, share that waits).
    """
    utilization = arrivals / capacity
    variance = (arrivals + capacity) * variability
    if utilization >= 1.0:
        # A queue that drifts off from empty is reflected there no more: what stands in it keeps the servers busy.
        off = arrivals - capacity
        growth = _growth(queue_len, variance) * math.exp(-2.0 * off * queue_len / variance)
        growth = min(growth, capacity / (1.0 + utilization))
        if growth * servers * off > capacity * capacity:
            growth = capacity * capacity / (servers * off)
        return queue_len + off + growth, -1.0, 1.0
    waits = probability_of_waiting(utilization, servers)
    stationary = groups * waits * utilization / (1.0 - utilization) * variability
    if stationary > 0.1 * room:
        if stationary > 1e6 * room:
            stationary = 0.5 * room  # the limit; the difference would be lost in rounding
        else:
            stationary -= room / math.expm1(room / stationary)
    if queue_len <= stationary:
        grown = stationary
        if stationary * stationary > variance:  # else within reach of one tick from any shorter queue
            grown = min(stationary, queue_len + _growth(queue_len, variance))
        if (grown - queue_len) * (1.0 + utilization) > arrivals * utilization:
            grown = queue_len + arrivals * utilization / (1.0 + utilization)
        return grown, stationary, waits
    drifted = queue_len + arrivals - capacity + _growth(queue_len, variance)
    return max(stationary, min(drifted, queue_len)), stationary, waits


@kernel
def wait_moments(queue_before, queue_now, stationary, waits, arrivals, capacity, tick_s):
    """Mean [s] and variance [s^2] of the waiting time of those that arrive during a tick.

    The part of the queue that is stationary follows Little's law, and its waits are zero or exponential; the part
    beyond is work that stands in front of every arrival, gone at the rate of the capacity.
    """
    queue_len = 0.5 * (queue_before + queue_now)
    if queue_len <= 0.0 or arrivals <= 0.0:
        return 0.0, 0.0
    if stationary == 0.0:
        return queue_len / capacity * tick_s, 0.0
    if stationary < 0.0:
        # A reflected random walk is spread like its mean while short, and by its diffusion once it has drifted off.
        spread2 = min(queue_len * queue_len, 4.0 * (arrivals + capacity))
        return queue_len / capacity * tick_s, spread2 * (tick_s / capacity) ** 2
    # A queue of stationary length obeys Little's law, usual / arrivals. One that is held shorter (it still grows, or its
    # waiting room is full) delays whoever gets in by the work in front, usual / capacity.
    backlog = 0.0
    if queue_len < stationary:
        settled = queue_len / stationary
        wait = queue_len * (settled / arrivals + (1.0 - settled) / capacity) * tick_s
    else:
        wait = stationary / arrivals * tick_s
        backlog = (queue_len - stationary) / capacity * tick_s
    variance = wait * wait * (2.0 / waits - 1.0) if waits > 1e-9 else 0.0  # 2 / waits could overflow
    return wait + backlog, variance
