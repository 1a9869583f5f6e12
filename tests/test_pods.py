"""Pods: when they are what, who is deleted first, what the autoscaler sees of them, and that none is ever lost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_core.controlplane.pods import (
    NO_USAGE,
    PENDING,
    READY_FALSE,
    READY_TRUE,
    RUNNING,
    advance_pods,
    create_pod,
    delete_pod,
    set_replicas,
    start_warm,
)
from sim_core.limits import MAX_PODS
from sim_core.profile import Profile, load_profile
from sim_core.randomness import lane_key
from sim_core.simulation import Worlds
from sim_core.world import SERVICE_STATE, Lane, Scaler, build_params
from tests.conftest import flat, plan_of

KEY = np.uint64(lane_key(1))
LIFE = "services.api.lifecycle"


def service_of(profile: Profile) -> Any:
    """The first service's record."""
    return build_params([Lane(profile, flat(1.0), 1)])[0][0]["services"][0]


def empty_state() -> Any:
    return np.zeros(1, dtype=SERVICE_STATE)[0]


def with_life(profile: Profile, **changes: float) -> Profile:
    return profile.with_overrides({f"{LIFE}.{name.replace('__', '.')}": value for name, value in changes.items()})


# --- Life of a pod

# life of a pod that is asked for at 30 s: settings, then when it runs, is ready, is warm [s after it was asked for]
LIVES = {
    "production": ({}, 5, 25, 55),
    "no start-up": ({"startup_seconds": 0.0, "readiness__initial_delay_seconds": 0.0}, 5, 5, 35),
    "the first probe comes late": ({"readiness__initial_delay_seconds": 40.0}, 5, 45, 75),
    "ready between two probes": ({"startup_seconds": 21.0}, 5, 30, 60),
    "ready exactly at a probe": ({"startup_seconds": 15.0}, 5, 20, 50),
    "rare probes": ({"readiness__period_seconds": 60.0}, 5, 70, 100),
    "one probe a second": ({"readiness__period_seconds": 1.0, "startup_seconds": 7.0}, 5, 12, 42),
    "already there": ({"scheduling_seconds": 0.0, "image_pull_seconds": 0.0}, 0, 20, 50),
    "between two ticks": ({"scheduling_seconds": 1.3, "image_pull_seconds": 2.5}, 4, 24, 54),
    "never cold": ({"cold_seconds": 0.0}, 5, 25, 25),
}


@pytest.mark.parametrize(("changes", "running_s", "ready_s", "warm_s"), LIVES.values(), ids=LIVES.keys())
def test_a_pod_lives_by_the_clock(steady, changes, running_s, ready_s, warm_s):
    """Scheduling, pull, start-up, the probes' period, warm-up: each change is seen in the tick in which it happens."""
    lane = Lane(with_life(steady, **changes), flat(50.0), 1, scaler=plan_of((3, 30.0), (4, 300.0)))
    worlds = Worlds([lane])
    worlds.advance(31)  # the tick that begins at 30 s is done
    for since_s in range(200):
        pod = worlds.state["services"][0, 0]["pods"][3]
        assert pod["phase"] == (RUNNING if since_s >= running_s else PENDING), since_s
        assert pod["ready"] == (READY_TRUE if since_s >= ready_s else READY_FALSE), since_s
        assert pod["cold"] == (ready_s <= since_s < warm_s), since_s
        if since_s >= ready_s:
            assert pod["ready_transition_s"] == 30 + ready_s
        worlds.advance(1)


@given(
    startup_s=st.floats(0.01, 300.0),
    delay_s=st.floats(0.0, 60.0),
    period_s=st.integers(1, 60).map(float),
    scheduling_s=st.floats(0.0, 20.0),
)
def test_a_pod_is_ready_at_the_first_probe_after_it_has_started(startup_s, delay_s, period_s, scheduling_s):
    profile = with_life(
        load_profile("production"),
        startup_scv=0.0,
        startup_seconds=startup_s,
        readiness__initial_delay_seconds=delay_s,
        readiness__period_seconds=period_s,
        scheduling_seconds=scheduling_s,
    )
    service, state = service_of(profile), empty_state()
    create_pod(service, state, KEY, 100.0)
    pod = state["pods"][0]
    assert pod["running_s"] == pytest.approx(100.0 + scheduling_s + 3.0)
    probes = (pod["ready_s"] - pod["running_s"] - delay_s) / period_s
    assert probes == pytest.approx(round(probes), abs=1e-6)
    assert pod["ready_s"] >= pod["running_s"] + startup_s - 1e-6
    assert probes < 0.5 or pod["ready_s"] - period_s < pod["running_s"] + startup_s + 1e-6


