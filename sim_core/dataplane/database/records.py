"""PostgreSQL: rows of the table `databases`."""

from __future__ import annotations

import numpy as np

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

# The primary, or the read replicas together.
DATABASE_GROUP = np.dtype(
    [
        ("queue_len", np.float64),
        ("wait_s", np.float64),  # of this tick
        ("wait_variance_s2", np.float64),
        ("utilization", np.float64),
    ],
    align=True,
)

DATABASE_STATE = np.dtype(
    [
        ("primary", DATABASE_GROUP),
        ("replicas", DATABASE_GROUP),
        ("pool", np.float64),  # connections that ready pods hold open
        ("pool_queue", np.float64),
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

# Of each endpoint: queries of one call that reach the database or the cache before it.
ENDPOINT_QUERIES = np.dtype([("queries", np.float64)], align=True)
