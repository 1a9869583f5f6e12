"""The closed forms against hand values, identities, and computations that share no code with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim_core.theory import (
    erlang_b,
    erlang_c,
    lru_hit_ratio,
    mg1_mean_wait_s,
    mgc_mean_wait_s,
    mm1_sojourn_quantile_s,
    mmc_mean_sojourn_s,
    mmc_mean_wait_s,
    mmc_wait_tail,
    mmck_blocking,
    mmck_mean_queue_len,
)

utilizations = st.floats(0.0, 0.999)
few_servers = st.integers(1, 200)


def birth_death(servers: int, offered_load: float, places: int) -> np.ndarray:
    """Stationary probabilities of 0..places in the system, solved from the balance equations, shape (places + 1,)."""
    generator = np.zeros((places + 1, places + 1))
    for i in range(places):
        generator[i, i + 1] = offered_load
        generator[i + 1, i] = min(i + 1, servers)
    generator -= np.diag(generator.sum(axis=1))
    equations = np.vstack([generator.T, np.ones(places + 1)])
    right = np.zeros(places + 2)
    right[-1] = 1.0
    return np.linalg.lstsq(equations, right, rcond=None)[0]


def lru_simulated(n_keys: int, exponent: float, capacity: int, lookups: int, seed: int) -> float:
    """Hit ratio of a real LRU cache, after as many lookups again to fill it."""
    weights = np.arange(1, n_keys + 1) ** -exponent
    keys = np.random.default_rng(seed).choice(n_keys, size=2 * lookups, p=weights / weights.sum())
    cache: dict[int, None] = {}  # a dict remembers the order of insertion: the first is the least recently used
    hits = 0
    for i, key in enumerate(keys.tolist()):
        if key in cache:
            del cache[key]
            hits += i >= lookups
        elif len(cache) == capacity:
            del cache[next(iter(cache))]
        cache[key] = None
    return hits / lookups


def test_erlang_b_matches_hand_values():
    """One server at a erlang refuses a / (1 + a); two at 1 erlang refuse (1/2) / (1 + 1 + 1/2) = 1/5."""
    assert erlang_b(servers=1, offered_load=0.7) == pytest.approx(0.7 / 1.7, rel=1e-12)
    assert erlang_b(servers=2, offered_load=1.0) == pytest.approx(0.2, rel=1e-12)
    assert erlang_b(servers=0, offered_load=3.0) == 1.0
    assert erlang_b(servers=5, offered_load=0.0) == 0.0


def test_erlang_c_matches_hand_values():
    """M/M/1 makes a request wait with probability rho; M/M/2 at rho = 1/2 with probability 1/3."""
    assert erlang_c(servers=1, offered_load=0.7) == pytest.approx(0.7, rel=1e-12)
    assert erlang_c(servers=2, offered_load=1.0) == pytest.approx(1 / 3, rel=1e-12)
    assert erlang_c(servers=3, offered_load=3.0) == 1.0


@pytest.mark.parametrize(("servers", "offered_load"), [(1, 0.4), (3, 2.5), (10, 9.0), (40, 31.0)])
def test_erlang_formulas_match_the_sums_they_stand_for(servers, offered_load):
    terms = np.array([math.exp(k * math.log(offered_load) - math.lgamma(k + 1)) for k in range(servers + 1)])
    assert erlang_b(servers, offered_load) == pytest.approx(terms[-1] / terms.sum(), rel=1e-10)
    last = terms[-1] / (1.0 - offered_load / servers)
    assert erlang_c(servers, offered_load) == pytest.approx(last / (terms[:-1].sum() + last), rel=1e-10)


def test_erlang_b_stands_ten_thousand_servers():
    """a^c / c! overflows from 170 servers on. At a = c, sqrt(c) B tends to sqrt(2 / pi) (Jagerman 1974)."""
    assert math.sqrt(10_000) * erlang_b(10_000, 10_000.0) == pytest.approx(math.sqrt(2 / math.pi), rel=0.01)


@given(servers=st.integers(1, 500), utilization=utilizations)
def test_one_more_server_never_makes_waiting_likelier(servers, utilization):
    assert erlang_c(servers + 1, utilization * servers) <= erlang_c(servers, utilization * servers)


@given(servers=few_servers, low=utilizations, high=utilizations)
def test_more_load_never_shortens_the_wait(servers, low, high):
    low, high = sorted((low, high))
    slack = 1.0 + 1e-12
    assert mmc_mean_wait_s(low * servers, 1.0, servers) <= mmc_mean_wait_s(high * servers, 1.0, servers) * slack


@given(servers=few_servers, offered_load=st.floats(0.0, 400.0))
def test_refusing_is_rarer_than_waiting(servers, offered_load):
    assert 0.0 <= erlang_b(servers, offered_load) <= erlang_c(servers, offered_load) <= 1.0


def test_mean_wait_of_mm1_matches_hand_values():
    """rho = 0.8 at 10/s of service: a wait of 0.8 / 2 s, a sojourn of 1 / 2 s."""
    assert mmc_mean_wait_s(8.0, 10.0, servers=1) == pytest.approx(0.4, rel=1e-12)
    assert mmc_mean_sojourn_s(8.0, 10.0, servers=1) == pytest.approx(0.5, rel=1e-12)


@given(servers=few_servers, utilization=st.floats(0.01, 0.99), service_rate_per_s=st.floats(1e-3, 1e3))
def test_only_the_ratio_of_the_rates_matters(servers, utilization, service_rate_per_s):
    in_services = mmc_mean_wait_s(utilization * servers, 1.0, servers)
    wait_s = mmc_mean_wait_s(utilization * servers * service_rate_per_s, service_rate_per_s, servers)
    assert wait_s * service_rate_per_s == pytest.approx(in_services, rel=1e-9)


@pytest.mark.parametrize(("servers", "utilization"), [(1, 0.9), (4, 0.7), (25, 0.95)])
def test_the_tail_of_the_wait_integrates_to_its_mean(servers, utilization):
    mean_s = mmc_mean_wait_s(utilization * servers, 1.0, servers)
    waits_s = np.linspace(0.0, 60.0 / (servers * (1.0 - utilization)), 20_001)
    tail = [mmc_wait_tail(utilization * servers, 1.0, servers, wait_s) for wait_s in waits_s]
    assert tail[0] == erlang_c(servers, utilization * servers)
    assert np.trapezoid(tail, waits_s) == pytest.approx(mean_s, rel=1e-5)


def test_quantiles_of_mm1_are_those_of_an_exponential():
    """Half of the sojourns are shorter than ln 2 means, 95 % than ln 20 means."""
    assert mm1_sojourn_quantile_s(8.0, 10.0, 0.5) == pytest.approx(math.log(2.0) / 2.0, rel=1e-12)
    assert mm1_sojourn_quantile_s(8.0, 10.0, 0.95) == pytest.approx(math.log(20.0) / 2.0, rel=1e-12)
    assert mm1_sojourn_quantile_s(8.0, 10.0, 0.0) == 0.0


def test_mm1_agrees_with_lindleys_recursion():
    """W' = max(0, W + service - gap), 4 standard errors over 30 seeds: a right formula misses once in 2,500."""
    means_s, tails_s = [], []
    for seed in range(30):
        random = np.random.default_rng(seed)
        steps = random.exponential(0.1, 40_000) - random.exponential(1 / 7.0, 40_000)
        walk = np.concatenate([[0.0], np.cumsum(steps)])
        waits_s = (walk - np.minimum.accumulate(walk))[2_000:]
        means_s.append(waits_s.mean())
        tails_s.append((waits_s > 0.3).mean())
    for runs, theory in ((means_s, mmc_mean_wait_s(7.0, 10.0, 1)), (tails_s, mmc_wait_tail(7.0, 10.0, 1, 0.3))):
        standard_error = np.std(runs, ddof=1) / math.sqrt(len(runs))
        assert standard_error <= 0.02 * theory  # else the next line could not fail
        assert abs(np.mean(runs) - theory) <= 4.0 * standard_error


