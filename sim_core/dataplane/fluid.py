"""The fluid engine: per tick flows, queues and analytic waiting times instead of single requests."""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.queueing import queue_after, wait_moments
from sim_core.limits import RETRY_SLOTS
from sim_core.world import (
    HIT_POINTS,
    LATENCY_BUCKETS,
    LATENCY_MAX_S,
    LATENCY_MIN_S,
    LEAST_OUTSTANDING,
    ROUND_ROBIN,
)

_SQRT_HALF = math.sqrt(0.5)
_LEAST = 1e-100  # of requests, calls, queries: fewer are none, for products with them would vanish, and ratios overflow
_LOG_MIN = math.log(LATENCY_MIN_S)
_BUCKETS_PER_LOG = LATENCY_BUCKETS / math.log(LATENCY_MAX_S / LATENCY_MIN_S)
# A latency distribution is written down as these points: normal quantiles at the middles of slices of probability,
# thinner where the tail counts.
_EDGES = np.array([0.0, 0.12, 0.32, 0.55, 0.75, 0.88, 0.94, 0.97, 0.985, 0.995, 1.0])
_SLICE_WEIGHTS = np.diff(_EDGES)
# scipy.stats.norm.ppf((_EDGES[1:] + _EDGES[:-1]) / 2), written out so that importing the kernels stays light
_SLICE_QUANTILES = np.array(
    [-1.55477, -0.77219, -0.16366, 0.38532, 0.89647, 1.34076, 1.69540, 2.00465, 2.32635, 2.80703]
)


@kernel
def lognormal_tail(mean, variance, threshold):
    """P(X > threshold) of the lognormal distribution with this mean and variance."""
    if variance <= 1e-12 * mean * mean:
        return 1.0 if mean > threshold else 0.0
    log_variance = math.log1p(variance / (mean * mean))
    log_mean = math.log(mean) - 0.5 * log_variance
    return 0.5 * math.erfc((math.log(threshold) - log_mean) / math.sqrt(log_variance) * _SQRT_HALF)


@kernel
def cache_hit_ratio(cache, cached_keys):
    """Hit ratio [1] with `cached_keys` keys resident, interpolated in the lane's table."""
    position = math.sqrt(cached_keys / cache.capacity_keys) * (HIT_POINTS - 1)
    below = min(int(position), HIT_POINTS - 2)
    share = position - below
    return min(1.0, cache.hit_ratio[below] + share * (cache.hit_ratio[below + 1] - cache.hit_ratio[below]))


@kernel
def serve_cache(params, state, lookups):
    """Looks keys up; misses fill the cache.

    Returns:
        (hit ratio, mean sojourn of a lookup [s]): one thread, Pollaczek-Khinchine; a saturated cache makes a lookup
        wait a whole tick.
    """
    cache = params.cache
    if not cache.present:
        return 0.0, 0.0
    hit_ratio = cache_hit_ratio(cache, state.cached_keys)
    state.cached_keys = min(cache.capacity_keys, state.cached_keys + lookups * (1.0 - hit_ratio))
    utilization = lookups * cache.server_s / params.tick_s
    wait = params.tick_s
    if utilization < 1.0:
        wait = min(wait, utilization * cache.server_s * (1.0 + cache.scv) / (2.0 * (1.0 - utilization)))
    return hit_ratio, cache.lookup_s + wait


@kernel
def serve_queries(queue_len, queries, query_s, scv, cores, instances, limit, tick_s):
    """One group of equal database instances, each with a queue of its own, queries spread at random.

    Returns:
        (queue_len after, mean sojourn of a query [s], its variance [s^2], utilization [1])
    """
    if queries <= 0.0 and queue_len <= 0.0:
        return 0.0, query_s, scv * query_s * query_s, 0.0
    capacity = instances * cores / query_s * tick_s
    queue_now, stationary, waits = queue_after(queue_len, queries, capacity, cores, instances, 0.5 * (1.0 + scv))
    queue_now = min(queue_now, limit)  # a connection holds one query: no more can stand in line
    wait, variance = wait_moments(queue_len, queue_now, stationary, waits, queries, capacity, tick_s)
    return queue_now, wait + query_s, variance + scv * query_s * query_s, min(1.0, queries / capacity)


@kernel
def refused_connection_share(params, state):
    """(share of pods' connections that the database refuses [1], connections asked for over those there are [1])."""
    database = params.database
    if not database.present:
        return 0.0, 0.0
    asked = 0.0
    for i in range(params.n_services):
        service = params.services[i]
        if service.cached_reads_per_call + service.plain_reads_per_call + service.writes_per_call > 0.0:
            asked += state.services[i].n_running * database.pool_size
    ratio = asked / database.connection_limit
    return (1.0 - 1.0 / ratio if ratio > 1.0 else 0.0), ratio


