"""The command line `devops-sim`. Commands import what they need when they run, so that help comes at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from agents.policies.registry import split_outside
from flows.commands import options
from flows.commands.catalog import profile_app, trace_app
from sim_core.engines import FLUID

_AGAIN_S = 0.1  # until a stop that was lost comes again
_RESUME = " What is finished is kept: the same command goes on from there."

app = typer.Typer(
    name="devops-sim",
    help="A simulator and autoscaling lab: play traffic against an environment, sweep, train, compare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(profile_app, name="profile")
app.add_typer(trace_app, name="trace")
bench_app = typer.Typer(help="Measure the engines, the environment, training and sweeps on this machine.")
app.add_typer(bench_app, name="bench")


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    import platform

    from experiments.store.identity import simulator_version

    version, _, digest = simulator_version().partition("+")
    print(f"devops-sim {version}, Python {platform.python_version()}, simulator {digest[:12]}")
    raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of this package and of Python, and the digest of the simulator's sources.",
        ),
    ] = False,
) -> None:
    pass


@app.command()
def run(
    profile: options.Profile,
    policies: options.Policies = ["hpa"],  # noqa: B006 (Typer reads the default and never changes it)
    replicas: Annotated[int | None, typer.Option(min=1, help="Replicas of the static policy.")] = None,
    target_utilization: Annotated[
        int | None, typer.Option(min=1, help="CPU target of the HPA [%]; default: the profile's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first lane; lane i has seed + i.")] = 0,
    lanes: Annotated[int, typer.Option(min=1, max=4096, help="Worlds to play at once, one seed each.")] = 1,
    start: options.Start = "0d",
    duration: options.Duration = "24h",
    trace: options.Trace = None,
    traffic: options.Traffic = "diurnal",
    traffic_seed: options.TrafficSeed = 0,
    scale_peak_to_replicas: options.ScalePeak = None,
    settings: options.Settings = None,
    engine: options.Engine = FLUID,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads that share the lanes.")] = 1,
    trace_requests: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="With --engine requests: write spans of this share of the requests."),
    ] = None,
    trace_output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where spans go: Parquet, and JSON that Jaeger opens, a seed.")
    ] = Path("request-traces"),
    timeline: Annotated[
        Path | None, typer.Option(help="Write the time series of every lane and service into this Parquet file.")
    ] = None,
    timeline_step: Annotated[str, typer.Option(help="Step of the timeline: 60s, 5m, seconds.")] = "60s",
    no_track: options.NoTrack = False,
    state: options.State = None,
    as_json: options.Json = False,
) -> None:
    """Play traffic against a profile under one policy, or several side by side, and print the indicators."""
    from flows.commands.run import RunRequest, run_lanes, track_run
    from flows.inputs import TrafficChoice
    from flows.terminal.tables import show_run

    choice = TrafficChoice(trace, traffic, traffic_seed, scale_peak_to_replicas)
    request = RunRequest(
        profile,
        settings or [],
        choice,
        policies,
        replicas,
        target_utilization,
        engine,
        seed,
        lanes,
        start,
        duration,
        state,
        timeline,
        timeline_step,
        threads,
        trace_requests,
        trace_output,
    )
    document = _present(lambda: run_lanes(request), show_run, as_json)
    if not no_track:
        _afterwards(lambda: track_run(request, document))


@app.command()
def explain(
    policy: Annotated[
        str,
        typer.Argument(
            help="A registered model (models:/NAME@ALIAS), general, or rule; settings as in rule(price=0.2)."
        ),
    ],
    profile: Annotated[
        str, typer.Option("--profile", help="A bundled profile or the path of a YAML file.")
    ] = "production",
    at: Annotated[str, typer.Option("--at", help="Time of day of the decision, as 14:20.")] = "12:00",
    trace: options.Trace = None,
    traffic: options.Traffic = "diurnal",
    traffic_seed: options.TrafficSeed = 0,
    scale_peak_to_replicas: options.ScalePeak = None,
    start: options.Start = "1d",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the lane.")] = 0,
    settings: options.Settings = None,
    output: Annotated[
        Path | None, typer.Option(help="Write a day's decisions, from --start on, into this .parquet or .csv file.")
    ] = None,
    state: options.State = None,
    as_json: options.Json = False,
) -> None:
    """Tell what a learned policy decided at a moment, and why: forecast, uncertainty, budget, margin."""
    from flows.commands.explain import ExplainRequest
    from flows.commands.explain import explain as explained
    from flows.inputs import TrafficChoice
    from flows.terminal.tables import show_explanation

    choice = TrafficChoice(trace, traffic, traffic_seed, scale_peak_to_replicas)
    request = ExplainRequest(policy, profile, settings or [], choice, at, seed, start, state, output)
    _present(lambda: explained(request), show_explanation, as_json)


@app.command()
def sweep(
    spec: options.Spec,
    trace: options.Trace = None,
    traffic: options.OtherTraffic = None,
    scale_peak_to_replicas: options.ScalePeak = None,
    last: options.Last = None,
    date: options.Date = None,
    engine: options.OtherEngine = None,
    actors: Annotated[int | None, typer.Option(min=1, max=256, help="Simulation actors; default: one a CPU.")] = None,
    state: options.State = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run a sweep: simulate its points, and train, evaluate and report where the specification says so. Resumes."""
    from flows.inputs import date_of
    from flows.requests import SweepRequest
    from flows.servers.platform import sweep_here
    from flows.terminal.tables import show_sweep

    request = SweepRequest(
        spec=str(spec),
        trace=str(trace) if trace else None,
        traffic=traffic,
        scale_peak_to_replicas=scale_peak_to_replicas,
        last=last,
        date=date_of("--date", date) if date else None,
        engine=engine,
        actors=actors,
        state=str(state) if state else None,
    )
    _present(lambda: sweep_here(request), show_sweep, as_json, quiet, resumable=True)