def test_start_up_times_have_the_mean_and_spread_of_the_profile():
    """4,000 pods, lognormal with SCV 0.2: the mean within 4 standard errors, the SCV within 15 %.

    The SCV of a sample of a lognormal with SCV 0.2 has a standard error of about 4 %.
    """
    profile = with_life(
        load_profile("production"),
        startup_scv=0.2,
        startup_seconds=200.0,
        readiness__initial_delay_seconds=0.0,
        readiness__period_seconds=1.0,
    )
    service = service_of(profile)
    startups_s = []
    for seed in range(20):
        state = empty_state()
        for _ in range(200):
            create_pod(service, state, np.uint64(lane_key(seed)), 0.0)
        startups_s.append(state["pods"]["ready_s"][:200] - state["pods"]["running_s"][:200] - 0.5)  # half a probe
    sample = np.concatenate(startups_s)
    assert abs(sample.mean() - 200.0) < 4 * sample.std() / math.sqrt(sample.size)
    assert sample.var() / sample.mean() ** 2 == pytest.approx(0.2, rel=0.15)
    assert len(np.unique(np.round(sample))) > 200


def test_a_deleted_pod_holds_its_place_until_it_has_ended(steady):
    """It takes no calls from the moment it is deleted, and costs money for termination_seconds."""
    lane = Lane(with_life(steady, termination_seconds=20.0), flat(50.0), 1, scaler=plan_of((5, 30.0), (3, 90.0)))
    worlds = Worlds([lane])
    for second in range(90):
        worlds.advance(1)
        service = worlds.state["services"][0, 0]
        assert service["n_ready"] == service["n_active"] == (5 if second < 30 else 3)
        assert service["n_pods"] == (3 if second >= 50 else 5)
    assert worlds.state["account"]["pod_s"][0] == 5 * 50 + 3 * 40


def test_a_pending_pod_is_gone_at_once(steady):
    """Nothing runs that would have to end."""
    slow = with_life(steady, image_pull_seconds=100.0)
    worlds = Worlds([Lane(slow, flat(50.0), 1, scaler=plan_of((3, 15.0), (6, 15.0), (3, 60.0)))])
    worlds.advance(20)
    assert worlds.state["services"][0, 0]["n_pods"] == 6
    worlds.advance(11)
    assert worlds.state["services"][0, 0]["n_pods"] == 3
    assert worlds.state["services"][0, 0]["n_ready"] == 3


# --- Who is deleted first

PODS = st.lists(
    st.tuples(st.sampled_from(["pending", "starting", "ready"]), st.integers(0, 4), st.booleans()),
    min_size=1,
    max_size=12,
)


