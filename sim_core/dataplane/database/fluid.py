"""PostgreSQL in the fluid engine: primary, read replicas and the pods' connection pools."""

from __future__ import annotations

import math

from sim_core.compiled import kernel, phase
from sim_core.dataplane.line import is_as_before, rest, serve_line
from sim_core.dataplane.queueing import third_cumulant_factor
from sim_core.dataplane.services.fluid import all_answered
from sim_core.dataplane.services.kinds import LEAST_OUTSTANDING, READ

_SHORT = 0.01  # waits for a connection, over the time of a read, that nobody notices
_MOST_CALLS = 300.0
# Correlation of waits for a connection and for a server: held to the request engine. It decides little: where writes keep a
# primary busy at 0.87 to 0.96 behind pools of one, all from 0 to 1 give an attainment within 0.04 points, a p95 within 4 %.
_JOINT = 0.6


@phase
def begin(world):
    """No query anywhere: the state is zeroed."""


@phase
def before(world):
    """Connections that the database refuses: pods x pool against its limit. Calls that need one fail.

    A cached read that hits needs none.
    """
    if len(world.databases) == 0:
        return
    database, state = world.databases[0], world.database_states[0]
    asked, ready, callers = 0.0, 0.0, 0.0
    for i in range(len(world.services)):
        if world.database_clients[i].connects:
            asked += world.service_states[i].n_running * database.pool_size
            ready += world.service_states[i].n_ready * database.pool_size
            callers += world.service_states[i].n_ready * world.services[i].workers
    state.pool, state.callers = ready, callers
    ratio = asked / database.connection_limit
    state.connection_ratio = ratio
    refused_share = 1.0 - 1.0 / ratio if ratio > 1.0 else 0.0
    if refused_share > 0.0 or state.refused_share > 0.0:
        for e in range(len(world.endpoints)):
            world.endpoint_flows[e].error_share = 0.0
        for k in range(len(world.queries)):
            step = world.steps[world.queries[k]]
            flow = world.endpoint_flows[step.endpoint]
            flow.error_share = 1.0 - (1.0 - flow.error_share) * all_answered(1.0 - refused_share, step)
        for k in range(len(world.lookups)):
            step = world.steps[world.lookups[k]]
            flow, missing = world.endpoint_flows[step.endpoint], 1.0 - world.cache_states[step.target].hit_ratio
            flow.error_share = 1.0 - (1.0 - flow.error_share) * all_answered(1.0 - missing * refused_share, step)
    state.refused_share = refused_share


@phase
def serve(world):
    """One tick of every database, and what a query takes for every step that makes one."""
    tick_s = world.lane.tick_s
    for d in range(len(world.databases)):
        database, state = world.databases[d], world.database_states[d]
        reads, writes = 0.0, 0.0
        for k in range(len(world.queries)):
            s = world.queries[k]
            if world.steps[s].kind == READ:
                reads += world.step_flows[s].expected
            else:
                writes += world.step_flows[s].expected
        for c in range(len(world.caches)):
            reads += world.cache_states[c].misses
        taken = 1.0 - state.refused_share
        state.think_s = 0.0
        if state.pools.wait_s > _SHORT * database.read_s:
            calls_s = 0.0
            for i in range(len(world.services)):
                if world.database_clients[i].connects and world.services[i].balancing == LEAST_OUTSTANDING:
                    load = world.service_flows[i].load
                    calls_s += load.expected * (load.held_s + load.cpu_s + world.service_flows[i].answer.wait_s)
            asked_s = reads * state.read_s + writes * state.write_s
            if calls_s > asked_s:
                state.think_s = (calls_s - asked_s) / (reads + writes)
        serve_database(world.known_points, database, state, taken * reads, taken * writes, tick_s)
        for k in range(len(world.queries)):
            flow = world.step_flows[world.queries[k]]
            if world.steps[world.queries[k]].kind == READ:
                flow.mean_s, flow.variance_s2, flow.third_s3 = state.read_s, state.read_variance_s2, state.read_third_s3
            else:
                flow.mean_s, flow.variance_s2, flow.third_s3 = (
                    state.write_s,
                    state.write_variance_s2,
                    state.write_third_s3,
                )
        for k in range(len(world.lookups)):
            read_through(
                world.cache_states[world.steps[world.lookups[k]].target], state, world.step_flows[world.lookups[k]]
            )


