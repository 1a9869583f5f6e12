"""Redis in the fluid engine: look-ups at one thread, misses that fill it."""

from __future__ import annotations

import math

from sim_core.compiled import kernel, phase
from sim_core.dataplane.cache.records import HIT_POINTS
from sim_core.dataplane.line import is_as_before, serve_line
from sim_core.dataplane.queueing import third_cumulant_factor


@phase
def begin(world):
    """A cache as full as the profile says."""
    for c in range(len(world.caches)):
        world.cache_states[c].cached_keys = world.caches[c].initial_keys


@phase
def before(world):
    """Nothing that services wait for depends on the cache before they have served."""


@kernel
def cache_hit_ratio(cache, cached_keys):
    """Hit ratio [1] with `cached_keys` keys resident, interpolated in the cache's table."""
    if cached_keys >= cache.capacity_keys:
        return min(1.0, cache.hit_ratio[HIT_POINTS - 1])
    position = math.sqrt(cached_keys / cache.capacity_keys) * (HIT_POINTS - 1)
    below = min(int(position), HIT_POINTS - 2)
    share = position - below
    return min(1.0, cache.hit_ratio[below] + share * (cache.hit_ratio[below + 1] - cache.hit_ratio[below]))


@phase
def serve(world):
    """Looks keys up; misses fill the cache."""
    tick_s = world.lane.tick_s
    for c in range(len(world.caches)):
        cache, state = world.caches[c], world.cache_states[c]
        lookups = 0.0
        for k in range(len(world.lookups)):
            s = world.lookups[k]
            if world.steps[s].target == c:
                lookups += world.step_flows[s].expected
        # Whoever looks a key up may ask the database for it, and waits for one answer at a time.
        look_up(world.known_points, cache, state, lookups, world.database_states[cache.database].callers, tick_s)


@kernel
def look_up(known_points, cache, state, lookups, callers, tick_s):
    """One tick of one cache: hit ratio, misses, and the time of a look-up.

    Args:
        callers: that may look keys up at once, each one.
    """
    hit_ratio = cache_hit_ratio(cache, state.cached_keys)
    state.misses = lookups * (1.0 - hit_ratio)
    state.cached_keys = min(cache.capacity_keys, state.cached_keys + state.misses)
    line, server_s = state.line, cache.server_s
    if state.lookup_s == 0.0 or not (callers == state.seen_callers and is_as_before(line, lookups, state.seen_lookups)):
        state.seen_lookups, state.seen_callers = lookups, callers
        serve_line(known_points, line, lookups, 1.0, 1.0, callers, server_s, cache.scv, tick_s)
        state.lookup_s = cache.lookup_s + line.wait_s
        state.lookup_variance_s2 = cache.scv * server_s**2 + line.wait_variance_s2
        state.lookup_third_s3 = third_cumulant_factor(cache.scv) * server_s**3 + line.wait_third_s3
    state.hit_ratio = hit_ratio
    state.lookups += lookups
    state.hits += lookups * hit_ratio
