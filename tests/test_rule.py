"""The rule: a newsvendor's choice against brute force, an account of the budget, and what makes it safe, faults injected."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from agents.learning.families import HPA, RULE
from agents.learning.search import Part, search
from agents.observation import Observations
from agents.policies.contract import play
from agents.policies.explained import COLUMNS, Explained
from agents.policies.rule import _POINTS, _WEIGHTS, RulePolicy, bad_at, capacity_tables, cheapest
from sim_core.errors import PolicyError
from sim_core.profile import load_profile
from sim_core.simulation import Worlds
from sim_core.workload import Trace, bundled_traffic
from sim_core.world import Lane, Scaler, scale_to_replicas
from tests.conftest import flat

DAY_S = 86_400.0
PRODUCTION = load_profile("production")
TABLES = capacity_tables(PRODUCTION)
TABLE = TABLES.bad[0], TABLES.least, TABLES.most


def lane_of(rate: float = 400.0, seed: int = 1, **changes: object) -> Lane:
    return Lane(PRODUCTION.with_overrides(changes), flat(rate, 4 * 3600.0), seed, scaler=Scaler.external())


class Played:
    """Worlds under the rule, decision by decision."""

    def __init__(self, lanes: list[Lane], **settings: float):
        self.worlds, self.policy = Worlds(lanes), RulePolicy(**settings)
        self.worlds.params["sync_phase_ticks"] = 0
        self.worlds.reset(np.arange(len(lanes)))
        self.policy.reset(lanes, 3600.0)

    def decisions(self, n: int) -> np.ndarray:
        """The next n decisions of each lane's first service, shape (n, n_lanes)."""
        said = []
        for _ in range(n):
            desired = self.policy.predict(Observations(self.worlds))
            self.worlds.request_replicas(desired)
            said.append(desired[:, 0])
            self.worlds.advance(15)
        return np.stack(said)


# --- The choice


def test_the_points_are_a_normal_distribution():
    """Moments up to the fourth: 1, 0, 1, 0, 3; beyond four standard deviations lies a hundredth of the fourth."""
    moments = [float((_WEIGHTS * _POINTS**k).sum()) for k in range(5)]
    assert moments == pytest.approx([1.0, 0.0, 1.0, 0.0, 3.0], rel=2e-2, abs=1e-12)
    assert moments[2] == pytest.approx(1.0, rel=2e-3)


def test_the_capacity_table_is_read_in_between():
    bad, least, most = TABLE
    for replicas in (2, 10, 80):
        for u in (0.41, 0.77, 0.934, 1.1):
            expected = np.interp(u, np.linspace(least, most, bad.shape[1]), bad[replicas])
            assert bad_at(bad, least, most, replicas, u) == pytest.approx(expected, abs=1e-12)
        assert bad_at(bad, least, most, replicas, 0.1) == 0.0
        assert bad_at(bad, least, most, replicas, 2.0) == 1.0


def costs_of(load: float, spread: float, price: float) -> np.ndarray:
    """Pods and expected bad requests of 1 to 100 replicas, over 4,001 quantiles of the load."""
    bad, least, most = TABLE
    loads = load * np.exp(spread * norm.ppf((np.arange(4001) + 0.5) / 4001))
    places = np.linspace(least, most, bad.shape[1])
    shares = [np.interp(loads / n, places, bad[n], left=0.0, right=1.0) for n in range(1, 101)]
    return np.arange(1, 101) + price / 0.01 * (np.array(shares) * loads).mean(axis=1)


def chosen(load: float, spread: float, price: float) -> int:
    return int(cheapest(*TABLE, math.log(load), spread, 0.0, price * load / 0.01, 1, 100))


@given(st.floats(0.5, 60.0), st.floats(0.0, 0.3), st.floats(0.01, 1.0))
def test_the_choice_is_that_of_a_fine_integration(load, spread, price):
    """What is bad sets in within a few per cent of the load, and the kernel's points lie half a standard deviation apart: it
    is off by less than from one point to the next, and a pod.
    """
    costs = costs_of(load, spread, price)
    near = np.flatnonzero(costs <= 1.01 * costs.min()) + 1  # the best one, and those that are hardly dearer
    pods = chosen(load, spread, price)
    assert near[0] * math.exp(-0.5 * spread) - 1 <= pods <= near[-1] * math.exp(0.5 * spread) + 1


def test_the_choice_is_no_per_cent_dearer_than_the_best():
    """Mean over 300 loads, spreads and prices."""
    generator, dearer = np.random.default_rng(0), []
    for _ in range(300):
        load, price = math.exp(generator.uniform(-0.7, 4.0)), math.exp(generator.uniform(-4.0, 0.0))
        spread = generator.uniform(0.03, 0.3)
        costs = costs_of(load, spread, price)
        dearer.append(costs[chosen(load, spread, price) - 1] / costs.min() - 1.0)
    assert np.mean(dearer) < 0.01


