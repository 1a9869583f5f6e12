"""What an indicator is: a figure of a lane, of a service or of a class of requests."""

from __future__ import annotations

import math
from dataclasses import dataclass

SHARE = (0.0, 1.0)  # bounds of a part of a whole


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
