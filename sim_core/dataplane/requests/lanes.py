"""The engines of a batch of lanes, as Python holds them."""

from __future__ import annotations

import weakref

import numpy as np

from sim_core.compiled import kernel
from sim_core.dataplane.requests.begin import end_engine
from sim_core.dataplane.requests.records import ENGINE, SPAN, span_at


@kernel
def _end_engines(engines):
    for lane in range(len(engines)):
        end_engine(engines[lane])


@kernel
def _take_spans(engine, spans):
    for row in range(len(spans)):
        spans[row] = span_at(engine.spans, row)
    engine.n_spans = 0


class RequestEngines:
    """One engine a lane. They own memory outside of the records, which is given back with this object: never copy them.

    Args:
        n_lanes: how many.

    Attributes:
        records: ENGINE records, shape (n_lanes,); `begin_engine` and `serve_requests` work on one each.
    """

    def __init__(self, n_lanes: int):
        self.records = np.zeros(n_lanes, dtype=ENGINE)
        self._end = weakref.finalize(self, _end_engines, self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __reduce__(self) -> tuple:
        raise TypeError("request engines hold memory of this process and cannot be copied or pickled")

    def take_spans(self, lane: int) -> np.ndarray:
        """The spans of sampled requests since the last call, SPAN records, in the order in which they ended."""
        spans = np.zeros(int(self.records[lane]["n_spans"]), dtype=SPAN)
        _take_spans(self.records[lane], spans)
        return spans
