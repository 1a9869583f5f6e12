"""The environments that agents learn in: what they show, what they pay, and that one kernel is behind both."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from numba.core.errors import NumbaExperimentalFeatureWarning
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from agents.env import DevOpsEnv, DevOpsVecEnv, EnvSpec, Episodes, worthwhile_threads
from agents.features import N_FEATURES
from agents.observation import (
    BOUND,
    LOG_LOAD_CENTER,
    SERVICE_FEATURES,
    SHARED_FEATURES,
    Observations,
    feature_names,
    observation_size,
)
from sim_core.errors import InputError
from sim_core.profile import bundled_profiles, in_long_ticks, load_profile
from sim_core.simulation import Worlds
from sim_core.workload import Trace
from sim_core.world import LAYOUT, Lane, Scaler, scale_to_replicas
from tests.conftest import flat, in_step, run_in_step, run_worlds, scrapes, spiky_day

HOUR_S = 3600.0


def spec_of(name: str = "production", **changes) -> EnvSpec:
    """Short episodes on the second day of a spiky trace."""
    profile = load_profile(name)
    trace = scale_to_replicas(spiky_day(1.0, days=2.0), profile, 0.5 * profile.services[-1].replicas.max)
    return replace(EnvSpec(profile, trace, 86_400.0, 2 * 86_400.0, episode_s=600.0), **changes)


def random_actions(space: gym.Space, seed: int, n: int) -> list:
    space.seed(seed)
    return [space.sample() for _ in range(n)]


# --- The contracts of Gymnasium and stable-baselines3


@pytest.mark.parametrize("name", bundled_profiles())
def test_the_env_passes_both_checkers(name):
    """With every complaint an error; Gymnasium's advice to normalize or to add a spec is not a complaint."""
    env = DevOpsEnv(spec_of(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for harmless in (".*not within the expected interval.*", ".*have `env.spec`.*", ".*no spec.*", ".*env_spec.*"):
            warnings.filterwarnings("ignore", message=harmless)
        warnings.filterwarnings(
            "ignore", category=NumbaExperimentalFeatureWarning
        )  # of whoever compiles, not of the env
        gymnasium_check_env(env, skip_render_check=True)
        sb3_check_env(env, warn=True, skip_render_check=True)


def test_a_time_limit_truncates_and_never_terminates():
    env = DevOpsEnv(spec_of(episode_s=150.0))
    env.reset(seed=3)
    ends = [env.step(np.zeros(1))[2:4] for _ in range(10)]
    assert ends == [(False, False)] * 9 + [(False, True)]
    info = env.step(np.zeros(1))[4]
    assert set(info) == {"slo_attainment", "replicas_mean", "requests", "bad_requests"}


def test_the_vec_env_begins_ended_episodes_anew_and_keeps_their_last_observation():
    env = DevOpsVecEnv(spec_of(episode_s=150.0), 3, stagger=False)
    env.seed(5)
    env.reset()
    alone = [DevOpsEnv(spec_of(episode_s=150.0)) for _ in range(3)]
    for lane, single in enumerate(alone):
        single.reset(seed=5 + lane)
    for step in range(25):
        observations, _, ended, infos = env.step(np.full((3, 1), step % 5 / 2.0 - 1.0))
        assert ended.all() == ended.any() == (step % 10 == 9)
        for lane, single in enumerate(alone):
            last, _, terminated, truncated, _ = single.step(np.array([step % 5 / 2.0 - 1.0]))
            assert not terminated
            assert truncated == ended[lane]
            if truncated:
                np.testing.assert_array_equal(infos[lane]["terminal_observation"], last)
                assert infos[lane]["TimeLimit.truncated"] is True
                assert infos[lane]["episode"]["l"] == 10
                last = single.reset()[0]
                assert not np.array_equal(infos[lane]["terminal_observation"], observations[lane])
            else:
                assert infos[lane] == {}
            np.testing.assert_array_equal(observations[lane], last)


@pytest.mark.parametrize("name", bundled_profiles())
def test_a_lane_of_the_vec_env_is_the_env_with_its_seed(name):
    """The seed decides a trajectory; batch size and position do not."""
    spec = spec_of(name, episode_s=1500.0)
    for n_envs in (1, 5):
        env = DevOpsVecEnv(spec, n_envs, stagger=False)
        n_services = len(spec.profile.services)
        assert env.num_envs == n_envs * n_services
        assert env.seed(40) == [40 + k for k in range(n_envs) for _ in range(n_services)]
        observations = env.reset().reshape(n_envs, -1)
        alone = [DevOpsEnv(spec) for _ in range(n_envs)]
        for lane, single in enumerate(alone):
            np.testing.assert_array_equal(observations[lane], single.reset(seed=40 + lane)[0])
        for step in range(99):
            actions = np.array(random_actions(env.action_space, step, env.num_envs))
            observations, rewards, _, _ = env.step(actions)
            observations = observations.reshape(n_envs, -1)
            for lane, single in enumerate(alone):
                observation, reward, _, _, _ = single.step(actions.reshape(n_envs, n_services)[lane])
                np.testing.assert_array_equal(observations[lane], observation)
                assert (rewards.reshape(n_envs, n_services)[lane] == np.float32(reward)).all()


def test_seeds_decide_and_differ():
    spec = spec_of()
    first, same, other = (DevOpsEnv(spec) for _ in range(3))
    start = first.reset(seed=1)[0], same.reset(seed=1)[0], other.reset(seed=2)[0]
    np.testing.assert_array_equal(start[0], start[1])
    assert not np.array_equal(start[0], start[2])
    for action in (0.0, 1.0, -0.5, 0.2):
        one, two = first.step(np.array([action])), same.step(np.array([action]))
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1] == two[1]
    begun_anew = first.reset()[0]  # the next episode of the same stream is another one
    assert not np.array_equal(begun_anew, start[0])


def test_a_vec_env_may_hold_lanes_of_other_specs():
    """Each of them walks as it would alone."""
    specs = [
        spec_of(),
        spec_of("experimental"),
        replace(spec_of(), trace=spec_of().trace.scaled(0.3)),
        spec_of("development"),
    ]
    env = DevOpsVecEnv(specs, stagger=False)
    env.seed(9)
    observations = env.reset()
    for lane, spec in enumerate(specs):
        own = observations[env.episodes.lane_of_row == lane].flatten()
        np.testing.assert_array_equal(own, DevOpsEnv(spec).reset(seed=9 + lane)[0])


def test_staggered_lanes_end_at_different_steps_and_then_run_full_length():
    env = DevOpsVecEnv(spec_of(episode_s=600.0), 8)
    env.seed(0)
    env.reset()
    ends = np.array([env.step(np.zeros((8, 1)))[2] for _ in range(100)])
    first = ends.argmax(axis=0)
    assert len(set(first)) == 8
    for lane in range(8):
        assert set(np.diff(np.flatnonzero(ends[:, lane]))) == {40}


def test_ppo_of_stable_baselines3_learns_on_it_and_is_evaluated_by_it():
    """`evaluate_policy` takes models that choose actions; our policies choose replicas, `evaluate` compares those."""
    env = VecMonitor(DevOpsVecEnv(spec_of(), 4))
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=1, device="cpu")
    model.learn(512)
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=4, return_episode_rewards=True)
    assert len(returns) == len(lengths) == 4
    assert np.isfinite(returns).all()


