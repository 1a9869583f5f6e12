"""An environment that costs nothing, to see what the learner alone can do."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from agents.env import OneProcessVecEnv


class FreeVecEnv(OneProcessVecEnv):
    """Spaces and batch size of another VecEnv; every step returns the same prepared arrays."""

    def __init__(self, like: VecEnv):
        super().__init__(like.num_envs, like.observation_space, like.action_space)
        assert isinstance(like.observation_space, gym.spaces.Box)
        generator = np.random.default_rng(0)
        shape = (like.num_envs, *like.observation_space.shape)
        self._observations = generator.standard_normal(shape).astype(np.float32)
        self._rewards = generator.standard_normal(like.num_envs).astype(np.float32)
        self._ended = np.zeros(like.num_envs, dtype=bool)
        self._infos: list[dict[str, Any]] = [{} for _ in range(like.num_envs)]

    def reset(self) -> np.ndarray:
        return self._observations

    def step_async(self, actions: np.ndarray) -> None:
        """Nothing depends on the actions."""

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        return self._observations, self._rewards, self._ended, self._infos
