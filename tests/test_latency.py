"""Latencies as distributions: the slowest of branches, what is written into histograms, and what is booked of requests."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import gamma, lognorm, norm

from sim_core.accounting import latency_percentiles
from sim_core.dataplane import latency
from sim_core.dataplane.fluid import account_requests
from sim_core.dataplane.latency import book_latency, slowest_branch, take_latency
from sim_core.dataplane.queueing import quantile_of_shape, share_within, take_shape
from sim_core.dataplane.services.flows import BRANCH_FLOW, CLASS_FLOW, ENDPOINT_FLOW, SLICES, STEP_FLOW
from sim_core.dataplane.services.kinds import LATENCY_BUCKETS, LATENCY_MAX_S, LATENCY_MIN_S
from sim_core.dataplane.services.records import CLASS_SUMS, REQUEST_CLASS, STEP
from sim_core.dataplane.station import SHAPE
from sim_core.world import LANE
from tests.handmade import cumulants, row, rows


def parallel(*branches: tuple[float, ...], probability: float = 1.0) -> tuple[Any, Any, Any]:
    """A PARALLEL behind one step, with branches of these cumulants (third one left out: of an exponential or constant
    one), each with a step of its own."""
    n = 2 + 2 * len(branches)
    steps, flows = rows(STEP, n, probability=1.0), rows(STEP_FLOW, n, sum_mean_s=9.0)
    steps.end = np.arange(n) + 1
    steps.end[1] = n
    for place, (mean, variance, *third) in enumerate(branches):
        at = 2 + 2 * place
        steps.end[at], steps.probability[at], steps.target[at] = at + 2, probability, place
        flows.sum_mean_s[at], flows.sum_variance_s2[at] = mean, variance
        flows.sum_third_s3[at] = third[0] if third else 2 * variance**1.5
    return steps, flows, rows(BRANCH_FLOW, len(branches))


def of(flows: Any) -> tuple[float, float, float]:
    return float(flows.sum_mean_s[1]), float(flows.sum_variance_s2[1]), float(flows.sum_third_s3[1])


@pytest.mark.parametrize(("one", "other"), [(0.1, 0.1), (0.1, 0.05), (0.02, 0.3), (0.002, 0.001)])
def test_the_slowest_of_two_exponential_branches(one: float, other: float):
    """max(X, Y) = X + Y - min(X, Y), and so for their powers: E max^k = k! (a^-k + b^-k - (a + b)^-k)."""
    steps, flows, own = parallel((one, one**2), (other, other**2))
    slowest_branch(steps, flows, own, 1)
    first, second, third = (
        math.factorial(k) * (one**k + other**k - (1.0 / one + 1.0 / other) ** -k) for k in (1, 2, 3)
    )
    variance = second - first**2
    mean_s, variance_s2, third_s3 = of(flows)
    assert mean_s == pytest.approx(first, rel=0.01)
    assert variance_s2 == pytest.approx(variance, rel=0.03)
    assert third_s3 == pytest.approx(third - 3.0 * first * second + 2.0 * first**3, rel=0.15)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_slowest_of_many_exponential_branches_takes_a_harmonic_number_of_means(n: int):
    """Mean m (1 + 1/2 + ... + 1/n), variance m^2 (1 + 1/4 + ... + 1/n^2)."""
    steps, flows, own = parallel(*[(0.1, 0.01)] * n)
    slowest_branch(steps, flows, own, 1)
    powers = [sum(1.0 / i**k for i in range(1, n + 1)) for k in (1, 2, 3)]
    mean_s, variance_s2, third_s3 = of(flows)
    assert mean_s == pytest.approx(0.1 * powers[0], rel=0.005)
    assert variance_s2 == pytest.approx(0.01 * powers[1], rel=0.05)
    assert third_s3 == pytest.approx(0.002 * powers[2], rel=0.2)


def largest(distributions: list[Any], probability: float) -> tuple[float, float, float]:
    """Cumulants of the largest of independent variables that are 0 but with a probability, by the trapezoidal rule."""
    values = np.linspace(0.0, max(float(d.ppf(1.0 - 1e-12)) for d in distributions), 1_000_001)
    beyond = 1.0 - np.prod([1.0 - probability + probability * d.cdf(values) for d in distributions], axis=0)
    first, second, third = (k * float(np.trapezoid(values ** (k - 1) * beyond, values)) for k in (1, 2, 3))
    return first, second - first**2, third - 3.0 * first * second + 2.0 * first**3


@pytest.mark.parametrize("probability", [1.0, 0.3])
@pytest.mark.parametrize(
    "distributions",
    [
        [norm(1.0, 0.05), norm(1.0, 0.05)],
        [norm(1.0, 0.01), norm(1.02, 0.01), norm(1.0, 0.002)],
        [norm(1.0, 0.01), gamma(1.0, scale=1.0)],
        [norm(1.0, 0.01), gamma(9.0, scale=0.1)],
        [gamma(4.0, scale=0.25), gamma(4.0, scale=0.25)],
        [gamma(50.0, scale=0.02), gamma(1.0, scale=0.5)],
        [gamma(9.0, scale=0.1)] * 5,
        [lognorm(1.0), lognorm(1.0)],
    ],
    ids=["normal", "narrow", "narrow and broad", "narrow and gamma", "gamma", "unlike gamma", "five", "lognormal"],
)
def test_the_slowest_of_branches_of_any_width(distributions: list[Any], probability: float):
    """Mean within 0.5 %, variance within 2.5 %, third cumulant within 10 %, or of the deviation's cube."""
    branches = [
        (float(m), float(v), float(skewness) * float(v) ** 1.5)
        for m, v, skewness in (d.stats("mvs") for d in distributions)
    ]
    steps, flows, own = parallel(*branches, probability=probability)
    slowest_branch(steps, flows, own, 1)
    first, variance, third = largest(distributions, probability)
    mean_s, variance_s2, third_s3 = of(flows)
    assert mean_s == pytest.approx(first, rel=0.005)
    assert variance_s2 == pytest.approx(variance, rel=0.025)
    assert third_s3 == pytest.approx(third, rel=0.1, abs=0.1 * variance**1.5)


