"""Training of an autoscaler with PPO from stable-baselines3.

The agent starts as the best fixed action (itself a rate-based autoscaler) and learns when to depart from it. What it
learns at a fixed price of bad requests keeps no SLO exactly; so at the end one number, the headroom, is set on the
training traffic such that the policy attains there what the HPA tuned on the same traffic attains, and a margin more.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from agents.actions import N_ACTIONS, describe_action
from agents.env import DevOpsVecEnv, EnvSpec, worthwhile_threads
from agents.learning.export import export_onnx
from agents.learning.search import BUDGET_MARGIN, search_target
from agents.learning.tuning import TunedHpa, calibrate_headroom, rank_actions, tune_hpa
from agents.policies.learned import LearnedPolicy
from sim_core.errors import InputError
from sim_core.profile import Profile, in_long_ticks
from sim_core.workload import Trace

Row = dict[str, Any]

N_STEPS = 128
BATCH_SIZE = 1024
N_EPOCHS = 4
HIDDEN = (64, 64)
GAMMA = 0.9  # a horizon of about ten decisions: longer than a pod takes to start and to warm up
GAE_LAMBDA = 0.8
ENTROPY = 0.0
# Logit of the best fixed action above the others at the start. Every action that differs from the last starts or ends
# pods, so noise costs: a policy that explores much looks worse than it is.
START_BIAS = 2.0


@dataclass(frozen=True)
class TrainRequest:
    """Everything that decides what a training learns; two equal requests learn the same.

    Args:
        trace: already scaled to the profile.
        start_s, end_s: the part of the trace that may be seen [s].
        steps: env steps over all lanes; rounded up to whole rollouts.
        folder: for checkpoints and the exported model; None: nothing is kept on disk but the result.
    """

    profile: Profile
    trace: Trace
    start_s: float
    end_s: float
    steps: int = 500_000
    seed: int = 1
    n_envs: int = 64
    learning_rate: float = 7e-4
    folder: str | None = None
    checkpoint_every: int = 10  # rollouts

    @property
    def simulated_days(self) -> float:
        """What the steps come to, over all lanes [days]; the HPA is tuned with as much."""
        return self.steps * self.profile.controller.sync_period_seconds / 86_400.0


@dataclass(frozen=True)
class TrainResult:
    """A trained policy and how it came about.

    Attributes:
        onnx: the model, observation vectors in, desired replicas out.
        headroom: the factor that is built into it.
        hpa: the HPA tuned on the same traffic with as many simulated days.
        calibration: rows of (headroom, slo_attainment, cost_usd) on the training traffic.
        settings: of the learner, plain data.
    """

    onnx: bytes
    headroom: float
    calibration: list[dict[str, float]]
    steps: int
    seed: int
    wall_s: float
    best_fixed_action: str
    hpa: TunedHpa
    settings: dict[str, Any] = field(default_factory=dict)


def make_ppo(env: VecEnv, seed: int, learning_rate: float = 7e-4) -> PPO:
    """The learner as this project uses it, on any VecEnv."""
    learner = PPO(
        "MlpPolicy",
        env,
        learning_rate=lambda left: learning_rate * max(0.1, left),
        n_steps=N_STEPS,
        batch_size=min(BATCH_SIZE, N_STEPS * env.num_envs),
        n_epochs=N_EPOCHS,
        gamma=GAMMA,
        gae_lambda=GAE_LAMBDA,
        ent_coef=ENTROPY,
        policy_kwargs={"net_arch": list(HIDDEN)},
        seed=seed,
        device="cpu",
        verbose=0,
    )
    learner.set_logger(
        Logger(folder=None, output_formats=[])
    )  # else every training leaves a folder among temporary files
    return learner


def train(
    request: TrainRequest,
    on_progress: Callable[[list[Row]], None] = lambda rows: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Trains, calibrates and exports.

    Args:
        on_progress: gets one row a rollout: `step`, `rollout/*`, `slo/*`, `train/*`, `time/*`.
        should_stop: asked after every rollout; true ends the learning early and goes on to calibrate.

    Raises:
        InputError: the training part does not lie in the trace, or is shorter than an hour.
    """
    began = time.monotonic()
    torch.set_num_threads(1)
    if request.end_s - request.start_s < 3600.0:
        raise InputError(
            "training traffic",
            f"must last at least 3600 s (got {request.end_s - request.start_s:g} s); give a longer trace",
        )
    if request.steps < 1:
        raise InputError("steps", f"must be at least 1 (got {request.steps})")
    spec = EnvSpec(in_long_ticks(request.profile), request.trace, request.start_s, request.end_s)
    vec_env = DevOpsVecEnv(spec, request.n_envs, threads=worthwhile_threads(spec, request.n_envs))
    vec_env.seed(request.seed * 1_000_003)
    checkpoint = _Checkpoint(request)
    learner = make_ppo(vec_env, request.seed, request.learning_rate)
    best_action = rank_actions(request.profile, request.trace, request.start_s, request.end_s, request.seed)
    if not checkpoint.restore(learner, vec_env):
        start_from(learner, best_action)
    left = request.steps - learner.num_timesteps
    if left > 0:
        callback = _Progress(request, vec_env, checkpoint, on_progress, should_stop)
        learner.learn(left, callback=callback, reset_num_timesteps=learner.num_timesteps == 0)
    vec_env.close()
    part = request.profile, request.trace, request.start_s, request.end_s
    hpa = tune_hpa(*part, budget_days=request.simulated_days)
    # Held-out comparisons count only at equal or better attainment: aim a margin above the tuned HPA.
    margin = BUDGET_MARGIN * (1.0 - request.profile.slo.objective)
    aim = min(max(search_target(request.profile), hpa.slo_attainment + margin), 1.0 - 1e-6)
    headroom, calibration = calibrate_headroom(
        lambda factor: LearnedPolicy(export_onnx(learner.policy, request.profile, factor)), *part, attainment=aim
    )
    model = export_onnx(learner.policy, request.profile, headroom)
    return TrainResult(
        onnx=model,
        headroom=headroom,
        calibration=calibration,
        steps=int(learner.num_timesteps) // (N_STEPS * request.n_envs) * N_STEPS * request.n_envs,
        seed=request.seed,
        wall_s=time.monotonic() - began,
        best_fixed_action=describe_action(best_action),
        hpa=hpa,
        settings={
            "algorithm": "ppo",
            "n_envs": request.n_envs,
            "n_steps": N_STEPS,
            "batch_size": BATCH_SIZE,
            "n_epochs": N_EPOCHS,
            "gamma": GAMMA,
            "learning_rate": request.learning_rate,
            "hidden": list(HIDDEN),
            "episode_s": spec.check().episode_s,
        },
    )


