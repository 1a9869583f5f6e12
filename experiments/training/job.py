"""Training, as flows do it: in a Ray actor, resumable, tracked while it runs, and kept by what decides its outcome."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from experiments.store.files import write_atomically
from experiments.store.identity import digest, sources_version
from experiments.store.state import StateDir
from experiments.tracking import CHALLENGER, CHAMPION, MlflowTracker, registered_name
from experiments.training.actor import PROGRESS_FILE, read_progress, run_training
from experiments.training.card import model_card

if TYPE_CHECKING:
    from experiments.training.gate import Gate
    from sim_core.profile import Profile
    from sim_core.workload import Trace

_RESULT, _MODEL = "result.json", "policy.onnx"

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """Everything that decides what a training learns, and what is kept back from it.

    Args:
        trace: the whole traffic, scaled to the profile.
        start_s, end_s: the part of it that may be seen [s].
        steps: env steps over all lanes.
        seed: of the training.
        lanes: worlds stepped at once.
        held_out_s: how much of the traffic after that part is kept back for the comparison before promotion [s]; the
            only field that does not decide what is learned.
    """

    profile: Profile
    trace: Trace
    start_s: float
    end_s: float
    steps: int
    seed: int
    lanes: int
    held_out_s: float = 0.0

    @property
    def key(self) -> str:
        """Digest [hex, 24 digits] of all inputs and of the sources that make the outcome."""
        return digest(
            {
                "profile": self.profile.digest,
                "trace": self.trace.digest,
                "window_s": [self.start_s, self.end_s],
                "learner": [self.steps, self.seed, self.lanes],
                "sources": sources_version(),
            }
        )

    def describe(self) -> dict[str, Any]:
        """The job as plain data, for parameters and documents."""
        return {
            "profile": self.profile.name,
            "profile_digest": self.profile.digest,
            "traffic": self.trace.name,
            "trace_digest": self.trace.digest,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "held_out_s": self.held_out_s,
            "algorithm": "ppo",
            "steps": self.steps,
            "seed": self.seed,
            "lanes": self.lanes,
            "version": sources_version(),
        }


@dataclass(frozen=True)
class Trained:
    """A finished training: its model on disk, what the learner said, and the rows of its learning curve."""

    key: str
    model: Path
    facts: dict[str, Any]
    rows: Rows
    resumed: bool

    @property
    def wall_s(self) -> float:
        """What the training took [s]: the attempt that finished it, and what earlier, interrupted ones had logged."""
        clocks = [float(row["time/wall_s"]) for row in self.rows]
        interrupted = sum(before for before, after in pairwise(clocks) if after < before)  # each attempt starts at 0
        return float(self.facts["wall_s"]) + interrupted

    @property
    def curve(self) -> pd.DataFrame:
        """One row a rollout, with `step`."""
        return pd.DataFrame(self.rows)


def train_agent(job: Job, state: StateDir, on_rows: Callable[[Rows], None], should_stop: Callable[[], bool]) -> Trained:
    """The outcome of a training: from disk when it is finished, else trained in a Ray actor from its last checkpoint.

    Args:
        job: what to train.
        state: keeps checkpoints, rows and model in a folder of the job's key.
        on_rows: gets the rows of the learning curve as they come; those of an interrupted run first.
        should_stop: true ends the learning early.

    Raises:
        InputError: the part of the traffic is too short to train on.
        PlatformError: no CPU is free, or the actor died too often.
    """
    folder = state.checkpoints / job.key
    if (folder / _RESULT).exists():
        rows = read_progress(folder / PROGRESS_FILE)
        on_rows(rows)
        return Trained(job.key, folder / _MODEL, json.loads((folder / _RESULT).read_text()), rows, resumed=True)
    from agents.learning.train import TrainRequest

    request = TrainRequest(
        job.profile, job.trace, job.start_s, job.end_s, job.steps, job.seed, n_envs=job.lanes, folder=str(folder)
    )
    result = run_training(request, folder, on_rows, should_stop)
    facts = {name: value for name, value in asdict(result).items() if name != "onnx"} | {"verdict": result.verdict}
    write_atomically(folder / _MODEL, result.onnx, "a trained policy")
    # Last: its presence says that all is there.
    write_atomically(folder / _RESULT, json.dumps(facts).encode(), "the outcome of a training")
    return Trained(job.key, folder / _MODEL, facts, read_progress(folder / PROGRESS_FILE), resumed=False)


class CurveLogger:
    """Writes a learning curve to MLflow while it grows, and the model at the end."""

    def __init__(
        self, job: Job, tracker: MlflowTracker, spec: Mapping[str, Any] | None = None, parent: str | None = None
    ):
        self._job, self._tracker, self._spec = job, tracker, dict(spec) if spec else None
        name = f"ppo {job.steps} steps, seed {job.seed}"
        self.run_id = tracker.start("training", job.key, name, job.describe(), parent)

    def __call__(self, rows: Rows) -> None:
        self._tracker.log_curve(self.run_id, rows)

    def log_model(self, trained: Trained) -> str | None:
        """URI of the logged model: an earlier one of the same training, or a new one; None when MLflow failed."""
        if known := self._tracker.model_of(self.run_id):
            return known
        metadata = {
            "training": self._job.describe() | trained.facts,
            "profile": self._job.profile.to_dict(),
            "spec": self._spec,
        }
        uri = self._tracker.log_model(self.run_id, trained.model, metadata)
        self._tracker.finish(self.run_id)
        return uri


def register(tracker: MlflowTracker, model_uri: str | None, job: Job, gate: Gate) -> dict[str, Any] | None:
    """Register a model of `autoscaler-PROFILE` as challenger, and as champion too where it passed the gate.

    Returns:
        `name`, `version`, `aliases`, and the `uri` to use it by; None when MLflow failed.
    """
    profile = job.profile.name
    tags = {"training": job.key, "steps": job.steps, "seed": job.seed, "traffic": job.trace.name, **gate.tags()}
    version = tracker.register(model_uri, profile, CHALLENGER, tags)
    if gate.passed:
        version = tracker.register(model_uri, profile, CHAMPION)
    if version is None:
        return None
    holds = tracker.alias_version(profile, CHAMPION) == version
    aliases = [CHALLENGER, CHAMPION] if holds else [CHALLENGER]
    name = registered_name(profile)
    return {"name": name, "version": version, "aliases": aliases, "uri": f"models:/{name}@{aliases[-1]}"}


def describe(
    tracker: MlflowTracker,
    registered: Mapping[str, Any] | None,
    job: Job,
    trained: Trained | None,
    gate: Mapping[str, Any] | None = None,
    policies: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Show on the page of a registered version what it is, how it compared, and whether it was promoted and why.

    Args:
        registered: what `register` returned.
        gate: `passed`, and `reason` in a line; None: it was not asked.
        policies: of an evaluation in which the model is `agent`, as `held_out.policies_document` has them; None: none.
    """
    if registered is None:
        return
    agent = (policies or {}).get("agent")
    metrics = {f"eval/{name}": entry["mean"] for name, entry in (agent or {}).get("indicators", {}).items()}
    if agent and agent["gap_closed"]:
        metrics["eval/gap_closed"] = agent["gap_closed"]["mean"]
    tags: dict[str, Any] = {"evaluated": "yes" if agent else "no"}
    if agent:
        tags["keeps_slo"] = "yes" if agent["keeps_slo"] else "no"
    if gate is not None:
        tags |= {"gate": "passed" if gate["passed"] else "failed", "gate_reason": gate["reason"]}
    text = model_card(registered, job.describe(), trained.facts if trained else {}, gate, policies)
    tracker.describe_version(str(registered["version"]), job.profile.name, text, tags, metrics)
