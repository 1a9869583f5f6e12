"""Policies: one contract for all of them, through one `predict`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents.env import MAX_RESIDUAL, DevOpsEnv, DevOpsVecEnv, EnvSpec
from agents.features import LAYOUT_VERSION, N_FEATURES
from agents.learning.export import export_onnx, with_metadata
from agents.learning.train import make_ppo
from agents.observation import BOUND, Observations
from agents.policies.clairvoyant import ClairvoyantPolicy, KnownRatesPolicy, arrivals_ahead, bad_shares
from agents.policies.contract import Policy, play
from agents.policies.forecast import ForecastPolicy
from agents.policies.hpa import HpaPolicy
from agents.policies.learned import GENERAL, LearnedPolicy, general_policy
from agents.policies.own import OwnPolicy
from agents.policies.registry import choice_of, policy_of, tuned_policy
from agents.policies.request_rate import RequestRatePolicy
from agents.policies.rule import RulePolicy
from agents.policies.scheduled import ScheduledPolicy
from agents.policies.settings import RULE
from agents.policies.static import StaticPolicy
from sim_core.errors import ModelError, PolicyError
from sim_core.profile import Profile, load_profile
from sim_core.simulation import Worlds, simulate
from sim_core.world import Lane, Scaler, scale_to_replicas
from tests.conftest import flat, run_worlds, spiky_day

START_S = 30_000.0
MINUTES_S = 1800.0


RULE_DEFAULTS = {setting.name: setting.default for setting in RULE}


def untrained(seed: int = 0, spread: float = 1.0) -> Any:
    """A network that was never trained, whose actions reach both ends of their range."""
    spec = EnvSpec(load_profile("production"), flat(100.0))
    policy = make_ppo(DevOpsVecEnv(spec, 1), seed).policy
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return policy


@pytest.fixture(scope="module")
def network() -> bytes:
    """One model for all profiles: it reads a service at a time."""
    return export_onnx([untrained()], RULE_DEFAULTS, 1.0)


KINDS = (
    "static", "hpa", "hpa with settings", "request-rate", "scheduled", "forecast", "rule", "known-rates", "clairvoyant",
    "learned", "general",
)  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The contract's tests run on each kind, and on the policies named with --policy."""
    if "make_policy" in metafunc.fixturenames:
        metafunc.parametrize("make_policy", [*KINDS, *metafunc.config.getoption("policy")], indirect=True)


@pytest.fixture
def make_policy(request, network) -> Callable[[Profile], Policy]:
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
        "rule": lambda profile: RulePolicy(),
        "learned": lambda profile: LearnedPolicy(network),
        "general": lambda profile: general_policy(),
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


def test_policies_meet_the_same_traffic(network):
    """Paired seeds: whoever decides, every lane gets the same requests at every step."""
    lanes = lanes_of("production", 2)
    policies = [StaticPolicy(4), HpaPolicy(), ClairvoyantPolicy(), LearnedPolicy(network)]
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
    tuned = tuned_policy(choice_of("hpa-tuned", "evaluate"), production, trace, START_S, START_S + duration_s, 10.0)
    lanes = [Lane(production, trace, seed + k, START_S) for k in range(4)]
    hpa = play(lanes, tuned, duration_s).indicators
    best = play(lanes, ClairvoyantPolicy(), duration_s).indicators
    assert best["slo_attainment"].mean() >= 0.99
    assert best["cost_usd"].mean() < 0.97 * hpa["cost_usd"].mean()


# --- Learned


