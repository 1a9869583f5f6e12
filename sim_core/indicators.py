"""Every indicator, told once: its name, its title, which way is better, how it is shown. Values: `accounting.indicators`.

Whoever shows, compares or limits indicators asks this table; it needs no simulator, so that specifications are read at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sim_core.assembly import modules
from sim_core.indicator import SHARE, Indicator

__all__ = ["Indicator"]

_BROUGHT = modules("indicators")  # what components add
# What exists whatever the policy does.
FIXED_COSTS = (*(what for module in _BROUGHT for what in module.FIXED_COSTS), "load_balancer")
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
    Indicator("slo_attainment", "SLO attainment", True, digits=".3%", rounded_down=True, bounds=SHARE),
    Indicator("availability", "availability", True, digits=".3%", rounded_down=True, bounds=SHARE),
    Indicator("error_ratio", "errors", digits=".3%", bounds=SHARE),
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
    *(
        Indicator(f"cost_{what}_usd", f"{what.replace('_', ' ')} [$/day]", per_day=True, digits=".2f")
        for what in FIXED_COSTS
    ),
    Indicator("cost_usd_per_month", "whole cost [$/30 days]", digits=",.0f"),
    Indicator("cost_usd_per_million_requests", "whole cost of a million good requests [$]", digits=".3f"),
    Indicator("replica_hours", "replica-hours [h/day]", per_day=True, digits=".1f"),
    Indicator("scale_events", "scale events [1/day]", per_day=True, digits=".0f"),
    Indicator("utilization_mean", "CPU utilization", digits=".1%"),
    *(indicator for module in _BROUGHT for indicator in module.INDICATORS),
)
# Of each service, beside those of the lane.
SERVICE_INDICATORS = _table(
    Indicator("calls", "calls", digits=",.0f"),
    Indicator("utilization", "CPU utilization", digits=".1%"),
    Indicator("latency_mean_s", "mean latency", digits=".4f"),
    Indicator("error_ratio", "errors", digits=".3%", bounds=SHARE),
    Indicator("queue_len", "queue [calls]", digits=".3f"),
    Indicator("replica_hours", "replica-hours [h/day]", per_day=True, digits=".1f"),
    Indicator("offered_load", "offered load", digits=".1%"),
)
# Of each class of requests, beside those of the lane; good is what keeps the SLO of the class.
CLASS_INDICATORS = _table(
    Indicator("requests", "requests", digits=",.0f"),
    *(
        INDICATORS[name]
        for name in (
            "slo_attainment", "error_ratio", "latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s",
            "error_budget_left",
        )
    ),
)  # fmt: skip
HIGHER_IS_BETTER = frozenset(indicator.name for indicator in INDICATORS.values() if indicator.more_is_better)
# What a comparison adds to a policy's indicators, see `agents.learning.evaluate.gap_closed`.
GAP_CLOSED = Indicator("gap_closed", "gap closed", more_is_better=True, digits=".2f")


def bounds_of(indicator: str) -> tuple[float, float]:
    """Least and greatest value that an indicator can have; 0 or more for what no table has: sums, durations, rates."""
    return INDICATORS[indicator].bounds if indicator in INDICATORS else (0.0, math.inf)
