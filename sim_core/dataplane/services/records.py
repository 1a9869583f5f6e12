"""Services, their endpoints, what an endpoint does, who calls whom, and the kinds of requests, as rows of tables.

Every index counts within the lane: row 2 of `steps` is the third step of this lane, whatever the batch holds. Rows of a
profile are therefore the same in every lane that plays it. All times are in seconds, all rates in 1/s, CPU in cores.
"""

from __future__ import annotations

import numpy as np

from sim_core.controlplane.hpa_records import HPA, HPA_STATE
from sim_core.dataplane.services.kinds import (
    BALANCINGS,
    BRANCH,
    CACHED_READ,
    CALL_STEP,
    CFS_QUOTA,
    CPU,
    EXTERNAL,
    FIFO,
    HORIZONTAL_POD_AUTOSCALER,
    INGRESS,
    LATENCY_BUCKETS,
    LATENCY_MAX_S,
    LATENCY_MIN_S,
    LEAST_OUTSTANDING,
    MAX_RETRIES,
    NO_PARENT,
    PARALLEL,
    POWER_OF_TWO,
    PROCESSOR_SHARING,
    RANDOM,
    READ,
    RETRY_SLOTS,
    ROUND_ROBIN,
    SCHEDULE,
    SHARINGS,
    STATIC,
    WAIT,
    WRITE,
)

__all__ = [  # the kinds stand in kinds.py, which needs no numba; who works on rows finds them here too
    "BALANCINGS",
    "BRANCH",
    "CACHED_READ",
    "CALL_STEP",
    "CFS_QUOTA",
    "CPU",
    "EXTERNAL",
    "FIFO",
    "HORIZONTAL_POD_AUTOSCALER",
    "INGRESS",
    "LATENCY_BUCKETS",
    "LATENCY_MAX_S",
    "LATENCY_MIN_S",
    "LEAST_OUTSTANDING",
    "MAX_RETRIES",
    "NO_PARENT",
    "PARALLEL",
    "POWER_OF_TWO",
    "PROCESSOR_SHARING",
    "RANDOM",
    "READ",
    "RETRY_SLOTS",
    "ROUND_ROBIN",
    "SCHEDULE",
    "SHARINGS",
    "STATIC",
    "WAIT",
    "WRITE",
    "SCALER",
    "SERVICE",
    "ENDPOINT",
    "STEP",
    "CALL",
    "REQUEST_CLASS",
    "SERVICE_STATE",
    "SERVICE_SUMS",
    "CLASS_SUMS",
]

SCALER = np.dtype(
    [
        ("kind", np.int64),
        ("replicas", np.int64),  # STATIC
        ("offset", np.int64),  # SCHEDULE: first entry of this service in the batch's schedules
        ("length", np.int64),
    ],
    align=True,
)

SERVICE = np.dtype(
    [
        ("index", np.int64),  # its row, which is its place in the profile
        ("pods_first", np.int64),  # rows of `pods`: as many as it can have, terminating ones included
        ("n_pods", np.int64),
        ("endpoints_first", np.int64),  # rows of `endpoints`
        ("n_endpoints", np.int64),
        ("balancing", np.int64),  # how a pod is chosen for a call
        ("balancer_nodes", np.int64),  # each sees only the calls that it sent itself
        ("slow_start_s", np.float64),  # a fresh pod's weight grows from 0.1 to 1 over this time
        ("sticky_share", np.float64),  # of calls that go to a pod fixed by their session, whatever its load
        ("sharing", np.int64),  # how a pod's calls share its CPU
        ("quota_period_s", np.float64),  # CFS_QUOTA
        ("min_replicas", np.int64),
        ("max_replicas", np.int64),
        ("initial_replicas", np.int64),
        ("cores", np.float64),  # CPU limit of a pod
        ("request_cores", np.float64),
        ("workers", np.float64),  # calls a pod works on at once
        ("queue_limit", np.float64),  # calls a pod holds beyond its workers
        ("scheduling_s", np.float64),
        ("image_pull_s", np.float64),
        ("startup_log_mean", np.float64),  # start-up time is lognormal
        ("startup_log_sd", np.float64),
        ("startup_cores", np.float64),  # CPU that a starting pod burns
        ("readiness_delay_s", np.float64),
        ("readiness_period_s", np.float64),
        ("cold_s", np.float64),
        ("cold_factor", np.float64),  # CPU time of a call on a cold pod over that on a warm one
        ("termination_s", np.float64),
        ("cpu_s", np.float64),  # mean CPU time of a call on a warm pod, in the mean mix of requests
        ("cpu_s_per_request", np.float64),  # CPU time on warm pods that a request of the mean mix costs this service
        ("timeout_s", np.float64),  # of its callers, mean over the calls of the mean mix
        ("usd_per_pod_s", np.float64),
        ("scaler", SCALER),
        ("hpa", HPA),
    ],
    align=True,
)

