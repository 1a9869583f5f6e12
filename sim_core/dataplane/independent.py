"""The stationary station of pods that get their calls without regard to what they have: at random, or in turn.

Every pod is a queue of its own, M/G/c/K or one with more even gaps. Calls wait at three places: for a core or a share of
the CPU, for a worker, and (held by a backend) with a worker. The chain of the calls in a pod has a segment for each:

* up to `servers` calls none waits: weights of Erlang's;
* calls that share the CPU: the next states are geometric, and (Poisson arrivals) the same for any distribution of CPU
  times: the queue is symmetric. Source: Kelly, "Reversibility and stochastic networks" (1979), chapter 3;
* calls in line, for a FIFO CPU or for a worker: geometric with the ratio that gives Pollaczek's and Khinchine's mean. From
  sharing to line the density of states falls by (1 + scv) / 2, as in heavy traffic, where the work decides the state.
  Source: Zhang, Dai and Zwart, "Diffusion limits of limited processor sharing queues", Ann. Appl. Probab. 21 (2011).

That is exact for exponential times at random. What it misses otherwise is a smooth function of the few numbers that
decide; `correct` adds it, with coefficients fitted to simulated stations: see fit.py.
"""

from __future__ import annotations

import math

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.curve import call_speed, speed_with
from sim_core.dataplane.independent_table import COEFFICIENTS
from sim_core.dataplane.queueing import (
    LARGE,
    entry_weight,
    free_servers,
    gap_factor,
    geometric_sum,
    line_log_ratio,
    mixed_cumulants,
    scv_factor,
    third_cumulant_factor,
    truncated_geometric,
)
from sim_core.dataplane.services.records import CFS_QUOTA, FIFO, PROCESSOR_SHARING, ROUND_ROBIN
from sim_core.dataplane.station import N_FACTS

_SHARERS = 3.6  # by how much the variability of CPU times counts for less in overload, by the root of those that share
_SETTLES = 7.0  # departures from a place, after which their number varies half as it does at last
_FADES = 20.0  # corrections, by utilization beyond 1
# Terms of the corrections: products of two facts, of which the first is always 1.
PAIRS = np.array([(i, j) for i in range(N_FACTS) for j in range(i, N_FACTS)], np.int64)
N_TERMS = len(PAIRS)
WAIT, DEVIATION, FORM = 0, 1, 2  # what is corrected


@kernel
def take_chain_of_pod(load, state, chain, utilization, held, room):
    """Sets CHAIN by summing states: of a pod whose workers are too few to keep its CPU busy.

    A pod with k open calls works at the speed X(k) of the closed network of its CPU and its backends, which is exact for
    exponential CPU times; beyond its workers calls wait in line.
    """
    most = state.speed[state.saturated]
    busy, workers = utilization * most, int(min(room, load.workers))
    chain.gaps = gap_factor(load, load.cpu_scv, utilization) / (0.5 * (1.0 + load.cpu_scv))
    factor = max(0.02, scv_factor(load.cpu_scv, load.workers, utilization) * chain.gaps)
    # In overload even gaps make states steeper, as those of a diffusion that varies less; and on the mean there are fewer
    # calls between two arrivals, as no gap is long (nearly half a departure where gaps are constant).
    overloaded = 1.0 - fade_of(utilization)
    uneven = 1.0 - overloaded * (1.0 - gap_factor(load, 1.0, utilization))
    steeper = 1.0 / uneven
    weight, total, inside, at_work, found = 1.0, 1.0, 0.0, 0.0, 0.0
    for k in range(1, workers + 1):
        speed = speed_with(state, float(k))
        weight *= (busy / speed) ** steeper
        total += weight
        inside += weight * k
        at_work += weight * speed
        if weight > LARGE:
            total, inside, at_work, weight = total / weight, inside / weight, at_work / weight, 1.0
    line = room - workers
    ratio = line_log_ratio(utilization, factor)
    full, ahead = weight, 0.0
    chain.mean_line = chain.variance_line = chain.third_line = 0.0
    if line >= 1.0:
        # States 1 .. line beyond the workers; a call that finds the last of them is refused.
        chain.mean_line, chain.variance_line, chain.third_line = truncated_geometric(ratio, line)
        first = weight * utilization * entry_weight(utilization, factor)
        mass, full = first * geometric_sum(-abs(ratio), line), first
        down = math.exp(-min(700.0, abs(ratio) * (line - 1.0)))
        if ratio > 0.0:
            total, inside, at_work, weight = total * down, inside * down, at_work * down, weight * down
        else:
            full *= down
        found = mass + weight - full
        ahead = mass * (chain.mean_line + 1.0)
        total += mass
        inside += mass * load.workers + ahead
        at_work += mass * most
    accepted = max(1e-300, at_work / total)
    chain.blocked = min(1.0, max(0.0, 1.0 - accepted / busy))
    chain.lines = max(0.0, found) / max(1e-300, total - full)
    chain.ahead = ahead / total
    alone = 1.0 / call_speed(load)
    # The curve is that of exponential times and Poisson arrivals; in overload it is the room that counts.
    at_cpu = chain.gaps
    if load.sharing == FIFO:
        at_cpu *= scv_factor(load.cpu_scv, math.ceil(load.cores), utilization)
    at_cpu += (1.0 - at_cpu) * min(1.0, utilization) ** 20
    inside -= 0.85 * (1.0 - uneven) / max(1.0, utilization) * total
    chain.beside = at_cpu * max(0.0, inside / total - chain.ahead - accepted * (held + alone))
    chain.waits = min(1.0, max(chain.lines, 1.0 - math.exp(-1.2 * (chain.beside + chain.ahead) / accepted)))
    chain.accepted = accepted
    chain.places = max(1.0, room - accepted * (held + alone))


