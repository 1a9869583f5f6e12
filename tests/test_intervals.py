"""Intervals of means: what they hold, where they end, and when there is none."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_core.accounting import INDICATORS, bounds_of
from sim_core.intervals import interval

SHARE, POSITIVE = (0.0, 1.0), (0.0, math.inf)
BOUNDS = st.sampled_from([SHARE, POSITIVE, (-math.inf, 1.0), (-math.inf, math.inf)])


def test_a_difference_gets_student_s_interval():
    """1, 2, 3, 4, 5: mean 3, s = sqrt(2.5), t(0.975, 4) = 2.7764 (Student's table), half width 1.9632."""
    found = interval([1, 2, 3, 4, 5])
    assert (found.mean, found.n) == (3.0, 5)
    assert (found.low, found.high) == pytest.approx((3 - 1.9632, 3 + 1.9632), abs=1e-4)


def test_a_share_gets_its_interval_on_the_logit_scale():
    """0.96, 0.98, 1.00: standard error 0.02 / sqrt(3), t = 4.30265; logit(0.98) +- t se / (0.98 x 0.02), and back."""
    found = interval([0.96, 0.98, 1.0], *SHARE)
    half = 4.30265 * 0.02 / math.sqrt(3) / (0.98 * 0.02)
    logit = math.log(0.98 / 0.02)
    expected = [1 / (1 + math.exp(-(logit + sign * half))) for sign in (-1, 1)]
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-5)
    assert found.mean == pytest.approx(0.98)


def test_a_positive_quantity_gets_its_interval_on_the_log_scale():
    """1, 2, 9: mean 4, s = sqrt(19); 4 exp(+- t s / sqrt(3) / 4). Student's own would reach down to -6.8."""
    found = interval([1.0, 2.0, 9.0], *POSITIVE)
    half = 4.30265 * math.sqrt(19 / 3) / 4
    assert (found.low, found.high) == pytest.approx((4 * math.exp(-half), 4 * math.exp(half)), rel=1e-5)


@given(BOUNDS, st.lists(st.floats(0.0, 1.0), min_size=3, max_size=12))
def test_an_interval_holds_the_mean_and_never_leaves_what_is_possible(bounds, values):
    """Values at 0 and at 1 included: no attainment of 119.8 %, no negative latency, no negative count."""
    found = interval(values, *bounds)
    assert bounds[0] <= found.low <= found.mean <= found.high <= bounds[1]
    assert math.isfinite(found.low) and math.isfinite(found.high)
    if len({*values}) > 1 and np.ptp(values) > 1e-6:
        assert found.low < found.high


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("bounds", [SHARE, POSITIVE, (-math.inf, 1.0), (-math.inf, math.inf)])
def test_equal_values_have_an_interval_without_width(bounds, value):
    """0.3 five times adds up to 1.5 and a rounding error: the interval is the value all the same."""
    found = interval([value] * 5, *bounds)
    assert (found.mean, found.low, found.high) == (pytest.approx(value), found.mean, found.mean)


def test_fewer_than_three_seeds_have_no_interval():
    for values in ([2.0], [1.0, 3.0], [1.0, math.nan, 3.0]):
        found = interval(values, *POSITIVE)
        assert found.mean == 2.0
        assert math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(interval([]).mean)
    assert interval([1.0, math.nan, 3.0, 5.0]).n == 3  # what did not occur is left out


def test_a_value_that_cannot_be_is_refused_and_one_that_rounding_made_is_not():
    with pytest.raises(ValueError, match="outside"):
        interval([0.5, 0.9, 1.2], *SHARE)
    assert interval([1.0, 1.0, 1.0 + 1e-15], *SHARE).high == 1.0


@pytest.mark.parametrize(
    ("draw", "mean", "bounds"),
    [
        (lambda random, size: random.normal(10.0, 2.0, size), 10.0, (-math.inf, math.inf)),
        (lambda random, size: random.lognormal(0.0, 0.5, size), math.exp(0.125), POSITIVE),
        (lambda random, size: random.beta(90.0, 10.0, size), 0.9, SHARE),
    ],
)
def test_intervals_cover_the_mean_in_95_of_100_samples(draw, mean, bounds):
    """4000 samples of 5; the standard error of a coverage is 0.0034, and 4 of them are allowed.

    The skewed quantities get one per cent more: on the transformed scale their means are nearly, not exactly, normal.
    """
    samples = draw(np.random.default_rng(1), (4000, 5))
    intervals = [interval(sample, *bounds) for sample in samples]
    coverage = np.mean([found.low <= mean <= found.high for found in intervals])
    assert abs(coverage - 0.95) <= 4 * math.sqrt(0.95 * 0.05 / 4000) + (0.0 if math.isinf(bounds[0]) else 0.01)


def test_shares_end_at_one_and_nothing_that_is_counted_falls_below_zero():
    """Only an overspent error budget is negative."""
    assert bounds_of("slo_attainment") == bounds_of("error_ratio") == (0.0, 1.0)
    assert [name for name in INDICATORS if bounds_of(name)[0] != 0.0] == ["error_budget_left"]
