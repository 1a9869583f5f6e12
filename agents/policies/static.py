"""The same number of replicas all the time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agents.observation import Observations
from sim_core.dataplane.services.profile import MAX_PODS
from sim_core.errors import PolicyError
from sim_core.world import Lane, Scaler


class StaticPolicy:
    """A fixed Deployment, as teams without an autoscaler run it.

    Args:
        replicas: of every service, within the service's own limits [pods].
    """

    name = "static"

    def __init__(self, replicas: int):
        if not 1 <= replicas <= MAX_PODS:
            raise PolicyError("static", f"replicas: must be between 1 and {MAX_PODS} (got {replicas})")
        self.replicas = int(replicas)
        self._n_lanes = 0

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        self._n_lanes = len(lanes)

    def predict(self, observations: Observations) -> np.ndarray:
        return np.full((observations.n_lanes, observations.n_services), self.replicas, dtype=np.int64)

    def scalers(self) -> list[Scaler]:
        return [Scaler.static(self.replicas)] * self._n_lanes