# --- Rewards and episodes


def test_the_reward_is_what_the_account_says():
    """Pods the load keeps busy, less pods that run (both over those of the mean load), less the priced bad requests."""
    spec = spec_of(bad_request_weight=0.3)
    env = DevOpsVecEnv(spec, 1)
    env.seed(11)
    env.reset()
    part = spec.trace.slice(spec.start_s, spec.trace.duration_s if spec.end_s is None else spec.end_s)
    rate, objective, step_s = part.mean_per_s, 0.99, 15.0
    busy = rate * 0.025
    for action in (0.0, 1.0, -1.0, 0.5, -0.3, -0.3, 0.1, 0.9, -0.9):
        account = env.episodes.worlds.state["account"][0].copy()
        _, rewards, _, _ = env.step(np.array([[action]]))
        after = env.episodes.worlds.state["account"][0]
        pod_s, requests = after["pod_s"] - account["pod_s"], after["requests"] - account["requests"]
        bad = requests - (after["good"] - account["good"])
        priced = min(bad, 20.0 * (1 - objective) * requests)
        budget = (1 - objective) * rate * step_s
        expected = (requests * 0.025 - pod_s) / (busy * step_s) - 0.3 * priced / budget
        assert rewards[0] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_more_pods_cost_more_and_bad_requests_hurt():
    """A stingy rule, made ever more generous: on one side the pods cost, on the other the requests."""
    spec = spec_of(episode_s=4 * HOUR_S, bad_request_weight=0.1)
    prices, n = np.geomspace(0.004, 4.0, 9), 9
    episodes = Episodes([replace(spec, rule={"price": float(price), "feedback": 0.0}) for price in prices])
    episodes.begin(np.arange(n), [np.random.default_rng(3) for _ in range(n)])
    actions = np.linspace(-1.0, 1.0, n).astype(np.float32)
    while not episodes.step(actions).any():
        pass
    pod_s, requests, bad, reward = episodes.sums.T
    assert (requests == requests[0]).all()  # common random numbers
    order = np.argsort(pod_s)
    assert bad[order[0]] > bad[order[-1]]
    assert reward[order[-1]] < reward.max() > reward[order[0]]


