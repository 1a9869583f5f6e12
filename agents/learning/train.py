"""Training of an autoscaler for some traffic, with PPO from stable-baselines3: it begins as the general model.

First that model's settings are refined on the training traffic; its rule is the floor. Then PPO goes on learning when to
provide for more or less than the rule does; a dual price of bad requests follows the error budget meanwhile, so that what is
learned keeps the SLO. Last, a part of the traffic that nothing has seen decides what ships: the general model, the refined
one, or what PPO made of it, and how much of its residual is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from agents.env import BAD_SCALE, DevOpsVecEnv, EnvSpec, worthwhile_threads
from agents.learning.export import export_onnx, load_weights, with_metadata, with_settings
from agents.learning.refine import Refined, refine
from agents.learning.search import DAY_S, Part, budget_days, requests_and_bad
from agents.learning.verdict import cost_at
from agents.policies.contract import play
from agents.policies.learned import LearnedPolicy, general_policy
from sim_core.errors import InputError
from sim_core.intervals import CONFIDENCE
from sim_core.profile import Profile, in_long_ticks
from sim_core.workload import Trace
from sim_core.world import Lane

Row = dict[str, Any]

LEAST_S = 1800.0  # of training traffic
N_STEPS = 128
BATCH_SIZE = 1024
N_EPOCHS = 4
HIDDEN = (64, 64)
GAMMA = 0.9  # a horizon of about ten decisions: longer than a pod takes to start and to warm up
GAE_LAMBDA = 0.8
ENTROPY = 0.0
# Spread of the first actions, as a share of MAX_RESIDUAL: every residual that differs from the last starts or ends pods,
# so noise costs, and a policy that explores much looks worse than it is.
FIRST_LOG_STD = -1.6
NEAR_LOG_STD = -2.3  # ... where the learning begins as a policy that is known to be good
# Rollouts in which only the critic learns, where the policy begins as a good one: what a critic that knows nothing says of
# its actions would undo it.
CRITIC_ALONE = 6
DUAL_RATE = (
    0.1  # by how much the log of the dual price moves for each budget that a rollout spends too much or too little
)
DUAL_BOUNDS = (0.2, 5.0)  # of the dual price over the first one
KEPT = (0.0, 0.33, 0.67, 1.0)  # shares of the residual that are tried on the validation part
LEAST_GAIN = (
    0.003  # of the pods, that a share must save on the validation part to be kept, or another model to be taken
)
VALIDATION_SEEDS = 3
VALIDATION_SEED = 78_000
_PRICE_FACTORS = (0.2, 0.35, 0.6, 1.0, 1.7, 3.0, 5.0)  # that validation tries
_BEYOND, _MOST_BEYOND = 4.0, 3  # steps beyond these, and how many, where they do not hold the objective
_CALIBRATION_FACTORS = (*_PRICE_FACTORS, 9.0, 16.0)
CALIBRATION_DAYS = 8
JUDGED_DAYS = 5  # of which the lower limit of the attainment is to keep the SLO, see `calibrate`
PRIOR_DAYS, PRIOR_SPREAD = 2.0, 0.4
OPTIMISM = 1.25  # bad requests of other days over those of the days that were tuned on
GENERAL, REFINED, LEARNED = "general", "refined", "learned"  # models that validation chooses from
CONSTANT = 0.01  # residuals nearer than this to their median count as one constant action


@dataclass(frozen=True)
class TrainRequest:
    """Everything that decides what a training learns; two equal requests learn the same.

    Args:
        trace: already scaled to the profile.
        start_s, end_s: the part of the trace that may be seen [s].
        steps: env steps over all lanes and their services; rounded up to whole rollouts.
        search_days: simulated days that the search for the rule may spend; None: what `budget_days` leaves for it.
        folder: for checkpoints and the exported model; None: nothing is kept on disk but the result.
    """

    profile: Profile
    trace: Trace
    start_s: float
    end_s: float
    steps: int = 500_000
    seed: int = 1
    n_envs: int = 64
    learning_rate: float = 5e-4
    search_days: float | None = None
    folder: str | None = None
    checkpoint_every: int = 10  # rollouts

    @property
    def learned_days(self) -> float:
        """What the steps come to [days]; a step is one of a service, and those of a lane are made at once."""
        return self.steps * self.profile.controller.sync_period_seconds / DAY_S / len(self.profile.services)

    @property
    def searched_days(self) -> float:
        """Simulated days that the search for the rule may spend."""
        if self.search_days is not None:
            return self.search_days
        decisions = self.steps // len(self.profile.services)
        return budget_days(decisions, self.profile.controller.sync_period_seconds) - self.learned_days

    @property
    def simulated_days(self) -> float:
        """What search and steps come to [days]; rivals are tuned with as much."""
        return self.searched_days + self.learned_days

    @property
    def validation_start_s(self) -> float:
        """Where the part begins that decides how much is kept: the last day, or a quarter of what there is [s]."""
        length_s = self.end_s - self.start_s
        sync_s = self.profile.controller.sync_period_seconds
        kept_s = DAY_S if length_s >= 3.0 * DAY_S else max(sync_s, math.floor(0.25 * length_s / sync_s) * sync_s)
        return self.end_s - kept_s


@dataclass(frozen=True)
class TrainResult:
    """A trained policy and how it came about.

    Attributes:
        onnx: the model, see `agents.learning.export`.
        rule: settings of the rule inside.
        kept: share of the residual that is kept [1].
        origin: which model ships: GENERAL or REFINED, where nothing later gained on it, or LEARNED.
        validation: rows of (model, kept, price, slo_attainment, pods_usd) on the validation part; `model` is one of these.
        gain_over_rule: pods that the residual saves on the validation part at equal attainment [1]; None: no frontier of
            the two reaches the objective there.
        action_std: spread of its actions at the end of the learning, as a share of the largest residual [1].
        action_entropy: of its distribution of actions [nat].
        constant_share: of the decisions on the validation part that are the median action [1].
        calibration: rows of (price, slo_attainment, slo_attainment_low, pods_usd) on all of the training traffic.
        settings: of the learner, plain data.
    """

    onnx: bytes
    rule: dict[str, Any]
    kept: float
    origin: str
    validation: list[dict[str, Any]]
    gain_over_rule: float | None
    action_std: float
    action_entropy: float
    constant_share: float
    calibration: list[dict[str, float]]
    steps: int
    seed: int
    wall_s: float
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """How the learning went, in a line for people; a policy that does nothing says so."""
        gain = "unknown" if self.gain_over_rule is None else f"{self.gain_over_rule:+.1%} of the pods"
        what = f"residual kept at {self.kept:.0%}" if self.kept > 0.0 else "the residual gained nothing: the rule ships"
        if self.origin == GENERAL:
            what = "nothing that was learned is better than the general model: it ships, with a price for this traffic"
        if self.origin == REFINED:
            what = "learning gained nothing on the general model with settings for this traffic, which ships"
        collapsed = "; collapsed to one action" if self.constant_share > 0.95 else ""
        return (
            f"{what}; gain over the rule {gain} on the validation part; action entropy {self.action_entropy:.2f} nat, "
            f"constant action in {self.constant_share:.0%} of the decisions{collapsed}"
        )


def make_ppo(env: VecEnv, seed: int, learning_rate: float = 5e-4) -> PPO:
    """The learner as this project uses it, on any VecEnv with continuous actions."""
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
        policy_kwargs={"net_arch": list(HIDDEN), "log_std_init": FIRST_LOG_STD},
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
    """Searches the rule, learns the residual, decides how much of it is kept, calibrates and exports.

    Args:
        on_progress: gets one row a rollout: `step`, `rollout/*`, `slo/*`, `train/*`, `time/*`.
        should_stop: asked after every rollout; true ends the learning early and goes on to validate.

    Raises:
        InputError: the training part does not lie in the trace, or is shorter than LEAST_S.
    """
    began = time.monotonic()
    torch.set_num_threads(1)
    if request.end_s - request.start_s < LEAST_S:
        raise InputError(
            "training traffic",
            f"must last at least {LEAST_S:g} s (got {request.end_s - request.start_s:g} s); give a longer trace",
        )
    if request.steps < 1:
        raise InputError("steps", f"must be at least 1 (got {request.steps})")
    learned_end_s = request.validation_start_s
    part = Part(request.profile, request.trace, request.start_s, learned_end_s)
    general = general_policy()
    found = refine(general, part, request.searched_days)
    refined = LearnedPolicy(with_settings(general.model, found.settings))
    spec = EnvSpec(in_long_ticks(request.profile), request.trace, request.start_s, learned_end_s, rule=refined.rule)
    learner, steps = learn(request, [spec] * request.n_envs, on_progress, should_stop, start=refined)
    network = export_onnx([learner.policy], refined.rule, 1.0)
    validation = Part(request.profile, request.trace, learned_end_s, request.end_s)
    chosen = choose(network, general, refined, found, validation)
    model = LearnedPolicy(chosen.model)
    whole = Part(request.profile, request.trace, request.start_s, request.end_s, CALIBRATION_DAYS)
    price, calibration = calibrate(model, whole)
    rule = {**model.rule, "price": price}
    std = float(np.exp(learner.policy.log_std.detach().numpy().mean()))
    return TrainResult(
        onnx=with_metadata(chosen.model, {"rule": rule, "about": {"trace": request.trace.name, "steps": steps}}),
        rule=rule,
        kept=chosen.kept,
        origin=chosen.origin,
        validation=chosen.rows,
        gain_over_rule=chosen.gain,
        action_std=std,
        action_entropy=0.5 * math.log(2.0 * math.pi * math.e) + math.log(std),
        constant_share=chosen.constant_share,
        calibration=calibration,
        steps=steps,
        seed=request.seed,
        wall_s=time.monotonic() - began,
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
            "refined_gain": found.gain,
            "search_days": found.simulated_days,
            "search_candidates": found.candidates,
        },
    )


def learn(
    request: TrainRequest,
    specs: Sequence[EnvSpec],
    on_progress: Callable[[list[Row]], None] = lambda rows: None,
    should_stop: Callable[[], bool] = lambda: False,
    start: LearnedPolicy | None = None,
) -> tuple[PPO, int]:
    """The residual of a rule, learned by PPO on some lanes, from the last checkpoint on where there is one.

    Args:
        specs: one a lane.
        start: what the learner does at first; None: next to nothing.

    Returns:
        the learner, and the env steps that it made.
    """
    vec_env = DevOpsVecEnv(specs, threads=worthwhile_threads(specs[0], len(specs)))
    vec_env.seed(request.seed * 1_000_003)
    checkpoint = _Checkpoint(request)
    learner = make_ppo(vec_env, request.seed, request.learning_rate)
    resumed = checkpoint.restore(learner, vec_env)
    if start is not None and not resumed:
        load_weights(learner.policy, start.model, start.kept)
        with torch.no_grad():
            learner.policy.log_std.fill_(NEAR_LOG_STD)
    left = request.steps - learner.num_timesteps
    if left > 0:
        alone = 0 if start is None else CRITIC_ALONE * N_STEPS * vec_env.num_envs
        callback = _Progress(request, vec_env, checkpoint, on_progress, should_stop, alone)
        learner.learn(left, callback=callback, reset_num_timesteps=learner.num_timesteps == 0)
    vec_env.close()
    frames = N_STEPS * vec_env.num_envs
    return learner, int(learner.num_timesteps) // frames * frames


@dataclass(frozen=True)
class Chosen:
    """What the validation part decided.

    Attributes:
        model: with the share of the residual that is kept.
        origin, rows, gain, constant_share: see `TrainResult`.
    """

    model: bytes
    kept: float
    origin: str
    rows: list[dict[str, Any]]
    gain: float | None
    constant_share: float


def choose(network: bytes, general: LearnedPolicy, refined: LearnedPolicy, found: Refined, part: Part) -> Chosen:
    """What needs the fewest pods at the objective: the general model, the refined one, or a share of what was learned on it.

    The refined model is one of few that were tried, so what it gained there counts too, by days; what PPO learned there says
    nothing of other days.

    Args:
        network: a model that keeps all of the residual that was learned.
        found: what `refined` came of.
        part: the validation part.
    """
    pods, rows, constant_share = pods_of_shares(network, LearnedPolicy(network).rule["price"], part)
    gains = {kept: 1.0 - pods[kept] / pods[0.0] for kept in KEPT if math.isfinite(pods[kept] / pods[0.0])}
    best = max(gains, key=lambda kept: gains[kept], default=0.0)
    kept = best if gains.get(best, 0.0) >= LEAST_GAIN else 0.0
    gain = max((gains[share] for share in gains if share > 0.0), default=None)
    costs = {}
    for origin, model in ((GENERAL, general), (REFINED, refined)):
        costs[origin], played, _ = frontier_of(model, part)
        rows += [{"model": origin, "kept": model.kept, **row} for row in played]
    days = len(part.starts_s) * part.block_s / DAY_S
    seen = 1.0 - costs[REFINED] / costs[GENERAL]
    known = found.gain if math.isnan(seen) else (found.days * found.gain + days * seen) / (found.days + days)
    origin, content, share = GENERAL, general.model, general.kept
    if known >= LEAST_GAIN:
        origin, content, share = REFINED, refined.model, refined.kept
    # An objective that is out of reach, NaN, is worse than any cost.
    if pods[kept] <= (1.0 - LEAST_GAIN) * costs[origin] or (math.isnan(costs[origin]) and math.isfinite(pods[kept])):
        origin, content, share = LEARNED, with_metadata(network, {"kept": kept}), kept
    return Chosen(content, share, origin, rows, gain, constant_share)


def pods_of_shares(network: bytes, price: float, part: Part) -> tuple[dict[float, float], list[dict[str, Any]], float]:
    """What each share of a residual needs at the objective on some traffic.

    Args:
        network: a model that keeps all of it.
        price: of the error budget, around which the frontier is played.

    Returns:
        cost of pods by share (see `pods_at`), rows as in `TrainResult.validation`, and the share of decisions that are the
        median action.
    """
    rows: list[dict[str, Any]] = []
    pods: dict[float, float] = {}
    constant_share = 1.0
    for kept in KEPT:
        model = LearnedPolicy(with_metadata(network, {"kept": kept}), price=price)
        pods[kept], outcomes, constant_share = frontier_of(model, part)
        rows += [{"model": LEARNED, "kept": kept, **row} for row in outcomes]
    return pods, rows, constant_share


def frontier_of(model: LearnedPolicy, part: Part) -> tuple[float, list[dict[str, Any]], float]:
    """Cost of a model's pods at the objective, rows of (price, slo_attainment, pods_usd), share of its median action.

    Prices go on at the end where the objective lies beyond, as far as a price may.
    """
    rows: list[dict[str, Any]] = []
    constant_share = 1.0
    objective = part.profile.slo.objective
    factors, beyond = list(_PRICE_FACTORS), 0
    while factors:
        factor = factors.pop(0)
        priced = model.priced(factor)
        requests, bad, usd, residuals = _outcome(priced, part, VALIDATION_SEED, VALIDATION_SEEDS)
        attained = float(1.0 - bad.sum() / requests.sum())
        rows.append({"price": priced.rule["price"], "slo_attainment": attained, "pods_usd": usd})
        if factor == 1.0:
            constant_share = float(np.mean(np.abs(residuals - np.median(residuals)) < CONSTANT))
        if not factors and beyond < _MOST_BEYOND:
            beyond += 1
            attainments = [row["slo_attainment"] for row in rows]
            if min(attainments) > objective:
                factors = [_PRICE_FACTORS[0] / _BEYOND**beyond]
            elif max(attainments) < objective:
                factors = [_PRICE_FACTORS[-1] * _BEYOND**beyond]
    return pods_at([(row["slo_attainment"], row["pods_usd"]) for row in rows], objective), rows, constant_share


def pods_at(outcomes: Sequence[tuple[float, float]], attainment: float) -> float:
    """Cost of pods at an SLO attainment, on the line through the logs of the bad shares; NaN where it is not reached.

    Where all are better than that it is the cost of the cheapest.

    Args:
        outcomes: (attainment, cost of pods) of settings of one policy.
    """
    bad = np.maximum([[1.0 - attained] for attained, _ in outcomes], 1e-9)
    cost, _ = cost_at(bad, np.array([[usd] for _, usd in outcomes]), 1.0 - attainment)
    return float(cost[0])


def calibrate(model: LearnedPolicy, part: Part) -> tuple[float, list[dict[str, float]]]:
    """The least price with which other days would show that a model keeps the SLO; the highest where none does.

    Of JUDGED_DAYS days like those of the part, the lower limit of the attainment is to keep it, as `verdict` works it out,
    even if OPTIMISM times as many requests are bad there: what just keeps the SLO on days that it was tuned on misses it on
    others more often than not. How far days differ is seen on a few of them only; a coefficient of variation of
    PRIOR_SPREAD counts as much as PRIOR_DAYS days.

    Returns:
        price, and rows of (price, slo_attainment, slo_attainment_low, pods_usd), in the order they were tried.
    """
    rows = []
    for factor in _CALIBRATION_FACTORS:
        priced = model.priced(factor)
        requests, bad, usd, _ = _outcome(priced, part, VALIDATION_SEED, 1)
        share, high = float(bad.sum() / requests.sum()), bad_share_high(requests, bad)
        outcome = {"slo_attainment": 1.0 - share, "slo_attainment_low": 1.0 - high, "pods_usd": usd}
        rows.append({"price": priced.rule["price"], **outcome})
    highs = np.minimum.accumulate([1.0 - row["slo_attainment_low"] for row in rows])
    aim = (1.0 - part.profile.slo.objective) / OPTIMISM
    if highs[-1] > aim:
        return rows[-1]["price"], rows
    prices = np.log([row["price"] for row in rows])
    # np.interp wants rising places: dearer bad requests are fewer
    return float(math.exp(np.interp(math.log(aim), np.log(np.maximum(highs[::-1], 1e-9)), prices[::-1]))), rows


def bad_share_high(requests: np.ndarray, bad: np.ndarray) -> float:
    """Upper limit of the share of bad requests over JUDGED_DAYS days like some that were seen [1].

    Args:
        requests, bad: of each day, shape (n_days,).
    """
    share = min(max(bad.sum() / requests.sum(), 1e-9), 1.0 - 1e-9)
    off = (bad - share * requests) / requests.mean()
    prior = PRIOR_DAYS * (PRIOR_SPREAD * share) ** 2
    spread = math.sqrt((np.square(off).sum() + prior) / (len(off) - 1 + PRIOR_DAYS))
    half = stdtrit(JUDGED_DAYS - 1, 0.5 + CONFIDENCE / 2) * spread / math.sqrt(JUDGED_DAYS) / (share * (1.0 - share))
    return float(1.0 / (1.0 + (1.0 / share - 1.0) * math.exp(-half)))


def _outcome(
    policy: LearnedPolicy, part: Part, first_seed: int, seeds: int
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Requests and bad ones of each day of a part, cost of pods [USD a day], and what was added to the logs of loads."""
    profile = in_long_ticks(part.profile)
    lanes = [Lane(profile, part.trace, first_seed + k, at) for at in part.starts_s for k in range(seeds)]
    watched = _Watched(policy)
    played = play(lanes, watched, part.block_s, threads=2)
    requests, bad = requests_and_bad(played)
    usd = float(played.indicators["cost_pods_usd"].sum()) / (len(lanes) * part.block_s / DAY_S)
    by_day = [amount.reshape(-1, seeds).sum(axis=1) for amount in (requests, bad)]
    return by_day[0], by_day[1], usd, np.concatenate(watched.residuals)