@given(
    st.floats(0.5, 30.0), st.floats(0.0, 0.4), st.floats(0.0, 0.5), st.floats(0.5, 5000.0), st.integers(0, 2**32 - 1)
)
def test_the_choice_is_the_cheapest_by_its_own_points_on_any_table(load, spread, tail, bad_cost, seed):
    """Against all replicas one by one, on random tables where more load is worse and more pods are better."""
    bad = np.random.default_rng(seed).uniform(size=(61, 33)) ** 3
    bad = np.maximum.accumulate(np.maximum.accumulate(bad, axis=1)[::-1], axis=0)[::-1].copy()
    bad = 0.5 * (bad + np.linspace(0.0, 1.0, 33) ** 4)
    loads = load * np.exp(spread * _POINTS * (1.0 + tail * np.abs(_POINTS)))
    places = np.linspace(0.4, 1.2, 33)

    def cost(replicas: int) -> float:
        share = np.interp(loads / replicas, places, bad[replicas], left=0.0, right=1.0)
        return replicas + bad_cost * float((_WEIGHTS * share * loads).sum()) / load

    costs = [cost(replicas) for replicas in range(2, 61)]
    replicas = cheapest(bad, 0.4, 1.2, math.log(load), spread, tail, bad_cost, 2, 60)
    assert cost(int(replicas)) == pytest.approx(min(costs), rel=1e-9)


@given(st.floats(0.5, 50.0), st.floats(0.0, 0.3), st.floats(0.01, 1.0))
def test_more_load_and_dearer_bad_requests_never_ask_for_fewer_pods(load, spread, price):
    ask = lambda load, price: cheapest(*TABLE, math.log(load), spread, 0.1, price * load / 0.01, 1, 100)  # noqa: E731
    assert ask(1.3 * load, price) >= ask(load, price)
    assert ask(load, 2.0 * price) >= ask(load, price)


# --- The budget


def test_just_the_budget_is_spent_where_just_so_many_requests_are_bad():
    """The scraped good ratio is set to the objective: the account stands at 1, and the price is the rule's own."""
    played = Played([lane_of()], price=0.2, feedback=1.5)
    for _ in range(40):
        played.worlds.state["published"]["good_ratio"] = 0.99
        played.decisions(1)
    (state,) = played.policy.states
    assert state["spent"] == pytest.approx(1.0, abs=0.02)
    assert state["price"] == pytest.approx(0.2, rel=0.03)
    worse = Played([lane_of()], price=0.2, feedback=1.5)
    for _ in range(400):
        worse.worlds.state["published"]["good_ratio"] = 0.95
        worse.decisions(1)
    assert worse.policy.states["spent"][0] > 2.0
    assert worse.policy.states["price"][0] > 0.2 * math.exp(1.5)


# --- What makes it safe


def test_old_metrics_hold_what_is_there():
    """No scrape is published any more: after a minute every decision is the last one, and says why."""
    played = Played([lane_of(rate) for rate in (200.0, 900.0)])
    before = played.decisions(60)[-1]
    played.worlds.state["next_scrape_tick"] = played.worlds.state["next_publish_tick"] = 10**9
    held = played.decisions(40)
    assert (held[10:] == held[10]).all()
    assert played.policy.states["stale"].all()
    np.testing.assert_array_equal(played.worlds.tables.service_states["desired_replicas"], held[-1])
    assert (np.abs(held[-1] - before) <= 3).all()