@kernel
def schedule_retries(service, state, tick, tick_s, lost, offered, new_calls, due, timeout_share):
    """Sends lost calls round again, as far as attempts and the retry budget allow.

    Args:
        lost: calls that failed in this tick, of `offered`, of which `new_calls` were first attempts.
        due: calls of the first, second, third retry among those offered.
        timeout_share: of the lost calls; they come back a timeout later than refused ones.

    Returns:
        Calls that fail for good.
    """
    share = lost / offered
    wanted = 0.0
    for attempt in range(service.max_retries):
        wanted += share * (new_calls if attempt == 0 else due[attempt - 1])
    allowed = service.retry_budget_ratio * new_calls
    if wanted <= 0.0 or allowed <= 0.0:
        return lost
    admitted = min(1.0, allowed / wanted)
    for attempt in range(service.max_retries):
        calls = admitted * share * (new_calls if attempt == 0 else due[attempt - 1])
        refused_ticks = max(1, int(service.backoff_s[attempt] / tick_s + 0.5))
        timeout_ticks = max(1, int((service.backoff_s[attempt] + service.timeout_s) / tick_s + 0.5))
        state.retries[(tick + refused_ticks) % RETRY_SLOTS, attempt] += calls * (1.0 - timeout_share)
        state.retries[(tick + timeout_ticks) % RETRY_SLOTS, attempt] += calls * timeout_share
    state.retries_waiting += admitted * wanted
    return max(0.0, lost - admitted * wanted)


@kernel
def serve_service(params, service, state, window, tick, new_calls, expected_calls, refused_share):
    """One service for one tick: retries join, pods serve, the rest waits, is refused or times out.

    Returns:
        (calls answered, calls failed for good, share of first attempts answered, expected calls over those drawn where
        some are lost or come back, mean [s] and variance [s^2] of a call's sojourn, calls that go on to cache and
        database)
    """
    tick_s = params.tick_s
    due_1, due_2, due_3 = 0.0, 0.0, 0.0
    if state.retries_waiting > 0.0:
        slot = state.retries[tick % RETRY_SLOTS]
        due_1, due_2, due_3 = slot[0], slot[1], slot[2]
        slot[0], slot[1], slot[2] = 0.0, 0.0, 0.0
        state.retries_waiting = max(0.0, state.retries_waiting - due_1 - due_2 - due_3)
    offered = new_calls + due_1 + due_2 + due_3
    expected = expected_calls + due_1 + due_2 + due_3
    if offered < _LEAST:
        offered = 0.0
    ready = float(state.n_ready)
    queue_before = state.queue_len
    lost, timeout_share, cpu_core_s = 0.0, 0.0, 0.0
    passed_on, mean, variance = 0.0, service.cpu_s, 0.0
    if ready == 0.0:
        lost = offered
        state.queue_len = state.unserved = 0.0  # nobody holds these calls any more
    else:
        # Cold pods are slow pods; the balancer gives each as much as it can take.
        effective = ready - state.n_cold * (1.0 - 1.0 / service.cold_factor)
        cpu_s = service.cpu_s * ready / effective
        capacity = effective * service.cores / service.cpu_s * tick_s
        servers = service.cores
        waiting_room = ready * max(0.0, service.workers - service.cores + service.queue_limit)
        held_s = cpu_s + service.io_s + state.backend_s
        by_workers = ready * service.workers / held_s * tick_s
        if by_workers < capacity:  # workers stand and wait for others: they are the bottleneck, not the CPU
            capacity = by_workers
            servers = service.workers
            waiting_room = ready * service.queue_limit
        groups, gap_scv = ready, 1.0
        if params.balancing == LEAST_OUTSTANDING:
            servers *= ready
            groups = 1.0
        elif params.balancing == ROUND_ROBIN:
            gap_scv = 1.0 / ready  # every ready-th arrival of a Poisson stream: Erlang gaps
        variability = 0.5 * (gap_scv + service.cpu_scv)
        queue_now, stationary, waits = queue_after(
            queue_before, expected, capacity, servers, groups, variability, waiting_room
        )
        refused = min(expected, max(0.0, queue_now - waiting_room))
        refused = refused * offered / expected if expected > 0.0 else 0.0
        queue_now = min(queue_now, waiting_room)
        admitted = offered - refused
        wait, wait_variance = wait_moments(queue_before, queue_now, stationary, waits, expected, capacity, tick_s)
        if wait_variance > 0.0:  # nobody waits for more than the whole room
            wait_variance = min(wait_variance, (waiting_room / capacity * tick_s) ** 2 / 12.0)
        work = state.unserved + queue_before + admitted - queue_now
        served = min(capacity, max(0.0, work))  # the expected queue may run ahead of the draws: they catch up with it
        state.unserved = work - served
        # Waiting times of cache and database hold the chance of arrivals already: they see the expected flow.
        passed_on = served if served >= capacity else max(0.0, served - offered + expected)
        mean = wait + held_s
        variance = wait_variance + service.cpu_scv * cpu_s * cpu_s + service.io_s**2 + state.backend_variance_s2
        state.queue_len = queue_now
        timed_out = 0.0
        slack_s = service.timeout_s - mean
        if slack_s < 0.0 or slack_s * slack_s < 16.0 * variance:
            timed_out = lognormal_tail(mean, variance, service.timeout_s)
        answered = (1.0 - timed_out) * (1.0 - refused_share)
        lost = min(offered, refused + admitted * (1.0 - answered))
        if lost > 0.0:
            timeout_share = min(1.0, admitted * timed_out / lost)
        cpu_core_s = served * cpu_s
        state.ready_cpu_core_s += cpu_core_s / ready
    failed, answered_share = 0.0, 1.0
    if lost <= 1e-12:
        lost = 0.0
    else:
        answered_share = 1.0 - lost / offered
        failed = schedule_retries(
            service, state, tick, tick_s, lost, offered, new_calls, (due_1, due_2, due_3), timeout_share
        )
    window.calls += offered
    window.failed += lost
    window.cpu_core_s += cpu_core_s
    window.request_core_s += ready * service.request_cores * tick_s
    window.queue_s += state.queue_len * tick_s
    window.latency_s += offered * mean
    expected_share = expected / offered if offered > new_calls or lost > 0.0 else 1.0
    return offered - lost, failed, answered_share, expected_share, mean, variance, passed_on


