"""Lines of the fluid engine, those for databases, pools and caches: held to theory on the wait alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_core.compiled import kernel
from sim_core.dataplane.grid import LAST, MOST, cell_of, edge_of
from sim_core.dataplane.known import known_stations
from sim_core.dataplane.line import LINE, is_as_before, rest, serve_line
from sim_core.theory import erlang_c, mg1_mean_wait_s, mmc_mean_wait_s, mmck_blocking
from tests.handmade import row
from tests.test_stations import exact_waits_s

KNOWN = known_stations()["known_points"]
SERVICE_S = 0.025
LARGE = 1e5  # room


@kernel
def _serve_long(known_points, line, calls, groups, servers, room, service_s, scv, tick_s, ticks):
    for _ in range(ticks):
        serve_line(known_points, line, calls, groups, servers, room, service_s, scv, tick_s)


def settled(
    utilization: float,
    servers: float = 1.0,
    scv: float = 1.0,
    room: float = LARGE,
    groups: float = 1.0,
    ticks: int = 30_000,
) -> Any:
    line = row(LINE)
    calls = utilization * servers * groups / SERVICE_S
    _serve_long(KNOWN, line, calls, groups, servers, room, SERVICE_S, scv, 1.0, ticks)
    return line


def played(loads: list[float], servers: float = 1.0, room: float = LARGE) -> list[dict[str, float]]:
    """What a line says tick by tick, under loads over what it can serve."""
    line, found = row(LINE), []
    for utilization in loads:
        serve_line(KNOWN, line, utilization * servers / SERVICE_S, 1.0, servers, room, SERVICE_S, 1.0, 1.0)
        found.append({name: float(line[name]) for name in ("open", "busy", "wait_s", "wait_variance_s2")})
    return found


@pytest.mark.parametrize("servers", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("utilization", [0.1, 0.5, 0.8, 0.95, 0.99])
def test_servers_wait_as_erlang_c_says(utilization: float, servers: int):
    """The wait alone, within 1.5 % or a thousandth of a service (grid points are joined by lines); the calls
    there by Little's law."""
    line = settled(utilization, float(servers))
    rate = utilization * servers / SERVICE_S
    theory_s = mmc_mean_wait_s(rate, 1.0 / SERVICE_S, servers)
    assert line.wait_s == pytest.approx(theory_s, rel=0.015, abs=1e-3 * SERVICE_S)
    assert line.waits == pytest.approx(erlang_c(servers, utilization * servers), rel=0.02, abs=1e-3)
    assert line.open == pytest.approx(rate * (line.wait_s + SERVICE_S), rel=0.01)
    assert line.busy == pytest.approx(utilization, rel=1e-4)


