"""Worlds of any shape: lanes of unlike profiles in one batch, what a lane costs, its clocks, and flows through graphs."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit

from sim_core.accounting import lane_sums, service_sums
from sim_core.dataplane.services.graph import resolve
from sim_core.dataplane.services.rows import pod_rows
from sim_core.profile import Profile, bundled_profiles, load_profile
from sim_core.simulation import Worlds, _begin_lanes, advance_lanes, cut, simulate
from sim_core.tables import rows
from sim_core.workload import Trace
from sim_core.world import LAYOUT, Lane, Scaler, scale_to_replicas
from tests.conftest import burst, flat, in_step, path_of, plan_of, run_worlds, spiky_day
from tests.generated import PLAIN_ONLY, large_profile

EXAMPLES = Path(__file__).parents[1] / "experiments" / "profiles"
GRAPHS = ("front", "diamond", "boutique")


def example(name: str) -> Profile:
    return load_profile(EXAMPLES / f"{name}.yaml")


def calm(profile: Profile) -> Profile:
    """The profile where no call is tried twice and nobody gives up; connections abound."""
    changes: dict[str, Any] = {}
    for service in profile.services:
        changes |= {
            f"services.{service.name}.client.max_retries": 0,
            f"services.{service.name}.client.timeout_seconds": 300.0,
            f"services.{service.name}.container.queue_limit": 100_000,
        }
    if profile.database is not None:
        changes["database.max_connections"] = 10_000
    return profile.with_overrides(changes)


def unlike_lanes() -> list[Lane]:
    """Lanes of one to thirty services, with and without stores, under every kind of scaler."""
    profiles = [load_profile(name) for name in bundled_profiles()]
    profiles += [example(name) for name in GRAPHS] + [large_profile(30, 20)]
    lanes = []
    for k, profile in enumerate(profiles):
        trace = scale_to_replicas(spiky_day(1.0), profile, 8.0)
        plan = np.arange(40)[:, None] % 5 + np.arange(1, len(profile.services) + 1) % 9 + 1
        for seed, scaler in enumerate((Scaler.hpa(), Scaler.static(3), Scaler.schedule(plan))):
            lanes.append(Lane(profile, trace, 10 * k + seed, 3600.0 * (seed + k), scaler))
    return lanes


# --- One batch for every shape


def test_lanes_of_unlike_shapes_walk_the_same_path_alone_and_in_any_batch():
    """Bit for bit, all state of all tables, whoever stands before and behind; figures are those of the lane alone."""
    lanes = unlike_lanes()
    assert len({len(lane.profile.services) for lane in lanes}) >= 4
    alone = [run_worlds([lane], 600.0) for lane in lanes]
    for order in (np.arange(len(lanes)), np.random.default_rng(0).permutation(len(lanes)), [12, 0, 20, 0]):
        batch = run_worlds([lanes[k] for k in order], 600.0)
        services, classes = batch.services(), batch.classes()
        for place, k in enumerate(order):
            assert path_of(batch, place) == path_of(alone[k], 0), f"lane {k} at place {place}"
            for found, single in ((services, alone[k].services()), (classes, alone[k].classes())):
                own = found[found["lane"] == place].drop(columns="lane").reset_index(drop=True)
                np.testing.assert_array_equal(own, single.drop(columns="lane"))
        np.testing.assert_array_equal(
            batch.indicators(), np.concatenate([alone[k].indicators().to_numpy() for k in order])
        )


def test_a_timeline_of_unlike_lanes_has_gaps_where_a_lane_has_no_such_service():
    """Each lane's series are those that it has alone; a service that is not there is not a number."""
    lanes = unlike_lanes()[1::3]
    together = simulate(lanes, 300.0, 60.0)
    widest = max(len(lane.profile.services) for lane in lanes)
    for place, lane in enumerate(lanes):
        alone, n = simulate([lane], 300.0, 60.0), len(lane.profile.services)
        for name, values in together.timeline.items():
            own = values if name == "time_s" else values[place]
            np.testing.assert_array_equal(own, alone.timeline[name].reshape(own.shape), err_msg=name)
        for name, values in together.service_timeline.items():
            assert values.shape[1] == widest
            np.testing.assert_array_equal(values[place, :n], alone.service_timeline[name][0], err_msg=name)
            missing = values[place, n:]
            assert (missing == 0.0).all() if name.startswith("replicas") else np.isnan(missing).all()


