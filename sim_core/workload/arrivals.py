"""Requests that arrive in a tick: Poisson draws around the rate of a trace, by class."""

from __future__ import annotations

from sim_core.compiled import kernel, phase
from sim_core.randomness import ARRIVALS, poisson_quantile, uniform


@kernel
def rate_at(traffic, rates, time_s):
    """The rate [1/s] at `time_s` of a lane's clock.

    A trace gives the mean rate over each step; the rate runs linearly from the middle of one step to the middle of the
    next, and is level beyond the first and the last middle.

    Args:
        traffic: record with `offset` and `length` into `rates`, `step_s`, `start_s` (trace time at lane time 0).
        rates: all traces of the batch, one behind the other [1/s].
    """
    position = (traffic.start_s + time_s) / traffic.step_s - 0.5
    if position <= 0.0:
        return rates[traffic.offset]
    before = int(position)
    if before >= traffic.length - 1:
        return rates[traffic.offset + traffic.length - 1]
    share = position - before
    left = rates[traffic.offset + before]
    return left + share * (rates[traffic.offset + before + 1] - left)


@kernel
def draw_arrivals(key, request_class, rate_per_s, tick, tick_s):
    """Requests of a class that arrive during one tick [count]: Poisson with mean rate_per_s * tick_s."""
    return poisson_quantile(rate_per_s * tick_s, uniform(key, ARRIVALS + (request_class << 8), tick))


@kernel
def share_at(request_class, shares, time_s):
    """The share of a class in the traffic [1] at `time_s` of the trace: a step function that repeats.

    Args:
        request_class: record with `shares_first`, `n_shares`, `share_step_s`.
        shares: of all classes of the lane [1].
    """
    step = 0
    if request_class.n_shares > 1:
        step = int(time_s / request_class.share_step_s) % request_class.n_shares
    return shares[request_class.shares_first + step]


@phase
def arrive(world, now_s):
    """The requests of one tick, by class: drawn, and expected."""
    lane = world.lane
    middle_s = now_s + 0.5 * lane.tick_s
    rate_per_s = rate_at(lane.traffic, world.rates, middle_s)
    for k in range(len(world.classes)):
        own_per_s = rate_per_s * share_at(world.classes[k], world.shares, lane.traffic.start_s + middle_s)
        arrivals = world.arrivals[k]
        arrivals.requests = draw_arrivals(lane.key, k, own_per_s, world.state.tick, lane.tick_s)
        arrivals.expected = own_per_s * lane.tick_s