@kernel
def share_of_requests(answered_share, calls):
    """The share of requests that have all their calls answered, where each call is with probability `answered_share`.

    Args:
        calls: mean calls of a request; where it is below 1, so many requests make one call, and the others none.
    """
    return answered_share**calls if calls >= 1.0 else 1.0 - calls * (1.0 - answered_share)


@kernel
def serve(params, state, requests, expected):
    """The data plane for one tick: `requests` arrive, visit every service in turn, and are accounted.

    Cache and database work on what the services pass on in this tick; their sojourn times hold the workers of the next.
    A call that had to be retried is answered late: it counts as valid and not as good.

    Source of the stations' waiting times: `queueing.py`.
    """
    tick_s, tick = params.tick_s, state.tick
    window, account = state.window, state.account
    database = params.database
    refused_share, _ = refused_connection_share(params, state)

    flow, failed_requests, clean = requests, 0.0, 1.0
    expected_flow = expected
    mean, variance = params.ingress_s, params.ingress_variance_s2
    lookups, reads, writes, pool = 0.0, 0.0, 0.0, 0.0
    cpu_core_s, request_core_s = 0.0, 0.0
    for i in range(params.n_services):
        service, state_i, window_i = params.services[i], state.services[i], window.services[i]
        calls = service.calls_per_request
        queries = service.cached_reads_per_call + service.plain_reads_per_call + service.writes_per_call
        cut_off = refused_share * min(1.0, queries)
        cpu_before = window_i.cpu_core_s
        new_calls = flow * calls
        answered, failed, answered_share, expected_share, mean_i, variance_i, passed_on = serve_service(
            params, service, state_i, window_i, tick, new_calls, expected_flow * calls, cut_off
        )
        mean += calls * mean_i
        variance += calls * variance_i
        calls_each = max(1.0, calls)  # of those requests that come here
        concluded = (answered + failed) / calls_each
        through = answered / calls_each
        if failed > 0.0:  # one call that fails for good fails its request
            through = concluded * (answered / (answered + failed)) ** calls_each
        failed_requests += concluded - through
        passing_by = max(0.0, 1.0 - calls)
        flow = flow * passing_by + through
        if answered != new_calls:  # some are lost, or come back
            expected_flow = expected_flow * passing_by + through * expected_share
        if answered_share < 1.0:
            clean *= share_of_requests(answered_share, calls)
        if passed_on > _LEAST:
            lookups += passed_on * service.cached_reads_per_call
            reads += passed_on * service.plain_reads_per_call
            writes += passed_on * service.writes_per_call
        if queries > 0.0:
            pool += state_i.n_ready * database.pool_size
        cpu_core_s += window_i.cpu_core_s - cpu_before
        request_core_s += state_i.n_ready * service.request_cores * tick_s

    hit_ratio, lookup_s = serve_cache(params, state, lookups)
    if database.present:
        reads += lookups * (1.0 - hit_ratio)
        serve_database(params, state, hit_ratio, lookup_s, reads, writes, pool)
    account_requests(params, state, requests, failed_requests, clean, mean, variance)
    window.lookups += lookups
    window.hits += lookups * hit_ratio
    account.lookups += lookups
    account.hits += lookups * hit_ratio
    account.cpu_core_s += cpu_core_s
    account.request_core_s += request_core_s