def test_threads_share_lanes_and_change_nothing():
    """Five lanes on one, two and three threads: the same observations, rewards, ends and totals, to the bit."""
    played = []
    for threads in (1, 2, 3):
        env = DevOpsVecEnv(spec_of(episode_s=300.0), 5, threads=threads)
        env.seed(4)
        steps = [env.reset()]
        for step in range(60):
            steps += list(env.step(np.sin(np.arange(5.0) * step))[:3])
        played.append((steps, env.episodes.totals))
        env.close()
    for other in played[1:]:
        for one, two in zip(played[0][0], other[0], strict=True):
            np.testing.assert_array_equal(one, two)
        np.testing.assert_allclose(other[1], played[0][1], rtol=1e-12)  # summed in another order


def test_an_env_keeps_no_histogram_of_latencies_and_plays_the_same():
    """Nobody asks an env for percentiles: what it shows and pays goes by moments and by who was in time."""
    ours, keeping = DevOpsVecEnv(spec_of(), 3), DevOpsVecEnv(spec_of(), 3)
    keeping.episodes.worlds.params["keeps_latencies"] = True
    for env in (ours, keeping):
        env.seed(11)
    np.testing.assert_array_equal(ours.reset(), keeping.reset())
    for action in random_actions(ours.action_space, 5, 20):
        actions = np.full((3, 1), action)
        for one, other in zip(ours.step(actions)[:3], keeping.step(actions)[:3], strict=True):
            np.testing.assert_array_equal(one, other)
    assert not ours.episodes.worlds.tables.latency["requests"].any()
    assert keeping.episodes.worlds.tables.latency["requests"].any()


