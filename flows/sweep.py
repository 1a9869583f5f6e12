"""The sweep flow: simulate what is missing, track it; train, evaluate and report where the specification says so.

Tasks are one-line calls of plain functions with retries around them. What resumes is the result store, which knows a
point by its inputs and by the digest of the simulator's sources: a cache of tasks could only disagree with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from experiments.actors import SimulationPool, plan_pool
from experiments.cluster import ray_cluster
from experiments.comparison import best, compare, indicators_of
from experiments.planning import Plan, Point, make_plan
from experiments.results import ResultStore
from experiments.state import StateDir
from experiments.tracking import MlflowTracker
from flows.progress import Progress
from flows.requests import SweepRequest
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
def track_sweep(plan: Plan, store: ResultStore, tracker: MlflowTracker, summary: Mapping[str, float]) -> str | None:
    """Task: write the sweep to MLflow."""
    return tracker.log_sweep(plan, store.load_keys(plan.keys), summary)


@flow(
    name="sweep",
    flow_run_name="{request.spec}",
    task_runner=ThreadPoolTaskRunner(max_workers=256),
    validate_parameters=True,
)
def sweep(request: SweepRequest) -> dict[str, Any]:
    """Run a sweep to its end, from wherever an earlier run of it stopped; the document of `devops-sim sweep`."""
    began_s = time.monotonic()
    state = StateDir.open(request.state)
    plan = make_plan(request.resolve())
    store = ResultStore(state.results)
    tracker = MlflowTracker.open(state, plan.profile.name)
    with Progress() as progress, ray_cluster(state) as cluster:
        counts = simulate_missing(plan, store, request.actors or cluster.num_cpus, progress)
        simulated_s = time.monotonic() - began_s
        summary = {"simulated_points": float(counts["simulated"]), "simulate_s": simulated_s}
        run_id = track_sweep(quote(plan), quote(store), quote(tracker), summary)
        table = compare(store.load_keys(plan.keys))
        chosen = best(table, plan.spec.objective.minimize, plan.spec.limits(plan.profile))
    return {
        "command": "sweep",
        "sweep_id": plan.sweep_id,
        "name": plan.spec.name,
        "profile": plan.profile.name,
        "points": counts,
        "configurations": configurations(table),
        "best": vars(chosen),
        "mlflow": {"uri": tracker.uri, "run_id": run_id, "warning": tracker.warning},
        "state": str(state.root),
        "seconds": {"simulate": simulated_s, "total": time.monotonic() - began_s},
    }


def simulate_missing(plan: Plan, store: ResultStore, actors: int, progress: Progress) -> dict[str, int]:
    """Simulate the points of the plan that have no result yet, a task a shard; how many there are of each kind."""
    store.register(plan.sweep_id, plan.keys, plan.spec.to_dict())
    finished = store.finished_keys()
    missing = len(plan.pending(finished))
    total = len(plan.points)
    progress.update(
        "simulate", total - missing, total, f"{total - missing} from earlier runs" if missing < total else ""
    )
    if missing:
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
    return {"total": total, "resumed": total - missing, "simulated": missing}


def configurations(table: Any) -> list[dict[str, Any]]:
    """Rows of `comparison.compare` as plain data: label, settings, and each indicator with its interval."""
    names = [name for name in indicators_of(table) if "_ci95_" not in name and name != "seeds"]
    return [
        {
            "configuration_key": row["configuration_key"],
            "label": row["label"],
            "policy": row["policy"],
            "settings": json.loads(row["settings"]),
            "parameters": json.loads(row["parameters"]),
            "seeds": row["seeds"],
            "indicators": {
                name: {"mean": row[name], "ci95": [row[f"{name}_ci95_low"], row[f"{name}_ci95_high"]]} for name in names
            },
        }
        for row in table.to_dict("records")
    ]
