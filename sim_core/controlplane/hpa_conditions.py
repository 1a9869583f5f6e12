"""HorizontalPodAutoscaler: the conditions of its status."""

from __future__ import annotations

from numba import njit


@njit(cache=True)
def set_condition(state, kind, status, reason):
    """Sets a condition in its place, or behind the others when it is new."""
    place = 0
    while place < state.n_conditions and state.conditions[place].type != kind:
        place += 1
    if place == state.n_conditions:
        state.n_conditions += 1
    condition = state.conditions[place]
    condition.type = kind
    condition.status = status
    condition.reason = reason