def test_episodes_stay_within_their_part_of_the_traffic():
    """Beyond it another rate waits; no lane ever sees it. Starts spread over the whole part."""
    rates = np.full(400, 50.0)
    rates[:100] = rates[300:] = 4000.0
    trace = Trace("fenced", 60.0, rates)
    spec = EnvSpec(load_profile("production"), trace, 6060.0, 17_940.0, episode_s=1200.0)
    env = DevOpsVecEnv(spec, 6, stagger=False)
    env.seed(2)
    env.reset()
    starts = []
    for step in range(400):
        if step % 80 == 0:
            starts += list(env.episodes.worlds.params["traffic"]["start_s"])
        env.step(np.zeros((6, 1)))
        assert (env.episodes.worlds.telemetry()["request_rate_per_s"] < 100.0).all()
    assert min(starts) >= 6060.0
    assert max(starts) <= 17_940.0 - 1200.0
    assert max(starts) - min(starts) > 6000.0


def test_traffic_that_is_no_part_of_the_trace_is_refused():
    spec = spec_of()
    for start_s, end_s in ((-1.0, 100.0), (100.0, 100.0), (0.0, 1e9)):
        with pytest.raises(InputError, match="training traffic"):
            DevOpsEnv(replace(spec, start_s=start_s, end_s=end_s))
    assert replace(spec, start_s=0.0, end_s=HOUR_S, episode_s=1e6).check().episode_s == HOUR_S


# --- Observations


def test_feature_names_match_the_vector():
    for n_services in (1, 2, 4):
        names = feature_names(n_services)
        assert len(names) == len(set(names)) == observation_size(n_services)
        assert names[-len(SHARED_FEATURES) :] == SHARED_FEATURES
        assert names[0] == f"service_0/{SERVICE_FEATURES[0]}"
    env = DevOpsEnv(spec_of("experimental"))
    assert env.observation_space.shape == (2 * N_FEATURES,)


def test_features_say_what_their_names_promise(production):
    """Read by name on a world whose numbers are known: 400 requests/s on 20 pods, an hour after six in the morning."""
    start_s = 86_400.0 + 7 * HOUR_S
    worlds = run_worlds([Lane(production, flat(400.0, 3 * 86_400.0), 1, start_s, Scaler.static(20))], 1000.0)
    vector = Observations(worlds).vectors[0]
    said = dict(zip(feature_names(1), vector, strict=True))
    seen = worlds.telemetry()[0]
    history = scrapes(worlds)[:, 0]  # newest last
    service = history[-1]
    load = float(service["call_rate_per_s"]) * 0.025
    assert said["service_0/load_log"] == pytest.approx(np.log(load) - LOG_LOAD_CENTER, abs=1e-5)
    assert said["service_0/ready_over_load_log"] == pytest.approx(np.log(20 / load), abs=1e-5)
    assert said["service_0/desired_over_load_log"] == pytest.approx(np.log(20 / load), abs=1e-5)
    assert said["service_0/starting_share"] == 0.0
    assert said["service_0/utilization"] == pytest.approx(0.5, rel=0.05)
    assert said["service_0/error_ratio"] == said["error_ratio"] == 0.0
    rates = history["call_rate_per_s"]
    for back in (1, 2, 4, 8, 20, 40):
        change = np.log(rates[-1] / rates[-1 - back])
        assert said[f"service_0/load_change_{back}"] == pytest.approx(change, abs=1e-5)
    for window in (4, 12):
        peak = rates[-window:].max()
        assert said[f"service_0/load_peak_{window}"] == pytest.approx(np.log(peak / rates[-1]), abs=1e-5)
    assert said["service_0/load_noise"] == pytest.approx((rates[-20:] / rates[-1]).std(), rel=1e-3)
    assert said["latency_mean_log"] == pytest.approx(np.log(seen["latency_mean_s"] / 0.3), abs=1e-5)
    assert said["latency_p95_log"] == pytest.approx(np.log(seen["latency_p95_s"] / 0.3), abs=1e-5)
    assert said["bad_ratio"] == pytest.approx(1.0 - seen["good_ratio"], abs=1e-6)
    assert said["database_utilization"] == pytest.approx(seen["database_utilization"], abs=1e-6)
    assert said["cache_miss_ratio"] == pytest.approx(1.0 - seen["cache_hit_ratio"], abs=1e-6)
    clock = 2 * np.pi * (start_s + 1000.0) / 86_400.0
    assert said["day_sin"] == pytest.approx(np.sin(clock), abs=1e-5)
    assert said["half_day_cos"] == pytest.approx(np.cos(2 * clock), abs=1e-5)
    assert said["week_cos"] == pytest.approx(np.cos(clock / 7), abs=1e-5)
    assert said["season_days"] == pytest.approx(1 / 3)
    assert said["season_peak_300s"] == pytest.approx(0.0, abs=1e-6)  # the traffic is flat


