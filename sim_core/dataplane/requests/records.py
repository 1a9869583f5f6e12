"""The request engine's own tables: what is under way in a lane between two ticks.

Names: a *thread* is one line of work (a request at the load balancer, a call in a pod, or a parallel branch of either) and
has a row of `frames`; the *main* thread of a request or call is the one that is answered. A *station* is a pod as the engine
sees it; it keeps its row while the pod lives, whatever the row of the pod itself. A *group* is the pods of a service.
"""

from __future__ import annotations

import numpy as np

from sim_core.controlplane.pods import POD
from sim_core.dataplane.cache.records import CACHE, CACHE_STATE
from sim_core.dataplane.database.records import DATABASE, DATABASE_STATE
from sim_core.dataplane.requests.memory import rows_of
from sim_core.dataplane.services.records import (
    CALL,
    CLASS_SUMS,
    ENDPOINT,
    REQUEST_CLASS,
    SERVICE,
    SERVICE_STATE,
    SERVICE_SUMS,
    STEP,
)

NONE = -1  # no thread, no station, no call

# FRAME.state: what a thread waits for, or why it goes on.
(
    FREE,
    START,
    DONE,
    FAILED,
    RETRY,
    QUEUED,
    TIMED,
    ON_CPU,
    IN_CALL,
    JOINING,
    LOOKING_UP,
    FOR_CONNECTION,
    QUERYING,
    ZOMBIE,
) = range(14)

# EVENT.thread of events that are no thread's own; EVENT.token then is the row they are about.
OF_STATION, OF_TIMEOUTS, OF_CACHE, OF_EJECTION = -1, -2, -3, -4

CONSTANT, EXPONENTIAL, ERLANG, GAMMA, LOGNORMAL = range(5)  # DISTRIBUTION.kind

FRAME = np.dtype(
    [
        ("random", np.uint64),  # state of this thread's own stream
        ("due_s", np.float64),  # end of a look-up; begin of a query; virtual time at which its CPU step is done
        ("started_s", np.float64),  # when the request arrived or the call was offered
        ("attempt_s", np.float64),  # when the attempt that it waits for was offered
        ("state", np.int64),
        ("token", np.int64),  # of its pending event: an event with another is void
        ("owner", np.int64),  # main thread
        ("pc", np.int64),  # row of the present step
        ("end", np.int64),  # the row after the last
        ("repeats", np.int64),  # times that the present step is still to be done, this one included
        ("next", np.int64),  # in the one list that it stands in: free, to run, for a worker, a connection, a look-up
        ("station", np.int64),  # or NONE: at the load balancer
        ("service", np.int64),
        ("parent", np.int64),  # the thread that called
        ("parent_token", np.int64),  # its call_token: with another, nobody waits for the answer any more
        ("call_token", np.int64),  # grows with each attempt that ends
        ("out_call", np.int64),  # row of `calls` that it makes
        ("out_attempt", np.int64),  # 0 for the first
        ("out_station", np.int64),
        ("out_node", np.int64),  # balancer node that chose it
        ("earlier", np.int64),  # neighbours among the attempts of this call that may time out
        ("later", np.int64),
        ("child", np.int64),  # in the heap of a pod's CPU steps
        ("sibling", np.int64),
        ("life", np.int64),  # grows each time the row is freed
        ("owner_life", np.int64),
        ("joins", np.int64),  # a branch: the thread that waits for it
        ("joins_life", np.int64),
        ("pending", np.int64),  # branches that it waits for
        ("first", np.int64),  # a branch: its first step
        ("loops", np.int64),  # a branch: times it is still to be done
        ("target", np.int64),  # row of `databases` that it queries
        ("request_class", np.int64),
        ("call", np.int64),  # row of `calls` by which it was called
        ("retried", np.bool_),  # some call below it needed more than one attempt
        ("write", np.bool_),  # its query is one
        ("deadline_s", np.float64),
        ("session", np.uint64),
        ("trace", np.uint64),  # 0: not sampled
        ("span", np.uint64),
        ("parent_span", np.uint64),
        ("out_span", np.uint64),  # of the attempt that it waits for
        ("step_s", np.float64),  # when the present step began; kept for sampled requests only
    ],
    align=True,
)

EVENT = np.dtype([("time_s", np.float64), ("what", np.int64)], align=True)  # what: thread << 32 | token