def test_the_slowest_of_constant_branches_is_the_longest():
    steps, flows, own = parallel((0.7, 0.0), (0.9, 0.0), (0.2, 0.0))
    slowest_branch(steps, flows, own, 1)
    assert of(flows) == pytest.approx((0.9, 0.0, 0.0), abs=1e-12)
    steps, flows, own = parallel((0.7, 0.0), (0.9, 0.0), probability=0.5)
    slowest_branch(steps, flows, own, 1)
    mean_s, variance_s2, third_s3 = of(flows)
    atoms = [(0.9, 0.5), (0.7, 0.25), (0.0, 0.25)]
    assert (mean_s, variance_s2, third_s3) == pytest.approx(cumulants(atoms), rel=1e-6)


def test_a_branch_that_is_skipped_takes_no_time():
    """Exponential with mean 0.1 s, done three times in ten: mean 0.03, E X^2 = 0.3 x 2 x 0.01."""
    steps, flows, own = parallel((0.1, 0.01), probability=0.3)
    slowest_branch(steps, flows, own, 1)
    mean_s, variance_s2, _ = of(flows)
    assert mean_s == pytest.approx(0.03, rel=0.01)
    assert variance_s2 == pytest.approx(0.006 - 0.0009, rel=0.03)


def test_the_slowest_branch_is_kept_until_a_branch_has_moved():
    """By more than a thousandth of means and deviations together."""
    steps, flows, own = parallel((0.1, 0.01), (0.2, 0.04))
    slowest_branch(steps, flows, own, 1)
    before = of(flows)
    flows.sum_mean_s[2] += 0.0005
    slowest_branch(steps, flows, own, 1)
    assert of(flows) == before
    flows.sum_mean_s[2] += 0.0002
    slowest_branch(steps, flows, own, 1)
    assert of(flows)[0] > before[0]
    flows.sum_mean_s[2] -= 0.0012
    slowest_branch(steps, flows, own, 1)
    assert of(flows)[0] < before[0]
    assert own.seen.tolist() == pytest.approx([0.2 - 0.0005, 0.4])


def test_branches_that_move_against_each_other_have_moved():
    """The one as much faster as the other is slower: the slowest is another one all the same."""
    steps, flows, own = parallel((0.1, 0.01), (0.4, 0.16))
    slowest_branch(steps, flows, own, 1)
    before = of(flows)
    flows.sum_mean_s[2] += 0.05
    flows.sum_mean_s[4] -= 0.05
    slowest_branch(steps, flows, own, 1)
    assert of(flows)[0] < 0.97 * before[0]


