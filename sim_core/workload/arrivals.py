"""Requests that arrive in a tick: Poisson draws around the rate of a trace."""

from __future__ import annotations

from sim_core.compiled import kernel
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
def draw_arrivals(key, rate_per_s, tick, tick_s):
    """Requests that arrive during one tick [count]: Poisson with mean rate_per_s * tick_s."""
    return poisson_quantile(rate_per_s * tick_s, uniform(key, ARRIVALS, tick))
