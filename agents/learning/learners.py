"""Other learners than PPO, on the same rule, traffic and env steps: what each one's residual saves on days held back.

`python -m agents.learning.learners [TRACE...]` prints the table that DESIGN.md tells of. Every learner begins as the general
model's rule; what it would most probably do is played at several prices of the error budget, and its pods are compared with
the rule's at equal attainment. Nothing is exported: only PPO's networks can be.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sb3_contrib import TQC, CrossQ, RecurrentPPO
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from agents.env import BAD_SCALE, MAX_RESIDUAL, DevOpsVecEnv, EnvSpec, worthwhile_threads
from agents.learning.general import LANES, parts_of, traffic_of
from agents.learning.search import DAY_S, Part, requests_by_lane
from agents.learning.train import (
    BATCH_SIZE,
    FIRST_LOG_STD,
    GAE_LAMBDA,
    GAMMA,
    HIDDEN,
    N_EPOCHS,
    N_STEPS,
    VALIDATION_SEED,
    VALIDATION_SEEDS,
    make_ppo,
    moved_dual,
    pods_at,
)
from agents.policies.contract import play
from agents.policies.learned import LearnedPolicy, general_policy
from sim_core.errors import DevOpsSimError, nearest
from sim_core.profile import in_long_ticks
from sim_core.world import Lane

STEPS = 200_000
SEEDS = 2
SECONDS = 180.0  # that one learner may learn for
KEPT = (1.0, 0.33)  # shares of the residual that are played
# The dear ones are for learners that nearly always provide for less than the rule does: at the same prices their frontiers
# would end before its attainments.
PRICE_FACTORS = (0.2, 0.35, 0.6, 1.0, 1.7, 3.0, 5.0, 9.0, 16.0, 40.0)
# Of these: where the rule's attainments are what both are compared at. The ends are left out, so that a residual that is a
# little better or worse than the rule still has a frontier on both sides of them.
_COMPARED = slice(2, 5)

_LEARNING_RATE = 5e-4
_UPDATES = 2  # of a learner off policy, for each step of all lanes
_REPLAYED = 256  # transitions in such an update
_RANDOM_SHARE = 0.03  # of the steps, that a learner off policy begins with, any action as likely as another
# What a nat of entropy is worth at first: a residual moves the reward of a decision by hundredths.
_ENTROPY_COEFFICIENT = "auto_0.001"
_MEMORY = 64  # units of the recurrent network


def _settings(seed: int) -> dict[str, Any]:
    return {"gamma": GAMMA, "learning_rate": _LEARNING_RATE, "seed": seed, "device": "cpu"}


def _off_policy(kind: Any) -> Callable[[VecEnv, int, int], Any]:
    def make(env: VecEnv, seed: int, steps: int) -> Any:
        return kind(
            "MlpPolicy",
            env,
            train_freq=1,
            gradient_steps=_UPDATES,
            batch_size=_REPLAYED,
            buffer_size=max(steps, env.num_envs),
            learning_starts=max(env.num_envs, int(_RANDOM_SHARE * steps)),
            ent_coef=_ENTROPY_COEFFICIENT,
            policy_kwargs={"net_arch": list(HIDDEN)},
            **_settings(seed),
        )

    return make


def _recurrent_ppo(env: VecEnv, seed: int, steps: int) -> RecurrentPPO:
    return RecurrentPPO(
        "MlpLstmPolicy",
        env,
        n_steps=N_STEPS,
        batch_size=min(BATCH_SIZE, N_STEPS * env.num_envs),
        n_epochs=N_EPOCHS,
        gae_lambda=GAE_LAMBDA,
        policy_kwargs={"net_arch": [HIDDEN[-1]], "lstm_hidden_size": _MEMORY, "log_std_init": FIRST_LOG_STD},
        **_settings(seed),
    )


LEARNERS: Mapping[str, Callable[[VecEnv, int, int], Any]] = {
    "ppo": lambda env, seed, steps: make_ppo(env, seed, _LEARNING_RATE),
    "sac": _off_policy(SAC),
    "tqc": _off_policy(TQC),
    "crossq": _off_policy(CrossQ),
    "recurrent-ppo": _recurrent_ppo,
}


def start_at_rule(learner: Any) -> None:
    """Makes what a learner would most probably do no residual at all, and its first spread that of PPO."""
    policy = learner.policy
    off_policy = hasattr(policy, "actor")
    head = policy.actor.mu if off_policy else policy.action_net
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        if off_policy:
            policy.actor.log_std.weight.zero_()
            policy.actor.log_std.bias.fill_(FIRST_LOG_STD)


class _Pricing(BaseCallback):
    """Moves the dual price of bad requests as a training of PPO does; ends the learning when its time is up."""

    def __init__(self, env: DevOpsVecEnv, seconds: float):
        super().__init__()
        self._episodes = env.episodes
        budgets = [1.0 - spec.profile.slo.objective for spec in self._episodes.specs]
        self._budget = float(np.mean(budgets))
        self._first_scale = self._episodes.scales[:, BAD_SCALE].copy()
        self._dual = 1.0
        self._before = np.zeros(4)
        self._ends = time.monotonic() + seconds

    def _on_step(self) -> bool:
        if self.n_calls % N_STEPS == 0:
            now = self._episodes.totals.copy()
            _, requests, bad, _ = now - self._before
            self._before = now
            self._dual = moved_dual(self._dual, bad / max(requests * self._budget, 1e-9))
            self._episodes.scales[:, BAD_SCALE] = self._dual * self._first_scale
        return time.monotonic() < self._ends


@dataclass(frozen=True)
class Taught:
    """A learner at the end of its learning.

    Attributes:
        steps: env steps that it made.
        wall_s: that they took, with its updates.
    """

    learner: Any
    steps: int
    wall_s: float


def teach(name: str, specs: Sequence[EnvSpec], steps: int, seed: int, seconds: float = SECONDS) -> Taught:
    """A learner of LEARNERS, taught on some lanes until its steps are made or its time is up."""
    env = DevOpsVecEnv(specs, threads=worthwhile_threads(specs[0], len(specs)))
    learner = LEARNERS[name](env, seed, steps)
    learner.set_logger(Logger(folder=None, output_formats=[]))
    start_at_rule(learner)
    began = time.monotonic()
    learner.learn(steps, callback=_Pricing(env, seconds))
    env.close()
    return Taught(learner, int(learner.num_timesteps), time.monotonic() - began)


class Residual(LearnedPolicy):
    """A rule, with a price of its own in every lane, and what a learner would most probably add to it.

    Args:
        learner: of stable-baselines3; None: the rule alone.
        rules: settings, one a lane.
        kept: share of the residual that is played [1].
    """

    def __init__(self, learner: Any, rules: Sequence[Mapping[str, float]], kept: float):
        super().__init__(general_policy().model, "learner", kept=0.0 if learner is None else kept)
        self._learner, self._chosen = learner, [{**rule, "kept": self.kept} for rule in rules]
        self._memory: Any = None
        self.played: list[np.ndarray] = []

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        super().reset(lanes, duration_s)
        self._memory, self.played = None, []

    def residuals(self, features: np.ndarray) -> np.ndarray:
        first = np.full(len(features), self._memory is None)
        actions, self._memory = self._learner.predict(features, self._memory, first, deterministic=True)
        self.played.append(actions[:, 0].copy())
        return MAX_RESIDUAL * self.played[-1]


@dataclass(frozen=True)
class Played:
    """What a policy came to on the days held back.

    Attributes:
        outcomes: (attainment, cost of pods [USD]) for every price, one list a traffic.
        spread: standard deviation of its actions at the rule's own price, before a share of them is kept [1].
        mean: of these actions.
    """

    outcomes: list[list[tuple[float, float]]]
    spread: float
    mean: float


def play_frontiers(
    learner: Any, rule: Mapping[str, float], parts: Sequence[Part], kept: float, seeds: int = VALIDATION_SEEDS
) -> Played:
    """Plays the last stretch of every part at all prices at once.

    Args:
        learner: of stable-baselines3; None: the rule alone.
        parts: of one length, of profiles with as many services.
        seeds: draws of each.
    """
    lanes, rules, factors = [], [], []
    for part in parts:
        profile = in_long_ticks(part.profile)
        for factor in PRICE_FACTORS:
            for k in range(seeds):
                lanes.append(Lane(profile, part.trace, VALIDATION_SEED + k, part.starts_s[-1]))
                rules.append({**rule, "price": factor * rule["price"]})
                factors += [factor] * len(profile.services)
    policy = Residual(learner, rules, kept)
    simulation = play(lanes, policy, parts[0].block_s)
    shape = (len(parts), len(PRICE_FACTORS), seeds)
    requests = requests_by_lane(simulation)
    good = simulation.indicators["slo_attainment"].fillna(1.0).to_numpy() * requests
    attained = good.reshape(shape).sum(axis=2) / np.maximum(requests.reshape(shape).sum(axis=2), 1e-9)
    usd = simulation.indicators["cost_pods_usd"].to_numpy().reshape(shape).sum(axis=2)
    outcomes = [
        [(float(a), float(cost)) for a, cost in zip(*lines, strict=True)] for lines in zip(attained, usd, strict=True)
    ]
    actions = np.array(policy.played)[:, np.array(factors) == 1.0] if policy.played else np.zeros((1, 1))
    return Played(outcomes, float(actions.std()), float(actions.mean()))


def gains_of(played: Played, rule: Played) -> list[float]:
    """Pods saved at the rule's attainments, the mean over its middle prices [1], one a traffic; NaN: one is not reached."""
    gains = []
    for own, usual in zip(played.outcomes, rule.outcomes, strict=True):
        aims = [min(attained, 1.0 - 1e-9) for attained, _ in usual[_COMPARED]]
        gains.append(float(np.mean([1.0 - pods_at(own, aim) / pods_at(usual, aim) for aim in aims])))
    return gains


