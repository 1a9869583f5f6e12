"""Flows in this process: a Prefect server and a Ray cluster for as long as they run, unless both are there already."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from agents.policies.registry import check_made, choice_of
from experiments.store.state import StateDir
from flows.requests import SweepRequest, TrainingRequest
from flows.servers.processes import Server, prefect_api
from flows.terminal.output import announce

_SETTLE_S = 60.0  # the most that the last records of a flow may take to reach the server's database


def sweep_here(request: SweepRequest) -> dict[str, Any]:
    """Run the sweep flow in this process and return its document; from disk where all of it is finished.

    Raises:
        InputError: specification, traffic or state folder are wrong; found before anything is started or written.
        PlatformError: a server or the cluster failed.
    """
    spec = request.resolve()
    from experiments.planning.plan import make_plan

    plan = make_plan(spec)
    if spec.evaluation is not None:
        check_made(choice_of(name, "evaluation") for name in spec.evaluation.policies)
    state = StateDir.open(request.state)
    from experiments.store.finished import recall_document

    if (finished := recall_document(plan, state)) is not None:
        announce("All of it is finished already.")
        return finished
    with platform(state, "flows.sweep") as module:
        return dict(module.sweep(request.model_copy(update={"state": str(state.root)})))


def train_here(request: TrainingRequest) -> dict[str, Any]:
    """Run the training flow in this process and return its document.

    Raises:
        InputError: any part of the request is wrong; found before anything is started or written.
        PlatformError: a server or the cluster failed.
    """
    request.resolve()
    state = StateDir.open(request.state)
    with platform(state, "flows.train") as module:
        return dict(module.train(request.model_copy(update={"state": str(state.root)})))


@contextlib.contextmanager
def platform(state: StateDir, module: str) -> Iterator[Any]:
    """Prefect and Ray for the block; both start at the same time, and what was started here ends with the block.

    Args:
        state: their state folder.
        module: holds the flow. It is imported, while the server starts, and given to the block: Prefect takes its settings
            from the environment when it is imported.
    """
    from experiments.compute.cluster import ray_cluster

    # Errors reach the user as one message of ours; Prefect's own lines are on its pages.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    began = dt.datetime.now(dt.UTC)
    with prefect_api(state.root) as server:
        announce(
            "Starting Prefect and Ray ..."
            if server
            else f"Prefect runs at {os.environ['PREFECT_API_URL']}; starting Ray ..."
        )
        flows = importlib.import_module(module)
        on_sigterm = signal.getsignal(signal.SIGTERM)
        with ray_cluster(state):
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which exits with another code
            if server is not None:
                server.wait_until_ready()
            try:
                with importlib.import_module("flows.stopping").stops_go_on():
                    yield flows
            finally:
                if server is not None:
                    settle(server, began)


def settle(server: Server, began: dt.datetime) -> None:
    """Wait, within limits, until the server has stored the last logs and states of the runs since then."""
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=_SETTLE_S)
    give_up_s = time.monotonic() + _SETTLE_S
    with contextlib.suppress(OSError, ValueError):
        while _unfinished_tasks(server, began) and time.monotonic() < give_up_s:
            time.sleep(0.2)


def _unfinished_tasks(server: Server, began: dt.datetime) -> int:
    query = {
        "flow_runs": {"start_time": {"after_": began.isoformat()}},  # what was killed earlier stays RUNNING for ever
        "task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
    }
    request = urllib.request.Request(
        f"{server.url}/api/task_runs/count", json.dumps(query).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_SETTLE_S) as response:
        return int(json.loads(response.read()))