STATION = np.dtype(
    [
        ("serial", np.int64),  # of its pod; NONE: no pod
        ("service", np.int64),
        ("row", np.int64),  # of the pod among those of its service
        ("cold_factor", np.float64),  # how much longer CPU steps take in this tick
        ("busy", np.int64),  # workers that hold a call
        ("queued", np.int64),  # calls that wait for a worker
        ("queue_head", np.int64),
        ("queue_tail", np.int64),
        ("cpu_core_s", np.float64),  # given out to calls so far, to the end of the step where the CPU is FIFO
        ("reported_core_s", np.float64),  # of it, what the pod's samples know
        (
            "waited_s",
            np.float64,
        ),  # of calls that share the CPU, what they got less than one alone would; not booked yet
        ("running", np.int64),  # calls in a CPU step (shared CPU)
        ("soonest", np.int64),  # root of their heap
        ("throttled", np.bool_),
        ("choosable", np.bool_),  # among those that the balancer chooses from
        ("ready", np.bool_),
        ("virtual_s", np.float64),  # CPU time that each call that runs all the time has got
        ("updated_s", np.float64),
        ("armed_s", np.float64),  # its earliest event in the heap
        ("quota_left_core_s", np.float64),  # of this period
        ("period_end_s", np.float64),
        ("ready_s", np.float64),
        ("failures", np.int64),  # in a row
        ("ejections", np.int64),
        ("ejected_until_s", np.float64),
        ("oldest", np.int64),  # `direct.py`: its first visit of this tick that may not be over
        ("newest", np.int64),
        ("inside", np.int64),  # ... and how many there are at most
    ],
    align=True,
)

GROUP = np.dtype(
    [
        ("first", np.int64),  # its stations: as many rows as its pods have
        ("rows", np.int64),
        ("endpoints_first", np.int64),
        ("servers", np.int64),  # of a pod's CPU (FIFO)
        ("speed", np.float64),  # of each
        ("servers_first", np.int64),  # rows of `servers`
        ("workers", np.int64),
        ("queue_limit", np.int64),
        ("sharing", np.int64),
        ("cores", np.float64),
        ("period_s", np.float64),
        ("balancing", np.int64),
        ("nodes", np.int64),
        ("nodes_first", np.int64),  # rows of `nodes`
        ("open_first", np.int64),  # rows of `opens`: node by node, station by station
        ("choices", np.int64),  # stations to choose from: rows `first` and on of `choices`
        ("ejected", np.int64),
        ("bucket_limit", np.int64),  # open calls from which on stations are no longer told apart by `buckets`
        ("buckets_first", np.int64),
        ("slow_start_s", np.float64),
        ("fresh_until_s", np.float64),  # some pod is in its slow start before
        ("sticky_share", np.float64),
        ("waiting", np.int64),  # calls that wait for a worker
        ("waiting_since_s", np.float64),
        ("known", np.int64),  # pods at the tick before
        ("changed", np.bool_),
    ],
    align=True,
)

# A visit that is played without events: its request arrives, takes a server of its pod, and is answered at its end.
VISIT = np.dtype(
    [
        ("arrival_s", np.float64),
        ("end_s", np.float64),
        ("station", np.int64),
        ("following", np.int64),  # the next visit of the station
    ],
    align=True,
)

NODE = np.dtype([("turn", np.int64)], align=True)
# What one balancer node knows of one station, and the place of that station in the node's order by open calls.
OPEN = np.dtype([("calls", np.int64), ("place", np.int64), ("ordered", np.int64)], align=True)
INDEX = np.dtype([("at", np.int64)], align=True)
CLOCK = np.dtype([("free_s", np.float64)], align=True)  # when a server is free
COUNT = np.dtype([("n", np.float64)], align=True)

# Requests of a class that are still to arrive in this tick, and the key of this tick's requests. The row after those of the
# classes holds the stream of the moments of arrival, and the one after it streams that are followed for a moment.
ARRIVAL = np.dtype([("left", np.int64), ("taken", np.int64), ("key", np.uint64), ("random", np.uint64)], align=True)

CALL_STATE = np.dtype(
    [
        ("oldest", np.int64),  # attempts that may time out, by age
        ("newest", np.int64),
        ("armed", np.bool_),
        ("tokens", np.float64),  # of the retry budget
        ("first_attempts", np.float64),  # in this tick
        ("last_attempts", np.float64),  # in the tick before
        ("open_first", np.int64),  # rows of `call_opens`, one a balancer node
    ],
    align=True,
)

CACHE_STATION = np.dtype(
    [
        ("free_s", np.float64),
        ("head", np.int64),  # look-ups on their way, by end
        ("tail", np.int64),
        ("sojourn_s", np.float64),  # of this tick's look-ups
        ("lookups", np.float64),
    ],
    align=True,
)

DATABASE_STATION = np.dtype(
    [
        ("servers", np.int64),  # of one instance
        ("speed", np.float64),
        ("replicas", np.int64),
        ("servers_first", np.int64),  # primary first
        ("refused_share", np.float64),
        ("pool_waiting", np.int64),
        ("primary_s", np.float64),  # service time given out
        ("replicas_s", np.float64),
        ("primary_reported_s", np.float64),
        ("replicas_reported_s", np.float64),
        ("reads", np.float64),  # sojourns of this tick's queries
        ("reads_s", np.float64),
        ("reads_s2", np.float64),
        ("writes", np.float64),
        ("writes_s", np.float64),
        ("writes_s2", np.float64),
    ],
    align=True,
)

