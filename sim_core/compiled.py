"""How kernels of the data plane are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# Division by zero gives inf or NaN, as in NumPy: kernels check where it matters. Sums may be fused, not reordered, so a
# lane computes the same bits wherever it runs; NaN and inf keep their meaning.
kernel: Callable[..., Any] = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "arcp", "nsz"})
