"""Cold and new pods of the fluid engine, held to the request engine, to limits of flows, and to their own accounts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_core.dataplane.cold import serve_fleet
from sim_core.dataplane.fit import load_of
from sim_core.dataplane.known import known_stations
from sim_core.dataplane.one_service import OneService
from sim_core.dataplane.queueing import cut_at, mixture, without
from sim_core.dataplane.services.kinds import BALANCINGS, LEAST_OUTSTANDING, RANDOM, ROUND_ROBIN
from sim_core.dataplane.station import ANSWER, APART, COLD_STATE, CUT, LOAD, PIECE, SHAPE, STATION_STATE
from sim_core.engines import FLUID, REQUESTS
from sim_core.profile import Profile
from sim_core.simulation import simulate
from sim_core.world import Lane, Scaler
from tests.conftest import flat
from tests.handmade import row

API = "services.api"
PODS = OneService(pods=10, held_s=0.015, balancing=RANDOM, cold_factor=2.0, workers=16, queue_limit=64)


class Fleet:
    """A service whose pods come, are cold, and turn warm as it is told."""

    def __init__(self, service: OneService):
        self.load, self.station, self.cold = row(LOAD), row(STATION_STATE), row(COLD_STATE)
        for name in LOAD.names or ():
            self.load[name] = load_of(service)[name][0]
        self.station.cell = self.cold.station.cell = -1
        self.known, self.answer, self.n_warmed = known_stations(), row(ANSWER), 0

    def serve(self, ready: int, cold: int, per_s: float, warmed: int = 0) -> None:
        """One tick."""
        self.n_warmed += warmed
        self.load["ready"], self.load["cold"] = ready, cold
        self.load["arrivals"] = self.load["expected"] = per_s
        serve_fleet(
            **self.known,
            load=self.load,
            station=self.station,
            cold=self.cold,
            n_warmed=self.n_warmed,
            answer=self.answer,
        )

    @property
    def inside(self) -> float:
        """Calls in all pods whose CPU work is still to be done."""
        return float(sum(s.open + s.unserved for s in (self.station, self.cold.station)))


def test_the_line_of_a_cold_pod_begins_empty_grows_and_drains():
    """Each of ten pods gets 30 calls/s. A cold one serves 20 of them, and 10 more a second stand there; when it is warm it
    serves 40, and they go as fast. Then it is like the others."""
    fleet = Fleet(PODS)
    for _ in range(120):
        fleet.serve(9, 0, 270.0)
    line = float(fleet.station.open) / 9
    assert fleet.cold.share == 0.0
    seen = []
    for _ in range(5):
        fleet.serve(10, 1, 300.0)
        seen.append(float(fleet.cold.station.open))
    assert seen[0] == pytest.approx(12.0, abs=4.0)  # the pods of M/M/1 at 1.5: chance lets a few more stand there
    np.testing.assert_allclose(np.diff(seen)[1:], 10.0, rtol=0.1)
    assert float(fleet.station.open) / 9 == pytest.approx(line, rel=0.02)
    assert fleet.cold.share == pytest.approx(0.1, rel=0.02)  # a few are refused
    fleet.serve(10, 0, 300.0, warmed=1)
    before = float(fleet.cold.station.open)
    fleet.serve(10, 0, 300.0)
    assert before - float(fleet.cold.station.open) == pytest.approx(10.0, rel=0.1)
    for _ in range(30):
        fleet.serve(10, 0, 300.0)
    assert (fleet.cold.share, fleet.cold.pods) == (0.0, 0.0)
    assert float(fleet.station.open) / 10 == pytest.approx(line, rel=0.02)


def test_calls_of_a_drowned_pod_are_told_apart():
    """Nine pods at half their load answer as if there were no other; the tenth answers after what stands in it."""
    fleet = Fleet(PODS.but(cold_factor=5.0))
    for _ in range(120):
        fleet.serve(9, 0, 180.0)
    alone_s = float(fleet.answer.wait_s)
    for _ in range(60):
        fleet.serve(10, 1, 200.0)
    assert fleet.station.met.wait_s == pytest.approx(alone_s, rel=0.01)
    # 80 places, less those of calls that do something else than wait for the CPU
    assert fleet.cold.station.met.wait_s + 0.125 == pytest.approx(80 * 0.125, rel=0.05)
    share = float(fleet.cold.share)
    assert share == pytest.approx(8.0 / 188.0, rel=0.01)  # of those that found room
    assert fleet.answer.wait_s == pytest.approx(
        (1.0 - share) * float(fleet.station.met.wait_s) + share * float(fleet.cold.station.met.wait_s), rel=1e-9
    )
    assert fleet.answer.refused == pytest.approx(12.0, rel=0.01)
    assert fleet.answer.utilization == pytest.approx(200.0 / (9 * 40.0 + 8.0), rel=1e-9)


def test_a_balancer_that_looks_at_open_calls_gives_a_cold_pod_what_it_can_take():
    """Calls take twice as long on the cold pod, and it gets half as many; the mean is that of the mean pod."""
    fleet = Fleet(PODS.but(balancing=LEAST_OUTSTANDING))
    for _ in range(60):
        fleet.serve(10, 2, 300.0)
    warm_s, cold_s = float(fleet.station.met.wait_s), float(fleet.cold.station.met.wait_s)
    assert cold_s == pytest.approx(2.0 * warm_s, rel=1e-6)
    assert fleet.cold.share == pytest.approx(1.0 / 9.0, rel=1e-6)
    assert fleet.answer.wait_s == pytest.approx((8.0 * warm_s + cold_s) / 9.0, rel=1e-6)


def test_a_full_cold_pod_that_answers_nobody_in_time_draws_the_calls_that_warm_ones_could_take():
    """It serves 20 calls/s, so a balancer knows of 40 within the timeout of 2 s: warm pods hold no more than as many."""
    fleet = Fleet(PODS.but(balancing=LEAST_OUTSTANDING, timeout_s=2.0))
    for _ in range(60):
        fleet.serve(10, 2, 800.0)
    assert fleet.station.met.wait_s + 0.025 == pytest.approx(40 * 0.025, rel=0.1)
    assert fleet.cold.station.met.wait_s + 0.05 == pytest.approx(80 * 0.05, rel=0.1)


@settings(max_examples=60, deadline=None)
@given(
    balancing=st.sampled_from(BALANCINGS),
    factor=st.floats(1.0, 20.0),
    events=st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 4), st.floats(0.0, 1000.0)),
        min_size=1,
        max_size=25,
    ),
)
def test_whatever_comes_and_goes_calls_are_kept(
    balancing: str, factor: float, events: list[tuple[int, int, int, float]]
):
    """No NaN, no share beyond 1; what is admitted is served or stays, as long as there are pods."""
    fleet = Fleet(PODS.but(balancing=BALANCINGS.index(balancing), cold_factor=factor, timeout_s=2.0))
    for ready, cold, warmed, per_s in events:
        ready, before = max(1, ready), fleet.inside
        fleet.serve(ready, min(cold, ready), per_s, warmed)
        answer = fleet.answer
        assert all(math.isfinite(value) for value in answer.tolist()), answer
        assert all(answer[name] >= 0.0 for name in ANSWER.names or () if "third" not in name), answer
        assert 0.0 <= fleet.cold.share <= 1.0
        assert 0.0 <= fleet.cold.pods < ready
        assert answer.admitted + answer.refused == pytest.approx(per_s, rel=1e-9, abs=1e-9)
        left = before + answer.admitted - answer.served - fleet.inside
        assert left >= -1e-6 * (1.0 + before)
        if before <= 80.0:  # else pods that went away may have left more than the others have room for
            assert left == pytest.approx(0.0, abs=1e-6)


def test_what_is_told_apart_and_the_rest_are_all():
    fast, slow, share = (0.1, 0.004, 0.0005), (2.0, 0.3, -0.02), 0.03
    apart = row(APART, share=share, mean_s=slow[0], variance_s2=slow[1], third_s3=slow[2])
    assert without(apart, *mixture(share, *fast, *slow)) == pytest.approx(fast, rel=1e-9)


def test_a_timeout_cuts_those_told_apart_by_a_distribution_of_their_own():
    """Exponential times of 0.1 s, and 3 % of 1.5 s and more, some of which are above the timeout: as among a million drawn."""
    rng = np.random.default_rng(5)
    slow = rng.random(1_000_000) < 0.03
    times = rng.exponential(0.1, slow.size)
    times[slow] = 1.5 + rng.exponential(0.2, int(slow.sum()))
    cumulants = mixture(0.03, 0.1, 0.01, 0.002, 1.7, 0.04, 0.016)
    apart = row(APART, share=0.03, mean_s=1.7, variance_s2=0.04, third_s3=0.016)
    cut = row(CUT)
    cut_at(cut, row(SHAPE), row(PIECE), apart, *cumulants, 1.6)
    kept = times[times <= 1.6]
    assert cut.within == pytest.approx(len(kept) / len(times), abs=5e-4)
    assert cut.kept_s == pytest.approx(float(kept.mean()), rel=0.01)
    assert cut.kept_variance_s2 == pytest.approx(float(kept.var()), rel=0.02)
    assert cut.apart.share == pytest.approx(float((slow & (times <= 1.6)).sum()) / len(kept), rel=0.03)
    assert cut.apart.mean_s == pytest.approx(float(times[slow & (times <= 1.6)].mean()), rel=0.01)


def both(production: Profile, balancing: str, factor: float, per_s: float, plan: list[int]) -> list[pd.DataFrame]:
    """Indicators of both engines, three seeds; replicas hold for 150 s each, which `plan` names."""
    profile = production.with_overrides(
        {
            "ingress.load_balancing": balancing,
            f"{API}.replicas": {"initial": plan[0], "min": 1, "max": 60},
            f"{API}.lifecycle.cold_factor": factor,
        }
    )
    scaler = Scaler.schedule(np.repeat(plan, 10)[:, None])
    lanes = [Lane(profile, flat(per_s), seed, 0.0, scaler) for seed in (7, 8, 9)]
    return [simulate(lanes, 150.0 * len(plan), engine=engine).indicators for engine in (REQUESTS, FLUID)]


@pytest.mark.parametrize("factor", [1.6, 2.5, 5.0])
@pytest.mark.parametrize("balancing", [RANDOM, ROUND_ROBIN])
def test_cold_pods_that_drown_agree_with_the_request_engine(production: Profile, balancing: int, factor: float):
    """Four of twenty pods are new, and for half a minute their load is 1 to 3 times what they can serve.

    Calls that they are late with are about a hundredth of all, so that the 99th percentile stands on an edge.
    """
    exact, seen = both(production, BALANCINGS[balancing], factor, 480.0, [16, 20, 16, 20])
    mean_s, exact_s = seen["latency_mean_s"].mean(), exact["latency_mean_s"].mean()
    assert mean_s == pytest.approx(exact_s, rel=0.04)
    assert seen["latency_p95_s"].mean() == pytest.approx(exact["latency_p95_s"].mean(), rel=0.1)
    assert seen["slo_attainment"].mean() == pytest.approx(exact["slo_attainment"].mean(), abs=0.008)
    assert seen["error_ratio"].mean() == pytest.approx(exact["error_ratio"].mean(), abs=0.001)


def test_cold_pods_in_overload_draw_calls_as_in_the_request_engine(production: Profile):
    """Twice what six pods can serve; two more come. Answered in time are by a tenth more than if all were equally full."""
    exact, seen = both(production, "least_outstanding", 1.5, 480.0, [6, 8])
    assert seen["latency_mean_s"].mean() == pytest.approx(exact["latency_mean_s"].mean(), rel=0.05)
    assert seen["error_ratio"].mean() == pytest.approx(exact["error_ratio"].mean(), abs=0.03)