@kernel
def take_chain_of_cpu(load, chain, utilization, held, room):
    """Sets CHAIN in closed form: of a pod that has workers enough to keep its CPU busy."""
    cores, speed, scv = load.cores, call_speed(load), load.cpu_scv
    servers = math.ceil(cores / speed - 1e-9)
    busy, below = utilization * cores, min(utilization, 1.0)
    gaps = gap_factor(load, scv, utilization) / (0.5 * (1.0 + scv))
    factor = max(0.02, line_scv_factor(load, servers, utilization) * gaps)
    gaps = max(0.02, gaps)
    with_backends = below * cores * held
    places = max(1.0, room - servers - with_backends)
    sharing = 0.0
    if load.sharing != FIFO:
        sharing = min(places - 1.0, max(0.0, load.workers - with_backends - servers))
    line = places - sharing
    ratio = line_log_ratio(utilization, factor)
    # Weights of 0 .. servers - 1 calls, of those that share, and of those in line; each over the largest.
    weight, idle, idle_busy = free_servers(busy, speed, servers)
    weight *= utilization * entry_weight(utilization, factor if sharing == 0.0 else gaps)
    in_share, mean_share, down = 0.0, 0.0, 1.0
    in_line = geometric_sum(-abs(ratio), line)
    if ratio > 0.0:
        down = math.exp(-min(700.0, ratio * (line - 1.0)))
    if sharing > 0.0:
        in_line *= entry_weight(utilization, factor) / entry_weight(utilization, gaps)
        shared_ratio = line_log_ratio(utilization, gaps)
        mean_share, _, _ = truncated_geometric(shared_ratio, sharing)
        if shared_ratio > 0.0:
            in_share = down * math.exp(-shared_ratio) * geometric_sum(-shared_ratio, sharing)
            down *= math.exp(-min(700.0, shared_ratio * sharing))
        else:
            in_line *= math.exp(max(-700.0, shared_ratio * sharing))
            in_share = geometric_sum(shared_ratio, sharing)
    in_line, in_share = in_line * weight, in_share * weight
    total = idle * down + in_share + in_line
    mean_busy = (idle_busy * down + cores * (in_share + in_line)) / total
    odds = max(0.0, (busy - mean_busy) / cores)
    blocked = odds / (1.0 + odds)
    lines = in_line / total
    chain.blocked, chain.lines, chain.waits = blocked, lines, (in_share + in_line) / total
    chain.mean_line, chain.variance_line, chain.third_line = truncated_geometric(ratio, line)
    # Little's law over all states, the full pod among them.
    chain.accepted = max(1e-300, busy * (1.0 - blocked))
    chain.ahead = (1.0 - blocked) * lines * chain.mean_line + blocked * line
    chain.beside = (1.0 - blocked) * (in_share / total * mean_share + lines * sharing) + blocked * sharing
    chain.gaps, chain.places = gaps, places
    if load.sharing == FIFO and load.balancing == ROUND_ROBIN and load.ready > 1.0 and utilization < 1.0:
        # Even gaps let more calls find the CPU idle than at random: fitted to the mean wait of those that wait.
        few = 1.0 / load.ready
        even = 0.5 * (few + scv) + 0.125 * (1.0 - few) * (scv + scv * scv) * (1.0 - utilization)
        chain.waits = min(chain.waits, utilization * factor / even)


