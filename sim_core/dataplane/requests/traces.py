"""Sampled requests as files: Parquet for analysis, OpenTelemetry JSON for a trace viewer such as Jaeger.

Source: OpenTelemetry, "OTLP specification" 1.x, JSON Protobuf encoding: ids are hex strings, 64-bit times are decimal strings,
enumerations are numbers. Jaeger's UI opens such a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sim_core.dataplane.requests.spans import ATTEMPT_SPAN, REQUEST_SPAN, VISIT_SPAN
from sim_core.dataplane.services.records import CACHED_READ, CPU, READ, WAIT, WRITE

KINDS: Mapping[int, str] = {
    CPU: "cpu",
    WAIT: "wait",
    CACHED_READ: "cached_read",
    READ: "read",
    WRITE: "write",
    REQUEST_SPAN: "request",
    ATTEMPT_SPAN: "attempt",
    VISIT_SPAN: "call",
}
LOAD_BALANCER = "load_balancer"
_INTERNAL, _SERVER, _CLIENT = 1, 2, 3  # OpenTelemetry's SpanKind
_OTEL_KINDS = {REQUEST_SPAN: _SERVER, VISIT_SPAN: _SERVER, ATTEMPT_SPAN: _CLIENT}
_OK, _ERROR = 1, 2  # its Status.code


@dataclass(frozen=True)
class Names:
    """What the rows of a lane's tables are called.

    Attributes:
        services, endpoints, classes: names by row.
    """

    services: Sequence[str]
    endpoints: Sequence[str]
    classes: Sequence[str]

    def service(self, row: int) -> str:
        """A service by its row; that of no service is the load balancer."""
        return self.services[row] if row >= 0 else LOAD_BALANCER


def span_table(spans: np.ndarray, names: Names) -> pa.Table:
    """Spans with names for rows: one row a span, times in seconds of the lane's clock.

    Args:
        spans: SPAN records, shape (n,).
    """
    return pa.table(
        {
            "trace_id": pa.array(spans["trace"], pa.uint64()),
            "span_id": pa.array(spans["span"], pa.uint64()),
            "parent_id": pa.array(spans["parent"], pa.uint64(), mask=spans["parent"] == 0),
            "kind": pa.array([KINDS[int(kind)] for kind in spans["kind"]], pa.string()),
            "request_class": pa.array([names.classes[int(row)] for row in spans["request_class"]], pa.string()),
            "caller": pa.array([names.service(int(row)) for row in spans["caller"]], pa.string()),
            "service": pa.array([names.service(int(row)) for row in spans["service"]], pa.string()),
            "endpoint": pa.array([names.endpoints[int(row)] for row in spans["endpoint"]], pa.string()),
            "pod": pa.array(spans["pod"], pa.int32(), mask=spans["pod"] < 0),
            "attempt": pa.array(spans["attempt"], pa.int32(), mask=spans["attempt"] < 0),
            "answered": pa.array(spans["answered"] == 1, pa.bool_()),
            "start_s": pa.array(spans["start_s"], pa.float64()),
            "end_s": pa.array(spans["end_s"], pa.float64()),
        }
    )


def write_parquet(path: Path, spans: np.ndarray, names: Names) -> None:
    """Writes spans as one Parquet file; columns as of `span_table`."""
    pq.write_table(span_table(spans, names), path)


def write_otlp_json(path: Path, spans: np.ndarray, names: Names, epoch_s: float = 0.0) -> None:
    """Writes spans as one OTLP/JSON document, a resource for each service.

    Args:
        path: of the file.
        spans: SPAN records, shape (n,).
        names: of the rows that they speak of.
        epoch_s: Unix time at which the lane's clock was 0 [s].
    """
    resources = [
        {
            "resource": {"attributes": [_attribute("service.name", names.service(int(row)))]},
            "scopeSpans": [
                {
                    "scope": {"name": "devops-sim"},
                    "spans": [_otlp_span(span, names, epoch_s) for span in spans[spans["caller"] == row]],
                }
            ],
        }
        for row in np.unique(spans["caller"])
    ]
    path.write_text(json.dumps({"resourceSpans": resources}, allow_nan=False), encoding="utf-8")


def _otlp_span(span: np.void, names: Names, epoch_s: float) -> dict[str, object]:
    kind = int(span["kind"])
    endpoint, service = names.endpoints[int(span["endpoint"])], names.service(int(span["service"]))
    title = {
        REQUEST_SPAN: names.classes[int(span["request_class"])],
        VISIT_SPAN: endpoint,
        ATTEMPT_SPAN: f"{service}/{endpoint}",
    }.get(kind, KINDS[kind])
    attributes = [
        _attribute("devops_sim.kind", KINDS[kind]),
        _attribute("devops_sim.request_class", names.classes[int(span["request_class"])]),
        _attribute("devops_sim.endpoint", endpoint),
    ]
    if span["pod"] >= 0:
        attributes.append(_attribute("k8s.pod.name", f"{service}-{int(span['pod'])}"))
    if span["attempt"] >= 0:
        attributes.append({"key": "http.request.resend_count", "value": {"intValue": str(int(span["attempt"]))}})
    document: dict[str, object] = {
        "traceId": f"{int(span['trace']):032x}",
        "spanId": f"{int(span['span']):016x}",
        "name": title,
        "kind": _OTEL_KINDS.get(kind, _INTERNAL),
        "startTimeUnixNano": _nanoseconds(epoch_s, float(span["start_s"])),
        "endTimeUnixNano": _nanoseconds(epoch_s, float(span["end_s"])),
        "attributes": attributes,
        "status": {"code": _OK if span["answered"] else _ERROR},
    }
    if span["parent"] != 0:
        document["parentSpanId"] = f"{int(span['parent']):016x}"
    return document


def _attribute(key: str, text: str) -> dict[str, object]:
    return {"key": key, "value": {"stringValue": text}}


def _nanoseconds(epoch_s: float, time_s: float) -> str:
    return str(round(epoch_s) * 1_000_000_000 + round((time_s + epoch_s - round(epoch_s)) * 1e9))
