"""Amounts as people read them, the same in the report and in the terminal: money, shares, durations, counts."""

from __future__ import annotations

import math

NOTHING = "–"


def usd(value: float) -> str:
    """An amount with the digits that a reader uses: $0.482, $41.20, $182.4, $1,234."""
    if not math.isfinite(value):
        return NOTHING
    size = abs(value)
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    return f"{'-' if value < 0 else ''}${size:,.{decimals}f}"


def percent(share: float, decimals: int | None = None) -> str:
    """A share [1] as a percentage, by default with two significant digits below ten."""
    if not math.isfinite(share):
        return NOTHING
    value = 100.0 * share
    if decimals is None:
        decimals = 0 if abs(value) >= 10 or value == 0 else min(4, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f} %"


def rounded_down(value: float, decimals: int) -> float:
    """The value with so many decimals, never above what it is: for what must not look better than it was."""
    if not math.isfinite(value):
        return value
    shift = 10.0**decimals
    # The epsilon keeps 99.95 from becoming 99.949999 on its way through binary fractions.
    return math.floor(value * shift + 1e-6) / shift


def percent_down(share: float, decimals: int) -> str:
    """A share [1] of good events as a percentage, rounded down: a missed SLO never reads as a kept one."""
    return f"{rounded_down(100.0 * share, decimals):.{decimals}f} %" if math.isfinite(share) else NOTHING


def attained(share: float, objective: float) -> str:
    """An SLO attainment [1], two digits finer than its objective and rounded down: never better than it was."""
    return percent_down(min(share, 1.0), objective_decimals(objective) + 2)


def objective_text(objective: float) -> str:
    """The objective as a percentage with all its decimals."""
    return f"{100.0 * objective:.{objective_decimals(objective)}f} %"


def objective_decimals(objective: float) -> int:
    """Decimals of an SLO's objective as a percentage: 1 of 99.9 %."""
    return next((d for d in range(6) if abs(round(100.0 * objective, d) - 100.0 * objective) < 1e-9), 6)


def seconds(value: float) -> str:
    """A latency or a duration in the unit that reads best: 85 ms, 1.35 s, 4 min 10 s, 2 h 05 min."""
    if not math.isfinite(value):
        return NOTHING
    if abs(value) < 1.0:
        return f"{1000.0 * value:.3g} ms"
    if abs(value) < 60.0:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float) -> str:
    """Three significant digits, thousands separated: 0.62, 4.17, 398, 12,400."""
    if not math.isfinite(value):
        return NOTHING
    size = abs(value)
    decimals = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2
    return f"{value:,.{decimals}f}"
