"""PostgreSQL of a profile as rows of tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim_core.dataplane.database.records import DATABASE, DATABASE_CLIENT, DATABASE_STATE
from sim_core.dataplane.services.kinds import CACHED_READ, READ, WRITE
from sim_core.tables import Table

if TYPE_CHECKING:
    from sim_core.dataplane.services.graph import Graph
    from sim_core.profile import Profile

TABLES = (
    Table("databases", "databases", DATABASE),
    Table("database_states", "databases", DATABASE_STATE, is_state=True),
    Table("queries", "queries", np.int64),  # rows of the steps that read or write, past the cache
    Table("database_clients", "services", DATABASE_CLIENT),
)


def rows(profile: Profile, graph: Graph) -> dict[str, np.ndarray | int]:
    """One row where the profile has a database; who queries it."""
    database = profile.database
    records = np.zeros(0 if database is None else 1, dtype=DATABASE)
    for record in records:
        record["cores"] = database.cores
        record["read_s"] = database.read_seconds
        record["write_s"] = database.write_seconds
        record["scv"] = database.query_scv
        record["read_replicas"] = database.read_replicas
        record["connection_limit"] = database.max_connections - database.reserved_connections
        record["pool_size"] = database.pool_size_per_pod
        record["usd_per_s"] = database.usd_per_instance_hour * (1 + database.read_replicas) / 3600.0
    clients = np.zeros(len(profile.services), dtype=DATABASE_CLIENT)
    for step in graph.steps:
        if step.kind in (CACHED_READ, READ, WRITE):
            clients["connects"][graph.endpoints[step.endpoint].service] = True
    direct = [row for row, step in enumerate(graph.steps) if step.kind in (READ, WRITE)]
    return {
        "databases": records,
        "queries": np.array(direct, dtype=np.int64),
        "database_clients": clients,
    }
