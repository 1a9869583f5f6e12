"""Learners beside PPO: each learns and plays, none is compared with anything but the rule that it began as."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from agents.env import EnvSpec
from agents.learning.learners import (
    KEPT,
    LEARNERS,
    PRICE_FACTORS,
    compare,
    gains_of,
    main,
    play_frontiers,
    show,
    start_at_rule,
    teach,
)
from agents.learning.search import Part
from agents.policies.learned import general_policy
from sim_core.profile import in_long_ticks, load_profile
from sim_core.world import scale_to_replicas
from tests.conftest import spiky_day

HOUR_S = 3600.0
LANES = 4
PRODUCTION = load_profile("production")
TRACE = scale_to_replicas(spiky_day(1.0), PRODUCTION, 20)
LEARNED = Part(PRODUCTION, TRACE, 6 * HOUR_S, 10 * HOUR_S)
HELD_BACK = Part(PRODUCTION, TRACE, 10 * HOUR_S, 10.5 * HOUR_S)
RULE = general_policy().rule
SPECS = [EnvSpec(in_long_ticks(PRODUCTION), TRACE, LEARNED.start_s, LEARNED.end_s, rule=RULE)] * LANES


@pytest.fixture(scope="module")
def usual():
    return play_frontiers(None, RULE, [HELD_BACK], 0.0)


class Constant:
    """A learner that always does the same."""

    def __init__(self, action: float):
        self.action, self.firsts = action, []

    def predict(self, features, state=None, episode_start=None, deterministic=False):
        assert deterministic
        self.firsts.append(episode_start.copy())
        return np.full((len(features), 1), self.action, dtype=np.float32), "memory"


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_learns_and_plays(name):
    """A few hundred env steps, after which those off policy provide for the least they may: the gain is finite where the
    rule's attainments are reached, as they are with a third of any residual."""
    table = compare([name], [LEARNED], [HELD_BACK], steps=320, seeds=1, lanes=LANES)
    row = table.iloc[0]
    assert row["learner"] == name
    assert row["env_steps"] >= 320
    for kept in KEPT:
        columns = [f"gain_{kept:g}", f"gain_{kept:g}_low", f"gain_{kept:g}_high", f"{TRACE.name}_{kept:g}"]
        finite = np.isfinite(row[columns].to_numpy(dtype=float))
        assert finite.all() if row[f"not_reached_{kept:g}"] == 0 else not finite.any()
    assert row["not_reached_0.33"] == 0
    assert all(math.isfinite(row[name]) for name in ("wall_s", "action_mean", "action_spread"))
    assert 0.0 < row["action_spread"] <= 1.0
    assert name in show(table) and f"{row['gain_0.33']:+.2%}" in show(table)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_begins_as_the_rule(name, usual):
    """Its most probable action is 0 whatever it sees: the same pods, to the last bit; a gain of exactly 0."""
    learner = teach(name, SPECS, 1, seed=1, seconds=0.0).learner
    start_at_rule(learner)
    played = play_frontiers(learner, RULE, [HELD_BACK], 1.0)
    assert played == usual
    assert gains_of(played, usual) == [0.0]


def test_an_action_forced_to_zero_gains_nothing(usual):
    for kept in KEPT:
        played = play_frontiers(Constant(0.0), RULE, [HELD_BACK], kept)
        assert gains_of(played, usual) == [0.0]
        assert (played.mean, played.spread) == (0.0, 0.0)


def test_a_residual_is_played(usual):
    """More load means more pods at every price; a share of it lies between; its spread and mean are those of the actions."""
    whole, part = (play_frontiers(Constant(1.0), RULE, [HELD_BACK], kept) for kept in (1.0, 0.33))
    costs = [np.array([usd for _, usd in played.outcomes[0]]) for played in (usual, part, whole)]
    assert len(costs[0]) == len(PRICE_FACTORS)
    assert (costs[0] < costs[1]).all() and (costs[1] < costs[2]).all()
    assert (whole.mean, whole.spread) == (1.0, 0.0)


def test_attainments_that_are_not_reached_are_no_gain(usual):
    """Half the price of pods is no gain where more requests go wrong than ever under the rule."""
    worse = [[(attained - 0.5, usd / 2) for attained, usd in usual.outcomes[0]]]
    assert np.isnan(gains_of(type(usual)(worse, 0.0, 0.0), usual)).all()
    cheaper = [[(attained, 0.9 * usd) for attained, usd in usual.outcomes[0]]]
    assert gains_of(type(usual)(cheaper, 0.0, 0.0), usual) == pytest.approx([0.1])


def test_memory_begins_anew_with_every_play():
    constant = Constant(0.0)
    for _ in range(2):
        constant.firsts.clear()
        play_frontiers(constant, RULE, [HELD_BACK], 1.0)
        assert constant.firsts[0].all()
        assert not np.any(constant.firsts[1:])


def test_a_recurrent_learner_remembers_each_lane_apart():
    """The same features in other rows: the same answers in those rows, also after some steps."""
    learner = teach("recurrent-ppo", SPECS, 1, seed=1).learner
    with torch.no_grad():
        learner.policy.action_net.weight.fill_(0.1)
    features = np.random.default_rng(1).normal(size=(5, 3, *learner.observation_space.shape)).astype(np.float32)
    answers = []
    for order in ([0, 1, 2], [2, 0, 1]):
        memory, first = None, np.ones(3, dtype=bool)
        for step in features:
            actions, memory = learner.predict(step[order], memory, first, deterministic=True)
            first = np.zeros(3, dtype=bool)
        answers.append(actions[np.argsort(order), 0])
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-5)
    again, _ = learner.predict(features[-1], None, np.ones(3, dtype=bool), deterministic=True)
    assert not np.allclose(again[:, 0], answers[0], rtol=1e-3)  # else it would have no memory


def test_a_learner_whose_time_is_up_still_gets_a_row():
    table = compare(["sac"], [LEARNED], [HELD_BACK], steps=100_000, seeds=1, seconds=0.5, lanes=LANES)
    assert table["env_steps"][0] < 100_000
    assert np.isfinite(table["gain_0.33"][0])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--learners", "ppo,crosq"], "unknown learner 'crosq'; did you mean 'crossq'?"),
        (["--learners", ","], "must name one of ppo, sac, tqc, crossq, recurrent-ppo"),
        (["--steps", "0"], "must be a whole number of at least 1 (got 0)"),
        (["no_such_trace.csv"], "no_such_trace.csv"),
    ],
)
def test_wrong_arguments_end_with_2_and_what_would_be_right(arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_the_command_prints_one_row_a_learner(monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["agents.learning.learners"], "parts_of", lambda traces: [_two_days()])
    monkeypatch.setattr(sys.modules["agents.learning.learners"], "DAY_S", 0.5 * HOUR_S)
    main(["--learners", "ppo", "--steps", "64", "--seeds", "1"])
    printed = capsys.readouterr().out
    assert printed.split("\n")[0].split() == ["learner", "ppo"]
    assert TRACE.name in printed


def _two_days() -> Part:
    return Part(PRODUCTION, TRACE, 6 * HOUR_S, 10.5 * HOUR_S)
