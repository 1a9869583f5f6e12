"""Every indicator, told once: its name, its title, which way is better, how it is shown. Values: `accounting.indicators`.

Whoever shows, compares or limits indicators asks this table; it needs no simulator, so that specifications are read at once.
"""

from __future__ import annotations

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
    """

    name: str
    title: str
    more_is_better: bool = False
    per_day: bool = False
    digits: str = ".4g"

    @property
    def is_share(self) -> bool:
        """Whether it is a part of a whole, shown in per cent."""
        return self.digits.endswith("%")


# Names are fixed; indicators of mechanisms that do not exist yet are absent, not zero. In the order of documents and tables.
INDICATORS: Mapping[str, Indicator] = {
    indicator.name: indicator
    for indicator in (
        Indicator("slo_attainment", "SLO attainment", more_is_better=True, digits=".3%"),
        Indicator("availability", "availability", more_is_better=True, digits=".3%"),
        Indicator("error_ratio", "errors", digits=".3%"),
        Indicator("latency_mean_s", "mean latency", digits=".4f"),
        Indicator("latency_p50_s", "p50 latency", digits=".4f"),
        Indicator("latency_p95_s", "p95 latency", digits=".4f"),
        Indicator("latency_p99_s", "p99 latency", digits=".4f"),
        Indicator("throughput_per_s", "throughput [1/s]", more_is_better=True),
        Indicator("error_budget_left", "error budget left", more_is_better=True, digits=".1%"),
        Indicator("cost_usd", "cost [$/day]", per_day=True, digits=".2f"),
        Indicator("cost_usd_per_million_requests", "cost of a million requests [$]"),
        Indicator("replica_hours", "replica-hours [h/day]", per_day=True, digits=".1f"),
        Indicator("scale_events", "scale events [1/day]", per_day=True, digits=".0f"),
        Indicator("utilization_mean", "CPU utilization", digits=".1%"),
        Indicator("cache_hit_ratio", "cache hit ratio", more_is_better=True, digits=".1%"),
    )
}
HIGHER_IS_BETTER = frozenset(indicator.name for indicator in INDICATORS.values() if indicator.more_is_better)
# What a comparison adds to a policy's indicators, see `agents.learning.evaluate.gap_closed`.
GAP_CLOSED = Indicator("gap_closed", "gap closed", more_is_better=True, digits=".2f")
