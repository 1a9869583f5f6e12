"""PostgreSQL: rows of the table `databases`."""

from __future__ import annotations

import numpy as np

from sim_core.dataplane.line import LINE

DATABASE = np.dtype(
    [
        ("cores", np.float64),  # of one instance
        ("read_s", np.float64),
        ("write_s", np.float64),
        ("scv", np.float64),
        ("read_replicas", np.float64),
        ("connection_limit", np.float64),  # max_connections less the reserved ones
        ("pool_size", np.float64),  # connections a pod holds open
        ("usd_per_s", np.float64),
    ],
    align=True,
)

DATABASE_STATE = np.dtype(
    [
        ("primary", LINE),  # queries that wait for a connection are among those of a line
        ("replicas", LINE),
        ("pools", LINE),  # of the pods, their connections as servers
        ("seen_reads", np.float64),  # queries of the tick, and pods, for which all that was worked out last
        ("seen_writes", np.float64),
        ("seen_pool", np.float64),
        ("seen_callers", np.float64),
        ("pool", np.float64),  # connections that ready pods hold open
        ("callers", np.float64),  # calls that ready pods can work on at once: each waits for one query at most
        ("think_s", np.float64),  # that a call spends elsewhere, over its queries, where a balancer evens pods; else 0
        ("kept", np.float64),  # of a wait for a connection, where it does [1]
        ("pool_queue", np.float64),  # queries that wait for a connection
        ("read_s", np.float64),  # mean sojourn of a query in this tick, its wait for a connection included
        ("read_variance_s2", np.float64),
        ("read_third_s3", np.float64),  # third cumulant
        ("write_s", np.float64),
        ("write_variance_s2", np.float64),
        ("write_third_s3", np.float64),
        ("refused_share", np.float64),  # of pods' connections that it refuses
        ("connection_ratio", np.float64),  # connections asked for over those there are
        ("busy_s", np.float64),  # of the busier of primary and read replicas, in the window between two scrapes
    ],
    align=True,
)

# Of each service: whether its pods open connections.
DATABASE_CLIENT = np.dtype([("connects", np.bool_)], align=True)
