"""What sampled requests leave behind: spans, in a table of limited length that Python empties between ticks."""

from __future__ import annotations

from sim_core.compiled import kernel
from sim_core.dataplane.requests.records import NONE, call_at, frame_at, span_at, station_at, step_at

# SPAN.kind beyond the kinds of steps
REQUEST_SPAN, ATTEMPT_SPAN, VISIT_SPAN = 100, 101, 102
FAILED_SPAN, ANSWERED_SPAN = 0, 1


@kernel
def _new_span(engine):
    """The row of a new span, or NONE where the table is full: that is counted."""
    if engine.n_spans >= engine.room_spans:
        engine.lost_spans += 1
        return NONE
    engine.n_spans += 1
    return engine.n_spans - 1


@kernel
def _serial(engine, index):
    return station_at(engine.stations, index).serial if index != NONE else NONE


@kernel
def note_attempt(engine, thread, answered):
    """An attempt as its caller saw it."""
    row = _new_span(engine)
    if row == NONE:
        return
    frame = frame_at(engine.frames, thread)
    span = span_at(engine.spans, row)
    call = call_at(engine.the_calls, frame.out_call)
    engine.next_span += 1
    span.trace, span.span, span.parent = frame.trace, engine.next_span, frame.span
    span.service, span.endpoint = call.service, call.endpoint
    span.pod = _serial(engine, frame.out_station)
    span.call, span.attempt = frame.out_call, frame.out_attempt
    span.kind = ATTEMPT_SPAN
    span.outcome = ANSWERED_SPAN if answered else FAILED_SPAN
    span.request_class = frame.request_class
    span.start_s, span.end_s = frame.attempt_s, engine.now_s


@kernel
def note_visit(engine, thread, kind, answered):
    """A call as its callee saw it, or a whole request."""
    row = _new_span(engine)
    if row == NONE:
        return
    frame = frame_at(engine.frames, thread)
    span = span_at(engine.spans, row)
    span.trace, span.span, span.parent = frame.trace, frame.span, frame.parent_span
    span.service, span.pod = frame.service, _serial(engine, frame.station)
    span.endpoint = step_at(engine.the_steps, frame.first).endpoint
    span.call, span.attempt = frame.call, NONE
    span.kind = kind
    span.outcome = ANSWERED_SPAN if answered else FAILED_SPAN
    span.request_class = frame.request_class
    span.start_s, span.end_s = frame.started_s, engine.now_s


@kernel
def note_step(engine, thread, answered):
    """A step that is over."""
    frame = frame_at(engine.frames, thread)
    step = step_at(engine.the_steps, frame.pc)
    row = _new_span(engine)
    if row == NONE:
        return
    span = span_at(engine.spans, row)
    engine.next_span += 1
    span.trace, span.span, span.parent = frame.trace, engine.next_span, frame.span
    span.service, span.pod = frame.service, _serial(engine, frame.station)
    span.endpoint = step.endpoint
    span.call, span.attempt = NONE, NONE
    span.kind = step.kind
    span.outcome = ANSWERED_SPAN if answered else FAILED_SPAN
    span.request_class = frame.request_class
    span.start_s, span.end_s = frame.step_s, engine.now_s
