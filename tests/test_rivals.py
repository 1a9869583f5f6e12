"""Rivals of the learned autoscaler: each against what it must do, none looking ahead, each tuned by the one search."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from agents.learning.families import CLAIRVOYANT, FORECAST, HPA, REQUEST_RATE, SCHEDULED, STATIC
from agents.learning.search import Family, Part, search, search_target
from agents.observation import Observations
from agents.policies.capacity import calls_per_pod_s, time_to_ready_s
from agents.policies.clairvoyant import ClairvoyantPolicy, KnownRatesPolicy, arrivals_ahead, rates_ahead
from agents.policies.contract import Policy, play
from agents.policies.forecast import ForecastPolicy
from agents.policies.forecast import rates_ahead as forecast_rates
from agents.policies.hpa import HpaPolicy
from agents.policies.registry import ALL_RIVALS, OPTIMUM, POLICIES, RIVALS, choice_of, policy_of, with_rivals
from agents.policies.request_rate import RequestRatePolicy
from agents.policies.scheduled import ScheduledPolicy, load_of_hour
from agents.policies.seasonal import STEPS_AHEAD, STEPS_OF_DAY, forecast
from agents.policies.settings import FORECAST as FORECAST_SETTINGS
from agents.policies.settings import completed
from sim_core.controlplane.hpa_records import PERCENT_POLICY, PODS_POLICY
from sim_core.dataplane.services.rows import hpa_of_service
from sim_core.errors import PolicyError
from sim_core.profile import Profile, in_long_ticks
from sim_core.simulation import Worlds
from sim_core.workload import Trace, bundled_traffic
from sim_core.world import Lane, Scaler, scale_to_replicas
from tests.conftest import burst, flat

HOUR_S, DAY_S = 3600.0, 86_400.0
FOLLOWING = {
    "request-rate": RequestRatePolicy,
    "scheduled": ScheduledPolicy,
    "forecast": ForecastPolicy,
    "hpa": HpaPolicy,
}


def replicas_of(policy: Policy, lane: Lane, duration_s: float, step_s: float = 60.0) -> np.ndarray:
    """Desired replicas of the only service at the end of each step, shape (n_steps,) [pods]."""
    timeline = play([lane], policy, duration_s, step_s).timeline
    assert timeline is not None
    return timeline["replicas_desired"][0]


def daily(profile: Profile, days: int, peak_pods: int = 12) -> Trace:
    """A wave that is the same every day, from a fifth of its peak at midnight to the peak at noon."""
    time_s = (np.arange(0.0, days * DAY_S, 60.0) + 30.0) % DAY_S
    return scale_to_replicas(Trace("daily", 60.0, 1.5 - np.cos(2.0 * np.pi * time_s / DAY_S)), profile, peak_pods)


# --- The HPA's pace


def test_the_pace_of_an_hpa_is_a_policy_of_a_minute(production):
    """Percent and pods of a direction are policies beside each other; the other direction keeps what it has."""
    settings = {"scale_up_percent_per_minute": 50, "scale_up_pods_per_minute": 3, "scale_down_pods_per_minute": 2}
    record = hpa_of_service(production, 0, tuple(sorted(settings.items())))
    up, down = record["scale_up"], record["scale_down"]
    assert [tuple(policy) for policy in up["policies"][: up["n_policies"]]] == [
        (PERCENT_POLICY, 50, 60.0),
        (PODS_POLICY, 3, 60.0),
    ]
    assert [tuple(policy) for policy in down["policies"][: down["n_policies"]]] == [(PODS_POLICY, 2, 60.0)]
    only_up = hpa_of_service(production, 0, (("scale_up_pods_per_minute", 3),))
    assert [tuple(policy) for policy in only_up["scale_down"]["policies"][:1]] == [(PERCENT_POLICY, 100, 15.0)]


def test_an_hpa_grows_and_shrinks_no_faster_than_its_pace(production):
    """Two pods up and one down a minute, in a load that asks for forty at once and for none later."""
    lane = Lane(production, burst(60.0, 1600.0, 600, 1800, 3600), 3)
    pace = {"scale_up_pods_per_minute": 2, "scale_down_pods_per_minute": 1}
    policy = HpaPolicy(scale_down_stabilization_window_seconds=0, **pace)
    replicas = replicas_of(policy, lane, 3600.0)
    assert np.diff(replicas).max() == 2
    assert np.diff(replicas).min() == -1


# --- Request rate


@pytest.mark.parametrize("target", [0.5, 0.7, 0.9])
def test_the_request_rate_over_the_target_is_the_replicas(production, target):
    """ceil(rate / target per pod) within the noise of a scrape's rate, with no tolerance and no pod to spare."""
    rate_per_s = 600.0
    policy = RequestRatePolicy(target_utilization=target, tolerance=0.0, scale_down_stabilization_window_seconds=0)
    settled = replicas_of(policy, Lane(production, flat(rate_per_s), 1), 3600.0)[-30:]
    exact = rate_per_s / (target * calls_per_pod_s(production, 0))
    assert np.median(settled) == pytest.approx(math.ceil(exact), abs=1)
    spread = 4.0 / math.sqrt(rate_per_s * 15.0)  # four standard deviations of the calls in a scrape
    assert (settled >= math.floor(exact * (1.0 - spread))).all()
    assert (settled <= math.ceil(exact * (1.0 + spread))).all()


