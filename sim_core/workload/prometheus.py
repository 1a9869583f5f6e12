"""Traffic from a Prometheus server: a query over a window of the past becomes a trace.

The query has to yield one series of requests a second, as `sum(rate(http_requests_total[1m]))`. A rate that Prometheus
tells for a moment looks back from it; so the value at the end of a step is taken as the mean rate of the step.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
import math
import os
import urllib.error
import urllib.parse
import urllib.request
from functools import lru_cache
from typing import Any

import numpy as np

from sim_core.documents import shown
from sim_core.errors import TraceError
from sim_core.units import format_duration
from sim_core.workload.trace import MAX_PROBLEMS, Trace

TOKEN_VARIABLE = "DEVOPS_SIM_PROMETHEUS_TOKEN"
MAX_POINTS = 11_000  # of a series in one answer; Prometheus refuses more
BRIDGED_S = 300.0  # as far as Prometheus itself looks back for a value; longer gaps are no traffic to train on
TIMEOUT_S = 60.0
_MAX_BYTES = 64_000_000  # of an answer; a whole one of one series has less than one
_MAX_STEPS = 5_000_000  # of a trace: a year and a half in steps of 10 s
_MAX_REASON = 300  # characters of what a server says went wrong


def read_prometheus(
    url: str, query: str, end_s: float, duration_s: float, step_s: float = 30.0, timeout_s: float = TIMEOUT_S
) -> Trace:
    """The traffic of a window of the past, over the HTTP API (`/api/v1/query_range`).

    A bearer token is taken from the environment variable DEVOPS_SIM_PROMETHEUS_TOKEN; redirects are not followed, so that
    it goes nowhere else. Gaps and values that are no numbers are bridged in a straight line up to BRIDGED_S. The same
    question is asked once in a process.

    Args:
        url: of the server, as http://HOST:9090 or https://HOST/PREFIX; without credentials.
        query: PromQL that yields one series, requests per second.
        end_s: end of the window [s since 1970, UTC].
        duration_s: its length; whole steps, at least two [s].
        step_s: of the trace, whole milliseconds [s].
        timeout_s: for each request [s].

    Raises:
        TraceError: the window or the address is wrong, the server cannot be reached, refuses or does not answer in time,
            or the query yields nothing, several series, negative rates or longer gaps; says what to do.
    """
    where = _address(url)
    steps = _steps(where, end_s, duration_s, step_s)
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    return _read(where, query.strip(), end_s - steps * step_s, steps, step_s, timeout_s, token)


def _address(url: str) -> str:
    """The address without a slash at its end, checked."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urllib.parse.urlsplit(""), None
    if "@" in url:
        # Nothing of the address is repeated: it holds a secret.
        rule = f"must hold no user and password; put a bearer token into the environment variable {TOKEN_VARIABLE}"
        raise TraceError("Prometheus URL", rule)
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise TraceError("Prometheus URL", f"must read http://HOST:PORT or https://HOST/PREFIX (got {shown(url)})")
    return url.rstrip("/")


def _steps(where: str, end_s: float, duration_s: float, step_s: float) -> int:
    """How many steps the window has."""
    if not (math.isfinite(step_s) and step_s > 0.0 and abs(step_s * 1000.0 - round(step_s * 1000.0)) < 1e-6):
        raise TraceError(where, f"the step must be whole milliseconds, as 30s (got {step_s:g} s)")
    steps = round(duration_s / step_s) if math.isfinite(duration_s) else 0
    if not 2 <= steps <= _MAX_STEPS or abs(steps * step_s - duration_s) > 1e-6 * step_s:
        rule = f"the window must last 2 to {_MAX_STEPS:,} whole steps of {format_duration(step_s)}"
        raise TraceError(where, f"{rule} (got {duration_s:g} s)")
    if not (math.isfinite(end_s) and end_s >= duration_s):
        raise TraceError(where, f"the window must lie after 1970 (got an end at {end_s:g} s)")
    return steps


@lru_cache(maxsize=4)
def _read(where: str, query: str, start_s: float, steps: int, step_s: float, timeout_s: float, token: str) -> Trace:
    if not query:
        raise TraceError(where, "needs a query that yields requests per second, as sum(rate(http_requests_total[1m]))")
    rates = np.full(steps, np.nan)
    for first in range(0, steps, MAX_POINTS):
        count = min(MAX_POINTS, steps - first)
        chunk_s = start_s + (first + 1) * step_s
        answer = _ask(where, query, chunk_s, chunk_s + (count - 1) * step_s, step_s, timeout_s, token)
        for time_s, value in _one_series(where, query, answer):
            at = round((time_s - chunk_s) / step_s)
            if 0 <= at < count:
                rates[first + at] = value
    return Trace(query, step_s, _bridged(where, query, rates, start_s, step_s))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """None: the token must not follow to another host."""


