"""Pods by the request rate: KEDA's Prometheus trigger on the calls that each service gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from agents.observation import Observations
from agents.policies.capacity import calls_per_pod_s
from agents.policies.external import ExternalHpaPolicy
from agents.policies.settings import REQUEST_RATE, Setting
from sim_core.world import Lane


class RequestRatePolicy(ExternalHpaPolicy):
    """Replicas that bring each pod's calls to a share of what it can take, from the newest published scrape.

    Args:
        settings: `target_utilization`: calls of a pod over those that use up its CPU request or its workers [1]; and
            PACE_SETTINGS.
    """

    name = "request-rate"
    own_settings: ClassVar[Sequence[Setting]] = REQUEST_RATE

    def targets(self, lane: Lane, service: int, settings: Mapping[str, float]) -> list[float]:
        return [settings["target_utilization"] * calls_per_pod_s(lane.profile, service)]

    def values(self, observations: Observations) -> np.ndarray:
        return call_rates(observations)[None]


def call_rates(observations: Observations) -> np.ndarray:
    """Calls of each service in the newest published scrape, shape (n_lanes, n_services) [1/s]; NaN before the first."""
    seen = observations.services["call_rate_per_s"]
    unknown = observations.telemetry["time_s"] == 0.0
    return np.where(unknown[:, None], np.nan, seen)
