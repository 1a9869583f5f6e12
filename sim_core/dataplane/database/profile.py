"""PostgreSQL in a profile: its section, and the rules between its fields and those of who asks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from sim_core.dataplane.services.profile import LEAST_CORES, LEAST_SECONDS
from sim_core.dataplane.services.rules import asks, queries_broken
from sim_core.documents import Number, Problem, Section

KEY = "database"
DESCRIPTION = "PostgreSQL; null: none."
MAX_READ_REPLICAS = 8


class Database(Section):
    """PostgreSQL: one primary takes the writes, read replicas (else the primary) take the reads."""

    cores: Number = Field(ge=LEAST_CORES, le=1024, description="CPU of each instance [cores].")
    read_seconds: Number = Field(ge=LEAST_SECONDS, le=60, description="Mean CPU time of a read query [s of one core].")
    write_seconds: Number = Field(
        ge=LEAST_SECONDS, le=60, description="Mean CPU time of a write transaction [s of one core]."
    )
    query_scv: Number = Field(ge=0, le=100, description="Squared coefficient of variation of the query times [1].")
    read_replicas: int = Field(
        ge=0, le=MAX_READ_REPLICAS, description="Streaming replicas that answer reads [instances]."
    )
    max_connections: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="max_connections of an instance [connections]; default: PostgreSQL's.",
    )
    reserved_connections: int = Field(
        default=3, ge=0, le=1000, description="superuser_reserved_connections [connections]; default: PostgreSQL's."
    )
    pool_size_per_pod: int = Field(
        ge=1, le=10_000, description="Connections that each pod of a service with queries opens [connections]."
    )
    usd_per_instance_hour: Number = Field(
        ge=0, le=10_000, description="Price of the primary and of each replica [USD/h]."
    )


SECTION = Database


def broken_rules(profile: Any) -> Iterator[Problem]:
    """Queries without a database; more connections than it has."""
    if profile.database is None:
        yield from queries_broken(profile, ("reads_per_call", "writes_per_call"), ("cached_read", "read", "write"), KEY)
    else:
        yield from _connections_broken(profile)


def _connections_broken(profile: Any) -> Iterator[Problem]:
    database = profile.database
    if database.reserved_connections >= database.max_connections:
        rule = f"must be less than database.max_connections {database.max_connections}"
        yield Problem((KEY, "reserved_connections"), rule, database.reserved_connections)
        return
    pods = sum(service.replicas.min for service in profile.services if asks(service))
    needed = database.pool_size_per_pod * pods
    if needed > database.max_connections - database.reserved_connections:
        left = f"max_connections {database.max_connections} - reserved_connections {database.reserved_connections}"
        rule = f"{pods} pods (replicas.min) would open {needed} connections, more than {left}"
        yield Problem((KEY, "pool_size_per_pod"), rule, database.pool_size_per_pod)
