"""The HorizontalPodAutoscaler as a policy: the controller's own kernel, fed from the API server's answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from agents.observation import Observations
from sim_core.controlplane.hpa import reconcile_hpa
from sim_core.controlplane.hpa_logs import down_events_of, place_logs, recommendations_of, up_events_of
from sim_core.controlplane.hpa_records import EVENT, HPA, HPA_STATE, RECOMMENDATION
from sim_core.controlplane.pods import SAMPLE, collect_samples
from sim_core.limits import MAX_METRICS, MAX_PODS
from sim_core.world import Lane, Scaler, hpa_of_service


class HpaPolicy:
    """HPA `autoscaling/v2` on CPU utilization, as the profile has it or with other settings.

    Args:
        settings: by name, see `sim_core.world.HPA_SETTINGS`.
    """

    name = "hpa"

    def __init__(self, **settings: object):
        self._scaler = Scaler.hpa(**settings)
        self.settings = dict(settings)
        self._n_lanes = 0
        self._hpa = np.zeros((0, 0), dtype=HPA)
        self._state = np.zeros((0, 0), dtype=HPA_STATE)
        self._recommendations = np.zeros(0, dtype=RECOMMENDATION)
        self._up_events = np.zeros(0, dtype=EVENT)
        self._down_events = np.zeros(0, dtype=EVENT)
        self._samples = np.zeros((MAX_METRICS, MAX_PODS), dtype=SAMPLE)
        self._window_s = np.zeros(0)

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        self._n_lanes = len(lanes)
        n_services = max(len(lane.profile.services) for lane in lanes)
        self._hpa = np.zeros((len(lanes), n_services), dtype=HPA)
        self._state = np.zeros((len(lanes), n_services), dtype=HPA_STATE)
        self._window_s = np.array([lane.profile.telemetry.scrape_interval_seconds for lane in lanes])
        settings = tuple(sorted(self.settings.items()))
        for row, lane in zip(self._hpa, lanes, strict=True):
            for i in range(len(lane.profile.services)):
                row[i] = hpa_of_service(lane.profile, i, settings)
        rows = place_logs(hpa for row in self._hpa for hpa in row if hpa["max_replicas"] > 0)
        self._recommendations = np.zeros(rows.recommendations, dtype=RECOMMENDATION)
        self._up_events = np.zeros(rows.up_events, dtype=EVENT)
        self._down_events = np.zeros(rows.down_events, dtype=EVENT)

    def predict(self, observations: Observations) -> np.ndarray:
        services = observations.deployments
        desired = np.zeros((observations.n_lanes, observations.n_services), dtype=np.int64)
        _reconcile_lanes(
            self._hpa, self._state, self._recommendations, self._up_events, self._down_events, services,
            self._samples, observations.sample_time_s,
            self._window_s, observations.time_s, desired,
        )  # fmt: skip
        return desired

    def scalers(self) -> list[Scaler]:
        return [self._scaler] * self._n_lanes


@njit(cache=True)
def _reconcile_lanes(
    hpas, states, recommendations, up_events, down_events, deployments, samples, sample_time_s, window_s, now_s, desired
):
    for lane in range(desired.shape[0]):
        for i in range(desired.shape[1]):
            hpa, deployment = hpas[lane, i], deployments[lane, i]
            if hpa.max_replicas == 0:  # the lane has fewer services
                continue
            collect_samples(deployment, deployment.pods, samples[0], sample_time_s[lane], window_s[lane])
            desired[lane, i] = reconcile_hpa(
                hpa, states[lane, i], recommendations_of(hpa, recommendations), up_events_of(hpa, up_events),
                down_events_of(hpa, down_events), deployment.pods, deployment.n_pods, samples,
                deployment.desired_replicas, deployment.n_active, 0, now_s[lane],
            )  # fmt: skip