def test_pods_that_do_not_become_ready_are_replaced_in_its_count():
    """A fifth of the pods loses its readiness for good: two minutes later as many are there beside them."""
    played = Played([lane_of(800.0)], hold_s=0.0)
    usual = int(np.median(played.decisions(60)[-20:]))
    state = played.worlds.of(0, "service_states")[0]
    pods = played.worlds.of(0, "pods")[: state["n_pods"]]
    stuck = max(1, usual // 5)
    for pod in pods[:stuck]:
        pod["ready"], pod["start_s"] = 0, -1e5
        pod["ready_s"] = pod["next_event_s"] = np.inf
    played.decisions(1)
    assert played.policy.states["overdue"][0] == stuck
    assert played.policy.states["desired"][0] >= usual + stuck - 2


def test_steps_are_bounded():
    """A load that multiplies at once and falls back at once: at most twice the pods or four more, at most half of them off."""
    rates = np.r_[np.full(20, 50.0), np.full(20, 3000.0), np.full(20, 50.0)]
    lanes = [Lane(PRODUCTION, Trace("steps", 60.0, rates), seed, scaler=Scaler.external()) for seed in range(4)]
    said = Played(lanes, hold_s=0.0).decisions(239)
    now, then = said[1:], said[:-1]
    assert (now <= np.maximum(2 * then, then + 4)).all()
    assert (now >= np.ceil(0.5 * then)).all()
    assert (now > then + 4).any(), "else the bound was never met"


def test_never_below_what_the_newest_scrape_needs():
    """However cheap bad requests are, the pods that the seen load keeps busy stay."""
    played = Played([lane_of(rate) for rate in (300.0, 1000.0)], price=0.004, feedback=0.0, spread_weight=0.0)
    for _ in range(80):
        said = played.decisions(1)[0]
        if not played.policy.states["stale"].any():
            least = np.ceil(
                np.exp(played.policy.states["forecast"]["log_load"]) / played.policy.rules["full_load"] - 1e-6
            )
            assert (said >= least).all()


def test_a_hold_keeps_what_runs_and_adds_nothing():
    """Decision by decision through a peak and after it: the most of what was wanted in the last ten minutes, of it only what
    runs; and what is wanted now, wherever that is more.
    """
    rates = np.r_[np.full(30, 200.0), np.full(10, 900.0), np.full(40, 200.0)]
    lane = Lane(PRODUCTION, Trace("peak", 60.0, rates), 1, scaler=Scaler.external())
    played, before, wanted = Played([lane], hold_s=600.0), 0, []
    before, held = int(Observations(played.worlds).replicas[0, 0]), 0
    for _ in range(300):
        said = int(played.decisions(1)[0, 0])
        (state,) = played.policy.states
        wanted.append(int(state["wanted"][(state["n_decisions"] - 1) % len(state["wanted"])]))
        kept = min(max(wanted[-41:]), before)  # 600 s are 40 syncs, and this one
        expected = min(max(wanted[-1], kept), max(2 * before, before + 4))
        assert said == max(expected, math.ceil(0.5 * before))
        held += said > wanted[-1]
        before = said
    assert held > 40  # else no hold was met


# --- As a policy


def test_lanes_have_settings_of_their_own():
    lanes = [lane_of(rate, seed) for seed, rate in enumerate((200.0, 500.0, 900.0))]
    settings = [{"price": 0.02}, {"price": 0.5, "hold_s": 300.0}, {"rise_s": 300.0}]
    together = play(lanes, RulePolicy.by_lane(settings), 1800.0).indicators
    for lane, own, (_, row) in zip(lanes, settings, together.iterrows(), strict=True):
        alone = play([lane], RulePolicy(**own), 1800.0).indicators.iloc[0]
        np.testing.assert_array_equal(alone.to_numpy(), row.to_numpy())


def test_wrong_settings_are_refused_all_at_once():
    with pytest.raises(PolicyError) as refused:
        RulePolicy(prise=0.1, hold_s=-1.0, tail="much")
    assert len(refused.value.problems) == 3
    assert "did you mean 'price'" in str(refused.value)


def test_a_searched_rule_is_cheaper_than_a_searched_hpa():
    """Two days of the bundled traffic to search on, the next to compare on, 60 simulated days for each."""
    trace = scale_to_replicas(bundled_traffic().generate(3 * DAY_S, seed=3), PRODUCTION, 20)
    part = Part(PRODUCTION, trace, 0.0, 2 * DAY_S)
    lanes = [Lane(PRODUCTION, trace, seed, 2 * DAY_S) for seed in (1, 2)]
    tables = {
        name: play(lanes, family.policy_of([search(family, part, 60.0).settings] * 2), DAY_S).indicators.mean()
        for name, family in {"rule": RULE, "hpa": HPA}.items()
    }
    assert tables["rule"]["slo_attainment"] >= 0.985
    assert tables["rule"]["cost_pods_usd"] < tables["hpa"]["cost_pods_usd"]


def test_decisions_are_told_as_they_were_made():
    """What is noted are the decisions themselves, and they change nothing."""
    lanes = [lane_of(400.0, seed) for seed in (1, 2)]
    explained = Explained(RulePolicy(price=0.3))
    told = play(lanes, explained, 1800.0).indicators
    np.testing.assert_array_equal(told, play(lanes, RulePolicy(price=0.3), 1800.0).indicators)
    decisions = explained.decisions
    assert list(decisions.columns) == ["lane", *COLUMNS]
    assert len(decisions) == 2 * 120
    later = decisions[decisions["time_s"] > 600.0]
    np.testing.assert_allclose(later["load"].mean(), 400.0 * 0.025, rtol=0.05)
    assert (later["desired"] >= later["needed"]).all()
    assert (later["margin"] > 0.0).all()


def test_a_residual_is_load_that_is_provided_for():
    """Through a learned policy: the same rule with 0.2 more of the log of the load asks for about 22 % more."""
    from agents.features import choose_lanes, see_lanes

    lanes = [lane_of(1200.0)]
    asked = {}
    for residual in (-0.2, 0.0, 0.2):
        played = Played(lanes, hold_s=0.0)
        played.decisions(60)
        policy, features = played.policy, np.zeros((1, 50), dtype=np.float32)
        observations, desired = Observations(played.worlds), np.zeros((1, 1), dtype=np.int64)
        observations.decide(see_lanes, policy.rules, policy.states, features)
        capacity = policy.capacity.bad, policy.capacity.least, policy.capacity.most
        observations.decide(choose_lanes, policy.rules, policy.states, *capacity, np.array([residual]), desired)
        asked[residual] = int(desired[0, 0])
    assert asked[-0.2] <= asked[0.0] < asked[0.2]
    assert asked[0.2] / asked[0.0] == pytest.approx(math.exp(0.2), abs=0.08)
