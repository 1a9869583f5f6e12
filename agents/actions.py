"""What a learned policy chooses: how much of the recent load to provide for.

An action picks a window and a target utilization; the replicas follow as for a rate-based autoscaler,
ceil(highest load in the window / target utilization). Every fixed action is a sensible autoscaler by itself, so
learning starts from one and finds when to be bold and when to be careful.
"""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
from numba import njit

from agents.observation import LOG_LOAD_CENTER, N_SERVICE_FEATURES, PEAK_SCRAPES

TARGET_UTILIZATIONS = np.array([0.62, 0.72, 0.80, 0.86, 0.91, 0.95, 1.0])
N_ACTIONS = len(PEAK_SCRAPES) * len(TARGET_UTILIZATIONS)
# Where the log of the peak over a window stands behind the log of the load; the newest scrape is its own peak.
PEAK_FEATURE = N_SERVICE_FEATURES - 1 - len(PEAK_SCRAPES)


def describe_action(action: int) -> str:
    """An action in words, for people."""
    window, target = divmod(int(action), len(TARGET_UTILIZATIONS))
    return f"highest load of {PEAK_SCRAPES[window]} scrapes at {TARGET_UTILIZATIONS[target]:.0%}"


def action_space(n_services: int) -> gym.Space:
    """One choice a service."""
    return gym.spaces.Discrete(N_ACTIONS) if n_services == 1 else gym.spaces.MultiDiscrete([N_ACTIONS] * n_services)


@njit(cache=True, error_model="numpy")
def replicas_for(observation, service, action, headroom):
    """Replicas that an action asks for [pods].

    Args:
        observation: a lane's vector.
        service: index of the service.
        action: 0 .. N_ACTIONS - 1.
        headroom: factor on the result before it is rounded up, 1 while learning.
    """
    window = action // len(TARGET_UTILIZATIONS)
    target = TARGET_UTILIZATIONS[action - window * len(TARGET_UTILIZATIONS)]
    at = service * N_SERVICE_FEATURES
    log_load = observation[at] + LOG_LOAD_CENTER
    if window > 0:
        log_load += observation[at + PEAK_FEATURE + window]
    # float32 features: a load that is a whole number of pods must not round up to one more
    return int(math.ceil(math.exp(log_load) * headroom / target - 1e-3))
