"""Policies: one contract for all of them, through one `predict`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents.actions import N_ACTIONS, TARGET_UTILIZATIONS, replicas_for
from agents.env import DevOpsEnv, DevOpsVecEnv, EnvSpec
from agents.learning.export import export_onnx
from agents.learning.train import make_ppo
from agents.learning.tuning import tune_hpa
from agents.observation import BOUND, Observations, observation_size
from agents.policies.clairvoyant import ClairvoyantPolicy, KnownRatesPolicy, arrivals_ahead, bad_shares
from agents.policies.contract import Policy, play
from agents.policies.forecast import ForecastPolicy
from agents.policies.hpa import HpaPolicy
from agents.policies.learned import LearnedPolicy
from agents.policies.own import OwnPolicy
from agents.policies.registry import choice_of, policy_of
from agents.policies.request_rate import RequestRatePolicy
from agents.policies.scheduled import ScheduledPolicy
from agents.policies.static import StaticPolicy
from sim_core.errors import ModelError, PolicyError
from sim_core.profile import Profile, load_profile
from sim_core.simulation import Worlds, simulate
from sim_core.world import Lane, Scaler, scale_to_replicas
from tests.conftest import flat, run_worlds, spiky_day

START_S = 30_000.0
MINUTES_S = 1800.0


def untrained(profile: Profile, seed: int = 0, spread: float = 1.0) -> Any:
    """A network that was never trained, whose logits differ enough that every action is chosen somewhere."""
    spec = EnvSpec(profile, flat(100.0))
    policy = make_ppo(DevOpsVecEnv(spec, 1), seed).policy
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return policy


@pytest.fixture(scope="module")
def networks() -> dict[str, bytes]:
    return {
        name: export_onnx(untrained(load_profile(name)), load_profile(name), 1.0)
        for name in ("production", "experimental")
    }


KINDS = (
    "static", "hpa", "hpa with settings", "request-rate", "scheduled", "forecast", "known-rates", "clairvoyant", "learned",
)  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The contract's tests run on each kind, and on the policies named with --policy."""
    if "make_policy" in metafunc.fixturenames:
        metafunc.parametrize("make_policy", [*KINDS, *metafunc.config.getoption("policy")], indirect=True)


@pytest.fixture
def make_policy(request, networks) -> Callable[[Profile], Policy]:
    """Makes a fresh policy of each kind for a profile."""
    if request.param not in KINDS:
        choice = choice_of(request.param, "evaluate")
        return lambda profile: policy_of(choice)
    return {
        "static": lambda profile: StaticPolicy(7),
        "hpa": lambda profile: HpaPolicy(),
        "hpa with settings": lambda profile: HpaPolicy(
            target_cpu_utilization_pct=55, scale_down_stabilization_window_seconds=0
        ),
        "request-rate": lambda profile: RequestRatePolicy(),
        "scheduled": lambda profile: ScheduledPolicy(),
        "forecast": lambda profile: ForecastPolicy(),
        "known-rates": lambda profile: KnownRatesPolicy(),
        "clairvoyant": lambda profile: ClairvoyantPolicy(),
        "learned": lambda profile: LearnedPolicy(networks[profile.name]),
    }[request.param]


def lanes_of(name: str, n_lanes: int) -> list[Lane]:
    profile = load_profile(name)
    trace = scale_to_replicas(spiky_day(1.0), profile, 0.3 * profile.services[-1].replicas.max)
    return [Lane(profile, trace, seed, START_S + 300.0 * seed) for seed in range(n_lanes)]


def asked(policy: Policy, lanes: list[Lane], duration_s: float = 300.0) -> np.ndarray:
    """Everything a policy says at its syncs, shape (n_syncs, n_lanes, n_services)."""
    policy.reset(lanes, duration_s)
    worlds = Worlds([Lane(x.profile, x.trace, x.seed, x.start_s, Scaler.external()) for x in lanes])
    said = []
    for _ in range(int(duration_s / 15)):
        said.append(policy.predict(Observations(worlds)).copy())
        worlds.request_replicas(said[-1])
        worlds.advance(15)
    return np.stack(said)


# --- The contract


@pytest.mark.parametrize("name", ["production", "experimental"])
@pytest.mark.parametrize("n_lanes", [1, 5])
def test_predict_gives_whole_replicas_for_every_lane_and_service(make_policy, name, n_lanes):
    """Ours stay within the Deployment's limits; a user's own may leave that to the Deployment."""
    lanes = lanes_of(name, n_lanes)
    policy = make_policy(lanes[0].profile)
    said = asked(policy, lanes)
    assert said.dtype == np.int64
    assert said.shape[1:] == (n_lanes, len(lanes[0].profile.services))
    assert (said >= 0).all()
    if isinstance(policy, OwnPolicy):
        return
    for i, service in enumerate(lanes[0].profile.services):
        assert (said[:, :, i] >= service.replicas.min).all()
        assert (said[:, :, i] <= service.replicas.max).all()


