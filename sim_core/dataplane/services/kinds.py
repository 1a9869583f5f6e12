"""Kinds that rows of the services' tables tell apart, and the sizes that are fixed: plain numbers, without numba."""

from __future__ import annotations

MAX_RETRIES = 3  # of a call
RETRY_SLOTS = 64  # ticks; the fluid engine lets a retry lie less far ahead
LATENCY_BUCKETS = 640  # even in log(latency): a percentile read from them is off by at most 1 %
LATENCY_MIN_S, LATENCY_MAX_S = 5e-4, 120.0  # outermost bucket edges

RANDOM, ROUND_ROBIN, LEAST_OUTSTANDING, POWER_OF_TWO = range(4)  # SERVICE.balancing
BALANCINGS = ("random", "round_robin", "least_outstanding", "power_of_two")
FIFO, PROCESSOR_SHARING, CFS_QUOTA = range(3)  # SERVICE.sharing
SHARINGS = ("fifo", "processor_sharing", "cfs_quota")
EXTERNAL, STATIC, HORIZONTAL_POD_AUTOSCALER, SCHEDULE = range(4)  # SCALER.kind

# STEP.kind. A step is a row; what it holds follows it: a PARALLEL holds BRANCH rows, a BRANCH the steps of one branch.
CPU, WAIT, CALL_STEP, PARALLEL, BRANCH, CACHED_READ, READ, WRITE = range(8)
INGRESS = -1  # ENDPOINT.service of what the load balancer does for a class of requests: it has no pods
NO_PARENT = -1  # STEP.parent of a step of the endpoint itself
