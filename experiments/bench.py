"""Benchmarks: figures measured side by side in one run, never timed tests.

CPU seconds are of this process; every figure is the median of several rounds, with the rounds of things that are compared
taken in turn, so that a busy machine slows both.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from experiments.benchmarks.decisions import decision_latency
from experiments.benchmarks.engines import MEASURES
from experiments.benchmarks.measuring import cpu_s, cpu_s_in_turn, figure, fill_kernel_cache
from sim_core.intervals import interval
from sim_core.profile import in_long_ticks, load_profile
from sim_core.simulation import Worlds
from sim_core.workload import Trace, bundled_traffic
from sim_core.world import Lane, scale_to_replicas

LANES = 64
PEAK_REPLICAS = 20
DAY_S = 86_400.0


def run_bench(
    quick: bool = False,
    on_figure: Callable[[dict[str, Any]], None] = lambda measured: None,
    trace: Trace | None = None,
) -> list[dict[str, Any]]:
    """Measures everything; one row a figure: `name`, `value`, `unit`, `reach` (what is aimed at), `note`.

    Args:
        quick: fewer rounds and shorter ones.
        on_figure: gets each figure when it is there.
        trace: also train and evaluate an agent on its halves.
    """
    figures: list[dict[str, Any]] = []
    measures: list[Callable[[bool], list[dict[str, Any]]]] = [
        fluid_engine,
        *MEASURES,
        decision_latency,
        vec_env,
        training_against_free_env,
    ]
    agent_trace = bundled_traffic().generate(14 * DAY_S, seed=0)
    measures += [partial(agent, trace=played) for played in (agent_trace, trace) if played is not None]
    fill_kernel_cache()
    for measure in measures:
        for measured in measure(quick):
            figures.append(measured)
            on_figure(measured)
    return figures


def _demo_trace() -> Trace:
    profile = load_profile("production")
    return scale_to_replicas(bundled_traffic().generate(2 * DAY_S, seed=0), profile, PEAK_REPLICAS)


def fluid_engine(quick: bool) -> list[dict[str, Any]]:
    """Simulated days per CPU-second, production profile under its HPA, 64 lanes."""
    profile, trace = load_profile("production"), _demo_trace()
    lanes = [Lane(profile, trace, seed) for seed in range(LANES)]
    hours = 2 if quick else 12
    Worlds(lanes).advance(60)
    rates = []
    for _ in range(3 if quick else 5):
        worlds = Worlds(lanes)
        rates.append(LANES * hours / 24 / cpu_s(partial(worlds.advance, hours * 3600)))
    note = f"{LANES} lanes, {hours} h each, 1 s ticks"
    return [figure("fluid engine with HPA", statistics.median(rates), "simulated days per CPU-second", ">= 25", note)]


def vec_env(quick: bool) -> list[dict[str, Any]]:
    """Env steps per CPU-second of the VecEnv, random actions, 15 s decisions; in long ticks, and what they change."""
    from agents.env import DevOpsVecEnv, EnvSpec

    profile, trace = load_profile("production"), _demo_trace()
    played = {"own": profile, "long": in_long_ticks(profile)}
    envs = {name: DevOpsVecEnv(EnvSpec(own, trace), LANES) for name, own in played.items()}
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, size=(64, LANES, 1)).astype(np.float32)
    n_steps = 300 if quick else 2000

    def play(env: DevOpsVecEnv) -> None:
        for k in range(n_steps):
            env.step(actions[k % 64])

    for env in envs.values():
        env.seed(0)
        env.reset()
    spent = cpu_s_in_turn(3 if quick else 5, {name: partial(play, env) for name, env in envs.items()})
    rate = {name: n_steps * LANES / statistics.median(seconds) for name, seconds in spent.items()}
    (pods, _, bad, _), (long_pods, _, long_bad, _) = (env.episodes.totals for env in envs.values())
    own_s, long_s = (f"{own.tick_seconds:g} s" for own in played.values())
    note = f"{LANES} lanes, random actions, observations and infos included"
    same = f"the same actions in ticks of {long_s} over {own_s}, {envs['own'].episodes.totals[1]:.2g} requests"
    return [
        figure(f"VecEnv, ticks of {own_s}", rate["own"], "env steps per CPU-second", ">= 150000", note),
        figure(
            f"VecEnv, ticks of {long_s} as in training", rate["long"], "env steps per CPU-second", ">= 150000", note
        ),
        figure("bad requests in a training's ticks", long_bad / bad, "ratio", "", same),
        figure("pod-seconds in a training's ticks", long_pods / pods, "ratio", "", same),
    ]


def training_against_free_env(quick: bool) -> list[dict[str, Any]]:
    """PPO's frames per second with our env, and over those with an env that costs nothing."""
    import torch

    from agents.env import DevOpsVecEnv, EnvSpec, worthwhile_threads
    from agents.learning.reference_env import FreeVecEnv
    from agents.learning.train import N_STEPS, make_ppo

    torch.set_num_threads(1)
    spec = EnvSpec(in_long_ticks(load_profile("production")), _demo_trace())  # as a training has it
    threads = worthwhile_threads(spec, LANES)
    ours = DevOpsVecEnv(spec, LANES, threads=threads)
    free = FreeVecEnv(ours)
    frames = N_STEPS * LANES
    learners = {"ours": make_ppo(ours, seed=0), "free": make_ppo(free, seed=0)}
    rates: dict[str, list[float]] = {"ours": [], "free": []}
    for learner in learners.values():
        learner.learn(N_STEPS * LANES)
    for _ in range(9 if quick else 35):
        for name, learner in learners.items():
            began = time.perf_counter()
            learner.learn(frames)
            rates[name].append(frames / (time.perf_counter() - began))
    ours.close()
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["free"], strict=True))
    note = (
        f"{LANES} lanes, n_steps {N_STEPS}, batch 1024, 4 epochs, ticks of {spec.profile.tick_seconds:g} s, lanes on "
        f"{threads} threads, torch on one, rounds in turn"
    )
    return [
        figure("PPO with our env", statistics.median(rates["ours"]), "frames per second", "", note),
        figure("PPO with a free env", statistics.median(rates["free"]), "frames per second", "", note),
        figure("PPO with our env over PPO with a free env", ratio, "ratio", ">= 0.8", note),
    ]