@pytest.mark.parametrize("name", ["production", "experimental"])
def test_a_policy_is_deterministic_and_forgets_at_reset(make_policy, name):
    """The same lanes again, by the same object and by a new one, end in the same decisions."""
    lanes = lanes_of(name, 3)
    policy = make_policy(lanes[0].profile)
    first = asked(policy, lanes)
    asked(policy, lanes[:2])
    np.testing.assert_array_equal(first, asked(policy, lanes))
    np.testing.assert_array_equal(first, asked(make_policy(lanes[0].profile), lanes))


def test_a_lane_is_decided_alike_alone_and_among_others(make_policy):
    """Its neighbours do not count; the clairvoyant's search looks at the first lanes, which stay the same here."""
    lanes = lanes_of("production", 4)
    together = asked(make_policy(lanes[0].profile), lanes)
    some = asked(make_policy(lanes[0].profile), lanes[:2])
    np.testing.assert_array_equal(together[:, :2], some)


@pytest.mark.parametrize("name", ["production", "experimental"])
def test_predict_and_the_simulation_inside_come_to_the_same(make_policy, name):
    """Every indicator and the whole timeline, bit for bit, wherever a policy can decide inside."""
    lanes = lanes_of(name, 3)
    inside = play(lanes, make_policy(lanes[0].profile), MINUTES_S, 60.0)
    outside = play(lanes, make_policy(lanes[0].profile), MINUTES_S, 60.0, through_predict=True)
    np.testing.assert_array_equal(inside.indicators, outside.indicators)
    for key, values in inside.timeline.items():
        np.testing.assert_array_equal(values, outside.timeline[key], err_msg=key)
    assert inside.timeline["time_s"][-1] == MINUTES_S


def test_policies_meet_the_same_traffic(networks):
    """Paired seeds: whoever decides, every lane gets the same requests at every step."""
    lanes = lanes_of("production", 2)
    policies = [StaticPolicy(4), HpaPolicy(), ClairvoyantPolicy(), LearnedPolicy(networks["production"])]
    loads = [play(lanes, policy, MINUTES_S, 60.0).timeline["load_per_s"] for policy in policies]
    for load in loads[1:]:
        np.testing.assert_array_equal(loads[0], load)


# --- Static and HPA


@pytest.mark.parametrize("replicas", [0, -1, 5001])
def test_a_static_policy_needs_replicas_that_a_world_can_hold(replicas):
    with pytest.raises(PolicyError, match="between 1 and 5000"):
        StaticPolicy(replicas)


def test_an_hpa_keeps_its_target_in_steady_state(production):
    """At a flat load utilization settles within the tolerance of the target, 10 %, and a pod's share."""
    for target in (40, 60, 80):
        lane = Lane(production, flat(600.0), 1)
        timeline = play([lane], HpaPolicy(target_cpu_utilization_pct=target), 3600.0, 60.0).timeline
        settled = timeline["utilization"][0][-20:].mean()
        assert settled == pytest.approx(target / 100, rel=0.15)


def test_a_shorter_down_window_costs_less_and_promises_less(production):
    lanes = [Lane(production, spiky_day(300.0), seed, START_S) for seed in range(3)]
    tables = [
        play(lanes, HpaPolicy(scale_down_stabilization_window_seconds=window), 3 * 3600.0).indicators.mean()
        for window in (0, 300, 900)
    ]
    assert tables[0]["cost_usd"] < tables[1]["cost_usd"] < tables[2]["cost_usd"]
    assert tables[0]["slo_attainment"] < tables[2]["slo_attainment"]
    assert tables[0]["scale_events"] > tables[2]["scale_events"]


# --- Clairvoyant


def test_a_clairvoyant_policy_knows_every_arrival(production):
    """Tick by tick the requests that then come."""
    lane = Lane(production, spiky_day(200.0), 9, START_S)
    ahead = np.zeros(300)
    arrivals_ahead(Worlds([lane]).tables, 0, ahead)
    timeline = simulate([lane], 300.0, 1.0).timeline
    np.testing.assert_allclose(timeline["load_per_s"][0], ahead)


def test_what_pods_can_take_grows_with_pods_and_shrinks_with_load(production):
    utilization, bad = bad_shares(production, 0)
    assert bad.shape == (101, len(utilization))
    assert (np.diff(bad, axis=1) >= 0.0).all()
    at_90 = np.searchsorted(utilization, 0.9)
    assert bad[2, at_90] > bad[10, at_90] > bad[80, at_90]  # larger pools bear more at the same utilization


@pytest.mark.parametrize("seed", [0, 50])
def test_the_clairvoyant_is_cheaper_than_the_tuned_hpa_and_keeps_the_slo(production, seed):
    """On a spiky afternoon on which the HPA was tuned itself: no other policy may have it better."""
    trace = scale_to_replicas(spiky_day(1.0), production, 30)
    duration_s = 6 * 3600.0
    tuned = tune_hpa(production, trace, START_S, START_S + duration_s, budget_days=10.0).policy()
    lanes = [Lane(production, trace, seed + k, START_S) for k in range(4)]
    hpa = play(lanes, tuned, duration_s).indicators
    best = play(lanes, ClairvoyantPolicy(), duration_s).indicators
    assert best["slo_attainment"].mean() >= 0.99
    assert best["cost_usd"].mean() < 0.97 * hpa["cost_usd"].mean()