@pytest.mark.parametrize("scv", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("utilization", [0.3, 0.7, 0.95])
def test_one_server_waits_as_pollaczek_and_khinchine_say(utilization: float, scv: float):
    theory_s = mg1_mean_wait_s(utilization / SERVICE_S, SERVICE_S, scv)
    assert settled(utilization, scv=scv).wait_s == pytest.approx(theory_s, rel=0.01)


@pytest.mark.parametrize("utilization", [0.5, 0.8, 0.9])
def test_waits_vary_as_those_of_the_m_m_1_queue(utilization: float):
    """Zero with 1 - rho, else exponential; third cumulant of that mixture."""
    mean_s = SERVICE_S / (1.0 - utilization)
    line = settled(utilization)
    assert line.wait_variance_s2 == pytest.approx(utilization * (2.0 - utilization) * mean_s**2, rel=0.02)
    first, second, third = utilization * mean_s, 2.0 * utilization * mean_s**2, 6.0 * utilization * mean_s**3
    assert line.wait_third_s3 == pytest.approx(third - 3.0 * first * second + 2.0 * first**3, rel=0.05)


@pytest.mark.parametrize("utilization", [0.5, 0.9, 1.3])
@pytest.mark.parametrize(("servers", "room"), [(1, 10), (1, 80), (4, 20)])
def test_a_finite_room_lets_no_more_in(utilization: float, servers: int, room: int):
    """M/M/c/K: what is served, within 1 %."""
    line = settled(utilization, float(servers), room=float(room), ticks=3000)
    blocked = mmck_blocking(servers, utilization * servers, room - servers)
    assert line.busy == pytest.approx(utilization * (1.0 - blocked), rel=0.01)
    assert line.open <= room


def test_groups_are_lines_of_their_own():
    """Three instances of two servers wait as one with a third of the calls, and hold three times as many."""
    one, three = settled(0.8, 2.0), settled(0.8, 2.0, groups=3.0)
    for name in ("wait_s", "wait_variance_s2", "waits", "busy"):
        assert three[name] == pytest.approx(one[name], rel=1e-9)
    assert three.open == pytest.approx(3.0 * one.open, rel=1e-9)


def test_half_a_server_is_one_at_half_the_speed():
    line = settled(0.7, 0.5, ticks=3000)
    assert line.wait_s == pytest.approx(mg1_mean_wait_s(0.7 / (2 * SERVICE_S), 2 * SERVICE_S, 1.0), rel=0.01)


@pytest.mark.parametrize("utilization", [0.8, 0.95])
def test_an_empty_line_fills_as_fast_as_the_equations_of_its_states_say(utilization: float):
    """The wait of the first second's calls within a third, then within 12 %, second by second."""
    waits = np.array([tick["wait_s"] for tick in played([utilization] * 40)])
    exact = exact_waits_s(utilization / SERVICE_S, 40)
    assert waits[0] == pytest.approx(exact[0], rel=0.33)
    assert waits[1:] == pytest.approx(exact[1:], rel=0.12)


def test_what_comes_too_much_stays_and_drains_as_fast_as_it_can():
    """Three seconds at five times the load leave 480 calls; then half of what one server can serve comes."""
    ticks = played([5.0] * 3 + [0.5] * 30)
    opens = [tick["open"] for tick in ticks]
    assert opens[:3] == pytest.approx([160.0, 320.0, 480.0], rel=0.02)
    assert opens[3:20] == pytest.approx([480.0 - 20.0 * (k + 1) for k in range(17)], abs=4.0)
    assert all(tick["busy"] == pytest.approx(1.0, abs=0.02) for tick in ticks[1:20])
    assert ticks[-1]["wait_s"] == pytest.approx(SERVICE_S, rel=0.02)  # settled: rho / (1 - rho)


def test_a_backlog_is_spread_by_what_came_and_went():
    """At one and a half times the load, 30 s: variance 30 s x (60 + 40)/s x S^2 for the calls in front, and their service
    times; not the square of the wait, as of a line at rest."""
    tick = played([1.5] * 30)[-1]
    in_front = tick["wait_s"] / SERVICE_S
    spread = (30 * (60.0 + 40.0) + in_front) * SERVICE_S**2
    assert tick["wait_variance_s2"] == pytest.approx(spread, rel=0.15)
    assert tick["wait_variance_s2"] < 0.1 * tick["wait_s"] ** 2


@given(
    loads=st.lists(st.floats(0.0, 60.0), min_size=1, max_size=12),
    servers=st.floats(0.01, 40.0),
    room=st.floats(0.0, 1e7),
    scv=st.floats(0.0, 16.0),
)
def test_no_line_makes_calls_up_or_has_a_number_out_of_range(
    loads: list[float], servers: float, room: float, scv: float
):
    """What is there at the end is no more than what was there and came, less what so many servers do that work at all."""
    line = row(LINE)
    for utilization in loads:
        before, calls = float(line.open), utilization * servers / SERVICE_S
        serve_line(KNOWN, line, calls, 1.0, servers, room, SERVICE_S, scv, 1.0)
        values = [float(line[name]) for name in ("open", "busy", "waits", "wait_s", "wait_variance_s2")]
        assert all(math.isfinite(v) and v >= 0.0 for v in values), values
        assert math.isfinite(line.wait_third_s3)
        assert line.busy <= 1.0 and line.waits <= 1.0 + 1e-9
        capacity = servers / SERVICE_S
        assert line.open <= min(before + calls, max(room, math.ceil(servers) + 1.0)) * (1 + 1e-9) + 1e-9
        assert line.open >= before - capacity - 1e-6 * (1.0 + capacity)


def test_nobody_and_nothing():
    line = row(LINE, open=1e-12, wait_s=9.0, last_wait_s=9.0, busy=1.0)
    serve_line(KNOWN, line, 0.0, 1.0, 1.0, 10.0, SERVICE_S, 1.0, 1.0)
    assert (line.open, line.busy, line.wait_s, line.last_wait_s) == (0.0, 0.0, 0.0, 0.0)
    line = settled(0.5, ticks=50)
    rest(line)
    assert (line.open, line.busy, line.wait_s, line.wait_variance_s2) == (0.0, 0.0, 0.0, 0.0)


def test_a_line_that_rests_minds_no_change_too_small_to_see():
    """The busier, the more it minds; while it moves, any."""
    line = settled(0.5, ticks=50)
    assert is_as_before(line, 20.0 * (1.0 + 1.6e-3), 20.0)
    assert not is_as_before(line, 20.0 * (1.0 + 3e-3), 20.0)
    busy = settled(0.9, ticks=5000)
    assert not is_as_before(busy, 36.0 * (1.0 + 1.6e-3), 36.0)
    line.moving = 1e-5
    assert not is_as_before(line, 20.0, 20.0)


def test_cells_of_the_grid_hold_the_utilizations_between_their_edges():
    for cell in range(LAST + 1):
        assert edge_of(cell) < edge_of(cell + 1)
        assert cell_of(0.5 * (edge_of(cell) + edge_of(cell + 1))) == cell
    assert edge_of(0) == 0.0
    assert edge_of(LAST) <= MOST < edge_of(LAST + 1)
    assert edge_of(cell_of(1.0)) == 1.0
