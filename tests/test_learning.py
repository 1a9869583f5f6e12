"""Learning: a short training runs, resumes and repeats itself; searches and comparisons say what is true."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from agents.env import MAX_RESIDUAL, DevOpsVecEnv, EnvSpec
from agents.features import N_FEATURES
from agents.learning.evaluate import EvaluateRequest, evaluate, gap_closed, no_room
from agents.learning.export import export_onnx, load_weights, with_settings
from agents.learning.general import priced
from agents.learning.refine import Refined, _at, refine
from agents.learning.search import Part
from agents.learning.train import (
    DUAL_BOUNDS,
    DUAL_RATE,
    GENERAL,
    KEPT,
    LEARNED,
    LEAST_GAIN,
    N_STEPS,
    NEAR_LOG_STD,
    OPTIMISM,
    REFINED,
    VALIDATION_SEED,
    TrainRequest,
    TrainResult,
    bad_share_high,
    calibrate,
    choose,
    learn,
    make_ppo,
    pods_at,
    train,
)
from agents.policies.clairvoyant import ClairvoyantPolicy
from agents.policies.contract import play
from agents.policies.hpa import HpaPolicy
from agents.policies.learned import LearnedPolicy, general_policy
from agents.policies.registry import choice_of, tuned_policy
from agents.policies.static import StaticPolicy
from experiments import bench
from experiments.held_out import policies_document
from experiments.report import ReportData, write_report
from flows.terminal.tables import show_evaluation
from sim_core.errors import InputError, PolicyError
from sim_core.indicators import INDICATORS, bounds_of
from sim_core.intervals import interval
from sim_core.profile import in_long_ticks, load_profile
from sim_core.workload import Trace
from sim_core.world import Lane, scale_to_replicas
from tests.conftest import flat, spiky_day

HOUR_S = 3600.0
PRODUCTION = load_profile("production")
TRACE = scale_to_replicas(spiky_day(1.0), PRODUCTION, 20)
PART = (6 * HOUR_S, 10 * HOUR_S)
REQUEST = TrainRequest(PRODUCTION, TRACE, *PART, steps=20_480, seed=3, n_envs=16, checkpoint_every=1)
ROLLOUT = N_STEPS * REQUEST.n_envs


class Interrupted(Exception):
    """What ends a training in the middle."""


# --- Training


@pytest.fixture(scope="module")
def trained() -> tuple[TrainResult, list[dict[str, float]]]:
    rows: list[dict[str, float]] = []
    return train(REQUEST, rows.extend), rows


def test_a_training_reports_every_rollout_and_returns_a_model(trained):
    result, rows = trained
    assert [row["step"] for row in rows] == [ROLLOUT * k for k in range(1, 11)]
    assert result.steps == REQUEST.steps
    for row in rows:
        assert all(math.isfinite(value) for value in row.values())
        assert 0.0 <= row["slo/attainment"] <= 1.0
        spent = (1.0 - row["slo/attainment"]) / 0.01
        assert row["slo/error_budget_spent"] == pytest.approx(spent, rel=1e-6, abs=1e-9)
        assert 2.0 <= row["rollout/replicas_mean"] <= 100.0
    assert {"train/approx_kl", "train/entropy_loss"} <= set(rows[-1])
    assert result.seed == REQUEST.seed
    assert math.isfinite(result.action_entropy)
    assert 0.0 < result.action_std < 1.0
    assert result.action_entropy == pytest.approx(0.5 * math.log(2 * math.pi * math.e) + math.log(result.action_std))


def test_a_trained_model_keeps_the_slo_where_its_price_was_set(trained):
    """Replayed on the lane of the calibration: with the margin that other days take."""
    result, _ = trained
    lane = Lane(in_long_ticks(PRODUCTION), TRACE, VALIDATION_SEED, PART[0])
    table = play([lane], LearnedPolicy(result.onnx), PART[1] - PART[0]).indicators
    allowed = (1.0 - PRODUCTION.slo.objective) / OPTIMISM
    reached = [row for row in result.calibration if 1.0 - row["slo_attainment_low"] <= allowed]
    assert reached, "else no price keeps the SLO here, and nothing is asked below"
    assert 1.0 - table["slo_attainment"][0] < allowed
    for row in result.calibration:
        assert row["slo_attainment_low"] < row["slo_attainment"]
        assert all(type(value) is float for value in row.values()), "plain data: it goes into YAML and JSON"
    assert table["scale_events"][0] > 10
    prices = [row["price"] for row in result.calibration]
    assert min(prices) <= result.rule["price"] <= max(prices)
    assert LearnedPolicy(result.onnx).settings == {**result.rule, "kept": result.kept}


def test_what_is_kept_is_what_validation_says(trained):
    """From its rows alone: the share with the fewest pods at the objective, or none where it saves too little; and what
    ships, by what was gained on the training traffic and there."""
    result, _ = trained
    objective = PRODUCTION.slo.objective

    def at_objective(model: str, kept: float | None = None) -> float:
        rows = [row for row in result.validation if row["model"] == model and kept in (None, row["kept"])]
        assert rows
        return pods_at([(row["slo_attainment"], row["pods_usd"]) for row in rows], objective)

    at = {kept: at_objective(LEARNED, kept) for kept in KEPT}
    gains = {kept: 1.0 - at[kept] / at[0.0] for kept in KEPT if math.isfinite(at[kept] / at[0.0])}
    best = max(gains, key=lambda kept: gains[kept], default=0.0)
    kept = best if gains.get(best, 0.0) >= LEAST_GAIN else 0.0
    assert result.gain_over_rule == max((gain for kept, gain in gains.items() if kept > 0.0), default=None)
    seen = 1.0 - at_objective(REFINED) / at_objective(GENERAL)
    # Three hours to refine on, and one to validate on.
    better = (3.0 * result.settings["refined_gain"] + seen) / 4.0 >= LEAST_GAIN
    origin = REFINED if better else GENERAL
    if at[kept] <= (1.0 - LEAST_GAIN) * at_objective(origin):
        origin = LEARNED
        assert result.kept == kept
    assert result.origin == origin
    own = replace(result, origin=LEARNED)
    assert ("the rule ships" in replace(own, kept=0.0).verdict) and ("kept at 67%" in replace(own, kept=0.67).verdict)
    assert "general model: it ships" in replace(result, origin=GENERAL).verdict
    assert "settings for this traffic, which ships" in replace(result, origin=REFINED).verdict


def test_what_is_no_better_than_the_general_model_is_not_shipped():
    """A network that plays its largest residual all the time, on a careless rule: the general model ships, whole; a refined
    one where enough was gained on the days it was made on."""
    part = Part(PRODUCTION, TRACE, PART[0], PART[0] + HOUR_S)
    vec_env = DevOpsVecEnv([EnvSpec(in_long_ticks(PRODUCTION), TRACE, *PART)] * 2)
    policy = make_ppo(vec_env, 0).policy
    with torch.no_grad():
        policy.action_net.bias.fill_(1.0)
    general = general_policy()
    careless = {**general.rule, "hold_s": 900.0, "spread_weight": 2.5}
    network = export_onnx([policy], careless, 1.0)
    refined = LearnedPolicy(with_settings(general.model, {**general.settings, "trend_weight": 0.1}))
    chosen = choose(network, general, refined, Refined(refined.settings, -0.5, 3.0, 0.0, 1), part)
    assert chosen.origin == GENERAL
    assert chosen.model == general.model
    chosen = choose(network, general, refined, Refined(refined.settings, 0.5, 3.0, 0.0, 1), part)
    assert chosen.origin == REFINED
    assert chosen.model == refined.model
    bad = LearnedPolicy(network)
    assert choose(general.model, bad, bad, Refined(bad.settings, 0.0, 3.0, 0.0, 1), part).origin == LEARNED
    vec_env.close()


def test_the_general_price_is_the_mean_of_those_of_its_traffics():
    """On two parts of a day: the geometric one, whatever the model asked before; network, rule and share are the same."""
    model = general_policy()
    parts = [Part(PRODUCTION, TRACE, start_s, start_s + 2 * HOUR_S) for start_s in PART]
    content, facts = priced(model.model, parts)
    prices = [calibrate(model, part)[0] for part in parts]
    made = LearnedPolicy(content)
    assert facts["prices"] == prices
    assert made.rule["price"] == pytest.approx(math.sqrt(prices[0] * prices[1]))
    assert {**made.settings, "price": 0.0} == {**model.settings, "price": 0.0}


# --- Refining


def test_refining_finds_a_setting_that_was_spoilt():
    """Half an hour of hold on a spiky morning costs pods: the first change of all takes it away again."""
    general = general_policy()
    spoilt = LearnedPolicy(with_settings(general.model, {**general.settings, "hold_s": 900.0}))
    part = Part(PRODUCTION, TRACE, 0.0, 12 * HOUR_S)
    found = refine(spoilt, part, 12.0)
    assert found.gain > 0.02
    assert found.settings["hold_s"] < 900.0
    assert found.simulated_days <= 12.0
    as_it_is = refine(spoilt, part, 4.0)  # enough to find its price, and for no change
    assert as_it_is.gain == 0.0
    assert {**as_it_is.settings, "price": 0.0} == {**spoilt.settings, "price": 0.0}


def test_a_model_plays_each_lane_with_settings_of_its_own():
    general = general_policy()
    lanes = [Lane(in_long_ticks(PRODUCTION), TRACE, 5, PART[0])] * 2
    settings = [{**general.settings, "price": 0.02, "kept": 0.0}, {**general.settings, "price": 2.0}]
    together = play(lanes, general.by_lane(settings), HOUR_S).indicators["cost_pods_usd"].to_numpy()
    for lane, own in enumerate(settings):
        alone = LearnedPolicy(with_settings(general.model, own))
        assert play(lanes[:1], alone, HOUR_S).indicators["cost_pods_usd"][0] == together[lane]
    assert together[0] < together[1]


def test_cost_at_a_share_of_bad_requests_by_hand():
    prices, usd = np.array([1.0, 2.0, 4.0]), np.array([100.0, 110.0, 130.0])
    price, cost = _at(np.array([0.04, 0.02, 0.005]), usd, prices, 0.01)
    assert cost == pytest.approx(120.0)
    assert price == pytest.approx(math.sqrt(8.0))
    assert _at(np.array([0.009, 0.005, 0.001]), usd, prices, 0.01) == pytest.approx((1.0, 100.0))
    price, cost = _at(np.array([0.09, 0.05, 0.02]), usd, prices, 0.01)
    assert price == pytest.approx(4.0)
    assert math.isnan(cost)


def test_a_learner_begins_as_a_model_does():
    """On any features: what the learner would most probably do is what the model does with the share it keeps."""
    general = general_policy()
    vec_env = DevOpsVecEnv([EnvSpec(in_long_ticks(PRODUCTION), TRACE, *PART)] * 2)
    policy = make_ppo(vec_env, 0).policy
    load_weights(policy, general.model, general.kept)
    features = np.random.default_rng(0).normal(0.0, 0.5, (200, N_FEATURES)).astype(np.float32)
    begun = LearnedPolicy(export_onnx([policy], general.rule, 1.0)).residuals(features)
    whole = general.residuals(features)
    inside = np.abs(whole) < 0.99 * MAX_RESIDUAL  # elsewhere the model's own action was cut
    assert 20 < inside.sum() < len(features) + 1
    np.testing.assert_allclose(begun[inside], general.kept * whole[inside], atol=1e-5)
    vec_env.close()


def test_only_the_critic_learns_at_first(monkeypatch):
    """A training that ends within its first rollouts leaves what the learner does as it began, to the last bit."""
    general = general_policy()
    spec = EnvSpec(in_long_ticks(PRODUCTION), TRACE, *PART, rule=general.rule)
    short = replace(REQUEST, steps=3 * ROLLOUT)
    learner, _ = learn(short, [spec] * short.n_envs, start=general)
    begun = make_ppo(DevOpsVecEnv([spec] * 2), 0).policy
    load_weights(begun, general.model, general.kept)
    assert torch.equal(learner.policy.action_net.weight, begun.action_net.weight)
    assert float(learner.policy.log_std.detach()) == pytest.approx(NEAR_LOG_STD)
    monkeypatch.setattr("agents.learning.train.CRITIC_ALONE", 1)
    learner, _ = learn(short, [spec] * short.n_envs, start=general)
    assert not torch.equal(learner.policy.action_net.weight, begun.action_net.weight)


def test_the_limit_of_other_days_by_hand():
    """Two days of 1 and 3 % that count alike: 2 %, with a prior of two days at 40 %; t of five days is 2.776."""
    share, half = 0.02, 2.7764451 * math.sqrt((2 * 1e-4 + 2 * (0.4 * 0.02) ** 2) / 3) / math.sqrt(5) / (0.02 * 0.98)
    expected = 1.0 / (1.0 + (1.0 / share - 1.0) * math.exp(-half))
    assert bad_share_high(np.array([100.0, 100.0]), np.array([1.0, 3.0])) == pytest.approx(expected, rel=1e-6)
    assert expected > 0.03
    lone = bad_share_high(np.array([100.0]), np.array([2.0]))
    assert 0.02 < lone < expected


def test_a_collapsed_policy_says_so(trained):
    result, _ = trained
    assert "collapsed to one action" in replace(result, constant_share=0.99).verdict
    assert "collapsed" not in replace(result, constant_share=0.5).verdict


def test_pods_at_an_attainment_by_hand():
    """Bad shares of 2 % and 0.5 %, 100 and 120: at 1 %, half way in the log, 110. Never beyond what was played."""
    assert pods_at([(0.98, 100.0), (0.995, 120.0)], 0.99) == pytest.approx(110.0)
    assert pods_at([(0.98, 100.0), (0.995, 120.0)], 0.98) == pytest.approx(100.0)
    assert math.isnan(pods_at([(0.98, 100.0), (0.995, 120.0)], 0.999))
    assert pods_at([(0.999, 100.0), (0.9999, 120.0)], 0.99) == 100.0
    # What is worse and dearer than another point is no part of the frontier.
    assert pods_at([(0.98, 130.0), (0.995, 120.0)], 0.99) == pytest.approx(120.0)


def test_a_price_that_keeps_the_slo_nowhere_is_the_highest(trained):
    """Two pods at most under a load for twenty."""
    result, _ = trained
    tiny = PRODUCTION.with_overrides({"services.api.replicas.max": 2})
    price, rows = calibrate(LearnedPolicy(result.onnx), Part(tiny, TRACE, PART[0], PART[0] + HOUR_S))
    assert price == max(row["price"] for row in rows)
    assert all(row["slo_attainment"] < 0.5 for row in rows)


def test_equal_requests_learn_the_same_and_another_seed_does_not(trained, tmp_path, monkeypatch):
    """To the last byte of the model and digit of what it was chosen by, with and without a folder."""
    monkeypatch.setattr("agents.learning.train.CRITIC_ALONE", 1)
    result, _ = trained
    short = replace(REQUEST, steps=2 * ROLLOUT)
    first = train(short)
    again = train(replace(short, folder=str(tmp_path)))
    assert first.onnx == again.onnx
    assert first.calibration == again.calibration
    assert first.validation == again.validation
    assert train(replace(short, seed=4)).validation != first.validation
    assert result.validation != first.validation


def test_an_interrupted_training_goes_on_where_it_was(tmp_path):
    """Killed in the fourth rollout, it has three on disk and plays the rest; a finished one is not played again."""
    request = replace(REQUEST, folder=str(tmp_path / "training"))
    before: list[dict[str, float]] = []

    def fail_in_the_fourth(rows: list[dict[str, float]]) -> None:
        before.extend(rows)
        if len(before) == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(request, fail_in_the_fourth)
    after: list[dict[str, float]] = []
    result = train(request, after.extend)
    assert [row["step"] for row in before] == [ROLLOUT * k for k in (1, 2, 3, 4)]
    assert [row["step"] for row in after] == [ROLLOUT * k for k in range(4, 11)]
    assert result.steps == REQUEST.steps
    saved, moved = before[2]["slo/dual_price"], DUAL_RATE * (min(after[0]["slo/error_budget_spent"], 3.0) - 1.0)
    assert saved != 1.0  # else the next line could not fail
    assert after[0]["slo/dual_price"] == pytest.approx(np.clip(saved * math.exp(moved), *DUAL_BOUNDS), rel=1e-9)
    assert LearnedPolicy(result.onnx).name == "agent"
    assert {path.name for path in Path(request.folder).iterdir()} == {"checkpoint.pt"}
    once_more: list[dict[str, float]] = []
    same = train(request, once_more.extend)
    assert once_more == []
    assert same.steps == result.steps


def test_a_training_can_be_told_to_stop():
    rows: list[dict[str, float]] = []
    result = train(REQUEST, rows.extend, should_stop=lambda: len(rows) >= 2)
    assert len(rows) == 2
    assert 2 * ROLLOUT <= result.steps < 3 * ROLLOUT
    assert LearnedPolicy(result.onnx).name == "agent"


def test_what_cannot_be_learned_from_is_refused_at_once():
    for wrong in (
        {"end_s": PART[0] + 1000.0},
        {"steps": 0},
        {"end_s": 1e9},
        {"start_s": -1.0},
    ):
        with pytest.raises(InputError):
            train(replace(REQUEST, **wrong))


# --- Comparisons


def lanes_table(costs: dict[str, list[float]]) -> pd.DataFrame:
    rows = [(name, 1000 + k, cost) for name, values in costs.items() for k, cost in enumerate(values)]
    return pd.DataFrame(rows, columns=["policy", "seed", "cost_usd"])


def test_gap_closed_by_hand():
    """Seed by seed (10 - 9) / (10 - 8) = 0.5, (12 - 9) / (12 - 8) = 0.75, (11 - 8) / (11 - 7) = 0.75; mean 2/3."""
    table = lanes_table({"hpa-tuned": [10, 12, 11], "clairvoyant": [8, 8, 7], "agent": [9, 9, 8]})
    gap = gap_closed(table.sample(frac=1.0, random_state=1), "agent")  # the order of rows does not count
    assert gap["mean"] == pytest.approx(2 / 3)
    half = 4.30265 * np.std([0.5, 0.75, 0.75], ddof=1) / math.sqrt(3)
    assert gap["ci95"] == pytest.approx([2 / 3 - half, 2 / 3 + half], abs=1e-5)
    worse = lanes_table({"hpa-tuned": [10, 10], "clairvoyant": [8, 8], "agent": [11, 13]})
    assert gap_closed(worse, "agent")["mean"] == pytest.approx(-1.0)


def test_there_is_no_gap_to_close_where_one_side_of_it_is_missing():
    both = {"hpa-tuned": [10.0, 11.0], "clairvoyant": [8.0, 9.0], "agent": [9.0, 9.0]}
    assert gap_closed(lanes_table(both), "agent") is not None
    assert gap_closed(lanes_table(both), "hpa-tuned") is None
    assert gap_closed(lanes_table(both), "clairvoyant") is None
    for missing in ("hpa-tuned", "clairvoyant"):
        assert gap_closed(lanes_table({k: v for k, v in both.items() if k != missing}), "agent") is None


def test_seeds_without_room_are_left_out_and_said():
    """Where HPA and clairvoyant cost the same the share is 0 / 0: (11 - 10) / (11 - 9) of the other seed alone counts."""
    part = lanes_table({"hpa-tuned": [10.0, 11.0], "clairvoyant": [10.0, 9.0], "agent": [10.0, 10.0]})
    gap = gap_closed(part, "agent")
    assert (gap["mean"], gap["seeds"]) == (0.5, 1)
    assert no_room(part) == "no room in 1 of 2 seeds: HPA and clairvoyant cost the same there"
    none = lanes_table({"hpa-tuned": [10.0, 11.0], "clairvoyant": [10.0, 11.0], "agent": [10.0, 12.0]})
    assert gap_closed(none, "agent") is None
    assert no_room(none) == "no room: HPA and clairvoyant cost the same"
    dearer = lanes_table({"hpa-tuned": [10.0, 11.0], "clairvoyant": [10.5, 11.0], "agent": [10.0, 12.0]})
    assert gap_closed(dearer, "agent") is None
    assert no_room(dearer) == "no room: clairvoyant costs no less than the HPA"
    whole = lanes_table({"hpa-tuned": [10.0, 11.0], "clairvoyant": [8.0, 9.0], "agent": [9.0, 9.0]})
    assert no_room(whole) is None
    assert no_room(lanes_table({"hpa-tuned": [10.0, 11.0], "agent": [9.0, 9.0]})) is None


@pytest.fixture(scope="module")
def quiet_day():
    """An evaluation of two quiet hours, which HPA and clairvoyant both spend at `minReplicas`."""
    hpa, night = HpaPolicy(), flat(20.0, 2 * HOUR_S)
    hpa.name = "hpa-tuned"
    policies = [hpa, ClairvoyantPolicy(), StaticPolicy(3)]
    return evaluate(EvaluateRequest(PRODUCTION, night, policies, 0.0, 2 * HOUR_S, seeds=3))


def test_a_day_at_min_replicas_has_no_gap_to_close(quiet_day):
    """Every consumer of an evaluation takes such a day: the table, the document, the terminal, MLflow's metrics."""
    cost = quiet_day.lanes.groupby("policy")["cost_usd"].mean()
    assert cost["hpa-tuned"] == cost["clairvoyant"] < cost["static"]
    assert quiet_day.gap_closed == {}
    assert quiet_day.no_room == "no room: HPA and clairvoyant cost the same"
    assert quiet_day.table["gap_closed"].isna().all()
    assert [entry["gap_closed"] for entry in policies_document(quiet_day, 2 * HOUR_S).values()] == [None, None, None]


