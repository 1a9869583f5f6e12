"""Traffic from Prometheus: against a real server with days of known data, and every way in which a server can fail."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from experiments.planning.plan import make_plan
from experiments.planning.spec import spec_from_dict
from flows.requests import TrainingRequest
from sim_core.errors import InputError, TraceError
from sim_core.workload.prometheus import MAX_POINTS, TOKEN_VARIABLE, read_prometheus
from tests.waiting import guard_s

DAY_S, MINUTE_S, SCRAPE_S = 86_400.0, 60.0, 15.0
BEGIN = dt.date(2026, 1, 5)
DAYS = 10  # 14,400 minutes: more than the server gives in one answer
SHORT_GAP, LONG_GAP = (5.0 * DAY_S, 180.0), (2.0 * DAY_S, 1800.0)  # [s since BEGIN, how long]
QUERY = "sum(rate(http_requests_total[1m]))"


def seconds(date: dt.date) -> float:
    return dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC).timestamp()


def true_rates() -> np.ndarray:
    """Requests per second of each minute, shape (DAYS * 1440,): a wave with noise, level within each minute."""
    minutes = np.arange(DAYS * 1440)
    noise = np.random.default_rng(0).uniform(0.7, 1.3, len(minutes))
    return np.round((100.0 - 60.0 * np.cos(2 * np.pi * minutes / 1440)) * noise, 3)


# --- A real server

with_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="needs the programs prometheus and promtool: apt-get install prometheus",
)


def write_openmetrics(path: Path) -> None:
    """Counters of two instances as if scraped every 15 s, without the samples of the two gaps."""
    totals = np.concatenate([[0.0], np.cumsum(np.repeat(true_rates(), 4) * SCRAPE_S)])
    lines = ["# TYPE http_requests counter"]
    for instance, share in (("a", 0.25), ("b", 0.75)):
        for k, total in enumerate(totals):
            since_s = k * SCRAPE_S
            if not any(begin < since_s < begin + length for begin, length in (SHORT_GAP, LONG_GAP)):
                labels = f'instance="{instance}",code="200"'
                lines.append(f"http_requests_total{{{labels}}} {total * share:.4f} {seconds(BEGIN) + since_s:.0f}")
    path.write_text("\n".join([*lines, "# EOF", ""]))


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """Address of a Prometheus that holds the counters."""
    folder = tmp_path_factory.mktemp("prometheus")
    data, text, config = folder / "data", folder / "metrics.txt", folder / "prometheus.yml"
    write_openmetrics(text)
    config.write_text("global: {scrape_interval: 15s}\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(data)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=guard_s())
    assert made.returncode == 0, made.stderr
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}", "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    url, log = f"http://127.0.0.1:{port}", folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        while not answers(f"{url}/-/ready"):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@with_prometheus
def test_days_of_a_real_server_come_back_minute_by_minute(server):
    """Seven days in two answers: the value at the end of a minute is the rate of that minute, to six digits."""
    end = BEGIN + dt.timedelta(days=DAYS)
    trace = read_prometheus(f"{server}/", QUERY, seconds(end), 7.9 * DAY_S, MINUTE_S)
    minutes = round(7.9 * 1440)
    assert minutes > MAX_POINTS
    assert (trace.step_s, len(trace.rates_per_s), trace.name) == (MINUTE_S, minutes, QUERY)
    expected = true_rates()[-minutes:]
    since = np.arange(minutes) * MINUTE_S + 2.1 * DAY_S
    missing = (since >= SHORT_GAP[0]) & (since < SHORT_GAP[0] + SHORT_GAP[1])
    np.testing.assert_allclose(trace.rates_per_s[~missing], expected[~missing], rtol=1e-6)
    # A gap of three minutes is bridged in a straight line between its neighbors.
    first = int(np.flatnonzero(missing)[0])
    line = np.linspace(expected[first - 1], expected[first + 3], 5)[1:-1]
    np.testing.assert_allclose(trace.rates_per_s[first : first + 3], line, rtol=1e-6)


@with_prometheus
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sum(rate(http_request_total[1m]))", ["yields no number", "check the metric's name"]),
        ("rate(http_requests_total[1m])", ["yields 2 series", '"instance": "a"', "sum over the labels"]),
        ("sum(rate(http_requests_total[1m])", ["answers 400", "unclosed left parenthesis", "mend the query"]),
        ("sum(rate(http_requests_total[1m])) / 0", ["yields no number"]),
        ("0 - sum(rate(http_requests_total[1m]))", ["must yield rates of 0 or more", "(got -"]),
        ("", ["needs a query"]),
    ],
)
def test_a_real_servers_answers_to_wrong_queries_are_explained(server, query, said):
    with pytest.raises(TraceError) as refused:
        read_prometheus(server, query, seconds(BEGIN + dt.timedelta(days=2)), DAY_S, MINUTE_S)
    for words in said:
        assert words in str(refused.value)


@with_prometheus
def test_a_long_gap_is_refused_with_its_place(server):
    """Half an hour without samples; and a window that begins before the first sample."""
    with pytest.raises(TraceError, match=r"no number for 3\dm from 2026-01-07T00:0") as refused:
        read_prometheus(server, QUERY, seconds(BEGIN + dt.timedelta(days=4)), 3 * DAY_S, MINUTE_S)
    assert "or vector(0)" in str(refused.value)
    filled = read_prometheus(
        server, f"{QUERY} or vector(0)", seconds(BEGIN + dt.timedelta(days=4)), 3 * DAY_S, MINUTE_S
    )
    assert (filled.rates_per_s == 0.0).sum() >= 28
    with pytest.raises(TraceError, match=r"no number for 1d from 2026-01-04T00:00:00Z"):
        read_prometheus(server, QUERY, seconds(BEGIN + dt.timedelta(days=1)), 2 * DAY_S, MINUTE_S)


@with_prometheus
def test_a_training_rolls_over_the_last_days_of_a_query(server):
    """The same date is the same training, which resumes; a day later it is another one, on a day more and a day less."""
    request = TrainingRequest(
        profile="production", prometheus=server, query=QUERY, step="1m", last="4d", seed=None, steps=1000,
        date=dt.date(2026, 1, 14),
    )  # fmt: skip
    job = request.resolve()
    assert job.key == request.resolve().key
    assert (job.start_s, job.end_s, job.held_out_s) == (0.0, 3 * DAY_S, DAY_S)
    assert job.seed == 20260114
    np.testing.assert_allclose(job.trace.rates_per_s[-1440:], true_rates()[8 * 1440 : 9 * 1440], rtol=1e-6)
    later = request.model_copy(update={"date": dt.date(2026, 1, 15)}).resolve()
    assert later.key != job.key and later.seed == 20260115
    np.testing.assert_array_equal(later.trace.rates_per_s[:-1440], job.trace.rates_per_s[1440:])


@with_prometheus
def test_a_sweep_rolls_over_the_last_days_of_a_query(server):
    spec = {
        "name": "ours",
        "profile": "production",
        "traffic": {
            "prometheus": {"url": server, "query": QUERY, "step": "1m"},
            "last": "2d",
            "date": "2026-01-15",
            "train": {"start": "0d", "duration": "1d"},
        },
        "policies": [{"policy": "static", "replicas": 4}],
    }
    plan = make_plan(spec_from_dict(spec))
    assert plan.sweep_id == make_plan(spec_from_dict(plan.spec.to_dict())).sweep_id
    np.testing.assert_allclose(plan.trace.rates_per_s, true_rates()[-2880:], rtol=1e-6)
    spec["traffic"]["date"] = "2026-01-14"
    assert make_plan(spec_from_dict(spec)).sweep_id != plan.sweep_id


# --- Servers that fail

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """Address of a local server that answers every request the same way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: object) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler: BaseHTTPRequestHandler, code: int, content: object, **headers: str) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(code)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def matrix(*series: list) -> dict:
    result = [{"metric": {}, "values": values} for values in series]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def ask(url: str, steps: int = 10, timeout_s: float = 30.0, query: str = "up"):
    return read_prometheus(url, query, 1_000_000.0 + steps * 60.0, steps * 60.0, 60.0, timeout_s)


