"""The grid of utilizations at which stations are worked out; between its points they are interpolated."""

from __future__ import annotations

import math

from sim_core.compiled import kernel

_FINE = 0.05  # spacing over distance from saturation
_NEAR = 0.02  # ... which is taken as at least this
_MIDDLE = int(math.log((1.0 + _NEAR) / _NEAR) / _FINE) + 1  # the cell that begins at saturation
MOST = 40.0  # utilization
LAST = _MIDDLE + int(math.log1p((MOST - 1.0) / _NEAR) / _FINE)  # the cell in which it lies


@kernel
def edge_of(cell):
    """The utilization at which a cell of the grid begins: fine near saturation, where queues change most."""
    if cell >= _MIDDLE:
        return 1.0 + _NEAR * math.expm1((cell - _MIDDLE) * _FINE)
    return max(0.0, 1.0 - _NEAR * math.expm1((_MIDDLE - cell) * _FINE))


@kernel
def cell_of(utilization):
    """The cell in which a utilization lies."""
    if utilization >= 1.0:
        return _MIDDLE + int(math.log(1.0 + (utilization - 1.0) / _NEAR) / _FINE)
    return max(0, _MIDDLE - 1 - int(math.log(1.0 + (1.0 - utilization) / _NEAR) / _FINE))