PUBLISHED = ("tick", "n_published", "published")  # what a reader can know of a lane, beside `service_scrapes`


@pytest.mark.parametrize("name", bundled_profiles())
def test_observations_hold_nothing_but_published_telemetry(name):
    """All state that has not been published is wiped out: not one bit of any vector changes.

    Before the first scrape is published, 25 s after the start, the replicas are known.
    """
    spec = spec_of(name)
    lanes = [Lane(spec.profile, spec.trace, seed, 90_000.0 + 977 * seed) for seed in range(4)]
    for duration_s in (10.0, 24.0, 25.0, 300.0, 1200.0):
        worlds = run_in_step(lanes, duration_s)
        before = Observations(worlds).vectors
        known = {field: worlds.state[field].copy() for field in PUBLISHED}
        replicas = worlds.tables.service_states["desired_replicas"].copy()
        worlds.state.view(np.uint8)[:] = 0
        for table in LAYOUT.tables.values():
            if table.is_state and table.name != "service_scrapes":
                getattr(worlds.tables, table.name).view(np.uint8)[:] = 0
        for field, value in known.items():
            worlds.state[field] = value
        if duration_s < 25.0:
            worlds.tables.service_states["desired_replicas"] = replicas
        np.testing.assert_array_equal(before, Observations(worlds).vectors)
        if duration_s < 25.0:
            continue
        worlds.tables.service_scrapes["call_rate_per_s"] *= 1.5  # whereas what has been published counts
        of_services = Observations(worlds).vectors
        assert (before != of_services).any(axis=1).all()
        worlds.state["published"]["latency_mean_s"] += 0.01
        assert (of_services != Observations(worlds).vectors).any(axis=1).all()


def test_observations_do_not_look_ahead():
    """Rates from now on are changed at many moments of four days: not one bit of any vector changes.

    A rate between the middles of two steps is interpolated: 'now' is the end of the step that has begun.
    """
    profile = load_profile("production")
    trace = scale_to_replicas(spiky_day(1.0, days=4.0), profile, 20)
    rng = np.random.default_rng(0)
    for start_s in np.sort(rng.uniform(0.0, 3.9 * 86_400.0, size=25)):
        worlds = run_worlds([Lane(profile, trace, 3, start_s)], 120.0)
        now_s = start_s + 120.0
        before = Observations(worlds).vectors
        first = int(np.ceil(now_s / trace.step_s))
        rates = worlds.tables.rates
        rates[first:] = rng.uniform(0.0, 5000.0, size=len(rates) - first)
        np.testing.assert_array_equal(before, Observations(worlds).vectors)
        rates[:first] = rng.uniform(0.0, 5000.0, size=first)
        if start_s > 86_400.0 + 120.0:  # the past, a day and more ago, counts
            assert (before != Observations(worlds).vectors).any()


