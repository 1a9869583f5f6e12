"""The fluid engine: per tick flows, queues and analytic waiting times instead of single requests."""

from __future__ import annotations

from sim_core.assembly import phase_of
from sim_core.compiled import glue, kernel
from sim_core.dataplane.latency import book_latency, moved_in_ticks_of, take_latency
from sim_core.dataplane.services.fluid import LEAST, begin_tick, compose, serve_service, spread

begin_components = phase_of("fluid", "begin")
before_services = phase_of("fluid", "before")
serve_components = phase_of("fluid", "serve")


@glue
def serve(world):
    """The data plane for one tick: requests arrive, flow down the graph of services, and are accounted.

    Components work on what the services pass on in this tick; their sojourn times hold the workers of the next. A call
    that had to be retried is answered late: it counts as valid and not as good.
    """
    begin_tick(world)
    before_services(world)
    n_classes = len(world.classes)
    for k in range(n_classes):
        flow, arrivals = world.endpoint_flows[world.classes[k].endpoint], world.arrivals[k]
        flow.flow = flow.passed_on = arrivals.requests
        flow.expected = flow.passed_on_expected = arrivals.expected
        spread(world, world.classes[k].endpoint)
    for position in range(len(world.order)):
        i = world.order[position]
        serve_service(world, i)
        service = world.services[i]
        for e in range(service.endpoints_first, service.endpoints_first + service.n_endpoints):
            spread(world, e)
    serve_components(world)
    for back in range(len(world.endpoint_order)):
        compose(world, world.endpoint_order[len(world.endpoint_order) - 1 - back])
    for k in range(n_classes):
        request_class = world.classes[k]
        account_requests(
            world.lane, world.state.account, request_class, world.arrivals[k].requests,
            world.endpoint_flows[request_class.endpoint], world.class_flows[k], world.class_windows[k],
            world.latency[k].requests,
        )  # fmt: skip


@kernel
def account_requests(lane, account, request_class, requests, flow, booked, window, histogram):
    """Books a tick's requests of a class: good within the SLO's threshold, failed, and by latency."""
    answered = requests * flow.clean_share
    failed = requests * (1.0 - flow.answered_share)
    good, good_own = 0.0, 0.0
    if answered < LEAST:
        answered = 0.0
    else:
        moved = moved_in_ticks_of(lane.tick_s)
        take_latency(booked, flow, lane.latency_threshold_s, request_class.latency_threshold_s, moved)
        good, good_own = answered * booked.within, answered * booked.within_own
        if good < LEAST:
            good = 0.0
        if good_own < LEAST:
            good_own = 0.0
        if lane.keeps_latencies:
            book_latency(histogram, booked, flow, answered)
    mean = flow.mean_s
    window.requests += requests
    window.failed += failed
    window.good += good
    window.good_own += good_own
    window.latency_weight += answered
    window.latency_s += answered * mean
    window.latency_s2 += answered * (flow.variance_s2 + mean * mean)
    account.requests += requests
    account.good += good