def test_within_the_tolerance_nothing_moves(production):
    policy = RequestRatePolicy(tolerance=0.25)
    settled = replicas_of(policy, Lane(production, flat(600.0), 1), 3600.0)[20:]
    assert len(np.unique(settled)) == 1


@pytest.mark.parametrize("window_s", [120, 600])
def test_replicas_stay_as_long_as_the_down_window(production, window_s):
    """A burst of ten minutes: nothing is given back before the window has passed, and all of it soon after."""
    lane = Lane(production, burst(200.0, 800.0, 1200, 1800, 5400), 2)
    policy = RequestRatePolicy(scale_down_stabilization_window_seconds=window_s)
    replicas = replicas_of(policy, lane, 5400.0, 15.0)
    high = replicas[int(1750 / 15)]
    falls = np.flatnonzero(replicas[int(1800 / 15) :] < 0.5 * high)[0] * 15.0
    assert window_s - 30.0 <= falls <= window_s + 90.0


def test_replicas_wait_for_the_up_window(production):
    """A load that lasts shorter than the window asks for no pod."""
    lane = Lane(production, burst(200.0, 800.0, 1200, 1260, 2400), 2)
    slow = replicas_of(RequestRatePolicy(scale_up_stabilization_window_seconds=180), lane, 2400.0, 15.0)
    quick = replicas_of(RequestRatePolicy(), lane, 2400.0, 15.0)
    assert slow[60:].max() < 0.7 * quick[60:].max()


# --- Scheduled


def test_the_load_of_an_hour_is_a_quantile_of_earlier_days():
    """Three days, each ten times the one before: of an hour on the fourth, the median of the last one and of all."""
    past = np.repeat([1.0, 10.0, 100.0], STEPS_OF_DAY)
    assert load_of_hour(past, 3 * 24 + 5, days=1, quantile=0.5) == 100.0
    assert load_of_hour(past, 3 * 24 + 5, days=3, quantile=0.5) == 10.0
    assert load_of_hour(past, 3 * 24 + 5, days=28, quantile=0.0) == 1.0
    assert load_of_hour(past, 5, days=3, quantile=0.5) == 0.0  # nothing lies before
    assert load_of_hour(past, 4 * 24, days=1, quantile=0.5) == 0.0  # yesterday is not known yet


