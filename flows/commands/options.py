"""Options that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

import experiments
from agents.policies.registry import ALL_RIVALS, OPTIMUM, RIVALS, described, known, split_outside
from sim_core.bundled import TRAFFICS, names_in, profile_names
from sim_core.engines import NAMES as ENGINE_NAMES
from sim_core.engines import described as described_engines


def _bundled(folder: Path) -> Callable[[str], list[str]]:
    """Completes the names of what comes with the package; the shell itself completes files."""
    return lambda incomplete: [name for name in names_in(folder) if name.startswith(incomplete)]


def _profile(incomplete: str) -> list[str]:
    return [name for name in profile_names() if name.startswith(incomplete)]


def _engine(incomplete: str) -> list[str]:
    return [name for name in ENGINE_NAMES if name.startswith(incomplete)]


def _policy(incomplete: str) -> list[str]:
    return [name for name in known("run") if name.startswith(incomplete)]


def _policies(incomplete: str) -> list[str]:
    """Completes the last name of a list."""
    *named, last = split_outside(incomplete)
    left = [name for name in known("evaluate") if name.startswith(last) and name not in named]
    return [",".join([*named, name]) for name in left]


def _rivals(incomplete: str) -> list[str]:
    """Completes the last name of a list."""
    *named, last = incomplete.split(",")
    left = [name for name in (ALL_RIVALS, *RIVALS) if name.startswith(last) and name not in named]
    return [",".join([*named, name]) for name in left]


Profile = Annotated[
    str,
    typer.Argument(help="A bundled profile (see `profile list`) or the path of a YAML file.", autocompletion=_profile),
]
Policies = Annotated[
    list[str],
    typer.Option(
        "--policy",
        metavar="POLICY",
        help=f"{described('run')}; settings as in hpa(target_cpu_utilization_pct=60). Repeatable: side by side.",
        autocompletion=_policy,
    ),
]
PolicyList = Annotated[
    str,
    typer.Option(
        "--policies",
        help=f"Comma-separated: {described('evaluate')}; settings as in static(replicas=8).",
        autocompletion=_policies,
    ),
]
RivalList = Annotated[
    str,
    typer.Option(
        "--rivals",
        help=f"Compare with these too, and with {OPTIMUM}: {ALL_RIVALS}, or comma-separated: {', '.join(RIVALS)}.",
        autocompletion=_rivals,
    ),
]
ProfileOption = Annotated[
    str, typer.Option("--profile", help="A bundled profile or the path of a YAML file.", autocompletion=_profile)
]
Contestants = Annotated[
    str | None,
    typer.Option(
        "--policies",
        help=f"Comma-separated: {described('evaluate')}; default: all whose settings are searched, and clairvoyant.",
        autocompletion=_policies,
    ),
]
Spec = Annotated[
    Path,
    typer.Argument(
        help="A sweep specification (YAML), as experiments/specs/demo.yaml.",
        autocompletion=_bundled(Path(experiments.__file__).parent / "specs"),
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Override a value of the profile, as in services.api.replicas.max=40. Repeatable.",
    ),
]
Trace = Annotated[Path | None, typer.Option("--trace", help="Play this trace file (t_seconds,requests_per_second).")]
Traffic = Annotated[
    str,
    typer.Option(
        "--traffic", help="Without --trace: the bundled generator to play.", autocompletion=_bundled(TRAFFICS)
    ),
]
OtherTraffic = Annotated[
    str | None,
    typer.Option(
        "--traffic",
        help="Play this bundled generator in place of the specification's traffic.",
        autocompletion=_bundled(TRAFFICS),
    ),
]
TrafficSeed = Annotated[int, typer.Option("--traffic-seed", min=0, help="Seed of the generator.")]
ScalePeak = Annotated[
    int | None,
    typer.Option(
        "--scale-peak-to-replicas",
        min=1,
        help="Map the traffic's peak to what so many replicas serve at 70 % utilization.",
    ),
]
Start = Annotated[str, typer.Option("--start", help="Where in the traffic to begin: 7d, 90m, seconds.")]
Duration = Annotated[str, typer.Option("--duration", help="How long to play: 24h, 7d, seconds.")]
Last = Annotated[
    str | None,
    typer.Option(
        "--last",
        help="Roll: only the last so much of the traffic, as 8d; a file ends now, other traffic when --date begins.",
    ),
]
Date = Annotated[str | None, typer.Option("--date", help="The day that decides, as 2026-11-22; default: today (UTC).")]
Engine = Annotated[
    str,
    typer.Option("--engine", help=f"How requests are served: {described_engines()}.", autocompletion=_engine),
]
OtherEngine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help=f"In place of the specification's: {described_engines()}. Training is always in fluid.",
        autocompletion=_engine,
    ),
]
State = Annotated[
    Path | None,
    typer.Option("--state", help="Folder of results, models and databases [$DEVOPS_SIM_HOME, else ./.devops-sim]."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else.")]
NoTrack = Annotated[bool, typer.Option("--no-track", help="Write nothing to MLflow.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error; warnings and errors stay.")]
