"""PostgreSQL in the fluid engine: primary, read replicas and the pods' connection pools."""

from __future__ import annotations

from sim_core.compiled import kernel, phase
from sim_core.dataplane.queueing import queue_after, third_cumulant_factor, wait_moments
from sim_core.dataplane.services.kinds import READ


@phase
def begin(world):
    """An empty queue everywhere: the state is zeroed."""


@phase
def before(world):
    """Connections that the database refuses: pods x pool against its limit. Calls that need one fail."""
    if len(world.databases) == 0:
        return
    database, state = world.databases[0], world.database_states[0]
    asked, ready = 0.0, 0.0
    for i in range(len(world.services)):
        if world.database_clients[i].connects:
            asked += world.service_states[i].n_running * database.pool_size
            ready += world.service_states[i].n_ready * database.pool_size
    state.pool = ready
    ratio = asked / database.connection_limit
    state.connection_ratio = ratio
    refused_share = 1.0 - 1.0 / ratio if ratio > 1.0 else 0.0
    if refused_share > 0.0 or state.refused_share > 0.0:
        for e in range(len(world.endpoints)):
            world.endpoint_flows[e].error_share = refused_share * min(1.0, world.endpoint_queries[e].queries)
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
        serve_database(database, state, reads, writes, tick_s)
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
    flow.variance_s2 = max(0.0, miss * square - mean * mean)
    flow.third_s3 = cube - mean * (3.0 * miss * square - 2.0 * mean * mean)


@kernel
def serve_group(group, queries, query_s, scv, cores, instances, limit, tick_s):
    """One group of equal instances, each with a queue of its own, queries spread at random; `group` is DATABASE_GROUP."""
    group.wait_s = group.wait_variance_s2 = group.utilization = 0.0
    if queries <= 0.0 and group.queue_len <= 0.0:
        return
    capacity = instances * cores / query_s * tick_s
    before = group.queue_len
    queue_now, stationary, waits = queue_after(before, queries, capacity, cores, instances, 0.5 * (1.0 + scv))
    group.queue_len = min(queue_now, limit)  # a connection holds one query: no more can stand in line
    group.wait_s, group.wait_variance_s2 = wait_moments(
        before, group.queue_len, stationary, waits, queries, capacity, tick_s
    )
    group.utilization = min(1.0, queries / capacity)


@kernel
def serve_database(database, state, reads, writes, tick_s):
    """Primary, read replicas and connection pools for one tick."""
    limit, primary, replicas = database.connection_limit, state.primary, state.replicas
    if database.read_replicas > 0.0:
        serve_group(replicas, reads, database.read_s, database.scv, database.cores, database.read_replicas,
                    limit * database.read_replicas, tick_s)  # fmt: skip
        serve_group(primary, writes, database.write_s, database.scv, database.cores, 1.0, limit, tick_s)
        read_wait, read_variance = replicas.wait_s, replicas.wait_variance_s2
        utilization = max(replicas.utilization, primary.utilization)
    else:
        queries = reads + writes
        query_s = database.read_s
        if queries > 0.0:
            query_s = (reads * database.read_s + writes * database.write_s) / queries
        serve_group(primary, queries, query_s, database.scv, database.cores, 1.0, limit, tick_s)
        read_wait, read_variance = primary.wait_s, primary.wait_variance_s2
        utilization = primary.utilization
    state.busy_s += utilization * tick_s
    read_s, write_s = read_wait + database.read_s, primary.wait_s + database.write_s
    state.read_variance_s2 = read_variance + database.scv * database.read_s**2
    state.write_variance_s2 = primary.wait_variance_s2 + database.scv * database.write_s**2
    # Waits are zero or exponential, about: their third cumulant is that of a gamma distribution, 2 variance^2 / mean.
    factor = third_cumulant_factor(database.scv)
    state.read_third_s3 = factor * database.read_s**3
    if read_wait > 0.0:
        state.read_third_s3 += 2.0 * read_variance * read_variance / read_wait
    state.write_third_s3 = factor * database.write_s**3
    if primary.wait_s > 0.0:
        state.write_third_s3 += 2.0 * primary.wait_variance_s2**2 / primary.wait_s
    pool_wait = wait_for_connection(
        state, reads + writes, reads * read_s + writes * write_s, database.pool_size, tick_s
    )
    state.read_s, state.write_s = read_s + pool_wait, write_s + pool_wait


@kernel
def wait_for_connection(state, queries, held, pool_size, tick_s):
    """Mean wait for a connection of the pod's pool [s]: a query holds one while it waits and runs.

    Args:
        queries: of this tick; `held`: connection-seconds that they need.
    """
    if state.pool <= 0.0:
        return 0.0
    if queries <= 0.0:
        state.pool_queue = 0.0  # nobody asks for a connection
        return 0.0
    if held <= 0.3 * state.pool * tick_s and state.pool_queue <= 0.0:
        return 0.0
    capacity = state.pool * tick_s * queries / held
    before = state.pool_queue
    queue_now, stationary, waits = queue_after(before, queries, capacity, pool_size, state.pool / pool_size, 1.0)
    state.pool_queue = min(queue_now, state.pool * 4.0)
    wait, _ = wait_moments(before, state.pool_queue, stationary, waits, queries, capacity, tick_s)
    return wait
