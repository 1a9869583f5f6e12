"""Redis in a profile: its section, and the rules between its fields and those of who asks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from sim_core.dataplane.services.profile import LEAST_SECONDS
from sim_core.dataplane.services.rules import queries_broken
from sim_core.documents import Number, Problem, Section

KEY = "cache"
DESCRIPTION = "Redis; null: none."


class Cache(Section):
    """Redis in front of the database, look-aside, Zipf popularity of the keys."""

    keys: int = Field(ge=1, le=10**9, description="Distinct keys that requests ask for [keys].")
    zipf_exponent: Number = Field(
        ge=0, le=5, description="Popularity of the k-th key is k^-exponent [1]; 0 is uniform."
    )
    capacity_keys: int = Field(ge=1, le=10**9, description="Keys that fit into maxmemory; LRU evicts the rest [keys].")
    lookup_seconds: Number = Field(ge=LEAST_SECONDS, le=10, description="Mean time of a lookup, network included [s].")
    server_seconds: Number = Field(
        default=1e-5,
        ge=0,
        le=1,
        description="Part of a lookup in Redis' one thread [s]; default: 100,000 lookups/s, as redis-benchmark shows.",
    )
    lookup_scv: Number = Field(ge=0, le=100, description="Squared coefficient of variation of the lookup time [1].")
    initial_fill: Number = Field(
        ge=0, le=1, description="Share of the capacity that is filled at the start [1]; 0 is cold."
    )
    usd_per_hour: Number = Field(ge=0, le=10_000, description="Price of the cache [USD/h].")


SECTION = Cache


def broken_rules(profile: Any) -> Iterator[Problem]:
    """Cacheable reads without a cache; more capacity than keys; a server that takes longer than the whole lookup."""
    cache = profile.cache
    if cache is None:
        yield from queries_broken(profile, ("cacheable_share",), ("cached_read",), KEY)
        return
    if cache.capacity_keys > cache.keys:
        yield Problem((KEY, "capacity_keys"), f"must be at most cache.keys {cache.keys}", cache.capacity_keys)
    if cache.server_seconds > cache.lookup_seconds:
        rule = f"must be at most cache.lookup_seconds {cache.lookup_seconds:g}"
        yield Problem((KEY, "server_seconds"), rule, cache.server_seconds)