@kernel
def read_through(cache, database, flow):
    """The time of a cached read: a look-up, and on a miss a read from the database."""
    miss = 1.0 - cache.hit_ratio
    read_s = database.read_s
    square = database.read_variance_s2 + read_s * read_s
    mean = miss * read_s
    cube = miss * (database.read_third_s3 + read_s * (3.0 * square - 2.0 * read_s * read_s))
    flow.mean_s = cache.lookup_s + mean
    flow.variance_s2 = cache.lookup_variance_s2 + max(0.0, miss * square - mean * mean)
    flow.third_s3 = cache.lookup_third_s3 + cube - mean * (3.0 * miss * square - 2.0 * mean * mean)


@kernel
def serve_database(known_points, database, state, reads, writes, tick_s):
    """Primary, read replicas and connection pools for one tick: queries that have a connection go on to the servers.

    How long a connection is held beyond the service is no matter for the pools: while servers are busy, all that a query
    waits is the time that they need for those in front of it, wherever these stand. See `wait_for_both`.
    """
    primary, replicas = state.primary, state.replicas
    if rests(state, reads, writes):
        state.busy_s += max(primary.busy, replicas.busy) * tick_s
        return
    state.seen_reads, state.seen_writes = reads, writes
    state.seen_pool, state.seen_callers = state.pool, state.callers
    scv, cores = database.scv, database.cores
    share = serve_pools(known_points, database, state, reads, writes, tick_s)
    reads, writes = share * reads, share * writes
    if database.read_replicas > 0.0:
        readers, n = replicas, database.read_replicas
        serve_line(known_points, replicas, reads, n, cores, state.callers / n, database.read_s, scv, tick_s)
        serve_line(known_points, primary, writes, 1.0, cores, state.callers, database.write_s, scv, tick_s)
    else:
        readers = primary
        mean_s, mean_scv = mixed_query(database, reads, writes)
        serve_line(known_points, primary, reads + writes, 1.0, cores, state.callers, mean_s, mean_scv, tick_s)
    state.busy_s += max(primary.busy, replicas.busy) * tick_s
    slowness = math.ceil(cores) / cores
    read_s, write_s = slowness * database.read_s, slowness * database.write_s
    factor = third_cumulant_factor(scv)
    mean, variance, third = wait_for_both(state, readers, database.pool_size)
    state.read_s, state.read_variance_s2 = read_s + mean, scv * read_s * read_s + variance
    state.read_third_s3 = factor * read_s**3 + third
    if database.read_replicas > 0.0:
        state.read_s += wait_behind_others(primary, state.pool, database.write_s)
        mean, variance, third = wait_for_both(state, primary, database.pool_size)
        mean += wait_behind_others(replicas, state.pool / database.read_replicas, database.read_s)
    state.write_s, state.write_variance_s2 = write_s + mean, scv * write_s * write_s + variance
    state.write_third_s3 = factor * write_s**3 + third


@kernel
def rests(state, reads, writes):
    """Whether all is as it was worked out last."""
    return (
        state.pool == state.seen_pool
        and state.callers == state.seen_callers
        and is_as_before(state.primary, writes, state.seen_writes)
        and is_as_before(state.primary, reads, state.seen_reads)
        and is_as_before(state.replicas, reads, state.seen_reads)
        and is_as_before(state.pools, reads + writes, state.seen_reads + state.seen_writes)
        and state.read_s > 0.0
    )


@kernel
def mixed_query(database, reads, writes):
    """Mean time that one of these queries needs a core [s], and variance over squared mean."""
    queries = reads + writes
    if writes <= 0.0 or queries <= 0.0:
        return database.read_s, database.scv
    mean_s = (reads * database.read_s + writes * database.write_s) / queries
    square_s2 = (reads * database.read_s**2 + writes * database.write_s**2) / queries
    return mean_s, max(0.0, (1.0 + database.scv) * square_s2 / (mean_s * mean_s) - 1.0)


@kernel
def serve_pools(known_points, database, state, reads, writes, tick_s):
    """The lines for a connection of the pods' pools. Returns queries that get one over those that come [1]."""
    pools, queries = state.pools, reads + writes
    state.pool_queue = 0.0
    if state.pool <= 0.0:
        rest(pools)
        return 1.0
    pods = state.pool / database.pool_size
    held_s, scv = mixed_query(database, reads, writes)
    held_s *= math.ceil(database.cores) / database.cores
    used = queries * held_s / tick_s  # connections
    waiting = max(0.0, pools.open - pools.busy * state.pool)
    a_pod = used / pods
    if waiting <= 0.0 and a_pod + 8.0 * math.sqrt(a_pod) + 8.0 < database.pool_size:
        rest(pools)  # chance alone never needs them all
    else:
        room = state.callers / pods
        serve_line(known_points, pools, queries, pods, database.pool_size, room, held_s, scv, tick_s)
        state.pool_queue = max(0.0, pools.open - pools.busy * state.pool)
    state.kept = 1.0
    if state.think_s > 0.0 and pools.wait_s > _SHORT * held_s and queries > 0.0:
        rate_per_s = queries / tick_s / pods
        even_s = wait_in_even_pods(rate_per_s, database.pool_size, held_s, state.think_s, state.callers / pods)
        state.kept = min(1.0, even_s / pools.wait_s)
        # Nothing is evened among few pods, nor is a backlog that is there already.
        aim = used / state.pool
        backlog = min(1.0, 5.0 * max(0.0, pools.utilization - aim) / max(1e-3, 1.0 - aim))
        state.kept += (1.0 - state.kept) * max(1.0 / max(1.0, pods), backlog)
    return max(0.0, queries + waiting - state.pool_queue) / queries if queries > 0.0 else 0.0


