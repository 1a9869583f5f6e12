"""Traffic traces: request rates at even steps."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from sim_core.errors import InputError, TraceError, nearest

COLUMNS = ("t_seconds", "requests_per_second")
MAX_PROBLEMS = 20


@dataclass(frozen=True, eq=False)
class Trace:
    """Request rates at even steps.

    Args:
        name: for people.
        step_s: length of a step [s].
        rates_per_s: mean rate of each step, shape (n,) [1/s]; kept read-only.
    """

    name: str
    step_s: float
    rates_per_s: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        rates = np.array(self.rates_per_s, dtype=np.float64)
        rates.flags.writeable = False
        object.__setattr__(self, "rates_per_s", rates)

    @property
    def duration_s(self) -> float:
        """Length [s]."""
        return self.step_s * len(self.rates_per_s)

    @cached_property
    def peak_per_s(self) -> float:
        """Highest rate of a step [1/s]."""
        return float(self.rates_per_s.max())

    @cached_property
    def mean_per_s(self) -> float:
        """Mean rate [1/s]."""
        return float(self.rates_per_s.mean())

    @cached_property
    def digest(self) -> str:
        """SHA-256 [hex] over step and rates; equal for equal traffic, whatever its name."""
        return hashlib.sha256(np.float64(self.step_s).tobytes() + self.rates_per_s.tobytes()).hexdigest()

    def slice(self, start_s: float, end_s: float) -> Trace:
        """The steps from `start_s` to `end_s` [s], rounded to whole steps.

        Raises:
            InputError: they do not lie in the trace in this order.
        """
        if not 0.0 <= start_s < end_s <= self.duration_s + 1e-9:
            raise InputError(
                f"trace '{self.name}'", f"lasts {self.duration_s:g} s; cannot cut out {start_s:g} s to {end_s:g} s"
            )
        first, last = round(start_s / self.step_s), round(end_s / self.step_s)
        return replace(self, rates_per_s=self.rates_per_s[first : max(last, first + 1)])

    def scaled(self, factor: float) -> Trace:
        """The same shape at `factor` times the rate."""
        return replace(self, rates_per_s=self.rates_per_s * factor)


def read_trace(path: str | Path) -> Trace:
    """A trace from a CSV file, gzip or not, with columns `t_seconds` and `requests_per_second`.

    Steps may have any even length; times need not begin at 0.

    Raises:
        TraceError: unreadable, other columns, gaps, disorder, uneven steps, rates that are no finite number >= 0, fewer
            than two rows; with line numbers (the header is line 1), at most MAX_PROBLEMS of them.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TraceError(str(path), f"cannot be read ({error.strerror or error})") from None
    try:
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error):
        raise TraceError(str(path), "is a damaged gzip file; fetch or write it again") from None
    except UnicodeDecodeError:
        raise TraceError(str(path), f"is not a text file; a trace is CSV with columns {','.join(COLUMNS)}") from None
    columns = _columns(str(path), text)
    problems = _value_problems(columns)
    if not problems:
        problems = _time_problems(columns["t_seconds"])
    if problems:
        shown = problems[:MAX_PROBLEMS]
        if len(problems) > MAX_PROBLEMS:
            shown.append(f"and {len(problems) - MAX_PROBLEMS} more")
        raise TraceError(str(path), shown)
    times = columns["t_seconds"]
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    return Trace(name, float(times[-1] - times[0]) / (len(times) - 1), columns["requests_per_second"])


def _columns(where: str, text: str) -> dict[str, np.ndarray]:
    header = [name.strip() for name in text.split("\n", 1)[0].split(",")]
    problems = [
        f"line 1: unknown column '{name}'{nearest(name, COLUMNS)}" for name in header if name not in COLUMNS
    ] + [f"line 1: column '{name}' is missing" for name in COLUMNS if name not in header]
    if problems or len(header) != len(COLUMNS):
        raise TraceError(where, problems or f"line 1: columns must be {','.join(COLUMNS)} (got {','.join(header)})")
    try:
        frame = pd.read_csv(
            io.StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False, skipinitialspace=True
        )
    except (pd.errors.ParserError, ValueError) as error:
        raise TraceError(where, f"is not CSV with {len(COLUMNS)} columns ({str(error).strip()})") from None
    frame.columns = pd.Index(header)
    while len(frame) and (frame.iloc[-1] == "").all():
        frame = frame.iloc[:-1]
    if len(frame) < 2:
        raise TraceError(where, f"must hold at least two rows, so that the step is known (got {len(frame)})")
    bad = []
    columns = {}
    for name in COLUMNS:
        values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
        words = frame[name].str.strip().str.lower()
        unreadable = np.isnan(values) & ~words.isin(["nan"]).to_numpy()
        bad += [
            f"line {row + 2}: {name} must be a number (got '{frame[name].iloc[row]}')"
            for row in np.flatnonzero(unreadable)
        ]
        columns[name] = values
    if bad:
        extra = [f"and {len(bad) - MAX_PROBLEMS} more"] if len(bad) > MAX_PROBLEMS else []
        raise TraceError(where, bad[:MAX_PROBLEMS] + extra)
    return columns


def _value_problems(columns: dict[str, np.ndarray]) -> list[str]:
    problems = []
    for name, values in columns.items():
        wrong = ~np.isfinite(values) | (values < 0.0 if name == "requests_per_second" else False)
        rule = "a finite number of 0 or more" if name == "requests_per_second" else "a finite number"
        problems += [(int(row) + 2, f"{name} must be {rule} (got {values[row]:g})") for row in np.flatnonzero(wrong)]
    return [f"line {line}: {text}" for line, text in sorted(problems)]


def _time_problems(times: np.ndarray) -> list[str]:
    steps = np.diff(times)
    forward = steps[steps > 0.0]
    step = float(np.median(forward)) if len(forward) else 0.0
    problems = []
    for row in np.flatnonzero(np.abs(steps - step) > max(1e-6, 1e-6 * step)):
        before, after = times[row], times[row + 1]
        line = f"line {row + 3}: t_seconds"
        if after == before:
            problems.append(f"{line} stands twice (got {after:.10g}); keep one row")
        elif after < before:
            problems.append(f"{line} goes back from {before:.10g} to {after:.10g}; sort the rows")
        elif after - before > step:
            problems.append(f"{line} jumps from {before:.10g} to {after:.10g}, the step is {step:.10g}; fill the gap")
        else:
            problems.append(
                f"{line} advances by {after - before:.10g}, the step is {step:.10g}; resample to even steps"
            )
    return problems
