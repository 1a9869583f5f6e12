"""`devops-sim explain`: why a learned policy, or the rule inside of it, asked for what it asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.policies.registry import Choice, choice_of
from flows.commands.run import made
from flows.inputs import TrafficChoice, duration_s, load_profile, overrides, warn_of
from sim_core.errors import InputError, PolicyError

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")
_AROUND = 4  # decisions shown before and after
_DAY_S = 86_400.0
OPTION, ENDINGS = "--output", (".parquet", ".csv")


@dataclass(frozen=True)
class ExplainRequest:
    """What `devops-sim explain` was asked; durations as written."""

    policy: str
    profile: str
    settings: list[str]
    traffic: TrafficChoice
    at: str
    seed: int
    start: str
    state: Path | None
    output: Path | None = None


def explain(request: ExplainRequest) -> dict[str, Any]:
    """Play the day up to a moment and return what the decisions around it were made of; the document of the command.

    Raises:
        InputError: any part of the request is wrong; the policy is none that explains itself.
    """
    choice = _explains_itself(request.policy)
    at_s = clock_s(request.at)
    start_s = duration_s("--start", request.start)
    request.traffic.check()
    profile = load_profile(request.profile, overrides(request.settings))
    warnings = warn_of([profile])

    from agents.policies.explained import COLUMNS, decisions_of
    from experiments.analysis.decisions import clock, in_words
    from experiments.timelines import check_place, write_table
    from sim_core.world import Lane

    if request.output is not None:
        check_place(request.output, OPTION, ENDINGS)
    since_s = (at_s - start_s) % _DAY_S
    sync_s = profile.controller.sync_period_seconds
    least_s = (int(since_s / sync_s) + 1) * sync_s
    length_s = max(least_s + (_AROUND + 1) * sync_s, _DAY_S if request.output is not None else 0.0)
    # A generator's traffic is scaled by its peak: that of the whole day, as `run` plays it.
    trace = request.traffic.load(profile, start_s, least_s if request.traffic.trace else max(length_s, _DAY_S))
    length_s = min(length_s, int((trace.duration_s - start_s) / sync_s + 1e-9) * sync_s)
    policy = made(choice, request.state)
    decisions = decisions_of(policy, Lane(profile, trace, request.seed, start_s), length_s)  # type: ignore[arg-type]
    if request.output is not None:
        write_table(request.output, decisions.assign(clock=decisions["at_s"].map(clock)), OPTION)
    shown: list[dict[str, Any]] = []
    for _, rows in decisions.groupby("service", sort=False):
        nearest = int((rows["time_s"] - since_s).abs().to_numpy().argmin())
        part = rows.iloc[max(0, nearest - _AROUND) : nearest + _AROUND + 1]
        shown += [
            {
                **{str(name): value for name, value in row.items()},
                "clock": clock(row["at_s"]),
                "asked": index == rows.index[nearest],
            }
            for index, row in zip(part.index, part.to_dict("records"), strict=True)
        ]
    return {
        "command": "explain",
        "policy": choice.text,
        "profile": profile.name,
        "traffic": request.traffic.describe(trace),
        "seed": request.seed,
        "at": request.at,
        "settings": dict(getattr(policy, "settings", {})),
        "columns": COLUMNS,
        "decisions": shown,
        "in_words": [in_words(row) for row in shown if row["asked"]],
        "output": str(request.output) if request.output else None,
        "warnings": warnings,
    }


def clock_s(text: str) -> float:
    """Seconds of the day that a clock time stands for.

    Raises:
        InputError: it is none.
    """
    parts = _CLOCK.fullmatch(text.strip())
    if parts is None:
        raise InputError("--at", f"must be a time of day from 00:00 to 23:59, as 14:20 (got {text!r})")
    hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return 3600.0 * hours + 60.0 * minutes + seconds


def _explains_itself(text: str) -> Choice:
    choice = choice_of(text, "run")
    if not (choice.is_model or choice.name in ("rule", "general")):
        raise PolicyError(text, "explains nothing; a registered model (models:/NAME@ALIAS), general or rule does")
    return choice