@kernel
def line_scv_factor(load, servers, utilization):
    """Mean line of a pod over that of exponential CPU times [1], with Poisson arrivals.

    In overload lines are full but for what few departures empty. Calls that share the CPU leave nearly at random until many
    of them are done, however variable they are (fitted to 4 to 40 workers and utilizations of 1.1 to 1.4).
    """
    scv = load.cpu_scv
    if load.sharing != FIFO and scv > 1.0 and utilization > 1.0:
        sharers = _SHARERS * math.sqrt(load.workers / load.cores) * (utilization - 1.0)
        scv -= (scv - 1.0) * sharers / (1.0 + sharers)
    return scv_factor(scv, servers, utilization)


@kernel
def independent_base(load, state, point, utilization, held, room):
    """Sets POINT as the chain of calls has it, and `state.facts`: what the corrections go by.

    Args:
        utilization: arrivals over what a pod can serve [1].
        held: mean time that a call holds its worker beyond its CPU time, over that CPU time [1].
        room: calls that a pod can hold.
    """
    chain, facts = state.chain, state.facts
    cores, scv, alone = load.cores, load.cpu_scv, 1.0 / call_speed(load)
    servers, below, poisson = math.ceil(cores * alone - 1e-9), min(utilization, 1.0), 0.5 * (1.0 + scv)
    if state.capacity < 1.0:
        take_chain_of_pod(load, state, chain, utilization, held, room)
    else:
        take_chain_of_cpu(load, chain, utilization, held, room)
    accepted, lines = chain.accepted, chain.lines
    point.blocked = chain.blocked
    facts[0] = 1.0
    facts[1] = below
    facts[2] = max(0.0, 1.0 - 1.0 / utilization)
    facts[3] = min(1.5, math.log(poisson))
    facts[4] = min(1.0, (chain.ahead + chain.beside) / chain.places)
    facts[5] = lines if load.sharing != FIFO else 0.0
    facts[6] = 1.0 - 1.0 / load.ready if load.balancing == ROUND_ROBIN and load.ready > 1.0 else 0.0
    facts[7] = accepted * held / (accepted * held + chain.places)
    facts[8] = 1.0 - 1.0 / servers
    facts[9] = below**4
    facts[10] = facts[3] * facts[4]
    # A call that finds i in line waits for i + 1 departures.
    scv_departures, skewness = (scv + servers - 1.0) / servers, third_cumulant_factor(scv)
    if load.sharing == PROCESSOR_SHARING and scv > 1.0:
        # Each place at the CPU is left again and again, a renewal process; until it was left often, departures of all places
        # are nearly at random (fitted to superposed processes of scv 2 and 4, within 0.1 of scv - 1).
        left = (chain.mean_line + 1.0) / max(servers, load.workers - below * cores * held)
        scv_departures = 1.0 + (scv - 1.0) * left / (left + _SETTLES)
        skewness = third_cumulant_factor(scv_departures)
    mean = (chain.mean_line + 1.0) / cores
    variance = ((chain.mean_line + 1.0) * scv_departures + chain.variance_line) / cores**2
    third = (chain.mean_line + 1.0) * skewness / servers**2
    third = (third + 3.0 * chain.variance_line * scv_departures + chain.third_line) / cores**3
    if load.sharing == FIFO:
        wait = (chain.ahead + chain.beside) / accepted
        if state.capacity < 1.0:
            mean, variance, third = wait, wait * wait, 2.0 * wait**3
        scale = wait / max(1e-12, chain.waits * mean)
        variance, third = mixed_cumulants(chain.waits, mean * scale, variance * scale**2, third * scale**3)
        point.wait_s, point.waits = wait, chain.waits
        point.wait_variance_s2, point.wait_third_s3 = variance, third
        point.extra_variance_s2 = point.extra_third_s3 = 0.0
        return
    in_line = chain.ahead / accepted
    scale = in_line / max(1e-12, lines * mean)
    variance, third = mixed_cumulants(lines, mean * scale, variance * scale**2, third * scale**3)
    stretch = alone + chain.beside / accepted
    waits = chain.waits
    if load.sharing == CFS_QUOTA:
        # What a period brings too much is left for the next one: a random walk, whose maximum is that of a diffusion less
        # what it jumps over. Source: Siegmund, "Corrected diffusion approximations in certain random walk problems",
        # Adv. Appl. Probab. 11 (1979).
        buffered = math.sqrt(cores * load.quota_period_s / (load.cpu_s * 2.0 * poisson * max(0.02, chain.gaps)))
        kept = math.exp(-1.166 * (1.0 - below) / math.sqrt(below) * buffered)
        stretch = alone + (stretch + max(0.0, 1.0 / cores - 1.0) - alone) * kept
        in_line, variance, third = in_line * kept, variance * kept, third * kept
        waits *= kept
        facts[7], facts[8] = min(1.5, max(-1.5, math.log(buffered))), kept
    # A call of the CPU time x takes x times the stretch on the mean; what varies beyond is as in the exponential case of
    # Coffman, Muntz and Trotter, "Waiting time distributions for processor-sharing systems", J. ACM 17 (1970).
    # Where there is always a line, always as many calls share.
    rest = 2.0 * (stretch - alone) / (stretch + alone) * stretch * stretch * math.sqrt(poisson) * (1.0 - lines)
    own, own_third = scv * alone * alone, third_cumulant_factor(scv) * alone**3
    skewed = third_cumulant_factor(scv) * stretch**3 + 3.0 * rest * (rest / stretch + 0.6 * scv * stretch)
    point.waits, point.wait_s = waits, in_line + stretch - alone
    point.wait_variance_s2 = variance + rest + scv * (stretch - alone) ** 2
    point.wait_third_s3 = third
    point.extra_variance_s2 = variance + scv * stretch * stretch + rest - own - point.wait_variance_s2
    point.extra_third_s3 = skewed - own_third