@kernel
def serve_database(params, state, hit_ratio, lookup_s, reads, writes, pool):
    """Primary, read replicas and connection pools for one tick; sets what a call of each service waits for them next."""
    tick_s, database = params.tick_s, params.database
    limit = database.connection_limit
    utilization = 0.0
    if database.read_replicas > 0.0:
        state.replica_queue, read_s, read_variance, utilization = serve_queries(
            state.replica_queue, reads, database.read_s, database.scv, database.cores, database.read_replicas,
            limit * database.read_replicas, tick_s,
        )  # fmt: skip
        state.primary_queue, write_s, write_variance, write_utilization = serve_queries(
            state.primary_queue, writes, database.write_s, database.scv, database.cores, 1.0, limit, tick_s
        )
        utilization = max(utilization, write_utilization)
    else:
        queries = reads + writes
        query_s = database.read_s
        if queries > 0.0:
            query_s = (reads * database.read_s + writes * database.write_s) / queries
        state.primary_queue, sojourn_s, sojourn_variance, utilization = serve_queries(
            state.primary_queue, queries, query_s, database.scv, database.cores, 1.0, limit, tick_s
        )
        wait_s = sojourn_s - query_s
        wait_variance = max(0.0, sojourn_variance - database.scv * query_s * query_s)
        read_s, write_s = database.read_s + wait_s, database.write_s + wait_s
        read_variance = wait_variance + database.scv * database.read_s**2
        write_variance = wait_variance + database.scv * database.write_s**2
    state.window.database_busy += utilization * tick_s

    # A query holds a connection of its pod's pool while it waits and runs: the pool is a station of its own.
    pool_wait = 0.0
    if pool > 0.0:
        queries, held = reads + writes, reads * read_s + writes * write_s
        if queries <= 0.0:
            state.pool_queue = 0.0  # nobody asks for a connection
        elif held > 0.3 * pool * tick_s or state.pool_queue > 0.0:
            capacity = pool * tick_s * queries / held
            queue_now, stationary, waits = queue_after(
                state.pool_queue, queries, capacity, database.pool_size, pool / database.pool_size, 1.0
            )
            queue_now = min(queue_now, pool * 4.0)
            pool_wait, _ = wait_moments(state.pool_queue, queue_now, stationary, waits, queries, capacity, tick_s)
            state.pool_queue = queue_now
    read_s += pool_wait
    write_s += pool_wait

    miss = 1.0 - hit_ratio
    miss_variance = max(0.0, miss * (read_variance + read_s * read_s) - (miss * read_s) ** 2)
    for i in range(params.n_services):
        service, state_i = params.services[i], state.services[i]
        cached, plain, written = (
            service.cached_reads_per_call, service.plain_reads_per_call, service.writes_per_call,
        )  # fmt: skip
        state_i.backend_s = cached * (lookup_s + miss * read_s) + plain * read_s + written * write_s
        state_i.backend_variance_s2 = cached * miss_variance + plain * read_variance + written * write_variance


@kernel
def account_requests(params, state, requests, failed, clean, mean, variance):
    """Books a tick's requests: good within the SLO's threshold, failed, and by latency."""
    window, account = state.window, state.account
    answered = requests * clean
    good = 0.0
    if answered < _LEAST:
        answered = 0.0
    else:
        log_variance = math.log1p(variance / (mean * mean))
        log_mean = math.log(mean) - 0.5 * log_variance
        log_sd = math.sqrt(log_variance)
        above = params.latency_threshold_log - log_mean
        if above > 6.0 * log_sd:
            good = answered
        elif log_sd > 0.0:
            good = answered * 0.5 * math.erfc(-above / log_sd * _SQRT_HALF)
        if good < _LEAST:
            good = 0.0
        first = (log_mean - _LOG_MIN) * _BUCKETS_PER_LOG
        width = log_sd * _BUCKETS_PER_LOG
        for k in range(len(_SLICE_QUANTILES)):
            bucket = int(min(max(0.0, first + width * _SLICE_QUANTILES[k]), LATENCY_BUCKETS - 1.0))
            account.latency[bucket] += answered * _SLICE_WEIGHTS[k]
    window.requests += requests
    window.failed += failed
    window.good += good
    window.latency_weight += answered
    window.latency_s += answered * mean
    window.latency_s2 += answered * (variance + mean * mean)
    account.requests += requests
    account.failed += failed
    account.good += good
    account.latency_weight += answered
    account.latency_s += answered * mean