def test_a_schedule_repeats_yesterday(production):
    """Where today's load is a tenth of yesterday's the schedule alone decides: by the hour, and as early as a pod needs."""
    trace = daily(production, 2)
    rates = trace.rates_per_s.copy()
    rates[len(rates) // 2 :] *= 0.1
    quiet = replace(trace, rates_per_s=rates)
    policy = ScheduledPolicy(
        headroom=1.5, quantile=1.0, days=1, tolerance=0.0, scale_down_stabilization_window_seconds=0
    )
    replicas = replicas_of(policy, Lane(production, quiet, 1, DAY_S), 12 * HOUR_S)
    past = rates[: len(rates) // 2].reshape(-1, 5).mean(axis=1)
    per_pod = calls_per_pod_s(production, 0)
    lead_min = math.ceil(time_to_ready_s(production.services[0]) / 60.0)
    for hour in range(1, 12):
        scheduled = [math.ceil(1.5 * past[12 * h : 12 * h + 12].max() / per_pod) for h in (hour, hour + 1)]
        assert (replicas[60 * hour + 2 : 60 * (hour + 1) - lead_min - 1] == scheduled[0]).all()
        if hour < 11:
            assert replicas[60 * (hour + 1) - 1] == scheduled[1]


# --- Forecast


@pytest.mark.parametrize(
    ("method", "days"), [("holt-winters", 2.3), ("holt-winters", 5.0), ("mstl", 4.3), ("mstl", 9.0)]
)
def test_the_forecast_of_a_daily_wave_is_that_wave(method, days):
    """No noise: within 1 % three hours ahead. With noise of 5 %: most of what comes lies within three deviations."""
    steps = np.arange(round((days + 1) * STEPS_OF_DAY))
    wave = 100.0 * (1.5 + np.sin(2.0 * np.pi * steps / STEPS_OF_DAY))
    now = round(days * STEPS_OF_DAY)
    comes = wave[now : now + STEPS_AHEAD]
    found = forecast(wave[:now], method)
    np.testing.assert_allclose(np.exp(found.log_mean), comes, rtol=0.01)
    noisy = wave * np.exp(np.random.default_rng(3).normal(0.0, 0.05, len(wave)))
    found = forecast(noisy[:now], method)
    np.testing.assert_allclose(np.exp(found.log_mean), comes, rtol=0.2)
    off = (np.log(noisy[now : now + STEPS_AHEAD]) - found.log_mean) / found.log_sd
    assert (np.abs(off) < 3.0).mean() > 0.9


def test_a_past_without_a_season_gives_no_forecast():
    settings = completed("forecast", FORECAST_SETTINGS, {"mstl_share": 0.5})
    assert forecast(np.ones(2 * STEPS_OF_DAY), "holt-winters") is None
    assert forecast(np.zeros(5 * STEPS_OF_DAY), "mstl") is None
    assert np.isnan(forecast_rates(np.ones(100), settings)).all()
    wave = 9.0 + np.sin(2.0 * np.pi * np.arange(3 * STEPS_OF_DAY) / STEPS_OF_DAY)
    alone = forecast_rates(wave, settings | {"mstl_share": 0.0})  # three days are too short for MSTL
    np.testing.assert_array_equal(forecast_rates(wave, settings), alone)


def test_quantiles_of_a_forecast_lie_in_order():
    noise = np.random.default_rng(1).normal(0.0, 0.1, 4 * STEPS_OF_DAY)
    past = 50.0 * np.exp(np.sin(2.0 * np.pi * np.arange(len(noise)) / STEPS_OF_DAY) + noise)
    low, high = (
        forecast_rates(past, completed("forecast", FORECAST_SETTINGS, {"quantile": q, "mstl_share": 0.3}))
        for q in (0.1, 0.9)
    )
    assert (low < high).all()


def test_a_forecast_asks_for_pods_before_the_load_comes(production):
    """A jump at the same time of every day: when it comes, the forecast has its pods and the request rate has not."""
    per_day = np.full(1440, 200.0)
    per_day[480:960] = 900.0
    lane = Lane(production, Trace("shift", 60.0, np.tile(per_day, 5)), 1, 4 * DAY_S + 6 * HOUR_S)
    ahead = replicas_of(ForecastPolicy(extra_lead_s=300), lane, 3 * HOUR_S)
    behind = replicas_of(RequestRatePolicy(), lane, 3 * HOUR_S)
    begins = 120  # min
    assert ahead[begins - 2] > 2.0 * behind[begins - 2]
    assert ahead[begins + 20] == pytest.approx(behind[begins + 20], rel=0.3)


# --- What a metrics database remembers


@pytest.mark.parametrize("step_s", [20.0, 60.0, 450.0, 3600.0])
def test_the_past_is_the_mean_of_the_trace_as_far_as_it_was_seen(production, step_s):
    generator = np.random.default_rng(2)
    trace = Trace("any", step_s, generator.uniform(1.0, 9.0, round(DAY_S / step_s)))
    lane = Lane(production, trace, 1, 40_000.0, Scaler.external())
    worlds = Worlds([lane])
    worlds.advance(900)
    past = Observations(worlds).past_rates(0, 300.0)
    seen = int((40_000.0 + 900.0) / step_s) * step_s
    assert seen - step_s - 320.0 < len(past) * 300.0 <= seen
    fine = np.repeat(trace.rates_per_s, round(step_s / 10.0))
    np.testing.assert_allclose(past, fine[: 30 * len(past)].reshape(-1, 30).mean(axis=1))


@pytest.mark.parametrize("name", sorted(FOLLOWING))
def test_nothing_looks_ahead(production, name):
    """Another future from the fifth hour of a day on: until then every decision is the same to the bit."""
    trace = daily(production, 5)
    rates = trace.rates_per_s.copy()
    changes_s = 3 * DAY_S + 5 * HOUR_S
    # Rates run from the middle of one step to that of the next: the step before has a share of the change.
    rates[int(changes_s / 60.0) + 1 :] *= 3.0
    played = [
        replicas_of(FOLLOWING[name](), Lane(production, each, 4, 3 * DAY_S), 7 * HOUR_S)
        for each in (trace, replace(trace, rates_per_s=rates))
    ]
    np.testing.assert_array_equal(played[0][:300], played[1][:300])
    assert (played[0][300:] != played[1][300:]).any()


# --- One policy of many settings


@pytest.mark.parametrize(
    ("family", "policy", "values"),
    [
        (HPA, HpaPolicy, (50, 80)),
        (REQUEST_RATE, RequestRatePolicy, (0.4, 0.9)),
        (SCHEDULED, ScheduledPolicy, (1.1, 3.0)),
        (FORECAST, ForecastPolicy, (1.1, 3.0)),
        (CLAIRVOYANT, ClairvoyantPolicy, (0.02, 1.0)),
    ],
)
def test_lane_k_is_played_with_settings_k(production, family, policy, values):
    """To the bit as by a policy of those settings alone."""
    lanes = [Lane(production, daily(production, 4), seed, 3 * DAY_S + 6 * HOUR_S) for seed in (1, 2)]
    settings = [{family.knob: value} for value in values]
    together = play(lanes, family.policy_of(settings), HOUR_S).indicators
    for k, own in enumerate(settings):
        alone = play(lanes[k : k + 1], policy(**own), HOUR_S).indicators
        np.testing.assert_array_equal(together.iloc[k : k + 1], alone)
    assert together["cost_usd"][0] != together["cost_usd"][1]


@pytest.mark.parametrize("family", [STATIC, HPA, REQUEST_RATE, SCHEDULED, FORECAST])
def test_a_search_finds_cheaper_settings_that_keep_the_slo(production, family: Family):
    """On a day of the diurnal generator, within a small budget: no dearer than where it began, which keeps the SLO too."""
    trace = scale_to_replicas(bundled_traffic("diurnal").generate(4 * DAY_S, 1), production, 12)
    part = Part(production, trace, 3 * DAY_S, 3 * DAY_S + 12 * HOUR_S)
    start = {parameter.name: parameter.at(parameter.start) for parameter in family.parameters(part)}
    found = search(family, part, budget_days=18.0)
    assert found.simulated_days <= 18.0
    assert found.slo_attainment >= search_target(production)
    lane = Lane(in_long_ticks(production), part.trace, 5, part.start_s)
    usual = play([lane], family.policy_of([start]), part.block_s).indicators
    tuned = play([lane], family.policy_of([found.settings]), part.block_s).indicators
    assert usual["slo_attainment"][0] >= production.slo.objective
    assert tuned["cost_usd"][0] < usual["cost_usd"][0]


# --- What is known ahead


def test_known_rates_are_the_mean_of_what_comes(production):
    """The sum over ten minutes within four standard deviations of the draws, whose single ticks differ."""
    worlds = Worlds([Lane(production, daily(production, 1), 9, 8 * HOUR_S)])
    drawn, expected = np.zeros(600), np.zeros(600)
    arrivals_ahead(worlds.tables, 0, drawn)
    rates_ahead(worlds.tables, 0, expected)
    assert abs(drawn.sum() - expected.sum()) < 4.0 * math.sqrt(expected.sum())
    assert not np.allclose(drawn, expected)


def test_known_rates_know_no_draws(production):
    """Lanes of other seeds on one trace are planned alike but for the moment of their syncs."""
    lanes = [Lane(production, daily(production, 1), seed, 8 * HOUR_S) for seed in (1, 2)]
    policy = KnownRatesPolicy()
    policy.reset(lanes, 2 * HOUR_S)
    plans = [scaler.replicas_by_sync for scaler in policy.scalers()]
    n = min(len(plan) for plan in plans)
    assert np.abs(plans[0][:n] - plans[1][:n]).max() <= 1
    assert (plans[0][:n] == plans[1][:n]).mean() > 0.95


@pytest.mark.parametrize("policy", [ClairvoyantPolicy, KnownRatesPolicy])
def test_a_higher_price_of_bad_requests_buys_pods(production, policy):
    lanes = [Lane(production, daily(production, 1), seed, 8 * HOUR_S) for seed in (1, 2)]
    tables = [play(lanes, policy(bad_request_price=price), 4 * HOUR_S).indicators.mean() for price in (0.005, 0.1, 2.0)]
    assert tables[0]["cost_usd"] < tables[1]["cost_usd"] < tables[2]["cost_usd"]
    assert tables[0]["slo_attainment"] < tables[1]["slo_attainment"] < tables[2]["slo_attainment"]


def test_prices_of_a_frontier_are_a_geometric_range(production):
    part = Part(production, daily(production, 1), 0.0, DAY_S)
    prices = [entry["bad_request_price"] for entry in CLAIRVOYANT.frontier({"bad_request_price": 0.1}, part)]
    assert len(prices) == 8
    assert np.diff(np.log(prices)) == pytest.approx(math.log(2.5), rel=0.35)


# --- By name


def test_every_rival_is_tuned_when_named_alone_and_made_as_it_is_set():
    for name in RIVALS:
        assert choice_of(name, "evaluate").tuned
        assert POLICIES[name].family is not None
    choice = choice_of("forecast(quantile=0.8,tolerance=0.05)", "evaluation")
    assert not choice.tuned
    assert policy_of(choice).settings["tolerance"] == 0.05
    assert policy_of(choice).settings["headroom"] == pytest.approx(1.0 / 0.7)


def test_all_that_is_wrong_with_settings_is_told_at_once():
    with pytest.raises(PolicyError, match=r"3 problems\n.*headroom: must be between.*\n.*days.*whole.*\n.*tolerance"):
        ScheduledPolicy(headroom=100, days=1.5, tolerance=2.0)
    with pytest.raises(PolicyError, match="did you mean 'quantile'"):
        choice_of("forecast(quantil=0.5)", "evaluate")
    with pytest.raises(PolicyError, match="bad_request_price: must be a number"):
        ClairvoyantPolicy(bad_request_price="dear")


def test_rivals_come_with_the_optimum_and_what_was_named_beside():
    both = with_rivals("--rivals", [ALL_RIVALS], ["static", "mine:Policy", OPTIMUM])
    assert both == [*RIVALS, OPTIMUM, "mine:Policy"]
    assert with_rivals("--rivals", ["forecast"], ["hpa"]) == ["forecast", OPTIMUM, "hpa"]
    assert with_rivals("--rivals", [""], ["hpa"]) == ["hpa"]
    with pytest.raises(PolicyError, match=r"unknown rival 'forcast' .*did you mean 'forecast'"):
        with_rivals("--rivals", ["forcast"], ["hpa"])
