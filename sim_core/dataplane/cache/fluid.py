"""Redis in the fluid engine: look-ups at one thread, misses that fill it."""

from __future__ import annotations

import math

from sim_core.compiled import kernel, phase
from sim_core.dataplane.cache.records import HIT_POINTS


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
    position = math.sqrt(cached_keys / cache.capacity_keys) * (HIT_POINTS - 1)
    below = min(int(position), HIT_POINTS - 2)
    share = position - below
    return min(1.0, cache.hit_ratio[below] + share * (cache.hit_ratio[below + 1] - cache.hit_ratio[below]))


@phase
def serve(world):
    """Looks keys up; misses fill the cache.

    The sojourn of a look-up is that of one thread, Pollaczek-Khinchine; a saturated cache makes a look-up wait a whole tick.
    """
    tick_s = world.lane.tick_s
    for c in range(len(world.caches)):
        cache, state = world.caches[c], world.cache_states[c]
        lookups = 0.0
        for k in range(len(world.lookups)):
            s = world.lookups[k]
            if world.steps[s].target == c:
                lookups += world.step_flows[s].expected
        look_up(cache, state, lookups, tick_s)


@kernel
def look_up(cache, state, lookups, tick_s):
    """One tick of one cache: hit ratio, misses, and the time of a look-up."""
    hit_ratio = cache_hit_ratio(cache, state.cached_keys)
    state.misses = lookups * (1.0 - hit_ratio)
    state.cached_keys = min(cache.capacity_keys, state.cached_keys + state.misses)
    utilization = lookups * cache.server_s / tick_s
    wait = tick_s
    if utilization < 1.0:
        wait = min(wait, utilization * cache.server_s * (1.0 + cache.scv) / (2.0 * (1.0 - utilization)))
    state.hit_ratio = hit_ratio
    state.lookup_s = cache.lookup_s + wait
    state.lookups += lookups
    state.hits += lookups * hit_ratio
