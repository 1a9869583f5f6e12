"""Pods: the records that the autoscaler reads, and their life from creation to removal."""

from __future__ import annotations

import numpy as np

MAX_PODS = 256  # a service; Profile refuses a larger replicas.max
MAX_CONTAINERS = 2  # a pod: the application and one side-car
MAX_METRICS = 4  # an autoscaler

PENDING, RUNNING, SUCCEEDED, FAILED = 1, 2, 3, 4  # phase
READY_UNKNOWN, READY_FALSE, READY_TRUE = -1, 0, 1  # condition Ready; unknown: the pod has no such condition yet
NO_REQUEST = -1  # request_m of a container that sets none, and of a container that does not exist
NO_USAGE = -1  # usage_m of a container that the sample does not name

POD = np.dtype(
    [
        ("phase", np.int8),
        ("ready", np.int8),
        ("deleting", np.bool_),
        ("cold", np.bool_),  # ready, but still slow
        ("serial", np.int32),  # how many pods of the service came before it
        ("created_s", np.float64),
        ("start_s", np.float64),  # status.startTime; NaN: not set
        ("ready_transition_s", np.float64),  # last change of condition Ready
        ("next_event_s", np.float64),  # when its life goes on
        ("request_m", np.int64, (MAX_CONTAINERS,)),  # CPU request [milli-cores]
    ],
    align=True,
)

# One pod in one metric's answer, at the same index as the pod.
SAMPLE = np.dtype(
    [
        ("time_s", np.float64),  # end of the window; NaN: the answer holds no sample of this pod
        ("window_s", np.float64),
        ("usage_m", np.int64, (MAX_CONTAINERS,)),  # milli-units; a metric without containers uses the first
    ],
    align=True,
)
