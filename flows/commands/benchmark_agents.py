"""`devops-sim benchmark-agents`: policies over the held-out days of many traces, by the protocol, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agents.policies.registry import check_made, choices_of
from flows.inputs import duration_s, load_profile, overrides, warn_of
from flows.terminal.progress import Progress
from sim_core.errors import InputError, TraceError, nearest

if TYPE_CHECKING:
    from experiments.agent_benchmark import AgentBenchmark, Benchmarked, Rules
    from experiments.store.state import StateDir
    from sim_core.workload import Trace

T = TypeVar("T")
TRACE_SUFFIXES = (".csv", ".csv.gz")


@dataclass(frozen=True)
class BenchmarkRequest:
    """What `devops-sim benchmark-agents` was asked; durations as written.

    Args:
        traces: files, and folders of files.
        policies: by name; none takes all whose settings are searched, and the ceilings.
        output: of the report; None takes the state folder.
        faults: play contestants through faults, too.
    """

    traces: Sequence[Path]
    profile: str
    settings: Sequence[str]
    policies: Sequence[str]
    days: int
    block: str
    seeds: int
    budget_days: float
    peak_replicas: int
    refit: bool
    own_ticks: bool
    output: Path | None
    state: Path | None
    track: bool = True
    faults: bool = False


def benchmark_agents(request: BenchmarkRequest) -> dict[str, Any]:
    """Run the protocol over the traces, write the report and track it, and return the document of the command.

    Traces that are too short for it are named, and left out.

    Raises:
        InputError: with all that is wrong with the request at once, or every trace is too short.
    """
    problems: list[str] = []
    files = _collected(problems, lambda: trace_files(request.traces)) or []
    named = (
        _collected(problems, lambda: choices_of("--policies", request.policies, "benchmark"))
        if request.policies
        else []
    )
    block_s = _collected(problems, lambda: duration_s("--block", request.block))
    profile = _collected(problems, lambda: load_profile(request.profile, overrides(request.settings)))
    _collected(problems, lambda: check_made(named or []))

    from agents.learning.contestants import known_contestants
    from agents.learning.faults import check_block
    from agents.learning.protocol import check_rules
    from experiments.agent_benchmark import AgentBenchmark, Rules, plain_document, run_benchmark
    from experiments.held_out import model_content
    from experiments.store.state import StateDir
    from sim_core.workload import read_trace

    choices = named or choices_of("--policies", known_contestants(), "benchmark")
    at = StateDir.at(request.state)
    models = {
        choice.text: _collected(problems, lambda text=choice.text: model_content(text, at))  # type: ignore[misc]
        for choice in choices
        if choice.is_model
    }
    logged = {file: _collected(problems, lambda file=file: read_trace(file)) for file in files}  # type: ignore[misc]
    if request.faults and block_s is not None:
        _collected(problems, lambda: check_block(block_s))
    if profile is not None:
        most = min(service.replicas.max for service in profile.services)
        if request.peak_replicas > most:
            problems.append(
                f"--peak-replicas: profile '{profile.name}' has at most {most} (got {request.peak_replicas})"
            )
        if block_s is not None:
            _collected(problems, lambda: check_rules(block_s, request.days, profile.controller.sync_period_seconds))
    if problems or profile is None or block_s is None:
        raise InputError("benchmark-agents", problems)
    rules = Rules(
        profile,
        block_s,
        request.days,
        request.seeds,
        request.budget_days,
        request.peak_replicas,
        request.refit,
        request.own_ticks,
    )
    trials, skipped = _trials(rules, {file: trace for file, trace in logged.items() if trace is not None})
    warnings = warn_of([profile])
    kept = {name: model for name, model in models.items() if model}
    benchmark = AgentBenchmark(rules, choices, trials, kept, request.faults)
    state = StateDir.open(request.state)  # only now: nothing is made for a request that cannot be answered
    with Progress() as progress:
        for trace in skipped:
            progress.say(f"Left out: {trace['why']}")
        result = run_benchmark(
            benchmark, state, lambda done, total, note: progress.update("benchmark", done, total, note)
        )
    return {
        "command": "benchmark-agents",
        **plain_document(benchmark, result),
        "skipped": skipped,
        "warnings": warnings,
        **_kept(benchmark, result, skipped, state, request),
    }


def trace_files(paths: Sequence[Path]) -> list[Path]:
    """Trace files that are named, and those in folders that are, each once.

    Raises:
        InputError: a path that does not exist, or a folder without traces; all at once.
    """
    problems, files = [], []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.name.endswith(TRACE_SUFFIXES) and file.is_file())
            if not found:
                problems.append(f"{path}: holds no trace; one ends in {' or '.join(TRACE_SUFFIXES)}")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            beside = [file.name for file in path.parent.glob("*")] if path.parent.is_dir() else []
            problems.append(f"{path}: no such file or folder{nearest(path.name, beside)}")
    if problems:
        raise TraceError("TRACE", problems)
    return list(dict.fromkeys(files))


def _collected(problems: list[str], work: Callable[[], T]) -> T | None:
    """What the work gives; None where the input was wrong, whose problems are added with their place."""
    try:
        return work()
    except InputError as error:
        problems += [f"{error.where}: {problem}" for problem in error.problems]
        return None


def _trials(rules: Rules, logged: dict[Path, Trace]) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What is played by the name of its trace, and the traces that are left out, with why.

    Raises:
        InputError: all are left out.
    """
    trials, skipped = {}, []
    names = [trace.name for trace in logged.values()]
    for file, trace in logged.items():
        try:
            trials[trace.name if names.count(trace.name) == 1 else str(file)] = rules.trial(trace)
        except InputError as error:
            skipped.append({"trace": str(file), "why": f"{error.where}: {'; '.join(error.problems)}"})
    if not trials:
        raise InputError("benchmark-agents", [entry["why"] for entry in skipped])
    return trials, skipped


def _kept(
    benchmark: AgentBenchmark,
    result: Benchmarked,
    skipped: Sequence[dict[str, str]],
    state: StateDir,
    request: BenchmarkRequest,
) -> dict[str, Any]:
    """The report of a benchmark, and its runs in MLflow unless nobody wants them; where both are."""
    from experiments.report.benchmark import write_benchmark_report

    place = request.output or state.reports / f"benchmark-{benchmark.key[:10]}.html"
    report = write_benchmark_report(benchmark, result, skipped, place)
    if not request.track:
        return {"report": str(report), "mlflow": None, "state": str(state.root)}
    from experiments.agent_benchmark import track_benchmark
    from experiments.tracking import MlflowTracker

    tracker = MlflowTracker.open(state, benchmark.rules.profile.name)
    run_id = track_benchmark(benchmark, result, tracker)
    tracker.log_file(run_id, report)
    tracked = {"uri": tracker.uri, "run_id": run_id, "page": tracker.page(run_id), "warning": tracker.warning}
    return {"report": str(report), "mlflow": tracked, "state": str(state.root)}
