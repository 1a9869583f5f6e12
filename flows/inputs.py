"""From the words on the command line to profiles, traffic and settings; every mistake is an `InputError`."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.policies.registry import value_of
from flows.terminal.output import say
from sim_core.bundled import check_traffic
from sim_core.errors import InputError, TraceError, nearest

if TYPE_CHECKING:
    from sim_core.profile import Profile
    from sim_core.workload import Trace

_LEAST_GENERATED_S = 3600.0  # of which less may be played
GENERATOR_REPLICAS = 20


@dataclass(frozen=True)
class Query:
    """A query of a Prometheus server, as `sim_core.workload.prometheus` takes it; `step_s` [s]."""

    url: str
    query: str
    step_s: float


@dataclass(frozen=True)
class Window:
    """The last `duration_s` [s] of the traffic: of a file by its own length, else until `date` begins (UTC)."""

    duration_s: float
    date: dt.date


@dataclass(frozen=True)
class TrafficChoice:
    """Which traffic to play: a trace file, a query, or `duration_s` of a bundled generator.

    Attributes:
        trace: path of a trace file; None takes the generator.
        generator: name of a bundled generator.
        seed: seed of the generator.
        scale_peak_to_replicas: map the peak to what so many replicas serve at 70 % utilization; None leaves the rates of
            a trace file or a query, and scales a generator (whose rates are those of a stranger's system) to
            GENERATOR_REPLICAS.
        prometheus: takes the place of file and generator; needs a window.
        window: only the last part of it; None: all of it.
    """

    trace: Path | None
    generator: str
    seed: int
    scale_peak_to_replicas: int | None
    prometheus: Query | None = None
    window: Window | None = None

    def check(self) -> None:
        """Whether there is such a generator or file, before anything is read or imported for it.

        Raises:
            TraceError: no such file.
            InputError: unknown generator.
        """
        if self.prometheus is not None:
            return
        if self.trace is None:
            check_traffic(self.generator)
        elif not os.path.exists(self.trace):  # also where the name is too long for a file
            files = [file.name for file in self.trace.parent.glob("*")]
            raise TraceError(str(self.trace), f"no such file{nearest(self.trace.name, files)}")

    def load(self, profile: Profile, start_s: float, duration_s: float) -> Trace:
        """The whole traffic, scaled; a generator makes as much as is played.

        Args:
            profile: whose replicas the scale refers to.
            start_s, duration_s: what will be played [s].

        Raises:
            TraceError: the file cannot be read or breaks the format.
            InputError: unknown generator, or the traffic ends too early.
        """
        from sim_core.world import capacity_per_replica, scale_to_replicas

        end_s = start_s + duration_s
        trace = self._read(end_s)
        if end_s > trace.duration_s * (1 + 1e-9):
            rule = f"lasts {trace.duration_s:g} s, but --start and --duration reach to {end_s:g} s"
            raise InputError(str(self.trace or trace.name), f"{rule}; choose an earlier start or a shorter duration")
        replicas = self.scale_peak_to_replicas
        most = min(service.replicas.max for service in profile.services)
        if replicas is None and self.trace is None and self.prometheus is None:
            replicas = min(GENERATOR_REPLICAS, most)
        if replicas is not None:
            return scale_to_replicas(trace, profile, replicas)
        limit = most * capacity_per_replica(profile)
        if trace.peak_per_s > limit:
            say(
                f"The traffic's peak, {trace.peak_per_s:,.0f} requests/s, is more than the {limit:,.0f} that {most} replicas "
                f"of '{profile.name}' serve; --scale-peak-to-replicas N fits it to N replicas"
            )
        return trace

    def _read(self, end_s: float) -> Trace:
        """The traffic as it is; of a generator without a window, at least until `end_s`."""
        window = self.window
        if self.prometheus is not None:
            from sim_core.dates import end_of_window_s
            from sim_core.workload.prometheus import read_prometheus

            assert window is not None
            asked, until_s = self.prometheus, end_of_window_s(window.date)
            return read_prometheus(asked.url, asked.query, until_s, window.duration_s, asked.step_s)
        if self.trace is not None:
            from sim_core.workload import read_trace
            from sim_core.workload.rolling import last_part

            trace = read_trace(self.trace)
            return last_part(trace, window.duration_s) if window else trace
        from sim_core.workload import bundled_traffic
        from sim_core.workload.rolling import generated_until

        model = bundled_traffic(self.generator)
        if window is not None:
            return generated_until(model, window.date, window.duration_s, self.seed)
        return model.generate(max(end_s, _LEAST_GENERATED_S), self.seed)

    def describe(self, trace: Trace) -> dict[str, Any]:
        """Name, origin and figures of the traffic as played."""
        source = {"trace": str(self.trace)} if self.trace else {"generator": self.generator, "seed": self.seed}
        return {
            "name": trace.name,
            **source,
            "scale_peak_to_replicas": self.scale_peak_to_replicas,
            "peak_per_s": trace.peak_per_s,
            "mean_per_s": trace.mean_per_s,
            "digest": trace.digest,
        }


def overrides(settings: Iterable[str]) -> dict[str, Any]:
    """`--set PATH=VALUE` settings: value by dotted path, read as JSON (`0.5`, `null`, `[1, 2]`) if it is, else as text.

    Raises:
        InputError: settings that do not read PATH=VALUE, or a path given twice; all at once.
    """
    values: dict[str, Any] = {}
    problems = []
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            problems.append(f"must read PATH=VALUE, as in database.cores=8 (got {setting!r})")
        elif path in values:
            problems.append(f"{path}: given twice")
        else:
            values[path] = value_of(text)
    if problems:
        raise InputError("--set", problems)
    return values


def load_profile(name_or_path: str, changes: Mapping[str, Any]) -> Profile:
    """The profile with other values at dotted paths.

    Raises:
        ProfileError: unknown, unreadable, or breaks the schema, before or after the changes.
    """
    from sim_core import profile

    loaded = profile.load_profile(name_or_path)
    return loaded.with_overrides(changes) if changes else loaded


def warn_of(profiles: Iterable[Profile], say: Callable[[str], None] = say) -> list[str]:
    """Say what profiles may hold but hardly mean, each thing once; what was said.

    Args:
        profiles: that are about to be played.
        say: prints a line.
    """
    from sim_core.profile import warnings_of

    found = list(dict.fromkeys(warning for profile in profiles for warning in warnings_of(profile)))
    for warning in found:
        say(f"Warning: {warning}")
    return found


def warn_of_saturation(saturated: Mapping[str, Sequence[str]], say: Callable[[str], None] = say) -> list[str]:
    """Say which services were saturated under which policy; what was said.

    Args:
        saturated: sentences by policy.
        say: prints a line.
    """
    found = [f"{policy}: {sentence}" for policy, sentences in saturated.items() for sentence in sentences]
    for warning in found:
        say(f"Warning: {warning}")
    return found


def duration_s(option: str, text: str) -> float:
    """Seconds of `24h`, `7d`, `90m`, `30s` or a plain number; a length must be more than nothing.

    Args:
        option: `--start`, or an option that tells a length.
        text: as written.

    Raises:
        InputError: not a duration, negative, or no length; names the option.
    """
    from sim_core.units import parse_duration

    try:
        seconds = float(parse_duration(text))
    except InputError as error:
        raise InputError(option, error.problems) from None
    if seconds < 0.0 or (seconds == 0.0 and option != "--start"):
        raise InputError(option, f"must be {'0 or more' if option == '--start' else 'greater than 0'} (got {text!r})")
    return seconds


def date_of(option: str, text: str) -> dt.date:
    """The day of `2026-11-22`.

    Raises:
        InputError: no such date; names the option.
    """
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise InputError(option, f"must be a date like 2026-11-22 (got {text!r})") from None
