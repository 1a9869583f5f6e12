"""`devops-sim bench`: the figures of the simulator and of training, and what a sweep costs beyond its simulations."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from experiments.bench import run_bench
from experiments.store.results import ResultStore
from experiments.store.state import StateDir
from flows.requests import SweepRequest
from flows.servers.platform import platform
from flows.terminal.output import announce
from sim_core.workload import read_trace

Figure = dict[str, Any]


def measure(quick: bool, trace: Path | None = None) -> dict[str, Any]:
    """The figures that this project promises, measured here; the document of the command."""
    figures: list[Figure] = []

    def note(figure: Figure) -> None:
        figures.append(figure)
        measured = f"{figure['value']:,.4g} {figure['unit']}" if math.isfinite(figure["value"]) else figure["note"]
        announce(f"{figure['name']}: {measured}")

    run_bench(quick, note, read_trace(trace) if trace is not None else None)
    sweep_overhead(quick, note)
    return {"command": "bench", "quick": quick, "figures": figures}


def sweep_overhead(quick: bool, note: Callable[[Figure], None]) -> None:
    """A sweep on a running platform, in a folder of its own: wall time of simulating and tracking against the kernel's.

    A first sweep of two points creates the databases and compiles the kernels.
    """
    with tempfile.TemporaryDirectory(prefix="devops-sim-bench-") as folder:
        state = StateDir.open(Path(folder) / "state")
        warm_up = _spec(Path(folder) / "warm-up.yaml", configurations=2, seeds=1)
        measured = _spec(Path(folder) / "measured.yaml", configurations=10 if quick else 50, seeds=4)
        with platform(state, "flows.sweep") as module:
            module.sweep(SweepRequest(spec=str(warm_up), state=str(state.root)))
            document = module.sweep(SweepRequest(spec=str(measured), state=str(state.root)))
        points = ResultStore(state.results).load(document["sweep_id"])
    count, actors = len(points), document["actors"]
    wall_s = document["seconds"]["simulate"] + document["seconds"]["track"]
    pure_s = float(points["compute_s"].sum()) / actors
    size = f"{count} points of one day, {actors} actors"
    note(
        {"name": "sweep", "value": wall_s, "unit": "s", "reach": None, "note": f"{size}; simulated, stored and tracked"}
    )
    note({"name": "sweep over pure simulation", "value": wall_s / pure_s, "unit": "ratio", "reach": None, "note": size})
    overhead_ms = (wall_s - pure_s) / count * 1000.0
    note({"name": "platform overhead", "value": overhead_ms, "unit": "ms per point", "reach": "< 25", "note": size})


def _spec(path: Path, configurations: int, seeds: int) -> Path:
    replicas = {"from": 10, "to": 9 + configurations, "step": 1}
    spec = {
        "name": path.stem,
        "profile": "production",
        "traffic": {"generator": "diurnal", "scale_peak_to_replicas": 20},
        "duration": "24h",
        "seeds": {"count": seeds},
        "policies": [{"policy": "static", "replicas": replicas}],
    }
    path.write_text(yaml.safe_dump(spec))
    return path
