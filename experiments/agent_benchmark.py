"""The protocol over many traces: what each contestant did is kept on disk, and one table says who stands where."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from agents.learning.contestants import contestant_of, learned_contestant
from agents.learning.evaluate import BASELINE
from agents.learning.faults import FAULTS, MOMENTS, WINDOW_S, Struck, compare, moments_s, strike
from agents.learning.protocol import Contestant, Outcomes, Trial, held_out_days, outcomes_of
from agents.learning.verdict import LOSS, TIE, WIN, Verdict, judge
from agents.policies.learned import LearnedPolicy
from agents.policies.registry import Choice
from experiments.analysis.summaries import measured
from experiments.held_out import own_sources
from experiments.store.files import write_atomically
from experiments.store.identity import digest, sources_version
from experiments.store.state import StateDir
from sim_core.profile import in_long_ticks
from sim_core.workload.counting_noise import rate_estimate
from sim_core.world import scale_to_replicas

if TYPE_CHECKING:
    from pathlib import Path

    from experiments.tracking import MlflowTracker
    from sim_core.profile import Profile
    from sim_core.workload import Trace

FIGURES = (
    "slo_attainment",
    "pods_usd",
    "pods_at_slo_usd",
    "pods_at_half_budget_usd",
    "gap_closed",
    "against_best_pct",
    "against_rule_pct",
)
_ARRAYS = ("requests", "bad", "pods_usd", "fixed_usd")
_STRUCK_ARRAYS = ("requests", "bad", "pod_s")


@dataclass(frozen=True)
class Rules:
    """By which rules contestants are compared; see `agents.learning.protocol`.

    Args:
        block_s, days, refit: which parts of a trace are held out [s], [days].
        seeds: of evaluation on each day.
        budget_days: simulated days that the search for the settings of each may spend.
        peak_replicas: what serves the peak of each trace at 70 % utilization [pods].
        own_ticks: play the profile's own ticks, else the longest that its periods allow, as searches do.
    """

    profile: Profile
    block_s: float
    days: int
    seeds: int
    budget_days: float
    peak_replicas: int
    refit: bool = False
    own_ticks: bool = False

    def trial(self, logged: Trace) -> Trial:
        """What is played of a trace: its counting noise taken off, scaled to the profile.

        Raises:
            InputError: the trace is too short for the protocol, or holds no traffic.
        """
        days = held_out_days(logged, self.block_s, self.days, self.refit, self.profile.controller.sync_period_seconds)
        profile = self.profile if self.own_ticks else in_long_ticks(self.profile)
        return Trial(profile, scale_to_replicas(rate_estimate(logged), profile, self.peak_replicas), days, self.seeds)

    def describe(self) -> dict[str, Any]:
        """The rules as plain data."""
        return {
            "profile": self.profile.name,
            "block_s": self.block_s,
            "days": self.days,
            "refit": self.refit,
            "seeds": self.seeds,
            "budget_days": self.budget_days,
            "peak_replicas": self.peak_replicas,
            "own_ticks": self.own_ticks,
            "version": sources_version(),
        }


@dataclass(frozen=True)
class AgentBenchmark:
    """Who is compared on what.

    Args:
        choices: the contestants.
        trials: by the name of the trace, in the order of the table.
        models: content and metadata of learned policies, by the text of their choice.
        faults: contestants are played through faults, too; see `agents.learning.faults`.
    """

    rules: Rules
    choices: Sequence[Choice]
    trials: Mapping[str, Trial]
    models: Mapping[str, tuple[bytes, dict[str, Any]]] = field(default_factory=dict)
    faults: bool = False

    @property
    def key(self) -> str:
        """Digest [hex, 24 digits] of everything that decides the outcome."""
        keys = [self.key_of(name, choice) for name in self.trials for choice in self.choices]
        return digest([*keys, "faults"] if self.faults else keys)

    def key_of(self, name: str, choice: Choice) -> str:
        """The same of one contestant on one trace; what the others do does not count."""
        trial = self.trials[name]
        model = self.models.get(choice.text)
        return digest(
            {
                "profile": trial.profile.digest,
                "trace": trial.trace.digest,
                "days": [trial.days.block_s, list(trial.days.starts_s), list(trial.days.tune_ends_s)],
                "seeds": trial.seeds,
                "budget_days": self.rules.budget_days
                if choice.tuned or (choice.entry and choice.entry.trained)
                else None,
                "policy": choice.text,
                "model": digest(model[0].hex()) if model else None,
                "own": own_sources([choice.text]) if choice.is_own else {},
                "sources": sources_version(),
            }
        )

    def contestant(self, name: str, choice: Choice) -> Contestant:
        """A contestant, tuned on the traffic before the held-out days where it is to be.

        Raises:
            PolicyError, ModelError: it cannot be made.
        """
        if choice.text in self.models:
            content, metadata = self.models[choice.text]
            return learned_contestant(choice.text, [LearnedPolicy(content, choice.text, metadata)])
        trial = self.trials[name]
        return contestant_of(choice, trial.parts(), self.rules.budget_days, trial.threads)


@dataclass(frozen=True)
class Compared:
    """What came of all contestants on one trace.

    Attributes:
        faults: see `agents.learning.faults.compare`; None where nothing went wrong.
    """

    name: str
    trial: Trial
    outcomes: Sequence[Outcomes]
    verdict: Verdict
    faults: pd.DataFrame | None = None

    @property
    def left_out(self) -> list[int]:
        """Indices of the days on which nobody could differ."""
        return [day for day in range(len(self.trial.days.starts_s)) if day not in self.verdict.days]


@dataclass(frozen=True)
class Benchmarked:
    """The outcome of a benchmark of agents."""

    compared: Sequence[Compared]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a trace and contestant: `trace`, and the columns of `agents.learning.verdict.judge`."""
        return pd.concat([one.verdict.table.assign(trace=one.name) for one in self.compared], ignore_index=True)

    @cached_property
    def standings(self) -> pd.DataFrame:
        """One row a contestant that is no ceiling, the best mean rank first.

        `policy`, `mean_rank`, how many traces were a `win`, a `tie` and a `loss`, `keeps_slo` and `traces`: on how many of
        how many the lower limit of its attainment keeps the SLO; `median_gap_closed`, `median_against_best_pct`.
        """
        rows: list[dict[str, Any]] = []
        rivals = self.table[~self.table["ceiling"].astype(bool)]
        for policy, own in rivals.groupby("policy", sort=False):
            rows.append(
                {
                    "policy": str(policy),
                    "mean_rank": float(np.mean(own["rank"].tolist())),
                    **{outcome: int((own["outcome"] == outcome).sum()) for outcome in (WIN, TIE, LOSS)},
                    "keeps_slo": int(own["keeps_slo"].eq(True).sum()),
                    "traces": len(own),
                    "median_gap_closed": float(own["gap_closed"].median()),
                    "median_against_best_pct": float(own["against_best_pct"].median()),
                }
            )
        rows.sort(key=lambda row: float(row["mean_rank"]))
        return pd.DataFrame(rows)