def _ask(
    where: str, query: str, start_s: float, end_s: float, step_s: float, timeout_s: float, token: str
) -> dict[str, Any]:
    """The `data` of one answer."""
    asked = {"query": query, "start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:.3f}"}
    request = urllib.request.Request(f"{where}/api/v1/query_range?{urllib.parse.urlencode(asked)}")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    slow = f"did not answer within {timeout_s:g} s; ask for less with a longer step or a shorter window"
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_s) as response:
            content = response.read(_MAX_BYTES + 1)
            if len(content) <= _MAX_BYTES and response.length:  # a part of what was announced
                raise http.client.IncompleteRead(content, response.length)
    except urllib.error.HTTPError as error:
        raise TraceError(where, _refused(error, token)) from None
    except TimeoutError:
        raise TraceError(where, slow) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TraceError(where, slow) from None
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise TraceError(where, f"cannot be reached ({reason}); is the server up and the address right?") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        # A header's ValueError would quote the token.
        reason = type(error).__name__ if token else f"{type(error).__name__}: {error}"[:_MAX_REASON]
        raise TraceError(where, f"broke off or is no HTTP server ({reason})") from None
    if len(content) > _MAX_BYTES:
        raise TraceError(where, f"answers with more than {_MAX_BYTES:,} bytes; {_ONE_SERIES}")
    answer = _json(content)
    data = answer.get("data") if answer.get("status") == "success" else None
    if not isinstance(data, dict) or data.get("resultType") != "matrix" or not isinstance(data.get("result"), list):
        raise TraceError(where, "does not answer as Prometheus does; is a prefix of the path missing in the address?")
    return data


_ONE_SERIES = "sum over the labels, as sum(rate(http_requests_total[1m]))"


def _json(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _refused(error: urllib.error.HTTPError, token: str) -> str:
    """Why a server refused, in its words where it has any, and what to do."""
    with error:
        try:
            answer = _json(error.read(_MAX_BYTES))
        except (OSError, http.client.HTTPException):
            answer = {}
    said = str(answer.get("error") or error.reason or "no reason given")
    said = " ".join(said.split())[:_MAX_REASON]
    if token:
        said = said.replace(token, "***")
    remedy = {
        400: "mend the query or the step",
        401: f"put a bearer token into the environment variable {TOKEN_VARIABLE}",
        403: f"the bearer token in the environment variable {TOKEN_VARIABLE} must be allowed to read",
        404: "is a prefix of the path missing in the address?",
        422: "mend the query, or ask for less with a longer step",
    }.get(error.code, "is the server well?")
    if 300 <= error.code < 400:
        remedy = "redirects are not followed: give the address that it leads to"
    return f"answers {error.code}: {said}; {remedy}"


def _one_series(where: str, query: str, data: dict[str, Any]) -> list[tuple[float, float]]:
    """(time [s], value [1/s]) of the one series of an answer; empty where it holds none."""
    result = data["result"]
    if len(result) > 1:
        labels = [shown(json.dumps(series.get("metric"))) for series in result[:3] if isinstance(series, dict)]
        raise TraceError(where, f"{shown(query)} yields {len(result)} series ({', '.join(labels)}); {_ONE_SERIES}")
    try:
        return [(float(time_s), float(value)) for series in result for time_s, value in series["values"]]
    except (KeyError, TypeError, ValueError):
        raise TraceError(where, f"{shown(query)} does not yield times and numbers; {_ONE_SERIES}") from None


def _bridged(where: str, query: str, rates: np.ndarray, start_s: float, step_s: float) -> np.ndarray:
    """The rates without their short gaps."""
    known = np.isfinite(rates)
    if not known.any():
        span = f"from {_clock(start_s)} to {_clock(start_s + len(rates) * step_s)}"
        remedy = "check the metric's name and labels, and how long the server keeps its data"
        raise TraceError(where, f"{shown(query)} yields no number {span}; {remedy}")
    if (rates[known] < 0.0).any():
        at = int(np.flatnonzero(known & (rates < 0.0))[0])
        rule = "must yield rates of 0 or more; take rate() of a counter"
        raise TraceError(where, f"{shown(query)} {rule} (got {rates[at]:g} at {_clock(start_s + (at + 1) * step_s)})")
    edges = np.flatnonzero(np.diff(np.r_[False, ~known, False]))
    gaps = [(first, last) for first, last in zip(edges[::2], edges[1::2], strict=True)]
    # At least one step: a single scrape that failed must not stop a training.
    long = [(first, last) for first, last in gaps if (last - first) * step_s > max(BRIDGED_S, step_s)]
    if long:
        listed = [
            f"no number for {format_duration(float((last - first) * step_s))} from {_clock(start_s + first * step_s)}"
            for first, last in long[:MAX_PROBLEMS]
        ]
        more = [f"and {len(long) - MAX_PROBLEMS} more gaps"] if len(long) > MAX_PROBLEMS else []
        remedy = (
            f"gaps of up to {format_duration(BRIDGED_S)} are bridged; for longer ones roll over a shorter window, widen "
            "the range of rate(), or end the query with `or vector(0)` where no value means no traffic"
        )
        raise TraceError(where, [*listed, *more, remedy])
    steps = np.arange(len(rates))
    return np.interp(steps, steps[known], rates[known])


def _clock(time_s: float) -> str:
    return dt.datetime.fromtimestamp(time_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
