"""Settings of the policies that autoscalers outside of the HPA come to: names, ranges and usual values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sim_core.controlplane.hpa_settings import HPA_SETTINGS
from sim_core.errors import PolicyError, nearest

Chosen = TypeVar("Chosen")


@dataclass(frozen=True)
class Setting:
    """One setting of a policy.

    Args:
        low, high: what it may be, both ends included.
        default: where it is not given.
        whole: only whole numbers.
    """

    name: str
    low: float
    high: float
    default: float
    whole: bool = False

    def problem(self, value: Any) -> str:
        """What is wrong with a value; empty where nothing is."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{self.name}: must be a number (got {value!r})"
        if self.whole and not float(value).is_integer():
            return f"{self.name}: must be a whole number (got {value})"
        if not self.low <= value <= self.high:
            return f"{self.name}: must be between {self.low:g} and {self.high:g} (got {value})"
        return ""


# What an HPA on metrics of another source keeps of its own settings.
PACE_SETTINGS = tuple(name for name in HPA_SETTINGS if name != "target_cpu_utilization_pct")

TARGET_UTILIZATION = Setting("target_utilization", 0.05, 2.0, 0.7)  # load of a pod over what it can take [1]
HEADROOM = Setting("headroom", 0.5, 20.0, 1.0 / 0.7)  # pods over the load in pods [1]

REQUEST_RATE = (TARGET_UTILIZATION,)
SCHEDULED = (
    HEADROOM,
    Setting("schedule_share", 0.0, 3.0, 1.0),  # of the earlier days' load that the schedule is made for [1]
    Setting("quantile", 0.0, 1.0, 0.9),  # of the load at that hour on the earlier days [1]
    Setting("days", 1, 28, 3, whole=True),  # earlier ones that count
)
FORECAST = (
    HEADROOM,
    Setting("quantile", 0.01, 0.999, 0.9),  # of what may come [1]
    Setting("mstl_share", 0.0, 1.0, 0.0),  # of the forecast by MSTL, the rest is Holt-Winters' [1]
    Setting("extra_lead_s", 0.0, 3600.0, 0.0),  # beyond the time until a pod is ready [s]
)
RULE = (
    Setting("rise_s", 4.0, 600.0, 20.0),  # half-life of the level of the load where it rises
    Setting("fall_s", 4.0, 900.0, 60.0),  # ... and where it falls
    Setting("trend_s", 30.0, 1800.0, 180.0),  # half-life of its trend
    Setting("trend_weight", 0.0, 1.2, 0.3),  # how much of the trend goes on [1]
    Setting("season_weight", 0.0, 1.2, 0.5),  # how much of what earlier days brought is expected [1]
    Setting("spread_s", 120.0, 14_400.0, 1800.0),  # half-life of the squares of the forecast's errors
    Setting("spread_weight", 0.0, 2.5, 0.8),  # of the forecast's spread that is planned for [1]
    Setting("tail", 0.0, 0.6, 0.1),  # how much heavier than normal the ends of its distribution are
    Setting("count_weight", 0.0, 0.6, 0.1),  # of a spread that falls with the root of the load [1]
    Setting("price", 0.004, 100.0, 0.1),  # of the error budget of some load, in the pods that this load keeps busy [1]
    Setting("feedback", 0.0, 3.0, 0.7),  # what the log of the price gains for each budget that is overspent
    Setting("hold_s", 0.0, 900.0, 60.0),  # replicas fall only to the most that was wanted for so long
    Setting("backlog_weight", 0.0, 2.0, 0.5),  # of the work that waits [1]
)
LEARNED = (
    *(setting for setting in RULE if setting.name == "price"),
    Setting("kept", 0.0, 1.0, 1.0),  # share of the residual [1]
)
CLAIRVOYANT = (Setting("bad_request_price", 1e-4, 1e3, 0.1),)  # of those that use up the budget of the mean load [pods]


def names_of(settings: Sequence[Setting]) -> tuple[str, ...]:
    """The names of settings."""
    return tuple(setting.name for setting in settings)


def problems_of(settings: Sequence[Setting], given: Mapping[str, Any], more: Sequence[str] = ()) -> list[str]:
    """Everything that is wrong with the settings that somebody gave.

    Args:
        more: names of settings that are checked elsewhere.
    """
    by_name = {setting.name: setting for setting in settings}
    known = [*by_name, *more]
    problems = [f"{name}: unknown setting{nearest(name, known)}" for name in given if name not in known]
    return problems + [line for name in given if name in by_name and (line := by_name[name].problem(given[name]))]


def completed(policy: str, settings: Sequence[Setting], given: Mapping[str, Any]) -> dict[str, float]:
    """All settings of a policy: those that are given, and the usual values of the others.

    Raises:
        PolicyError: unknown names or wrong values; all at once.
    """
    problems = problems_of(settings, given)
    if problems:
        raise PolicyError(policy, problems)
    return {setting.name: given.get(setting.name, setting.default) for setting in settings}


def for_lanes(chosen: Sequence[Chosen], n_lanes: int) -> list[Chosen]:
    """What each lane is played with: one choice for all of them, or one a lane."""
    if len(chosen) == 1:
        return list(chosen) * n_lanes
    assert len(chosen) == n_lanes
    return list(chosen)
