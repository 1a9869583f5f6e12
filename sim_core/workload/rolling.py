"""Windows that roll with the date, for what runs on a schedule: the traffic up to a moment.

The same date gives the same window, another date another one. Dates are days in UTC; a window ends when its day begins, so
that all of it is past.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace

from sim_core.errors import InputError, TraceError
from sim_core.units import format_duration
from sim_core.workload.generator import DAY_S, TrafficModel
from sim_core.workload.trace import Trace

FIRST_DATE = dt.date(1970, 1, 5)  # a Monday; day 0 of generated traffic


def last_part(trace: Trace, duration_s: float) -> Trace:
    """The end of a trace: a file ends now.

    Args:
        duration_s: how much of it [s].

    Raises:
        TraceError: it is shorter.
    """
    if duration_s > trace.duration_s * (1 + 1e-9):
        length, wanted = (format_duration(seconds) for seconds in (trace.duration_s, duration_s))
        raise TraceError(trace.name, f"lasts {length}, less than the last {wanted} that are asked for; ask for less")
    return trace.slice(max(trace.duration_s - duration_s, 0.0), trace.duration_s)


def generated_until(model: TrafficModel, date: dt.date, duration_s: float, seed: int) -> Trace:
    """What a generator makes until a date: a window of traffic that never ends, in which every date has its place.

    Args:
        duration_s: length of the window [s]; whole days begin at midnight.
        seed: of the generator.

    Raises:
        InputError: the window begins before FIRST_DATE, or is too short.
    """
    days = math.ceil(duration_s / DAY_S - 1e-9)
    first_day = (date - FIRST_DATE).days - days
    if first_day < 0:
        rule = f"the window of {format_duration(duration_s)} before it must not begin before {FIRST_DATE} (got {date})"
        raise InputError("date", rule)
    trace = last_part(model.generate(days * DAY_S, seed, first_day=first_day), duration_s)
    return replace(trace, name=f"{trace.name} until {date}")
