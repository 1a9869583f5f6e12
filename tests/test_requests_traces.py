"""Sampled traces of single requests: what they say, and that they change nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from sim_core.dataplane.requests.spans import ATTEMPT_SPAN, REQUEST_SPAN, VISIT_SPAN
from sim_core.dataplane.requests.traces import Names, write_otlp_json, write_parquet
from sim_core.dataplane.services import records as r
from tests.request_worlds import RequestClass, RequestWorld, Service, call, cpu, parallel, wait

NAMES = Names(("front", "back"), ("browse", "page", "item"), ("visitors",))


def traced(share, rate_per_s=80.0, **edge):
    edge = dict(timeout_s=0.2, max_retries=1, backoff_s=(0.02, 0.0, 0.0), retry_budget_ratio=0.5) | edge
    return RequestWorld(
        [
            Service(
                "front",
                {"main": [cpu(0.005), parallel([call("back", **edge)], [wait(0.01), call("back", **edge)])]},
                pods=2,
            ),
            Service("back", {"main": [cpu(0.009)]}, pods=2, workers=4.0, queue_limit=4.0),
        ],
        [RequestClass([wait(0.001), call("front")], rate_per_s)],
        seed=1,
        trace_share=share,
    )


@pytest.fixture(scope="module")
def spans():
    world = traced(1.0)
    world.run(20).serve(ticks=10)
    assert world.engine["lost_spans"] == 0
    return world.engines.take_spans(0), world


def test_every_span_lies_within_its_parent(spans):
    """Trace by trace: one request, its attempts, the calls that they made, the steps of those; children begin inside."""
    spans, _ = spans
    place = {int(span): row for row, span in enumerate(spans["span"])}
    assert len(place) == len(spans)
    kinds = {REQUEST_SPAN: set(), VISIT_SPAN: {ATTEMPT_SPAN}, ATTEMPT_SPAN: {REQUEST_SPAN, VISIT_SPAN}}
    inside = {REQUEST_SPAN, VISIT_SPAN}
    for span in spans:
        if span["kind"] == REQUEST_SPAN:
            assert span["parent"] == 0
            continue
        parent = spans[place[int(span["parent"])]]
        assert parent["trace"] == span["trace"]
        assert parent["kind"] in kinds.get(int(span["kind"]), inside)
        assert parent["start_s"] <= span["start_s"] + 1e-12
        if span["kind"] not in (VISIT_SPAN, r.CPU):  # what was given up goes on beyond its attempt, and its steps do
            assert span["end_s"] <= parent["end_s"] + 1e-9 or not parent["answered"]


def test_request_spans_add_up_to_the_accounts(spans):
    """With every request sampled: as many, as failed, and the same latencies as the sums of the class."""
    spans, world = spans
    requests = spans[spans["kind"] == REQUEST_SPAN]
    assert len(requests) == world.class_sums["requests"][0]
    assert (requests["answered"] == 0).sum() == world.class_sums["failed"][0] > 0
    attempts = spans[spans["kind"] == ATTEMPT_SPAN]
    for row in range(2):
        assert (attempts["service"] == row).sum() == world.sums["calls"][row]
        assert ((attempts["service"] == row) & (attempts["answered"] == 0)).sum() == world.sums["failed"][row]
    retried = np.unique(attempts["trace"][attempts["attempt"] > 0])
    clean = requests[(requests["answered"] == 1) & ~np.isin(requests["trace"], retried)]
    assert (clean["end_s"] - clean["start_s"]).sum() == pytest.approx(world.class_sums["latency_s"][0], rel=1e-9)


def test_sampling_takes_its_share_and_changes_nothing():
    """A request is sampled by its own stream: the share is met, and the path is that without traces."""
    worlds = [traced(share).run(40) for share in (0.0, 0.05)]
    np.testing.assert_array_equal(worlds[0].sums, worlds[1].sums)
    np.testing.assert_array_equal(worlds[0].latency, worlds[1].latency)
    spans = worlds[1].engines.take_spans(0)
    n = worlds[1].engine["answered"] + worlds[1].engine["failed"]
    share = (spans["kind"] == REQUEST_SPAN).sum() / n
    assert share == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / n))
    assert len(worlds[0].engines.take_spans(0)) == 0


def test_a_full_table_loses_spans_and_counts_them():
    """The table never grows: what does not fit is counted, and emptying it makes room again."""
    world = traced(1.0)
    world.engine["room_spans"] = 100
    world.run(5)
    assert world.engine["lost_spans"] > 0
    assert len(world.engines.take_spans(0)) == 100
    world.run(1)
    assert len(world.engines.take_spans(0)) > 0


def test_spans_as_parquet_read_back(spans, tmp_path):
    """Names for rows, empty where there is no parent, pod or attempt."""
    spans, _ = spans
    write_parquet(tmp_path / "spans.parquet", spans, NAMES)
    table = pq.read_table(tmp_path / "spans.parquet").to_pandas()
    assert len(table) == len(spans)
    assert set(table["kind"]) == {"request", "attempt", "call", "cpu", "wait"}
    assert table["parent_id"].isna().sum() == (table["kind"] == "request").sum()
    assert set(table.loc[table["kind"] == "call", "service"]) == {"front", "back"}
    assert table.loc[table["kind"] == "request", "pod"].isna().all()
    assert (table["end_s"] >= table["start_s"]).all()


def test_spans_as_otlp_json_are_what_viewers_open(spans, tmp_path):
    """Ids in hex of the right length, times as strings of nanoseconds, a resource for each service, every parent present."""
    spans, _ = spans
    write_otlp_json(tmp_path / "spans.json", spans[:5000], NAMES, epoch_s=1.7e9 + 0.25)
    document = json.loads((tmp_path / "spans.json").read_text())
    names = [resource["resource"]["attributes"][0]["value"]["stringValue"] for resource in document["resourceSpans"]]
    assert sorted(names) == ["back", "front", "load_balancer"]
    flat = [span for resource in document["resourceSpans"] for span in resource["scopeSpans"][0]["spans"]]
    assert len(flat) == 5000
    for span in flat:
        assert len(span["traceId"]) == 32 and len(span["spanId"]) == 16 and int(span["traceId"], 16) > 0
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
        assert span["kind"] in (1, 2, 3) and span["status"]["code"] in (1, 2)
    first = spans[:5000][spans[:5000]["caller"] == -1][0]
    start = flat[0]["startTimeUnixNano"]
    assert int(start) == pytest.approx((1.7e9 + 0.25 + first["start_s"]) * 1e9, abs=1000)
