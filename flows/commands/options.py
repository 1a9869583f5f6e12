"""Options that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Profile = Annotated[str, typer.Argument(help="A bundled profile (see `profile list`) or the path of a YAML file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Override a value of the profile, as in services.api.replicas.max=40. Repeatable.",
    ),
]
Trace = Annotated[Path | None, typer.Option("--trace", help="Play this trace file (t_seconds,requests_per_second).")]
Traffic = Annotated[str, typer.Option("--traffic", help="Without --trace: the bundled generator to play.")]
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
Engine = Annotated[str, typer.Option("--engine", help="How requests are served: fluid.")]
State = Annotated[
    Path | None,
    typer.Option("--state", help="Folder of results, models and databases [$DEVOPS_SIM_HOME, else ./.devops-sim]."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else.")]
NoTrack = Annotated[bool, typer.Option("--no-track", help="Write nothing to MLflow.")]
