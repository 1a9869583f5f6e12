"""What is asked: specifications, points, actors that simulate them, results, tracking and comparison.

Names are imported on first use: a command that needs no Ray and no MLflow does not load them.
"""

from importlib import import_module
from typing import Any

from experiments.ray_address import prepare_environment as _prepare_environment

_prepare_environment()  # before any module of this package can import Ray

_HOME = {
    "Spec": "spec",
    "load_spec": "spec",
    "spec_from_dict": "spec",
    "bundled_specs": "spec",
    "Point": "planning",
    "Plan": "planning",
    "make_plan": "planning",
    "expand": "planning",
    "pack": "planning",
    "run_batch": "actors",
    "simulation_pool": "actors",
    "plan_pool": "actors",
    "SimulationPool": "actors",
    "Cluster": "cluster",
    "ray_cluster": "cluster",
    "ResultStore": "results",
    "StateDir": "state",
    "MlflowTracker": "tracking",
    "ResolvedModel": "tracking",
    "resolve_model": "tracking",
    "run_training": "training.actor",
    "Best": "comparison",
    "Interval": "comparison",
    "best": "comparison",
    "compare": "comparison",
    "interval": "comparison",
    "pareto_front": "comparison",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