def test_another_shape_is_played_by_the_kernels_that_are_there(production):
    """No kernel is compiled for a number of services, pods, steps or classes."""
    run_worlds([Lane(production, flat(100.0), 1)], 60.0)
    before = [len(kernel.signatures) for kernel in (advance_lanes, _begin_lanes)]
    assert before == [1, 1]
    run_worlds(unlike_lanes(), 60.0)
    assert [len(kernel.signatures) for kernel in (advance_lanes, _begin_lanes)] == before


def test_classes_of_requests_add_up_to_the_lane():
    worlds = run_worlds([Lane(example(name), flat(30.0), 2, scaler=Scaler.static(6)) for name in GRAPHS], 400.0)
    whole, classes = worlds.indicators(), worlds.classes().groupby("lane")
    for lane, rows_of in classes:
        requests = rows_of["requests"].to_numpy()
        assert list(rows_of["request_class"]) == [kind.name for kind in resolve(worlds.lanes[lane].profile).classes]
        assert requests.sum() == worlds.state["account"]["requests"][lane]
        assert whole["error_ratio"][lane] == pytest.approx((rows_of["error_ratio"] @ requests) / requests.sum())
        # None of these keeps its own threshold less often than the whole's, which is no longer.
        assert whole["slo_attainment"][lane] <= (rows_of["slo_attainment"] @ requests) / requests.sum() + 1e-12


def test_a_lane_may_be_reset_to_a_beginning_that_is_bit_for_bit_the_first():
    """In a batch of unlike lanes, whose other lanes go on as if nothing had happened."""
    lanes = unlike_lanes()[::2]
    worlds, fresh = run_worlds(lanes, 200.0), Worlds(lanes)
    reset = np.array([1, 4])
    worlds.reset(reset)
    for lane in reset:
        assert path_of(worlds, lane) == path_of(fresh, lane)
    worlds.advance(100)
    fresh.advance(100)
    longer = run_worlds(lanes, 300.0)
    for lane in range(len(lanes)):
        assert path_of(worlds, lane) == path_of(fresh if lane in reset else longer, lane), lane


# --- What a lane costs


def bytes_of(profile: Profile) -> int:
    worlds = Worlds([Lane(profile, flat(1.0), 1)])
    return LAYOUT.bytes_of(worlds.params[0])


def test_a_lane_costs_memory_for_what_it_has():
    """Production below 40 kB, thirty services of two hundred pods below 2 MB; every further pod one row."""
    assert bytes_of(load_profile("production")) < 40_000
    assert bytes_of(large_profile(30, 200)) < 2_000_000
    more = bytes_of(large_profile(30, 240)) - bytes_of(large_profile(30, 200))
    pod = LAYOUT.tables["pods"].dtype.itemsize
    assert more == 30 * (pod_rows(240) - pod_rows(200)) * pod


def test_the_tables_of_a_batch_hold_its_lanes_and_no_more():
    lanes = unlike_lanes()
    worlds = Worlds(lanes)
    held = (
        sum(getattr(worlds.tables, name).nbytes for name in LAYOUT.tables) + worlds.params.nbytes + worlds.state.nbytes
    )
    assert held == sum(LAYOUT.bytes_of(record) for record in worlds.params)


def test_thirty_services_of_two_thousand_pods_load_run_and_scale():
    """A share of a service's rows is used at any time; here all of them at once, and most of them again after a drop."""
    profile = large_profile(30, 2000).with_overrides({"database.pool_size_per_pod": 1})
    plan = plan_of((2000, 60.0), (2, 60.0)).replicas_by_sync
    lane = Lane(profile, flat(100.0), 1, scaler=Scaler.schedule(np.repeat(plan, 30, axis=1)))
    worlds = in_step([lane])
    assert LAYOUT.bytes_of(worlds.params[0]) < 20_000_000
    worlds.advance(55)
    assert (worlds.of(0, "service_states")["n_ready"] == 2000).all()
    worlds.advance(60)
    assert (worlds.of(0, "service_states")["n_ready"] == 2).all()
    assert worlds.indicators()["availability"][0] == 1.0
    assert worlds.services()["replica_hours"].to_numpy() == pytest.approx(worlds.services()["replica_hours"][0])


# --- Views


@njit
def _view_and_write(array, first, n):
    view = rows(array, first, n)
    view[0] += 1.0
    return view


