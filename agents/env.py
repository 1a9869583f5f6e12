"""The world as an environment for reinforcement learning: a Gymnasium env of one lane and a native SB3 VecEnv of many."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from agents.features import N_FEATURES, see_lanes, see_world
from agents.observation import BOUND
from agents.policies.rule import RULE_STATE, batch_of_rules, choose
from agents.policies.settings import RULE as RULE_SETTINGS
from agents.policies.settings import completed
from sim_core.compiled import kernel
from sim_core.dataplane.services.graph import resolve
from sim_core.errors import InputError
from sim_core.randomness import lane_key
from sim_core.simulation import Worlds, cut, tick
from sim_core.tables import rows
from sim_core.world import Lane, Scaler, draw_clocks, initial_replicas

if TYPE_CHECKING:
    from sim_core.profile import Profile
    from sim_core.workload import Trace

INITIAL_REPLICAS = (0.9, 1.3)  # an episode starts with replicas in this range around what the load needs at 60 %

MAX_RESIDUAL = 0.25  # of the log of the load, that an action can depart from the rule

_WORTH_A_THREAD = 500  # ticks of a service in a step

# A step that is lost anyway gives no reason to learn how badly: no more than this many times the error budget is priced.
PRICED_BUDGETS = 20.0


@dataclass(frozen=True)
class EnvSpec:
    """What an environment plays.

    Args:
        start_s, end_s: the part of the trace that episodes may touch [s]; end None = the end of the trace.
        episode_s: length of an episode [s].
        decision_s: time between two decisions [s]; None = the controller's sync period.
        bad_request_weight: what it costs to spend just the error budget, in the pods that the mean load keeps busy.
        rule: settings of the rule that actions depart from, see `agents.policies.settings.RULE`.
    """

    profile: Profile
    trace: Trace
    start_s: float = 0.0
    end_s: float | None = None
    episode_s: float = 4 * 3600.0
    decision_s: float | None = None
    bad_request_weight: float = 0.15
    rule: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_services(self) -> int:
        return len(self.profile.services)

    @property
    def ticks_per_step(self) -> int:
        """Ticks from one decision to the next."""
        return max(
            1, round((self.decision_s or self.profile.controller.sync_period_seconds) / self.profile.tick_seconds)
        )

    @property
    def last_start_s(self) -> float:
        """The latest start of an episode [s of the trace]."""
        return (self.trace.duration_s if self.end_s is None else self.end_s) - self.episode_s

    def check(self) -> EnvSpec:
        """Itself, when an episode fits into its part of the trace.

        Raises:
            InputError: it does not.
        """
        end_s = self.trace.duration_s if self.end_s is None else self.end_s
        if not 0.0 <= self.start_s < end_s <= self.trace.duration_s:
            raise InputError(
                "training traffic",
                f"must lie within the trace's {self.trace.duration_s:g} s (got {self.start_s:g}..{end_s:g} s)",
            )
        if self.episode_s > end_s - self.start_s:
            return replace(self, episode_s=end_s - self.start_s)
        return self


# Columns of the reward scales, one row a lane.
PODS_SCALE, BAD_SCALE, LOAD_SCALE, BAD_LIMIT = 0, 1, 2, 3


@kernel
def step_lanes(
    tables, lanes, n_ticks, actions, rules, memories, capacity, least, most, scales, observations, rewards, sums, totals
):
    """One decision of some lanes: actions become replicas, the world plays on, rewards and observations come out.

    Args:
        lanes: their indices, shape (k,).
        actions: float32, one a service, as in the tables [-1 .. 1].
        rules, memories, capacity, least, most: see `agents.policies.rule`.
        scales: float64, shape (n_lanes, 4): what a pod-second, a bad request and a request weigh, and the largest share of
            bad requests that is priced.
        observations: float32, shape (n_rows, N_FEATURES), a row a service; overwritten.
        rewards: float32, shape (n_rows,); services of a lane share theirs.
        sums: float64, shape (n_lanes, 4): pod-seconds, requests, bad requests and reward of the episode so far.
        totals: float64, shape (4,): the same over all lanes and episodes.
    """
    for index in lanes:
        world = cut(tables, index)
        first, n_services = world.lane.services_first, len(world.services)
        for i in range(n_services):
            residual = MAX_RESIDUAL * min(max(actions[first + i], -1.0), 1.0)
            world.service_states[i].desired_replicas = choose(
                world, i, rules[first + i], memories[first + i], capacity, least, most, residual
            )
        account = world.state.account
        pod_s, requests, good = account.pod_s, account.requests, account.good
        for _ in range(n_ticks):
            tick(world)
        pod_s = account.pod_s - pod_s
        requests = account.requests - requests
        bad = max(0.0, requests - (account.good - good))
        priced = min(bad, scales[index, BAD_LIMIT] * requests)
        reward = (
            scales[index, LOAD_SCALE] * requests - scales[index, PODS_SCALE] * pod_s - scales[index, BAD_SCALE] * priced
        )
        for k, amount in enumerate((pod_s, requests, bad, reward)):
            sums[index, k] += amount
            totals[k] += amount
        for i in range(n_services):
            rewards[first + i] = reward
        see_world(
            world,
            rows(rules, first, n_services),
            rows(memories, first, n_services),
            observations[first : first + n_services],
        )


def worthwhile_threads(spec: EnvSpec, n_envs: int) -> int:
    """Threads that the lanes of a training are best shared among: of the CPUs of this process, no more than four.

    Handing a part of a step over takes as long as some hundred ticks of a service.
    """
    work = n_envs * spec.ticks_per_step * spec.n_services
    return max(1, min(4, len(os.sched_getaffinity(0)), work // _WORTH_A_THREAD))


class Episodes:
    """Lanes that begin anew at random starts and seeds; the kernel side of both environments."""

    def __init__(self, specs: Sequence[EnvSpec], threads: int = 1):
        self.specs = [spec.check() for spec in specs]
        self.worlds = Worlds(
            [Lane(spec.profile, spec.trace, 0, spec.start_s, Scaler.external()) for spec in self.specs],
            threads=threads,
        )
        self.worlds.params["keeps_latencies"] = False  # scrapes go by moments, and nobody asks an env for percentiles
        self._parts = self.worlds.parts
        self._helpers = ThreadPoolExecutor(len(self._parts) - 1) if len(self._parts) > 1 else None
        n_lanes = len(self.specs)
        self.n_services = self.worlds.n_services
        self.lane_of_row = np.repeat(np.arange(n_lanes), self.worlds.params["n_services"])
        self.rules, capacity = batch_of_rules(
            [(spec.profile, completed("rule", RULE_SETTINGS, spec.rule)) for spec in self.specs]
        )
        self.memories = np.zeros(len(self.rules), dtype=RULE_STATE)
        self._capacity = capacity.bad, capacity.least, capacity.most
        self.ticks_per_step = self.specs[0].ticks_per_step
        self.episode_steps = np.array(
            [
                max(1, int(spec.episode_s / (self.ticks_per_step * spec.profile.tick_seconds) + 1e-9))
                for spec in self.specs
            ]
        )
        self.ends = self.episode_steps.copy()  # the step after which each lane's episode is truncated
        self.observations = np.zeros((len(self.rules), N_FEATURES), dtype=np.float32)
        self.rewards = np.zeros(len(self.rules), dtype=np.float32)
        self.sums = np.zeros((n_lanes, 4))
        self.steps = np.zeros(n_lanes, dtype=np.int64)
        self._totals = np.zeros((len(self._parts), 8))  # a line of the CPU's cache for each thread
        self.scales = np.zeros((n_lanes, 4))
        for lane, spec in enumerate(self.specs):
            self.scales[lane] = self._scales(spec)

    @property
    def step_s(self) -> float:
        """Time between two decisions [s]."""
        return self.ticks_per_step * self.specs[0].profile.tick_seconds

    def _scales(self, spec: EnvSpec) -> tuple[float, float, float, float]:
        end_s = spec.trace.duration_s if spec.end_s is None else spec.end_s
        rate = spec.trace.slice(spec.start_s, end_s).mean_per_s  # of the part that episodes may touch, and no more
        busy_per_request = sum(
            cpu_s / service.container.cpu_request_cores
            for service, cpu_s in zip(spec.profile.services, resolve(spec.profile).cpu_seconds_per_request, strict=True)
        )
        busy_pods = max(rate * busy_per_request, sum(s.replicas.min for s in spec.profile.services))
        budget = 1.0 - spec.profile.slo.objective
        per_pod_s = 1.0 / (busy_pods * self.step_s)
        per_bad_request = spec.bad_request_weight / (budget * max(rate * self.step_s, 1e-9))
        return per_pod_s, per_bad_request, per_pod_s * busy_per_request, min(1.0, PRICED_BUDGETS * budget)

    def begin(self, lanes: np.ndarray, generators: Sequence[np.random.Generator]) -> None:
        """Starts new episodes in some lanes; each draws its start, seed and first replicas from its own generator."""
        for lane in lanes:
            spec, generator = self.specs[lane], generators[lane]
            start_s = spec.start_s + generator.random() * max(0.0, spec.last_start_s - spec.start_s)
            record, services = self.worlds.params[lane], self.worlds.of(lane, "services")
            record["traffic"]["start_s"] = start_s
            draw_clocks(record, lane_key(int(generator.integers(2**62))))
            record["sync_phase_ticks"] = 0  # decisions set the pace
            rate = spec.trace.rates_per_s[min(int(start_s / spec.trace.step_s), len(spec.trace.rates_per_s) - 1)]
            for i, service in enumerate(spec.profile.services):
                replicas = initial_replicas(spec.profile, i, float(rate)) * generator.uniform(*INITIAL_REPLICAS)
                services[i]["initial_replicas"] = np.clip(round(replicas), service.replicas.min, service.replicas.max)
        self.worlds.reset(lanes)
        self.sums[lanes] = 0.0
        self.steps[lanes] = 0
        self.ends[lanes] = self.episode_steps[lanes]
        self.memories[np.isin(self.lane_of_row, lanes)] = np.zeros((), RULE_STATE)
        see_lanes(self.worlds.tables, lanes, self.rules, self.memories, self.observations)

    def step(self, actions: np.ndarray) -> np.ndarray:
        """One decision of every lane, actions of shape (n_rows,); returns which lanes' episodes are at their end."""
        rest = []
        if self._helpers is not None:
            rest = [self._helpers.submit(self._step, part, actions) for part in range(1, len(self._parts))]
        self._step(0, actions)
        for part in rest:
            part.result()
        self.steps += 1
        return self.steps >= self.ends

    def _step(self, part: int, actions: np.ndarray) -> None:
        tables, lanes = self._parts[part]
        step_lanes(
            tables, lanes, self.ticks_per_step, actions, self.rules, self.memories, *self._capacity, self.scales,
            self.observations, self.rewards, self.sums, self._totals[part],
        )  # fmt: skip

    @property
    def totals(self) -> np.ndarray:
        """Pod-seconds, requests, bad requests and reward over all lanes and episodes, shape (4,)."""
        return self._totals[:, :4].sum(axis=0)

    def close(self) -> None:
        """Ends its threads."""
        if self._helpers is not None:
            self._helpers.shutdown()

    def summary(self, lane: int) -> dict[str, float]:
        """What the episode of a lane came to, for `info`."""
        pod_s, requests, bad, _ = self.sums[lane]
        seconds = self.steps[lane] * self.ticks_per_step * self.specs[lane].profile.tick_seconds
        return {
            "slo_attainment": float(1.0 - bad / requests) if requests > 0.0 else 1.0,
            "replicas_mean": float(pod_s / seconds),
            "requests": float(requests),
            "bad_requests": float(bad),
        }


