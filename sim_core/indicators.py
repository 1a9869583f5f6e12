"""Every indicator, told once: its name, its title, which way is better, how it is shown. Values: `accounting.indicators`.

Whoever shows, compares or limits indicators asks this table; it needs no simulator, so that specifications are read at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Indicator:
    """One figure of a lane.

    Args:
        name: in documents, tables, MLflow and specifications; ends in its unit.
        title: of its column in a report, with the unit where it is no share.
        more_is_better: else less is.
        per_day: a sum over the run, shown per day in reports; every other is a mean, a share or a percentile.
        digits: that a reader can use, as a format specification; one that ends in % shows a share.
        rounded_down: a share of good events: a missed SLO must never read as a kept one.
        bounds: least and greatest value that it can have.
    """

    name: str
    title: str
    more_is_better: bool = False
    per_day: bool = False
    digits: str = ".4g"
    rounded_down: bool = False
    bounds: tuple[float, float] = (0.0, math.inf)

    @property
    def is_share(self) -> bool:
        """Whether it is a part of a whole, shown in per cent."""
        return self.digits.endswith("%")


_SHARE = (0.0, 1.0)
# What exists whatever the policy does.
FIXED_COSTS = ("database", "cache", "load_balancer")
FIXED_COST_PARTS = tuple(f"cost_{what}_usd" for what in FIXED_COSTS)  # they sum up to cost_fixed_usd
FIXED_COST_TITLES = {what.replace("_", " "): f"cost_{what}_usd" for what in FIXED_COSTS}
# What cost_usd is made of, in the order in which it is summed up; a mechanism that costs money (a node pool) joins here.
COST_PARTS = ("cost_pods_usd", "cost_fixed_usd")
MIN_VALUES = 3  # runs that an interval needs: two say too little of their spread, t(0.975, 1) = 12.7
MONTH_S = 30.0 * 86_400.0  # a month of every figure "per month"


def _table(*indicators: Indicator) -> Mapping[str, Indicator]:
    return {indicator.name: indicator for indicator in indicators}


# Names are fixed; indicators of mechanisms that do not exist yet are absent, not zero. In the order of documents and tables.
INDICATORS = _table(
    Indicator("slo_attainment", "SLO attainment", True, digits=".3%", rounded_down=True, bounds=_SHARE),
    Indicator("availability", "availability", True, digits=".3%", rounded_down=True, bounds=_SHARE),
    Indicator("error_ratio", "errors", digits=".3%", bounds=_SHARE),
    Indicator("latency_mean_s", "mean latency", digits=".4f"),
    Indicator("latency_p50_s", "p50 latency", digits=".4f"),
    Indicator("latency_p95_s", "p95 latency", digits=".4f"),
    Indicator("latency_p99_s", "p99 latency", digits=".4f"),
    Indicator("throughput_per_s", "throughput [1/s]", True),
    # An overspent budget is negative.
    Indicator("error_budget_left", "error budget left", True, digits=".1%", rounded_down=True, bounds=(-math.inf, 1.0)),
    Indicator("cost_usd", "whole cost [$/day]", per_day=True, digits=".2f"),
    Indicator("cost_pods_usd", "pods [$/day]", per_day=True, digits=".2f"),
    Indicator("cost_fixed_usd", "fixed cost [$/day]", per_day=True, digits=".2f"),
    Indicator("cost_database_usd", "database [$/day]", per_day=True, digits=".2f"),
    Indicator("cost_cache_usd", "cache [$/day]", per_day=True, digits=".2f"),
    Indicator("cost_load_balancer_usd", "load balancer [$/day]", per_day=True, digits=".2f"),
    Indicator("cost_usd_per_month", "whole cost [$/30 days]", digits=",.0f"),
    Indicator("cost_usd_per_million_requests", "whole cost of a million good requests [$]", digits=".3f"),
    Indicator("replica_hours", "replica-hours [h/day]", per_day=True, digits=".1f"),
    Indicator("scale_events", "scale events [1/day]", per_day=True, digits=".0f"),
    Indicator("utilization_mean", "CPU utilization", digits=".1%"),
    Indicator("cache_hit_ratio", "cache hit ratio", True, digits=".1%", bounds=_SHARE),
)
# Of each service, beside those of the lane.
SERVICE_INDICATORS = _table(
    Indicator("calls", "calls", digits=",.0f"),
    Indicator("utilization", "CPU utilization", digits=".1%"),
    Indicator("latency_mean_s", "mean latency", digits=".4f"),
    Indicator("error_ratio", "errors", digits=".3%", bounds=_SHARE),
    Indicator("queue_len", "queue [calls]", digits=".3f"),
    Indicator("replica_hours", "replica-hours [h/day]", per_day=True, digits=".1f"),
)
HIGHER_IS_BETTER = frozenset(indicator.name for indicator in INDICATORS.values() if indicator.more_is_better)
# What a comparison adds to a policy's indicators, see `agents.learning.evaluate.gap_closed`.
GAP_CLOSED = Indicator("gap_closed", "gap closed", more_is_better=True, digits=".2f")


def bounds_of(indicator: str) -> tuple[float, float]:
    """Least and greatest value that an indicator can have; 0 or more for what no table has: sums, durations, rates."""
    return INDICATORS[indicator].bounds if indicator in INDICATORS else (0.0, math.inf)