@njit
def _write_through_a_world(tables, lane, service):
    world = cut(tables, lane)
    world.service_states[service].desired_replicas = 77
    world.state.n_syncs = 5
    return len(world.services), len(world.pods), world.services[service].index


def test_a_view_owns_nothing_and_sees_the_same_memory():
    array = np.arange(12.0)
    view = _view_and_write(array, 3, 4)
    assert array[3] == 4.0  # written in place
    assert not view.flags.owndata and view.base is None
    assert view.__array_interface__["data"][0] == array.__array_interface__["data"][0] + 3 * array.itemsize
    view[1] = 99.0
    assert array[4] == 99.0
    np.testing.assert_array_equal(_view_and_write(array[::2], 1, 3), [3.0, 99.0, 6.0])  # with the array's own stride


def test_a_world_is_a_view_of_its_lanes_rows():
    """Writing through lane 1 changes rows of lane 1 and no others."""
    worlds = Worlds([Lane(profile, flat(10.0), 1) for profile in (load_profile("production"), example("boutique"))])
    before = [path_of(worlds, lane) for lane in range(2)]
    assert _write_through_a_world(worlds.tables, 1, 4) == (10, worlds.params["n_pods"][1], 4)
    assert worlds.of(1, "service_states")["desired_replicas"][4] == 77
    assert worlds.tables.service_states["desired_replicas"][1 + 4] == 77
    assert worlds.state["n_syncs"][1] == 5
    assert path_of(worlds, 0) == before[0]
    assert path_of(worlds, 1) != before[1]


# --- Clocks


def test_every_lane_is_scraped_and_synced_at_moments_of_its_own(production):
    """Even over the period (chi-squared below 36.1, which 14 degrees of freedom exceed in 1 of 1,000 cases), decided by
    the seed alone, and neither clock tells the other."""
    worlds = Worlds([Lane(production, flat(10.0), seed) for seed in range(600)])
    clocks = worlds.params["scrape_phase_ticks"] - 1, worlds.params["sync_phase_ticks"]
    for phase in clocks:
        counts = np.bincount(phase, minlength=15)
        assert len(counts) == 15
        assert ((counts - 40.0) ** 2 / 40.0).sum() < 36.1
    apart = np.bincount((clocks[0] - clocks[1]) % 15, minlength=15)
    assert ((apart - 40.0) ** 2 / 40.0).sum() < 36.1
    again = Worlds([Lane(production, flat(99.0), seed, scaler=Scaler.static(2)) for seed in (7, 3)])
    for name in ("scrape_phase_ticks", "sync_phase_ticks"):
        assert again.params[name].tolist() == worlds.params[name][[7, 3]].tolist()


