"""How kernels of the data plane are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# Division by zero gives inf or NaN, as in NumPy: kernels check where it matters. Sums may be fused, not reordered, so a
# lane computes the same bits wherever it runs; NaN and inf keep their meaning.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "arcp", "nsz"}}

kernel: Callable[..., Any] = njit(cache=True, **_OPTIONS)
# A phase takes a whole World, a tuple of many views: handing it over would cost more than most phases do. It is compiled
# into its caller, and kept on disk with it.
phase: Callable[..., Any] = njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)
# Every level that a phase adds is optimised again with all that is below it. A phase that does little but call others is
# therefore no function of its own: its statements are put into its caller before types are inferred. (Of all phases this
# would be slower: inference takes more than proportional time for one long function.)
glue: Callable[..., Any] = njit(inline="always", **_OPTIONS)
