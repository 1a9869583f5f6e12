"""What one scrape says of the database."""

from __future__ import annotations

import numpy as np

from sim_core.compiled import phase

TELEMETRY = [
    ("database_utilization", np.float64),  # of the busier of primary and read replicas
    ("connection_ratio", np.float64),  # connections asked for over those there are
]


@phase
def scrape(world):
    """Closes the window of every database and stages the busiest one's figures."""
    window_s = world.state.window_s
    busiest, most_connected = 0.0, 0.0
    for d in range(len(world.databases)):
        state = world.database_states[d]
        busiest = max(busiest, state.busy_s / window_s)
        most_connected = max(most_connected, state.connection_ratio)
        state.busy_s = 0.0
    world.state.staged.database_utilization = busiest
    world.state.staged.connection_ratio = most_connected
