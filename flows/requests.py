"""What a flow is asked: one model, so that Prefect shows a whole form and refuses bad values before a run exists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from sim_core.errors import InputError, SpecError

if TYPE_CHECKING:
    from experiments.spec import Spec
    from experiments.training.job import Job

_GENERATED_S = 7 * 86_400.0
_HELD_OUT_S = 86_400.0
_SHORTEST_S = 3600.0  # an episode has to fit in, and a policy has to see load come and go


class TrainingRequest(BaseModel):
    """A training: the profile, the part of the traffic that may be seen, and the learner's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str = Field(description="A bundled profile, or the path of a YAML file.")
    overrides: dict[str, Any] = Field(default={}, description="Values of the profile by dotted path.")
    trace: str | None = Field(default=None, description="Train on this trace file; default: the generator.")
    traffic: str = Field(default="diurnal", description="Bundled generator.")
    traffic_seed: int = Field(default=0, ge=0, description="Seed of the generator.")
    scale_peak_to_replicas: int | None = Field(
        default=None, ge=1, description="Map the traffic's peak to what so many replicas serve at 70 % utilization."
    )
    start: str = Field(default="0d", description="Where in the traffic training begins.")
    duration: str | None = Field(
        default=None, description="How much of it may be seen; default: half of a trace, seven days of a generator."
    )
    steps: int = Field(default=500_000, ge=1, description="Env steps over all lanes.")
    seed: int = Field(default=1, ge=0, description="Of the training.")
    lanes: int = Field(default=64, ge=1, le=4096, description="Worlds stepped at once.")
    state: str | None = Field(default=None, description="State folder; default: $DEVOPS_SIM_HOME, else ./.devops-sim.")

    def resolve(self) -> Job:
        """What is to be trained, with its traffic read.

        Raises:
            InputError: any part of the request is wrong.
        """
        from flows.inputs import TrafficChoice, duration_s, load_profile

        profile = load_profile(self.profile, self.overrides)
        trace_file = Path(self.trace) if self.trace else None
        choice = TrafficChoice(trace_file, self.traffic, self.traffic_seed, self.scale_peak_to_replicas)
        choice.check()
        start_s = duration_s("--start", self.start)
        length_s = duration_s("--duration", self.duration) if self.duration else None
        trace = choice.load(profile, start_s, length_s or (0.0 if trace_file else _GENERATED_S))
        if length_s is None:
            length_s = 0.5 * trace.duration_s - start_s if trace_file else _GENERATED_S
        if length_s < _SHORTEST_S:
            rule = f"must leave at least {_SHORTEST_S:g} s to train on (got {length_s:g} s of {trace.duration_s:g} s)"
            raise InputError("--start and --duration", rule)
        from experiments.training.job import Job  # with Ray and MLflow: only for what can be trained

        return Job(profile, trace, start_s, start_s + length_s, self.steps, self.seed, self.lanes)

    def held_out(self, job: Job) -> dict[str, float] | None:
        """The day after what was seen, as `start_s` and `duration_s`; None where a trace leaves less than an hour [s]."""
        left_s = job.trace.duration_s - job.end_s if self.trace else _HELD_OUT_S
        if left_s < _SHORTEST_S:
            return None
        return {"start_s": job.end_s, "duration_s": min(left_s, _HELD_OUT_S)}


class SweepRequest(BaseModel):
    """A sweep: its specification, and what differs from it this time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str = Field(description="Path of a sweep specification (YAML), or the name of a bundled one.")
    trace: str | None = Field(default=None, description="Play this trace file in place of the specification's traffic.")
    traffic: str | None = Field(default=None, description="Play this bundled generator in place of it.")
    scale_peak_to_replicas: int | None = Field(
        default=None, ge=1, description="Map the traffic's peak to what so many replicas serve at 70 % utilization."
    )
    actors: int | None = Field(default=None, ge=1, le=256, description="Simulation actors; default: one a CPU.")
    state: str | None = Field(default=None, description="State folder; default: $DEVOPS_SIM_HOME, else ./.devops-sim.")

    def resolve(self) -> Spec:
        """The specification as it is to run.

        Raises:
            SpecError: it breaks the schema, with or without the differences; every problem at once.
        """
        from experiments.spec import load_spec, shrink_windows, spec_from_dict

        if self.trace and self.traffic:
            raise SpecError("--trace and --traffic", "give one of them")
        spec = load_spec(self.spec)
        data = spec.to_dict()
        if self.trace:
            from sim_core.workload import read_trace

            data["traffic"] |= {"trace": str(Path(self.trace).absolute()), "generator": None}
            data = shrink_windows(data, read_trace(self.trace).duration_s)
        if self.traffic:
            data["traffic"] |= {"trace": None, "generator": self.traffic}
        if self.scale_peak_to_replicas:
            data["traffic"] |= {"scale_peak_to_replicas": self.scale_peak_to_replicas}
        return spec if data == spec.to_dict() else spec_from_dict(data, f"{self.spec} with the options given")