def agent(quick: bool, trace: Trace) -> list[dict[str, Any]]:
    """Gap closed on the second half of a trace by agents trained on its first half, over training and evaluation seeds."""
    from agents.learning.evaluate import BASELINE, EvaluateRequest, evaluate
    from agents.learning.train import TrainRequest, train
    from agents.policies.clairvoyant import ClairvoyantPolicy
    from agents.policies.contract import Policy
    from agents.policies.learned import LearnedPolicy
    from agents.policies.registry import choice_of, tuned_policy

    profile = load_profile("production")
    trace = scale_to_replicas(trace, profile, PEAK_REPLICAS)
    half_s = trace.duration_s / 2
    steps, training_seeds, seeds = (100_000, 1, 3) if quick else (500_000, 5, 10)
    gaps, attained, baseline = [], [], []
    budget_days = TrainRequest(profile, trace, 0.0, half_s, steps).simulated_days
    hpa = tuned_policy(choice_of(BASELINE, "evaluation"), profile, trace, 0.0, half_s, budget_days)
    for seed in range(1, training_seeds + 1):
        trained = train(TrainRequest(profile, trace, 0.0, half_s, steps, seed))
        policies: list[Policy] = [hpa, ClairvoyantPolicy(), LearnedPolicy(trained.onnx)]
        outcome = evaluate(EvaluateRequest(profile, trace, policies, half_s, min(DAY_S, half_s), seeds))
        attainment = outcome.lanes.groupby("policy")["slo_attainment"].mean()
        if gap := outcome.gap_closed.get("agent"):
            gaps.append(gap["mean"])
        attained.append(float(attainment["agent"]))
        baseline.append(float(attainment["hpa-tuned"]))
    closed = interval(gaps)
    known = math.isfinite(closed.low)
    spread = f"95 % interval {closed.low:.2f} to {closed.high:.2f}" if known else "too few trainings for an interval"
    note = f"{training_seeds} training seeds of {steps} steps, {seeds} evaluation seeds; {spread}"
    if outcome.no_room:
        note += f"; {outcome.no_room}"
    not_worse = float(np.mean(np.array(attained) - np.array(baseline)))
    return [
        figure(f"gap closed on {trace.name}", closed.mean, "of HPA to clairvoyant", "> 0.5", note),
        figure(f"SLO attainment of agent less tuned HPA on {trace.name}", not_worse, "share of requests", ">= 0", note),
    ]