def run_benchmark(
    benchmark: AgentBenchmark,
    state: StateDir,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Benchmarked:
    """Plays every contestant on every trace; what is kept from an earlier run is not played again.

    Args:
        state: keeps what each did, by the key of contestant and trace.
        on_progress: told how many pairs of how many are done, and which is next or was from an earlier run.
    """
    total, done, compared = len(benchmark.trials) * len(benchmark.choices), 0, []
    for name, trial in benchmark.trials.items():
        outcomes, struck = [], []
        for choice in benchmark.choices:
            contest = _Contest(benchmark, name, choice, state, partial(on_progress, done, total))
            outcomes.append(contest.outcomes())
            if benchmark.faults:
                struck.append(contest.struck())
            done += 1
        verdict = judge(outcomes, trial.profile.slo.objective)
        compared.append(Compared(name, trial, outcomes, verdict, compare(struck) if struck else None))
    on_progress(total, total, "done")
    return Benchmarked(compared)


@dataclass(frozen=True)
class _Contest:
    """A contestant on a trace; what it did is kept, and the contestant made where something is not there yet."""

    benchmark: AgentBenchmark
    name: str
    choice: Choice
    state: StateDir
    on_made: Callable[[str], None]

    @cached_property
    def contestant(self) -> Contestant:
        self.on_made(f"{self.name}: {self.choice.text}")
        return self.benchmark.contestant(self.name, self.choice)

    def outcomes(self) -> Outcomes:
        return _from_plain(self._kept("", lambda trial: _to_plain(outcomes_of(self.contestant, trial))))

    def struck(self) -> Struck:
        data = self._kept("-faults", lambda trial: _struck_to_plain(strike(self.contestant, trial)))
        return Struck(data["name"], *(np.array(data[name], dtype=np.float64) for name in _STRUCK_ARRAYS))

    def _kept(self, suffix: str, played: Callable[[Trial], dict[str, Any]]) -> dict[str, Any]:
        file = outcome_file(self.state, f"{self.benchmark.key_of(self.name, self.choice)}{suffix}")
        if not file.exists():
            data = json.dumps(played(self.benchmark.trials[self.name]))
            write_atomically(file, data.encode(), "what a contestant did")
        return dict(json.loads(file.read_text()))


def outcome_file(state: StateDir, key: str) -> Path:
    """Where is kept what a contestant did on a trace."""
    return state.root / "contests" / f"{key}.json"


def _to_plain(played: Outcomes) -> dict[str, Any]:
    arrays = {name: getattr(played, name).tolist() for name in _ARRAYS}
    settings = json.loads(json.dumps(played.settings, default=lambda value: value.item()))  # NumPy's own numbers
    return {"name": played.name, "settings": settings, "tuned": played.tuned, **arrays}


def _struck_to_plain(played: Struck) -> dict[str, Any]:
    return {"name": played.name} | {name: getattr(played, name).tolist() for name in _STRUCK_ARRAYS}


def _from_plain(data: Mapping[str, Any]) -> Outcomes:
    arrays = {name: np.array(data[name], dtype=np.float64) for name in _ARRAYS}
    return Outcomes(data["name"], data["settings"], data["tuned"], **arrays)


def plain_document(benchmark: AgentBenchmark, result: Benchmarked) -> dict[str, Any]:
    """Rules, traces and standings as plain data; each figure as `mean` and `ci95`, None where there is none."""
    return {
        **benchmark.rules.describe(),
        "slo": benchmark.rules.profile.slo.model_dump(mode="json"),
        "traces": [_trace_document(one) for one in result.compared],
        "standings": [_without_nan(row) for row in result.standings.to_dict("records")],
    }


def _trace_document(one: Compared) -> dict[str, Any]:
    days = one.trial.days
    points = one.verdict.frontiers
    policies = {}
    for row, played in zip(one.verdict.table.to_dict("records"), one.outcomes, strict=True):
        plain = _without_nan(row)
        figures = {name: _measured(plain, name) for name in FIGURES}
        notes = {name: plain[name] for name in plain if name.endswith("_note") and plain[name]}
        facts = {name: plain[name] for name in ("ceiling", "keeps_slo", "best_rival", "rank", "outcome", "fixed_usd")}
        frontier = points[points["policy"] == played.name]
        policies[played.name] = {
            **facts,
            **figures,
            **notes,
            "settings": played.settings[played.tuned],
            "frontier": [
                {"settings": settings, **{name: _plain(row[name]) for name in ("bad_share", "pods_usd", "tuned")}}
                for settings, row in zip(played.settings, frontier.to_dict("records"), strict=True)
            ],
        }
    return {
        "trace": one.name,
        "trace_digest": one.trial.trace.digest,
        "peak_per_s": one.trial.trace.peak_per_s,
        "mean_per_s": one.trial.trace.mean_per_s,
        "tuned_on_s": [[0.0, end_s] for end_s in days.fits_s],
        "held_out_s": [[start_s, start_s + days.block_s] for start_s in days.starts_s],
        "left_out_days": one.left_out,
        "intervals_over": one.verdict.levels,
        "policies": policies,
        "faults": None if one.faults is None else _faults_document(one.faults, one.trial),
    }


def _faults_document(table: pd.DataFrame, trial: Trial) -> dict[str, Any]:
    """What faults are, and by moment when they set in and what each did to each policy."""
    at_s = moments_s(trial)
    moments: dict[str, Any] = {
        name: {"about": about, "begin_s": at_s[name], "by_fault": {fault.name: {} for fault in FAULTS}}
        for name, about in MOMENTS.items()
    }
    for row in table.to_dict("records"):
        plain = _without_nan(row)
        moments[plain["moment"]]["by_fault"][plain["fault"]][plain["policy"]] = {
            "slo_attainment": plain["slo_attainment"],
            "pods": plain["pods"],
            "difference": _measured(plain, "difference"),
            "below": plain["below"],
        }
    about = {fault.name: fault.about for fault in FAULTS}
    return {"baseline": BASELINE, "window_s": WINDOW_S, "about": about, "moments": moments}


def _measured(row: dict[str, Any], name: str) -> dict[str, Any] | None:
    return measured(row, name) if row[name] is not None else None


def _without_nan(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def track_benchmark(benchmark: AgentBenchmark, result: Benchmarked, tracker: MlflowTracker) -> str | None:
    """Log a benchmark to MLflow: a parent run with the standings, a child run a trace; the parent's id, None on failure."""
    rules, key = benchmark.rules.describe(), benchmark.key
    names = [choice.text for choice in benchmark.choices]
    title = f"benchmark of {len(names)} policies on {len(benchmark.trials)} traces"
    parent = tracker.start("benchmark", key, title, rules | {"policies": names, "traces": list(benchmark.trials)})
    if tracker.has_finished(parent):
        return parent
    for one in result.compared:
        facts = {"trace": one.name, "trace_digest": one.trial.trace.digest, "left_out_days": one.left_out}
        child = tracker.start("trace", f"{key} {one.name}", one.name, facts, parent)
        tracker.log_metrics(child, _metrics(one.verdict.table, (*FIGURES, "rank")))
        tracker.log_table(child, "policies", one.verdict.table)
        tracker.log_table(child, "frontiers", one.verdict.frontiers)
        if one.faults is not None:
            tracker.log_table(child, "faults", one.faults)
        tracker.finish(child)
    tracker.log_metrics(parent, _metrics(result.standings, [c for c in result.standings.columns if c != "policy"]))
    tracker.log_table(parent, "table", result.table)
    tracker.finish(parent)
    return parent


def _metrics(table: pd.DataFrame, names: Iterable[str]) -> dict[str, float]:
    """Figures of each policy as NAME/POLICY, their limits as NAME/POLICY/ci95_low and /ci95_high."""
    metrics: dict[str, float] = {}
    for plain in table.to_dict("records"):
        row = {str(column): value for column, value in plain.items()}
        for name in names:
            ends = {"": name, "/ci95_low": f"{name}_ci95_low", "/ci95_high": f"{name}_ci95_high"}
            metrics |= {
                f"{name}/{row['policy']}{end}": float(row[column])
                for end, column in ends.items()
                if row.get(column) is not None
            }
    return metrics
