"""Pods by the hour of the day, from the days before, and by the request rate: KEDA's cron and Prometheus triggers.

The schedule is what a team reads off its dashboards: for each hour of the day a quantile of the load that was seen in
that hour on the days before. Where no day lies before, the request rate alone decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from agents.observation import Observations
from agents.policies.capacity import calls_per_pod_s, time_to_ready_s
from agents.policies.external import ExternalHpaPolicy
from agents.policies.request_rate import call_rates
from agents.policies.settings import SCHEDULED, Setting
from sim_core.dataplane.services.graph import resolve
from sim_core.world import Lane

_STEP_S = 300.0  # in which the past is read
_HOUR_S, _DAY_S = 3600.0, 86_400.0


class ScheduledPolicy(ExternalHpaPolicy):
    """The larger of two: the replicas of the hour, and those that the newest published scrape asks for.

    The replicas of an hour are asked for as early as a pod takes to become ready.

    Args:
        settings: `headroom`: pods over the load in pods [1], of both; `schedule_share`: of the earlier days' load that
            the schedule is made for [1]; `quantile`: of that load within the hour over these days [1]; `days`: how many
            of them count; and PACE_SETTINGS.
    """

    name = "scheduled"
    own_settings: ClassVar[Sequence[Setting]] = SCHEDULED

    def targets(self, lane: Lane, service: int, settings: Mapping[str, float]) -> list[float]:
        return [calls_per_pod_s(lane.profile, service) / settings["headroom"], 1.0]

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        super().reset(lanes, duration_s)
        shape = len(lanes), max(len(lane.profile.services) for lane in lanes)
        self._lead_s = np.zeros(shape)
        self._pods_per_request = np.zeros(shape)  # replicas that one user request a second asks for
        for k, lane in enumerate(lanes):
            for i, service in enumerate(lane.profile.services):
                own = self._by_lane[k].own
                self._lead_s[k, i] = min(time_to_ready_s(service), _HOUR_S)
                calls = resolve(lane.profile).visits[i] / calls_per_pod_s(lane.profile, i)
                self._pods_per_request[k, i] = own["headroom"] * own["schedule_share"] * calls
        self._hour = np.full(len(lanes), -1)
        self._loads = np.zeros((len(lanes), 2))  # of this hour and the next [1/s]

    def values(self, observations: Observations) -> np.ndarray:
        clock_s = observations.clock_s
        hours = (clock_s / _HOUR_S).astype(int)
        for lane in np.flatnonzero(hours != self._hour).tolist():
            past, own = observations.past_rates(lane, _STEP_S), self._by_lane[lane].own
            self._loads[lane] = [
                load_of_hour(past, int(hours[lane]) + k, int(own["days"]), own["quantile"]) for k in (0, 1)
            ]
        self._hour = hours
        begins_soon = clock_s[:, None] + self._lead_s >= (hours[:, None] + 1) * _HOUR_S
        load = np.where(begins_soon, self._loads.max(axis=1)[:, None], self._loads[:, :1])
        return np.stack([call_rates(observations), np.ceil(load * self._pods_per_request - 1e-9)])


def load_of_hour(past: np.ndarray, hour: int, days: int, quantile: float) -> float:
    """Request rate of an hour as it was at this time of day on the days before [1/s]; 0 where there is none.

    Args:
        past: mean rates in steps of _STEP_S since a midnight, shape (n_steps,) [1/s].
        hour: since that midnight; it may lie behind the past.
        days: at most so many of the days before it.
        quantile: of all steps of these hours [1].
    """
    n, n_day = int(_HOUR_S / _STEP_S), int(_DAY_S / _STEP_S)
    begins = [hour * n - day * n_day for day in range(1, days + 1)]
    seen = [past[begin : begin + n] for begin in begins if begin >= 0 and begin + n <= len(past)]
    return float(np.quantile(np.concatenate(seen), quantile)) if seen else 0.0
