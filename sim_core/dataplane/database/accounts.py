"""What the database costs, by lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sim_core.simulation import Worlds


def indicators(worlds: Worlds) -> dict[str, np.ndarray]:
    """It has no indicators of its own yet: how busy it is stands in the telemetry."""
    return {}


def usd_per_s(worlds: Worlds) -> dict[str, np.ndarray]:
    """Its part of FIXED_COSTS, shape (n_lanes,) [USD/s]."""
    from sim_core.accounting import per_lane

    return {"database": per_lane(worlds, "databases", worlds.tables.databases["usd_per_s"])}