@given(pods=PODS, order=st.randoms(use_true_random=False))
def test_pods_are_deleted_in_the_order_of_kubernetes(pods, order):
    """Pending before running, not ready before ready, ready for less time first, then the younger; each once."""
    service, state = service_of(load_profile("production")), empty_state()
    for _ in pods:
        create_pod(service, state, KEY, 0.0)
    places = list(range(len(pods)))
    order.shuffle(places)
    for place, (kind, ready_at, _) in zip(places, pods, strict=True):
        pod = state["pods"][place]
        pod["phase"] = PENDING if kind == "pending" else RUNNING
        pod["ready"] = READY_TRUE if kind == "ready" else READY_FALSE
        pod["ready_transition_s"] = ready_at
    for place, (_, _, deleting) in zip(places, pods, strict=True):
        state["pods"][place]["deleting"] = deleting
    state["n_active"] = sum(not deleting for _, _, deleting in pods)

    def rank(place: int) -> tuple[int, int, float, int]:
        pod = state["pods"][place]
        ready = pod["ready"] == READY_TRUE
        since = -float(pod["ready_transition_s"]) if ready else 0.0
        return int(pod["phase"] != PENDING), int(ready), since, -int(pod["serial"])

    active = [place for place in range(len(pods)) if not state["pods"][place]["deleting"]]
    for expected in sorted(active, key=rank):
        before = state["pods"]["deleting"][: len(pods)].copy()
        delete_pod(service, state, 50.0)
        changed = np.flatnonzero(state["pods"]["deleting"][: len(pods)] != before)
        assert list(changed) == [expected]
        waits = service["termination_s"] if state["pods"][expected]["phase"] == RUNNING else 0.0
        assert state["pods"][expected]["gone_s"] == 50.0 + waits
    assert state["n_active"] == 0


# --- No pod is ever lost


