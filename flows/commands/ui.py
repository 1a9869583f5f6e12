"""`devops-sim ui`: MLflow and Prefect on loopback for as long as the command runs."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from experiments.store.links import first_page
from experiments.store.relocation import follow_folder
from experiments.store.state import StateDir
from flows.servers.processes import announced, check_port_is_free, start_mlflow, start_prefect
from flows.terminal.output import announce
from sim_core.errors import InputError, PlatformError

_WATCH_PERIOD_S = 0.5


def serve_ui(mlflow_port: int, prefect_port: int, folder: Path | None) -> None:
    """Start both servers, print their addresses on standard output, and wait; both end with this process.

    The third line is for other terminals: the `prefect` command needs the address in its environment.

    Args:
        mlflow_port: TCP port on loopback.
        prefect_port: another one.
        folder: the state folder; None takes the usual one.

    Raises:
        InputError: a port cannot be listened on, or both are the same.
        PlatformError: a server did not start, or ended by itself.
    """
    if mlflow_port == prefect_port:
        raise InputError(
            f"--prefect-port {prefect_port}", "is also the port of MLflow; choose another with --mlflow-port"
        )
    check_port_is_free("--mlflow-port", mlflow_port)
    check_port_is_free("--prefect-port", prefect_port)
    state = StateDir.open(folder)
    try:
        follow_folder(state)
    except sqlite3.Error as error:
        remedy = "end what holds it, or move the file away: MLflow then begins a new one"
        raise PlatformError(
            f"{state.mlflow_database}: MLflow's database cannot be opened ({error}); {remedy}"
        ) from error
    announce(f"Starting MLflow and Prefect on {state.root} ...")
    servers = []
    try:
        servers.append(start_prefect(state.root, prefect_port))
        servers.append(start_mlflow(state.root, state.mlflow_uri, state.artifacts, mlflow_port))
        for server in servers:
            server.wait_until_ready()
        prefect, mlflow = servers
        with announced(state.root, prefect):
            print(f"MLflow   {mlflow.url}\nPrefect  {prefect.url}", flush=True)
            print(f"Runs     {first_page(mlflow.url, state)}", flush=True)
            print(f"export PREFECT_API_URL={prefect.url}/api", flush=True)
            announce(
                "Ctrl-C ends both. Sweeps use this Prefect; its own commands do after the line that begins with export."
            )
            while all(server.process.poll() is None for server in servers):
                time.sleep(_WATCH_PERIOD_S)
        ended = next(server for server in servers if server.process.poll() is not None)
        raise PlatformError(ended.obituary())
    finally:
        for server in servers:
            server.stop()