def _observation_space(n_services: int) -> gym.spaces.Box:
    return gym.spaces.Box(-BOUND, BOUND, (n_services * N_FEATURES,), dtype=np.float32)


def _action_space(n_services: int) -> gym.spaces.Box:
    return gym.spaces.Box(-1.0, 1.0, (n_services,), dtype=np.float32)


class DevOpsEnv(gym.Env[np.ndarray, np.ndarray]):
    """One environment profile under traffic, to be autoscaled.

    Action space: `Box(-1, 1, (n_services,))`: how far to depart from the rule (`agents/policies/rule.py`), as a share of
    MAX_RESIDUAL, which is added to the log of the load that the rule provides for; 0 is the rule itself.
    Observation space: `Box(-10, 10, (n_services * N_FEATURES,), float32)`; entries of a service in `agents.features.FEATURES`.
    Reward of a step: pods that the arriving load keeps busy, less pods that run (both over those of the mean load), less
    the weighted bad requests; see `EnvSpec`. The first term does not depend on the actions; it takes the day's cycle out
    of the returns.
    Start: a random moment of the traffic, replicas near what the load needs, pods warm.
    End: never terminated; truncated after `EnvSpec.episode_s`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own convention)

    def __init__(self, spec: EnvSpec):
        self._episodes = Episodes([spec])
        self._generator = np.random.default_rng(0)
        self.observation_space = _observation_space(self._episodes.n_services)
        self.action_space = _action_space(self._episodes.n_services)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._generator = np.random.default_rng(seed)
        self._episodes.begin(np.array([0]), [self._generator])
        return self._episodes.observations.flatten(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        ended = self._episodes.step(np.asarray(action, dtype=np.float32).reshape(-1))
        info = self._episodes.summary(0) if ended[0] else {}
        return self._episodes.observations.flatten(), float(self._episodes.rewards[0]), False, bool(ended[0]), info


class OneProcessVecEnv(VecEnv):
    """What stable-baselines3 asks of a VecEnv whose lanes are arrays and not environments of their own."""

    def close(self) -> None:
        """Nothing is held open."""

    render_mode = None

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self, method_name)(*args, **kwargs) for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


class DevOpsVecEnv(OneProcessVecEnv):
    """Many lanes in one kernel call, as stable-baselines3 wants them: one environment a service of a lane.

    Every service is decided for by the same policy, from a vector of its own; the services of a lane share its reward.
    Lane i behaves as a `DevOpsEnv` seeded with `seed + i`, except that the first episodes end at staggered times: lanes
    that all begin anew in the same step would make every few rollouts unlike the others. Ended episodes begin anew at
    once; the last observation is in `infos[i]["terminal_observation"]`, and `TimeLimit.truncated` is always set, since a
    time limit is the only end.

    Args:
        n_lanes: of one spec; a list of specs has a lane for each.
        threads: that lanes are shared among; the outcome does not depend on them.
    """

    def __init__(self, spec: EnvSpec | Sequence[EnvSpec], n_lanes: int = 64, *, stagger: bool = True, threads: int = 1):
        specs = [spec] * n_lanes if isinstance(spec, EnvSpec) else list(spec)
        self.episodes = Episodes(specs, threads)
        super().__init__(len(self.episodes.rules), _observation_space(1), _action_space(1))
        self._stagger = stagger
        self._generators = [np.random.default_rng(i) for i in range(len(specs))]
        self._actions = np.zeros(self.num_envs, dtype=np.float32)
        self._infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]

    def close(self) -> None:
        """Ends the threads that lanes are shared among."""
        self.episodes.close()

    def seed(self, seed: int | None = None) -> list[int | None]:
        first = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        self._generators = [np.random.default_rng(first + i) for i in range(len(self.episodes.specs))]
        return [first + int(lane) for lane in self.episodes.lane_of_row]

    def reset(self) -> np.ndarray:
        episodes, lanes = self.episodes, np.arange(len(self.episodes.specs))
        episodes.begin(lanes, self._generators)
        if self._stagger:
            episodes.ends[:] = np.maximum(1, episodes.episode_steps * (lanes + 1) // len(lanes))
        return episodes.observations.copy()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions[:] = actions.reshape(self.num_envs)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        episodes = self.episodes
        ended = episodes.step(self._actions)
        infos = self._infos
        if ended.any():
            lanes = np.flatnonzero(ended)
            infos = [{} for _ in range(self.num_envs)]
            for row in np.flatnonzero(ended[episodes.lane_of_row]):
                lane = int(episodes.lane_of_row[row])
                infos[row] = {
                    "terminal_observation": episodes.observations[row].copy(),
                    "TimeLimit.truncated": True,
                    "episode": {
                        "r": float(episodes.sums[lane, 3]),
                        "l": int(episodes.steps[lane]),
                        **episodes.summary(lane),
                    },
                }
            episodes.begin(lanes, self._generators)
        return episodes.observations.copy(), episodes.rewards.copy(), ended[episodes.lane_of_row], infos