@app.command()
def train(
    profile: options.Profile,
    trace: options.Trace = None,
    traffic: options.Traffic = "diurnal",
    traffic_seed: options.TrafficSeed = 0,
    scale_peak_to_replicas: options.ScalePeak = None,
    start: options.Start = "0d",
    duration: Annotated[
        str | None,
        typer.Option(
            help="How much may be seen; default: the first half of a trace, 7d of a generator, with --last all but "
            "--held-out."
        ),
    ] = None,
    held_out: Annotated[
        str, typer.Option(help="What follows, kept back for the comparison that decides on promotion.")
    ] = "1d",
    prometheus: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Train on a Prometheus server's data; a token: $DEVOPS_SIM_PROMETHEUS_TOKEN."),
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="Of one series, as 'sum(rate(http_requests_total[1m]))'; with --prometheus.")
    ] = None,
    step: Annotated[str, typer.Option(help="Step of the query.")] = "30s",
    last: options.Last = None,
    date: options.Date = None,
    steps: Annotated[int, typer.Option(min=1, help="Env steps over all worlds.")] = 500_000,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the training; default: 1, with --last the date's: 20261122.")
    ] = None,
    lanes: Annotated[int, typer.Option(min=1, max=4096, help="Worlds stepped at once.")] = 64,
    settings: options.Settings = None,
    state: options.State = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train an autoscaler with PPO and register it: autoscaler-PROFILE@challenger, @champion where it wins.

    It wins where it keeps the SLO on held-out traffic and is cheaper than the tuned HPA and the present champion.
    """
    from flows.inputs import date_of, overrides
    from flows.requests import TrainingRequest
    from flows.servers.platform import train_here
    from flows.terminal.tables import show_training

    request = TrainingRequest(
        profile=profile,
        overrides=overrides(settings or []),
        trace=str(trace) if trace else None,
        traffic=traffic,
        traffic_seed=traffic_seed,
        scale_peak_to_replicas=scale_peak_to_replicas,
        start=start,
        duration=duration,
        held_out=held_out,
        prometheus=prometheus,
        query=query,
        step=step,
        last=last,
        date=date_of("--date", date) if date else None,
        steps=steps,
        seed=1 if seed is None and last is None else seed,
        lanes=lanes,
        state=str(state) if state else None,
    )
    _present(lambda: train_here(request), show_training, as_json, quiet, resumable=True)


@app.command()
def evaluate(
    profile: options.Profile,
    policies: options.PolicyList = "static,hpa-tuned,clairvoyant",
    rivals: options.RivalList = "",
    seeds: Annotated[int, typer.Option(min=1, max=4096, help="Paired seeds of each policy.")] = 10,
    start: options.Start = "7d",
    duration: options.Duration = "1d",
    trace: options.Trace = None,
    traffic: options.Traffic = "diurnal",
    traffic_seed: options.TrafficSeed = 0,
    scale_peak_to_replicas: options.ScalePeak = None,
    settings: options.Settings = None,
    engine: options.Engine = FLUID,
    no_track: options.NoTrack = False,
    state: options.State = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare policies on held-out traffic with paired seeds; what comes before --start may be tuned on."""
    from flows.commands.evaluate import EvaluationRequest, evaluate_policies
    from flows.inputs import TrafficChoice
    from flows.terminal.tables import show_evaluation

    choice = TrafficChoice(trace, traffic, traffic_seed, scale_peak_to_replicas)
    named = split_outside(policies)
    request = EvaluationRequest(
        profile, settings or [], choice, named, seeds, start, duration, state, not no_track, engine, rivals.split(",")
    )
    _present(lambda: evaluate_policies(request), show_evaluation, as_json, quiet)