def test_deterministic_service_halves_the_wait():
    """Pollaczek-Khinchine at rho = 0.8: 4 service times of exponential, 2 of fixed length."""
    assert mg1_mean_wait_s(8.0, 0.1, service_scv=1.0) == pytest.approx(0.4, rel=1e-12)
    assert mg1_mean_wait_s(8.0, 0.1, service_scv=0.0) == pytest.approx(0.2, rel=1e-12)


@given(servers=few_servers, utilization=utilizations, scv=st.floats(0.0, 20.0))
def test_allen_cunneen_is_exact_where_exact_forms_are_known(servers, utilization, scv):
    markov_s = mmc_mean_wait_s(utilization * servers, 1.0, servers)
    assert mgc_mean_wait_s(utilization * servers, 1.0, servers, 1.0, 1.0) == pytest.approx(markov_s, rel=1e-12)
    khinchine_s = utilization * (1.0 + scv) / (2.0 * (1.0 - utilization))
    assert mg1_mean_wait_s(utilization, 1.0, scv) == pytest.approx(khinchine_s, rel=1e-9)


@pytest.mark.parametrize("servers", [1, 3, 8])
@pytest.mark.parametrize("utilization", [0.3, 0.9, 1.0, 1.7])
@pytest.mark.parametrize("room", [0, 1, 12])
def test_a_finite_room_solves_the_balance_equations(servers, utilization, room):
    probabilities = birth_death(servers, utilization * servers, servers + room)
    assert mmck_blocking(servers, utilization * servers, room) == pytest.approx(probabilities[-1], rel=1e-9)
    queue_len = np.sum(np.arange(room + 1) * probabilities[servers:])
    assert mmck_mean_queue_len(servers, utilization * servers, room) == pytest.approx(queue_len, rel=1e-9, abs=1e-12)