# --- Learned


def random_vectors(n_services: int, n: int, seed: int) -> np.ndarray:
    """Vectors across the whole box, half of them like those that worlds show."""
    generator = np.random.default_rng(seed)
    vectors = generator.uniform(-BOUND, BOUND, size=(n, observation_size(n_services)))
    vectors[::2] *= generator.uniform(0.0, 0.2, size=(n + 1) // 2)[:, None]
    return vectors.astype(np.float32)


@pytest.mark.parametrize("name", ["production", "experimental"])
@pytest.mark.parametrize("headroom", [1.0, 1.07])
def test_the_exported_model_does_what_the_agent_did(name, headroom):
    """5,000 vectors: the network's most probable action, turned into replicas as in the environment, within limits."""
    profile = load_profile(name)
    n_services = len(profile.services)
    policy = untrained(profile, seed=4, spread=0.5)
    model = LearnedPolicy(export_onnx(policy, profile, headroom))
    vectors = random_vectors(n_services, 5000, seed=1)
    actions, _ = policy.predict(vectors, deterministic=True)
    actions = actions.reshape(len(vectors), n_services)
    expected = np.array(
        [
            [
                min(max(replicas_for(vector, n_services, i, choice[i], headroom), s.replicas.min), s.replicas.max)
                for i, s in enumerate(profile.services)
            ]
            for vector, choice in zip(vectors, actions, strict=True)
        ]
    )

    class Shown:
        vectors = None

    shown = Shown()
    shown.vectors = vectors
    said = model.predict(shown)
    assert said.dtype == np.int64
    np.testing.assert_array_equal(said, expected)
    assert len(np.unique(actions)) > N_ACTIONS / 2  # else few choices were compared
    assert len(np.unique(said)) > 20


def test_a_model_in_production_walks_the_path_it_walked_while_learning(production):
    """The env under the network's most probable actions, and the exported model in a simulation of the same lane, synced
    when the env's agent decides.
    """
    trace = scale_to_replicas(spiky_day(1.0), production, 30)
    policy = untrained(production, seed=2, spread=0.5)
    spec = EnvSpec(production, trace, START_S, START_S + 8 * 3600.0, episode_s=1800.0)
    env = DevOpsEnv(spec)
    observation, _ = env.reset(seed=12)
    worlds = env._episodes.worlds
    start_s = float(worlds.params["traffic"]["start_s"][0])
    begun = int(worlds.of(0, "service_states")["n_ready"][0])
    for _ in range(119):
        observation, _, _, _, _ = env.step(policy.predict(observation, deterministic=True)[0])
    generator = np.random.default_rng(12)
    generator.random()
    seed = int(generator.integers(2**62))
    profile = production.with_overrides({"services.api.replicas.initial": begun})
    lane = Lane(profile, trace, seed, start_s, Scaler.external())
    model, alike = LearnedPolicy(export_onnx(policy, profile, 1.0)), Worlds([lane])
    alike.params["sync_phase_ticks"] = 0
    alike.params["keeps_latencies"] = False  # as in an env
    alike.reset(np.array([0]))
    model.reset([lane], 119 * 15.0)
    for _ in range(119):
        alike.request_replicas(model.predict(Observations(alike)))
        alike.advance(15)
    played = alike.indicators()
    np.testing.assert_array_equal(played, worlds.indicators())
    assert played["scale_events"][0] > 10


def test_headroom_never_asks_for_less(production):
    policy, vectors = untrained(production), random_vectors(1, 2000, seed=3)

    class Shown:
        pass

    shown = Shown()
    shown.vectors = vectors
    said = [LearnedPolicy(export_onnx(policy, production, h)).predict(shown) for h in (0.9, 1.0, 1.2)]
    assert (said[0] <= said[1]).all()
    assert (said[1] <= said[2]).all()
    assert (said[1] < said[2]).mean() > 0.2


def test_a_model_of_another_profile_or_no_model_is_refused(networks):
    policy = LearnedPolicy(networks["experimental"], name="mine")
    with pytest.raises(ModelError, match=r"mine: reads observations of .* entries; profile 'production'"):
        policy.reset(lanes_of("production", 1), 60.0)
    for content in (b"", b"no model", networks["production"][:1000]):
        with pytest.raises(ModelError, match="ONNX"):
            LearnedPolicy(content)


def test_targets_are_utilizations_a_pod_can_bear():
    assert ((TARGET_UTILIZATIONS > 0.3) & (TARGET_UTILIZATIONS < 1.0)).all()
    assert (np.diff(TARGET_UTILIZATIONS) > 0).all()


def test_run_worlds_and_play_agree(production):
    """A policy that repeats the profile's own HPA changes nothing."""
    lane = lanes_of("production", 1)[0]
    np.testing.assert_array_equal(
        run_worlds([lane], MINUTES_S).indicators(), play([lane], HpaPolicy(), MINUTES_S).indicators
    )
