"""The training flow: an autoscaler learns in a Ray actor, its curve streams to MLflow, its model is registered.

It is promoted where it wins a comparison on traffic that was kept back from the training.
"""

from __future__ import annotations

import time
from typing import Any

from prefect import flow
from prefect.cache_policies import NO_CACHE
from prefect.utilities.annotations import quote

from agents.learning.evaluate import BASELINE, Evaluation
from experiments.compute.cluster import ray_cluster
from experiments.held_out import DEFAULT_STEPS, HeldOut, compare_policies, policies_document, track_evaluation
from experiments.store.state import StateDir
from experiments.tracking import MlflowTracker
from experiments.training.gate import AGENT, not_evaluated, promotion_gate, reigning_champion
from experiments.training.job import CurveLogger, Job, Rows, Trained, describe, register, train_agent
from flows.inputs import warn_of, warn_of_saturation
from flows.pages import log, published, tag
from flows.requests import TrainingRequest
from flows.stopping import stoppable, task
from flows.terminal.output import figure
from flows.terminal.progress import Progress

GATE_SEEDS = 10  # of the comparison before promotion


@task(name="train", task_run_name="train", cache_policy=NO_CACHE)
def train_task(job: Job, state: StateDir, progress: Progress, curve: CurveLogger) -> Trained:
    """Task of `train_visibly`."""
    return train_visibly(job, state, progress, curve)


def train_visibly(job: Job, state: StateDir, progress: Progress, curve: CurveLogger) -> Trained:
    """Train, show each rollout, and stream it to MLflow."""

    def on_rows(rows: Rows) -> None:
        curve(rows)
        for row in rows[-1:]:
            shown = {"reward": "rollout/reward_mean", "steps/s": "time/env_steps_per_s"}
            notes = [f"SLO {figure('slo_attainment', row['slo/attainment'])}"] if "slo/attainment" in row else []
            note = ", ".join([*notes, *(f"{name} {row[key]:,.4g}" for name, key in shown.items() if key in row)])
            if row["step"] >= job.steps:
                note += "; deciding how much of it is kept"
            progress.update("train", min(row["step"], job.steps), job.steps, note)

    progress.update("train", 0, job.steps, "starting")
    return train_agent(job, state, on_rows, lambda: False)


@task(name="log model", cache_policy=NO_CACHE, retries=1)
def log_model_task(curve: CurveLogger, trained: Trained) -> str | None:
    """Task: the model into MLflow."""
    return curve.log_model(trained)


@task(name="evaluate", task_run_name="evaluate", cache_policy=NO_CACHE)
def evaluate_task(held_out: HeldOut, state: StateDir, tracker: MlflowTracker, progress: Progress) -> Evaluation:
    """Task of `evaluate_visibly`."""
    return evaluate_visibly(held_out, state, tracker, progress)


def evaluate_visibly(held_out: HeldOut, state: StateDir, tracker: MlflowTracker, progress: Progress) -> Evaluation:
    """Compare policies on held-out traffic, show it, and log it to MLflow."""

    def on_progress(done: int, total: int, note: str) -> None:
        progress.update("evaluate", done, total, note)

    evaluation = compare_policies(held_out, state, on_progress)
    track_evaluation(held_out, evaluation, tracker)
    return evaluation


@flow(name="train", flow_run_name="{request.profile}", validate_parameters=True)
@stoppable
@published
def train(request: TrainingRequest) -> dict[str, Any]:
    """Train an autoscaler, register it, and promote it where it wins; the document of `devops-sim train`."""
    began_s = time.monotonic()
    state = StateDir.open(request.state)
    job = request.resolve()
    tag("train", job.profile.name, job.trace.name)
    tracker = MlflowTracker.open(state, job.profile.name)
    curve = CurveLogger(job, tracker)
    with Progress() as progress, ray_cluster(state):
        warnings = warn_of([job.profile], progress.say)
        trained = train_task(quote(job), quote(state), quote(progress), quote(curve))
        log("trained %d steps%s", job.steps, ", in an earlier run" if trained.resumed else "")
        model_uri = log_model_task(quote(curve), quote(trained))
        held_out = kept_back(job, trained, tracker, state)
        evaluation = None
        if held_out is not None:
            evaluation = evaluate_task(quote(held_out), quote(state), quote(tracker), quote(progress))
    if evaluation is not None:
        warnings += warn_of_saturation(evaluation.saturated)
    gate = (
        promotion_gate(evaluation, job.profile.slo.objective)
        if evaluation is not None
        else not_evaluated("no traffic was kept back; train on less of it with --duration, or give a longer trace")
    )
    registered = register(tracker, model_uri, job, gate)
    compared = evaluation_document(held_out, evaluation) if held_out and evaluation else None
    describe(tracker, registered, job, trained, gate.to_dict(), compared and compared["policies"])
    return {
        "command": "train",
        "request": request.model_dump(mode="json"),
        "held_out": request.left_to_evaluate(job),
        **training_document(job, trained),
        "model": {"logged": model_uri, "registered": registered, "gate": gate.to_dict()},
        "evaluation": compared,
        "warnings": warnings,
        "mlflow": {
            "uri": tracker.uri,
            "run_id": curve.run_id,
            "warning": tracker.warning,
            "page": tracker.page(curve.run_id),
        },
        "state": str(state.root),
        "seconds": {"total": time.monotonic() - began_s},
    }


def kept_back(job: Job, trained: Trained, tracker: MlflowTracker, state: StateDir) -> HeldOut | None:
    """The comparison before promotion: on what was kept back, with the tuned HPA and the present champion."""
    if job.held_out_s <= 0.0:
        return None
    agent = trained.model.read_bytes()
    models = {AGENT: (agent, trained.facts), **reigning_champion(job.profile, agent, tracker, state)}
    window = job.start_s, job.end_s, job.end_s, job.held_out_s
    budget_steps = max(job.steps, DEFAULT_STEPS)  # a short training must not win against a badly tuned HPA
    return HeldOut(job.profile, job.trace, *window, GATE_SEEDS, budget_steps, [BASELINE, *models], models)


def evaluation_document(held_out: HeldOut, evaluation: Evaluation) -> dict[str, Any]:
    """What was compared and what came out, for documents."""
    return {
        **held_out.describe(),
        "policies": policies_document(evaluation, held_out.duration_s),
        "no_room": evaluation.no_room,
    }


def training_document(job: Job, trained: Trained) -> dict[str, Any]:
    """What a training was and what came out, for documents."""
    last = trained.rows[-1] if trained.rows else {}
    return {
        "training": job.describe()
        | {"key": trained.key, "resumed": trained.resumed, "last": last, "outcome": trained.facts}
    }