def moved_dual(dual: float, spent: float) -> float:
    """The dual price of bad requests over the first one, after a rollout that spent so many error budgets."""
    return min(max(dual * math.exp(DUAL_RATE * (min(spent, 3.0) - 1.0)), DUAL_BOUNDS[0]), DUAL_BOUNDS[1])


class _Watched:
    """A learned policy whose residuals are noted."""

    name = "watched"

    def __init__(self, policy: LearnedPolicy):
        self._policy = policy
        self.residuals: list[np.ndarray] = []
        self.reset, self.scalers = policy.reset, policy.scalers

    def predict(self, observations: Any) -> np.ndarray:
        """Decides, and notes what the decision was made of."""
        desired = self._policy.predict(observations)
        self.residuals.append(self._policy.states["residual"].copy())
        return desired


class _Checkpoint:
    """The learner's weights and progress on disk, so that a killed training goes on where it was."""

    def __init__(self, request: TrainRequest):
        self._folder = Path(request.folder) if request.folder else None
        self._seed = request.seed
        self.dual = 1.0  # dual price over the first one

    def save(self, learner: PPO) -> None:
        """Writes both files whole or not at all."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        state = {"policy": learner.policy.state_dict(), "optimizer": learner.policy.optimizer.state_dict()}
        part = self._folder / "checkpoint.pt.part"
        torch.save({**state, "step": learner.num_timesteps, "dual": self.dual}, part)
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
        learner.num_timesteps, self.dual = int(saved["step"]), float(saved.get("dual", 1.0))
        # The lanes begin elsewhere than the first time: what was seen before is not played again.
        vec_env.seed(self._seed * 1_000_003 + int(saved["step"]))
        return True


class _Progress(BaseCallback):
    """After every rollout: moves the dual price, reports a row, saves a checkpoint."""

    def __init__(
        self,
        request: TrainRequest,
        vec_env: DevOpsVecEnv,
        checkpoint: _Checkpoint,
        on_progress: Callable[[list[Row]], None],
        should_stop: Callable[[], bool],
        critic_alone: int,
    ):
        super().__init__()
        self._critic_alone = critic_alone  # env steps
        self._request, self._env, self._checkpoint = request, vec_env, checkpoint
        self._on_progress, self._should_stop = on_progress, should_stop
        self._before = np.zeros(4)
        self._began = time.monotonic()
        self._first_step = 0
        self._stop = False
        self._rollouts = 0
        self._first_scale = vec_env.episodes.scales[:, BAD_SCALE].copy()

    def _on_training_start(self) -> None:
        self._first_step = self.num_timesteps
        self._price(self._checkpoint.dual)

    def _price(self, dual: float) -> None:
        self._checkpoint.dual = dual
        self._env.episodes.scales[:, BAD_SCALE] = dual * self._first_scale

    def _on_rollout_start(self) -> None:
        # Here the update of the rollout before is done: weights and step count belong together.
        if self._rollouts % self._request.checkpoint_every == 0 and self.num_timesteps > self._first_step:
            self._checkpoint.save(self.model)
        self._rollouts += 1
        policy = self.model.policy
        for part in (policy.mlp_extractor.policy_net, policy.action_net):
            part.requires_grad_(self.num_timesteps >= self._critic_alone)
        policy.log_std.requires_grad_(self.num_timesteps >= self._critic_alone)

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
        self._price(moved_dual(self._checkpoint.dual, spent))
        lanes = len(episodes.specs)
        steps = N_STEPS * lanes
        seconds = steps * episodes.step_s
        row: Row = {
            "step": int(self.num_timesteps),
            "rollout/reward_mean": float(reward / steps),
            "rollout/replicas_mean": float(pod_s / seconds),
            # of a whole episode, as this rollout went: the mean over ended episodes would lag by hours of play
            "rollout/ep_rew_mean": float(reward / steps * episodes.episode_steps.mean()),
            "slo/attainment": float(1.0 - bad / max(requests, 1e-9)),
            "slo/error_budget_spent": float(spent),
            "slo/dual_price": self._checkpoint.dual,
            "time/env_steps_per_s": (self.num_timesteps - self._first_step) / (time.monotonic() - self._began),
            "time/wall_s": time.monotonic() - self._began,
        }
        names = ("approx_kl", "explained_variance", "entropy_loss", "value_loss", "std")
        for name in (f"train/{name}" for name in names):
            value = self.logger.name_to_value.get(name)
            if value is not None and math.isfinite(value):
                row[name] = float(value)
        self._on_progress([row])
        self._stop = self._should_stop()
