"""`devops-sim compare`: the configurations of finished sweeps side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.comparison import best, compare, pareto_front
from experiments.results import ResultStore
from experiments.spec import spec_from_dict
from experiments.state import StateDir
from experiments.summaries import configurations
from sim_core.errors import InputError, nearest
from sim_core.profile import load_profile

if TYPE_CHECKING:
    import pandas as pd


def compare_sweeps(sweep_ids: Sequence[str], baseline: str | None, folder: Path | None) -> dict[str, Any]:
    """Configurations of one sweep or of several together, the Pareto front, and what the first one's objective chooses.

    Args:
        sweep_ids: ids, or names of specifications, whose newest sweep is meant; none takes the newest of all.
        baseline: key or label of a configuration; adds paired differences to it.
        folder: the state folder; None takes the usual one.

    Raises:
        InputError: no such sweep or baseline, or nothing is finished.
    """
    store = ResultStore(StateDir.existing(folder).results)
    chosen = [store.find(name) for name in sweep_ids] or [store.find(None)]
    points = _points(store, chosen)
    table = compare(points)
    if baseline is not None:
        table = compare(points, _key(table, baseline))
    spec = spec_from_dict(store.manifest(chosen[0])["spec"], chosen[0])
    winner = best(table, spec.objective.minimize, spec.limits(load_profile(spec.profile)))
    return {
        "command": "compare",
        "sweeps": chosen,
        "baseline": baseline,
        "configurations": configurations(table),
        "pareto_front": pareto_front(table)["configuration_key"].tolist(),
        "best": vars(winner),
    }


def _points(store: ResultStore, sweep_ids: Sequence[str]) -> pd.DataFrame:
    keys = [key for sweep_id in sweep_ids for key in store.manifest(sweep_id)["keys"]]
    points = store.load_keys(dict.fromkeys(keys))
    if points.empty:
        raise InputError(f"sweep {', '.join(sweep_ids)}", "no point is finished yet; run the sweep again, it resumes")
    return points


def _key(table: pd.DataFrame, baseline: str) -> str:
    labels = dict(zip(table["label"], table["configuration_key"], strict=True))
    if baseline in labels:
        return str(labels[baseline])
    if baseline in set(table["configuration_key"]):
        return baseline
    raise InputError("--baseline", f"no configuration {baseline!r}{nearest(baseline, labels)}")