@given(servers=few_servers, offered_load=st.floats(0.0, 400.0), room=st.integers(0, 300))
def test_room_never_makes_refusals_likelier_and_never_overflows(servers, offered_load, room):
    assert mmck_blocking(servers, offered_load, 0) == pytest.approx(erlang_b(servers, offered_load), rel=1e-9)
    more, less = mmck_blocking(servers, offered_load, room + 1), mmck_blocking(servers, offered_load, room)
    assert 0.0 <= more <= less * (1.0 + 1e-12) <= 1.0 + 1e-12
    assert 0.0 <= mmck_mean_queue_len(servers, offered_load, room) <= room


@given(servers=few_servers, utilization=st.floats(0.05, 0.9))
def test_a_wide_room_is_as_good_as_none_at_all(servers, utilization):
    """Little's law ties the queue of M/M/c/K to the wait of M/M/c once the room no longer matters: 0.9^1000 is nothing."""
    offered_load = utilization * servers
    assume(erlang_c(servers, offered_load) > 1e-200)
    endless = offered_load * mmc_mean_wait_s(offered_load, 1.0, servers)
    assert mmck_mean_queue_len(servers, offered_load, room=1_000) == pytest.approx(endless, rel=1e-9)


def test_saturation_means_waiting_for_ever():
    assert mmc_mean_wait_s(10.0, 1.0, servers=10) == math.inf
    assert mmc_mean_sojourn_s(11.0, 1.0, servers=10) == math.inf
    assert mmc_wait_tail(11.0, 1.0, servers=10, wait_s=1e6) == 1.0
    assert mm1_sojourn_quantile_s(1.0, 1.0, 0.5) == math.inf
    assert mg1_mean_wait_s(1.0, 1.0, service_scv=0.0) == math.inf


@pytest.mark.parametrize(
    "call",
    [
        lambda: erlang_b(-1, 1.0),
        lambda: erlang_b(1, -0.1),
        lambda: erlang_b(1, math.nan),
        lambda: erlang_c(0, 0.5),
        lambda: mmc_mean_wait_s(-1.0, 1.0, 1),
        lambda: mmc_mean_wait_s(math.inf, 1.0, 1),
        lambda: mmc_mean_sojourn_s(1.0, 0.0, 1),
        lambda: mmc_wait_tail(1.0, 2.0, 1, -1.0),
        lambda: mm1_sojourn_quantile_s(1.0, 2.0, 1.0),
        lambda: mg1_mean_wait_s(1.0, 0.0, 1.0),
        lambda: mgc_mean_wait_s(1.0, 0.5, 1, 1.0, -1.0),
        lambda: mmck_blocking(1, 0.5, -1),
        lambda: mmck_mean_queue_len(0, 0.5, 1),
    ],
)
def test_what_has_no_meaning_is_refused(call):
    with pytest.raises(ValueError, match=r"must be .* \(got"):
        call()


@pytest.mark.parametrize(("n_keys", "exponent", "capacity"), [(1_000, 0.8, 100), (1_000, 1.1, 300), (5_000, 0.9, 500)])
def test_che_agrees_with_a_simulated_lru_cache(n_keys, exponent, capacity):
    """0.006 absolute: 4 standard errors of 200,000 lookups are 0.0045, the approximation itself errs below 0.001."""
    simulated = lru_simulated(n_keys, exponent, capacity, lookups=200_000, seed=1)
    assert lru_hit_ratio(n_keys, exponent, capacity) == pytest.approx(simulated, abs=0.006)


def test_the_ends_of_a_cache():
    assert lru_hit_ratio(100, 1.0, 0.0) == 0.0
    assert lru_hit_ratio(100, 1.0, 100.0) == 1.0
    assert lru_hit_ratio(10_000, 0.0, 2_500.0) == pytest.approx(0.25, rel=1e-3)  # uniform: as much as fits
