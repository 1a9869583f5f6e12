"""What the fluid engine remembers of services, endpoints, steps and calls: flows of a tick, and times of one execution.

Times come as three cumulants: mean [s], variance [s^2] and third cumulant [s^3]; those of things done in turn add up.

A flow comes twice: `flow` as drawn, which accounts see, and `expected`, which queues see; waiting times hold the chance
of arrivals already.
"""

from __future__ import annotations

import numpy as np

from sim_core.dataplane.services.kinds import MAX_RETRIES, RETRY_SLOTS
from sim_core.dataplane.station import ANSWER, APART, COLD_STATE, CUT, LOAD, PIECE, SHAPE, STATION_STATE

SLICES = 20  # of probability, as which a latency distribution is written down

SERVICE_FLOW = np.dtype(
    [
        ("load", LOAD),  # of this tick
        ("station", STATION_STATE),
        ("cold", COLD_STATE),
        ("answer", ANSWER),  # of this tick
        ("refused_share", np.float64),  # of the offered calls
        ("stretch", np.float64),  # time of a CPU step over that on a warm pod, but for pods told apart
        ("guarded", np.bool_),  # whether anything in `guards` is on
        ("drops_late", np.bool_),  # whether what finds no room is dropped by its deadline
        ("attempts", np.float64),  # of edges that eject, since pods were guarded last
        ("failures", np.float64),  # of these
        ("ejected", np.float64),  # pods that are out, expected [pods]
        ("ejections", np.float64),  # since the start [pods]
    ],
    align=True,
)

ENDPOINT_FLOW = np.dtype(
    [
        ("next_flow", np.float64),  # calls from a service that is served after this one join the next tick
        ("next_expected", np.float64),
        ("held_s", np.float64),  # time beside CPU that a call of the tick before held its worker
        ("held_variance_s2", np.float64),
        ("held_third_s3", np.float64),
        ("inside", np.float64),  # its calls in pods whose CPU work is still to be done
        ("inside_expected", np.float64),
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
        ("third_s3", np.float64),
        # What giving up took: the share of calls, were they else clean, of which some part was not answered in time [1],
        # and by how much the cumulants above would be larger if all had waited.
        ("given_up", np.float64),
        ("lost_mean_s", np.float64),
        ("lost_variance_s2", np.float64),
        ("lost_third_s3", np.float64),
        ("apart", APART),  # of these, the ones that are told apart
        ("shape", SHAPE),  # of the sojourn of the others, where somebody asks for it
        ("apart_piece", PIECE),  # ... and of those told apart
    ],
    align=True,
)

STEP_FLOW = np.dtype(
    [
        ("flow", np.float64),  # executions that begin in this tick
        ("expected", np.float64),
        ("mean_s", np.float64),  # of one execution
        ("variance_s2", np.float64),
        ("third_s3", np.float64),
        ("sum_mean_s", np.float64),  # BRANCH: what its steps have come to so far; PARALLEL: its slowest branch
        ("sum_variance_s2", np.float64),
        ("sum_third_s3", np.float64),
    ],
    align=True,
)

# Of each BRANCH, in the order of their steps.
BRANCH_FLOW = np.dtype(
    [
        ("shape", SHAPE),  # of what its steps come to
        ("begins_s", np.float64),  # before this it is not done
        ("seen", np.float64),  # its mean and deviation together, for which the slowest was computed last
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
        ("given_up", np.float64),  # share of calls that are not answered in time, here or below [1]
        (
            "uneven",
            np.float64,
        ),  # standard deviation of the retries that follow from it, by how long the callee's lines are
        ("extra_held_s", np.float64),  # what timeouts and retries add to the caller's time with a clean call
        ("cut", CUT),  # the callee's sojourn, and what the timeout leaves of it
    ],
    align=True,
)

# The latency distribution of a class as it was booked last: it is worked out anew when it has moved.
CLASS_FLOW = np.dtype(
    [
        ("mean_s", np.float64),  # if nobody had given up
        ("variance_s2", np.float64),
        ("third_s3", np.float64),
        ("within", np.float64),  # share within the whole's threshold
        ("within_own", np.float64),  # within that of the class
        ("in_time", np.float64),  # share of the requests, if nobody had given up, that they are [1]
        ("sliced", np.bool_),  # whether the buckets are those of this distribution
        ("written_mean_s", np.float64),  # of what is written down; -1: nothing
        ("written_variance_s2", np.float64),
        ("written_third_s3", np.float64),
        ("buckets", np.int32, (SLICES,)),  # of the histogram, by slice of probability
        ("apart_share", np.float64),  # of those told apart, of all [1]
        ("apart_buckets", np.int32, (SLICES,)),
    ],
    align=True,
)
