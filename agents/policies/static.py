"""The same number of replicas all the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.observation import Observations
from agents.policies.settings import for_lanes
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
        self.settings: dict[str, Any] = {"replicas": _checked(replicas)}
        self._chosen = [self.settings["replicas"]]
        self._replicas = np.zeros(0, dtype=np.int64)

    @classmethod
    def by_lane(cls, settings: Sequence[Mapping[str, Any]]) -> StaticPolicy:
        """A policy that plays lane k with settings k."""
        policy = cls(settings[0]["replicas"])
        policy._chosen = [_checked(each["replicas"]) for each in settings]
        return policy

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        self._replicas = np.array(for_lanes(self._chosen, len(lanes)), dtype=np.int64)

    def predict(self, observations: Observations) -> np.ndarray:
        return np.repeat(self._replicas[:, None], observations.n_services, axis=1)

    def scalers(self) -> list[Scaler]:
        return [Scaler.static(int(replicas)) for replicas in self._replicas]


def _checked(replicas: Any) -> int:
    if isinstance(replicas, bool) or not isinstance(replicas, int | float) or not float(replicas).is_integer():
        raise PolicyError("static", f"replicas: must be a whole number (got {replicas!r})")
    if not 1 <= replicas <= MAX_PODS:
        raise PolicyError("static", f"replicas: must be between 1 and {MAX_PODS} (got {replicas})")
    return int(replicas)
