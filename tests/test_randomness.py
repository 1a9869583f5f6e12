"""Counter-based draws against the distributions they claim, and what they must not depend on.

Seeds are fixed, so these tests always pass or always fail; the error probability of each says how often a right generator
would fail had its seeds been chosen at random.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sim_core.randomness import ARRIVALS, POD_STARTUP, lane_key, normal_quantile, poisson_quantile, uniform
from sim_core.workload.arrivals import draw_arrivals, rate_at

TRAFFIC = np.dtype([("offset", "i8"), ("length", "i8"), ("step_s", "f8"), ("start_s", "f8")])

WORDS = 2**64
TAILS = np.logspace(-9, -2, 57)
PROBABILITIES = np.concatenate([TAILS, np.linspace(0.01, 0.99, 981)[1:-1], 1.0 - TAILS])


def key_of(seed: int) -> np.uint64:
    return np.uint64(lane_key(seed))


def traffic(offset: int, length: int, start_s: float = 0.0) -> np.record:
    return np.array([(offset, length, 60.0, start_s)], dtype=TRAFFIC).view(np.recarray)[0]


def draws(seed: int, component: int, n: int, first: int = 0) -> np.ndarray:
    key = key_of(seed)
    return np.array([uniform(key, component, counter) for counter in range(first, first + n)])


@pytest.mark.parametrize("component", [ARRIVALS, POD_STARTUP])
@pytest.mark.parametrize("seed", [0, 1, 12_345])
def test_draws_are_uniform_along_the_counter(seed, component):
    """Kolmogorov-Smirnov at 1e-4 for each of six streams: a right generator fails for 6 choices of seeds in 10,000."""
    assert stats.kstest(draws(seed, component, 20_000), "uniform").pvalue > 1e-4


def test_draws_are_uniform_across_seeds():
    """First draws of neighbouring seeds, as a sweep uses them; error probability 1e-4."""
    first = np.array([uniform(key_of(seed), ARRIVALS, 0) for seed in range(20_000)])
    assert stats.kstest(first, "uniform").pvalue > 1e-4


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((0, ARRIVALS, 0), (0, POD_STARTUP, 0)),  # two components of a lane
        ((0, ARRIVALS, 0), (1, ARRIVALS, 0)),  # two neighbouring seeds
        ((0, ARRIVALS, 0), (0, ARRIVALS, 1)),  # a draw and the next
        ((0, ARRIVALS, 0), (0, ARRIVALS, 4)),  # ticks to syncs
        ((0, POD_STARTUP, 0), (1, ARRIVALS, 0)),  # both at once
    ],
)
def test_streams_are_independent(left, right):
    """Pairs fall evenly into 16 x 16 cells (chi-square) and do not correlate; error probability 2e-4 for each pair."""
    n = 20_000
    x, y = (draws(seed, component, n, first) for seed, component, first in (left, right))
    cells = np.histogram2d(x, y, bins=16, range=((0, 1), (0, 1)))[0].ravel()
    assert stats.chisquare(cells).pvalue > 1e-4
    assert stats.pearsonr(x, y).pvalue > 1e-4


@given(seed=st.integers(0, 2**63 - 1), component=st.integers(1, 50), counter=st.integers(0, 2**40))
def test_a_draw_depends_on_key_component_and_counter_alone(seed, component, counter):
    key = key_of(seed)
    drawn = uniform(key, component, counter)
    uniform(key, component + 1, counter), uniform(key, component, counter + 1)  # what others draw changes nothing
    assert uniform(key, component, counter) == drawn
    assert 0.0 < drawn < 1.0
    assert len({drawn, uniform(key, component + 1, counter), uniform(key, component, counter + 1)}) == 3


def test_seeds_give_different_keys():
    assert len({int(lane_key(seed)) for seed in range(20_000)}) == 20_000


def unmixed(z: int) -> int:
    """The word that SplitMix64 mixes to `z`: its steps undone one by one."""
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        undone = z
        for _ in range(64 // shift + 1):
            undone = z ^ (undone >> shift)
        z = undone * pow(factor, -1, WORDS) % WORDS
    return z


@pytest.mark.parametrize("word", [0, 1, WORDS // 2, WORDS - 1])
def test_a_draw_is_never_0_and_never_1(word):
    """The extreme words of the generator, for which the half-open interval is easily missed."""
    drawn = uniform(np.uint64(unmixed(unmixed(word))), 0, 0)
    assert drawn == pytest.approx((word + 0.5) / WORDS, abs=2.0**-52)
    assert 0.0 < drawn < 1.0
    assert np.isfinite(normal_quantile(drawn))


def test_normal_quantile_matches_scipy():
    quantiles = np.array([normal_quantile(p) for p in PROBABILITIES])
    np.testing.assert_allclose(quantiles, stats.norm.ppf(PROBABILITIES), rtol=1.2e-9, atol=1e-15)


@pytest.mark.parametrize("mean", [0.01, 0.3, 1.0, 7.5, 29.9, 30.0])
def test_poisson_quantile_is_exact_up_to_a_mean_of_30(mean):
    quantiles = [poisson_quantile(mean, p) for p in PROBABILITIES]
    np.testing.assert_array_equal(quantiles, stats.poisson.ppf(PROBABILITIES, mean))


@pytest.mark.parametrize("mean", [30.001, 31.0, 40.0, 75.5, 300.0, 1e3, 1e4, 1e6])
def test_poisson_quantile_misses_by_one_event_at_most_above_30(mean):
    missed = np.array([poisson_quantile(mean, p) for p in PROBABILITIES]) - stats.poisson.ppf(PROBABILITIES, mean)
    assert np.abs(missed).max() <= 1.0
    middle = (PROBABILITIES >= 0.01) & (PROBABILITIES <= 0.99)
    assert np.mean(missed[middle] != 0.0) <= 0.02


@given(mean=st.floats(0.0, 1e5), p=st.floats(1e-12, 0.999), more=st.floats(0.0, 1e-3))
def test_poisson_quantile_never_falls_as_probability_rises(mean, p, more):
    assert 0.0 <= poisson_quantile(mean, p) <= poisson_quantile(mean, p + more)


@pytest.mark.parametrize("mean", [0.0, -1.0])
def test_no_traffic_brings_no_arrivals(mean):
    assert poisson_quantile(mean, 0.999) == 0.0


@pytest.mark.parametrize("mean", [0.4, 6.0, 29.0, 45.0, 2000.0])
def test_arrivals_have_the_mean_and_variance_of_a_poisson_process(mean):
    """4 standard errors each: a right simulator misses for 1 choice of seeds in 8,000."""
    n, tick_s = 20_000, 0.25
    counts = np.array([draw_arrivals(key_of(7), 0, mean / tick_s, tick, tick_s) for tick in range(n)])
    assert abs(counts.mean() - mean) <= 4.0 * np.sqrt(mean / n)
    fourth = mean * (1.0 + 3.0 * mean)  # central moment of a Poisson distribution
    assert abs(counts.var() - mean) <= 4.0 * np.sqrt((fourth - mean**2) / n)


@pytest.mark.parametrize("mean", [0.4, 6.0, 29.0, 45.0])
def test_arrivals_are_distributed_as_poisson(mean):
    """Chi-square over the counts that 20 or more draws should have; error probability 1e-4 for each mean."""
    n = 20_000
    counts = np.array([draw_arrivals(key_of(8), 0, mean, tick, 1.0) for tick in range(n)]).astype(int)
    expected = n * stats.poisson.pmf(np.arange(counts.max() + 2), mean)
    common = np.flatnonzero(expected >= 20.0)
    seen = np.bincount(counts, minlength=len(expected))[common]
    seen, expected = np.append(seen, n - seen.sum()), np.append(expected[common], n - expected[common].sum())
    assert stats.chisquare(seen, expected).pvalue > 1e-4


@pytest.mark.parametrize(
    ("time_s", "rate"),
    [
        (0.0, 10.0),  # level before the middle of the first step
        (30.0, 10.0),
        (45.0, 12.5),  # a quarter of the way from 10 to 20
        (60.0, 15.0),  # the border of two steps
        (90.0, 20.0),
        (120.0, 10.0),  # half-way from 20 to 0
        (150.0, 0.0),
        (1e9, 0.0),  # level beyond the middle of the last step
    ],
)
def test_rate_runs_linearly_between_the_middles_of_steps(time_s, rate):
    rates = np.array([77.0, 10.0, 20.0, 0.0, 99.0])  # the outer two belong to other lanes
    assert rate_at(traffic(offset=1, length=3), rates, time_s) == pytest.approx(rate, rel=1e-12)
    begun = traffic(offset=1, length=3, start_s=25.0)
    assert rate_at(begun, rates, time_s - 25.0) == pytest.approx(rate, rel=1e-12)


def test_a_trace_of_one_step_has_one_rate():
    rates = np.array([5.0, 8.0])
    lonely = traffic(offset=0, length=1)
    assert [rate_at(lonely, rates, time_s) for time_s in (0.0, 30.0, 45.0, 600.0)] == [5.0] * 4
