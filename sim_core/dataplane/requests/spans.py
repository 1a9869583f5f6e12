"""What sampled requests leave behind: spans, in a table of limited length that Python empties between ticks."""

from __future__ import annotations

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.requests.memory import grow
from sim_core.dataplane.requests.records import NONE, SPAN, call_at, class_at, frame_at, span_at, station_at, step_at
from sim_core.dataplane.services.records import CALL_STEP, PARALLEL

_SPAN_BYTES = SPAN.itemsize
_FIRST_SPANS = 256

# SPAN.kind beyond the kinds of steps
REQUEST_SPAN, ATTEMPT_SPAN, VISIT_SPAN = 100, 101, 102


@kernel
def _new_span(engine):
    """The row of a new span, or NONE where the table is as long as it may be: that is counted."""
    if engine.n_spans >= engine.room_spans:
        engine.lost_spans += 1
        return NONE
    if engine.n_spans == engine.n_span_rows:
        rows = min(2 * engine.n_span_rows + _FIRST_SPANS, engine.room_spans)
        engine.spans = grow(engine.spans, engine.n_span_rows * _SPAN_BYTES, rows * _SPAN_BYTES)
        engine.n_span_rows = rows
    engine.n_spans += 1
    return engine.n_spans - 1


@kernel
def _serial(engine, index):
    return station_at(engine.stations, index).serial if index != NONE else np.int64(NONE)


@kernel
def _fill(engine, span, frame, kind, answered, start_s):
    """What every span says."""
    span.trace, span.parent = frame.trace, frame.span
    span.caller, span.service, span.pod = frame.service, frame.service, _serial(engine, frame.station)
    span.attempt = NONE
    span.kind = kind
    span.answered = answered
    span.request_class = frame.request_class
    span.start_s, span.end_s = start_s, engine.now_s


@kernel
def note_attempt(engine, thread, answered):
    """An attempt as its caller saw it."""
    row = _new_span(engine)
    if row == NONE:
        return
    frame, span = frame_at(engine.frames, thread), span_at(engine.spans, row)
    call = call_at(engine.the_calls, frame.out_call)
    _fill(engine, span, frame, np.int64(ATTEMPT_SPAN), np.int64(answered), frame.attempt_s)
    span.span = frame.out_span
    span.service, span.endpoint, span.pod = call.service, call.endpoint, _serial(engine, frame.out_station)
    span.attempt = frame.out_attempt


@kernel
def note_visit(engine, thread, kind, answered):
    """A call as its callee saw it, or a whole request."""
    row = _new_span(engine)
    if row == NONE:
        return
    frame, span = frame_at(engine.frames, thread), span_at(engine.spans, row)
    _fill(engine, span, frame, np.int64(kind), np.int64(answered), frame.started_s)
    span.span, span.parent = frame.span, frame.parent_span
    if frame.call == NONE:
        span.endpoint = class_at(engine.the_classes, frame.request_class).endpoint
    else:
        span.endpoint = call_at(engine.the_calls, frame.call).endpoint


@kernel
def note_step(engine, thread, answered):
    """A step that is over. Calls and parallel branches leave spans of their own."""
    frame = frame_at(engine.frames, thread)
    kind = step_at(engine.the_steps, frame.pc).kind
    if kind == CALL_STEP or kind == PARALLEL:  # noqa: SIM109  (as kernels of kinds do)
        return
    row = _new_span(engine)
    if row == NONE:
        return
    span = span_at(engine.spans, row)
    _fill(engine, span, frame, np.int64(kind), np.int64(answered), frame.step_s)
    engine.next_span += 1
    span.span = engine.next_span
    span.endpoint = step_at(engine.the_steps, frame.pc).endpoint
