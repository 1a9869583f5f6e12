"""`devops-sim compare`: the configurations of finished sweeps side by side, those together that may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.analysis.comparability import Group, differences, groups_of
from experiments.analysis.comparison import best, best_by_scenario, compare, indicators_of, pareto_front, worst
from experiments.analysis.summaries import configurations, sameness
from experiments.store.results import ResultStore
from experiments.store.state import StateDir
from sim_core.errors import InputError, nearest

if TYPE_CHECKING:
    import pandas as pd


def compare_sweeps(sweep_ids: Sequence[str], baseline: str | None, folder: Path | None) -> dict[str, Any]:
    """Configurations of sweeps by groups that met the same, and of each group the Pareto front and the best one.

    Args:
        sweep_ids: ids, or names of specifications, whose newest sweep is meant; none takes the newest of all.
        baseline: key or label of a configuration; adds paired differences to it in each group that has it.
        folder: the state folder; None takes the usual one.

    Raises:
        InputError: no such sweep or baseline, or nothing is finished.
    """
    store = ResultStore(StateDir.existing(folder).results)
    chosen = list(dict.fromkeys([store.find(name) for name in sweep_ids] or [store.find(None)]))
    groups = groups_of([store.manifest(sweep_id) for sweep_id in chosen])
    points = [_points(store, group.sweeps) for group in groups]
    tables = [compare(rows) for rows in points]
    keys = [_key(table, baseline) for table in tables] if baseline is not None else [None] * len(tables)
    if baseline is not None and not any(keys):
        labels = dict.fromkeys(str(label) for table in tables for label in table["label"])
        raise InputError("--baseline", f"no configuration {baseline!r}{nearest(baseline, labels)}")
    parts = [
        _part(number, group, rows, key)
        for number, (group, rows, key) in enumerate(zip(groups, points, keys, strict=True), start=1)
    ]
    alone = parts[0] if len(parts) == 1 else None
    return {
        "command": "compare",
        "sweeps": chosen,
        "baseline": baseline,
        "groups": [{name: value for name, value in part.items() if name != "configurations"} for part in parts],
        "differences": differences(groups),
        "configurations": [row for part in parts for row in part["configurations"]],
        "pareto_front": alone["pareto_front"] if alone else None,
        "best": alone["best"] if alone else None,
        "no_best_because": None if alone else _refusal(len(parts)),
    }


def _part(number: int, group: Group, points: pd.DataFrame, baseline: str | None) -> dict[str, Any]:
    """One group as plain data; its configurations name the group and the sweeps that asked for them."""
    table = compare(points, baseline)
    minimize, subject_to = group.basis.minimize, group.basis.subject_to
    asked = points.groupby("configuration_key")["sweeps"].agg(lambda names: sorted(set().union(*names)))
    rows = [{**row, "group": number, "sweeps": asked[row["configuration_key"]]} for row in configurations(table)]
    return {
        "group": number,
        "sweeps": list(group.sweeps),
        "basis": dict(group.basis.facts),
        "baseline": baseline,
        "pareto_front": pareto_front(worst(table))["configuration_key"].tolist(),
        "best": vars(best(table, minimize, subject_to)),
        "best_by_scenario": best_by_scenario(table, minimize, subject_to),
        **sameness(table, points, indicators_of(points)),
        "configurations": rows,
    }


def _points(store: ResultStore, sweep_ids: Iterable[str]) -> pd.DataFrame:
    """Points of comparable sweeps, each once, with the ids of the sweeps that have it in the column `sweeps`."""
    import pandas as pd

    loaded = [store.load(sweep_id).assign(sweep=sweep_id) for sweep_id in sweep_ids]
    points = pd.concat([rows for rows in loaded if len(rows)] or loaded, ignore_index=True)
    if points.empty:
        raise InputError(f"sweep {', '.join(sweep_ids)}", "no point is finished yet; run the sweep again, it resumes")
    owners = points.groupby("key")["sweep"].agg(list)
    points = points.drop(columns="sweep").drop_duplicates("key", ignore_index=True)
    return points.assign(sweeps=points["key"].map(owners))


def _key(table: pd.DataFrame, baseline: str) -> str | None:
    """Key of the configuration with this label or key in one group, or None."""
    labels = dict(zip(table["label"], table["configuration_key"], strict=True))
    keys = set(table["configuration_key"])
    return str(labels[baseline]) if baseline in labels else baseline if baseline in keys else None


def _refusal(groups: int) -> str:
    return f"the sweeps make {groups} groups that did not meet the same; a best over all of them would compare nothing"
