"""What the fluid engine remembers of services, endpoints, steps and calls: flows of a tick, and times of one execution.

A flow comes twice: `flow` as drawn, which accounts see, and `expected`, which queues see; waiting times hold the chance
of arrivals already.
"""

from __future__ import annotations

import numpy as np

from sim_core.dataplane.services.records import MAX_RETRIES, RETRY_SLOTS

SERVICE_FLOW = np.dtype(
    [
        ("queue_len", np.float64),  # calls that wait
        ("unserved", np.float64),  # calls of a chance surplus that the pods have still to work on
        ("held_s", np.float64),  # time that a call holds its worker beside CPU; of the tick before
        ("held_variance_s2", np.float64),
        # of this tick
        ("offered", np.float64),
        ("expected", np.float64),
        ("cpu_s", np.float64),  # mean CPU time of a call on a warm pod, of the calls that came
        ("cpu_scv", np.float64),
        ("refused_share", np.float64),  # of the offered calls
        ("served", np.float64),  # calls that were worked on
        ("passed_on", np.float64),  # expected calls that go on to their steps
        ("wait_s", np.float64),  # for a worker and for its CPU
        ("wait_variance_s2", np.float64),
        ("stretch", np.float64),  # time of a CPU step over that on a warm pod
    ],
    align=True,
)

ENDPOINT_FLOW = np.dtype(
    [
        ("next_flow", np.float64),  # calls from a service that is served after this one join the next tick
        ("next_expected", np.float64),
        ("held_s", np.float64),  # time beside CPU that a call of the tick before held its worker
        ("held_variance_s2", np.float64),
        ("share", np.float64),  # of the calls that its service was offered, when it was offered any last
        ("expected_share", np.float64),
        # of this tick
        ("flow", np.float64),  # calls offered, retries included
        ("expected", np.float64),
        ("passed_on", np.float64),  # calls that do their steps
        ("passed_on_expected", np.float64),
        ("error_share", np.float64),  # of the calls that are answered with an error of what they use (a database)
        ("answered_share", np.float64),  # of the offered calls that are answered without error, sooner or later
        ("clean_share", np.float64),  # ... and nothing below was tried twice
        ("mean_s", np.float64),  # sojourn of a clean call
        ("variance_s2", np.float64),
    ],
    align=True,
)

STEP_FLOW = np.dtype(
    [
        ("flow", np.float64),  # executions that begin in this tick
        ("expected", np.float64),
        ("mean_s", np.float64),  # of one execution
        ("variance_s2", np.float64),
        ("sum_mean_s", np.float64),  # PARALLEL, BRANCH: what their steps have come to so far
        ("sum_variance_s2", np.float64),
    ],
    align=True,
)

CALL_FLOW = np.dtype(
    [
        ("late", np.bool_),  # the callee is served before the caller: calls join its next tick
        ("next_calls", np.float64),  # first attempts that do
        ("retries_waiting", np.float64),
        ("retries", np.float64, (RETRY_SLOTS, MAX_RETRIES)),  # calls that come back, by tick and attempt
        ("failed_share", np.float64),  # of the calls that are over: failed for good; of the tick before
        # of this tick
        ("new_calls", np.float64),  # first attempts that join the callee
        ("due", np.float64, (MAX_RETRIES,)),  # first, second, third retries among the calls offered
        ("clean_share", np.float64),
        ("extra_held_s", np.float64),  # what timeouts and retries add to the caller's time with a clean call
    ],
    align=True,
)