def start_from(learner: PPO, action: int) -> None:
    """Biases a new policy towards one fixed action of every service."""
    with torch.no_grad():
        bias = learner.policy.action_net.bias
        bias[action::N_ACTIONS] += START_BIAS


class _Checkpoint:
    """The learner's weights and progress on disk, so that a killed training goes on where it was."""

    def __init__(self, request: TrainRequest):
        self._folder = Path(request.folder) if request.folder else None
        self._seed = request.seed

    def save(self, learner: PPO) -> None:
        """Writes both files whole or not at all."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        state = {"policy": learner.policy.state_dict(), "optimizer": learner.policy.optimizer.state_dict()}
        part = self._folder / "checkpoint.pt.part"
        torch.save({**state, "step": learner.num_timesteps}, part)
        part.replace(self._folder / "checkpoint.pt")

    def restore(self, learner: PPO, vec_env: DevOpsVecEnv) -> bool:
        """Whether there was a checkpoint to go on from. Tensors only: nothing in the file can run code."""
        path = self._folder / "checkpoint.pt" if self._folder is not None else None
        if path is None or not path.exists():
            return False
        try:
            saved = torch.load(path, weights_only=True)
        except Exception:  # cut off or damaged: whatever torch makes of it, the training begins anew
            path.replace(path.with_suffix(".damaged"))
            return False
        learner.policy.load_state_dict(saved["policy"])
        learner.policy.optimizer.load_state_dict(saved["optimizer"])
        learner.num_timesteps = int(saved["step"])
        # The lanes begin elsewhere than the first time: what was seen before is not played again.
        vec_env.seed(self._seed * 1_000_003 + int(saved["step"]))
        return True


class _Progress(BaseCallback):
    """After every rollout: reports a row, saves a checkpoint."""

    def __init__(
        self,
        request: TrainRequest,
        vec_env: DevOpsVecEnv,
        checkpoint: _Checkpoint,
        on_progress: Callable[[list[Row]], None],
        should_stop: Callable[[], bool],
    ):
        super().__init__()
        self._request, self._env, self._checkpoint = request, vec_env, checkpoint
        self._on_progress, self._should_stop = on_progress, should_stop
        self._before = np.zeros(4)
        self._began = time.monotonic()
        self._first_step = 0
        self._stop = False
        self._rollouts = 0

    def _on_training_start(self) -> None:
        self._first_step = self.num_timesteps

    def _on_rollout_start(self) -> None:
        # Here the update of the rollout before is done: weights and step count belong together.
        if self._rollouts % self._request.checkpoint_every == 0 and self.num_timesteps > self._first_step:
            self._checkpoint.save(self.model)
        self._rollouts += 1

    def _on_training_end(self) -> None:
        self._checkpoint.save(self.model)

    def _on_step(self) -> bool:
        return not self._stop

    def _on_rollout_end(self) -> None:
        episodes = self._env.episodes
        now = episodes.totals.copy()
        pod_s, requests, bad, reward = now - self._before
        self._before = now
        spent = bad / max(requests * (1.0 - self._request.profile.slo.objective), 1e-9)
        steps = N_STEPS * self._env.num_envs
        seconds = steps * episodes.step_s
        row: Row = {
            "step": int(self.num_timesteps),
            "rollout/reward_mean": float(reward / steps),
            "rollout/replicas_mean": float(pod_s / seconds),
            # of a whole episode, as this rollout went: the mean over ended episodes would lag by hours of play
            "rollout/ep_rew_mean": float(reward / steps * episodes.episode_steps.mean()),
            "slo/attainment": float(1.0 - bad / max(requests, 1e-9)),
            "slo/error_budget_spent": float(spent),
            "time/env_steps_per_s": (self.num_timesteps - self._first_step) / (time.monotonic() - self._began),
            "time/wall_s": time.monotonic() - self._began,
        }
        for name in ("train/approx_kl", "train/explained_variance", "train/entropy_loss", "train/value_loss"):
            value = self.logger.name_to_value.get(name)
            if value is not None and math.isfinite(value):
                row[name] = float(value)
        self._on_progress([row])
        self._stop = self._should_stop()


def request_settings(request: TrainRequest) -> dict[str, Any]:
    """A request as plain data for a run's parameters, without profile and trace."""
    plain = {name: value for name, value in asdict(request).items() if name not in ("profile", "trace", "folder")}
    return json.loads(json.dumps(plain))
