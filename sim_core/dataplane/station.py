"""Records of a station of the fluid engine: the pods of one service, or the instances of one database.

A station is asked once a tick: LOAD says what comes and what the pods are, STATION_STATE lasts from tick to tick, ANSWER
says what became of the calls. Times are in seconds, CPU in cores, cumulants in s, s^2, s^3: those of independent parts
of a request add up, and `queueing.shape` turns three of them into a distribution.
"""

from __future__ import annotations

import numpy as np

N_FACTS = 11  # numbers by which stations of independent pods are corrected
LEVELS = 64  # points of the curve: how fast a pod works with so and so many calls

LOAD = np.dtype(
    [
        ("arrivals", np.float64),  # calls drawn for this tick, retries included
        ("expected", np.float64),  # their expected number: what queues and waiting times go by
        ("ready", np.float64),  # pods that take calls: those that the balancer deals to [pods]
        ("pods", np.float64),  # of these, the ones of this station: all, unless cold ones are told apart [pods]
        ("cold", np.float64),  # of these, slow ones [pods]
        ("cold_factor", np.float64),  # CPU time on a cold pod over that on a warm one [1]
        ("cores", np.float64),  # CPU limit of a pod [cores]
        ("workers", np.float64),  # calls that a pod works on at once [calls]
        ("queue_limit", np.float64),  # calls that it holds beyond [calls]
        ("cpu_s", np.float64),  # mean CPU time of a call on a warm pod
        ("cpu_scv", np.float64),  # variance over squared mean [1]
        ("held_s", np.float64),  # that a call holds its worker beyond its CPU time and the waits in the pod, mean
        ("held_variance_s2", np.float64),
        ("held_third_s3", np.float64),  # third cumulant, E(X - EX)^3
        ("balancing", np.int64),  # RANDOM, ROUND_ROBIN, LEAST_OUTSTANDING, POWER_OF_TWO
        ("nodes", np.int64),  # balancer nodes; each knows the calls that it sent itself
        ("sharing", np.int64),  # FIFO, PROCESSOR_SHARING, CFS_QUOTA
        ("quota_period_s", np.float64),  # CFS_QUOTA
        ("sticky_share", np.float64),  # of calls that go to the pod of their session, whatever its load [1]
        ("most_open", np.float64),  # calls that may be open together, over the pods [calls]; 0: without such a limit
        ("timeout_s", np.float64),  # after which callers give up; inf: never
        ("tick_s", np.float64),
    ],
    align=True,
)

# The stationary station at one utilization. Waits are of admitted calls, in the pod beyond CPU time and held time.
POINT = np.dtype(
    [
        ("utilization", np.float64),  # arrivals over capacity [1]; above 1 as well
        ("open", np.float64),  # calls of a pod that wait for a worker, wait for the CPU or have it [calls]
        ("blocked", np.float64),  # share of arrivals that is refused [1]
        ("waits", np.float64),  # share of admitted calls that wait [1]
        ("wait_s", np.float64),
        ("wait_variance_s2", np.float64),
        ("wait_third_s3", np.float64),
        (
            "extra_variance_s2",
            np.float64,
        ),  # of the sojourn, beyond those of wait, CPU time and held time: they correlate
        ("extra_third_s3", np.float64),
    ],
    align=True,
)

ANSWER = np.dtype(
    [
        ("served", np.float64),  # calls whose CPU work is done in this tick, those given up by their callers included
        ("passed_on", np.float64),  # of these, as far as chance is left out: what backends are asked for
        ("refused", np.float64),  # calls that found no room, or no pod
        ("admitted", np.float64),
        ("waits", np.float64),  # share of admitted calls that wait [1]
        ("wait_s", np.float64),  # mean wait of admitted calls, for a worker and for the CPU
        ("wait_variance_s2", np.float64),
        (
            "sojourn_s",
            np.float64,
        ),  # of admitted calls, waits, CPU time and held time, whether or not their callers wait
        ("sojourn_variance_s2", np.float64),
        ("sojourn_third_s3", np.float64),
        ("cpu_core_s", np.float64),  # CPU time used [core s]
        ("utilization", np.float64),  # expected calls over what all pods together could serve [1]
        ("waiting", np.float64),  # calls that wait in pods at the end of the tick, expected [calls]
    ],
    align=True,
)

# The calls of an independent pod in equilibrium; times in units of their mean CPU time.
CHAIN = np.dtype(
    [
        ("blocked", np.float64),  # share of arrivals that is refused [1]
        ("accepted", np.float64),  # work that comes and is not refused [cores]
        ("waits", np.float64),  # share of admitted calls that find no free core [1]
        ("lines", np.float64),  # ... that wait in line, for a FIFO CPU or for a worker [1]
        ("beside", np.float64),  # calls without a core, on the mean, in front of whom nobody stands: they share [calls]
        ("ahead", np.float64),  # calls in line, on the mean [calls]
        ("mean_line", np.float64),  # calls that one in line finds there: cumulants
        ("variance_line", np.float64),
        ("third_line", np.float64),
        ("gaps", np.float64),  # wait over that with Poisson arrivals [1]
        ("places", np.float64),  # where calls can wait [calls]
    ],
    align=True,
)

