"""Ray actors that simulate batches of points. No learning, tracking or flow library: an actor starts in a second."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from experiments.planning.plan import Plan, Point, lane_of
from sim_core.errors import PlatformError
from sim_core.profile import Profile
from sim_core.simulation import simulate
from sim_core.workload import Trace

Columns = dict[str, list[Any]]
RunBatch = Callable[[Sequence[Point], Trace, Mapping[str, Profile]], Columns]

MAX_DEATHS = 3  # of one actor, and of one batch
# A start takes seconds, and one that fails is noticed at once: this is for CPUs that another job takes at the same moment,
# so it is long enough for a machine that is busy with something else.
START_TIMEOUT_S = 600.0


def run_batch(points: Sequence[Point], trace: Trace, profiles: Mapping[str, Profile]) -> Columns:
    """Simulates points as the lanes of one batch.

    Args:
        points: of equal duration and engine, with profiles of equal shape.
        trace: the whole scaled traffic of the sweep.
        profiles: profile of each `profile_digest`.

    Returns:
        One entry a point in each column: those of `Point.row`, every indicator, and `compute_s`, its share of the time
        of the batch [s]. The result depends on the points alone, not on the actor or on what it ran before.
    """
    lanes = [lane_of(point, trace, profiles) for point in points]
    began_s = time.perf_counter()
    indicators = simulate(lanes, points[0].duration_s, engine=points[0].engine).indicators
    compute_s = (time.perf_counter() - began_s) / len(points)
    rows = [point.row() for point in points]
    columns: Columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns |= {str(name): [float(value) for value in indicators[name]] for name in indicators.columns}
    return columns | {"compute_s": [compute_s] * len(points)}


class PoolClosed(PlatformError):
    """The actors were ended, by whoever made them, before a batch had its result."""


class SimulationActor:
    """Runs batches on one core; Ray starts it again when its process dies, and repeats the call that died with it."""

    def __init__(self, run: RunBatch):
        self._run = run
        self._inputs: list[Any] = []

    def ready(self) -> bool:
        """Answers once the process has started."""
        return True

    def run_batch(self, points: Sequence[Point], inputs: Sequence[Any]) -> Columns:
        """What the actor was made to run, on these points.

        Args:
            points: of one batch.
            inputs: references to the trace and to the profiles, the same in every call; they come with each one since a
                restarted actor has forgotten them.
        """
        self._inputs = self._inputs or ray.get(list(inputs))
        trace, profiles = self._inputs
        return self._run(points, trace, profiles)


@dataclass
class SimulationPool:
    """Actors of one plan. `run_batch` may be called from many threads at once; `close` frees the CPUs."""

    size: int
    _actors: list[Any]
    _inputs: list[Any]
    _idle: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    _closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        for actor in self._actors:
            self._idle.put(actor)

    def run_batch(self, points: Sequence[Point]) -> Columns:
        """Runs a batch on the next idle actor and waits for its columns.

        Raises:
            PoolClosed: `close` was called before it was done.
            PlatformError: the actor died too often.
            Exception: what the simulation itself raised, with its own type.
        """
        actor = self._idle.get()
        try:
            if actor is not None:
                return result_of(actor.run_batch.remote(list(points), self._inputs))
        except Exception:
            if not self._closed.is_set():  # else it did not die by itself
                raise
        finally:
            self._idle.put(actor)
        raise PoolClosed("Stopped before it was simulated.")

    def run(self, batches: Iterable[Sequence[Point]]) -> Iterator[Columns]:
        """Runs batches on all actors and yields the columns of each as it finishes; see `run_batch` for errors."""
        waiting = iter(list(batches))
        running: dict[Any, Any] = {}
        idle = list(self._actors)
        while True:
            while idle and (batch := next(waiting, None)) is not None:
                actor = idle.pop()
                running[actor.run_batch.remote(list(batch), self._inputs)] = actor
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            idle.append(running.pop(done[0]))
            yield result_of(done[0])

    def close(self) -> None:
        """Ends the actors; whoever waits for one in `run_batch` is told."""
        self._closed.set()
        self._idle.put(None)  # wakes one, who passes it on to the next
        for actor in self._actors:
            with contextlib.suppress(Exception):
                ray.kill(actor)


@contextlib.contextmanager
def simulation_pool(
    trace: Trace, profiles: Mapping[str, Profile], actors: int, run: RunBatch = run_batch
) -> Iterator[SimulationPool]:
    """Actors for the `with` block, one CPU each. Trace and profiles are put into the object store once.

    Args:
        trace: the whole scaled traffic of the sweep.
        profiles: profile of each digest.
        actors: how many; no more than free CPUs are started, since one too many would wait for ever.
        run: what an actor does with a batch.

    Raises:
        PlatformError: no CPU is free, or the actors do not start in time.
    """
    size = wait_for_cpus(actors)
    inputs = [ray.put(trace), ray.put(dict(profiles))]
    actor_class = ray.remote(num_cpus=1, max_restarts=MAX_DEATHS, max_task_retries=MAX_DEATHS)(SimulationActor)
    pool = SimulationPool(size, [actor_class.remote(run) for _ in range(size)], inputs)
    try:
        try:
            ray.get([actor.ready.remote() for actor in pool._actors], timeout=START_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError as error:
            raise PlatformError(
                f"{size} simulation actors did not start within {START_TIMEOUT_S:.0f} s; "
                "another job may hold the CPUs of Ray"
            ) from error
        except ray.exceptions.RayError as error:
            raise PlatformError(f"simulation actors do not start: {str(error).strip().splitlines()[-1]}") from error
        yield pool
    finally:
        pool.close()


def plan_pool(plan: Plan, actors: int) -> contextlib.AbstractContextManager[SimulationPool]:
    """`simulation_pool` for the traffic and profiles of a plan."""
    return simulation_pool(plan.trace, plan.profiles, actors)


def wait_for_cpus(wanted: int, patience_s: float = 10.0) -> int:
    """CPUs that Ray has free, at most `wanted`; waits for those that ended actors are about to give back.

    Raises:
        PlatformError: none is free. An actor that asks for more than is free would wait for ever without an error.
    """
    total = int(ray.cluster_resources().get("CPU", 0.0))
    give_up_s = time.monotonic() + patience_s
    while True:
        free = int(ray.available_resources().get("CPU", 0.0))
        if free >= min(wanted, total) > 0:
            return min(wanted, total)
        if time.monotonic() > give_up_s:
            if free > 0:
                return free
            raise PlatformError(f"none of the {total} CPUs of Ray is free; wait for other jobs or give Ray more CPUs")
        time.sleep(0.05)


def result_of(reference: Any) -> Any:
    """What an actor call returned; an exception of ours with its own type, one of Ray's as PlatformError."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.RayActorError as error:
        raise PlatformError(
            f"a Ray actor died {MAX_DEATHS + 1} times (out of memory?): {str(error).splitlines()[0]}; "
            "stored results are kept, run the same command again to resume"
        ) from error
