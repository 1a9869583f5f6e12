"""Documents of finished sweeps: the same question again is answered from disk, and nothing is started for it.

A document is kept when all of a sweep is done: points, training, evaluation, tracking and report. It answers as long as
all of that is still there and would come out the same: its key holds what it was made from, the rest is looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.policies.registry import choice_of
from experiments.held_out import model_content, own_sources
from experiments.planning.plan import Plan
from experiments.store.files import write_atomically
from experiments.store.identity import digest, sources_digest, sources_version
from experiments.store.results import ResultStore
from experiments.store.state import StateDir
from experiments.tracking import CHALLENGER, CHAMPION, MlflowTracker
from sim_core.errors import ModelError


def keep_document(document: Mapping[str, Any], plan: Plan, state: StateDir, tracker: MlflowTracker) -> None:
    """Keep the document of a sweep that is wholly finished; does nothing where MLflow misses something of it."""
    if tracker.warning is not None:
        return
    kept = {"document": dict(document), "models": _models(plan, state, tracker)}
    file = _file(plan, state)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(kept, default=_unwrapped).encode(), "the document of a sweep")


def recall_document(plan: Plan, state: StateDir) -> dict[str, Any] | None:
    """The document of a sweep as it was when it finished, counted as resumed; None where anything is missing.

    Raises:
        PolicyError: a policy of the user's own cannot be imported.
    """
    try:
        kept = json.loads(_file(plan, state).read_text())
    except (FileNotFoundError, ValueError):
        return None
    document: dict[str, Any] = kept["document"]
    report = state.reports / Path(document["report"]).name
    if not report.exists() or not ResultStore(state.results).finished_keys().issuperset(plan.keys):
        return None
    trained = document["training"]
    if trained is not None and not (state.checkpoints / trained["key"] / "policy.onnx").exists():
        return None
    tracker = MlflowTracker.open(state, plan.profile.name)
    if not tracker.has_finished(document["mlflow"]["run_id"]) or _models(plan, state, tracker) != kept["models"]:
        return None
    total = document["points"]["total"]
    return document | {
        "points": {"total": total, "resumed": total, "simulated": 0},
        "report": str(report),
        "mlflow": document["mlflow"] | {"uri": tracker.uri},
        "state": str(state.root),
        "seconds": {},
    }


def _file(plan: Plan, state: StateDir) -> Path:
    section = plan.spec.evaluation
    key = digest(
        {
            "spec": plan.spec.to_dict(),
            "sweep": plan.sweep_id,
            "own": own_sources(section.policies if section else ()),
            "sources": [sources_version(), sources_digest(Path(__file__).parents[1])],
        }
    )
    return state.root / "documents" / f"{plan.sweep_id}-{key}.json"


def _models(plan: Plan, state: StateDir, tracker: MlflowTracker) -> dict[str, str | None]:
    """What the registry holds for this sweep: versions behind the aliases, and digests of the models it names."""
    spec = plan.spec
    found: dict[str, str | None] = {}
    if spec.train is not None:
        found = {alias: tracker.alias_version(plan.profile.name, alias) for alias in (CHALLENGER, CHAMPION)}
    for name in spec.evaluation.policies if spec.evaluation else ():
        if choice_of(name, "evaluation").is_model:
            try:
                found[name] = hashlib.sha256(model_content(name, state)[0]).hexdigest()
            except ModelError:
                found[name] = None
    return found


def _unwrapped(scalar: Any) -> Any:
    return scalar.item()  # NumPy's own numbers and truth values