def refusal(answer: Answer, **asked: object) -> str:
    with answering(answer) as url, pytest.raises(TraceError) as refused:
        ask(url, **asked)
    assert url in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("code", "content", "said"),
    [
        (400, {"status": "error", "errorType": "bad_data", "error": "parse error"}, "answers 400: parse error; mend"),
        (401, b"", f"answers 401: Unauthorized; put a bearer token into the environment variable {TOKEN_VARIABLE}"),
        (403, b"no", "answers 403: Forbidden; the bearer token"),
        (404, b"<html>", "is a prefix of the path missing"),
        (422, {"status": "error", "error": "query processing would load too many samples"}, "too many samples; mend"),
        (503, {"status": "error", "error": "x" * 10_000}, "answers 503: xxx"),
        (200, b"<html>a login page</html>", "does not answer as Prometheus does"),
        (200, b"[" * 100_000, "does not answer as Prometheus does"),
        (200, {"status": "success", "data": {"resultType": "vector", "result": []}}, "does not answer as Prometheus"),
        (200, {"status": "success", "data": []}, "does not answer as Prometheus does"),
        (200, matrix(), "yields no number"),
        (200, matrix([[1_000_060, "NaN"], [1_000_120, "+Inf"]]), "yields no number"),
        (200, matrix([[1_000_060, "five"]]), "does not yield times and numbers"),
        (
            200,
            {"status": "success", "data": {"resultType": "matrix", "result": [3]}},
            "does not yield times and numbers",
        ),
        (200, matrix([[1_000_060, "1"]], [[1_000_060, "2"]]), "yields 2 series"),
    ],
)
def test_what_a_server_refuses_or_gets_wrong_is_one_short_message(code, content, said):
    message = refusal(lambda handler: reply(handler, code, content))
    assert said in message
    assert len(message) < 800


