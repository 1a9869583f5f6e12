"""What a flow is asked: one model, so that Prefect shows a whole form and refuses bad values before a run exists."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from sim_core.engines import check_engine
from sim_core.errors import InputError, SpecError

if TYPE_CHECKING:
    from experiments.planning.spec import Spec
    from experiments.training.job import Job
    from flows.inputs import TrafficChoice

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
    prometheus: str | None = Field(
        default=None,
        description="Train on a query of this Prometheus server, http://HOST:9090; needs `query` and `last`. "
        "A bearer token is taken from the environment variable DEVOPS_SIM_PROMETHEUS_TOKEN of the process that runs.",
    )
    query: str | None = Field(
        default=None, description="PromQL of one series, requests per second: sum(rate(http_requests_total[1m]))."
    )
    step: str = Field(default="30s", description="Step of the query.")
    last: str | None = Field(
        default=None,
        description="Roll: only the last so much of the traffic, as 8d; a trace file ends now, a query and a generator "
        "at 00:00 UTC of `date`. `start` and `duration` count in it.",
    )
    date: dt.date | None = Field(default=None, description="The day that decides the window; default: today (UTC).")
    start: str = Field(default="0d", description="Where in the traffic training begins.")
    duration: str | None = Field(
        default=None,
        description="How much of it may be seen; default: half of a trace, seven days of a generator, and of a rolling "
        "window all but `held_out`.",
    )
    held_out: str = Field(
        default="1d",
        description="How much of the traffic after that is kept back for the comparison before promotion, at most what "
        "there is; with less than an hour of it nothing is promoted.",
    )
    steps: int = Field(default=500_000, ge=1, description="Env steps over all lanes.")
    seed: int | None = Field(
        default=1, ge=0, description="Of the training; null derives it from the date: 20261122 on 2026-11-22."
    )
    lanes: int = Field(default=64, ge=1, le=4096, description="Worlds stepped at once.")
    state: str | None = Field(default=None, description="State folder; default: $DEVOPS_SIM_HOME, else ./.devops-sim.")

    def resolve(self) -> Job:
        """What is to be trained, with its traffic read.

        Raises:
            InputError: any part of the request is wrong.
        """
        from flows.inputs import duration_s, load_profile
        from sim_core.dates import seed_of, today

        profile = load_profile(self.profile, self.overrides)
        date = self.date or today()
        choice = self._traffic(date)
        choice.check()
        start_s, held_out_s = duration_s("--start", self.start), duration_s("--held-out", self.held_out)
        length_s = duration_s("--duration", self.duration) if self.duration else None
        generated = self.trace is None and choice.window is None
        if length_s is None and generated:
            length_s = _GENERATED_S
        trace = choice.load(profile, start_s, (length_s or 0.0) + (held_out_s if generated else 0.0))
        if length_s is None:
            length_s = (trace.duration_s - held_out_s if choice.window else 0.5 * trace.duration_s) - start_s
        if length_s < _SHORTEST_S:
            rule = f"must leave at least {_SHORTEST_S:g} s to train on (got {length_s:g} s of {trace.duration_s:g} s)"
            raise InputError("--start and --duration", rule)
        from experiments.training.job import Job  # with Ray and MLflow: only for what can be trained

        end_s = start_s + length_s
        left_s = min(held_out_s, trace.duration_s - end_s)
        seed = seed_of(date) if self.seed is None else self.seed
        return Job(
            profile, trace, start_s, end_s, self.steps, seed, self.lanes, left_s if left_s >= _SHORTEST_S else 0.0
        )

    def _traffic(self, date: dt.date) -> TrafficChoice:
        from flows.inputs import Query, TrafficChoice, Window, duration_s

        problems = []
        if self.prometheus and self.trace:
            problems.append("--trace and --prometheus: give one of them")
        if bool(self.prometheus) != bool(self.query):
            problems.append("--prometheus and --query: need each other")
        if self.prometheus and not self.last:
            problems.append("--prometheus: needs --last, as --last 8d: how much of the past to ask for")
        if problems:
            raise InputError("traffic", problems)
        window = Window(duration_s("--last", self.last), date) if self.last else None
        query = None
        if self.prometheus and self.query:
            query = Query(self.prometheus, self.query, duration_s("--step", self.step))
        trace = Path(self.trace) if self.trace else None
        scale = self.scale_peak_to_replicas
        return TrafficChoice(trace, self.traffic, self.traffic_seed, scale, query, window)

    def left_to_evaluate(self, job: Job) -> dict[str, float] | None:
        """The day after what was seen, as `start_s` and `duration_s` [s], where `devops-sim evaluate` can play it.

        None where a trace leaves less than an hour, and of traffic that rolls with the date.
        """
        if self.last is not None:
            return None
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
    last: str | None = Field(
        default=None, description="Roll over the last so much of the traffic, in place of the specification's `last`."
    )
    date: dt.date | None = Field(
        default=None, description="The day that decides rolling windows and the seed null; default: today (UTC)."
    )
    engine: str | None = Field(
        default=None, description="How requests are served, in place of the specification's: fluid or requests."
    )
    actors: int | None = Field(default=None, ge=1, le=256, description="Simulation actors; default: one a CPU.")
    state: str | None = Field(default=None, description="State folder; default: $DEVOPS_SIM_HOME, else ./.devops-sim.")

    def resolve(self) -> Spec:
        """The specification as it is to run.

        Raises:
            SpecError: it breaks the schema, with or without the differences; every problem at once.
            InputError: no such engine.
        """
        from experiments.planning.spec import load_spec, shrink_windows, spec_from_dict
        from flows.inputs import duration_s
        from sim_core.dates import seed_of, today

        if self.engine:
            check_engine(self.engine, "--engine")
        if self.trace and self.traffic:
            raise SpecError("--trace and --traffic", "give one of them")
        spec = load_spec(self.spec)
        data = spec.to_dict()
        traffic = data["traffic"]
        if self.trace:
            traffic |= {"trace": str(Path(self.trace).absolute()), "generator": None, "prometheus": None}
        if self.traffic:
            traffic |= {"trace": None, "generator": self.traffic, "prometheus": None}
        if self.last:
            traffic["last"] = duration_s("--last", self.last)
        if self.trace:
            from sim_core.workload import read_trace

            available_s = read_trace(self.trace).duration_s
            if traffic["last"] and not self.last:
                traffic["last"] = min(traffic["last"], available_s)
            data = shrink_windows(data, traffic["last"] or available_s)
        elif self.last:
            data = shrink_windows(data, traffic["last"])
        if self.scale_peak_to_replicas:
            data["traffic"] |= {"scale_peak_to_replicas": self.scale_peak_to_replicas}
        if self.engine:
            data["engine"] = self.engine
        date = self.date or spec.traffic.date or today()
        if traffic["last"]:
            data["traffic"]["date"] = date.isoformat()
        if data["train"] and data["train"]["seed"] is None:
            data["train"]["seed"] = seed_of(date)
        return spec if data == spec.to_dict() else spec_from_dict(data, f"{self.spec} with the options given")