@given(
    wanted=st.lists(st.integers(1, 12), min_size=2, max_size=14),
    seed=st.integers(0, 10_000),
    life=st.fixed_dictionaries(
        {
            "termination_seconds": st.sampled_from([0.0, 7.0, 40.0]),
            "startup_scv": st.sampled_from([0.0, 0.5]),
            "cold_seconds": st.sampled_from([0.0, 12.5]),
            "image_pull_seconds": st.sampled_from([0.0, 20.0]),
        }
    ),
)
def test_no_pod_is_ever_lost(wanted, seed, life):
    """Pods leave only by deletion and when their time has come; the counts are those of the pods at every tick."""
    profile = with_life(load_profile("production"), **life).with_overrides({"services.api.replicas.min": 1})
    plan = Scaler.schedule(np.array(wanted)[:, None])
    worlds = Worlds([Lane(profile, flat(60.0), seed, scaler=plan)])
    serials = int(worlds.state["services"][0, 0]["serial"])
    alive = {serial: worlds.state["services"][0, 0]["pods"][serial].copy() for serial in range(serials)}
    for second in range(15 * len(wanted) + 60):
        worlds.advance(1)
        service = worlds.state["services"][0, 0]
        pods = service["pods"][: service["n_pods"]]
        now = {int(pod["serial"]): pod.copy() for pod in pods}
        assert len(now) == len(pods)  # each is there once
        for serial in alive.keys() - now.keys():  # gone: deleted, and its time had come
            before = alive[serial]
            ended = before["gone_s"] if before["deleting"] else second
            assert ended <= second
        assert set(now) - set(alive) == set(range(serials, int(service["serial"])))  # new ones are numbered on
        serials = int(service["serial"])
        running = pods["phase"] == RUNNING
        ready = running & (pods["ready"] == READY_TRUE) & ~pods["deleting"]
        assert service["n_active"] == (~pods["deleting"]).sum() == wanted[min(second // 15, len(wanted) - 1)]
        assert service["n_running"] == running.sum()
        assert service["n_ready"] == ready.sum()
        assert service["n_cold"] == (ready & pods["cold"]).sum()
        assert (pods["gone_s"][pods["deleting"]] > second).all()
        alive = now


def test_a_world_that_is_full_waits_for_room(steady):
    """With pods that take an hour to end, no more than MAX_PODS are ever there; the rest comes when there is room."""
    profile = with_life(steady, termination_seconds=120.0).with_overrides({"services.api.replicas.max": MAX_PODS})
    swing = [(MAX_PODS, 30.0), (2, 30.0), (MAX_PODS, 400.0)]
    worlds = Worlds([Lane(profile, flat(10.0), 1, scaler=plan_of(*swing))])
    for _ in range(300):
        worlds.advance(1)
        service = worlds.state["services"][0, 0]
        assert service["n_active"] <= service["n_pods"] <= MAX_PODS
    assert service["n_active"] == service["n_ready"] == MAX_PODS


def test_advancing_in_leaps_ends_where_single_ticks_end(steady):
    """A pod whose changes all lie in the past is up to date after one step."""
    service = service_of(steady)
    leap, single = empty_state(), empty_state()
    for state in (leap, single):
        start_warm(service, state, 2)
        state["desired_replicas"] = 5
        set_replicas(service, state, KEY, 0.0)
    for second in range(1, 200):
        advance_pods(service, single, 0.0, float(second))
    advance_pods(service, leap, 0.0, 30.0)
    assert leap["n_ready"] == 5
    advance_pods(service, leap, 0.0, 199.0)
    for name in ("phase", "ready", "cold", "serial", "running_s", "ready_s"):
        np.testing.assert_array_equal(leap["pods"][name][:5], single["pods"][name][:5])
    assert (leap["n_ready"], leap["n_cold"]) == (single["n_ready"], single["n_cold"]) == (5, 0)


# --- What the autoscaler sees of them


def samples_over_time(profile: Profile, per_s: float, scaler: Scaler, duration_s: int) -> dict[int, dict[int, int]]:
    """Published samples [milli-cores] by second, then by the pod's serial."""
    worlds = Worlds([Lane(profile, flat(per_s), 1, scaler=scaler)])
    seen = {}
    for second in range(1, duration_s + 1):
        worlds.advance(1)
        service = worlds.state["services"][0, 0]
        seen[second] = {int(p["serial"]): int(p["sample_m"]) for p in service["pods"][: service["n_pods"]]}
    return seen


def test_samples_change_only_when_a_scrape_is_published(steady):
    """Windows end every 15 s; readers see them 10 s later, at 25, 40, 55 s ..."""
    seen = samples_over_time(steady, 100.0, Scaler.static(5), 200)
    changes = [second for second in range(2, 201) if seen[second] != seen[second - 1]]
    assert changes
    assert all((second - 10) % 15 == 0 and second >= 25 for second in changes)
    assert set(seen[24].values()) == {NO_USAGE}
    # the mean over the window: 100 requests/s x 25 ms over 5 pods = 500 milli-cores, 40 requests a window and pod
    late = [list(seen[second].values()) for second in range(100, 200, 15)]
    assert np.mean(late) == pytest.approx(500.0, rel=0.05)
    assert all(min(row) == max(row) for row in late)  # pods share the load evenly


def test_a_pod_has_no_sample_before_its_containers_ran_a_full_window(steady):
    """Asked for at 30 s, it runs from 35 s on: the first full window is 45 to 60 s, to be seen from 70 s on."""
    seen = samples_over_time(steady, 100.0, plan_of((3, 30.0), (4, 300.0)), 150)
    assert {seen[second][3] for second in range(32, 70)} == {NO_USAGE}
    assert seen[70][3] != NO_USAGE
    exact = with_life(steady, scheduling_seconds=15.0, image_pull_seconds=0.0)  # runs from 45 s on: that window is full
    seen = samples_over_time(exact, 100.0, plan_of((3, 30.0), (4, 300.0)), 150)
    assert (seen[69][3], seen[70][3]) == (NO_USAGE, 800)


def test_the_cpu_of_a_start_up_shows(steady):
    """0.8 cores burn while it starts, ready or not; without start-up CPU the same window shows nothing."""
    slow = with_life(steady, startup_seconds=100.0)
    for cores, expected in ((0.8, 800), (0.3, 300), (0.0, 0)):
        profile = with_life(slow, startup_cpu_cores=cores)
        seen = samples_over_time(profile, 100.0, plan_of((3, 30.0), (4, 300.0)), 130)
        assert {seen[second][3] for second in range(70, 130)} == {expected}


def test_a_window_with_a_start_up_and_service_shows_both(steady):
    """Runs from 35 s, ready at 35 + 5 + 3 x 5 = 55 s: of the window 45 to 60 s, 10 s start and 5 s serve."""
    per_s, profile = 100.0, with_life(steady, cold_seconds=0.0)
    seen = samples_over_time(profile, per_s, plan_of((3, 30.0), (4, 300.0)), 71)
    serving_m = 1000.0 * per_s * 0.025 / 4
    assert seen[70][3] == pytest.approx((10 * 800 + 5 * serving_m) / 15, rel=0.05)
