"""What a learned policy chooses: how much of the recent load to provide for.

An action picks what load to provide for and a target utilization; the replicas follow as for a rate-based autoscaler,
ceil(load / target utilization). Every fixed action is a sensible autoscaler by itself, so
learning starts from one and finds when to be bold and when to be careful.
"""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np

from agents.observation import LOG_LOAD_CENTER, N_SERVICE_FEATURES, PEAK_SCRAPES, SEASON_STEP_S, SEASON_STEPS
from sim_core.compiled import kernel

TARGET_UTILIZATIONS = np.array([0.74, 0.82, 0.87, 0.91, 0.94, 0.96, 0.98])
# What load is provided for: pairs of a window of recent scrapes and a look ahead on earlier days (index into
# SEASON_STEPS, or -1 for none); the higher of the two counts.
BASES = np.array([[0, -1], [1, -1], [2, -1], [0, 1], [0, 2], [1, 2]])
N_ACTIONS = len(BASES) * len(TARGET_UTILIZATIONS)
# Where the log of the peak over a window stands behind the log of the load; the newest scrape is its own peak.
PEAK_FEATURE = N_SERVICE_FEATURES - 1 - len(PEAK_SCRAPES)


def describe_action(action: int) -> str:
    """An action in words, for people."""
    base, target = divmod(int(action), len(TARGET_UTILIZATIONS))
    window, ahead = BASES[base]
    season = f" or {SEASON_STEPS[ahead] * SEASON_STEP_S:g} s ahead on earlier days" if ahead >= 0 else ""
    return f"highest load of {PEAK_SCRAPES[window]} scrapes{season}, at {TARGET_UTILIZATIONS[target]:.0%}"


def action_space(n_services: int) -> gym.Space:
    """One choice a service."""
    return gym.spaces.Discrete(N_ACTIONS) if n_services == 1 else gym.spaces.MultiDiscrete([N_ACTIONS] * n_services)


@kernel
def replicas_for(observation, n_services, service, action, headroom):
    """Replicas that an action asks for [pods].

    Args:
        observation: a lane's vector.
        service: index of the service, of `n_services`.
        action: 0 .. N_ACTIONS - 1.
        headroom: factor on the result before it is rounded up, 1 while learning.
    """
    base = action // len(TARGET_UTILIZATIONS)
    target = TARGET_UTILIZATIONS[action - base * len(TARGET_UTILIZATIONS)]
    at = service * N_SERVICE_FEATURES
    change = 0.0
    if BASES[base, 0] > 0:
        change = observation[at + PEAK_FEATURE + BASES[base, 0]]
    if BASES[base, 1] >= 0:
        ahead = observation[n_services * N_SERVICE_FEATURES + BASES[base, 1]]
        change = ahead if BASES[base, 0] == 0 else max(change, ahead)
    load = math.exp(observation[at] + LOG_LOAD_CENTER + change)
    # float32 features: a load that is a whole number of pods must not round up to one more
    return math.ceil(load * headroom / target - 1e-3)