def test_a_sync_comes_at_its_own_moment_and_then_every_period(production):
    worlds = Worlds([Lane(production, flat(10.0), seed, scaler=Scaler.external()) for seed in range(12)])
    asked = np.full((12, 1), 20)
    worlds.request_replicas(asked)
    phase = worlds.params["sync_phase_ticks"]
    assert len(set(phase)) > 4
    for second in range(1, 47):
        worlds.advance(1)
        active = worlds.tables.service_states["n_active"]
        np.testing.assert_array_equal(active == 20, second > phase)
        np.testing.assert_array_equal(worlds.state["n_syncs"], np.maximum(0, (second - 1 - phase) // 15 + 1))


def test_a_longer_delay_of_telemetry_is_felt(production):
    """Five and fifteen seconds: locked to the syncs every sync would see the same scrape under both, and the HPA would
    decide the same; by clocks of their own two of three lanes see a scrape later."""
    profiles = [production.with_overrides({"telemetry.delay_seconds": delay}) for delay in (5.0, 15.0)]
    lanes = [[Lane(profile, spiky_day(300.0), seed, 30_000.0) for seed in range(12)] for profile in profiles]
    locked = [in_step(of) for of in lanes]
    for worlds in locked:
        worlds.advance(3600)
    np.testing.assert_array_equal(locked[0].indicators(), locked[1].indicators())
    short, long = (simulate(of, 3600.0).indicators["cost_usd"].to_numpy() for of in lanes)
    assert (short != long).mean() >= 0.4
    params = Worlds(lanes[0]).params
    late = (params["sync_phase_ticks"] - params["scrape_phase_ticks"]) % 15  # age of the newest scrape's end at a sync
    np.testing.assert_array_equal((short != long)[(late < 5) | (late == 0)], False)


# --- Flows through a graph


def service(name: str, **endpoints: list[dict[str, Any]]) -> dict[str, Any]:
    """A service of production whose calls cost what the steps of its endpoints say."""
    made = copy.deepcopy(load_profile("production").to_dict()["services"][0]) | {"name": name, "queries": {}}
    made["container"] |= dict.fromkeys(PLAIN_ONLY)
    made["endpoints"] = [{"name": key, "steps": steps} for key, steps in endpoints.items()]
    return made


def graph_of(*services: dict[str, Any], enters: str, **changes: Any) -> Profile:
    document = load_profile("production").to_dict() | {"cache": None, "database": None, "services": list(services)}
    document["requests"] = [{"name": "all", "share": 1, "endpoint": enters}]
    return calm(Profile.from_dict(document | changes))


def call(endpoint: str, **changes: Any) -> dict[str, Any]:
    return {"call": {"endpoint": endpoint, **changes}}


def cpu(seconds: float, **changes: Any) -> dict[str, Any]:
    return {"cpu": {"seconds": seconds, **changes}}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_request_makes_the_calls_that_its_graph_says(name):
    """Nothing is lost between services: calls of each a request are the means of the graph, for the requests of each class
    that came. The last minutes are silent, so that no call is under way any more."""
    profile = calm(example(name))
    worlds = run_worlds([Lane(profile, burst(0.0, 20.0, 0, 1500, 1800), 1, scaler=Scaler.static(10))], 1800.0)
    graph, requests = resolve(profile), worlds.classes()["requests"].to_numpy()
    calls = dict(zip((each.name for each in graph.services), worlds.services()["calls"], strict=True))
    for index, each in enumerate(graph.services):
        expected = sum(requests[k] * calls_a_request(profile, k, index) for k in range(len(requests)))
        assert calls[each.name] == pytest.approx(expected, rel=1e-6), each.name
    if len(requests) == 1:
        np.testing.assert_allclose([calls[each.name] / requests[0] for each in graph.services], graph.visits, rtol=1e-6)


def calls_a_request(profile: Profile, request_class: int, service_index: int) -> float:
    """Calls that a service gets from one request of a class, followed down the rows of the graph."""
    graph = resolve(profile)

    def from_endpoint(row: int) -> float:
        endpoint, total = graph.endpoints[row], 0.0
        for place in range(endpoint.steps_first, endpoint.steps_first + endpoint.n_steps):
            step = graph.steps[place]
            times = step.probability * step.count
            for above in ancestors(place):
                times *= graph.steps[above].probability * graph.steps[above].count
            for made in (each for each in graph.calls if each.step == place):
                total += times * ((made.service == service_index) + from_endpoint(made.endpoint))
        return total

    def ancestors(place: int) -> list[int]:
        above = graph.steps[place].parent
        return [] if above < 0 else [above, *ancestors(above)]

    return from_endpoint(graph.classes[request_class].endpoint)


def test_what_waited_in_a_front_is_called_on_when_the_traffic_has_stopped():
    """A minute of twice what the front can serve, then silence: its queue is worked off, and all of it reaches the
    service behind."""
    profile = graph_of(
        service("front", get=[cpu(0.02), call("back.get")]), service("back", get=[cpu(0.005)]), enters="front.get"
    )
    lane = Lane(profile, burst(0.0, 400.0, 30, 90, 400), 1, scaler=Scaler.static(4))
    worlds = run_worlds([lane], 92.0)
    assert worlds.of(0, "service_flows")["station"]["open"][0] > 1000.0
    worlds.advance(300)
    assert worlds.of(0, "service_flows")["station"]["open"][0] == pytest.approx(0.0, abs=1e-6)
    front, back = service_sums(worlds)["calls"]
    assert front == worlds.state["account"]["requests"][0]
    assert back == pytest.approx(front, rel=1e-6)


@pytest.mark.parametrize(("branches", "mean"), [(2, 1.5), (3, 11 / 6)])
@pytest.mark.parametrize("calls", [False, True])
def test_a_join_waits_for_the_slowest(branches: int, mean: float, calls: bool):
    """The longest of two and of three exponential times with mean 1 is 1.5 and 11/6 on the mean (Clark's formula takes
    the branches as normal: within 5 %), whether the endpoint waits itself or calls services that do."""
    wait = {"wait": {"seconds": 0.1, "scv": 1.0}}
    behind = [service(f"s{k}", get=[cpu(1e-6), wait]) for k in range(branches)] if calls else []
    inside = [[call(f"s{k}.get")] if calls else [wait] for k in range(branches)]
    front = service("front", get=[cpu(1e-6), {"parallel": inside}])
    slo = {"objective": 0.9, "latency_threshold_seconds": 1.0}
    profile = graph_of(front, *behind, enters="front.get", slo=slo)
    worlds = run_worlds([Lane(profile, flat(5.0), 1, scaler=Scaler.static(20))], 300.0)
    assert worlds.indicators()["latency_mean_s"][0] - 0.002 == pytest.approx(0.1 * mean, rel=0.05)


def test_an_endpoint_that_calls_back_is_served_a_tick_later_and_loses_nothing():
    """A.x calls B.y, which calls A.z; A is served before B: what B passes on in a tick reaches A in the next one."""
    a = service("a", x=[cpu(0.004), call("b.y")], z=[cpu(0.002)])
    profile = graph_of(a, service("b", y=[cpu(0.003), call("a.z")]), enters="a.x")
    graph = resolve(profile)
    row = {endpoint.name: place for place, endpoint in enumerate(graph.endpoints)}
    lane = Lane(profile, burst(0.0, 200.0, 30, 200, 300), 1, scaler=Scaler.static(10))
    worlds = Worlds([lane])
    requests, flow, passed_on = [], [], []
    for _ in range(300):
        worlds.advance(1)
        flows = worlds.of(0, "endpoint_flows")[[row["a.x"], row["b.y"], row["a.z"]]]
        requests.append(float(worlds.of(0, "arrivals")["requests"][0]))
        flow.append(flows["flow"])
        passed_on.append(flows["passed_on"])
    (x, y, z), (from_x, from_y, _) = np.array(flow).T, np.array(passed_on).T
    np.testing.assert_array_equal(x, requests)
    assert x.sum() > 30_000
    np.testing.assert_allclose(y, from_x, rtol=1e-12)
    np.testing.assert_allclose(z[1:], from_y[:-1], rtol=1e-12)
    for later, first in ((y, x), (z[1:], x[:-1])):  # but for the calls that are just worked on
        assert (np.abs(np.cumsum(later) - np.cumsum(first)) < 2.0).all()
    calls = service_sums(worlds)["calls"]
    np.testing.assert_allclose(calls, [2 * x.sum(), x.sum()], rtol=1e-9)
    assert lane_sums(worlds)["failed"][0] == 0.0
    idle_s = 0.002 + 0.004 + 0.003 + 0.002
    assert worlds.indicators()["latency_mean_s"][0] == pytest.approx(idle_s, rel=0.01)


def test_calls_back_that_fail_are_counted_in_the_tick_in_which_they_were_offered():
    """A.x calls B.y, which calls A.z, and A refuses most: of each service no more attempts fail in a tick than came."""
    a = service("a", x=[cpu(0.01), call("b.y")], z=[cpu(0.02)])
    profile = graph_of(a, service("b", y=[cpu(0.003), call("a.z")]), enters="a.x")
    profile = profile.with_overrides({"services.a.container.queue_limit": 0, "services.a.container.workers": 1})
    worlds = Worlds([Lane(profile, burst(0.0, 400.0, 30, 200, 300), 1, scaler=Scaler.static(2))])
    calls = failed = np.zeros(2)
    for tick in range(300):
        worlds.advance(1)
        sums = service_sums(worlds)
        offered, lost = sums["calls"] - calls, sums["failed"] - failed
        calls, failed = sums["calls"], sums["failed"]
        assert (lost <= offered * (1 + 1e-9) + 1e-6).all(), tick
    assert failed[0] > 0.5 * calls[0] > 10_000


def test_what_waits_keeps_its_endpoint_whatever_comes_after_it():
    """A burst of calls that go on to the back, then one of calls that do not: the back gets all of the former."""
    front = service("front", get=[cpu(0.02), call("back.get")], ping=[cpu(0.01)])
    document = graph_of(front, service("back", get=[cpu(0.005)]), enters="front.get").to_dict()
    shares = [[1.0, 0.0], [0.0, 1.0]]
    document["requests"] = [
        {"name": name, "shares": shares[k], "endpoint": f"front.{name}"} for k, name in enumerate(("get", "ping"))
    ]
    noon_s, rates = 43_200.0, np.full(86_400 // 5, 0.0)
    rates[int(noon_s - 60) // 5 : int(noon_s + 60) // 5] = 400.0
    lane = Lane(Profile.from_dict(document), Trace("noon", 5.0, rates), 1, noon_s - 100.0, Scaler.static(4))
    worlds = run_worlds([lane], 600.0)
    got, pinged = worlds.classes()["requests"].to_numpy()
    assert min(got, pinged) > 20_000
    front_calls, back_calls = service_sums(worlds)["calls"]
    assert front_calls == pytest.approx(got + pinged, rel=1e-9)
    assert back_calls == pytest.approx(got, rel=1e-6)


def test_a_share_of_requests_follows_the_time_of_day():
    """Two classes, one in the first half of the day and one in the second: each has all the traffic of its half."""
    front = service("front", get=[cpu(0.002)], put=[cpu(0.004)])
    document = graph_of(front, enters="front.get").to_dict()
    document["requests"] = [
        {"name": "morning", "shares": [1.0, 0.0], "endpoint": "front.get"},
        {"name": "evening", "shares": [0.0, 1.0], "endpoint": "front.put"},
    ]
    trace = Trace("day", 600.0, np.full(144, 50.0))
    lane = Lane(Profile.from_dict(document), trace, 1, 43_200.0 - 300.0, Scaler.static(5))
    worlds = run_worlds([lane], 900.0)
    requests = worlds.classes()["requests"].to_numpy()
    for count, seconds in zip(requests, (300.0, 600.0), strict=True):
        assert count == pytest.approx(50.0 * seconds, abs=4.0 * np.sqrt(50.0 * seconds))


# --- A component that does not exist

METER = {
    "__init__": "",
    "profile": '''
        from pydantic import Field
        from sim_core.documents import Number, Problem, Section

        KEY, DESCRIPTION = "meters", "Counters of requests; null: none."


        class Meters(Section):
            """Counters."""

            number: int = Field(ge=1, le=100, description="How many there are [meters].")
            begin: Number = Field(ge=0, le=1000, description="What each has counted before [1].")
            usd_per_hour: Number = Field(ge=0, le=1000, description="Price of one [USD/h].")


        SECTION = Meters


        def broken_rules(profile):
            if profile.meters is not None and profile.meters.number > len(profile.services):
                yield Problem((KEY, "number"), f"must be at most {len(profile.services)}", profile.meters.number)
    ''',
    "records": """
        import numpy as np

        METER = np.dtype([("begin", np.float64), ("usd_per_s", np.float64)], align=True)
        METER_STATE = np.dtype([("before", np.float64), ("served", np.float64), ("ticks", np.float64)], align=True)
    """,
    "rows": """
        import numpy as np
        from made_up_meters.records import METER, METER_STATE
        from sim_core.tables import Table

        TABLES = (Table("meters", "meters", METER), Table("meter_states", "meters", METER_STATE, is_state=True))


        def rows(profile, graph):
            meters = np.zeros(0 if profile.meters is None else profile.meters.number, dtype=METER)
            for row in meters:
                row["begin"], row["usd_per_s"] = profile.meters.begin, profile.meters.usd_per_hour / 3600.0
            return {"meters": meters}
    """,
    "fluid": """
        from sim_core.compiled import phase


        @phase
        def begin(world):
            for m in range(len(world.meters)):
                world.meter_states[m].before = world.meter_states[m].served = world.meters[m].begin


        @phase
        def before(world):
            for m in range(len(world.meters)):
                world.meter_states[m].ticks += 1.0
                world.meter_states[m].before += world.service_windows[m].calls


        @phase
        def serve(world):
            for m in range(len(world.meters)):
                world.meter_states[m].served += world.service_flows[m].load.arrivals
    """,
    "telemetry": """
        import numpy as np
        from sim_core.compiled import phase

        TELEMETRY = [("metered", np.float64)]


        @phase
        def scrape(world):
            total = 0.0
            for m in range(len(world.meters)):
                total += world.meter_states[m].served
            world.state.staged.metered = total
    """,
    "indicators": """
        from sim_core.indicator import Indicator

        INDICATORS = (Indicator("metered_calls", "metered calls", digits=",.0f"),)
        FIXED_COSTS = ("meters",)
    """,
    "accounts": """
        def indicators(worlds):
            from sim_core.accounting import per_lane

            return {"metered_calls": per_lane(worlds, "meters", worlds.tables.meter_states["served"])}


        def usd_per_s(worlds):
            from sim_core.accounting import per_lane

            return {"meters": per_lane(worlds, "meters", worlds.tables.meters["usd_per_s"])}
    """,
}

USES_METERS = """
import json
import sim_core.components

sim_core.components.COMPONENTS += ("made_up_meters",)

import numpy as np
from sim_core.errors import ProfileError
from sim_core.profile import load_profile
from sim_core.simulation import Worlds
from sim_core.workload import Trace
from sim_core.world import LAYOUT, Lane, Scaler

plain = load_profile("experimental")
metered = plain.with_overrides({"meters": {"number": 2, "begin": 5.0, "usd_per_hour": 3.6}})
try:
    plain.with_overrides({"meters": {"number": 3, "begin": -1.0, "usd_per_hour": 3.6, "color": "red"}})
except ProfileError as refused:
    problems = refused.problems
trace = Trace("flat", 60.0, np.full(20, 100.0))
worlds = Worlds([Lane(profile, trace, 1, scaler=Scaler.static(12)) for profile in (plain, metered, plain)])
begun = worlds.of(1, "meter_states")["served"].tolist()
worlds.advance(600)
print(json.dumps({
    "digests_differ": plain.digest != metered.digest,
    "problems": problems,
    "tables": [name for name in LAYOUT.tables if name.startswith("meter")],
    "rows": worlds.params["n_meters"].tolist(),
    "begun": begun,
    "states": {name: worlds.of(1, "meter_states")[name].tolist() for name in ("before", "served", "ticks")},
    "calls": worlds.services()["calls"].tolist(),
    "metered": worlds.telemetry()["metered"].tolist(),
    "indicators": worlds.indicators().to_dict("list"),
}))
"""


@pytest.mark.slow
def test_a_component_is_a_package_and_a_line(tmp_path: Path):
    """Written here, named in the list of components, and nothing else: its section is read and checked with the other
    problems of a profile, its tables stand beside the others, its phases run in their place in the tick, and its telemetry,
    its indicators and its price appear; lanes that have none of it are as they were."""
    package = tmp_path / "made_up_meters"
    package.mkdir()
    for module, text in METER.items():
        (package / f"{module}.py").write_text(textwrap.dedent(text))
    paths = os.pathsep.join([str(tmp_path), str(EXAMPLES.parents[1])])
    environment = os.environ | {"PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(tmp_path / "kernels"), "NUMBA_OPT": "0"}
    done = subprocess.run([sys.executable, "-c", USES_METERS], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["digests_differ"]
    rules = ["meters.begin: must be at least 0", "meters.color: unknown key", "meters.number: must be at most 2"]
    assert len(found["problems"]) == 3
    assert all(problem.startswith(rule) for problem, rule in zip(found["problems"], rules, strict=True))
    assert found["tables"] == ["meters", "meter_states"]
    assert found["rows"] == [0, 2, 0]
    assert found["begun"] == [5.0, 5.0]
    calls = np.array(found["calls"]).reshape(3, 2)
    states = found["states"]
    np.testing.assert_array_equal(calls, calls[:1].repeat(3, axis=0))
    np.testing.assert_allclose(states["served"], 5.0 + calls[1])  # what services were offered in the tick
    assert states["ticks"] == [600.0, 600.0]
    assert all(before > served for before, served in zip(states["before"], states["served"], strict=True))
    assert found["metered"][0] == found["metered"][2] == 0.0 < found["metered"][1] <= sum(states["served"])
    indicators = found["indicators"]
    assert indicators["metered_calls"] == [0.0, pytest.approx(sum(states["served"])), 0.0]
    assert indicators["cost_meters_usd"] == [0.0, pytest.approx(2 * 3.6 / 6.0), 0.0]
    fixed = indicators["cost_fixed_usd"]
    assert [fixed[1] - fixed[0], fixed[2] - fixed[0]] == pytest.approx([1.2, 0.0])
    for name, values in indicators.items():
        if not name.startswith(("cost", "metered")):
            assert values == [values[0]] * 3, name