def test_the_season_shows_what_the_same_time_did_on_earlier_days(production):
    """Every day at the same hour the load triples: seen two minutes ahead on the second day, not on the first."""
    day = np.full(1440, 100.0)
    day[720:780] = 300.0
    trace = Trace("lunch", 60.0, np.tile(day, 3))
    noon_s = 12 * HOUR_S
    names = feature_names(1)

    def said(start_s: float) -> dict[str, float]:
        worlds = run_worlds([Lane(production, trace, 1, start_s - 60.0)], 60.0)
        return dict(zip(names, Observations(worlds).vectors[0], strict=True))

    assert said(noon_s - 100.0)["season_peak_300s"] == 0.0
    assert said(noon_s - 100.0)["season_days"] == 0.0
    for days in (1, 2):
        morning = said(days * 86_400.0 + noon_s - 100.0)
        assert morning["season_days"] == pytest.approx(days / 3)
        assert morning["season_peak_300s"] == pytest.approx(np.log(3.0), abs=1e-4)
        assert morning["season_peak_30s"] < 0.1
        assert said(days * 86_400.0 + noon_s - 1000.0)["season_peak_300s"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("delay_s", "seen_s"), [(0, 7.5), (5, 22.5), (10, 22.5), (15, 22.5)])
def test_the_season_counts_from_the_middle_of_the_newest_scrape(production, delay_s, seen_s):
    """The newest scrape's middle is as old as its own time stamp says; the rate of that moment a day ago is what the look
    ahead is compared with. A scrape is published some seconds after its end: where decisions fall on the ends of scrapes,
    its middle is `seen_s` old, half an interval older than the whole syncs that the publication takes. Lanes with clocks of
    their own see it at every age.
    """
    profile = production.with_overrides({"telemetry.delay_seconds": delay_s})
    rising = Trace("rising", 5.0, np.geomspace(20.0, 2000.0, 2 * 17_280))
    middles = (np.arange(2 * 17_280) + 0.5) * 5.0
    start_s, position = 100_000.0, feature_names(1).index("season_peak_30s")
    lanes = [Lane(profile, rising, seed, start_s, Scaler.static(20)) for seed in range(6)]
    for worlds in (in_step(lanes[:1]), Worlds(lanes)):
        ages = set()
        for ticks in (60, 15, 15, 7, 3, 5):  # at decisions, and between them around a publication
            worlds.advance(ticks)
            now_s = float(worlds.time_s[0])
            vectors = Observations(worlds).vectors
            for lane in range(len(worlds)):
                age_s = now_s - (float(worlds.telemetry()["time_s"][lane]) - 7.5)
                ages.add(age_s)
                if len(worlds) == 1 and now_s % 15.0 == 0.0:
                    assert age_s == seen_s
                moments = start_s + now_s - 86_400.0 + np.array([-age_s, 30.0])
                then, ahead = np.interp(moments, middles, rising.rates_per_s)
                assert vectors[lane][position] == pytest.approx(np.log(ahead / then), abs=1e-6)
        assert len(ages) > 3 or len(worlds) == 1


def test_a_trace_in_steps_of_most_of_a_day_shows_no_season(production):
    """A rate between two daily means is interpolated from the second, which is not known before that day has ended."""
    for step_s, days in ((43_200.0, 1.0), (86_400.0, 0.0)):  # as shares of the three that are looked at
        trace = Trace("coarse", step_s, np.arange(1.0, 11.0) * 50.0)
        worlds = run_worlds([Lane(production, trace, 1, 4 * 86_400.0)], 60.0)
        said = dict(zip(feature_names(1), Observations(worlds).vectors[0], strict=True))
        assert said["season_days"] == days
        assert (said["season_peak_300s"] != 0.0) == bool(days)


@pytest.mark.parametrize(
    "rates", [np.zeros(4000), np.tile([0.0, 4000.0], 2000), np.r_[np.zeros(1440), np.full(2560, 9000.0)]]
)
def test_vectors_stay_in_their_box_whatever_the_traffic(production, rates):
    """Nights without a request, sawtooth, sudden overload; before the first scrape, and after days of history."""
    trace = Trace("hard", 60.0, rates)
    worlds = Worlds([Lane(production, trace, 1, start_s) for start_s in (0.0, 86_300.0, 86_400.0, 150_000.0)])
    for _ in range(40):
        vectors = Observations(worlds).vectors
        assert np.isfinite(vectors).all()
        assert (np.abs(vectors) <= BOUND).all()
        worlds.advance(20)


