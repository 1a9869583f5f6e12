"""Addresses of pages of MLflow that show what is meant at once, rather than where MLflow itself begins."""

from __future__ import annotations

import contextlib
import sqlite3
from urllib.parse import quote

from experiments.state import StateDir

UI_ADDRESS = "http://127.0.0.1:5000"  # of MLflow under `devops-sim ui`, unless it is given another port
# Without it MLflow opens on the traces of GenAI, whatever the kind of the experiment.
_MODE = "workflowType=machine_learning"
_NEWEST = """
    SELECT runs.experiment_id, sweep.value FROM runs
    JOIN tags AS kind ON kind.run_uuid = runs.run_uuid AND kind.key = 'kind'
    LEFT JOIN tags AS sweep ON sweep.run_uuid = runs.run_uuid AND sweep.key = 'sweep_id' AND kind.value = 'sweep'
    WHERE runs.lifecycle_stage = 'active' ORDER BY sweep.value IS NULL, runs.start_time DESC LIMIT 1
"""


def address_of(tracking_uri: str) -> str:
    """Where MLflow's pages are: at a tracking server itself, else at `devops-sim ui`."""
    return tracking_uri.rstrip("/") if tracking_uri.startswith(("http://", "https://")) else UI_ADDRESS


def run_page(address: str, experiment_id: str, run_id: str) -> str:
    """The page of one run."""
    return f"{address}/#/experiments/{experiment_id}/runs/{run_id}?{_MODE}"


def runs_page(address: str, experiment_id: str, sweep_id: str | None = None) -> str:
    """The table of an experiment's runs, or of one sweep's configurations, cheapest first."""
    page = f"{address}/#/experiments/{experiment_id}/runs?{_MODE}"
    if sweep_id is None:
        return page
    query = quote(f'tags.sweep_id = "{sweep_id}"', safe="")
    return f"{page}&searchFilter={query}&orderByKey={quote('metrics.`cost_usd`', safe='')}&orderByAsc=true"


def first_page(address: str, state: StateDir) -> str:
    """The configurations of the newest sweep; without one the newest experiment's runs, or the list of experiments."""
    found = None
    if state.mlflow_database.exists():
        with (
            contextlib.suppress(sqlite3.Error),  # no tables yet
            contextlib.closing(sqlite3.connect(f"{state.mlflow_database.as_uri()}?mode=ro", uri=True)) as database,
        ):
            found = database.execute(_NEWEST).fetchone()
    return runs_page(address, str(found[0]), found[1]) if found else f"{address}/#/experiments?{_MODE}"