def test_a_distribution_is_written_down_at_the_middles_of_its_slices():
    """Of probability; the 50th, 90th, 95th and 99th percentile among them."""
    middles = latency._SLICE_MIDDLES
    np.testing.assert_allclose(latency._POINT_SHARES, norm.cdf(latency._POINTS), atol=1e-8)
    np.testing.assert_allclose(middles, 0.5 * (latency._EDGES[1:] + latency._EDGES[:-1]))
    np.testing.assert_allclose(latency._SLICE_QUANTILES, norm.ppf(middles), atol=1e-8)
    np.testing.assert_allclose(latency._SLICE_WEIGHTS, np.diff(latency._EDGES))
    assert (latency._EDGES[0], latency._EDGES[-1]) == (0.0, 1.0)
    for share in (0.5, 0.9, 0.95, 0.99):
        assert np.isclose(middles, share).any()
    assert len(middles) == SLICES


def exponential(mean_s: float) -> Any:
    return row(ENDPOINT_FLOW, mean_s=mean_s, variance_s2=mean_s**2, third_s3=2.0 * mean_s**3)


def test_a_histogram_has_the_percentiles_of_its_latencies():
    """Exponential, 0.1 s: 50th, 95th and 99th percentile within 3 % (buckets are 2 % wide), within thresholds 1 - exp."""
    booked, flow, histogram = row(CLASS_FLOW), exponential(0.1), np.zeros(LATENCY_BUCKETS)
    take_latency(booked, flow, 0.2, 0.05)
    assert booked.within == pytest.approx(1.0 - math.exp(-2.0), abs=0.005)
    assert booked.within_own == pytest.approx(1.0 - math.exp(-0.5), abs=0.01)
    for _ in range(2):
        book_latency(histogram, booked, flow, 50.0)
    assert histogram.sum() == pytest.approx(100.0)
    edges = np.geomspace(LATENCY_MIN_S, LATENCY_MAX_S, LATENCY_BUCKETS + 1)
    for share in (0.5, 0.95, 0.99):
        seen = latency_percentiles(histogram[None], np.array([share]), True)[0, 0]
        assert seen == pytest.approx(-0.1 * math.log(1.0 - share), rel=0.03)
        bucket = int(np.searchsorted(np.cumsum(histogram), 100.0 * share))
        assert edges[bucket] <= seen <= edges[bucket + 1]


@pytest.mark.parametrize("form", [(1.3, 3.7), (0.85, 2.2), (2.0, 10.0), (0.5, 1.2)])
@pytest.mark.parametrize("given_up", [0.0, 0.05, 0.6])
def test_percentiles_of_two_pieces_are_those_of_their_mixture(form: tuple[float, float], given_up: float):
    """Of a tenth of a second, coefficient of variation and skewness; of those who did not give up. Within 5 %."""
    cv, skewness = form
    flow = row(ENDPOINT_FLOW, mean_s=0.1, variance_s2=(0.1 * cv) ** 2, third_s3=skewness * (0.1 * cv) ** 3)
    shape = row(SHAPE)
    take_shape(shape, flow.mean_s, flow.variance_s2, flow.third_s3)
    assert shape.slow_share > 0.0
    # What giving up took is told beside what it left.
    flow.given_up, flow.mean_s, flow.lost_mean_s = given_up, 0.07, 0.03
    booked, histogram = row(CLASS_FLOW), np.zeros(LATENCY_BUCKETS)
    take_latency(booked, flow, 0.08, 30.0)
    book_latency(histogram, booked, flow, 100.0)
    assert histogram.sum() == pytest.approx(100.0)
    assert booked.within == pytest.approx(min(1.0, share_within(shape, 0.08) / (1.0 - given_up)))
    assert booked.within_own == pytest.approx(1.0)
    shares = np.array([0.5, 0.9, 0.95, 0.99])
    seen = latency_percentiles(histogram[None], shares, True)[0]
    true = [quantile_of_shape(shape, norm.ppf(share * (1.0 - given_up))) for share in shares]
    assert seen == pytest.approx(true, rel=0.05)


def test_latencies_beyond_the_histogram_count_in_its_first_and_last_bucket():
    for mean_s, bucket in ((1e-6, 0), (1e6, LATENCY_BUCKETS - 1)):
        booked, flow = row(CLASS_FLOW), row(ENDPOINT_FLOW, mean_s=mean_s)
        take_latency(booked, flow, 1.0, 1.0)
        book_latency(np.zeros(LATENCY_BUCKETS), booked, flow, 1.0)
        assert booked.buckets.tolist() == [bucket] * SLICES


