"""The choice of the engine: names, and what is told of the time before many requests are played one by one."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from agents.learning.evaluate import EvaluateRequest, evaluate
from agents.policies.contract import play
from agents.policies.registry import choice_of, policy_of
from agents.policies.static import StaticPolicy
from experiments.compute.actors import run_batch
from experiments.held_out import HeldOut
from experiments.planning.plan import make_plan
from experiments.planning.spec import spec_from_dict
from flows.estimates import tell_time
from flows.requests import SweepRequest
from sim_core.engines import CALLS_PER_CPU_S, NAMES, check_engine, described, engine_named, estimate, slowed_down
from sim_core.errors import InputError
from sim_core.profile import load_profile
from sim_core.simulation import Worlds, simulate
from sim_core.workload import Trace
from sim_core.world import Lane, Scaler

DAY_S = 86_400.0


def lane(rate_per_s: float, seed: int = 0, start_s: float = 0.0, profile: str = "production") -> Lane:
    """A constant rate for a day, half of it in the first hour."""
    rates = np.full(24, rate_per_s)
    rates[0] *= 0.5
    return Lane(load_profile(profile), Trace("flat", 3600.0, rates), seed, start_s, Scaler.static(4))


def test_an_unknown_engine_is_refused_with_the_nearest_wherever_it_is_named():
    """By the command line under its option, by what plays worlds, and by a sweep before its specification is read."""
    for refuse in (
        lambda: check_engine("request", "--engine"),
        lambda: SweepRequest(spec="demo", engine="request").resolve(),
    ):
        with pytest.raises(InputError, match=r"--engine: must be one of fluid, requests; did you mean 'requests'\?"):
            refuse()
    for play_it in (
        lambda: Worlds([lane(10.0)], engine="fluids"),
        lambda: simulate([lane(10.0)], 60.0, engine="fluids"),
        lambda: play([lane(10.0)], policy_of(choice_of("clairvoyant", "run")), 60.0, engine="fluids"),
    ):
        with pytest.raises(InputError, match=r"did you mean 'fluid'\? \(got 'fluids'\)"):
            play_it()


def test_a_sweep_takes_the_engine_of_its_specification_or_that_of_the_option():
    assert SweepRequest(spec="capacity").resolve().engine == "fluid"
    assert SweepRequest(spec="capacity", engine="requests").resolve().engine == "requests"


def test_help_says_what_each_engine_is():
    assert [engine_named(name).name for name in NAMES] == list(NAMES)
    assert all(f"{name} ({engine_named(name).meaning})" in described() for name in NAMES)


def test_threads_do_not_change_what_comes_out():
    lanes = [lane(60.0, seed) for seed in range(3)]
    alone, shared = (simulate(lanes, 300.0, threads=threads).indicators for threads in (1, 3))
    np.testing.assert_array_equal(alone.to_numpy(), shared.to_numpy())


def test_both_engines_meet_the_same_requests_and_find_something_of_their_own():
    """Arrivals are the same under the same seed; what becomes of them is not, wherever worlds are played."""
    lanes = [lane(60.0, seed) for seed in range(2)]
    played = {engine: simulate(lanes, 120.0, engine=engine, threads=2) for engine in NAMES}
    calls = {engine: simulation.services["calls"].to_numpy() for engine, simulation in played.items()}
    np.testing.assert_allclose(calls["fluid"], calls["requests"], rtol=0.02)  # the last ones are still on their way
    means = [simulation.indicators["latency_mean_s"].to_numpy() for simulation in played.values()]
    assert not np.isclose(*means, rtol=1e-6).any()
    through_predict = play(lanes, StaticPolicy(4), 120.0, through_predict=True, engine="requests")
    pd.testing.assert_frame_equal(through_predict.indicators, played["requests"].indicators)


def test_points_of_a_sweep_are_played_by_their_own_engine():
    """Their rows say which it was, under keys of their own; the same point under the same engine is the same again."""
    asked = {
        "name": "small",
        "profile": "production",
        "traffic": {"generator": "diurnal", "scale_peak_to_replicas": 4},
        "duration": "5m",
        "policies": [{"policy": "static", "replicas": 4}],
    }
    rows = {}
    for engine in NAMES:
        plan = make_plan(spec_from_dict(asked | {"engine": engine}))
        (batch,) = plan.batches()
        rows[engine] = run_batch(batch, plan.trace, plan.profiles)
        assert rows[engine]["engine"] == [engine]
        alone = simulate([world for world, _ in plan.lanes()], 300.0, engine=engine).indicators
        assert rows[engine]["latency_mean_s"] == list(alone["latency_mean_s"])
    assert rows["fluid"]["key"] != rows["requests"]["key"]
    assert rows["fluid"]["latency_mean_s"] != rows["requests"]["latency_mean_s"]


def test_policies_are_compared_in_the_engine_that_was_asked_for():
    """And an evaluation of the one is never taken for that of the other."""
    world = lane(60.0)
    request = EvaluateRequest(world.profile, world.trace, [StaticPolicy(4)], 0.0, 120.0, seeds=2)
    tables = [evaluate(dataclasses.replace(request, engine=engine)).lanes for engine in NAMES]
    assert not np.isclose(*(table["latency_mean_s"] for table in tables), rtol=1e-6).any()
    held_out = HeldOut(world.profile, world.trace, 0.0, 0.0, 0.0, 120.0, 2, 1000, ["static(replicas=4)"])
    other = dataclasses.replace(held_out, engine="requests")
    assert held_out.key != other.key and other.describe()["engine"] == "requests"


def test_the_estimate_counts_the_requests_of_the_window_that_is_played():
    """50,000 requests/s for a day are 4.32 billion; the window of a lane starts where the lane starts."""
    whole = estimate([(lane(50_000.0, start_s=3600.0), DAY_S - 3600.0)])
    assert whole.requests == pytest.approx(50_000.0 * (DAY_S - 3600.0))
    assert whole.seconds == pytest.approx(
        whole.requests / CALLS_PER_CPU_S, rel=0.15
    )  # 4,000 pods and requests in flight
    first_hour = estimate([(lane(50_000.0), 3600.0)])
    assert first_hour.requests == pytest.approx(25_000.0 * 3600.0)
    assert whole.fluid_s < 0.01 * whole.seconds


def test_threads_share_lanes_and_do_not_split_one():
    day = DAY_S
    one = estimate([(lane(100.0), day)])
    assert estimate([(lane(100.0), day)], threads=8) == one
    four = [(lane(100.0, seed), day) for seed in range(4)]
    assert estimate(four, threads=2).seconds == pytest.approx(2.0 * one.seconds)
    uneven = [(lane(100.0), day), (lane(1.0), day)]
    assert estimate(uneven, threads=2).seconds == pytest.approx(one.seconds)  # the long one decides


def test_more_calls_a_request_take_longer():
    chain = load_profile("experimental")
    calls = sum(service.calls_per_request for service in chain.services)
    assert calls > 1.0  # else the next line could not fail
    single, several = (estimate([(lane(10.0, profile=name), DAY_S)]) for name in ("production", "experimental"))
    assert several.seconds == pytest.approx(calls * single.seconds, rel=0.01)


def test_calls_take_longer_where_more_pods_and_requests_are_in_flight():
    """1 for nothing in flight, 2 for 50,000; more requests of the same world, or slower ones, hold more."""
    assert slowed_down(load_profile("production"), 0.0) == 1.0
    few, many = (estimate([(lane(rate), DAY_S)]) for rate in (1e3, 1e6))
    assert few.seconds < 1.01 * few.requests / CALLS_PER_CPU_S * slowed_down(load_profile("production"), 1e3)
    assert many.seconds / many.requests > 2.0 * few.seconds / few.requests
    slow = load_profile("production").with_overrides({"services.api.container.io_seconds_per_request": 0.15})
    assert slowed_down(slow, 1e5) > slowed_down(load_profile("production"), 1e5) > 1.0


def test_what_takes_long_is_told_before_it_begins_and_nothing_else_is():
    told: list[str] = []
    tell_time("fluid", [(lane(50_000.0), DAY_S)], say=told.append)
    tell_time("requests", [(lane(1.0), 3600.0)], say=told.append)
    assert told == []
    tell_time("requests", [(lane(50_000.0), DAY_S)], times=2, say=told.append)
    (line,) = told
    assert re.fullmatch(
        r"--engine requests: about 8\.5 billion requests, each an event: about [\d.]+ h on 1 thread; "
        r"--engine fluid takes about 1 s",
        line,
    )