def compare(
    names: Sequence[str],
    learned: Sequence[Part],
    held_back: Sequence[Part],
    steps: int = STEPS,
    seeds: int = SEEDS,
    seconds: float = SECONDS,
    lanes: int = LANES,
    on_row: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """One row a learner: what its learning took; for every share of its residual that is played, the gain over the rule.

    That is the mean over seeds and traffics [1], with the seeds of the least and the largest; how many of these plays did not
    reach the rule's attainments, and are in no mean; and the gain of each traffic.

    Args:
        names: of LEARNERS.
        learned, held_back: of each traffic, what is learned on and what is played.
        steps: env steps of each learner and seed.
        seconds: that each of these may take.
        on_row: is told what was just done.
    """
    torch.set_num_threads(1)
    rule = general_policy().rule
    specs = [EnvSpec(in_long_ticks(p.profile), p.trace, p.start_s, p.end_s, rule=rule) for p in learned]
    usual = play_frontiers(None, rule, held_back, 0.0)
    rows = []
    for name in names:
        taught = [
            teach(name, [specs[lane % len(specs)] for lane in range(lanes)], steps, seed, seconds)
            for seed in range(1, seeds + 1)
        ]
        row: dict[str, Any] = {
            "learner": name,
            "wall_s": float(np.mean([t.wall_s for t in taught])),
            "env_steps": int(np.mean([t.steps for t in taught])),
        }
        for kept in KEPT:
            played = [play_frontiers(t.learner, rule, held_back, kept) for t in taught]
            gains = np.array([gains_of(one, usual) for one in played])
            by_seed = [_mean(of_seed) for of_seed in gains]
            row |= {
                f"gain_{kept:g}": _mean(gains),
                f"gain_{kept:g}_low": min(by_seed),
                f"gain_{kept:g}_high": max(by_seed),
                f"not_reached_{kept:g}": int(np.isnan(gains).sum()),
            }
            if kept == KEPT[0]:
                row["action_mean"] = float(np.mean([one.mean for one in played]))
                row["action_spread"] = float(np.mean([one.spread for one in played]))
            row |= {f"{part.trace.name}_{kept:g}": _mean(gains[:, k]) for k, part in enumerate(held_back)}
        on_row(f"{name}: learned in {sum(t.wall_s for t in taught):.0f} s, {row[f'gain_{KEPT[0]:g}']:+.2%}")
        rows.append(row)
    return pd.DataFrame(rows)


def _mean(gains: np.ndarray) -> float:
    """Of what is not NaN; NaN where all is."""
    known = gains[~np.isnan(gains)]
    return float(known.mean()) if known.size else math.nan


def show(table: pd.DataFrame) -> str:
    """The table for people: gains in percent of the rule's pods, actions as shares of the largest."""
    plain = ("learner", "wall_s", "env_steps", "action_mean", "action_spread", *(f"not_reached_{k:g}" for k in KEPT))
    shown = table.copy()
    for name in (name for name in table if name not in plain):
        shown[name] = [f"{gain:+.2%}" for gain in table[name]]
    shown["wall_s"] = table["wall_s"].round().astype(int)
    return str(shown.set_index("learner").T.to_string(float_format=lambda value: f"{value:.3f}"))


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in LEARNERS:
            raise argparse.ArgumentTypeError(f"unknown learner '{name}'{nearest(name, LEARNERS)}")
    if not names:
        raise argparse.ArgumentTypeError(f"must name one of {', '.join(LEARNERS)}")
    return names


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1 (got {text})")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, teaches the learners and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m agents.learning.learners", description=__doc__)
    parser.add_argument("traces", nargs="*", type=Path, help="trace files, beside the bundled generators")
    parser.add_argument("--learners", type=_names, default=list(LEARNERS), help=",".join(LEARNERS))
    parser.add_argument("--steps", type=_at_least_one, default=STEPS, help="env steps of each learner and seed")
    parser.add_argument("--seeds", type=_at_least_one, default=SEEDS, help="that each learner is taught with")
    parser.add_argument(
        "--seconds", type=_at_least_one, default=SECONDS, help="that each learner and seed may learn for"
    )
    given = parser.parse_args(arguments)
    try:
        whole = parts_of(traffic_of(given.traces))
    except DevOpsSimError as error:
        parser.error(str(error))
    learned = [replace(part, end_s=part.end_s - DAY_S) for part in whole]
    held_back = [replace(part, start_s=part.end_s - DAY_S) for part in whole]
    told = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    table = compare(given.learners, learned, held_back, given.steps, given.seeds, given.seconds, on_row=told)
    print(show(table))


if __name__ == "__main__":
    main()