def test_the_terminal_says_that_there_was_no_room(quiet_day, capsys):
    document = {"profile": "production", "seeds": 3, "duration_s": 2 * HOUR_S, "slo": {"objective": 0.99}}
    document |= {"policies": policies_document(quiet_day, 2 * HOUR_S), "report": "report.html", "mlflow": None}
    show_evaluation(document | {"no_room": quiet_day.no_room})
    assert "Gap closed: no room: HPA and clairvoyant cost the same" in capsys.readouterr().out


def test_the_report_says_that_there_was_no_room(quiet_day, tmp_path):
    table = quiet_day.table.replace({"policy": {"static": "agent"}})
    slo = PRODUCTION.slo
    profile = {
        "name": "production",
        "slo": {"objective": slo.objective, "latency_threshold_seconds": slo.latency_threshold_seconds},
    }
    data = ReportData("Quiet", profile, None, {"name": "night"}, pd.DataFrame(), table, evaluation_duration_s=7200.0)
    assert (
        "Gap closed: no room: HPA and clairvoyant cost the same." in write_report(data, tmp_path / "r.html").read_text()
    )


def test_the_benchmark_takes_a_day_without_room(monkeypatch):
    """A busy first half and a quiet second one, which HPA, clairvoyant and agent spend at `minReplicas`."""
    steps = np.r_[np.full(100, 1000.0), np.full(140, 10.0)]  # the halves meet in quiet traffic
    short = lambda request: train(replace(request, steps=2048, n_envs=16))  # noqa: E731
    monkeypatch.setattr("agents.learning.train.train", short)
    figures = bench.agent(quick=True, trace=Trace("quiet", 60.0, steps))
    assert math.isnan(figures[0]["value"])
    assert "no room: HPA and clairvoyant cost the same" in figures[0]["note"]
    assert math.isfinite(figures[1]["value"])


