"""The simulated world: NumPy, Numba and Pydantic only."""

from sim_core import kernel_cache

kernel_cache.install()
