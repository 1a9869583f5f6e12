"""Training in a Ray actor: a learner with one core and its own process, watched from the driver."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray

from experiments.compute.actors import MAX_DEATHS, result_of, wait_for_cpus

Row = dict[str, Any]
Train = Callable[[Any, Callable[[list[Row]], None], Callable[[], bool]], Any]
Phase = Literal["running", "done", "failed"]

PROGRESS_FILE = "progress.jsonl"


def train_policy(request: Any, on_progress: Callable[[list[Row]], None], should_stop: Callable[[], bool]) -> Any:
    """`agents.learning.train.train`, imported where it runs: torch stays out of the driver."""
    from agents.learning.train import train

    return train(request, on_progress, should_stop)


@dataclass(frozen=True)
class Report:
    """What an actor answers to a poll: rows that are new, and how it goes."""

    phase: Phase
    rows: list[Row]


class TrainingActor:
    """Runs one training in a thread, so that it can be polled and stopped meanwhile.

    The thread starts with the first call: when the process dies, Ray starts the actor again and repeats the call, and the
    training resumes from its last checkpoint. What is trained comes with each call, as a reference, since a restarted
    actor has forgotten it; as an argument of the actor itself it could be lost, which Ray warns of. Progress rows are
    also kept in `folder`, so that none is lost, and rows that a resumed training repeats (same or smaller `step`) are
    dropped.
    """

    def __init__(self, folder: str, train: Train):
        self._train = train
        self._progress = Path(folder) / PROGRESS_FILE
        self._progress.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._rows = read_progress(self._progress)
        self._stop = threading.Event()
        self._result: Any = None
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def poll(self, since: int, request: Sequence[Any]) -> Report:
        """Rows from number `since` on, and the phase at that moment.

        Args:
            request: the one reference to what is to be trained.
        """
        running = self._begun(request).is_alive()  # before the rows are read: a finished thread adds none
        with self._lock:
            rows = self._rows[since:]
        phase: Phase = "running" if running else "failed" if self._error else "done"
        return Report(phase, rows)

    def result(self, request: Sequence[Any]) -> Any:
        """What the training returned, or its exception raised; waits for its end."""
        self._begun(request).join()
        if self._error is not None:
            raise self._error
        return self._result

    def stop(self) -> None:
        """Asks the training to end after the current rollout."""
        self._stop.set()

    def _begun(self, request: Sequence[Any]) -> threading.Thread:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, args=(ray.get(request[0]),), daemon=True)
            self._thread.start()
        return self._thread

    def _work(self, request: Any) -> None:
        try:
            self._result = self._train(request, self._append, self._stop.is_set)
        except Exception as error:
            self._error = error

    def _append(self, rows: list[Row]) -> None:
        with self._lock:
            last = self._rows[-1]["step"] if self._rows else -1
            fresh = [row for row in rows if row["step"] > last]
            with self._progress.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in fresh)
            self._rows += fresh


def read_progress(path: Path) -> list[Row]:
    """Progress rows of a training, in order; a last line cut off by a crash is left out, of the file too."""
    if not path.exists():
        return []
    rows, whole = [], 0
    content = path.read_bytes()
    for line in content.splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        rows.append(row)
        whole += len(line)
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    return rows


@contextlib.contextmanager
def training_actor(folder: Path, train: Train = train_policy) -> Iterator[Any]:
    """An actor that trains for the `with` block, on one CPU.

    Args:
        folder: of this training, in the state folder; progress rows are kept there.
        train: what to run, `train(request, on_progress, should_stop)`; rows have an increasing `step`.

    Raises:
        PlatformError: no CPU is free.
    """
    wait_for_cpus(1)
    actor_class = ray.remote(num_cpus=1, max_restarts=MAX_DEATHS, max_task_retries=MAX_DEATHS)(TrainingActor)
    actor = actor_class.remote(str(folder), train)
    try:
        yield actor
    finally:
        with contextlib.suppress(Exception):
            ray.kill(actor)


def run_training(
    request: Any,
    folder: Path,
    on_rows: Callable[[list[Row]], None],
    should_stop: Callable[[], bool] = lambda: False,
    poll_s: float = 0.5,
    train: Train = train_policy,
) -> Any:
    """Trains in a Ray actor and hands progress rows to the driver as they come.

    Args:
        request: first argument of `train`; its checkpoints should lie in `folder`.
        folder: see `training_actor`. Rows of an earlier, interrupted run in it come first.
        on_rows: gets each new, non-empty list of rows once, in the driver: for a progress bar and for MLflow.
        should_stop: asked at every poll; true ends the training early with the result so far.
        poll_s: time between polls [s].
        train: see `training_actor`.

    Returns:
        What `train` returned.

    Raises:
        PlatformError: no CPU is free, or the actor died too often; its checkpoints are kept.
        Exception: what the training itself raised, with its own type.
    """
    seen, kept = 0, [ray.put(request)]
    with training_actor(folder, train) as actor:
        while True:
            report: Report = result_of(actor.poll.remote(seen, kept))
            seen += len(report.rows)
            if report.rows:
                on_rows(report.rows)
            if report.phase != "running":
                return result_of(actor.result.remote(kept))
            if should_stop():
                result_of(actor.stop.remote())
            time.sleep(poll_s)
