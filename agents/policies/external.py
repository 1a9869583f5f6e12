"""HPA `autoscaling/v2` on External metrics with target AverageValue, as KEDA drives one with its triggers.

The controller's own kernel decides: the largest proposal of all triggers counts, tolerance, stabilization windows and the
pace of either direction hold. A metric that is not known yet fails, and holds the HPA back from shrinking. KEDA's
scaling from and to zero is not modelled: a Deployment has one pod or more.

Source: KEDA 2.14, Scaling Deployments, StatefulSets & Custom Resources; Kubernetes v1.28, replica_calculator.go,
GetExternalPerPodMetricReplicas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numba import njit

from agents.observation import Observations
from agents.policies.hpa import Controllers
from agents.policies.settings import PACE_SETTINGS, Setting, completed, for_lanes, problems_of
from sim_core.controlplane.hpa import reconcile_hpa
from sim_core.controlplane.hpa_logs import down_events_of, recommendations_of, up_events_of
from sim_core.controlplane.hpa_manifest import write_metric
from sim_core.dataplane.services.rows import hpa_of_service
from sim_core.errors import PolicyError
from sim_core.world import Lane, Scaler

_MILLI = 1000.0  # milli-units of a metric


class Chosen(NamedTuple):
    """What a policy was set to.

    Attributes:
        own: every setting of the policy itself.
        pace: settings of its HPA that are not the profile's.
    """

    own: dict[str, float]
    pace: dict[str, Any]


class ExternalHpaPolicy:
    """An HPA whose metrics come from outside of the cluster.

    Subclasses say what the settings are, what one pod may have of each metric, and what the metrics are now.

    Args:
        settings: those of the policy, and PACE_SETTINGS of its HPA; the profile's values or the usual ones otherwise.

    Raises:
        PolicyError: unknown names or wrong values; all at once.
    """

    name = "external"
    own_settings: ClassVar[Sequence[Setting]] = ()

    def __init__(self, **settings: Any):
        self._chosen = [self._checked(settings)]
        self.settings: dict[str, Any] = {**self._chosen[0].own, **self._chosen[0].pace}
        self._by_lane: list[Chosen] = []
        self._controllers = Controllers.of([], [])

    @classmethod
    def by_lane(cls, settings: Sequence[Mapping[str, Any]]) -> ExternalHpaPolicy:
        """A policy that plays lane k with settings k."""
        policy = cls()
        policy._chosen = [cls._checked(each) for each in settings]
        return policy

    @classmethod
    def _checked(cls, settings: Mapping[str, Any]) -> Chosen:
        pace = {name: value for name, value in settings.items() if name in PACE_SETTINGS}
        problems = problems_of(cls.own_settings, settings, PACE_SETTINGS)
        try:
            Scaler.hpa(**pace)
        except PolicyError as error:
            problems += error.problems
        if problems:
            raise PolicyError(cls.name, problems)
        own = {name: value for name, value in settings.items() if name not in pace}
        return Chosen(completed(cls.name, cls.own_settings, own), pace)

    def targets(self, lane: Lane, service: int, settings: Mapping[str, float]) -> list[float]:
        """What one pod of a service shall have of each metric, shape (n_metrics,)."""
        raise NotImplementedError

    def values(self, observations: Observations) -> np.ndarray:
        """What the metrics say, shape (n_metrics, n_lanes, n_services); NaN: not known."""
        raise NotImplementedError

    def reset(self, lanes: Sequence[Lane], duration_s: float) -> None:
        self._by_lane = for_lanes(self._chosen, len(lanes))
        records = [
            self._hpa_of(lane, i, chosen)
            for lane, chosen in zip(lanes, self._by_lane, strict=True)
            for i in range(len(lane.profile.services))
        ]
        self._controllers = Controllers.of(records, lanes)
        self._controllers.samples["time_s"] = math.nan

    def _hpa_of(self, lane: Lane, service: int, chosen: Chosen) -> np.void:
        record = hpa_of_service(lane.profile, service, tuple(sorted(chosen.pace.items()))).copy()
        targets = self.targets(lane, service, chosen.own)
        record["n_metrics"] = len(targets)
        for row, target in zip(record["metrics"].view(np.recarray), targets, strict=False):
            value_m = max(1, round(_MILLI * target))
            write_metric(row, {"type": "External", "target": {"type": "AverageValue", "average_value_m": value_m}}, ())
        return record

    def predict(self, observations: Observations) -> np.ndarray:
        desired = np.zeros((observations.n_lanes, observations.n_services), dtype=np.int64)
        _reconcile_lanes(
            *self._controllers.records, *observations.deployments, self._controllers.samples,
            np.round(_MILLI * self.values(observations)), observations.time_s, desired,
        )  # fmt: skip
        return desired

    def scalers(self) -> list[Scaler] | None:
        return None


@njit(cache=True)
def _reconcile_lanes(
    hpas, states, recommendations, up_events, down_events, rows, specs, deployments, pods, pods_first, samples,
    values_m, now_s, desired,
):  # fmt: skip
    for lane in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            row = rows[lane, i]
            if row < 0:
                continue
            hpa, deployment = hpas[row], deployments[row]
            first = pods_first[lane] + specs[row].pods_first
            own = pods[first : first + specs[row].n_pods]
            for metric in range(hpa.n_metrics):
                known = not math.isnan(values_m[metric, lane, i])
                samples[metric, 0].time_s = now_s[lane] if known else math.nan
                samples[metric, 0].usage_m[0] = int(values_m[metric, lane, i]) if known else 0
            desired[lane, i] = reconcile_hpa(
                hpa, states[row], recommendations_of(hpa, recommendations), up_events_of(hpa, up_events),
                down_events_of(hpa, down_events), own, deployment.n_pods, samples, deployment.desired_replicas,
                deployment.n_active, 0, now_s[lane],
            )  # fmt: skip
