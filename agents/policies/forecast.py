"""Pods by a forecast of the traffic's daily season, and by the request rate: KEDA with a predicting trigger.

The forecast is fitted when a lane begins and once an hour, on what a metrics database remembers by then. Where the past
is too short for a season, the request rate alone decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from agents.observation import Observations
from agents.policies.capacity import calls_per_pod_s, time_to_ready_s
from agents.policies.external import ExternalHpaPolicy
from agents.policies.request_rate import call_rates
from agents.policies.seasonal import STEP_S, STEPS_AHEAD, forecast
from agents.policies.settings import FORECAST, Setting
from sim_core.dataplane.services.graph import resolve
from sim_core.world import Lane

_REFIT_S = 3600.0


class ForecastPolicy(ExternalHpaPolicy):
    """The larger of two: replicas for the load until a pod asked for now is ready, and for the newest published scrape.

    Args:
        settings: `headroom`: pods over the load in pods [1], of both; `quantile`: of the forecast [1]; `mstl_share`:
            what the forecast by MSTL counts, the rest is Holt-Winters' [1]; `extra_lead_s`: how much farther it looks
            ahead than a pod takes to become ready [s]; and PACE_SETTINGS.
    """

    name = "forecast"
    own_settings: ClassVar[Sequence[Setting]] = FORECAST

    def targets(self, lane: Lane, service: int, settings: Mapping[str, float]) -> list[float]:
        return [calls_per_pod_s(lane.profile, service) / settings["headroom"]] * 2

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        super().reset(lanes, duration_s)
        shape = len(lanes), max(len(lane.profile.services) for lane in lanes)
        self._visits, self._lead_s = np.zeros(shape), np.zeros(shape)
        for k, lane in enumerate(lanes):
            n_services = len(lane.profile.services)
            self._visits[k, :n_services] = resolve(lane.profile).visits
            ready_s = [time_to_ready_s(service) for service in lane.profile.services]
            self._lead_s[k, :n_services] = np.array(ready_s) + self._by_lane[k].own["extra_lead_s"]
        self._fitted = np.full(len(lanes), -1)
        self._ahead = np.full((len(lanes), STEPS_AHEAD), np.nan)  # [1/s]
        self._begin_s = np.zeros(len(lanes))  # of the first step ahead, by `clock_s`

    def values(self, observations: Observations) -> np.ndarray:
        clock_s = observations.clock_s
        due = (clock_s / _REFIT_S).astype(int)
        for lane in np.flatnonzero(due != self._fitted).tolist():
            past = observations.past_rates(lane, STEP_S)
            self._ahead[lane] = rates_ahead(past, self._by_lane[lane].own)
            self._begin_s[lane] = len(past) * STEP_S
        self._fitted = due
        rate = call_rates(observations)
        until_s = (clock_s - self._begin_s)[:, None] + np.zeros_like(self._lead_s)
        highest = self._at(until_s)
        for step in range(1, math.ceil(self._lead_s.max() / STEP_S) + 1):
            highest = np.maximum(highest, self._at(until_s + np.minimum(step * STEP_S, self._lead_s)))
        expected = highest * self._visits
        return np.stack([rate, np.where(np.isnan(expected), rate, expected)])

    def _at(self, ahead_s: np.ndarray) -> np.ndarray:
        """Forecast rates [1/s] so long after the first step's begin [s], both of shape (n_lanes, n_services)."""
        place = np.clip(ahead_s / STEP_S - 0.5, 0.0, STEPS_AHEAD - 1.0)
        before = np.minimum(place.astype(int), STEPS_AHEAD - 2)
        left = np.take_along_axis(self._ahead, before, axis=1)
        right = np.take_along_axis(self._ahead, before + 1, axis=1)
        return np.asarray(left + (place - before) * (right - left))


def rates_ahead(past: np.ndarray, settings: Mapping[str, float]) -> np.ndarray:
    """A quantile of the request rates to come, shape (STEPS_AHEAD,) [1/s]; NaN where the past is too short.

    Where it is long enough for one of the two methods only, that one decides.
    """
    share = settings["mstl_share"]
    # Holt-Winters needs the shorter past: where it is not asked, it stands in for MSTL.
    mstl = forecast(past, "mstl") if share > 0.0 else None
    smoothed = forecast(past, "holt-winters") if share < 1.0 or mstl is None else None
    if mstl is None or smoothed is None:
        found = mstl or smoothed
        if found is None:
            return np.full(STEPS_AHEAD, np.nan)
        log_mean, log_sd = found
    else:
        log_mean, log_sd = (share * own + (1.0 - share) * other for own, other in zip(mstl, smoothed, strict=True))
    return np.asarray(np.exp(log_mean + NormalDist().inv_cdf(settings["quantile"]) * log_sd))