def random_features(n: int, seed: int) -> np.ndarray:
    """Vectors across the whole box, half of them like those that worlds show, shape (n, N_FEATURES)."""
    generator = np.random.default_rng(seed)
    vectors = generator.uniform(-BOUND, BOUND, size=(n, N_FEATURES))
    vectors[::2] *= generator.uniform(0.0, 0.2, size=(n + 1) // 2)[:, None]
    return vectors.astype(np.float32)


def test_the_exported_model_does_what_the_agents_did():
    """5,000 vectors: the mean of what two networks most probably do, as a share of the largest residual."""
    policies = [untrained(seed, spread=0.3) for seed in (4, 5)]
    model = LearnedPolicy(export_onnx(policies, RULE_DEFAULTS, 1.0))
    features = random_features(5000, seed=1)
    actions = [np.clip(policy.predict(features, deterministic=True)[0], -1.0, 1.0)[:, 0] for policy in policies]
    np.testing.assert_allclose(model.residuals(features), MAX_RESIDUAL * np.mean(actions, axis=0), atol=1e-6)
    assert np.ptp(model.residuals(features)) > 1.5 * MAX_RESIDUAL  # else few actions were compared


@pytest.mark.parametrize("name", ["production", "experimental"])
def test_a_model_in_production_walks_the_path_it_walked_while_learning(name):
    """The env under the network's most probable actions, and the exported model in a simulation of the same lane, synced
    when the env's agent decides.
    """
    profile = load_profile(name)
    trace = scale_to_replicas(spiky_day(1.0), profile, 0.3 * profile.services[-1].replicas.max)
    policy = untrained(seed=2, spread=0.5)
    spec = EnvSpec(profile, trace, START_S, START_S + 8 * 3600.0, episode_s=1800.0, rule={"price": 0.3})
    env = DevOpsEnv(spec)
    observation, _ = env.reset(seed=12)
    worlds = env._episodes.worlds
    start_s = float(worlds.params["traffic"]["start_s"][0])
    begun = [int(n) for n in worlds.of(0, "service_states")["n_ready"]]
    for _ in range(119):
        actions, _ = policy.predict(observation.reshape(-1, N_FEATURES), deterministic=True)
        observation, _, _, _, _ = env.step(actions[:, 0])
    generator = np.random.default_rng(12)
    generator.random()
    seed = int(generator.integers(2**62))
    names = [service.name for service in profile.services]
    begins = {f"services.{name}.replicas.initial": n for name, n in zip(names, begun, strict=True)}
    lane = Lane(profile.with_overrides(begins), trace, seed, start_s, Scaler.external())
    model, alike = LearnedPolicy(export_onnx([policy], {**RULE_DEFAULTS, "price": 0.3}, 1.0)), Worlds([lane])
    alike.params["sync_phase_ticks"] = 0
    alike.params["keeps_latencies"] = False  # as in an env
    alike.reset(np.array([0]))
    model.reset([lane], 119 * 15.0)
    for _ in range(119):
        alike.request_replicas(model.predict(Observations(alike)))
        alike.advance(round(15.0 / profile.tick_seconds))
    played = alike.indicators()
    np.testing.assert_array_equal(played, worlds.indicators())
    assert played["scale_events"][0] > 10


def test_a_model_that_keeps_nothing_is_its_rule(network, production):
    """Share 0 of the residual: decision by decision the rule; share 1 is something else."""
    lanes = lanes_of("production", 3)
    settings = {**RULE_DEFAULTS, "price": 0.2, "hold_s": 120.0}
    alone = asked(RulePolicy(**settings), lanes, 1800.0)
    nothing, everything = (with_metadata(network, {"rule": settings, "kept": kept}) for kept in (0.0, 1.0))
    np.testing.assert_array_equal(asked(LearnedPolicy(nothing), lanes, 1800.0), alone)
    assert (asked(LearnedPolicy(everything), lanes, 1800.0) != alone).any()


def test_a_higher_price_asks_for_more(network):
    """Without the feedback of the budget, and of queues, which cheap bad requests bring about."""
    lanes = lanes_of("production", 3)
    alone = with_metadata(network, {"rule": {**RULE_DEFAULTS, "feedback": 0.0, "backlog_weight": 0.0}, "kept": 0.0})
    said = [asked(LearnedPolicy(alone, price=price), lanes, 1800.0).mean() for price in (0.01, 0.1, 1.0)]
    assert said[0] < said[1] < said[2]
    assert LearnedPolicy(network).priced(2.0).rule["price"] == 2.0 * RULE_DEFAULTS["price"]
    assert LearnedPolicy(network).priced(1e9).rule["price"] == 100.0  # the dearest that a price may be


def test_what_is_no_model_is_refused(network):
    for content in (b"", b"no model", network[:1000]):
        with pytest.raises(ModelError, match="ONNX"):
            LearnedPolicy(content)


def test_a_model_of_another_layout_is_refused_with_both_versions(network):
    import onnx

    other = onnx.load_model_from_string(network)
    for entry in other.metadata_props:
        entry.value = "7" if entry.key == "layout" else entry.value
    with pytest.raises(ModelError, match=rf"mine: .*layout version 7; this version makes layout {LAYOUT_VERSION}"):
        LearnedPolicy(other.SerializeToString(), name="mine")
    del other.metadata_props[:]
    with pytest.raises(ModelError, match="layout version 1"):
        LearnedPolicy(other.SerializeToString())


def test_a_model_of_other_shapes_or_without_its_rule_is_refused(network):
    """As onnxruntime tells them: the width of the features, and how many numbers come out."""
    import io

    import onnx

    def of_shape(n_in: int, n_out: int) -> bytes:
        file = io.BytesIO()
        torch.onnx.export(torch.nn.Linear(n_in, n_out), (torch.zeros((2, n_in)),), file, dynamo=False, opset_version=17)
        return with_metadata(file.getvalue(), {"rule": RULE_DEFAULTS, "kept": 1.0})

    for shape in ((N_FEATURES - 1, 1), (N_FEATURES, 2)):
        with pytest.raises(ModelError, match=rf"mine: must map {N_FEATURES} features of a service to one residual"):
            LearnedPolicy(of_shape(*shape), name="mine")
    for key in ("rule", "kept", "features"):
        other = onnx.load_model_from_string(network)
        kept = {entry.key: entry.value for entry in other.metadata_props if entry.key != key}
        onnx.helper.set_model_props(other, kept)
        with pytest.raises(ModelError, match=key):
            LearnedPolicy(other.SerializeToString())
    with pytest.raises(ModelError, match=r"2 problems\n.*did you mean 'price'.*\n.*hold_s: must be between 0 and 900"):
        LearnedPolicy(with_metadata(network, {"rule": {"prise": 1.0, "hold_s": -1.0}}))


def test_the_general_model_is_the_released_one(tmp_path, monkeypatch):
    """It loads by its name, and a changed file, or none, is refused with what to do."""
    assert general_policy().about["kind"] == "general"
    assert policy_of(choice_of("general(price=0.5)", "run")).settings["price"] == 0.5
    assert policy_of(choice_of("general(kept=0)", "run")).settings == {**general_policy().settings, "kept": 0.0}
    with pytest.raises(PolicyError, match=r"(?s)price: must be between.*kept: must be between"):
        policy_of(choice_of("general(price=-1, kept=2)", "run"))
    copy = tmp_path / "general.onnx"
    monkeypatch.setattr("agents.policies.learned.GENERAL", copy)
    with pytest.raises(ModelError, match="install the package anew"):
        general_policy()
    copy.write_bytes(GENERAL.read_bytes() + b" ")
    copy.with_suffix(".sha256").write_text(GENERAL.with_suffix(".sha256").read_text())
    with pytest.raises(ModelError, match="SHA-256"):
        general_policy()
    with pytest.raises(PolicyError, match="price"):
        policy_of(choice_of("general(price=-1)", "run"))


def test_run_worlds_and_play_agree(production):
    """A policy that repeats the profile's own HPA changes nothing."""
    lane = lanes_of("production", 1)[0]
    np.testing.assert_array_equal(
        run_worlds([lane], MINUTES_S).indicators(), play([lane], HpaPolicy(), MINUTES_S).indicators
    )