# How fast a pod works, by how many calls it has.
CURVE = np.dtype(
    [
        ("tag", np.uint64),  # of what it was drawn for
        ("capacity", np.float64),  # of a pod, limited by workers, over that of its CPU [1]
        ("saturated", np.int64),  # level from which on a pod works at its capacity
        ("stride", np.float64),  # calls between two points of the curve
        ("speed", np.float64, (LEVELS + 1,)),  # cores that a pod with 0, stride, 2 stride ... open calls keeps busy
        ("log_speed", np.float64, (LEVELS + 1,)),  # logarithm of the speed over that of a saturated pod
        ("log_sum", np.float64, (LEVELS + 1,)),  # its integral over the calls, by the trapezoidal rule
        ("bend", np.float64, (LEVELS + 1,)),  # by how much it lies above a straight line half way to the next level
        ("bend_sum", np.float64, (LEVELS + 1,)),  # what that adds to the integral
        ("heavy", np.float64, (LEVELS + 1,)),  # how much the variability of service times counts [1]
        ("heavy_sum", np.float64, (LEVELS + 1,)),  # its integral
        ("heavy_log_sum", np.float64, (LEVELS + 1,)),  # ... that of its product with the logarithm
        ("scratch", np.float64, (LEVELS + 1,)),
        ("chain", CHAIN),  # scratch
        ("facts", np.float64, (N_FACTS,)),  # scratch
        ("pure", POINT),  # scratch
    ],
    align=True,
)

STATION_STATE = np.dtype(
    [
        ("open", np.float64),  # calls in all pods that wait for a worker, wait for the CPU or have it, expected [calls]
        ("utilization", np.float64),  # at which a stationary station holds that many [1]
        ("aim", np.float64),  # that of a stationary station under the same calls
        ("variance", np.float64),  # of the line of a pod; where a balancer keeps pods equal, of the mean pod [calls^2]
        ("at_rest", np.float64),  # that of a stationary station with as many calls
        ("ratio", np.float64),  # the one over the other [1]
        ("moves", np.bool_),  # whether that is another one than 1
        ("blocked", np.float64),  # share of the tick's arrivals that found no room [1]
        ("memory_s", np.float64),  # time after which lines have forgotten how long they were, but for 1 / e
        # Standard deviation of the retries that the last tick caused, of the part that follows the lines they meet [calls].
        ("uneven", np.float64),
        ("common_variance_s2", np.float64),  # of the part of their waits that all calls of a tick have in common
        ("unserved", np.float64),  # what draws brought more than expected, and could not be served yet [calls]
        ("asked", LOAD),  # what the points below are of: the load when it last changed, its held time on a grid
        ("tag", np.uint64),  # of `asked`
        ("capacity", np.float64),  # of a pod, limited by workers, over that of its CPU [1]
        ("cell", np.int64),  # of the grid of utilizations: between `below` and `above`; -1: none yet
        ("below", POINT),
        ("above", POINT),
        ("here", POINT),  # interpolated at `utilization`: at the end of the tick
        ("last", POINT),  # at the end of the last tick
        ("met", POINT),  # what the arrivals of the tick met on the mean
    ],
    align=True,
)

# Cold pods, and those that turned warm and have not drained since.
COLD_STATE = np.dtype(
    [
        ("station", STATION_STATE),  # theirs alone, while `pods` is above 0; its `met` while `share` is
        ("pods", np.float64),  # that are a station of their own [pods]
        ("cold", np.float64),  # that were cold a tick ago [pods]
        ("n_warmed", np.int64),  # of the service's pods, a tick ago
        ("drains_s", np.float64),  # until those that turned warm last have drained
        ("answer", ANSWER),  # scratch
        ("share", np.float64),  # of the admitted calls, which are told apart [1]
        ("stretch", np.float64),  # time of a CPU step over that on a warm pod [1]
    ],
    align=True,
)

# Calls that are told apart from the others since they take much longer: those that cold pods answer.
APART = np.dtype(
    [
        ("share", np.float64),  # of the calls [1]; 0: none are, and the rest means nothing
        ("mean_s", np.float64),
        ("variance_s2", np.float64),
        ("third_s3", np.float64),
    ],
    align=True,
)

# Three cumulants as a distribution, that of a function of Z, standard normal: shifted gamma, lognormal, or between.
PIECE = np.dtype(
    [
        ("mean", np.float64),
        ("sd", np.float64),  # 0: the mean is all there is
        ("sign", np.float64),  # of the skewness
        ("lognormal", np.float64),  # part of the lognormal distribution in the mixture [1]
        ("cube_shift", np.float64),  # gamma: cube_shift + sign * cube_scale * (cube_mean + cube_sd * Z)^3
        ("cube_scale", np.float64),
        ("cube_mean", np.float64),
        ("cube_sd", np.float64),
        ("log_shift", np.float64),  # lognormal: log_shift + sign * exp(log_mean + log_sd * Z)
        ("log_mean", np.float64),
        ("log_sd", np.float64),
    ],
    align=True,
)

# ... and as one of two of these by chance: those who met little, and those who met much.
SHAPE = np.dtype(
    [
        ("slow_share", np.float64),  # probability of `slow` [1]; 0: there is but `fast`
        ("fast", PIECE),
        ("slow", PIECE),
    ],
    align=True,
)

# A distribution and what a timeout leaves of it.
CUT = np.dtype(
    [
        ("mean_s", np.float64),  # of all
        ("variance_s2", np.float64),
        ("third_s3", np.float64),
        ("apart_share", np.float64),  # of these, the calls that are told apart [1]
        ("timeout_s", np.float64),
        ("within", np.float64),  # share of those within the timeout [1]
        ("kept_s", np.float64),  # of these
        ("kept_variance_s2", np.float64),
        ("kept_third_s3", np.float64),
        ("apart", APART),  # ... that are told apart
    ],
    align=True,
)
