"""The choice of the engine: names, and what is told of the time before many requests are played one by one."""

from __future__ import annotations

import re

import numpy as np
import pytest

from agents.policies.contract import play
from agents.policies.registry import choice_of, policy_of
from flows.estimates import tell_time
from flows.requests import SweepRequest
from sim_core.engines import CALLS_PER_CPU_S, NAMES, check_engine, described, engine_named, estimate
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


def test_the_estimate_counts_the_requests_of_the_window_that_is_played():
    """50,000 requests/s for a day are 4.32 billion; the window of a lane starts where the lane starts."""
    whole = estimate([(lane(50_000.0, start_s=3600.0), DAY_S - 3600.0)])
    assert whole.requests == pytest.approx(50_000.0 * (DAY_S - 3600.0))
    assert whole.seconds == pytest.approx(whole.requests / CALLS_PER_CPU_S)
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
    assert several.seconds == pytest.approx(calls * single.seconds)


def test_what_takes_long_is_told_before_it_begins_and_nothing_else_is():
    told: list[str] = []
    tell_time("fluid", [(lane(50_000.0), DAY_S)], say=told.append)
    tell_time("requests", [(lane(1.0), 3600.0)], say=told.append)
    assert told == []
    tell_time("requests", [(lane(50_000.0), DAY_S)], times=2, say=told.append)
    (line,) = told
    assert re.fullmatch(
        r"--engine requests: about 8\.5 billion requests, each an event: about \d+ min on 1 thread; "
        r"--engine fluid takes about 1 s",
        line,
    )
