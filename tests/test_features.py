"""What a learned policy sees of a service: what its names promise, from published telemetry, without a look ahead."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agents.env import DevOpsEnv, EnvSpec
from agents.features import FEATURES, FORECAST_FEATURES, N_FEATURES, choose_lanes, see_lanes
from agents.observation import BOUND, Observations
from agents.policies.capacity import time_to_ready_s
from agents.policies.learned import general_policy
from agents.policies.rule import RulePolicy
from sim_core.profile import bundled_profiles, load_profile
from sim_core.simulation import Worlds
from sim_core.workload import Trace
from sim_core.world import LAYOUT, Lane, Scaler, scale_to_replicas
from tests.conftest import flat, spiky_day
from tests.test_observation import plain_lane, plain_service, scraped, scrapes

DAY_S = 86_400.0
HOUR_S = 3600.0
SYNC_S = 15.0


class Seen:
    """Worlds under the rule, with the features of all their services at each decision.

    Args:
        settings: of the rule.
    """

    def __init__(self, lanes: list[Lane], **settings: float):
        lanes = [Lane(x.profile, x.trace, x.seed, x.start_s, Scaler.external()) for x in lanes]
        self.worlds, self.rule = Worlds(lanes), RulePolicy(**settings)
        self.rule.reset(lanes, HOUR_S)

    def look(self, residual: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Features, shape (n_services of all lanes, N_FEATURES), and the decision that is made with them."""
        n, capacity = len(self.rule.rules), self.rule.capacity
        features = np.zeros((n, N_FEATURES), dtype=np.float32)
        desired = np.zeros((len(self.worlds), self.worlds.n_services), dtype=np.int64)
        observations = Observations(self.worlds)
        observations.decide(see_lanes, self.rule.rules, self.rule.states, features)
        observations.decide(
            choose_lanes, self.rule.rules, self.rule.states, capacity.bad, capacity.least, capacity.most,
            np.full(n, residual), desired,
        )  # fmt: skip
        return features, desired

    def look_again(self) -> tuple[np.ndarray, np.ndarray]:
        """As `look`, and forgotten: the next look is at the same moment with the same memory."""
        memory = self.rule.states.copy()
        seen = self.look()
        self.rule.states[:] = memory
        return seen

    def play(self, n_decisions: int) -> None:
        """The next decisions."""
        for _ in range(n_decisions):
            self.worlds.request_replicas(self.look()[1])
            self.worlds.advance(round(SYNC_S / float(self.worlds.params["tick_s"][0])))


def named(features: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURES, features.tolist(), strict=True))


def lanes_of(name: str, n: int = 3) -> list[Lane]:
    """On the third day of a spiky trace: the rule has two earlier days to look at."""
    profile = load_profile(name)
    trace = scale_to_replicas(spiky_day(1.0, days=4.0), profile, 0.4 * profile.services[-1].replicas.max)
    return [Lane(profile, trace, seed, 2 * DAY_S + 977.0 * (1 + seed)) for seed in range(n)]


# --- What the entries are


def test_names_tell_the_entries_apart():
    """A name that stands in two groups says the same of a service and of the whole: only `error_ratio` does."""
    twice = {name for name in FEATURES if FEATURES.count(name) > 1}
    assert twice <= {"error_ratio"}
    assert len(FEATURES) == N_FEATURES


