"""Which services were offered more than their pods serve: over a whole run, in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from sim_core.profile import Profile

_ALL_OF_THE_CPU = 0.99  # of the limit of all ready pods: with calls that fail, more was offered


def saturated_services(services: pd.DataFrame, profile: Profile) -> list[str]:
    """A sentence for each service that was saturated over the run as a whole, on the mean over the lanes.

    An overload that passes, as before an autoscaler has caught up, is none.

    Args:
        services: rows of `Simulation.services`, of lanes that play one profile.
    """
    containers = {service.name: service.container for service in profile.services}
    found = []
    for name, rows in services.groupby("service", sort=False):
        container = containers[str(name)]
        limit = container.cpu_limit_cores / container.cpu_request_cores
        offered = float(rows["offered_load"].mean())  # NaN where no lane called it
        busy, errors = float(rows["utilization"].mean()) / limit, float(rows["error_ratio"].mean())
        if math.isinf(offered):
            found.append(f"{name} was saturated: it was called and had no ready pod")
        elif offered > 1.0:
            found.append(f"{name} was saturated: offered {100.0 * offered:.0f} % of what its pods serve")
        elif busy >= _ALL_OF_THE_CPU and errors > 0.0:
            found.append(f"{name} was saturated: its pods were busy {100.0 * busy:.0f} % of the time and calls failed")
    return found