# What a service does when it is called, one row a kind of call; the load balancer's part of each class is a row too.
ENDPOINT = np.dtype(
    [
        ("service", np.int64),  # or INGRESS
        ("steps_first", np.int64),  # rows of `steps`, in the order in which they are done
        ("n_steps", np.int64),
        ("cpu_s", np.float64),  # mean CPU time of one call on a warm pod, all its CPU steps together
        ("cpu_variance_s2", np.float64),
    ],
    align=True,
)

# One thing that an endpoint does. It is done `count` times on the mean (whole times at least floor(count)) with
# probability `probability`, else not at all; the times follow each other.
STEP = np.dtype(
    [
        ("kind", np.int64),
        ("endpoint", np.int64),  # its owner
        ("parent", np.int64),  # the BRANCH that holds it, the PARALLEL that holds the BRANCH, or NO_PARENT
        ("end", np.int64),  # the row after it and all it holds
        ("probability", np.float64),
        ("count", np.float64),
        ("executions", np.float64),  # probability * count: mean number of them
        ("executions_variance", np.float64),
        ("executions_third", np.float64),  # third cumulant of their number
        ("mean_s", np.float64),  # CPU: of one core on a warm pod; WAIT: as it is
        ("scv", np.float64),
        # CALL_STEP: row of `calls`; CACHED_READ: of `caches`; READ, WRITE: of `databases`; BRANCH: of `branch_flows`
        ("target", np.int64),
    ],
    align=True,
)

# Who calls whom: one row a CALL_STEP. Timeouts, retries and what protects the callee belong to the caller.
CALL = np.dtype(
    [
        ("step", np.int64),
        ("caller", np.int64),  # row of `endpoints`
        ("endpoint", np.int64),  # that is called
        ("service", np.int64),  # of that endpoint
        ("timeout_s", np.float64),
        ("max_retries", np.int64),
        ("backoff_s", np.float64, (MAX_RETRIES,)),  # before the first, second, third retry
        ("retry_budget_ratio", np.float64),  # retries may add at most this share to first attempts
        ("pass_deadline", np.bool_),  # the callee drops a call that waits for a worker after its caller has given up
        ("breaker_requests", np.float64),  # open calls of one balancer node beyond which more fail at once; inf: off
        ("ejection_failures", np.int64),  # failures of a pod in a row that take it out of the choice; 0: off
        ("ejection_s", np.float64),  # how long; times the number of times it was taken out already
        ("ejection_share", np.float64),  # at most this share of the pods is out at once
    ],
    align=True,
)

# A kind of requests. Its share of the traffic is a step function of the time of day in the lane's `shares`.
REQUEST_CLASS = np.dtype(
    [
        ("endpoint", np.int64),  # of the INGRESS, where it enters
        ("shares_first", np.int64),  # rows of `shares` [1]
        ("n_shares", np.int64),
        ("share_step_s", np.float64),  # the table repeats after n_shares of these
        ("latency_threshold_s", np.float64),
        ("slo_objective", np.float64),
        ("own_slo", np.bool_),  # else its threshold and objective are the whole's
    ],
    align=True,
)

SERVICE_STATE = np.dtype(
    [
        ("desired_replicas", np.int64),  # spec.replicas
        ("n_pods", np.int64),  # rows in use, terminating pods included
        ("n_active", np.int64),  # not deleted
        ("n_running", np.int64),  # containers run: hold connections
        ("n_ready", np.int64),
        ("n_cold", np.int64),
        ("n_warmed", np.int64),  # pods that turned warm since the start
        ("serial", np.int64),
        ("next_event_s", np.float64),  # earliest change of any pod
        ("ready_cpu_core_s", np.float64),  # integral of CPU per ready pod (fluid engine)
        ("pod_s", np.float64),  # time of pods, since the start
        ("hpa", HPA_STATE),
    ],
    align=True,
)

# What a service did: summed up in the window between two scrapes, and since the start up to the last scrape.
SERVICE_SUMS = np.dtype(
    [
        ("calls", np.float64),  # attempts that were offered, retries included
        ("failed", np.float64),  # attempts that were refused, timed out, or answered with an error
        ("cpu_core_s", np.float64),
        ("request_core_s", np.float64),
        ("queue_s", np.float64),  # integral of the calls that wait in pods: for a worker, or for the CPU
        ("latency_s", np.float64),  # summed up over the calls
    ],
    align=True,
)

# Requests of a class that arrive in a tick: drawn, and expected at the trace's rate.
ARRIVALS = np.dtype([("requests", np.float64), ("expected", np.float64)], align=True)

# What became of the requests of a class.
CLASS_SUMS = np.dtype(
    [
        ("requests", np.float64),
        ("failed", np.float64),
        ("good", np.float64),  # answered at the first attempt of every call, within the whole's threshold
        ("good_own", np.float64),  # ... within the threshold of the class
        ("latency_weight", np.float64),  # requests answered without a retry: those whose latency is counted
        ("latency_s", np.float64),
        ("latency_s2", np.float64),
    ],
    align=True,
)