POOL = np.dtype([("used", np.int64), ("head", np.int64), ("tail", np.int64)], align=True)  # of one pod

DISTRIBUTION = np.dtype([("kind", np.int64), ("a", np.float64), ("b", np.float64)], align=True)

# A sampled request, a call as its callee saw it, an attempt of a call as its caller saw it, or a step.
SPAN = np.dtype(
    [
        ("trace", np.uint64),
        ("span", np.uint64),
        ("parent", np.uint64),  # 0: none
        ("caller", np.int32),  # service that recorded it; NONE: the load balancer
        ("service", np.int32),  # where it was done: of an attempt, the callee
        ("pod", np.int32),  # serial of its pod there; NONE: no pod
        ("endpoint", np.int32),
        ("attempt", np.int32),  # 0 for the first; NONE: no attempt
        ("kind", np.int32),  # STEP.kind, or one of `spans.py`
        ("answered", np.int32),  # 1, or 0: refused, not in time, an error
        ("request_class", np.int32),
        ("start_s", np.float64),
        ("end_s", np.float64),
    ],
    align=True,
)

_TABLES = (
    "services", "states", "endpoints", "steps", "calls", "classes", "pods", "caches", "cache_states", "databases",
    "database_states", "sums", "class_sums", "latency",
)  # fmt: skip
_OWN = (
    "frames", "events", "stations", "servers", "groups", "choices", "by_row", "nodes", "opens", "buckets", "call_states",
    "call_opens", "cache_stations", "database_stations", "database_servers", "pools", "step_times", "cache_times",
    "database_times", "spans", "users", "to_come", "visits",
)  # fmt: skip

ENGINE = np.dtype(
    [
        *((name, np.int64) for name in _OWN),  # addresses of the engine's tables
        *((f"the_{name}", np.int64) for name in _TABLES),  # addresses of the lane's tables, while a tick runs
        ("n_services", np.int64),
        ("n_stations", np.int64),
        ("n_calls", np.int64),
        ("n_caches", np.int64),
        ("n_databases", np.int64),
        ("n_classes", np.int64),
        ("n_steps", np.int64),
        ("n_frames", np.int64),  # capacity
        ("n_used", np.int64),
        ("free", np.int64),  # first free frame
        ("n_events", np.int64),  # in the heap
        ("room_events", np.int64),  # capacity of it
        ("reserve", np.int64),  # frames that one stretch of work may take at most
        ("run_head", np.int64),  # threads that go on now
        ("run_tail", np.int64),
        ("key", np.uint64),  # of the lane's random numbers
        ("random", np.uint64),  # balancers, budgets and refusals: everything that depends on who else is there
        ("now_s", np.float64),
        ("arrival_s", np.float64),  # of the next request of this tick; infinite: none is left
        ("ahead", np.float64),  # share of the tick that lies behind it
        ("left", np.int64),  # requests of this tick that are still to come
        ("direct", np.bool_),  # the lane is of the kind that `direct.py` plays without events
        ("plain", np.bool_),  # and so is all that is under way
        ("room_visits", np.int64),  # rows of `visits`
        ("tick_s", np.float64),
        ("threshold_s", np.float64),
        ("arrived", np.int64),  # requests since the start
        ("answered", np.int64),
        ("failed", np.int64),
        ("in_flight", np.int64),
        ("handled", np.int64),  # events
        ("trace_share", np.float64),
        ("n_spans", np.int64),
        ("n_span_rows", np.int64),  # rows of `spans`
        ("room_spans", np.int64),  # that it may grow to
        ("lost_spans", np.int64),
        ("next_span", np.uint64),
        ("began", np.bool_),
    ],
    align=True,
)

frame_at = rows_of(FRAME)
event_at = rows_of(EVENT)
station_at = rows_of(STATION)
group_at = rows_of(GROUP)
node_at = rows_of(NODE)
open_at = rows_of(OPEN)
index_at = rows_of(INDEX)
clock_at = rows_of(CLOCK)
arrival_at = rows_of(ARRIVAL)
count_at = rows_of(COUNT)
call_state_at = rows_of(CALL_STATE)
cache_station_at = rows_of(CACHE_STATION)
database_station_at = rows_of(DATABASE_STATION)
pool_at = rows_of(POOL)
distribution_at = rows_of(DISTRIBUTION)
visit_at = rows_of(VISIT)
span_at = rows_of(SPAN)

service_at = rows_of(SERVICE)
service_state_at = rows_of(SERVICE_STATE)
endpoint_at = rows_of(ENDPOINT)
step_at = rows_of(STEP)
call_at = rows_of(CALL)
class_at = rows_of(REQUEST_CLASS)
pod_at = rows_of(POD)
cache_at = rows_of(CACHE)
cache_state_at = rows_of(CACHE_STATE)
database_at = rows_of(DATABASE)
database_state_at = rows_of(DATABASE_STATE)
sums_at = rows_of(SERVICE_SUMS)
class_sums_at = rows_of(CLASS_SUMS)
