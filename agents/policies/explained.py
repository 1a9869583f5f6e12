"""What a decision of the rule, or of a learned policy on top of it, was made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from agents.observation import Observations
from agents.policies.learned import LearnedPolicy
from agents.policies.rule import RulePolicy
from sim_core.world import Lane, Scaler

# Columns of a decision, by what they mean.
COLUMNS = {
    "time_s": "of the lane's clock",
    "service": "name",
    "load": "of the newest scrape [pods at 100 % of their request]",
    "forecast": "of the load when pods ordered now are ready [pods]",
    "uncertainty": "standard deviation of the log of the load over its forecast [1]",
    "budget_spent": "of the error budget, 1 is just all of it [1]",
    "price": "of the error budget, in the pods that the load keeps busy [1]",
    "residual": "what a learned policy added to the log of the load [1]",
    "needed": "replicas that cost least, bad requests counted in [pods]",
    "margin": "those over the forecast, less 1 [1]",
    "overdue": "pods that should have been ready and do not count [pods]",
    "stale": "whether metrics were too old, and everything was held",
    "desired": "replicas asked for [pods]",
}


class Explained:
    """A policy whose decisions are noted; otherwise the same.

    Args:
        policy: the rule, or a learned one.
    """

    def __init__(self, policy: RulePolicy | LearnedPolicy):
        self.name, self.settings = policy.name, dict(policy.settings)
        self._policy = policy
        self._noted: list[tuple[np.ndarray, np.ndarray]] = []
        self._services: list[str] = []
        self._lane_of_row = np.zeros(0, dtype=int)

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        self._policy.reset(lanes, duration_s)
        self._noted = []
        self._services = [service.name for lane in lanes for service in lane.profile.services]
        self._lane_of_row = np.repeat(np.arange(len(lanes)), [len(lane.profile.services) for lane in lanes])

    def predict(self, observations: Observations) -> np.ndarray:
        desired = self._policy.predict(observations)
        self._noted.append((observations.time_s.copy(), self._policy.states.copy()))
        return desired

    def scalers(self) -> list[Scaler] | None:
        return None

    @property
    def decisions(self) -> pd.DataFrame:
        """One row a decision of a service: `lane`, and COLUMNS."""
        frames = []
        for times_s, states in self._noted:
            forecast = states["forecast"]
            ahead = np.exp(forecast["log_ahead"][:, -1])
            needed = states["needed"].max(axis=1)
            told: dict[str, Any] = {
                "lane": self._lane_of_row,
                "time_s": times_s[self._lane_of_row],
                "service": self._services,
                "load": np.exp(forecast["log_load"]),
                "forecast": ahead,
                "uncertainty": states["spread"][:, -1],
                "budget_spent": states["spent"],
                "price": states["price"],
                "residual": states["residual"],
                "needed": needed,
                "margin": needed / np.maximum(ahead, 1e-9) - 1.0,
                "overdue": states["overdue"],
                "stale": states["stale"],
                "desired": states["desired"],
            }
            frames.append(pd.DataFrame(told))
        return pd.concat(frames, ignore_index=True)
