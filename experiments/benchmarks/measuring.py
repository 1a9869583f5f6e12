"""Figures, and how CPU time is taken: of what is compared, in turn, so that a busy machine slows all of it."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

Figures = list[dict[str, Any]]


_TWO_TICKS = """
from agents.env import DevOpsVecEnv, EnvSpec
from sim_core.engines import FLUID, REQUESTS
from sim_core.profile import load_profile
from sim_core.simulation import Worlds
from sim_core.workload import bundled_traffic
from sim_core.world import Lane
profile, trace = load_profile("production"), bundled_traffic().generate(7200.0, seed=0)
for engine in (FLUID, REQUESTS):
    Worlds([Lane(profile, trace, 1)], engine=engine).advance(2)
env = DevOpsVecEnv(EnvSpec(profile, trace, episode_s=3600.0), 1)
env.reset()
env.step(env.action_space.sample().reshape(1))
"""


@cache
def fill_kernel_cache() -> None:
    """Compiles the engines in a process of its own, so that this one finds them on disk.

    A process that compiles is larger for it, and its kernels are slower than those read from disk.
    """
    subprocess.run([sys.executable, "-c", _TWO_TICKS], check=True)


def figure(name: str, value: float, unit: str, reach: str, note: str) -> dict[str, Any]:
    """One row: what was measured, and what is aimed at."""
    return {"name": name, "value": value, "unit": unit, "reach": reach, "note": note}


def skipped(name: str, why: str) -> dict[str, Any]:
    """A figure that cannot be measured here."""
    return figure(name, math.nan, "", "", f"skipped: {why}")


def cpu_s(call: Callable[[], object]) -> float:
    """CPU seconds of this process that a call takes, on all its threads."""
    began = time.process_time()
    call()
    return time.process_time() - began


def cpu_s_in_turn(rounds: int, calls: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """CPU seconds of each call in each round, the calls of a round in turn."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            spent[name].append(cpu_s(call))
    return spent


def median_ratio(one: list[float], other: list[float]) -> float:
    """Median over the rounds of one over the other."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))
