"""The yardsticks of the bench: they have to compute what they are said to, or a ratio to them says nothing."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest

from experiments import bench
from experiments.benchmarks import engines, queue_loops, simpy_loops, six_stations
from experiments.benchmarks.decisions import decision_latency
from experiments.benchmarks.measuring import cpu_s_in_turn, figure, median_ratio
from sim_core.simulation import simulate
from sim_core.theory import mmc_mean_sojourn_s
from sim_core.workload import Trace
from sim_core.world import LAYOUT, Lane, Scaler

needs_simpy = pytest.mark.skipif(importlib.util.find_spec("simpy") is None, reason="SimPy is not installed")


def sojourn_s() -> float:
    return mmc_mean_sojourn_s(arrival_rate_per_s=3.2, service_rate_per_s=1.0, servers=4)


def test_the_bare_loop_simulates_mmc():
    """4 standard errors over 20 runs of 100,000 requests."""
    runs_s = np.array([queue_loops.mmc_mean_sojourn_s(3.2, 1.0, np.zeros(4), 100_000, seed) for seed in range(20)])
    error_s = runs_s.std(ddof=1) / math.sqrt(len(runs_s))
    assert error_s <= 0.01 * sojourn_s()  # else the next line could not fail
    assert abs(runs_s.mean() - sojourn_s()) <= 4.0 * error_s


@needs_simpy
def test_simpy_simulates_the_same_queue():
    """4 standard errors over 10 runs of 20,000 requests."""
    runs_s = np.array([simpy_loops.mmc_mean_sojourn_s(3.2, 1.0, 4, 20_000, seed) for seed in range(10)])
    error_s = runs_s.std(ddof=1) / math.sqrt(len(runs_s))
    assert error_s <= 0.03 * sojourn_s()
    assert abs(runs_s.mean() - sojourn_s()) <= 4.0 * error_s


@needs_simpy
def test_simpy_plays_productions_chain():
    """At 0.7 it takes what it takes without any queue, and less than twice that."""
    idle_s = 0.025 + 0.015 + 2.7 * (0.0005 + 0.00001) + (0.3 + 2.7 * 0.093) * 0.002 + 0.2 * 0.003
    calm_s, busy_s = (simpy_loops.chain_mean_sojourn_s(rate_per_s, 5_000, 1) for rate_per_s in (1.0, 560.0))
    assert calm_s == pytest.approx(idle_s, rel=0.05)
    assert idle_s < busy_s < 2.0 * idle_s


def test_the_six_stations_say_what_the_latency_of_production_is():
    """All requests are booked, and their mean lies within 5 % of that of the same stations without queues at low load."""
    lanes = six_stations.station_lanes(2, 20.0)
    six_stations.advance(lanes, 500)
    assert lanes["latency"].sum(axis=1) == pytest.approx(lanes["requests"])
    assert lanes["requests"] == pytest.approx(20.0 * 500, rel=0.05)
    idle_s = float((six_stations.VISITS * six_stations.MEAN_S).sum())
    assert lanes["latency_s"] / lanes["requests"] == pytest.approx(idle_s, rel=0.05)
    busy = six_stations.station_lanes(1, 790.0)  # 99 % of 20 pods
    six_stations.advance(busy, 500)
    assert busy["latency_s"][0] / busy["requests"][0] > 1.2 * idle_s


def test_the_profile_of_mmc_is_mmc():
    """The engine's own mean sojourn is Erlang's within 5 % (its error of today), over 5 seeds of 1,800 s."""
    profile = engines.mmc_profile(4, 0.01)
    lanes = [Lane(profile, Trace("flat", 60.0, np.full(30, 320.0)), seed, 0.0, Scaler.static(1)) for seed in range(5)]
    played = simulate(lanes, 1800.0).indicators
    assert played["latency_mean_s"].mean() == pytest.approx(0.01 * sojourn_s(), rel=0.05)
    assert played["error_ratio"].max() == 0.0


def test_without_simpy_its_figures_are_skipped_with_the_reason_and_the_others_are_there(monkeypatch):
    monkeypatch.setattr(engines, "_has_simpy", lambda: False)
    monkeypatch.setattr(engines, "PEAK_REPLICAS", 2)
    ours, simpys = engines.request_engine_production(True)
    assert ours["value"] > 0.0 and ours["unit"] == "M requests per CPU-second"
    assert math.isnan(simpys["value"]) and simpys["note"].startswith("skipped: SimPy is not installed (pip install")


def test_the_memory_of_a_lane_is_what_its_rows_take():
    """And is what it has, not a maximum: a lane of 6,000 pods takes more than one of 100."""
    small, wide = engines.memory_of_a_lane(True)
    profile = engines.load_profile("production")
    (record,) = engines.Worlds([Lane(profile, Trace("flat", 60.0, np.ones(2)), 1)]).params
    assert small["value"] * 1e3 == LAYOUT.bytes_of(record)
    assert small["value"] < 40.0 and wide["value"] < 2.0
    assert wide["value"] * 1e3 > 10.0 * small["value"]


def test_requests_that_have_been_answered_take_no_memory():
    """An hour at 1,000 requests/s in a process of its own adds at most 20 MiB to what libraries and kernels take."""
    whole, added = engines.memory_of_a_day(True)
    assert whole["value"] > 50.0  # else nothing was measured
    assert 0.0 <= added["value"] <= 20.0


def test_a_decision_is_timed_without_its_world():
    (row,) = decision_latency(True)
    assert 0.0 < row["value"] < 1000.0 and row["reach"] == "< 1"
    assert row["note"].startswith("p50 ") and "1000 decisions" in row["note"]


def test_ratios_are_of_rounds_taken_in_turn():
    calls: list[str] = []
    spent = cpu_s_in_turn(3, {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")})
    assert calls == ["a", "b"] * 3 and all(len(seconds) == 3 for seconds in spent.values())
    assert median_ratio([2.0, 9.0, 4.0], [1.0, 1.0, 4.0]) == 2.0


def test_the_bench_hands_on_every_figure(monkeypatch):
    one, two = figure("one", 1.0, "s", "", ""), figure("two", 2.0, "s", "", "")
    for name, rows in (("fluid_engine", [one]), ("vec_env", [two])):
        monkeypatch.setattr(bench, name, lambda quick, rows=rows: rows)
    for name in ("decision_latency", "training_against_free_env", "agent"):
        monkeypatch.setattr(bench, name, lambda quick, trace=None: [])
    monkeypatch.setattr(bench, "MEASURES", ())
    told: list[dict] = []
    assert bench.run_bench(True, told.append) == told == [one, two]
