"""Stations of balanced pods, piece by piece: their chain, their curve, two choices and several nodes held to their equations,
what is fitted held to stations that nothing was fitted to.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from scipy.stats import binom

from sim_core.compiled import kernel
from sim_core.dataplane import balanced_corrections, fit_balanced
from sim_core.dataplane.balanced import calls_of_nodes, calls_of_two_choices, take_chain
from sim_core.dataplane.curve import calls_for, draw_curve, speed_with, weigh
from sim_core.dataplane.fit import load_of, residual, scenarios
from sim_core.dataplane.one_service import OneService, play
from sim_core.dataplane.services.records import CFS_QUOTA, FIFO, LEAST_OUTSTANDING, POWER_OF_TWO, PROCESSOR_SHARING
from sim_core.dataplane.station import CURVE, POINT


def curve_of(held: float, cores: float = 1.0, workers: int = 16) -> np.void:
    """CURVE with the curve of a pod whose calls are held for so many CPU times."""
    state = np.zeros(1, CURVE)
    draw_curve(load_of(OneService(cores=cores, workers=workers))[0], state[0], held)
    row: np.void = state[0]
    return row


@kernel
def log_weight(state, calls, pods, log_ratio):
    """`weigh` is put into its callers before they are compiled."""
    return weigh(state, calls, pods, log_ratio, 0.0)


def summed(state: np.void, pods: int, busy: float, room: float) -> tuple[float, float, float, float]:
    """Open calls of a pod, blocked share, variance and third cumulant of the chain, one state after the other."""
    logs = [0.0]
    for n in range(1, int(pods * room) + 1):
        logs.append(logs[-1] + math.log(busy / speed_with(state, n / pods)))
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    calls = np.arange(len(weights)) / pods
    mean = float((weights * calls).sum())
    variance, third = (float((weights * (calls - mean) ** k).sum()) for k in (2, 3))
    return mean, float(weights[-1]), variance, third


@pytest.mark.parametrize(("held", "cores", "workers"), [(0.0, 1.0, 16), (0.7, 1.0, 16), (3.0, 0.5, 16), (0.7, 4.0, 3)])
@pytest.mark.parametrize("utilization", [0.3, 0.7, 0.9, 0.99, 1.0, 1.02, 1.3])
@pytest.mark.parametrize(("pods", "queue_limit"), [(1, 6), (2, 64), (5, 0), (20, 64), (80, 2)])
def test_a_chain_of_few_states_has_the_cumulants_of_all(
    held: float, cores: float, workers: int, utilization: float, pods: int, queue_limit: int
):
    """Mean within 1 %, blocked share within 0.1 points, standard deviation within 3 %, skewness within 0.15."""
    state, point = curve_of(held, cores, workers), np.zeros(1, POINT)
    busy, room = utilization * state["speed"][int(state["saturated"])], float(workers + queue_limit)
    mean, blocked, variance, third = summed(state, pods, busy, room)
    take_chain(state, point[0], float(pods), busy, room, 1.0)
    assert point["open"][0] == pytest.approx(mean, rel=0.01)
    assert point["blocked"][0] == pytest.approx(blocked, abs=0.001)
    assert math.sqrt(point["wait_variance_s2"][0]) == pytest.approx(math.sqrt(variance), rel=0.03)
    skewness = point["wait_third_s3"][0] / point["wait_variance_s2"][0] ** 1.5
    assert skewness == pytest.approx(third / variance**1.5, abs=0.15)


@pytest.mark.parametrize("held", [0.0, 0.7, 8.0])
@pytest.mark.parametrize("pods", [1, 3, 50])
def test_weights_of_states_are_products_of_speeds(held: float, pods: int):
    """Their logarithms, summed state by state, within 0.03: 3 % of a weight."""
    state = curve_of(held)
    busy = 0.8 * state["speed"][int(state["saturated"])]
    ratio = math.log(0.8)
    far = int(pods * (state["saturated"] + 3))
    product = sum(math.log(busy / speed_with(state, n / pods)) for n in range(1, far + 1))
    assert log_weight(state, far / pods, float(pods), ratio) - log_weight(
        state, 0.0, float(pods), ratio
    ) == pytest.approx(product, abs=0.03)


@pytest.mark.parametrize(("held", "cores"), [(0.0, 1.0), (0.7, 1.0), (8.0, 1.0), (0.7, 4.0), (3.0, 0.5)])
@pytest.mark.parametrize("utilization", [0.4, 0.8, 0.95])
def test_two_choices_leave_what_their_differential_equations_settle_at(held: float, cores: float, utilization: float):
    """Of very many pods: what two choices add to the calls of equal pods within 4 % or 0.01 calls."""
    state = curve_of(held, cores, 64)
    busy = utilization * state["speed"][int(state["saturated"])]
    equal = calls_for(state, busy)
    levels = int(equal) + 14
    speeds = np.array([speed_with(state, float(k)) for k in range(1, levels + 1)])

    def change(_: float, share: np.ndarray) -> np.ndarray:
        below, above = np.concatenate([[1.0], share[:-1]]), np.concatenate([share[1:], [0.0]])
        return np.asarray(busy * (below**2 - share**2) - speeds * (share - above))

    settled = solve_ivp(change, (0.0, 4000.0), np.zeros(levels), method="LSODA", rtol=1e-8, atol=1e-11).y[:, -1]
    assert calls_of_two_choices(state, busy) - equal == pytest.approx(settled.sum() - equal, rel=0.04, abs=0.01)


@pytest.mark.parametrize("nodes", [2, 3, 8])
@pytest.mark.parametrize("utilization", [0.3, 0.7, 0.95])
def test_nodes_that_know_their_own_calls_leave_a_binomial_spread(nodes: int, utilization: float):
    """The calls at which pods with a binomial spread are as busy as they have to be, within 0.5 %."""
    state = curve_of(0.7)
    busy = utilization * state["speed"][int(state["saturated"])]

    def missing(calls: float) -> float:
        each, more = divmod(calls / nodes, 1.0)
        chances = binom.pmf(np.arange(nodes + 1), nodes, more)
        return sum(c * speed_with(state, nodes * each + j) for j, c in enumerate(chances)) - busy

    exact = brentq(missing, 1e-6, state["saturated"] + nodes)
    assert calls_of_nodes(state, busy, nodes) == pytest.approx(exact, rel=0.005)


# Neither played for the fit nor judged elsewhere.
UNSEEN = [
    (OneService(pods=7, balancing=LEAST_OUTSTANDING, held_s=0.02, timeout_s=2.0), 0.78),
    (OneService(pods=28, balancing=LEAST_OUTSTANDING, held_s=0.02, timeout_s=2.0, cpu_scv=3.0), 0.82),
    (OneService(pods=13, balancing=LEAST_OUTSTANDING, held_s=0.02, timeout_s=2.0, cpu_scv=0.4), 0.86),
    (OneService(pods=22, balancing=LEAST_OUTSTANDING, held_s=0.02, timeout_s=2.0, sharing=PROCESSOR_SHARING), 0.93),
    (OneService(pods=9, balancing=LEAST_OUTSTANDING, held_s=0.06, timeout_s=2.0, sharing=PROCESSOR_SHARING), 0.85),
    (OneService(pods=22, balancing=LEAST_OUTSTANDING, held_s=0.02, timeout_s=2.0, sharing=CFS_QUOTA), 0.88),
    (OneService(pods=55, balancing=POWER_OF_TWO, held_s=0.02, timeout_s=2.0, cpu_scv=2.0), 0.74),
    (
        OneService(pods=16, balancing=POWER_OF_TWO, held_s=0.02, timeout_s=2.0, sharing=PROCESSOR_SHARING, cpu_scv=3.0),
        0.87,
    ),
    (OneService(pods=40, balancing=POWER_OF_TWO, held_s=0.02, timeout_s=2.0, sharing=CFS_QUOTA), 0.83),
    (OneService(pods=16, balancing=LEAST_OUTSTANDING, held_s=0.02, timeout_s=2.4, sharing=PROCESSOR_SHARING), 1.3),
    (OneService(pods=16, balancing=POWER_OF_TWO, held_s=0.02, timeout_s=2.4), 1.15),
]


@pytest.mark.parametrize(("service", "utilization"), UNSEEN)
def test_stations_that_nothing_was_fitted_to_are_as_played(service: OneService, utilization: float):
    """Mean within 5 %, p95 within 8 %, share within 0.3 s by 0.5 points, lost calls by 1.5: the bounds, and some noise."""
    seen = residual(service, utilization, play, seed=5, calls=4e5)
    assert abs(seen.mean_pct) <= 5.0, seen
    assert abs(seen.p95_pct) <= 8.0, seen
    assert abs(seen.slo_points) <= 0.5, seen
    assert abs(seen.error_points) <= 1.5, seen


def test_fitting_finds_coefficients_among_outliers():
    """A tenth of the points is far off; regularization takes less than 2 %."""
    draw = np.random.default_rng(3)
    columns = np.concatenate([np.ones((400, 1)), draw.normal(size=(400, 3))], axis=1)
    truth = np.array([0.5, -1.0, 0.25, 2.0])
    aim = columns @ truth + 0.01 * draw.normal(size=400)
    aim[::10] += 5.0
    found = fit_balanced.ridge(columns, aim, np.full(400, 1e4))
    assert found == pytest.approx(truth, rel=0.02)


def test_no_station_of_the_fit_is_one_that_is_judged():
    """Load, pods, held time and variability of each differ from those of every scenario."""
    played = {
        (service.pods, round(utilization, 3), round(service.held_s, 4), round(service.cpu_scv, 3))
        for design in ("any", "overload", "near")
        for service, utilization, _ in fit_balanced.designed(design, 256)
    }
    assert len(played) > 700
    for of_set, service, utilization in scenarios():
        if of_set == "judge":
            key = (service.pods, round(utilization, 3), round(service.held_s, 4), round(service.cpu_scv, 3))
            assert key not in played


def test_a_fit_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A few stations are played, interrupted and gone on with; the steps fit them and rewrite a copy of the coefficients."""
    table, module = tmp_path / "stations.csv", tmp_path / "coefficients.py"
    module.write_text(Path(balanced_corrections.__file__).read_text())
    monkeypatch.setattr(balanced_corrections, "__file__", str(module))
    for count in (6, 40):
        monkeypatch.setattr(fit_balanced, "STATIONS", {"overload": count})
        monkeypatch.setattr(fit_balanced, "CALLS", 4000)
        fit_balanced.main(["play", str(table)])
        assert len(pd.read_csv(table)) == count
    assert fit_balanced.main(["corrections", str(table)]) == 0
    assert "least outstanding, fifo, wait: before median" in capsys.readouterr().out
    assert fit_balanced.main(["reach", str(table)]) == 0
    assert fit_balanced.main(["loose", str(table)]) == 0
    text = module.read_text()
    written = {"np": np}
    exec(text[text.index("LOOSE = np.array(") :], written)
    assert written["LOOSE"].shape == balanced_corrections.LOOSE.shape == (2,)
    assert written["TABLE"].shape == balanced_corrections.TABLE.shape == (6, 3, balanced_corrections.TERMS)
    assert written["REACH"].shape == balanced_corrections.REACH.shape == (6, 2, balanced_corrections.REACH_TERMS)
    assert not np.array_equal(written["TABLE"], balanced_corrections.TABLE)


def test_sharing_of_a_cpu_by_fifo_needs_no_period():
    """A quota's period is no part of a station that has none."""
    waits = []
    for period_s in (0.01, 1.0):
        service = OneService(pods=5, balancing=LEAST_OUTSTANDING, sharing=FIFO, quota_period_s=period_s)
        waits.append(residual(service, 0.7, play, calls=2000.0).wait_s)
    assert waits[0] == waits[1]