@pytest.mark.parametrize(("name", "least"), [("mean_s", 4e-3), ("variance_s2", 8e-3), ("third_s3", 16e-3)])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_latency_distribution_is_worked_out_anew_when_it_has_moved(name: str, least: float, sign: float):
    """Four thousandths in the mean, eight in the variance, sixteen in the third cumulant: each of them is enough."""
    booked, flow = row(CLASS_FLOW), exponential(0.1)
    flow.third_s3 *= -1.0
    take_latency(booked, flow, 0.2, 0.05)
    before = float(booked[name])
    booked.within = 7.0
    flow[name] = before * (1.0 + sign * 0.9 * least)
    take_latency(booked, flow, 0.2, 0.05)
    assert (booked.within, booked[name]) == (7.0, before)
    flow[name] = before * (1.0 + sign * 1.1 * least)
    take_latency(booked, flow, 0.2, 0.05)
    assert 0.0 < booked.within <= 1.0
    assert booked[name] == flow[name] != before


def booking(requests: float, within: tuple[float, float] | None = None, **flow: float) -> SimpleNamespace:
    """What is booked of requests with exponential latency of 0.1 s, within 0.2 s for all, within 0.05 s for their class.

    Args:
        within: shares of the latency distribution that was booked last, which has not moved since.
    """
    lane = row(np.dtype(LANE, align=True), latency_threshold_s=0.2, keeps_latencies=True)
    found = SimpleNamespace(
        account=row(np.dtype([("requests", float), ("good", float)]), requests=100.0, good=200.0),
        booked=row(CLASS_FLOW),
        window=row(CLASS_SUMS, **{name: 10.0 for name in CLASS_SUMS.names or ()}),
        histogram=np.ones(LATENCY_BUCKETS),
    )
    endpoint = exponential(0.1)
    for name, value in flow.items():
        endpoint[name] = value
    if within is not None:
        found.booked = row(CLASS_FLOW, mean_s=0.1, variance_s2=0.01, third_s3=0.002)
        found.booked.within, found.booked.within_own = within
    account_requests(
        lane, found.account, row(REQUEST_CLASS, latency_threshold_s=0.05), requests, endpoint, found.booked,
        found.window, found.histogram,
    )  # fmt: skip
    return found


def test_requests_are_booked_as_what_became_of_them():
    """Of 50 a fifth fail, a tenth come after a retry; good are those that came at once and in time."""
    found = booking(50.0, answered_share=0.8, clean_share=0.7)
    window, within, own = found.window, found.booked.within, found.booked.within_own
    assert 0.0 < own < within < 1.0
    assert window.requests == 10.0 + 50.0
    assert window.failed == pytest.approx(10.0 + 10.0)
    assert window.good == pytest.approx(10.0 + 35.0 * within)
    assert window.good_own == pytest.approx(10.0 + 35.0 * own)
    assert window.latency_weight == pytest.approx(10.0 + 35.0)
    assert window.latency_s == pytest.approx(10.0 + 35.0 * 0.1)
    assert window.latency_s2 == pytest.approx(10.0 + 35.0 * 0.02)
    assert (found.account.requests, found.account.good) == (150.0, pytest.approx(200.0 + 35.0 * within))
    assert found.histogram.sum() == pytest.approx(LATENCY_BUCKETS + 35.0)


def test_requests_too_few_to_divide_by_are_none():
    """Below 1e-100 of them products with them would vanish and their ratios overflow."""
    found = booking(1e-101, answered_share=1.0, clean_share=1.0)
    assert found.booked.within == 0.0 and found.histogram.sum() == LATENCY_BUCKETS
    assert found.window.latency_weight == 10.0 and found.window.good == 10.0
    found = booking(1.0, answered_share=1.0, clean_share=1.0, mean_s=40.0, variance_s2=4.0, third_s3=0.0)
    assert found.window.good == found.window.good_own == 10.0
    assert found.histogram.sum() == pytest.approx(LATENCY_BUCKETS + 1.0)
    for whole, own in ((1e-101, 1e-99), (1e-99, 1e-101)):
        found = booking(1.0, (whole, own), answered_share=1.0, clean_share=1.0)
        sums = row(CLASS_SUMS)
        account_requests(
            row(np.dtype(LANE, align=True)), found.account, row(REQUEST_CLASS), 1.0,
            row(ENDPOINT_FLOW, mean_s=0.1, variance_s2=0.01, third_s3=0.002, answered_share=1.0, clean_share=1.0),
            found.booked, sums, found.histogram,
        )  # fmt: skip
        assert (sums.good, sums.good_own) == (whole if whole > 1e-100 else 0.0, own if own > 1e-100 else 0.0)