@pytest.mark.parametrize("published", [1, 2, 5, 21, 41, 64, 65, 150])
def test_scrapes_and_clock_are_what_a_second_reading_gives(published):
    """Of each service of a chain, on random scrapes that nobody simulated, in front of each look back and beyond it."""
    profile = load_profile("experimental")
    trace = Trace("random", 60.0, np.random.default_rng(1).uniform(1.0, 500.0, size=5 * 1440))
    start_s = (0.3 + published % 4) * DAY_S
    worlds = scraped(profile, trace, published, start_s, seed=published)
    seen = Seen([Lane(profile, trace, published, start_s)])
    seen.worlds = worlds
    features, _ = seen.look()
    newest_first = scrapes(worlds)[::-1]
    whole = plain_lane(profile, worlds.telemetry()[0], start_s + 10.0 + 15.0 * published)
    for index in range(len(profile.services)):
        own = {name.split("/")[1]: value for name, value in plain_service(profile, newest_first, index).items()}
        vector, n_own = features[index], len(own)
        for name, said in zip(FEATURES[:n_own], vector[:n_own], strict=True):
            assert said == pytest.approx(own[name], rel=1e-5, abs=1e-5), name
        base = n_own + len(FORECAST_FEATURES)
        for name, said in zip(FEATURES[base:], vector[base:], strict=True):
            if name in whole:
                assert said == pytest.approx(whole[name], rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize("name", ["production", "experimental"])
def test_forecast_and_budget_are_those_that_the_rule_decides_by(name):
    seen = Seen(lanes_of(name, 2), price=0.3, feedback=1.2, hold_s=0.0)
    seen.play(80)
    replicas = np.concatenate([row[row > 0] for row in Observations(seen.worlds).replicas])
    features, _ = seen.look()
    for vector, rule, memory, desired in zip(features, seen.rule.rules, seen.rule.states, replicas, strict=True):
        said, forecast = named(vector), memory["forecast"]
        for h in range(2):
            assert said[f"forecast_{h}"] == pytest.approx(forecast["log_ahead"][h] - forecast["log_load"], abs=1e-5)
            assert said[f"spread_{h}"] == pytest.approx(4.0 * memory["spread"][h], rel=1e-5)
            over = math.log(desired) - forecast["log_ahead"][h]
            assert said[f"replicas_over_forecast_{h}"] == pytest.approx(over, abs=1e-5)
        assert said["trend_per_min"] == pytest.approx(60.0 * forecast["trend_per_s"], abs=1e-6)
        assert said["last_error"] == pytest.approx(forecast["last_error"], abs=1e-6)
        assert said["budget_spent"] == pytest.approx(min(memory["spent"], 5.0) - 1.0, abs=1e-5)
        assert said["price_log"] == pytest.approx(math.log(memory["price"]) + 2.0, abs=1e-5)
        assert memory["price"] == pytest.approx(0.3 * math.exp(1.2 * (min(memory["spent"], 3.0) - 1.0)), rel=1e-9)
        assert said["season_days"] == pytest.approx(2 / 3)
        assert said["stale"] == said["overdue_share"] == 0.0
        assert said["budget_log"] == pytest.approx(0.5 * math.log(rule["budget"] / 0.01), abs=1e-5)


def test_what_a_pod_takes_and_promises_is_told_from_the_profile():
    """Another start-up, objective and least replicas, and nothing else, are other entries of the profile."""
    plain = lanes_of("production", 1)[0]
    changes = {
        "lead_log": {"services.api.lifecycle.image_pull_seconds": 60.0},
        "budget_log": {"slo.objective": 0.999},
        "min_replicas_log": {"services.api.replicas.min": 4},
    }
    usual = named(Seen([plain]).look()[0][0])
    profile = plain.profile
    assert usual["lead_log"] == pytest.approx(math.log((time_to_ready_s(profile.services[0]) + 7.5) / 40.0), abs=1e-5)
    assert usual["min_replicas_log"] == pytest.approx(math.log(profile.services[0].replicas.min), abs=1e-6)
    for name, change in changes.items():
        other = named(Seen([Lane(profile.with_overrides(change), plain.trace, 0, plain.start_s)]).look()[0][0])
        assert {entry for entry in FEATURES if other[entry] != usual[entry]} == {name}
    assert other["min_replicas_log"] == pytest.approx(math.log(4.0), abs=1e-6)


def test_earlier_days_tell_what_comes():
    """Every day at noon the load triples: told five minutes ahead from the second day on."""
    day = np.full(1440, 100.0)
    day[720:780] = 300.0
    production, trace = load_profile("production"), Trace("lunch", 60.0, np.tile(day, 4))

    def said(start_s: float) -> dict[str, float]:
        seen = Seen([Lane(production, trace, 1, start_s - 60.0)])
        seen.play(4)
        return named(seen.look()[0][0])

    noon_s = 12 * HOUR_S
    first = said(noon_s - 150.0)
    assert first["season_days"] == first["season_300s"] == 0.0
    for days in (1, 2, 3):
        morning = said(days * DAY_S + noon_s - 150.0)
        assert morning["season_days"] == pytest.approx(days / 3)
        assert morning["season_300s"] == pytest.approx(math.log(3.0), abs=1e-4)
        assert morning["season_60s"] == pytest.approx(0.0, abs=1e-4)
        assert said(days * DAY_S + noon_s - 1500.0)["season_900s"] == pytest.approx(0.0, abs=1e-4)


def test_the_forecast_lands_where_the_load_will_be():
    """A day's wave that doubles the load, on its second day, with all of its season: at both leads within 1 % of the rate
    that then comes, on the mean over an hour of its steepest climb. 1,500 requests/s: a scrape's noise is 0.7 %.
    """
    times_s = (np.arange(3 * 1440) + 0.5) * 60.0
    rates = 1000.0 * np.exp(0.35 * np.sin(2.0 * np.pi * times_s / DAY_S))
    production = load_profile("production")
    start_s = 1.9 * DAY_S
    settings = {"season_weight": 1.0, "trend_weight": 0.0, "spread_s": 300.0}
    seen = Seen([Lane(production, Trace("wave", 60.0, rates), 3, start_s)], **settings)
    seen.play(40)
    errors = []
    for _ in range(240):
        now_s = start_s + float(seen.worlds.time_s[0])
        seen.play(1)
        (memory,), (rule,) = seen.rule.states, seen.rule.rules
        then = np.interp(now_s + rule["ahead_s"], times_s, rates) * 0.025
        errors.append(memory["forecast"]["log_ahead"] - np.log(then))
    assert np.abs(np.mean(errors, axis=0)).max() < 0.005
    assert np.sqrt(np.mean(np.square(errors), axis=0)).max() < 0.01
    spread = np.sqrt(memory["forecast"]["variance"])
    assert ((spread > 0.004) & (spread < 0.015)).all()


# --- What they are made of


@pytest.mark.parametrize("name", bundled_profiles())
def test_nothing_looks_ahead(name):
    """Rates from now on are changed, at moments of four days: no bit of any feature and no decision changes."""
    profile = load_profile(name)
    trace = scale_to_replicas(spiky_day(1.0, days=4.0), profile, 0.4 * profile.services[-1].replicas.max)
    rng = np.random.default_rng(0)
    for start_s in (100.0, DAY_S, 1.3 * DAY_S, 2.0 * DAY_S + 70.0, 3.7 * DAY_S):
        seen = Seen([Lane(profile, trace, 3, start_s)], season_weight=1.0)
        seen.play(20)
        seen.worlds.advance(7)
        features, desired = seen.look_again()
        rates = seen.worlds.tables.rates
        first = math.ceil((start_s + float(seen.worlds.time_s[0])) / trace.step_s)
        rates[first:] = rng.uniform(0.0, 5000.0, size=len(rates) - first)
        again, decided = seen.look_again()
        np.testing.assert_array_equal(features, again)
        np.testing.assert_array_equal(desired, decided)
        rates[:first] = rng.uniform(0.0, 5000.0, size=first)
        if features[0][FEATURES.index("season_days")] > 0.0:  # whereas earlier days count
            assert (features != seen.look_again()[0]).any()


@pytest.mark.parametrize("name", bundled_profiles())
def test_nothing_is_seen_but_published_telemetry_and_what_the_api_server_tells(name):
    """All other state is wiped out: no bit of any feature and no decision changes. Told are replicas and of each pod since
    when it is there, whether it is ready, and whether it goes.
    """
    for n_decisions in (1, 3, 80):
        seen = Seen(lanes_of(name))
        seen.play(n_decisions)
        worlds = seen.worlds
        features, desired = seen.look_again()
        known = {field: worlds.state[field].copy() for field in ("tick", "n_published", "published")}
        told = {
            "service_states": {field: None for field in ("desired_replicas", "n_pods")},
            "pods": {field: None for field in ("deleting", "ready", "start_s")},
        }
        for table, fields in told.items():
            for field in fields:
                fields[field] = getattr(worlds.tables, table)[field].copy()
        worlds.state.view(np.uint8)[:] = 0
        for table in LAYOUT.tables.values():
            if table.is_state and table.name != "service_scrapes":
                getattr(worlds.tables, table.name).view(np.uint8)[:] = 0
        for field, value in known.items():
            worlds.state[field] = value
        for name_of_table, fields in told.items():
            for field, value in fields.items():
                getattr(worlds.tables, name_of_table)[field] = value
        again, decided = seen.look_again()
        np.testing.assert_array_equal(features, again)
        np.testing.assert_array_equal(desired, decided)
        if n_decisions == 80:  # whereas what has been published counts
            worlds.tables.service_scrapes["call_rate_per_s"] *= 1.5
            assert (features != seen.look_again()[0]).any(axis=1).all()


@pytest.mark.parametrize(
    "rates", [np.zeros(4000), np.tile([0.0, 4000.0], 2000), np.r_[np.zeros(1440), np.full(2560, 9000.0)]]
)
def test_features_stay_in_their_box_whatever_the_traffic(production, rates):
    """Nights without a request, sawtooth, sudden overload; before the first scrape, and after days of history."""
    trace = Trace("hard", 60.0, rates)
    seen = Seen([Lane(production, trace, 1, start_s) for start_s in (0.0, 86_300.0, 86_400.0, 150_000.0)])
    for _ in range(60):
        features, desired = seen.look_again()
        assert np.isfinite(features).all()
        assert (np.abs(features) <= BOUND).all()
        assert ((desired >= 2) & (desired <= 100)).all()
        seen.play(1)


def test_features_stay_in_their_box_where_no_scrape_comes(production):
    """Scrapes stop after the first: the vector says so, and holds no infinity."""
    seen = Seen([Lane(production, flat(400.0), 1)])
    seen.play(3)
    seen.worlds.state["next_scrape_tick"] = seen.worlds.state["next_publish_tick"] = 10**9
    for _ in range(20):
        seen.play(1)
        assert np.isfinite(seen.look_again()[0]).all()
    assert named(seen.look_again()[0][0])["stale"] == 1.0


def test_a_lane_that_is_looked_at_for_the_first_time_late_is_followed_from_there(production):
    """100 scrapes before the first look, more than the history holds: the forecast is the load, not one pod's."""
    seen = Seen([Lane(production, flat(1600.0), 1)], rise_s=600.0, trend_weight=0.0, season_weight=0.0)
    for _ in range(100):
        seen.worlds.advance(15)
    seen.look()
    (memory,) = seen.rule.states
    np.testing.assert_allclose(memory["forecast"]["log_ahead"], math.log(40.0), atol=0.02)
    assert (memory["spread"] > 0.0).all()


# --- What is done with them


def test_a_residual_moves_decisions_one_way(production):
    """What is added to the log of the load never asks for fewer pods, at any moment of an afternoon."""
    seen = Seen(lanes_of("production"), hold_s=0.0)
    moved = 0
    for _ in range(60):
        memory, asked = seen.rule.states.copy(), []
        for residual in (-0.25, -0.1, 0.0, 0.1, 0.25):
            asked.append(seen.look(residual)[1])
            seen.rule.states[:] = memory
        assert (np.diff(asked, axis=0) >= 0).all()
        moved += int((asked[-1] > asked[0]).sum())
        seen.play(1)
    assert moved > 100  # of 180, else little was compared


def test_the_residual_of_the_last_decision_is_seen(production):
    spec = EnvSpec(production, flat(900.0), episode_s=1200.0)
    env = DevOpsEnv(spec)
    env.reset(seed=1)
    for action in (0.0, 1.0, -0.4, -1.0):
        for _ in range(4):
            said = named(env.step(np.array([action]))[0])
        assert said["residual_before"] == pytest.approx(4.0 * 0.25 * action, abs=1e-6)


def test_services_of_other_profiles_are_seen_as_alone():
    """Lanes with one and with two services in a batch: each vector and each decision is that of the lane alone."""
    lanes = [lanes_of(name, 1)[0] for name in ("production", "experimental", "development")]
    together, row = Seen(lanes), 0
    together.play(30)
    features, desired = together.look()
    for k, lane in enumerate(lanes):
        alone, n = Seen([lane]), len(lane.profile.services)
        alone.play(30)
        own, decided = alone.look()
        np.testing.assert_array_equal(features[row : row + n], own)
        np.testing.assert_array_equal(desired[k, :n], decided[0])
        row += n


def test_the_general_model_reads_every_bundled_profile():
    """Its residuals are finite and differ over an hour of traffic."""
    model = general_policy()
    for name in bundled_profiles():
        seen, said = Seen(lanes_of(name, 1)), []
        for _ in range(40):
            said.append(model.residuals(seen.look_again()[0]))
            seen.play(1)
        assert np.isfinite(said).all()
        assert np.ptp(said) > 0.0