@pytest.fixture(scope="module")
def comparison(trained):
    result, _ = trained
    hpa = tuned_policy(choice_of("hpa-tuned", "evaluate"), PRODUCTION, TRACE, *PART, budget_days=10.0)
    policies = [StaticPolicy(6), HpaPolicy(), hpa, ClairvoyantPolicy(), LearnedPolicy(result.onnx)]
    request = EvaluateRequest(PRODUCTION, TRACE, policies, 12 * HOUR_S, 2 * HOUR_S, seeds=4)
    told: list[str] = []
    return request, evaluate(request, told.append), told


def test_an_evaluation_is_that_of_its_lanes(comparison):
    """Every mean, interval and verdict recomputed from the lanes, and the lanes from single simulations."""
    request, evaluation, told = comparison
    names = ["static", "hpa", "hpa-tuned", "clairvoyant", "agent"]
    assert told == list(evaluation.table["policy"]) == names
    assert len(evaluation.lanes) == len(names) * request.seeds
    tuned = evaluation.lanes[evaluation.lanes["policy"] == "hpa-tuned"]["slo_attainment"].mean()
    for _, row in evaluation.table.iterrows():
        rows = evaluation.lanes[evaluation.lanes["policy"] == row["policy"]]
        assert list(rows["seed"]) == [1000, 1001, 1002, 1003]
        for name in INDICATORS:
            found = row[name], row[f"{name}_ci95_low"], row[f"{name}_ci95_high"]
            expected = interval(rows[name], *bounds_of(name))
            assert found == pytest.approx((expected.mean, expected.low, expected.high), nan_ok=True)
        assert row["keeps_slo"] == (rows["slo_attainment"].mean() >= 0.99)
        assert row["attainment_not_worse"] == (rows["slo_attainment"].mean() >= tuned)
    static = evaluation.table.set_index("policy").loc["static"]
    assert not static["keeps_slo"]
    assert evaluation.table.set_index("policy").loc["clairvoyant", "keeps_slo"]


