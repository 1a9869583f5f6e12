"""The training flow: an autoscaler learns in a Ray actor, its curve streams to MLflow, its model is registered."""

from __future__ import annotations

import time
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.utilities.annotations import quote

from experiments.cluster import ray_cluster
from experiments.state import StateDir
from experiments.tracking import CHAMPION, MlflowTracker
from experiments.training.job import CurveLogger, Job, Rows, Trained, register, train_agent
from flows.requests import TrainingRequest
from flows.terminal.progress import Progress


@task(name="train", task_run_name="train", cache_policy=NO_CACHE)
def train_task(job: Job, state: StateDir, progress: Progress, curve: CurveLogger) -> Trained:
    """Task of `train_visibly`."""
    return train_visibly(job, state, progress, curve)


def train_visibly(job: Job, state: StateDir, progress: Progress, curve: CurveLogger) -> Trained:
    """Train, show each rollout, and stream it to MLflow."""

    def on_rows(rows: Rows) -> None:
        curve(rows)
        for row in rows[-1:]:
            shown = {"SLO": "slo/attainment", "reward": "rollout/reward_mean", "steps/s": "time/env_steps_per_s"}
            note = ", ".join(f"{name} {row[key]:,.4g}" for name, key in shown.items() if key in row)
            if row["step"] >= job.steps:
                note += "; setting its headroom"
            progress.update("train", min(row["step"], job.steps), job.steps, note)

    progress.update("train", 0, job.steps, "starting")
    return train_agent(job, state, on_rows, lambda: False)


@task(name="log model", cache_policy=NO_CACHE, retries=1)
def log_model_task(curve: CurveLogger, trained: Trained) -> str | None:
    """Task: the model into MLflow."""
    return curve.log_model(trained)


@flow(name="train", flow_run_name="{request.profile}", validate_parameters=True)
def train(request: TrainingRequest) -> dict[str, Any]:
    """Train an autoscaler and register it; the document of `devops-sim train`."""
    began_s = time.monotonic()
    state = StateDir.open(request.state)
    job = request.resolve()
    tracker = MlflowTracker.open(state, job.profile.name)
    curve = CurveLogger(job, tracker)
    with Progress() as progress, ray_cluster(state):
        trained = train_task(quote(job), quote(state), quote(progress), quote(curve))
    model_uri = log_model_task(quote(curve), quote(trained))
    first = tracker.alias_version(job.profile.name, CHAMPION) is None  # there is nobody that it would have to beat
    return {
        "command": "train",
        "request": request.model_dump(mode="json"),
        "held_out": request.held_out(job),
        **training_document(job, trained),
        "model": {"logged": model_uri, "registered": register(tracker, model_uri, job, champion=first)},
        "mlflow": {"uri": tracker.uri, "run_id": curve.run_id, "warning": tracker.warning},
        "state": str(state.root),
        "seconds": {"total": time.monotonic() - began_s},
    }


def training_document(job: Job, trained: Trained) -> dict[str, Any]:
    """What a training was and what came out, for documents."""
    last = trained.rows[-1] if trained.rows else {}
    return {
        "training": job.describe()
        | {"key": trained.key, "resumed": trained.resumed, "last": last, "outcome": trained.facts}
    }
