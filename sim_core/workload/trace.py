"""Traffic traces: request rates at even steps."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from sim_core.documents import shown
from sim_core.errors import InputError, TraceError, nearest

COLUMNS = ("t_seconds", "requests_per_second")


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
        """The steps from `start_s` to `end_s` [s], rounded to whole steps, at least one.

        Raises:
            InputError: they do not lie in the trace in this order.
        """
        if not 0.0 <= start_s < end_s <= self.duration_s + 1e-9:
            raise InputError(
                f"trace '{self.name}'", f"lasts {self.duration_s:g} s; cannot cut out {start_s:g} s to {end_s:g} s"
            )
        first, last = min(round(start_s / self.step_s), len(self.rates_per_s) - 1), round(end_s / self.step_s)
        return replace(self, rates_per_s=self.rates_per_s[first : max(last, first + 1)])

    def scaled(self, factor: float) -> Trace:
        """The same shape at `factor` times the rate.

        Raises:
            InputError: the factor is no finite number of 0 or more.
        """
        if not (math.isfinite(factor) and factor >= 0.0):
            raise InputError(f"trace '{self.name}'", f"can be scaled by a finite number of 0 or more (got {factor:g})")
        return replace(self, rates_per_s=self.rates_per_s * factor)


def read_trace(path: str | Path) -> Trace:
    """A trace from a CSV file, gzip or not, with columns `t_seconds` and `requests_per_second`.

    Steps may have any even length; times need not begin at 0.

    Raises:
        TraceError: unreadable, other columns, gaps, disorder, uneven steps, rates that are no finite number >= 0, fewer
            than two rows; with line numbers (the header is line 1).
    """
    path = Path(path)
    where = str(path)
    lines = _text(path).replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")
    time_first = _time_is_first(where, lines[0])
    numbers, values, problems = _rows(lines, time_first)
    times, rates = values[:, 0], values[:, 1]
    problems += _time_problems(numbers, times)
    listed = [f"line {number}: {text}" for number, text in sorted(problems)]
    if len(lines) < 3:
        listed.append(f"must hold at least two rows, so that the step is known (got {len(lines) - 1})")
    if listed:
        raise TraceError(where, listed)
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    return Trace(name, float(times[-1] - times[0]) / (len(times) - 1), rates)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise TraceError(str(path), f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    try:
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error):
        raise TraceError(str(path), "is a damaged gzip file; fetch or write it again") from None
    except UnicodeDecodeError:
        raise TraceError(str(path), f"is not a text file; a trace is CSV with columns {','.join(COLUMNS)}") from None
    if not text.strip():
        raise TraceError(str(path), f"is empty; a trace is CSV with columns {','.join(COLUMNS)}")
    return text


def _time_is_first(where: str, line: str) -> bool:
    header = _fields(line)
    problems = [
        f"line 1: unknown column {shown(name)}{nearest(name, COLUMNS)}" for name in header if name not in COLUMNS
    ] + [f"line 1: column '{name}' is missing" for name in COLUMNS if name not in header]
    if problems:
        raise TraceError(where, problems)
    if len(header) != len(COLUMNS):
        raise TraceError(where, f"line 1: columns must be {','.join(COLUMNS)} (got {','.join(header)})")
    return header[0] == COLUMNS[0]


def _fields(line: str) -> list[str]:
    return [field.strip().strip('"') for field in line.split(",")]


def _rows(lines: list[str], time_first: bool) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
    """Line numbers (n,), times and rates (n, 2) with NaN for what is wrong, and (line, problem) of what is wrong."""
    names = COLUMNS if time_first else COLUMNS[::-1]
    numbers: list[int] = []
    values: list[list[float]] = []
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(lines[1:], start=2):
        fields = _fields(line)
        if len(fields) == len(names):
            numbers.append(number)
            values.append([_number(*named, number, problems) for named in zip(names, fields, strict=True)])
        else:
            got = f"got {len(fields)}" if line.strip() else "the line is empty"
            problems.append((number, f"must hold {len(names)} values, {','.join(names)} ({got})"))
    table = np.array(values, dtype=np.float64).reshape(-1, 2)
    return np.array(numbers, dtype=np.int64), table if time_first else table[:, ::-1], problems


def _number(name: str, field: str, line: int, problems: list[tuple[int, str]]) -> float:
    try:
        value = float(field.replace("_", "?"))  # Python alone reads 1_000
    except ValueError:
        problems.append((line, f"{name} must be a number (got {shown(field)})"))
        return math.nan
    least = 0.0 if name == "requests_per_second" else -math.inf
    if math.isfinite(value) and value >= least:
        return value + 0.0  # -0.0 becomes 0.0: equal traffic has equal digests
    rule = "a finite number of 0 or more" if least == 0.0 else "a finite number"
    problems.append((line, f"{name} must be {rule} (got {value:g})"))
    return math.nan


def _time_problems(numbers: np.ndarray, times: np.ndarray) -> list[tuple[int, str]]:
    """What is wrong between the times that could be read, as (line, problem)."""
    rows = np.flatnonzero(np.isfinite(times))
    advances, n_steps = np.diff(times[rows]), np.diff(rows)
    forward = advances > 0.0
    step = float(np.median(advances[forward] / n_steps[forward])) if forward.any() else 0.0
    # Of a step, as much as text with seven digits loses; of the times, what floating point does.
    slack = 1e-6 * step + 4.0 * np.finfo(float).eps * float(np.abs(times[rows]).max(initial=0.0))
    problems = []
    for at in np.flatnonzero(~forward | (np.abs(advances - n_steps * step) > slack)):
        before, after = times[rows[at]], times[rows[at + 1]]
        if after == before:
            text = f"stands twice (got {after:.10g}); keep one row"
        elif after < before:
            text = f"goes back from {before:.10g} to {after:.10g}; sort the rows"
        elif after - before > n_steps[at] * step:
            text = f"jumps from {before:.10g} to {after:.10g}, the step is {step:.10g}; fill the gap"
        else:
            text = f"advances by {after - before:.10g}, the step is {step:.10g}; resample to even steps"
        problems.append((int(numbers[rows[at + 1]]), f"t_seconds {text}"))
    return problems
