"""Closed forms of queueing theory and of caches: what the engine is held to, and baselines are staffed by."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

__all__ = [
    "erlang_b",
    "erlang_c",
    "closed_network_throughput_per_s",
    "gim1_mean_sojourn_s",
    "join_shortest_of_two_mean_sojourn_s",
    "lru_hit_ratio",
    "mg1_mean_wait_s",
    "mdc_mean_wait_s",
    "mgc_mean_wait_s",
    "mm1_sojourn_quantile_s",
    "mmc_mean_sojourn_s",
    "mmc_mean_wait_s",
    "mmc_wait_tail",
    "mmck_blocking",
    "mmck_mean_queue_len",
    "two_choices_mean_sojourn_s",
]


def erlang_b(servers: int, offered_load: float) -> float:
    """Share of requests that are refused where nobody waits, M/G/c/c [1].

    Args:
        servers: at least 0; without a server every request is refused [servers].
        offered_load: arrival rate over the service rate of one server, finite and at least 0 [erlang].

    Raises:
        ValueError: an argument is out of its range.

    Source: Erlang (1917), by the recursion B(c) = a B(c - 1) / (c + a B(c - 1)), which neither overflows nor cancels.
    """
    if servers < 0:
        raise ValueError(f"servers must be at least 0 (got {servers})")
    if not 0.0 <= offered_load < math.inf:
        raise ValueError(f"offered_load must be finite and at least 0 (got {offered_load})")
    blocking = 1.0
    for c in range(1, servers + 1):
        blocking = offered_load * blocking / (c + offered_load * blocking)
    return blocking


def erlang_c(servers: int, offered_load: float) -> float:
    """Share of requests that find all servers busy and wait, M/M/c [1]; 1 from saturation on.

    Args:
        servers: at least 1 [servers].
        offered_load: finite and at least 0 [erlang].

    Raises:
        ValueError: an argument is out of its range.

    Source: Erlang (1917), from Erlang B: C = B / (1 - rho (1 - B)).
    """
    _at_least_one(servers)
    blocking = erlang_b(servers, offered_load)
    utilization = offered_load / servers
    if utilization >= 1.0:
        return 1.0
    return blocking / (1.0 - utilization * (1.0 - blocking))


def mmc_mean_wait_s(arrival_rate_per_s: float, service_rate_per_s: float, servers: int) -> float:
    """Mean time before service, M/M/c [s]; infinite from saturation on.

    Args:
        arrival_rate_per_s: finite and at least 0 [1/s].
        service_rate_per_s: of one server, greater than 0 [1/s].
        servers: at least 1 [servers].

    Raises:
        ValueError: an argument is out of its range.

    Source: Kleinrock, "Queueing Systems I" (1975), section 3.5.
    """
    waits = erlang_c(servers, _offered_load(arrival_rate_per_s, service_rate_per_s))
    spare_per_s = servers * service_rate_per_s - arrival_rate_per_s
    return waits / spare_per_s if spare_per_s > 0.0 else math.inf


def mmc_mean_sojourn_s(arrival_rate_per_s: float, service_rate_per_s: float, servers: int) -> float:
    """Mean time from arrival to the end of service, M/M/c [s]; infinite from saturation on.

    Arguments, errors and source as of `mmc_mean_wait_s`.
    """
    return mmc_mean_wait_s(arrival_rate_per_s, service_rate_per_s, servers) + 1.0 / service_rate_per_s


def mmc_wait_tail(arrival_rate_per_s: float, service_rate_per_s: float, servers: int, wait_s: float) -> float:
    """P(wait > wait_s), M/M/c, first come first served [1]; 1 from saturation on.

    Args:
        arrival_rate_per_s, service_rate_per_s, servers: as of `mmc_mean_wait_s`.
        wait_s: at least 0 [s].

    Raises:
        ValueError: an argument is out of its range.

    Source: Kleinrock, "Queueing Systems I" (1975): those that wait do so exponentially, at the rate c mu - lambda.
    """
    if not wait_s >= 0.0:
        raise ValueError(f"wait_s must be at least 0 (got {wait_s})")
    waits = erlang_c(servers, _offered_load(arrival_rate_per_s, service_rate_per_s))
    spare_per_s = servers * service_rate_per_s - arrival_rate_per_s
    return waits * math.exp(-spare_per_s * wait_s) if spare_per_s > 0.0 else 1.0


def mm1_sojourn_quantile_s(arrival_rate_per_s: float, service_rate_per_s: float, probability: float) -> float:
    """Quantile of the time from arrival to the end of service, M/M/1 [s]; infinite from saturation on.

    Args:
        arrival_rate_per_s, service_rate_per_s: as of `mmc_mean_wait_s`.
        probability: in [0, 1) [1].

    Raises:
        ValueError: an argument is out of its range.

    Source: Kleinrock, "Queueing Systems I" (1975), section 5.9: the sojourn is exponential with rate mu - lambda.
    """
    if not 0.0 <= probability < 1.0:
        raise ValueError(f"probability must be in [0, 1) (got {probability})")
    _offered_load(arrival_rate_per_s, service_rate_per_s)
    spare_per_s = service_rate_per_s - arrival_rate_per_s
    return -math.log1p(-probability) / spare_per_s if spare_per_s > 0.0 else math.inf


def mg1_mean_wait_s(arrival_rate_per_s: float, mean_service_s: float, service_scv: float) -> float:
    """Mean time before service, M/G/1 [s]; infinite from saturation on.

    Args:
        arrival_rate_per_s: finite and at least 0 [1/s].
        mean_service_s: greater than 0 [s].
        service_scv: variance of the service time over its mean squared, at least 0 [1].

    Raises:
        ValueError: an argument is out of its range.

    Source: Pollaczek (1930), Khinchine (1932): rho / (1 - rho) * (1 + scv) / 2 * mean service time.
    """
    return mgc_mean_wait_s(arrival_rate_per_s, mean_service_s, servers=1, arrival_scv=1.0, service_scv=service_scv)


def mgc_mean_wait_s(
    arrival_rate_per_s: float, mean_service_s: float, servers: int, arrival_scv: float, service_scv: float
) -> float:
    """Mean time before service, G/G/c, approximately [s]; infinite from saturation on.

    Exact for M/M/c and for M/G/1.

    Args:
        arrival_rate_per_s: finite and at least 0 [1/s].
        mean_service_s: greater than 0 [s].
        servers: at least 1 [servers].
        arrival_scv: squared coefficient of variation of the gaps between arrivals, at least 0; 1 for Poisson [1].
        service_scv: the same of the service times, at least 0; 1 for exponential [1].

    Raises:
        ValueError: an argument is out of its range.

    Source: Allen, "Probability, Statistics and Queueing Theory" (1978), Allen-Cunneen: the wait of M/M/c times the
        mean of both squared coefficients of variation.
    """
    if not 0.0 < mean_service_s < math.inf:
        raise ValueError(f"mean_service_s must be finite and greater than 0 (got {mean_service_s})")
    if not (0.0 <= arrival_scv < math.inf and 0.0 <= service_scv < math.inf):
        raise ValueError(f"scv must be finite and at least 0 (got {arrival_scv=}, {service_scv=})")
    wait_s = mmc_mean_wait_s(arrival_rate_per_s, 1.0 / mean_service_s, servers)
    return wait_s if math.isinf(wait_s) else 0.5 * (arrival_scv + service_scv) * wait_s


def mmck_blocking(servers: int, offered_load: float, room: int) -> float:
    """Share of requests that find servers and waiting room full and are refused, M/M/c/(c + room) [1].

    Args:
        servers: at least 1 [servers].
        offered_load: finite and at least 0; saturation is allowed [erlang].
        room: places to wait, at least 0; 0 is Erlang B [requests].

    Raises:
        ValueError: an argument is out of its range.

    Source: Kleinrock, "Queueing Systems I" (1975), section 3.6: a birth-death process cut off at c + room.
    """
    blocking, _ = _waiting_room(servers, offered_load, room)
    return blocking


def mmck_mean_queue_len(servers: int, offered_load: float, room: int) -> float:
    """Mean number that wait in a finite waiting room, M/M/c/(c + room) [requests].

    Arguments, errors and source as of `mmck_blocking`.
    """
    _, queue_len = _waiting_room(servers, offered_load, room)
    return queue_len


def _waiting_room(servers: int, offered_load: float, room: int) -> tuple[float, float]:
    """(P(full), mean queue). Scaled by the likelier end of the waiting room, so that no power overflows."""
    _at_least_one(servers)
    if room < 0:
        raise ValueError(f"room must be at least 0 (got {room})")
    blocking = erlang_b(servers, offered_load)
    if blocking == 0.0:
        return 0.0, 0.0
    utilization = offered_load / servers
    waiting = np.arange(room + 1, dtype=float)
    # P(q wait) is proportional to rho ** q, and P(no server is free or just so) to the first of them over Erlang B.
    log_weight = waiting * math.log(utilization)
    top = float(log_weight.max())
    weight = np.exp(log_weight - top)
    total = float(np.sum(weight[1:])) + float(weight[0]) / blocking
    return float(weight[-1]) / total, float(np.sum(waiting * weight)) / total


def mdc_mean_wait_s(arrival_rate_per_s: float, service_s: float, servers: int) -> float:
    """Mean time before service, M/D/c [s]; infinite from saturation on.

    Args:
        arrival_rate_per_s: finite and greater than 0 [1/s].
        service_s: greater than 0 [s].
        servers: at least 1 [servers].

    Raises:
        ValueError: an argument is out of its range.

    Source: Crommelin (1932): those who are in service now are gone after one service time, so the number in system
        becomes max(n - c, 0) and a Poisson number more. The stationary distribution of that chain is that of any moment;
        it is summed up here to 1e-13, and Little's law gives the wait.
    """
    _at_least_one(servers)
    offered_load = _offered_load(arrival_rate_per_s, 1.0 / service_s)
    if offered_load >= servers:
        return math.inf
    utilization = offered_load / servers
    # The tail falls by the factor z per request, with offered_load (z - 1) = servers log z.
    z = brentq(lambda z: offered_load * (z - 1.0) - servers * math.log(z), 1.0 + 1e-9, 200.0 / utilization)
    states = servers + math.ceil(32.0 / math.log(z)) + 40
    counts = np.arange(states)
    log_factorial = np.cumsum(np.log(np.maximum(counts, 1)))
    more = np.exp(-offered_load + counts * math.log(offered_load) - log_factorial)
    chain = np.zeros((states, states))
    for n in range(states):
        left = max(n - servers, 0)
        chain[n, left:] = more[: states - left]
    equations = (chain / chain.sum(axis=1, keepdims=True)).T - np.eye(states)
    equations[-1] = 1.0
    stationary = np.linalg.solve(equations, np.eye(states)[-1])
    return float(np.sum(counts * stationary)) / arrival_rate_per_s - service_s


def gim1_mean_sojourn_s(erlang_stages: int, arrival_rate_per_s: float, service_rate_per_s: float) -> float:
    """Mean sojourn where the gaps between arrivals are Erlang of so many stages, one exponential server [s].

    It is what each of n pods sees that are called in turn, with a Poisson stream of n times the rate.

    Args:
        erlang_stages: at least 1.
        arrival_rate_per_s: greater than 0 and below the service rate [1/s].
        service_rate_per_s: [1/s].

    Source: Kleinrock, "Queueing Systems I" (1975), section 6.4: 1 / (mu (1 - sigma)), sigma the root in (0, 1) of
        sigma = A*(mu - mu sigma), A* the transform of the gaps.
    """
    stage_rate = erlang_stages * arrival_rate_per_s
    sigma = 0.5
    for _ in range(10_000):
        sigma = (stage_rate / (stage_rate + service_rate_per_s * (1.0 - sigma))) ** erlang_stages
    return 1.0 / (service_rate_per_s * (1.0 - sigma))


def two_choices_mean_sojourn_s(utilization: float, service_rate_per_s: float) -> float:
    """Mean sojourn where each request goes to the shorter of two random queues of very many [s].

    Args:
        utilization: of each server, in [0, 1) [1].
        service_rate_per_s: of each server, exponential [1/s].

    Source: Mitzenmacher, IEEE TPDS 12 (2001): the share of queues with at least i requests is rho ** (2 ** i - 1).
    """
    shares = [utilization ** (2.0**i - 2.0) for i in range(1, 60)]
    return sum(shares) / service_rate_per_s


def join_shortest_of_two_mean_sojourn_s(arrival_rate_per_s: float, service_rate_per_s: float, longest: int = 30) -> float:
    """Mean sojourn where each request joins the shorter of two queues, exponential servers [s].

    Args:
        arrival_rate_per_s: of the whole stream, below twice the service rate [1/s].
        service_rate_per_s: of each server [1/s].
        longest: requests a queue holds at most; beyond, they are lost (negligible where the load allows it).

    Source: the Markov chain of both lengths, solved by elimination of its balance equations.
    """
    n = longest + 1
    rates = np.zeros((n * n, n * n))
    for one in range(n):
        for other in range(n):
            here = one * n + other
            if one > 0:
                rates[here, here - n] += service_rate_per_s
            if other > 0:
                rates[here, here - 1] += service_rate_per_s
            for joins, share in ((n, (one < other) + 0.5 * (one == other)), (1, (other < one) + 0.5 * (one == other))):
                if share > 0.0 and (one if joins == n else other) < longest:
                    rates[here, here + joins] += share * arrival_rate_per_s
    balance = rates.T - np.diag(rates.sum(axis=1))
    balance[0] = 1.0
    stationary = np.linalg.solve(balance, np.eye(n * n)[0])
    lengths = np.add.outer(np.arange(n), np.arange(n)).ravel()
    return float(np.sum(stationary * lengths)) / arrival_rate_per_s


def closed_network_throughput_per_s(population: int, demands_s: list[float], think_s: float = 0.0) -> float:
    """Rounds per second of a closed network of single exponential servers and a delay, by exact mean value analysis [1/s].

    Args:
        population: requests that go round, at least 1.
        demands_s: service time of a round at each server [s].
        think_s: time of a round spent without queueing [s].

    Source: Reiser, Lavenberg, "Mean-value analysis of closed multichain queuing networks", JACM 27 (1980).
    """
    queues = np.zeros(len(demands_s))
    throughput = 0.0
    for requests in range(1, population + 1):
        sojourns_s = np.asarray(demands_s) * (1.0 + queues)
        throughput = requests / (think_s + float(sojourns_s.sum()))
        queues = throughput * sojourns_s
    return throughput


def _offered_load(arrival_rate_per_s: float, service_rate_per_s: float) -> float:
    if not 0.0 <= arrival_rate_per_s < math.inf:
        raise ValueError(f"arrival_rate_per_s must be finite and at least 0 (got {arrival_rate_per_s})")
    if not 0.0 < service_rate_per_s < math.inf:
        raise ValueError(f"service_rate_per_s must be finite and greater than 0 (got {service_rate_per_s})")
    return arrival_rate_per_s / service_rate_per_s


def _at_least_one(servers: int) -> None:
    if servers < 1:
        raise ValueError(f"servers must be at least 1 (got {servers})")


def lru_hit_ratio(n_keys: int, zipf_exponent: float, capacity: float) -> float:
    """Hit ratio of an LRU cache under independent references with Zipf popularity, Che's approximation.

    Args:
        n_keys: distinct keys; key k is asked for in proportion to k ** -zipf_exponent.
        capacity: keys that fit, at least 0.

    Source: Che, Tung, Wang, "Hierarchical web caching systems", IEEE JSAC 20 (2002).
    """
    if capacity >= n_keys:
        return 1.0
    if capacity <= 0.0:
        return 0.0
    popularity, count = _zipf_groups(n_keys, zipf_exponent)

    def resident(log_time: float) -> float:
        return float(np.sum(count * -np.expm1(-popularity * math.exp(log_time)))) - capacity

    # By then the least popular key has been asked for as well, but with probability exp(-40).
    latest = max(60.0, math.log(40.0 / float(popularity[-1])))
    time = math.exp(brentq(resident, -2.0, latest, xtol=1e-10))
    return min(1.0, float(np.sum(count * popularity * -np.expm1(-popularity * time))))


def _zipf_groups(n_keys: int, exponent: float) -> tuple[np.ndarray, np.ndarray]:
    """Popularities and how many keys have them; beyond the first 4096, keys of nearly equal rank are one group."""
    head = np.arange(1, min(n_keys, 4096) + 1, dtype=float)
    if n_keys > 4096:
        edges = np.unique(np.geomspace(4096, n_keys, 2000).astype(np.int64))
        middle = np.sqrt((edges[:-1] + 1.0) * edges[1:])
        ranks = np.concatenate([head, middle])
        count = np.concatenate([np.ones(len(head)), np.diff(edges).astype(float)])
    else:
        ranks, count = head, np.ones(len(head))
    weights = ranks**-exponent
    return weights / np.sum(weights * count), count
