"""What is asked: from a specification to points (`planning`), simulated by actors on Ray (`compute`) and kept (`store`);
agents trained (`training`) and compared; what the numbers say (`analysis`), in a `report` and in MLflow (`tracking`).

Names are imported on first use: a command that needs no Ray and no MLflow does not load them.
"""

from importlib import import_module
from typing import Any

from experiments.compute.ray_address import prepare_environment as _prepare_environment

_prepare_environment()  # before any module of this package can import Ray

_HOME = {
    "Spec": "planning.spec",
    "load_spec": "planning.spec",
    "spec_from_dict": "planning.spec",
    "bundled_specs": "planning.spec",
    "Point": "planning.plan",
    "Plan": "planning.plan",
    "make_plan": "planning.plan",
    "expand": "planning.plan",
    "pack": "planning.plan",
    "run_batch": "compute.actors",
    "simulation_pool": "compute.actors",
    "plan_pool": "compute.actors",
    "SimulationPool": "compute.actors",
    "Cluster": "compute.cluster",
    "ray_cluster": "compute.cluster",
    "ResultStore": "store.results",
    "StateDir": "store.state",
    "MlflowTracker": "tracking",
    "ResolvedModel": "tracking",
    "resolve_model": "tracking",
    "run_training": "training.actor",
    "Best": "analysis.comparison",
    "Interval": "analysis.comparison",
    "best": "analysis.comparison",
    "compare": "analysis.comparison",
    "interval": "analysis.comparison",
    "pareto_front": "analysis.comparison",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
