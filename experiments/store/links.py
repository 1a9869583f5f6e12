"""Addresses of pages of MLflow that show what is meant at once, rather than where MLflow itself begins."""

from __future__ import annotations

import contextlib
import json
import sqlite3

from experiments.store.state import StateDir

UI_ADDRESS = "http://127.0.0.1:5000"  # of MLflow under `devops-sim ui`, unless it is given another port
# Without it MLflow opens on the traces of GenAI, whatever the kind of the experiment.
_MODE = "workflowType=machine_learning"
VIEW_TAG = "mlflow.sharedViewState."  # of an experiment, followed by the key of a view
_COLUMNS = ("cost_usd", "slo_attainment", "latency_p95_s", "replica_hours")
_NEWEST = f"""
    SELECT runs.experiment_id, sweep.value FROM runs
    LEFT JOIN tags AS sweep ON sweep.run_uuid = runs.run_uuid AND sweep.key = 'sweep_id' AND EXISTS (
        SELECT 1 FROM experiment_tags WHERE experiment_tags.key = '{VIEW_TAG}' || sweep.value)
    WHERE runs.lifecycle_stage = 'active' ORDER BY sweep.value IS NULL, runs.start_time DESC LIMIT 1
"""


def address_of(tracking_uri: str) -> str:
    """Where MLflow's pages are: at a tracking server itself, else at `devops-sim ui`."""
    return tracking_uri.rstrip("/") if tracking_uri.startswith(("http://", "https://")) else UI_ADDRESS


def run_page(address: str, experiment_id: str, run_id: str) -> str:
    """The page of one run."""
    return f"{address}/#/experiments/{experiment_id}/runs/{run_id}?{_MODE}"


def sweep_view(sweep_id: str) -> tuple[str, str]:
    """The view of a sweep that its page opens, as a tag of the experiment: its runs with their figures, cheapest first.

    MLflow's table of runs shows no figures unless a view asks for them.
    """
    state = {
        "searchFilter": f'tags.sweep_id = "{sweep_id}"',
        "orderByKey": "metrics.`cost_usd`",
        "orderByAsc": True,
        "selectedColumns": [f"metrics.`{name}`" for name in _COLUMNS],
    }
    return f"{VIEW_TAG}{sweep_id}", json.dumps(state)


def runs_page(address: str, experiment_id: str, sweep_id: str | None = None) -> str:
    """The table of an experiment's runs, or of one sweep's, whose `sweep_view` the experiment has."""
    page = f"{address}/#/experiments/{experiment_id}/runs?{_MODE}"
    return page if sweep_id is None else f"{page}&viewStateShareKey={sweep_id}"


def first_page(address: str, state: StateDir) -> str:
    """The newest sweep's page; without a sweep the runs of the newest experiment, or the list of experiments."""
    found = None
    if state.mlflow_database.exists():
        with (
            contextlib.suppress(sqlite3.Error),  # no tables yet
            contextlib.closing(sqlite3.connect(f"{state.mlflow_database.as_uri()}?mode=ro", uri=True)) as database,
        ):
            found = database.execute(_NEWEST).fetchone()
    return runs_page(address, str(found[0]), found[1]) if found else f"{address}/#/experiments?{_MODE}"