@kernel
def correct(load, point, facts, rows, utilization):
    """Corrects the wait of POINT, and variance and skewness of wait and CPU time together.

    Args:
        facts: as `independent_base` sets them.
        rows: coefficients of N_TERMS terms for WAIT, DEVIATION, and FORM.
    """
    by_wait, by_deviation, by_form = 0.0, 0.0, 0.0
    for k in range(N_TERMS):
        term = facts[PAIRS[k, 0]] * facts[PAIRS[k, 1]]
        by_wait += rows[WAIT, k] * term
        by_deviation += rows[DEVIATION, k] * term
        by_form += rows[FORM, k] * term
    fade = fade_of(utilization)
    # Where calls share, what is told apart of them in overload goes by the cumulants of the chain.
    ends = fade if load.sharing != PROCESSOR_SHARING else fade**5
    by_wait = math.exp(fade * fade * min(1.0, max(-1.0, by_wait)))  # sooner: the room decides how many wait
    by_deviation = math.exp(2.0 * ends * min(1.0, max(-1.0, by_deviation)))
    alone = 1.0 / call_speed(load)
    own, own_third = load.cpu_scv * alone * alone, third_cumulant_factor(load.cpu_scv) * alone**3
    variance = point.wait_variance_s2 + point.extra_variance_s2 + own
    third = point.wait_third_s3 + point.extra_third_s3 + own_third
    form = form_of(point.wait_s + alone, variance, third)
    point.wait_s *= by_wait
    after = variance * by_deviation
    if load.sharing == FIFO:
        after = max(after, own)
        point.wait_variance_s2 = after - own
    else:
        point.wait_variance_s2 *= by_deviation
        point.extra_variance_s2 = after - own - point.wait_variance_s2
    third = third_of(point.wait_s + alone, after, min(max(2.0, form), max(-1.5, form + ends * by_form)))
    point.wait_third_s3 = third - own_third - point.extra_third_s3


@kernel
def kind_of(load):
    """Which coefficients hold: by sharing, and whether calls come in turn."""
    return 2 * load.sharing + (1 if load.balancing == ROUND_ROBIN and load.ready > 1.0 else 0)


@kernel
def fade_of(utilization):
    """What is left of the corrections in overload, where the room decides [1]."""
    return math.exp(-_FADES * max(0.0, utilization - 1.0))


@kernel
def form_of(mean, variance, third):
    """Skewness over coefficient of variation, as a number around 0: that of gamma distributions."""
    if variance <= 1e-12 * mean * mean:
        return 0.0
    return math.log(min(30.0, max(-0.7, third * mean / (variance * variance))) + 1.0) - math.log(3.0)


@kernel
def third_of(mean, variance, form):
    """The third cumulant with which `form_of` is `form`."""
    return (3.0 * math.exp(form) - 1.0) * variance * variance / mean


@kernel
def independent_point(load, state, point, utilization, held, room):
    """POINT of a pod, times in units of a call's mean CPU time."""
    independent_base(load, state, point, utilization, held, room)
    correct(load, point, state.facts, COEFFICIENTS[kind_of(load)], utilization)
    point.open = state.chain.accepted * (point.wait_s + 1.0 / call_speed(load))
