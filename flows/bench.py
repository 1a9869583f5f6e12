"""`devops-sim bench`."""

from __future__ import annotations

from typing import Any


def measure(quick: bool) -> dict[str, Any]:
    """The figures that this project promises, measured here; the document of the command."""
    from experiments.bench import run_bench

    return {"command": "bench", "quick": quick, "figures": run_bench(quick)}