def test_the_lanes_of_an_evaluation_are_simulations_anyone_can_repeat(comparison):
    """One by one, alone: the same numbers; the clairvoyant's search sees the first lanes, so all of them are played."""
    request, evaluation, _ = comparison
    for policy in request.policies:
        lanes = [Lane(PRODUCTION, TRACE, seed, request.start_s) for seed in range(1000, 1004)]
        again = play(lanes, policy, request.duration_s).indicators
        rows = evaluation.lanes[evaluation.lanes["policy"] == policy.name]
        np.testing.assert_array_equal(rows[list(INDICATORS)], again)
        if policy.name != "clairvoyant":
            alone = play(lanes[2:3], policy, request.duration_s).indicators
            np.testing.assert_array_equal(rows[list(INDICATORS)].iloc[2:3], alone)


def test_gaps_and_timelines_of_an_evaluation(comparison):
    request, evaluation, _ = comparison
    assert set(evaluation.gap_closed) == {"static", "hpa", "agent"}
    for name, gap in evaluation.gap_closed.items():
        assert gap == gap_closed(evaluation.lanes, name)
        row = evaluation.table.set_index("policy").loc[name]
        assert row["gap_closed"] == gap["mean"]
    loads = [timeline["load_per_s"] for timeline in evaluation.timelines.values()]
    for load in loads[1:]:
        np.testing.assert_array_equal(loads[0], load)
    first = evaluation.lanes.drop_duplicates("policy").set_index("policy")
    for name, timeline in evaluation.timelines.items():
        assert len(timeline["time_s"]) == 120
        assert timeline["cost_usd"][-1] == first.loc[name, "cost_usd"]
    assert evaluation.settings["hpa-tuned"] == request.policies[2].settings
    assert "bad_request_price" in evaluation.settings["clairvoyant"]


def test_two_seeds_have_no_interval_and_names_must_differ():
    request = EvaluateRequest(PRODUCTION, TRACE, [StaticPolicy(9)], 0.0, 600.0, seeds=2)
    table = evaluate(request).table
    assert math.isnan(table["cost_usd_ci95_low"][0])
    assert math.isnan(table["gap_closed"][0])
    assert table["attainment_not_worse"][0] is None
    with pytest.raises(PolicyError, match="unique names"):
        evaluate(replace(request, policies=[StaticPolicy(9), StaticPolicy(8)]))
    with pytest.raises(PolicyError, match="none"):
        evaluate(replace(request, policies=[]))
    with pytest.raises(InputError, match="cannot play"):
        evaluate(replace(request, start_s=86_000.0))