@app.command()
def benchmark_agents(
    traces: Annotated[
        list[Path], typer.Argument(metavar="FOLDER|TRACE...", help="Trace files, and folders of them (.csv, .csv.gz).")
    ],
    profile: options.ProfileOption = "production",
    policies: options.Contestants = None,
    days: Annotated[int, typer.Option(help="Blocks at the end of each trace that are held out, at least 5.")] = 5,
    block: Annotated[str, typer.Option(help="Length of a block: 24h; 5m for traces of an hour.")] = "24h",
    seeds: Annotated[int, typer.Option(min=1, max=4096, help="Evaluation seeds on each day.")] = 4,
    budget_days: Annotated[
        float, typer.Option(min=0.0, help="Simulated days that the search for the settings of each policy may spend.")
    ] = 80.0,
    peak_replicas: Annotated[
        int, typer.Option(min=1, help="Map the peak of each trace to what so many replicas serve at 70 % utilization.")
    ] = 20,
    refit: Annotated[
        bool, typer.Option("--refit", help="Tune anew before each held-out day, on all that lies before; else once.")
    ] = False,
    own_ticks: Annotated[
        bool,
        typer.Option(
            "--own-ticks", help="Play the profile's own ticks: five times as long, for nearly the same figures."
        ),
    ] = False,
    faults: Annotated[
        bool,
        typer.Option(
            "--faults",
            help="Also play each policy, as tuned, through a flash crowd, without metrics, with stuck pods, with slow starts.",
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The report, an HTML file; default: in the state folder.")
    ] = None,
    settings: options.Settings = None,
    no_track: options.NoTrack = False,
    state: options.State = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare policies by the protocol over the held-out days of many traces. Resumes.

    The last whole blocks of each trace are held out, at least 5; policies are tuned on what lies before, at least 2. Each is
    played with several values of the setting that trades pods for good requests, on the same draws, and compared by what
    its pods cost at the same SLO attainment. Intervals are over days. Small logs lose their counting noise first.
    """
    from flows.commands.benchmark_agents import BenchmarkRequest
    from flows.commands.benchmark_agents import benchmark_agents as run_protocol
    from flows.terminal.standings import show_benchmark

    request = BenchmarkRequest(
        traces,
        profile,
        settings or [],
        split_outside(policies) if policies is not None else [],
        days,
        block,
        seeds,
        budget_days,
        peak_replicas,
        refit,
        own_ticks,
        output,
        state,
        not no_track,
        faults,
    )
    _present(lambda: run_protocol(request), show_benchmark, as_json, quiet, resumable=True)


@app.command()
def compare(
    sweeps: Annotated[
        list[str] | None, typer.Argument(help="Ids of sweeps or names of their specifications; default: the newest.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Key or label of a configuration; adds differences to it.")
    ] = None,
    state: options.State = None,
    as_json: options.Json = False,
) -> None:
    """Put the configurations of finished sweeps side by side."""
    from flows.commands.compare import compare_sweeps
    from flows.terminal.tables import show_comparison

    _present(lambda: compare_sweeps(sweeps or [], baseline, state), show_comparison, as_json)


@app.command()
def report(
    sweep_id: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="As for compare; default: the newest.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The HTML file; default: in the state folder.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Also draw its figures as PNG files into this folder.")] = None,
    state: options.State = None,
    as_json: options.Json = False,
) -> None:
    """Write the report of a sweep again: one HTML file that needs no network."""
    from flows.commands.report import make_report
    from flows.terminal.tables import show_report

    _present(lambda: make_report(sweep_id, output, state, pictures), show_report, as_json)


@bench_app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    quick: Annotated[bool, typer.Option(help="A tenth of the work, for a first look.")] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Train and evaluate agents on the halves of this trace too.")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure the engines, the environment, training and sweeps on this machine."""
    if context.invoked_subcommand is not None:
        if quick or trace or as_json or quiet:
            raise typer.BadParameter(f"options of {context.invoked_subcommand} stand behind it")
        return
    from flows.commands.bench import measure
    from flows.terminal.tables import show_bench

    _present(lambda: measure(quick, trace), show_bench, as_json, quiet)


@bench_app.command()
def agreement(
    only: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Scenarios with this in their name, or as '*random*'.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=3, max=4096, help="Most seeds of a scenario.")] = 64,
    traces: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of trace files; without it their scenarios are skipped.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads that share the seeds; default: one a CPU.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write what was validated into this JSON file.")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Play scenarios in both engines and judge how far apart they are; exit code 1 where they do not agree."""
    from flows.commands.agreement import AgreementRequest, measure_agreement
    from flows.terminal.tables import show_agreement

    request = AgreementRequest(only, seeds, traces, threads, record)
    document = _present(lambda: measure_agreement(request), show_agreement, as_json, quiet)
    if not document["verdict"]["agree"]:
        raise typer.Exit(1)


@app.command()
def ui(
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow on loopback.")] = 5000,
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Prefect on loopback.")] = 4200,
    state: options.State = None,
    quiet: options.Quiet = False,
) -> None:
    """Open MLflow and Prefect on this state folder until Ctrl-C."""
    from flows.commands.ui import serve_ui
    from flows.terminal.output import silenced

    with silenced(quiet):
        serve_ui(mlflow_port, prefect_port, state)


def _present(
    work: Callable[[], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
    as_json: bool,
    quiet: bool = False,
    resumable: bool = False,
) -> dict[str, Any]:
    from flows.terminal.output import print_json, reserved_stdout, say, silenced

    try:
        with silenced(quiet), reserved_stdout():
            document = work()
    except (KeyboardInterrupt, SystemExit):
        say("Stopped; all that was started has ended." + (_RESUME if resumable else ""))
        raise
    if "seconds" in document:
        document["seconds"]["total"] = _age_s()  # with all that was imported, started and ended
    text = document.pop("text", None)
    if as_json:
        print_json(document)
    else:
        if text:
            print(text)
        show(document)
    sys.stdout.flush()
    return document


def _afterwards(work: Callable[[], None]) -> None:
    """What follows an answer that is printed already, and adds nothing to standard output."""
    from flows.terminal.output import reserved_stdout

    with reserved_stdout():
        work()


def _age_s() -> float:
    """How long this process has been running [s]."""
    try:  # to 10 ms; psutil takes the boot time in whole seconds
        started = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return float(Path("/proc/uptime").read_text().split()[0]) - started / os.sysconf("SC_CLK_TCK")
    except OSError:
        import psutil

        return time.time() - psutil.Process().create_time()


def main() -> NoReturn:
    """Run the command line; exit code 0: done, 1: the run failed, 2: the input was wrong, 130, 143: interrupted."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as under nohup
            signal.signal(ending, _terminated)
    sys.unraisablehook = _ignored
    try:
        app()
    except Exception as error:
        if _lost:  # what a stop was lost in may fail for it
            sys.exit(128 + _lost[0])
        sys.exit(_explained(error))
    sys.exit(0)


_lost: list[int] = []  # signals


def _ignored(what: sys.UnraisableHookArgs) -> None:
    """Python's hook for exceptions that nobody can catch: a stop among them comes again.

    Compilers call back from C for seconds: a signal that arrives there raises in the callback, which drops it.
    """
    value = what.exc_value
    number = signal.SIGINT if isinstance(value, KeyboardInterrupt) else 0
    if isinstance(value, SystemExit) and isinstance(value.code, int):
        number = value.code - 128
    if number not in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        sys.__unraisablehook__(what)
        return
    if number != signal.SIGINT:
        signal.signal(number, _terminated)
    _lost.append(number)
    main_thread = threading.main_thread().ident
    again = threading.Timer(_AGAIN_S, signal.pthread_kill, (main_thread, number))
    again.daemon = True
    again.start()


def _explained(error: Exception) -> int:
    from sim_core.errors import DevOpsSimError, InputError

    cause = getattr(error, "cause", None)  # Ray hands on what failed in an actor in a wrapper
    error = cause if isinstance(cause, DevOpsSimError) else error
    if not isinstance(error, DevOpsSimError):
        raise error
    print(str(error), file=sys.stderr)
    return 2 if isinstance(error, InputError) else 1


def _terminated(signal_number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal_number, signal.SIG_IGN)  # once is enough: what was started is being ended
    raise SystemExit(128 + signal_number)


if __name__ == "__main__":
    main()