def test_observations_give_controllers_the_api_servers_view(production):
    worlds = run_in_step([Lane(production, flat(200.0), 1, scaler=Scaler.static(n)) for n in (5, 9)], 100.0)
    observations = Observations(worlds)
    assert (observations.n_lanes, observations.n_services) == (2, 1)
    np.testing.assert_array_equal(observations.replicas, [[5], [9]])
    np.testing.assert_array_equal(observations.time_s, [100.0, 100.0])
    np.testing.assert_array_equal(observations.sample_time_s, [90.0, 90.0])
    np.testing.assert_array_equal(observations.sample_window_s, [15.0, 15.0])
    deployments = observations.deployments
    np.testing.assert_array_equal(deployments.states["n_active"][deployments.rows], [[5], [9]])
    for lane, replicas in enumerate((5, 9)):
        first = deployments.pods_first[lane] + deployments.specs["pods_first"][deployments.rows[lane, 0]]
        pods = deployments.pods[first : first + replicas]
        assert (pods["sample_m"] > 0).all() and (deployments.pods["sample_m"][first + replicas] <= 0)
    np.testing.assert_array_equal(observations.telemetry["time_s"], [90.0, 90.0])


# --- What a training plays


@pytest.mark.parametrize(
    ("tick_s", "scrape_s", "delay_s", "sync_s", "long_s"),
    [
        (1, 15, 10, 15, 5),
        (1, 15, 0, 15, 5),
        (1, 4, 2, 4, 2),
        (0.5, 7, 7, 7, 3.5),
        (1, 17, 10, 15, 1),
        (0.1, 0.3, 0.3, 60, 0.3),
    ],
)
def test_ticks_are_the_longest_that_all_periods_are_made_of(tick_s, scrape_s, delay_s, sync_s, long_s):
    profile = load_profile("production").with_overrides(
        {
            "tick_seconds": tick_s,
            "telemetry.scrape_interval_seconds": scrape_s,
            "telemetry.delay_seconds": delay_s,
            "controller.sync_period_seconds": sync_s,
        }
    )
    played = in_long_ticks(profile)
    assert played.tick_seconds == pytest.approx(long_s, rel=1e-12)
    assert played.with_overrides({"tick_seconds": tick_s}) == profile


def test_ticks_that_are_the_longest_stay():
    profile = in_long_ticks(load_profile("production"))
    assert in_long_ticks(profile) is profile


@pytest.mark.parametrize("name", bundled_profiles())
def test_long_ticks_play_the_same_world(name):
    """The same actions under the same traffic: nearly the same pods run, and nearly as many requests go wrong.

    Bad requests come in few bursts, and the rule answers each: a stingy one has many, whose sum over 64 lanes tells.
    """
    spec, totals = spec_of(name, episode_s=4 * HOUR_S, rule={"price": 0.02}), []
    for profile in (spec.profile, in_long_ticks(spec.profile)):
        env = DevOpsVecEnv(replace(spec, profile=profile), 64, threads=2)
        env.seed(3)
        env.reset()
        actions = np.random.default_rng(1)
        for _ in range(600):
            env.step(actions.uniform(-1.0, 1.0, env.num_envs))
        totals.append(env.episodes.totals)
        env.close()
    pods, requests, bad, _ = totals[1] / totals[0]
    assert pods == pytest.approx(1.0, abs=0.02)
    assert requests == pytest.approx(1.0, abs=0.002)
    assert bad == pytest.approx(1.0, abs=0.1)


def test_small_steps_are_not_shared_among_threads():
    spec = spec_of()
    assert worthwhile_threads(replace(spec, profile=in_long_ticks(spec.profile)), 64) == 1
    assert worthwhile_threads(spec, 10_000) == min(4, len(os.sched_getaffinity(0)))
