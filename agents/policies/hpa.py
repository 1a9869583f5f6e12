"""The HorizontalPodAutoscaler as a policy: the controller's own kernel, fed from the API server's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from agents.observation import Observations
from agents.policies.settings import for_lanes
from sim_core.controlplane.hpa import reconcile_hpa
from sim_core.controlplane.hpa_logs import down_events_of, place_logs, recommendations_of, up_events_of
from sim_core.controlplane.hpa_records import EVENT, HPA, HPA_STATE, RECOMMENDATION
from sim_core.controlplane.pods import SAMPLE, collect_samples
from sim_core.dataplane.services.rows import hpa_of_service, pod_rows
from sim_core.limits import MAX_METRICS
from sim_core.world import Lane, Scaler


class Controllers(NamedTuple):
    """HorizontalPodAutoscalers outside of the simulation, one a service of a lane, as they stand in tables.

    Attributes:
        records: HPA and HPA_STATE records, then the logs that those place: recommendations, events up and down.
        samples: room for the answers of metrics, shape (MAX_METRICS, pods of the largest service).
    """

    records: tuple[np.ndarray, ...]
    samples: np.ndarray

    @classmethod
    def of(cls, hpas: Sequence[np.void], lanes: Sequence[Lane]) -> Controllers:
        """Controllers that have seen nothing yet.

        Args:
            hpas: their HPA records; the places of their logs are set here.
        """
        table = np.array(hpas, dtype=HPA)
        rows = place_logs(table)
        logs = ((rows.recommendations, RECOMMENDATION), (rows.up_events, EVENT), (rows.down_events, EVENT))
        records = table, np.zeros(len(hpas), dtype=HPA_STATE), *(np.zeros(max(1, n), dtype) for n, dtype in logs)
        return cls(records, np.zeros((MAX_METRICS, most_pods(lanes)), dtype=SAMPLE))


class HpaPolicy:
    """HPA `autoscaling/v2` on CPU utilization, as the profile has it or with other settings.

    Args:
        settings: by name, see `sim_core.world.HPA_SETTINGS`.
    """

    name = "hpa"

    def __init__(self, **settings: object):
        self._chosen = [Scaler.hpa(**settings)]
        self.settings = dict(settings)
        self._scalers: list[Scaler] = []
        self._controllers = Controllers.of([], [])

    @classmethod
    def by_lane(cls, settings: Sequence[Mapping[str, Any]]) -> HpaPolicy:
        """A policy that plays lane k with settings k."""
        policy = cls()
        policy._chosen = [Scaler.hpa(**each) for each in settings]
        return policy

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        self._scalers = for_lanes(self._chosen, len(lanes))
        records = [
            hpa_of_service(lane.profile, i, tuple(sorted(scaler.settings.items())))
            for lane, scaler in zip(lanes, self._scalers, strict=True)
            for i in range(len(lane.profile.services))
        ]
        self._controllers = Controllers.of(records, lanes)

    def predict(self, observations: Observations) -> np.ndarray:
        desired = np.zeros((observations.n_lanes, observations.n_services), dtype=np.int64)
        _reconcile_lanes(
            *self._controllers.records, *observations.deployments, self._controllers.samples,
            observations.sample_time_s, observations.sample_window_s, observations.time_s, desired,
        )  # fmt: skip
        return desired

    def scalers(self) -> list[Scaler]:
        return self._scalers


@njit(cache=True)
def _reconcile_lanes(
    hpas, states, recommendations, up_events, down_events, rows, specs, deployments, pods, pods_first, samples,
    sample_time_s, window_s, now_s, desired,
):  # fmt: skip
    for lane in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            row = rows[lane, i]
            if row < 0:
                continue
            hpa, deployment = hpas[row], deployments[row]
            first = pods_first[lane] + specs[row].pods_first
            own = pods[first : first + specs[row].n_pods]
            collect_samples(deployment, own, samples[0], sample_time_s[lane], window_s[lane])
            desired[lane, i] = reconcile_hpa(
                hpa, states[row], recommendations_of(hpa, recommendations), up_events_of(hpa, up_events),
                down_events_of(hpa, down_events), own, deployment.n_pods, samples, deployment.desired_replicas,
                deployment.n_active, 0, now_s[lane],
            )  # fmt: skip


def most_pods(lanes: Sequence[Lane]) -> int:
    """Rows that the largest service of these lanes has for its pods."""
    return max((pod_rows(service.replicas.max) for lane in lanes for service in lane.profile.services), default=1)
