"""What a decision of the rule, or of a learned policy on top of it, was made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from agents.observation import Observations
from agents.policies.contract import play
from agents.policies.learned import LearnedPolicy
from agents.policies.rule import RulePolicy, cheapest
from sim_core.engines import FLUID
from sim_core.world import Lane, Scaler

# Columns of a decision, by what they mean.
COLUMNS = {
    "time_s": "of the lane's clock",
    "at_s": "of the traffic, which begins at a midnight [s]",
    "service": "name",
    "load": "of the newest scrape [pods at 100 % of their request]",
    "ahead_s": "from the decision until what it orders has taken effect [s]",
    "forecast": "of the load when pods ordered now are ready [pods]",
    "uncertainty": "standard deviation of the log of the load over its forecast [1]",
    "low": "of the load that is provided for then, 5 % of it lies below [pods]",
    "high": "of the same, 5 % of it lies above; what waits and what was learned are in both [pods]",
    "budget_spent": "of the error budget, 1 is just all of it [1]",
    "price": "of the error budget, in the pods that the load keeps busy [1]",
    "residual": "what a learned policy added to the log of the load [1]",
    "needed": "replicas that cost least, bad requests counted in [pods]",
    "margin": "those over the forecast, less 1 [1]",
    "for_uncertainty": "of those, what an exact forecast would not have needed [pods]",
    "for_budget": "of those, what the price adds that the budget's state has made of the usual one [pods]",
    "overdue": "pods that should have been ready and do not count [pods]",
    "stale": "whether metrics were too old, and everything was held",
    "desired": "replicas asked for [pods]",
    "ready": "replicas that were ready then [pods]",
}
_TWENTIETH = 1.645  # standard deviations above the mean that a normal variable exceeds once in twenty


def decisions_of(
    policy: RulePolicy | LearnedPolicy, lane: Lane, duration_s: float, engine: str = FLUID
) -> pd.DataFrame:
    """Every decision of a policy that plays one lane, a row a decision and service, with COLUMNS.

    Args:
        duration_s: how long it plays [s].
        engine: see `agents.policies.contract.play`.

    Raises:
        InputError: the traffic does not reach so far.
    """
    watched = Explained(policy)
    play([lane], watched, duration_s, engine=engine)
    return watched.decisions.drop(columns="lane")


class Explained:
    """A policy whose decisions are noted; otherwise the same.

    Args:
        policy: the rule, or a learned one.
    """

    def __init__(self, policy: RulePolicy | LearnedPolicy):
        self.name, self.settings = policy.name, dict(policy.settings)
        self._policy = policy
        self._noted: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._services: list[str] = []
        self._lane_of_row = np.zeros(0, dtype=int)
        self._start_s = np.zeros(0)

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        self._policy.reset(lanes, duration_s)
        self._noted = []
        self._services = [service.name for lane in lanes for service in lane.profile.services]
        self._lane_of_row = np.repeat(np.arange(len(lanes)), [len(lane.profile.services) for lane in lanes])
        self._start_s = np.array([lane.start_s for lane in lanes])

    def predict(self, observations: Observations) -> np.ndarray:
        desired = self._policy.predict(observations)
        ready = observations.deployments.states["n_ready"].copy()
        self._noted.append((observations.time_s.copy(), self._policy.states.copy(), ready))
        return desired

    def scalers(self) -> list[Scaler] | None:
        return None

    @property
    def decisions(self) -> pd.DataFrame:
        """One row a decision of a service: `lane`, and COLUMNS."""
        moments = len(self._noted)
        lane = np.tile(self._lane_of_row, moments)
        time_s = np.concatenate([times_s[self._lane_of_row] for times_s, _, _ in self._noted])
        states: Any = np.concatenate([states for _, states, _ in self._noted])
        rules: Any = np.tile(self._policy.rules, moments)
        log_ahead, spread = states["forecast"]["log_ahead"][:, -1], states["spread"][:, -1]
        provided_for = np.exp(log_ahead + states["residual"]) + states["waiting"]
        furthest = np.exp(_TWENTIETH * spread * (1.0 + _TWENTIETH * rules["tail"]))
        needed = states["needed"].max(axis=1)
        parts = np.array([self._parts(rule, state) for rule, state in zip(rules, states, strict=True)])
        told: dict[str, Any] = {
            "lane": lane,
            "time_s": time_s,
            "at_s": self._start_s[lane] + time_s,
            "service": self._services * moments,
            "load": np.exp(states["forecast"]["log_load"]),
            "ahead_s": rules["ahead_s"][:, -1],
            "forecast": np.exp(log_ahead),
            "uncertainty": spread,
            "low": provided_for / furthest,
            "high": provided_for * furthest,
            "budget_spent": states["spent"],
            "price": states["price"],
            "residual": states["residual"],
            "needed": needed,
            "margin": needed / np.maximum(np.exp(log_ahead), 1e-9) - 1.0,
            "for_uncertainty": parts[:, 0],
            "for_budget": parts[:, 1],
            "overdue": states["overdue"],
            "stale": states["stale"],
            "desired": states["desired"],
            "ready": np.concatenate([ready for _, _, ready in self._noted]),
        }
        return pd.DataFrame(told)

    def _parts(self, rule: Any, state: Any) -> tuple[int, int]:
        """Pods of those needed that are there for the uncertainty, and for what the budget's state made of the price."""
        if state["stale"]:
            return 0, 0
        at_usual_price = self._needed(rule, state, state["spread"])
        exact = self._needed(rule, state, np.zeros_like(state["spread"]))
        return at_usual_price - exact, int(state["needed"].max()) - at_usual_price

    def _needed(self, rule: Any, state: Any, spread: np.ndarray) -> int:
        """Replicas that cost least at the usual price, were the forecast as unsure as this."""
        capacity = self._policy.capacity
        loads = np.exp(state["forecast"]["log_ahead"] + state["residual"]) + state["waiting"]
        loads = loads / rule["full_load"]
        lowest = int(rule["min_replicas"])
        highest = max(lowest, min(int(rule["max_replicas"]), 2 * int(state["needed"].max()) + 2))
        return max(
            int(
                cheapest(
                    capacity.bad[rule["capacity"]], capacity.least, capacity.most, math.log(load), unsure,
                    rule["tail"], rule["price"] * load / rule["budget"], lowest, highest,
                )
            )
            for load, unsure in zip(loads, spread, strict=True)
        )  # fmt: skip