def test_a_server_that_is_down_slow_or_breaks_off_is_named():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with pytest.raises(TraceError, match=f"127.0.0.1:{free}: cannot be reached .*is the server up"):
        ask(f"http://127.0.0.1:{free}")

    released = Event()
    with answering(lambda handler: released.wait()) as url:  # never answers before it is released
        with pytest.raises(TraceError, match=r"did not answer within 0\.2 s; ask for less"):
            ask(url, timeout_s=0.2)
        released.set()

    def stalls(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"status"')
        handler.wfile.flush()
        stalled.wait()

    stalled = Event()
    with answering(stalls) as url:
        with pytest.raises(TraceError, match=r"did not answer within 0\.2 s"):
            ask(url, timeout_s=0.2)
        stalled.set()

    def breaks_off(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"status"')

    assert "broke off" in refusal(breaks_off)

    def speaks_otherwise(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"220 mail.example ESMTP\r\n")

    assert "is no HTTP server" in refusal(speaks_otherwise)


def test_the_token_goes_to_the_server_and_nowhere_else(monkeypatch):
    """Not into an error, although the server repeats it; not to where a redirect leads."""
    seen: list[str | None] = []
    monkeypatch.setenv(TOKEN_VARIABLE, "s3cret-token\n")

    def echoes(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["Authorization"])
        reply(handler, 401, {"status": "error", "error": f"unknown {handler.headers['Authorization']}"})

    message = refusal(echoes)
    assert seen == ["Bearer s3cret-token"]
    assert "s3cret" not in message

    with answering(echoes) as other:
        message = refusal(lambda handler: reply(handler, 302, b"", Location=f"{other}/api/v1/query_range"))
    assert "redirects are not followed" in message
    assert len(seen) == 1

    monkeypatch.setenv(TOKEN_VARIABLE, "two\nlines")
    with answering(echoes) as url, pytest.raises(TraceError) as refused:
        ask(url)
    assert "two" not in str(refused.value) and "lines" not in str(refused.value)
    assert len(seen) == 1


def test_an_address_with_a_password_is_refused_without_repeating_it():
    for url in ("http://user:s3cret@127.0.0.1:9090", "s3cret@127.0.0.1"):
        with pytest.raises(TraceError) as refused:
            ask(url)
        assert "s3cret" not in str(refused.value)
        assert TOKEN_VARIABLE in str(refused.value)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:9090", "ftp://127.0.0.1", "http://", "http://[::1", "http://h:99999", "http://h/graph?g0=1", ""]
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(TraceError, match="must read http://HOST:PORT"):
        ask(url)


@pytest.mark.parametrize(
    ("end_s", "duration_s", "step_s", "said"),
    [
        (1e6, 60.0, 60.0, "2 to"),
        (1e6, 90.0, 60.0, "whole steps"),
        (1e6, 600.0, 0.0, "whole milliseconds"),
        (1e6, 600.0, 0.0001, "whole milliseconds"),
        (1e6, float("nan"), 60.0, "whole steps"),
        (100.0, 600.0, 60.0, "after 1970"),
        (1e12, 1e11, 1.0, "2 to"),
    ],
)
def test_a_window_that_makes_no_trace_is_refused_before_anyone_is_asked(end_s, duration_s, step_s, said):
    with pytest.raises(TraceError, match=said):
        read_prometheus("http://127.0.0.1:9", "up", end_s, duration_s, step_s)


def test_a_long_window_is_asked_for_in_parts_and_only_once():
    """Each part at most as long as Prometheus allows, at the ends of the steps, none twice; a second question is free."""
    asked: list[dict[str, float]] = []

    def counts(handler: BaseHTTPRequestHandler) -> None:
        words = urllib.parse.parse_qs(urllib.parse.urlsplit(handler.path).query)
        first, last, step = (float(words[name][0]) for name in ("start", "end", "step"))
        asked.append({"first": first, "last": last, "step": step})
        times = np.arange(first, last + step / 2, step)
        reply(handler, 200, matrix([[float(t), str((t - 1_000_000.0) / 60.0)] for t in times]))

    steps = 2 * MAX_POINTS + 7
    with answering(counts) as url:
        trace = ask(url, steps)
        assert ask(f"{url}/", steps) is trace
    np.testing.assert_allclose(trace.rates_per_s, np.arange(1, steps + 1))
    assert [round((part["last"] - part["first"]) / 60.0) + 1 for part in asked] == [MAX_POINTS, MAX_POINTS, 7]
    assert [part["first"] for part in asked[1:]] == [part["last"] + 60.0 for part in asked[:-1]]


def test_gaps_at_the_ends_are_bridged_level_and_longer_ones_refused():
    """Five minutes at most, at either end and within; every gap of an answer is said at once."""
    minutes = [k for k in range(60) if k not in (0, 1, 20, 21, 22, 23, 24, 58, 59)]
    values = [[1_000_060 + 60 * k, f"{100 + k}"] for k in minutes]
    with answering(lambda handler: reply(handler, 200, matrix(values))) as url:
        rates = ask(url, 60).rates_per_s
    np.testing.assert_allclose(rates, np.clip(100.0 + np.arange(60), 102.0, 157.0))
    few = [value for value in values if value[0] not in range(1_000_060 + 19 * 60, 1_000_060 + 20 * 60)][:-4]
    message = refusal(lambda handler: reply(handler, 200, matrix(few)), steps=60)
    assert "no number for 6m from 1970-01-12T14:05:40Z" in message
    assert "no number for 6m from 1970-01-12T14:40:40Z" in message


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prometheus": "http://h:9090", "last": "2d"}, "need each other"),
        ({"query": "up"}, "need each other"),
        ({"prometheus": "http://h:9090", "query": "up"}, "needs --last"),
        ({"prometheus": "http://h:9090", "query": "up", "last": "2d", "trace": "t.csv"}, "give one of them"),
        ({"prometheus": "http://h:9090", "query": "up", "last": "2d", "step": "x"}, "--step"),
    ],
)
def test_a_request_that_asks_prometheus_needs_all_its_parts(given, said):
    with pytest.raises(InputError, match=said):
        TrainingRequest(profile="production", **given).resolve()
