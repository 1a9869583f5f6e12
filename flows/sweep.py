"""The sweep flow: simulate what is missing, track it; train, evaluate and report where the specification says so.

Tasks are one-line calls of plain functions with retries around them. What resumes is the result store, which knows a
point by its inputs and by the digest of the simulator's sources: a cache of tasks could only disagree with it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from agents.policies.registry import choice_of
from experiments.analysis.comparison import best, best_by_scenario, compare, indicators_of
from experiments.analysis.summaries import configurations, sameness
from experiments.compute.actors import SimulationPool, plan_pool
from experiments.compute.cluster import ray_cluster
from experiments.held_out import DEFAULT_STEPS, HeldOut, evaluation_file, model_content
from experiments.planning.plan import Plan, Point, make_plan
from experiments.report import comparison_text, keep_findings, report_data, write_report
from experiments.store.finished import keep_document
from experiments.store.identity import sources_version
from experiments.store.results import ResultStore
from experiments.store.state import StateDir
from experiments.tracking import FAILURES, MlflowTracker
from experiments.training.gate import not_evaluated, promotion_gate, reigning_champion
from experiments.training.job import CurveLogger, Job, Trained, describe, register
from flows.estimates import tell_time
from flows.inputs import warn_of, warn_of_saturation
from flows.pages import ShownProgress, log, published, tag
from flows.requests import SweepRequest
from flows.stopping import stoppable, task
from flows.terminal.progress import Progress
from flows.train import evaluate_task, evaluation_document, log_model_task, train_task, training_document
from sim_core.dates import seed_of, today
from sim_core.errors import InputError

_SHARDS_PER_ACTOR = 4  # enough that progress moves, retries are cheap and no actor waits long for the others
_MOST_LANES = 64
_LEAST_LANES = 4


def unless_input_is_wrong(task_: Any, task_run: Any, state: Any) -> bool:
    """Whether a failed task is worth another attempt: what the input breaks, it breaks again."""
    return not isinstance(state.data, InputError) and not isinstance(getattr(state.data, "exception", None), InputError)


@task(
    task_run_name="simulate {number} of {count}",
    retries=2,
    retry_delay_seconds=1,
    retry_condition_fn=unless_input_is_wrong,
    cache_policy=NO_CACHE,
)
def simulate_shard(number: int, count: int, points: Sequence[Point], pool: SimulationPool, store: ResultStore) -> int:
    """Task of `simulate`."""
    return simulate(points, pool, store)


def simulate(points: Sequence[Point], pool: SimulationPool, store: ResultStore) -> int:
    """Simulate points on an actor and store their results; how many there were."""
    store.append(pool.run_batch(points))
    return len(points)


@task(task_run_name="track", retries=1, cache_policy=NO_CACHE)
def track_sweep(plan: Plan, store: ResultStore, tracker: MlflowTracker) -> str | None:
    """Task: write the sweep to MLflow."""
    return tracker.log_sweep(plan, store.load(plan.sweep_id))


@task(name="report", task_run_name="report", cache_policy=NO_CACHE)
def report_task(sweep_id: str, state: StateDir) -> tuple[str, str]:
    """Task: the report of a sweep as a file, and as a table for the terminal."""
    data = report_data(sweep_id, state)
    return str(write_report(data, state.reports / f"{sweep_id}.html")), comparison_text(data)


@flow(
    name="sweep",
    flow_run_name="{request.spec}",
    task_runner=ThreadPoolTaskRunner(max_workers=256),  # they only wait for actors
    validate_parameters=True,
)
@stoppable
@published
def sweep(request: SweepRequest) -> dict[str, Any]:
    """Run a sweep to its end, from wherever an earlier run of it stopped; the document of `devops-sim sweep`."""
    clock = Clock()
    state = StateDir.open(request.state)
    plan = make_plan(request.resolve())
    tag("sweep", plan.profile.name, plan.spec.name)
    store = ResultStore(state.results)
    tracker = MlflowTracker.open(state, plan.profile.name)
    job, trained, model, held_out, evaluation = training_of(plan), None, None, None, None
    evaluated_before = False
    with Progress() as progress, ray_cluster(state) as cluster:
        for warning in plan.spec.warnings():
            progress.say(f"Warning: {warning}")
        warnings = plan.spec.warnings() + warn_of(plan.profiles.values(), progress.say)
        actors = min(request.actors or cluster.num_cpus, cluster.num_cpus)
        with ready_meanwhile(tracker):
            counts = simulate_missing(plan, store, actors, progress)
        clock.note("simulate")
        run_id = track_sweep(quote(plan), quote(store), quote(tracker))
        clock.note("track")
        if job is not None:
            curve = CurveLogger(job, tracker, plan.spec.to_dict())
            trained = train_task(quote(job), quote(state), quote(progress), quote(curve))
            model = {"logged": log_model_task(quote(curve), quote(trained)), "registered": None}
            clock.note("train")
        if plan.spec.evaluation is not None:
            held_out = held_out_of(plan, trained, tracker, state)
            evaluated_before = evaluation_file(held_out, state).exists()
            evaluation = evaluate_task(quote(held_out), quote(state), quote(tracker), quote(progress))
            clock.note("evaluate")
    compared = evaluation_document(held_out, evaluation) if held_out and evaluation else None
    if evaluation is not None:
        warnings += warn_of_saturation(evaluation.saturated)
    if job is not None and model is not None:
        gate = (
            promotion_gate(evaluation, plan.profile.slo.objective)
            if evaluation is not None
            else not_evaluated("the specification has no section evaluation")
        )
        model |= {"registered": register(tracker, model["logged"], job, gate), "gate": gate.to_dict()}
        describe(tracker, model["registered"], job, trained, model["gate"], compared and compared["policies"])
    points = store.load(plan.sweep_id)
    table = compare(points)
    goal = (plan.spec.objective.minimize, plan.spec.limits(plan.profile))
    spent = time_spent(clock, counts, trained, evaluated_before)
    keep_findings(plan, state, evaluation, held_out, trained, provenance(plan, job, model), spent)
    report, text = report_task(plan.sweep_id, quote(state))
    tracker.log_file(run_id, Path(report))
    clock.note("report")
    document = {
        "command": "sweep",
        "sweep_id": plan.sweep_id,
        "name": plan.spec.name,
        "profile": plan.profile.name,
        "engine": plan.spec.engine,
        "slo": plan.profile.slo.model_dump(mode="json"),
        "points": counts,
        "actors": actors,
        "configurations": configurations(table),
        "best": vars(best(table, *goal)),
        "best_by_scenario": best_by_scenario(table, *goal),
        **sameness(table, points, indicators_of(points)),
        "warnings": warnings,
        **(training_document(job, trained) if job and trained else {"training": None}),
        "model": model,
        "evaluation": compared,
        "report": report,
        "mlflow": {
            "uri": tracker.uri,
            "run_id": run_id,
            "warning": tracker.warning,
            "page": tracker.sweep_page(run_id and plan.sweep_id),
        },
        "state": str(state.root),
        "seconds": clock.seconds | {"total": clock.total_s},
        "text": text,
    }
    keep_document(document, plan, state, tracker)
    return document


@contextlib.contextmanager
def ready_meanwhile(tracker: MlflowTracker) -> Iterator[None]:
    """Let MLflow make its database, which takes seconds the first time, while the actors simulate."""

    def prepare() -> None:
        with contextlib.suppress(*FAILURES):  # the first use reports it
            tracker.experiment_id()

    thread = threading.Thread(target=prepare, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


class Clock:
    """Wall time of each stage [s]."""

    def __init__(self) -> None:
        self._began_s = self._last_s = time.monotonic()
        self.seconds: dict[str, float] = {}

    def note(self, stage: str) -> None:
        """The stage ends now."""
        now_s = time.monotonic()
        self.seconds[stage], self._last_s = now_s - self._last_s, now_s
        log("%s: done in %.1f s", stage, self.seconds[stage])

    @property
    def total_s(self) -> float:
        """Since the beginning [s]."""
        return time.monotonic() - self._began_s


def training_of(plan: Plan) -> Job | None:
    """The training that the specification asks for."""
    section, window = plan.spec.train, plan.spec.traffic.train
    if section is None or window is None:
        return None
    end_s = window.start + window.duration
    seed = seed_of(plan.spec.traffic.date or today()) if section.seed is None else section.seed
    return Job(plan.profile, plan.trace, window.start, end_s, section.steps, seed, section.lanes)


def held_out_of(plan: Plan, trained: Trained | None, tracker: MlflowTracker, state: StateDir) -> HeldOut:
    """The comparison that the specification asks for; the present champion takes part where it fits the profile.

    Raises:
        ModelError: a model that the specification names cannot be found.
    """
    section, window, seen = plan.spec.evaluation, plan.spec.traffic.evaluate, plan.spec.traffic.train
    assert section is not None and window is not None
    names = list(section.policies)
    models = {name: model_content(name, state) for name in names if choice_of(name, "evaluation").is_model}
    if trained is not None and "agent" in names:
        models["agent"] = (trained.model.read_bytes(), trained.facts)
        models |= reigning_champion(plan.profile, models["agent"][0], tracker, state)
    return HeldOut(
        plan.profile,
        plan.trace,
        seen.start if seen else 0.0,
        seen.start + seen.duration if seen else 0.0,
        window.start,
        window.duration,
        section.seeds,
        # A short training must not win against a badly tuned HPA.
        max(plan.spec.train.steps if plan.spec.train else 0, DEFAULT_STEPS),
        [*names, *(name for name in models if name not in names)],
        models,
        plan.spec.engine,
    )


def time_spent(
    clock: Clock, counts: Mapping[str, int], trained: Trained | None, evaluated_before: bool
) -> dict[str, float]:
    """Wall time of the stages that did their work in this run [s]; of a training, what it took whenever that was."""
    idle = {"simulate": not counts["simulated"], "track": not counts["simulated"], "evaluate": evaluated_before}
    spent = {stage: seconds for stage, seconds in clock.seconds.items() if not idle.get(stage)}
    return spent | ({"train": trained.wall_s} if trained is not None else {})


def provenance(plan: Plan, job: Job | None, model: dict[str, Any] | None) -> dict[str, Any]:
    """Where the figures come from, for the report."""
    return {
        "sweep": plan.sweep_id,
        "version": sources_version(),
        "engine": plan.spec.engine,
        "profile_digest": plan.profile.digest,
        "trace_digest": plan.trace.digest,
        "sweep_seeds": f"{plan.spec.seeds.first} to {plan.spec.seeds.first + plan.spec.seeds.count - 1}",
        "training_seed": job.seed if job else None,
        "model": (model or {}).get("registered"),
        "promotion": (model or {}).get("gate", {}).get("reason"),
        "commands": ["devops-sim ui", f"devops-sim compare {plan.sweep_id}", f"devops-sim report {plan.sweep_id}"],
    }


def simulate_missing(plan: Plan, store: ResultStore, actors: int, progress: Progress) -> dict[str, int]:
    """Simulate the points of the plan that have no result yet, a task a shard; how many there are of each kind."""
    identities = [point.identity() for point in plan.points]
    store.register(plan.sweep_id, plan.keys, plan.spec.to_dict(), plan.basis(), identities)
    finished = store.finished_keys()
    missing = len(plan.pending(finished))
    total = len(plan.points)
    notes = [f"{total - missing} from earlier runs"] if missing < total else []
    if missing and not Path(os.environ["NUMBA_CACHE_DIR"]).exists():
        notes.append("the first run compiles the simulator, up to a minute")
    progress.update("simulate", total - missing, total, ", ".join(notes))
    log("%d points: %d from earlier runs, %d to simulate with %d actors", total, total - missing, missing, actors)
    if missing:
        tell_time(plan.spec.engine, plan.lanes(finished), threads=actors, say=progress.say)
        shown = ShownProgress(plan.spec.name, total)
        lanes = min(max(-(-missing // (actors * _SHARDS_PER_ACTOR)), _LEAST_LANES), _MOST_LANES)
        shards = plan.batches(finished, actors, lanes)
        with plan_pool(plan, min(actors, len(shards))) as pool:
            futures = [
                simulate_shard.submit(number, len(shards), quote(points), quote(pool), quote(store))
                for number, points in enumerate(shards, start=1)
            ]
            done = total - missing
            for future in as_completed(futures):
                done += future.result()
                progress.update("simulate", done, total)
                shown.update(done)
    return {"total": total, "resumed": total - missing, "simulated": missing}
