"""What the settings of each policy may be in a search, and which of them trades its pods for good requests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agents.learning.search import Family, Parameter, Part
from agents.policies.clairvoyant import ClairvoyantPolicy, KnownRatesPolicy
from agents.policies.forecast import ForecastPolicy
from agents.policies.hpa import HpaPolicy
from agents.policies.request_rate import RequestRatePolicy
from agents.policies.rule import RulePolicy
from agents.policies.scheduled import ScheduledPolicy
from agents.policies.settings import RULE as RULE_SETTINGS
from agents.policies.static import StaticPolicy
from sim_core.world import capacity_per_replica

# Static fleets are tried from this utilization of the mean load to this one of the peak.
STATIC_UTILIZATIONS = (1.0, 0.4)
# No fewer pods are kept than run at this utilization of the mean load: more would be a static fleet.
_LEAST_UTILIZATION = 0.7
_HEADROOM = Parameter("headroom", 0.9, 5.0, log=True, default=1.0 / 0.7)


def static_parameters(part: Part) -> Sequence[Parameter]:
    """The fleets of interest on the part's traffic."""
    seen = part.trace.slice(part.start_s, part.end_s)
    per_replica = capacity_per_replica(part.profile)
    least = math.floor(seen.mean_per_s / (per_replica * STATIC_UTILIZATIONS[0]))
    most = math.ceil(seen.peak_per_s / (per_replica * STATIC_UTILIZATIONS[1]))
    lowest = min(service.replicas.min for service in part.profile.services)
    highest = max(service.replicas.max for service in part.profile.services)
    return [
        Parameter("replicas", min(max(least, lowest, 1), highest), min(max(most, lowest, 1), highest), whole=True),
    ]


def pace_parameters(part: Part) -> list[Parameter]:
    """How an HPA follows its metrics: tolerance, stabilization windows, pace of either direction, least pods.

    A search begins near Kubernetes' defaults.
    """
    services = part.profile.services
    most = max(service.replicas.max for service in services)
    lowest, lowest_most = min(s.replicas.min for s in services), min(s.replicas.max for s in services)
    load = part.trace.slice(part.start_s, part.end_s).mean_per_s / capacity_per_replica(part.profile)
    kept = max(lowest, min(lowest_most, math.ceil(load / _LEAST_UTILIZATION)))
    return [
        Parameter("tolerance", 0.0, 0.3, default=min(part.profile.controller.tolerance, 0.3)),
        Parameter("scale_up_stabilization_window_seconds", 0, 120, whole=True, default=0),
        Parameter("scale_down_stabilization_window_seconds", 0, 900, whole=True, default=300),
        Parameter("scale_up_percent_per_minute", 10, 1000, log=True, whole=True, default=400),
        Parameter("scale_up_pods_per_minute", 1, max(most, 1), log=True, whole=True, default=min(16, most)),
        Parameter("scale_down_percent_per_minute", 5, 100, log=True, whole=True, default=100),
        Parameter("scale_down_pods_per_minute", 1, max(most, 1), log=True, whole=True, default=most),
        Parameter("min_replicas", lowest, kept, whole=True, default=lowest),
    ]


def hpa_parameters(part: Part) -> Sequence[Parameter]:
    """Targets of CPU utilization, and how they are followed."""
    target = min(max(part.profile.services[0].autoscaler.target_cpu_utilization_pct, 20), 95)
    return [Parameter("target_cpu_utilization_pct", 20, 95, whole=True, default=target), *pace_parameters(part)]


def request_rate_parameters(part: Part) -> Sequence[Parameter]:
    """Shares of a pod's capacity, and how they are followed."""
    return [Parameter("target_utilization", 0.2, 1.2, log=True, default=0.7), *pace_parameters(part)]


def scheduled_parameters(part: Part) -> Sequence[Parameter]:
    """Headroom over the load, what the schedule counts, and how both are followed."""
    return [
        _HEADROOM,
        Parameter("schedule_share", 0.3, 1.5, default=0.9),
        Parameter("quantile", 0.0, 1.0, default=0.5),
        Parameter("days", 1, 7, whole=True, default=3),
        *pace_parameters(part),
    ]


def forecast_parameters(part: Part) -> Sequence[Parameter]:
    """Headroom over the load, which forecast counts and how much of its spread, and how both are followed."""
    return [
        _HEADROOM,
        Parameter("quantile", 0.05, 0.95, default=0.5),
        Parameter("mstl_share", 0.0, 1.0, default=0.3),
        Parameter("extra_lead_s", 0.0, 600.0, default=0.0),
        *pace_parameters(part),
    ]


def rule_parameters(part: Part) -> Sequence[Parameter]:
    """All settings of the rule; those that are never 0 on a logarithmic scale."""
    return [Parameter(s.name, s.low, s.high, log=s.low > 0.0, default=s.default) for s in RULE_SETTINGS]


def clairvoyant_parameters(part: Part) -> Sequence[Parameter]:
    """What bad requests cost; the rest is searched on the traffic that is played."""
    return [Parameter("bad_request_price", 1e-3, 10.0, log=True, default=0.1)]


# The trade is a wide one: a price says nothing of how many pods it buys.
_PRICE_FACTORS = (0.02, 0.06, 0.15, 0.4, 1.0, 2.5, 6.0, 15.0)

STATIC = Family(static_parameters, StaticPolicy.by_lane, "replicas")
HPA = Family(hpa_parameters, HpaPolicy.by_lane, "target_cpu_utilization_pct")
REQUEST_RATE = Family(request_rate_parameters, RequestRatePolicy.by_lane, "target_utilization")
SCHEDULED = Family(scheduled_parameters, ScheduledPolicy.by_lane, "headroom")
FORECAST = Family(forecast_parameters, ForecastPolicy.by_lane, "headroom")
RULE = Family(rule_parameters, RulePolicy.by_lane, "price", (0.1, 0.22, 0.45, 0.7, 1.0, 1.5, 2.5, 5.0, 10.0))
KNOWN_RATES = Family(clairvoyant_parameters, KnownRatesPolicy.by_lane, "bad_request_price", _PRICE_FACTORS)
CLAIRVOYANT = Family(clairvoyant_parameters, ClairvoyantPolicy.by_lane, "bad_request_price", _PRICE_FACTORS)