@kernel
def wait_in_even_pods(rate_per_s, connections, held_s, think_s, workers):
    """Mean wait for a connection where a balancer keeps pods at equal numbers of calls [s].

    So many calls go round in a pod, between its connections and what else they do, that it makes the queries it does: exact
    mean value analysis, the connections as one fast server and a delay. Sources: Reiser and Lavenberg, J. ACM 27 (1980);
    Seidmann, Schweitzer and Shalev-Oren, "Computerized closed queueing network models", Large Scale Systems 12 (1987).
    """
    fast_s = held_s / connections
    delay_s = think_s + held_s - fast_s
    queue, before, calls = 0.0, 0.0, 0.0
    while calls < min(workers, _MOST_CALLS):
        calls += 1.0
        sojourn_s = fast_s * (1.0 + queue)
        rate = calls / (delay_s + sojourn_s)
        if rate >= rate_per_s:
            calls -= (rate - rate_per_s) / (rate - before)
            return max(0.0, calls / rate_per_s - think_s - held_s)
        queue, before = rate * sojourn_s, rate
    return math.inf


@kernel
def wait_for_both(state, line, pool_size):
    """Mean, variance and third cumulant of the wait for a connection and for a server [s, s^2, s^3].

    With one pod it is the longer one of both: its queries stand in one line, whose bottleneck is what it waits for. With
    very many pods a query waits for a connection because its own pod has many at the moment, and for a server because
    all pods have: waits add up. Between these the norm of both with the exponent pods / (pods - 1), which is held to the
    request engine. A pool no larger than the servers never lets a query wait for them.
    """
    pools, kept = state.pools, state.kept
    pool_s, pool_variance, pool_third = (
        kept * pools.wait_s,
        kept**2 * pools.wait_variance_s2,
        kept**3 * pools.wait_third_s3,
    )
    if pool_s <= 1e-4 * line.wait_s:
        return line.wait_s, line.wait_variance_s2, line.wait_third_s3
    if line.wait_s <= 1e-4 * pool_s or state.pool <= line.servers:
        return pool_s, pool_variance, pool_third
    pods = state.pool / pool_size
    if pods < 1.1:
        if line.wait_s > pool_s:
            return line.wait_s, line.wait_variance_s2, line.wait_third_s3
        return pool_s, pool_variance, pool_third
    longer, shorter = max(line.wait_s, pool_s), min(line.wait_s, pool_s)
    norm = pods / (pods - 1.0)
    part = (shorter / longer) ** norm
    stretch = (1.0 + part) ** (1.0 / norm)
    mean = longer * stretch
    # the powers norm - 1 of both waits over the mean
    of_longer, of_shorter = stretch / (1.0 + part), stretch / (1.0 + part) * part * longer / shorter
    of_line, of_pools = (of_longer, of_shorter) if line.wait_s > pool_s else (of_shorter, of_longer)
    variance = of_line * line.wait_variance_s2 + of_pools * pool_variance
    third = of_line * line.wait_third_s3 + of_pools * pool_third
    # Long lines of one pod last while servers are busy, so both waits are long together.
    joint = 2.0 * _JOINT * math.sqrt(of_line * line.wait_variance_s2 * of_pools * pool_variance)
    grown = 1.0 + joint / variance
    return mean, variance + joint, third * grown * math.sqrt(grown)


@kernel
def wait_behind_others(line, connections, service_s):
    """Mean wait for a connection behind queries for other servers, which hold all that there are and want more [s].

    Args:
        line: of those servers; a wait for them is exponential, about, and spent with a connection as far as it lasts no
            longer than that of so many in front.
        connections: to one of their instances.
        service_s: mean time that such a query needs a core.
    """
    if connections <= 0.0 or line.wait_s <= 0.0:
        return 0.0
    longest = (
        max(0.0, connections / line.servers - 1.0) * service_s * line.waits / line.wait_s
    )  # over the mean of those
    return line.wait_s * math.exp(-longest) if longest < 20.0 else 0.0
